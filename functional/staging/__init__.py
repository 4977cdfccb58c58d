"""Staging: from a pure Python function to one compiled program for each kind of arguments.

`compilation` holds `jit` and its cache, `arguments` reads a call, `kinds` says what tells calls
apart, `lowering` traces and compiles in two steps, `tracing` records a function and `valueless`
answers for the tensors that it then sees, `program` compiles one kind of call, `donation` lets
outputs take the memory of inputs. `inspection` and `cost` show a graph, `retraces` and `purity`
find what went wrong unnoticed, `errors` says what went wrong.
"""

from .compilation import Jitted, disable_jit, jit
from .cost import Cost
from .errors import CompileError, DonationWarning, PurityError, TraceError, UncompiledWarning
from .inspection import Graph
from .lowering import CompiledFunction, Lowered, make_graph
from .retraces import Retraces, explain_retraces

__all__ = [
    "CompileError",
    "CompiledFunction",
    "Cost",
    "DonationWarning",
    "Graph",
    "Jitted",
    "Lowered",
    "PurityError",
    "Retraces",
    "TraceError",
    "UncompiledWarning",
    "disable_jit",
    "explain_retraces",
    "jit",
    "make_graph",
]
