"""Projections against what defines a nearest point, against scipy and a search by bisection."""

import re

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import tree
from purefn.optim import projections

SHAPES = {"w": (3, 2), "b": (2,), "s": ()}
SIZE = 9


def make_tree(seed, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in SHAPES.items()
    }


def flat(x):
    return torch.cat([leaf.double().reshape(-1) for leaf in tree.leaves(x)])


NORMAL, OFFSET = make_tree(100), 0.4
LOWER = tree.map(lambda leaf: -leaf.abs(), make_tree(101))
UPPER = tree.map(lambda leaf: leaf.abs() / 2, make_tree(101))

#: Each set: its projection, how far a vector is outside, and a linear problem over it.
PROJECTIONS = {
    "non_negative": projections.non_negative,
    "box": lambda x: projections.box(x, LOWER, UPPER),
    "hypercube": lambda x: projections.hypercube(x, 0.7),
    "simplex": lambda x: projections.simplex(x, 1.5),
    "l1_sphere": lambda x: projections.l1_sphere(x, 1.5),
    "l1_ball": lambda x: projections.l1_ball(x, 1.5),
    "l2_sphere": lambda x: projections.l2_sphere(x, 1.5),
    "l2_ball": lambda x: projections.l2_ball(x, 1.5),
    "linf_ball": lambda x: projections.linf_ball(x, 0.7),
    "vector": lambda x: projections.vector(x, NORMAL),
    "hyperplane": lambda x: projections.hyperplane(x, NORMAL, OFFSET),
    "halfspace": lambda x: projections.halfspace(x, NORMAL, OFFSET),
}
every_projection = pytest.mark.parametrize("name", PROJECTIONS)
CONVEX = sorted(set(PROJECTIONS) - {"l1_sphere", "l2_sphere"})

OUTSIDE = {
    "non_negative": lambda y: -y.min(),
    "box": lambda y: torch.maximum(flat(LOWER) - y, y - flat(UPPER)).max(),
    "hypercube": lambda y: torch.maximum(-y, y - 0.7).max(),
    "simplex": lambda y: torch.maximum(-y.min(), (y.sum() - 1.5).abs()),
    "l1_sphere": lambda y: (y.abs().sum() - 1.5).abs(),
    "l1_ball": lambda y: y.abs().sum() - 1.5,
    "l2_sphere": lambda y: (y.norm() - 1.5).abs(),
    "l2_ball": lambda y: y.norm() - 1.5,
    "linf_ball": lambda y: y.abs().max() - 0.7,
    "vector": lambda y: (y - flat(NORMAL) * (y @ flat(NORMAL)) / flat(NORMAL).norm() ** 2).norm(),
    "hyperplane": lambda y: (y @ flat(NORMAL) - OFFSET).abs(),
    "halfspace": lambda y: y @ flat(NORMAL) - OFFSET,
}


def test_all_are_here():
    assert set(PROJECTIONS) == set(OUTSIDE) == set(projections.__all__)


seeds = st.integers(0, 10**6)
scales = st.sampled_from([1e-3, 0.3, 1.0, 30.0, 1e6])


@every_projection
@given(seed=seeds, scale=scales)
def test_the_result_is_in_the_set(name, seed, scale):
    projected = PROJECTIONS[name](make_tree(seed, scale))
    assert OUTSIDE[name](flat(projected)) <= 1e-9 * max(1, scale)
    for leaf, shape in zip(tree.leaves(projected), [(2,), (), (3, 2)], strict=True):
        assert (leaf.shape, leaf.dtype) == (shape, torch.float64)


@every_projection
@given(seed=seeds, scale=scales)
def test_what_is_in_the_set_stays(name, seed, scale):
    once = PROJECTIONS[name](make_tree(seed, scale))
    twice = PROJECTIONS[name](once)
    torch.testing.assert_close(flat(twice), flat(once), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CONVEX)
@given(seed=seeds, scale=scales, others=st.integers(0, 10**6))
def test_the_variational_inequality(name, seed, scale, others):
    """The nearest point p of a convex set has <x - p, y - p> <= 0 for all y in it, and only it."""
    x = make_tree(seed, scale)
    p = flat(PROJECTIONS[name](x))
    for other in range(3):
        y = flat(PROJECTIONS[name](make_tree(others + other, scale)))
        size = (flat(x) - p).norm() * (y - p).norm()
        assert (flat(x) - p) @ (y - p) <= 1e-9 * max(1, scale) * max(1, size)


@every_projection
@given(seed=seeds, scale=scales, others=st.integers(0, 10**6))
def test_no_other_point_of_the_set_is_nearer(name, seed, scale, others):
    x = make_tree(seed, scale)
    p = flat(PROJECTIONS[name](x))
    distance = (flat(x) - p).norm()
    for step in (1e-3, 1e-1, 1.0):  # points of the set near p, and far from it
        moved = tree.map(torch.add, PROJECTIONS[name](x), make_tree(others, step))
        y = flat(PROJECTIONS[name](moved))
        assert distance <= (flat(x) - y).norm() * (1 + 1e-12) + 1e-9


