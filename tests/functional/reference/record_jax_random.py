"""Record what `jax.random` draws, for the tests of `purefn.functional.random`.

Run by hand, in an environment that has JAX, when the cases change:

    pip install "jax[cpu]==0.10.2"
    JAX_PLATFORMS=cpu python tests/functional/reference/record_jax_random.py

It writes `jax_random.npz` beside itself, which holds two arrays: `origin`, a JSON text that says
with which version, platform and settings the file was made and lists the cases, and `data`, the
bytes of their results one after the other. The keys are threefry2x32 and the bits those of the
default `jax_threefry_partitionable=True`. Cases with dtypes of 64 bits are drawn with
`jax_enable_x64`, all others without it.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SEEDS = (0, 42, 2**32 - 1)
SHAPES = ((), (0,), (1,), (2, 3), (7,), (3, 0, 2), (33,))
LONG = (1001,)
FLOATS = ("float16", "bfloat16", "float32", "float64")
WIDE = ("float64", "int64", "uint64")

Case = dict[str, Any]


def case(function: str, seed: int, x64: bool = False, **arguments: Any) -> Case:
    """Describe a draw; arrays among the arguments are written as `[dtype, values]`."""
    x64 = x64 or any(
        (value[0] if isinstance(value, list) else value) in WIDE
        for value in arguments.values()
        if isinstance(value, str | list)
    )
    return {"function": function, "seed": seed, "x64": x64, "arguments": arguments}


def cases() -> list[Case]:
    """List everything that is recorded."""
    return [*key_cases(), *continuous_cases(), *discrete_cases(), *order_cases()]


def key_cases() -> list[Case]:
    """Keys of seeds, splits, folds and raw bits."""
    seeds = (0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**40 + 5, 2**63 - 1, -1, -5, -(2**40), -(2**63))
    found = [case("key", seed, x64=True) for seed in seeds]
    found += [case("key", seed) for seed in seeds if 0 <= seed < 2**32]
    found += [
        case("split", seed, num=num)
        for seed, num in itertools.product(SEEDS, (1, 2, 5, 12, (), (0,), (3,), (2, 3)))
    ]
    found += [
        case("fold_in", seed, data=data)
        for seed, data in itertools.product(SEEDS, (0, 1, 77, 2**31, 2**32 - 1))
    ]
    found += [
        case("bits", seed, shape=shape, dtype=dtype)
        for seed, shape, dtype in itertools.product(
            SEEDS, SHAPES, ("uint8", "uint16", "uint32", "uint64")
        )
    ]
    return found


def continuous_cases() -> list[Case]:
    """Uniform variates and what is made of them."""
    found = []
    for seed, dtype in itertools.product(SEEDS, FLOATS):
        for shape in (*SHAPES, LONG) if seed == 42 else SHAPES:
            found += [
                case(function, seed, shape=shape, dtype=dtype)
                for function in ("uniform", "normal", "gumbel", "exponential")
            ]
        for low, high in ((-1.5, 2.25), (0.1, 0.7), (3, 1000)):
            found.append(case("uniform", seed, shape=(65,), dtype=dtype, minval=low, maxval=high))
        for low, high in ((-2.0, 2.0), (-1.0, 0.5), (0.5, 3.0), (-6.0, 6.0), (2.0, 4.0)):
            found.append(
                case("truncated_normal", seed, lower=low, upper=high, shape=(65,), dtype=dtype)
            )
        low, high = [dtype, [[-1.0], [0.25]]], [dtype, [0.5, 1.75, 3.0]]
        found.append(case("uniform", seed, shape=(2, 3), dtype=dtype, minval=low, maxval=high))
        found.append(case("truncated_normal", seed, lower=low, upper=high, dtype=dtype))
    return found


def discrete_cases() -> list[Case]:
    """Booleans and integers."""
    found = []
    for seed in SEEDS:
        found += [case("bernoulli", seed, p=p, shape=(50,)) for p in (0.0, 0.1, 0.5, 0.9, 1.0)]
        for dtype in FLOATS:
            p = [dtype, [[0.1], [0.6]]]
            found.append(case("bernoulli", seed, p=p))
            found.append(case("bernoulli", seed, p=p, shape=(3, 2, 20)))
            logits = [dtype, [[0.0, 1.0, -2.0, 0.5], [3.0, 3.0, 3.0, 3.0], [-1.0, -9.0, 0.0, 2.0]]]
            found.append(case("categorical", seed, logits=logits))
            found.append(case("categorical", seed, logits=logits, shape=(9, 3)))
            found.append(case("categorical", seed, logits=logits, axis=0, shape=(5, 2, 4)))
        for shape in SHAPES:
            found.append(case("randint", seed, shape=shape, minval=-3, maxval=10))
        for dtype, low, high in (
            ("int8", -128, 128),
            ("uint8", 0, 256),
            ("uint8", 3, 5),
            ("int16", -32768, 32768),
            ("uint16", 0, 65536),
            ("int32", 0, 1),
            ("int32", 0, 65537),
            ("int32", -(2**31), 2**31 - 1),
            ("int32", 5, 2**30),
            ("uint32", 0, 2**31 - 1),
            ("int64", -(2**63), 2**63 - 1),
            ("int64", -5, 2**40),
            ("int64", 0, 1000),
            ("uint64", 0, 2**63 - 1),
        ):
            found.append(case("randint", seed, shape=(40,), minval=low, maxval=high, dtype=dtype))
        found.append(
            case("randint", seed, x64=True, shape=(40,), minval=0, maxval=2**32, dtype="uint32")
        )
        bounds = {"minval": ["int32", [[0], [5]]], "maxval": ["int32", [1, 6, 1000]]}
        found.append(case("randint", seed, shape=(4, 2, 3), **bounds))
    return found


def order_cases() -> list[Case]:
    """Permutations and choices."""
    matrix = ["float32", np.arange(24.0).reshape(6, 4).tolist()]
    p = ["float32", [0.1, 0.3, 0.05, 0.0, 0.25, 0.3]]
    long_p = ["float32", (np.arange(300) % 7 / 900).tolist()]
    found = []
    for seed in SEEDS:
        found += [case("permutation", seed, x=length) for length in (0, 1, 2, 5, 100, 2000)]
        found += [
            case("permutation", seed, x=matrix, axis=axis, independent=independent)
            for axis, independent in itertools.product((0, 1, -1), (False, True))
        ]
        for replace in (True, False):
            found += [
                case("choice", seed, a=6, shape=(5,), replace=replace),
                case("choice", seed, a=6, shape=(2, 3), replace=replace, p=p),
                case("choice", seed, a=300, shape=(30,), replace=replace, p=long_p),
                case("choice", seed, a=matrix, shape=(2, 2), replace=replace),
                case("choice", seed, a=matrix, shape=(3,), replace=replace, axis=1),
                case("choice", seed, a=matrix, shape=(), replace=replace, p=p),
            ]
    return found


def draw(described: Case) -> np.ndarray:
    """Draw a case from `jax.random`."""
    jax.config.update("jax_enable_x64", described["x64"])
    seed, function = described["seed"], described["function"]
    if function == "key":
        return np.asarray(jax.random.key_data(jax.random.key(seed)))
    arguments = {
        name: jnp.asarray(value[1], dtype=value[0]) if isinstance(value, list) else value
        for name, value in described["arguments"].items()
    }
    result = getattr(jax.random, function)(jax.random.key(seed), **arguments)
    if function in ("split", "fold_in"):
        result = jax.random.key_data(result)
    return np.asarray(result)


def main() -> None:
    """Draw all cases and write them."""
    described = cases()
    results = [draw(each) for each in described]
    for each, result in zip(described, results, strict=True):
        each |= {"dtype": result.dtype.name, "shape": result.shape}
    origin = {
        "jax": jax.__version__,
        "platform": f"{jax.default_backend()} {platform.machine()}",
        "generator": "threefry2x32, jax_threefry_partitionable=True",
        "x64": "jax_enable_x64 is as each case says",
        "cases": described,
    }
    path = pathlib.Path(__file__).with_name("jax_random.npz")
    data = np.frombuffer(b"".join(result.tobytes() for result in results), dtype=np.uint8)
    np.savez_compressed(path, origin=json.dumps(origin), data=data)
    print(f"{path}: {len(described)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
