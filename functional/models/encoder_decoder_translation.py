"""Writing the target of an encoder-decoder, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import nn, random
from ..nn.checks import positive_int
from .encoder_decoder import EncoderDecoder
from .generation import generate


def translate(
    model: EncoderDecoder,
    params: nn.Params,
    source: Tensor,
    length: int,
    *,
    start_token: int,
    end_token: int,
    source_mask: Tensor | None = None,
    key: Tensor | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Return a target for each source, from `start_token` (left out) to `end_token`.

        logits_t = decode(start_token, token_1, ..., token_{t-1}; encode(source))
        token_t ~ softmax(logits_t / temperature)

    The source is encoded once, the decoder remembers the keys and values of the target so far, and
    shapes do not depend on values: under `jit` one program serves every sentence. It is `generate`
    with `model.decoder`.

    Parameters
    ----------
    model, params
        An encoder-decoder and its parameters.
    source, source_mask
        Tokens, integers of shape `(N, S)`, and a boolean mask of that shape where False is padding,
        or None.
    length
        How many tokens to write.
    start_token, end_token
        What a target begins and ends with; after the end the end is repeated.
    key, temperature, top_k, top_p
        As for `generate`. At temperature 0, the default, the most probable token is taken, and no
        key is needed.

    Returns
    -------
    Tensor
        Tokens, int64 of shape `(N, length)`.

    Raises
    ------
    TypeError, ValueError
        The model is no `EncoderDecoder`, a number is not one of the above, or there is a
        temperature but no key.
    LayerError
        The source does not fit the model.

    Examples
    --------
    >>> from purefn.functional import models
    >>> model = models.encoder_decoder_transformer(9, 9, d_model=8, nhead=2, dim_feedforward=16)
    >>> source = torch.ones(2, 4, dtype=torch.int64)
    >>> params = model.init(random.key(0), (source, source))
    >>> translate(model, params, source, 6, start_token=0, end_token=1).shape
    torch.Size([2, 6])
    """
    if not isinstance(model, EncoderDecoder):
        raise TypeError(f"translate: expected an EncoderDecoder for model, got {model!r}.")
    positive_int("translate", "length", length)
    positive_int("translate", "start_token", start_token, minimum=0)
    positive_int("translate", "end_token", end_token, minimum=0)
    if key is None and temperature != 0:
        raise ValueError(
            f"translate: expected a key for the temperature {temperature}; at 0 none is needed."
        )
    memory = model.encode(params, (source, source_mask))
    start = torch.full((source.shape[0], 1), start_token, device=source.device)
    text = generate(
        model.decoder(memory, source_mask, length),
        params,
        start,
        length,
        key=random.key(0) if key is None else key,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_token=end_token,
    )
    return text[:, 1:]
