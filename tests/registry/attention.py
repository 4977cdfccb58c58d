"""Attention, positions and the layers of transformers."""

import torch

from purefn.functional import ShapeDtype, nn

from .case import Case


class SelfAttention(torch.nn.MultiheadAttention):
    """torch's attention of a sequence to itself, perhaps causal."""

    causal = False

    def forward(self, x):
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        mask = hidden if self.causal else None
        return super().forward(x, x, x, need_weights=False, attn_mask=mask)[0]


class CausalSelfAttention(SelfAttention):
    causal = True


class Apart(torch.nn.MultiheadAttention):
    """torch's attention to keys and values made of the sequence, of other widths."""

    def forward(self, x):
        return super().forward(x, x[..., :3], 0.5 * x[..., 2:], need_weights=False)[0]


class Encoder(torch.nn.TransformerEncoderLayer):
    """torch's layer with a causal mask."""

    def forward(self, x):
        return super().forward(x, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1))


class Decoder(torch.nn.TransformerDecoderLayer):
    """torch's layer with a memory made of the sequence."""

    def forward(self, x):
        return super().forward(x, 0.5 * x)


class Positions(torch.nn.Embedding):
    """Embeddings of the positions, added to the input."""

    def forward(self, x):
        return x + self.weight[: x.shape[-2]]


class DecoderStack(torch.nn.TransformerDecoder):
    """torch's decoder with a memory made of the sequence."""

    def forward(self, x):
        return super().forward(x, 0.5 * x)


class Both(torch.nn.Transformer):
    """torch's encoder and decoder of one sequence."""

    def forward(self, x):
        return super().forward(0.5 * x, x)


def both(layer):
    """Return the layer of two sequences that are one."""
    return nn.Layer(
        lambda key, x: layer.init(key, (x, x)),
        lambda params, x, **options: layer(params, (0.5 * x, x), **options),
    )


def with_memory(layer):
    """Return the layer with a memory made of the sequence."""
    return nn.Layer(
        lambda key, x: layer.init(key, (x, x)),
        lambda params, x, **options: layer(params, (x, 0.5 * x), **options),
    )


def of_parts(layer):
    """Return the layer with keys and values made of the sequence, of other widths."""

    def split(x):
        keys, values = (ShapeDtype((*x.shape[:-1], width), x.dtype) for width in (3, 2))
        return (x, (keys, values))

    return nn.Layer(
        lambda key, x: layer.init(key, split(x)),
        lambda params, x, **options: layer(params, (x, (x[..., :3], 0.5 * x[..., 2:])), **options),
    )


TORCH = {"batch_first": True}
X = (3, 5, 4)

CASES = [
    Case("multi_head_attention", nn.multi_head_attention(2), SelfAttention(4, 2, **TORCH), X),
    Case(
        "multi_head_attention",
        nn.multi_head_attention(2, causal=True, bias=False),
        CausalSelfAttention(4, 2, bias=False, **TORCH),
        X,
        variant="causal",
    ),
    Case(
        "multi_head_attention",
        nn.multi_head_attention(4, dropout=0.3),
        SelfAttention(4, 4, dropout=0.3, **TORCH),
        X,
        variant="dropout",
        draws=True,
    ),
    Case(
        "multi_head_attention",
        nn.multi_head_attention(4, kv_heads=2, causal=True, rotary=nn.rotary, alibi=True),
        None,
        (3, 5, 8),
        variant="grouped",
    ),
    Case(
        "multi_head_attention",
        of_parts(nn.multi_head_attention(2, add_bias_kv=True, add_zero_attn=True)),
        Apart(4, 2, kdim=3, vdim=2, add_bias_kv=True, add_zero_attn=True, **TORCH),
        X,
        variant="apart",
    ),
    Case("cached_attention", nn.cached_attention(2, 7), None, X),
    Case(
        "cached_attention",
        nn.cached_attention(2, 7, kv_heads=1, rotary=nn.rotary, alibi=True),
        None,
        X,
        variant="grouped",
    ),
    Case("rotary", nn.rotary, None, X),
    Case("sinusoidal_positions", nn.sinusoidal_positions, None, X),
    Case("learned_positions", nn.learned_positions(6), Positions(6, 4), X),
    Case(
        "transformer_encoder_layer",
        nn.transformer_encoder_layer(2, 8, dropout=0.0),
        torch.nn.TransformerEncoderLayer(4, 2, 8, 0.0, **TORCH),
        X,
    ),
    Case(
        "transformer_encoder_layer",
        nn.transformer_encoder_layer(
            2, 8, dropout=0.2, activation=nn.gelu, norm_first=True, causal=True, layer_norm_eps=1e-3
        ),
        Encoder(4, 2, 8, 0.2, torch.nn.functional.gelu, 1e-3, norm_first=True, **TORCH),
        X,
        variant="first",
        draws=True,
    ),
    Case(
        "transformer_decoder_layer",
        with_memory(nn.transformer_decoder_layer(2, 8, dropout=0.0, bias=False)),
        Decoder(4, 2, 8, 0.0, bias=False, **TORCH),
        X,
    ),
    Case(
        "transformer_decoder_layer",
        with_memory(nn.transformer_decoder_layer(2, 8, dropout=0.2, norm_first=True)),
        Decoder(4, 2, 8, 0.2, norm_first=True, **TORCH),
        X,
        variant="first",
        draws=True,
    ),
    Case(
        "transformer_encoder",
        nn.transformer_encoder(
            nn.transformer_encoder_layer(2, 8, dropout=0.0, norm_first=True), 2, nn.layer_norm()
        ),
        torch.nn.TransformerEncoder(
            torch.nn.TransformerEncoderLayer(4, 2, 8, 0.0, norm_first=True, **TORCH),
            2,
            torch.nn.LayerNorm(4),
            enable_nested_tensor=False,
        ),
        X,
    ),
    Case(
        "transformer_decoder",
        with_memory(nn.transformer_decoder(nn.transformer_decoder_layer(2, 8, dropout=0.0), 1)),
        DecoderStack(torch.nn.TransformerDecoderLayer(4, 2, 8, 0.0, **TORCH), 1),
        X,
    ),
    Case(
        "transformer",
        both(nn.transformer(2, 1, 1, 8, dropout=0.0)),
        Both(4, 2, 1, 1, 8, 0.0, **TORCH),
        X,
    ),
]
