"""Losses against torch.nn.functional, value by value, and against closed forms at the extremes."""

import math
from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from scipy import stats
from torch.nn import functional as oracle

import purefn.functional as pf
from purefn import data
from purefn.functional import losses, random, tree

torchvision = data.import_torchvision()

RELATIVE = {torch.float64: 1e-12, torch.float32: 8 * torch.finfo(torch.float32).eps}

dtypes = st.sampled_from(list(RELATIVE))
seeds = st.integers(0, 2**31)
extra_dims = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@st.composite
def classification(draw):
    """Logits, integer labels (some ignored), soft labels, class weights, options, a generator."""
    dtype, generator = draw(dtypes), torch.Generator().manual_seed(draw(seeds))
    batch, classes, extra = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(extra_dims)
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    logits = scale * torch.randn((batch, classes, *extra), generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (batch, *extra), generator=generator)
    soft = torch.rand(logits.shape, generator=generator, dtype=dtype).softmax(1)
    weight = torch.rand(classes, generator=generator, dtype=dtype) + 0.1
    options = {
        "weight": weight if draw(st.booleans()) else None,
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
    }
    ignore_index = draw(st.sampled_from([-100, -1, 0]))
    ignored = torch.rand(labels.shape, generator=generator) < draw(st.sampled_from([0.0, 0.4]))
    return logits, labels.masked_fill(ignored, ignore_index), soft, ignore_index, options


@st.composite
def pairs(draw):
    """Two tensors of one shape `(N, ...)`, and the generator that made them."""
    dtype, generator = draw(dtypes), torch.Generator().manual_seed(draw(seeds))
    shape = (draw(st.integers(1, 5)), *draw(extra_dims))
    scale = draw(st.sampled_from([1e-2, 1.0, 20.0]))
    values = scale * torch.randn((2, *shape), generator=generator, dtype=dtype)
    return values[0], values[1], generator


def per_example(elements):
    return elements.flatten(1).mean(1) if elements.ndim > 1 else elements


def assert_same(ours, reference, *inputs, magnitude=0.0):
    """Compare values and, weighing the examples differently, the gradients of every input.

    `magnitude` is the size of the terms that cancel in torch's formula, where they do.
    """
    inputs = [value.clone().requires_grad_() for value in inputs]
    actual, expected = ours(*inputs), per_example(reference(*inputs))
    assert actual.shape == inputs[0].shape[:1]
    assert_close(actual, expected, magnitude)
    cotangent = torch.linspace(0.5, 1.5, len(actual), dtype=actual.dtype)
    gradients = torch.autograd.grad(actual, inputs, cotangent)
    references = torch.autograd.grad(expected, inputs, cotangent)
    for gradient, reference_gradient in zip(gradients, references, strict=True):
        assert_close(gradient, reference_gradient, magnitude)


