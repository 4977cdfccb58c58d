"""Train image classifiers with differential privacy, and see what each epsilon buys.

    python examples/private_classifier.py                 # handwritten digits, no download
    python examples/private_classifier.py --noise-multipliers 2 --steps 200
    python examples/private_classifier.py --dataset mnist --expected-batch-size 2048 --delta 1e-6

DP-SGD (Abadi et al. 2016, arXiv:1607.00133): each image joins a batch by a coin of its own, its
gradient is clipped to a norm of `max_norm`, and Gaussian noise covers what any single image adds to
the sum. There is a run for each noise multiplier and one without noise, the same otherwise. The
output folder then holds `privacy.png`: the accuracy of each run against the epsilon it has spent,
which dp-accounting computes (`pip install "purefn[privacy]"`).

An epsilon is that of its own run. To publish several models spends the sum of theirs, and to choose
among them by data that is private spends, too; here the test images count as public.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pictures
import torch
import tyro
from torch import Tensor

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import losses, metrics, nn, per_example, random
from purefn.optim import privacy


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train image classifiers with differential privacy."""

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    noise_multipliers: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    """Standard deviation of the noise, in units of `max_norm`; a run for each."""
    max_norm: float = 1.0
    """The norm to which the gradient of each image is clipped."""
    expected_batch_size: float = 360.0
    """How many images a batch has on average."""
    delta: float = 1e-4
    """Probability with which epsilon may fail; well below one over the number of images."""
    steps: int = 80
    report_every: int = 10
    """After how many steps epsilon and the accuracy are computed."""
    lr: float = 0.25
    momentum: float = 0.9
    seed: int = 0
    backend: Literal["inductor", "eager"] = "inductor"
    """What runs the compiled gradients; eager needs no C++ compiler."""
    out: Path = Path("out/private_classifier")
    """Folder for the picture."""


model = nn.serial(flat=nn.flatten(), hidden=nn.linear(64), act=torch.tanh, head=nn.linear(10))


def losses_fn(params: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Return one loss for each image."""
    return losses.cross_entropy(model(params, images), labels)


def check(settings: Settings) -> None:
    """Refuse, before any work, what cannot be trained with or accounted for."""
    for name in ("steps", "report_every"):
        if (value := getattr(settings, name)) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, got {value}.")
    levels = settings.noise_multipliers
    if not levels or len(set(levels)) < len(levels) or not all(0 < at < math.inf for at in levels):
        given = " ".join(f"{level:g}" for level in levels) or "none"
        raise ValueError(
            f"--noise-multipliers: expected different numbers greater than 0, got {given}."
        )
    if not 0 < settings.max_norm < math.inf:
        raise ValueError(f"--max-norm: expected a number greater than 0, got {settings.max_norm}.")
    if not 0 < settings.delta < 1:
        raise ValueError(f"--delta: expected a number in (0, 1), got {settings.delta}.")


def load_data(settings: Settings) -> tuple[data.Dataset, data.Dataset]:
    """Return the train and test parts, their range of 0 to 1 moved to -1 to 1.

    Statistics of the train part would be no better, and would have to be private as well. A batch
    larger than the data, or none, is refused.
    """
    train, test = (
        dataclasses.replace(part, images=2 * part.images - 1)
        for part in getattr(data, settings.dataset)()
    )
    if not 0 < settings.expected_batch_size <= len(train):
        raise ValueError(
            f"--expected-batch-size: expected more than 0 and at most the {len(train)} images of "
            f"the train part, got {settings.expected_batch_size}."
        )
    return train, test


def train(
    settings: Settings,
    clipped_grad: Callable[..., per_example.ClippedGrad],
    parts: tuple[data.Dataset, data.Dataset],
    noise_multiplier: float,
    key: Tensor,
) -> list[tuple[float, float]]:
    """Train once; return pairs of the epsilon spent and the accuracy then reached."""
    train_set, test_set = parts
    init_key, batch_key, noise_key = random.split(key, 3)
    size = settings.expected_batch_size
    batches = data.poisson_batches(train_set, size, key=batch_key, steps=settings.steps)
    sampling = privacy.poisson(batches.probability)
    optimizer = optim.chain(
        privacy.dp_aggregate(noise_multiplier, noise_key, expected_batch_size=size),
        optim.sgd(settings.lr, momentum=settings.momentum),
    )
    params = model.init(init_key, train_set.images[:1])
    state = optimizer.init(params)
    history = []
    for step, ((images, labels), mask) in enumerate(batches, start=1):
        clipped = clipped_grad(params, images, labels, mask)
        updates, state = optimizer.update(clipped, state, params)
        params = optim.apply_updates(params, updates)
        if step % settings.report_every == 0 or step == settings.steps:
            epsilon = privacy.epsilon(
                noise_multiplier, settings.delta, steps=step, sampling=sampling
            )
            logits = model(params, test_set.images)
            accuracy = metrics.accuracy(logits, test_set.labels).mean().item()
            history.append((epsilon, accuracy))
            print(
                f"noise {noise_multiplier:g}, step {step:4}: epsilon {epsilon:6.2f}, "
                f"test accuracy {accuracy:.1%}"
            )
    return history


def compare(settings: Settings) -> None:
    """Train without noise and with each noise multiplier; draw accuracy against epsilon."""
    check(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    parts = load_data(settings)

    @pf.jit(backend=settings.backend)
    def clipped_grad(
        params: Any, images: Tensor, labels: Tensor, mask: Tensor
    ) -> per_example.ClippedGrad:
        # Batches are padded to one size, so that one program serves; the mask leaves padding out.
        clip = per_example.clipped_grad(losses_fn, settings.max_norm, mask=mask)
        return clip(params, images, labels)

    # A key for each run: with the same noise, the difference of two models would have none.
    levels = (0.0, *settings.noise_multipliers)
    keys = random.split(random.key(settings.seed), len(levels))
    histories = {
        level: train(settings, clipped_grad, parts, level, key)
        for level, key in zip(levels, keys, strict=True)
    }
    _, without_noise = histories.pop(0.0)[-1]
    pictures.draw_privacy(*(histories, without_noise, settings.delta, settings.out / "privacy.png"))
    print(f"test accuracy without noise {without_noise:.1%}; with delta {settings.delta:g}:")
    for level, history in histories.items():
        print(f"  epsilon {history[-1][0]:5.2f}: {history[-1][1]:.1%} (noise multiplier {level:g})")
    print(f"see {settings.out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings from the command line and compare what they say."""
    settings = tyro.cli(Settings, args=arguments)
    try:
        compare(settings)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"private_classifier: {error}") from error


if __name__ == "__main__":
    main()
