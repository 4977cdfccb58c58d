"""The detector's head, anchors, matching, loss and detections are torchvision's RetinaNet's."""

import importlib.util

import pytest
import torch

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import models, nn, random, tree

SIZE = (32, 48)
GRIDS = [(4, 6), (2, 3)]
SIZES, RATIOS = [[8, 10], [16, 20]], [[0.5, 1.0, 2.0]] * 2
ANCHORS = models.grid_anchors(SIZE, GRIDS, SIZES, RATIOS, dtype=torch.float64)
BOXES = torch.tensor(
    [
        [[2.0, 3.0, 14.0, 11.0], [20.0, 8.0, 41.0, 30.0], [0.0, 0.0, 5.0, 31.0]],
        [[30.0, 2.0, 36.0, 9.0], [0.0, 0.0, 0.0, 0.0], [float("nan")] * 4],
        [[0.0, 0.0, 0.0, 0.0]] * 3,
    ],
    dtype=torch.float64,
)
LABELS = torch.tensor([[1, 0, 3], [2, 9, -5], [0, 0, 0]])
VALID = torch.tensor([[True, True, True], [True, False, False], [False] * 3])


class Backbone(torch.nn.Module):
    out_channels = 6


@pytest.fixture(scope="module")
def detection():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    data.import_torchvision()
    return importlib.import_module("torchvision.models.detection")


@pytest.fixture
def retinanet(detection):
    """Return torchvision's model of four classes; the weights of the head are moved about."""
    torch.manual_seed(0)
    generator = detection.anchor_utils.AnchorGenerator(SIZES, RATIOS)
    module = detection.RetinaNet(Backbone(), 4, anchor_generator=generator).double()
    with torch.no_grad():
        for parameter in module.head.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module


def drawn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def maps(seed=0):
    return [drawn(seed + i, 3, 6, *grid) for i, grid in enumerate(GRIDS)]


def outputs_of(seed, scale=1.0):
    count = sum(level.shape[0] for level in ANCHORS)
    return models.RetinaNetOutputs(
        scale * drawn(seed, 3, count, 4), 0.3 * drawn(seed + 1, 3, count, 4)
    )


def test_the_head_and_its_gradients_are_torchvisions(retinanet):
    head = models.retinanet_head(4, 6, channels=6)
    params = tree.from_state_dict({k: v.clone() for k, v in retinanet.head.state_dict().items()})

    def total(params, maps):
        outputs = head(params, maps)
        return (outputs.cls_logits.sin() + outputs.bbox_regression.cos()).sum(), outputs

    grads, outputs = pf.grad(total, argnums=(0, 1), has_aux=True)(params, maps())
    inputs = [level.requires_grad_() for level in maps()]
    expected = retinanet.head(inputs)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(outputs, name), value, rtol=1e-12, atol=1e-12)
    (expected["cls_logits"].sin() + expected["bbox_regression"].cos()).sum().backward()
    ours = tree.to_state_dict(grads[0])
    for name, parameter in retinanet.head.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-11, atol=1e-11)
    for ours, leaf in zip(grads[1], inputs, strict=True):
        torch.testing.assert_close(ours, leaf.grad, rtol=1e-11, atol=1e-11)


def test_the_head_begins_as_torchvisions(detection):
    theirs = detection.retinanet.RetinaNetHead(64, 6, 4).state_dict()
    head = models.retinanet_head(4, 6, channels=64)
    ours = tree.to_state_dict(head.init(random.key(0), [torch.zeros(1, 64, 2, 2)]))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].shape == value.shape
        if name.endswith("bias"):
            torch.testing.assert_close(ours[name], value)
        else:
            torch.testing.assert_close(ours[name].std(), value.std(), rtol=0.05, atol=0)


def test_anchors_are_torchvisions(retinanet, detection):
    images = detection.image_list.ImageList(torch.zeros(1, 3, *SIZE, dtype=torch.float64), [SIZE])
    (expected,) = retinanet.anchor_generator(images, maps())
    assert torch.equal(torch.cat(ANCHORS), expected)
    single = models.grid_anchors(SIZE, GRIDS, SIZES, RATIOS)
    assert single[0].dtype == torch.float32
    assert [level.shape[0] for level in single] == [4 * 6 * 6, 2 * 3 * 6]


