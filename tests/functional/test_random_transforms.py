"""The same numbers eager, compiled and under vmap; and inputs that are refused."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import purefn.functional as pf
from purefn.functional import random
from purefn.functional.random import cipher, elementary, threefry

MATRIX = torch.arange(12.0).reshape(4, 3)
WEIGHTS = torch.tensor([0.2, 0.0, 0.5, 0.3])
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "split": lambda key: random.split(key, (3, 7)),
    "fold_in": lambda key: random.fold_in(key, 12),
    "randint": lambda key: random.randint(key, (5, 7), -3, 1000),
    "randint_wide": lambda key: random.randint(key, (35,), -3, 2**40, torch.int64),
    "bernoulli": lambda key: random.bernoulli(key, 0.3, (5, 7)),
    "permutation": lambda key: random.permutation(key, 35),
    "permutation_rows": lambda key: random.permutation(key, MATRIX),
    "permutation_independent": lambda key: random.permutation(key, MATRIX, 1, independent=True),
    "categorical": lambda key: random.categorical(key, MATRIX, shape=(9, 4)),
    "choice": lambda key: random.choice(key, MATRIX, (5,)),
    "choice_once": lambda key: random.choice(key, 35, (20,), replace=False),
    "choice_weighted": lambda key: random.choice(key, MATRIX, (30,), p=WEIGHTS),
    "choice_weighted_once": lambda key: random.choice(key, 4, (3,), replace=False, p=WEIGHTS),
    **{
        f"bits_{dtype}": lambda key, dtype=dtype: random.bits(key, (5, 7), dtype)
        for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
    },
    **{
        f"{function.__name__}_{dtype}": lambda key, function=function, dtype=dtype: function(
            key, (5, 7), dtype
        )
        for function in (random.uniform, random.normal, random.gumbel, random.exponential)
        for dtype in FLOATS
    },
    **{
        f"uniform_between_{dtype}": lambda key, dtype=dtype: random.uniform(
            key, (35,), dtype, 0.1, 0.7
        )
        for dtype in FLOATS
    },
    **{
        f"truncated_normal_{dtype}": lambda key, dtype=dtype: random.truncated_normal(
            key, -1.0, 2.0, (35,), dtype
        )
        for dtype in FLOATS
    },
}


def test_every_public_function_is_drawn():
    assert {name for name in random.__all__ if any(d.startswith(name) for d in DRAWS)} == {
        *random.__all__
    } - {"key"}


@pytest.mark.parametrize("name", DRAWS)
def test_vmap_over_keys_equals_a_loop(name):
    keys = random.split(random.key(5), 3)
    assert torch.equal(pf.vmap(DRAWS[name])(keys), torch.stack([DRAWS[name](k) for k in keys]))


@pytest.mark.parametrize("name", [name for name in DRAWS if "float64" not in name])
def test_compiled_equals_eager(name):
    key = random.key(5)
    assert torch.equal(pf.jit(DRAWS[name], backend="aot_eager")(key), DRAWS[name](key))


@pytest.mark.slow
def test_generated_code_equals_eager():
    def draws(key: Tensor) -> list[Tensor]:
        return [
            random.truncated_normal(key, -1.0, 2.0, (1001,), torch.float16),
            random.truncated_normal(key, -1.0, 2.0, (1001,), torch.float32),
            random.categorical(key, MATRIX, shape=(50, 4)),
        ]

    key = random.key(5)
    for compiled, eager in zip(pf.jit(draws)(key), draws(key), strict=True):
        assert torch.equal(compiled, eager)


@pytest.mark.slow
def test_generated_code_of_the_rest_equals_eager():
    names = (
        "uniform_between_torch.float64",
        "bits_torch.uint8",
        "bits_torch.uint64",
        "randint",
    )
    key = random.key(5)
    compiled = pf.jit(lambda key: [DRAWS[name](key) for name in names])(key)
    for name, ours in zip(names, compiled, strict=True):
        assert torch.equal(ours, DRAWS[name](key)), name


def test_draws_without_values_have_the_shapes_of_draws_and_leave_these_as_they_are():
    key, expected = random.key(5), {name: draw(random.key(5)) for name, draw in DRAWS.items()}

    def both(key: Tensor) -> dict[str, Tensor]:
        pf.eval_shape(lambda key: DRAWS["normal_torch.float32"](key), key)
        return {name: draw(key) for name, draw in DRAWS.items() if "float32" in name}

    for name, draw in DRAWS.items():
        declared = pf.eval_shape(draw, key)
        assert (declared.shape, declared.dtype) == (expected[name].shape, expected[name].dtype)
        assert torch.equal(draw(key), expected[name])
    for name, value in pf.jit(both, backend="eager")(key).items():
        assert torch.equal(value, expected[name]), name


def test_what_is_compiled_while_there_are_no_values_draws_all_the_same():
    """As by a function that compiles what it needs at its first use."""
    key, example = random.key(5), random.key(0)
    draw = DRAWS["normal_torch.float32"]
    kept = []

    def lazy(key: Tensor) -> Tensor:
        kept.append(pf.jit(draw, backend="eager").lower(example).compile())
        kept.append(pf.make_graph(draw)(example).operators)
        return draw(key)

    pf.eval_shape(lazy, key)
    assert torch.equal(kept[0](key), draw(key))
    assert kept[1] == pf.make_graph(draw)(key).operators


def test_other_threads_draw_while_there_are_no_values():
    key = random.key(5)
    draw = DRAWS["normal_torch.float32"]
    drawn = []

    def elsewhere(key_of_shape: Tensor) -> Tensor:
        for context in (contextvars.Context(), contextvars.copy_context()):
            thread = threading.Thread(target=lambda c=context: drawn.append(c.run(draw, key)))
            thread.start()
            thread.join()
        return key_of_shape

    pf.eval_shape(elsewhere, key)
    assert [torch.equal(one, draw(key)) for one in drawn] == [True, True]


@pytest.mark.parametrize("function", [elementary.log1p, elementary.erf_inv, elementary.erf])
def test_fused_kernels_round_like_float64(function):
    x = -torch.linspace(0, 1, 100_001, dtype=torch.float32)[:-1]
    fused = function(x)
    emulated = torch.func.vmap(function)(x[None])[0]  # under a transform nothing is fused
    assert torch.equal(fused, emulated)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 40), block=st.integers(1, 9))
def test_a_draw_does_not_depend_on_how_it_is_cut(seed, size, block):
    key = random.key(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threefry, "_FEW_BLOCKS", -1)
        whole = random.normal(key, (size,))
        patch.setattr(threefry, "_CACHED_BLOCKS", block)
        assert torch.equal(random.normal(key, (size,)), whole)
        patch.setattr(threefry, "_FEW_BLOCKS", 64)
        assert torch.equal(random.normal(key, (size,)), whole)


@pytest.mark.parametrize("start", [0, 1 << 31, 3 << 32])
def test_the_counter_has_two_words(start):
    key = random.key(3)
    run = threefry._encipher_run(start, 5, key)
    few = threefry._encipher_few(range(start, start + 5), key)
    assert torch.equal(torch.stack(run), torch.stack(few))
    words = cipher.threefry2x32((0, 3), divmod(start, 1 << 32), cipher.rotate_left_int)
    assert [int(word[0]) & 0xFFFFFFFF for word in run] == [word & 0xFFFFFFFF for word in words]


def test_vmap_over_data_and_seeds():
    key = random.key(1)
    steps = torch.arange(4)
    folded = pf.vmap(lambda step: random.fold_in(key, step))(steps)
    assert torch.equal(folded, torch.stack([random.fold_in(key, i) for i in range(4)]))
    keys = pf.vmap(random.key)(steps - 2)
    assert torch.equal(keys, torch.stack([random.key(i - 2) for i in range(4)]))


def test_seeds_of_every_dtype_are_numbers():
    for dtype in (torch.int8, torch.int32, torch.int64):
        assert torch.equal(random.key(torch.tensor(-3, dtype=dtype)), random.key(-3))
    for seed in (2**40 + 5, -(2**40) - 5):
        assert torch.equal(random.key(torch.tensor(seed)), random.key(seed))
    largest = torch.tensor(2**64 - 1, dtype=torch.uint64)
    assert torch.equal(random.key(largest), random.key(2**64 - 1))
    assert torch.equal(random.key(2**64 - 1), random.key(-1))


def test_bounds_are_differentiable():
    key = random.key(0)
    u = random.uniform(key, (5,), torch.float64)

    def total(low: Tensor, high: Tensor) -> Tensor:
        return random.uniform(key, (5,), torch.float64, low, high).sum()

    one = torch.ones((), dtype=torch.float64)
    gradients = pf.grad(total, argnums=(0, 1))(one, 3 * one)
    torch.testing.assert_close(gradients, ((1 - u).sum(), u.sum()))


@pytest.mark.parametrize("argument", [0, 1])
def test_truncation_is_differentiable(argument):
    key = random.key(0)
    bounds = [torch.tensor(-1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)]

    def total(low: Tensor, high: Tensor) -> Tensor:
        return random.truncated_normal(key, low, high, (40,), torch.float64).sum()

    step = torch.zeros(2, dtype=torch.float64)
    step[argument] = 1e-6
    up, down = (total(*(torch.stack(bounds) + sign * step)) for sign in (1, -1))
    gradient = pf.grad(total, argnums=argument)(*bounds)
    torch.testing.assert_close(gradient, (up - down) / 2e-6, rtol=1e-6, atol=0)


def test_inputs_are_not_written():
    key, p, logits = random.key(0), torch.tensor([0.25, 0.75]), MATRIX.clone()
    random.bernoulli(key, p, (3, 2))
    random.choice(key, 2, (3,), p=p)
    random.categorical(key, logits)
    random.permutation(key, logits)
    random.truncated_normal(key, p, p + 1)
    assert torch.equal(key, random.key(0))
    assert p.tolist() == [0.25, 0.75]
    assert torch.equal(logits, MATRIX)


KEY = random.key(0)
REFUSED = [
    (lambda: random.normal(0), TypeError, r"normal: expected a key.*got 0.*random\.key\(seed\)"),
    (lambda: random.bits(torch.zeros(2)), TypeError, r"bits: .*dtype torch\.float32"),
    (lambda: random.split(random.split(KEY, 3)), ValueError, r"split: .*\(3, 2\).*vmap"),
    (lambda: random.fold_in(KEY[:1], 1), ValueError, r"fold_in: .*\(1,\)"),
    (lambda: random.key(1.5), TypeError, "key: expected seed to be an integer, got 1.5"),
    (lambda: random.key(True), TypeError, "got True"),
    (lambda: random.key(2**64), ValueError, "at most 64 bits"),
    (lambda: random.key(torch.tensor(0.5)), TypeError, "got dtype torch.float32"),
    (lambda: random.key(torch.arange(2)), ValueError, r"scalar, got shape \(2,\)"),
    (lambda: random.fold_in(KEY, -1), ValueError, r"in \[0, 2\*\*32\), got -1"),
    (lambda: random.fold_in(KEY, 2**32), ValueError, "4294967296"),
    (lambda: random.fold_in(KEY, 0.5), TypeError, "integer, got 0.5"),
    (lambda: random.split(KEY, -1), ValueError, r"negative lengths, got \(-1,\)"),
    (lambda: random.uniform(KEY, 3), TypeError, "shape to be a tuple of integers, got 3"),
    (lambda: random.uniform(KEY, (2, -3)), ValueError, r"got \(2, -3\)"),
    (lambda: random.uniform(KEY, (2, 1.5)), TypeError, r"got \(2, 1.5\)"),
    (lambda: random.bits(KEY, (), torch.int32), TypeError, "torch.uint8.*got torch.int32"),
    (lambda: random.normal(KEY, (), torch.int32), TypeError, "torch.float16.*got torch.int32"),
    (
        lambda: random.uniform(KEY, (2,), minval=torch.zeros(3)),
        ValueError,
        r"uniform: expected minval to broadcast to shape \(2,\), got shape \(3,\)",
    ),
    (
        lambda: random.truncated_normal(KEY, 0.0, torch.ones(2, 1), (2,)),
        ValueError,
        r"truncated_normal: expected upper .* got shape \(2, 1\)",
    ),
    (lambda: random.bernoulli(KEY, 1), TypeError, "p to be a float or a tensor, got 1"),
    (lambda: random.bernoulli(KEY, torch.tensor(1)), TypeError, "got torch.int64"),
    (lambda: random.bernoulli(KEY, torch.rand(3), (2,)), ValueError, r"p to broadcast .*\(2,\)"),
    (lambda: random.randint(KEY, (2,), 5, 5), ValueError, "minval=5 and maxval=5"),
    (lambda: random.randint(KEY, (2,), -1, 5, torch.uint8), ValueError, "0 <= minval"),
    (lambda: random.randint(KEY, (2,), 0, 1.5), TypeError, "maxval to be an integer.*1.5"),
    (lambda: random.randint(KEY, (2,), 0, 5, torch.float32), TypeError, "integer dtype"),
    (lambda: random.randint(KEY, (2,), 0, torch.arange(3)), ValueError, r"maxval.*\(3,\)"),
    (lambda: random.permutation(KEY, -1), ValueError, "at least 0, got -1"),
    (lambda: random.permutation(KEY, torch.tensor(3)), TypeError, "at least one axis"),
    (lambda: random.permutation(KEY, MATRIX, 2), ValueError, r"\[-2, 2\).*\(4, 3\), got 2"),
    (lambda: random.categorical(KEY, torch.arange(3)), TypeError, "got torch.int64"),
    (lambda: random.categorical(KEY, MATRIX, shape=(3,)), ValueError, r"\(3,\), got shape \(4,\)"),
    (lambda: random.choice(KEY, 3, (4,), replace=False), ValueError, "cannot draw 4 of 3"),
    (lambda: random.choice(KEY, 0, (1,)), ValueError, "at least one element"),
    (lambda: random.choice(KEY, 3, (1,), p=WEIGHTS), ValueError, r"shape \(3,\), got \(4,\)"),
    (lambda: random.choice(KEY, 3.0, (1,)), TypeError, "got 3.0"),
]


@pytest.mark.parametrize(("draw", "error", "message"), REFUSED)
def test_refused(draw, error, message):
    with pytest.raises(error, match=message):
        draw()


def test_a_batch_of_keys_is_one_key_to_vmap_and_refused_outside():
    keys = random.split(KEY, 2)
    with pytest.raises(ValueError, match="vmap"):
        random.normal(keys)
    assert pf.vmap(random.normal)(keys).shape == (2,)
