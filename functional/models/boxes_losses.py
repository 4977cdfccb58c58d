"""Losses of predicted boxes, one value for each pair of boxes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..losses.reduction import widened
from .boxes import EPS, check_boxes, complete, distance, generalized

Overlap = Callable[[Tensor, Tensor, float], Tensor]


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return `1 - GIoU` of each box of the first with that box of the second tensor.

    See `generalized_box_iou`; as in torchvision 1e-7 is added to both denominators. The value is
    symmetric in its arguments and has a useful derivative where the boxes do not meet.

    Parameters
    ----------
    boxes1, boxes2
        Corners `(x1, y1, x2, y2)` with positive sides, floating point, of one shape `(..., 4)`.

    Returns
    -------
    Tensor
        Shape `(...)`: within `[0, 2]`; float32 of bfloat16 and float16.

    Raises
    ------
    TypeError, ValueError
        The boxes are not such; nothing is broadcast or cast.

    Examples
    --------
    >>> import torch
    >>> a = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    >>> b = torch.tensor([[0.0, 0.0, 1.0, 1.0], [3.0, 0.0, 4.0, 1.0]])
    >>> generalized_box_iou_loss(a, b).round(decimals=4)
    tensor([0.0000, 1.5000])
    """
    return _loss("generalized_box_iou_loss", generalized, boxes1, boxes2)


def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return `1 - DIoU` of each pair of boxes.

    See `distance_box_iou` and, for shapes and errors, `generalized_box_iou_loss`; as in torchvision
    1e-7 is added to both denominators.

    Examples
    --------
    >>> import torch
    >>> a, b = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([3.0, 0.0, 4.0, 1.0])
    >>> distance_box_iou_loss(a, b)
    tensor(1.5294)
    """
    return _loss("distance_box_iou_loss", distance, boxes1, boxes2)


def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return `1 - CIoU` of each pair of boxes.

    See `complete_box_iou` and, for shapes and errors, `generalized_box_iou_loss`; as in torchvision
    1e-7 is added to all denominators.

    Examples
    --------
    >>> import torch
    >>> a, b = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([3.0, 0.0, 4.0, 1.0])
    >>> complete_box_iou_loss(a, b)
    tensor(1.5294)
    """
    return _loss("complete_box_iou_loss", complete, boxes1, boxes2)


def _loss(caller: str, overlap: Overlap, boxes1: Tensor, boxes2: Tensor) -> Tensor:
    check_boxes(caller, "boxes1", boxes1)
    check_boxes(caller, "boxes2", boxes2)
    if boxes1.shape != boxes2.shape or boxes1.dtype != boxes2.dtype:
        raise ValueError(
            f"{caller}: boxes1 and boxes2 must have one shape and dtype, got {boxes1.dtype} "
            f"{tuple(boxes1.shape)} and {boxes2.dtype} {tuple(boxes2.shape)}."
        )
    return 1 - overlap(widened(boxes1), widened(boxes2), EPS)
