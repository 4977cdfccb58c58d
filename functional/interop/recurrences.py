"""Torch's recurrent operators, with dropout between their layers, and where `vmap` runs.

torch's have no batching rule: under `vmap` a layer is taken by its formula, a step at a time. So
are packed sequences under any transform, where torch's operators cannot read their sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.nn import functional

from ..nn.cells import GRU, LSTM, Unit, Weights, rnn_unit
from .attending import transforms
from .batches import beside

_Carry = tuple[Tensor, ...]
_Step = Callable[..., _Carry]


def recurrence(name: str, func: Callable[..., Any]) -> Callable[..., Any]:
    """Return what computes `func`, torch's recurrent operator of that name, under any transform.

    torch's has no batching rule, and under a transform reads no sizes of a packed input. There it
    is taken by its formula.
    """
    running = transforms()

    def run(*args: Any) -> Any:
        is_packed = name in LAYERS and not isinstance(args[3], bool)
        if TransformType.Vmap not in running and not (is_packed and running):
            return func(*args)
        if name in LAYERS:
            layer = _packed_layer if is_packed else _layer
            return stacked(functools.partial(layer, LAYERS[name]), args, lambda y, p: y)
        x, carry, *weights = args
        after = CELLS[name](x, (carry,) if isinstance(carry, Tensor) else carry, *weights)
        return after[0] if isinstance(carry, Tensor) else after

    return run


def stacked(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    drop: Callable[[Tensor, float], Tensor],
) -> tuple[Tensor, ...]:
    """Return what a stack of recurrent layers returns, with `drop(y, p)` between them.

    `func` is `torch.lstm`, `gru`, `rnn_tanh` or `rnn_relu`, which is called a layer at a time. Its
    arguments are torch's,

        (input, states, weights, bias, layers, p, train, bidirectional, batch_first)

    or, for a packed input,

        (data, batch_sizes, states, weights, bias, layers, p, train, bidirectional).
    """
    # Third from the front are the weights, or the states of a packed input: those are tensors too,
    # but the fourth is a flag or a list.
    inputs = 1 if isinstance(args[3], bool) else 2
    y, *sizes = args[:inputs]
    states, weights, bias, layers, p, train, bidirectional, *batch_first = args[inputs:]
    directions = 2 if bidirectional else 1
    per_layer = len(weights) // layers
    finals = []
    for layer in range(layers):
        start = layer * directions
        own = weights[layer * per_layer : (layer + 1) * per_layer]
        y, *final = func(
            y,
            *sizes,
            _of_layer(states, start, directions, y),
            own,
            bias,
            1,
            0.0,
            train,
            bidirectional,
            *batch_first,
        )
        finals.append(final)
        if layer < layers - 1:
            y = drop(y, p)
    return (y, *(torch.cat(parts) for parts in zip(*finals, strict=True)))


def _of_layer(states: Any, start: int, directions: int, y: Tensor) -> Any:
    """Return one layer's part of the states, one tensor or, of an LSTM, two."""
    if isinstance(states, Tensor):
        return beside(states[start : start + directions], [y])
    return [_of_layer(state, start, directions, y) for state in states]


# --- formulas ------------------------------------------------------------------------------------


