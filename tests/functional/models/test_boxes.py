"""Boxes have torchvision's overlaps and losses; suppression is a plain greedy loop."""

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import data
from purefn.functional import models

FORMATS = ["xyxy", "xywh", "cxcywh"]
OVERLAPS = ["box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"]
LOSSES = ["generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss"]


@pytest.fixture(scope="module")
def ops():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return importlib.import_module("torchvision.ops", data.import_torchvision().__name__)


def drawn(seed, *shape, dtype=torch.float64, extent=10.0):
    generator = torch.Generator().manual_seed(seed)
    low, size = torch.rand(2, *shape, 2, generator=generator, dtype=dtype).mul(extent).unbind(0)
    return torch.cat([low, low + size + 0.1], -1)


@pytest.mark.parametrize("in_fmt", FORMATS)
@pytest.mark.parametrize("out_fmt", FORMATS)
def test_formats_are_torchvisions(ops, in_fmt, out_fmt):
    boxes = ops.box_convert(drawn(0, 2, 5), "xyxy", in_fmt)
    expected = ops.box_convert(boxes, in_fmt, out_fmt)
    torch.testing.assert_close(
        models.box_convert(boxes, in_fmt, out_fmt), expected, rtol=1e-15, atol=1e-15
    )


def test_areas_and_clipping_are_torchvisions(ops):
    boxes = drawn(0, 3, 4, extent=20.0) - 10
    torch.testing.assert_close(models.box_area(boxes), ops.box_area(boxes), rtol=0, atol=0)
    clipped = models.clip_boxes_to_image(boxes, (6, 9))
    assert torch.equal(clipped, ops.clip_boxes_to_image(boxes, (6, 9)))
    assert not torch.equal(clipped, boxes)


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_overlaps_and_their_gradients_are_torchvisions(ops, name, batch):
    a, b = drawn(1, *batch, 7), drawn(2, *batch, 5)
    weights = torch.linspace(-1, 1, 35, dtype=torch.float64).reshape(7, 5)

    def total(function):
        return lambda a, b: (function(a, b) * weights).sum()

    assert_same(total(getattr(models, name)), total(getattr(ops, name)), a, b)
    ours, theirs = getattr(models, name)(a, b), getattr(ops, name)(a, b)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_torchvisions(ops, name):
    a, b = drawn(3, 4, 16), drawn(4, 4, 16)
    ours, theirs = getattr(models, name), getattr(ops, name)
    weights = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(4, 16)
    torch.testing.assert_close(ours(a, b), theirs(a, b), rtol=1e-12, atol=1e-12)
    assert_same(
        lambda *ab: (ours(*ab) * weights).sum(), lambda *ab: (theirs(*ab) * weights).sum(), a, b
    )
    single = a.float(), b.float()
    torch.testing.assert_close(ours(*single), theirs(*single), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_torchvisions(ops, dtype):
    """The area of 300 x 300 pixels has no number in float16, and none of its own in bfloat16."""
    a, b = (drawn(seed, 6, extent=300.0).to(dtype) for seed in (1, 2))
    assert ops.box_area(a).max() > 65504
    torch.testing.assert_close(models.box_area(a), ops.box_area(a), rtol=1e-6, atol=0)
    for name in OVERLAPS:
        ours, theirs = getattr(models, name)(a, b), getattr(ops, name)(a, b)
        torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=0.01)  # it widens late
        assert ours.dtype == torch.float32
        exact = getattr(models, name)(a.double(), b.double())
        torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)
    for name in LOSSES:
        ours, theirs = getattr(models, name)(a, b), getattr(ops, name)(a, b)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    scores = torch.linspace(0, 1, 6, dtype=dtype)
    kept = models.nms(a, scores, 0.1, 6)
    wide = models.nms(a.double(), scores.double(), 0.1, 6)
    assert torch.equal(kept.indices, wide.indices)
    assert wide.valid.sum() < 6


def assert_same(ours, theirs, a, b):
    value, grads = pf.value_and_grad(ours, argnums=(0, 1))(a, b)
    leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
    expected = theirs(*leaves)
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    for grad, leaf in zip(grads, leaves, strict=True):
        torch.testing.assert_close(grad, leaf.grad, rtol=1e-12, atol=1e-12)


def test_empty_boxes_have_no_overlap_and_finite_gradients():
    empty = torch.zeros(2, 4)
    some = torch.cat([empty, torch.tensor([[0.0, 0.0, 1.0, 1.0]])])
    assert torch.equal(models.box_iou(some, some), torch.diag(torch.tensor([0.0, 0.0, 1.0])))
    for name in ("box_iou", "generalized_box_iou"):
        grad = pf.grad(lambda x, name=name: getattr(models, name)(x, some).sum())(some)
        assert grad.isfinite().all()


