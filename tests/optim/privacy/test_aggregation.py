"""dp_aggregate and dp_correlated_aggregate: the law of their noise, their keys, what is refused."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import per_example, random, tree
from purefn.optim import privacy

PARAMS = {"w": torch.zeros(40, 50), "b": torch.zeros(2000, dtype=torch.float64)}


def clipped(grads, sensitivity=2.0):
    """Return a ClippedGrad as per_example makes them, of given gradients."""
    nothing = torch.zeros(1)
    return per_example.ClippedGrad(grads, nothing, nothing, torch.tensor(sensitivity), None)


def independent(noise_multiplier=1.5, key=0, expected_batch_size=8, **options):
    return privacy.dp_aggregate(
        noise_multiplier, key, expected_batch_size=expected_batch_size, **options
    )


def correlated(noise_multiplier=1.5, key=0, expected_batch_size=8, **options):
    given = {
        "factor": privacy.square_root_factor(4),
        "steps": 12,
        "participation": privacy.Participation(2, 6),
    }
    return privacy.dp_correlated_aggregate(
        noise_multiplier, key, expected_batch_size=expected_batch_size, **given | options
    )


both = pytest.mark.parametrize("make", [independent, correlated])


def wide(dtype):
    return torch.promote_types(dtype, torch.float32)


def noise_of(optimizer, params, steps, sensitivity=2.0):
    """Return the noise of each step: what zero gradients become."""
    state, noise = optimizer.init(params), []
    for _ in range(steps):
        zeros = tree.map(lambda leaf: torch.zeros(leaf.shape, dtype=wide(leaf.dtype)), params)
        updates, state = optimizer.update(clipped(zeros, sensitivity), state, params)
        noise.append(updates)
    return noise


# --- the law of the noise ------------------------------------------------------------------------


def assert_standard_normal(sample):
    sample = sample.double().flatten().numpy()
    assert stats.kstest(sample, "norm").pvalue > 1e-3
    variance = (sample**2).sum()
    assert 1e-3 < stats.chi2.cdf(variance, len(sample)) < 1 - 1e-3


def test_independent_noise_is_gaussian_of_the_promised_scale():
    for step in noise_of(independent(), PARAMS, 3):
        for leaf in tree.leaves(step):
            assert_standard_normal(leaf / (1.5 * 2.0 / 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64], ids=str)
def test_noise_has_its_scale_in_every_dtype(dtype):
    params = {"w": torch.zeros(4000, dtype=dtype)}
    (step,) = noise_of(independent(), params, 1)
    assert step["w"].dtype == dtype
    parts = torch.view_as_real(step["w"]) if dtype.is_complex else step["w"]
    assert_standard_normal(parts.float() / (1.5 * 2.0 / 8))


def test_leaves_and_steps_have_independent_noise():
    params = {"a": torch.zeros(3000), "b": torch.zeros(3000)}
    drawn = [leaf for step in noise_of(independent(), params, 4) for leaf in tree.leaves(step)]
    correlations = np.corrcoef(np.stack([leaf.numpy() for leaf in drawn])) - np.eye(len(drawn))
    assert np.abs(correlations).max() < 5 / math.sqrt(3000)


def test_the_tails_are_those_of_float64():
    """Of 2^20 numbers in the tail none is where float32 noise could not be."""
    unit = privacy.noise.standard_normal(random.key(0), torch.zeros(1 << 20))
    assert unit.dtype == torch.float64
    quantiles = stats.norm.cdf(unit.numpy())
    assert len(np.unique(quantiles)) == 1 << 20  # with 24 bits 3 % would come twice
    assert unit.abs().max() > 4.5


def test_correlated_noise_has_the_covariance_of_the_factorization():
    factor, steps = privacy.square_root_factor(4), 12
    params = {"w": torch.zeros(40000)}
    noise = torch.stack([step["w"] for step in noise_of(correlated(), params, steps)]).double()
    spread = factor.sensitivity(steps, privacy.Participation(2, 6))
    noise = noise / (1.5 * spread * 2.0 / 8)
    matrix = torch.zeros(steps, steps, dtype=torch.float64)
    for lag, coefficient in enumerate(factor.coefficients):
        matrix += coefficient * torch.diag(torch.ones(steps - lag, dtype=torch.float64), -lag)
    white = matrix @ noise  # C C^-1 z
    for row in white:
        assert_standard_normal(row)
    inverse = torch.linalg.inv(matrix)
    expected, found = inverse @ inverse.T, noise @ noise.T / noise.shape[1]
    scale = (expected.diag()[:, None] * expected.diag()).sqrt()
    assert ((found - expected) / scale).abs().max() < 6 / math.sqrt(40000)
    sums = noise.cumsum(0).square().mean(1).sqrt()
    deviations = torch.from_numpy(factor.prefix_sum_deviations(steps))
    torch.testing.assert_close(sums, deviations, rtol=6 / math.sqrt(2 * 40000), atol=0)


def test_one_band_is_the_independent_mechanism():
    one = correlated(factor=privacy.square_root_factor(1), participation=privacy.Participation())
    for left, right in zip(
        noise_of(one, PARAMS, 3), noise_of(independent(), PARAMS, 3), strict=True
    ):
        for a, b in zip(tree.leaves(left), tree.leaves(right), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


@both
def test_gradients_are_kept_and_divided_by_the_expected_batch_size(make):
    grads = {"w": torch.randn(40, 50), "b": torch.randn(2000).double()}
    optimizer = make(0.0)
    updates, _ = optimizer.update(clipped(grads), optimizer.init(PARAMS), PARAMS)
    for update, grad in zip(tree.leaves(updates), tree.leaves(grads), strict=True):
        torch.testing.assert_close(update, grad / 8)
    (noise,) = noise_of(make(), PARAMS, 1)
    noisy, _ = make().update(clipped(grads), make().init(PARAMS))
    for update, grad, drawn in zip(*map(tree.leaves, (noisy, grads, noise)), strict=True):
        torch.testing.assert_close(update - drawn, grad / 8, rtol=1e-5, atol=1e-6)


@both
def test_noise_follows_from_the_state_and_nothing_is_written(make):
    optimizer, other = make(key=3), make(key=99)
    state = optimizer.init(PARAMS)
    before = tree.map(torch.clone, state)
    zeros = clipped(tree.zeros_like(PARAMS))
    first, later = optimizer.update(zeros, state)
    again, _ = other.update(zeros, state)  # the key is the state's from then on
    assert all(map(torch.equal, tree.leaves(first), tree.leaves(again)))
    assert all(map(torch.equal, tree.leaves(state), tree.leaves(before)))
    second, _ = optimizer.update(zeros, later)
    assert not any(map(torch.equal, tree.leaves(first), tree.leaves(second)))
    assert later.count == 1
    assert torch.equal(make(key=random.key(3)).init(PARAMS).rng_key, state.rng_key)


# --- within training -----------------------------------------------------------------------------


def losses(params, x, y):
    return (x @ params["w"] + params["b"] - y).square()


def problem():
    params = {"w": torch.zeros(3), "b": torch.zeros(())}
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    return params, (x, x.sum(1))


def step_of(optimizer):
    def step(params, state, *batch):
        sums = per_example.clipped_grad(losses, 0.7)(params, *batch)
        updates, state = optimizer.update(sums, state, params)
        return optim.apply_updates(params, updates), state

    return step


@both
def test_in_a_chain_under_jit(make):
    optimizer = optim.chain(optim.chain(make(), optim.clip(1.0)), optim.adam(0.1))
    step = step_of(optimizer)
    compiled = pf.jit(step, backend="eager")
    params, batch = problem()
    (eager, eager_state), (jitted, state) = [(params, optimizer.init(params))] * 2
    for _ in range(4):
        eager, eager_state = step(eager, eager_state, *batch)
        jitted, state = compiled(jitted, state, *batch)
    assert compiled.trace_count == 1
    for left, right in zip(*map(tree.leaves, ((eager, eager_state), (jitted, state))), strict=True):
        torch.testing.assert_close(left, right)


@both
def test_models_of_a_vmap_with_keys_of_their_own(make):
    params, batch = problem()
    several = tree.stack([params, params])
    keys = random.split(random.key(1), 2)

    def train(params, key):
        optimizer = optim.chain(make(key=key), optim.sgd(0.1))
        state = optimizer.init(params)
        for _ in range(3):
            params, state = step_of(optimizer)(params, state, *batch)
        return params

    together = pf.vmap(train)(several, keys)
    for place in range(2):
        alone = train(params, keys[place])
        for left, right in zip(tree.leaves(together), tree.leaves(alone), strict=True):
            torch.testing.assert_close(left[place], right)
    assert not torch.equal(together["w"][0], together["w"][1])


def test_a_masked_batch_gives_the_sum_of_its_rows():
    params, (x, y) = problem()
    optimizer = independent(0.0)
    for (rows, labels), mask in data.poisson_batches((x, y), 4, key=random.key(2), steps=5):
        sums = per_example.clipped_grad(losses, 0.7, mask=mask)(params, rows, labels)
        found, _ = optimizer.update(sums, optimizer.init(params), params)
        kept = per_example.grads(losses)(params, rows[mask], labels[mask])
        norms = (kept["w"].square().sum(1) + kept["b"].square()).sqrt()
        factors = torch.clamp(0.7 / norms, max=1.0)
        torch.testing.assert_close(found["w"], factors @ kept["w"] / 8)
        torch.testing.assert_close(found["b"], factors @ kept["b"] / 8)


@pytest.mark.slow
def test_compiled_noise_is_that_of_eager():
    def draw(key):
        return privacy.noise.standard_normal(key, torch.zeros(1000))

    torch.testing.assert_close(pf.jit(draw)(random.key(0)), draw(random.key(0)))


# --- what is refused -----------------------------------------------------------------------------


@both
def test_what_was_not_clipped_is_refused(make):
    optimizer = make()
    params, batch = problem()
    state = optimizer.init(params)
    plain = pf.grad(lambda params: losses(params, *batch).sum())(params)
    with pytest.raises(TypeError, match="expected the ClippedGrad"):
        optimizer.update(plain, state, params)
    with pytest.raises(TypeError, match="expected the ClippedGrad"):
        optim.chain(optimizer, optim.sgd(0.1)).update(plain, (state, optim.EmptyState()), params)
    with pytest.raises(TypeError, match="expected the ClippedGrad"):
        optimizer.update(per_example.grads(losses)(params, *batch), state, params)


@both
@pytest.mark.parametrize("sensitivity", [0.0, math.inf, math.nan, -1.0])
def test_a_useless_sensitivity_is_refused_or_makes_nan(make, sensitivity):
    optimizer = make()
    params, _ = problem()
    state = optimizer.init(params)
    sums = clipped(params, sensitivity)
    with pytest.raises(ValueError, match="sensitivity of the clipped gradients is"):
        optimizer.update(sums, state)
    updates, _ = pf.jit(optimizer.update, backend="eager")(sums, state)
    assert all(bool(leaf.isnan().all()) for leaf in tree.leaves(updates))


@both
def test_models_of_a_vmap_with_one_key_are_refused(make):
    optimizer = make()
    params, _ = problem()
    several = tree.stack([params, params])
    with pytest.raises(ValueError, match="share one key"):
        pf.vmap(optimizer.init)(several)
    one = optimizer.init(params)
    with pytest.raises(ValueError, match="share one key"):
        pf.vmap(lambda grads: optimizer.update(clipped(grads), one)[0])(several)


@both
def test_a_sum_that_is_not_of_the_parameters_is_refused(make):
    params, _ = problem()
    optimizer = optim.chain(make(), optim.sgd(0.1))
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"updates.grads\['w'\]"):
        optimizer.update(clipped(params | {"w": torch.zeros(4)}), state, params)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_sum_in_half_precision_is_refused(make, dtype):
    params = {"w": torch.zeros(3, dtype=dtype)}
    optimizer = make()
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"updates.grads\['w'\] is torch.\w*16, expected float32"):
        optimizer.update(clipped(params), state, params)
    grads = per_example.clipped_grad(lambda p, x: x @ p["w"], 2.0)(params, torch.eye(3).to(dtype))
    updates, _ = optimizer.update(grads, state, params)
    assert updates["w"].dtype == dtype


@both
def test_a_negative_noise_multiplier_in_a_tensor(make):
    optimizer = make(noise_multiplier=torch.tensor(-1.0))
    state = optimizer.init(PARAMS)
    with pytest.raises(ValueError, match=r"noise_multiplier is -1.0, expected"):
        optimizer.update(clipped(PARAMS), state, PARAMS)

    def step(noise_multiplier):
        return make(noise_multiplier=noise_multiplier).update(clipped(PARAMS), state, PARAMS)[0]

    assert pf.jit(step, backend="eager")(torch.tensor(-1.0))["w"].isnan().all()
    assert not pf.jit(step, backend="eager")(torch.tensor(0.0))["w"].any()


def test_noise_does_not_come_from_the_keys_of_batches():
    key = random.key(3)
    state = independent(key=key).init(PARAMS)
    assert not torch.equal(state.rng_key, key)
    batches = {tuple(random.fold_in(key, step).tolist()) for step in range(100)}
    for _ in range(100):
        assert tuple(state.rng_key.tolist()) not in batches
        _, state = independent(key=key).update(clipped(PARAMS), state)


def test_a_run_is_no_longer_than_its_factorization():
    optimizer = correlated(steps=2)
    params, _ = problem()
    state = optimizer.init(params)._replace(count=torch.tensor(2))
    with pytest.raises(ValueError, match="all of steps=2 are taken"):
        optimizer.update(clipped(params), state)
    updates, _ = pf.jit(optimizer.update, backend="eager")(clipped(params), state)
    assert all(bool(leaf.isnan().all()) for leaf in tree.leaves(updates))


def test_the_history_of_other_parameters_is_refused():
    optimizer = correlated()
    params, _ = problem()
    other = correlated(factor=privacy.square_root_factor(3)).init(params)
    with pytest.raises(ValueError, match=r"state.history\['b'\]"):
        optimizer.update(clipped(params), other)
    with pytest.raises(TypeError, match="complex64"):
        optimizer.init({"w": torch.zeros(1, dtype=torch.complex64)})


@both
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise_multiplier": -1.0}, ValueError, "noise_multiplier"),
        ({"expected_batch_size": 0}, ValueError, "expected_batch_size"),
        ({"expected_batch_size": torch.tensor(8.0)}, TypeError, "number of examples that were"),
        ({"key": 0.5}, TypeError, "key"),
        ({"key": random.split(random.key(0))}, ValueError, "one key"),
    ],
)
def test_bad_arguments(make, options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"factor": 4}, TypeError, "square_root_factor"),
        ({"participation": 2}, TypeError, "Participation"),
        ({"steps": 0}, ValueError, "steps"),
    ],
)
def test_bad_arguments_of_the_matrix_mechanism(options, error, message):
    with pytest.raises(error, match=message):
        correlated(**options)
