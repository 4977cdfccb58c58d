"""Wrong mathematics: moments and their correction, decay, momentum, the rules of torch.optim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import optim
from ...functional import tree
from ...optim import GradientTransformation
from ...optim.moments import bias_correction, corrections
from .planting import (
    Fault,
    Plant,
    Step,
    after,
    elements,
    leaves,
    part,
    rewritten,
    substituted,
    with_part,
)

# --- Adam's moments ------------------------------------------------------------------------------


def _corrected(function: Callable[..., Any], **more: Any) -> Fault:
    """Plant another `corrections` in Adam: a function of both bias corrections and eps."""

    def wrong(count: Tensor, b1: Any, b2: Any, eps: Any) -> Any:
        return function(bias_correction(b1, count), bias_correction(b2, count), eps)

    return Fault("adam", _in_adam(corrections=wrong, **more))


def _in_adam(**wrong: Any) -> Plant:
    return substituted("adam", "algorithms.adam", **wrong)


def _in_descent(rule: str, **wrong: Any) -> Plant:
    return substituted(rule, "algorithms.recipes", **wrong)


def _in_sgd(**wrong: Any) -> Plant:
    return substituted("sgd", "algorithms.sgd", **wrong)


def _lossy(decay: Any, count: Tensor) -> Tensor:
    """Return the correction as float32 has it."""
    return (1 - torch.as_tensor(decay, dtype=torch.float32) ** count).double()


def _swapped(b1: Any, b2: Any, eps: Any, **options: Any) -> GradientTransformation:
    return optim.scale_by_adam(b2, b1, eps, **options)


MOMENTS = {
    "eps scaled by the root of the correction": _corrected(
        lambda c1, c2, eps: (c1 / c2.sqrt(), c1 * eps / c2.sqrt())
    ),
    "eps inside the root": _corrected(
        lambda c1, c2, eps: (c1**2 / c2, c1**2 * eps),
        corrected_direction=lambda m, v, factor, eps: m / (v * factor + eps).sqrt(),
    ),
    "eps forgotten": _corrected(lambda c1, c2, eps: (c1 / c2.sqrt(), c1 * 0)),
    "second moment not corrected": _corrected(lambda c1, c2, eps: (c1, c1 * eps)),
    "first moment not corrected": _corrected(
        lambda c1, c2, eps: (1 / c2.sqrt(), torch.ones_like(c1) * eps)
    ),
    "first moment corrected twice": _corrected(
        lambda c1, c2, eps: (c1**2 / c2.sqrt(), c1**2 * eps)
    ),
    "bias correction in float32": Fault(
        "adam", substituted("adam", "moments", bias_correction=_lossy)
    ),
    "steps counted from two": Fault(
        "adam",
        _in_adam(corrections=lambda count, *rest: corrections(count + 1, *rest)),
    ),
    "betas swapped": Fault("adam", _in_adam(scale_by_adam=_swapped)),
    "first moment without its weight": Fault(
        "adam", _in_adam(first_moment=lambda m, g, decay: decay * m + g)
    ),
    "second moment of absolute values": Fault(
        "adam", _in_adam(second_moment=lambda v, g, decay: decay * v + (1 - decay) * g.abs())
    ),
    "second moment with the square of its weight": Fault(
        "adam", _in_adam(second_moment=lambda v, g, decay: decay * v + (1 - decay**2) * g * g)
    ),
    "steep directions clipped": Fault(
        "adam", elements("adam", lambda u, g: torch.where(u.abs() > 2e-3, u / 2, u)), step=None
    ),
}

# --- AMSGrad -------------------------------------------------------------------------------------


def _ams_corrected(b1: Any, b2: Any, eps: Any, **options: Any) -> GradientTransformation:
    """Return AMSGrad as optax has it: the maximum is of corrected moments."""
    right = optim.scale_by_amsgrad(b1, b2, eps, **options)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        before, now = (bias_correction(b2, state.count + offset) for offset in (0, 1))
        factor = torch.where(before == 0, 0.0, now / before)
        rescaled = tree.map(lambda leaf: (leaf * factor).to(leaf.dtype), state.nu_max)
        return right.update(updates, state._replace(nu_max=rescaled), params)

    return GradientTransformation(right.init, update)


def _maximum_dropped(step: Step) -> Any:
    """Store the second moment in the place of its maximum."""
    if part(step.after, "nu_max") is None:
        return step.updates, step.after
    moments = iter(tree.leaves(part(step.after, "nu")))
    return step.updates, with_part(step.after, "nu_max", lambda leaf: next(moments))


AMSGRAD = {
    "maximum of corrected moments": Fault(
        "adam",
        _in_adam(scale_by_amsgrad=_ams_corrected),
        step=2,
    ),
    "maximum not stored": Fault("adam", after("adam", _maximum_dropped), step=2),
    "maximum stored after the root": Fault(
        "adam",
        after("adam", lambda step: (step.updates, with_part(step.after, "nu_max", torch.sqrt))),
    ),
    "amsgrad without effect": Fault(
        "adam",
        _in_adam(
            scale_by_amsgrad=lambda *args, **options: optim.scale_by_adam(*args, **options),
        ),
        step=2,
    ),
}

# --- decay, maximize -----------------------------------------------------------------------------


def _coupled(weight_decay: Any = 1e-2, **options: Any) -> GradientTransformation:
    return optim.adam(weight_decay=weight_decay, **options)


def _unscaled(weight_decay: Any) -> GradientTransformation:
    return optim.add_decayed_weights(weight_decay * 1.001)


def _after_the_rate(weight_decay: Any = 1e-2, **options: Any) -> GradientTransformation:
    """Decay by `weight_decay`, whatever the learning rate is."""
    decay = [optim.scale(-1), optim.add_decayed_weights(weight_decay), optim.scale(-1)]
    return optim.chain(optim.adamw(weight_decay=0, **options), *decay)


def _turned(
    weight_decay: Any = 0, maximize: bool = False, **options: Any
) -> GradientTransformation:
    """Turn the decay around too."""
    decay = [optim.add_decayed_weights(weight_decay)] if weight_decay else []
    turn = [optim.scale(-1)] if maximize else []
    return optim.chain(*decay, *turn, optim.sgd(**options))


DECAY = {
    "decay forgotten": Fault(
        "sgd",
        _in_descent("sgd", add_decayed_weights=lambda decay: optim.identity()),
    ),
    "decay coupled in AdamW": Fault("adamw", rewritten("adamw", _coupled)),
    "decay not scaled by the rate": Fault("adamw", rewritten("adamw", _after_the_rate)),
    "decay a thousandth too strong": Fault(
        "adamw", _in_descent("adamw", add_decayed_weights=_unscaled)
    ),
    "maximize without effect": Fault("sgd", _in_descent("sgd", scale=lambda sign: optim.scale(1))),
    "maximize turns the decay": Fault("sgd", rewritten("sgd", _turned)),
    "wrong sign": Fault("sgd", leaves("sgd", torch.neg)),
    "rate a millionth too small": Fault("sgd", leaves("sgd", lambda update: update * (1 - 1e-6))),
    "large gradients clipped": Fault(
        "sgd",
        after(
            "sgd",
            lambda s: (
                tree.map(lambda u, g: torch.where(g.abs() > 10, u * 0.9, u), s.updates, s.grads),
                s.after,
            ),
        ),
    ),
    "small gradients lost": Fault(
        "sgd",
        after(
            "sgd",
            lambda s: (
                tree.map(lambda u, g: torch.where(g.abs() < 1e-7, u * 0, u), s.updates, s.grads),
                s.after,
            ),
        ),
    ),
}

# --- momentum ------------------------------------------------------------------------------------


def _into_the_buffer(step: Step) -> Any:
    """Keep, with Nesterov's rule, what it adds in the buffer."""
    return step.updates, with_part(step.after, "trace", lambda leaf: leaf * 1.9)


