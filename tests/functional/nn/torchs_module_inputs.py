"""Give the inputs of torch's own module tests to torch's modules and to our layers.

A script: it prints how many outputs were compared, then a line for each that differs, and exits
with an error if there is one. Our layer is made from what the module holds, not from how it was
made; parameters and buffers are the module's. `torch.testing._internal` needs expecttest when it is
imported, for nothing that is used here.
"""

import sys
import types
import unittest

import torch

from purefn.functional import nn, tree

sys.modules.setdefault("expecttest", types.ModuleType("expecttest")).TestCase = unittest.TestCase
from torch.testing._internal.common_modules import module_db  # noqa: E402


def options(module, *names, **renamed):
    """Return attributes of the module as options of our layer."""
    found = {name: getattr(module, name) for name in names}
    return {**found, **{ours: getattr(module, theirs) for ours, theirs in renamed.items()}}


def has_bias(module):
    return {"bias": module.bias is not None}


def convolution(ours, *names):
    common = ("kernel_size", "stride", "padding", "dilation", "groups", *names)
    return lambda m: ours(m.out_channels, **options(m, *common), **has_bias(m))


def batch_norm(m):
    bias = {"bias": m.bias is not None} if m.affine else {}
    if m.track_running_stats:
        return nn.batch_norm(**options(m, "eps", "momentum", "affine"), **bias)
    return nn.untracked_batch_norm(**options(m, "eps", "affine"), **bias)


def instance_norm(m):
    own = {"bias": m.bias is not None} if m.affine else {}
    own["spatial_dims"] = int(type(m).__name__[-2])
    if m.track_running_stats:
        return nn.tracked_instance_norm(**options(m, "eps", "momentum", "affine"), **own)
    return nn.instance_norm(**options(m, "eps", "affine"), **own)


def max_pool(dims):
    def layer(m):
        name = f"max_pool{dims}d" + ("_with_indices" if m.return_indices else "")
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return getattr(nn, name)(**options(m, *names))

    return layer


def avg_pool(dims):
    names = ["kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"]
    names += [] if dims == 1 else ["divisor_override"]
    return lambda m: getattr(nn, f"avg_pool{dims}d")(**options(m, *names))


def over(ours, *names, **renamed):
    return lambda m: ours(**options(m, *names, **renamed))


def activation(ours, *names, **renamed):
    return lambda m: nn.lift(lambda x: ours(x, **options(m, *names, **renamed)))


def recurrent(ours, *names):
    return lambda m: ours(m.hidden_size, bias=bool(m.bias), **options(m, *names))


def attention(m):
    return nn.multi_head_attention(
        m.num_heads,
        bias=m.in_proj_bias is not None,
        dropout=m.dropout,
        add_bias_kv=m.bias_k is not None,
        **options(m, "add_zero_attn"),
    )


def encoder_layer(m, ours=nn.transformer_encoder_layer):
    return ours(
        m.self_attn.num_heads,
        m.linear1.out_features,
        dropout=m.dropout.p,
        activation=m.activation,
        layer_norm_eps=m.norm1.eps,
        norm_first=m.norm_first,
        bias=m.linear1.bias is not None,
    )


def transformer(m):
    layer = m.encoder.layers[0]
    return nn.transformer(
        m.nhead,
        len(m.encoder.layers),
        len(m.decoder.layers),
        layer.linear1.out_features,
        dropout=layer.dropout.p,
        norm_first=layer.norm_first,
        bias=layer.linear1.bias is not None,
    )


