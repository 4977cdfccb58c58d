"""Losses where formulas break: huge and masked scores, vectors of zeros, hinges, empty sums."""

import itertools
import math

import pytest
import torch
from loss_registry import CASES
from torch.nn import functional as F  # noqa: N812 - torch's name

import purefn.functional as pf
from purefn.functional import losses

INF = math.inf


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def value_and_gradients(loss, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    values = loss(*inputs)
    return values.detach(), *torch.autograd.grad(values.sum(), inputs)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, f64(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_huge_scores_and_zeros_have_finite_values_and_gradients(case, dtype, scale):
    floats, others = case.inputs(dtype, scale=scale)
    for result in value_and_gradients(lambda *floats: case.loss(*floats, *others), *floats):
        assert result.isfinite().all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_second_derivatives_are_finite_at_zeros_and_at_huge_scores(case):
    for scale in (0.0, 1e4):
        floats, others = case.inputs(scale=scale)
        floats = [x.requires_grad_() for x in floats]
        gradients = torch.autograd.grad(
            case.loss(*floats, *others).sum(), floats, create_graph=True, materialize_grads=True
        )
        total = sum((g * torch.linspace(1, 2, g.numel()).reshape(g.shape)).sum() for g in gradients)
        if total.requires_grad:
            for second in torch.autograd.grad(total, floats, materialize_grads=True):
                assert second.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confident_mistakes_cost_their_score(dtype):
    x = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype)
    y = torch.tensor([1, -1, -1, 1])
    assert losses.soft_margin(x, y).tolist() == [0, 0, 1e4, 1e4]
    for loss in (losses.sigmoid_focal, losses.sparsemax):
        options = {"alpha": None} if loss is losses.sigmoid_focal else {}
        values = loss(x, ((y + 1) / 2).to(dtype), **options)
        assert values.tolist() == [0, 0, 1e4, 1e4]
    assert losses.log_cosh(x, torch.zeros_like(x)).sub(1e4 - math.log(2)).abs().max() < 1e-3
    logits = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype)
    for loss in (losses.softmax_focal, losses.multiclass_sparsemax, losses.entmax15):
        assert loss(logits, torch.tensor([1])).item() == pytest.approx(2e4, abs=0.51)
        assert loss(logits, torch.tensor([0])).item() == 0


def test_confident_predictions_keep_their_digits():
    small = math.exp(-40)
    (value,) = losses.sigmoid_focal(f64([40.0]), f64([1.0]), alpha=None, gamma=1.0)
    assert value.item() == pytest.approx(small * small, rel=1e-12)
    value = losses.log_cosh(f64([1e-8, 1e-3]), f64([0.0, 0.0]))
    close(value * 1e16, [0.5, (0.5e-6 - 1e-12 / 12 + 1e-18 / 45) * 1e16], 1e-11)
    hessian = pf.hessian(lambda x: losses.log_cosh(x, torch.zeros_like(x)).sum())(f64([0.0]))
    assert hessian.item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("loss", [losses.huber, losses.smooth_l1, losses.log_cosh, losses.l1])
def test_an_infinite_residual_has_the_slope_of_the_line(loss):
    x = torch.tensor([INF, -INF, 0.5])
    value, gradient = value_and_gradients(lambda x: loss(x, torch.zeros(3)), x)
    assert value[:2].tolist() == [INF, INF]
    assert gradient[:2].tolist() == [1.0, -1.0]
    assert gradient[2].isfinite()


def test_squares_beyond_float16_are_computed_in_float32():
    x, y = torch.tensor([500.0, 3e4]).half(), torch.tensor([0.0, -3e4]).half()
    assert losses.smooth_l1(x, y, beta=1000.0).tolist() == [125.0, 59488.0]
    assert losses.huber(x[:1], y[:1], delta=600.0).item() == INF  # 125000
    assert losses.huber(x, y, delta=1.0).tolist() == [499.5, 6e4]


# --- classes that are impossible -----------------------------------------------------------------

MASKED = f64([[0.5, -0.5, -INF]])