def test_codes_are_torchvisions(detection):
    coder = detection._utils.BoxCoder((1.0, 1.0, 1.0, 1.0))
    anchors = torch.cat(ANCHORS)
    low, side = drawn(3, 2, anchors.shape[0], 2)
    boxes = torch.cat([low, low + side.exp()], -1)
    codes = models.encode_boxes(boxes, anchors)
    torch.testing.assert_close(codes, coder.encode_single(boxes, anchors), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(models.decode_boxes(codes, anchors), boxes, rtol=1e-12, atol=1e-12)
    wild = 9 * drawn(4, anchors.shape[0], 4)
    expected = coder.decode_single(wild, anchors)
    torch.testing.assert_close(models.decode_boxes(wild, anchors), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("thresholds", [(0.5, 0.4), (0.3, 0.3), (0.9, 0.1)])
def test_matching_is_torchvisions(detection, thresholds):
    ops = importlib.import_module("torchvision.ops")
    matcher = detection._utils.Matcher(*thresholds, allow_low_quality_matches=True)
    anchors = torch.cat(ANCHORS)
    for boxes, valid in zip(BOXES[:2], VALID, strict=False):
        found = models.match_anchors(
            anchors, boxes, valid, foreground_iou=thresholds[0], background_iou=thresholds[1]
        )
        assert torch.equal(found, matcher(ops.box_iou(boxes[valid], anchors)))
        assert (found >= 0).any()
    nothing = models.match_anchors(anchors, BOXES[2], VALID[2])
    assert torch.equal(nothing, torch.full_like(nothing, -1))
    assert torch.equal(models.match_anchors(anchors, BOXES[2, :0], VALID[2, :0]), nothing)
    outside = torch.tensor([[500.0, 500.0, 510.0, 510.0]], dtype=torch.float64)
    assert torch.equal(models.match_anchors(anchors, outside, torch.tensor([True])), nothing)
    assert models.match_anchors(anchors[:0], BOXES[0], VALID[0]).shape == (0,)


def test_an_overlap_at_a_threshold_reaches_it(detection):
    ops = importlib.import_module("torchvision.ops")
    matcher = detection._utils.Matcher(0.5, 0.25, allow_low_quality_matches=True)
    heights = torch.tensor([4.0, 2.0, 1.0, 0.5])  # of 4: overlaps are 1, 1/2, 1/4 and 1/8
    anchors = torch.stack([0 * heights, 0 * heights, 0 * heights + 4, heights], 1)
    found = models.match_anchors(anchors, anchors[:1], torch.tensor([True]), background_iou=0.25)
    assert found.tolist() == [0, 0, -2, -1]
    assert torch.equal(found, matcher(ops.box_iou(anchors[:1], anchors)))


@pytest.mark.parametrize("kind", ["l1", "giou", "ciou"])
def test_the_loss_and_its_gradients_are_torchvisions(retinanet, kind):
    losses = {
        "l1": models.l1_of_codes,
        "giou": lambda c, a, b: models.generalized_box_iou_loss(models.decode_boxes(c, a), b),
        "ciou": lambda c, a, b: models.complete_box_iou_loss(models.decode_boxes(c, a), b),
    }
    retinanet.head.regression_head._loss_type = kind
    outputs = outputs_of(5)

    def ours(outputs):
        parts = models.retinanet_loss(outputs, ANCHORS, BOXES, LABELS, VALID, box_loss=losses[kind])
        return sum(part.mean() for part in parts), parts

    grads, parts = pf.grad(ours, has_aux=True)(outputs)
    leaves = {name: value.clone().requires_grad_() for name, value in outputs._asdict().items()}
    targets = [
        {"boxes": boxes[valid], "labels": labels[valid]}
        for boxes, labels, valid in zip(BOXES, LABELS, VALID, strict=True)
    ]
    expected = retinanet.compute_loss(targets, leaves, [torch.cat(ANCHORS)] * 3)
    sum(expected.values()).backward()
    for name, value in expected.items():
        torch.testing.assert_close(getattr(parts, name).mean(), value, rtol=1e-12, atol=1e-12)
    for name, leaf in leaves.items():
        torch.testing.assert_close(getattr(grads, name), leaf.grad, rtol=1e-12, atol=1e-12)


def test_the_options_of_the_loss_are_torchvisions(retinanet, detection):
    ops = importlib.import_module("torchvision.ops")
    outputs, thresholds = outputs_of(5), {"foreground_iou": 0.3, "background_iou": 0.2}
    retinanet.proposal_matcher = detection._utils.Matcher(0.3, 0.2, allow_low_quality_matches=True)
    targets = [
        {"boxes": boxes[valid], "labels": labels[valid]}
        for boxes, labels, valid in zip(BOXES, LABELS, VALID, strict=True)
    ]
    expected = retinanet.compute_loss(targets, outputs._asdict(), [torch.cat(ANCHORS)] * 3)
    parts = models.retinanet_loss(outputs, ANCHORS, BOXES, LABELS, VALID, **thresholds)
    usual = models.retinanet_loss(outputs, ANCHORS, BOXES, LABELS, VALID)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(parts, name).mean(), value, rtol=1e-12, atol=1e-12)
        assert getattr(usual, name).mean() != value
    # An image without objects is background everywhere.
    focal = {"alpha": 0.6, "gamma": 1.0}
    parts = models.retinanet_loss(outputs, ANCHORS, BOXES, LABELS, VALID, **focal)
    logits = outputs.cls_logits[2]
    background = ops.sigmoid_focal_loss(logits, torch.zeros_like(logits), reduction="sum", **focal)
    torch.testing.assert_close(parts.classification[2], background, rtol=1e-12, atol=1e-12)


def test_rows_that_are_no_objects_may_come_first():
    def squared(codes, anchors, boxes):
        return ((codes - models.encode_boxes(boxes, anchors)) ** 2).sum(-1)

    def loss(outputs, *objects):
        parts = models.retinanet_loss(outputs, ANCHORS, *objects, box_loss=squared)
        return sum(part.sum() for part in parts)

    objects = (BOXES, LABELS, VALID)
    expected = pf.value_and_grad(loss)(outputs_of(5), *objects)
    found = pf.value_and_grad(loss)(outputs_of(5), *(x.flip(1) for x in objects))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_loss_of_an_image_is_its_own():
    outputs = outputs_of(5)
    together = models.retinanet_loss(outputs, ANCHORS, BOXES, LABELS, VALID)
    for row in range(3):
        one = slice(row, row + 1)
        valid = VALID[row]
        alone = models.retinanet_loss(
            models.RetinaNetOutputs(*(part[one] for part in outputs)),
            ANCHORS,
            BOXES[one, valid],
            LABELS[one, valid],
            VALID[one, valid],
        )
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[one], part, rtol=1e-12, atol=1e-12)


