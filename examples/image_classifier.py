"""Train an image classifier with a pure, compiled training step.

    python examples/image_classifier.py                        # handwritten digits, no download
    python examples/image_classifier.py --dataset mnist --epochs 5
    python examples/image_classifier.py --dataset folder --root my_images --image-size 64
    python examples/image_classifier.py --resume               # go on after an interruption

Every epoch ends with an evaluation on the test part and a checkpoint; the output folder then holds
`checkpoint.safetensors`, `metrics.jsonl`, `curve.png`, `mistakes.png` and `confusion.png`. A run
that is killed and resumed ends with the parameters, bit for bit, of one that never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pictures
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import losses, metrics, nn, random, tree


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train an image classifier."""

    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10", "folder"] = "digits"
    """What to learn. "folder" reads one folder of images per class below --root."""
    model: Literal["mlp", "cnn"] = "cnn"
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    epochs: int = 30
    lr: float | None = None
    """Learning rate; 0.001 unless given, 0.05 for sgd."""
    batch_size: int = 64
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    jit: bool = True
    """Compile the training step; --no-jit runs it operation by operation, for debugging."""
    out: Path = Path("out/image_classifier")
    """Folder for the checkpoint, the metrics and the pictures."""
    resume: bool = False
    """Go on from the checkpoint in --out."""
    root: Path | None = None
    """Where downloaded data is kept, or the folder of images."""
    image_size: int | None = None
    """For "folder": bring images to this height and width."""

    @property
    def learning_rate(self) -> float:
        """The rate asked for, or the optimizer's usual one."""
        return self.lr if self.lr is not None else 0.05 if self.optimizer == "sgd" else 1e-3

    def remembered(self) -> dict[str, Any]:
        """Return what the numbers of a run depend on; a resumed run must have the same."""
        names = ("dataset", "model", "optimizer", "batch_size", "seed", "image_size")
        return {**{name: getattr(self, name) for name in names}, "lr": self.learning_rate}


def load_data(settings: Settings) -> tuple[data.Dataset, data.Dataset]:
    """Return the train and test parts, normalized by statistics of the train part."""
    if settings.dataset == "digits":
        parts = data.digits()
    elif settings.dataset == "folder":
        if settings.root is None:
            raise ValueError("--dataset folder needs --root, a folder with train/ and test/.")
        parts = data.image_folder(settings.root, size=settings.image_size)
    else:
        parts = getattr(data, settings.dataset)(settings.root, download=True)
    statistics = data.STATISTICS.get(settings.dataset) or data.channel_statistics(parts[0].images)
    train, test = (
        dataclasses.replace(part, images=data.normalize(part.images, *statistics)) for part in parts
    )
    return tree.map(lambda leaf: leaf.to(settings.device), (train, test))


def make_model(settings: Settings, classes: int) -> nn.Layer:
    """Return a two-layer perceptron or a small convolutional network."""
    if settings.model == "mlp":
        return nn.serial(
            flat=nn.flatten(),
            hidden=nn.linear(256),
            act=nn.relu,
            drop=nn.dropout(0.2),
            head=nn.linear(classes),
        )
    return nn.serial(
        conv1=nn.conv2d(32, 3, padding=1),
        act1=nn.relu,
        pool1=nn.max_pool2d(2),
        conv2=nn.conv2d(64, 3, padding=1),
        act2=nn.relu,
        pool2=nn.adaptive_avg_pool2d(4),
        drop=nn.dropout(0.25),
        flat=nn.flatten(),
        hidden=nn.linear(128),
        act3=nn.relu,
        head=nn.linear(classes),
    )


def make_optimizer(settings: Settings) -> optim.GradientTransformation:
    """Return the optimizer, with gradients clipped to a global norm of 1."""
    lr = settings.learning_rate
    recipes = {
        "sgd": lambda: optim.sgd(lr, momentum=0.9, nesterov=True),
        "adam": lambda: optim.adam(lr),
        "adamw": lambda: optim.adamw(lr),
    }
    return optim.chain(optim.clip_by_global_norm(1.0), recipes[settings.optimizer]())


