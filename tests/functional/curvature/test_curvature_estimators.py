"""Hutchinson's estimators and Hutch++: their exact distributions, and their closed forms."""

import itertools
import math

import pytest
import torch

import purefn.functional as pf
from purefn.functional import curvature, random, tree

F64 = torch.float64


def close(found, expected, tol=1e-12):
    torch.testing.assert_close(found, expected, rtol=tol, atol=tol)


def every_sign(like):
    """Return a probe that draws each tree of signs once, and how many there are."""
    vector, unravel = tree.ravel(like)
    signs = [
        torch.tensor(row, dtype=F64) for row in itertools.product([-1.0, 1.0], repeat=len(vector))
    ]
    following = iter(signs)
    return lambda key, like: unravel(next(following)), len(signs)


def off_diagonal(matrix):
    return matrix - torch.diag(matrix.diagonal())


# --- exact distributions: with every probe once, a sample is the population -----------------------


def test_the_trace_has_the_mean_and_variance_of_its_closed_form(positive, key):
    probe, count = every_sign(positive.like)
    value, error = curvature.hutchinson_trace(
        positive.operator, positive.like, key=key, samples=count, probe=probe
    )
    close(value, positive.matrix.trace())
    variance = 2 * off_diagonal(positive.matrix).square().sum()
    close(error**2 * (count - 1), variance)


def test_the_diagonal_has_the_mean_and_variance_of_its_closed_form(positive, key):
    probe, count = every_sign(positive.like)
    value, error = curvature.hutchinson_diagonal(
        positive.operator, positive.like, key=key, samples=count, probe=probe
    )
    assert tree.structure(value) == tree.structure(error) == tree.structure(positive.like)
    close(positive.vector(value), positive.matrix.diagonal())
    variance = off_diagonal(positive.matrix).square().sum(1)
    close(positive.vector(error) ** 2 * (count - 1), variance)


# --- the probes that are drawn -------------------------------------------------------------------

GROUPS, SAMPLES = 240, 25


def pooled(estimator, matrix, key, probe):
    """Return the mean of many samples, its error, and their variance."""

    def group(key):
        estimate = estimator(matrix.operator, matrix.like, key=key, samples=SAMPLES, probe=probe)
        return tuple(tree.ravel(part)[0] for part in estimate)

    values, errors = pf.vmap(group)(random.split(key, GROUPS))
    return values.mean(0), values.std(0) / GROUPS**0.5, (errors**2 * SAMPLES).mean(0)


PROBES = {"rademacher": curvature.rademacher_like, "normal": curvature.normal_like}


@pytest.mark.parametrize("name", PROBES)
def test_drawn_traces_have_that_distribution(name, positive, key):
    a = positive.matrix
    mean, error, variance = pooled(curvature.hutchinson_trace, positive, key, PROBES[name])
    moved = off_diagonal(a) if name == "rademacher" else a
    expected = 2 * moved.square().sum()
    assert ((mean - a.trace()) / error).abs() < 4.5
    assert abs(variance / expected - 1) < 0.15
    # What the closed form promises for the mean of all samples.
    assert abs(error**2 * GROUPS * SAMPLES / expected - 1) < 0.5


@pytest.mark.parametrize("name", PROBES)
def test_drawn_diagonals_have_that_distribution(name, positive, key):
    a = positive.matrix
    mean, error, variance = pooled(curvature.hutchinson_diagonal, positive, key, PROBES[name])
    expected = off_diagonal(a).square().sum(1)
    if name == "normal":
        expected = expected + 2 * a.diagonal() ** 2
    assert ((mean - a.diagonal()) / error).abs().max() < 4.5
    torch.testing.assert_close(variance, expected, rtol=0.2, atol=0)


def test_probes_are_white(key):
    like = {"a": torch.zeros(3, dtype=F64), "b": [torch.zeros(1, 2, dtype=F64)]}
    keys = random.split(key, 4000)
    for probe, fourth in ((curvature.rademacher_like, 1.0), (curvature.normal_like, 3.0)):
        drawn = pf.vmap(lambda key, probe=probe: tree.ravel(probe(key, like))[0])(keys)
        covariance = drawn.mT @ drawn / len(keys)
        assert drawn.mean(0).abs().max() < 4.5 / math.sqrt(len(keys))
        assert (covariance - torch.eye(5)).abs().max() < 4.5 * math.sqrt(2 / len(keys))
        assert abs((drawn**4).mean() / fourth - 1) < 0.1


def test_probes_have_the_dtypes_of_the_tree(key):
    like = {"a": torch.zeros(3, dtype=torch.bfloat16), "b": torch.zeros(2, dtype=F64)}
    for probe in PROBES.values():
        drawn = probe(key, like)
        assert tree.map(lambda leaf: leaf.dtype, drawn) == {"a": torch.bfloat16, "b": F64}
    assert set(curvature.rademacher_like(key, like)["b"].tolist()) <= {-1.0, 1.0}


# --- what follows at once ------------------------------------------------------------------------


def test_estimates_are_the_mean_and_error_of_their_samples(positive, key, variant):
    a, samples = positive.matrix, 7
    z = torch.stack(
        [
            positive.vector(curvature.rademacher_like(k, positive.like))
            for k in random.split(key, samples)
        ]
    )

    def estimates(matrix, key):
        def operator(v):
            return positive.tree(matrix @ positive.vector(v))

        options = {"key": key, "samples": samples}
        trace = curvature.hutchinson_trace(operator, positive.like, **options)
        return trace, curvature.hutchinson_diagonal(operator, positive.like, **options)

    trace, diagonal = variant(estimates)(a, key)
    products = z * (z @ a)
    close(trace.value, products.sum(1).mean())
    close(trace.standard_error, products.sum(1).std() / samples**0.5)
    close(positive.vector(diagonal.value), products.mean(0))
    close(positive.vector(diagonal.standard_error), products.std(0) / samples**0.5)


