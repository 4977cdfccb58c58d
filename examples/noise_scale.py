"""Watch the critical batch size grow while a network learns, and check what it predicts.

    python examples/noise_scale.py                        # handwritten digits, no download
    python examples/noise_scale.py --dataset mnist --steps 3000

The gradient of a batch of B examples is the true gradient G and noise of variance tr(Sigma) / B,
where Sigma is the covariance of the gradients of single examples. They are equally large at the
noise scale (McCandlish et al. 2018, arXiv:1812.06162)::

    B_noise = tr(Sigma) / |G|^2

Much smaller batches are mostly noise; much larger ones repeat what half of them would have said.
Numerator and denominator come from the norms of all gradients in a batch and of their mean, which
one pass gives, so training itself yields an estimate, if a noisy one. Averaged over steps it is
less noisy and lags: while |G|^2 falls, the average is too low, the more so the larger `--decay`.
All training images at once give the number itself, at the parameters of one step.

The output folder then holds `noise_scale.png`, the average over the steps and the numbers it is to
follow, and `signal.png`, in which many batches are drawn at three of these steps to see whether as
much of their gradients is noise as those numbers predict.
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
from tqdm import tqdm

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import losses, nn, per_example, random, tree


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure the gradient noise scale while training."""

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    steps: int = 500
    batch_size: int = 256
    lr: float = 0.05
    decay: float = 0.9
    """How much of the averages of tr(Sigma) and |G|^2 is kept from step to step: 0.9 averages the
    last ten or so."""
    draws: int = 64
    """How many batches of each size are drawn for the check."""
    seed: int = 0
    backend: Literal["inductor", "eager"] = "inductor"
    """What runs the compiled step; eager needs no C++ compiler."""
    out: Path = Path("out/noise_scale")
    """Folder for the pictures."""


model = nn.serial(flat=nn.flatten(), hidden=nn.linear(128), act=nn.relu, head=nn.linear(10))


