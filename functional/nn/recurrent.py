"""Recurrent networks: loops of cells over the steps of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import random
from ..abstract import ShapeDtype
from ..control.scans import scan
from ..initializers import Initializer
from ..losses.checks import in_range, nan_unless, values_are_visible
from .cells import (
    GRU,
    LSTM,
    Carry,
    Nonlinearity,
    Unit,
    Weights,
    check_carry,
    draw,
    public_carry,
    rnn_unit,
)
from .checks import check_bools, check_input, positive_int
from .layer import Layer, LayerError, Params, describe
from .parameters import check_parameters, check_same_dtype
from .regularization import dropout as dropout_layer


def rnn(
    hidden_size: int,
    *,
    num_layers: int = 1,
    nonlinearity: Nonlinearity = "tanh",
    bias: bool = True,
    dropout: float = 0.0,
    bidirectional: bool = False,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the loop of `rnn_cell` over a sequence: `h_t = tanh(W_ih x_t + W_hh h_{t-1} + b)`.

    The input is `x`, `(x, h)` or `(x, h, lengths)`, where `x` has the shape `(N, L, input_size)`
    (torch's `batch_first=True`) or `(L, input_size)`; the output is the pair `(y, h_n)` of every
    step's `h` in the last layer, `(N, L, D hidden_size)`, and of each layer's last `h`,
    `(num_layers D, N, hidden_size)`, with `D` 2 where `bidirectional` and else 1. The first `h` has
    the shape of the last; it is zero where it is left out or None. Elman 1990, Finding structure in
    time.

    With `lengths`, integers of shape `(N,)`, what `x` holds from step `lengths[i]` on is padding:
    there `y` is zero, `h_n` is of the last step before, and the reverse direction begins at that
    step, as in torch's packed sequences. No value or gradient depends on the padding. Lengths lie
    within `[0, L]`; under `jit` and `vmap`, where they have no values to look at, all that is
    returned of a sequence with another length is NaN.

    Parameters are those of `torch.nn.RNN`, with its flat names: `weight_ih_l0`, `weight_hh_l0`,
    `bias_ih_l0`, `bias_hh_l0`, the same with `_reverse`, then `_l1` and so on; by default
    uniform within `±1 / sqrt(hidden_size)`, as in torch. The products of `weight_ih` with all
    steps are one product before the loop, which is `purefn.functional.scan`: under `jit` the
    time to compile does not grow with the length.

    Parameters
    ----------
    hidden_size
        The length of `h`; that of `x` is inferred by `init`.
    num_layers
        How many loops follow each other, each over the output of the one before.
    nonlinearity
        "tanh" or "relu".
    bias
        Whether there are `bias_ih` and `bias_hh`.
    dropout
        The probability with which each output but the last layer's is dropped in training.
    bidirectional
        Whether each layer also loops from the end to the beginning; the two outputs are joined.
    weight_init, bias_init
        Initializers in the place of the default ones.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above, or there is `dropout` but no layer after another.
    LayerError
        The input, the carry or the lengths do not have the right shape or dtype, a length is not
        within `[0, L]`, no key is given in training with dropout; or the parameters are not this
        layer's.

    Examples
    --------
    >>> layer = rnn(4, num_layers=2, bidirectional=True)
    >>> x = torch.ones(2, 6, 3)
    >>> params = layer.init(random.key(0), x)
    >>> y, h = layer(params, (x, None, torch.tensor([6, 2])))
    >>> y.shape, h.shape
    (torch.Size([2, 6, 8]), torch.Size([4, 2, 4]))
    >>> y[1, 2:].count_nonzero()
    tensor(0)
    """
    unit = rnn_unit("rnn", nonlinearity)
    sizes = _Sizes("rnn", unit, hidden_size, num_layers, bias, bidirectional)
    return _recurrent(sizes, dropout, weight_init, bias_init)