def test_overlaps_under_jit_and_vmap():
    a, b = drawn(5, 3, 4), drawn(6, 3, 4)

    def everything(a, b):
        overlaps = [getattr(models, name)(a, b) for name in OVERLAPS]
        return overlaps, [getattr(models, name)(a, b) for name in LOSSES]

    expected = everything(a, b)
    for run in (pf.jit(everything, backend="aot_eager"), pf.vmap(everything)):
        torch.testing.assert_close(run(a, b), expected, rtol=1e-14, atol=1e-14)


def greedy(boxes, scores, labels, threshold):
    """Suppress in plain numpy: pairs one by one, areas written out."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(labels[i] != labels[j] or overlap(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def overlap(a, b):
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    inside = sides[0] * sides[1] if min(sides) > 0 else 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inside / (sum(areas) - inside)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 25),
    places=st.integers(1, 12),
    threshold=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    ties=st.booleans(),
)
def test_suppression_is_the_greedy_loop(seed, count, places, threshold, ties):
    boxes = drawn(seed, count, extent=6.0)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, generator=generator, dtype=torch.float64)
    scores = (scores * 4).round() / 4 if ties else scores
    labels = torch.randint(0, 3, (count,), generator=generator)
    lists = [np.asarray(x) for x in (boxes, scores)]
    for found, groups in (
        (models.nms(boxes, scores, threshold, places), np.zeros(count)),
        (models.batched_nms(boxes, scores, labels, threshold, places), labels.numpy()),
    ):
        expected = greedy(*lists, groups, threshold)[:places]
        assert found.indices[found.valid].tolist() == expected
        assert found.valid.tolist() == [True] * len(expected) + [False] * (places - len(expected))
        assert not found.indices[~found.valid].any()


def test_what_has_no_score_is_no_box():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(3, 1)
    scores = torch.tensor([float("nan"), 0.5, -float("inf")])
    kept = models.nms(boxes, scores, 0.5, 3)
    assert kept.indices.tolist() == [1, 0, 0]
    assert kept.valid.tolist() == [True, False, False]
    apart = boxes + 10 * torch.arange(3.0)[:, None]
    assert models.nms(apart, scores, 0.5, 3).valid.tolist() == [True, False, False]


def test_suppression_under_jit_and_vmap():
    boxes, labels = drawn(7, 3, 20, extent=4.0), torch.arange(60).reshape(3, 20) % 2
    scores = drawn(8, 3, 20)[..., 0]

    def suppress(boxes, scores, labels):
        return models.batched_nms(boxes, scores, labels, 0.3, 16)

    expected = [suppress(*image) for image in zip(boxes, scores, labels, strict=True)]
    expected = [torch.stack(column) for column in zip(*expected, strict=True)]
    assert 0 < expected[1].sum() < expected[1].numel()
    every = pf.vmap(suppress)
    for run in (every, pf.jit(every, backend="aot_eager")):
        for actual, wanted in zip(run(boxes, scores, labels), expected, strict=True):
            assert torch.equal(actual, wanted)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b: models.box_area(b.int()), TypeError, r"convert with boxes.float\(\)"),
        (lambda b: models.box_area([0.0] * 4), TypeError, "boxes must be a tensor, got list"),
        (lambda b: models.box_area(b[:, :3]), ValueError, r"shape \(..., 4\), got \(5, 3\)"),
        (lambda b: models.box_iou(b[0], b), ValueError, r"boxes1 must have shape \(..., N, 4\)"),
        (lambda b: models.box_iou(b, b[None]), ValueError, "same dimensions before"),
        (lambda b: models.box_iou(b, b.float()), ValueError, "must have one dtype"),
        (lambda b: models.box_convert(b, "xyxy", "xyhw"), ValueError, "out_fmt must be one of"),
        (lambda b: models.clip_boxes_to_image(b, 7), ValueError, r"\(height, width\)"),
        (lambda b: models.clip_boxes_to_image(b, (7, 0)), ValueError, r"got \(7, 0\)"),
        (lambda b: models.complete_box_iou_loss(b, b[0]), ValueError, "one shape and dtype"),
        (lambda b: models.nms(b[None], b[:, 0], 0.5, 3), ValueError, r"shape \(N, 4\), got \(1,"),
        (lambda b: models.nms(b, b, 0.5, 3), ValueError, r"scores must have shape \(5,\)"),
        (lambda b: models.nms(b, b[:, 0].int(), 0.5, 3), TypeError, "scores must be a floating"),
        (lambda b: models.nms(b, b[:, 0], 1.5, 3), ValueError, r"must lie in \[0, 1\], got 1.5"),
        (lambda b: models.nms(b, b[:, 0], 0.5, 0), ValueError, "max_detections must be at least 1"),
        (
            lambda b: models.batched_nms(b, b[:, 0], b[:, 0], 0.5, 3),
            TypeError,
            "labels must be int",
        ),
        (
            lambda b: models.batched_nms(b, b[:, 0], torch.ones(3).int(), 0.5, 3),
            ValueError,
            "shape",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call(drawn(0, 5))
