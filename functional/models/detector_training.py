"""What a RetinaNet learns from, and what it says of images in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batching import vmap
from ..losses import sigmoid_focal
from ..losses.checks import (
    check_count,
    check_integers,
    check_number,
    check_range,
    check_tensor,
    values_are_visible,
)
from .boxes import check_boxes, check_size, clip_boxes_to_image
from .boxes_suppression import batched_nms
from .detector import RetinaNetOutputs
from .detector_anchors import IGNORED, decode_boxes, encode_boxes, match_anchors

#: `box_loss(codes, anchors, boxes)` of shapes `(A, 4)`, one value for each anchor.
BoxLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


class RetinaNetLosses(NamedTuple):
    """Both parts of the loss, of shape `(N,)` each: one value for an image.

    Examples
    --------
    >>> both = RetinaNetLosses(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5]))
    >>> sum(both).mean()
    tensor(2.)
    """

    classification: Tensor
    bbox_regression: Tensor


class Detections(NamedTuple):
    """The objects found in each of N images, best first, in `K = max_detections` places.

    `boxes` of shape `(N, K, 4)` are corners, `scores` and `labels` of shape `(N, K)`; all are zero
    where `valid` is False.

    Examples
    --------
    >>> found = Detections(torch.zeros(1, 2, 4), torch.zeros(1, 2), torch.zeros(1, 2).long(),
    ...                    torch.tensor([[True, False]]))
    >>> found.valid.sum(1)
    tensor([1])
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor


