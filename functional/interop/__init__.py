"""Between pure functions and the worlds around them.

`modules` makes a layer of any torch module, and `wrapping` a torch module of any layer.
`skeletons`, `drawing` and what they use run a module as a pure function: its values moved in for
one call, its random numbers drawn from a key. `programs` writes files that run without this
library, `arrays` are those of numpy and JAX, and `layouts` the parameters of flax and equinox.
"""

from .arrays import from_jax, from_numpy, to_jax, to_numpy
from .equinox_modules import from_equinox, to_equinox
from .flax_trees import from_flax, to_flax
from .modules import from_module
from .programs import ExportError, export
from .wrapping import load_into, to_module

__all__ = [
    "ExportError",
    "export",
    "from_equinox",
    "from_flax",
    "from_jax",
    "from_module",
    "from_numpy",
    "load_into",
    "to_equinox",
    "to_flax",
    "to_jax",
    "to_module",
    "to_numpy",
]
