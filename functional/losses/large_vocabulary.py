"""Losses of many classes, which own the last linear layer: dense and in clusters by frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from .. import random
from ..initializers.plain import drawing_dtype
from .checks import (
    check_above,
    check_count,
    check_switch,
    check_tensor,
    class_labels,
    in_range,
    nan_unless,
)
from .classification import IGNORE_INDEX, cross_entropy


def linear_cross_entropy(
    inputs: Tensor,
    linear_weight: Tensor,
    labels: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return `cross_entropy` of the logits :math:`x W^T + b`, per example.

    Parameters
    ----------
    inputs
        Shape `(N, in_features)`, floating point.
    linear_weight
        Shape `(C, in_features)`, or `(C, d1, ..., in_features)` for logits `(N, C, d1, ...)`;
        dtype of `inputs`.
    labels
        Of the logits, as in `cross_entropy`.
    linear_bias
        Shape `(C,)` or `(C, d1, ...)`, dtype of `inputs`.
    weight, ignore_index, label_smoothing
        As in `cross_entropy`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `inputs`.

    Raises
    ------
    TypeError, ValueError
        The layer does not fit the inputs, or `cross_entropy` refuses the labels or options.

    Examples
    --------
    >>> inputs, table = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.eye(2)
    >>> linear_cross_entropy(inputs, table, torch.tensor([0, 0]))
    tensor([0.3133, 1.3133])
    """
    _check_linear(inputs, linear_weight, linear_bias)
    bias = None if linear_bias is None else linear_bias.flatten()
    logits = linear(inputs, linear_weight.flatten(0, -2), bias)
    return cross_entropy(
        logits.unflatten(1, linear_weight.shape[:-1]),
        labels,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )


def adaptive_softmax(params: Mapping[str, Any], inputs: Tensor, labels: Tensor) -> Tensor:
    r"""Return the negative log-likelihood of labels under `adaptive_log_softmax`, per example.

    It is the loss of `torch.nn.AdaptiveLogSoftmaxWithLoss`, whose `output` is its negative:
    Grave et al. 2016, arXiv:1609.04309.

    Parameters
    ----------
    params, inputs
        As in `adaptive_log_softmax`.
    labels
        Class numbers of shape `(N,)`, any integer dtype, the most frequent classes first.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `inputs`.

    Raises
    ------
    TypeError, ValueError
        As in `adaptive_log_softmax`; a label lies outside the classes (under `jit` and `vmap` the
        result is NaN instead).

    Examples
    --------
    >>> from purefn.functional import random
    >>> params = init_adaptive_softmax(random.key(0), 16, 100, cutoffs=(10, 40))
    >>> adaptive_softmax(params, torch.zeros(2, 16), torch.tensor([3, 99]))
    tensor([2.4849, 6.5793])
    """
    log_p = adaptive_log_softmax(params, inputs)
    labels = class_labels("adaptive_softmax", log_p, labels)
    named = in_range(labels, log_p.shape[1])
    log_p_y = log_p.gather(1, torch.where(named, labels, 0).unsqueeze(1)).squeeze(1)
    return -log_p_y * nan_unless(named, log_p)