def _layer(
    step: _Step,
    x: Tensor,
    states: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: bool,
    layers: int,
    p: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Return output and final states of one layer, in one direction or both."""
    axis = 1 if batch_first else 0

    def run(carry: _Carry, own: Any, order: slice) -> tuple[Tensor, _Carry]:
        ys = []
        for now in x.unbind(axis)[order]:
            carry = step(now, carry, *own)
            ys.append(carry[0])
        return torch.stack(ys[order], axis), carry

    return _in_directions(run, states, _by_direction(weights, bias, bidirectional))


def _packed_layer(
    step: _Step,
    x: Tensor,
    sizes: Tensor,
    states: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: bool,
    layers: int,
    p: float,
    train: bool,
    bidirectional: bool,
) -> tuple[Tensor, ...]:
    """Return output and final states of one layer, whose input has only the first rows later on."""

    def run(carry: _Carry, own: Any, order: slice) -> tuple[Tensor, _Carry]:
        ys = []
        for now in x.split(_numbers(sizes))[order]:
            after = step(now, tuple(part[: len(now)] for part in carry), *own)
            ys.append(after[0])
            rest = (part[len(now) :] for part in carry)
            carry = tuple(torch.cat(pair) for pair in zip(after, rest, strict=True))
        return torch.cat(ys[order]), carry

    return _in_directions(run, states, _by_direction(weights, bias, bidirectional))


def _in_directions(
    run: Callable[[_Carry, Any, slice], tuple[Tensor, _Carry]],
    states: Tensor | Sequence[Tensor],
    weights: Sequence[Sequence[Tensor | None]],
) -> tuple[Tensor, ...]:
    """Return what `run(carry, weights, order of the steps)` returns of each direction, joined."""
    parts = [states] if isinstance(states, Tensor) else states
    outputs, finals = [], []
    for direction, own in enumerate(weights):
        carry = tuple(part[direction] for part in parts)
        y, final = run(carry, own, slice(None, None, -1 if direction else 1))
        outputs.append(y)
        finals.append(final)
    return (torch.cat(outputs, -1), *(torch.stack(parts) for parts in zip(*finals, strict=True)))


def _by_direction(
    weights: Sequence[Tensor], bias: bool, bidirectional: bool
) -> list[Sequence[Tensor | None]]:
    """Return what a step takes for each direction: two weights, two biases, and a projection."""
    count = len(weights) // (2 if bidirectional else 1)
    own = [weights[start : start + count] for start in range(0, len(weights), count)]
    return [part if bias else (*part[:2], None, None, *part[2:]) for part in own]


def pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """Return the examples' rows, step by step and without padding, and their numbers."""
    numbers = _numbers(lengths)
    sizes = [sum(length > t for length in numbers) for t in range(numbers[0])]
    steps = x.unbind(1 if batch_first else 0)
    rows = [step[:size] for step, size in zip(steps, sizes, strict=False)]
    return torch.cat(rows), torch.tensor(sizes)


def pad_packed(
    data: Tensor, sizes: Tensor, batch_first: bool, padding: float, length: int
) -> tuple[Tensor, Tensor]:
    """Undo `pack`, up to `length` steps at least, with `padding` behind each example."""
    numbers = _numbers(sizes)
    numbers += [0] * (length - len(numbers))
    like = data[: numbers[0]]
    steps = [
        torch.cat([rows, torch.full_like(like[len(rows) :], padding)])
        for rows in data.split(numbers)
    ]
    lengths = [sum(size > example for size in numbers) for example in range(numbers[0])]
    return torch.stack(steps, 1 if batch_first else 0), torch.tensor(lengths)


def _numbers(sizes: Tensor) -> list[int]:
    """Return integers within the wrappers of torch.func, which no transform changes."""
    functorch: Any = torch._C._functorch
    while functorch.is_gradtrackingtensor(sizes):
        sizes = functorch.get_unwrapped(sizes)
    return [int(size) for size in sizes.tolist()]


def _step_of(unit: Unit) -> _Step:
    """Return a step of torch's arguments: weights and biases of the input and of the state."""

    def step(
        x: Tensor,
        carry: tuple[Tensor, ...],
        input_weight: Tensor,
        hidden_weight: Tensor,
        input_bias: Tensor | None = None,
        hidden_bias: Tensor | None = None,
        projection: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        projected = functional.linear(x, input_weight, input_bias)
        return unit.step(projected, carry, Weights(hidden_weight, hidden_bias, projection))

    return step


#: Steps by the names of torch's operators, of layers and of single cells.
LAYERS: Mapping[str, _Step] = {
    "gru": _step_of(GRU),
    "lstm": _step_of(LSTM),
    "rnn_relu": _step_of(rnn_unit("rnn_relu", "relu")),
    "rnn_tanh": _step_of(rnn_unit("rnn_tanh", "tanh")),
}
CELLS: Mapping[str, _Step] = {f"{name}_cell": step for name, step in LAYERS.items()}
