"""Elementwise rules over lists of tensors, by `torch._foreach_*`.

A rule written for one tensor is called once with `Leaves`, which stand for a list of tensors and
note what is computed with them. What was noted then runs over the list: an operation calls torch
once for all tensors instead of once for each, and where it is the last to use an intermediate
result, it writes its own into that memory.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

#: Bytes of a list that are computed together on a CPU: its intermediate results stay in the cache.
CACHED_BYTES = 2**20

_NBYTES = operator.attrgetter("nbytes")


class NotListable(Exception):  # noqa: N818 - no error: the rule is then called for each tensor
    """A rule asks what a list of tensors cannot answer."""


def run(
    rule: Callable[..., Any], columns: Sequence[Sequence[Tensor]], *, own: bool
) -> list[list[Tensor]]:
    """Call `rule` with lists of tensors, corresponding ones of equal shapes; return its results.

    All tensors have one dtype and device, and dimensions. None is written, unless they are the
    caller's `own` to give away.

    >>> run(lambda x, y: (x + y, x * y), [[torch.ones(1)], [torch.ones(1)]], own=False)
    [[tensor([2.])], [tensor([1.])]]
    """
    like = columns[0][0]
    program = _Program(len(columns), like.dtype, like.device)
    result = rule(*[Leaves(program, place) for place in range(len(columns))])
    results = result if isinstance(result, tuple) else (result,)
    if not all(type(value) is Leaves for value in results):
        raise NotListable("a result that is no function of the leaves")
    program.finish(results, own)
    computed: list[list[Tensor]] = [[] for _ in results]
    for piece in _pieces(columns[0]):
        values = program.run([list(column[piece]) for column in columns])
        for whole, value in zip(computed, results, strict=True):
            whole += values[value.place] or []
    return computed


def _pieces(leaves: Sequence[Tensor]) -> Iterator[slice]:
    """Cut a list on a CPU in pieces of about `CACHED_BYTES`; other devices take it as a whole."""
    sizes = list(map(_NBYTES, leaves)) if leaves[0].is_cpu else []
    start, size = 0, 0
    if sum(sizes) > CACHED_BYTES:
        for index, bytes_of_leaf in enumerate(sizes):
            if size and size + bytes_of_leaf > CACHED_BYTES:
                yield slice(start, index)
                start, size = index, 0
            size += bytes_of_leaf
    yield slice(start, len(leaves))


def rounded(values: Leaves, dtype: torch.dtype) -> Leaves:
    """Return `values` as if they had been stored in `dtype` and read again."""
    program = values.program
    if program.is_uniform(values) and dtype is program.dtype:
        return values
    return program.note_rounding(values, dtype)


def _rounded(value: Tensor, dtype: torch.dtype, working: torch.dtype) -> Tensor:
    return value.to(dtype).to(working)


class Leaves:
    """What a rule computes, at every tensor of a list at once.

    It answers to operators, to functions of torch and to methods of tensors. All tensors of the
    list have one dtype and device; shapes differ, and a rule that asks for one is `NotListable`.
    """

    __slots__ = ("place", "program")

    def __init__(self, program: _Program, place: int) -> None:
        self.program = program
        self.place = place

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Leaves:
        program = next(arg.program for arg in (*args, *(kwargs or {}).values()) if type(arg) is cls)
        return program.note(function, args, kwargs or {})

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every tensor of the list."""
        return self.program.dtype_of(self)

    @property
    def device(self) -> torch.device:
        """The device of every tensor of the list."""
        return self.program.device

    def __getattr__(self, name: str) -> Callable[..., Leaves]:
        method = getattr(Tensor, name, None)
        if not callable(method):
            raise NotListable(name)
        return functools.partial(_noting(method), self)

    def __bool__(self) -> NoReturn:
        raise NotListable("bool")

    __iter__ = __len__ = __index__ = __int__ = __float__ = __getitem__ = __bool__


def _noting(function: Callable[..., Any]) -> Callable[..., Leaves]:
    def noted(self: Leaves, *args: Any, **kwargs: Any) -> Leaves:
        return self.program.note(function, (self, *args), kwargs)

    return noted


for _name in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow"),
    *("neg", "abs", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "invert"),
):
    setattr(Leaves, f"__{_name}__", _noting(getattr(Tensor, f"__{_name}__")))


