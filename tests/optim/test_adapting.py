"""in_dtype, flatten, with_extra_args, named_chain: other forms of the same transformation."""

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

SHAPES = {"w": (4, 3), "s": (), "empty": (0,), "b": (4,)}


def make_tree(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}


def assert_equal(left, right):
    assert tree.structure(left) == tree.structure(right)
    for leaf, other in zip(tree.leaves(left), tree.leaves(right), strict=True):
        assert leaf.dtype == other.dtype
        assert torch.equal(leaf, other)


# ----------------------------------------------------------------------------------------- in_dtype


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "make", [lambda: optim.adamw(lr=0.1), lambda: optim.multi_steps(optim.adam(lr=0.1), 2)]
)
def test_half_parameters_with_a_wide_state(half, make):
    """Against torch's optimizer of float32 copies, whose result is rounded after each step."""
    params, optimizer, plain = make_tree(0, half), optim.in_dtype(make(), torch.float32), make()
    state, plain_state = optimizer.init(params), plain.init(tree.cast(params, torch.float32))
    for step in range(6):
        grads = make_tree(step + 1, half)
        updates, state = optimizer.update(grads, state, params)
        wide, plain_state = plain.update(
            tree.cast(grads, torch.float32), plain_state, tree.cast(params, torch.float32)
        )
        assert_equal(updates, wide)
        new = optim.apply_updates(params, updates)
        assert_equal(new, tree.map(lambda p, u: (p.float() + u).to(half), params, wide))
        params = new
    floating = [leaf for leaf in tree.leaves(state) if leaf.ndim]
    assert floating
    assert {leaf.dtype for leaf in floating} == {torch.float32}


def test_in_dtype_is_torchs_adam_on_float32_copies():
    params = make_tree(0, torch.bfloat16)
    optimizer = optim.in_dtype(optim.adam(lr=0.1), torch.float32)
    state, saved = optimizer.init(params), None
    for step in range(5):
        grads = make_tree(step + 1, torch.bfloat16)
        masters = {name: leaf.float() for name, leaf in params.items()}
        reference = torch.optim.Adam(masters.values(), lr=0.1)
        if saved is not None:
            reference.load_state_dict(saved)
        for name, leaf in masters.items():
            leaf.grad = grads[name].float()
        reference.step()
        saved = reference.state_dict()
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        for name, leaf in params.items():
            torch.testing.assert_close(leaf, masters[name].bfloat16(), rtol=2**-7, atol=1e-6)
    for index, name in enumerate(params):
        moment = saved["state"][index]["exp_avg_sq"]
        torch.testing.assert_close(optim.get(state, "nu")[name], moment, rtol=1e-6, atol=0)


def test_a_narrow_state_drifts_and_a_wide_one_does_not():
    """The squares of equal gradients, averaged: in bfloat16 the average stops far from them."""
    params = {"w": torch.ones(1, dtype=torch.bfloat16)}
    held = {}
    for name, rule in {
        "narrow": optim.adam(),
        "wide": optim.in_dtype(optim.adam(), torch.float32),
    }.items():
        state = rule.init(params)
        for _ in range(1000):
            _, state = rule.update(params, state, params)
        held[name] = optim.get(state, "nu")["w"].item()
    assert held["wide"] == pytest.approx(1 - 0.999**1000, rel=1e-4)
    assert held["narrow"] < 0.3


def test_the_dtype_may_be_wider_or_narrower_and_complex_leaves_stay():
    params = {"z": torch.ones(2, dtype=torch.complex64), "x": torch.ones(2, dtype=torch.float64)}
    optimizer = optim.in_dtype(optim.trace(0.9), torch.float32)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert (updates["z"].dtype, updates["x"].dtype) == (torch.complex64, torch.float32)


def test_compiled_in_dtype():
    params = make_tree(0, torch.bfloat16)
    optimizer = optim.in_dtype(optim.adam(lr=0.1), torch.float32)

    @pf.jit(backend="eager")
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    state = optimizer.init(params)
    ours = step(params, state, make_tree(1, torch.bfloat16))
    updates, new = optimizer.update(make_tree(1, torch.bfloat16), state, params)
    for leaf, other in zip(
        tree.leaves(ours), tree.leaves((optim.apply_updates(params, updates), new)), strict=True
    ):
        torch.testing.assert_close(leaf, other)


def test_in_dtype_refuses():
    with pytest.raises(
        TypeError, match=r"dtype: expected a floating-point torch\.dtype, got torch\.int"
    ):
        optim.in_dtype(optim.sgd(), torch.int32)
    with pytest.raises(TypeError, match="in_dtype: optimizer: expected a GradientTransformation"):
        optim.in_dtype(torch.float32, optim.sgd())
    optimizer = optim.in_dtype(optim.sgd(), torch.float32)
    params = make_tree(0)
    with pytest.raises(ValueError, match=r"updates\['b'\] is a tensor of shape \(1,\)"):
        optimizer.update(params | {"b": torch.ones(1)}, optimizer.init(params), params)