def assert_close(actual, expected, magnitude=0.0):
    """Compare up to rounding of the largest element, or of something of the given magnitude."""
    assert actual.dtype == expected.dtype
    tolerance = RELATIVE[actual.dtype]
    scale = max(magnitude, expected.detach().abs().max().item()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


# --- against torch -------------------------------------------------------------------------------


@given(classification())
def test_cross_entropy_of_integer_labels_is_torchs(drawn):
    logits, labels, _, ignore_index, options = drawn
    options = {**options, "ignore_index": ignore_index}
    assert_same(
        lambda x: losses.cross_entropy(x, labels, **options),
        lambda x: oracle.cross_entropy(x, labels, reduction="none", **options),
        logits,
    )


@given(classification())
def test_cross_entropy_of_soft_labels_is_torchs_in_both_gradients(drawn):
    logits, _, soft, _, options = drawn
    assert_same(
        lambda x, q: losses.cross_entropy(x, q, **options),
        lambda x, q: oracle.cross_entropy(x, q, reduction="none", **options),
        logits,
        soft,
    )


@given(classification())
def test_nll_is_torchs(drawn):
    logits, labels, _, ignore_index, options = drawn
    options = {"weight": options["weight"], "ignore_index": ignore_index}
    assert_same(
        lambda x: losses.nll(x, labels, **options),
        lambda x: oracle.nll_loss(x, labels, reduction="none", **options),
        logits.log_softmax(1),
    )


@given(pairs())
def test_mse_is_torchs(drawn):
    assert_same(losses.mse, lambda x, y: oracle.mse_loss(x, y, reduction="none"), *drawn[:2])


@given(pairs())
def test_losses_of_elements_are_torchs_whatever_the_shape(drawn):
    x, y = drawn[:2]
    signs, p = y.detach().sign() + (y == 0), y.sigmoid()
    for ours, reference, second in (
        (losses.l1, oracle.l1_loss, y),
        (losses.bce, oracle.binary_cross_entropy, p),
        (losses.poisson_nll_with_rates, partial(oracle.poisson_nll_loss, log_input=False), p),
    ):
        first = x.sigmoid() if ours is not losses.l1 else x
        assert_same(ours, lambda x, y, f=reference: f(x, y, reduction="none"), first, second)
    for ours, reference in (
        (losses.hinge_embedding, oracle.hinge_embedding_loss),
        (losses.soft_margin, oracle.soft_margin_loss),
    ):
        assert_same(
            lambda x, f=ours: f(x, signs), lambda x, f=reference: f(x, signs, reduction="none"), x
        )


@given(pairs(), st.sampled_from([0.0, 1.0, 2.5]))
def test_a_softmax_of_two_classes_is_a_sigmoid(drawn, gamma):
    x, y = drawn[0], (drawn[1] > 0).to(drawn[0].dtype)
    assert_same(
        lambda x: losses.softmax_focal(
            torch.stack([torch.zeros_like(x), x], 1), y.long(), gamma=gamma
        ),
        lambda x: torchvision.ops.sigmoid_focal_loss(x, y, alpha=-1, gamma=gamma),
        x,
        magnitude=1 + x.abs().max().item(),
    )


@given(pairs(), st.sampled_from([0, 1e-3, 0.5, 1.0, 7.0]))
def test_smooth_l1_is_torchs(drawn, beta):
    assert_same(
        lambda x, y: losses.smooth_l1(x, y, beta=beta),
        lambda x, y: oracle.smooth_l1_loss(x, y, reduction="none", beta=beta),
        *drawn[:2],
    )


@given(pairs(), st.sampled_from([1e-3, 0.5, 1, 7.0]))
def test_huber_is_torchs(drawn, delta):
    assert_same(
        lambda x, y: losses.huber(x, y, delta=delta),
        lambda x, y: oracle.huber_loss(x, y, reduction="none", delta=delta),
        *drawn[:2],
    )


@given(pairs(), st.booleans(), st.booleans(), st.data())
def test_bce_with_logits_is_torchs(drawn, weighted, pos_weighted, data):
    logits, labels, generator = drawn[0], drawn[1].sigmoid(), drawn[2]

    def factor(shape):
        shape = [length if data.draw(st.booleans()) else 1 for length in shape]
        return torch.rand(shape, generator=generator, dtype=logits.dtype) * 3

    options = {
        "weight": factor(logits.shape) if weighted else None,
        "pos_weight": factor(logits.shape[1:]) if pos_weighted else None,
    }
    assert_same(
        lambda x, y: losses.bce_with_logits(x, y, **options),
        lambda x, y: oracle.binary_cross_entropy_with_logits(x, y, reduction="none", **options),
        logits,
        labels,
        # torch computes (1 - y) x - log sigmoid(x), two large terms for a confident negative.
        magnitude=4 * max(1.0, logits.abs().max().item()),
    )


@given(st.floats(-300, 300), st.sampled_from([0.0, 0.25, 1.0]))
def test_binary_cross_entropy_is_the_closed_form_for_confident_logits_too(x, y):
    value = losses.bce_with_logits(*torch.tensor([[x], [y]], dtype=torch.float64)).item()

    def softplus(x):
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    assert value == pytest.approx(y * softplus(-x) + (1 - y) * softplus(x), rel=1e-13, abs=0)


@pytest.mark.parametrize("residual", [-1.0, 1.0, 0.0])
@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (losses.smooth_l1, oracle.smooth_l1_loss),
        (losses.huber, oracle.huber_loss),
        (losses.mse, oracle.mse_loss),
    ],
)
def test_the_seams_of_the_pieces_are_torchs(ours, reference, residual):
    # Residuals drawn at random never fall on 0 or on the seam itself.
    x = torch.tensor([residual], dtype=torch.float64)
    assert_same(
        lambda x: ours(x, torch.zeros_like(x)),
        lambda x: reference(x, torch.zeros_like(x), reduction="none"),
        x,
    )


