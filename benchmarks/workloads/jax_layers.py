"""torch's layers in plain JAX, over parameters of torch's names and layouts."""

from __future__ import annotations

from typing import Any

from ..frameworks import jax, jnp

Params = Any
Array = Any


def linear(params: Params, x: Array) -> Array:
    """Return `x W^T + b`."""
    return x @ params["weight"].T + params["bias"]


def conv2d(params: Params, x: Array, stride: int = 1, padding: int = 0) -> Array:
    """Return the cross-correlation, with a bias where there is one."""
    y = jax.lax.conv_general_dilated(
        x,
        params["weight"],
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    return y + params["bias"][:, None, None] if "bias" in params else y


def max_pool2d(x: Array, size: int, stride: int) -> Array:
    """Return the maximum over windows."""
    window, strides = (1, 1, size, size), (1, 1, stride, stride)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "VALID")


def avg_pool2d(x: Array, size: int) -> Array:
    """Return the mean over windows that do not overlap."""
    batch, channels, height, width = x.shape
    windows = x.reshape(batch, channels, height // size, size, width // size, size)
    return windows.mean((3, 5))


def layer_norm(params: Params, x: Array) -> Array:
    """Normalise the last dimension."""
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * params["weight"] + params["bias"]


def causal_attention(qkv_BTC: Array, heads: int) -> Array:  # noqa: N803 - shape suffixes
    """Return what each position gathers from itself and those before, of width `C / 3`."""
    batch, tokens, width = qkv_BTC.shape
    qkv = qkv_BTC.reshape(batch, tokens, 3, heads, width // 3 // heads)
    y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
    return y.reshape(batch, tokens, width // 3)


def batch_norm(params: Params, state: Params, x: Array) -> tuple[Array, Params]:
    """Normalise each channel by the batch, and move the running statistics towards it."""
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = jax.lax.rsqrt(var + 1e-5) * params["weight"]
    y = (x - mean[:, None, None]) * scale[:, None, None] + params["bias"][:, None, None]
    values_per_channel = x.size // x.shape[1]
    unbiased = var * values_per_channel / (values_per_channel - 1)
    return y, {
        "running_mean": 0.9 * state["running_mean"] + 0.1 * jax.lax.stop_gradient(mean),
        "running_var": 0.9 * state["running_var"] + 0.1 * jax.lax.stop_gradient(unbiased),
        "num_batches_tracked": state["num_batches_tracked"] + 1,
    }
