"""Rules over stacks of equal leaves: what they compute, and that nobody can tell."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import tree
from purefn.optim import stacking
from purefn.optim.stacking import per_shape


def normalized(x, factor):
    """Divide each leaf by its norm and multiply by its factor."""
    norms = x.reshape(len(x), -1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))
    return x / norms * factor.reshape(-1, *[1] * (x.ndim - 1)), norms


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (3, 2), (), (4,), (3, 2), (4,), (2, 3), ()]
    x = {
        f"{i}": torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)
        for i, shape in enumerate(shapes)
    }
    factors = {name: torch.tensor([float(name) + 1], dtype=dtype) for name in x}
    return {**x, "none": None}, {**factors, "none": None}


def alone(x, factors):
    return tree.map(lambda leaf, factor: leaf / leaf.norm() * factor[0], x, factors)


@pytest.mark.parametrize("stack_bytes", [stacking.STACK_BYTES, 1, 100])
@pytest.mark.parametrize("stacked_bytes", [stacking.STACKED_BYTES, 0, 40])
def test_every_leaf_is_computed_with_as_if_it_were_alone(monkeypatch, stack_bytes, stacked_bytes):
    monkeypatch.setattr(stacking, "STACK_BYTES", stack_bytes)
    monkeypatch.setattr(stacking, "STACKED_BYTES", stacked_bytes)
    x, factors = problem()
    found, norms = per_shape(normalized, {"x": x}, {"factors": factors}, results=2)
    torch.testing.assert_close(
        tree.leaves(found), tree.leaves(alone(x, factors)), rtol=1e-14, atol=0
    )
    assert tree.structure(found) == tree.structure(norms) == tree.structure(x)


def test_equal_leaves_are_one_call():
    calls = []
    x, _ = problem()
    per_shape(lambda stack: calls.append(tuple(stack.shape)) or stack * 1, {"x": x})
    assert sorted(calls) == [(1, 2, 3), (2,), (2, 4), (3, 3, 2)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_with_in_float32(dtype):
    x, _ = problem(dtype)
    dtypes = set()
    found = per_shape(lambda stack: dtypes.add(stack.dtype) or stack / 3, {"x": x})
    assert dtypes == {torch.float32}
    for leaf, given in zip(tree.leaves(found), tree.leaves(x), strict=True):
        assert torch.equal(leaf, (given.float() / 3).to(dtype))


def test_dtypes_are_not_mixed():
    x = {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.float64)}
    found = per_shape(lambda stack: stack / 3, {"x": x})
    assert (found["a"].dtype, found["b"].dtype) == (torch.float32, torch.float64)
    assert found["b"][0] == 1 / torch.tensor(3.0, dtype=torch.float64)


def test_results_have_memory_of_their_own():
    x, _ = problem()
    found = per_shape(lambda stack: stack * 2, {"x": x})
    storages = {leaf.untyped_storage().data_ptr() for leaf in tree.leaves(found)}
    assert len(storages) == len(tree.leaves(found))


def test_a_leaf_that_differs_is_named():
    x, factors = problem()
    with pytest.raises(ValueError, match=r"y\['3'\] is a tensor of shape \(5,\)"):
        per_shape(lambda x, y: x + y, {"x": x, "y": {**x, "3": torch.ones(5).double()}})
    with pytest.raises(ValueError, match="factors"):
        per_shape(normalized, {"x": x}, {"factors": factors["0"]}, results=2)


@pytest.mark.parametrize("transform", [lambda f: f, pf.jit(backend="eager"), pf.vmap])
@pytest.mark.parametrize("shapes", [[(2, 2)], [(2, 2), (2, 2)], [(2, 2), (3, 3)]], ids=str)
def test_autocast_is_for_models(transform, shapes):
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(shape, generator=generator) for shape in shapes]
    x = tree.stack([x, x]) if transform is pf.vmap else x

    def products(x, enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            return per_shape(lambda stack: torch.lerp(stack, stack @ stack, 0.5), {"x": x})

    found, expected = [
        transform(lambda x, on=enabled: products(x, on))(x) for enabled in (True, False)
    ]
    assert all(map(torch.equal, found, expected))
