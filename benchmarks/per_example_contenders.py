"""Who sums clipped per-example gradients: every way of it, each with parameters of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

import purefn.functional as pf
from purefn.functional import per_example, tree

from .frameworks import jax, jax_takes_part, jnp, to_jax
from .opacus_modes import opacus, opacus_gradient
from .workloads.per_example import PerExample

#: Returns the sum of the gradients, each clipped to `MAX_NORM`, as a tree or in the order of one.
Gradient = Callable[[], Any]
MAX_NORM = 1.0
FLOOR = "mean gradient"


class Contender(NamedTuple):
    """A way to the gradient, and how many times the gradients of all examples it holds at once."""

    make: Callable[[PerExample], Gradient]
    copies: int = 0
    present: bool = True


def ordinary(workload: PerExample) -> Gradient:
    """Return the floor: what an ordinary step of training computes, which clips nothing."""

    def mean_loss(params: Any, inputs: Any, labels: Any) -> Any:
        return workload.losses(params, inputs, labels).mean()

    call = pf.jit(pf.value_and_grad(mean_loss))
    params = workload.params
    return lambda: call(params, *workload.batch)[1]


def purefn(workload: PerExample, method: str) -> Gradient:
    """Return the transform, compiled."""

    def clipped(params: Any, *batch: Any) -> Any:
        return per_example.clipped_grad(workload.losses, MAX_NORM, method=method)(params, *batch)

    call, params = pf.jit(clipped), workload.params
    return lambda: call(params, *workload.batch).grads


def textbook(workload: PerExample, vmap: Any, grad: Any, stage: Any) -> Gradient:
    """Return the program that the definition says: each gradient, its norm, the weighted sum."""

    def clipped(params: Any, *batch: Any) -> Any:
        grads = vmap(grad(workload.loss), in_dims=(None, 0, 0))(params, *batch)
        squares = [leaf.flatten(1).square().sum(1) for leaf in tree.leaves(grads)]
        weights = (MAX_NORM / sum(squares).sqrt()).clamp(max=1.0)
        return tree.map(lambda leaf: torch.tensordot(weights, leaf, 1), grads)

    call, params = stage(clipped), workload.params
    return lambda: call(params, *workload.batch)


def jax_textbook(workload: PerExample) -> Gradient:
    """Return the same program in JAX, compiled."""

    @jax.jit
    def clipped(params: Any, *batch: Any) -> Any:
        grads = jax.vmap(jax.grad(workload.jax_loss), in_axes=(None, 0, 0))(params, *batch)
        squares = [jnp.sum(g.reshape(len(g), -1) ** 2, 1) for g in jax.tree.leaves(grads)]
        weights = jnp.minimum(MAX_NORM / jnp.sqrt(sum(squares)), 1.0)
        return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), grads)

    params, batch = to_jax(workload.params), to_jax(workload.batch)
    return lambda: clipped(params, *batch)


def _our_vmap(function: Any, in_dims: Any) -> Any:
    return pf.vmap(function, in_axes=in_dims)


torch_textbook = functools.partial(textbook, vmap=torch.func.vmap, grad=torch.func.grad)
our_textbook = functools.partial(textbook, vmap=_our_vmap, grad=pf.grad)
compiled = functools.partial(torch.compile, fullgraph=True, dynamic=False)


def _opacus(mode: str, copies: int) -> Contender:
    make = functools.partial(opacus_gradient, mode=mode, max_norm=MAX_NORM)
    return Contender(make, copies, opacus is not None)


CONTENDERS: dict[str, Contender] = {
    FLOOR: Contender(ordinary),
    "purefn auto": Contender(functools.partial(purefn, method="auto")),
    "purefn ghost": Contender(functools.partial(purefn, method="ghost")),
    "purefn materialize": Contender(functools.partial(purefn, method="materialize"), 1),
    "purefn textbook": Contender(functools.partial(our_textbook, stage=pf.jit), 1),
    "torch.compile": Contender(functools.partial(torch_textbook, stage=compiled), 1),
    "torch.func": Contender(functools.partial(torch_textbook, stage=lambda fun: fun), 2),
    "jax": Contender(jax_textbook, 1, jax_takes_part()),
    "opacus hooks": _opacus("hooks", 2),
    "opacus functorch": _opacus("functorch", 2),
    "opacus ew": _opacus("ew", 2),
    "opacus ghost": _opacus("ghost", 0),
}


def available(workload: PerExample, names: Sequence[str] | None = None) -> dict[str, str]:
    """Return why each of `names`, by default all, cannot take part: an empty string if it can."""
    examples = len(workload.labels) * tree.nbytes(workload.params)
    reasons = {}
    for name in names or CONTENDERS:
        contender = CONTENDERS[name]
        reasons[name] = "" if contender.present else "not installed"
        if contender.present and contender.copies * examples > _free_bytes() / 2:
            gigabytes = contender.copies * examples / 1e9
            reasons[name] = f"the gradients of all examples take {gigabytes:.0f} GB"
    return reasons


def _free_bytes() -> float:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return float("inf")
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
