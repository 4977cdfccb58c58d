"""Metrics against numpy's sorting and counting, and torch's argmax and topk."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import purefn.functional as pf
from purefn.functional import metrics

seeds = st.integers(0, 2**31)


@st.composite
def scored(draw, ties):
    """Logits `(N, C, ...)`, drawn from few values where ties are wanted, and labels `(N, ...)`."""
    generator = torch.Generator().manual_seed(draw(seeds))
    batch, classes = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    extra = draw(st.lists(st.integers(1, 3), max_size=2))
    shape = (batch, classes, *extra)
    if ties:
        logits = torch.randint(0, 3, shape, generator=generator).to(torch.float32)
    else:
        logits = torch.rand(shape, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (batch, *extra), generator=generator)


def example_mean(values):
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1).mean(1)


def numpy_top_k(logits, labels, k):
    """Say whether the label is among the first k of a stable sort, largest first."""
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :k]
    return (order == labels.numpy()[:, None]).any(1)


# --- against numpy and torch ---------------------------------------------------------------------


@given(scored(ties=True), st.data())
def test_top_k_is_a_stable_sort(drawn, data):
    logits, labels = drawn
    k = data.draw(st.integers(1, logits.shape[1]))
    actual = metrics.top_k(logits, labels, k)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual, example_mean(numpy_top_k(logits, labels, k)), rtol=1e-6)


@given(scored(ties=False), st.data())
def test_top_k_is_torchs_where_no_logits_are_equal(drawn, data):
    logits, labels = drawn
    k = data.draw(st.integers(1, logits.shape[1]))
    expected = (logits.topk(k, dim=1).indices == labels.unsqueeze(1)).any(1)
    np.testing.assert_allclose(metrics.top_k(logits, labels, k), example_mean(expected), rtol=1e-6)


@given(scored(ties=True))
def test_accuracy_is_argmax(drawn):
    logits, labels = drawn
    expected = np.argmax(logits.numpy(), axis=1) == labels.numpy()
    np.testing.assert_allclose(metrics.accuracy(logits, labels), example_mean(expected), rtol=1e-6)


def test_every_label_is_among_all_classes():
    assert metrics.top_k(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), 3).tolist() == [1.0] * 5


def test_a_constant_prediction_is_right_for_the_first_classes_only():
    labels = torch.arange(4)
    assert metrics.accuracy(torch.zeros(4, 4), labels).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert metrics.top_k(torch.zeros(4, 4), labels, 2).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_nan_is_never_right():
    nan = float("nan")
    logits = torch.tensor([[nan, nan], [nan, nan], [nan, 1.0], [1.0, nan], [nan, 0.0]])
    labels = torch.tensor([0, 1, 1, 0, 0])
    assert metrics.accuracy(logits, labels).tolist() == [0.0] * 5
    assert metrics.top_k(logits[:2], labels[:2], 2).tolist() == [0.0, 0.0]


@given(scored(ties=False), st.booleans(), st.sampled_from([torch.int64, torch.int32, torch.uint8]))
def test_confusion_matrix_counts(drawn, from_logits, dtype):
    logits, labels = drawn
    classes = logits.shape[1]
    predicted = logits.argmax(1)
    given = logits if from_logits else predicted.to(dtype)
    actual = metrics.confusion_matrix(given, labels.to(dtype), classes)
    expected = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(expected, (labels.numpy(), predicted.numpy()), 1)
    assert actual.dtype == torch.int64
    np.testing.assert_array_equal(actual, expected)


@given(scored(ties=True))
def test_the_diagonal_of_the_confusion_matrix_is_the_accuracy(drawn):
    logits, labels = drawn
    counts = metrics.confusion_matrix(logits, labels, logits.shape[1])
    assert counts.sum() == labels.numel()
    share = counts.diagonal().sum() / counts.sum()
    torch.testing.assert_close(share, metrics.accuracy(logits, labels).mean())


def test_an_empty_batch_counts_nothing():
    logits, labels = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    assert metrics.accuracy(logits, labels).shape == (0,)
    assert metrics.confusion_matrix(logits, labels, 3).tolist() == [[0] * 3] * 3


# --- under the transforms ------------------------------------------------------------------------

LOGITS = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(3))
LABELS = torch.randint(0, 5, (3, 8), generator=torch.Generator().manual_seed(4))
CASES = {
    "accuracy": metrics.accuracy,
    "top_k": lambda logits, labels: metrics.top_k(logits, labels, 2),
    "confusion_matrix": lambda logits, labels: metrics.confusion_matrix(logits, labels, 5),
}


def test_every_metric_is_a_case():
    assert set(CASES) == set(metrics.__all__)


@pytest.mark.parametrize("name", CASES)
def test_vmap_and_jit_agree_with_a_loop(name):
    expected = torch.stack([CASES[name](*pair) for pair in zip(LOGITS, LABELS, strict=True)])
    mapped = pf.vmap(CASES[name])
    assert torch.equal(mapped(LOGITS, LABELS), expected)
    assert torch.equal(pf.jit(mapped, backend="aot_eager")(LOGITS, LABELS), expected)
    compiled = pf.jit(CASES[name], backend="aot_eager")
    assert torch.equal(compiled(LOGITS[0], LABELS[0]), expected[0])


def test_metrics_beside_a_gradient():
    labels = LABELS[0]

    def loss(logits):
        return logits.square().sum(), metrics.accuracy(logits, labels)

    _, accuracy = pf.grad(loss, has_aux=True)(LOGITS[0])
    assert torch.equal(accuracy, metrics.accuracy(LOGITS[0], labels))


def test_labels_that_cannot_be_seen_give_nan_or_an_error():
    logits, labels = torch.zeros(3, 2), torch.tensor([0, 2, -1])
    for name in ("accuracy", "top_k"):
        values = pf.jit(CASES[name], backend="aot_eager")(logits, labels)
        assert values.isnan().tolist() == [False, True, True]

    def count(predictions, labels):
        return metrics.confusion_matrix(predictions, labels, 2)

    # 2 * 0 + 3 and 2 * 2 - 1 would alias the cell of class 1 predicted as 1.
    for prediction, label in ((3, 0), (-1, 2)):
        with pytest.raises(RuntimeError, match="out of bounds"):
            pf.vmap(count)(torch.tensor([[prediction]]), torch.tensor([[label]]))


# --- refusals ------------------------------------------------------------------------------------

X_23 = torch.zeros(2, 3)
INTEGERS = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (X_23, INTEGERS[:, None], ValueError, r"labels must have shape \(2,\).*got \(2, 1\)"),
        (X_23, INTEGERS.bool(), TypeError, r"labels must be integers .* got torch.bool"),
        (X_23, X_23[:, 0], TypeError, "labels must be integers"),
        (X_23.long(), INTEGERS, TypeError, "logits must be floating point"),
        (X_23[0], INTEGERS[0], ValueError, r"logits must have shape \(batch, classes, ...\)"),
        (X_23, INTEGERS + 3, ValueError, r"labels must lie in \[0, 3\); found \[3\]"),
        (X_23, INTEGERS - 100, ValueError, r"labels must lie in \[0, 3\); found \[-100\]"),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "top_k"])
def test_arguments_that_do_not_fit(name, logits, labels, error, message):
    with pytest.raises(error, match=f"^{name}: {message}"):
        CASES[name](logits, labels)


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "k must be at least 1, got 0"),
        (4, ValueError, r"k must lie in \[1, 3\], got 4"),
        (1.0, TypeError, "k must be a Python integer, got float"),
        (True, TypeError, "k must be a Python integer, got bool"),
    ],
)
def test_k_that_does_not_fit(k, error, message):
    with pytest.raises(error, match=message):
        metrics.top_k(X_23, INTEGERS, k)


@pytest.mark.parametrize(
    ("predictions", "labels", "error", "message"),
    [
        (INTEGERS, INTEGERS[:, None], ValueError, r"shape \(2,\), one for each.* got \(2, 1\)"),
        (X_23, INTEGERS[:1], ValueError, r"labels must have shape \(2,\)"),
        (torch.zeros(2, 4), INTEGERS, ValueError, "have 4 classes.*num_classes is 3"),
        (X_23[:, 0], INTEGERS, ValueError, r"logits must have shape \(batch, classes, ...\)"),
        (INTEGERS.bool(), INTEGERS, TypeError, "predictions must be integers"),
        (INTEGERS, X_23[:, 0], TypeError, "labels must be integers"),
        (INTEGERS + 3, INTEGERS, ValueError, r"predictions must lie in \[0, 3\); found \[3\]"),
        (INTEGERS, INTEGERS - 1, ValueError, r"labels must lie in \[0, 3\); found \[-1\]"),
    ],
)
def test_confusions_that_do_not_fit(predictions, labels, error, message):
    with pytest.raises(error, match=f"^confusion_matrix: .*{message}"):
        metrics.confusion_matrix(predictions, labels, 3)


@pytest.mark.parametrize(("num_classes", "error"), [(0, ValueError), (2.0, TypeError)])
def test_a_number_of_classes_that_does_not_fit(num_classes, error):
    with pytest.raises(error, match="num_classes must be"):
        metrics.confusion_matrix(INTEGERS, INTEGERS, num_classes)


@pytest.mark.parametrize("given", [[0, 1], None, 1])
def test_what_is_no_tensor_is_named(given):
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    message = f"must be a tensor, got {type(given).__name__}"
    with pytest.raises(TypeError, match=f"accuracy: logits {message}"):
        metrics.accuracy(given, labels)
    with pytest.raises(TypeError, match=f"accuracy: labels {message}"):
        metrics.accuracy(logits, given)
    with pytest.raises(TypeError, match=f"confusion_matrix: predictions {message}"):
        metrics.confusion_matrix(given, labels, 3)
    with pytest.raises(TypeError, match=f"confusion_matrix: labels {message}"):
        metrics.confusion_matrix(labels, given, 3)