def lstm(
    hidden_size: int,
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    bidirectional: bool = False,
    proj_size: int = 0,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the loop of `lstm_cell` over a sequence.

    As `rnn`, with a carry `(h, c)`: the input is `x`, `(x, (h, c))` or `(x, (h, c), lengths)` and
    the output `(y, (h_n, c_n))`. Parameters are those of `torch.nn.LSTM`.

    With a `proj_size` above 0, less than `hidden_size`, the step's `h` is `W_hr sigmoid(o) tanh(c)`
    of that length, with a parameter `weight_hr_l0` for each layer and direction; `c` keeps
    the length `hidden_size`. Sak et al. 2014, Long short-term memory based recurrent neural network
    architectures for large vocabulary speech recognition.

    Examples
    --------
    >>> layer = lstm(4)
    >>> x = torch.ones(2, 6, 3)
    >>> params = layer.init(random.key(0), x)
    >>> sorted(params)
    ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0']
    >>> y, (h, c) = layer(params, x)
    >>> y.shape, h.shape, c.shape
    (torch.Size([2, 6, 4]), torch.Size([1, 2, 4]), torch.Size([1, 2, 4]))
    >>> more, _ = layer(params, (x, (h, c)))  # goes on where the first call ended

    A classifier of sequences, of which the last step's output is what counts:

    >>> from purefn.functional import nn
    >>> model = nn.serial(lstm=lstm(4), last=lambda out: out[0][:, -1], head=nn.linear(2))
    >>> params = model.init(random.key(0), x)
    >>> model(params, x).shape
    torch.Size([2, 2])
    """
    positive_int("lstm", "proj_size", proj_size, minimum=0)
    sizes = _Sizes("lstm", LSTM, hidden_size, num_layers, bias, bidirectional, proj_size)
    return _recurrent(sizes, dropout, weight_init, bias_init)


def gru(
    hidden_size: int,
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    bidirectional: bool = False,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the loop of `gru_cell` over a sequence; as `rnn`.

    Parameters are those of `torch.nn.GRU`.

    Examples
    --------
    >>> layer = gru(4, bias=False)
    >>> x = torch.ones(2, 6, 3)
    >>> params = layer.init(random.key(0), x)
    >>> params["weight_ih_l0"].shape
    torch.Size([12, 3])
    >>> y, h = layer(params, x)
    >>> torch.equal(y[:, -1], h[0])
    True
    """
    sizes = _Sizes("gru", GRU, hidden_size, num_layers, bias, bidirectional)
    return _recurrent(sizes, dropout, weight_init, bias_init)


@dataclass(frozen=True)
class _Sizes:
    """The options of a recurrent network that its parameters depend on."""

    name: str
    unit: Unit
    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    proj_size: int = 0

    def __post_init__(self) -> None:
        """Refuse options that are none."""
        positive_int(self.name, "hidden_size", self.hidden_size)
        positive_int(self.name, "num_layers", self.num_layers)
        check_bools(self.name, bias=self.bias, bidirectional=self.bidirectional)
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"{self.name}: expected proj_size < hidden_size, {self.hidden_size}, "
                f"got {self.proj_size}."
            )

    @property
    def output_size(self) -> int:
        """The length of `h`."""
        return self.proj_size or self.hidden_size

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of each direction's parameters end with."""
        return ("", "_reverse") if self.bidirectional else ("",)

    def parameters(self, input_size: Any) -> dict[str, tuple[Any, ...]]:
        """Return the shapes of the parameters, by name."""
        rows = self.unit.blocks * self.hidden_size
        shapes: dict[str, tuple[Any, ...]] = {}
        for index in range(self.num_layers):
            columns = self.output_size * len(self.suffixes) if index else input_size
            for suffix in self.suffixes:
                end = f"_l{index}{suffix}"
                shapes["weight_ih" + end] = (rows, columns)
                shapes["weight_hh" + end] = (rows, self.output_size)
                if self.bias:
                    shapes["bias_ih" + end] = shapes["bias_hh" + end] = (rows,)
                if self.proj_size:
                    shapes["weight_hr" + end] = (self.proj_size, self.hidden_size)
        return shapes

    def carry(self, batch: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the shapes of the parts of the carry."""
        count = self.num_layers * len(self.suffixes)
        return [
            (count, *batch, self.output_size if part == "h" else self.hidden_size)
            for part in self.unit.parts
        ]


def _recurrent(
    sizes: _Sizes,
    dropout: float,
    weight_init: Initializer | None,
    bias_init: Initializer | None,
) -> Layer:
    drop = dropout_layer(dropout)
    if dropout and sizes.num_layers == 1:
        raise ValueError(
            f"{sizes.name}: expected num_layers >= 2 with a dropout of {dropout}, which is between "
            "layers; got 1."
        )

    def init(key: Tensor, x: Any) -> Params:
        x, _, _ = _parts(sizes.name, x)
        _check_sequence(sizes.name, x, "input_size")
        shapes = sizes.parameters(x.shape[-1])
        return draw(key, shapes, sizes.hidden_size, x.dtype, weight_init, bias_init)

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        check_parameters(sizes.name, params, sizes.parameters("input_size"))
        x, first, lengths = _parts(sizes.name, x)
        _check_sequence(sizes.name, x, params["weight_ih_l0"].shape[1])
        check_same_dtype(sizes.name, x, params)
        carry = _first_carry(sizes, x, first)
        valid = None if lengths is None else _valid(sizes.name, x, lengths)
        is_batched = x.ndim == 3
        if not is_batched:
            x, carry = x[None], tuple(part[:, None] for part in carry)

        def between(index: int, y: Tensor) -> Tensor:
            part = key if key is None or not dropout else random.fold_in(key, index)
            dropped: Tensor = drop({}, y, key=part, train=train)
            return dropped

        y, carry = _layers(sizes, params, x.transpose(0, 1), carry, valid, between)
        y = y.transpose(0, 1)
        if lengths is not None and not values_are_visible(lengths):
            factor = nan_unless(_is_length(x, lengths), y)[:, None]
            y, carry = y * factor[..., None], tuple(part * factor for part in carry)
        if not is_batched:
            y, carry = y[0], tuple(part[:, 0] for part in carry)
        return y, public_carry(carry)

    return Layer(init, apply, uses_key=bool(dropout), kind=sizes.name)


def _layers(
    sizes: _Sizes,
    params: Params,
    x: Tensor,
    carry: Carry,
    valid: Tensor | None,
    between: Callable[[int, Tensor], Tensor],
) -> tuple[Tensor, Carry]:
    """Return the outputs and the last carry of all layers; steps are along the first dimension."""
    if valid is not None:
        # A padding of infinities would become NaN in gradients, where it is multiplied by zero.
        x = torch.where(valid, x, 0.0)
    last: list[Carry] = []
    for index in range(sizes.num_layers):
        x = between(index, x) if index else x
        outputs = []
        for suffix in sizes.suffixes:
            own = tuple(part[len(last)] for part in carry)
            end, reverse = f"_l{index}{suffix}", bool(suffix)
            final, y = _loop(sizes.unit, params, end, x, own, valid, reverse)
            last.append(final)
            outputs.append(y)
        x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    return x, tuple(torch.stack(column) for column in zip(*last, strict=True))


def _loop(
    unit: Unit,
    params: Params,
    end: str,
    x: Tensor,
    first: Carry,
    valid: Tensor | None,
    reverse: bool,
) -> tuple[Carry, Tensor]:
    """Return the last carry and the outputs of one direction of one layer."""
    projected = F.linear(x, params["weight_ih" + end], params.get("bias_ih" + end))
    weights = Weights(
        params["weight_hh" + end], params.get("bias_hh" + end), params.get("weight_hr" + end)
    )

    def step(carry: Carry, inputs: tuple[Tensor, Tensor | None]) -> tuple[Carry, Tensor]:
        projected, is_valid = inputs
        new = unit.step(projected, carry, weights)
        # Autocast computes the step in another dtype.
        new = tuple(part.to(old.dtype) for part, old in zip(new, carry, strict=True))
        if is_valid is None:
            return new, new[0]
        y = torch.where(is_valid, new[0], 0.0)
        pairs = zip(new, carry, strict=True)
        return tuple(torch.where(is_valid, part, old) for part, old in pairs), y

    return scan(step, first, (projected, valid), reverse=reverse)


def _parts(name: str, x: Any) -> tuple[Any, Any, Any]:
    """Return `x`, the carry and the lengths of an input, None where there are none."""
    if not isinstance(x, tuple | list):
        return x, None, None
    if len(x) not in (2, 3):
        raise LayerError(
            f"{name} expected x, (x, carry) or (x, carry, lengths), got {describe(x)}."
        )
    return x[0], x[1], x[2] if len(x) == 3 else None


def _check_sequence(name: str, x: Any, features: int | str) -> None:
    is_single = getattr(x, "ndim", None) == 2
    check_input(name, x, ("L", features) if is_single else ("N", "L", features))


def _first_carry(sizes: _Sizes, x: Tensor, first: Any) -> Carry:
    shapes = sizes.carry(x.shape[:-2])
    if first is None:
        return tuple(x.new_zeros(shape) for shape in shapes)
    return check_carry(sizes.name, sizes.unit, first, shapes, x)


def _valid(name: str, x: Tensor, lengths: Any) -> Tensor:
    """Return which steps come before the end of their sequence, of shape `(L, N, 1)`."""
    if x.ndim == 2:
        raise LayerError(f"{name} expected an input of shape (N, L, {x.shape[-1]}) with lengths.")
    check_input(f"{name} (lengths)", lengths, (x.shape[0],), floating=False)
    if isinstance(lengths, ShapeDtype) or lengths.dtype not in (torch.int32, torch.int64):
        raise LayerError(f"{name} expected lengths as integers, got {describe(lengths)}.")
    if values_are_visible(lengths) and not _is_length(x, lengths).all():
        outside = sorted(set(lengths[~_is_length(x, lengths)].tolist()))[:5]
        raise LayerError(f"{name} expected lengths within [0, {x.shape[1]}], got {outside}.")
    steps = torch.arange(x.shape[1], device=x.device)
    return torch.lt(steps[:, None], lengths)[..., None]


def _is_length(x: Tensor, lengths: Tensor) -> Tensor:
    """Say for each length whether `x`, of shape `(N, L, input_size)`, has as many steps."""
    return in_range(lengths, x.shape[1] + 1)