CONSTRAINTS = {
    "simplex": (
        [{"type": "eq", "fun": lambda y: y.sum() - 1.5}],
        [(0, None)] * SIZE,
    ),
    "l2_ball": ([{"type": "ineq", "fun": lambda y: 1.5**2 - y @ y}], None),
    "hyperplane": ([{"type": "eq", "fun": lambda y: flat(NORMAL).numpy() @ y - OFFSET}], None),
    "halfspace": ([{"type": "ineq", "fun": lambda y: OFFSET - flat(NORMAL).numpy() @ y}], None),
    "box": ([], list(zip(flat(LOWER).tolist(), flat(UPPER).tolist(), strict=True))),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scipy_finds_no_nearer_point(name, seed):
    x = make_tree(seed)
    target = flat(x).numpy()
    constraints, bounds = CONSTRAINTS[name]
    found = scipy.optimize.minimize(
        lambda y: ((y - target) ** 2).sum(),
        np.full(SIZE, 0.1),
        jac=lambda y: 2 * (y - target),
        method="SLSQP",
        constraints=constraints,
        bounds=bounds,
        options={"ftol": 1e-15, "maxiter": 500},
    )
    torch.testing.assert_close(
        flat(PROJECTIONS[name](x)), torch.from_numpy(found.x), rtol=0, atol=2e-6
    )


def bisected(values, scale):
    """Return max(values - tau, 0) whose sum is `scale`, with tau by bisection."""
    low, high = values.min().item() - scale, values.max().item()
    for _ in range(200):
        tau = (low + high) / 2
        low, high = (tau, high) if (values - tau).clamp(min=0).sum() > scale else (low, tau)
    return (values - tau).clamp(min=0)


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=12), radius=st.floats(0.01, 100))
def test_the_threshold_by_bisection(values, radius):
    x = torch.tensor(values, dtype=torch.float64)
    tolerance = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(projections.simplex(x, radius), bisected(x, radius), **tolerance)
    expected = torch.where(x < 0, -1, 1) * bisected(x.abs(), radius)
    torch.testing.assert_close(projections.l1_sphere(x, radius), expected, **tolerance)
    expected = x if x.abs().sum() <= radius else expected
    torch.testing.assert_close(projections.l1_ball(x, radius), expected, **tolerance)


def test_closed_forms():
    x, a = make_tree(0), NORMAL
    dot, square = flat(x) @ flat(a), flat(a) @ flat(a)
    torch.testing.assert_close(flat(projections.vector(x, a)), dot / square * flat(a))
    expected = flat(x) + (OFFSET - dot) / square * flat(a)
    torch.testing.assert_close(flat(projections.hyperplane(x, a, OFFSET)), expected)
    torch.testing.assert_close(flat(projections.l2_sphere(x, 2.0)), 2 * flat(x) / flat(x).norm())
    assert torch.equal(flat(projections.halfspace(x, a, dot.item() + 1)), flat(x))


# ---------------------------------------------------------------------------------- what is special


def test_of_the_points_nearest_to_zero_one_of_the_set():
    zero = tree.zeros_like(make_tree(0))
    for name in ("l1_sphere", "l2_sphere", "simplex"):
        projected = flat(PROJECTIONS[name](zero))
        assert OUTSIDE[name](projected) <= 1e-12
        assert torch.equal(projected, projected[:1].expand(SIZE))
    half = torch.tensor([0.5, 0.0], dtype=torch.float64)
    assert projections.l1_sphere(half, 3.0).tolist() == [1.75, 1.25]
    z = projections.l2_sphere(torch.zeros(2, dtype=torch.complex128))
    assert torch.linalg.vector_norm(z).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("radius", [3.7, 11.3, 1e3 / 7])
def test_what_is_inside_a_ball_stays_to_the_last_bit(radius):
    x = make_tree(0, scale=0.1)
    for ball in (projections.l1_ball, projections.l2_ball, projections.linf_ball):
        assert torch.equal(flat(ball(x, radius)), flat(x))


def test_a_vector_that_is_zero():
    x, zero = make_tree(0), tree.zeros_like(make_tree(0))
    assert torch.equal(flat(projections.vector(x, zero)), flat(zero))
    assert torch.equal(flat(projections.hyperplane(x, zero, 1.0)), flat(x))
    assert torch.equal(flat(projections.halfspace(x, zero, -1.0)), flat(x))


def test_large_values_keep_their_small_differences():
    x = torch.tensor([0.25, -0.25, -3.0], dtype=torch.float64) + 2.0**40
    assert projections.simplex(x).tolist() == [0.75, 0.25, 0.0]
    tiny = torch.tensor([3e-200, 4e-200], dtype=torch.float64)
    torch.testing.assert_close(projections.l2_sphere(tiny).tolist(), [0.6, 0.8])
    huge = torch.tensor([3e200, 4e200], dtype=torch.float64)
    torch.testing.assert_close(projections.l2_ball(huge).tolist(), [0.6, 0.8])


