"""Who takes part: every way of taking the step of a workload, each with parameters of its own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

from .frameworks import jax, jax_takes_part, optax, to_jax, torchopt
from .workloads import Workload
from .workloads.workload import Gradients

#: Takes a step and returns its loss, which may not have been computed yet (`machine.wait`).
Step = Callable[[], Any]


def imperative(workload: Workload, network: Callable[[Any], Any]) -> Step:
    """Return torch's own step: a module, made faster by `network`, and a fused optimizer."""
    module = copy.deepcopy(workload.module)
    optimizer = workload.optimizer.torch(module.parameters())
    module = network(module)

    def step() -> Tensor:
        loss = workload.backward(module, optimizer)
        optimizer.step()
        return loss

    return step


def purefn(workload: Workload, transform: Callable[[Any], Any]) -> Step:
    """Return the pure step under `transform`."""
    optimizer = workload.optimizer.purefn()
    step = _pure_step(workload.purefn_gradients(), optimizer.update, optim.apply_updates)
    params, state = _trees(workload.module)
    return _thread(transform(step), [params, state, optimizer.init(params)], workload.batch)


def torchopt_functional(workload: Workload) -> Step:
    """Return TorchOpt's functional step that writes no input, on torch.func's gradients."""
    optimizer = workload.optimizer.torchopt()

    def update(grads: Any, moments: Any, params: Any) -> Any:
        return optimizer.update(grads, moments, params=params, inplace=False)

    apply_updates = functools.partial(torchopt.apply_updates, inplace=False)
    step = _pure_step(workload.torch_gradients(), update, apply_updates)
    params, state = _trees(workload.module)
    return _thread(step, [params, state, optimizer.init(params)], workload.batch)


def jax_donated(workload: Workload) -> Step:
    """Return the step of JAX and optax, compiled, its state donated."""
    optimizer = workload.optimizer.optax()
    step = _pure_step(workload.jax_gradients(), optimizer.update, optax.apply_updates)
    params, state = to_jax(_trees(workload.module))
    carry = [params, state, optimizer.init(params)]
    return _thread(jax.jit(step, donate_argnums=(0, 1, 2)), carry, to_jax(workload.batch))


def _pure_step(
    gradients: Gradients, update: Callable[..., Any], apply_updates: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    """Return the step that a user of any functional framework writes."""

    def step(params: Any, state: Any, moments: Any, batch: Any) -> tuple[Any, Any, Any, Any]:
        value, grads, state = gradients(params, state, *batch)
        updates, moments = update(grads, moments, params)
        return apply_updates(params, updates), state, moments, value

    return step


def _thread(step: Callable[..., Any], carry: list[Any], batch: Any) -> Step:
    """Return the step that feeds itself; `carry` becomes its own."""

    def advance() -> Any:
        *carry[:], value = step(*carry, batch)
        return value

    return advance


def _trees(module: torch.nn.Module) -> tuple[tree.PyTree, tree.PyTree]:
    """Return copies of the parameters and buffers, as nested dicts."""
    parameters = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    buffers = {name: tensor.clone() for name, tensor in module.named_buffers()}
    return tree.from_state_dict(parameters), tree.from_state_dict(buffers)


compiled = functools.partial(torch.compile, fullgraph=True, dynamic=False)
donated = pf.jit(donate_argnums=(0, 1, 2))

CONTENDERS: dict[str, Callable[[Workload], Step]] = {
    "torch eager": lambda workload: imperative(workload, lambda module: module),
    "torch.compile(module)": lambda workload: imperative(workload, compiled),
    "torch.compile(step)": lambda workload: purefn(workload, compiled),
    "torchopt": torchopt_functional,
    "jax": jax_donated,
    "purefn eager": lambda workload: purefn(workload, lambda step: step),
    "purefn jit": lambda workload: purefn(workload, pf.jit),
    "purefn donated": lambda workload: purefn(workload, donated),
}


def available(workload: Workload, names: Sequence[str] | None = None) -> list[str]:
    """Return those of `names`, by default all, that can be imported and say something new."""
    missing = {
        "torchopt": torchopt is None,
        "jax": not jax_takes_part(),
        "torch.compile(module)": not workload.has_network,
    }
    return [name for name in names or CONTENDERS if not missing.get(name)]
