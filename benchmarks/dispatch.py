"""What a call costs besides computing: microseconds against the number of leaves.

    python -m benchmarks.dispatch

The leaves, in a dict of dicts, hold one number each. `sum` adds all of them up and `two` only the
first and the last, which Dynamo answers without a look at the others; `thread` adds 1 to every leaf
and returns the tree, donated where it can be, as a training step does. Rows "empty" have a backend
that computes nothing, so that nothing but dispatch remains.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import operator
import types
from collections.abc import Callable
from typing import Any

import torch

import purefn.functional as pf
from purefn.functional import tree

from .frameworks import DEVICE, jax, jax_takes_part, to_jax
from .machine import describe_machine, limit_threads
from .measure import interleave, medians, parser, table, write_json

#: How many leaves; torch.compile needs minutes for thousands of additions of their own.
LEAVES = {
    "sum": (1, 10, 100, 300, 1000, 3000),
    "two": (1, 10, 100, 300, 1000, 3000),
    "thread": (1, 10, 100, 300),
}

Call = Callable[[], Any]


def main() -> None:
    """Print a table of each function for each number of leaves."""
    options = _options()
    limit_threads(options.threads)
    results: dict[str, Any] = {"machine": describe_machine()}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    for name in options.functions:
        results[name] = {}
        for leaves in options.leaves or LEAVES[name]:
            torch._dynamo.reset()
            seconds = interleave(contenders(name, nested(leaves)), options.repeats)
            results[name][leaves] = medians(seconds)
            rows = {key: {"median": value} for key, value in results[name][leaves].items()}
            print(f"\n{name}, {leaves} leaves")
            print(table(rows, 1e6, "us", ("torch.compile", "jax")), flush=True)
            write_json(options.json, results)


def nested(leaves: int) -> dict[str, dict[str, torch.Tensor]]:
    """Return `{"layer0": {"weight": ..., "bias": ...}, ...}` with that many leaves of one number.

    >>> nested(3)
    {'layer0': {'weight': tensor(0.), 'bias': tensor(1.)}, 'layer1': {'weight': tensor(2.)}}
    """
    names = itertools.product(range(leaves), ("weight", "bias"))
    result: dict[str, dict[str, torch.Tensor]] = {}
    for number, (layer, name) in enumerate(itertools.islice(names, leaves)):
        node = result.setdefault(f"layer{layer}", {})
        node[name] = torch.tensor(float(number), device=DEVICE)
    return result


def contenders(name: str, example: Any) -> dict[str, Call]:
    """Return the calls to compare for one of the functions."""
    if name == "thread":
        return threading(example)
    function = {"sum": sum_all, "two": sum_two}[name]
    compiled, ours = torch.compile(function, fullgraph=True, dynamic=False), pf.jit(function)
    calls: dict[str, Call] = {
        "torch.compile": lambda: compiled(example),
        "purefn jit": lambda: ours(example),
        **empty(function, example),
    }
    if jax_takes_part():
        arrays, theirs = to_jax(example), jax.jit(function)
        calls["jax"] = lambda: theirs(arrays)
    return calls


def empty(function: Any, example: Any) -> dict[str, Call]:
    """Return calls that find their program and return without computing."""

    def nothing(module: torch.fx.GraphModule, inputs: Any) -> Any:
        outputs = [torch.zeros(()) for _ in module.graph.output_node().args[0]]
        return lambda *inputs: outputs

    # Dynamo keeps what it compiled with the code, so this takes a copy.
    copy = types.FunctionType(function.__code__.replace(co_name="empty"), function.__globals__)
    compiled = torch.compile(copy, fullgraph=True, dynamic=False, backend=nothing)
    ours, zero = pf.jit(copy, backend=nothing), torch.zeros(())
    return {
        "torch.compile, empty": lambda: (compiled(example), zero)[1],
        "purefn jit, empty": lambda: (ours(example), zero)[1],
    }


def threading(example: Any) -> dict[str, Call]:
    """Return the calls that feed themselves."""
    compiled = torch.compile(increment, fullgraph=True, dynamic=False)
    donated = pf.jit(increment, donate_argnums=0)
    calls = {
        "torch.compile": _thread(compiled, example),
        "purefn jit": _thread(pf.jit(increment), example),
        "purefn donated": _thread(donated, tree.map(torch.clone, example)),
        **empty(increment, example),
    }
    if jax_takes_part():
        calls["jax"] = _thread(jax.jit(increment, donate_argnums=0), to_jax(example))
    return calls


def sum_all(params: Any) -> Any:
    """Return the sum of all leaves."""
    leaves = [leaf for node in params.values() for leaf in node.values()]
    return functools.reduce(operator.add, leaves)


def sum_two(params: Any) -> Any:
    """Return the sum of two leaves."""
    layers = list(params.values())
    return layers[0]["weight"] + layers[-1]["weight"]


def increment(params: Any) -> Any:
    """Return a tree of larger leaves, and one number to wait for."""
    new = {layer: {name: leaf + 1 for name, leaf in node.items()} for layer, node in params.items()}
    return new, next(iter(new["layer0"].values())) + next(reversed(new.values()))["weight"]


def _thread(function: Callable[[Any], Any], params: Any) -> Call:
    carry = [params]
    del params

    def call() -> Any:
        carry[0], value = function(carry[0])
        return value

    return call


def _options() -> argparse.Namespace:
    options = parser("dispatch", __doc__)
    options.add_argument("--functions", nargs="+", choices=LEAVES, default=list(LEAVES))
    options.add_argument(
        "--leaves", nargs="+", type=int, metavar="COUNT", help="as many as bearable"
    )
    options.add_argument("--repeats", type=int, default=30, help="rounds in turns")
    return options.parse_args()


if __name__ == "__main__":
    main()