@given(classification().filter(lambda drawn: (drawn[1] != drawn[3]).any()))
def test_torchs_weighted_mean_is_the_documented_line(drawn):
    logits, labels, _, ignore_index, options = drawn
    options = {"weight": options["weight"], "ignore_index": ignore_index}
    weight = torch.ones(logits.shape[1]) if options["weight"] is None else options["weight"]
    values = losses.cross_entropy(logits, labels, **options)
    label_weights = torch.where(labels == ignore_index, 0.0, weight[labels.clamp(min=0)])
    assert_close(
        values.mean() / label_weights.to(logits.dtype).mean(),
        oracle.cross_entropy(logits, labels, **options),
    )


@given(classification())
def test_an_unweighted_mean_is_torchs(drawn):
    logits, _, soft, _, options = drawn
    assert_close(
        losses.cross_entropy(logits, soft, **options).mean(),
        oracle.cross_entropy(logits, soft, **options),
    )
    labels = soft.argmax(1)
    assert_close(losses.cross_entropy(logits, labels).mean(), oracle.cross_entropy(logits, labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_every_integer_dtype_names_the_same_classes(dtype):
    logits, labels = torch.randn(4, 3), torch.tensor([2, 0, 1, 2])
    expected = oracle.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses.cross_entropy(logits, labels.to(dtype)), expected)
    torch.testing.assert_close(
        losses.nll(logits.log_softmax(1), labels.to(dtype), ignore_index=2),
        oracle.nll_loss(logits.log_softmax(1), labels, reduction="none", ignore_index=2),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_and_is_torchs(dtype):
    logits, labels = torch.randn(6, 5).to(dtype), torch.arange(6) % 5
    actual = losses.cross_entropy(logits, labels)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, oracle.cross_entropy(logits, labels, reduction="none"))
    positive = (logits > 0).to(dtype)
    actual = losses.bce_with_logits(logits, positive)
    assert actual.dtype == dtype
    expected = oracle.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(actual, expected.mean(1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", [{}, {"div_value": 2.0, "head_bias": True}])
def test_the_parameters_of_an_adaptive_softmax_are_torchs(options):
    def drawn(dtype):
        draw = partial(losses.init_adaptive_softmax, cutoffs=(20, 60), dtype=dtype, **options)
        return tree.to_state_dict(draw(random.key(0), 64, 300))

    ours = drawn(torch.float64)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(64, 300, (20, 60), **options).state_dict()
    assert {name: x.shape for name, x in ours.items()} == {
        name: x.shape for name, x in theirs.items()
    }
    firsts = set()
    for name, x in ours.items():
        fan_in = 64 if name == "head.bias" else x.shape[1]
        values = (x * fan_in**0.5).flatten().numpy()
        assert stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > 1e-3
        firsts.add(round(values[0], 9))
    assert len(firsts) == len(ours)
    singles, halves = drawn(torch.float32), drawn(torch.bfloat16)
    assert all(torch.equal(halves[name], x.bfloat16()) for name, x in singles.items())


# --- at the extremes -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits_give_their_exact_difference(dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-3e4, 0.0, 3e4]], dtype=dtype, requires_grad=True)
    values = losses.cross_entropy(logits, torch.tensor([1, 2]))
    assert values.tolist() == [2e4, 0.0]
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert gradient.tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binary_cross_entropy_of_huge_logits_is_linear_or_vanishes(dtype):
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5], dtype=dtype)
    values = losses.bce_with_logits(logits, labels)
    expected = torch.tensor([0.0, 0.0, 1e4, 1e4, math.log(2)], dtype=dtype)
    torch.testing.assert_close(values, expected, rtol=RELATIVE[dtype], atol=0.0)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert gradient.tolist() == [0.0, 0.0, 1.0, -1.0, 0.0]


def test_small_probabilities_keep_their_digits():
    # -log sigmoid(40) = log1p(exp(-40)), far below the spacing of float64 at 1.
    logits = torch.tensor([40.0], dtype=torch.float64)
    value = losses.bce_with_logits(logits, torch.ones_like(logits)).item()
    assert value == pytest.approx(math.log1p(math.exp(-40.0)), rel=1e-14)
    value = losses.cross_entropy(torch.tensor([[0.0, -40.0]]).double(), torch.tensor([0])).item()
    assert value == pytest.approx(math.exp(-40.0), rel=1e-12, abs=1e-17)


def test_a_masked_class_costs_nothing_where_its_target_is_zero():
    logits = torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64, requires_grad=True)
    soft = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    for labels in (soft, torch.tensor([1])):
        value = losses.cross_entropy(logits, labels)
        torch.testing.assert_close(value, torch.tensor([math.log(2)], dtype=torch.float64))
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        expected = [0.0, 0.0, 0.0] if labels is soft else [0.5, -0.5, 0.0]
        torch.testing.assert_close(gradient, torch.tensor([expected], dtype=torch.float64))


