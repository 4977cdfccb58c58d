"""Train a small GPT on characters, and read what it writes as it learns.

    python examples/language_model.py                    # Python's own manual, no download
    python examples/language_model.py --path my_text.txt --prompt "Once "
    python examples/language_model.py --resume           # go on after an interruption

At regular steps the model is tested, writes a sample and is saved; the output folder then holds
`checkpoint.safetensors`, `metrics.jsonl`, `samples.txt`, `curve.png` and `surprise.png`. The figure
that counts is bits per character of held-out text, beside those of tables that know one character
(bigrams) or none (unigrams) before the next. A run that is killed and resumed ends with the
parameters, bit for bit, of one that never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pictures
import torch
import tyro
from runs import check_place, load_run
from torch import Tensor
from tqdm import tqdm

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import losses, models, nn, random, tree


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train a small GPT on characters."""

    path: Path | None = None
    """A text file to learn from; Python's manual, which comes with it, unless given."""
    steps: int = 1000
    batch_size: int = 8
    context: int = 128
    """How many characters the model sees at most."""
    layers: int = 3
    heads: int = 4
    width: int = 128
    dropout: float = 0.0
    lr: float = 3e-3
    """The highest learning rate; it rises in the first steps and falls to zero with the last."""
    every: int = 200
    """Steps between two tests, samples and checkpoints."""
    prompt: str = "The "
    """How each sample begins."""
    temperature: float = 0.8
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    jit: bool = True
    """Compile the training step; --no-jit runs it operation by operation, for debugging."""
    out: Path = Path("out/language_model")
    """Folder for the checkpoint, the metrics, the samples and the pictures."""
    resume: bool = False
    """Go on from the checkpoint in --out."""

    def remembered(self) -> dict[str, Any]:
        """Return what the numbers of a run depend on; a resumed run must have the same."""
        rest = ("path", "device", "jit", "out", "resume")
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values = {name: value for name, value in values.items() if name not in rest}
        # A file may move, but not change: other characters would have the places of these.
        text = None if self.path is None else hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {**values, "text": text}


def make_model(settings: Settings, vocabulary: int) -> tuple[nn.Layer, nn.StatefulLayer]:
    """Return the network, and the same with a cache, for writing.

    Rotary positions are learned from sooner than those of GPT-2, a table.
    """
    sizes: dict[str, Any] = {
        "num_layers": settings.layers,
        "num_heads": settings.heads,
        "embedding_dim": settings.width,
        "rotary": nn.rotary,
    }
    model = models.gpt(vocabulary, settings.context, dropout=settings.dropout, **sizes)
    return model, models.gpt_decoder(vocabulary, settings.context, **sizes)


