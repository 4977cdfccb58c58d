"""What proves that an optimizer is right, and assertions for trees of tensors.

- `verification`   `check_optimizer`: an update rule against a reference, which `references` run
- `assertions`     chex's assertions, over torch: of shapes, values, programs, derivatives
- `strategies`     what hypothesis draws: trees, hyperparameters, and `gradients` over time
- `plugin`         fixtures for pytest; `profiles` are settings for hypothesis

Each module says in its `__all__` what of it is public. They are imported when something of theirs
is first asked for: every run of pytest loads the plugin, and with it this file, but not torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assertions.derivatives import *
    from .assertions.programs import *
    from .assertions.scalars import *
    from .assertions.shapes import *
    from .assertions.structures import *
    from .assertions.values import *
    from .gradients import *
    from .references import *
    from .strategies import *
    from .verification import *

#: The modules whose names stand here.
_MODULES = (
    "assertions.derivatives",
    "assertions.programs",
    "assertions.scalars",
    "assertions.shapes",
    "assertions.structures",
    "assertions.values",
    "gradients",
    "references",
    "strategies",
    "verification",
)


def __getattr__(name: str) -> Any:
    """Import a module of this package, or all of them to find what one of them exports."""
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return _module(name)
    exports = {entry: module for module in map(_module, _MODULES) for entry in module.__all__}
    if name == "__all__":
        return list(exports)
    if name not in exports:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals().update({entry: getattr(module, entry) for entry, module in exports.items()})
    return globals()[name]


def _module(name: str) -> Any:
    """Import a module of this package; name the extra where what it needs is not installed."""
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name not in {"hypothesis", "pytest"}:
            raise
        raise ImportError(
            f"{__name__}.{name} needs {error.name}: pip install 'purefn[testing]'."
        ) from error
