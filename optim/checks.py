"""What is refused at the door, and how it is said: the one place of argument checks."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..functional import tree


def scalar(name: str, value: Any) -> None:
    """Require a finite real number or a 0-d tensor of floating-point numbers.

    The value of a tensor is not looked at: it may be traced, and reading it waits for the device.
    """
    if isinstance(value, Tensor):
        if value.ndim != 0:
            raise ValueError(
                f"{name}: expected a number or a 0-d tensor, got a tensor of shape "
                f"{tuple(value.shape)}; for a batch of values use vmap over the training step."
            )
        if not value.is_floating_point():  # -lr of an unsigned integer is a large number
            raise TypeError(
                f"{name}: expected a real number, got a tensor of {value.dtype}; "
                "make it a floating-point tensor."
            )
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{name}: expected a number or a 0-d tensor, got {value!r} ({type(value).__name__})."
        )
    elif not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}.")


def non_negative(name: str, value: Any) -> None:
    """Require a number that is at least 0, or a 0-d tensor."""
    _condition(name, value, lambda number: number >= 0, "a number that is at least 0")


def positive(name: str, value: Any) -> None:
    """Require a number above 0, or a 0-d tensor."""
    _condition(name, value, lambda number: number > 0, "a number greater than 0")


def decay_rate(name: str, value: Any) -> None:
    """Require a number in [0, 1), or a 0-d tensor."""
    _condition(name, value, lambda number: 0 <= number < 1, "a number in [0, 1)")


def fraction(name: str, value: Any) -> None:
    """Require a number in [0, 1], or a 0-d tensor."""
    _condition(name, value, lambda number: 0 <= number <= 1, "a number in [0, 1]")


def betas(name: str, value: Any) -> None:
    """Require a pair of numbers in [0, 1), or of 0-d tensors."""
    pair(name, value)
    decay_rate(f"{name}[0]", value[0])
    decay_rate(f"{name}[1]", value[1])


def decay_rates(name: str, value: Any, length: int) -> None:
    """Require a tuple or list of `length` numbers in [0, 1), or of 0-d tensors."""
    if not isinstance(value, tuple | list) or len(value) != length:
        raise ValueError(f"{name}: expected {length} numbers, got {value!r}.")
    for index, rate in enumerate(value):
        decay_rate(f"{name}[{index}]", rate)


def inner_fraction(name: str, value: Any) -> None:
    """Require a number in (0, 1), or a 0-d tensor."""
    _condition(name, value, lambda number: 0 < number < 1, "a number in (0, 1)")


def above_one(name: str, value: Any) -> None:
    """Require a number above 1, or a 0-d tensor."""
    _condition(name, value, lambda number: number > 1, "a number greater than 1")


def growth_rate(name: str, value: Any) -> None:
    """Require a number that is at least 1, infinity included, or a 0-d tensor."""
    if value != math.inf:
        _condition(name, value, lambda number: number >= 1, "a number that is at least 1")


def learning_rate(name: str, value: Any) -> None:
    """Require a number that is at least 0, a 0-d tensor, or a schedule."""
    if not callable(value):
        non_negative(name, value)


def schedule(name: str, value: Any) -> None:
    """Require a function of the step."""
    if not callable(value):
        raise TypeError(
            f"{name}: expected a function of the step, got {value!r}; "
            "for a constant use schedules.constant."
        )


def pair(name: str, value: Any) -> None:
    """Require a tuple or list of two."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name}: expected a pair of numbers, got {value!r}.")


def floating(name: str, value: Any) -> None:
    """Require a dtype of real floating-point numbers."""
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise TypeError(f"{name}: expected a floating-point torch.dtype, got {value!r}.")


def flag(name: str, value: Any) -> None:
    """Require True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}.")


def one_of(name: str, value: Any, options: Iterable[str]) -> None:
    """Require one of several words."""
    if value not in (words := list(options)):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, words))}, got {value!r}.")


def count(name: str, value: Any) -> None:
    """Require a Python int that is at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {value!r} ({type(value).__name__}).")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}.")


def non_negative_int(name: str, value: Any) -> None:
    """Require a Python int that is at least 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {value!r} ({type(value).__name__}).")
    if value < 0:
        raise ValueError(f"{name}: expected at least 0, got {value}.")


def step(value: Any) -> None:
    """Require the number of a step: a non-negative int or a tensor of integers."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
            raise TypeError(f"step: expected a tensor of integers, got one of {value.dtype}.")
    elif isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"step: expected an int or a tensor of integers, got {value!r} "
            f"({type(value).__name__})."
        )
    elif value < 0:
        raise ValueError(f"step: expected at least 0, got {value}.")


