"""Pure optimizers: recipes with torch.optim's names, pieces with optax's.

An optimizer is a `GradientTransformation`, a pair of pure functions; `chain` makes one of several.

- `transformation`  what it is, `chain`, `apply_updates`
- `algorithms`      update rules, one file a family: the equation, its piece and its recipe
- `pieces`          what is composed with every rule: scaling, decay, clipping
- `schedules`       learning rates as functions of the step
- `privacy`         noise for clipped gradients, and what it costs
- `projections`     the nearest parameters of a set
- `moments`, `leafwise`, `checks`  what all of them are written with

Each module says in its `__all__` what of it is public.
"""

from . import privacy as privacy
from . import projections as projections
from . import schedules as schedules
from . import tree as tree
from .algorithms.adabelief import *
from .algorithms.adadelta import *
from .algorithms.adafactor import *
from .algorithms.adagrad import *
from .algorithms.adam import *
from .algorithms.adamax import *
from .algorithms.adan import *
from .algorithms.ademamix import *
from .algorithms.adopt import *
from .algorithms.asgd import *
from .algorithms.dadapt_adamw import *
from .algorithms.dog import *
from .algorithms.layerwise import *
from .algorithms.lbfgs import *
from .algorithms.lion import *
from .algorithms.muon import *
from .algorithms.nadam import *
from .algorithms.noisy_sgd import *
from .algorithms.novograd import *
from .algorithms.optimistic import *
from .algorithms.polyak import *
from .algorithms.prodigy import *
from .algorithms.radam import *
from .algorithms.rmsprop import *
from .algorithms.rprop import *
from .algorithms.schedule_free import *
from .algorithms.sgd import *
from .algorithms.shampoo import *
from .algorithms.signs import *
from .algorithms.sm3 import *
from .algorithms.soap import *
from .algorithms.sophia import *
from .algorithms.sparse_adam import *
from .algorithms.yogi import *
from .inspection import *
from .masks import *
from .pieces.averaging import *
from .pieces.blocks import *
from .pieces.clipping import *
from .pieces.decay import *
from .pieces.noise import *
from .pieces.normalization import *
from .pieces.plateau import *
from .pieces.resetting import *
from .pieces.scaling import *
from .rounding import *
from .transformation import *
from .wrappers.accumulation import *
from .wrappers.adapting import *
from .wrappers.conditions import *
from .wrappers.injection import *
from .wrappers.lookahead import *
from .wrappers.loss_scaling import *
from .wrappers.masking import *
from .wrappers.naming import *
from .wrappers.partitioning import *
from .wrappers.sam import *