def adaptive_log_softmax(params: Mapping[str, Any], inputs: Tensor) -> Tensor:
    r"""Return the log-probabilities of classes in clusters, the rarer ones with fewer features.

    With the `s` most frequent classes and `k` clusters of rarer ones,

    .. math::
        \log p_c = \begin{cases}
        \log \mathrm{softmax}(H x)_c & c < s \\
        \log \mathrm{softmax}(H x)_{s + j} + \log \mathrm{softmax}(O_j P_j x)_{c - c_j} &
        c \text{ in cluster } j, \text{ whose first class is } c_j
        \end{cases}

    Grave et al. 2016, arXiv:1609.04309. The sizes are those of the parameters. Every cluster is
    computed for every example, so that shapes do not depend on values: the saving is in the
    features of the clusters.

    Parameters
    ----------
    params
        As `init_adaptive_softmax` makes them, or the nested state dict of
        `torch.nn.AdaptiveLogSoftmaxWithLoss`.
    inputs
        Shape `(N, in_features)`, dtype of the parameters.

    Returns
    -------
    Tensor
        Shape `(N, n_classes)`, dtype of `inputs`; `argmax(1)` is torch's `predict`.

    Raises
    ------
    TypeError, ValueError
        The parameters are not of this form or do not fit the inputs.

    Examples
    --------
    >>> from purefn.functional import random
    >>> params = init_adaptive_softmax(random.key(0), 16, 100, cutoffs=(10, 40))
    >>> adaptive_log_softmax(params, torch.ones(2, 16)).exp().sum(1)
    tensor([1.0000, 1.0000])
    """
    head, tail = _checked_clusters(params, inputs)
    shortlist = head["weight"].shape[0] - len(tail)
    head_log_p = log_softmax(linear(inputs, head["weight"], head.get("bias")), 1)
    clusters = [
        head_log_p[:, shortlist + j, None] + log_softmax(linear(linear(inputs, project), out), 1)
        for j, (project, out) in enumerate(tail)
    ]
    return torch.cat([head_log_p[:, :shortlist], *clusters], 1)