def _reset(step: Step) -> Any:
    """Forget the momentum after every forty-first step."""
    count = part(step.after, "count")
    if part(step.after, "trace") is None:
        return step.updates, step.after
    kept = (count % 41 != 0).double()
    return step.updates, with_part(step.after, "trace", lambda leaf: (leaf * kept).to(leaf.dtype))


def _complement(count: Tensor, dampening: Any) -> tuple[Tensor, ...]:
    """Weigh later gradients by the dampening."""
    return (torch.where(count == 0, 1.0, torch.ones_like(count).double() * dampening),)


MOMENTUM = {
    "first gradient dampened": Fault(
        "sgd",
        _in_sgd(
            _weight_of_gradient=lambda count, dampening: (
                (torch.ones((), dtype=torch.float64) - dampening,)
            ),
        ),
    ),
    "dampening without effect": Fault(
        "sgd",
        _in_sgd(_weight_of_gradient=lambda count, dampening: ()),
        step=2,
    ),
    "dampening taken for what it leaves": Fault(
        "sgd",
        _in_sgd(_weight_of_gradient=_complement),
        step=2,
    ),
    "nesterov without looking ahead": Fault(
        "sgd",
        _in_sgd(
            trace=lambda decay, nesterov, *, dampening: optim.trace(decay, dampening=dampening),
        ),
    ),
    "nesterov in the buffer": Fault("sgd", after("sgd", _into_the_buffer)),
    "rate in the momentum": Fault(
        "sgd",
        _in_descent("sgd", chain=lambda *parts: optim.chain(parts[-1], *parts[:-1])),
    ),
    "momentum forgotten after forty-one steps": Fault("sgd", after("sgd", _reset), step=41),
}

