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


def record(
    rule: Callable[..., Any],
    lists: int,
    scalars: Sequence[Any],
    dtype: torch.dtype,
    device: torch.device,
    *,
    own: bool,
) -> Program:
    """Call `rule` once, with stand-ins for `lists` lists and for scalars like `scalars`.

    The program that this returns runs on any lists of `dtype` and `device` and any scalars of these
    types. It writes into no list that it is given, unless they are the caller's `own` to give away.

    >>> program = record(lambda x, y, factor: (x + y, x * factor), 2, [2.0], torch.float32,
    ...                  torch.device("cpu"), own=False)
    >>> program.run([[torch.ones(1)], [torch.ones(1)]], [5.0])
    [[tensor([2.])], [tensor([5.])]]
    """
    program = Program(lists, scalars, dtype, device)
    result = rule(
        *[Leaves(program, place) for place in range(lists)],
        *[Number(program, place, value) for place, value in enumerate(scalars, start=lists)],
    )
    results = result if isinstance(result, tuple) else (result,)
    if not all(type(value) is Leaves for value in results):
        raise NotListable("a result that is no function of the leaves")
    program.finish(results, own)
    return program


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

    def __init__(self, program: Program, place: int) -> None:
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
        given = (*args, *(kwargs or {}).values())
        program = next(arg.program for arg in given if isinstance(arg, Leaves))
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


def _reflected(function: Callable[..., Any]) -> Callable[..., Leaves]:
    def noted(self: Leaves, other: Any) -> Leaves:
        return self.program.note(function, (other, self), {})

    return noted


for _name in (
    *("add", "sub", "mul", "truediv", "pow", "neg", "abs", "invert"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor"),
):
    setattr(Leaves, f"__{_name}__", _noting(getattr(operator, f"__{_name}__")))
for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Leaves, f"__r{_name}__", _reflected(getattr(operator, f"__{_name}__")))


