"""Attention of several heads, over whole sequences and token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..initializers import Initializer, zeros
from ..losses.checks import values_are_visible
from .attending import attend, combined, not_before
from .checks import check_bools, check_flag, positive_int
from .heads import Heads
from .layer import Layer, LayerError, Params, State, StatefulLayer, describe
from .parameters import check_parameters, check_state_dtype
from .regularization import dropout as dropout_layer

Rotation = Callable[[Tensor, Any], Tensor]


def multi_head_attention(
    num_heads: int,
    *,
    kv_heads: int | None = None,
    bias: bool = True,
    dropout: float = 0.0,
    causal: bool = False,
    rotary: Rotation | None = None,
    alibi: bool = False,
    add_bias_kv: bool = False,
    add_zero_attn: bool = False,
    weight_init: Initializer | None = None,
    bias_init: Initializer = zeros,
) -> Layer:
    """Return the layer in which each position of a query gathers from the positions of a memory.

    Query, keys and values are linear in their inputs and split into heads of `D` features, and

        y = out_proj(heads of softmax(q k^T / sqrt(D) + mask) v).

    Vaswani et al. 2017, Attention is all you need; with fewer `kv_heads`, Ainslie et al. 2023, GQA.

    The input is a query of shape `(N, L, E)` or `(L, E)`, which is also the memory, or a tuple
    `(query, memory)` or `(query, memory, mask)`. The memory has shape `(N, S, M)` or `(S, M)`, or
    is a pair `(keys, values)` of such, perhaps of different `M`; in its place or that of the keys,
    `None` stands for the query. The mask has a shape that broadcasts to `(N, num_heads, L, S)` and
    is boolean, where True takes part (as in `torch.nn.functional.scaled_dot_product_attention`, and
    unlike the masks of `torch.nn.MultiheadAttention`, where True is left out), or is added to the
    scores. Padding of shape `(N, S)` is the mask `is_token[:, None, None, :]`. A position that may
    attend to nothing gets `out_proj` of zero.

    Parameters are those of `torch.nn.MultiheadAttention`: `in_proj_weight` of shape `(3 E, E)`,
    `in_proj_bias`, `out_proj.weight` and `out_proj.bias`. Where an `M` is not `E` or `kv_heads` is
    not `num_heads`, there are `q_proj_weight`, `k_proj_weight` and `v_proj_weight` instead of the
    first; `in_proj_bias` is the biases of the three in a row. Weights are Glorot uniform, that of
    `out_proj` uniform within `±1 / sqrt(E)`, biases zero, as in torch. `M`, torch's `kdim` and
    `vdim`, is inferred by `init`.

    torch's fused kernels have neither a forward mode nor a second derivative nor a rule for `vmap`;
    under these transforms, and for dropout, the formula is computed as it stands.

    Parameters
    ----------
    num_heads
        How many heads there are, a divisor of `E`.
    kv_heads
        How many heads of keys and values there are, a divisor of `num_heads`: each serves
        `num_heads / kv_heads` heads of the query. As many as `num_heads` unless given.
    bias
        Whether the projections have biases.
    dropout
        The probability with which a weight of the softmax is set to zero in training.
    causal
        Whether a position sees only itself and those before it.
    rotary
        `nn.rotary`, or a partial of it: turns queries and keys by their positions.
    alibi
        Whether `slope |i - j|` is subtracted from the scores; see `alibi_slopes`.
    add_bias_kv
        Whether a key and a value, the parameters `bias_k` and `bias_v` of shape
        `(1, 1, kv_heads D)`, follow those of the memory. They have no position, and every query may
        attend to them, whatever `mask` and `causal` say. At first they are Glorot normal, as in
        torch.
    add_zero_attn
        Whether a key and a value of zeros follow in the same way.
    weight_init, bias_init
        Initializers in the place of the default ones, for every projection; `in_proj_weight` is
        drawn as one.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        Inputs or mask are not as above, are not of one dtype or not of that of the parameters;
        `E` is not a multiple of `num_heads`; a memory with other keys than the query is given
        where `causal`, `rotary` or `alibi` speak of the positions of one sequence; no key is given
        for dropout in training; or the parameters are not this layer's.

    Examples
    --------
    >>> from purefn.functional import random
    >>> layer = multi_head_attention(2, causal=True)
    >>> x = torch.ones(8, 5, 6)
    >>> params = layer.init(random.key(0), x)
    >>> {name: value.shape for name, value in params.items() if name != "out_proj"}
    {'in_proj_weight': torch.Size([18, 6]), 'in_proj_bias': torch.Size([18])}
    >>> layer(params, x).shape
    torch.Size([8, 5, 6])
    >>> across = multi_head_attention(2)
    >>> is_token = torch.arange(7) < torch.tensor([[7]] * 7 + [[4]])
    >>> across(params, (x, torch.ones(8, 7, 6), is_token[:, None, None])).shape
    torch.Size([8, 5, 6])
    """
    name = "multi_head_attention"
    check_bools(name, causal=causal)
    heads = Heads.of(
        name,
        num_heads,
        kv_heads,
        bias,
        rotary,
        alibi,
        weight_init,
        bias_init,
        add_bias_kv,
        add_zero_attn,
    )
    drop = dropout_layer(dropout)
    is_within_one = causal or alibi or rotary is not None

    def init(key: Tensor, x: Any) -> Params:
        query, keys, values, _ = _unpack(name, x)
        heads.check_inputs(query, keys, values, "EMM")
        return heads.init(key, query, keys, values)

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Tensor:
        check_flag(name, "train", train)
        query, keys, values, mask = _unpack(name, x)
        if is_within_one and keys is not query:
            raise LayerError(
                f"{name} expected no memory besides the query with causal, rotary or alibi, which "
                f"are about the positions of one sequence; got {describe(keys)}."
            )
        q, k, v = heads.project(params, query, keys, values)
        if mask is not None:
            _check_mask(name, mask, (*q.shape[:-1], k.shape[-2]))
        positions = torch.arange(k.shape[-2], device=k.device)
        is_causal = causal and mask is None and not alibi and not heads.adds
        if causal and not is_causal:
            seen = not_before(positions, positions)
            mask = seen if mask is None else combined(mask, seen)
        if rotary is not None:
            q, k = rotary(q, 0), rotary(k, 0)
        mask = heads.with_alibi(mask, positions, positions, q.dtype)
        k, v, mask = heads.with_added(params, k, v, mask)

        def dropped(weights: Tensor) -> Tensor:
            y: Tensor = drop({}, weights, key=key, train=True)
            return y

        is_dropping = train and dropout > 0
        y = attend(q, k, v, mask, causal=is_causal, drop=dropped if is_dropping else None)
        return heads.join(params, y)

    return Layer(init, apply, uses_key=dropout > 0)


def cached_attention(
    num_heads: int,
    max_length: int,
    *,
    kv_heads: int | None = None,
    bias: bool = True,
    rotary: Rotation | None = None,
    alibi: bool = False,
    weight_init: Initializer | None = None,
    bias_init: Initializer = zeros,
) -> StatefulLayer:
    """Return causal attention that goes on where it stopped, for decoding token by token.

    Its parameters are those of `multi_head_attention` and its state is the cache: the `keys` and
    `values` of the positions seen so far, of shape `(N, kv_heads, max_length, D)`, and the
    `position` at which the next input begins. Feeding a sequence in pieces of any length gives what
    `multi_head_attention(..., causal=True)` gives for the whole. The shapes of a state never
    change, so that under `jit` one program serves all tokens. `init` returns an empty cache for the
    batch of its input.

    Parameters
    ----------
    max_length
        How many positions the cache has.
    num_heads, kv_heads, bias, rotary, alibi, weight_init, bias_init
        As for `multi_head_attention`.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input is not of shape `(N, L, E)` or `(L, E)` with the batch of the cache, or not of
        the dtype of the parameters and of the cache (which may be float32 beside halves); it does
        not fit into the rest of the cache (under `jit` and `vmap`, where `position` has no value to
        look at, the output is NaN instead); or the parameters or state are not this layer's.

    Examples
    --------
    >>> from purefn.functional import random
    >>> decode = cached_attention(2, max_length=16)
    >>> x = torch.ones(1, 3, 4)
    >>> params, cache = decode.init(random.key(0), x)
    >>> y, cache = decode(params, cache, x[:, :2])
    >>> z, cache = decode(params, cache, x[:, 2:])
    >>> whole = multi_head_attention(2, causal=True)(params, x)
    >>> torch.allclose(torch.cat([y, z], 1), whole, atol=1e-6), cache["position"]
    (True, tensor(3))
    """
    name = "cached_attention"
    positive_int(name, "max_length", max_length)
    heads = Heads.of(name, num_heads, kv_heads, bias, rotary, alibi, weight_init, bias_init)

    def init(key: Tensor, x: Any) -> tuple[Params, State]:
        heads.check_inputs(x, x, x, "EEE")
        params = heads.init(key, x, x, x)
        length = x.shape[-1] // num_heads
        shape = (*x.shape[:-2], heads.kv_heads, max_length, length)
        state = {name: zeros(key, shape, x.dtype) for name in ("keys", "values")}
        return params, {**state, "position": zeros(key, (), torch.int64)}

    def apply(
        params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Tensor, State]:
        q, k, v = heads.project(params, x, x, x)
        shape = (*k.shape[:-2], max_length, k.shape[-1])
        check_parameters(name, state, {"keys": shape, "values": shape, "position": ()})
        position, length = state["position"], x.shape[-2]
        _check_cache(name, state, x)
        if values_are_visible(position) and not 0 <= position <= max_length - length:
            raise LayerError(
                f"{name} expected at most max_length={max_length} positions, got {length} more "
                f"after {int(position)}."
            )
        if rotary is not None:
            q, k = rotary(q, position), rotary(k, position)
        slots = torch.arange(max_length, device=x.device)
        keys = _written(state["keys"], k, slots - position)
        values = _written(state["values"], v, slots - position)
        queries = position + torch.arange(length, device=x.device)
        mask = heads.with_alibi(not_before(queries, slots), queries, slots, q.dtype)
        y = heads.join(params, attend(q, keys.to(q.dtype), values.to(q.dtype), mask))
        fits = (position >= 0) & (position + length <= max_length)
        y = torch.where(fits, y, torch.nan)
        return y, {"keys": keys, "values": values, "position": position + length}

    return StatefulLayer(init, apply, uses_key=False)


def _unpack(layer: str, x: Any) -> tuple[Any, Any, Any, Any]:
    """Return query, what keys and values are made from, and mask."""
    if not isinstance(x, tuple):
        return x, x, x, None
    if len(x) not in (2, 3):
        raise LayerError(
            f"{layer} expected a tensor, (query, memory) or (query, memory, mask), got "
            f"{describe(x)}."
        )
    query, memory, mask = (*x, None)[:3]
    if isinstance(memory, tuple) and len(memory) != 2:
        raise LayerError(
            f"{layer} expected a tensor or (keys, values) for a memory, got {describe(memory)}."
        )
    keys, values = memory if isinstance(memory, tuple) else (memory, memory)
    keys = query if keys is None else keys
    return query, keys, keys if memory is None else values, mask


def _check_cache(layer: str, state: State, x: Tensor) -> None:
    """Refuse a cache of another dtype, which would change from call to call."""
    position, *others = (state[name] for name in ("position", "keys", "values"))
    check_state_dtype(layer, x, dict(zip(("keys", "values"), others, strict=True)))
    if position.dtype not in (torch.int32, torch.int64):
        raise LayerError(f"{layer} expected an integer for 'position', got {describe(position)}.")


def _check_mask(layer: str, mask: Any, shape: tuple[int, ...]) -> None:
    fits = isinstance(mask, Tensor) and mask.ndim <= len(shape)
    if not fits or any(
        length not in (1, wanted)
        for length, wanted in zip(reversed(mask.shape), reversed(shape), strict=False)
    ):
        raise LayerError(
            f"{layer} expected a mask that broadcasts to {shape}, got {describe(mask)}; values "
            "that are not the keys are given beside these, (query, (keys, values))."
        )
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise LayerError(
            f"{layer} expected a boolean mask, where True takes part, or one to add to the scores; "
            f"got {describe(mask)}."
        )


def _written(old: Tensor, new: Tensor, index: Tensor) -> Tensor:
    """Return `old` with row `index[i]` of `new` at each slot `i` where there is such a row."""
    if not new.shape[-2]:
        return old
    rows = new.index_select(-2, index.clamp(0, new.shape[-2] - 1))
    is_new = (index >= 0) & (index < new.shape[-2])
    return torch.where(is_new[:, None], rows, old)
