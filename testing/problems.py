"""What an update rule is tried on: parameters, gradients of every kind, learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional import tree

#: The width in which a rule is compared with its reference.
WIDE = torch.float64


class Case(NamedTuple):
    """One trial of a rule.

    Attributes
    ----------
    hyperparameters
        What the recipe and its reference are called with.
    params
        The parameters before the first step.
    gradients
        A tree like `params` for each step.
    rates
        The learning rate of each step, or None where it is the one among the hyperparameters.
    """

    hyperparameters: Mapping[str, Any]
    params: tree.PyTree
    gradients: Sequence[tree.PyTree]
    rates: Sequence[float] | None = None

    def first(self, steps: int) -> Case:
        """Return the case that ends after `steps` steps."""
        rates = None if self.rates is None else self.rates[:steps]
        return self._replace(gradients=self.gradients[:steps], rates=rates)


class Pair(NamedTuple):
    """A NamedTuple, for trees that hold one."""

    first: Any
    second: Any


def mixed_tree() -> tree.PyTree:
    """Return empty tensors of the shapes at which code goes wrong, in every kind of container."""
    return {
        "weight": torch.empty(4, 3),
        "scale": torch.empty(()),
        "none": None,
        "nested": Pair(
            [torch.empty(5), torch.empty(0, 2)], (torch.empty(1), None, torch.empty(2, 1, 3))
        ),
    }


def of_shapes(shapes: Any) -> tree.PyTree:
    """Return empty tensors of `shapes`: a list of them, or a tree of tensors."""
    if isinstance(shapes, list | tuple) and all(_is_shape(shape) for shape in shapes):
        return {f"leaf{index}": torch.empty(tuple(shape)) for index, shape in enumerate(shapes)}
    return shapes


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list | tuple) and all(isinstance(side, int) for side in shape)


def has_numbers(params: tree.PyTree) -> bool:
    """Say whether a tree has a leaf that is not empty."""
    return any(leaf.numel() for leaf in tree.leaves(params))


def complex_tree() -> tree.PyTree:
    """Return empty tensors of which some are complex."""
    return {"real": torch.empty(3), "complex": torch.empty(2, 2, dtype=torch.complex64)}


def large_tree() -> tree.PyTree:
    """Return empty tensors that together are too large for the cache, in which lists are cut."""
    return {"matrix": torch.empty(300, 250), "vector": torch.empty(70_000), "scale": torch.empty(2)}


#: Trees that cases take in turn.
TREES: tuple[tree.PyTree, ...] = (
    mixed_tree(),
    mixed_tree(),
    {"kernel": torch.empty(2, 1, 1, 2)},
    [torch.empty(()), torch.empty(())],
    torch.empty(7),
    mixed_tree(),
)


class _Numbers:
    """Random numbers of one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(shape, dtype=WIDE, generator=self.generator)
        return low + (high - low) * drawn

    def choice(self, options: int) -> int:
        return int(torch.randint(options, (), generator=self.generator))


#: How the gradient of one element goes on. Each is a function of the numbers, of the steps from 0
#: (a column) and of how many elements there are; it returns a row for each step, of magnitude 1.
_Course = Callable[[_Numbers, Tensor, int], Tensor]


def _noise(numbers: _Numbers, t: Tensor, n: int) -> Tensor:
    return numbers.uniform(0.1, 1, len(t), n) * (numbers.uniform(0, 1, len(t), n) - 0.4).sign()


def _constant(numbers: _Numbers, t: Tensor, n: int) -> Tensor:
    return _noise(numbers, t[:1], n).expand(len(t), n)


def _wild(numbers: _Numbers, t: Tensor, n: int) -> Tensor:
    return _noise(numbers, t, n) * 10 ** numbers.uniform(-8, 2, len(t), n)


