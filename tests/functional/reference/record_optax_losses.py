"""Record values and gradients of `optax.losses`, for the tests of `purefn.functional.losses`.

Run by hand, in an environment that has optax, when the cases change:

    pip install optax==0.2.8 "jax[cpu]==0.10.2"
    JAX_PLATFORMS=cpu python tests/functional/reference/record_optax_losses.py

It writes `optax_losses.npz` beside itself: `origin`, a JSON text with versions and the names of the
cases, and for each case `NAME/inputN`, `NAME/values` and `NAME/gradientN`, the gradients of the
summed values in each floating-point input, all in float64. Classes stand second, as in purefn.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import losses

jax.config.update("jax_enable_x64", True)

Array = Any
rng = np.random.default_rng(0)

LOGITS = 2 * rng.normal(size=(5, 4))
OTHER = 2 * rng.normal(size=(5, 4))
BINARY = (rng.random((5, 4)) < 0.5).astype(np.float64)
SIGNS = 2 * BINARY - 1
LABELS = rng.integers(0, 4, size=5)
SOFT = np.asarray(jax.nn.softmax(jnp.asarray(OTHER), -1))
LOG_P = np.asarray(jax.nn.log_softmax(jnp.asarray(LOGITS), -1))
MASKED = np.where(rng.random((5, 4)) < 0.3, -np.inf, LOGITS)
MASKED_SOFT = np.where(np.isinf(MASKED), 0.0, SOFT)
IMAGES = rng.normal(size=(3, 4, 2, 5))
REGIONS = rng.integers(0, 4, size=(3, 2, 5))
MASK = rng.random((5, 4)) < 0.7


def one_hot_last(labels: Array) -> Array:
    """Return one-hot labels, classes last as optax has them."""
    return jax.nn.one_hot(labels, 4, dtype=jnp.float64)


def dice(logits: Array, labels: Array, **options: Any) -> Array:
    """Return optax's dice loss of classes that stand second."""
    return losses.dice_loss(jnp.moveaxis(logits, 1, -1), one_hot_last(labels), **options)


def generalized_dice(logits: Array, labels: Array) -> Array:
    """Return optax's scalar, as an array of one value."""
    logits = jnp.moveaxis(logits, 1, -1)
    return losses.multiclass_generalized_dice_loss(logits, one_hot_last(labels))[None]


def ctc(log_p: Array, labels: Array, frames: Array, lengths: Array) -> Array:
    """Return optax's loss, which has paddings in the place of lengths."""
    frame_paddings = (jnp.arange(log_p.shape[1]) >= frames[:, None]).astype(jnp.float64)
    label_paddings = (jnp.arange(labels.shape[1]) >= lengths[:, None]).astype(jnp.float64)
    return losses.ctc_loss(log_p, frame_paddings, labels, label_paddings)


CTC_LABELS = np.array([[1, 1, 2], [3, 2, 1], [2, 0, 0]])

CASES: dict[str, tuple[Any, ...]] = {
    "bce_with_logits": (losses.sigmoid_binary_cross_entropy, LOGITS, SOFT),
    "cross_entropy": (losses.softmax_cross_entropy_with_integer_labels, LOGITS, LABELS),
    "cross_entropy-soft": (losses.softmax_cross_entropy, LOGITS, SOFT),
    "cross_entropy-masked": (losses.safe_softmax_cross_entropy, MASKED, MASKED_SOFT),
    "poly_cross_entropy": (losses.poly_loss_cross_entropy, LOGITS, SOFT),
    "sigmoid_focal": (losses.sigmoid_focal_loss, LOGITS, SOFT),
    "sigmoid_focal-alpha": (
        lambda x, y: losses.sigmoid_focal_loss(x, y, alpha=0.3, gamma=1.5),
        LOGITS,
        BINARY,
    ),
    "hinge": (losses.hinge_loss, LOGITS, SIGNS),
    "perceptron": (losses.perceptron_loss, LOGITS, SIGNS),
    "sparsemax": (losses.sparsemax_loss, LOGITS, BINARY.astype(np.int64)),
    "multiclass_hinge": (losses.multiclass_hinge_loss, LOGITS, LABELS),
    "multiclass_perceptron": (losses.multiclass_perceptron_loss, LOGITS, LABELS),
    "multiclass_sparsemax": (losses.multiclass_sparsemax_loss, LOGITS, LABELS),
    "kl_div": (losses.kl_divergence, LOG_P, SOFT),
    "kl_div_with_log_targets": (losses.kl_divergence_with_log_targets, LOG_P, np.log(SOFT)),
    "generalized_kl_div": (losses.generalized_kl_divergence, LOGITS, SOFT),
    "log_cosh": (losses.log_cosh, LOGITS, OTHER),
    "huber": (losses.huber_loss, LOGITS, OTHER),
    "mse": (losses.squared_error, LOGITS, OTHER),
    "cosine_similarity": (losses.cosine_similarity, LOGITS, OTHER),
    "cosine_distance": (losses.cosine_distance, LOGITS, OTHER),
    "triplet_margin": (
        lambda a, p, n: losses.triplet_margin_loss(a, p, n, eps=0.0),
        LOGITS,
        OTHER,
        OTHER[::-1].copy(),
    ),
    "ntxent": (
        lambda x, y: losses.ntxent(x, y, temperature=0.5)[None],
        rng.normal(size=(6, 4)),
        np.array([0, 1, 2, 2, 1, 0]),
    ),
    "fenchel_young": (
        losses.make_fenchel_young_loss(jax.scipy.special.logsumexp),
        LOGITS,
        SOFT,
    ),
    "dice": (dice, IMAGES, REGIONS),
    "dice-tversky": (
        lambda x, y: dice(x, y, smooth=0.1, alpha=0.3, beta=0.7, class_weights=jnp.arange(4.0)),
        IMAGES,
        REGIONS,
    ),
    "binary_dice": (
        lambda x, y: losses.binary_dice_loss(x[..., None], y[..., None]),
        LOGITS,
        BINARY,
    ),
    "dice-generalized": (generalized_dice, IMAGES, REGIONS),
    "ranking_softmax": (
        lambda s, y, mask: losses.ranking_softmax_loss(s, y, where=mask, reduce_fn=None),
        LOGITS,
        SOFT,
        MASK,
    ),
    "ctc": (
        ctc,
        2 * rng.normal(size=(3, 6, 4)),
        CTC_LABELS,
        np.array([6, 5, 4]),
        np.array([3, 2, 1]),
    ),
}


def record(function: Any, *inputs: Any) -> dict[str, np.ndarray]:
    """Return the inputs, the values and the gradients of their sum."""
    floats = [i for i, x in enumerate(inputs) if x.dtype == np.float64]
    arrays = [jnp.asarray(x) for x in inputs]
    gradients = jax.grad(lambda *x: function(*x).sum(), argnums=tuple(floats))(*arrays)
    return {
        **{f"input{i}": x for i, x in enumerate(inputs)},
        "values": np.asarray(function(*arrays)),
        **{f"gradient{i}": np.asarray(g) for i, g in zip(floats, gradients, strict=True)},
    }


def main() -> None:
    """Compute all cases and write them."""
    origin = {"optax": optax.__version__, "jax": jax.__version__, "cases": list(CASES)}
    arrays = {
        f"{name}/{part}": value
        for name, case in CASES.items()
        for part, value in record(*case).items()
    }
    path = pathlib.Path(__file__).with_name("optax_losses.npz")
    np.savez_compressed(path, origin=json.dumps(origin), **arrays)
    print(f"{path}: {len(CASES)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
