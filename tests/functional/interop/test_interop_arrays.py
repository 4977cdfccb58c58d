"""Arrays of numpy in and out, and of JAX, for which numpy stands in: it speaks dlpack too."""

import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import interop, random, tree

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint32,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e5m2,
]


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.booleans())
def test_numpy_and_back_is_the_same(dtype, shape, transposed):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator) * 3).abs().to(dtype)
    x = x.mT if transposed and x.ndim > 1 else x
    array = interop.to_numpy({"x": [x]})["x"][0]
    assert array.shape == tuple(x.shape)
    assert str(array.dtype) == str(dtype).removeprefix("torch.")
    assert not array.flags.writeable
    (back,) = tree.leaves(interop.from_numpy([array]))
    assert back.dtype == dtype
    assert back.is_contiguous()
    if dtype.is_floating_point:  # torch compares no float8
        back, x = back.double(), x.double()
    assert torch.equal(back, x)


def test_to_numpy_shares_memory_that_cannot_be_written():
    x = torch.arange(6.0).reshape(2, 3).T
    array = interop.to_numpy(x)
    assert array.__array_interface__["data"][0] == x.data_ptr()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    for lazy in (torch.randn(2, dtype=torch.complex64).conj(), torch.randn(2).requires_grad_()):
        np.testing.assert_array_equal(interop.to_numpy(lazy), lazy.detach().resolve_conj().numpy())


def test_from_numpy_copies():
    array = np.ones(3)
    x = interop.from_numpy(array)
    array[:] = 2
    assert x.tolist() == [1, 1, 1]
    x[0] = 5
    assert array[0] == 2


def test_strides_byte_orders_scalars_and_read_only_arrays():
    array = np.arange(12, dtype=">i4").reshape(3, 4)[::-1, ::2]
    array.flags.writeable = False
    found = interop.from_numpy({"a": array, "b": np.float32(3)})
    assert found["a"].tolist() == array.tolist()
    assert found["a"].dtype == torch.int32
    assert (found["b"].shape, found["b"].dtype) == ((), torch.float32)


@pytest.mark.parametrize(
    ("function", "leaf", "message"),
    [
        (interop.from_numpy, np.array(["a"]), r"tree\['x'\] has dtype <U1, which torch lacks"),
        (interop.from_numpy, np.array([None]), "has dtype object, which torch lacks"),
        (interop.from_numpy, 1.0, r"expected numpy arrays, got tree\['x'\] = 1.0"),
        (interop.from_numpy, torch.ones(1), "expected numpy arrays"),
        (interop.to_numpy, np.ones(1), r"expected dense tensors, got tree\['x'\]"),
        (interop.to_numpy, torch.eye(2).to_sparse(), "expected dense tensors"),
        (interop.to_numpy, torch.ones(1, device="meta"), "has no values that could be read"),
        (interop.to_numpy, torch.empty(1).to(torch.float8_e5m2fnuz), r"tree\['x'\] .* numpy lacks"),
        (interop.from_numpy, np.ma.masked_array([1.0], [True]), "expected numpy arrays"),
        (interop.from_jax, np.array(["a"]), r"from_jax: tree\['x'\] has dtype <U1"),
        (interop.to_jax, 2, "expected dense tensors"),
        (interop.from_jax, 2, r"expected arrays, got tree\['x'\] = 2"),
    ],
)
def test_what_is_no_array_is_refused(function, leaf, message, jax_of_numpy):
    with pytest.raises(TypeError, match=message):
        function({"x": leaf})


@pytest.mark.parametrize("transform", [pf.grad, lambda fun: pf.vmap(lambda x: fun(x)[None])])
def test_within_a_transform_there_are_no_values(transform):
    with pytest.raises(TypeError, match=r"no values that could be read.*transform"):
        transform(lambda x: interop.to_numpy(x).sum())(torch.ones(3))


def test_arrays_of_numpy_come_from_jax_whatever_their_strides():
    array = np.arange(4, dtype=">f4")[::-1]
    assert interop.from_jax(array).tolist() == [3, 2, 1, 0]


@pytest.fixture
def jax_of_numpy(monkeypatch):
    """A `jax` of numpy's arrays, which like JAX's does not have 64 bits unless told."""

    def without_64_bits(leaf):
        array = np.from_dlpack(leaf)
        return array.astype({"float64": "float32"}.get(array.dtype.name, array.dtype))

    jax = types.ModuleType("jax")
    jax.dlpack = types.SimpleNamespace(from_dlpack=without_64_bits)
    jax.numpy = np
    monkeypatch.setitem(sys.modules, "jax", jax)


def test_jax_gets_copies_by_dlpack(jax_of_numpy):
    x = {"weight": torch.randn(2, 3).T, "key": random.key(3)}
    arrays = interop.to_jax(x)
    assert str(arrays["key"].dtype) == "uint32"
    back = interop.from_jax(arrays)
    assert tree.all(tree.map(torch.equal, back, x))
    arrays["weight"][:] = 0
    assert x["weight"].any()
    assert back["weight"].any()


def test_jax_without_64_bits_is_refused(jax_of_numpy):
    with pytest.raises(ValueError, match=r"tree is torch.float64 and would become float32.*x64"):
        interop.to_jax(torch.ones(2, dtype=torch.float64))


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(
        ImportError, match=r'JAX is not installed: run `pip install "purefn\[jax\]"`'
    ):
        interop.to_jax(torch.ones(2))
    with pytest.raises(ImportError, match=r"ml_dtypes is not installed.*purefn\[export\]"):
        interop.to_numpy(torch.ones(2, dtype=torch.bfloat16))