def transformation(name: str, value: Any) -> None:
    """Require a `GradientTransformation`: a pair of functions `init` and `update`."""
    if not all(callable(getattr(value, part, None)) for part in ("init", "update")):
        raise TypeError(
            f"{name}: expected a GradientTransformation such as optim.sgd(lr=0.1), got {value!r}."
        )


def state(who: str, value: Any, expected: type) -> None:
    """Require the kind of state that the `init` of transformation `who` returns."""
    if not isinstance(value, expected):
        raise TypeError(
            f"{who}.update: expected the state that its init returned, {expected.__name__}, got "
            f"{type(value).__name__}. Make one with init(params), or pass the state of this "
            "transformation."
        )


def chain_state(value: Any, length: int) -> None:
    """Require a tuple of as many states as a chain has parts."""
    if type(value) is not tuple or len(value) != length:
        found = f"{len(value)}" if type(value) is tuple else f"{type(value).__name__}, no tuple"
        raise TypeError(
            f"chain.update: expected the state that its init returned, a tuple of {length} "
            f"states, got {found}. Make one with init(params) of this chain."
        )


def states_by_name(who: str, value: Any, names: Iterable[Any]) -> None:
    """Require a dict with a state for each name."""
    if not isinstance(value, dict) or set(value) != set(names):
        found = f"{list(value)}" if isinstance(value, dict) else f"{type(value).__name__}, no dict"
        raise TypeError(
            f"{who}.update: expected the state that its init returned, a dict with the keys "
            f"{list(names)}, got {found}. Make one with init(params) of this transformation."
        )


def given(who: str, params: tree.PyTree | None) -> None:
    """Require that `update` was given the parameters."""
    if params is None:
        raise ValueError(f"{who}.update needs the parameters: call update(updates, state, params).")


def trainable(
    params: tree.PyTree, name: str = "params", *, leaves: list[Any] | None = None
) -> None:
    """Require that every leaf is a tensor of floating-point or complex numbers.

    `leaves` are those of `params`, where they are at hand.
    """
    leaves = tree.leaves(params) if leaves is None else leaves
    if plain(leaves) and all(map(_is_inexact, set(map(_DTYPE, leaves)))):
        return
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and _is_inexact(leaf.dtype):
            continue
        path = tree.path_strings(params, name)[index]
        found = f"a tensor of {leaf.dtype}" if isinstance(leaf, Tensor) else f"{leaf!r}"
        raise TypeError(
            f"{path} is {found}; an optimizer moves floating-point and complex tensors only. "
            "Set other leaves apart with tree.partition."
        )


def real(who: str, params: tree.PyTree) -> None:
    """Require that no parameter is complex."""
    for index, leaf in enumerate(tree.leaves(params)):
        if leaf.is_complex():
            path = tree.path_strings(params, "params")[index]
            raise TypeError(
                f"{who}: {path} is a tensor of {leaf.dtype}, and this is for real numbers only. "
                "Set complex leaves apart with masked, or keep their real and imaginary parts."
            )


def matrices(who: str, params: tree.PyTree) -> None:
    """Require that every parameter has two dimensions."""
    for index, leaf in enumerate(tree.leaves(params)):
        if leaf.ndim != 2:
            path = tree.path_strings(params, "params")[index]
            raise ValueError(
                f"{who}: {path} has shape {tuple(leaf.shape)}, and this is for matrices only. Give "
                "other leaves to another rule by optim.partition."
            )


def plain(leaves: list[Any]) -> bool:
    """Say whether all are ordinary tensors and no compiler looks on.

    Of such tensors thousands are checked together in the time of a few, with `map`.
    """
    return not torch.compiler.is_compiling() and _PLAIN.issuperset(map(type, leaves))


def same_leaves(
    trees: Mapping[str, tree.PyTree],
    *,
    dtypes: bool = True,
    any_width: frozenset[str] = frozenset(),
) -> tuple[tree.Structure, list[list[Tensor]]]:
    """Require of trees, given by name, the structure, shapes, dtypes and devices of the first.

    Without `dtypes`, and in the trees named in `any_width`, leaves may be of any width: both real,
    both complex or both integers. Returns that structure and the leaves of each tree in its order.
    """
    (like_name, like), *others = trees.items()
    expected, structure = tree.flatten(like)
    columns, alike = [expected], _comparison(expected)
    for name, given in others:
        try:
            found = structure.flatten_up_to(given)
        except ValueError:
            tree.map(lambda *pair: None, like, given, names=(like_name, name))  # names the path
            raise
        columns.append(found)
        if alike(found):
            continue
        narrow = dtypes and name not in any_width
        for pair in zip(expected, found, strict=True):
            if not _alike(*pair, narrow):
                raise ValueError(_mismatch(name, found, like_name, like, narrow))
    return structure, columns