def make_step(model: nn.Layer, optimizer: optim.GradientTransformation) -> Callable[..., Any]:
    """Return the training step, a pure function that uses up `params` and `state`."""

    def loss(params: Any, images: Tensor, labels: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(params, images, key=key, train=True)
        correct = metrics.accuracy(logits, labels)
        return losses.cross_entropy(logits, labels).mean(), correct.mean()

    @pf.jit(donate_argnums=(0, 1))
    def step(
        params: Any, state: Any, images: Tensor, labels: Tensor, key: Tensor, number: int
    ) -> tuple[Any, Any, Tensor]:
        gradient = pf.value_and_grad(loss, has_aux=True)
        (value, accuracy), grads = gradient(params, images, labels, random.fold_in(key, number))
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state, torch.stack([value, accuracy])

    return step


def make_evaluation(model: nn.Layer) -> Callable[[Any, data.Dataset], tuple[Tensor, Tensor]]:
    """Return a function giving the loss and the class probabilities of every image."""

    @pf.jit
    def evaluate_batch(params: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(params, images)
        return losses.cross_entropy(logits, labels), torch.softmax(logits, 1)

    def evaluate(params: Any, dataset: data.Dataset) -> tuple[Tensor, Tensor]:
        parts = data.batches(dataset, min(1000, len(dataset)), key=None, epochs=1, drop_last=False)
        values, probabilities = zip(
            *[evaluate_batch(params, images, labels) for images, labels in parts], strict=True
        )
        return torch.cat(values), torch.cat(probabilities)

    return evaluate


def train_epoch(
    step: Callable[..., Any],
    params: Any,
    state: Any,
    batches: data.Batches[tuple[Tensor, Tensor]],
    key: Tensor,
    progress: tqdm[Any],
) -> tuple[Any, Any, dict[str, float]]:
    """Take one step for each batch; return parameters, optimizer state and the mean metrics."""
    rows: list[Tensor] = []
    means: dict[str, float] = {}
    for number, (images, labels) in enumerate(batches, start=batches.start_step):
        params, state, row = step(params, state, images, labels, key, number)
        rows.append(row)
        progress.update(len(labels))
        # Looking at a number waits for the device, so not at every step.
        if len(rows) % 20 == 0 or len(rows) == len(batches):
            means = summarize(torch.stack(rows), batches.start_step)
            progress.set_postfix({name: f"{value:.4f}" for name, value in means.items()})
    return params, state, means


def summarize(rows: Tensor, first_step: int) -> dict[str, float]:
    """Return the means of loss and accuracy over steps; refuse a loss that is no number."""
    bad = torch.nonzero(~torch.isfinite(rows[:, 0]))
    if len(bad):
        raise FloatingPointError(
            f"the loss is {rows[bad[0], 0].item()} at step {first_step + int(bad[0])}; stopped. "
            "The checkpoint of the last good epoch is kept. A smaller --lr may help."
        )
    loss, accuracy = rows.mean(0).tolist()
    return {"loss": loss, "accuracy": accuracy}


def load_run(path: Path, settings: Settings, start: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Return where to start from, and the metrics of the epochs already done."""
    if not path.exists():
        if settings.resume:
            print(f"no checkpoint in {path.parent}: starting from the beginning")
        return start, []
    if not settings.resume:
        path.replace(path.with_name("previous.safetensors"))
        return start, []
    _, metadata = data.load_checkpoint(path)
    now = settings.remembered()
    for name, value in json.loads(metadata["settings"]).items():
        if value != now[name]:
            raise ValueError(
                f"{path} was trained with {name}={value}, not {now[name]}: resume with the same "
                "settings, or train into another --out."
            )
    run, _ = data.load_checkpoint(path, like=start)
    return run, json.loads(metadata["history"])


def save_run(path: Path, settings: Settings, run: Any, history: list[dict[str, Any]]) -> None:
    """Write the checkpoint, if the run is still sound, and the metrics that it holds too."""
    sound = all(leaf.isfinite().all() for leaf in tree.leaves(run))
    if not (sound and math.isfinite(history[-1]["test_loss"])):
        raise FloatingPointError(
            f"the parameters are no use after epoch {len(history)}: one is infinite or NaN, or the "
            "test loss is. The checkpoint of the last good epoch is kept. A smaller --lr may help."
        )
    metadata = {"settings": json.dumps(settings.remembered()), "history": json.dumps(history)}
    data.save_checkpoint(path, run, metadata)
    save_metrics(path, history)


def save_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """Write the metrics beside the checkpoint, a line of JSON for each epoch."""
    lines = "".join(json.dumps(epoch) + "\n" for epoch in history)
    data.write_whole(path.with_name("metrics.jsonl"), lines.encode())


def train(settings: Settings) -> list[dict[str, Any]]:
    """Train, evaluate and save; return the metrics of every epoch."""
    prepare(settings)
    train_set, test_set = load_data(settings)
    init_key, order_key, drop_key = random.split(random.key(settings.seed), 3)
    drop_key = drop_key.to(settings.device)

    model = make_model(settings, len(train_set.classes))
    optimizer = make_optimizer(settings)
    step, evaluate = make_step(model, optimizer), make_evaluation(model)

    def epoch_batches(epoch: int) -> data.Batches[tuple[Tensor, Tensor]]:
        size = settings.batch_size
        start = epoch * (len(train_set) // size)
        return data.batches(train_set, size, key=order_key, epochs=epoch + 1, start_step=start)

    images_per_epoch = len(epoch_batches(0)) * settings.batch_size
    params = model.init(init_key.to(settings.device), train_set.images[:1])
    start = {"params": params, "state": optimizer.init(params)}
    checkpoint = settings.out / "checkpoint.safetensors"
    run, history = load_run(checkpoint, settings, start)
    save_metrics(checkpoint, history)
    params, state = run["params"], run["state"]
    del start, run  # or the first step could not take their memory

    with tqdm(
        total=settings.epochs * images_per_epoch,
        initial=len(history) * images_per_epoch,
        unit=" images",
        unit_scale=True,
        dynamic_ncols=True,
    ) as progress:
        for epoch in range(len(history), settings.epochs):
            progress.set_description(f"epoch {epoch + 1}/{settings.epochs}")
            params, state, means = train_epoch(
                step, params, state, epoch_batches(epoch), drop_key, progress
            )
            test_losses, probabilities = evaluate(params, test_set)
            history.append(
                {
                    "epoch": epoch + 1,
                    "train_loss": means["loss"],
                    "train_accuracy": means["accuracy"],
                    "test_loss": test_losses.mean().item(),
                    "test_accuracy": metrics.accuracy(probabilities, test_set.labels).mean().item(),
                }
            )
            save_run(checkpoint, settings, {"params": params, "state": state}, history)
    report(settings, history, test_set, evaluate(params, test_set)[1])
    return history


def report(
    settings: Settings, history: list[dict[str, Any]], test_set: data.Dataset, probabilities: Tensor
) -> None:
    """Draw the pictures and say how well it went."""
    confusion = metrics.confusion_matrix(probabilities, test_set.labels, len(test_set.classes))
    pictures.draw_curve(history, settings.out / "curve.png")
    pictures.draw_mistakes(test_set, probabilities, settings.out / "mistakes.png")
    pictures.draw_confusion(confusion, test_set.classes, settings.out / "confusion.png")
    wrong = int(confusion.sum() - confusion.diagonal().sum())
    print(
        f"test accuracy {history[-1]['test_accuracy']:.2%} ({wrong} of {len(test_set)} images "
        f"wrong) after {len(history)} epochs; see {settings.out}"
    )


def prepare(settings: Settings) -> None:
    """Find out now, not after the training, whether there is a device and a place for results."""
    for name, value in (("epochs", settings.epochs), ("batch-size", settings.batch_size)):
        if value < 1:
            raise ValueError(f"--{name}: expected at least 1, got {value}.")
    if settings.image_size is not None and settings.dataset != "folder":
        raise ValueError(f"--image-size is for --dataset folder, not {settings.dataset}.")
    if settings.root is not None and settings.dataset == "digits":
        raise ValueError("--root: the digits are part of purefn and lie in no folder.")
    try:
        torch.zeros(1, device=settings.device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {settings.device} cannot be used: {reason}") from error
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.out):
            pass
    except OSError as error:
        raise ValueError(f"--out {settings.out} cannot be written: {error}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings from the command line and train."""
    settings = tyro.cli(Settings, args=arguments)
    try:
        with contextlib.nullcontext() if settings.jit else pf.disable_jit():
            train(settings)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        raise SystemExit(f"image_classifier: {error}") from error


if __name__ == "__main__":
    main()
