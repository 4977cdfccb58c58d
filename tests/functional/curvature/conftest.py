"""Models small enough to form every matrix, and matrices with known spectra."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from purefn.functional import curvature, tree

F64 = torch.float64


@tree.dataclass
class Affine:
    weight: object
    bias: object


def randn(*shape, seed):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model, what its outputs mean, here and in torch.distributions, and the labels it could get.

    `outcomes` are all the labels of one example where there are finitely many.
    """

    params: Any
    model: Callable[[Any], Any]
    distribution: curvature.OutputDistribution
    torch_distribution: Callable[[Any], Any]
    outcomes: Any = None

    def flat(self, theta):
        """Return the outputs as a function of the vector of parameters."""
        return self.model(tree.ravel(self.params)[1](theta))

    @property
    def theta(self):
        return tree.ravel(self.params)[0]

    @property
    def tangent(self):
        return tree.ravel(self.params)[1](randn(len(self.theta), seed=77))


def linear_regression():
    x = randn(5, 3, seed=0)
    return Problem(
        {"weight": randn(2, 3, seed=1), "bias": randn(2, seed=2)},
        lambda p: x @ p["weight"].mT + p["bias"],
        curvature.gaussian(0.5),
        lambda mean: Independent(Normal(mean, 0.5, validate_args=False), 1, validate_args=False),
    )


def logistic_regression():
    x = randn(5, 3, seed=3)
    return Problem(
        Affine(randn(3, seed=4), randn(seed=5)),
        lambda p: x @ p.weight + p.bias,
        curvature.bernoulli,
        lambda logits: Bernoulli(logits=logits, validate_args=False),
        torch.tensor([0.0, 1.0], dtype=F64),
    )


def tied_classifier():
    x = randn(6, 3, seed=6)

    def model(p):
        hidden = torch.tanh(torch.tanh(x @ p["shared"]) @ p["shared"])
        return hidden @ p["head"].weight + p["head"].bias

    params = {
        "shared": randn(3, 3, seed=7),
        "head": Affine(randn(3, 4, seed=8), randn(4, seed=9)),
        "nothing": None,
    }
    return Problem(
        params,
        model,
        curvature.categorical,
        lambda f: Categorical(logits=f, validate_args=False),
        torch.arange(4),
    )


def sequence_classifier():
    """Three classes at each of two positions, second and third axis."""
    x = randn(4, 3, 2, seed=10)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    return Problem(
        (randn(3, 3, seed=11), [randn(3, 1, seed=12)]),
        lambda p: torch.sin(torch.einsum("cd,ndt->nct", p[0], x) + p[1][0]),
        curvature.categorical,
        lambda f: Independent(
            Categorical(logits=f.movedim(1, -1), validate_args=False), 1, validate_args=False
        ),
        pairs,
    )


def uncertain_regression():
    """The mean and the logarithm of the variance of each of two numbers."""
    x = randn(5, 3, seed=13)
    return Problem(
        {"mean": randn(3, 2, seed=14), "spread": randn(3, 2, seed=15)},
        lambda p: (torch.tanh(x @ p["mean"]), x @ p["spread"]),
        curvature.gaussian_with_variance,
        lambda f: Independent(
            Normal(f[0], torch.exp(0.5 * f[1]), validate_args=False), 1, validate_args=False
        ),
    )


PROBLEMS = [
    linear_regression,
    logistic_regression,
    tied_classifier,
    sequence_classifier,
    uncertain_regression,
]


@pytest.fixture(params=PROBLEMS, ids=lambda make: make.__name__)
def problem(request):
    return request.param()


@pytest.fixture
def problem_of_classes():
    return tied_classifier()


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A symmetric matrix, and the same as an operator on trees."""

    matrix: torch.Tensor
    like: Any

    def operator(self, v):
        vector, unravel = tree.ravel(v)
        return unravel(self.matrix @ vector)

    def vector(self, value):
        return tree.ravel(value)[0]

    def tree(self, vector):
        return tree.ravel(self.like)[1](vector)

    def rows(self, values):
        """Return a tree with a leading axis as a matrix of rows."""
        return torch.stack([self.vector(value) for value in tree.unstack(values)])


def with_spectrum(eigenvalues, seed=0):
    """Return a matrix with these eigenvalues and random eigenvectors, of trees of two leaves."""
    n = len(eigenvalues)
    q = torch.linalg.qr(randn(n, n, seed=seed)).Q
    matrix = q @ torch.diag(torch.as_tensor(eigenvalues, dtype=F64)) @ q.mT
    head = n // 3
    like = {
        "head": torch.zeros(head, dtype=F64),
        "tail": Affine(torch.zeros(n - head, dtype=F64), None),
    }
    return Matrix((matrix + matrix.mT) / 2, like)


@pytest.fixture(scope="session")
def make_matrix():
    return with_spectrum


@pytest.fixture
def positive():
    """A positive definite matrix of 8 rows."""
    return with_spectrum([0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0])


@pytest.fixture
def normal_density():
    return lambda t, mean, width: (
        torch.exp(-0.5 * ((t - mean) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    )
