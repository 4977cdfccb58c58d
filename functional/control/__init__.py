"""Control flow that data decide, and that a trace keeps as it is.

`scan`, `map`, `fori_loop` and `while_loop` repeat a function, `cond` and `switch` choose between
some, `remat` computes one again. In eager they are Python; while `jit` traces, each is one node.
"""

from .branches import cond, switch
from .loops import fori_loop, while_loop
from .rematerialization import remat
from .scans import map, scan  # noqa: A004 - JAX's name

__all__ = ["cond", "fori_loop", "map", "remat", "scan", "switch", "while_loop"]