def test_a_masked_class_costs_nothing():
    soft, label = f64([[0.3, 0.7, 0.0]]), torch.tensor([1])
    for loss in (losses.poly_cross_entropy, losses.softmax_focal):
        for y, few in ((soft, soft[:, :2]), (label, label)):
            value, gradient = value_and_gradients(lambda x, y=y, loss=loss: loss(x, y), MASKED)
            expected = value_and_gradients(lambda x, y=few, loss=loss: loss(x, y), MASKED[:, :2])
            torch.testing.assert_close(value, expected[0])
            torch.testing.assert_close(gradient[:, :2], expected[1])
            assert gradient[0, 2] == 0
    for loss in (losses.multiclass_sparsemax, losses.entmax15, losses.multiclass_hinge):
        value, gradient = value_and_gradients(lambda x, loss=loss: loss(x, label), MASKED)
        torch.testing.assert_close(value, loss(MASKED[:, :2], label))
        assert gradient.isfinite().all()


def test_a_label_of_weight_zero_costs_nothing_where_it_is_masked():
    logits, weight = f64([[-INF, 0.0], [0.0, 1.0]]), f64([0.0, 1.0])
    hard, soft = torch.tensor([0, 1]), f64([[1.0, 0.0], [0.0, 1.0]])
    expected = [0.0, math.log1p(math.exp(-1))]
    for loss in (losses.cross_entropy, losses.softmax_focal):
        for y in (hard, soft):
            value, gradient = value_and_gradients(
                lambda x, y=y, loss=loss: loss(x, y, weight=weight), logits
            )
            assert gradient.isfinite().all()
            assert value[0] == 0
            if loss is losses.cross_entropy:
                close(value, expected)
    close(losses.nll(logits.log_softmax(1), hard, weight=weight), expected)
    assert losses.cross_entropy(logits, hard, weight=weight + 1)[0] == INF
    _, gradient = value_and_gradients(
        lambda w: losses.cross_entropy(logits[1:], torch.tensor([0]), weight=w), weight
    )
    close(gradient, [1 + math.log1p(math.exp(-1)), 0.0])


@pytest.mark.parametrize("loss", [losses.multiclass_sparsemax, losses.entmax15])
def test_sparse_predictions_without_a_maximum_are_nan_for_their_own_example(loss):
    for row in ([math.nan, 0.0, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF]):
        value, gradient = value_and_gradients(
            lambda x: loss(x, torch.tensor([0, 0])), f64([row, [1.0, 0.0, 1.0]])
        )
        assert value.isnan().tolist() == [True, False]
        assert gradient.isnan().any(1).tolist() == [True, False]


def test_divergences_of_impossible_classes():
    log_p, log_q = f64([[0.25, 0.75, 0.0]]).log(), f64([[0.5, 0.5, 0.0]]).log()
    few_p, few_q = log_p[:, :2], log_q[:, :2]
    for loss in (losses.kl_div_with_log_targets, losses.reverse_kl_div, losses.js_div):
        value, *gradients = value_and_gradients(loss, log_p, log_q)
        torch.testing.assert_close(value, loss(few_p, few_q))
        assert all(gradient.isfinite().all() for gradient in gradients)
    value, *gradients = value_and_gradients(losses.kl_div, log_p, log_q.exp())
    torch.testing.assert_close(value, losses.kl_div(few_p, few_q.exp()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    certain = f64([[1.0, 0.0, 0.0]]).log()
    assert losses.kl_div_with_log_targets(certain, log_q).item() == INF
    assert losses.reverse_kl_div(certain, log_q).item() == pytest.approx(math.log(2))
    assert losses.js_div(certain, certain).item() == 0


def test_a_target_of_zero_has_the_documented_derivative():
    log_p = f64([[0.25, 0.75]]).log()
    _, _, gradient = value_and_gradients(losses.kl_div, log_p, f64([[0.0, 1.0]]))
    torch.testing.assert_close(gradient, f64([[0.0, 1.0]]) - log_p)


# --- vectors of zeros and equal vectors ----------------------------------------------------------


def test_the_derivatives_of_cosines_of_zeros_are_the_documented_ones():
    zero, y = torch.zeros(1, 3).double(), f64([[3.0, 0.0, 4.0]])
    value, gradient, other = value_and_gradients(
        lambda x, y: losses.cosine_similarity(x, y, eps=1e-2), zero, y
    )
    close(value, [0.0])
    torch.testing.assert_close(gradient, y / 5 / 1e-2)
    assert not other.any()
    value, gradient, _ = value_and_gradients(losses.cosine_similarity, zero, zero)
    assert not gradient.any()
    for label in (1, -1):
        actual = value_and_gradients(
            lambda x, y, label=label: losses.cosine_embedding(x, y, torch.tensor([label])), zero, y
        )
        expected = value_and_gradients(
            lambda x, y, label=label: F.cosine_embedding_loss(x, y, torch.tensor([label])), zero, y
        )
        torch.testing.assert_close(actual[0], expected[0][None])
        torch.testing.assert_close(actual[1:], expected[1:])


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, INF])
def test_a_distance_of_zero_has_the_derivative_zero(p):
    x = f64([[1.0, -2.0]])
    value, *gradients = value_and_gradients(
        lambda x, y: losses.pairwise_distance(x, y, p=p, eps=0.0), x, x
    )
    assert value.item() == 0
    assert not any(gradient.any() for gradient in gradients)
    _, *gradients = value_and_gradients(
        lambda *xs: losses.triplet_margin(*xs, p=p, eps=0.0), x, x, x
    )
    assert not any(gradient.any() for gradient in gradients)