class _Kernel:
    """The forms of one operation on lists, and the arguments for which they exist."""

    def __init__(self, name: str, lists: int, *last: type, option: str | None = None) -> None:
        self.on_one: Callable[..., Tensor] = getattr(torch, name)
        self.fresh: Callable[..., Any] = getattr(torch, f"_foreach_{name}")
        self.in_place: Callable[..., Any] = getattr(torch, f"_foreach_{name}_")
        self.lists, self.last, self.option = lists, last, option

    def into(self, target: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Write the results into the list `args[target]`."""
        into: list[Tensor] = args[target]
        if target == 0:
            self.in_place(*args, **kwargs)
        else:  # torch has no such form for lists
            columns = [arg if type(arg) is list else itertools.repeat(arg) for arg in args]
            for out, *row in zip(into, *columns, strict=False):
                self.on_one(*row, **kwargs, out=out)
        return into

    def takes(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Say whether torch has this operation for lists with these arguments."""
        *lists, last = args
        return (
            len(args) == self.lists
            and all(type(arg) is Leaves for arg in lists)
            and isinstance(last, (Leaves, *self.last))
            and all(
                name == self.option and type(last) is Leaves and isinstance(value, int | float)
                for name, value in kwargs.items()
            )
        )


def _kernels() -> dict[Callable[..., Any], _Kernel]:
    unary = ("sqrt", "rsqrt", "neg", "abs", "reciprocal", "sign", "exp", "log")
    named = {name: _Kernel(name, 1) for name in unary} | {
        "add": _Kernel("add", 2, int, float, Tensor, option="alpha"),
        "sub": _Kernel("sub", 2, int, float, option="alpha"),
        "mul": _Kernel("mul", 2, int, float, Tensor),
        "div": _Kernel("div", 2, int, float, Tensor),
        "maximum": _Kernel("maximum", 2),
        "minimum": _Kernel("minimum", 2),
        "lerp": _Kernel("lerp", 3, int, float),
        "addcmul": _Kernel("addcmul", 3, option="value"),
        "addcdiv": _Kernel("addcdiv", 3, option="value"),
    }
    spelled: dict[Callable[..., Any], _Kernel] = {}
    for name, kernel in named.items():
        spelled |= {getattr(torch, name): kernel, getattr(Tensor, name): kernel}
    operators = {"truediv": "div"} | {name: name for name in ("add", "sub", "mul", "neg", "abs")}
    spelled |= {getattr(Tensor, f"__{name}__"): named[op] for name, op in operators.items()}
    return spelled | {Tensor.__radd__: named["add"], Tensor.__rmul__: named["mul"]}


_KERNELS = _kernels()
_ADD = _KERNELS[torch.add]  # torch adds a list of scalars in half the time of a single one
_COMMUTATIVE = (torch.add, torch.mul, Tensor.add, Tensor.mul, Tensor.__add__, Tensor.__mul__)


class _Operation:
    """One line of a program: `value = function(*args, **kwargs)`."""

    __slots__ = (
        "args",
        "dead",
        "function",
        "kernel",
        "kwargs",
        "spread",
        "target",
        "uniform",
        "used",
    )

    def __init__(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        given = (*args, *kwargs.values()) if kwargs else args
        self.used = {arg.place for arg in given if type(arg) is Leaves}  # places of values
        self.dead: list[int] = []  # those of values that nothing uses after this
        self.kernel: _Kernel | None = None
        self.spread = False  # whether the last argument is a scalar, to be made a list
        self.target: int | None = None  # the argument whose memory takes the value
        self.uniform = False  # whether the value has the leaves' shapes and dtype, for certain

    def position(self, place: int) -> int:
        """Return the first argument that is the value at `place`."""
        return next(
            i for i, arg in enumerate(self.args) if type(arg) is Leaves and arg.place == place
        )


class _Program:
    """What a rule computes, as a straight line of operations on numbered values."""

    def __init__(self, inputs: int, dtype: torch.dtype, device: torch.device) -> None:
        self.inputs, self.dtype, self.device = inputs, dtype, device
        self.operations: list[_Operation] = []
        self.viewed: set[int] = set()

    def note(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Leaves:
        if function in _COMMUTATIVE and type(args[0]) is not Leaves:
            args = args[::-1]
        operation = _Operation(function, args, kwargs)
        if torch.is_grad_enabled() and any(map(_is_differentiated, (*args, *kwargs.values()))):
            raise NotListable("a tensor that is differentiated")
        kernel = _KERNELS.get(function)
        if kernel and all(map(self._is_uniform, operation.used)) and kernel.takes(args, kwargs):
            self._use(operation, kernel)
        self.operations.append(operation)
        return Leaves(self, self.inputs + len(self.operations) - 1)

    def note_rounding(self, values: Leaves, dtype: torch.dtype) -> Leaves:
        """Note that `values` become what is left of them in `dtype`, of which there are results."""
        place = self.note(_rounded, (values, dtype, self.dtype), {})
        self.operations[-1].uniform = True
        self.viewed.add(place.place)  # rounding may change nothing, and copy nothing
        return place

    def dtype_of(self, value: Leaves) -> torch.dtype:
        if not self.is_uniform(value):
            raise NotListable("dtype")
        return self.dtype

    def is_uniform(self, value: Leaves) -> bool:
        """Say whether `value` has the shapes and dtype of the inputs, for certain."""
        return self._is_uniform(value.place)

    def _is_uniform(self, place: int) -> bool:
        return place < self.inputs or self.operations[place - self.inputs].uniform

    def _use(self, operation: _Operation, kernel: _Kernel) -> None:
        """Compute `operation` by `kernel`, unless an argument is a tensor that is no scalar."""
        last = operation.args[-1]
        if isinstance(last, Tensor):
            at_hand = last.device == self.device or last.device.type == "cpu"
            if last.ndim or not last.is_floating_point() or not at_hand:
                return
            last = last.to(self.device, self.dtype)
        elif type(last) is not Leaves and Tensor in kernel.last and self.device.type == "cpu":
            # There torch would make a tensor of the number for each leaf anew.
            last = torch.scalar_tensor(last, dtype=torch.float64).to(self.dtype)
        operation.args = (*operation.args[:-1], last)
        operation.kernel, operation.uniform = kernel, True
        operation.spread = kernel is _ADD and isinstance(last, Tensor) and last.is_cpu

    def finish(self, results: Sequence[Leaves], own: bool) -> None:
        """Note for each operation which values nobody needs after it, and where it may write.

        It may into a value that dies with it, if that is a list of fresh tensors or of `own` ones.
        """
        needed = {result.place for result in results}
        for operation in reversed(self.operations):
            operation.dead = [place for place in operation.used if place not in needed]
            needed.update(operation.used)
            if operation.kernel is None:  # its values may be views of what it was given
                self.viewed.update(operation.used)
        first = 0 if own else self.inputs
        for operation in self.operations:
            if operation.kernel is not None:
                free = [p for p in operation.dead if p >= first and p not in self.viewed]
                operation.target = min(map(operation.position, free), default=None)

    def run(self, inputs: Sequence[list[Tensor]]) -> list[list[Tensor] | None]:
        """Return all values still needed at the end."""
        values: list[list[Tensor] | None] = list(inputs)
        for operation in self.operations:
            if operation.kernel is None:
                values.append(_one_by_one(operation, values, len(inputs[0])))
            else:
                kernel, target, kwargs = operation.kernel, operation.target, operation.kwargs
                args = [values[arg.place] if type(arg) is Leaves else arg for arg in operation.args]
                if operation.spread:
                    args[-1] = [args[-1]] * len(inputs[0])
                if target is None:
                    values.append(list(kernel.fresh(*args, **kwargs)))
                else:
                    values.append(kernel.into(target, args, kwargs))
            for place in operation.dead:
                values[place] = None
        return values


def _is_differentiated(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _one_by_one(
    operation: _Operation, values: Sequence[list[Tensor] | None], length: int
) -> list[Tensor]:
    """Call a function that torch has not for lists on each tensor."""

    def at(arg: Any, index: int) -> Any:
        column = values[arg.place] if type(arg) is Leaves else None
        return arg if column is None else column[index]

    return [
        operation.function(
            *[at(arg, index) for arg in operation.args],
            **{name: at(arg, index) for name, arg in operation.kwargs.items()},
        )
        for index in range(length)
    ]
