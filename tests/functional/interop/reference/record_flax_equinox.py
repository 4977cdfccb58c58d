"""Record parameters, inputs and outputs of layers of flax (linen and nnx) and equinox.

    python -m venv /tmp/jax && /tmp/jax/bin/pip install jax==0.10.2 flax==0.12.8 equinox==0.13.8
    /tmp/jax/bin/python tests/functional/interop/reference/record_flax_equinox.py

writes `flax_equinox.npz` beside this file. An entry is called `layer/params/<path>`,
`layer/x`, `layer/y` or `layer/carry0`, where the path has the names of flax's variables or
equinox's attributes. Everything is computed in float64 on the CPU, so that outputs can be compared
closely, and stored in it (nnx's attention and simple cell round to float32 inside); values are
drawn by numpy, biases and statistics too, for a zero proves nothing.
"""

from pathlib import Path

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

jax.config.update("jax_enable_x64", True)
RNG = np.random.default_rng(0)
RECORDS = {}


def drawn(leaf):
    """Return an array like `leaf`; positive, so that it can be a variance."""
    return jnp.asarray(RNG.uniform(0.1, 0.7, leaf.shape) * RNG.choice([-1, 1], leaf.shape))


def randomized(tree):
    def draw(path, leaf):
        new = drawn(leaf)
        return jnp.abs(new) if "var" in jax.tree_util.keystr(path) else new

    return jax.tree_util.tree_map_with_path(draw, tree)


def record(name, params, x, y, *carry):
    """Store a layer; of a carry, the state of a cell, its parts as `carry0` and `carry1`."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        full = "/".join(entry_name(entry) for entry in path)
        RECORDS[f"{name}/params/{full}"] = np.asarray(leaf)
    RECORDS[f"{name}/x"], RECORDS[f"{name}/y"] = np.asarray(x), np.asarray(y)
    for index, part in enumerate(jax.tree.leaves(carry)):
        RECORDS[f"{name}/carry{index}"] = np.asarray(part)


def entry_name(entry):
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    raise TypeError(entry)


def record_linen(name, module, x, *args):
    variables = randomized(module.init(jax.random.key(0), *args, x))
    output = module.apply(variables, *args, x)
    record(f"linen_{name}", variables, x, output[1] if isinstance(output, tuple) else output, args)


def record_nnx(name, module, x, *args):
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    new = randomized(nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, new)
    nnx.update(module, state)
    module.eval()
    output = module(*args, x)
    record(f"nnx_{name}", new, x, output[1] if isinstance(output, tuple) else output, args)


def record_equinox(name, module, x, *args):
    arrays, rest = eqx.partition(module, eqx.is_array)
    arrays = randomized(arrays)
    output = eqx.combine(arrays, rest)(x, *args)
    # An LSTM's next state is `(h, c)`.
    record(f"equinox_{name}", arrays, x, output[0] if isinstance(output, tuple) else output, args)


class Network(linen.Module):
    """Convolutions of two kinds, both norms, and a dense layer behind a flattened image."""

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3), strides=2)(x)
        x = linen.BatchNorm(use_running_average=True)(x)
        x = linen.relu(x)
        x = linen.Conv(4, (3, 3), feature_group_count=2, padding="VALID")(x)
        x = linen.GroupNorm(2, epsilon=1e-5)(x)
        x = x.reshape(x.shape[0], -1)
        return linen.Dense(3)(x)


class NnxNetwork(nnx.Module):
    """A list of layers: its parameters have numbers for names."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)])

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
        return self.layers[1](nnx.relu(self.layers[0](x)))


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def record_all():
    record_linen("network", Network(), draw(2, 8, 8, 2))
    record_linen(
        "conv_transpose", linen.ConvTranspose(3, (3, 2), (2, 1), "VALID"), draw(2, 4, 5, 2)
    )
    record_linen("conv1d", linen.Conv(3, (3,), padding="VALID"), draw(2, 7, 2))
    record_linen("conv3d", linen.Conv(3, (2, 3, 2), padding="VALID"), draw(1, 4, 5, 4, 2))
    record_linen("embedding", linen.Embed(7, 4), jnp.asarray([[1, 6, 3]]))
    record_linen("layer_norm", linen.LayerNorm(epsilon=1e-5), draw(2, 3, 6))
    record_linen("rms_norm", linen.RMSNorm(epsilon=1e-6), draw(2, 3, 6))
    record_linen("attention", linen.MultiHeadDotProductAttention(2), draw(2, 5, 8))
    carry = draw(2, 3), draw(2, 3)
    record_linen("lstm_cell", linen.LSTMCell(3), draw(2, 4), carry)
    record_linen("optimized_lstm_cell", linen.OptimizedLSTMCell(3), draw(2, 4), carry)
    record_linen("gru_cell", linen.GRUCell(3), draw(2, 4), carry[0])
    record_linen("simple_cell", linen.SimpleCell(3), draw(2, 4), carry[0])
    record_linen("lstm", linen.RNN(linen.LSTMCell(3, param_dtype=jnp.float64)), draw(2, 6, 4))
    rngs = nnx.Rngs(0)
    record_nnx("network", NnxNetwork(rngs), draw(2, 6, 6, 2))
    record_nnx("attention", nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs), draw(2, 5, 8))
    record_nnx("lstm_cell", nnx.LSTMCell(4, 3, rngs=rngs), draw(2, 4), carry)
    record_nnx("optimized_lstm_cell", nnx.OptimizedLSTMCell(4, 3, rngs=rngs), draw(2, 4), carry)
    record_nnx("gru_cell", nnx.GRUCell(4, 3, rngs=rngs), draw(2, 4), carry[0])
    record_nnx("simple_cell", nnx.SimpleCell(4, 3, rngs=rngs), draw(2, 4), carry[0])
    key = jax.random.key(0)
    record_equinox("mlp", eqx.nn.MLP(4, 3, 5, 1, key=key), draw(4))
    record_equinox("conv2d", eqx.nn.Conv2d(2, 3, 3, stride=2, key=key), draw(2, 7, 7))
    record_equinox(
        "conv_transpose", eqx.nn.ConvTranspose2d(2, 3, (3, 2), stride=2, key=key), draw(2, 4, 5)
    )
    record_equinox("embedding", eqx.nn.Embedding(7, 4, key=key), jnp.asarray(3))
    record_equinox("layer_norm", eqx.nn.LayerNorm(6), draw(6))
    record_equinox("group_norm", eqx.nn.GroupNorm(2, 4), draw(4, 3, 3))
    record_equinox("prelu", eqx.nn.PReLU(), draw(6))
    biases = dict.fromkeys(("use_query_bias", "use_key_bias", "use_value_bias"), True)
    attention = eqx.nn.MultiheadAttention(2, 8, use_output_bias=True, **biases, key=key)
    x = draw(5, 8)
    record_equinox("attention", attention, x, x, x)
    carry = draw(3), draw(3)
    record_equinox("lstm_cell", eqx.nn.LSTMCell(4, 3, key=key), draw(4), carry)
    record_equinox("gru_cell", eqx.nn.GRUCell(4, 3, key=key), draw(4), carry[0])


if __name__ == "__main__":
    record_all()
    np.savez_compressed(Path(__file__).with_name("flax_equinox.npz"), **RECORDS)
    print(len(RECORDS), "arrays")