def test_a_masked_class_is_infinitely_unlikely_where_it_is_the_target():
    logits = torch.tensor([[0.0, -math.inf]])
    assert losses.cross_entropy(logits, torch.tensor([1])).item() == math.inf
    assert losses.cross_entropy(logits, torch.tensor([[0.5, 0.5]])).item() == math.inf
    assert losses.cross_entropy(logits, torch.tensor([0]), label_smoothing=0.1).item() == math.inf


def test_the_gradient_of_a_soft_label_is_kept_where_it_is_zero():
    logits = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    soft = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.cross_entropy(logits, soft).sum(), soft)
    torch.testing.assert_close(gradient, -logits.log_softmax(1))


def test_an_ignored_example_is_zero_even_beside_infinite_logits():
    logits = torch.tensor([[0.0, -math.inf], [0.0, 1.0]], requires_grad=True)
    for smoothing in (0.0, 0.1):
        values = losses.cross_entropy(
            logits, torch.tensor([-100, 0]), label_smoothing=smoothing, weight=torch.ones(2)
        )
        assert values[0] == 0
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert gradient[0].tolist() == [0.0, 0.0]
        assert (gradient[1] != 0).all()


@pytest.mark.parametrize("extra", [(), (3,)])
def test_an_empty_batch_has_no_values(extra):
    x = torch.zeros(0, 4, *extra)
    assert losses.cross_entropy(x, torch.zeros(0, *extra, dtype=torch.int64)).shape == (0,)
    assert losses.mse(x, x).shape == (0,)


@pytest.mark.parametrize(
    ("loss", "curvature"),
    [
        (losses.mse, 2.0),
        (losses.huber, 1.0),
        (lambda x, y: losses.smooth_l1(x, y, beta=0.5), 2.0),
    ],
)
@pytest.mark.parametrize("residual", [0.0, 0.1, -0.1])
def test_the_curvature_within_the_square_holds_at_its_lowest_point(loss, curvature, residual):
    x, y = torch.tensor([residual], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    hessian = pf.hessian(lambda x: loss(x, y).sum())(x)
    assert hessian.item() == pytest.approx(curvature, rel=1e-12)
