"""What losses refuse, and the NaN that stands for a refusal where labels have no values."""

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import purefn.functional as pf
from purefn.functional import losses

X_23, X_2 = torch.zeros(2, 3), torch.zeros(2)
INTEGERS = torch.zeros(2, dtype=torch.int64)


def test_labels_outside_the_classes_are_refused_by_value():
    logits = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\).*found \[-1, 3\]"):
        losses.cross_entropy(logits, torch.tensor([0, 3, -1, 3]))
    with pytest.raises(ValueError, match=r"or be ignore_index=-1; found \[-100\]"):
        losses.nll(logits, torch.tensor([0, 2, -1, -100]), ignore_index=-1)
    with pytest.raises(ValueError, match=r"found \[3\]"):
        pf.grad(lambda x: losses.cross_entropy(x, torch.tensor([3, 0, 0, 0])).sum())(logits)
    int8 = torch.tensor([3, 0, 0, 0], dtype=torch.int8)
    with pytest.raises(ValueError, match=r"found \[3\]"):
        pf.jacrev(pf.grad(lambda x: losses.cross_entropy(x, int8).sum()))(logits)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "weight": torch.ones(3)}])
def test_labels_outside_the_classes_give_nan_where_they_cannot_be_seen(options):
    logits, labels = torch.zeros(4, 3), torch.tensor([0, 3, -1, -100])

    def both(logits, labels):
        loss = pf.vmap(lambda x, y: losses.cross_entropy(x[None], y[None], **options)[0])
        return loss(logits, labels), pf.grad(lambda x: loss(x, labels).sum())(logits)

    for traced in (both, pf.jit(both, backend="aot_eager")):
        values, gradients = traced(logits, labels)
        assert values.isnan().tolist() == [False, True, True, False]
        assert gradients.isnan().all(1).tolist() == [False, True, True, False]
        assert not gradients[[0, 3]].isnan().any()


def test_compiled_labels_outside_the_classes_give_nan():
    compiled = pf.jit(losses.cross_entropy, backend="aot_eager")
    values = compiled(torch.zeros(3, 2), torch.tensor([0, 2, -1]))
    assert values.isnan().tolist() == [False, True, True]


def test_labels_have_no_values_in_a_graph_or_in_an_abstract_evaluation():
    logits, labels = torch.zeros(3, 2), torch.tensor([0, 1, -100])

    def loss(logits, labels):
        return losses.cross_entropy(logits, labels)

    for tracing_mode in ("real", "fake"):
        graph = make_fx(loss, tracing_mode=tracing_mode)(logits, labels)
        assert graph(logits, torch.tensor([0, 1, 2])).isnan().tolist() == [False, False, True]
    shape = pf.eval_shape(loss, pf.ShapeDtype((3, 2)), pf.ShapeDtype((3,), torch.int64))
    assert shape == pf.ShapeDtype((3,))
    assert loss(logits.to("meta"), labels.to("meta")).shape == (3,)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.nll])
@pytest.mark.parametrize(
    ("logits", "labels", "options", "error", "message"),
    [
        (X_23, INTEGERS[:, None], {}, ValueError, r"labels must have shape \(2,\).*got \(2, 1\)"),
        (X_23, INTEGERS[:1], {}, ValueError, r"labels must have shape \(2,\)"),
        (X_23[..., None], INTEGERS, {}, ValueError, r"labels must have shape \(2, 1\)"),
        (X_23, X_2 > 0, {}, TypeError, r"must be integers \(class numbers\), got torch.bool"),
        (X_23.long(), INTEGERS, {}, TypeError, "must be floating point, got torch.int64"),
        (X_2, INTEGERS[0], {}, ValueError, r"\(batch, classes, ...\), got \(2,\); .*\[None\]"),
        (X_23, INTEGERS, {"weight": torch.ones(2)}, ValueError, r"weight must have shape \(3,\)"),
        (X_23, INTEGERS, {"weight": torch.ones(3).double()}, TypeError, "weight must have the dt"),
    ],
)
def test_class_arguments_that_do_not_fit(loss, logits, labels, options, error, message):
    with pytest.raises(error, match=rf"^{loss.__name__}: .*{message}"):
        loss(logits, labels, **options)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (torch.zeros(2, 1), {}, ValueError, r"labels must have the shape of logits, \(2, 3\)"),
        (torch.zeros(2), {}, ValueError, r"labels must have the shape of logits"),
        (X_23.double(), {}, TypeError, r"labels must have the dtype of logits, torch.float32"),
        (X_23, {"ignore_index": 0}, ValueError, "ignore_index=0 was given with soft labels"),
        (INTEGERS, {"label_smoothing": -0.1}, ValueError, r"label_smoothing must lie in \[0, 1\]"),
        (INTEGERS, {"label_smoothing": 1.1}, ValueError, r"label_smoothing must lie in \[0, 1\]"),
        (INTEGERS, {"label_smoothing": math.nan}, ValueError, "label_smoothing must lie in"),
        (INTEGERS, {"label_smoothing": X_2[0]}, TypeError, "number, got Tensor; .*static"),
    ],
)
def test_cross_entropy_options_that_do_not_fit(labels, options, error, message):
    with pytest.raises(error, match=message):
        losses.cross_entropy(X_23, labels, **options)