def make_optimizer(settings: Settings) -> optim.GradientTransformation:
    """Return AdamW with gradients clipped to a global norm of 1."""
    rise = max(settings.steps // 10, 1)
    rates = optim.schedules.warmup(optim.schedules.cosine_decay(settings.lr, settings.steps), rise)
    return optim.chain(
        optim.clip_by_global_norm(1.0), optim.adamw(rates, betas=(0.9, 0.99), weight_decay=0.1)
    )


def character_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each character, `(N, L)`, in bits."""
    nats = losses.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return nats.unflatten(0, labels.shape) / math.log(2)


def make_step(model: nn.Layer, optimizer: optim.GradientTransformation) -> Callable[..., Any]:
    """Return the training step, a pure function that uses up `params` and `state`."""

    def loss(params: Any, inputs: Tensor, labels: Tensor, key: Tensor) -> Tensor:
        return character_losses(model(params, inputs, key=key, train=True), labels).mean()

    @pf.jit(donate_argnums=(0, 1))
    def step(
        params: Any, state: Any, inputs: Tensor, labels: Tensor, key: Tensor, number: int
    ) -> tuple[Any, Any, Tensor]:
        key = random.fold_in(key, number)
        value, grads = pf.value_and_grad(loss)(params, inputs, labels, key)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state, value

    return step


def evaluate(model: nn.Layer, params: Any, windows: data.Text) -> Tensor:
    """Return the bits of every label, `(n, length)`: how surprising each is to the model.

    Not compiled: without gradients there is little to gain on a few large batches.
    """
    parts = data.batches(windows, min(64, len(windows)), key=None, epochs=1, drop_last=False)
    return torch.cat([character_losses(model(params, part.inputs), part.labels) for part in parts])


def table_bits(train: data.Text, test: data.Text) -> dict[str, float]:
    """Return the bits per character that tables of counts need, each with one count in ten added.

    Unigrams say how frequent a character is, and bigrams how frequent it is after another.
    """
    size = len(train.vocabulary)
    pairs = train.inputs.flatten() * size + train.labels.flatten()
    counts = torch.bincount(pairs, minlength=size * size).double().view(size, size) + 0.1
    after = (counts / counts.sum(1, keepdim=True)).log2()
    alone = (counts.sum(0) / counts.sum()).log2()
    return {
        "unigrams": -alone[test.labels].mean().item(),
        "bigrams": -after[test.inputs, test.labels].mean().item(),
    }


def write(
    settings: Settings,
    decoder: nn.StatefulLayer,
    params: Any,
    vocabulary: Sequence[str],
    key: Tensor,
) -> str:
    """Return a sample as long as the context."""
    prompt = data.encode(settings.prompt, vocabulary)[None].to(settings.device)
    length = settings.context - prompt.shape[1]
    tokens = models.generate(
        decoder, params, prompt, length, key=key, temperature=settings.temperature
    )
    return data.decode(tokens[0], vocabulary)


def save_run(path: Path, settings: Settings, run: Any, history: list[dict[str, Any]]) -> None:
    """Write the checkpoint, if the run is still sound, and the metrics that it holds too."""
    sound = all(leaf.isfinite().all() for leaf in tree.leaves(run))
    if not (sound and math.isfinite(history[-1]["test_bits"])):
        raise FloatingPointError(
            f"the parameters are no use after step {history[-1]['step']}: one is infinite or NaN, "
            "or the bits of the test part are. The last good checkpoint is kept. A smaller --lr "
            "may help."
        )
    metadata = {"settings": json.dumps(settings.remembered()), "history": json.dumps(history)}
    data.save_checkpoint(path, run, metadata)
    save_metrics(path, history)


def save_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """Write metrics and samples beside the checkpoint."""
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    data.write_whole(path.with_name("metrics.jsonl"), lines.encode())
    samples = "".join(f"--- step {entry['step']}\n{entry['sample']}\n" for entry in history)
    data.write_whole(path.with_name("samples.txt"), samples.encode())


def train_until(
    end: int,
    step: Callable[..., Any],
    params: Any,
    state: Any,
    batches: data.Batches[Any],
    key: Tensor,
    progress: tqdm[Any],
) -> tuple[Any, Any, float]:
    """Take the steps before number `end`; return parameters, state and the mean of the bits."""
    values: list[Tensor] = []
    for number, batch in enumerate(batches, start=batches.start_step):
        params, state, value = step(params, state, batch.inputs, batch.labels, key, number)
        values.append(value)
        progress.update()
        # Looking at a number waits for the device, so not at every step.
        if number % 20 == 0 or number + 1 == end:
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value.item()} at step {number + 1}; stopped. The last good "
                    "checkpoint is kept. A smaller --lr may help."
                )
            progress.set_postfix(bits=f"{torch.stack(values[-20:]).mean():.3f}")
        if number + 1 == end:
            break
    return params, state, torch.stack(values).mean().item()


def train(settings: Settings) -> list[dict[str, Any]]:
    """Train, test, write and save; return the metrics of every test."""
    prepare(settings)
    parts = data.text(settings.path, length=settings.context)
    train_set, test_set = tree.map(lambda leaf: leaf.to(settings.device), parts)
    vocabulary = train_set.vocabulary
    data.encode(settings.prompt, vocabulary)  # refused now rather than after the first steps
    keys = random.split(random.key(settings.seed), 4).unbind(0)
    init_key, drop_key, sample_key = (key.to(settings.device) for key in keys[:3])

    model, decoder = make_model(settings, len(vocabulary))
    optimizer = make_optimizer(settings)
    step = make_step(model, optimizer)
    params = model.init(init_key, train_set.inputs[:1])
    start = {"params": params, "state": optimizer.init(params)}
    checkpoint = settings.out / "checkpoint.safetensors"
    run, history = load_run(checkpoint, settings, start)
    save_metrics(checkpoint, history)
    params, state = run["params"], run["state"]
    del start, run  # or the first step could not take their memory

    def batches(start_step: int) -> data.Batches[Any]:
        size = settings.batch_size
        epochs = -(-settings.steps // max(len(train_set) // size, 1))
        return data.batches(train_set, size, key=keys[3], epochs=epochs, start_step=start_step)

    done = history[-1]["step"] if history else 0
    ends = [*range(settings.every, settings.steps, settings.every), settings.steps]
    with tqdm(total=settings.steps, initial=done, unit=" steps", dynamic_ncols=True) as progress:
        for end in (end for end in ends if end > done):
            params, state, train_bits = train_until(
                end, step, params, state, batches(done), drop_key, progress
            )
            done = end
            test_bits = evaluate(model, params, test_set).mean().item()
            sample = write(settings, decoder, params, vocabulary, random.fold_in(sample_key, end))
            entry = {"step": end, "train_bits": train_bits, "test_bits": test_bits}
            history.append({**entry, "sample": sample})
            save_run(checkpoint, settings, {"params": params, "state": state}, history)
            progress.write(f"--- step {end}, {test_bits:.3f} bits per character\n{sample}")
    report(settings, history, train_set, test_set, evaluate(model, params, test_set))
    return history


def report(
    settings: Settings,
    history: list[dict[str, Any]],
    train_set: data.Text,
    test_set: data.Text,
    bits: Tensor,
) -> None:
    """Draw the pictures and say how well it went."""
    tables = table_bits(train_set, test_set)
    pictures.draw_bits(history, tables, settings.out / "curve.png")
    # As many whole windows as make a page: what stands first in one was hardest to foresee.
    count = min(len(test_set), max(1300 // settings.context, 1))
    text = data.decode(test_set.labels[:count].flatten(), test_set.vocabulary)
    pictures.draw_surprise(text, bits[:count].flatten(), settings.out / "surprise.png")
    others = ", ".join(f"{value:.3f} with {name}" for name, value in tables.items())
    print(
        f"test bits per character {history[-1]['test_bits']:.3f} after {history[-1]['step']} steps "
        f"({others}); see {settings.out}"
    )


def prepare(settings: Settings) -> None:
    """Refuse settings that do not fit, before anything is trained."""
    if settings.context == 1:
        raise ValueError("--context: expected at least 2, a prompt and what is written, got 1.")
    for name in ("steps", "batch_size", "context", "layers", "heads", "width", "every"):
        if getattr(settings, name) < 1:
            option = name.replace("_", "-")
            raise ValueError(f"--{option}: expected at least 1, got {getattr(settings, name)}.")
    if not 0 < len(settings.prompt) < settings.context:
        raise ValueError(
            f"--prompt: expected from 1 to {settings.context - 1} characters, as --context is "
            f"{settings.context}, got {len(settings.prompt)}."
        )
    if not 0 <= settings.temperature < math.inf:
        raise ValueError(f"--temperature: expected at least 0, got {settings.temperature}.")
    check_place(settings.device, settings.out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings from the command line and train."""
    settings = tyro.cli(Settings, args=arguments)
    try:
        with contextlib.nullcontext() if settings.jit else pf.disable_jit():
            train(settings)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        raise SystemExit(f"language_model: {error}") from error


if __name__ == "__main__":
    main()
