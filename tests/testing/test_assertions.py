"""Assertions about shapes, scalars and structures: what passes, what fails, and what is said."""

import re

import pytest
import torch
from hypothesis import given

import purefn.functional as pf
from purefn import testing

X = torch.ones(2, 3)
SCALAR = torch.tensor(1.5)
DOUBLE = torch.ones(2, 3, dtype=torch.float64)

#: Name, arguments that pass, arguments that fail, what the failure says.
CASES = [
    ("shape", (X, (2, 3)), (X, (3, 2)), "the input has shape (2, 3), expected (3, 2)"),
    ("shape", (X, [2, None]), (X, (2, None, None)), "expected (2, None, None)"),
    ("shape", (X, (..., 3)), (X, (..., 2)), "expected (..., 2)"),
    ("shape", (X, (2, ..., 3)), (X, (2, ..., 3, 3)), "expected (2, ..., 3, 3)"),
    ("shape", (X, (2, 3, ...)), (X, (2, ..., 2, 3)), "expected (2, ..., 2, 3)"),
    ("shape", (X, ({1, 2}, 3)), (X, ({1, 4}, 3)), "expected ({1, 4}, 3)"),
    ("shape", (X, (...,)), (X, (3,)), "expected (3,)"),
    ("shape", (3.0, ()), (3.0, (1,)), "has shape ()"),
    ("shape", ([X, X], (2, 3)), ([X, SCALAR], (2, 3)), "inputs[1] has shape ()"),
    ("shape", ([X, SCALAR], [(2, 3), ()]), ([X, X], [(2, 3)]), "2 inputs, but 1 expectations"),
    (
        "shape",
        ([], ()),
        ([X, SCALAR], (1,)),
        "shape (2, 3), expected (1,); inputs[1]",
    ),
    ("rank", (X, 2), (X, 1), "has rank 2 (shape (2, 3)), expected 1"),
    ("rank", (X, {1, 2}), (X, {0, 1}), "expected {0, 1}"),
    ("rank", ([X, SCALAR], [2, 0]), ([X, SCALAR], [0, 2]), "inputs[1] has rank 0"),
    ("size", (X, 6), (X, 2), "has size 6 (shape (2, 3)), expected 2"),
    ("size", ([X, 1], (..., {1, 2})), ([X, 1], (6, 2)), "inputs[1] has size 1"),
    ("type", (X, torch.float32), (X, torch.float64), "type torch.float32, expected torch.float64"),
    ("type", (X.bfloat16(), float), (X, int), "expected int"),
    ("type", ([1, True, 1j], [int, bool, complex]), ([True], [int]), "type bool"),
    ("type", (X > 0, bool), (X > 0, int), "type torch.bool"),
    ("type", (X.to(torch.complex64), complex), (X, complex), "expected complex"),
    (
        "type",
        (X.to(torch.uint8), int),
        ([X, 1], [float, float]),
        "inputs[1] has type int",
    ),
    ("axis_dimension", (X, 1, 3), (X, 0, 3), "axis 0 of shape (2, 3) is 2, expected 3"),
    ("axis_dimension", (X, -1, 3), (X, 2, 3), "there is no axis 2 in shape (2, 3)"),
    ("axis_dimension_gt", (X, 1, 2), (X, 1, 3), "is 3, expected > 3"),
    ("axis_dimension_gteq", (X, 1, 3), (X, 1, 4), "is 3, expected >= 4"),
    ("axis_dimension_lt", (X, 1, 4), (X, 1, 3), "is 3, expected < 3"),
    ("axis_dimension_lteq", (X, 1, 3), (X, 1, 2), "is 3, expected <= 2"),
    ("equal_shape", ([X, X + 1],), ([X, X.T],), "the shapes differ: (2, 3), (3, 2)"),
    ("equal_shape_prefix", ([X, X[:, :1]], 1), ([X, X.T], 1), "first 1 sides differ: (2,), (3,)"),
    ("equal_shape_prefix", ([X, X[:, :1]], 0), ([X, SCALAR], 1), "inputs[1] has ()"),
    ("equal_shape_suffix", ([X, X[0]], 1), ([X, X.T], 1), "last 1 sides differ: (3,), (2,)"),
    ("equal_shape_suffix", ([X, X.T], 0), ([X, X.T], 2), "last 2 sides differ"),
    ("equal_size", ([X, X.T],), ([X, SCALAR],), "the sizes differ: 6, 1"),
    ("equal_rank", ([X, X.T],), ([X, SCALAR],), "the ranks differ: 2, 0"),
    ("is_broadcastable", ((3, 1), (2, 3, 4)), ((2,), (2, 3)), "(2,) does not expand to (2, 3)"),
    ("is_broadcastable", ((), (2,)), ((1, 1, 1), (1, 1)), "(1, 1, 1) does not expand"),
    ("is_divisible", (6, 3), (6, 4), "6 is no multiple of 4"),
    ("is_divisible", (0, 3), (6, 0), "6 is no multiple of 0"),
    ("scalar", (SCALAR,), (X,), "expected a number, got a tensor of shape (2, 3)"),
    ("scalar", (1,), ("1",), "expected a number, got '1'"),
    ("scalar_in", (SCALAR, 1, 2), (2.5, 1, 2), "expected a number in [1, 2], got 2.5"),
    ("scalar_in", (1, 0, 2, False), (2, 0, 2, False), "expected a number in (0, 2), got 2"),
    ("scalar_positive", (1e-30,), (0,), "expected a number > 0, got 0"),
    ("scalar_non_negative", (0.0,), (-1e-30,), "expected a number >= 0"),
    ("scalar_negative", (-1,), (float("nan"),), "expected a number < 0, got nan"),
    ("equal", ((1, "a"), (1, "a")), (1, 2), "1 is not 2"),
    ("not_both_none", (None, 0), (None, None), "both are None"),
    ("exactly_one_is_none", (0, None), (None, None), "both are None"),
    ("exactly_one_is_none", (None, 0), (0, 1), "neither is None"),
    ("devices_available", (1, "cpu"), (2, "cpu"), "expected 2 of type 'cpu', found 1"),
    ("devices_available", (0, "cpu", True), (0, "cpu"), "expected 0 of type 'cpu', found 1"),
    ("trees_all_equal_structs", ({"a": 1}, {"a": X}), ({"a": 1}, {"b": 1}), "first has tree['a']"),
    ("trees_all_equal_structs", ([1, None],) * 2, ([1, None], [1]), "is not"),
    ("trees_all_equal_structs", ((1,), (2,)), ((1,), [1]), "is not"),
    (
        "trees_all_equal_shapes",
        ({"a": X}, {"a": DOUBLE}),
        ([X], [X.T]),
        "tree[0]: (2, 3) != (3, 2)",
    ),
    ("trees_all_equal_shapes", (1.0, SCALAR), (X, X, SCALAR), "differ (tree 3 against the first)"),
    ("trees_all_equal_dtypes", (X, X.T), ([X], [DOUBLE]), "torch.float32 != torch.float64"),
    ("trees_all_equal_shapes_and_dtypes", ([X], [X]), ([X], [DOUBLE]), "float64 of shape (2, 3)"),
    ("trees_all_equal_sizes", (X, X.T), ([X], [SCALAR]), "tree[0]: 6 != 1"),
    ("tree_shape", ([X, DOUBLE], (2, 3)), ([X, X.T], (2, 3)), "1 of 2 leaves fail"),
    (
        "tree_shape_prefix",
        ([X, X[:, 0]], (2,)),
        ([X, SCALAR], (2,)),
        "tree[1]: float32 of shape ()",
    ),
    ("tree_shape_suffix", ([X, X[0]], (3,)), ([X, SCALAR], (3,)), "tree[1]: float32 of shape ()"),
    ("tree_shape_suffix", ([X, SCALAR], ()), ([X, X[0]], (2, 3)), "[1]: float32 of shape (3,)"),
    ("tree_is_on_device", ([X], "cpu"), ([X], "meta"), "tree[0]: float32 of shape (2, 3) on cpu"),
    ("tree_is_on_device", ([X], ["meta", "cpu"]), ([X], "cuda:1"), "expected to be on cuda:1"),
    ("tree_is_on_device", ([X], "cpu"), ([X], "cpu:1"), "expected to be on cpu:1"),
    ("tree_is_on_device", ([], "cuda"), ([X, 1], "cpu"), "tree[1]: the int 1"),
    ("tree_no_nones", ({"a": X},), ({"a": [None], "b": None},), "tree['a'][0], tree['b']"),
    ("tree_has_only_tensors", ([X, None],), ([X, 1.0],), "tree[1]: the float 1.0"),
]


