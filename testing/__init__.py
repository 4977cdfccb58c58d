"""What proves that an optimizer is right, and assertions for trees of tensors.

Each module says in its `__all__` what of it is public.
"""

from .references import *
from .verification import *
