"""Lanczos, its spectra, and power iteration, against dense eigenvalues and scipy."""

import math

import numpy
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import curvature, random, tree

F64 = torch.float64


def close(found, expected, tol=1e-10):
    torch.testing.assert_close(found, expected, rtol=tol, atol=tol)


def on(matrix, tensor):
    """Return the operator of a tensor on the trees of a matrix."""
    return lambda v: matrix.tree(tensor @ matrix.vector(v))


def start_of(matrix, key):
    return curvature.normal_like(key, matrix.like)


# --- Lanczos -------------------------------------------------------------------------------------

spectra = st.lists(st.integers(-4, 4), min_size=3, max_size=9)


@given(spectra, st.integers(0, 99), st.data())
def test_lanczos_is_a_tridiagonalization(make_matrix, spectrum, seed, data):
    """Also where eigenvalues repeat, so that the Krylov subspace ends early."""
    matrix = make_matrix([float(value) for value in spectrum], seed)
    steps = data.draw(st.integers(1, len(spectrum)))
    start = start_of(matrix, random.key(seed))
    found = curvature.lanczos(matrix.operator, start, steps)
    q, a = matrix.rows(found.basis), matrix.matrix
    beside = torch.diag(found.off_diagonal, 1)
    t = torch.diag(found.diagonal) + beside + beside.mT
    close(q @ q.mT, torch.eye(steps, dtype=F64), 1e-12)
    close(q[0], matrix.vector(start) / matrix.vector(start).norm())
    close(q @ a @ q.mT, t, 1e-11)
    rest = a @ q.mT - q.mT @ t
    assert rest[:, :-1].abs().max() < 1e-11 if steps > 1 else True
    close(rest[:, -1].norm(), found.residual, 1e-11)


@given(spectra, st.integers(0, 99))
def test_all_steps_find_all_eigenvalues(make_matrix, spectrum, seed):
    matrix = make_matrix([float(value) for value in spectrum], seed)
    start = start_of(matrix, random.key(seed))
    found = curvature.ritz_pairs(curvature.lanczos(matrix.operator, start, len(spectrum)))
    close(found.values, torch.tensor(sorted(spectrum), dtype=F64))
    x = matrix.rows(found.vectors)
    close(x @ matrix.matrix, found.values[:, None] * x)
    assert found.residuals.max() < 1e-11


@pytest.mark.parametrize("matrix", [torch.eye(5), torch.zeros(5, 5)], ids=["identity", "zero"])
def test_operators_without_a_direction(matrix, variant):
    def pairs(start):
        return curvature.ritz_pairs(curvature.lanczos(lambda v: matrix.to(v) @ v, start, 5))

    found = variant(pairs)(torch.arange(5, dtype=F64))
    close(found.values, matrix.diagonal().to(F64))
    close(found.vectors @ found.vectors.mT, torch.eye(5, dtype=F64), 1e-12)


def test_ritz_pairs_are_the_outer_eigenpairs_of_scipy(make_matrix, key, variant):
    values = torch.cat([torch.linspace(-1, 1, 56), torch.tensor([-9.0, 5.0, 8.0, 12.0])])
    matrix = make_matrix(values.tolist())

    def pairs(tensor, start):
        return curvature.ritz_pairs(curvature.lanczos(on(matrix, tensor), start, 20))

    found = variant(pairs)(matrix.matrix, start_of(matrix, key))
    expected, vectors = scipy.sparse.linalg.eigsh(matrix.matrix.numpy(), k=4, which="LM")
    outer = [0, -3, -2, -1]
    close(found.values[outer], torch.from_numpy(numpy.sort(expected)), 1e-9)
    x = matrix.rows(found.vectors)
    overlaps = (x[outer] @ torch.from_numpy(vectors[:, numpy.argsort(expected)])).abs()
    close(overlaps, torch.eye(4, dtype=F64), 1e-6)
    residuals = (x @ matrix.matrix - found.values[:, None] * x).norm(dim=1)
    close(residuals, found.residuals, 1e-11)
    # A residual bounds the distance to an eigenvalue.
    distances = (found.values[:, None] - torch.linalg.eigvalsh(matrix.matrix)).abs().amin(1)
    assert (distances <= found.residuals + 1e-11).all()


