"""Does a compiled program still do what its function does? The debug mode of `jit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..border import describe, tensor_leaves
from . import arguments
from .errors import PurityError
from .surroundings import changes

#: How far a result may be from the function's, relative to the largest magnitude in the leaf:
#: compiled code adds in another order.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.complex128: 1e-9,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


class Check:
    """One call of a jitted function, to be compared with a run of the Python function itself."""

    def __init__(
        self,
        names: arguments.Signature,
        leaves: Sequence[Tensor],
        structure: tree.Structure,
        static: arguments.StaticArguments,
    ) -> None:
        """Copy the leaves, which a program may be about to use up."""
        self._name, self._structure = names.name, structure
        self._fun = arguments.with_static(names.fun, static)
        self._leaves = [_copy(leaf) for leaf in leaves]
        self._leaf_names = [
            arguments.leaf_name(names, accessor) for accessor in structure.accessors()
        ]

    def compare(self, outputs: tree.PyTree, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Raise a `PurityError` if `outputs` are not what the function returns now.

        `before` and `after` are its `surroundings` when it was traced and now.
        """
        expected = self._run()
        difference = _difference(self._run(), expected, "one run", "the next")
        if difference is not None:
            raise PurityError(
                f"jit({self._name}) is not repeatable: two runs of the function on the same "
                f"arguments differ. {difference}. Random state or a counter outside of it is the "
                "usual reason: take a key of `pf.random` or the state as an argument, and return "
                "the new one."
            )
        difference = _difference(outputs, expected, "jit", "the function")
        if difference is not None:
            raise PurityError(
                f"jit({self._name}) no longer does what the function does. {difference}. "
                f"{_reason(changes(before, after))}"
            )

    def _run(self) -> tree.PyTree:
        """Run the function on copies of the leaves, and see that it leaves them as they are."""
        given = [_copy(leaf) for leaf in self._leaves]
        args, kwargs = tree.unflatten(self._structure, given)
        outputs = tensor_leaves("jit", "output", self._fun(*args, **kwargs))
        for name, leaf, original in zip(self._leaf_names, given, self._leaves, strict=True):
            if not _is_same(leaf, original):
                raise PurityError(
                    f"jit({self._name}) writes into its argument {name}, unseen by torch (through "
                    "numpy, say). Compute a new tensor and return it."
                )
        return outputs


def _reason(changed: Sequence[str]) -> str:
    if changed:
        return (
            f"Since it was traced, {' and '.join(changed)} changed. A jitted function does not see "
            "that: pass it as an argument, or mark it static."
        )
    return (
        "Something that it reads besides its arguments has changed since it was traced (an "
        "attribute of an object, a global of a function that it calls), or the backend is wrong; "
        'backend="eager" tells which.'
    )


def _difference(ours: tree.PyTree, theirs: tree.PyTree, we: str, they: str) -> str | None:
    """Say at which leaf and element two results differ, if they do."""
    if tree.structure(ours) != tree.structure(theirs):
        return f"{we} gives {tree.structure(ours)}, {they} gives {tree.structure(theirs)}"
    pairs = zip(tree.leaves(ours), tree.leaves(theirs), strict=True)
    for path, (one, other) in zip(tree.path_strings(ours, "output"), pairs, strict=True):
        if describe(one) != describe(other) or one.device != other.device:
            return f"{path}: {we} gives {_shown(one)}, {they} gives {_shown(other)}"
        if not _is_close(one, other):
            where = _farthest(one, other)
            at = f"{path}[{', '.join(map(str, where))}]" if where else path
            return f"{at}: {we} gives {one[where].item()}, {they} gives {other[where].item()}"
    return None


def _shown(tensor: Tensor) -> str:
    return f"{describe(tensor)} on {tensor.device}"


def _is_close(one: Tensor, other: Tensor) -> bool:
    if one.dtype not in TOLERANCES:
        return _is_same(one, other)
    finite = other[other.isfinite()].abs()
    largest = finite.max().item() if finite.numel() else 0.0
    return torch.allclose(
        one.detach(), other.detach(), rtol=0, atol=TOLERANCES[one.dtype] * largest, equal_nan=True
    )


def _farthest(one: Tensor, other: Tensor) -> tuple[int, ...]:
    """Return the index of the element that differs most."""
    wide = torch.complex128 if one.is_complex() else torch.float64
    distance = (one.detach().to(wide) - other.detach().to(wide)).abs()
    agrees = (one == other) | (one.isnan() & other.isnan())
    distance = torch.where(agrees, 0.0, distance.nan_to_num(torch.inf, torch.inf))
    return tuple(int(i) for i in torch.unravel_index(distance.argmax(), one.shape))


def _is_same(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy of the same layout that no view or derivative of the original knows."""
    copy = tensor.detach().clone(memory_format=torch.preserve_format)
    return copy.requires_grad_(tensor.requires_grad)
