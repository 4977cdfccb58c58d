"""vmap against a loop over the examples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import tree

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def assert_same(left, right):
    assert tree.structure(left) == tree.structure(right)
    for ours, expected in zip(tree.leaves(left), tree.leaves(right), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@st.composite
def mapped_leaves(draw):
    """Draw a batch size, and leaves with an axis each (None where a leaf is not mapped)."""
    size = draw(st.integers(1, 4))
    leaves = []
    for seed in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(0, 3), max_size=2))
        axis = draw(st.none() | st.integers(-len(shape) - 1, len(shape)))
        if axis is not None:
            shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, size)
        leaves.append((randn(*shape, seed=seed), axis))
    return size, leaves


containers = st.sampled_from(
    [
        lambda nodes, items: tuple(items),
        lambda nodes, items: items,
        lambda nodes, items: {f"k{9 - index}": item for index, item in enumerate(items)},
        lambda nodes, items: nodes.Pair(items[0], {"rest": items[1:]}),
        lambda nodes, items: nodes.Affine(items[0], items[1:]),
        lambda nodes, items: nodes.Anyones(items[0], (None, items[1:])),
    ]
)


@given(drawn=mapped_leaves(), make=containers, data=st.data())
def test_vmap_is_a_loop_over_the_examples(nodes, drawn, make, data):
    size, leaves = drawn

    def container(items):
        return make(nodes, items)

    args = container([leaf for leaf, _ in leaves])
    axes = container([axis for _, axis in leaves])
    chunk_size = data.draw(st.none() | st.integers(1, size + 1))
    out_axes = {
        name: data.draw(st.integers(-leaf.ndim - (axis is None), leaf.ndim - (axis is not None)))
        for name, (leaf, axis) in enumerate(leaves)
    }

    def fun(args):
        return {name: torch.sin(leaf) for name, leaf in enumerate(flat(args))}

    def flat(args):
        found = tree.leaves(args)
        order = tree.leaves(container(list(range(len(leaves)))))
        return [leaf for _, leaf in sorted(zip(order, found, strict=True), key=lambda p: p[0])]

    mapped = pf.vmap(fun, in_axes=(axes,), out_axes=out_axes, axis_size=size, chunk_size=chunk_size)
    found = mapped(args)
    for name, (leaf, axis) in enumerate(leaves):
        rows = [torch.sin(leaf if axis is None else leaf.select(axis, i)) for i in range(size)]
        torch.testing.assert_close(
            found[name], torch.stack(rows, dim=out_axes[name]), rtol=0, atol=0
        )


@pytest.mark.parametrize(
    ("in_axes", "expected"),
    [
        (0, [[11.0, 22.0]]),
        ((0, 0), [[11.0, 22.0]]),
        ([0, 0], [[11.0, 22.0]]),
        ((0, None), [[[11.0, 21.0], [12.0, 22.0]]]),
        ((None, -1), [[[11.0, 12.0], [21.0, 22.0]]]),
    ],
)
def test_in_axes_of_arguments(in_axes, expected):
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    assert [pf.vmap(lambda x, y: x + y, in_axes)(x, y).tolist()] == expected


def test_a_leaf_of_in_axes_stands_for_a_subtree():
    params = {"fc": {"w": torch.ones(2, 3), "b": torch.ones(2)}, "s": torch.tensor(5.0), "n": None}
    found = pf.vmap(
        lambda p, x: p["fc"]["w"].sum() + p["fc"]["b"] + p["s"] + x,
        in_axes=({"fc": 0, "s": None, "n": 0}, None),
    )(params, 1)
    assert found.tolist() == [10.0, 10.0]


def test_none_for_an_argument_may_cover_anything():
    def fun(settings, x):
        return x * settings["power"] if settings["name"] == "linear" else x

    found = pf.vmap(fun, in_axes=(None, 0))({"power": 2, "name": "linear"}, torch.ones(3))
    assert found.tolist() == [2.0, 2.0, 2.0]


def test_keyword_arguments_are_mapped_over_their_first_axis():
    found = pf.vmap(lambda x, scale: x * scale["s"], in_axes=(None,))(
        torch.tensor(2.0), scale={"s": torch.tensor([1.0, 2.0, 3.0])}
    )
    assert found.tolist() == [2.0, 4.0, 6.0]


def test_out_axes_place_the_mapped_axis():
    x = randn(4, 2, 3)
    for axis in (0, 1, 2, -1, -2, -3):
        torch.testing.assert_close(
            pf.vmap(lambda row: row, out_axes=axis)(x), torch.movedim(x, 0, axis), rtol=0, atol=0
        )


def test_a_leaf_of_out_axes_stands_for_a_subtree():
    x = randn(4, 2)
    found = pf.vmap(lambda x: ({"a": x, "b": 2 * x}, x.sum()), out_axes=(1, 0))(x)
    assert_same(found, ({"a": x.T, "b": 2 * x.T}, x.sum(1)))


def test_outputs_that_depend_on_nothing_mapped_are_repeated():
    constant = torch.tensor([1.0, 2.0])
    found = pf.vmap(lambda x: {"x": x, "c": constant, "n": 3, "f": 0.5, "none": None})(
        torch.ones(3)
    )
    assert_same(
        found,
        {
            "x": torch.ones(3),
            "c": constant.expand(3, 2),
            "n": torch.tensor([3, 3, 3]),
            "f": torch.tensor([0.5, 0.5, 0.5]),
            "none": None,
        },
    )


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_out_axes_none_gives_the_value_itself(chunk_size):
    constant = torch.tensor([1.0, 2.0])
    found = pf.vmap(
        lambda x: (x, {"c": constant, "n": 3}), out_axes=(0, None), chunk_size=chunk_size
    )(torch.ones(5))
    assert_same(found, (torch.ones(5), {"c": constant, "n": torch.tensor(3)}))


def test_out_axes_none_asks_about_this_vmap_only():
    def outer(x, ys):
        return pf.vmap(lambda y: (x * y, x * 2), out_axes=(0, None))(ys)

    found = pf.vmap(outer, in_axes=(0, None))(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    assert_same(found, (torch.tensor([[3.0, 4.0], [6.0, 8.0]]), torch.tensor([2.0, 4.0])))


def test_axis_size_alone():
    found = pf.vmap(lambda x: x + 1, in_axes=None, axis_size=3)(torch.tensor(1.0))
    assert found.tolist() == [2.0, 2.0, 2.0]
    assert pf.vmap(lambda: 1.0, axis_size=2)().tolist() == [1.0, 1.0]
    assert pf.vmap(lambda: {}, axis_size=2)() == {}


def test_an_empty_batch():
    found = pf.vmap(lambda x: {"y": x @ x, "n": 1})(torch.ones(0, 3))
    assert found["y"].shape == found["n"].shape == (0,)


@given(st.integers(1, 7), st.integers(1, 9))
def test_chunks_change_nothing(size, chunk_size):
    x, params = randn(size, 3), {"w": randn(3, 2, seed=1)}

    def loss(params, x):
        return torch.tanh(x @ params["w"]).sum()

    whole = pf.vmap(pf.grad(loss), in_axes=(None, 0))(params, x)
    parts = pf.vmap(pf.grad(loss), in_axes=(None, 0), chunk_size=chunk_size)(params, x)
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("chunk_size", "calls"), [(None, 1), (1, 7), (3, 3), (7, 1), (9, 1)])
def test_chunks_are_computed_one_at_a_time(chunk_size, calls):
    seen = []
    pf.vmap(lambda x: seen.append(x) or x, chunk_size=chunk_size)(torch.ones(7))
    assert len(seen) == calls


def test_nested_vmaps_are_an_outer_product():
    x, y = randn(2), randn(3, seed=1)
    found = pf.vmap(lambda x: pf.vmap(lambda y: x * y)(y))(x)
    torch.testing.assert_close(found, torch.outer(x, y), rtol=0, atol=0)


def test_vmap_inside_vmap_inside_grad():
    x = randn(2, 3)

    def f(p):
        return pf.vmap(pf.vmap(lambda v: (v * p["s"]) ** 2))(x).sum()

    torch.testing.assert_close(pf.grad(f)({"s": 2.0})["s"], 4 * (x**2).sum().float())


def test_inputs_are_not_written():
    x = randn(3)
    version = x._version
    pf.vmap(lambda x: x * 2)(x)
    assert x._version == version


class TestRefusals:
    def test_sizes_that_differ_are_named(self):
        def loss(params, x):
            return x

        with pytest.raises(
            ValueError,
            match=r"differ in size: params\['b'\] has size 2 along axis 0; x has size 3 along axis",
        ):
            pf.vmap(loss, in_axes=(0, 1))(
                {"b": torch.ones(2), "w": torch.ones(2)}, torch.ones(2, 3)
            )

    def test_a_keyword_argument_of_another_size(self):
        with pytest.raises(ValueError, match=r"x has size 2 along axis 0; k\[0\] has size 3"):
            pf.vmap(lambda x, k: x)(torch.ones(2), k=[torch.ones(3)])

    def test_axis_size_that_disagrees(self):
        with pytest.raises(ValueError, match=r"axis_size is 4, but x has size 3 along axis 0"):
            pf.vmap(lambda x: x, axis_size=4)(torch.ones(3))

    @pytest.mark.parametrize("shape", [(), (3,)])
    def test_axes_that_leaves_do_not_have(self, shape):
        for axis in (1, -2):
            with pytest.raises(ValueError, match=rf"x\['w'\] is float32 .* no axis {axis} to map"):
                pf.vmap(lambda x: x, in_axes=axis)({"w": torch.ones(shape)})

    def test_leaves_that_are_no_tensors(self):
        with pytest.raises(
            TypeError, match=r"train is the bool True.*keyword arguments are mapped"
        ):
            pf.vmap(lambda x, train: x)(torch.ones(2), train=True)
        with pytest.raises(TypeError, match=r"y is the float 2.0.*None in in_axes"):
            pf.vmap(lambda x, y: x)(torch.ones(2), 2.0)

    def test_nothing_mapped(self):
        with pytest.raises(ValueError, match=r"nothing is mapped.*axis_size"):
            pf.vmap(lambda x: x, in_axes=None)(torch.ones(2))

    def test_in_axes_of_another_length(self):
        with pytest.raises(ValueError, match=r"in_axes has 1 entries, but add was called with 2"):
            pf.vmap(torch.add, in_axes=(0,))(torch.ones(2), torch.ones(2))

    def test_in_axes_that_are_no_prefix(self):
        with pytest.raises(
            ValueError, match=r"in_axes is no prefix of args: args\[1\] .* in_axes\[1\].*'v'.*'w'"
        ):
            pf.vmap(lambda x, p: x, in_axes=(None, {"v": 0}))(torch.ones(2), {"w": torch.ones(2)})

    def test_out_axes_that_are_no_prefix(self):
        with pytest.raises(ValueError, match="out_axes is no prefix of output"):
            pf.vmap(lambda x: x, out_axes=(0, 0))(torch.ones(2))

    def test_out_axes_out_of_range(self):
        for axis in (2, -3):
            with pytest.raises(ValueError, match=rf"output\['y'\] has out_axes {axis}.*\(2,\)"):
                pf.vmap(lambda x: {"y": x}, out_axes=axis)(torch.ones(3, 2))

    def test_out_axes_none_for_what_is_mapped(self):
        with pytest.raises(
            ValueError, match=r"output\['y'\] has out_axes None, but depends on map"
        ):
            pf.vmap(lambda x: {"y": x}, out_axes=None)(torch.ones(3))

    @pytest.mark.parametrize("axes", [1.5, "0", True])
    def test_axes_that_are_no_integers(self, axes):
        with pytest.raises(TypeError, match="in_axes"):
            pf.vmap(lambda x: x, in_axes=(axes,))
        with pytest.raises(TypeError, match="out_axes"):
            pf.vmap(lambda x: x, out_axes=axes)

    def test_in_axes_without_an_entry_per_argument(self):
        with pytest.raises(TypeError, match="one entry per positional argument"):
            pf.vmap(lambda x: x, in_axes={"x": 0})

    def test_outputs_that_are_no_tensors(self):
        with pytest.raises(TypeError, match=r"output\['name'\] = 'adam'"):
            pf.vmap(lambda x: {"x": x, "name": "adam"})(torch.ones(2))

    def test_global_randomness(self):
        with pytest.raises(RuntimeError, match=r"vmap: .*global random generator.*random\.split"):
            pf.vmap(lambda x: x + torch.randn(2))(torch.ones(3))
        with pytest.raises(RuntimeError, match=r"mat1 and mat2|size mismatch|vector"):
            pf.vmap(lambda x: x @ torch.ones(7, 2))(torch.ones(3, 2, 2))

    @pytest.mark.parametrize(("name", "count"), [("axis_size", -1), ("chunk_size", 0)])
    def test_counts(self, name, count):
        with pytest.raises(ValueError, match=f"for {name}, got {count}"):
            pf.vmap(lambda x: x, **{name: count})
