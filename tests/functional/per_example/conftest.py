"""The oracle: one backward pass by torch.autograd for each loss of the whole batch, in float64."""

import math
import types

import pytest
import torch

from purefn.functional import per_example, tree
from purefn.functional.per_example.calls import Call
from purefn.functional.per_example.factored import factored


def example_gradients(losses_fn, params, *batch):
    """Return the gradient of every example, a leaf of shape (batch, *shape) for each parameter."""
    leaves, structure = tree.flatten(params)
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    losses = losses_fn(tree.unflatten(structure, leaves), *batch)
    rows = [
        torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True)
        if loss.requires_grad
        else [torch.zeros_like(leaf) for leaf in leaves]
        for loss in losses
    ]
    return [
        torch.stack(column).detach() if rows else leaf.new_zeros(0, *leaf.shape)
        for column, leaf in zip(list(zip(*rows, strict=True)) or leaves, leaves, strict=True)
    ]


def energy(y):
    """Return one loss for each row, of which neither gradient nor curvature is constant."""
    y = y.reshape(len(y), math.prod(y.shape[1:]))
    return (y.tanh().square() + y).sum(1)


def square(gradients):
    """Return the squared norms of gradients of shape (batch, *shape)."""
    return gradients.reshape(len(gradients), math.prod(gradients.shape[1:])).square().sum(1)


def assert_equal(actual, expected, what="", rtol=1e-12):
    """Demand the same structure, shapes and dtypes, and equality to `rtol` of the largest entry."""
    actual, expected = tree.leaves(actual), tree.leaves(expected)
    assert len(actual) == len(expected), what
    for place, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert (a.shape, a.dtype) == (e.shape, e.dtype), f"{what} {place}"
        torch.testing.assert_close(
            a, e, rtol=0, atol=rtol * (1 + e.abs().max().item()) if e.numel() else 0,
            msg=lambda text, place=place: f"{what}, leaf {place}: {text}",
        )  # fmt: skip


def assert_clips(losses_fn, params, *batch, methods=("ghost",), rtol=1e-12):
    """Demand of each method the norms of every leaf and the sum of gradients clipped by leaf."""
    gradients = example_gradients(losses_fn, params, *batch)
    norms = [square(leaf).sqrt() for leaf in gradients]
    # Some gradients are above the bound and some below.
    bound = torch.stack(norms).median() if norms[0].numel() else torch.tensor(1.0).double()
    sums = [
        torch.tensordot(torch.where(norm > bound, bound / norm, 1), leaf, 1)
        for norm, leaf in zip(norms, gradients, strict=True)
    ]
    for method in methods:
        found = per_example.clipped_grad(
            losses_fn,
            bound * len(gradients) ** 0.5,
            method=method,
            groups=per_example.by_leaf,
        )(params, *batch)
        assert_equal(list(found.norms.values()), norms, f"norms by {method}", rtol)
        assert_equal(found.grads, sums, f"sums by {method}", rtol)


def understood(losses_fn, params, *batch):
    """Return the paths of the parameters whose norms need no gradients."""
    call = Call("norms", losses_fn, (params, *batch))
    found = factored(call).leaves
    paths = tree.path_strings(params, "params")
    return {path for path, leaf in zip(paths, found, strict=True) if leaf.is_ghostly}


@pytest.fixture(scope="session")
def oracle():
    return types.SimpleNamespace(
        gradients=example_gradients,
        square=square,
        assert_equal=assert_equal,
        assert_clips=assert_clips,
        understood=understood,
        energy=energy,
    )
