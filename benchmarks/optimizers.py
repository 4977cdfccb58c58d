"""Every recipe of torch.optim alone: eager against its lists, `jit` against `torch.compile`.

`python -m benchmarks.optimizers` times the updates in eager, torch's with `foreach=True`;
`--compiled` times them compiled, ours with donated parameters and state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

import purefn.functional as pf
from purefn import optim

from .measure import interleave, medians, parser, write_json
from .workloads.update import resnet50_shapes

PARAMETERS = {
    "20 of 64 x 64": [(64, 64)] * 20,
    "300 of 32 x 32": [(32, 32)] * 300,
    "ResNet-50": [*resnet50_shapes()],
}


class Recipe(NamedTuple):
    """The same update rule twice, by the same keywords."""

    torch: Callable[..., torch.optim.Optimizer]
    ours: Callable[..., optim.GradientTransformation]
    hyperparameters: Mapping[str, Any]


RECIPES = {
    "SGD": Recipe(torch.optim.SGD, optim.sgd, {}),
    "SGD, momentum": Recipe(torch.optim.SGD, optim.sgd, {"momentum": 0.9}),
    "SGD, Nesterov, decay": Recipe(
        torch.optim.SGD, optim.sgd, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    ),
    "Adam": Recipe(torch.optim.Adam, optim.adam, {}),
    "AMSGrad": Recipe(torch.optim.Adam, optim.adam, {"amsgrad": True}),
    "AdamW": Recipe(torch.optim.AdamW, optim.adamw, {}),
    "Adamax": Recipe(torch.optim.Adamax, optim.adamax, {}),
    "NAdam": Recipe(torch.optim.NAdam, optim.nadam, {}),
    "RAdam": Recipe(torch.optim.RAdam, optim.radam, {}),
    "RMSprop": Recipe(torch.optim.RMSprop, optim.rmsprop, {}),
    "RMSprop, centered, momentum": Recipe(
        torch.optim.RMSprop, optim.rmsprop, {"centered": True, "momentum": 0.9}
    ),
    "Rprop": Recipe(torch.optim.Rprop, optim.rprop, {}),
    "Adagrad": Recipe(torch.optim.Adagrad, optim.adagrad, {}),
    "Adadelta": Recipe(torch.optim.Adadelta, optim.adadelta, {}),
    "ASGD": Recipe(torch.optim.ASGD, optim.asgd, {}),
    "Adafactor": Recipe(torch.optim.Adafactor, optim.adafactor, {}),
    "Muon": Recipe(torch.optim.Muon, optim.muon, {}),
}


def ours(recipe: Recipe, shapes: Sequence[tuple[int, ...]], compiled: bool) -> Callable[[], Any]:
    optimizer = recipe.ours(**recipe.hyperparameters)
    params = {str(index): torch.randn(shape) for index, shape in enumerate(shapes)}
    grads = {name: torch.randn_like(param) for name, param in params.items()}
    state = optimizer.init(params)

    def update(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    call = pf.jit(update, donate_argnums=(0, 1)) if compiled else update

    def step() -> Any:
        nonlocal params, state
        params, state = call(params, state, grads)
        return params["0"]

    return step


def torchs(recipe: Recipe, shapes: Sequence[tuple[int, ...]], compiled: bool) -> Callable[[], Any]:
    params = [torch.randn(shape, requires_grad=True) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    lists = {} if recipe.torch is torch.optim.Muon else {"foreach": True}
    optimizer = recipe.torch(params, **recipe.hyperparameters, **lists)
    call = torch.compile(optimizer.step) if compiled else optimizer.step

    def step() -> Any:
        call()
        return params[0]

    return step


def fits(name: str, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Say whether the rule is defined for such parameters: Muon is for matrices."""
    return name != "Muon" or all(len(shape) == 2 for shape in shapes)


def main() -> None:
    command = parser("optimizers", __doc__ or "")
    command.add_argument("--compiled", action="store_true", help="jit against torch.compile")
    command.add_argument("--sizes", nargs="+", choices=PARAMETERS, default=[*PARAMETERS])
    command.add_argument("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES])
    options = command.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for size in options.sizes:
        shapes, rows = PARAMETERS[size], {}
        for name in options.recipes:
            recipe = RECIPES[name]
            if not fits(name, shapes):
                continue
            contenders = {
                "torch": torchs(recipe, shapes, options.compiled),
                "purefn": ours(recipe, shapes, options.compiled),
            }
            seconds = medians(interleave(contenders))
            rows[name] = {**seconds, "ratio": seconds["purefn"] / seconds["torch"]}
            print(f"{size:<16} {name:<28} {rows[name]['ratio']:.2f}x", flush=True)
        results[size] = rows
    for size, rows in results.items():
        print(f"\n{size}\n{summary(rows)}")
    write_json(options.json, results)


def summary(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return the milliseconds of both, and how many times torch's ours takes."""
    lines = [f"{'':<30}{'torch, ms':>12}{'purefn, ms':>12}{'ratio':>8}"]
    lines += [
        f"{name:<30}{1e3 * row['torch']:>12.3f}{1e3 * row['purefn']:>12.3f}{row['ratio']:>7.2f}x"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