class Number(Leaves):
    """A scalar, other in every run; `example` is what it was when the program was recorded."""

    __slots__ = ("example",)

    def __init__(self, program: Program, place: int, example: Any) -> None:
        super().__init__(program, place)
        self.example = example


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
        kind = type(last.example) if type(last) is Number else type(last)
        return (
            len(args) == self.lists
            and all(type(arg) is Leaves for arg in lists)
            and (issubclass(kind, (Leaves, *self.last)))
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
        "pow": _Kernel("pow", 2, int, float),
        "clamp_min": _Kernel("clamp_min", 2, int, float),
        "clamp_max": _Kernel("clamp_max", 2, int, float),
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
    same = ("add", "sub", "mul", "pow", "neg", "abs")
    operators = {"truediv": "div"} | {name: name for name in same}
    return spelled | {getattr(operator, f"__{name}__"): named[op] for name, op in operators.items()}


_KERNELS = _kernels()
_ADD = _KERNELS[torch.add]  # torch adds a list of scalars in half the time of a single one
_COMMUTATIVE = (torch.add, torch.mul, Tensor.add, Tensor.mul, operator.add, operator.mul)


class _Operation:
    """One line of a program: `value = function(*args, **kwargs)`."""

    __slots__ = (
        "args",
        "dead",
        "function",
        "kernel",
        "kwargs",
        "of_scalars",
        "scalar",
        "target",
        "uniform",
        "used",
    )

    def __init__(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        given = (*args, *kwargs.values()) if kwargs else args
        self.used = {arg.place for arg in given if type(arg) is Leaves}  # places of lists
        self.dead: list[int] = []  # those of values that nothing uses after this
        self.kernel: _Kernel | None = None
        self.scalar = False  # whether the last argument is a scalar, to be made a tensor
        self.of_scalars = not self.used  # whether the value is a scalar itself
        self.target: int | None = None  # the argument whose memory takes the value
        self.uniform = False  # whether the value has the leaves' shapes and dtype, for certain

    def position(self, place: int) -> int:
        """Return the first argument that is the value at `place`."""
        return next(
            i for i, arg in enumerate(self.args) if type(arg) is Leaves and arg.place == place
        )


class Program:
    """What a rule computes, as a straight line of operations on numbered values.

    The values are the lists given, the scalars given, and what the operations compute of them.
    """

    def __init__(
        self, lists: int, scalars: Sequence[Any], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.lists, self.inputs = lists, lists + len(scalars)
        self.dtype, self.device = dtype, device
        self.operations: list[_Operation] = []
        self.results: list[int] = []
        self.viewed: set[int] = set()
        self.constants: list[Tensor] = []

    def note(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Leaves:
        """Note that `function` is called, and return what stands for its value."""
        if function in _COMMUTATIVE and type(args[0]) is not Leaves:
            args = args[::-1]
        operation = _Operation(function, args, kwargs)
        given = (*args, *kwargs.values())
        self.constants += [arg for arg in given if isinstance(arg, Tensor)]
        kernel = _KERNELS.get(function)
        if kernel and all(map(self._is_uniform, operation.used)) and kernel.takes(args, kwargs):
            self._use(operation, kernel)
        self.operations.append(operation)
        place = self.inputs + len(self.operations) - 1
        if not operation.of_scalars:
            return Leaves(self, place)
        examples = [arg.example if type(arg) is Number else arg for arg in args]
        return Number(self, place, function(*examples, **kwargs))

    def note_rounding(self, values: Leaves, dtype: torch.dtype) -> Leaves:
        """Note that `values` become what is left of them in `dtype`, of which there are results."""
        place = self.note(_rounded, (values, dtype, self.dtype), {})
        self.operations[-1].uniform = True
        self.viewed.add(place.place)  # rounding may change nothing, and copy nothing
        return place

    def dtype_of(self, value: Leaves) -> torch.dtype:
        """Return the dtype of `value`, where it is that of the lists."""
        if not self.is_uniform(value):
            raise NotListable("dtype")
        return self.dtype

    def is_uniform(self, value: Leaves) -> bool:
        """Say whether `value` has the shapes and dtype of the inputs, for certain."""
        return self._is_uniform(value.place)

    def _is_uniform(self, place: int) -> bool:
        return place < self.lists or self.operations[place - self.inputs].uniform

    def _use(self, operation: _Operation, kernel: _Kernel) -> None:
        """Compute `operation` by `kernel`, unless an argument is a tensor that is no scalar."""
        last = operation.args[-1]
        value = last.example if type(last) is Number else last
        if isinstance(value, Tensor):
            at_hand = value.device == self.device or value.device.type == "cpu"
            if value.ndim or not value.is_floating_point() or not at_hand:
                return
            operation.scalar = True
        elif type(last) is not Leaves and Tensor in kernel.last and self.device.type == "cpu":
            # There torch would make a tensor of the number for each leaf anew.
            operation.scalar = True
            if type(last) is not Number:
                operation.args = (*operation.args[:-1], self._tensor(last))
        operation.kernel, operation.uniform = kernel, True

    def _tensor(self, value: Any) -> Tensor:
        """Return a scalar as a 0-d tensor like the leaves."""
        scalar = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64)
        return scalar.to(self.device, self.dtype)

    def finish(self, results: Sequence[Leaves], own: bool) -> None:
        """Note for each operation which values nobody needs after it, and where it may write.

        It may into a value that dies with it, if that is a list of fresh tensors or of `own` ones.
        """
        self.results = [result.place for result in results]
        needed = set(self.results)
        for operation in reversed(self.operations):
            operation.dead = [place for place in operation.used if place not in needed]
            needed.update(operation.used)
            if operation.kernel is None:  # its values may be views of what it was given
                self.viewed.update(operation.used)
        first = 0 if own else self.lists
        for operation in self.operations:
            if operation.kernel is not None:
                free = [p for p in operation.dead if p >= first and p not in self.viewed]
                operation.target = min(map(operation.position, free), default=None)

    def is_differentiated(self) -> bool:
        """Say whether the rule computes with a tensor whose derivative somebody wants."""
        return any(constant.requires_grad for constant in self.constants)

    def run(
        self, columns: Sequence[Sequence[Tensor]], scalars: Sequence[Any]
    ) -> list[list[Tensor]]:
        """Return the lists that the rule computes of lists and scalars."""
        pieces = list(_pieces(columns[0]))
        if len(pieces) == 1:
            return self._run_piece(columns, scalars)
        computed: list[list[Tensor]] = [[] for _ in self.results]
        for piece in pieces:
            lists = self._run_piece([column[piece] for column in columns], scalars)
            for whole, part in zip(computed, lists, strict=True):
                whole += part
        return computed

    def _run_piece(
        self, columns: Sequence[Sequence[Tensor]], scalars: Sequence[Any]
    ) -> list[list[Tensor]]:
        values: list[Any] = [*columns, *scalars]
        length = len(columns[0])
        for operation in self.operations:
            args = [values[arg.place] if isinstance(arg, Leaves) else arg for arg in operation.args]
            kernel, kwargs = operation.kernel, operation.kwargs
            if kernel is None:
                values.append(_called(operation, args, values, length))
            else:
                if operation.scalar:
                    args[-1] = self._tensor(args[-1])
                    if kernel is _ADD and self.device.type == "cpu":
                        args[-1] = [args[-1]] * length
                target = operation.target
                if target is None:
                    values.append(list(kernel.fresh(*args, **kwargs)))
                else:
                    values.append(kernel.into(target, args, kwargs))
            for place in operation.dead:
                values[place] = None
        return [values[place] for place in self.results]


def _called(operation: _Operation, args: Sequence[Any], values: Sequence[Any], length: int) -> Any:
    """Call a function that torch has not for lists: once of scalars, or on each tensor."""
    kwargs = {
        name: values[arg.place] if isinstance(arg, Leaves) else arg
        for name, arg in operation.kwargs.items()
    }
    if operation.of_scalars:
        return operation.function(*args, **kwargs)
    in_lists = [type(arg) is Leaves for arg in operation.args]
    named_lists = {name for name, arg in operation.kwargs.items() if type(arg) is Leaves}
    return [
        operation.function(
            *[arg[index] if is_list else arg for arg, is_list in zip(args, in_lists, strict=True)],
            **{name: arg[index] if name in named_lists else arg for name, arg in kwargs.items()},
        )
        for index in range(length)
    ]
