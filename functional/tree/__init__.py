"""Pytrees: what models, optimizers and transforms pass around.

`pytree` takes trees apart, `arithmetic` treats them as vectors, `state_dict` gives them torch's
names, `paths` and `surgery` find and replace parts by name, `dataclasses` makes frozen classes that
are trees.
"""

from .arithmetic import (
    cast,
    dot,
    mean,
    nbytes,
    norm,
    ones_like,
    ravel,
    size,
    stack,
    unstack,
    zeros_like,
)
from .dataclasses import dataclass, static
from .identity import Static
from .paths import mask
from .pytree import (
    NAMESPACE,
    Path,
    PyTree,
    Structure,
    all,  # noqa: A004 - JAX's name
    any,  # noqa: A004
    combine,
    flatten,
    leaves,
    leaves_with_path,
    map,  # noqa: A004
    map_with_path,
    partition,
    path_strings,
    reduce,
    structure,
    transpose,
    unflatten,
)
from .state_dict import from_state_dict, to_state_dict
from .surgery import at

__all__ = [
    "NAMESPACE",
    "Path",
    "PyTree",
    "Static",
    "Structure",
    "all",
    "any",
    "at",
    "cast",
    "combine",
    "dataclass",
    "dot",
    "flatten",
    "from_state_dict",
    "leaves",
    "leaves_with_path",
    "map",
    "map_with_path",
    "mask",
    "mean",
    "nbytes",
    "norm",
    "ones_like",
    "partition",
    "path_strings",
    "ravel",
    "reduce",
    "size",
    "stack",
    "static",
    "structure",
    "to_state_dict",
    "transpose",
    "unflatten",
    "unstack",
    "zeros_like",
]
