"""Projected gradients: the projection itself, what it preserves, and TRAK's formula."""

import math

import pytest
import torch
from torch.nn import functional

import purefn.functional as pf
from purefn.functional import per_example, random
from purefn.functional.per_example import projections

ENTRIES = pytest.mark.parametrize("entries", ["rademacher", "normal"])


def plain(fun):
    return fun


def staged(fun):
    return pf.jit(fun, backend="eager")


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def linear(params, x):
    return x @ params["w"]


def network(params, images):
    h = functional.conv2d(images, params["conv"], padding=1).tanh().flatten(1)
    return functional.linear(h, params["w"]).logsumexp(1)


torch.manual_seed(0)
PARAMS = {"conv": randn(2, 1, 3, 3), "w": randn(4, 18)}
IMAGES = randn(5, 1, 3, 3)


def projection(size, dim, key, entries):
    """Return the matrix: the gradients of a linear loss of unit vectors are unit vectors."""
    features = per_example.projected_grads(linear, dim, key=key, entries=entries)
    return math.sqrt(dim) * features({"w": torch.zeros(size).double()}, torch.eye(size).double())


@pytest.mark.parametrize(
    ("how", "entries", "block"),
    [
        (plain, "rademacher", 2**20),
        (plain, "rademacher", 40),
        (plain, "normal", 7),
        (staged, "rademacher", 40),
    ],
)
def test_features_are_the_products_with_one_matrix(oracle, monkeypatch, how, entries, block):
    monkeypatch.setattr(projections, "BLOCK", block)
    x, params = randn(6, 11), {"w": torch.zeros(11).double()}
    matrix = projection(11, 9, random.key(1), entries)
    project = lambda key, x: per_example.projected_grads(  # noqa: E731
        linear, 9, key=key, entries=entries
    )(params, x)
    oracle.assert_equal(how(project)(random.key(1), x), x @ matrix / 3)


def test_entries_are_what_they_are_called():
    signs = projection(200, 100, random.key(0), "rademacher")
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    normal = projection(200, 100, random.key(0), "normal")
    for matrix in (signs, normal):
        # Five standard deviations of a mean of 20000, and of correlations of 200 rows.
        assert matrix.mean().abs() < 5 / math.sqrt(matrix.numel())
        assert (matrix.square().mean() - 1).abs() < 5 * math.sqrt(2 / matrix.numel())
        assert (torch.corrcoef(matrix) - torch.eye(200)).abs().max() < 6 / math.sqrt(100)
        assert (torch.corrcoef(matrix.T) - torch.eye(100)).abs().max() < 6 / math.sqrt(200)


@ENTRIES
def test_inner_products_survive_as_johnson_and_lindenstrauss_say(oracle, entries):
    """Their variance is (|g|^2 |h|^2 + (g . h)^2) / dim, or less where the entries are signs."""
    dim = 2000
    gradients = oracle.gradients(network, PARAMS, IMAGES)
    rows = torch.cat([leaf.flatten(1) for leaf in gradients], 1)
    features = per_example.projected_grads(network, dim, key=random.key(2), entries=entries)
    phi = features(PARAMS, IMAGES)
    exact = rows @ rows.T
    norms = exact.diagonal()
    deviation = ((norms[:, None] * norms + exact.square()) / dim).sqrt()
    errors = (phi @ phi.T - exact) / deviation
    assert errors.abs().max() < 4.5
    assert errors.abs().max() > 0.1


def test_the_mean_over_keys_is_the_inner_product():
    x = randn(2, 6)
    params = {"w": torch.zeros(6).double()}

    def product(key):
        first, second = per_example.projected_grads(linear, 16, key=key)(params, x)
        return first @ second

    products = pf.vmap(product)(random.split(random.key(0), 150))
    deviation = products.std() / math.sqrt(150)
    assert (products.mean() - x[0] @ x[1]).abs() < 4 * deviation


def test_leaves_and_keys_have_matrices_of_their_own():
    def both(params, x):
        return x @ params["a"] + x @ params["b"]

    x = torch.eye(40).double()
    zeros = torch.zeros(40).double()
    features = per_example.projected_grads(both, 50, key=random.key(0))({"a": zeros, "b": zeros}, x)
    sums = (features * math.sqrt(50)).round().unique().tolist()
    assert sums == [-2.0, 0.0, 2.0]
    first, second = (projection(40, 50, random.key(seed), "rademacher") for seed in (0, 1))
    assert (first == second).double().mean().sub(0.5).abs() < 5 * 0.5 / math.sqrt(2000)


def test_batches_and_precisions_share_the_projection(oracle):
    features = per_example.projected_grads(network, 32, key=random.key(5))
    whole = features(PARAMS, IMAGES)
    oracle.assert_equal(features(PARAMS, IMAGES[2:4]), whole[2:4])
    single = features({k: v.float() for k, v in PARAMS.items()}, IMAGES.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), whole, rtol=1e-4, atol=1e-5)


# --- TRAK ----------------------------------------------------------------------------------------


def test_trak_is_the_formula_of_park_et_al(oracle):
    train, test, weights = randn(12, 4), randn(3, 4), torch.rand(12).double()
    expected = test @ torch.linalg.inv(train.T @ train + 0.1 * torch.eye(4).double()) @ train.T
    expected = expected @ torch.diag(weights)
    oracle.assert_equal(per_example.trak(train, test, weights=weights, ridge=0.1), expected)


def test_trak_of_linear_regression_has_the_hat_matrix(oracle):
    """With unprojected features of a linear model, the scores of the training set are X X^+."""
    x = randn(9, 3)
    scores = per_example.trak(x, x)
    oracle.assert_equal(scores, x @ torch.linalg.pinv(x), rtol=1e-11)


def test_refusals():
    key = random.key(0)
    with pytest.raises(ValueError, match="int >= 1 for dim, got 0"):
        per_example.projected_grads(linear, 0, key=key)
    with pytest.raises(ValueError, match="for entries, got 'sparse'"):
        per_example.projected_grads(linear, 2, key=key, entries="sparse")
    mixing = per_example.projected_grads(lambda p, x: linear(p, x - x.mean(0)), 2, key=key)
    with pytest.raises(ValueError, match="mix examples"):
        mixing({"w": randn(3)}, randn(4, 3))
    with pytest.raises(ValueError, match=r"\(train, dim\) and \(test, dim\)"):
        per_example.trak(randn(3, 2), randn(3, 4))
    with pytest.raises(ValueError, match=r"weights of shape \(3,\)"):
        per_example.trak(randn(3, 2), randn(3, 2), weights=randn(2))