def suppressed(boxes, scores, labels, threshold):
    """Stand in for torchvision's `batched_nms`, which this torch has no kernel for."""
    kept = models.batched_nms(boxes, scores, labels, threshold, max(len(boxes), 1))
    return kept.indices[kept.valid]


@pytest.mark.parametrize(
    ("candidates", "score_threshold", "iou_threshold"),
    [(15, 0.05, 0.5), (1000, 0.05, 0.5), (1000, 0.3, 0.1)],
)
def test_detections_are_torchvisions(
    retinanet, monkeypatch, candidates, score_threshold, iou_threshold
):
    # Suppression itself is compared with a plain loop in test_boxes.
    ops = importlib.import_module("torchvision.ops.boxes")
    monkeypatch.setattr(ops, "batched_nms", suppressed)
    retinanet.topk_candidates, retinanet.detections_per_img = candidates, 40
    retinanet.score_thresh, retinanet.nms_thresh = score_threshold, iou_threshold
    outputs = outputs_of(7, scale=3.0)
    outputs = outputs._replace(
        cls_logits=outputs.cls_logits - torch.tensor([4.0, 9, 99])[:, None, None]
    )
    lengths = [level.shape[0] for level in ANCHORS]
    split = {name: list(value.split(lengths, 1)) for name, value in outputs._asdict().items()}
    expected = retinanet.postprocess_detections(split, [ANCHORS] * 3, [SIZE] * 3)
    found = models.retinanet_detections(
        outputs,
        ANCHORS,
        SIZE,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_candidates=candidates,
        max_detections=40,
    )
    for image, theirs in enumerate(expected):
        valid = found.valid[image]
        assert int(valid.sum()) == len(theirs["boxes"])
        for name, value in theirs.items():
            torch.testing.assert_close(getattr(found, name)[image, valid], value)
            assert not getattr(found, name)[image, ~valid].any()
    counts = found.valid.sum(1)
    assert counts[0] > counts[1] > counts[2] == 0


