"""The projections of attention: from features to heads and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import random
from ..abstract import ShapeDtype
from ..initializers import Initializer, xavier_normal, xavier_uniform, zeros
from .attending import alibi_bias, combined
from .checks import check_bools, check_input, positive_int
from .layer import LayerError, Params, describe
from .parameters import DEFAULT_WEIGHT, check_parameters, check_same_dtype


@dataclass(frozen=True)
class Heads:
    """The projections to heads and back."""

    layer: str
    num_heads: int
    kv_heads: int
    bias: bool
    alibi: bool
    weight_init: Initializer | None = None
    bias_init: Initializer = zeros
    add_bias_kv: bool = False
    add_zero_attn: bool = False

    @staticmethod
    def of(
        layer: str,
        num_heads: int,
        kv_heads: int | None,
        bias: bool,
        rotary: Any,
        alibi: bool,
        weight_init: Initializer | None = None,
        bias_init: Initializer = zeros,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
    ) -> Heads:
        """Check the options."""
        positive_int(layer, "num_heads", num_heads)
        kv_heads = num_heads if kv_heads is None else positive_int(layer, "kv_heads", kv_heads)
        if num_heads % kv_heads:
            raise ValueError(
                f"{layer}: expected kv_heads to divide num_heads={num_heads}, got {kv_heads}."
            )
        added = {"add_bias_kv": add_bias_kv, "add_zero_attn": add_zero_attn}
        check_bools(layer, bias=bias, alibi=alibi, **added)
        if rotary is not None and not callable(rotary):
            raise TypeError(
                f"{layer}: expected nn.rotary or a partial of it for rotary, got {rotary!r}."
            )
        return Heads(layer, num_heads, kv_heads, bias, alibi, weight_init, bias_init, **added)

    def shapes(self, widths: Sequence[int], packed: bool) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the parameters for inputs with as many features."""
        width, key_width, value_width = widths
        kv_width = width // self.num_heads * self.kv_heads
        if packed:
            shapes: dict[str, tuple[int, ...]] = {"in_proj_weight": (3 * width, width)}
        else:
            shapes = {
                "q_proj_weight": (width, width),
                "k_proj_weight": (kv_width, key_width),
                "v_proj_weight": (kv_width, value_width),
            }
        if self.bias:
            shapes["in_proj_bias"] = (width + 2 * kv_width,)
        if self.add_bias_kv:
            shapes["bias_k"] = shapes["bias_v"] = (1, 1, kv_width)
        shapes["out_proj.weight"] = (width, width)
        return {**shapes, "out_proj.bias": (width,)} if self.bias else shapes

    def init(self, key: Tensor, query: Any, keys: Any, values: Any) -> Params:
        """Draw the parameters as torch does, unless told."""
        widths = tuple(x.shape[-1] for x in (query, keys, values))
        self.check_width(widths[0])
        packed = self.kv_heads == self.num_heads and len(set(widths)) == 1
        shapes = self.shapes(widths, packed)
        params: dict[str, Any] = {"out_proj": {}}
        for part_key, (path, shape) in zip(
            random.split(key, len(shapes)).unbind(0), shapes.items(), strict=True
        ):
            is_out = path.startswith("out_proj.")
            if path in ("bias_k", "bias_v"):
                draw = xavier_normal()
            elif path.endswith("bias"):
                draw = self.bias_init
            else:
                draw = self.weight_init or (DEFAULT_WEIGHT if is_out else xavier_uniform())
            place = params["out_proj"] if is_out else params
            place[path.removeprefix("out_proj.")] = draw(part_key, shape, query.dtype)
        return params

    def project(
        self, params: Params, query: Any, keys: Any, values: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the heads of query, keys and values, of shape `([N,] heads, length, D)`."""
        flat = _flat(self.layer, params)
        packed = self.kv_heads == self.num_heads and not _is_split(flat)
        sources = ["in_proj_weight" if packed else f"{letter}_proj_weight" for letter in "qkv"]
        names = self.shapes((0, 0, 0), packed)
        letters = {name: tuple("EFG"[: len(shape)]) for name, shape in names.items()}
        check_parameters(self.layer, flat, letters)
        widths = [flat[source].shape[1] for source in sources]
        width = widths[0]
        self.check_width(width)
        check_parameters(self.layer, flat, self.shapes(widths, packed))
        self.check_inputs(query, keys, values, widths)
        check_same_dtype(self.layer, query, flat)
        kv_width = width // self.num_heads * self.kv_heads
        sizes = (width, kv_width, kv_width)
        bias = flat.get("in_proj_bias")
        if packed and keys is query and values is query:
            projected = F.linear(query, flat["in_proj_weight"], bias).split(sizes, -1)
        else:
            weights = (
                flat["in_proj_weight"].split(sizes)
                if packed
                else tuple(flat[source] for source in sources)
            )
            biases = (None,) * 3 if bias is None else bias.split(sizes)
            projected = tuple(map(F.linear, (query, keys, values), weights, biases))
        depth = width // self.num_heads
        q, k, v = (x.unflatten(-1, (-1, depth)).transpose(-3, -2) for x in projected)
        return q, k, v

    @property
    def adds(self) -> int:
        """How many keys and values are added to those of the memory."""
        return self.add_bias_kv + self.add_zero_attn

    def with_added(
        self, params: Params, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return heads of keys and values with what is added to them, which no mask hides."""
        if mask is not None and self.adds:
            mask = mask.expand(*mask.shape[:-1], k.shape[-2])  # of no dimension, too
            mask = F.pad(mask, (0, self.adds), value=float(mask.dtype == torch.bool))
        if self.add_bias_kv:
            k, v = self._with_row(k, params["bias_k"]), self._with_row(v, params["bias_v"])
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return k, v, mask

    def _with_row(self, x: Tensor, row: Tensor) -> Tensor:
        """Return heads of shape `([N,] kv_heads, S, D)` with those of `row` at the end of each."""
        last = row.to(x.dtype).reshape(self.kv_heads, 1, -1)
        return torch.cat([x, last.expand(*x.shape[:-2], 1, -1)], -2)

    def join(self, params: Params, y: Tensor) -> Tensor:
        """Return `out_proj` of the heads."""
        out = params["out_proj"]
        return F.linear(y.transpose(-3, -2).flatten(-2), out["weight"], out.get("bias"))

    def with_alibi(
        self, mask: Tensor | None, queries: Tensor, keys: Tensor, dtype: torch.dtype
    ) -> Tensor | None:
        """Return the mask with the linear biases."""
        if not self.alibi:
            return mask
        bias = alibi_bias(self.num_heads, queries, keys, dtype)
        return bias if mask is None else combined(mask, bias)

    def check_width(self, width: int) -> None:
        """Refuse features that cannot be split into heads."""
        if not width or width % self.num_heads:
            raise LayerError(
                f"{self.layer} expected features that num_heads={self.num_heads} divides, got "
                f"{width}."
            )

    def check_inputs(self, query: Any, keys: Any, values: Any, widths: Sequence[int | str]) -> None:
        """Refuse what are not sequences, or batches of as many sequences."""
        for x, length, width in zip((query, keys, values), "LSS", widths, strict=True):
            batched = isinstance(x, Tensor | ShapeDtype) and len(x.shape) > 2
            check_input(self.layer, x, ("N", length, width) if batched else (length, width))
        for memory in (keys, values):
            if query.shape[:-2] != memory.shape[:-2] or query.dtype != memory.dtype:
                raise LayerError(
                    f"{self.layer} expected a query and a memory of one batch and dtype, got "
                    f"{describe(query)} and {describe(memory)}."
                )
        if keys.shape[-2] != values.shape[-2]:
            raise LayerError(
                f"{self.layer} expected as many keys as values, got {describe(keys)} and "
                f"{describe(values)}."
            )


def _flat(layer: str, params: Any) -> Any:
    """Return the parameters by path, or what was given in their place."""
    if isinstance(params, Mapping) and "out_proj.weight" in params:
        raise LayerError(
            f"{layer} expected a tree of parameters, got a flat state dict of {sorted(params)}; "
            "make a tree of it with tree.from_state_dict."
        )
    if not isinstance(params, Mapping) or not isinstance(params.get("out_proj"), Mapping):
        return params
    rest = {name: value for name, value in params.items() if name != "out_proj"}
    return {**rest, **{f"out_proj.{name}": value for name, value in params["out_proj"].items()}}


def _is_split(flat: Any) -> bool:
    """Say whether query, keys and values have weights of their own."""
    return isinstance(flat, Mapping) and any(f"{letter}_proj_weight" in flat for letter in "qkv")