@pytest.mark.parametrize(("name", "passing", "failing", "message"), CASES)
def test_what_passes_and_what_fails(name, passing, failing, message):
    check = getattr(testing, f"assert_{name}")
    assert check(*passing) is None
    with pytest.raises(AssertionError, match=re.escape(message)) as caught:
        check(*failing)
    assert str(caught.value).startswith(f"assert_{name}: ")


def test_every_assertion_is_tested_here_or_beside():
    elsewhere = {
        *("tree_all_finite", "trees_all_close", "trees_all_close_ulp", "trees_all_equal"),
        *("trees_all_equal_comparator", "axis_dimension_comparator", "gpu_available"),
        *("max_traces", "no_graph_breaks", "no_input_mutation", "numerical_grads"),
    }
    exported = {name.removeprefix("assert_") for name in testing.__all__ if "assert_" in name}
    assert exported == elsewhere | {name for name, *_ in CASES}


def test_equal_shape_looks_at_the_axes_asked_for():
    testing.assert_equal_shape([X, X[:, :1]], dims=0)
    testing.assert_equal_shape([X, torch.ones(2, 1, 3)], dims=[0, -1])
    with pytest.raises(AssertionError, match=r"in the axes \[1\] differ: \(3,\), \(1,\)"):
        testing.assert_equal_shape([X, X[:, :1]], dims=[1])
    with pytest.raises(ValueError, match="no axis 2"):
        testing.assert_equal_shape([X, X], dims=2)