# ------------------------------------------------------------------------------------------ flatten


def test_elementwise_rules_do_not_notice_flattening():
    params = make_tree(0)
    for rule in (optim.adamw(lr=0.1), optim.sgd(lr=0.1, momentum=0.9)):
        flat = optim.flatten(rule)
        flat_state, state = flat.init(params), rule.init(params)
        for step in range(3):
            grads = make_tree(step + 1)
            ours, flat_state = flat.update(grads, flat_state, params)
            theirs, state = rule.update(grads, state, params)
            for leaf, other in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
                torch.testing.assert_close(leaf, other, rtol=1e-6, atol=1e-7)
        moments = [leaf for leaf in tree.leaves(flat_state) if leaf.ndim]
        assert {leaf.shape for leaf in moments} == {(tree.size(params),)}


def test_rules_for_leaves_become_rules_for_all_of_them():
    grads = make_tree(1, torch.float64)
    flat = optim.flatten(optim.clip_by_block_rms(0.1))
    updates, _ = flat.update(grads, flat.init(grads), grads)
    vector, _ = tree.ravel(grads)
    rms = vector.square().mean().sqrt()
    for leaf, grad in zip(tree.leaves(updates), tree.leaves(grads), strict=True):
        torch.testing.assert_close(leaf, grad * 0.1 / rms)


def test_mixed_widths_return_to_their_own_and_complex_is_not_mixed():
    params = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.float64)}
    flat = optim.flatten(optim.trace(0.9))
    state = flat.init(params)
    assert state.trace.dtype == torch.float64
    updates, _ = flat.update(params, state, params)
    assert [leaf.dtype for leaf in tree.leaves(updates)] == [torch.bfloat16, torch.float64]
    with pytest.raises(TypeError, match="flatten: params mixes real and complex leaves"):
        flat.init(params | {"z": torch.ones(1, dtype=torch.complex64)})
    with pytest.raises(ValueError, match=r"updates\['b'\] is a tensor of shape \(3,\)"):
        flat.update(params | {"b": torch.ones(3, dtype=torch.float64)}, state, params)


# ---------------------------------------------------------------------------------- with_extra_args


def test_extra_arguments_go_where_they_are_known():
    seen = []

    def none(updates, state, params=None):
        seen.append({})
        return updates, state

    def some(updates, state, params=None, *, value):
        seen.append({"value": value})
        return updates, state

    def everything(updates, state, params=None, **extra):
        seen.append(extra)
        return updates, state

    parts = [
        optim.with_extra_args(optim.GradientTransformation(lambda params: (), update))
        for update in (none, some, everything)
    ]
    optimizer = optim.chain(*parts, optim.sgd(lr=0.1))
    params = make_tree(0)
    optimizer.update(params, optimizer.init(params), params, value=1.0, other=2.0)
    assert seen == [{}, {"value": 1.0}, {"value": 1.0, "other": 2.0}]
    with pytest.raises(TypeError, match="with_extra_args: transformation: expected"):
        optim.with_extra_args(none)


# -------------------------------------------------------------------------------------- named_chain


def test_a_named_chain_is_a_chain():
    params = make_tree(0)
    parts = {"z": optim.trace(0.5), "rule": optim.scale_by_adam(), "a": optim.trace(0.9)}
    named, plain = optim.named_chain(*parts.items()), optim.chain(*parts.values())
    compiled = pf.jit(named.update, backend="eager")
    state, plain_state = named.init(params), plain.init(params)
    assert list(state) == ["z", "rule", "a"]
    for step in range(3):
        grads = make_tree(step + 1)
        updates, state = (compiled if step else named.update)(grads, state, params)
        expected, plain_state = plain.update(grads, plain_state, params)
        for leaf, other in zip(tree.leaves(updates), tree.leaves(expected), strict=True):
            torch.testing.assert_close(leaf, other)
    assert set(state) == set(parts)
    assert state["rule"].count == 3
    assert compiled.trace_count == 1


def test_what_a_named_chain_refuses():
    with pytest.raises(TypeError, match=r"named_chain: argument 1 is .*expected a pair such as"):
        optim.named_chain(("a", optim.sgd()), optim.sgd())
    with pytest.raises(TypeError, match=r"named_chain: 'a': expected a GradientTransformation"):
        optim.named_chain(("a", 0.1))
    with pytest.raises(ValueError, match="named_chain: expected different names, got a, b, a"):
        optim.named_chain(("a", optim.sgd()), ("b", optim.sgd()), ("a", optim.sgd()))
    params = make_tree(0)
    chain = optim.named_chain(("a", optim.sgd()))
    for wrong in (optim.sgd().init(params), {"b": ()}):
        with pytest.raises(TypeError, match=r"named_chain\.update: .*a dict with the keys \['a'\]"):
            chain.update(params, wrong, params)
