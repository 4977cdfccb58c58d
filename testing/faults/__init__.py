"""Planted faults: optimizers with the mistakes that optimizers have had, for a kit to find.

- `planting`   what a fault is, and ways to plant one in an optimizer of `purefn.optim`
- `equations`  wrong mathematics: moments, corrections, decay, momentum, the rules of torch.optim
- `conduct`    right mathematics, wrongly run: inputs written, hidden memory, dtypes, shapes, paths

`FAULTS` has all of them by name. Whoever changes `check_optimizer` can see what it still finds.
"""

from .conduct import CONDUCT
from .equations import EQUATIONS
from .planting import Fault

__all__ = ["FAULTS", "Fault"]

#: Every fault by its name.
FAULTS: dict[str, Fault] = {**EQUATIONS, **CONDUCT}
