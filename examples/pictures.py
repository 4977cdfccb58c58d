"""The pictures that the examples draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot, ticker
from torch import Tensor

from purefn import data

matplotlib.use("Agg")


def draw_curve(history: list[dict[str, Any]], path: Path) -> None:
    """Draw loss and error rate of both parts over the epochs."""
    epochs = [epoch["epoch"] for epoch in history]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for part, style in (("train", "--"), ("test", "-")):
        marker = "o" if len(epochs) == 1 else ""
        loss = [epoch[f"{part}_loss"] for epoch in history]
        error = [100 * (1 - epoch[f"{part}_accuracy"]) for epoch in history]
        left.plot(epochs, loss, style, marker=marker, label=part)
        right.plot(epochs, error, style, marker=marker, label=part)
    left.set(title="cross-entropy", xlabel="epoch", yscale="log")
    right.set(title="wrong answers (%)", xlabel="epoch", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
        axes.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def draw_mistakes(
    dataset: data.Dataset | data.ImageFiles, probabilities: Tensor, path: Path
) -> None:
    """Draw the images whose wrong answers were given with most confidence, at most 24."""
    confidence, predicted = probabilities.cpu().max(1)
    wrong = torch.nonzero(predicted != dataset.labels.cpu())[:, 0]
    wrong = wrong[confidence[wrong].argsort(descending=True)]
    shown = wrong[:24].tolist()
    columns = min(max(len(shown), 1), 6)
    rows = -(-max(len(shown), 1) // columns)
    size = (max(1.7 * columns, 4), 2.1 * rows + 0.5)
    figure, axes = pyplot.subplots(
        *(rows, columns), figsize=size, squeeze=False, layout="constrained"
    )
    figure.suptitle(f"{len(wrong)} mistakes in {len(dataset)} images")
    for place in axes.flat:
        place.axis("off")
    for place, index in zip(axes.flat, shown, strict=False):
        in_memory = isinstance(dataset, data.Dataset)
        image = _visible(dataset.images[index] if in_memory else dataset[index][0] / 255)
        place.imshow(image, cmap="gray" if image.ndim == 2 else None)
        answer = dataset.classes[int(predicted[index])]
        truth = dataset.classes[int(dataset.labels[index])]
        title = f"said {answer} ({confidence[index]:.0%})\nis {truth}"
        place.set_title(title, fontsize=9, parse_math=False)  # dollars in names are dollars
    _save(figure, path)


def draw_augmented(images: Tensor, names: Sequence[str], path: Path) -> None:
    """Draw images of shape `(rows, n, channels, height, width)`, the originals in the first row."""
    rows, columns = images.shape[:2]
    figure, axes = pyplot.subplots(
        *(rows, columns),
        figsize=(1.1 * columns, 1.1 * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(
        f"As they are, and what four steps make of them: {', '.join(names)}", fontsize=10
    )
    for place, image in zip(axes.flat, images.flatten(0, 1).cpu(), strict=True):
        pixels = image[0] if len(image) == 1 else image.movedim(0, -1)
        place.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
        place.set(xticks=[], yticks=[])
    for place in axes[0]:
        for side in place.spines.values():
            side.set(color="tab:blue", linewidth=2)
    _save(figure, path)


def draw_confusion(confusion: Tensor, classes: tuple[str, ...], path: Path) -> None:
    """Draw how often each class (rows) was taken for each other (columns)."""
    counts = confusion.cpu()
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = max(4.5, 0.5 * len(classes) + 1.5)
    figure, axes = pyplot.subplots(figsize=(side + 1, side), layout="constrained")
    picture = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the class", shrink=0.8)
    ticks = range(len(classes))
    rotation = 90 if max(map(len, classes)) > 2 else 0
    axes.set_xticks(ticks, classes, rotation=rotation, parse_math=False)
    axes.set_yticks(ticks, classes, parse_math=False)
    axes.set(xlabel="answer", ylabel="truth")
    if len(classes) <= 20:
        for row in ticks:
            for column in ticks:
                if count := int(counts[row, column]):
                    color = "white" if share[row, column] > 0.5 else "black"
                    axes.text(column, row, count, ha="center", va="center", color=color, fontsize=9)
    _save(figure, path)


def draw_privacy(
    histories: dict[float, list[tuple[float, float]]],
    without_noise: float,
    delta: float,
    path: Path,
) -> None:
    """Draw the accuracy of private runs against the epsilon spent, a line for each noise level."""
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    axes.axhline(100 * without_noise, color="0.4", linestyle="--", linewidth=1)
    axes.annotate(
        f"without noise: {without_noise:.1%}",
        *((0.01, 100 * without_noise), (0, 4)),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
    )
    for (level, history), color in zip(histories.items(), _shades(len(histories)), strict=True):
        epsilons, accuracies = zip(*history, strict=True)
        percent = [100 * accuracy for accuracy in accuracies]
        axes.plot(epsilons, percent, "o-", color=color, markersize=4, label=f"{level:g}")
        axes.plot(epsilons[-1], percent[-1], "o", color=color, markersize=9)
    axes.set(
        title="What accuracy does an epsilon buy?",
        xlabel=f"epsilon spent, at delta {delta:g}: further left is more private",
        ylabel="test accuracy (%)",
        xscale="log",
    )
    _number(axes.xaxis)
    axes.grid(alpha=0.3)
    axes.legend(title="noise multiplier", loc="lower right")
    _save(figure, path)


def draw_found(found: dict[str, list[int]], count: int, path: Path) -> None:
    """Draw how many of `count` flipped labels are among the first k images of each ranking."""
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    total = len(next(iter(found.values())))
    shown = min(4 * count, total)
    axes.plot([0, count, shown], [0, count, count], color="0.7", label="the best there is")
    for name, numbers in found.items():
        axes.plot(range(shown + 1), [0, *numbers[:shown]], label=name, linewidth=2)
    axes.plot([0, shown], [0, shown * count / total], ":", color="0.4", label="in random order")
    axes.axvline(count, color="0.7", linewidth=1, linestyle="--")
    axes.set(
        title="How many of the flipped labels are among the most suspicious images?",
        xlabel=f"images looked at, of {total:,}",
        ylabel=f"flipped labels found, of {count}",
        xlim=(0, shown),
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)  # lines may be anywhere in the axes
    _save(figure, path)


def draw_suspects(
    given: data.Dataset, truth: Tensor, suspects: Tensor, score: str, path: Path
) -> None:
    """Draw images from the most suspicious on, framed by whether their label was flipped."""
    shown = suspects[:96].tolist()
    columns = min(len(shown), 12)
    rows = -(-len(shown) // columns)
    figure, axes = pyplot.subplots(
        *(rows, columns),
        figsize=(max(columns, 8), 1.25 * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    right = sum(int(given.labels[index] == truth[index]) for index in shown)
    figure.suptitle(
        f"The {len(shown)} most suspicious by {score}: "
        f"{len(shown) - right} flipped labels (black), {right} that were right (red)\n"
        "Above each image: the label given and, where that was flipped, what it is in truth"
    )
    for place in axes.flat[len(shown) :]:
        place.axis("off")
    for place, index in zip(axes.flat, shown, strict=False):
        image = _visible(given.images[index])
        place.imshow(image, cmap="gray" if image.ndim == 2 else None)
        label, true = (given.classes[int(labels[index])] for labels in (given.labels, truth))
        is_right = label == true
        color = "tab:red" if is_right else "black"
        place.set_title(f"{label}" if is_right else f"{label}, is {true}", color=color, fontsize=9)
        place.set(xticks=[], yticks=[])
        for side in place.spines.values():
            side.set(color=color, linewidth=3 if is_right else 1)
    _save(figure, path)


def draw_noise_scale(
    losses: Sequence[float],
    scales: Sequence[float],
    exact: dict[int, float],
    batch_size: int,
    moments: Sequence[int],
    path: Path,
) -> None:
    """Draw the running noise scale over the steps and what it follows, and mark the moments."""
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    first = len(scales) // 50  # averages of few steps are no estimate yet
    # Where noise drowns it, the estimate of |G|^2 comes out negative; nothing is drawn there.
    positive = [scale if scale > 0 else math.nan for scale in scales]
    steps = range(first + 1, len(scales) + 1)
    axes.plot(steps, positive[first:], color="0.6", linewidth=1.2, label="running average")
    axes.plot(
        list(exact),
        list(exact.values()),
        "o",
        color="0.35",
        markersize=3,
        label="of all training images",
    )
    label = f"batch size used: {batch_size}"
    axes.axhline(batch_size, color="tab:red", linestyle="--", linewidth=1, label=label)
    for moment, color in zip(moments, _shades(len(moments)), strict=True):
        label = f"step {moment}: {exact[moment]:.0f}, at a loss of {losses[moment - 1]:.2g}"
        axes.plot(moment, exact[moment], "o", color=color, markersize=9, label=label)
    seen = [*positive[first:], *exact.values()]
    shown = [batch_size, *(scale for scale in seen if scale > 0)]
    axes.set(
        title="How large a batch is worth its price, as training goes on?",
        xlabel="step",
        ylabel="noise scale tr(Σ) / |G|² (examples)",
        yscale="log",
        ylim=(min(shown) / 1.5, max(shown) * 1.5),
    )
    _number(axes.yaxis)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    _save(figure, path)


def draw_signal(
    scales: dict[int, float], sizes: Sequence[int], measured: dict[int, list[float]], path: Path
) -> None:
    """Draw the share of signal in the gradients of batches, measured and as the scale predicts."""
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    fine = torch.logspace(0, math.log10(sizes[-1]), 100).tolist()
    for (step, scale), color in zip(scales.items(), _shades(len(scales)), strict=True):
        axes.plot(fine, [1 / (1 + scale / size) for size in fine], color=color, linewidth=1.5)
        label = f"step {step}, noise scale {scale:.0f}"
        axes.plot(sizes, measured[step], "o", color=color, label=label)
    axes.plot([], [], color="0.4", label="predicted: 1 / (1 + noise scale / B)")
    axes.plot([], [], "o", color="0.4", label="measured")
    axes.set(
        title="How much of a batch's gradient is signal?",
        xlabel="batch size B (examples)",
        ylabel="|G|² / mean |gradient of a batch|²",
        xscale="log",
        ylim=(0, 1),
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_ensemble(
    means: Sequence[float],
    singles: Sequence[float],
    surest: dict[str, list[float]],
    path: Path,
) -> None:
    """Draw the accuracy of means over the number of networks, and over the share answered."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    percent = [100 * accuracy for accuracy in singles]
    spread = [1 + 0.5 * (index / len(singles) - 0.5) for index in range(len(singles))]
    left.plot(spread, percent, "o", color="0.6", markersize=4, label="a single network")
    counts = range(1, len(means) + 1)
    left.plot(counts, [100 * accuracy for accuracy in means], "-", label="the mean of so many")
    left.annotate(
        f"{means[-1]:.1%}",
        *((len(means), 100 * means[-1]), (-4, 6)),
        textcoords="offset points",
        ha="right",
    )
    left.set(title="Together they are right more often", xlabel="networks", xscale="log")
    left.set_ylabel("test accuracy (%)")
    _number(left.xaxis)
    for name, accuracies in surest.items():
        shares = [100 * count / len(accuracies) for count in range(1, len(accuracies) + 1)]
        wrong = [100 * (1 - accuracy) for accuracy in accuracies]
        right.plot(shares, wrong, label=name, color="0.6" if len(right.lines) == 0 else "tab:blue")
    right.set(
        title="They know better when they do not know",
        xlabel="images answered, the surest first (%)",
        ylabel="wrong answers among them (%)",
        ylim=(0, None),
    )
    for axes, place in ((left, "lower right"), (right, "upper left")):
        axes.grid(alpha=0.3)
        axes.legend(loc=place)
    _save(figure, path)


