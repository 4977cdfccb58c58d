"""The empirical neural tangent kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from .. import tree
from ..batching import vmap
from .calls import Call
from .factors import NEAR, Outer, widened
from .gradients import total_of
from .leaves import Method, check_method
from .outputs import Model, Stacked, each_output, leaves_of_call, stacked, weighted_outputs
from .products import inner_products, leaf_products, pairs
from .similarity import as_batch

#: The whole kernel of all outputs, or its trace over them.
Outputs = Literal["full", "trace"]


def ntk(
    model: Model, *, outputs: Outputs = "full", method: Method = "auto"
) -> Callable[..., Tensor]:
    """Return the function that computes the empirical neural tangent kernel of a batch.

    ::

        Theta_bc = J_b J_c',    J_b = d f(x_b) / d params

    (Jacot et al. 2018, arXiv:1806.07572). Of the ways to compute it that Novak et al. 2022,
    arXiv:2206.08720, describe, each parameter takes the cheaper of two: *Jacobian contraction*
    forms `J_b`, and *structured derivatives* contract what it is a product of.

    Parameters
    ----------
    model
        A pure function `model(params, *inputs)` that returns a floating tensor (batch, *output),
        of which each row depends on its own example alone.
    outputs
        "full" for all pairs of outputs, or "trace" for `sum_o Theta_bc,oo`, which costs less by the
        number of outputs. (Neural Tangents divides this by that number.)
    method
        "materialize" for Jacobian contraction, "ghost" for structured derivatives where they are
        known, "auto" for the cheaper. All agree to rounding.

    Returns
    -------
    A function of `(params, *inputs)` that returns a tensor (batch, batch, *output, *output), or
    (batch, batch) for the trace.

    Raises
    ------
    TypeError, ValueError
        As for `grads`; also when the model returns anything but one floating tensor.

    Examples
    --------
    >>> import torch
    >>> def model(params, x):
    ...     return x @ params["w"].T
    >>> params, x = {"w": torch.zeros(2, 3)}, torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> ntk(model)(params, x).shape
    torch.Size([2, 2, 2, 2])
    >>> ntk(model, outputs="trace")(params, x)
    tensor([[10.,  4.],
            [ 4.,  4.]])
    """
    kernel = _kernel("ntk", model, outputs, method)

    @functools.wraps(model, updated=())
    def of_batch(params: tree.PyTree, *inputs: Any) -> Tensor:
        products: Tensor = kernel(params, inputs)
        return products

    return of_batch


def cross_ntk(
    model: Model, *, outputs: Outputs = "full", method: Method = "auto"
) -> Callable[[tree.PyTree, Sequence[Any], Sequence[Any]], Tensor]:
    """Return the function that computes the empirical tangent kernel between two batches.

    ::

        Theta_bc = J_b J_c',    J_b = d f(x_b) / d params,    J_c = d f(z_c) / d params

    Parameters
    ----------
    model, outputs, method
        As for `ntk`.

    Returns
    -------
    A function of `(params, inputs, other_inputs)`, where each is the tuple of what `model` takes
    after the parameters. It returns what `ntk` does, with shape (batch, other_batch, ...).

    Raises
    ------
    As for `ntk`.

    Examples
    --------
    >>> import torch
    >>> def model(params, x):
    ...     return x @ params["w"]
    >>> params, x = {"w": torch.zeros(2)}, torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    >>> cross_ntk(model)(params, (x,), (torch.tensor([[1.0, 1.0]]),))
    tensor([[3.],
            [1.]])
    """
    kernel = _kernel("cross_ntk", model, outputs, method)

    @functools.wraps(model, updated=())
    def of_batches(
        params: tree.PyTree, inputs: Sequence[Any], other_inputs: Sequence[Any]
    ) -> Tensor:
        first = as_batch("cross_ntk", "inputs", inputs)
        other = as_batch("cross_ntk", "other_inputs", other_inputs)
        products: Tensor = kernel(params, first, other)
        return products

    return of_batches


def _kernel(transform: str, model: Model, outputs: Outputs, method: Method) -> Callable[..., Any]:
    check_method(transform, method)
    if outputs not in get_args(Outputs):
        raise ValueError(f"{transform}: expected 'full' or 'trace' for outputs, got {outputs!r}.")
    losses_fn = weighted_outputs(transform, model)
    contract = _trace if outputs == "trace" else _full

    def kernel(params: tree.PyTree, *batches: Sequence[Any]) -> Tensor:
        def calls_of(inputs: Sequence[Any]) -> Calls:
            return lambda weights: Call(transform, losses_fn, (params, *inputs, weights))

        weights = [each_output(transform, model, params, inputs) for inputs in batches]
        return contract([calls_of(inputs) for inputs in batches], weights, method)

    return kernel


#: The call for each weighting of the outputs.
Calls = Callable[[Tensor], Call]


def _trace(calls: Sequence[Calls], weights: Sequence[Tensor], method: Method) -> Tensor:
    def of_output(*weights: Tensor) -> Tensor:
        leaves = [leaves_of_call(call(w), method) for call, w in zip(calls, weights, strict=True)]
        return inner_products(leaves[0], leaves[-1], method)

    products: Tensor = vmap(of_output)(*weights)
    return products.sum(0)


def _full(calls: Sequence[Calls], weights: Sequence[Tensor], method: Method) -> Tensor:
    found = [stacked(call, w, method) for call, w in zip(calls, weights, strict=True)]
    kernels = [_products(*both, method) for both in zip(found[0], found[-1], strict=True)]
    # (O, B, O, C) to (B, C, *output, *output)
    kernel = total_of(kernels, 0).permute(1, 3, 0, 2)
    output = weights[0].shape[2:]
    return kernel.reshape(*kernel.shape[:2], *output, *output)


def _products(first: Stacked, second: Stacked, method: Method) -> Tensor:
    """Return the inner products of all losses of all examples, (O, B, P, C)."""
    for transposed in (False, True):
        one, other = _operands(first, transposed), _operands(second, transposed)
        if one is None or other is None:
            continue
        if method == "ghost" or _is_cheaper(one, other):
            return _structured(one, other)
    products = leaf_products(first.flat(), second.flat(), method)
    return products.reshape(*first.like.shape, *second.like.shape)


#: Left of shape (O, B, blocks, m, k), and right of shape (B, blocks, k, n), the same for each loss.
Operands = tuple[Tensor, Tensor]


def _operands(gradients: Stacked, transposed: bool) -> Operands | None:
    """Return the operands of gradients, or of their transposes, if one serves all losses."""
    parts = gradients.leaf.parts
    if len(parts) != 1 or parts[0].start is not None or not isinstance(parts[0].factor, Outer):
        return None
    left, right = map(widened, gradients.operands[0])
    if transposed:
        left, right = right.mT, left.mT
    shared = right.shape[0] == 1 or right.stride(0) == 0
    return (left, right[0]) if shared else None


def _is_cheaper(first: Operands, second: Operands) -> bool:
    """Say whether pairs cost less from two small matrices than from formed gradients."""
    (left, right), (other_left, other_right) = first, second
    m, n, ranks = left.shape[3], right.shape[3], left.shape[4] * other_left.shape[4]
    rows, columns = left.shape[:2].numel(), other_left.shape[:2].numel()
    examples = right.shape[0] * other_right.shape[0]
    structured = ranks * (rows * columns * (m + NEAR) + examples * n)
    forming = m * n * (rows * (left.shape[4] + NEAR) + columns * (other_left.shape[4] + NEAR))
    return structured < forming + rows * columns * m * n


def _structured(first: Operands, second: Operands) -> Tensor:
    """Return sum_kl (P_ob' P_pc)_kl (Q_b Q_c')_kl, shape (O, B, P, C)."""
    # (blocks, B, O * k, C, P * l)
    lefts = pairs(*(left.permute(1, 2, 0, 4, 3).flatten(2, 3) for left, _ in (first, second)))
    lefts = lefts.unflatten(4, (second[0].shape[0], -1)).unflatten(2, (first[0].shape[0], -1))
    rights = pairs(first[1], second[1])
    products: Tensor = lefts * rights[:, :, None, :, :, None, :]
    return products.sum((0, 3, 6)).permute(1, 0, 3, 2)