def test_nll_has_no_soft_labels():
    with pytest.raises(TypeError, match="labels must be integers"):
        losses.nll(X_23, X_23)


@pytest.mark.parametrize("loss", [losses.mse, losses.smooth_l1, losses.huber])
@pytest.mark.parametrize(
    ("predictions", "targets", "error", "message"),
    [
        (torch.zeros(2, 1), X_2, ValueError, r"shape of predictions, \(2, 1\), got \(2,\); noth"),
        (X_2, torch.zeros(2, 1), ValueError, r"targets must have the shape of predictions"),
        (X_2, X_2[0], ValueError, r"targets must have the shape of predictions"),
        (X_2[0], X_2[0], ValueError, r"\(batch, ...\), got a 0-d tensor"),
        (X_2, X_2.double(), TypeError, r"targets.to\(predictions.dtype\)"),
        (X_2, INTEGERS, TypeError, "targets must have the dtype of predictions, torch.float32"),
        (INTEGERS, INTEGERS, TypeError, "predictions must be floating point"),
    ],
)
def test_pairs_that_do_not_fit(loss, predictions, targets, error, message):
    with pytest.raises(error, match=rf"^{loss.__name__}: .*{message}"):
        loss(predictions, targets)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (X_2, {}, ValueError, r"labels must have the shape of logits, \(2, 3\), got \(2,\)"),
        (X_23.long(), {}, TypeError, r"labels.to\(logits.dtype\)"),
        (X_23, {"weight": torch.ones(3)}, ValueError, r"weight must be 0-d or have 2 dimensions"),
        (X_23, {"weight": torch.ones(2, 2)}, ValueError, r"1 or as in \(2, 3\), got \(2, 2\)"),
        (
            X_23,
            {"weight": X_23.double()},
            TypeError,
            "weight must have the dtype of what it weighs",
        ),
        (X_23, {"pos_weight": torch.ones(2)}, ValueError, r"one example, \(3,\), got \(2,\)"),
        (X_23, {"pos_weight": torch.ones(2, 3)}, ValueError, "broadcast to the shape of one ex"),
        (X_23, {"pos_weight": X_2.long()}, TypeError, "pos_weight must have the dtype"),
    ],
)
def test_binary_arguments_that_do_not_fit(labels, options, error, message):
    with pytest.raises(error, match=rf"^bce_with_logits: .*{message}"):
        losses.bce_with_logits(X_23, labels, **options)


@pytest.mark.parametrize(
    ("loss", "options", "error"),
    [
        (losses.smooth_l1, {"beta": -1.0}, ValueError),
        (losses.smooth_l1, {"beta": math.nan}, ValueError),
        (losses.smooth_l1, {"beta": torch.tensor(1.0)}, TypeError),
        (losses.huber, {"delta": 0.0}, ValueError),
        (losses.huber, {"delta": math.inf}, ValueError),
        (losses.huber, {"delta": True}, TypeError),
    ],
)
def test_thresholds_that_do_not_fit(loss, options, error):
    (name,) = options
    with pytest.raises(error, match=rf"^{loss.__name__}: {name} must be"):
        loss(X_2, X_2, **options)


@pytest.mark.parametrize("given", [[0.5, 0.5], None, 1.0])
@pytest.mark.parametrize("loss", [losses.mse, losses.huber, losses.bce_with_logits])
def test_what_is_no_tensor_is_named_in_pairs(loss, given):
    first = "logits" if loss is losses.bce_with_logits else "predictions"
    second = "labels" if loss is losses.bce_with_logits else "targets"
    message = f"must be a tensor, got {type(given).__name__}"
    with pytest.raises(TypeError, match=f"{loss.__name__}: {first} {message}"):
        loss(given, torch.zeros(2))
    with pytest.raises(TypeError, match=f"{loss.__name__}: {second} {message}"):
        loss(torch.zeros(2), given)


@pytest.mark.parametrize("given", [[0, 1], None, 1])
@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.nll])
def test_what_is_no_tensor_is_named_in_class_arguments(loss, given):
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    message = f"must be a tensor, got {type(given).__name__}"
    with pytest.raises(TypeError, match=f"{loss.__name__}: log.* {message}"):
        loss(given, labels)
    with pytest.raises(TypeError, match=f"{loss.__name__}: labels {message}"):
        loss(logits, given)
    if given is not None:
        with pytest.raises(TypeError, match=f"{loss.__name__}: weight {message}"):
            loss(logits, labels, weight=given)


@pytest.mark.parametrize("ignored", [None, 1.0, True, torch.tensor(1)])
@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.nll])
def test_ignore_index_is_an_integer(loss, ignored):
    with pytest.raises(TypeError, match=f"{loss.__name__}: ignore_index must be a Python integer"):
        loss(torch.zeros(2, 3), torch.tensor([0, 1]), ignore_index=ignored)
