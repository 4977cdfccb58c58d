"""Influence, TracIn and leave-one-out losses: closed forms of regression, and retraining."""

import pytest
import torch
from torch.nn import functional

import purefn.functional as pf
from purefn.functional import curvature, per_example, tree


def plain(fun):
    return fun


def staged(fun):
    return pf.jit(fun, backend="eager")


TIGHT = 1e-13


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


torch.manual_seed(0)
X, Y = randn(9, 3), randn(9)
TEST = randn(4, 3), randn(4)
RIDGE = 0.7
KERNEL = X.T @ X + RIDGE * torch.eye(3).double()
W = torch.linalg.solve(KERNEL, X.T @ Y)
PARAMS = {"w": W}
#: The diagonal of the hat matrix, and the residuals.
LEVERAGE = (X @ torch.linalg.solve(KERNEL, X.T)).diagonal()
RESIDUALS = Y - X @ W


def squares(params, x, y):
    return 0.5 * (x @ params["w"] - y).square()


def logistic(params, x, y):
    return functional.binary_cross_entropy_with_logits(x @ params["w"], y, reduction="none")


def gradient(w, x, y):
    return (x @ w - y).unsqueeze(1) * x


# --- leave-one-out -------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "chunk_size"), [(plain, None), (plain, 4), (staged, None)])
def test_newton_is_exact_for_ridge_regression(oracle, how, chunk_size):
    leave = per_example.leave_one_out(squares, damping=RIDGE, tol=TIGHT, chunk_size=chunk_size)
    found = how(leave)(PARAMS, X, Y)
    oracle.assert_equal(found.losses, 0.5 * (RESIDUALS / (1 - LEVERAGE)).square())
    assert found.solver.converged.all()


def test_newton_is_what_training_without_each_example_gives(oracle):
    retrained = []
    for left_out in range(len(X)):
        rest = torch.arange(len(X)) != left_out
        kernel = X[rest].T @ X[rest] + RIDGE * torch.eye(3).double()
        w = torch.linalg.solve(kernel, X[rest].T @ Y[rest])
        retrained.append(squares({"w": w}, X[left_out], Y[left_out]))
    found = per_example.leave_one_out(squares, damping=RIDGE, tol=TIGHT)(PARAMS, X, Y)
    oracle.assert_equal(found.losses, torch.stack(retrained))


def test_influence_step_keeps_the_curvature_of_all(oracle):
    leave = per_example.leave_one_out(squares, step="influence", damping=RIDGE, tol=TIGHT)
    found = leave(PARAMS, X, Y)
    oracle.assert_equal(found.losses, 0.5 * (RESIDUALS * (1 + LEVERAGE)).square())


def trained(weights, damping):
    """Return the minimum of weighted logistic regression, by Newton's method to rounding."""
    w, labels = torch.zeros(3).double(), (Y > 0).double()
    for _ in range(30):
        p = (X @ w).sigmoid()
        g = X.T @ (weights * (p - labels)) + damping * w
        h = X.T @ torch.diag(weights * p * (1 - p)) @ X + damping * torch.eye(3).double()
        w = w - torch.linalg.solve(h, g)
    return w


def test_newton_is_closer_to_retraining_than_influence_where_the_loss_is_no_square():
    labels, everything = (Y > 0).double(), torch.ones(9).double()
    params = {"w": trained(everything, 1.0)}
    truth = torch.stack(
        [
            logistic({"w": trained(everything - torch.eye(9)[i], 1.0)}, X[i], labels[i])
            for i in range(9)
        ]
    )
    moved = (truth - logistic(params, X, labels)).abs()
    errors = {}
    for step in ("newton", "influence"):
        leave = per_example.leave_one_out(logistic, step=step, damping=1.0, tol=TIGHT)
        errors[step] = ((leave(params, X, labels).losses - truth).abs() / moved).max()
    assert errors["newton"] < 0.1 < errors["influence"] < 0.5


# --- influence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "chunk_size"), [(plain, None), (plain, 3), (staged, None)])
def test_influence_is_the_formula_of_koh_and_liang(oracle, how, chunk_size):
    hessian = X.T @ X / len(X) + 0.3 * torch.eye(3).double()
    expected = -gradient(W, *TEST) @ torch.linalg.solve(hessian, gradient(W, X, Y).T)
    find = per_example.influence(squares, damping=0.3, tol=TIGHT, chunk_size=chunk_size)
    found = how(find)(PARAMS, (X, Y), TEST)
    oracle.assert_equal(found.scores, expected)
    assert found.solver.converged.tolist() == [True] * 4