def test_bounds_of_a_box():
    x = {"w": torch.tensor([-2.0, 0.5, 3.0])}
    assert projections.box(x, -float("inf"), 1)["w"].tolist() == [-2.0, 0.5, 1.0]
    assert projections.box(x, torch.tensor(0.0), torch.tensor(1.0, dtype=torch.float64))[
        "w"
    ].tolist() == [0.0, 0.5, 1.0]
    bound = {"w": torch.tensor([0.0, 1.0, 2.0])}
    assert projections.box(x, bound, 5.0)["w"].tolist() == [0.0, 1.0, 3.0]
    assert projections.hypercube(x, bound)["w"].tolist() == [0.0, 0.5, 2.0]


def test_complex_leaves_have_euclidean_norms():
    z = {"z": torch.tensor([3 + 4j, 0j])}
    torch.testing.assert_close(
        projections.l2_ball(z, 1.0)["z"], torch.tensor([0.6 + 0.8j, 0j]), rtol=1e-6, atol=0
    )


# ------------------------------------------------------------------ transforms, dtypes, derivatives


@every_projection
def test_staged_and_batched(name):
    trees = [make_tree(seed) for seed in range(3)]
    expected = torch.stack([flat(PROJECTIONS[name](x)) for x in trees])
    traced = pf.jit(PROJECTIONS[name], backend="eager")
    for x, row in zip(trees, expected, strict=True):
        torch.testing.assert_close(flat(traced(x)), row, rtol=1e-12, atol=1e-14)
    assert traced.trace_count == 1
    batched = pf.vmap(lambda x: flat(PROJECTIONS[name](x)))(tree.stack(trees))
    torch.testing.assert_close(batched, expected, rtol=1e-12, atol=1e-14)


@every_projection
@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_derivatives_are_those_of_finite_differences(name, scale):
    x = [leaf.requires_grad_() for leaf in tree.leaves(make_tree(7, scale))]

    def projected(*leaves):
        return tuple(tree.leaves(PROJECTIONS[name](dict(zip("bsw", leaves, strict=True)))))

    assert torch.autograd.gradcheck(projected, x)


@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l2_ball", "l2_sphere", "linf_ball"])
def test_derivatives_by_the_radius(name):
    x = make_tree(3)
    radius = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: flat(getattr(projections, name)(x, r)), (radius,))


@every_projection
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_leaves_keep_their_dtype(name, dtype):
    if name in ("box", "vector", "hyperplane", "halfspace"):
        bounds = {"box": (LOWER, UPPER)}.get(name, (NORMAL, OFFSET))
        bounds = [tree.cast(b, dtype) if isinstance(b, dict) else b for b in bounds]
        arguments = bounds[:1] if name == "vector" else bounds
        projected = getattr(projections, name)(make_tree(5, dtype=dtype), *arguments)
    else:
        projected = PROJECTIONS[name](make_tree(5, dtype=dtype))
    assert {leaf.dtype for leaf in tree.leaves(projected)} == {dtype}
    exact = flat(PROJECTIONS[name](make_tree(5)))
    torch.testing.assert_close(flat(projected), exact, rtol=0, atol=8 * torch.finfo(dtype).eps)


@every_projection
def test_the_gradient_at_zero_is_finite(name):
    zero = torch.zeros(SIZE, dtype=torch.float64)

    def total(x):
        parts = {"w": x[:6].reshape(3, 2), "b": x[6:8], "s": x[8]}
        return flat(PROJECTIONS[name](parts)).sum()

    assert pf.grad(total)(zero).isfinite().all()


X = {"w": torch.ones(2)}
REFUSALS = [
    (lambda: projections.simplex(X, 0.0), ValueError, "scale: expected a number greater than 0"),
    (lambda: projections.l1_ball(X, -1.0), ValueError, "scale: expected a number greater than 0"),
    (lambda: projections.l2_ball(X, "1"), TypeError, "scale: expected a number or a 0-d tensor"),
    (lambda: projections.simplex({}), ValueError, "simplex: expected a tree with at least one el"),
    (lambda: projections.box(X, 2, 1), ValueError, "lower: expected at most upper=1, got 2"),
    (lambda: projections.box(X, float("nan"), 1), ValueError, "lower: expected a number that is"),
    (lambda: projections.box(X, {"w": torch.ones(3)}, 1), ValueError, "lower['w'] is a tensor of"),
    (
        lambda: projections.vector(X, {"w": torch.ones(3)}),
        ValueError,
        "a['w'] is a tensor of shape",
    ),
    (lambda: projections.hyperplane(X, X, "1"), TypeError, "b: expected a number or a 0-d tensor"),
    (
        lambda: projections.non_negative({"w": torch.ones(2, dtype=torch.complex64)}),
        TypeError,
        "box: x['w'] is a tensor of torch.complex64, expected real numbers",
    ),
    (
        lambda: projections.l1_ball({"w": torch.ones(2, dtype=torch.int64)}),
        TypeError,
        "x['w'] is a tensor of torch.int64",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
