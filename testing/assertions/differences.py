"""How two trees of tensors differ: every leaf, by how much and where.

NaN equals NaN, infinities equal themselves, 0 equals -0. Nothing is broadcast. Devices may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...functional import tree
from ...functional.border import describe
from .concrete import concrete

#: `agree(one, other)`: of two tensors of one shape and dtype, which elements agree.
Agree = Callable[[Tensor, Tensor], Tensor]

_BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_MOST = torch.iinfo(torch.int64).max


def structural_difference(one: Any, other: Any, name: str = "tree") -> str | None:
    """Say by which paths two structures differ, or None where they are the same."""
    if tree.structure(one) == tree.structure(other):
        return None
    paths, other_paths = tree.path_strings(one, name), tree.path_strings(other, name)
    missing = [path for path in paths if path not in other_paths]
    unexpected = [path for path in other_paths if path not in paths]
    parts = [
        f"only the first has {', '.join(missing)}" if missing else "",
        f"only the second has {', '.join(unexpected)}" if unexpected else "",
    ]
    if not missing and not unexpected:
        parts = [f"{tree.structure(one)} is not {tree.structure(other)}"]
    return "; ".join(filter(None, parts))


def differing_leaves(
    who: str, one: Any, other: Any, agree: Agree, *, dtypes: bool = True
) -> list[str]:
    """Describe every leaf in which two trees of one structure do not agree."""
    rows = zip(tree.path_strings(one), tree.leaves(one), tree.leaves(other), strict=True)
    found = [leaf_difference(who, left, right, agree, dtypes=dtypes) for _, left, right in rows]
    return [
        f"{path}: {difference}"
        for path, difference in zip(tree.path_strings(one), found, strict=True)
        if difference is not None
    ]


def check_pairs(
    title: str, trees: tuple[Any, ...], compare: Callable[[Any, Any], list[str]]
) -> None:
    """Compare each tree with the first, leaf by leaf, once their structures are the same."""
    if len(trees) < 2:
        raise ValueError(f"{title}: expected two trees or more, got {len(trees)}.")
    for number, other in enumerate(trees[1:], start=2):
        of = f" (tree {number} against the first)" if len(trees) > 2 else ""
        structural = structural_difference(trees[0], other)
        if structural is not None:
            raise AssertionError(f"{title}: the structures differ{of}: {structural}.")
        fail_if(compare(trees[0], other), trees[0], title, f"differ{of}")


def fail_if(found: list[str], tree_like: Any, title: str, what: str) -> None:
    """Raise an error of one line for each leaf found, under a line that counts them."""
    if found:
        header = f"{title}: {len(found)} of {len(tree.leaves(tree_like))} leaves {what}."
        raise AssertionError("\n  ".join([header, *found]))


def exactly(one: Tensor, other: Tensor) -> Tensor:
    """Say which elements are equal; a complex one is its two parts."""
    if one.is_complex():
        return exactly(*_parts(one, other)).all(-1)
    return (one == other) | ((one != one) & (other != other))


def within(rtol: float, atol: float) -> Agree:
    """Return what says which elements satisfy `|one - other| <= atol + rtol |other|`."""

    def agree(one: Tensor, other: Tensor) -> Tensor:
        one, other = _wide(one), _wide(other)
        bound = atol + rtol * other.abs()
        close = (one - other).abs() <= bound
        return exactly(one, other) | (close & one.isfinite() & other.isfinite())

    return agree


def within_ulps(maxulp: int) -> Agree:
    """Return what says which elements are at most `maxulp` representable numbers apart."""

    def agree(one: Tensor, other: Tensor) -> Tensor:
        distance = ulps(one, other)
        return exactly(one, other) if distance is None else distance <= maxulp

    return agree


def ulps(one: Tensor, other: Tensor) -> Tensor | None:
    """Return how many representable numbers lie between elements; None unless floating-point.

    Of complex numbers it is the larger of the two parts'. Between a number and NaN or infinity it
    is the largest int64.

    >>> ulps(torch.tensor([1.0, -0.0]), torch.tensor([1.0 + 2**-22, 0.0]))
    tensor([2, 0])
    """
    if one.is_complex():
        parts = ulps(*_parts(one, other))
        return None if parts is None else parts.amax(-1)
    if one.dtype not in _BITS:
        return None
    first, second = _rank(one), _rank(other)
    apart = first.abs() + second.abs()  # of float64 it may pass the largest int64
    apart = torch.where((first < 0) == (second < 0), (first - second).abs(), apart)
    apart = torch.where(apart < 0, _MOST, apart)
    finite = one.isfinite() & other.isfinite()
    return torch.where(exactly(one, other), 0, torch.where(finite, apart, _MOST))


def _rank(x: Tensor) -> Tensor:
    """Give each representable number its place in their order; that of 0 and of -0 is 0."""
    bits = x.contiguous().view(_BITS[x.dtype]).to(torch.int64)
    return torch.where(bits < 0, torch.iinfo(_BITS[x.dtype]).min - bits, bits)


def _parts(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return torch.view_as_real(one.resolve_conj()), torch.view_as_real(other.resolve_conj())


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def leaf_difference(
    who: str, one: Any, other: Any, agree: Agree, *, dtypes: bool = True
) -> str | None:
    """Say how two leaves differ, or None where they agree."""
    if not _is_numeric(one) or not _is_numeric(other):
        return None if type(one) is type(other) and one == other else f"{one!r} != {other!r}"
    first, second = _tensors(who, one, other)
    if first.shape != second.shape or (dtypes and first.dtype != second.dtype):
        return f"{describe(first)} != {describe(second)}"
    if first.dtype != second.dtype:
        both = torch.promote_types(first.dtype, second.dtype)
        first, second = first.to(both), second.to(both)
    agreed = agree(first, second)
    if agreed.all():
        return None
    return _largest_differences(first, second, ~agreed)


def _largest_differences(one: Tensor, other: Tensor, differs: Tensor) -> str:
    """Say how many elements differ, and for each measure by how much at most, where, from what."""
    left, right = _wide(one), _wide(other)
    absolute = (left - right).abs().nan_to_num(torch.inf, torch.inf)
    relative = (absolute / right.abs()).nan_to_num(torch.inf, torch.inf)
    measures = {"absolute": absolute, "relative": relative, "ulps": ulps(one, other)}
    count = f"{int(differs.sum())} of {differs.numel()} elements of {describe(one)} differ"
    lines = [count]
    for name, measure in measures.items():
        if measure is None:
            continue
        where = _index(torch.where(differs, measure, -1).argmax(), one.shape)
        largest = measure[where].item()
        size = f"{largest:.3g}" if name != "ulps" else f"{largest}" if largest < _MOST else "inf"
        at = f" at [{', '.join(map(str, where))}]" if where else ""
        pair = f"{one[where].item()!r} != {other[where].item()!r}"
        lines.append(f"largest {name} difference {size}{at}: {pair}")
    return "\n    ".join(lines)


def _index(flat: Tensor, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(flat, shape))


def _is_numeric(leaf: Any) -> bool:
    return isinstance(leaf, Tensor | np.ndarray | np.generic | int | float | complex)


def _tensors(who: str, one: Any, other: Any) -> tuple[Tensor, Tensor]:
    """Return tensors in main memory; a Python number takes the dtype of a tensor of its kind."""
    pair = [one, other]
    for place, (leaf, beside) in enumerate([(one, other), (other, one)]):
        if isinstance(leaf, Tensor):
            pair[place] = concrete(who, leaf).cpu()
        elif isinstance(beside, Tensor) and isinstance(leaf, _NUMBERS.get(_kind(beside), ())):
            pair[place] = torch.tensor(leaf, dtype=beside.dtype)
        else:
            pair[place] = torch.as_tensor(leaf)
    return pair[0], pair[1]


#: The Python numbers that a tensor of a kind is compared with.
_NUMBERS: dict[str, tuple[type, ...]] = {"float": (float,), "complex": (complex,), "int": (int,)}


def _kind(x: Tensor) -> str:
    if x.dtype is torch.bool:
        return "bool"
    return "complex" if x.is_complex() else "float" if x.is_floating_point() else "int"
