"""Staging: from a pure Python function to one compiled program for each kind of arguments.

`compilation` holds `jit` and its cache, `arguments` reads a call, `program` compiles one kind of
call, `donation` lets outputs take the memory of inputs, `errors` says what went wrong.
"""

from .compilation import Jitted, disable_jit, jit
from .errors import DonationWarning, TraceError

__all__ = ["DonationWarning", "Jitted", "TraceError", "disable_jit", "jit"]
