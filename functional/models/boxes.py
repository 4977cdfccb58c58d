"""Boxes along the axes of an image: their formats, areas and overlaps.

A box is four numbers along the last dimension. Unless a function says otherwise they are the
corners `(x1, y1, x2, y2)` with `x1 <= x2` and `y1 <= y2`, in any unit. Names and values are those
of `torchvision.ops`: areas and overlaps of bfloat16 and float16 boxes are float32, too.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..autodiff import stop_gradient
from ..losses.checks import check_tensor
from ..losses.reduction import widened

#: Corners; a corner and lengths of the sides; the center and these.
BoxFormat = Literal["xyxy", "xywh", "cxcywh"]

#: Added to squared distances, as in torchvision.
EPS = 1e-7


def box_convert(boxes: Tensor, in_fmt: BoxFormat, out_fmt: BoxFormat) -> Tensor:
    """Return boxes in another format.

    Parameters
    ----------
    boxes
        Shape `(..., 4)`, floating point.
    in_fmt, out_fmt
        "xyxy" for the corners `(x1, y1, x2, y2)`, "xywh" for `(x1, y1, width, height)`, "cxcywh"
        for `(center_x, center_y, width, height)`.

    Raises
    ------
    TypeError, ValueError
        The boxes are not such, or a format is none of the above.

    Examples
    --------
    >>> box_convert(torch.tensor([10.0, 20.0, 14.0, 26.0]), "xyxy", "cxcywh")
    tensor([12., 23.,  4.,  6.])
    """
    check_boxes("box_convert", "boxes", boxes)
    for argument, value in (("in_fmt", in_fmt), ("out_fmt", out_fmt)):
        if value not in get_args(BoxFormat):
            raise ValueError(
                f"box_convert: {argument} must be one of {list(get_args(BoxFormat))}, "
                f"got {value!r}."
            )
    if in_fmt == out_fmt:
        return boxes
    a, b = boxes.split(2, -1)
    low, high = {"xyxy": (a, b), "xywh": (a, a + b), "cxcywh": (a - b / 2, a + b / 2)}[in_fmt]
    corner = (low + high) / 2 if out_fmt == "cxcywh" else low
    return torch.cat((corner, high if out_fmt == "xyxy" else high - low), -1)


def box_area(boxes: Tensor) -> Tensor:
    """Return the area `(x2 - x1) (y2 - y1)` of each box, of shape `(...)`.

    Raises
    ------
    TypeError, ValueError
        The boxes are not floating-point of shape `(..., 4)`.

    Examples
    --------
    >>> box_area(torch.tensor([[0.0, 0.0, 2.0, 3.0]]))
    tensor([6.])
    """
    check_boxes("box_area", "boxes", boxes)
    return _area(widened(boxes))


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the parts of boxes that lie in an image of `size = (height, width)`.

    Raises
    ------
    TypeError, ValueError
        The boxes are not floating-point of shape `(..., 4)`, or the size is not two positive
        integers.

    Examples
    --------
    >>> clip_boxes_to_image(torch.tensor([-3.0, 5.0, 9.0, 50.0]), (32, 64))
    tensor([ 0.,  5.,  9., 32.])
    """
    check_boxes("clip_boxes_to_image", "boxes", boxes)
    height, width = check_size("clip_boxes_to_image", "size", size)
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x, y), -1).flatten(-2)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return intersection over union of every box of the first with every one of the second set.

        IoU(A, B) = area(A and B) / area(A or B),

    0 where both boxes are empty.

    Parameters
    ----------
    boxes1, boxes2
        Shapes `(..., N, 4)` and `(..., M, 4)`, floating point, with the same dimensions before.

    Returns
    -------
    Tensor
        Shape `(..., N, M)`.

    Raises
    ------
    TypeError, ValueError
        The boxes are not such.

    Examples
    --------
    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    tensor([[0.3333]])
    """
    return iou(*pairs("box_iou", boxes1, boxes2))


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the generalized intersection over union of all pairs of boxes.

        GIoU(A, B) = IoU(A, B) - (area(C) - area(A or B)) / area(C),

    where `C` is the smallest box around both. Rezatofighi et al. 2019, Generalized intersection
    over union (arXiv:1902.09630). Shapes and errors are as for `box_iou`.

    Examples
    --------
    >>> a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]])
    >>> generalized_box_iou(a, b)
    tensor([[-0.5000]])
    """
    return generalized(*pairs("generalized_box_iou", boxes1, boxes2))


