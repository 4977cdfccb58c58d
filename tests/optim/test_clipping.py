"""Clipping against torch.nn.utils and by its definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree


def make_gradients(seed, scale, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
        for name, shape in {"w": (4, 3), "s": (), "empty": (0, 2)}.items()
    }


def clip(max_norm, grads):
    return optim.clip_by_global_norm(max_norm).update(grads, optim.EmptyState())[0]


@given(
    seed=st.integers(0, 2**32),
    scale=st.floats(-8, 4).map(lambda exponent: 10**exponent),
    max_norm=st.floats(-8, 4).map(lambda exponent: 10**exponent),
)
def test_clip_by_global_norm_is_torchs_without_its_constant(seed, scale, max_norm):
    grads = make_gradients(seed, scale)
    leaves = tree.leaves(grads)
    norm = torch.nn.utils.get_total_norm(leaves)
    clipped = clip(max_norm, grads)
    theirs = [leaf.clone() for leaf in leaves]
    if norm <= max_norm:
        expected = theirs
    else:  # torch divides by norm + 1e-6
        torch.nn.utils.clip_grads_with_norm_(
            [with_grad(leaf) for leaf in theirs], max_norm, norm - 1e-6
        )
        expected = theirs
    for leaf, other in zip(tree.leaves(clipped), expected, strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        optim.global_norm(clipped), norm.clamp(max=max_norm), rtol=1e-13, atol=0
    )


def with_grad(gradient):
    """Return a parameter whose `.grad` is the given tensor itself."""
    parameter = torch.zeros_like(gradient)
    parameter.grad = gradient
    return parameter


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("max_norm", [1e9, torch.tensor(1e9)], ids=["number", "tensor"])
def test_short_gradients_are_untouched(dtype, max_norm):
    grads = make_gradients(0, 1.0, dtype)
    clipped = clip(max_norm, grads)
    for name, leaf in grads.items():
        assert clipped[name].dtype == dtype
        assert torch.equal(clipped[name], leaf)


def test_zero_gradients_stay_zero():
    grads = make_gradients(0, 0.0)
    assert all(not leaf.any() for leaf in tree.leaves(clip(1.0, grads)))
    assert clip(1.0, {}) == {}


def test_long_half_precision_gradients_are_measured_in_float32():
    grads = {"w": torch.full((10_000,), 3.0, dtype=torch.float16)}
    assert optim.global_norm(grads).item() == pytest.approx(300.0, rel=1e-6)
    assert clip(30.0, grads)["w"].unique().tolist() == pytest.approx([0.3], rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows(bad):
    grads = {"a": torch.tensor([1.0, bad]), "b": torch.tensor(2.0)}
    assert clip(1.0, grads)["a"].isnan().any()


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e25), (torch.float32, 1e-30), (torch.float64, 1e200)],
)
@pytest.mark.parametrize("together", [True, False])
def test_squares_out_of_range_are_measured(dtype, size, together):
    vector = torch.tensor([3 * size, -4 * size], dtype=dtype)
    grads = {"a": vector} if together else {"a": vector[0], "b": vector[1:]}
    assert optim.global_norm(grads).item() == pytest.approx(5 * size, rel=1e-6)
    clipped = torch.cat([leaf.reshape(-1) for leaf in tree.leaves(clip(size, grads))])
    expected = torch.tensor([0.6 * size, -0.8 * size], dtype=dtype)
    torch.testing.assert_close(clipped, expected, rtol=1e-6, atol=0)


def test_the_norm_is_differentiated_like_any_other():
    w = make_gradients(0, 1.0)["w"]
    expected = w / torch.linalg.vector_norm(w)
    torch.testing.assert_close(pf.grad(optim.global_norm)(w), expected)
    by_row = pf.vmap(optim.global_norm)(w)
    torch.testing.assert_close(by_row, torch.linalg.vector_norm(w, dim=1))
    _, tangent = pf.jvp(optim.global_norm, (w,), (torch.ones_like(w),))
    torch.testing.assert_close(tangent, expected.sum())


@given(limit=st.floats(1e-3, 10), seed=st.integers(0, 2**32))
def test_clip_bounds_each_element(limit, seed):
    grads = make_gradients(seed, 3.0)
    for bound in (limit, torch.tensor(limit, dtype=torch.float64)):
        clipped, _ = optim.clip(bound).update(grads, optim.EmptyState())
        for name, leaf in grads.items():
            assert torch.equal(clipped[name], leaf.sign() * leaf.abs().clamp(max=limit))
