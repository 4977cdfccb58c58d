"""Non-maximum suppression with shapes that do not depend on values.

torchvision's `nms` returns as many indices as there are boxes left, which no compiled or batched
program can. Here the number of places is an argument, and a mask says which of them are taken.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..control import scan
from ..losses.checks import check_count, check_integers, check_number
from ..losses.reduction import widened
from .boxes import check_boxes, iou


class KeptBoxes(NamedTuple):
    """Which boxes are kept, best first.

    `indices`, int64 of shape `(max_detections,)`, are 0 from where `valid`, a boolean mask of the
    same shape, is False.

    Examples
    --------
    >>> KeptBoxes(torch.tensor([4, 0]), torch.tensor([True, False])).valid.sum()
    tensor(1)
    """

    indices: Tensor
    valid: Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_detections: int) -> KeptBoxes:
    """Return the best of boxes that overlap: greedy non-maximum suppression.

    Again and again the box with the highest score is kept (of equal ones the first), and those
    whose IoU with it is above the threshold are dropped, until `max_detections` are kept or none
    is left. Felzenszwalb et al. 2010, Object detection with discriminatively trained part-based
    models, section 6.2. The result is the beginning of that of `torchvision.ops.nms`.

    Each step looks at all boxes: the time grows with `max_detections * N`.

    Parameters
    ----------
    boxes
        Corners, floating point, of shape `(N, 4)`.
    scores
        Floating point, of shape `(N,)`. A box with the score -inf or NaN is none: it is not kept
        and drops nothing.
    iou_threshold
        A number within `[0, 1]`.
    max_detections
        How many places the result has.

    Raises
    ------
    TypeError, ValueError
        An argument is not such.

    Examples
    --------
    >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 0.0, 30.0, 9.0]])
    >>> nms(boxes, torch.tensor([0.7, 0.9, 0.8]), 0.5, max_detections=4)
    KeptBoxes(indices=tensor([1, 2, 0, 0]), valid=tensor([ True,  True, False, False]))
    """
    _check("nms", boxes, scores, iou_threshold, max_detections)
    return _greedy(boxes, scores, torch.zeros_like(scores), iou_threshold, max_detections)


def batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int
) -> KeptBoxes:
    """Return `nms` within each class: boxes of different labels do not drop each other.

    Parameters
    ----------
    labels
        Integers of shape `(N,)`.
    boxes, scores, iou_threshold, max_detections
        As for `nms`; the places are for all classes together, best first.

    Raises
    ------
    TypeError, ValueError
        An argument is not such.

    Examples
    --------
    >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    >>> kept = batched_nms(boxes, torch.tensor([0.7, 0.9]), torch.tensor([0, 1]), 0.5, 2)
    >>> kept.indices
    tensor([1, 0])
    """
    _check("batched_nms", boxes, scores, iou_threshold, max_detections)
    check_integers("batched_nms", "labels", labels)
    if labels.shape != scores.shape:
        raise ValueError(
            f"batched_nms: labels must have the shape of scores, {tuple(scores.shape)}, got "
            f"{tuple(labels.shape)}."
        )
    return _greedy(boxes, scores, labels, iou_threshold, max_detections)


def _check(
    caller: str, boxes: Tensor, scores: Tensor, iou_threshold: float, max_detections: int
) -> None:
    check_boxes(caller, "boxes", boxes, ("N",))
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise TypeError(f"{caller}: scores must be a floating-point tensor, got {scores!r}.")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(
            f"{caller}: scores must have shape ({boxes.shape[0]},), one for each box, got "
            f"{tuple(scores.shape)}."
        )
    check_number(caller, "iou_threshold", iou_threshold)
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"{caller}: iou_threshold must lie in [0, 1], got {iou_threshold}.")
    check_count(caller, "max_detections", max_detections)


def _greedy(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int
) -> KeptBoxes:
    count = boxes.shape[0]
    if not count:
        nothing = torch.zeros(max_detections, dtype=torch.int64, device=boxes.device)
        return KeptBoxes(nothing, nothing.bool())
    order = scores.argsort(descending=True, stable=True)
    boxes, scores, labels = (x.index_select(0, order) for x in (widened(boxes), scores, labels))
    places = torch.arange(count, device=boxes.device)

    def step(left: Tensor, _: None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        first = torch.where(left, places, count).amin()
        is_found = first < count
        first = torch.where(is_found, first, 0)
        box, label = (x.index_select(0, first[None]) for x in (boxes, labels))
        is_dropped = (iou(box, boxes) > iou_threshold) & (labels == label) | (places == first)
        return left & ~is_dropped, (first, is_found)

    # A comparison, since NaN comes first in the order.
    left = scores > -torch.inf
    _, (found, valid) = scan(step, left, None, length=max_detections)
    return KeptBoxes(torch.where(valid, order.index_select(0, found), 0), valid)
