"""Initial values of parameters: pure functions of a key, a shape and a dtype.

An initializer is called as `init(key, shape, dtype)`. `zeros`, `ones` and `eye` are initializers
themselves; every other name here returns one: `kaiming_uniform()(key, shape, dtype)`. Values live
on the device of the key; bfloat16 and float16 are drawn in float32 and rounded. Shapes are torch's,
`(out, in / groups, *kernel)`, and so

    fan_in = in / groups * prod(kernel),    fan_out = out * prod(kernel).

Torch's names mean torch's distributions (`xavier_*`, `kaiming_*`: normal is not truncated), and
JAX's names mean JAX's (`glorot_*`, `he_*`, `lecun_*`: normal is truncated at two standard
deviations).
"""

from .plain import Initializer, constant, eye, normal, ones, truncated_normal, uniform, zeros
from .scaled import (
    calculate_gain,
    fans,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)
from .structured import delta_orthogonal, dirac, orthogonal, sparse

__all__ = [
    "Initializer",
    "calculate_gain",
    "constant",
    "delta_orthogonal",
    "dirac",
    "eye",
    "fans",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "sparse",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
