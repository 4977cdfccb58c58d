r"""Train an image classifier with a pure, compiled training step.

    python examples/image_classifier.py                        # handwritten digits, no download
    python examples/image_classifier.py --augment crop rotate cutout --ema 0.99
    python examples/image_classifier.py --dataset cifar10 --model resnet18 --augment crop flip mixup
    python examples/image_classifier.py --dataset folder --root my_images --image-size 64
    python examples/image_classifier.py --dataset folder --root my_images --image-size 224 \
        --workers 4 --model resnet50 --pretrained --precision bfloat16
    python examples/image_classifier.py --resume               # go on after an interruption

Every epoch ends with an evaluation on the test part and a checkpoint; the output folder then holds
`checkpoint.safetensors`, `metrics.jsonl`, `curve.png`, `mistakes.png` and `confusion.png`, and
with --augment `augmented.png`. A run that is killed and resumed ends with the parameters, bit for
bit, of one that never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pictures
import torch
import tyro
from classifiers import (
    Change,
    Classifier,
    Network,
    as_pixels,
    make_augmentation,
    make_classifier,
    make_pretrained,
)
from runs import check_place, load_run
from torch import Tensor
from tqdm import tqdm

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import losses, metrics, nn, random, tree

Part = data.Dataset | data.ImageFiles
Batches = data.Batches[tuple[Tensor, Tensor]] | data.ReadBatches[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train an image classifier."""

    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10", "folder"] = "digits"
    """What to learn. "folder" reads one folder of images per class below --root."""
    model: Network = "cnn"
    """"vit" is a small one, and with --pretrained ViT-B/16."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    epochs: int = 30
    lr: float | None = None
    """Learning rate; 0.001 unless given, 0.05 for sgd."""
    schedule: Literal["constant", "cosine"] = "constant"
    """"cosine" rises for a twentieth of all steps and then falls to 0."""
    batch_size: int = 64
    accumulate: int = 1
    """How many batches make a step of the optimizer."""
    augment: tuple[Change, ...] = ()
    """What happens to training images, in that order; mixtures come last."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters stay in float32."""
    ema: float | None = None
    """Evaluate an exponential moving average of the parameters with this decay, such as 0.999."""
    pretrained: bool = False
    """Start from torchvision's published weights, with a new last layer."""
    weights: Path | None = None
    """Folder with the files of published weights; without it torch's own, and downloads."""
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
    workers: int = 0
    """For "folder": this many processes read the images as they are needed; 0 reads all first."""

    @property
    def learning_rate(self) -> float:
        """The rate asked for, or the optimizer's usual one."""
        return self.lr if self.lr is not None else 0.05 if self.optimizer == "sgd" else 1e-3

    def remembered(self) -> dict[str, Any]:
        """Return what the numbers of a run depend on; a resumed run must have the same."""
        names = "dataset model optimizer schedule batch_size accumulate augment precision ema"
        names += " pretrained seed image_size" + (" epochs" if self.schedule == "cosine" else "")
        remembered = {name: getattr(self, name) for name in names.split()}
        # How many workers there are changes nothing, but with any, normalization is another.
        with_workers = self.workers > 0
        made_of = {"augment": list(self.augment), "lr": self.learning_rate}
        return {**remembered, **made_of, "with_workers": with_workers}


class Run(NamedTuple):
    """All that a step changes."""

    params: Any
    model_state: Any
    optimizer_state: Any


def load_data(settings: Settings) -> tuple[Part, Part]:
    """Return the train and test parts: in memory, on the device, or as files for the workers."""
    if settings.dataset == "digits":
        parts: tuple[Part, Part] = data.digits()
    elif settings.dataset == "folder":
        if settings.root is None:
            raise ValueError("--dataset folder needs --root, a folder with train/ and test/.")
        if settings.workers:
            if settings.image_size is None:
                raise ValueError("--workers needs --image-size: no image is looked at before.")
            return data.image_files(settings.root, size=settings.image_size)
        parts = data.image_folder(settings.root, size=settings.image_size)
    else:
        try:
            parts = getattr(data, settings.dataset)(settings.root, download=True)
        except RuntimeError as error:  # the files are damaged, or cannot be fetched
            raise OSError(str(error)) from error
    return tree.map(lambda leaf: leaf.to(settings.device), parts)


def make_batches(settings: Settings, part: Part, batch_size: int, **options: Any) -> Batches:
    """Return batches of images and labels on the device."""
    if isinstance(part, data.ImageFiles):
        device, workers = settings.device, settings.workers
        return data.read_batches(part, batch_size, device=device, workers=workers, **options)
    return data.batches(part, batch_size, **options)


