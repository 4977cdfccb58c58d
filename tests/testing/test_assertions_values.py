"""Assertions about values, against numpy's; what a failure says of every leaf."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purefn import testing
from purefn.testing.assertions import differences

NAN, INF = math.nan, math.inf
FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def raises(message):
    return pytest.raises(AssertionError, match=re.escape(message))


def passes(check, *arguments, **options):
    try:
        check(*arguments, **options)
    except AssertionError:
        return False
    return True


# --- against numpy -------------------------------------------------------------------------------

NUMBERS = st.floats(width=32) | st.sampled_from([0.0, -0.0, NAN, INF, -INF, 1.0, 1.0000001])


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=3),
    st.sampled_from([0.0, 1e-6, 0.5]),
    st.sampled_from([0.0, 1e-3, 10.0]),
)
def test_close_is_what_numpy_calls_close(pairs, rtol, atol):
    one, other = (torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True))
    wide = one.double().numpy(), other.double().numpy()
    expected = np.isclose(*wide, rtol=rtol, atol=atol, equal_nan=True).all()
    assert passes(testing.assert_trees_all_close, one, other, rtol=rtol, atol=atol) == expected


@given(st.floats(width=32), st.floats(width=32))
def test_equal_is_what_numpy_calls_equal(one, other):
    for pair in ((one, other), (one, one)):
        tensors = [torch.tensor([number], dtype=torch.float32) for number in pair]
        expected = passes(np.testing.assert_array_equal, *[x.numpy() for x in tensors])
        assert passes(testing.assert_trees_all_equal, *tensors) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@given(data=st.data())
def test_ulps_are_the_steps_that_nextafter_takes(dtype, data):
    finite = st.floats(allow_nan=False, allow_infinity=False, width=16)
    x = torch.tensor(data.draw(finite), dtype=dtype).numpy()
    steps = data.draw(st.integers(0, 5))
    y = x
    for _ in range(steps):
        y = np.nextafter(y, np.array(np.inf, dtype=x.dtype))
    if not np.isfinite(y):
        return
    pair = [torch.tensor(np.array(z)) for z in (x, y)]
    assert differences.ulps(*pair) == steps
    assert passes(testing.assert_trees_all_close_ulp, *pair, maxulp=steps)
    if steps:
        assert not passes(testing.assert_trees_all_close_ulp, *pair, maxulp=steps - 1)


def test_ulps_of_bfloat16_cross_zero():
    tiny = torch.tensor(1, dtype=torch.int16).view(torch.bfloat16)
    assert differences.ulps(tiny, -tiny) == 2
    assert differences.ulps(-tiny, tiny * 0) == 1
    one = torch.tensor(1.0, dtype=torch.bfloat16)
    assert differences.ulps(one, one + 2**-7) == 1
    assert differences.ulps(one, 2 * one) == 2**7


def test_ulps_over_the_whole_range_of_float64_do_not_wrap():
    largest = torch.tensor(torch.finfo(torch.float64).max, dtype=torch.float64)
    assert differences.ulps(largest, -largest) == torch.iinfo(torch.int64).max
    assert not passes(testing.assert_trees_all_close_ulp, largest, -largest, maxulp=2**62)


def test_a_number_and_infinity_are_never_ulps_apart():
    largest = torch.tensor(torch.finfo(torch.float32).max)
    assert not passes(testing.assert_trees_all_close_ulp, largest, largest * 2, maxulp=2**40)
    testing.assert_trees_all_close_ulp(largest * 2, largest * 2)


# --- what is the same ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATING)
def test_nan_infinity_and_zero(dtype):
    one = torch.tensor([NAN, INF, -INF, 0.0], dtype=dtype)
    other = torch.tensor([NAN, INF, -INF, -0.0], dtype=dtype)
    for check in (
        testing.assert_trees_all_close,
        testing.assert_trees_all_equal,
        testing.assert_trees_all_close_ulp,
    ):
        check([one], [other])
        for wrong in ([1.0, INF, -INF, 0.0], [NAN, -INF, -INF, 0.0], [NAN, INF, NAN, 0.0]):
            with raises("1 of 4 elements"):
                check([one], [torch.tensor(wrong, dtype=dtype)])


def test_complex_numbers_are_two_parts():
    z = torch.tensor([1 + 1j, complex(NAN, 2)])
    testing.assert_trees_all_equal(z, z.clone())
    testing.assert_trees_all_equal(z.conj(), z.conj().resolve_conj())
    with raises("at [1]"):
        testing.assert_trees_all_equal(z, torch.tensor([1 + 1j, complex(NAN, 3)]))
    with raises("largest ulps difference 8388608 at [0]: (1+1j) != (1+2j)"):
        testing.assert_trees_all_close(z, torch.tensor([1 + 2j, complex(NAN, 2)]))


def test_integers_booleans_keys_and_strings():
    for leaf in (
        torch.tensor([1, 2]),
        torch.tensor([True]),
        torch.tensor([1, 2**32 - 1], dtype=torch.uint32),
        np.array([1.0, 2.0]),
        "name",
        3,
        None,
    ):
        testing.assert_trees_all_equal([leaf], [leaf])
        testing.assert_trees_all_close([leaf], [leaf])
    with raises("tree[0]: 1 of 2 elements of int64 of shape (2,) differ"):
        testing.assert_trees_all_equal([torch.tensor([1, 2])], [torch.tensor([1, 3])])
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        key = torch.tensor([1, 2], dtype=dtype)
        with raises("largest absolute difference 1 at [1]: 2 != 3"):
            testing.assert_trees_all_equal(key, torch.tensor([1, 3], dtype=dtype))
    with raises("tree[0]: 'a' != 'b'"):
        testing.assert_trees_all_equal(["a"], ["b"])


def test_a_python_number_has_the_dtype_beside_it():
    testing.assert_trees_all_equal({"lr": 0.1}, {"lr": torch.tensor(0.1)})
    testing.assert_trees_all_equal({"lr": 0.1}, {"lr": torch.tensor(0.1, dtype=torch.float64)})
    testing.assert_trees_all_equal(3, torch.tensor(3))
    with raises("!="):
        testing.assert_trees_all_equal(3, torch.tensor(3.0))


def test_nothing_is_broadcast_or_cast():
    with raises("tree: float32 of shape (2,) != float32 of shape (1,)"):
        testing.assert_trees_all_close(torch.ones(2), torch.ones(1))
    with raises("tree: float32 of shape (1,) != float32 of shape ()"):
        testing.assert_trees_all_equal(torch.ones(1), torch.ones(()))
    with raises("tree: float32 of shape (2,) != float64 of shape (2,)"):
        testing.assert_trees_all_equal(torch.ones(2), torch.ones(2, dtype=torch.float64))
    testing.assert_trees_all_equal(torch.ones(2), torch.ones(2, dtype=torch.float64), strict=False)


def test_small_differences_are_not_lost_in_a_narrow_dtype():
    one = torch.tensor([1.0], dtype=torch.bfloat16)
    with raises("largest relative difference 0.00775 at [0]"):
        testing.assert_trees_all_close(one, one + 2**-7, rtol=0.0077)
    testing.assert_trees_all_close(one, one + 2**-7, rtol=0.00776)


def test_tensors_that_require_gradients_are_compared():
    x = torch.ones(2, requires_grad=True)
    testing.assert_trees_all_equal(x * 1, x)


def test_empty_leaves_are_equal():
    testing.assert_trees_all_close({"a": torch.ones(0, 3)}, {"a": torch.zeros(0, 3)})


# --- what is said --------------------------------------------------------------------------------


def test_a_failure_names_every_leaf_and_where_it_differs_most():
    one = {"w": torch.tensor([[1.0, 2.0], [3.0, 100.0]]), "b": torch.zeros(2), "s": torch.ones(())}
    other = {"w": torch.tensor([[1.0, 2.5], [3.0, 101.0]]), "b": torch.ones(2), "s": torch.ones(())}
    with pytest.raises(AssertionError) as caught:
        testing.assert_trees_all_close(one, other)
    assert str(caught.value).splitlines() == [
        "assert_trees_all_close (rtol 1e-06, atol 0): 2 of 3 leaves differ.",
        "  tree['b']: 2 of 2 elements of float32 of shape (2,) differ",
        "    largest absolute difference 1 at [0]: 0.0 != 1.0",
        "    largest relative difference 1 at [0]: 0.0 != 1.0",
        "    largest ulps difference 1065353216 at [0]: 0.0 != 1.0",
        "  tree['w']: 2 of 4 elements of float32 of shape (2, 2) differ",
        "    largest absolute difference 1 at [1, 1]: 100.0 != 101.0",
        "    largest relative difference 0.2 at [0, 1]: 2.0 != 2.5",
        "    largest ulps difference 2097152 at [0, 1]: 2.0 != 2.5",
    ]


def test_only_elements_that_differ_are_measured():
    one, other = torch.tensor([1e6, 1.0]), torch.tensor([1e6 + 1, 2.0])
    with raises("1 of 2 elements"):
        testing.assert_trees_all_close(one, other, rtol=1e-5)
    with raises("largest absolute difference 1 at [1]"):
        testing.assert_trees_all_close(one, other, rtol=1e-5)


def test_a_difference_with_nan_is_infinite():
    with raises("largest absolute difference inf at [0]: nan != 1.0"):
        testing.assert_trees_all_close(torch.tensor([NAN]), torch.tensor([1.0]))
    with raises("largest ulps difference inf at [0]: nan != 1.0"):
        testing.assert_trees_all_close_ulp(torch.tensor([NAN]), torch.tensor([1.0]), maxulp=2**60)


def test_structures_are_compared_before_values():
    with raises("only the first has tree['b']; only the second has tree['c']"):
        testing.assert_trees_all_close({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0})


def test_a_tree_of_several_is_named_by_its_number():
    with raises("differ (tree 3 against the first)"):
        testing.assert_trees_all_equal(torch.ones(1), torch.ones(1), torch.zeros(1))


def test_finite_names_every_leaf_that_is_not():
    tree = {"a": torch.tensor([1.0, NAN, INF]), "b": torch.tensor(-INF), "c": 1, "d": "text"}
    with pytest.raises(AssertionError) as caught:
        testing.assert_tree_all_finite(tree)
    assert str(caught.value).splitlines() == [
        "assert_tree_all_finite: 2 of 4 leaves are not finite.",
        "  tree['a']: 2 of 3 elements of float32 of shape (3,), the first at [1]: nan",
        "  tree['b']: 1 of 1 elements of float32 of shape (), the first: -inf",
    ]


def test_a_comparator_of_leaves_says_what_is_wrong():
    def check(*trees):
        testing.assert_trees_all_equal_comparator(
            lambda x, y: abs(x - y) <= 1, lambda x, y: f"{x} is far from {y}", *trees
        )

    check({"a": 1, "b": 2}, {"a": 2, "b": 1})
    with raises("1 of 2 leaves differ.\n  tree['b']: 2 is far from 5"):
        check({"a": 1, "b": 2}, {"a": 2, "b": 5})