def init_adaptive_softmax(
    key: Tensor,
    in_features: int,
    n_classes: int,
    *,
    cutoffs: Sequence[int],
    div_value: float = 4.0,
    head_bias: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Return parameters for `adaptive_softmax`, drawn and named as torch does.

    Parameters
    ----------
    key
        From `purefn.functional.random`.
    in_features, n_classes
        How many features an input has, and how many classes there are.
    cutoffs
        The first class of each cluster, increasing, below `n_classes`.
    div_value
        Cluster `j` has `in_features / div_value ** j` features, rounded down; the first is 1.
    head_bias
        Whether the first layer has a bias.
    dtype
        Of the parameters.

    Raises
    ------
    TypeError, ValueError
        An option does not fit: a cluster would be empty or have no feature.

    Examples
    --------
    >>> from purefn.functional import random, tree
    >>> params = init_adaptive_softmax(random.key(0), 16, 100, cutoffs=(10, 40))
    >>> tree.map(lambda leaf: tuple(leaf.shape), params["tail"]["0"])
    {'0': {'weight': (4, 16)}, '1': {'weight': (30, 4)}}
    """
    check_switch("init_adaptive_softmax", "head_bias", head_bias)
    sizes, widths = _cluster_shapes(in_features, n_classes, tuple(cutoffs), div_value)
    head_key, bias_key, *keys = random.split(key, 2 + 2 * len(sizes)).unbind(0)
    head_size = cutoffs[0] + len(sizes)
    head = {"weight": _uniform(head_key, (head_size, in_features), in_features, dtype)}
    if head_bias:
        head["bias"] = _uniform(bias_key, (head_size,), in_features, dtype)
    tail = {
        str(j): {
            "0": {"weight": _uniform(keys[2 * j], (width, in_features), in_features, dtype)},
            "1": {"weight": _uniform(keys[2 * j + 1], (size, width), width, dtype)},
        }
        for j, (size, width) in enumerate(zip(sizes, widths, strict=True))
    }
    return {"head": head, "tail": tail}


def _cluster_shapes(
    in_features: int, n_classes: int, cutoffs: tuple[int, ...], div_value: float
) -> tuple[list[int], list[int]]:
    """Return how many classes and features each cluster has."""
    caller = "init_adaptive_softmax"
    check_count(caller, "in_features", in_features)
    check_count(caller, "n_classes", n_classes)
    check_above(caller, "div_value", div_value, 0)
    for cutoff in cutoffs:
        check_count(caller, "cutoffs", cutoff)
    bounds = [*cutoffs, n_classes]
    if not cutoffs or any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(
            f"{caller}: cutoffs must increase between 1 and n_classes - 1 = {n_classes - 1}, got "
            f"{cutoffs}."
        )
    widths = [int(in_features // div_value ** (j + 1)) for j in range(len(cutoffs))]
    if min(widths) < 1:
        raise ValueError(
            f"{caller}: div_value={div_value} leaves the last of {len(cutoffs)} clusters without "
            f"a feature of in_features={in_features}; choose a smaller one."
        )
    return [high - low for low, high in pairwise(bounds)], widths


def _uniform(key: Tensor, shape: tuple[int, ...], fan_in: int, dtype: torch.dtype) -> Tensor:
    """Draw as `torch.nn.Linear` does, uniform within `±1 / sqrt(fan_in)`."""
    bound = fan_in**-0.5
    wide = drawing_dtype(dtype)
    return random.uniform(key, shape, wide, minval=-bound, maxval=bound).to(dtype)


def _check_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    caller = "linear_cross_entropy"
    named = {"inputs": inputs, "linear_weight": weight}
    named |= {} if bias is None else {"linear_bias": bias}
    for name, value in named.items():
        check_tensor(caller, name, value)
        if not value.is_floating_point() or value.dtype != inputs.dtype:
            raise TypeError(
                f"{caller}: inputs, linear_weight and linear_bias must have one floating-point "
                f"dtype, got {inputs.dtype} and {name} of {value.dtype}."
            )
    if inputs.ndim != 2 or weight.ndim < 2 or inputs.shape[1] != weight.shape[-1]:
        raise ValueError(
            f"{caller}: inputs must have shape (batch, in_features) and linear_weight "
            f"(classes, ..., in_features), got {tuple(inputs.shape)} and {tuple(weight.shape)}."
        )
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(
            f"{caller}: linear_bias must have shape {tuple(weight.shape[:-1])}, got "
            f"{tuple(bias.shape)}."
        )


def _checked_clusters(
    params: Mapping[str, Any], inputs: Tensor
) -> tuple[Mapping[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """Return the head, and projection and output weight of every cluster."""
    caller = "adaptive_log_softmax"
    try:
        head, tail = params["head"], params["tail"]
        clusters = [
            (tail[str(j)]["0"]["weight"], tail[str(j)]["1"]["weight"]) for j in range(len(tail))
        ]
        weight, bias = head["weight"], head.get("bias")
    except (AttributeError, KeyError, TypeError):
        raise ValueError(
            f"{caller}: params must be those of init_adaptive_softmax, "
            "{'head': {'weight'[, 'bias']}, 'tail': {'0': {'0': {'weight'}, '1': {'weight'}}, ...}}"
            "."
        ) from None
    check_tensor(caller, "inputs", inputs)
    if inputs.ndim != 2 or not inputs.is_floating_point():
        raise ValueError(
            f"{caller}: inputs must be floating point of shape (batch, in_features), got "
            f"{inputs.dtype} of shape {tuple(inputs.shape)}."
        )
    features = inputs.shape[1]
    _check_leaf("['head']['weight']", weight, inputs, (None, features))
    if bias is not None:
        _check_leaf("['head']['bias']", bias, inputs, (weight.shape[0],))
    for j, (project, out) in enumerate(clusters):
        _check_leaf(f"['tail']['{j}']['0']['weight']", project, inputs, (None, features))
        _check_leaf(f"['tail']['{j}']['1']['weight']", out, inputs, (None, project.shape[0]))
    return head, clusters


def _check_leaf(path: str, leaf: Tensor, inputs: Tensor, shape: tuple[int | None, ...]) -> None:
    """Refuse a parameter of another dtype than the inputs, or of another shape; None is any."""
    name = f"params{path}"
    check_tensor("adaptive_log_softmax", name, leaf)
    if leaf.dtype != inputs.dtype:
        raise TypeError(
            f"adaptive_log_softmax: {name} must have the dtype of the inputs, {inputs.dtype}, got "
            f"{leaf.dtype}."
        )
    fits = all(want in (None, length) for want, length in zip(shape, leaf.shape, strict=False))
    if leaf.ndim != len(shape) or not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(
            f"adaptive_log_softmax: {name} must have shape ({wanted}), got {tuple(leaf.shape)}."
        )
