"""Learning rates as pure functions of the step.

A schedule maps the number of updates made so far, 0 at the first, to the learning rate of the next
one. The step is a Python int or a tensor of integers (0-d inside a training step; a whole range of
them to draw the curve), and the result is a float64 tensor of its shape, with float64's digits at
any step. A function of your own may return a number or a 0-d tensor.

>>> import torch
>>> from purefn.optim import schedules
>>> rate = schedules.warmup(schedules.cosine_decay(0.1, decay_steps=90), total_iters=10)
>>> rate(torch.tensor([0, 10, 55, 100]))
tensor([0.0001, 0.1000, 0.0500, 0.0000], dtype=torch.float64)

Arguments have the names of `torch.optim.lr_scheduler`, after `lr`, the rate that a scheduler finds
in its optimizer. What torch does not have takes optax's. There is one function for a thing:

==============================  ================================================================
torch.optim.lr_scheduler
==============================  ================================================================
`ConstantLR`                    `constant_factor`
`LinearLR`                      `linear`
`PolynomialLR`                  `polynomial`
`ExponentialLR`                 `exponential`
`StepLR`                        `step`
`MultiStepLR`                   `multi_step`
`CosineAnnealingLR`             `cosine`
`CosineAnnealingWarmRestarts`   `cosine_warm_restarts`
`OneCycleLR`                    `one_cycle`, `one_cycle_momentum`
`CyclicLR`                      `cyclic`; its momentum is `cyclic(max_momentum, base_momentum, ...)`
`SequentialLR`                  `join`
`ChainedScheduler`              `product`
`LambdaLR`                      any function: `lambda step: lr * lr_lambda(step)`
`MultiplicativeLR`              `optim.scale_by_running_product`, which has a state
`ReduceLROnPlateau`             `optim.reduce_on_plateau`, which has a state
==============================  ================================================================

================================  ==============================================================
optax
================================  ==============================================================
`constant_schedule`               `constant`
`polynomial_schedule`             `polynomial(init_value, transition_steps, power, end_value)`
`linear_schedule`                 `polynomial(init_value, transition_steps, 1.0, end_value)`
`exponential_decay`               `exponential(init_value, decay_rate ** (1 / transition_steps))`
... with `staircase`              `step(init_value, transition_steps, decay_rate)`
... with `end_value`              `bounded` of it
... with `transition_begin`       `join([constant(init_value), ...], [transition_begin])`
`cosine_decay_schedule`           `cosine_decay`
`piecewise_constant_schedule`     `piecewise_constant`
`piecewise_interpolate_schedule`  `piecewise_interpolate`
`cosine_onecycle_schedule`        `one_cycle`; to the letter see `piecewise_interpolate`
`linear_onecycle_schedule`        the same
`warmup_constant_schedule`        `warmup(constant(...), warmup_steps, init_value / peak_value)`
`warmup_cosine_decay_schedule`    `warmup(cosine_decay(...), ...)`
`warmup_exponential_...`          `warmup(exponential(...), ...)`
`sgdr_schedule`                   `join` of these
`join_schedules`                  `join`
================================  ==============================================================
"""

from .annealing import *
from .composition import *
from .curves import *
from .cycles import *
from .decay import *
from .piecewise import *
