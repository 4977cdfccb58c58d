"""Pure optimizers: recipes with torch.optim's names, pieces with optax's.

An optimizer is a `GradientTransformation`, a pair of pure functions; `chain` makes one of several.

- `transformation`  what it is, `chain`, `apply_updates`
- `algorithms`      update rules, one file a family: the equation, its piece and its recipe
- `pieces`          what is composed with every rule: scaling, decay, clipping
- `schedules`       learning rates as functions of the step
- `moments`, `leafwise`, `checks`  what all of them are written with

Each module says in its `__all__` what of it is public.
"""

from . import schedules as schedules
from .algorithms.adam import *
from .algorithms.sgd import *
from .inspection import *
from .pieces.clipping import *
from .pieces.decay import *
from .pieces.scaling import *
from .transformation import *
