"""ShapeDtype and eval_shape against what a call returns."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import ShapeDtype, tree

# torch warns about its own use of torch.jit.script when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@tree.dataclass
class Affine:
    weight: object
    bias: object
    name: str = tree.static(default="affine")


def shapes_of(output):
    return tree.map(lambda leaf: ShapeDtype(leaf.shape, leaf.dtype, leaf.device), output)


class TestShapeDtype:
    def test_is_equal_and_hashes_by_value(self):
        first, second = ShapeDtype([2, 3]), ShapeDtype((2, 3), torch.float32, torch.device("cpu"))
        assert first == second
        assert hash(first) == hash(second)
        assert first != ShapeDtype((2, 3), torch.float64)
        assert first != ShapeDtype((3, 2))

    def test_has_the_attributes_of_a_tensor(self):
        abstract, tensor = ShapeDtype((2, 3), torch.int32), torch.zeros(2, 3, dtype=torch.int32)
        for name in ("shape", "dtype", "device", "ndim"):
            assert getattr(abstract, name) == getattr(tensor, name)
            assert type(getattr(abstract, name)) is type(getattr(tensor, name))

    def test_is_a_leaf(self):
        leaf = ShapeDtype(())
        assert tree.leaves({"a": leaf}) == [leaf]

    def test_is_frozen(self):
        with pytest.raises(AttributeError):
            ShapeDtype(()).shape = (1,)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (((2, -1),), ValueError, "lengths >= 0"),
            (((2.0,),), TypeError, "integers for shape"),
            (((True,),), TypeError, "integers for shape"),
            (((2,), "float32"), TypeError, "torch.dtype"),
        ],
    )
    def test_refuses(self, arguments, error, message):
        with pytest.raises(error, match=message):
            ShapeDtype(*arguments)


dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.bool])


@given(st.integers(0, 4), st.integers(1, 4), dtypes, dtypes)
def test_shapes_are_those_of_the_call(rows, width, left, right):
    x, y = torch.ones(rows, width).to(left), torch.ones(width).to(right)

    def fun(params, y, scale, *, flag):
        return {
            "sum": params.weight + y,
            "mean": [params.weight.double().mean(0) * scale, None],
            "node": Affine(y[None], flag, "out"),
            "stack": torch.stack([y, y], 1).T,
        }

    arguments = (Affine(x, None), y, 2.0)
    expected = fun(*arguments, flag=torch.tensor(True))
    for args in (arguments, (*shapes_of(arguments[:2]), 2.0)):
        found = pf.eval_shape(fun, *args, flag=torch.tensor(True))
        assert found == shapes_of(expected)
        assert found["node"].name == "out"


def test_numbers_are_passed_on_and_become_shapes():
    found = pf.eval_shape(lambda n: {"n": n, "x": torch.zeros(n), "c": 1j, "b": True, "f": 2.0}, 3)
    assert found == {
        "n": ShapeDtype((), torch.int64),
        "x": ShapeDtype((3,)),
        "c": ShapeDtype((), torch.complex64),
        "b": ShapeDtype((), torch.bool),
        "f": ShapeDtype(()),
    }


def test_nothing_is_computed():
    huge = ShapeDtype((2**20, 2**20))
    found = pf.eval_shape(lambda x: {"y": (x @ x.T).softmax(-1), "z": torch.empty(2**40)}, huge)
    assert found == {"y": huge, "z": ShapeDtype((2**40,))}


def test_global_randomness_does_not_move():
    before = torch.get_rng_state()
    pf.eval_shape(lambda x: torch.nn.functional.dropout(x + torch.randn(3)), ShapeDtype((3,)))
    assert torch.equal(torch.get_rng_state(), before)


def test_closed_over_tensors_and_keys():
    weight = torch.randn(4, 2)
    key = torch.tensor([0, 1], dtype=torch.uint32)
    found = pf.eval_shape(lambda key, x: (x @ weight, key), key, ShapeDtype((3, 4)))
    assert found == (ShapeDtype((3, 2)), ShapeDtype((2,), torch.uint32))


def test_inputs_are_kept_apart_from_their_stand_ins():
    x = torch.ones(2)
    pf.eval_shape(lambda x: x.add_(1), x)
    assert x.tolist() == [1.0, 1.0]


def test_a_cuda_tensor_needs_no_cuda():
    found = pf.eval_shape(lambda x: x + 1, ShapeDtype((3,), device="cuda:0"))
    assert found == ShapeDtype((3,), device="cuda:0")


def test_derivatives_and_batches_inside():
    x = ShapeDtype((5, 3))

    def loss(p):
        return (p["w"] ** 3).sum()

    assert pf.eval_shape(lambda x: pf.vmap(pf.grad(loss))({"w": x}), x) == {"w": x}
    assert pf.eval_shape(lambda x: pf.hessian(loss)({"w": x[0]}), x)["w"]["w"].shape == (3, 3)
    assert pf.eval_shape(pf.jacfwd(torch.sin), x).shape == (5, 3, 5, 3)
    assert pf.eval_shape(lambda x: pf.eval_shape(torch.sin, x).shape[0], x).dtype == torch.int64


def test_inside_derivatives_and_batches():
    def fun(x):
        shape = pf.eval_shape(lambda y: y @ x, ShapeDtype((7, 3))).shape
        return (x * shape[0]).sum()

    x = torch.ones(2, 3)
    assert pf.grad(fun)(x[0]).tolist() == [7.0, 7.0, 7.0]
    assert pf.vmap(fun)(x).tolist() == [21.0, 21.0]
    assert pf.vmap(pf.grad(fun))(x).tolist() == [[7.0] * 3] * 2


def test_inside_itself_with_variables_of_the_outer_call():
    weight = torch.randn(3, 4)

    def fun(x):
        inner = pf.eval_shape(lambda z: z + x @ weight, ShapeDtype((4,)))
        return torch.zeros(inner.shape) + x.sum()

    assert pf.eval_shape(fun, ShapeDtype((2, 3))) == ShapeDtype((2, 4))


def test_strides_are_those_of_the_argument():
    assert pf.eval_shape(lambda x: x.view(-1), torch.ones(2, 3)) == ShapeDtype((6,))
    with pytest.raises((RuntimeError, ValueError), match=r"view"):
        pf.eval_shape(lambda x: x.view(-1), torch.ones(2, 3).T)


def test_sees_the_shape_of_one_example_inside_vmap():
    seen = []
    pf.vmap(lambda x: seen.append(pf.eval_shape(torch.sin, x)) or x)(torch.ones(2, 3))
    assert seen == [ShapeDtype((3,))]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_inside_a_compiled_function(backend):
    def fun(x):
        found = pf.eval_shape(lambda y, n: {"o": y @ x, "n": n}, ShapeDtype((7, 3)), 1)
        return x * found["o"].shape[0]

    compiled = torch.compile(fun, fullgraph=True, backend=backend, dynamic=False)
    assert compiled(torch.ones(3)).tolist() == [7.0, 7.0, 7.0]


class TestRefusals:
    @pytest.mark.parametrize(
        "fun",
        [
            lambda x: x if x.sum() > 0 else -x,
            lambda x: torch.zeros(int(x[0])),
            lambda x: x.nonzero(),
            lambda x: x[x > 0],
        ],
    )
    def test_shapes_that_depend_on_values(self, fun):
        with pytest.raises(ValueError, match="looks at the value of a tensor"):
            pf.eval_shape(fun, ShapeDtype((3,)))

    def test_outputs_that_are_no_tensors(self):
        with pytest.raises(TypeError, match=r"eval_shape: .*output\[0\]\['name'\] = 'adam'"):
            pf.eval_shape(lambda x: [{"name": "adam"}], ShapeDtype(()))
