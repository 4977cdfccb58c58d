"""epsilon against published values, dp-accounting's own tests, integrals; its inverses."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from purefn.optim import privacy
from purefn.optim.privacy import accountants, accounting

POISSON = privacy.poisson(0.1)
FIXED = privacy.fixed_size(batch_size=100, dataset_size=1000)
SAMPLINGS = [POISSON, FIXED, privacy.full_batch()]


def gaussian_delta(shift, epsilon):
    """delta of N(0, 1) and N(shift, 1): Balle and Wang 2018, arXiv:1805.06530, theorem 8."""
    return special.ndtr(shift / 2 - epsilon / shift) - math.exp(epsilon) * special.ndtr(
        -shift / 2 - epsilon / shift
    )


# --- values that others have published -----------------------------------------------------------


def test_epsilon_of_the_published_run():
    found = privacy.epsilon(3.0, 1e-6, steps=512, sampling=POISSON)
    assert found == pytest.approx(3.77, abs=0.005)


def test_the_value_of_dp_accountings_own_test_of_privacy_loss_distributions():
    """PldPrivacyAccountantTest.test_poisson_subsampled_gaussian, dp-accounting 0.6.0."""
    found = privacy.epsilon(0.5, 0.15594, steps=3, sampling=privacy.poisson(0.2))
    assert found == pytest.approx(1.0, abs=1e-3)


def test_the_values_of_dp_accountings_own_tests_of_gaussians():
    """test_gaussian_basic and test_compute_epsilon_delta_gaussian, dp-accounting 0.6.0."""
    full = privacy.full_batch()
    found = privacy.epsilon(math.sqrt(3), 0.126936, steps=3, sampling=full)
    assert found == pytest.approx(1.0, abs=1e-4)
    found = privacy.epsilon(4.530877117, 1e-6, steps=1, sampling=full, accountant="rdp")
    assert found == pytest.approx(1.0, abs=2e-3)  # theirs has a thousand times as many orders


def test_the_renyi_divergences_of_dp_accountings_own_test():
    """RdpPrivacyAccountantTest.test_compute_rdp_poisson_sampled_gaussian, dp-accounting 0.6.0."""
    rdp = accountants.import_dp_accounting().rdp
    accountant = rdp.RdpAccountant([1.5, 2.5, 5, 50, 100])
    accountant.compose(accountants._event(2.5, privacy.poisson(0.01)), 50)
    recorded = [6.70579741e-04, 1.08548710e-03, 2.18075656e-03, 2.38460375e-02, 1.67416308e02]
    np.testing.assert_allclose(accountant._rdp, recorded, rtol=1e-4)


# --- values computed here, without dp-accounting -------------------------------------------------


def integrated_divergence(noise_multiplier, probability, order):
    """The Renyi divergence of a Poisson-sampled Gaussian (Mironov et al. 2019, section 3).

    log E_{z ~ N(0, s^2)} ((1 - q) + q exp((2 z - 1) / (2 s^2)))^order / (order - 1)
    """
    s, q = noise_multiplier, probability

    def log_integrand(z):
        ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * s**2))
        return order * ratio - z**2 / (2 * s**2) - math.log(s * math.sqrt(2 * math.pi))

    grid = np.linspace(-20 * s, order + 20 * s, 20001)
    return special.logsumexp(log_integrand(grid), b=grid[1] - grid[0]) / (order - 1)


@pytest.mark.parametrize(
    ("noise_multiplier", "probability", "steps"), [(3.0, 0.1, 512), (1.1, 0.01, 1000)]
)
def test_rdp_against_the_integral(noise_multiplier, probability, steps):
    delta = 1e-6
    orders = np.concatenate([np.arange(1.5, 10.9, 0.1), np.arange(11, 64)])
    divergences = [
        steps * integrated_divergence(noise_multiplier, probability, order) for order in orders
    ]
    # Canonne, Kamath and Steinke 2020, arXiv:2004.00010, proposition 12.
    conversions = (
        np.array(divergences) + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    )
    found = privacy.epsilon(
        noise_multiplier,
        delta,
        steps=steps,
        sampling=privacy.poisson(probability),
        accountant="rdp",
    )
    assert found == pytest.approx(conversions.min(), rel=1e-6)


def subsampled_delta(noise_multiplier, probability, epsilon):
    """delta of one Poisson step, by integrating both directions of adding and removing."""
    s, q = noise_multiplier, probability
    points = np.linspace(-15 * s, 15 * s + 1, 400_001)
    without = stats.norm.pdf(points, 0, s)
    with_it = (1 - q) * without + q * stats.norm.pdf(points, 1, s)
    both = [with_it - math.exp(epsilon) * without, without - math.exp(epsilon) * with_it]
    return max(integrate.trapezoid(np.maximum(gap, 0), points) for gap in both)


@pytest.mark.parametrize(("noise_multiplier", "probability"), [(2.0, 0.3), (1.0, 0.05)])
def test_pld_of_one_step_against_the_integral(noise_multiplier, probability):
    sampling = privacy.poisson(probability)
    for epsilon in (0.1, 0.5):
        delta = subsampled_delta(noise_multiplier, probability, epsilon)
        found = privacy.epsilon(noise_multiplier, delta, steps=1, sampling=sampling)
        assert found == pytest.approx(epsilon, abs=3e-4)


@given(st.floats(0.3, 30.0), st.integers(1, 2000), st.floats(1e-9, 1e-2))
def test_full_batches_are_one_gaussian(noise_multiplier, steps, delta):
    found = privacy.epsilon(noise_multiplier, delta, steps=steps, sampling=privacy.full_batch())
    shift = math.sqrt(steps) / noise_multiplier
    if gaussian_delta(shift, 0.0) < delta:
        assert found == 0
    elif found < 300:  # where the closed form itself has digits
        assert gaussian_delta(shift, found) == pytest.approx(delta, rel=1e-5)


# --- fixed sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.05, 1.0])
def test_one_step_of_fixed_size_is_amplified_by_its_fraction(fraction):
    """Balle, Barthe and Gaboardi 2018, arXiv:1807.01647, theorem 9, of a sum that moves by 2 C."""
    noise_multiplier, base = 1.7, 1.3
    delta = fraction * gaussian_delta(2 / noise_multiplier, base)
    sampling = privacy.fixed_size(round(1000 * fraction), 1000)
    found = privacy.epsilon(noise_multiplier, delta, steps=1, sampling=sampling)
    assert found == pytest.approx(math.log1p(fraction * math.expm1(base)), abs=3e-4)


def test_fixed_batches_of_all_the_data_are_full_batches_with_half_the_noise():
    everything = privacy.fixed_size(50, 50)
    for steps in (1, 40):
        found = privacy.epsilon(5.0, 1e-5, steps=steps, sampling=everything)
        replaced = privacy.epsilon(2.5, 1e-5, steps=steps, sampling=privacy.full_batch())
        assert found == pytest.approx(replaced, rel=1e-3)
        assert found >= replaced - 1e-9


@pytest.mark.parametrize("steps", [1, 20, 300])
def test_fixed_sizes_lie_between_an_attack_and_renyi_divergences(steps):
    """The attack: all gradients are 0 but one, +C in one data set and -C in the other."""
    pld = accountants.import_dp_accounting().pld.privacy_loss_distribution
    relation = accountants._relation(FIXED)
    attack = pld.from_gaussian_mechanism(3.0, sampling_prob=0.1, neighboring_relation=relation)
    possible = attack.self_compose(steps).get_epsilon_for_delta(1e-6)
    found = privacy.epsilon(3.0, 1e-6, steps=steps, sampling=FIXED)
    loose = privacy.epsilon(3.0, 1e-6, steps=steps, sampling=FIXED, accountant="rdp")
    assert possible <= found <= loose


# --- inverses and order --------------------------------------------------------------------------


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize("sampling", [POISSON, privacy.full_batch()], ids=str)
def test_noise_multiplier_for_inverts_epsilon(sampling, accountant):
    options = {"steps": 50, "sampling": sampling, "accountant": accountant}
    noise = privacy.noise_multiplier_for(0.7, 1e-5, **options)
    assert privacy.epsilon(noise, 1e-5, **options) <= 0.7
    assert privacy.epsilon(noise * (1 - 2e-5), 1e-5, **options) > 0.7


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("budget", [1e-12, 1e-10, 1e-9])
def test_noise_multiplier_for_is_least_where_next_to_nothing_may_be_told(sampling, budget):
    options = {"steps": 1, "sampling": sampling}
    noise = privacy.noise_multiplier_for(budget, 1e-5, **options)
    assert privacy.epsilon(noise, 1e-5, **options) <= budget
    assert privacy.epsilon(noise * (1 - 2e-5), 1e-5, **options) > budget


def test_noise_multiplier_for_tries_little_where_trials_are_slow(monkeypatch):
    """With privacy loss distributions, each takes seconds there."""
    tried = []
    cost = accounting._epsilon
    monkeypatch.setattr(accounting, "_epsilon", lambda *given: tried.append(given) or cost(*given))
    options = {"steps": 1, "sampling": POISSON, "accountant": "rdp"}
    noise = privacy.noise_multiplier_for(1e5, 1e-5, **options)
    assert len(tried) <= 8
    assert privacy.epsilon(noise, 1e-5, **options) <= 1e5
    assert privacy.epsilon(noise * (1 - 2e-5), 1e-5, **options) > 1e5


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize("sampling", [POISSON, privacy.full_batch()], ids=str)
def test_steps_for_inverts_epsilon(sampling, accountant):
    options = {"sampling": sampling, "accountant": accountant}
    steps = privacy.steps_for(2.0, 1e-5, noise_multiplier=4.0, **options)
    assert privacy.epsilon(4.0, 1e-5, steps=steps, **options) <= 2.0
    assert privacy.epsilon(4.0, 1e-5, steps=steps + 1, **options) > 2.0


def test_the_inverses_of_fixed_sizes():
    noise = privacy.noise_multiplier_for(1.0, 1e-5, steps=20, sampling=FIXED)
    assert privacy.epsilon(noise, 1e-5, steps=20, sampling=FIXED) == pytest.approx(1.0, rel=1e-4)
    assert privacy.steps_for(1.0, 1e-5, noise_multiplier=noise, sampling=FIXED) == 20


def test_steps_for_may_be_none_and_noise_may_be_out_of_reach():
    full = privacy.full_batch()
    assert privacy.steps_for(0.1, 1e-5, noise_multiplier=1.0, sampling=full) == 0
    assert privacy.steps_for(0.1, 1e-5, noise_multiplier=0.0, sampling=full) == 0
    for budget in (1e9, 1e300):
        with pytest.raises(ValueError, match="next to no noise"):
            privacy.noise_multiplier_for(budget, 1e-5, steps=1, sampling=full)
    with pytest.raises(ValueError, match="out of reach"):
        privacy.noise_multiplier_for(0.5, 1e-5, steps=10**30, sampling=full)


@settings(max_examples=10)
@given(
    st.floats(0.8, 10.0),
    st.floats(0.01, 0.9),
    st.integers(1, 300),
    st.floats(1e-8, 1e-3),
    st.sampled_from(["noise", "probability", "steps", "delta"]),
)
def test_epsilon_is_monotone(noise, probability, steps, delta, worse):
    assert_worse(noise, probability, steps, delta, worse, "rdp")


@pytest.mark.parametrize("worse", ["noise", "probability", "steps", "delta"])
def test_epsilon_of_privacy_loss_distributions_is_monotone(worse):
    assert_worse(4.0, 0.2, 37, 1e-5, worse, "pld")


def assert_worse(noise, probability, steps, delta, worse, accountant):
    def at(noise, probability, steps, delta):
        sampling = privacy.poisson(probability)
        return privacy.epsilon(noise, delta, steps=steps, sampling=sampling, accountant=accountant)

    before = {"noise": noise, "probability": probability, "steps": steps, "delta": delta}
    after = {
        "noise": noise / 1.2,
        "probability": min(1.0, 1.2 * probability),
        "steps": steps * 2,
        "delta": delta / 3,
    }
    assert at(**before | {worse: after[worse]}) > at(**before) > 0


def test_every_relation_is_covered_and_the_ends_are_exact():
    for sampling in SAMPLINGS:
        for accountant in ("rdp", "pld"):
            options = {"sampling": sampling, "accountant": accountant}
            assert privacy.epsilon(1.0, 1e-5, steps=0, **options) == 0
            assert privacy.epsilon(0.0, 1e-5, steps=1, **options) == math.inf
    whole = privacy.epsilon(5.0, 1e-5, steps=7, sampling=privacy.poisson(1.0))
    exact = privacy.epsilon(5.0, 1e-5, steps=7, sampling=privacy.full_batch())
    assert whole == pytest.approx(exact, rel=1e-3)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sampling": "shuffle"}, TypeError, "Chua et al. 2024"),
        ({"sampling": "poisson"}, TypeError, "privacy.poisson"),
        ({"sampling": 0.1}, TypeError, "privacy.poisson"),
        ({"accountant": "moments"}, ValueError, "'pld', 'rdp'"),
        ({"delta": 0.0}, ValueError, r"delta: .*\(0, 1\)"),
        ({"delta": 1}, ValueError, "delta"),
        ({"noise_multiplier": -1.0}, ValueError, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, ValueError, "noise_multiplier: expected a finite"),
        ({"noise_multiplier": None}, TypeError, "noise_multiplier"),
        ({"steps": -1}, ValueError, "steps"),
        ({"steps": 1.0}, TypeError, "steps"),
    ],
)
def test_refusals(options, error, message):
    given = {"noise_multiplier": 1.0, "delta": 1e-5, "steps": 1, "sampling": POISSON} | options
    with pytest.raises(error, match=message):
        privacy.epsilon(given.pop("noise_multiplier"), given.pop("delta"), **given)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: privacy.poisson(0), ValueError, "probability"),
        (lambda: privacy.poisson(1.01), ValueError, "probability"),
        (lambda: privacy.poisson("0.1"), TypeError, "probability"),
        (lambda: privacy.fixed_size(11, 10), ValueError, "at most dataset_size=10"),
        (lambda: privacy.fixed_size(0, 10), ValueError, "batch_size"),
        (lambda: privacy.fixed_size(0.1, 10), TypeError, "batch_size"),
        (
            lambda: privacy.noise_multiplier_for(0, 1e-5, steps=1, sampling=POISSON),
            ValueError,
            "epsilon",
        ),
        (
            lambda: privacy.steps_for(-1, 1e-5, noise_multiplier=1, sampling=POISSON),
            ValueError,
            "epsilon",
        ),
    ],
)
def test_refusals_of_the_others(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_without_dp_accounting_the_extra_is_named(monkeypatch):
    import importlib

    def missing(module):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module.partition(".")[0])

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"purefn\[privacy\]"):
        privacy.epsilon(1.0, 1e-5, steps=1, sampling=POISSON)
