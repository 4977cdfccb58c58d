"""Train many networks at once by `vmap`, against a loop over them, and let them vote.

    python examples/ensemble.py                       # 32 networks, handwritten digits, no download
    python examples/ensemble.py --members 100 --hidden 5

`nn.ensemble` makes one layer of many networks: their parameters are stacked, and one compiled step
trains them all, each on batches of its own. The same steps are then taken by one network after the
other, with the same numbers in another order of the same arithmetic. The script says how long both
took and how far apart the results are.

The mean of the networks' probabilities (a deep ensemble, Lakshminarayanan et al. 2017,
arXiv:1612.01474) is more often right than they are, and knows better when it is not. The output
folder then holds `ensemble.png`, the accuracy over the number of networks and over the share of
images that is answered, surest answers first, and `disagreement.png`, the images about which the
networks disagree most.
"""

from __future__ import annotations

import dataclasses
import time
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
    """Train an ensemble of networks at once, and one by one."""

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    members: int = 32
    hidden: int = 8
    """How many hidden units each network has; wide ones all say the same."""
    steps: int = 800
    batch_size: int = 32
    lr: float = 3e-3
    seed: int = 0
    backend: Literal["inductor", "eager"] = "inductor"
    """What runs the compiled steps; eager needs no C++ compiler."""
    out: Path = Path("out/ensemble")
    """Folder for the pictures."""


def check(settings: Settings) -> None:
    """Refuse, before any work, what cannot be trained."""
    for name, least in (("members", 2), ("hidden", 1), ("steps", 1), ("batch_size", 1)):
        if (value := getattr(settings, name)) < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option}: expected at least {least}, got {value}.")


def make_member(settings: Settings, classes: int) -> nn.Layer:
    """Return the small network of which there are many."""
    return nn.serial(
        flat=nn.flatten(),
        hidden=nn.linear(settings.hidden),
        act=nn.relu,
        head=nn.linear(classes),
    )


def make_step(
    settings: Settings, model: nn.Layer, optimizer: optim.GradientTransformation
) -> Callable[..., tuple[Any, Any]]:
    """Return the training step of a network, or of an ensemble, whose losses are added up."""

    def loss(params: Any, images: Tensor, labels: Tensor) -> Tensor:
        logits = model(params, images).flatten(0, -2)
        return losses.cross_entropy(logits, labels.flatten()).sum() / settings.batch_size

    @pf.jit(backend=settings.backend)
    def step(params: Any, state: Any, images: Tensor, labels: Tensor) -> tuple[Any, Any]:
        updates, state = optimizer.update(pf.grad(loss)(params, images, labels), state, params)
        return optim.apply_updates(params, updates), state

    return step


def run(
    step: Callable[..., tuple[Any, Any]],
    optimizer: optim.GradientTransformation,
    params: Any,
    train_set: data.Dataset,
    drawn: Tensor,
    progress: tqdm[Any],
) -> tuple[Any, float]:
    """Return the parameters after the steps on the images `drawn` for each, and the seconds."""
    state = optimizer.init(params)
    step(params, state, train_set.images[drawn[0]], train_set.labels[drawn[0]])  # compiles
    begin = time.perf_counter()
    for chosen in drawn:
        params, state = step(params, state, train_set.images[chosen], train_set.labels[chosen])
        progress.update()
    return params, time.perf_counter() - begin


