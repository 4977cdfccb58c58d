"""`check_optimizer`: an update rule against a reference, step by step and state by state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .. import optim
from ..functional import tree
from . import first_slice as references

__all__ = ["check_optimizer"]

#: What torch.optim calls the fields of our states.
TORCH_NAMES = {
    "trace": "momentum_buffer",
    "mu": "exp_avg",
    "nu": "exp_avg_sq",
    "nu_max": "max_exp_avg_sq",
}


def check_optimizer(
    ours: Callable[..., optim.GradientTransformation],
    reference: Any,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
    steps: int = 60,
) -> None:
    """Require that the recipe `ours` computes what `reference` does (first version: one problem).

    `reference` is a class of torch.optim or a transcription (`references.Transcription`), both
    called with the same `hyperparameters` as the recipe. `states` maps fields of our state to names
    in the state of the torch optimizer, where they are not those of `TORCH_NAMES`.
    """
    hyperparameters = dict(hyperparameters or {})
    params, gradients = problem(steps)
    if isinstance(reference, type) and issubclass(reference, torch.optim.Optimizer):
        names = {**TORCH_NAMES, **(states or {})}
        theirs = references.run_torch(reference, params, gradients, hyperparameters, names)
    else:
        theirs = references.run_transcription(reference, params, gradients, hyperparameters)
    run = our_run(ours(**hyperparameters), params, gradients)
    largest: dict[str, list[Any]] = {}
    for step, (our_snapshot, snapshot) in enumerate(zip(run, theirs, strict=True), start=1):
        for name, expected in snapshot.items():
            got = our_snapshot(name)
            now = [leaf.abs() for leaf in expected]
            before = largest.get(name, now)
            largest[name] = [torch.maximum(*pair) for pair in zip(before, now, strict=True)]
            rows = zip(got, expected, largest[name], strict=True)
            for index, (our_leaf, leaf, scale) in enumerate(rows):
                torch.testing.assert_close(
                    our_leaf.double() / scale.clamp(min=1e-300),
                    leaf.double().reshape(our_leaf.shape) / scale.clamp(min=1e-300),
                    rtol=0,
                    atol=1e-11,
                    msg=lambda text, at=(step, name, index): f"step {at[0]}, {at[1:]}: {text}",
                )


def our_run(
    optimizer: optim.GradientTransformation, params: Any, gradients: Sequence[Any]
) -> Iterator[Callable[[str], list[torch.Tensor]]]:
    """Yield the function that gives parameters and states by name, after each step."""
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)

        def snapshot(name: str, params: Any = params, state: Any = state) -> list[torch.Tensor]:
            return tree.leaves(params if name == "params" else optim.get(state, name))

        yield snapshot


def problem(steps: int) -> tuple[Any, list[Any]]:
    """Return parameters, and gradients of scales 1e-8 to 1e2 with sign flips and zeros."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(size, dtype=torch.float64, generator=generator)

    def gradient(leaf: torch.Tensor) -> torch.Tensor:
        scale = 10 ** (uniform() * 10 - 8)
        keep = (uniform(*leaf.shape) > 0.1) * (uniform() > 0.1)
        return (uniform(*leaf.shape) * 2 - 1) * scale * keep

    params = {"weight": uniform(5, 3) - 0.5, "bias": uniform(5) - 0.5, "scale": uniform() - 0.5}
    return params, [tree.map(gradient, params) for _ in range(steps)]