def draw_disagreement(dataset: data.Dataset, probabilities: Tensor, path: Path) -> None:
    """Draw the images about whose class the networks disagree most, with their votes."""
    classes = len(dataset.classes)
    votes = torch.nn.functional.one_hot(probabilities.argmax(-1), classes).double().mean(0)
    entropy = -torch.xlogy(votes, votes).sum(-1)
    shown = entropy.argsort(descending=True)[:12].tolist()
    columns = min(len(shown), 6)
    rows = -(-len(shown) // columns)
    figure, grid = pyplot.subplots(
        *(2 * rows, columns),
        figsize=(1.8 * columns, 2.9 * rows + 0.6),
        height_ratios=[2, 1] * rows,
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle("Where the networks disagree most: their votes, and in black the truth")
    pictures, votings = grid[::2].flat, grid[1::2].flat
    for place in (*pictures[len(shown) :], *votings[len(shown) :]):
        place.axis("off")
    for index, picture, bars in zip(shown, pictures, votings, strict=False):
        image = _visible(dataset.images[index])
        picture.imshow(image, cmap="gray" if image.ndim == 2 else None)
        picture.axis("off")
        truth = int(dataset.labels[index])
        colors = ["black" if label == truth else "tab:blue" for label in range(classes)]
        bars.bar(range(classes), votes[index].tolist(), color=colors)
        rotation = 90 if max(map(len, dataset.classes)) > 2 else 0
        bars.set_xticks(range(classes), dataset.classes, fontsize=8, rotation=rotation)
        bars.set(ylim=(0, 1), yticks=[])
    _save(figure, path)


def draw_bits(history: list[dict[str, Any]], tables: dict[str, float], path: Path) -> None:
    """Draw the bits per character over the steps, and those of tables of counts as lines."""
    steps = [entry["step"] for entry in history]
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    for part, style in (("train", "--"), ("test", "-")):
        bits = [entry[f"{part}_bits"] for entry in history]
        axes.plot(steps, bits, style, marker="o", markersize=4, label=part)
    for name, bits in tables.items():
        axes.axhline(bits, color="0.4", linestyle=":", linewidth=1)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        # Towards the end, where the curves should be far below.
        axes.annotate(f"{name}: {bits:.2f}", (0.99, bits), (0, 4), ha="right", **place)
    axes.set(
        title="How well is the next character foreseen?",
        xlabel="step",
        ylabel="bits per character",
        ylim=(0, 1.08 * max(*tables.values(), history[0]["test_bits"])),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    _save(figure, path)


def draw_surprise(text: str, bits: Tensor, path: Path, columns: int = 88) -> None:
    """Draw a text, each character on a ground that is the darker the less it was foreseen."""
    cells, row, column = [], 0, 0
    for character, value in zip(text, bits.tolist(), strict=True):
        if column == columns:
            row, column = row + 1, 0
        # The end of a line was to be foreseen like any other character.
        cells.append((row, column, "\u21b5" if character == "\n" else character, value))
        row, column = (row + 1, 0) if character == "\n" else (row, column + 1)
    grounds = torch.full((row + 1, max(cell[1] for cell in cells) + 1), math.nan)
    for row, column, _, value in cells:
        grounds[row, column] = value
    size = (0.105 * grounds.shape[1] + 1.5, 0.19 * len(grounds) + 0.8)
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    picture = axes.imshow(
        grounds.numpy(), cmap="OrRd", vmin=0, vmax=10, aspect="auto", interpolation="nearest"
    )
    for row, column, character, value in cells:
        color = "0.6" if character == "\u21b5" else "white" if value > 7 else "black"
        if character != " ":
            axes.text(
                column,
                row,
                character,
                ha="center",
                va="center",
                color=color,
                fontsize=8,
                family="monospace",
                parse_math=False,
            )
    axes.set(xticks=[], yticks=[], title="Held-out text: how surprising is each character?")
    for side in axes.spines.values():
        side.set_visible(False)
    figure.colorbar(picture, ax=axes, label="bits", fraction=0.03, pad=0.01)
    _save(figure, path)


def _shades(count: int) -> list[Any]:
    """Return colours from early to late."""
    return [pyplot.get_cmap("viridis")(0.05 + 0.8 * at / max(count - 1, 1)) for at in range(count)]


def _number(axis: Any) -> None:
    """Label a logarithmic axis 1, 2, 5, 10, and so on."""
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(ticker.NullFormatter())


def _visible(image: Tensor) -> Any:
    """Return an image as the array matplotlib wants, with its range stretched to [0, 1]."""
    image = image.cpu()
    image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-12)
    return (image[0] if len(image) == 1 else image.movedim(0, -1)).numpy()


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