def test_signs_are_exact_on_a_diagonal_operator(key):
    like = {"w": torch.zeros(4, dtype=F64)}
    d = torch.tensor([1.0, -2.0, 0.0, 5.0], dtype=F64)
    for samples in (1, 3):
        found = curvature.hutchinson_trace(
            lambda v: {"w": d * v["w"]}, like, key=key, samples=samples
        )
        assert found.value == 4
        assert math.isnan(found.standard_error) if samples == 1 else found.standard_error == 0


def test_one_key_gives_one_estimate(positive):
    first, again, other = (
        curvature.hutchinson_trace(
            positive.operator, positive.like, key=random.key(seed), samples=4
        ).value
        for seed in (0, 0, 1)
    )
    assert first == again != other


# --- Hutch++ -------------------------------------------------------------------------------------


def test_hutchpp_is_exact_up_to_its_rank(make_matrix, key, variant):
    low = make_matrix([0.0] * 6 + [-1.0, 4.0, 9.0])

    def trace(matrix, key):
        def operator(v):
            return low.tree(matrix @ low.vector(v))

        return curvature.hutchpp_trace(operator, low.like, key=key, rank=4, samples=2)

    found = variant(trace)(low.matrix, key)
    close(found.value, torch.tensor(12.0, dtype=F64))
    assert found.standard_error < 1e-12


def test_hutchpp_of_full_rank_is_the_trace(positive, key):
    found = curvature.hutchpp_trace(positive.operator, positive.like, key=key, rank=8, samples=1)
    close(found.value, positive.matrix.trace())


def test_hutchpp_is_unbiased_and_better_where_the_spectrum_decays(make_matrix, key):
    decaying = make_matrix([2.0 ** (4 - i) for i in range(20)])

    def estimates(key):
        plus = curvature.hutchpp_trace(decaying.operator, decaying.like, key=key, rank=5, samples=5)
        plain = curvature.hutchinson_trace(
            decaying.operator, decaying.like, key=key, samples=15, probe=curvature.rademacher_like
        )
        return plus.value, plus.standard_error, plain.value

    plus, errors, plain = pf.vmap(estimates)(random.split(key, 400))
    z = (plus.mean() - decaying.matrix.trace()) / (plus.std() / 20)
    assert abs(z) < 4.5
    assert abs((errors**2).mean() / plus.var() - 1) < 0.4
    assert plus.std() < plain.std() / 5


# --- refusals ------------------------------------------------------------------------------------


LIKE = {"w": torch.zeros(3)}


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"samples": 0}, ValueError, r"hutchinson_trace: expected samples >= 1, got 0"),
            ({"samples": 2.0}, TypeError, r"hutchinson_trace: expected an int for samples"),
            ({"samples": True}, TypeError, r"hutchinson_trace: expected an int for samples"),
        ],
    )
    def test_samples(self, options, error, message):
        with pytest.raises(error, match=message):
            curvature.hutchinson_trace(lambda v: v, LIKE, key=random.key(0), **options)

    def test_a_rank_above_the_size(self):
        with pytest.raises(ValueError, match=r"hutchpp_trace: expected rank >= 1 and <= 3, the si"):
            curvature.hutchpp_trace(lambda v: v, LIKE, key=random.key(0), rank=4, samples=1)

    @pytest.mark.parametrize(
        ("operator", "message"),
        [
            (lambda v: {"w": v["w"][:2]}, r"operator\(v\)\['w'\] is float32 of shape \(2,\)"),
            (lambda v: {"w": v["w"].double()}, r"operator\(v\)\['w'\] is float64"),
            (lambda v: {"x": v["w"]}, r"operator\(v\)"),
        ],
    )
    def test_an_operator_that_is_not_square(self, operator, message):
        with pytest.raises(ValueError, match=message):
            curvature.hutchinson_trace(operator, LIKE, key=random.key(0), samples=1)

    def test_an_operator_that_is_no_function(self):
        with pytest.raises(TypeError, match=r"expected a function v -> A v for operator, got flo"):
            curvature.hutchinson_trace(torch.eye(3), LIKE, key=random.key(0), samples=1)

    def test_a_probe_unlike_the_tree(self):
        with pytest.raises(ValueError, match=r"hutchinson_diagonal: .*probe\['w'\]"):
            curvature.hutchinson_diagonal(
                lambda v: v,
                LIKE,
                key=random.key(0),
                samples=1,
                probe=lambda key, like: {"w": torch.zeros(2)},
            )

    def test_trees_without_floating_leaves(self):
        with pytest.raises(TypeError, match=r"like\['step'\] is int64.*tree.partition"):
            curvature.dense(lambda v: v, {"w": torch.zeros(2), "step": torch.tensor(3)})
        with pytest.raises(ValueError, match=r"dense: expected a tree of tensors for like"):
            curvature.dense(lambda v: v, {})


def test_dense_is_the_matrix(positive, variant):
    # Not symmetric, so that rows are not taken for columns.
    skewed = torch.triu(positive.matrix)

    def dense(matrix):
        return curvature.dense(lambda v: positive.tree(matrix @ positive.vector(v)), positive.like)

    close(variant(dense)(skewed), skewed)
