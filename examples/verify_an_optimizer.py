"""Write an update rule, be shown the mistake in it, mend it, and have it proved.

    python examples/verify_an_optimizer.py

The rule is Adam with Nesterov's momentum (Dozat 2016, "Incorporating Nesterov Momentum into Adam")
and decoupled weight decay. In the words of the paper::

    m_t = b1 m_{t-1} + (1 - b1) g_t
    v_t = b2 v_{t-1} + (1 - b2) g_t^2
    m_hat = b1 m_t / (1 - b1^{t+1}) + (1 - b1) g_t / (1 - b1^t)
    v_hat = v_t / (1 - b2^t)
    theta_t = theta_{t-1} - lr (m_hat / (sqrt(v_hat) + eps) + weight_decay theta_{t-1})
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from purefn import optim
from purefn.functional import tree
from purefn.optim.leafwise import leafwise
from purefn.optim.moments import bias_correction
from purefn.testing import check_optimizer

# --- the rule, twice -----------------------------------------------------------------------------
#
# Once as the paper has it: in numpy, for one array of parameters, line by line, slow and plain.
# After each step it yields the parameters and the state, by the names of ours.


def paper(
    theta: np.ndarray,
    gradients: Sequence[np.ndarray],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    b1, b2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        theta = theta - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * theta)
        yield theta, {"mu": m, "nu": v}


# And once to be used: over trees of tensors, with a state that is passed in and returned.


class NadamState(NamedTuple):
    """The number of steps, and the averages of gradients and of their squares."""

    count: Tensor
    mu: tree.PyTree
    nu: tree.PyTree


#: `direction(g, m, v, count)`: where to go from a gradient, the two averages and the step.
Direction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def scale_by_nadam(b1: float, b2: float, direction: Direction) -> optim.GradientTransformation:
    def init(params: tree.PyTree) -> NadamState:
        zeros = tree.zeros_like(params)
        return NadamState(torch.zeros((), dtype=torch.int64), mu=zeros, nu=zeros)

    def update(
        updates: tree.PyTree, state: NadamState, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, NadamState]:
        count = state.count + 1

        def rule(g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g * g
            return direction(g, m, v, count), m, v

        trees = {"updates": updates, "state.mu": state.mu, "state.nu": state.nu}
        updates, mu, nu = leafwise(rule, trees, results=3)
        return updates, NadamState(count, mu, nu)

    return optim.GradientTransformation(init, update)


# --- the direction, as first written -------------------------------------------------------------
#
# Dividing every element of `v` by a number costs a pass over memory. The root of that number can be
# multiplied in at the end instead: `m_hat / sqrt(v / c) = m_hat * sqrt(c) / sqrt(v)`.


def first_attempt(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> optim.GradientTransformation:
    b1, b2 = betas

    def direction(g: Tensor, m: Tensor, v: Tensor, count: Tensor) -> Tensor:
        ahead = b1 * m / bias_correction(b1, count + 1) + (1 - b1) * g / bias_correction(b1, count)
        return ahead * bias_correction(b2, count).sqrt() / (v.sqrt() + eps)

    return optim.chain(
        scale_by_nadam(b1, b2, direction),
        optim.add_decayed_weights(weight_decay),
        optim.scale_by_learning_rate(lr),
    )


# --- mended --------------------------------------------------------------------------------------
#
# `eps` stood beside `sqrt(v_hat)`, and now stands beside `sqrt(v)`, which is smaller: in the first
# step by a factor of sqrt(1 - 0.999) = 1/32. Where gradients are large nothing of it can be seen.
# Where they are as small as `eps`, the update is wrong. `eps` has to be scaled like `v`.


def mended(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> optim.GradientTransformation:
    b1, b2 = betas

    def direction(g: Tensor, m: Tensor, v: Tensor, count: Tensor) -> Tensor:
        ahead = b1 * m / bias_correction(b1, count + 1) + (1 - b1) * g / bias_correction(b1, count)
        root = bias_correction(b2, count).sqrt()
        return ahead * root / (v.sqrt() + eps * root)

    return optim.chain(
        scale_by_nadam(b1, b2, direction),
        optim.add_decayed_weights(weight_decay),
        optim.scale_by_learning_rate(lr),
    )


# --- what the kit says ---------------------------------------------------------------------------


def verify(title: str, recipe: Callable[..., optim.GradientTransformation]) -> bool:
    """Hold a recipe against the paper; print the counter-example if there is one."""
    print(f"\n{title}\n{'-' * len(title)}")
    start = time.perf_counter()
    try:
        check_optimizer(recipe, paper)
    except AssertionError as counterexample:
        print(counterexample)
        return False
    seconds = time.perf_counter() - start
    print(f"It is the rule of the paper, step by step and state by state ({seconds:.0f} s).")
    return True


def main() -> None:
    """Verify both."""
    torch.set_num_threads(1)
    params = torch.ones(3)
    optimizer = first_attempt()
    state = optimizer.init(params)
    for _ in range(200):
        updates, state = optimizer.update(2 * params, state, params)
        params = optim.apply_updates(params, updates)
    print(f"As first written it minimizes |x|^2: after 200 steps x = {params.tolist()}.")
    verify("As first written", first_attempt)
    verify("Mended", mended)


if __name__ == "__main__":
    main()
