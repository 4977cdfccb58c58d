"""Checkpoints of GPT-2 as parameters of `gpt`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .. import nn, tree
from ..nn.layer import describe

#: The matrices that GPT-2 stores as `(in, out)`.
_TRANSPOSED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


def gpt2_params(weights: Mapping[str, Tensor]) -> nn.Params:
    """Return the parameters of `gpt(tied=True)` from a checkpoint of GPT-2.

    What is done to the names and tensors of the published files (`model.safetensors`, or the state
    dict of `transformers.GPT2LMHeadModel`): `transformer.` is put before names that lack it; the
    masks `attn.bias` and `attn.masked_bias` and the tied `lm_head.weight` are left out; and the
    weights of `c_attn`, `c_proj` and `c_fc`, stored as `(in, out)`, are transposed. A checkpoint of
    nanoGPT has `(out, in)` and needs `nn.tie_params(tree.from_state_dict(weights),
    {"lm_head.weight": "transformer.wte.weight"})` alone.

    Raises
    ------
    TypeError
        `weights` is not a dict of tensors.
    ValueError
        There is no `wte.weight`, which every GPT-2 has, or the last matrix is not tied to it.

    Examples
    --------
    >>> weights = {"wte.weight": torch.ones(7, 4), "h.0.mlp.c_fc.weight": torch.ones(4, 16)}
    >>> gpt2_params(weights)["transformer"]["h"]["0"]["mlp"]["c_fc"]["weight"].shape
    torch.Size([16, 4])
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"gpt2_params: expected a dict of tensors, got {describe(weights)}.")
    for name, value in weights.items():
        if name.endswith(".weight") and not isinstance(value, Tensor):
            raise TypeError(f"gpt2_params: expected a tensor for {name}, got {describe(value)}.")
    named = {
        name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": value
        for name, value in weights.items()
    }
    embedding, head = (named.get(name) for name in ("transformer.wte.weight", "lm_head.weight"))
    if embedding is None:
        raise ValueError(
            "gpt2_params: expected the names of GPT-2, such as 'transformer.wte.weight' or "
            f"'wte.weight', got {list(weights)[:5]}."
        )
    if head is not None and not torch.equal(head, embedding):
        raise ValueError(
            "gpt2_params: expected lm_head.weight to be tied to transformer.wte.weight, got other "
            "values."
        )
    kept = {
        name: value.mT.contiguous() if name.endswith(_TRANSPOSED) else value
        for name, value in named.items()
        if name != "lm_head.weight" and not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    return tree.from_state_dict(kept)