COURSES: dict[str, _Course] = {
    "noise": _noise,
    "constant": _constant,
    "flipping": lambda numbers, t, n: _constant(numbers, t, n) * (1 - 2 * (t % 2)),
    "decreasing": lambda numbers, t, n: _constant(numbers, t, n) * 0.8**t,
    "growing": lambda numbers, t, n: _constant(numbers, t, n) * 1.1 ** (t - len(t)),
    "spikes": lambda numbers, t, n: _noise(numbers, t, n) * torch.where(t % 13 == 4, 1e3, 0.5),
    "wild": _wild,
    "sparse": lambda numbers, t, n: (
        _noise(numbers, t, n) * (numbers.uniform(0, 1, len(t), n) > 0.6)
    ),
    "late": lambda numbers, t, n: _noise(numbers, t, n) * (t >= min(20, len(t) // 2)),
    "early": lambda numbers, t, n: _noise(numbers, t, n) * (t < min(25, len(t) // 2)),
    "never": lambda numbers, t, n: torch.zeros(len(t), n, dtype=WIDE),
    "tiny": lambda numbers, t, n: _noise(numbers, t, n) * 1e-20,
}
#: Those without zeros, for rules that then divide 0 by 0.
_MOVING = ("noise", "constant", "flipping", "decreasing", "growing", "spikes", "wild")


def problem(
    shapes: tree.PyTree, steps: int, seed: int, *, zeros: bool = True, tiny: bool = True
) -> tuple[tree.PyTree, list[tree.PyTree]]:
    """Return parameters of `shapes` and the gradients of `steps` steps.

    Every second leaf has another course in every element; the others have one, as rules that look
    at whole leaves need. With `zeros`, some gradients are zero: of elements, of a leaf and, at one
    step, of all leaves; with `tiny`, some are below 1e-8.
    """
    numbers = _Numbers(seed)
    names = [name for name in COURSES if zeros or name in _MOVING]
    names = [name for name in names if tiny or name != "tiny"]
    t = torch.arange(float(steps), dtype=WIDE)[:, None]
    leaves, structure = tree.flatten(shapes)
    params = [_start(numbers, leaf, index) for index, leaf in enumerate(leaves)]
    columns = []
    for index, leaf in enumerate(leaves):
        size = leaf.numel() * (2 if leaf.is_complex() else 1)
        column = (
            _of_elements(numbers, t, size, names)
            if (index + seed) % 2 and size <= _FEW
            else _of_leaf(numbers, t, size, [name for name in names if name not in _LIFELESS])
        )
        if zeros and steps > 7:
            column[7 if seed % 3 else 3] = 0
            if size:
                column[11:13] *= numbers.choice(2)
        columns.append(_shaped(column, leaf))
    rows = [[column[step] for column in columns] for step in range(steps)]
    return tree.unflatten(structure, params), [tree.unflatten(structure, row) for row in rows]


#: Larger leaves have one course.
_FEW = 64
#: With them alone a leaf does not move, or moves too little to be judged.
_LIFELESS = ("never", "tiny")


def _start(numbers: _Numbers, leaf: Tensor, index: int) -> Tensor:
    """Return the first parameters of a leaf: every third leaf at zero, or a part of the others."""
    size = leaf.numel() * (2 if leaf.is_complex() else 1)
    drawn = numbers.uniform(-0.5, 0.5, size)
    kept = numbers.uniform(0, 1, size) > (1 if index % 3 == 2 else 0.25)
    return _shaped((drawn * kept)[None], leaf)[0]


def _of_leaf(numbers: _Numbers, t: Tensor, n: int, names: Sequence[str]) -> Tensor:
    course = COURSES[names[numbers.choice(len(names))]]
    return course(numbers, t, n) * 10 ** numbers.uniform(-4, 1.5)


def _of_elements(numbers: _Numbers, t: Tensor, n: int, names: Sequence[str]) -> Tensor:
    """Return a column of gradients of which the first element is never zero."""
    chosen = ["noise", *[names[numbers.choice(len(names))] for _ in range(n - 1)]][:n]
    scales = [-1.0, *numbers.uniform(-8, 2, max(n - 1, 0)).tolist()]
    elements = [
        COURSES[name](numbers, t, 1) * (1 if name in ("wild", "tiny") else 10**scale)
        for name, scale in zip(chosen, scales, strict=False)
    ]
    return torch.cat(elements, 1) if elements else torch.zeros(len(t), 0, dtype=WIDE)


def _shaped(rows: Tensor, leaf: Tensor) -> Tensor:
    """Return `rows` of numbers as leaves of that shape, complex ones if it is."""
    if leaf.is_complex():
        pairs = rows.contiguous().reshape(len(rows), *leaf.shape, 2)
        return torch.view_as_complex(pairs)
    return rows.reshape(len(rows), *leaf.shape).clone()


def with_infinities(case: Case) -> Case:
    """Return a case in which some gradients are infinite: one element of each leaf, for a step."""

    def infinite(step: int, index: int, leaf: Tensor) -> Tensor:
        changed = leaf.clone()
        if changed.numel() > 1 and step == 5 + index:
            changed.view(-1)[-1] = -torch.inf if index % 2 else torch.inf
        return changed

    gradients = []
    for step, grads in enumerate(case.gradients):
        leaves, structure = tree.flatten(grads)
        changed = [infinite(step, index, leaf) for index, leaf in enumerate(leaves)]
        gradients.append(tree.unflatten(structure, changed))
    return case._replace(gradients=gradients)


def moderate(case: Case, steps: int = 20) -> Case:
    """Return a case with gradients that are 0 or of magnitudes between a half and 1.

    Their squares, and what is divided by them, have a place in float16.
    """

    def bounded(leaf: Tensor) -> Tensor:
        return leaf.sgn() * (0.5 + 0.5 * leaf.abs() / (1 + leaf.abs()))

    short = case.first(steps)
    return short._replace(gradients=[tree.map(bounded, grads) for grads in short.gradients])


def changing_rates(lr: float, steps: int, *, pause: bool = False) -> list[float]:
    """Return a learning rate for each step; with `pause`, two of them are 0 and 1e-20."""
    rates = [lr * (0.4 + 0.6 * ((7 * step) % 10) / 9) for step in range(steps)]
    if pause and steps > 6:
        rates[4:6] = [0.0, 1e-20]
    return rates


def disturbed(case: Case, amount: float, seed: int = 1) -> Case:
    """Return `case` with every number moved by about `amount` of itself, up or down.

    What this changes in a result is what rounding may change in it.
    """
    generator = torch.Generator().manual_seed(seed)

    def moved(leaf: Tensor) -> Tensor:
        if not (leaf.is_floating_point() or leaf.is_complex()):
            return leaf
        signs = torch.randint(2, leaf.shape, generator=generator) * 2 - 1
        return leaf * (1 + amount * signs.to(leaf.dtype))

    return Case(
        {name: _moved_number(name, value, amount) for name, value in case.hyperparameters.items()},
        tree.map(moved, case.params),
        [tree.map(moved, grads) for grads in case.gradients],
        case.rates,
    )


def _moved_number(name: str, value: Any, amount: float) -> Any:
    if isinstance(value, tuple):
        return tuple([_moved_number(name, part, amount) for part in value])
    if isinstance(value, float):
        return value * (1 - amount) if value or name != "betas" else amount
    return value
