"""Recurrent cells: one step of a recurrence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import random
from ..initializers import Initializer, uniform
from .checks import Shape, check_bools, check_input, fits, positive_int
from .layer import Layer, LayerError, Params, describe
from .parameters import check_parameters, check_same_dtype

Nonlinearity = Literal["tanh", "relu"]

#: `(h,)` or `(h, c)`.
Carry = tuple[Tensor, ...]


class Weights(NamedTuple):
    """What a step multiplies and adds; the input's own product comes in from outside."""

    hidden: Tensor
    bias: Tensor | None
    projection: Tensor | None = None


@dataclass(frozen=True)
class Unit:
    """A recurrence: how many blocks of `hidden_size` its weights have, and what a step computes.

    `step(projected, carry, weights)` is the next carry, where `projected` is the input's part of
    all blocks, `W_ih x + b_ih`.
    """

    blocks: int
    parts: tuple[str, ...]
    step: Callable[[Tensor, Carry, Weights], Carry]


def rnn_cell(
    hidden_size: int,
    *,
    nonlinearity: Nonlinearity = "tanh",
    bias: bool = True,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the step `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)` of Elman's network.

    The input is a pair `(x, h)` of shapes `(N, input_size)` and `(N, hidden_size)`, both without
    `N` for a single example, or `x` alone, for which `h` is zero; the output is `h'`. Parameters
    are those of `torch.nn.RNNCell`: `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh`, by default
    uniform within `±1 / sqrt(hidden_size)`, as in torch. `rnn` is the loop over it.

    Parameters
    ----------
    hidden_size
        The length of `h`; that of `x` is inferred by `init`.
    nonlinearity
        "tanh" or "relu".
    bias
        Whether there are `b_ih` and `b_hh`.
    weight_init, bias_init
        Initializers in the place of the default ones.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input or the carry does not have the right shape, is not floating-point or not of the
        dtype of the parameters; or the parameters are not this layer's.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> cell = rnn_cell(4)
    >>> params = cell.init(random.key(0), torch.ones(2, 3))
    >>> def step(h, x):
    ...     h = cell(params, (x, h))
    ...     return h, h
    >>> last, every = pf.scan(step, torch.zeros(2, 4), torch.ones(6, 2, 3))
    >>> last.shape, every.shape
    (torch.Size([2, 4]), torch.Size([6, 2, 4]))
    """
    unit = rnn_unit("rnn_cell", nonlinearity)
    return _cell("rnn_cell", unit, hidden_size, bias, weight_init, bias_init)


def lstm_cell(
    hidden_size: int,
    *,
    bias: bool = True,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return a step of long short-term memory.

    With `i, f, g, o` the four blocks of `W_ih x + b_ih + W_hh h + b_hh`,

        c' = sigmoid(f) c + sigmoid(i) tanh(g),    h' = sigmoid(o) tanh(c').

    The input is a pair `(x, (h, c))`, or `x` alone, for which `h` and `c` are zero; the output is
    `(h', c')`. Otherwise as `rnn_cell`; parameters are those of `torch.nn.LSTMCell`. Hochreiter &
    Schmidhuber 1997, Long short-term memory; the gate `f` is that of Gers et al. 2000.

    Examples
    --------
    >>> cell = lstm_cell(4)
    >>> params = cell.init(random.key(0), torch.ones(2, 3))
    >>> params["weight_ih"].shape
    torch.Size([16, 3])
    >>> h, c = cell(params, (torch.ones(2, 3), (torch.zeros(2, 4), torch.zeros(2, 4))))
    >>> h.shape, c.shape
    (torch.Size([2, 4]), torch.Size([2, 4]))
    """
    return _cell("lstm_cell", LSTM, hidden_size, bias, weight_init, bias_init)


def gru_cell(
    hidden_size: int,
    *,
    bias: bool = True,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return a step of the gated recurrent unit.

    With `r, z, n` the three blocks of `W_ih x + b_ih`, and `r', z', n'` those of `W_hh h + b_hh`,

        new = tanh(n + sigmoid(r + r') n'),    h' = new + sigmoid(z + z') (h - new).

    Otherwise as `rnn_cell`; parameters are those of `torch.nn.GRUCell`. Cho et al. 2014, Learning
    phrase representations using RNN encoder-decoder, in torch's variant, where the reset gate
    follows the product with `W_hh`.

    Examples
    --------
    >>> cell = gru_cell(4)
    >>> params = cell.init(random.key(0), torch.ones(2, 3))
    >>> cell(params, (torch.ones(2, 3), torch.zeros(2, 4))).shape
    torch.Size([2, 4])
    """
    return _cell("gru_cell", GRU, hidden_size, bias, weight_init, bias_init)


def rnn_unit(layer: str, nonlinearity: Nonlinearity) -> Unit:
    """Return the recurrence of `rnn_cell`, or refuse the nonlinearity."""
    functions = {"tanh": torch.tanh, "relu": torch.relu}
    if nonlinearity not in tuple(functions):  # which may be given what has no hash
        raise ValueError(
            f"{layer}: expected 'tanh' or 'relu' for nonlinearity, got {nonlinearity!r}."
        )
    function = functions[nonlinearity]

    def step(projected: Tensor, carry: Carry, weights: Weights) -> Carry:
        (h,) = carry
        return (function(projected + F.linear(h, weights.hidden, weights.bias)),)

    return Unit(1, ("h",), step)


def _lstm_step(projected: Tensor, carry: Carry, weights: Weights) -> Carry:
    h, c = carry
    gates = projected + F.linear(h, weights.hidden, weights.bias)
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if weights.projection is None else F.linear(h, weights.projection)), c


def _gru_step(projected: Tensor, carry: Carry, weights: Weights) -> Carry:
    (h,) = carry
    r, z, n = projected.chunk(3, -1)
    r_h, z_h, n_h = F.linear(h, weights.hidden, weights.bias).chunk(3, -1)
    new = torch.tanh(n + torch.sigmoid(r + r_h) * n_h)
    return (new + torch.sigmoid(z + z_h) * (h - new),)


LSTM = Unit(4, ("h", "c"), _lstm_step)
GRU = Unit(3, ("h",), _gru_step)


def draw(
    key: Tensor,
    shapes: dict[str, Shape],
    hidden_size: int,
    dtype: torch.dtype,
    weight_init: Initializer | None,
    bias_init: Initializer | None,
) -> dict[str, Tensor]:
    """Return parameters of the given shapes, uniform within `±1 / sqrt(hidden_size)` unless told.

    Names that begin with "bias" are biases.
    """
    default = uniform(-1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))
    params = {}
    for (name, shape), one in zip(shapes.items(), random.split(key, len(shapes)), strict=True):
        given = bias_init if name.startswith("bias") else weight_init
        params[name] = (given or default)(one, shape, dtype)
    return params


def check_carry(
    layer: str, unit: Unit, carry: Any, shapes: Sequence[Sequence[int]], x: Tensor
) -> Carry:
    """Return the parts of a carry, or refuse one that lacks the unit's parts or their shapes."""
    parts = carry if len(unit.parts) > 1 else (carry,)
    wanted = "h" if unit.parts == ("h",) else f"({', '.join(unit.parts)})"
    if not isinstance(parts, tuple | list) or len(parts) != len(unit.parts):
        raise LayerError(f"{layer} expected a carry {wanted}, got {describe(carry)}.")
    for name, part, shape in zip(unit.parts, parts, shapes, strict=True):
        if not isinstance(part, Tensor) or not fits(part.shape, shape):
            raise LayerError(
                f"{layer} expected {name} of the carry {wanted} to be a tensor of shape "
                f"{tuple(shape)}, got {describe(part)}."
            )
        check_same_dtype(layer, x, {f"{name} of the carry": part})
    return tuple(parts)


def public_carry(carry: Carry) -> Any:
    """Return a carry as torch has it: `h`, or `(h, c)`."""
    return carry[0] if len(carry) == 1 else carry


def _cell(
    name: str,
    unit: Unit,
    hidden_size: int,
    bias: bool,
    weight_init: Initializer | None,
    bias_init: Initializer | None,
) -> Layer:
    positive_int(name, "hidden_size", hidden_size)
    check_bools(name, bias=bias)
    rows = unit.blocks * hidden_size

    def shapes(input_size: Any) -> dict[str, tuple[Any, ...]]:
        biases = {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size), **biases}

    def init(key: Tensor, x: Any) -> Params:
        x, _ = _pair(name, x)
        _check_features(name, x, "input_size")
        sizes = shapes(x.shape[-1])
        return draw(key, sizes, hidden_size, x.dtype, weight_init, bias_init)

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        check_parameters(name, params, shapes("input_size"))
        x, carry = _pair(name, x)
        _check_features(name, x, params["weight_ih"].shape[1])
        check_same_dtype(name, x, params)
        shape = (*x.shape[:-1], hidden_size)
        if carry is None:
            parts: Carry = (x.new_zeros(shape),) * len(unit.parts)
        else:
            parts = check_carry(name, unit, carry, [shape] * len(unit.parts), x)
        projected = F.linear(x, params["weight_ih"], params.get("bias_ih"))
        weights = Weights(params["weight_hh"], params.get("bias_hh"))
        return public_carry(unit.step(projected, parts, weights))

    return Layer(init, apply, uses_key=False, kind=name)


def _pair(name: str, x: Any) -> tuple[Any, Any]:
    """Return the two parts of a cell's input; the carry is None where there is none."""
    if not isinstance(x, tuple | list):
        return x, None
    if len(x) != 2:
        raise LayerError(f"{name} expected x or a pair (x, carry), got {describe(x)}.")
    return x[0], x[1]


def _check_features(name: str, x: Any, features: int | str) -> None:
    check_input(name, x, (features,) if getattr(x, "ndim", None) == 1 else ("N", features))
