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

import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from purefn import optim
from purefn.functional import tree
from purefn.optim.leafwise import leafwise
from purefn.optim.moments import bias_correction, first_step
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
    """Yield parameters and state after each step, equation by equation."""
    b1, b2 = betas
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        theta = theta - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * theta)
        yield theta, {"mu": m, "nu": v}


# And once to be used: over trees of tensors, with a state that is passed in and returned. What
# remains open is `direction`: where to go from a gradient and the two averages.


class NadamState(NamedTuple):
    """The number of steps, and the averages of gradients and of their squares."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree


Direction = Callable[..., Tensor]
Recipe = Callable[..., optim.GradientTransformation]


def scale_by_nadam(
    betas: tuple[float, float], eps: float, direction: Direction
) -> optim.GradientTransformation:
    """Turn gradients into `direction`s of the two averages."""
    b1, b2 = betas

    def init(params: tree.PyTree) -> NadamState:
        zeros = tree.zeros_like(params)
        return NadamState(first_step(params), mu=zeros, nu=zeros)

    def update(
        updates: tree.PyTree, state: NadamState, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, NadamState]:
        t = state.count + 1

        def rule(g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g * g
            return direction(g, m, v, t, b1, b2, eps), m, v

        trees = {"updates": updates, "state.mu": state.mu, "state.nu": state.nu}
        updates, mu, nu = leafwise(rule, trees, results=3)
        return updates, NadamState(t, mu, nu)

    return optim.GradientTransformation(init, update)


def nadamw(direction: Direction) -> Recipe:
    """Return the recipe that goes in a direction."""

    def recipe(
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> optim.GradientTransformation:
        return optim.chain(
            scale_by_nadam(betas, eps, direction),
            optim.add_decayed_weights(weight_decay),
            optim.scale_by_learning_rate(lr),
        )

    recipe.__name__ = direction.__name__
    return recipe


# --- the direction, as first written -------------------------------------------------------------
#
# To divide every element of `v` by a number `c` costs a pass over memory. Its root can be
# multiplied in later, where other factors stand: m / sqrt(v / c) = m sqrt(c) / sqrt(v).


def first_attempt(
    g: Tensor, m: Tensor, v: Tensor, t: Tensor, b1: float, b2: float, eps: float
) -> Tensor:
    """Return `m_hat / (sqrt(v_hat) + eps)`, with a factor of `sqrt(v_hat)` pulled out."""
    m_hat = b1 * m / bias_correction(b1, t + 1) + (1 - b1) * g / bias_correction(b1, t)
    return m_hat * bias_correction(b2, t).sqrt() / (v.sqrt() + eps)


# --- mended --------------------------------------------------------------------------------------
#
# `eps` stood beside `sqrt(v_hat)`. Now it stands beside `sqrt(v)`, which is smaller, in the first
# step by a factor of sqrt(1 - 0.999) = 1/32. While gradients are large, training cannot tell; once
# they are as small as `eps`, the steps are too short by that factor. So `eps` is scaled like `v`.


def mended(g: Tensor, m: Tensor, v: Tensor, t: Tensor, b1: float, b2: float, eps: float) -> Tensor:
    """Return `m_hat / (sqrt(v_hat) + eps)`, with a factor of both terms pulled out."""
    m_hat = b1 * m / bias_correction(b1, t + 1) + (1 - b1) * g / bias_correction(b1, t)
    root = bias_correction(b2, t).sqrt()
    return m_hat * root / (v.sqrt() + eps * root)


# --- what training says, and what the kit says ---------------------------------------------------


def train(recipe: Recipe, steps: int = 300) -> float:
    """Minimize |x - 1|^2 from x = 0, and return what is left of it."""
    params, optimizer = torch.zeros(3), recipe(lr=0.01, weight_decay=0.0)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(2 * (params - 1), state, params)
        params = optim.apply_updates(params, updates)
    return (params - 1).square().sum().item()


def verify(recipe: Recipe) -> bool:
    """Hold a recipe against the paper; print the counter-example if there is one."""
    start = time.perf_counter()
    try:
        check_optimizer(recipe, paper)
    except AssertionError as counterexample:
        print(f"The kit, against the paper:\n\n{textwrap.indent(str(counterexample), '  ')}\n")
        return False
    seconds = time.perf_counter() - start
    print(f"The kit, against the paper: the same in every step and state ({seconds:.0f} s).")
    return True


def main() -> None:
    """Train with both, and verify both."""
    torch.set_num_threads(1)
    for title, direction in (("As first written", first_attempt), ("Mended", mended)):
        print(f"{title}\n{'=' * len(title)}")
        print(f"Training, from a loss of 3 in 300 steps: {train(nadamw(direction)):.2g}.")
        verify(nadamw(direction))


if __name__ == "__main__":
    main()
