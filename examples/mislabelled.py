"""Flip one label in twenty, train on them, and find them again by their gradients.

    python examples/mislabelled.py                        # handwritten digits, no download
    python examples/mislabelled.py --flipped 0.2

Three scores rank the training images from most to least suspicious:

- the norm of its gradient at the end of training: how much it still pulls;
- its influence on itself, the sum of squared norms over checkpoints (TracIn, Pruthi et al. 2020,
  arXiv:2002.08484): how much it had to pull for its own loss to come down;
- its influence on held-out images, with the sign turned: how much its steps raised their losses.

The output folder then holds `found.png`, how many of the flipped labels are found by looking at the
most suspicious images, and `suspects.png`, the images themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pictures
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import losses, metrics, nn, per_example, random


@dataclasses.dataclass(frozen=True)
class Settings:
    """Find mislabelled images by their gradients."""

    flipped: float = 0.05
    """Share of the training images whose label is replaced by a wrong one."""
    epochs: int = 20
    checkpoints: int = 5
    """How often, evenly spaced, the parameters are kept for the influences."""
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    seed: int = 0
    backend: Literal["inductor", "eager"] = "inductor"
    """What runs the compiled step; eager needs no C++ compiler."""
    out: Path = Path("out/mislabelled")
    """Folder for the pictures."""


model = nn.serial(flat=nn.flatten(), hidden=nn.linear(128), act=nn.relu, head=nn.linear(10))


def losses_fn(params: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Return one loss for each image."""
    return losses.cross_entropy(model(params, images), labels)


def flip(labels: Tensor, classes: int, count: int, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the labels with `count` of them wrong, and which those are."""
    choice_key, shift_key = random.split(key)
    rows = random.permutation(choice_key, len(labels))[:count].long()
    shift = torch.zeros_like(labels)
    shift[rows] = random.randint(shift_key, (count,), 1, classes).long()
    return (labels + shift) % classes, shift > 0


def train(
    settings: Settings, train_set: data.Dataset, labels: Tensor, keys: Sequence[Tensor]
) -> list[Any]:
    """Train on the labels given; return the parameters at the checkpoints, the last at the end."""
    optimizer = optim.sgd(settings.lr, momentum=settings.momentum)

    @pf.jit(backend=settings.backend)
    def step(params: Any, state: Any, images: Tensor, labels: Tensor) -> tuple[Any, Any]:
        grads = pf.grad(lambda params: losses_fn(params, images, labels).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    params = model.init(keys[0], train_set.images[:1])
    state = optimizer.init(params)
    batches = data.batches(
        (train_set.images, labels), settings.batch_size, key=keys[1], epochs=settings.epochs
    )
    kept = {len(batches) * part // settings.checkpoints for part in range(settings.checkpoints + 1)}
    checkpoints = []
    for number, batch in enumerate(tqdm(batches, unit=" steps"), start=1):
        params, state = step(params, state, *batch)
        if number in kept:
            checkpoints.append(params)
    return checkpoints


def suspicions(
    settings: Settings, checkpoints: list[Any], images: Tensor, labels: Tensor, held: data.Dataset
) -> dict[str, Tensor]:
    """Return three scores for each training image: the higher, the more suspicious its label."""
    norms = [per_example.norms(losses_fn)(at, images, labels).total for at in checkpoints]
    # A step of momentum m moves as far, in all, as one of learning rate lr / (1 - m).
    lrs = [settings.lr / (1 - settings.momentum)] * len(checkpoints)
    influence = per_example.tracin(losses_fn)(
        *(checkpoints, lrs, (images, labels), (held.images, held.labels))
    )
    return {
        "gradient norm": norms[-1].sqrt(),
        "influence on itself": lrs[0] * torch.stack(norms).sum(0),
        "influence on held-out images": -influence.mean(0),
    }


def check(settings: Settings) -> None:
    """Refuse, before any work, what cannot be trained with or ranked."""
    for name in ("epochs", "checkpoints", "batch_size"):
        if (value := getattr(settings, name)) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, got {value}.")
    if not 0 < settings.flipped <= 1:
        raise ValueError(f"--flipped: expected a share in (0, 1], got {settings.flipped}.")
    if not 0 <= settings.momentum < 1:
        raise ValueError(f"--momentum: expected a number in [0, 1), got {settings.momentum}.")


def find(settings: Settings) -> None:
    """Flip, train, rank and draw."""
    check(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    train_set, held = data.digits()
    flip_key, *keys = random.split(random.key(settings.seed), 3)
    count = round(settings.flipped * len(train_set))
    if count == 0:
        raise ValueError(f"--flipped: {settings.flipped} of {len(train_set)} images is none.")
    if (size := settings.batch_size) > len(train_set):
        raise ValueError(f"--batch-size: expected at most the {len(train_set)} images, got {size}.")
    labels, is_flipped = flip(train_set.labels, len(train_set.classes), count, flip_key)

    checkpoints = train(settings, train_set, labels, keys)
    accuracy = metrics.accuracy(model(checkpoints[-1], held.images), held.labels).mean()
    print(f"{count} of {len(labels)} labels flipped; accuracy on held-out images {accuracy:.1%}")

    scores = suspicions(settings, checkpoints, train_set.images, labels, held)
    ranks = {name: score.argsort(descending=True) for name, score in scores.items()}
    found = {name: is_flipped[rank].cumsum(0).tolist() for name, rank in ranks.items()}
    pictures.draw_found(found, count, settings.out / "found.png")
    best = max(found, key=lambda name: found[name][count - 1])
    given = dataclasses.replace(train_set, labels=labels)
    pictures.draw_suspects(
        *(given, train_set.labels, ranks[best][:count], best, settings.out / "suspects.png")
    )
    for name, numbers in found.items():
        hits = numbers[count - 1]
        print(f"{hits / count:6.1%} of the first {count} by {name} are flipped ({hits})")
    print(f"see {settings.out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings from the command line and find what they flip."""
    settings = tyro.cli(Settings, args=arguments)
    try:
        find(settings)
    except (ValueError, OSError) as error:
        raise SystemExit(f"mislabelled: {error}") from error


if __name__ == "__main__":
    main()
