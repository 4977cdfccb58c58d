"""The pictures that the examples draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot
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


def draw_mistakes(dataset: data.Dataset, probabilities: Tensor, path: Path) -> None:
    """Draw the images whose wrong answers were given with most confidence, at most 24."""
    confidence, predicted = probabilities.max(1)
    wrong = torch.nonzero(predicted != dataset.labels)[:, 0]
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
        image = _visible(dataset.images[index])
        place.imshow(image, cmap="gray" if image.ndim == 2 else None)
        answer = dataset.classes[int(predicted[index])]
        truth = dataset.classes[int(dataset.labels[index])]
        place.set_title(f"said {answer} ({confidence[index]:.0%})\nis {truth}", fontsize=9)
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
    axes.set_xticks(ticks, classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="answer", ylabel="truth")
    if len(classes) <= 20:
        for row in ticks:
            for column in ticks:
                if count := int(counts[row, column]):
                    color = "white" if share[row, column] > 0.5 else "black"
                    axes.text(column, row, count, ha="center", va="center", color=color, fontsize=9)
    _save(figure, path)


def _visible(image: Tensor) -> Any:
    """Return an image as the array matplotlib wants, with its range stretched to [0, 1]."""
    image = image.cpu()
    image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-12)
    return (image[0] if len(image) == 1 else image.movedim(0, -1)).numpy()


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
