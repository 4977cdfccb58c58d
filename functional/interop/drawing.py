"""Random numbers of torch modules, drawn from a key instead of torch's hidden generator.

A `KeyedDraws` sees every torch function that is called while it is active, above torch.func's
transforms. Python functions of torch run opened, so that the operators they are made of are seen;
an operator that torch tags as random is computed here from a key, or refused by its name.
Draw number `i` of a call takes `random.fold_in(key, i)`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.overrides import TorchFunctionMode

from .. import random
from ..nn import LayerError
from ..staging.tracing import recorder
from .attending import attention_by_formula, kernels_suffice, transforms
from .batches import beside
from .draws import DRAWS, WRITES, is_silent, pool_samples
from .recurrences import CELLS, LAYERS, pack, pad_packed, recurrence, stacked

#: The modules of torch whose Python functions call operators that draw.
_PYTHON = ("torch.nn.functional", "torch.functional", "torch._lowrank")
#: What asks whether a function mode is active; opened functions go on as if none was.
_QUESTIONS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")

#: Functions that make tensors to be written, with what is drawn or follows from it.
_EMPTY = ("empty", "empty_like", "new_empty", "new_zeros", "zeros", "zeros_like")
#: Functions that draw where one does not see it, and how the samples are drawn that they take.
_POOLS = {"fractional_max_pool2d": pool_samples(2), "fractional_max_pool3d": pool_samples(3)}
#: Operators that cannot read the lengths of sequences under a transform.
_PACKING: Mapping[str, Callable[..., Any]] = {
    "_pack_padded_sequence": pack,
    "_pad_packed_sequence": pad_packed,
}
#: Norms, which write the running statistics if told to take those of the input.
_UPDATING = ("batch_norm", "instance_norm")
#: Operators of Python that write their first argument, or an attribute of it.
_WRITING_OPERATORS = {"__set__", "__setitem__"} | {
    f"__i{name}__"
    for name in (
        "add", "and", "div", "floordiv", "lshift", "mod", "mul", "or", "pow", "rshift", "sub",
        "truediv", "xor",
    )
}  # fmt: skip


class KeyedDraws(TorchFunctionMode):
    """While it is active, torch's random operators draw from `key`.

    Parameters
    ----------
    layer
        What errors call the module.
    key
        Where random numbers come from; without one, drawing is an error.
    protected
        Tensors that must not be written, by the name that errors call them.

    Raises
    ------
    LayerError
        A random operator runs without a key, or is one that cannot take numbers from a key.
    """

    def __init__(self, layer: str, key: Tensor | None, protected: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._layer = layer
        self._key = key
        self._draws = 0
        self._protected = protected
        self._memory: dict[int, str] | None = None
        self._within: list[Callable[..., Any]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, drawing from the key if it is random."""
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__":
            is_hidden = _is_data(func) and TransformType.Vmap in transforms()
            return args[0].detach() if is_hidden else func(*args, **options)
        opened = _opened(func)
        if opened is not None and self._within[-1:] != [func]:
            args = _renormalizing_a_copy(name, args, options)
            return self._run_opened(func, opened, args, options)
        self._check_written(name, args, options)
        if name in LAYERS or name in CELLS:
            func = recurrence(name, func)
        if name in _PACKING and transforms():
            func = _PACKING[name]
        if name == "__set__" and _is_data(func) and (transforms() or recorder() is not None):
            return _set_data(*args)
        for first in ("input", "tensor"):
            if _is_random(name) and first in options:
                args = (options.pop(first), *args)
        if _is_random(name) and not is_silent(name, args, options):
            return self._draw(name, func, args, options)
        if name == "scaled_dot_product_attention" and not kernels_suffice():
            return attention_by_formula(*args, **options)
        if name in _POOLS and options.get("_random_samples") is None:
            options["_random_samples"] = _POOLS[name](self.next_key(name), args[0])
        if name == "_nested_tensor_from_mask_left_aligned":
            # What `TransformerEncoder` asks first for a fast path that no mode can look into.
            return False
        if "out" in options:
            return _into_out(func, args, options)
        result = func(*args, **options)
        return self._mapped(result) if name in _EMPTY else result

    def _run_opened(
        self,
        func: Callable[..., Any],
        opened: Callable[..., Any],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> Any:
        """Run a Python function of torch so that the operators that it calls are seen."""
        # A helper of it may ask in its place (that of `torch.meshgrid` does): it then runs unseen.
        self._within.append(func)
        try:
            with self:
                return opened(*args, **options)
        finally:
            self._within.pop()

    def _draw(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Return what a random operator returns, drawn from the key."""
        if options.pop("generator", None) is not None:
            raise LayerError(
                f"{self._layer} draws with torch.{name} from a generator of its own; it has to use "
                "the default one, which a key replaces."
            )
        if name in LAYERS:
            return stacked(
                func, args, lambda y, p: DRAWS["dropout"](self.next_key(name), y, p, True)
            )
        draw = DRAWS.get(name)
        if draw is None and name not in WRITES:
            raise LayerError(
                f"{self._layer} draws random numbers with torch.{name}, which has no version here "
                "that takes a key; write it with torch.rand, randn or bernoulli."
            )
        key = self.next_key(name)
        if draw is not None:
            return draw(key, *args, **options)
        return args[0].copy_(WRITES[name](key, *args, **options))

    def _mapped(self, empty: Tensor) -> Tensor:
        """Return an empty tensor with room for a value of each key, where `vmap` maps the key."""
        return beside(empty, [] if self._key is None else [self._key])

    def next_key(self, name: str) -> Tensor:
        """Return the key of the next draw, which the operator `name` makes."""
        if self._key is None:
            raise LayerError(
                f"{self._layer} draws random numbers with torch.{name} and needs a key: call it "
                "with key=... and a new key for each call."
            )
        self._draws += 1
        return random.fold_in(self._key, self._draws - 1)

    def _check_written(self, name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        """Refuse to write a tensor that is the caller's."""
        targets = [*(args[:1] if _writes(name) else ()), options.get("out")]
        if name in _UPDATING and args[5]:
            targets += args[3:5]
        # Functions of many tensors, `_foreach_mul_` and its like, write a list of them.
        for target in _in_lists(targets):
            if not isinstance(target, Tensor):
                continue
            if self._memory is None:
                self._memory = {_memory(leaf): path for path, leaf in self._protected.items()}
            written = self._memory.get(_memory(target))
            if written is not None:
                by = "an assignment such as `.data = ...`" if name == "__set__" else f"torch.{name}"
                raise LayerError(
                    f"{self._layer} writes its parameter {written!r} in place, by {by}, "
                    "which no pure function does: leave that to an ordinary function of the "
                    "parameters, between steps."
                )


def _is_data(func: Callable[..., Any]) -> bool:
    """Say whether a function reads or assigns `Tensor.data`, which transforms may refuse."""
    return getattr(func, "__self__", None) is Tensor.data


def _set_data(tensor: Tensor, value: Tensor) -> None:
    """Write what a module would assign to `tensor.data`, of which no derivative is taken."""
    if tensor.shape != value.shape or tensor.dtype != value.dtype:
        raise ValueError(
            f"a {value.dtype} tensor of shape {tuple(value.shape)} cannot be assigned to the "
            f"data of one of {tensor.dtype} and {tuple(tensor.shape)} under a transform."
        )
    tensor.detach().copy_(value.detach())


def _in_lists(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        yield from value if isinstance(value, list | tuple) else (value,)


def _into_out(func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Write a result where the caller wants it, by a copy where that will do: `vmap` knows it."""
    out = options.pop("out")
    if not isinstance(out, Tensor):
        return func(*args, **options, **({} if out is None else {"out": out}))
    result = func(*args, **options)
    if result.shape != out.shape or result.dtype != out.dtype:
        return func(*args, **options, out=out)
    return out.copy_(result)


def _writes(name: str) -> bool:
    """Say whether torch's function of that name writes its first argument."""
    return name in _WRITING_OPERATORS or (name.endswith("_") and not name.endswith("__"))


def _memory(tensor: Tensor) -> int:
    """Return what tells the memory of a tensor from that of others."""
    functorch: Any = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return int(tensor.untyped_storage()._cdata)


def _renormalizing_a_copy(
    name: str, args: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Let an embedding with a largest norm shorten the rows of a copy of its weight."""
    if name in ("embedding", "embedding_bag") and options.get("max_norm") is not None:
        return (args[0], args[1].clone(), *args[2:])
    return args


@functools.cache
def _is_random(name: str) -> bool:
    """Say whether torch tags an operator as one that draws."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or name.startswith("__"):
        return False
    tag = torch.Tag.nondeterministic_seeded
    return any(tag in getattr(packet, overload).tags for overload in packet.overloads())


def _opened(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return a Python function of torch that does not hand itself to a mode, or `None`.

    It has the code of `func` and its globals, except that they deny the presence of a mode: what it
    calls is seen, itself is not seen again.
    """
    is_python = isinstance(func, types.FunctionType) and func.__module__ in _PYTHON
    # What chooses between two functions (`max_pool2d`) is written elsewhere, and draws nothing.
    if not is_python or func.__globals__["__name__"] != func.__module__:
        return None
    return _open(func)


@functools.cache
def _open(func: types.FunctionType) -> Callable[..., Any]:
    denying = dict.fromkeys(_QUESTIONS, lambda *tensors: False)
    opened = types.FunctionType(
        func.__code__,
        {**func.__globals__, **denying},
        func.__name__,
        func.__defaults__,
        func.__closure__,
    )
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened
