"""Anchors: the boxes that a detector starts from, and how they meet those of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..losses.checks import check_number, check_tensor
from .boxes import box_iou, check_boxes, check_size

#: What `match_anchors` says of an anchor that belongs to no box.
BACKGROUND = -1
#: What it says of one that is too near to be background and too far to be a box's.
IGNORED = -2

#: The largest logarithm of a ratio of sides that is decoded: Detectron's.
MAX_LOG_RATIO = math.log(1000 / 16)


def grid_anchors(
    image_size: tuple[int, int],
    grid_sizes: Sequence[tuple[int, int]],
    sizes: Sequence[Sequence[float]],
    aspect_ratios: Sequence[Sequence[float]],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Return the anchors of each level: boxes of some sizes and ratios around points of a grid.

    A grid of `g` points over an image of length `L` has the step `L // g` and begins at 0. Around
    each point lie boxes of height `size * sqrt(ratio)` and width `size / sqrt(ratio)`, corners
    rounded to whole pixels. Ren et al. 2015, Faster R-CNN (arXiv:1506.01497), section 3.1.1; order
    and values are those of torchvision's `AnchorGenerator`.

    Parameters
    ----------
    image_size
        Height and width of the images.
    grid_sizes
        Height and width of each level's feature map, in points.
    sizes
        For each level the lengths of its boxes, in pixels: the square root of their area.
    aspect_ratios
        For each level the ratios of height to width.
    dtype, device
        Those of the anchors.

    Returns
    -------
    list of Tensor
        For each level corners `(x1, y1, x2, y2)` of shape `(H * W * A, 4)`, points row by row and
        `A = len(ratios) * len(sizes)` boxes at a point, sizes fastest.

    Raises
    ------
    TypeError, ValueError
        The levels are not as many everywhere, a size or ratio is not positive, or a map is larger
        than the image.

    Examples
    --------
    >>> levels = grid_anchors((32, 32), [(2, 2), (1, 1)], [[8], [16]], [[1.0], [1.0]])
    >>> levels[0]
    tensor([[-4., -4.,  4.,  4.],
            [12., -4., 20.,  4.],
            [-4., 12.,  4., 20.],
            [12., 12., 20., 20.]])
    """
    name = "grid_anchors"
    check_size(name, "image_size", image_size)
    if not dtype.is_floating_point:
        raise TypeError(f"{name}: dtype must be floating point, got {dtype}.")
    if not len(grid_sizes) == len(sizes) == len(aspect_ratios) > 0:
        raise ValueError(
            f"{name}: grid_sizes, sizes and aspect_ratios must have one entry for each level, got "
            f"{len(grid_sizes)}, {len(sizes)} and {len(aspect_ratios)}."
        )
    return [
        _level(name, image_size, *level, torch.empty((), dtype=dtype, device=device))
        for level in zip(grid_sizes, sizes, aspect_ratios, strict=True)
    ]


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return where boxes lie as seen from anchors: what a detector is to predict.

    With centers `x, y` and sides `w, h` of the boxes and those with index `a` of the anchors,

        ((x - x_a) / w_a, (y - y_a) / h_a, log(w / w_a), log(h / h_a)).

    Girshick et al. 2013, Rich feature hierarchies (arXiv:1311.2524), appendix C; torchvision's
    `BoxCoder` with weights of 1.

    Parameters
    ----------
    boxes, anchors
        Corners with positive sides, floating point, of one shape `(..., 4)`.

    Raises
    ------
    TypeError, ValueError
        They are not such; nothing is broadcast or cast.

    Examples
    --------
    >>> encode_boxes(torch.tensor([1.0, 0.0, 3.0, 4.0]), torch.tensor([0.0, 0.0, 2.0, 2.0]))
    tensor([0.5000, 0.5000, 0.0000, 0.6931])
    """
    _check_alike("encode_boxes", "boxes", boxes, anchors)
    center, side = _center_and_side(boxes)
    from_center, from_side = _center_and_side(anchors)
    return torch.cat(((center - from_center) / from_side, torch.log(side / from_side)), -1)


def decode_boxes(codes: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes that `encode_boxes` gives these codes.

    As in torchvision the logarithms of ratios are at most `log(1000 / 16)`, so that no wild
    prediction becomes infinite. Parameters and errors are as for `encode_boxes`.

    Examples
    --------
    >>> codes, anchors = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.0, 2.0, 2.0])
    >>> decode_boxes(codes, anchors)
    tensor([1., 1., 3., 3.])
    """
    _check_alike("decode_boxes", "codes", codes, anchors)
    from_center, from_side = _center_and_side(anchors)
    step, log_ratio = codes.split(2, -1)
    center = step * from_side + from_center
    side = torch.exp(log_ratio.clamp(max=MAX_LOG_RATIO)) * from_side
    return torch.cat((center - side / 2, center + side / 2), -1)