def test_influence_is_the_derivative_with_respect_to_the_weight_of_an_example():
    """Up-weighting an example by epsilon moves the minimum, and with it the test losses."""
    labels, test = (Y > 0).double(), (TEST[0], (TEST[1] > 0).double())
    mean, step, damping = torch.full((9,), 1 / 9).double(), 1e-5, 0.1

    def test_losses(weights):
        return logistic({"w": trained(weights, damping)}, *test)

    columns = [
        (test_losses(mean + step * one) - test_losses(mean - step * one)) / (2 * step)
        for one in torch.eye(9).double()
    ]
    params = {"w": trained(mean, damping)}
    find = per_example.influence(logistic, damping=damping, tol=TIGHT)
    found = find(params, (X, labels), test)
    torch.testing.assert_close(found.scores, torch.stack(columns, 1), rtol=1e-6, atol=1e-8)


def test_another_operator_takes_the_place_of_the_hessian(oracle):
    def operator(v):
        return curvature.gnvp(
            lambda params: X @ params["w"], lambda f: (f - Y).square().mean(), (PARAMS,), (v,)
        )

    find = per_example.influence(squares, operator, damping=0.3, tol=TIGHT)
    twice = 2 * X.T @ X / len(X) + 0.3 * torch.eye(3).double()
    expected = -gradient(W, *TEST) @ torch.linalg.solve(twice, gradient(W, X, Y).T)
    oracle.assert_equal(find(PARAMS, (X, Y), TEST).scores, expected)


def test_a_solver_that_fails_says_so():
    found = per_example.influence(lambda p, x, y: -squares(p, x, y))(PARAMS, (X, Y), TEST)
    assert found.solver.indefinite.all()
    assert not found.solver.converged.any()


# --- TracIn --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "method"), [(plain, "auto"), (plain, "materialize"), (staged, "auto")]
)
def test_tracin_sums_over_checkpoints(oracle, how, method):
    checkpoints, lrs = [{"w": W}, {"w": W + 1}, {"w": 2 * W}], [0.5, 0.1, 0.01]
    expected = sum(
        lr * gradient(params["w"], *TEST) @ gradient(params["w"], X, Y).T
        for lr, params in zip(lrs, checkpoints, strict=True)
    )
    trace = how(per_example.tracin(squares, method=method, chunk_size=2))
    lrs = torch.tensor(lrs, dtype=torch.float64) if how is staged else lrs
    oracle.assert_equal(trace(checkpoints, lrs, (X, Y), TEST), expected)


def test_tracin_predicts_one_step_of_gradient_descent(oracle):
    """A step on one example lowers the test loss by the score, to first order."""
    lr = 1e-6
    scores = per_example.tracin(squares)([PARAMS], [lr], (X, Y), TEST)
    steps = W - lr * gradient(W, X, Y)
    lowered = torch.stack(
        [squares(PARAMS, *TEST) - squares({"w": moved}, *TEST) for moved in steps], 1
    )
    torch.testing.assert_close(scores, lowered, rtol=1e-4, atol=1e-12)


# --- refusals ------------------------------------------------------------------------------------


def test_refusals():
    trace = per_example.tracin(squares)
    with pytest.raises(ValueError, match="got 1 for 2"):
        trace([PARAMS, PARAMS], [0.1], (X, Y), TEST)
    with pytest.raises(TypeError, match="list of parameters for checkpoints, got dict"):
        trace(PARAMS, [0.1], (X, Y), TEST)
    with pytest.raises(ValueError, match="got step='exact'"):
        per_example.leave_one_out(squares, step="exact")
    with pytest.raises(TypeError, match=r"tuple .* for train"):
        per_example.influence(squares)(PARAMS, X, TEST)

    def mixing(params, x, y):
        return squares(params, x - x.mean(0), y)

    for transform, batches in (
        (per_example.influence(mixing), ((X, Y), TEST)),
        (per_example.leave_one_out(mixing), (X, Y)),
    ):
        with pytest.raises(ValueError, match="mix examples"):
            transform(PARAMS, *batches)
    with pytest.raises(ValueError, match=r"drop the \.mean"):
        per_example.leave_one_out(lambda p, x, y: squares(p, x, y).mean())(PARAMS, X, Y)


def test_nothing_is_written():
    before = tree.map(torch.clone, PARAMS)
    per_example.leave_one_out(squares, damping=RIDGE)(PARAMS, X, Y)
    per_example.influence(squares, damping=RIDGE)(PARAMS, (X, Y), TEST)
    assert torch.equal(before["w"], PARAMS["w"])