def distance_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the distance intersection over union of all pairs of boxes.

        DIoU(A, B) = IoU(A, B) - d² / c²,

    with the distance `d` of the centers and the diagonal `c` of the smallest box around both. Zheng
    et al. 2019, Distance-IoU loss (arXiv:1911.08287), equation 7. As in torchvision 1e-7 is added
    to `c²`. Shapes and errors are as for `box_iou`.

    Examples
    --------
    >>> a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]])
    >>> distance_box_iou(a, b)
    tensor([[-0.5294]])
    """
    return distance(*pairs("distance_box_iou", boxes1, boxes2))


def complete_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the complete intersection over union of all pairs of boxes.

        CIoU(A, B) = DIoU(A, B) - a v,    v = (2 / pi (atan(w_A / h_A) - atan(w_B / h_B)))²,
        a = v / (1 - IoU(A, B) + v),

    where no derivative is taken of `a`. Zheng et al. 2019, Distance-IoU loss (arXiv:1911.08287),
    equations 8 to 11. As in torchvision 1e-7 is added to the denominator of `a`. Shapes and errors
    are as for `box_iou`.

    Examples
    --------
    >>> a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 5.0, 1.0]])
    >>> complete_box_iou(a, b)
    tensor([[-0.4728]])
    """
    return complete(*pairs("complete_box_iou", boxes1, boxes2))


def pairs(caller: str, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sets of boxes, widened, so that each of one meets each of the other."""
    check_boxes(caller, "boxes1", boxes1, ("...", "N"))
    check_boxes(caller, "boxes2", boxes2, ("...", "M"))
    if boxes1.shape[:-2] != boxes2.shape[:-2] or boxes1.dtype != boxes2.dtype:
        raise ValueError(
            f"{caller}: boxes1 and boxes2 must have one dtype and the same dimensions before the "
            f"last two, got {boxes1.dtype} {tuple(boxes1.shape)} and {boxes2.dtype} "
            f"{tuple(boxes2.shape)}."
        )
    return widened(boxes1).unsqueeze(-2), widened(boxes2).unsqueeze(-3)


def iou(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Return the intersection over union of boxes whose shapes broadcast."""
    intersection, union = _intersection_and_union(a, b)
    return _ratio(intersection, union, eps)


def generalized(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Return the generalized one, with `eps` added to each denominator."""
    intersection, union = _intersection_and_union(a, b)
    around = _area(_around(a, b))
    return _ratio(intersection, union, eps) - _ratio(around - union, around, eps)


def distance(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Return the distance one, with `eps` added to the union."""
    x1, y1, x2, y2 = _around(a, b).unbind(-1)
    diagonal = (x2 - x1) ** 2 + (y2 - y1) ** 2 + EPS
    step = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    return iou(a, b, eps) - (step**2).sum(-1) / diagonal


def complete(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Return the complete one, with `eps` added to the union."""
    v = (2 / math.pi * (_angle(a) - _angle(b))) ** 2
    weight: Tensor = stop_gradient(v / (1 - iou(a, b, eps) + v + EPS))
    return distance(a, b, eps) - weight * v


def check_boxes(caller: str, name: str, boxes: Any, pattern: tuple[str, ...] = ("...",)) -> None:
    """Refuse anything but floating-point boxes of shape `(*pattern, 4)`.

    >>> check_boxes("box_area", "boxes", torch.ones(3))
    Traceback (most recent call last):
    ValueError: box_area: boxes must have shape (..., 4), got (3,).
    """
    check_tensor(caller, name, boxes)
    if not boxes.is_floating_point():
        raise TypeError(
            f"{caller}: {name} must be floating point, got {boxes.dtype}; convert with "
            f"{name}.float()."
        )
    fixed = len([letter for letter in pattern if letter != "..."])
    has_length = boxes.ndim > fixed if "..." in pattern else boxes.ndim == fixed + 1
    if not has_length or boxes.shape[-1] != 4:
        raise ValueError(
            f"{caller}: {name} must have shape ({', '.join((*pattern, '4'))}), got "
            f"{tuple(boxes.shape)}."
        )


def check_size(caller: str, name: str, size: Any) -> tuple[int, int]:
    """Return the height and width of an image, or refuse what is no pair of positive integers."""
    is_pair = isinstance(size, tuple | list) and len(size) == 2
    if not is_pair or not all(type(length) is int and length > 0 for length in size):
        raise ValueError(
            f"{caller}: {name} must be (height, width), two positive integers, got {size!r}."
        )
    return size[0], size[1]


def _area(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1) * (y2 - y1)


def _around(a: Tensor, b: Tensor) -> Tensor:
    """Return the smallest box around both."""
    low, high = torch.minimum(a, b)[..., :2], torch.maximum(a, b)[..., 2:]
    return torch.cat((low, high), -1)


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    x1, y1 = torch.maximum(a, b)[..., :2].unbind(-1)
    x2, y2 = torch.minimum(a, b)[..., 2:].unbind(-1)
    meet = (x2 > x1) & (y2 > y1)
    intersection = torch.where(meet, (x2 - x1) * (y2 - y1), 0.0)
    return intersection, _area(a) + _area(b) - intersection


def _ratio(part: Tensor, whole: Tensor, eps: float) -> Tensor:
    """Return the ratio of areas, 0 of nothing; the branch not taken has no infinite derivative."""
    whole = whole + eps
    return torch.where(whole == 0, 0.0, part / torch.where(whole == 0, 1.0, whole))


def _angle(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.atan2(x2 - x1, y2 - y1)