def match_anchors(
    anchors: Tensor,
    boxes: Tensor,
    valid: Tensor,
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.4,
) -> Tensor:
    """Return for each anchor the index of the box that it is to predict.

    That is the box with the largest IoU, where it is at least `foreground_iou`; -1 (background)
    where it is below `background_iou`, and -2 (to be ignored) between. Anchors that have the
    largest IoU with some box of all anchors belong to the box that they overlap most, however
    little that is. Lin et al. 2017, Focal loss (arXiv:1708.02002), section 4; the last rule is
    that of Faster R-CNN, and torchvision's `Matcher` has both. Unlike there a box that no anchor
    overlaps changes nothing.

    Parameters
    ----------
    anchors
        Corners, floating point, of shape `(A, 4)`.
    boxes
        Those of one image, of shape `(M, 4)`, with rows of any values at the end or between, so
        that all images have as many.
    valid
        Boolean of shape `(M,)`: which rows are boxes.
    foreground_iou, background_iou
        Numbers within `[0, 1]`, the second not above the first.

    Returns
    -------
    Tensor
        int64 of shape `(A,)`.

    Raises
    ------
    TypeError, ValueError
        An argument is not such.

    Examples
    --------
    >>> anchors = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [9.0, 9.0, 12.0, 12.0]])
    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    >>> match_anchors(anchors, boxes, torch.tensor([True, False]))
    tensor([ 0,  0, -1])
    """
    name = "match_anchors"
    check_boxes(name, "anchors", anchors, ("A",))
    check_boxes(name, "boxes", boxes, ("M",))
    check_tensor(name, "valid", valid)
    if valid.dtype != torch.bool or valid.shape != boxes.shape[:1]:
        raise ValueError(
            f"{name}: valid must be boolean of shape ({boxes.shape[0]},), one for each of boxes, "
            f"got {valid.dtype} of shape {tuple(valid.shape)}."
        )
    if boxes.dtype != anchors.dtype:
        raise TypeError(
            f"{name}: boxes must have the dtype of anchors, {anchors.dtype}, got {boxes.dtype}."
        )
    check_number(name, "foreground_iou", foreground_iou)
    check_number(name, "background_iou", background_iou)
    if not 0 <= background_iou <= foreground_iou <= 1:
        raise ValueError(
            f"{name}: expected 0 <= background_iou <= foreground_iou <= 1, got {background_iou} "
            f"and {foreground_iou}."
        )
    if not boxes.shape[0] or not anchors.shape[0]:
        return torch.full(anchors.shape[:1], BACKGROUND, device=anchors.device)
    overlap = torch.where(valid[:, None], box_iou(boxes, anchors), -1.0)
    best, index = overlap.max(0)
    is_best_of_a_box = ((overlap == overlap.amax(1, keepdim=True)) & (overlap > 0)).any(0)
    outside = torch.where(best < background_iou, BACKGROUND, IGNORED)
    return torch.where((best >= foreground_iou) | is_best_of_a_box, index, outside)


def _level(
    name: str,
    image_size: tuple[int, int],
    grid: tuple[int, int],
    sizes: Sequence[float],
    aspect_ratios: Sequence[float],
    like: Tensor,
) -> Tensor:
    """Return the anchors around every point of one grid, of the dtype and device of `like`."""
    check_size(name, "each of grid_sizes", grid)
    steps = [length // points for length, points in zip(image_size, grid, strict=True)]
    if 0 in steps:
        raise ValueError(
            f"{name}: a grid must not have more points than the image has pixels, got {grid} for "
            f"{image_size}."
        )
    lengths = _positive(name, "sizes", sizes, like)
    roots = _positive(name, "aspect_ratios", aspect_ratios, like).sqrt()[:, None]
    heights, widths = (roots * lengths).flatten(), (lengths / roots).flatten()
    shapes = (torch.stack((-widths, -heights, widths, heights), 1) / 2).round()
    y, x = (
        torch.arange(points, dtype=like.dtype, device=like.device) * step
        for points, step in zip(grid, steps, strict=True)
    )
    y, x = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack((x, y, x, y), -1).reshape(-1, 1, 4)
    return (points + shapes).flatten(0, 1)


def _positive(caller: str, argument: str, values: Sequence[float], like: Tensor) -> Tensor:
    if not isinstance(values, list | tuple):
        raise TypeError(
            f"{caller}: {argument} must have a list of numbers for each level, got {values!r}."
        )
    for value in values:
        check_number(caller, argument, value)
    if not values or not all(0 < value < math.inf for value in values):
        raise ValueError(
            f"{caller}: {argument} must have some positive numbers for each level, got {values!r}."
        )
    return like.new_tensor(values)


def _check_alike(caller: str, name: str, values: Tensor, anchors: Tensor) -> None:
    check_boxes(caller, name, values)
    check_boxes(caller, "anchors", anchors)
    if values.shape != anchors.shape or values.dtype != anchors.dtype:
        raise ValueError(
            f"{caller}: {name} and anchors must have one shape and dtype, got {values.dtype} "
            f"{tuple(values.shape)} and {anchors.dtype} {tuple(anchors.shape)}."
        )


def _center_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes.split(2, -1)
    return low + 0.5 * (high - low), high - low
