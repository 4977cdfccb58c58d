"""The frameworks that take part where they can be imported, each set to float32 throughout."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


jax = optional("jax")
jnp = optional("jax.numpy")
optax = optional("optax")
torchopt = optional("torchopt")

if jax is not None:
    jax.config.update("jax_default_matmul_precision", "highest")
torch.backends.cudnn.allow_tf32 = False


def jax_takes_part() -> bool:
    """Say whether JAX and optax are there and would compute on the same device as torch."""
    if jax is None or optax is None:
        return False
    return jax.default_backend() == {"cuda": "gpu"}.get(DEVICE, DEVICE)


def to_jax(tensors: Any) -> Any:
    """Return a tree of tensors as a tree of JAX's arrays, which share no memory with them."""
    return jax.tree.map(lambda tensor: jnp.array(tensor.cpu().numpy(), copy=True), tensors)