def losses_fn(params: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Return one loss for each image."""
    return losses.cross_entropy(model(params, images), labels)


def check(settings: Settings) -> None:
    """Refuse, before any work, what cannot be trained with or measured."""
    for name, least in (("steps", 1), ("batch_size", 2), ("draws", 1)):
        if (value := getattr(settings, name)) < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option}: expected at least {least}, got {value}.")
    if not 0 <= settings.decay <= 1:
        raise ValueError(f"--decay: expected a number in [0, 1], got {settings.decay}.")


def of_batch(params: Any, images: Tensor, labels: Tensor) -> tuple[Any, Tensor, Tensor]:
    """Return the mean gradient, the mean loss and the mean squared norm of all gradients."""
    # Nothing exceeds an infinite bound: this is the plain sum, and the norm of each gradient.
    total, values, norms, *_ = per_example.clipped_grad(losses_fn, math.inf)(params, images, labels)
    grads = tree.map(lambda leaf: leaf / len(images), total)
    return grads, values.mean(), norms.square().mean()


def of_all(params: Any, dataset: data.Dataset) -> float:
    """Return tr(Sigma) / |G|^2 of batches drawn from these images, with no estimate in it.

    `per_example.noise_scale` takes the images for a sample of many more, whose |G|^2 is smaller
    and, once the images are learned, hard to tell from 0.
    """
    grads, _, squared = of_batch(params, dataset.images, dataset.labels)
    signal = tree.norm(grads) ** 2
    return ((squared - signal) / signal).item()


def make_step(
    settings: Settings, optimizer: optim.GradientTransformation
) -> Callable[..., tuple[Any, Any, per_example.RunningNoiseScale, Tensor]]:
    """Return the training step, which estimates the noise scale on the way."""
    size = settings.batch_size

    @pf.jit(backend=settings.backend)
    def step(
        params: Any,
        state: Any,
        running: per_example.RunningNoiseScale,
        images: Tensor,
        labels: Tensor,
    ) -> tuple[Any, Any, per_example.RunningNoiseScale, Tensor]:
        grads, loss, squared = of_batch(params, images, labels)
        estimate = per_example.noise_scale_of_batches(
            squared, tree.norm(grads) ** 2, small_size=1, big_size=size
        )
        running = running.updated(estimate, settings.decay)
        updates, state = optimizer.update(grads, state, params)
        row = torch.stack([loss, running.mean.scale])
        return optim.apply_updates(params, updates), state, running, row

    return step


def share_of_signal(
    params: Any, train_set: data.Dataset, key: Tensor, draws: int, size: int
) -> float:
    """Return |G|^2 over the mean squared norm of the gradients of batches drawn at random."""

    def squared_norm(images: Tensor, labels: Tensor) -> Tensor:
        grads = pf.grad(lambda params: losses_fn(params, images, labels).mean())(params)
        return tree.norm(grads) ** 2

    rows = random.randint(key, (draws, size), 0, len(train_set))
    of_batches = pf.vmap(squared_norm)(train_set.images[rows], train_set.labels[rows])
    of_all = squared_norm(train_set.images, train_set.labels)
    return (of_all / of_batches.mean()).item()


def train(
    settings: Settings, train_set: data.Dataset, keys: Sequence[Tensor], moments: Sequence[int]
) -> tuple[dict[int, Any], list[float], list[float], dict[int, float]]:
    """Return the parameters that the steps of `moments` start from, and what is seen on the way.

    That is, for each step, the loss and the running noise scale; and, for the moments and some 50
    steps more, the noise scale of all images, at the parameters that the step starts from.
    """
    optimizer = optim.sgd(settings.lr)
    step = make_step(settings, optimizer)
    params = model.init(keys[0], train_set.images[:1])
    state, running = optimizer.init(params), per_example.RunningNoiseScale.start()
    # Independent draws instead of epochs: for them the estimates are unbiased.
    drawn = random.randint(keys[1], (settings.steps, settings.batch_size), 0, len(train_set))
    kept, rows, exact = {}, [], {}
    spacing = max(settings.steps // 50, 1)
    for number, chosen in enumerate(progress := tqdm(drawn, unit=" steps"), start=1):
        if number in moments:
            kept[number] = params
        if number in moments or number % spacing == 0:
            exact[number] = of_all(params, train_set)
        images, labels = train_set.images[chosen], train_set.labels[chosen]
        params, state, running, row = step(params, state, running, images, labels)
        rows.append(row)
        if number % 50 == 0:
            loss, scale = row.tolist()
            progress.set_postfix(loss=f"{loss:.3f}", noise_scale=f"{scale:.0f}")
    values, scales = torch.stack(rows).T.tolist()
    return kept, values, scales, exact


def watch(settings: Settings) -> None:
    """Train; then check the prediction early, midway and at the end."""
    check(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    train_set, _ = getattr(data, settings.dataset)()
    *keys, draw_key = random.split(random.key(settings.seed), 3)
    moments = sorted({max(settings.steps * share // 100, 1) for share in (4, 50, 100)})
    kept, values, scales, exact = train(settings, train_set, keys, moments)

    sizes = [4**power for power in range(6)]
    measured = {
        number: [share_of_signal(at, train_set, draw_key, settings.draws, size) for size in sizes]
        for number, at in kept.items()
    }
    pictures.draw_noise_scale(
        *(values, scales, exact, settings.batch_size, moments, settings.out / "noise_scale.png")
    )
    predicted = {number: exact[number] for number in moments}
    pictures.draw_signal(predicted, sizes, measured, settings.out / "signal.png")
    for number in moments:
        print(
            f"step {number:5}: loss {values[number - 1]:.3f}, noise scale {exact[number]:.0f} "
            f"examples (running average {scales[number - 1]:.0f})"
        )
    print(f"see {settings.out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings from the command line and watch the training they describe."""
    settings = tyro.cli(Settings, args=arguments)
    try:
        watch(settings)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"noise_scale: {error}") from error


if __name__ == "__main__":
    main()
