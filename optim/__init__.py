"""Pure optimizers: recipes with torch.optim's names, pieces with optax's.

An optimizer is a `GradientTransformation`, a pair of pure functions; `chain` makes one of several.

- `transformation`  what it is, `chain`, `apply_updates`
- `_sgd`, `_adam`   one file a family: its piece, its recipe (private, for the recipe has the name)
- `scaling`, `decay`, `clipping`  the pieces that all families share
- `schedules`       learning rates as functions of the step
- `moments`, `leafwise`, `checks`  what the pieces are written with
"""

from . import schedules
from ._adam import (
    ScaleByAdamState,
    ScaleByAmsgradState,
    adam,
    adamw,
    scale_by_adam,
    scale_by_amsgrad,
)
from ._sgd import TraceState, sgd, trace
from .clipping import clip, clip_by_global_norm, global_norm
from .decay import add_decayed_weights
from .scaling import (
    ScaleByScheduleState,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
)
from .transformation import (
    EmptyState,
    GradientTransformation,
    apply_updates,
    chain,
    identity,
)

__all__ = [
    "EmptyState",
    "GradientTransformation",
    "ScaleByAdamState",
    "ScaleByAmsgradState",
    "ScaleByScheduleState",
    "TraceState",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "chain",
    "clip",
    "clip_by_global_norm",
    "global_norm",
    "identity",
    "scale",
    "scale_by_adam",
    "scale_by_amsgrad",
    "scale_by_learning_rate",
    "scale_by_schedule",
    "schedules",
    "sgd",
    "trace",
]