def l1_of_codes(codes: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return `sum |codes - encode_boxes(boxes, anchors)|` for each anchor.

    The default `box_loss` of `retinanet_loss`. Shapes are `(A, 4)`, that of the result `(A,)`.

    Examples
    --------
    >>> anchors = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    >>> l1_of_codes(torch.zeros(1, 4), anchors, anchors + 1)
    tensor([1.])
    """
    return (codes - encode_boxes(boxes, anchors)).abs().sum(-1)


def retinanet_loss(
    outputs: RetinaNetOutputs,
    anchors: Sequence[Tensor],
    boxes: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.4,
    alpha: float = 0.25,
    gamma: float = 2.0,
    box_loss: BoxLoss = l1_of_codes,
) -> RetinaNetLosses:
    """Return what the outputs of `retinanet_head` cost beside the objects that are there.

    Anchors are matched with boxes by `match_anchors`. With `F` those that have a box, and `B` the
    background,

        classification = sum over F and B of focal(logits, is of this class) / max(1, |F|)
        bbox_regression = sum over F of box_loss(codes, anchors, boxes) / max(1, |F|).

    Lin et al. 2017 (arXiv:1708.02002), section 4; the means over images are torchvision's.

    Parameters
    ----------
    outputs
        What the head returns for N images, of A anchors in all.
    anchors
        Those of each level, as `grid_anchors` returns them.
    boxes, labels, valid
        The objects: corners of shape `(N, M, 4)`, class numbers of shape `(N, M)`, and whether a
        row is an object, boolean of that shape. Images with fewer than M are filled with rows of
        any values, of which nothing depends.
    foreground_iou, background_iou
        As for `match_anchors`.
    alpha, gamma
        As for `losses.sigmoid_focal`.
    box_loss
        A function of codes, anchors and boxes of shape `(A, 4)` to values of shape `(A,)`, such as
        `lambda codes, anchors, boxes: generalized_box_iou_loss(decode_boxes(codes, anchors),
        boxes)`.

    Returns
    -------
    RetinaNetLosses
        Two tensors of shape `(N,)`.

    Raises
    ------
    TypeError, ValueError
        Shapes, dtypes or numbers do not fit; a label lies outside the classes, or a box has no
        area (under `jit` and `vmap`, where values cannot be seen, such a label is that of no class,
        and such a box makes the loss infinite).

    Examples
    --------
    >>> anchors = grid_anchors((16, 16), [(2, 2)], [[8]], [[1.0]])
    >>> outputs = RetinaNetOutputs(torch.zeros(1, 4, 3), torch.zeros(1, 4, 4))
    >>> boxes, labels = torch.tensor([[[4.0, 4.0, 12.0, 12.0]]]), torch.tensor([[2]])
    >>> retinanet_loss(outputs, anchors, boxes, labels, torch.tensor([[True]]))
    RetinaNetLosses(classification=tensor([1.4729]), bbox_regression=tensor([0.]))
    """
    name = "retinanet_loss"
    all_anchors = _joined(name, outputs, anchors)
    objects = (boxes, labels, valid)
    _check_objects(name, outputs, *objects)
    if not callable(box_loss):
        raise TypeError(f"{name}: box_loss must be a function, got {box_loss!r}.")
    classes = outputs.cls_logits.shape[-1]
    if not boxes.shape[1]:
        # A row that is no object, for there to be one that background can point at.
        boxes, labels, valid = (x.new_zeros((x.shape[0], 1, *x.shape[2:])) for x in objects)

    def of_image(
        logits: Tensor, codes: Tensor, boxes: Tensor, labels: Tensor, valid: Tensor
    ) -> RetinaNetLosses:
        match = match_anchors(
            all_anchors,
            boxes,
            valid,
            foreground_iou=foreground_iou,
            background_iou=background_iou,
        )
        is_object, index = match >= 0, match.clamp(min=0)
        own_labels = labels.index_select(0, index)[:, None]
        of_class = torch.arange(classes, device=labels.device) == own_labels
        targets = (of_class & is_object[:, None]).to(logits.dtype)
        # A loss of a mean over classes.
        focal = classes * sigmoid_focal(logits, targets, alpha=alpha, gamma=gamma)
        # Background stands for itself, so that no derivative of what is not taken is infinite.
        own_boxes = torch.where(is_object[:, None], boxes.index_select(0, index), all_anchors)
        distances = box_loss(codes, all_anchors, own_boxes)
        _check_distances(name, distances, codes.shape[:1])
        count = is_object.sum().clamp(min=1)
        return RetinaNetLosses(
            torch.where(match == IGNORED, 0.0, focal).sum() / count,
            torch.where(is_object, distances, 0.0).sum() / count,
        )

    losses: RetinaNetLosses = vmap(of_image)(*outputs, boxes, labels, valid)
    return losses


def retinanet_detections(
    outputs: RetinaNetOutputs,
    anchors: Sequence[Tensor],
    image_size: tuple[int, int],
    *,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    max_candidates: int = 1000,
    max_detections: int = 300,
) -> Detections:
    """Return the objects that the outputs of `retinanet_head` speak of.

    Of each level the `max_candidates` anchors and classes with the highest scores above the
    threshold are decoded and clipped to the image; `batched_nms` leaves the best of those that
    overlap. Defaults and values are torchvision's. Shapes do not depend on values.

    Parameters
    ----------
    outputs, anchors
        As for `retinanet_loss`.
    image_size
        Height and width of the images.
    score_threshold, iou_threshold
        Numbers within `[0, 1]`; a score is the sigmoid of a logit.
    max_candidates, max_detections
        Integers of at least 1.

    Raises
    ------
    TypeError, ValueError
        An argument is not such, or shapes do not fit.

    Examples
    --------
    >>> anchors = grid_anchors((16, 16), [(2, 2)], [[8]], [[1.0]])
    >>> logits = torch.full((1, 4, 3), -9.0)
    >>> logits[0, 3, 2] = 9.0
    >>> outputs = RetinaNetOutputs(logits, torch.zeros(1, 4, 4))
    >>> found = retinanet_detections(outputs, anchors, (16, 16), max_detections=2)
    >>> found.boxes[0, 0], found.labels, found.valid
    (tensor([ 4.,  4., 12., 12.]), tensor([[2, 0]]), tensor([[ True, False]]))
    """
    name = "retinanet_detections"
    _joined(name, outputs, anchors)
    check_size(name, "image_size", image_size)
    check_number(name, "score_threshold", score_threshold)
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"{name}: score_threshold must lie in [0, 1], got {score_threshold}.")
    check_count(name, "max_candidates", max_candidates)
    classes, lengths = outputs.cls_logits.shape[-1], [level.shape[0] for level in anchors]

    def candidates(logits: Tensor, codes: Tensor, anchors: Tensor) -> tuple[Tensor, ...]:
        scores = logits.sigmoid().flatten()
        scores = torch.where(scores > score_threshold, scores, -torch.inf)
        scores, place = scores.topk(min(max_candidates, scores.shape[0]))
        row = place // classes
        boxes = decode_boxes(codes.index_select(0, row), anchors.index_select(0, row))
        return clip_boxes_to_image(boxes, image_size), scores, place % classes

    def of_image(logits: Tensor, codes: Tensor) -> Detections:
        levels = map(candidates, logits.split(lengths), codes.split(lengths), anchors)
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*levels, strict=True))
        index, valid = batched_nms(boxes, scores, labels, iou_threshold, max_detections)
        found = (x.index_select(0, index) for x in (boxes, scores, labels))
        boxes, scores, labels = (
            torch.where(valid[:, None] if x.ndim > 1 else valid, x, 0) for x in found
        )
        return Detections(boxes, scores, labels, valid)

    detections: Detections = vmap(of_image)(*outputs)
    return detections


def _joined(name: str, outputs: Any, anchors: Any) -> Tensor:
    """Return the anchors of all levels, or refuse what does not fit the outputs."""
    if not isinstance(outputs, RetinaNetOutputs):
        raise TypeError(f"{name}: outputs must be RetinaNetOutputs, got {type(outputs).__name__}.")
    if not isinstance(anchors, list | tuple) or not anchors:
        raise TypeError(
            f"{name}: anchors must be a list of tensors, one for each level, got "
            f"{type(anchors).__name__}."
        )
    for level in anchors:
        check_boxes(name, "each level of anchors", level, ("A",))
    joined = torch.cat(list(anchors))
    logits, codes = outputs
    check_tensor(name, "outputs.cls_logits", logits)
    check_tensor(name, "outputs.bbox_regression", codes)
    expected = (logits.shape[0], joined.shape[0])
    is_of_classes = logits.ndim == 3 and logits.shape[2] > 0
    if not is_of_classes or logits.shape[:2] != expected or codes.shape != (*expected, 4):
        raise ValueError(
            f"{name}: outputs must be of shapes (N, {joined.shape[0]}, classes) and "
            f"(N, {joined.shape[0]}, 4) for these anchors, got {tuple(logits.shape)} and "
            f"{tuple(codes.shape)}."
        )
    if codes.dtype != joined.dtype:
        raise TypeError(
            f"{name}: anchors must have the dtype of the outputs, {codes.dtype}, got "
            f"{joined.dtype}; give grid_anchors that dtype."
        )
    return joined


def _check_distances(name: str, distances: Any, expected: torch.Size) -> None:
    check_tensor(name, "what box_loss returns", distances)
    if distances.shape != expected:
        raise ValueError(
            f"{name}: box_loss must return one value for each anchor, of shape {tuple(expected)}, "
            f"got {tuple(distances.shape)}; it takes no mean and no sum over anchors."
        )


def _check_objects(
    name: str, outputs: RetinaNetOutputs, boxes: Tensor, labels: Tensor, valid: Tensor
) -> None:
    check_boxes(name, "boxes", boxes, ("N", "M"))
    check_integers(name, "labels", labels)
    check_tensor(name, "valid", valid)
    expected = boxes.shape[:2]
    if boxes.dtype != outputs.bbox_regression.dtype:
        raise TypeError(
            f"{name}: boxes must have the dtype of the outputs, {outputs.bbox_regression.dtype}, "
            f"got {boxes.dtype}."
        )
    if boxes.shape[0] != outputs.cls_logits.shape[0]:
        raise ValueError(
            f"{name}: boxes must have shape ({outputs.cls_logits.shape[0]}, M, 4), got "
            f"{tuple(boxes.shape)}."
        )
    if labels.shape != expected or valid.shape != expected or valid.dtype != torch.bool:
        raise ValueError(
            f"{name}: labels and valid must have shape {tuple(expected)}, and valid be boolean, "
            f"got {tuple(labels.shape)} and {valid.dtype} {tuple(valid.shape)}."
        )
    if not (values_are_visible(boxes) and values_are_visible(labels) and values_are_visible(valid)):
        return
    check_range(name, "labels", labels[valid], outputs.cls_logits.shape[-1])
    is_flat = ~(boxes[..., 2:] > boxes[..., :2]).all(-1) & valid
    if is_flat.any():
        raise ValueError(
            f"{name}: boxes must have x1 < x2 and y1 < y2 where valid, got "
            f"{boxes[is_flat][0].tolist()}."
        )