LAYERS = {
    "Linear": lambda m: nn.linear(m.out_features, **has_bias(m)),
    "Bilinear": lambda m: nn.bilinear(m.out_features, **has_bias(m)),
    "Embedding": over(nn.embedding, "num_embeddings", "embedding_dim", "padding_idx"),
    "PReLU": over(nn.prelu, "num_parameters"),
    "GroupNorm": lambda m: nn.group_norm(
        **options(m, "num_groups", "eps", "affine"), bias=m.bias is not None or not m.affine
    ),
    "LayerNorm": lambda m: nn.layer_norm(
        len(m.normalized_shape), **options(m, "eps", "elementwise_affine"), **has_bias(m)
    ),
    "RMSNorm": lambda m: nn.rms_norm(
        len(m.normalized_shape), **options(m, "eps", "elementwise_affine")
    ),
    "LocalResponseNorm": over(nn.local_response_norm, "size", "alpha", "beta", "k"),
    "RNNCell": recurrent(nn.rnn_cell, "nonlinearity"),
    "GRUCell": recurrent(nn.gru_cell),
    "LSTMCell": recurrent(nn.lstm_cell),
    "RNN": recurrent(nn.rnn, "num_layers", "bidirectional", "nonlinearity"),
    "GRU": recurrent(nn.gru, "num_layers", "bidirectional"),
    "LSTM": recurrent(nn.lstm, "num_layers", "bidirectional", "proj_size"),
    "MultiheadAttention": attention,
    "TransformerEncoderLayer": encoder_layer,
    "TransformerDecoderLayer": lambda m: encoder_layer(m, nn.transformer_decoder_layer),
    "TransformerEncoder": lambda m: nn.transformer_encoder(
        encoder_layer(m.layers[0]), len(m.layers)
    ),
    "Transformer": transformer,
    "CELU": activation(nn.celu, "alpha"),
    "ELU": activation(nn.elu, "alpha"),
    "GELU": activation(nn.gelu, "approximate"),
    "GLU": activation(nn.glu, "dim"),
    "Hardshrink": activation(nn.hardshrink, "lambd"),
    "Hardswish": activation(nn.hardswish),
    "Hardtanh": activation(nn.hardtanh, "min_val", "max_val"),
    "LeakyReLU": activation(nn.leaky_relu, "negative_slope"),
    "LogSigmoid": activation(nn.log_sigmoid),
    "LogSoftmax": activation(nn.log_softmax, "dim"),
    "Mish": activation(nn.mish),
    "ReLU": activation(nn.relu),
    "ReLU6": activation(nn.relu6),
    "SELU": activation(nn.selu),
    "SiLU": activation(nn.silu),
    "Sigmoid": activation(nn.sigmoid),
    "Softmax": activation(nn.softmax, "dim"),
    "Softmax2d": activation(nn.softmax2d),
    "Softmin": activation(nn.softmin, "dim"),
    "Softplus": activation(nn.softplus, "beta", "threshold"),
    "Softshrink": activation(nn.softshrink, "lambd"),
    "Softsign": activation(nn.softsign),
    "Tanh": activation(nn.tanh),
    "Tanhshrink": activation(nn.tanhshrink),
    "Threshold": activation(nn.threshold, "threshold", "value"),
}
for dims in (1, 2, 3):
    conv, transposed = getattr(nn, f"conv{dims}d"), getattr(nn, f"conv_transpose{dims}d")
    LAYERS |= {
        f"Conv{dims}d": convolution(conv, "padding_mode"),
        f"ConvTranspose{dims}d": convolution(transposed, "output_padding"),
        f"BatchNorm{dims}d": batch_norm,
        f"InstanceNorm{dims}d": instance_norm,
        f"MaxPool{dims}d": max_pool(dims),
        f"AvgPool{dims}d": avg_pool(dims),
        f"LPPool{dims}d": over(
            getattr(nn, f"lp_pool{dims}d"), "norm_type", "kernel_size", "stride", "ceil_mode"
        ),
        f"ConstantPad{dims}d": over(getattr(nn, f"constant_pad{dims}d"), "padding", "value"),
    }
    for kind in ("Avg", "Max"):
        ours = getattr(nn, f"adaptive_{kind.lower()}_pool{dims}d")
        LAYERS[f"Adaptive{kind}Pool{dims}d"] = over(ours, "output_size")
    for kind in ("Reflection", "Replication", "Zero", "Circular"):
        ours = getattr(nn, f"{kind.lower()}_pad{dims}d")
        LAYERS[f"{kind}Pad{dims}d"] = over(ours, "padding")


def attending(mask, padding):
    """Return torch's two masks, in which True is left out, as one in which it takes part."""
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask
    if padding is None:
        return mask
    seen = ~padding if padding.ndim == 1 else ~padding[:, None, None, :]
    if mask is None:
        return seen
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)