# --- the rules of torch --------------------------------------------------------------------------


def _radam(threshold: float) -> Any:
    """Return the factors of RAdam with another length from which it is rectified."""

    def factors(count: Tensor, b1: Any, b2: Any, eps: Any) -> tuple[Tensor, ...]:
        correction1, correction2 = bias_correction(b1, count), bias_correction(b2, count)
        longest = 2 / (torch.ones_like(correction2) - b2) - 1
        length = longest - 2 * count * (1 - correction2) / correction2
        rectified = length > threshold
        squared = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        step_size = (torch.where(rectified, squared, 1.0) * correction2).sqrt() / correction1
        return rectified, 1 / step_size, torch.where(rectified, eps / step_size, correction1)

    return factors


def _late_rprop(step: Step) -> Any:
    """Return the step of before, as optax's Rprop does."""
    previous, sizes = part(step.before, "prev"), part(step.before, "step_size")
    late = tree.map(lambda g, d: -g.sign() * d, previous, sizes)
    return late, step.after


RULES = {
    "nadam without its warm-up": Fault(
        "nadam",
        substituted(
            "nadam",
            "algorithms.nadam",
            _momentum=lambda count, b1, decay: torch.ones_like(count, dtype=torch.float64) * b1,
        ),
    ),
    "nadam decays its momentum by powers of 0.95": Fault(
        "nadam",
        substituted(
            "nadam",
            "algorithms.nadam",
            _momentum=lambda count, b1, decay: b1 * (1 - 0.5 * 0.95 ** (count.double() * decay)),
        ),
    ),
    "radam rectified too early": Fault(
        "radam", substituted("radam", "algorithms.radam", _factors=_radam(4)), step=None
    ),
    "radam rectified too late": Fault(
        "radam", substituted("radam", "algorithms.radam", _factors=_radam(6)), step=None
    ),
    "rmsprop with Adam's weights": Fault(
        "rmsprop",
        substituted(
            "rmsprop",
            "algorithms.rmsprop",
            second_moment=lambda v, g, decay: decay * v + decay * g * g,
        ),
    ),
    "rprop one step late": Fault("rprop", after("rprop", _late_rprop)),
    "adagrad starts at a tenth": Fault(
        "adagrad",
        substituted(
            "adagrad",
            "algorithms.adagrad",
            scale_by_rss=lambda start, eps: optim.scale_by_rss(start + 0.1, eps),
        ),
    ),
    "adagrad decays its rate a step early": Fault(
        "adagrad",
        substituted(
            "adagrad",
            "algorithms.adagrad",
            _decaying=lambda decay: lambda step: 1 / (1 + (step + 1) * decay),
        ),
    ),
    "adadelta measures steps by gradients": Fault(
        "adadelta",
        after("adadelta", lambda s: (s.updates, with_part(s.after, "e_x", lambda x: x * 1.01))),
    ),
    "adamax never forgets": Fault(
        "adamax",
        after("adamax", lambda s: (s.updates, _larger(s))),
        step=2,
    ),
}


def _larger(step: Step) -> Any:
    """Keep the norm of before where it was larger."""
    before = iter(tree.leaves(part(step.before, "nu")))
    return with_part(step.after, "nu", lambda leaf: torch.maximum(leaf, next(before)))


EQUATIONS = {**MOMENTS, **AMSGRAD, **DECAY, **MOMENTUM, **RULES}