def test_a_comparator_of_an_axis_says_what_it_wants():
    testing.assert_axis_dimension_comparator(X, 0, lambda size: size % 2 == 0, "even")
    with pytest.raises(AssertionError, match="is 3, expected even"):
        testing.assert_axis_dimension_comparator(X, 1, lambda size: size % 2 == 0, "even")


def test_a_gpu_is_available_where_torch_finds_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    testing.assert_gpu_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AssertionError, match="no CUDA device"):
        testing.assert_gpu_available()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("shape", (X, 2), "expected a shape or a list of shapes, got 2"),
        ("type", (X, "float32"), "expected a torch.dtype, float, int, complex or bool"),
        ("equal_shape", (X,), "expected a list or tuple of tensors, got Tensor"),
        ("equal", (X, X), "compare tensors with assert_trees_all_equal"),
    ],
)
def test_misuse_is_a_type_error(name, arguments, message):
    with pytest.raises(TypeError, match=message):
        getattr(testing, f"assert_{name}")(*arguments)


def test_one_tree_cannot_be_compared():
    with pytest.raises(ValueError, match="expected two trees or more, got 1"):
        testing.assert_trees_all_equal_shapes(X)


@given(testing.shapes(min_side=0))
def test_every_shape_matches_itself_and_its_patterns(shape):
    x = torch.empty(shape)
    testing.assert_shape(x, shape)
    testing.assert_shape(x, (None,) * len(shape))
    for at in range(len(shape) + 1):
        testing.assert_shape(x, (*shape[:at], ..., *shape[at:]))
        testing.assert_shape(x, (*shape[:at], ...))
        testing.assert_tree_shape_prefix([x], shape[:at])
        testing.assert_tree_shape_suffix([x], shape[at:])
    with pytest.raises(AssertionError):
        testing.assert_shape(x, (*shape, None))


# --- inside transforms ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: pf.jit(f, backend="eager"),
        pf.vmap,
        pf.grad,
        lambda f: pf.jit(pf.grad(f), backend="eager"),
    ],
    ids=["jit", "vmap", "grad", "jit of grad"],
)
def test_what_looks_at_metadata_works_inside_transforms(transform):
    def f(x):
        y = {"x": x, "twice": 2 * x}
        testing.assert_shape(x, ())
        testing.assert_rank(x, {0})
        testing.assert_type(x, float)
        testing.assert_scalar(x)
        testing.assert_trees_all_equal_shapes_and_dtypes(y, y)
        testing.assert_tree_is_on_device(y, "cpu")
        testing.assert_tree_has_only_tensors(y)
        with pytest.raises(AssertionError):
            testing.assert_shape(x, (3,))
        return 2 * x

    batch = torch.ones(3)
    transform(f)(batch if transform is pf.vmap else batch[0])


def test_a_failure_inside_jit_is_the_assertion_error():
    @pf.jit(backend="eager")
    def f(x):
        testing.assert_shape(x, (3,))
        return x

    with pytest.raises(AssertionError, match=r"has shape \(2, 3\), expected \(3,\)"):
        f(X)


def test_shapes_of_what_has_no_values_at_all():
    testing.assert_shape(pf.ShapeDtype((2, 3), torch.float32), (2, 3))
    testing.assert_type(pf.ShapeDtype((2, 3), torch.float32), torch.float32)


VALUES = [
    lambda x: testing.assert_trees_all_close(x, x),
    lambda x: testing.assert_trees_all_equal(x, x),
    lambda x: testing.assert_trees_all_close_ulp(x, x),
    lambda x: testing.assert_tree_all_finite(x),
    lambda x: testing.assert_scalar_positive(x),
    lambda x: testing.assert_no_input_mutation(lambda x: x)(x),
]


@pytest.mark.parametrize("check", VALUES)
def test_what_looks_at_values_is_refused_inside_jit_and_vmap(check):
    def f(x):
        check(x)
        return x

    with pytest.raises(pf.TraceError, match="looks at values, and a tensor that `jit` traces has"):
        pf.jit(f, backend="eager")(SCALAR)
    with pytest.raises(pf.TraceError, match="inside `vmap` has one for each example"):
        pf.vmap(f)(torch.ones(3))
    with pytest.raises(pf.TraceError, match="`jit` traces has none"):
        pf.jit(pf.vmap(f), backend="eager")(torch.ones(3))


@pytest.mark.parametrize("check", VALUES)
def test_what_looks_at_values_works_inside_grad_and_disable_jit(check):
    def f(x):
        check(x)
        return x

    assert pf.grad(f)(SCALAR) == 1
    with pf.disable_jit():
        assert pf.jit(f)(SCALAR) == 1.5
