"""Diagonals of Fisher matrices against closed forms and the matrices that `curvature` has."""

import pytest
import torch
from torch.nn import functional

import purefn.functional as pf
from purefn.functional import curvature, per_example, random, tree


def plain(fun):
    return fun


def staged(fun):
    return pf.jit(fun, backend="eager")


WAYS = pytest.mark.parametrize(
    ("how", "method"), [(plain, "auto"), (plain, "materialize"), (staged, "auto")]
)
DISTRIBUTIONS = pytest.mark.parametrize(
    "distribution",
    [curvature.categorical, curvature.bernoulli, curvature.gaussian(0.5)],
    ids=["categorical", "bernoulli", "gaussian"],
)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def network(params, images):
    h = functional.conv2d(images, params["conv"], padding=1).tanh().flatten(1)
    return functional.linear(h, params["w"], params["b"])


torch.manual_seed(0)
PARAMS = {"conv": randn(2, 1, 3, 3), "w": randn(4, 18) / 4, "b": randn(4)}
IMAGES = randn(5, 1, 3, 3)


def flat(values):
    return torch.cat([leaf.flatten() for leaf in tree.leaves(values)])


def logistic(params, x):
    return x @ params["w"]


def test_logistic_regression_has_its_closed_form(oracle):
    """The information is X^T diag(p (1 - p)) X / N."""
    x, params = randn(7, 3), {"w": randn(3)}
    p = (x @ params["w"]).sigmoid()
    expected = (x.T @ torch.diag(p * (1 - p)) @ x).diagonal() / 7
    found = per_example.fisher_diagonal(logistic, curvature.bernoulli)(params, x)
    oracle.assert_equal(found, {"w": expected})


def test_softmax_regression_has_its_closed_form(oracle):
    x, params = randn(7, 3), {"w": randn(4, 3)}
    p = (x @ params["w"].T).softmax(1)
    expected = torch.einsum("bc,bd->cd", p * (1 - p), x.square()) / 7
    model = lambda params, x: x @ params["w"].T  # noqa: E731
    found = per_example.fisher_diagonal(model, curvature.categorical)(params, x)
    oracle.assert_equal(found, {"w": expected})


@WAYS
@DISTRIBUTIONS
def test_exact_diagonal_is_that_of_fvp(oracle, how, method, distribution):
    def product(v):
        return curvature.fvp(lambda params: network(params, IMAGES), distribution, (PARAMS,), (v,))

    expected = curvature.dense(product, PARAMS).diagonal()
    found = how(per_example.fisher_diagonal(network, distribution, method=method))(PARAMS, IMAGES)
    assert tree.structure(found) == tree.structure(PARAMS)
    oracle.assert_equal(flat(found), expected)


@pytest.mark.parametrize("method", ["auto", "materialize"])
@DISTRIBUTIONS
def test_sampled_diagonal_is_that_of_sampled_fvp(oracle, method, distribution):
    """The same key draws the same labels in both."""

    def product(v):
        return curvature.sampled_fvp(
            lambda params: network(params, IMAGES), distribution, (PARAMS,), (v,),
            key=random.key(3), samples=3,
        )  # fmt: skip

    found = per_example.fisher_diagonal(
        network, distribution, key=random.key(3), samples=3, method=method, chunk_size=4
    )(PARAMS, IMAGES)
    oracle.assert_equal(flat(found), curvature.dense(product, PARAMS).diagonal())


def test_labels_are_drawn_in_a_compiled_program(oracle):
    def diagonal(key, params, images):
        return per_example.fisher_diagonal(network, curvature.categorical, key=key)(params, images)

    key = random.key(3)
    found = pf.jit(diagonal, backend="eager")(key, PARAMS, IMAGES)
    oracle.assert_equal(found, diagonal(key, PARAMS, IMAGES))


@WAYS
def test_empirical_diagonal_is_the_mean_of_squares(oracle, how, method):
    labels = torch.tensor([0, 1, 2, 3, 0])

    def losses_fn(params, images, labels):
        return functional.cross_entropy(network(params, images), labels, reduction="none")

    gradients = oracle.gradients(losses_fn, PARAMS, IMAGES, labels)
    diagonal = per_example.empirical_fisher_diagonal(losses_fn, method=method, chunk_size=2)
    found = how(diagonal)(PARAMS, IMAGES, labels)
    oracle.assert_equal(found, [leaf.square().mean(0) for leaf in gradients])


def test_refusals():
    implicit = curvature.OutputDistribution(
        curvature.categorical.log_prob, curvature.categorical.sample
    )
    with pytest.raises(ValueError, match="no closed form"):
        per_example.fisher_diagonal(network, implicit)
    with pytest.raises(ValueError, match="samples=2 labels cannot be drawn without key"):
        per_example.fisher_diagonal(network, curvature.categorical, samples=2)
    with pytest.raises(ValueError, match="mix examples"):
        per_example.fisher_diagonal(
            lambda params, x: network(params, x - x.mean(0)), curvature.categorical
        )(PARAMS, IMAGES)
    pair = per_example.fisher_diagonal(lambda p, x: (network(p, x), x), curvature.categorical)
    with pytest.raises(TypeError, match="expected a floating tensor"):
        pair(PARAMS, IMAGES)
