"""Random numbers from explicit keys, bit for bit those of `jax.random`.

`threefry` makes keys and bits, `distributions` and `discrete` make numbers of them; `elementary`
has the few functions that have to round alike everywhere.
"""

from .discrete import bernoulli, categorical, choice, permutation, randint
from .distributions import exponential, gumbel, normal, truncated_normal, uniform
from .threefry import bits, fold_in, key, split

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "choice",
    "exponential",
    "fold_in",
    "gumbel",
    "key",
    "normal",
    "permutation",
    "randint",
    "split",
    "truncated_normal",
    "uniform",
]
