"""Diagonals of the Fisher information, the empirical and the true one.

Products with the whole matrices need no gradients of examples: they are `curvature.fvp`,
`curvature.sampled_fvp` and `curvature.empirical_fvp`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import random, tree
from ..autodiff import stop_gradient
from ..autodiff.inputs import Argnums, check_argnums
from ..batching import vmap
from ..curvature import OutputDistribution
from .calls import Call, LossesFunction, check_count
from .elementwise import sum_of_squares
from .gradients import by_method
from .leaves import Method, check_method
from .outputs import Model, checked_outputs, stacked, weighted_outputs


def empirical_fisher_diagonal(
    losses_fn: LossesFunction,
    *,
    method: Method = "auto",
    chunk_size: int | None = None,
    argnums: Argnums = 0,
) -> Callable[..., Any]:
    """Return the function that computes the diagonal of the empirical Fisher matrix.

    ::

        1/B sum_b g_b^2,    g_b = d loss_b / d params

    of the labels that were observed. It is not an estimate of the Fisher information, which takes
    labels from the model: Kunstner et al. 2019, arXiv:1905.12558. Products with the whole matrix
    are `curvature.empirical_fvp`.

    Parameters
    ----------
    losses_fn, method, chunk_size, argnums
        As for `moments`.

    Returns
    -------
    A function of `(params, *batch)` that returns a tree like the parameters.

    Raises
    ------
    As for `grads`.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> params, x = {"w": torch.zeros(2)}, torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    >>> empirical_fisher_diagonal(losses)(params, x)
    {'w': tensor([5., 2.])}
    """
    argnums = check_argnums("empirical_fisher_diagonal", argnums)
    check_method("empirical_fisher_diagonal", method)
    check_count("empirical_fisher_diagonal", "chunk_size", chunk_size)
    formed_or_not: Method = "materialize" if method == "materialize" else "ghost"

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> Any:
        call = Call("empirical_fisher_diagonal", losses_fn, args, argnums=argnums)
        leaves = by_method(call, formed_or_not, chunk_size).leaves
        return call.like_params([sum_of_squares(leaf, chunk_size) / call.size for leaf in leaves])

    return of_examples


def fisher_diagonal(
    model: Model,
    distribution: OutputDistribution,
    *,
    key: Tensor | None = None,
    samples: int | None = None,
    method: Method = "auto",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return the function that computes the diagonal of the Fisher information.

    ::

        1/B sum_b E_{y ~ p(y | f_b)} [g_b^2],    g_b = d log p(y | f_b) / d params

    The expectation is exact, with one backward pass for each output (together, by `vmap`):
    `E[g_b g_b'] = J_b' F(f_b) J_b`, and the columns of a square root of `F(f_b)` are what is sent
    back. With `key` and `samples`, labels are drawn instead, and it is one pass for each sample.
    Products with the whole matrix are `curvature.fvp` and `curvature.sampled_fvp`; the same key
    draws the same labels there. Martens 2020, arXiv:1412.1193.

    Parameters
    ----------
    model
        A pure function `model(params, *inputs)` that returns a floating tensor (batch, *output),
        of which each row depends on its own example alone.
    distribution
        What the outputs mean: `curvature.categorical`, `curvature.bernoulli`,
        `curvature.gaussian()`, or another of one tensor of outputs.
    key, samples
        None for the exact expectation; a key of `purefn.functional.random`, and how many labels to
        draw for each example (one by default).
    method, chunk_size
        As for `moments`.

    Returns
    -------
    A function of `(params, *inputs)` that returns a tree like the parameters.

    Raises
    ------
    TypeError, ValueError
        As for `grads`; also when the distribution has no closed form and no key is given, or
        `samples` is given without a key.

    Examples
    --------
    >>> from purefn.functional import curvature
    >>> def model(params, x):
    ...     return x @ params["w"]
    >>> params, x = {"w": torch.zeros(2)}, torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    >>> fisher_diagonal(model, curvature.bernoulli)(params, x)
    {'w': tensor([1.2500, 0.5000])}
    """
    check_method("fisher_diagonal", method)
    check_count("fisher_diagonal", "samples", samples)
    check_count("fisher_diagonal", "chunk_size", chunk_size)
    if key is None and samples is not None:
        raise ValueError(f"fisher_diagonal: samples={samples} labels cannot be drawn without key.")
    if key is None and distribution.fisher is None:
        raise ValueError(
            "fisher_diagonal: the distribution has no closed form, its fisher is None. Draw labels "
            "instead: fisher_diagonal(model, distribution, key=key, samples=samples)."
        )
    count = samples or 1

    @functools.wraps(model, updated=())
    def log_probs(params: Any, *inputs_and_targets: Any) -> Tensor:
        *inputs, targets = inputs_and_targets
        return distribution.log_prob(model(params, *inputs), targets)

    losses_fn = weighted_outputs("fisher_diagonal", model) if key is None else log_probs

    def sent_back(outputs: Tensor) -> tuple[Any, int]:
        """Return what the losses take beside the inputs, and by what to divide."""
        if key is None:
            return _square_roots(distribution, outputs), len(outputs)
        draws = vmap(lambda key: distribution.sample(key, outputs))(random.split(key, count))
        return draws, count * len(outputs)

    @functools.wraps(model, updated=())
    def of_batch(params: tree.PyTree, *inputs: Any) -> Any:
        outputs = checked_outputs("fisher_diagonal", model, model(params, *inputs))
        values, scale = sent_back(stop_gradient(outputs))

        def call_of(value: Any) -> Call:
            return Call("fisher_diagonal", losses_fn, (params, *inputs, value))

        found = stacked(call_of, values, method)
        diagonals = [sum_of_squares(leaf.flat(), chunk_size) / scale for leaf in found]
        return tree.unflatten(tree.structure(params), diagonals)

    return of_batch


def _square_roots(distribution: OutputDistribution, outputs: Tensor) -> Tensor:
    """Return columns s_o, shape (O, B, *output), with sum_o s_o s_o' = F(f_b) for each example."""
    fisher = distribution.fisher
    assert fisher is not None
    count, shape = len(outputs), outputs.shape[1:]
    one_hot = torch.eye(shape.numel(), dtype=outputs.dtype, device=outputs.device)
    tangents = one_hot.reshape(-1, 1, *shape).expand(-1, count, *shape)
    # Its products are of the mean over examples.
    rows = count * vmap(lambda tangent: fisher(outputs, tangent))(tangents)
    matrices = rows.reshape(len(rows), count, len(rows)).transpose(0, 1)
    values, vectors = torch.linalg.eigh(matrices)
    roots: Tensor = vectors * values.clamp_min(0).sqrt().unsqueeze(1)
    return roots.permute(2, 0, 1).reshape(-1, count, *shape)