def state_tensors(
    name: str,
    state: tree.PyTree,
    like_name: str,
    like: tree.PyTree,
    shapes: Callable[[Tensor], tuple[int, ...] | list[tuple[int, ...]]],
    *,
    wide: bool = False,
) -> None:
    """Require in the place of each leaf of `like` tensors of its dtype and device, but of `shapes`.

    `shapes(leaf)` is the shape of one tensor, or a list of those of a tuple of tensors. A `wide`
    state is in float32 for leaves in half precision.
    """
    pairs: list[tuple[Tensor, Any]] = []
    tree.map(lambda *pair: pairs.append(pair), like, state, names=(like_name, name))
    for index, (leaf, found) in enumerate(pairs):
        dtype = torch.promote_types(leaf.dtype, torch.float32) if wide else leaf.dtype
        expected = shapes(leaf)
        wrong = _unlike(found, expected, dtype, leaf.device)
        if wrong is not None:
            place = tree.path_strings(like, "")[index]
            path, is_what, should_be = wrong
            raise ValueError(
                f"{name}{place}{path} is {is_what}, but {like_name}{place} is "
                f"{_describe_leaf(leaf)}, with which goes {should_be}: this is the state of other "
                "parameters, or a changed one."
            )


def _unlike(
    found: Any,
    expected: tuple[int, ...] | list[tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[str, str, str] | None:
    """Return where `found` is not as expected, what is there, and what should be."""
    if isinstance(expected, list):
        if type(found) is not tuple:
            return "", _describe_leaf(found), f"a tuple of {len(expected)} tensors"
        if len(found) != len(expected):
            return "", f"a tuple of {len(found)}", f"one of {len(expected)} tensors"
        for place, pair in enumerate(zip(found, expected, strict=True)):
            if (wrong := _unlike(*pair, dtype, device)) is not None:
                return f"[{place}]", *wrong[1:]
        return None
    is_tensor = isinstance(found, Tensor)
    if is_tensor and (found.shape, found.dtype, found.device) == (expected, dtype, device):
        return None
    return "", _describe_leaf(found), f"a tensor of shape {tuple(expected)}, {dtype}, on {device}"


_PLAIN = frozenset({Tensor, torch.nn.Parameter})
_DTYPE, _SHAPE, _DEVICE, _IS_CPU = map(operator.attrgetter, ("dtype", "shape", "device", "is_cpu"))


def _comparison(expected: list[Any]) -> Callable[[list[Any]], bool]:
    """Return the function that is true of leaves known to be like `expected` at a glance.

    These are plain tensors in main memory, all of one dtype, and of equal shapes in pairs.
    """
    if not plain(expected) or not all(map(_IS_CPU, expected)):
        return lambda found: False
    dtypes, shapes = set(map(_DTYPE, expected)), list(map(_SHAPE, expected))
    return lambda found: (
        plain(found)
        and len(dtypes) == 1
        and set(map(_DTYPE, found)) == dtypes
        and all(map(_IS_CPU, found))
        and all(map(operator.eq, shapes, map(_SHAPE, found)))
    )


def _is_inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _condition(name: str, value: Any, holds: Callable[[float], bool], expected: str) -> None:
    scalar(name, value)
    if not isinstance(value, Tensor) and not holds(value):
        raise ValueError(f"{name}: expected {expected}, got {value!r}.")


def _alike(expected: Any, found: Any, dtypes: bool) -> bool:
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        return False
    same = found.shape == expected.shape and found.device == expected.device
    if dtypes:
        return same and found.dtype == expected.dtype
    return same and _kind(found) == _kind(expected)


def _kind(leaf: Tensor) -> tuple[bool, bool]:
    return leaf.is_complex(), leaf.is_floating_point()


def _mismatch(name: str, found: list[Any], like_name: str, like: tree.PyTree, dtypes: bool) -> str:
    """Name the first leaf that is not like its counterpart."""
    places = [path.removeprefix("tree") for path in tree.path_strings(like)]
    place, expected, leaf = next(
        row
        for row in zip(places, tree.leaves(like), found, strict=True)
        if not _alike(*row[1:], dtypes)
    )
    return (
        f"{name}{place} is {_describe_leaf(leaf)}, but {like_name}{place} is "
        f"{_describe_leaf(expected)}: they must agree, nothing is cast or broadcast."
    )


def _describe_leaf(leaf: Any) -> str:
    if isinstance(leaf, Tensor):
        return f"a tensor of shape {tuple(leaf.shape)}, {leaf.dtype}, on {leaf.device}"
    return f"{leaf!r} ({type(leaf).__name__})"