def our_input(module, args, kwargs):
    """Return the single input of a layer."""
    masks = {name.replace("src_mask", "mask"): value for name, value in kwargs.items()}
    if isinstance(module, torch.nn.MultiheadAttention):
        query, *memory = args
        own = masks["attn_mask"]
        own = own if own is None or query.ndim == 2 else own.unflatten(0, (len(query), -1))
        return query, tuple(memory), attending(own, masks["key_padding_mask"])
    if isinstance(module, torch.nn.Transformer):
        source = attending(masks["mask"], masks["src_key_padding_mask"])
        target = attending(masks["tgt_mask"], masks["tgt_key_padding_mask"])
        return (*args, source, target)
    if isinstance(module, torch.nn.TransformerDecoderLayer) and masks:
        own = attending(masks["tgt_mask"], masks["tgt_key_padding_mask"])
        return (*args, own, attending(masks["memory_mask"], masks["memory_key_padding_mask"]))
    if masks and set(masks) <= {"mask", "src_key_padding_mask"}:
        return (*args, attending(masks.get("mask"), masks.get("src_key_padding_mask")))
    args = (*args, *kwargs.values())
    return args[0] if len(args) == 1 else args


def batch_in_front(value):
    """Return a tree in which batches of sequences, `(L, N, E)`, have the batch first; or back."""
    return tree.map(lambda x: x.transpose(0, 1) if x.ndim == 3 else x, value)


def has_length_in_front(module):
    """Say whether batches of sequences have shape `(L, N, E)`."""
    is_recurrent = isinstance(module, torch.nn.RNNBase)
    attentions = [m for m in module.modules() if isinstance(m, torch.nn.MultiheadAttention)]
    return (is_recurrent and not module.batch_first) or any(not m.batch_first for m in attentions)


def compare(module, args, kwargs, train):
    """Return what differs, or an empty text."""
    kind = type(module).__name__
    buffers = {name for name, _ in module.named_buffers()}
    values = {name: value.clone() for name, value in module.state_dict().items()}
    params = tree.from_state_dict({n: v for n, v in values.items() if n not in buffers})
    state = tree.from_state_dict({n: v for n, v in values.items() if n in buffers})
    expected = module(*args, **kwargs)
    if kind == "MultiheadAttention":
        expected, _ = expected  # and the weights
    try:
        layer = LAYERS[kind](module)
        given = batch_in_front(args) if has_length_in_front(module) else args
        x = our_input(module, given, kwargs)
        if isinstance(layer, nn.StatefulLayer):
            found, state = layer(params, state, x, train=train)
        else:
            found = layer(params, x, train=train)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        return f"is refused: {error}"
    if has_length_in_front(module):
        found = batch_in_front(found)
    found, expected = tree.leaves(found), tree.leaves(expected)
    if len(found) != len(expected) or not all(map(is_close, found, expected)):
        return "differs"
    after = {name: value for name, value in module.state_dict().items() if name in buffers}
    ours = tree.to_state_dict(state)
    return "" if all(is_close(ours[name], after[name]) for name in buffers) else "differs after"


def is_close(found, expected):
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-12, atol=1e-12, equal_nan=True
    )


def main():
    compared, problems = 0, []
    losses = [info for info in module_db if "Loss" in info.name]
    for info in module_db:
        kind = info.name.removeprefix("nn.")
        if info in losses or kind.startswith("Lazy"):
            continue
        if kind.startswith("Fractional"):
            continue  # its places are given from outside: tests/functional/nn/test_unpooling.py
        for train in (False, True):
            made = info.module_inputs_func(
                info, device="cpu", dtype=torch.float64, requires_grad=False, training=train
            )
            for case in made:
                how, given = case.constructor_input, case.forward_input
                module = info.module_cls(*how.args, **how.kwargs).double().train(train)
                problem = compare(module, given.args, given.kwargs, train)
                compared += 1
                if problem:
                    shapes = [getattr(x, "shape", x) for x in (*given.args, *given.kwargs.values())]
                    problems.append(
                        f"{kind} {how.args} {how.kwargs} of {shapes}, train={train}: {problem}"
                    )
    print(compared, *problems, sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
