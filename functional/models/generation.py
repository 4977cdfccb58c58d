"""Writing on: tokens drawn one after the other from a model that remembers those before."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import control, nn, random, tree
from ..abstract import ShapeDtype, eval_shape
from ..losses.checks import values_are_visible
from ..nn.checks import check_int, positive_int
from ..nn.layer import describe
from ..random.threefry import check_key
from .sampling import check_sampling, sample_token


def generate(
    decoder: nn.StatefulLayer,
    params: nn.Params,
    prompt: Tensor,
    length: int,
    *,
    key: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prompt_lengths: Tensor | None = None,
    stop_token: int | None = None,
) -> Tensor:
    """Return `prompt` with `length` tokens more, each drawn given all before it.

    The prompt goes through the decoder at once, and then a `scan` feeds one token and draws the
    next, so that under `jit` all of it is one program. Position `i` is drawn with the key
    `random.split(key, P + length)[i]`: asking for more tokens changes none of those before. The
    last token is drawn and not fed, so that a decoder of `context_length` positions writes up to
    `context_length + 1` tokens.

    Parameters
    ----------
    decoder
        A layer with a state, from tokens `(N, L)` to logits `(N, L, V)`, that goes on where its
        state stopped and takes the state `{}` for a beginning, such as `gpt_decoder`.
    params
        The parameters of `decoder`.
    prompt
        Tokens of shape `(N, P)`, int64, with `P >= 1`.
    length
        How many tokens to add, at least 1.
    key
        The random key; the same gives the same text.
    temperature, top_k, top_p
        As for `sample_token`: temperature 0 takes the most probable token.
    prompt_lengths
        How many tokens of each row of `prompt` count, from 1 to `P`, int64 of shape `(N,)`; what
        stands behind them is overwritten. Then the prompt, too, is fed token by token, which takes
        longer; the text is the same. Under `jit` and `vmap`, where values cannot be seen, they are
        not checked: beyond `P` they count as `P`, below 1 as 1.
    stop_token
        A token after which a row holds nothing but this token. The work is that of all `length`.

    Returns
    -------
    Tensor
        Tokens `(N, P + length)`, int64.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above; the tokens do not fit into the context of the decoder;
        or its logits cannot be drawn from, such as NaN. Under `jit` and `vmap`, where values cannot
        be seen, the token is then -1, as for `sample_token`.
    LayerError
        The decoder refuses its parameters or tokens.

    Examples
    --------
    >>> from purefn.functional import models
    >>> decoder = models.gpt_decoder(100, 16, num_layers=1, num_heads=2, embedding_dim=8)
    >>> prompt = torch.tensor([[3, 1, 4], [2, 7, 1]])
    >>> params, _ = decoder.init(random.key(0), prompt)
    >>> text = generate(decoder, params, prompt, 5, key=random.key(1), temperature=0.8, top_p=0.9)
    >>> text.shape, torch.equal(text[:, :3], prompt)
    (torch.Size([2, 8]), True)
    """
    _check_arguments(decoder, prompt, length, key, prompt_lengths)
    given = prompt.shape[1]
    vocabulary = _vocabulary_size(decoder, params, prompt, length)
    check_sampling("generate", temperature, top_k, top_p, vocabulary)
    _check_stop_token(stop_token, vocabulary)
    # How many tokens every row begins with; what a longer prompt has is put in when it is due.
    begun = given if prompt_lengths is None else 1
    lengths = torch.full_like(prompt[:, 0], given) if prompt_lengths is None else prompt_lengths
    positions = torch.arange(begun, given + length, device=prompt.device)

    def advance(carry: Any, step: Any) -> tuple[Any, Tensor]:
        """Feed the tokens of the carry, and draw the next one."""
        state, tokens, is_over = carry
        key, wanted, is_given = step
        logits, state = decoder(params, state, tokens)
        drawn = sample_token(key, logits[:, -1], temperature=temperature, top_k=top_k, top_p=top_p)
        token = torch.where(is_given, wanted, drawn)
        if stop_token is not None:
            token = torch.where(is_over, stop_token, token)
            is_over = is_over | ((token == stop_token) & ~is_given)
        # What could not be drawn, -1, has no embedding.
        return (state, token[:, None].clamp(min=0), is_over), token

    keys = random.split(key, given + length)[begun:]
    wanted = F.pad(prompt, (0, length))[:, begun:].T
    steps = (keys, wanted, positions[:, None] < lengths.clamp(max=given))
    is_over = torch.zeros_like(prompt[:, 0], dtype=torch.bool)
    # The first step stands outside of the loop: it feeds more, and makes the state.
    carry, first = advance(({}, prompt[:, :begun], is_over), tree.map(lambda leaf: leaf[0], steps))
    text = torch.cat([prompt[:, :begun], first[:, None]], 1)
    if len(positions) == 1:
        # A scan of nothing would feed the last token, for which there may be no room.
        return text
    _, tokens = control.scan(advance, carry, tree.map(lambda leaf: leaf[1:], steps))
    return torch.cat([text, tokens.T], 1)


def _vocabulary_size(
    decoder: nn.StatefulLayer, params: nn.Params, prompt: Tensor, length: int
) -> int:
    """Return how many logits there are, having seen that all tokens fit into the context."""
    fed = prompt.shape[1] + length - 1
    tokens = ShapeDtype((len(prompt), fed), prompt.dtype, prompt.device)
    try:
        logits, _ = eval_shape(decoder.apply, params, {}, tokens)
    except nn.LayerError as error:
        # A prompt that is refused by itself is the decoder's to explain.
        eval_shape(decoder.apply, params, {}, prompt)
        raise ValueError(
            f"generate: expected a prompt and a length that the decoder has room for, got "
            f"{prompt.shape[1]} tokens and length={length}, of which all but the last are fed: "
            f"{error}"
        ) from error
    if not isinstance(logits, ShapeDtype) or logits.shape[:-1] != (len(prompt), fed):
        raise ValueError(
            f"generate: expected a decoder from tokens (N, L) to logits (N, L, V), got "
            f"{describe(logits)} from {tuple(tokens.shape)}."
        )
    return int(logits.shape[-1])


def _check_arguments(
    decoder: Any, prompt: Any, length: Any, key: Tensor, prompt_lengths: Any
) -> None:
    if not isinstance(decoder, nn.StatefulLayer):
        raise TypeError(
            f"generate: expected a layer with a state, such as gpt_decoder, for decoder, got "
            f"{describe(decoder)}."
        )
    check_key("generate", key)
    if isinstance(length, Tensor):
        raise TypeError(
            f"generate: expected an integer for length, got {describe(length)}; under jit mark it "
            "static."
        )
    positive_int("generate", "length", length)
    is_tokens = isinstance(prompt, Tensor) and prompt.dtype == torch.int64
    if not is_tokens or prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ValueError(
            f"generate: expected an int64 prompt of shape (N, P), P >= 1, got {describe(prompt)}."
        )
    if prompt_lengths is None:
        return
    is_counts = isinstance(prompt_lengths, Tensor) and prompt_lengths.dtype == torch.int64
    if not is_counts or prompt_lengths.shape != prompt.shape[:1]:
        raise ValueError(
            f"generate: expected int64 prompt_lengths of shape ({len(prompt)},), got "
            f"{describe(prompt_lengths)}."
        )
    if values_are_visible(prompt_lengths) and not (
        ((prompt_lengths >= 1) & (prompt_lengths <= prompt.shape[1])).all()
    ):
        raise ValueError(
            f"generate: expected prompt_lengths from 1 to {prompt.shape[1]}, the tokens that a row "
            f"of the prompt has, got {prompt_lengths.tolist()}."
        )


def _check_stop_token(stop_token: Any, vocabulary: int) -> None:
    if stop_token is None:
        return
    check_int("generate", "stop_token", stop_token)
    if not 0 <= stop_token < vocabulary:
        raise ValueError(
            f"generate: expected stop_token from 0 to {vocabulary - 1}, got {stop_token}."
        )
