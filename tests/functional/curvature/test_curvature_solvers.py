"""Conjugate gradients, against dense solutions and scipy's own iterates."""

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
    return lambda v: matrix.tree(tensor @ matrix.vector(v))


def target(matrix, seed=0):
    return curvature.normal_like(random.key(seed), matrix.like)


def jacobi(matrix):
    """Return the preconditioner of a matrix's diagonal."""
    diagonal = matrix.matrix.diagonal()
    return lambda v: matrix.tree(matrix.vector(v) / diagonal)


def test_it_solves_as_a_dense_solver_does(positive, variant):
    def solve(tensor, b, damping):
        return curvature.conjugate_gradient(on(positive, tensor), b, damping=damping, tol=1e-12)

    b, damping = target(positive), torch.tensor(0.7, dtype=F64)
    x, info = variant(solve)(positive.matrix, b, damping)
    damped = positive.matrix + 0.7 * torch.eye(8, dtype=F64)
    assert tree.structure(x) == tree.structure(b)
    close(positive.vector(x), torch.linalg.solve(damped, positive.vector(b)))
    residual = (damped @ positive.vector(x) - positive.vector(b)).norm()
    close(info.residual_norm, residual, 1e-11)
    assert info.converged
    assert not info.indefinite
    assert 0 < info.steps <= 12


@given(st.integers(0, 8), st.integers(0, 99), st.booleans(), st.booleans())
def test_its_iterates_are_those_of_scipy(make_matrix, steps, seed, warm, preconditioned):
    matrix = make_matrix([0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0], seed)
    b, x0 = target(matrix, seed), target(matrix, seed + 100) if warm else None
    preconditioner = jacobi(matrix) if preconditioned else None
    x, info = curvature.conjugate_gradient(
        matrix.operator, b, x0, preconditioner=preconditioner, tol=0.0, maxiter=steps
    )
    expected, _ = scipy.sparse.linalg.cg(
        matrix.matrix.numpy(),
        matrix.vector(b).numpy(),
        None if x0 is None else matrix.vector(x0).numpy(),
        rtol=0.0,
        maxiter=steps,
        M=torch.diag(1 / matrix.matrix.diagonal()).numpy() if preconditioned else None,
    )
    assert info.steps == steps
    assert not info.converged
    close(matrix.vector(x), torch.from_numpy(expected), 1e-8)


def test_it_takes_a_step_for_each_distinct_eigenvalue(make_matrix):
    matrix = make_matrix([1.0, 1.0, 1.0, 4.0, 4.0, 9.0, 9.0, 9.0])
    _, info = curvature.conjugate_gradient(matrix.operator, target(matrix), tol=1e-11)
    assert info.steps == 3


def test_the_inverse_as_preconditioner_takes_one_step(positive):
    inverse = torch.linalg.inv(positive.matrix)
    x, info = curvature.conjugate_gradient(
        positive.operator, target(positive), preconditioner=on(positive, inverse), tol=1e-10
    )
    assert info.steps == 1
    close(positive.vector(x), inverse @ positive.vector(target(positive)))


def test_it_stops_where_it_is_told(positive):
    b = target(positive)
    scale = positive.vector(b).norm()
    for options, limit in (({"tol": 0.1}, 0.1 * scale), ({"tol": 0.0, "atol": 0.5}, 0.5)):
        x, info = curvature.conjugate_gradient(positive.operator, b, **options)
        before, _ = curvature.conjugate_gradient(
            positive.operator, b, tol=0.0, maxiter=int(info.steps) - 1
        )
        residuals = [
            (positive.matrix @ positive.vector(y) - positive.vector(b)).norm() for y in (x, before)
        ]
        assert residuals[0] <= limit < residuals[1]


def test_nothing_to_do(positive):
    b = target(positive)
    x, info = curvature.conjugate_gradient(positive.operator, tree.zeros_like(b))
    assert (info.steps, info.converged, positive.vector(x).abs().max()) == (0, True, 0)
    solution = positive.tree(torch.linalg.solve(positive.matrix, positive.vector(b)))
    x, info = curvature.conjugate_gradient(positive.operator, b, solution)
    assert (info.steps, info.converged) == (0, True)
    x, info = curvature.conjugate_gradient(positive.operator, b, maxiter=0)
    assert (info.steps, info.converged) == (0, False)


def test_an_indefinite_operator_is_found_out_and_damping_helps(make_matrix):
    matrix = make_matrix([-2.0, 1.0, 2.0, 3.0, 5.0, 8.0])
    b = target(matrix)
    x, info = curvature.conjugate_gradient(matrix.operator, b)
    assert info.indefinite
    assert not info.converged
    assert info.steps <= 6
    # What was reached before is finite, and as good as that many steps make it.
    before, _ = curvature.conjugate_gradient(matrix.operator, b, maxiter=int(info.steps) - 1)
    close(matrix.vector(x), matrix.vector(before), 0)
    _, info = curvature.conjugate_gradient(matrix.operator, b, damping=3.0)
    assert info.converged
    assert not info.indefinite