def test_a_basis_stays_orthogonal_where_plain_lanczos_loses_it(make_matrix, key):
    matrix = make_matrix(torch.logspace(-8, 4, 60).tolist())
    found = curvature.lanczos(matrix.operator, start_of(matrix, key), 60)
    q = matrix.rows(found.basis)
    close(q @ q.mT, torch.eye(60, dtype=F64), 1e-12)


# --- spectra -------------------------------------------------------------------------------------


def test_the_quadrature_has_the_moments_of_each_probe(positive, key, variant):
    """Gauss: exact for degrees up to `2 steps - 1`."""
    steps, probes = 3, 2

    def spectrum(tensor, key):
        return curvature.lanczos_spectrum(
            on(positive, tensor), positive.like, key=key, steps=steps, probes=probes
        )

    nodes, weights = variant(spectrum)(positive.matrix, key)
    assert nodes.shape == weights.shape == (probes, steps)
    for row, k in enumerate(random.split(key, probes)):
        z = positive.vector(curvature.rademacher_like(k, positive.like))
        for degree in range(2 * steps):
            moment = z @ torch.linalg.matrix_power(positive.matrix, degree) @ z
            close((weights[row] * nodes[row] ** degree).sum() / moment, torch.ones((), dtype=F64))


def test_sums_over_the_spectrum_of_a_diagonal_operator_are_exact(key):
    d = torch.tensor([0.5, 1.0, 2.0, 3.0, 7.0], dtype=F64)
    found = curvature.lanczos_spectrum(
        lambda v: d * v, torch.zeros_like(d), key=key, steps=5, probes=3
    )
    log_determinant = curvature.spectral_sum(found, torch.log)
    close(log_determinant.value, d.log().sum())
    assert log_determinant.standard_error < 1e-12
    close(curvature.spectral_sum(found, torch.exp).value, d.exp().sum())


def test_the_log_determinant_lies_within_its_error(positive, key):
    def estimate(key):
        found = curvature.lanczos_spectrum(
            positive.operator, positive.like, key=key, steps=8, probes=20
        )
        return tuple(curvature.spectral_sum(found, torch.log))

    values, errors = pf.vmap(estimate)(random.split(key, 20))
    z = (values.mean() - torch.logdet(positive.matrix)) / (values.std() / 20**0.5)
    assert abs(z) < 4.5
    assert abs((errors**2).mean() / values.var() - 1) < 0.8
    # The closed form: 2 sum of the squares off the diagonal of log A.
    eigenvalues, x = torch.linalg.eigh(positive.matrix)
    logarithm = x @ torch.diag(eigenvalues.log()) @ x.mT
    variance = 2 * (logarithm.square().sum() - logarithm.diagonal().square().sum())
    assert abs((errors**2).mean() * 20 / variance - 1) < 0.4


def test_a_single_probe_has_no_error():
    spectrum = curvature.Spectrum(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]))
    assert math.isnan(curvature.spectral_sum(spectrum, torch.log).standard_error)


def test_mass_where_there_is_none_has_no_value():
    """A Ritz value of weight 0 outside the domain of the function counts for nothing."""
    spectrum = curvature.Spectrum(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]]))
    assert curvature.spectral_sum(spectrum, torch.log).value == math.log(2)


def test_the_density_is_that_of_the_eigenvalues(key, normal_density):
    d = torch.tensor([-1.0, 0.5, 2.0, 2.0, 4.0], dtype=F64)
    found = curvature.lanczos_spectrum(
        lambda v: d * v, torch.zeros_like(d), key=key, steps=5, probes=2
    )
    grid = torch.linspace(-4, 8, 601, dtype=F64)
    density = curvature.spectral_density(found, grid, 0.3)
    close(density, normal_density(grid[:, None], d, 0.3).mean(1))
    close(torch.trapezoid(density, grid), torch.ones((), dtype=F64), 1e-9)


# --- power iteration -----------------------------------------------------------------------------


def test_power_iteration_finds_the_largest_in_absolute_value(make_matrix, key, variant):
    matrix = make_matrix([0.1, -0.2, 1.0, 2.0, -6.0, 18.0])

    def pairs(tensor, key):
        return curvature.power_iteration(
            on(matrix, tensor), matrix.like, key=key, k=3, tol=1e-12, maxiter=200
        )

    found = variant(pairs)(matrix.matrix, key)
    close(found.values, torch.tensor([18.0, -6.0, 2.0], dtype=F64))
    x = matrix.rows(found.vectors)
    close(x @ x.mT, torch.eye(3, dtype=F64), 1e-12)
    close(x @ matrix.matrix, found.values[:, None] * x)
    assert (found.residuals <= 1e-12 * found.values.abs()).all()


