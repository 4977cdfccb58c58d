"""The projections of attention: from features to heads and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import random
from ..abstract import ShapeDtype
from ..initializers import Initializer, xavier_uniform, zeros
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
    ) -> Heads:
        """Check the options."""
        positive_int(layer, "num_heads", num_heads)
        kv_heads = num_heads if kv_heads is None else positive_int(layer, "kv_heads", kv_heads)
        if num_heads % kv_heads:
            raise ValueError(
                f"{layer}: expected kv_heads to divide num_heads={num_heads}, got {kv_heads}."
            )
        check_bools(layer, bias=bias, alibi=alibi)
        if rotary is not None and not callable(rotary):
            raise TypeError(
                f"{layer}: expected nn.rotary or a partial of it for rotary, got {rotary!r}."
            )
        return Heads(layer, num_heads, kv_heads, bias, alibi, weight_init, bias_init)

    def shapes(self, width: int, memory_width: int, packed: bool) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the parameters."""
        kv_width = width // self.num_heads * self.kv_heads
        if packed:
            shapes: dict[str, tuple[int, ...]] = {"in_proj_weight": (3 * width, width)}
        else:
            shapes = {
                "q_proj_weight": (width, width),
                "k_proj_weight": (kv_width, memory_width),
                "v_proj_weight": (kv_width, memory_width),
            }
        if self.bias:
            shapes["in_proj_bias"] = (width + 2 * kv_width,)
        shapes["out_proj.weight"] = (width, width)
        return {**shapes, "out_proj.bias": (width,)} if self.bias else shapes

    def init(self, key: Tensor, query: Any, memory: Any) -> Params:
        """Draw the parameters as torch does, unless told."""
        width, memory_width = query.shape[-1], memory.shape[-1]
        self.check_width(width)
        packed = self.kv_heads == self.num_heads and memory_width == width
        shapes = self.shapes(width, memory_width, packed)
        params: dict[str, Any] = {"out_proj": {}}
        for part_key, (path, shape) in zip(
            random.split(key, len(shapes)).unbind(0), shapes.items(), strict=True
        ):
            is_out = path.startswith("out_proj.")
            draw = self.weight_init or (DEFAULT_WEIGHT if is_out else xavier_uniform())
            draw = self.bias_init if path.endswith("bias") else draw
            place = params["out_proj"] if is_out else params
            place[path.removeprefix("out_proj.")] = draw(part_key, shape, query.dtype)
        return params

    def project(self, params: Params, query: Any, memory: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the heads of query, keys and values, of shape `([N,] heads, length, D)`."""
        flat = _flat(params)
        packed = self.kv_heads == self.num_heads and not _is_split(flat)
        first, second = ("in_proj_weight",) * 2 if packed else ("q_proj_weight", "k_proj_weight")
        names = self.shapes(0, 0, packed)
        letters = {name: tuple("EF"[: len(shape)]) for name, shape in names.items()}
        check_parameters(self.layer, flat, letters)
        width, memory_width = flat[first].shape[1], flat[second].shape[1]
        self.check_width(width)
        check_parameters(self.layer, flat, self.shapes(width, memory_width, packed))
        self.check_inputs(query, memory, width, memory_width)
        check_same_dtype(self.layer, query, flat)
        kv_width = width // self.num_heads * self.kv_heads
        sizes = (width, kv_width, kv_width)
        bias = flat.get("in_proj_bias")
        if packed and memory is query:
            projected = F.linear(query, flat["in_proj_weight"], bias).split(sizes, -1)
        else:
            weights = (
                flat["in_proj_weight"].split(sizes)
                if packed
                else tuple(flat[f"{letter}_proj_weight"] for letter in "qkv")
            )
            biases = (None,) * 3 if bias is None else bias.split(sizes)
            projected = tuple(map(F.linear, (query, memory, memory), weights, biases))
        depth = width // self.num_heads
        q, k, v = (x.unflatten(-1, (-1, depth)).transpose(-3, -2) for x in projected)
        return q, k, v

    def join(self, params: Params, y: Tensor) -> Tensor:
        """Return `out_proj` of the heads."""
        out = params["out_proj"]
        return F.linear(y.transpose(-3, -2).flatten(-2), out["weight"], out.get("bias"))

    def with_alibi(self, mask: Tensor | None, queries: Tensor, keys: Tensor) -> Tensor | None:
        """Return the mask with the linear biases."""
        if not self.alibi:
            return mask
        bias = alibi_bias(self.num_heads, queries, keys)
        return bias if mask is None else combined(mask, bias)

    def check_width(self, width: int) -> None:
        """Refuse features that cannot be split into heads."""
        if width % self.num_heads:
            raise LayerError(
                f"{self.layer} expected features that num_heads={self.num_heads} divides, got "
                f"{width}."
            )

    def check_inputs(
        self, query: Any, memory: Any, width: int | str, memory_width: int | str
    ) -> None:
        """Refuse what are not two sequences, or two batches of as many sequences."""
        for x, pattern in ((query, ("L", width)), (memory, ("S", memory_width))):
            batched = isinstance(x, Tensor | ShapeDtype) and len(x.shape) > 2
            check_input(self.layer, x, ("N", *pattern) if batched else pattern)
        if query.shape[:-2] != memory.shape[:-2] or query.dtype != memory.dtype:
            raise LayerError(
                f"{self.layer} expected a query and a memory of one batch and dtype, got "
                f"{describe(query)} and {describe(memory)}."
            )


def _flat(params: Any) -> Any:
    """Return the parameters by path, or what was given in their place."""
    if not isinstance(params, Mapping) or not isinstance(params.get("out_proj"), Mapping):
        return params
    rest = {name: value for name, value in params.items() if name != "out_proj"}
    return {**rest, **{f"out_proj.{name}": value for name, value in params["out_proj"].items()}}


def _is_split(flat: Any) -> bool:
    """Say whether query, keys and values have weights of their own."""
    return isinstance(flat, Mapping) and "q_proj_weight" in flat