def make_network(settings: Settings, train_set: Part, key: Tensor) -> Classifier:
    """Return the network at its start, on the device."""
    classes = len(train_set.classes)
    if settings.pretrained:
        made = make_pretrained(settings.model, classes, key, settings.weights)
    else:
        if isinstance(train_set, data.ImageFiles):
            # Those of photographs: to know their own, all files would have to be read first.
            pixels, statistics = as_pixels(train_set[0][0][None]), data.STATISTICS["imagenet"]
        else:
            pixels = train_set.images[:1]
            known = data.STATISTICS.get(settings.dataset)
            statistics = known or data.channel_statistics(train_set.images)
        pixels, key = pixels.to(settings.device), key.to(settings.device)
        made = make_classifier(settings.model, pixels, classes, statistics, key)
    if settings.precision == "bfloat16":
        made = made._replace(model=nn.precision(made.model, compute=torch.bfloat16))
    params, state = tree.map(lambda leaf: leaf.to(settings.device), (made.params, made.state))
    return made._replace(params=params, state=state)


def make_optimizer(settings: Settings, steps: int) -> optim.GradientTransformation:
    """Return the optimizer of that many steps, with gradients clipped to a global norm of 1."""
    lr: Any = settings.learning_rate
    if settings.schedule == "cosine":
        rise = max(1, steps // 20)
        fall = optim.schedules.cosine_decay(lr, max(1, steps - rise))
        lr = optim.schedules.warmup(fall, rise)
    recipes = {
        "sgd": lambda: optim.sgd(lr, momentum=0.9, nesterov=True),
        "adam": lambda: optim.adam(lr),
        "adamw": lambda: optim.adamw(lr),
    }
    parts = [optim.clip_by_global_norm(1.0), recipes[settings.optimizer]()]
    if settings.ema is not None:
        parts.append(optim.ema_params(settings.ema))
    optimizer = optim.chain(*parts)
    if settings.accumulate == 1:
        return optimizer
    return optim.multi_steps(optimizer, settings.accumulate)


def make_step(
    classifier: Classifier,
    optimizer: optim.GradientTransformation,
    augment: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Callable[..., Any]:
    """Return the training step, a pure function that uses up the run it is given."""

    def loss(
        params: Any, state: Any, images: Tensor, labels: Tensor, key: Tensor
    ) -> tuple[Tensor, Any]:
        augment_key, drop_key = random.split(key).unbind()
        pixels, targets = augment(augment_key, as_pixels(images), labels)
        inputs = classifier.prepare(pixels)
        logits, state = classifier.model(params, state, inputs, key=drop_key, train=True)
        correct = metrics.accuracy(logits, labels).mean()
        return losses.cross_entropy(logits, targets).mean(), (state, correct)

    @pf.jit(donate_argnums=0)
    def step(
        run: Run, images: Tensor, labels: Tensor, key: Tensor, number: int
    ) -> tuple[Run, Tensor]:
        gradient = pf.value_and_grad(loss, has_aux=True)
        (value, (state, accuracy)), grads = gradient(
            run.params, run.model_state, images, labels, random.fold_in(key, number)
        )
        updates, optimizer_state = optimizer.update(grads, run.optimizer_state, run.params)
        params = optim.apply_updates(run.params, updates)
        return Run(params, state, optimizer_state), torch.stack([value, accuracy])

    return step


def make_evaluation(
    settings: Settings, classifier: Classifier
) -> Callable[[Run, Part], tuple[Tensor, Tensor]]:
    """Return a function giving the loss and the class probabilities of every image."""

    @pf.jit
    def evaluate_batch(
        params: Any, state: Any, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = classifier.prepare(as_pixels(images))
        logits, _ = classifier.model(params, state, inputs)
        return losses.cross_entropy(logits, labels), torch.softmax(logits, 1)

    def evaluate(run: Run, part: Part) -> tuple[Tensor, Tensor]:
        averaged = settings.ema is not None
        params = optim.get(run.optimizer_state, "average") if averaged else run.params
        size = min(1000 if isinstance(part, data.Dataset) else settings.batch_size, len(part))
        parts = make_batches(settings, part, size, key=None, epochs=1, drop_last=False)
        values, probabilities = zip(
            *[evaluate_batch(params, run.model_state, images, labels) for images, labels in parts],
            strict=True,
        )
        return torch.cat(values), torch.cat(probabilities)

    return evaluate


def train_epoch(
    step: Callable[..., Any],
    run: Run,
    batches: Batches,
    key: Tensor,
    progress: tqdm[Any],
) -> tuple[Run, dict[str, float]]:
    """Take one step for each batch; return the run and the mean metrics."""
    rows: list[Tensor] = []
    means: dict[str, float] = {}
    for number, (images, labels) in enumerate(batches, start=batches.start_step):
        run, row = step(run, images, labels, key, number)
        rows.append(row)
        progress.update(len(labels))
        # Looking at a number waits for the device, so not at every step.
        if len(rows) % 20 == 0 or len(rows) == len(batches):
            means = summarize(torch.stack(rows), batches.start_step)
            progress.set_postfix({name: f"{value:.4f}" for name, value in means.items()})
    return run, means


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
    init_key, order_key, step_key = random.split(random.key(settings.seed), 3)
    step_key = step_key.to(settings.device)

    def epoch_batches(epoch: int) -> Batches:
        size = settings.batch_size
        options = {"epochs": epoch + 1, "start_step": epoch * (len(train_set) // size)}
        return make_batches(settings, train_set, size, key=order_key, **options)

    steps_per_epoch = len(epoch_batches(0))
    if (batches := settings.epochs * steps_per_epoch) < settings.accumulate:
        raise ValueError(
            f"--accumulate {settings.accumulate}: there are only {batches} batches, so that no "
            "step would be taken."
        )
    classifier = make_network(settings, train_set, init_key)
    optimizer = make_optimizer(settings, settings.epochs * steps_per_epoch // settings.accumulate)
    start = Run(classifier.params, classifier.state, optimizer.init(classifier.params))
    classifier = classifier._replace(params=None, state=None)
    augment = make_augmentation(settings.augment, len(train_set.classes))
    step = make_step(classifier, optimizer, augment)
    evaluate = make_evaluation(settings, classifier)
    checkpoint = settings.out / "checkpoint.safetensors"
    run, history = load_run(checkpoint, settings, start)
    save_metrics(checkpoint, history)
    del start  # or the first step could not take their memory

    with tqdm(
        total=settings.epochs * steps_per_epoch * settings.batch_size,
        initial=len(history) * steps_per_epoch * settings.batch_size,
        unit=" images",
        unit_scale=True,
        dynamic_ncols=True,
    ) as progress:
        for epoch in range(len(history), settings.epochs):
            progress.set_description(f"epoch {epoch + 1}/{settings.epochs}")
            run, means = train_epoch(step, run, epoch_batches(epoch), step_key, progress)
            test_losses, probabilities = evaluate(run, test_set)
            labels = test_set.labels.to(settings.device)
            history.append(
                {
                    "epoch": epoch + 1,
                    "train_loss": means["loss"],
                    "train_accuracy": means["accuracy"],
                    "test_loss": test_losses.mean().item(),
                    "test_accuracy": metrics.accuracy(probabilities, labels).mean().item(),
                }
            )
            save_run(checkpoint, settings, run, history)
    report(settings, history, test_set, evaluate(run, test_set)[1])
    if settings.augment:
        show_augmented(settings, epoch_batches(0), augment, step_key)
    return history


def show_augmented(
    settings: Settings,
    batches: Batches,
    augment: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    key: Tensor,
) -> None:
    """Draw some training images and, below each, what the first four steps would make of it."""
    images, labels = next(iter(batches))
    pixels, labels = as_pixels(images[:10]), labels[:10]
    keys = [random.split(random.fold_in(key, number))[0] for number in range(4)]
    changed = [augment(augment_key, pixels, labels)[0] for augment_key in keys]
    path = settings.out / "augmented.png"
    pictures.draw_augmented(torch.stack([pixels, *changed]), settings.augment, path)


def report(
    settings: Settings, history: list[dict[str, Any]], test_set: Part, probabilities: Tensor
) -> None:
    """Draw the pictures and say how well it went."""
    labels = test_set.labels.to(settings.device)
    confusion = metrics.confusion_matrix(probabilities, labels, len(test_set.classes))
    pictures.draw_curve(history, settings.out / "curve.png")
    pictures.draw_mistakes(test_set, probabilities, settings.out / "mistakes.png")
    pictures.draw_confusion(confusion, test_set.classes, settings.out / "confusion.png")
    wrong = int(confusion.sum() - confusion.diagonal().sum())
    print(
        f"test accuracy {history[-1]['test_accuracy']:.2%} ({wrong} of {len(test_set)} images "
        f"wrong) after {len(history)} epochs; see {settings.out}"
    )


def prepare(settings: Settings) -> None:
    """Refuse settings that do not fit, before anything is trained."""
    for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("workers", 0)):
        if (value := getattr(settings, name)) < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option}: expected at least {least}, got {value}.")
    if settings.workers and settings.dataset != "folder":
        raise ValueError(f"--workers is for --dataset folder, not {settings.dataset}.")
    if settings.weights is not None and not settings.pretrained:
        raise ValueError("--weights says where --pretrained finds its files; give both or none.")
    if settings.image_size is not None and settings.dataset != "folder":
        raise ValueError(f"--image-size is for --dataset folder, not {settings.dataset}.")
    if settings.root is not None and settings.dataset == "digits":
        raise ValueError("--root: the digits are part of purefn and lie in no folder.")
    check_place(settings.device, settings.out)


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