def train(
    settings: Settings, train_set: data.Dataset
) -> tuple[nn.Layer, tuple[Any, float], tuple[Any, float]]:
    """Return the network, and parameters and seconds of all at once and of one after the other."""
    member = make_member(settings, len(train_set.classes))
    count, size = settings.members, settings.batch_size
    ensemble = nn.ensemble(member, count, in_axes=0)
    # Its rule is elementwise: it trains stacked parameters as it does each network's own.
    optimizer = optim.adam(settings.lr)
    init_key, draw_key = random.split(random.key(settings.seed))
    example = train_set.images[:1].expand(count, 1, *train_set.images.shape[1:])
    start = ensemble.init(init_key, example)
    drawn = random.randint(draw_key, (settings.steps, count, size), 0, len(train_set))
    with tqdm(total=settings.steps, desc="all at once", unit=" steps") as progress:
        step = make_step(settings, ensemble, optimizer)
        together = run(step, optimizer, start, train_set, drawn, progress)
    alone, seconds = [], 0.0
    step = make_step(settings, member, optimizer)
    with tqdm(total=settings.steps * count, desc="one by one", unit=" steps") as progress:
        for index, params in enumerate(tree.unstack(start)):
            params, took = run(step, optimizer, params, train_set, drawn[:, index], progress)
            alone.append(params)
            seconds += took
    return member, together, (tree.stack(alone), seconds)


def probabilities(member: nn.Layer, params: Any, images: Tensor) -> Tensor:
    """Return what each network says of each image, shape (members, images, classes)."""
    model = nn.ensemble(member, len(tree.leaves(params)[0]))
    return torch.softmax(model(params, images), -1)


def accuracy_of_means(found: Tensor, labels: Tensor, key: Tensor, draws: int = 100) -> list[float]:
    """Return the accuracy of the mean of 1, 2, ... networks, averaged over orders of them."""
    orders = [random.permutation(one, len(found)) for one in random.split(key, draws)]
    counts = torch.arange(1, len(found) + 1)[:, None, None]
    means = torch.stack([found[order].cumsum(0) / counts for order in orders])
    return (means.argmax(-1) == labels).double().mean((0, 2)).tolist()


def accuracy_of_the_surest(found: Tensor, labels: Tensor) -> list[float]:
    """Return the accuracy of the 1, 2, ... surest answers of a network, averaged over networks."""
    confidence, answer = found.max(-1)
    order = confidence.argsort(-1, descending=True)
    right = torch.gather((answer == labels).double(), -1, order)
    counts = torch.arange(1, len(labels) + 1)
    return (right.cumsum(-1) / counts).mean(0).tolist()


def report(
    settings: Settings, train_set: data.Dataset, test_set: data.Dataset
) -> tuple[float, float]:
    """Train both ways, draw the pictures and say what is seen; return both kinds of accuracy."""
    member, (together, at_once), (alone, one_by_one) = train(settings, train_set)
    found = probabilities(member, together, test_set.images)
    apart = (found - probabilities(member, alone, test_set.images)).abs().max().item()
    print(
        f"{settings.members} networks, {settings.steps} steps each: {at_once:.2f} s all at once, "
        f"{one_by_one:.2f} s one by one ({one_by_one / at_once:.1f} times as long); their "
        f"probabilities differ by at most {apart:.1e}"
    )
    labels = test_set.labels
    each = metrics.accuracy(found.flatten(0, 1), labels.repeat(len(found)))
    singles = each.reshape(len(found), -1).mean(1)
    mean = metrics.accuracy(found.mean(0), labels).mean().item()
    curve = accuracy_of_means(found, labels, random.key(settings.seed))
    pictures.draw_ensemble(
        *(curve, singles.tolist()),
        {
            "a single network": accuracy_of_the_surest(found, labels),
            f"the mean of {len(found)}": accuracy_of_the_surest(found.mean(0)[None], labels),
        },
        settings.out / "ensemble.png",
    )
    pictures.draw_disagreement(test_set, found, settings.out / "disagreement.png")
    print(
        f"test accuracy of the mean {mean:.2%}, of single networks {singles.mean():.2%} "
        f"({singles.min():.2%} to {singles.max():.2%}); see {settings.out}"
    )
    return mean, singles.mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings from the command line and train."""
    settings = tyro.cli(Settings, args=arguments)
    try:
        check(settings)
        settings.out.mkdir(parents=True, exist_ok=True)
        report(settings, *getattr(data, settings.dataset)())
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"ensemble: {error}") from error


if __name__ == "__main__":
    main()
