"""Pieces that look at leaves as a whole, by their equations in numpy; pieces that reset updates."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

SHAPES = {"conv": (4, 3, 2, 2), "fc": (5, 3), "bias": (5,), "s": (), "empty": (0, 3)}
STATELESS = {
    "centralize": optim.centralize(),
    "clip_by_block_rms": optim.clip_by_block_rms(0.5),
    "adaptive_grad_clip": optim.adaptive_grad_clip(0.1),
    "scale_by_param_block_norm": optim.scale_by_param_block_norm(),
    "scale_by_param_block_rms": optim.scale_by_param_block_rms(),
    "normalize": optim.normalize(),
    "normalize_by_update_norm": optim.normalize_by_update_norm(),
    "keep_params_nonnegative": optim.keep_params_nonnegative(),
    "set_to_zero": optim.set_to_zero(),
}
every_piece = pytest.mark.parametrize("name", STATELESS)


def make_tree(seed, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    kind = torch.complex128 if dtype.is_complex else torch.float64
    return {
        name: (torch.randn(shape, generator=generator, dtype=kind) * scale).to(dtype)
        for name, shape in SHAPES.items()
    }


def updated(transformation, grads, params=None):
    return transformation.update(grads, transformation.init(grads), params)[0]


def assert_is(result, expected, rtol=1e-12):
    """Require that each leaf is what `expected(name)` computes."""
    for name, leaf in result.items():
        np.testing.assert_allclose(leaf.numpy(), expected(name), rtol=rtol, atol=1e-300)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_block_pieces_are_their_equations(dtype):
    grads, params = make_tree(0, dtype), make_tree(1, dtype)
    g = {name: leaf.numpy() for name, leaf in grads.items()}
    p = {name: leaf.numpy() for name, leaf in params.items()}

    def rms(x):
        return np.sqrt(np.mean(np.abs(x) ** 2)) if x.size else 0.0

    def norm(x):
        return np.sqrt(np.sum(np.abs(x) ** 2))

    def centered(name):
        x = g[name]
        if x.ndim < 2 or not x.size:
            return x
        return x - x.mean(axis=tuple(range(1, x.ndim)), keepdims=True)

    assert_is(updated(optim.centralize(), grads), centered)
    for threshold in (0.5, 2.0):
        result = updated(optim.clip_by_block_rms(threshold), grads)
        assert_is(result, lambda n, t=threshold: g[n] / max(1, rms(g[n]) / t))
    for least in (1e-3, 3.0):
        result = updated(optim.scale_by_param_block_norm(least), grads, params)
        assert_is(result, lambda n, m=least: g[n] * max(norm(p[n]), m))
        result = updated(optim.scale_by_param_block_rms(least), grads, params)
        assert_is(result, lambda n, m=least: g[n] * max(rms(p[n]), m))
    total = math.sqrt(sum(norm(x) ** 2 for x in g.values()))
    assert_is(updated(optim.normalize(), grads), lambda n: g[n] / total)
    result = updated(optim.normalize_by_update_norm(-2.0, eps=0.1), grads)
    assert_is(result, lambda n: g[n] * -2.0 / (total + 0.1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("clipping", "eps"), [(0.01, 1e-3), (0.5, 1e-3), (0.5, 3.0), (5.0, 1e-3)])
def test_adaptive_clipping_unit_by_unit(dtype, clipping, eps):
    """The loop over units of Brock et al. 2021, equation 3."""
    grads, params = make_tree(0, dtype), make_tree(1, dtype)

    def unit(g, p):
        limit = clipping * max(np.linalg.norm(p), eps)
        return g * limit / np.linalg.norm(g) if np.linalg.norm(g) > limit else g

    def expected(name):
        g, p = grads[name].numpy(), params[name].numpy()
        if g.ndim < 2:
            return unit(g.reshape(-1), p.reshape(-1)).reshape(g.shape)
        if not g.size:
            return g
        return np.stack(
            [unit(a.ravel(), b.ravel()).reshape(a.shape) for a, b in zip(g, p, strict=True)]
        )

    assert_is(updated(optim.adaptive_grad_clip(clipping, eps), grads, params), expected)


@given(seed=st.integers(0, 1000), exponent=st.integers(-35, 30))
def test_norms_neither_overflow_nor_vanish(seed, exponent):
    grads = make_tree(seed, torch.float32, 10.0**exponent)
    normalized = updated(optim.normalize(), grads)
    assert optim.global_norm(normalized).item() == pytest.approx(1.0, rel=1e-5)
    clipped = updated(optim.clip_by_block_rms(10.0**exponent / 2), grads)
    rms = clipped["conv"].double().square().mean().sqrt()
    assert rms.item() == pytest.approx(10.0**exponent / 2, rel=1e-5)


@every_piece
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zeros_are_no_trouble_and_dtypes_stay(name, dtype):
    params = make_tree(1, dtype)
    for grads in (tree.zeros_like(params), params):
        result = updated(STATELESS[name], grads, params)
        assert tree.structure(result) == tree.structure(params)
        for leaf, other in zip(tree.leaves(result), tree.leaves(params), strict=True):
            assert (leaf.dtype, leaf.shape) == (other.dtype, other.shape)
            assert leaf.isfinite().all()
    zeros = tree.zeros_like(params)
    assert not any(leaf.any() for leaf in tree.leaves(updated(STATELESS[name], zeros, zeros)))
    assert updated(STATELESS[name], {}, {}) == {}


@every_piece
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_with_in_float32(name, dtype):
    grads, params = make_tree(0, dtype), make_tree(1, dtype)
    wide = [tree.cast(leaves, torch.float32) for leaves in (grads, params)]
    expected = tree.cast(updated(STATELESS[name], *wide), dtype)
    result = updated(STATELESS[name], grads, params)
    assert all(map(torch.equal, tree.leaves(result), tree.leaves(expected)))


@every_piece
def test_compiled_and_batched(name):
    piece = STATELESS[name]
    grads, params = make_tree(0), make_tree(1)
    expected = updated(piece, grads, params)
    compiled, _ = pf.jit(piece.update, backend="eager")(grads, piece.init(params), params)
    torch.testing.assert_close(compiled, expected)
    if name == "set_to_zero":
        return
    both = [tree.stack([one, tree.map(lambda x: 3 * x, one)]) for one in (grads, params)]
    batched = pf.vmap(lambda g, p: piece.update(g, piece.init(p), p)[0])(*both)
    torch.testing.assert_close(tree.unstack(batched)[0], expected)


@pytest.mark.parametrize("name", ["clip_by_block_rms", "normalize", "normalize_by_update_norm"])
def test_what_is_not_finite_shows(name):
    for bad in (math.nan, math.inf):
        result = updated(STATELESS[name], {"w": torch.tensor([1.0, bad])})
        assert result["w"].isnan().any()


def test_parameters_stay_nonnegative():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        params = {"w": torch.rand(200, generator=generator).to(dtype)}
        optimizer = optim.chain(optim.sgd(lr=1.0), optim.keep_params_nonnegative())
        state, free = optimizer.init(params), params
        for _ in range(5):
            grads = {"w": torch.randn(200, generator=generator).to(dtype)}
            updates, state = optimizer.update(grads, state, params)
            free = {"w": (params["w"].double() - grads["w"].double()).clamp(min=0)}
            params = optim.apply_updates(params, updates)
            assert (params["w"] >= 0).all()
            assert (params["w"] == 0).any()
            torch.testing.assert_close(params["w"], free["w"].to(dtype))
    moved = updated(optim.keep_params_nonnegative(), {"w": torch.zeros(1)}, {"w": -torch.ones(1)})
    assert moved["w"].item() == 1.0


def test_nan_becomes_zero_and_is_noted():
    piece = optim.zero_nans()
    params = {"a": torch.ones(3), "b": torch.ones(2, dtype=torch.complex64), "c": torch.ones(1)}
    grads = {
        "a": torch.tensor([1.0, math.nan, math.inf]),
        "b": torch.tensor([complex(math.nan, 1.0), 1j]),
        "c": torch.ones(1),
    }
    step = pf.jit(piece.update, backend="eager")
    for update in (piece.update, step):
        updates, state = update(grads, piece.init(params), params)
        assert updates["a"].tolist() == [1.0, 0.0, math.inf]
        assert updates["b"].tolist() == [0j, 1j]
        assert {name: flag.item() for name, flag in state.found_nan.items()} == {
            "a": True, "b": True, "c": False
        }  # fmt: skip
        updates, state = update(params, state, params)
        assert not any(flag.item() for flag in tree.leaves(state.found_nan))
    with pytest.raises(ValueError, match="found_nan"):
        piece.update({"a": torch.ones(3)}, state)


def test_set_to_zero_is_zero_whatever_comes():
    grads = {"w": torch.tensor([math.nan, math.inf, 1.0])}
    assert updated(optim.set_to_zero(), grads)["w"].tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.clip_by_block_rms(0.0), "threshold: expected a number greater than 0"),
        (lambda: optim.adaptive_grad_clip(0.0), "clipping: expected a number greater than 0"),
        (lambda: optim.adaptive_grad_clip(0.1, eps=0.0), "eps: expected a number greater than 0"),
        (lambda: optim.scale_by_param_block_norm(-1.0), "min_scale: expected .* at least 0"),
        (lambda: optim.scale_by_param_block_rms(-1.0), "min_scale: expected .* at least 0"),
        (lambda: optim.normalize_by_update_norm(eps=-1.0), "eps: expected .* at least 0"),
        (lambda: optim.normalize_by_update_norm(math.inf), "scale_factor: expected a finite"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "name",
    [
        "adaptive_grad_clip",
        "scale_by_param_block_norm",
        "scale_by_param_block_rms",
        "keep_params_nonnegative",
    ],
)
def test_parameters_are_needed_and_must_match(name):
    piece, params = STATELESS[name], make_tree(1)
    with pytest.raises(ValueError, match=rf"{name}\.update needs the parameters"):
        piece.update(params, optim.EmptyState())
    with pytest.raises(ValueError, match=r"\['bias'\] is a tensor of shape"):
        piece.update(params, optim.EmptyState(), params | {"bias": torch.ones(1).double()})


def test_nonnegative_is_for_real_parameters():
    params = {"z": torch.ones(1, dtype=torch.complex64)}
    piece = optim.keep_params_nonnegative()
    with pytest.raises(TypeError, match=r"keep_params_nonnegative: params\['z'\] is a tensor of"):
        piece.update(params, piece.init(params), params)
