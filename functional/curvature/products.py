"""Products with the Gauss-Newton and Fisher matrices, which are never formed.

All of them push a tangent through the model, multiply it by a small matrix at its outputs, and pull
the result back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .. import random, tree
from ..autodiff import hvp, jvp, stop_gradient, vjp
from ..batching import vmap
from ..border import describe, function_name
from .coordinates import check_count
from .distributions import OutputDistribution

Primals = Sequence[tree.PyTree]


def gnvp(
    model: Callable[..., Any], loss: Callable[[Any], Any], primals: Primals, tangents: Primals
) -> Any:
    """Return the product with the generalised Gauss-Newton matrix of `loss(model(*primals))`.

    ::

        G v = J^T H_L J v

    where `J` is the Jacobian of the model and `H_L` the Hessian of the loss at its outputs. It is
    positive semidefinite where the loss is convex, and the Hessian where the model is linear.
    Schraudolph 2002, "Fast curvature matrix-vector products".

    Parameters
    ----------
    model
        A pure function of trees, `model(*primals) -> outputs`, a tree of floating tensors.
    loss
        A pure function of `outputs` that returns a 0-d floating tensor.
    primals, tangents
        As for `hvp`: two tuples of equal trees. The product is taken along all of them and returned
        for the first; to leave an argument out, close over it.

    Returns
    -------
    A tree like the first of `primals`.

    Raises
    ------
    TypeError, ValueError
        `primals` is no tuple of trees of floating tensors, `tangents` is not like it, or the loss
        is no scalar; the message names the leaf.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([1.0, 0.0])
    >>> model = lambda params: x @ params["w"]
    >>> loss = lambda outputs: 0.5 * (outputs - y).square().sum()
    >>> gnvp(model, loss, ({"w": torch.zeros(2)},), ({"w": torch.tensor([1.0, 1.0])},))
    {'w': tensor([3., 7.])}
    """
    return _sandwich("gnvp", model, primals, tangents, lambda f, u: hvp(loss, (f,), (u,)))


def fvp(
    model: Callable[..., Any],
    distribution: OutputDistribution,
    primals: Primals,
    tangents: Primals,
) -> Any:
    """Return the product with the Fisher information of a model whose outputs are a distribution.

    ::

        F v = 1/N sum_n E_{y ~ p(y | f_n)} [g_n g_n^T] v,    g_n = d log p(y | f_n) / d params
            = 1/N sum_n J_n^T F(f_n) J_n v

    The expectation over the labels is taken in closed form at the outputs, where it is `F(f)`; no
    label that was observed enters. For the exponential families of `distributions` it is also the
    Gauss-Newton matrix of the negative log-likelihood. Martens 2020, arXiv:1412.1193.

    Parameters
    ----------
    model
        A pure function of trees, `model(*primals) -> outputs`, one row for each of N examples.
    distribution
        What the outputs mean: `categorical`, `bernoulli`, `gaussian()`, or another
        `OutputDistribution` with a `fisher`.
    primals, tangents
        As for `gnvp`.

    Returns
    -------
    A tree like the first of `primals`.

    Raises
    ------
    ValueError
        The distribution has no closed form: use `sampled_fvp`.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> model = lambda w: torch.cat([x * w, torch.zeros(2, 1)], 1)
    >>> fvp(model, categorical, (torch.tensor(0.0),), (torch.tensor(1.0),))
    tensor(0.6250)
    """
    if distribution.fisher is None:
        raise ValueError(
            "fvp: the distribution has no closed form, its fisher is None. Draw labels instead: "
            "sampled_fvp(model, distribution, primals, tangents, key=key)."
        )
    return _sandwich("fvp", model, primals, tangents, distribution.fisher)


def sampled_fvp(
    model: Callable[..., Any],
    distribution: OutputDistribution,
    primals: Primals,
    tangents: Primals,
    *,
    key: Tensor,
    samples: int = 1,
) -> Any:
    """Return an unbiased estimate of `fvp`, from labels `y_ns ~ p(y | f_n)` drawn from the model.

    ::

        1/(N S) sum_n sum_s g_ns g_ns^T v,    g_ns = d log p(y_ns | f_n) / d params

    The same key draws the same labels, and then this is the product with one fixed matrix, as the
    iterative methods need it. The model is run as often as in `fvp`, whatever `samples` is.

    Parameters
    ----------
    model, primals, tangents
        As for `fvp`.
    distribution
        As for `fvp`; `log_prob` and `sample` are used.
    key
        A key of `purefn.functional.random`.
    samples
        How many labels to draw for each example.

    Returns
    -------
    A tree like the first of `primals`.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> model = lambda w: torch.cat([x * w, torch.zeros(2, 1)], 1)
    >>> w, v = torch.tensor(0.0), torch.tensor(1.0)
    >>> sampled_fvp(model, categorical, (w,), (v,), key=random.key(0), samples=3)
    tensor(0.6250)
    """
    check_count("sampled_fvp", "samples", samples)
    keys = random.split(key, samples)

    def product(outputs: Any, tangent: Any) -> Any:
        def of_one_draw(key: Tensor) -> Any:
            targets = distribution.sample(key, stop_gradient(outputs))
            return empirical_fvp(
                lambda f: distribution.log_prob(f, targets), (outputs,), (tangent,)
            )

        return tree.map(lambda products: products.mean(0), vmap(of_one_draw)(keys))

    return _sandwich("sampled_fvp", model, primals, tangents, product)


def empirical_fvp(losses_fn: Callable[..., Tensor], primals: Primals, tangents: Primals) -> Any:
    """Return the product with the empirical Fisher matrix, of the observed labels.

    ::

        1/N sum_n g_n g_n^T v = 1/N J^T J v,    g_n = d loss_n / d params

    where `J` is the Jacobian of the losses: no gradient of a single example is formed. It is not an
    estimate of the Fisher information, which takes labels from the model: Kunstner et al. 2019,
    arXiv:1905.12558.

    Parameters
    ----------
    losses_fn
        A pure function of trees that returns one loss per example, shape `(N,)`. A batch is closed
        over: `lambda params: losses_fn(params, images, labels)`.
    primals, tangents
        As for `gnvp`.

    Returns
    -------
    A tree like the first of `primals`.

    Raises
    ------
    ValueError
        `losses_fn` does not return one loss per example.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])
    >>> losses_fn = lambda w: 0.5 * (w * x - y) ** 2
    >>> empirical_fvp(losses_fn, (torch.tensor(2.0),), (torch.tensor(1.0),))
    tensor(18.5000)
    """

    def losses_of(*primals: tree.PyTree) -> Tensor:
        losses = losses_fn(*primals)
        if not isinstance(losses, Tensor) or losses.ndim != 1:
            raise ValueError(
                f"empirical_fvp: {function_name(losses_fn)} returned {describe(losses)}, expected "
                "one loss per example, shape (batch,). Leave out the mean or sum."
            )
        return losses

    return _sandwich("empirical_fvp", losses_of, primals, tangents, lambda f, u: u / f.shape[0])


def _sandwich(
    caller: str,
    model: Callable[..., Any],
    primals: Primals,
    tangents: Primals,
    middle: Callable[[Any, Any], Any],
) -> Any:
    """Return `J^T M J v`, where `middle(outputs, u)` is `M u`."""
    if not callable(model):
        raise TypeError(f"{caller}: expected a function for the model, got {describe(model)}.")
    outputs, tangent = jvp(model, primals, tangents)
    _, pull_back = vjp(lambda first: model(first, *primals[1:]), primals[0])
    return pull_back(middle(outputs, tangent))[0]