def test_the_norm_of_order_zero_counts():
    x, y = f64([[1.0, 0.0, 1e-9], [2.0, 2.0, 2.0]]), f64([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    assert losses.pairwise_distance(x, y, p=0, eps=0.0).tolist() == [2.0, 0.0]


# --- the hinges themselves, which random scores never meet ---------------------------------------


@pytest.mark.parametrize(
    ("ours", "reference", "inputs"),
    [
        (
            lambda x, y: losses.margin_ranking(x, y, torch.tensor([1])),
            lambda x, y: F.margin_ranking_loss(x, y, torch.tensor([1]), reduction="none"),
            [f64([2.0]), f64([2.0])],
        ),
        (
            lambda x: losses.hinge_embedding(x, torch.tensor([-1])),
            lambda x: F.hinge_embedding_loss(x, torch.tensor([-1]), reduction="none"),
            [f64([1.0])],
        ),
        (
            lambda x, y: losses.cosine_embedding(x, y, torch.tensor([-1])),
            lambda x, y: F.cosine_embedding_loss(x, y, torch.tensor([-1]), reduction="none"),
            [f64([[1.0, 0.0]]), f64([[0.0, 1.0]])],
        ),
        (
            lambda *xs: losses.triplet_margin(*xs, eps=0.0),
            lambda *xs: F.triplet_margin_loss(*xs, eps=0.0, reduction="none"),
            [f64([[0.0]]), f64([[1.0]]), f64([[2.0]])],
        ),
        (
            lambda x: losses.multi_margin(x, torch.tensor([0])),
            lambda x: F.multi_margin_loss(x, torch.tensor([0]), reduction="none"),
            [f64([[1.0, 0.0, 0.5]])],
        ),
        (
            lambda x: losses.multilabel_margin(x, torch.tensor([[0, -1, 1]])),
            lambda x: F.multilabel_margin_loss(x, torch.tensor([[0, -1, 1]]), reduction="none"),
            [f64([[1.0, 0.0, 0.5]])],
        ),
        (
            losses.l1,
            lambda x, y: F.l1_loss(x, y, reduction="none"),
            [f64([2.0]), f64([2.0])],
        ),
        (
            losses.bce,
            lambda x, y: F.binary_cross_entropy(x, y, reduction="none"),
            [f64([0.0, 1.0, 1.0, 1e-14]), f64([1.0, 0.0, 1.0, 0.5])],
        ),
        (
            losses.gaussian_nll,
            lambda x, y, v: F.gaussian_nll_loss(x, y, v, reduction="none"),
            [f64([1.0, 2.0]), f64([0.0, 2.0]), f64([1e-9, 0.0])],
        ),
        (
            lambda x, y: losses.poisson_nll(x, y, full=True),
            lambda x, y: F.poisson_nll_loss(x, y, full=True, reduction="none"),
            [f64([1.0, 2.0]), f64([0.5, 1.0])],
        ),
    ],
)
def test_values_and_derivatives_at_the_seams_are_torchs(ours, reference, inputs):
    for actual, expected in zip(
        value_and_gradients(ours, *inputs), value_and_gradients(reference, *inputs), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_variance_below_its_bound_learns_under_every_transform():
    residual, v = f64([1.0, 1.0]), f64([1e-9, 0.5])

    def one(x, v):
        return losses.gaussian_nll(x[None], torch.zeros_like(x)[None], v[None])[0]

    def total(v):
        return losses.gaussian_nll(residual, torch.zeros_like(residual), v).sum()

    expected = [0.5 * (1e6 - 1e12), -1.0]
    close(pf.grad(total)(v), expected)
    close(pf.jacfwd(total)(v), expected)
    close(pf.jit(pf.grad(total), backend="aot_eager")(v), expected)
    close(pf.vmap(pf.grad(one, argnums=1))(residual, v), expected)


def test_models_of_zeros_learn():
    for loss in (losses.hinge, losses.perceptron):
        _, gradient = value_and_gradients(
            lambda x, loss=loss: loss(x, torch.tensor([1])), f64([0.0])
        )
        assert gradient.item() == -1


# --- sequences -----------------------------------------------------------------------------------


def test_the_probabilities_of_all_labels_sum_to_one():
    frames, classes = 4, 3
    log_p = torch.randn(frames, classes, generator=torch.Generator().manual_seed(0)).double()
    log_p = log_p.log_softmax(1)
    lists = [y for length in range(frames + 1) for y in itertools.product((1, 2), repeat=length)]
    labels = torch.tensor([[*y, *[0] * (frames - len(y))] for y in lists])
    values = losses.ctc(
        log_p.expand(len(lists), -1, -1),
        labels,
        torch.full((len(lists),), frames),
        torch.tensor([len(y) for y in lists]),
    )
    assert values.neg().exp().sum().item() == pytest.approx(1.0, rel=1e-12)
    assert values[lists.index((1, 1, 1))] == INF  # 5 frames would be needed


def test_what_does_not_fit_is_infinite_or_zero_and_has_no_gradient():
    log_p, y = torch.zeros(2, 1, 3).double().log_softmax(2), torch.tensor([[1, 2], [1, 2]])
    for option, expected in ((False, INF), (True, 0.0)):
        value, gradient = value_and_gradients(
            lambda x, option=option: losses.ctc(
                x, y, torch.tensor([1, 1]), torch.tensor([2, 1]), zero_infinity=option
            ),
            log_p,
        )
        assert value[0] == expected
        assert not gradient[0].any()
        assert value[1].item() == pytest.approx(math.log(3))
        assert gradient[1].any()


def test_no_frames_and_no_labels():
    log_p, y = torch.zeros(3, 0, 3), torch.zeros(3, 2, dtype=torch.int64) + 1
    lengths = torch.tensor([0, 0, 0])
    assert losses.ctc(log_p, y, lengths, torch.tensor([0, 1, 2])).tolist() == [0, INF, INF]
    assert losses.ctc(torch.zeros(1, 2, 3), y[:1, :0], lengths[:1] + 2, lengths[:1]).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_and_lengths_have_any_integer_dtype(dtype):
    log_p = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    arguments = torch.tensor([[1, 2], [2, 1]]), torch.tensor([4, 3]), torch.tensor([2, 1])
    expected = losses.ctc(log_p, *arguments)
    for i, x in enumerate(arguments):
        others = (*arguments[:i], x.to(dtype), *arguments[i + 1 :])
        assert torch.equal(losses.ctc(log_p, *others), expected)


def test_frames_and_classes_that_are_impossible():
    log_p = f64([[[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]]).log()
    value, gradient = value_and_gradients(
        lambda x: losses.ctc(x, torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1])), log_p
    )
    assert value.item() == pytest.approx(math.log(2))  # only the path 1, 0, 0
    assert gradient.tolist() == [[[0, -1], [-1, 0], [-1, 0]]]


# --- lists and regions ---------------------------------------------------------------------------


def test_the_probabilities_of_all_orders_sum_to_one():
    orders = list(itertools.permutations(range(4)))
    scores = torch.randn(4, generator=torch.Generator().manual_seed(0)).double()
    values = losses.list_mle(scores.expand(len(orders), -1), torch.tensor(orders).double())
    assert values.neg().exp().sum().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    "name", ["ranking_softmax", "list_mle", "pairwise_logistic", "pairwise_hinge"]
)
def test_padding_is_neither_read_nor_moved(name):
    loss, mask = getattr(losses, name), torch.tensor([[True, True, False, False]])
    scores, y = f64([[1.0, 2.0, math.nan, INF]]), f64([[1.0, 0.0, math.nan, 7.0]])
    value, gradient = value_and_gradients(lambda s: loss(s, y, mask=mask), scores)
    torch.testing.assert_close(value, loss(scores[:, :2], y[:, :2]))
    assert gradient[0, :2].all()
    assert not gradient[0, 2:].any()
    empty = value_and_gradients(lambda s: loss(s, y, mask=mask & False), scores)
    assert not any(result.any() for result in empty)


@pytest.mark.parametrize("name", ["ranking_softmax", "pairwise_logistic", "pairwise_hinge"])
def test_an_impossible_item_of_no_relevance_counts_as_last(name):
    loss, y = getattr(losses, name), f64([[1.0, 0.0, 0.0]])
    actual = value_and_gradients(lambda s: loss(s, y), f64([[0.0, 1.0, -INF]]))
    limit = value_and_gradients(lambda s: loss(s, y), f64([[0.0, 1.0, -1e4]]))
    for result, expected in zip(actual, limit, strict=True):
        torch.testing.assert_close(result, expected)
    assert loss(f64([[-INF, 1.0, 0.0]]), y).item() == INF


def test_examples_without_a_positive_or_a_negative_are_zero():
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double()
    values, gradient = value_and_gradients(lambda x: losses.ntxent(x, torch.tensor([0, 0, 1])), x)
    assert values[2] == 0
    assert values[:2].all()
    assert gradient.isfinite().all()
    for labels in ([0, 1, 2], [0, 0, 0]):
        results = value_and_gradients(lambda x, y=labels: losses.ntxent(x, torch.tensor(y)), x)
        assert not any(result.any() for result in results)


@pytest.mark.parametrize("loss", [losses.dice, losses.generalized_dice])
def test_perfect_and_disjoint_regions(loss):
    regions = torch.tensor([[[0, 0, 1], [1, 1, 1]]])
    logits = 1e4 * torch.stack([regions == 0, regions == 1], 1).double()
    close(loss(logits, regions), [0.0])
    assert 0.7 < loss(-logits, regions).item() <= 1


@pytest.mark.parametrize(
    ("loss", "slope", "negentropy"),
    [
        # Of the regularizer: its derivative, and its value.
        (losses.multiclass_sparsemax, lambda p: p, lambda p: 0.5 * (p * p).sum(1) - 0.5),
        (
            losses.entmax15,
            lambda p: 2 * p.clamp(min=0).sqrt(),
            lambda p: 4 / 3 * (p.clamp(min=0) ** 1.5).sum(1) - 4 / 3,
        ),
    ],
)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_sparse_predictions_are_the_maximum_of_their_definition(loss, slope, negentropy, scale):
    z = scale * torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    z[0], z[1, :3] = 0.0, z[1, 3:].amax()
    y = torch.arange(50) % 6
    values, gradient = value_and_gradients(lambda z: loss(z, y), z)
    p = gradient + F.one_hot(y, 6)
    assert p.min() >= -1e-15
    assert scale > 1 or (p > 1e-9).sum() > 100
    torch.testing.assert_close(p.sum(1), torch.ones(50).double(), rtol=1e-12, atol=0)
    # The optimality conditions: z less the slope is equal on the support, and nowhere larger.
    excess = z - slope(p)
    multiplier = excess.amax(1, keepdim=True)
    close((p * (multiplier - excess)).abs().max(), 0.0)
    label = z.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(
        values, (p * z).sum(1) - negentropy(p) - label, rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("loss", [losses.multiclass_sparsemax, losses.entmax15])
def test_sparse_predictions_far_from_the_label_keep_their_digits(loss):
    z = torch.tensor([[1e4, 1e4 - 0.25, -1e4]])
    exact = value_and_gradients(lambda z: loss(z, torch.tensor([2])), z.double())
    for value, reference in zip(
        value_and_gradients(lambda z: loss(z, torch.tensor([2])), z), exact, strict=True
    ):
        torch.testing.assert_close(value.double(), reference, rtol=2e-7, atol=2e-7)
