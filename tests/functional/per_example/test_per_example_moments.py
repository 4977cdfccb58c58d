"""Moments and noise scales: numpy's formulas, and exact expectations over small populations."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import purefn.functional as pf
from purefn.functional import per_example, tree
from purefn.functional.per_example import NoiseScale, RunningNoiseScale


def plain(fun):
    return fun


def staged(fun):
    return pf.jit(fun, backend="eager")


HOW = pytest.mark.parametrize("how", [plain, staged])
WAYS = pytest.mark.parametrize(
    ("how", "method", "chunk_size", "correction"),
    [
        (plain, "auto", None, 1),
        (plain, "ghost", 4, 0),
        (plain, "materialize", None, 1),
        (staged, "auto", 4, 1),
    ],
)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def network(params, images):
    h = functional.conv2d(images, params["conv"], padding=1).relu().flatten(1)
    return functional.linear(h, params["w"], params["b"]).logsumexp(1)


def language(params, tokens):
    h = functional.embedding(tokens, params["table"]).cumsum(1).tanh()
    return functional.linear(h.mean(1), params["w"]).square().sum(1)


def gated(params, x):
    first, second = params["w"][:3], params["w"][3:]
    return (torch.sigmoid(x @ first.T) * torch.tanh(x @ second.T)).square().sum(1)


torch.manual_seed(0)
# Every row of a table is looked up several times by one example, and by several.
CASES = {
    "network": (
        network,
        {"conv": randn(3, 1, 3, 3), "w": randn(4, 48), "b": randn(4)},
        randn(6, 1, 4, 4),
    ),
    "language": (
        language,
        {"table": randn(90, 4), "w": randn(2, 4)},
        torch.randint(0, 3, (6, 5)),
    ),
    "gated": (gated, {"w": randn(6, 4)}, randn(6, 4)),
}
EVERY = pytest.mark.parametrize("case", CASES)


# --- moments -------------------------------------------------------------------------------------


@WAYS
@EVERY
def test_moments_are_those_of_the_gradients(oracle, how, case, method, chunk_size, correction):
    losses_fn, params, x = CASES[case]
    gradients = [leaf.numpy() for leaf in oracle.gradients(losses_fn, params, x)]
    moments = per_example.moments(
        losses_fn, method=method, chunk_size=chunk_size, correction=correction
    )
    mean, variance, second_moment = how(moments)(params, x)
    assert tree.structure(mean) == tree.structure(params)
    expected = [
        [leaf.mean(0) for leaf in gradients],
        [leaf.var(0, ddof=correction) for leaf in gradients],
        [(leaf**2).mean(0) for leaf in gradients],
    ]
    for found, leaves in zip((mean, variance, second_moment), expected, strict=True):
        oracle.assert_equal(found, [torch.as_tensor(leaf) for leaf in leaves], case)


def test_outer_products_and_lookups_form_no_gradients():
    from purefn.functional.per_example.calls import Call
    from purefn.functional.per_example.elementwise import has_squares
    from purefn.functional.per_example.factored import factored

    known = {}
    for losses_fn, params, x in CASES.values():
        leaves = factored(Call("moments", losses_fn, (params, x))).leaves
        known |= dict(zip(tree.path_strings(params, losses_fn.__name__), leaves, strict=True))
    found = {path for path, leaf in known.items() if has_squares(leaf)}
    assert found == {"network['w']", "language['table']", "language['w']", "gated['w']"}


def test_the_mean_is_the_gradient_of_the_mean_loss(oracle):
    losses_fn, params, x = CASES["network"]
    expected = pf.grad(lambda params: losses_fn(params, x).mean())(params)
    oracle.assert_equal(per_example.moments(losses_fn)(params, x).mean, expected)


def test_forming_gradients_keeps_the_digits_of_a_small_variance():
    params, x = {"w": torch.zeros(1, 3)}, 1000 + torch.randn(64, 3)
    moments = per_example.moments(lambda p, x: (x @ p["w"].T).sum(1), method="materialize")
    variance = moments(params, x).variance["w"][0]
    torch.testing.assert_close(variance, x.double().var(0).float(), rtol=1e-4, atol=0)


def test_moments_of_narrow_parameters_are_single():
    params, x = {"w": torch.zeros(1, 2, dtype=torch.bfloat16)}, torch.tensor([[1.0, 3], [2, 5]])
    x = x.bfloat16()
    found = per_example.moments(lambda p, x: functional.linear(x, p["w"]).sum(1))(params, x)
    assert found.variance["w"].dtype == torch.float32
    assert found.variance["w"].tolist() == [[0.5, 2.0]]


def test_moments_of_several_models_by_vmap(oracle):
    losses_fn, params, x = CASES["language"]
    models = tree.map(lambda leaf: torch.stack([leaf, 1 - leaf]), params)
    found = pf.vmap(per_example.moments(losses_fn), in_axes=(0, None))(models, x)
    for index in range(2):
        one = per_example.moments(losses_fn)(tree.map(lambda p: p[index], models), x)  # noqa: B023
        oracle.assert_equal(tree.map(lambda leaf: leaf[index], found), one)  # noqa: B023


def test_too_few_examples_are_refused():
    losses_fn, params, x = CASES["gated"]
    with pytest.raises(ValueError, match=r"correction=1 needs more than 1 .* batch of 1"):
        per_example.moments(losses_fn)(params, x[:1])
    with pytest.raises(ValueError, match="two examples at least"):
        per_example.noise_scale(losses_fn)(params, x[:1])
    with pytest.raises(ValueError, match="int >= 0 for correction, got -1"):
        per_example.moments(losses_fn, correction=-1)


def test_what_grads_refuses_is_refused():
    losses_fn, params, x = CASES["gated"]
    for make in (per_example.moments, per_example.noise_scale):
        with pytest.raises(ValueError, match="mix examples"):
            make(lambda params, x: losses_fn(params, x - x.mean(0)))(params, x)
        with pytest.raises(ValueError, match=r"drop the \.mean"):
            make(lambda params, x: losses_fn(params, x).sum())(params, x)


# --- noise scale ---------------------------------------------------------------------------------


@WAYS
@EVERY
def test_noise_scale_is_trace_over_squared_norm(oracle, how, case, method, chunk_size, correction):
    losses_fn, params, x = CASES[case]
    rows = torch.cat([g.flatten(1) for g in oracle.gradients(losses_fn, params, x)], 1)
    trace = rows.var(0).sum()
    squared_norm = rows.mean(0).square().sum() - trace / len(rows)
    found = how(per_example.noise_scale(losses_fn, method=method, chunk_size=chunk_size))(params, x)
    oracle.assert_equal(found.trace, trace)
    oracle.assert_equal(found.squared_norm, squared_norm)
    torch.testing.assert_close(found.scale, trace / squared_norm)


def linear(params, x):
    return x @ params["w"]


def test_both_estimators_are_unbiased():
    """Over all samples of a population of three the estimates average to the true values."""
    population = randn(3, 2)
    mean = population.mean(0)
    truth = NoiseScale((population - mean).square().sum(1).mean(), mean.square().sum())
    params = {"w": torch.zeros(2).double()}
    samples = [population[list(drawn)] for drawn in itertools.product(range(3), repeat=3)]

    per_sample = [per_example.noise_scale(linear)(params, sample) for sample in samples]
    by_size = [
        per_example.noise_scale_of_batches(
            sample[:2].mean(0).square().sum(), sample.mean(0).square().sum(), 2, 3
        )
        for sample in samples
    ]
    for estimates in (per_sample, by_size):
        for name in ("trace", "squared_norm"):
            average = torch.stack([getattr(estimate, name) for estimate in estimates]).mean()
            torch.testing.assert_close(average, getattr(truth, name), rtol=1e-12, atol=1e-12)


@settings(max_examples=10)
@given(
    trace=st.floats(0.1, 10),
    squared_norm=st.floats(0.1, 10),
    sizes=st.tuples(st.integers(1, 50), st.integers(1, 50)).filter(lambda s: s[0] != s[1]),
)
def test_exact_norms_at_two_sizes_give_back_the_truth(trace, squared_norm, sizes):
    small_size, big_size = sorted(sizes)
    # E |G_b|^2 = |G|^2 + tr(Sigma) / b, appendix A.1 of McCandlish et al.
    norms = [
        torch.tensor(squared_norm + trace / b, dtype=torch.float64) for b in (small_size, big_size)
    ]
    found = per_example.noise_scale_of_batches(*norms, small_size, big_size)
    assert found.trace.item() == pytest.approx(trace, rel=1e-10)
    assert found.squared_norm.item() == pytest.approx(squared_norm, rel=1e-10)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (0, 4)])
def test_sizes_that_tell_nothing_are_refused(sizes):
    with pytest.raises(ValueError, match="1 <= small_size < big_size"):
        per_example.noise_scale_of_batches(torch.tensor(1.0), torch.tensor(1.0), *sizes)


@HOW
def test_running_averages_are_weighted_means(how):
    estimates = randn(7, 2).abs()
    decay = 0.8
    weights = decay ** torch.arange(6, -1, -1).double()
    update = how(RunningNoiseScale.updated)
    running = RunningNoiseScale.start(torch.float64)
    for trace, squared_norm in estimates:
        running = update(running, NoiseScale(trace, squared_norm), decay)
    expected = (weights[:, None] * estimates).sum(0) / weights.sum()
    torch.testing.assert_close(torch.stack(running.mean), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(running.mean.scale, expected[0] / expected[1])


def test_updating_writes_nothing():
    start = RunningNoiseScale.start()
    start.updated(NoiseScale(torch.tensor(1.0), torch.tensor(2.0)))
    assert torch.stack(start).tolist() == [0, 0, 0]