def test_residuals_say_when_an_iteration_was_cut_short(make_matrix, key):
    matrix = make_matrix([1.0, 2.0, 2.9, 3.0])
    found = curvature.power_iteration(matrix.operator, matrix.like, key=key, maxiter=3)
    x = matrix.rows(found.vectors)
    residual = (x @ matrix.matrix - found.values[:, None] * x).norm(dim=1)
    close(found.residuals, residual, 1e-12)
    assert residual > 0.01


def test_power_iteration_finds_every_eigenvalue_and_the_repeated_ones(make_matrix, key):
    matrix = make_matrix([3.0, 3.0, 0.0, 0.0, 1.0])
    found = curvature.power_iteration(matrix.operator, matrix.like, key=key, k=5, tol=1e-11)
    close(found.values, torch.tensor([3.0, 3.0, 1.0, 0.0, 0.0], dtype=F64), 1e-9)
    x = matrix.rows(found.vectors)
    close(x @ x.mT, torch.eye(5, dtype=F64), 1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_iteration_ends_when_its_residual_is_small(make_matrix, key, sign):
    matrix, calls = make_matrix([sign * value for value in (1.0, 2.0, 5.0)]), []

    def operator(v):
        calls.append(v)
        return matrix.operator(v)

    found = curvature.power_iteration(operator, matrix.like, key=key, tol=1e-3)
    assert found.residuals <= 1e-3 * 5
    assert len(calls) < 20


def test_it_counts_products(make_matrix, key):
    matrix, calls = make_matrix([1.0, 2.0, 3.0, 5.0]), []

    def operator(v):
        calls.append(v)
        return matrix.operator(v)

    curvature.power_iteration(operator, matrix.like, key=key, tol=0.0, maxiter=7)
    assert len(calls) == 7
    calls.clear()
    curvature.lanczos(operator, start_of(matrix, key), 3)
    assert len(calls) == 3


# --- the Hessian of a model ----------------------------------------------------------------------


def test_the_spectrum_of_a_hessian(problem, key):
    def loss(params):
        return sum((leaf**2).sum() for leaf in tree.leaves(problem.model(params)))

    def operator(v):
        return curvature.hvp(loss, (problem.params,), (v,))

    unravel = tree.ravel(problem.params)[1]
    dense = torch.func.hessian(lambda theta: loss(unravel(theta)))(problem.theta)
    start = curvature.normal_like(key, problem.params)
    found = curvature.ritz_pairs(curvature.lanczos(operator, start, len(problem.theta)))
    close(found.values, torch.linalg.eigvalsh(dense), 1e-9)
    close(curvature.dense(operator, problem.params), dense, 1e-11)


def test_half_precision_is_accumulated_in_single(key):
    like = {"a": torch.zeros(40, dtype=torch.bfloat16)}
    found = curvature.lanczos(lambda v: v, curvature.normal_like(key, like), 3)
    assert found.diagonal.dtype == torch.float32
    assert found.basis["a"].dtype == torch.bfloat16
    assert found.basis["a"].shape == (3, 40)


# --- refusals ------------------------------------------------------------------------------------


class TestRefusals:
    like = torch.ones(3)

    @pytest.mark.parametrize("steps", [0, 4])
    def test_steps_out_of_range(self, steps):
        message = rf"expected steps >= 1 and <= 3, the size of the tree, got {steps}"
        with pytest.raises(ValueError, match=rf"lanczos: {message}"):
            curvature.lanczos(lambda v: v, self.like, steps)
        with pytest.raises(ValueError, match=rf"lanczos_spectrum: {message}"):
            curvature.lanczos_spectrum(
                lambda v: v, self.like, key=random.key(0), steps=steps, probes=1
            )

    def test_too_many_eigenpairs(self):
        with pytest.raises(ValueError, match=r"power_iteration: expected k >= 1 and <= 3"):
            curvature.power_iteration(lambda v: v, self.like, key=random.key(0), k=4)

    def test_an_operator_that_changes_a_shape(self):
        with pytest.raises(ValueError, match=r"lanczos: start\['w'\] is .*operator\(v\)\['w'\] is"):
            curvature.lanczos(lambda v: {"w": v["w"][:, None]}, {"w": self.like}, 2)