def test_compiled_equals_eager():
    head, features = models.retinanet_head(4, 6, channels=6, num_convs=1), maps()
    params = tree.cast(head.init(random.key(0), features), torch.float64)

    def loss(params, features, boxes, labels, valid):
        outputs = head(params, features)
        parts = models.retinanet_loss(outputs, ANCHORS, boxes, labels, valid)
        return sum(part.mean() for part in parts), outputs

    def step(params, features, *objects):
        (value, outputs), grads = pf.value_and_grad(loss, has_aux=True)(params, features, *objects)
        found = models.retinanet_detections(
            outputs, ANCHORS, SIZE, score_threshold=0.01, max_detections=5
        )
        return value, grads, found

    arguments = (params, features, BOXES, LABELS, VALID)
    expected = step(*arguments)
    found = pf.jit(step, backend="aot_eager")(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    assert expected[2].valid.any()


def squares(count, seed=0):
    """Return images of 24 x 24 with a bright and a dark square each, and where they are."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 16, (count, 2, 2), generator=generator)
    corner[:, 1, 0] = (corner[:, 0, 0] + 9 + corner[:, 1, 0] % 6) % 16
    side = torch.randint(6, 9, (count, 2, 1), generator=generator)
    low, high = corner, corner + side
    place = torch.arange(24)
    inside = (place >= low[..., None]) & (place < high[..., None])
    filled = inside[:, :, 1, :, None] & inside[:, :, 0, None, :]
    images = (filled * torch.tensor([1.0, -1.0])[:, None, None]).sum(1, keepdim=True)
    return images, torch.cat([low, high], -1).float(), torch.tensor([[0, 1]]).expand(count, 2)


def test_a_tiny_detector_learns_to_see_squares():
    model = nn.serial(
        conv1=nn.conv2d(16, 3, stride=2, padding=1), act1=nn.relu,
        conv2=nn.conv2d(16, 3, stride=2, padding=1), act2=nn.relu,
        maps=lambda x: [x],
        head=models.retinanet_head(2, 1, num_convs=0),
    )  # fmt: skip
    anchors = models.grid_anchors((24, 24), [(6, 6)], [[8]], [[1.0]])
    images, boxes, labels = squares(64)
    valid = torch.ones(labels.shape, dtype=torch.bool)
    params = model.init(random.key(0), images)
    optimizer = optim.adam(lr=0.01)
    state = optimizer.init(params)

    def loss(params):
        outputs = model(params, images)
        parts = models.retinanet_loss(outputs, anchors, boxes, labels, valid)
        return sum(part.mean() for part in parts)

    first = loss(params)
    for _ in range(80):
        updates, state = optimizer.update(pf.grad(loss)(params), state, params)
        params = optim.apply_updates(params, updates)
    assert loss(params) < 0.2 * first

    unseen, truth, classes = squares(32, seed=1)
    found = models.retinanet_detections(
        model(params, unseen), anchors, (24, 24), score_threshold=0.3, max_detections=2
    )
    overlap = pf.vmap(models.box_iou)(truth, found.boxes)
    is_hit = (overlap > 0.5) & (classes[..., None] == found.labels[:, None]) & found.valid[:, None]
    assert is_hit.any(-1).float().mean() > 0.7


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: models.retinanet_head(0, 1), ValueError, "num_classes >= 1, got 0"),
        (lambda: models.retinanet_head(2, 1, prior_probability=1.0), ValueError, "between 0 and 1"),
        (lambda: models.grid_anchors(9, GRIDS, SIZES, RATIOS), ValueError, "image_size must be"),
        (lambda: models.grid_anchors(SIZE, GRIDS[:1], SIZES, RATIOS), ValueError, "got 1, 2 and 2"),
        (lambda: models.grid_anchors((3, 3), GRIDS, SIZES, RATIOS), ValueError, "more points"),
        (lambda: models.grid_anchors(SIZE, GRIDS, [[8], [0]], RATIOS), ValueError, "some positive"),
        (lambda: models.encode_boxes(BOXES, BOXES[0]), ValueError, "must have one shape and dtype"),
        (lambda: models.match_anchors(ANCHORS[0], BOXES, VALID), ValueError, r"shape \(M, 4\)"),
        (lambda: models.match_anchors(ANCHORS[0], BOXES[0], LABELS[0]), ValueError, "be boolean"),
        (
            lambda: models.match_anchors(ANCHORS[0], BOXES[0], VALID[0], background_iou=0.6),
            ValueError,
            "background_iou <= foreground_iou",
        ),
        (lambda: loss(outputs=(1, 2)), TypeError, "outputs must be RetinaNetOutputs, got tuple"),
        (lambda: loss(anchors=ANCHORS[0]), TypeError, "anchors must be a list of tensors"),
        (lambda: loss(anchors=ANCHORS[:1]), ValueError, r"shapes \(N, 144, classes\)"),
        (lambda: loss(anchors=[a.float() for a in ANCHORS]), TypeError, "give grid_anchors that"),
        (lambda: loss(boxes=BOXES[:2]), ValueError, r"boxes must have shape \(3, M, 4\)"),
        (
            lambda: models.grid_anchors(SIZE, GRIDS, SIZES, RATIOS, dtype=torch.int64),
            TypeError,
            "dtype must be floating point, got torch.int64",
        ),
        (lambda: models.grid_anchors(SIZE, GRIDS, [8, 16], RATIOS), TypeError, "sizes must have a"),
        (
            lambda: models.match_anchors(ANCHORS[0], BOXES[0].float(), VALID[0]),
            TypeError,
            "match_anchors: boxes must have the dtype of anchors, torch.float64",
        ),
        (
            lambda: loss(outputs=models.RetinaNetOutputs(None, torch.zeros(3, 180, 4))),
            TypeError,
            "outputs.cls_logits must be a tensor, got NoneType",
        ),
        (
            lambda: models.retinanet_detections(
                outputs_of(0)._replace(cls_logits=torch.zeros(3, 180, 0)), ANCHORS, SIZE
            ),
            ValueError,
            r"got \(3, 180, 0\)",
        ),
        (lambda: loss(boxes=BOXES.float()), TypeError, "boxes must have the dtype of the outputs"),
        (lambda: loss(box_loss="giou"), TypeError, "box_loss must be a function, got 'giou'"),
        (
            lambda: loss(box_loss=lambda c, a, b: (c - a).abs().mean()),
            ValueError,
            r"one value for each anchor, of shape \(180,\), got \(\)",
        ),
        (
            lambda: loss(box_loss=lambda c, a, b: (c - a).abs()),
            ValueError,
            r"of shape \(180,\), got \(180, 4\)",
        ),
        (lambda: loss(labels=LABELS + 2), ValueError, r"labels must lie in \[0, 4\)"),
        (lambda: loss(labels=LABELS[:, :2]), ValueError, "labels and valid must have shape"),
        (lambda: loss(boxes=BOXES.flip(2)), ValueError, "x1 < x2 and y1 < y2 where valid"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def loss(**changed):
    given = {"outputs": outputs_of(0), "anchors": ANCHORS, "boxes": BOXES, "labels": LABELS}
    return models.retinanet_loss(**{**given, "valid": VALID, **changed})


def test_refusals_on_use():
    head = models.retinanet_head(2, 1, channels=6)
    features = maps()
    params = head.init(random.key(0), features)
    with pytest.raises(nn.LayerError, match="expected a list of feature maps"):
        head(params, features[0])
    with pytest.raises(nn.LayerError, match=r"\(3, C, H, W\), got \(2, 6, 2, 3\)"):
        head(params, [features[0], features[1][:2]])
    with pytest.raises(nn.LayerError, match=r"\['classification_head'\]\['conv'\]\['0'\]\['0'\]"):
        head(params, [level[:, :3] for level in features])
    with pytest.raises(ValueError, match=r"score_threshold must lie in \[0, 1\], got 2"):
        models.retinanet_detections(outputs_of(0), ANCHORS, SIZE, score_threshold=2)
