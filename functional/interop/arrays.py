"""Trees of numpy and JAX arrays in and out.

Nobody writes a tensor of ours: what comes in is a copy, as an array may be written by whoever made
it. To numpy goes a view that cannot be written; to JAX, whose programs may reuse the memory of
their arguments, a copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from .. import tree
from .extras import import_extra

#: Dtypes that numpy has from the package ml_dtypes, by name, and the integers of their size.
_BORROWED = {
    "bfloat16": (torch.bfloat16, torch.int16),
    "float8_e4m3fn": (torch.float8_e4m3fn, torch.int8),
    "float8_e5m2": (torch.float8_e5m2, torch.int8),
}


def to_numpy(values: tree.PyTree) -> tree.PyTree:
    """Return a tree of numpy arrays, views of the tensors that cannot be written.

    Nothing is copied, unless a tensor lies on another device or is conjugated lazily. bfloat16 and
    float8 have a dtype in numpy where the package ml_dtypes is installed, as it is beside JAX.

    Raises
    ------
    TypeError
        A leaf is not a tensor, not a dense one, has a dtype that numpy lacks, or is within a
        transform.
    ImportError
        A leaf is bfloat16 or float8 and ml_dtypes is not installed.

    Examples
    --------
    >>> arrays = to_numpy({"weight": torch.arange(6.0).reshape(2, 3).T})
    >>> arrays["weight"].shape, arrays["weight"].flags.writeable
    ((3, 2), False)
    """
    return _each("to_numpy", values, _array)


def to_own_numpy(tensor: Tensor) -> Any:
    """Return a numpy array with the values of a tensor that can be written: a copy, contiguous."""
    return np.array(to_numpy(tensor), order="C")


def from_numpy(values: tree.PyTree) -> tree.PyTree:
    """Return a tree of tensors with the values of numpy arrays: copies, contiguous, on the CPU.

    Arrays may be read-only, have any strides and byte order, and be numpy's scalars. ml_dtypes'
    bfloat16 and float8 become torch's.

    Raises
    ------
    TypeError
        A leaf is not a numpy array, or has a dtype that torch lacks (an object, a string, a date,
        extended precision).

    Examples
    --------
    >>> import numpy as np
    >>> from_numpy({"weight": np.ones(3, np.float32), "step": np.int64(4)})
    {'weight': tensor([1., 1., 1.]), 'step': tensor(4)}
    """
    return _each("from_numpy", values, functools.partial(_tensor, "from_numpy"))


def to_jax(values: tree.PyTree) -> tree.PyTree:
    """Return a tree of JAX arrays with the values of the tensors: copies, by dlpack.

    A key of `functional.random` becomes what `jax.random` takes as a raw key.

    Raises
    ------
    TypeError
        A leaf is not a tensor, not a dense one, or within a transform.
    ValueError
        JAX would give a leaf another dtype: 64-bit ones need `jax.config.update("jax_enable_x64",
        True)`.
    ImportError
        JAX is not installed.

    Examples
    --------
    >>> arrays = to_jax({"weight": torch.ones(2, 3)})  # doctest: +SKIP
    >>> to_jax({})
    {}
    """
    if not tree.leaves(values):
        return values
    jax = import_extra("jax", "JAX", "jax")

    def array(path: str, leaf: Any) -> Any:
        _check_dense("to_jax", path, leaf)
        found = jax.dlpack.from_dlpack(leaf.detach().resolve_conj().resolve_neg().contiguous())
        if str(found.dtype) != str(leaf.dtype).removeprefix("torch."):
            raise ValueError(
                f"to_jax: {path} is {leaf.dtype} and would become {found.dtype}; set "
                '`jax.config.update("jax_enable_x64", True)`, or convert it first.'
            )
        return jax.numpy.array(found, copy=True)

    return _each("to_jax", values, array)


def from_jax(values: tree.PyTree) -> tree.PyTree:
    """Return a tree of tensors with the values of JAX arrays: copies, by dlpack.

    Typed keys (`jax.random.key`) become keys of `functional.random`, which draws the same numbers.

    Raises
    ------
    TypeError
        A leaf does not speak dlpack, as JAX arrays do.

    Examples
    --------
    >>> import numpy as np
    >>> from_jax({"step": np.arange(3)})  # numpy speaks it too
    {'step': tensor([0, 1, 2])}
    """

    def tensor(path: str, leaf: Any) -> Tensor:
        if str(getattr(leaf, "dtype", "")).startswith("key<"):
            leaf = import_extra("jax", "JAX", "jax").random.key_data(leaf)
        if isinstance(leaf, np.ndarray | np.generic):
            # What numpy gives by dlpack may have strides that torch does not survive.
            return _tensor("from_jax", path, leaf)
        if not hasattr(leaf, "__dlpack__"):
            raise TypeError(f"from_jax: expected arrays, got {path} = {leaf!r}.")
        return from_dlpack(leaf).clone()

    return _each("from_jax", values, tensor)


def _each(function: str, values: tree.PyTree, convert: Callable[[str, Any], Any]) -> tree.PyTree:
    """Convert every leaf, given its path, which errors name."""
    leaves, structure = tree.flatten(values)
    paths = tree.path_strings(values, "tree")
    return tree.unflatten(
        structure, [convert(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
    )


def _array(path: str, leaf: Any) -> Any:
    _check_dense("to_numpy", path, leaf)
    tensor = leaf.detach().cpu().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _BORROWED:
        dtypes = import_extra("ml_dtypes", "ml_dtypes", "export")
        array = tensor.view(_BORROWED[name][1]).numpy().view(getattr(dtypes, name))
    else:
        try:
            array = tensor.numpy()
        except TypeError as error:
            raise TypeError(
                f"to_numpy: {path} has dtype {leaf.dtype}, which numpy lacks; convert it first."
            ) from error
    array.flags.writeable = False
    # A view of what cannot be written cannot be made writable again.
    return array.view()


def _tensor(function: str, path: str, leaf: Any) -> Tensor:
    if not isinstance(leaf, np.ndarray | np.generic) or isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"{function}: expected numpy arrays, got {path} = {leaf!r}.")
    # A new array: torch refuses negative strides and other byte orders, and warns of read-only.
    array = np.array(leaf, dtype=leaf.dtype.newbyteorder("="), order="C", copy=True)
    try:
        if array.dtype.name in _BORROWED:
            dtype, integers = _BORROWED[array.dtype.name]
            as_integers = array.view(str(integers).removeprefix("torch."))
            return torch.from_numpy(as_integers).view(dtype)
        return torch.from_numpy(array)
    except TypeError as error:
        raise TypeError(
            f"{function}: {path} has dtype {leaf.dtype}, which torch lacks; convert it first."
        ) from error


def _check_dense(function: str, path: str, leaf: Any) -> None:
    if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided or leaf.is_nested:
        raise TypeError(f"{function}: expected dense tensors, got {path} = {leaf!r}.")
    if leaf.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(leaf):
        raise TypeError(
            f"{function}: {path} has no values that could be read: it is on the meta device, or "
            "within vmap, grad or another transform."
        )