def test_examples_of_a_batch_end_on_their_own(positive):
    """Each as if it were alone: those that have ended keep their solution."""
    dampings = torch.tensor([0.0, 1.0, 1000.0], dtype=F64)

    def solve(damping):
        return curvature.conjugate_gradient(
            positive.operator, target(positive), damping=damping, tol=1e-9
        )

    x, info = pf.vmap(solve)(dampings)
    alone = [solve(damping) for damping in dampings]
    assert info.steps.tolist() == [int(info.steps) for _, info in alone]
    assert len(set(info.steps.tolist())) > 1
    for row, (single, _) in zip(tree.unstack(x), alone, strict=True):
        close(positive.vector(row), positive.vector(single), 1e-12)


def test_its_forward_derivative_is_the_solution_along_the_tangent(positive):
    b, tangent = target(positive, 0), target(positive, 1)
    _, found = pf.jvp(
        lambda b: curvature.conjugate_gradient(positive.operator, b, tol=1e-11)[0],
        (b,),
        (tangent,),
    )
    expected = torch.linalg.solve(positive.matrix, positive.vector(tangent))
    close(positive.vector(found), expected, 1e-7)


def test_a_natural_gradient_step_solves_least_squares_at_once():
    """For a linear model the Fisher matrix is the Hessian, and the step is Newton's."""
    x, y = torch.randn(20, 4, dtype=F64), torch.randn(20, 2, dtype=F64)
    params = {"weight": torch.randn(2, 4, dtype=F64), "bias": torch.zeros(2, dtype=F64)}

    def model(p):
        return x @ p["weight"].mT + p["bias"]

    def loss(p):
        return 0.5 * (model(p) - y).square().sum(1).mean()

    def step(p):
        def fisher(v):
            return curvature.fvp(model, curvature.gaussian(), (p,), (v,))

        direction, _ = curvature.conjugate_gradient(fisher, pf.grad(loss)(p), tol=1e-12)
        return tree.map(torch.sub, p, direction)

    design = torch.cat([x, torch.ones(20, 1, dtype=F64)], 1)
    expected = torch.linalg.lstsq(design, y).solution
    found = step(params)
    close(found["weight"], expected[:4].mT)
    close(found["bias"], expected[4])


def test_one_program_serves_every_number(positive):
    @pf.jit(backend="eager")
    def solve(b, damping, tol):
        return curvature.conjugate_gradient(positive.operator, b, damping=damping, tol=tol)

    steps = [
        int(solve(target(positive, seed), damping, tol)[1].steps)
        for seed, damping, tol in ((0, 0.0, 1e-9), (1, 5.0, 0.1), (2, 1e6, 1e-3))
    ]
    assert len(set(steps)) == 3
    assert solve.trace_count == 1


@pytest.mark.slow
def test_generated_code_agrees(problem_of_classes):
    params, model = problem_of_classes.params, problem_of_classes.model

    def solve(params, b):
        def fisher(v):
            return curvature.fvp(model, curvature.categorical, (params,), (v,))

        return curvature.conjugate_gradient(fisher, b, damping=0.1, tol=1e-11)

    b = problem_of_classes.tangent
    (x, info), (expected, _) = pf.jit(solve)(params, b), solve(params, b)
    assert info.converged
    close(tree.ravel(x)[0], tree.ravel(expected)[0], 1e-9)


class TestRefusals:
    def test_a_start_unlike_the_right_side(self):
        with pytest.raises(ValueError, match=r"conjugate_gradient: b\['w'\] is .* x0\['w'\] is"):
            curvature.conjugate_gradient(lambda v: v, {"w": torch.ones(3)}, {"w": torch.ones(2)})

    def test_a_preconditioner_unlike_the_right_side(self):
        with pytest.raises(ValueError, match=r"preconditioner\(v\)\['w'\] is float64"):
            curvature.conjugate_gradient(
                lambda v: v, {"w": torch.ones(3)}, preconditioner=lambda v: {"w": v["w"].double()}
            )

    @pytest.mark.parametrize(("maxiter", "error"), [(-1, ValueError), (2.5, TypeError)])
    def test_a_number_of_steps_that_is_none(self, maxiter, error):
        with pytest.raises(error, match=r"conjugate_gradient: expected .*maxiter"):
            curvature.conjugate_gradient(lambda v: v, {"w": torch.ones(3)}, maxiter=maxiter)

    def test_a_reverse_derivative(self):
        def solve(b):
            return curvature.conjugate_gradient(lambda v: v, {"w": b})[0]["w"].sum()

        with pytest.raises(RuntimeError, match="while_loop"):
            pf.grad(solve)(torch.ones(3))
