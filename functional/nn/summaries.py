"""What a model is made of, and what its parts take: found without computing anything."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from .. import random, tree
from ..abstract import ShapeDtype, eval_shape
from ..control.scans import one_step_for_all
from ..staging.cost import ON_CPUS
from .checks import positive_int
from .layer import Layer, StatefulLayer
from .tables import as_html, as_text, metric, size_in_bytes

AnyLayer = Layer | StatefulLayer


@dataclass(frozen=True)
class Row:
    """A part of a model, with what it takes; a part that has parts includes theirs.

    Parameters
    ----------
    path
        The name of the part, as in `nn.at`; the model itself has "".
    kind
        What made it: `"conv2d"`.
    input, output
        `ShapeDtype`s, or trees of them; of a part of an ensemble, those of one member.
    params, state
        How many elements its parameters and its state have.
    nbytes
        How many bytes these take together.
    flops
        Floating-point operations of one evaluation of it, without gradients: those of matrix
        products, convolutions and attention, a multiplication and an addition counted as two
        (what papers call FLOPs is often half of that). Every step of a `scan` counts; of a
        `while_loop` and a `cond`, whose course depends on values, nothing does.

    Examples
    --------
    >>> from purefn.functional import nn
    >>> (row,) = tabulate(nn.linear(3, bias=False), ShapeDtype((8, 5)))
    >>> row.params, row.nbytes, row.flops == 2 * 8 * 3 * 5
    (15, 60, True)
    """

    path: str
    kind: str
    input: tree.PyTree
    output: tree.PyTree
    params: int
    state: int
    nbytes: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """The rows of a model, shown as a table in a terminal (`print`) and in a notebook.

    >>> from purefn.functional import nn
    >>> summary(nn.linear(3), ShapeDtype((8, 5))).rows[0].kind
    'linear'
    """

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        """Return the table as text."""
        return as_text(_HEAD, [_cells(row) for row in self._ordered()])

    def __repr__(self) -> str:
        """Return the same as `str`."""
        return str(self)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return as_html(_HEAD, [_cells(row) for row in self._ordered()])

    def _ordered(self) -> Iterable[Row]:
        """Return the parts, then the whole."""
        return (*self.rows[1:], self.rows[0])


def summary(layer: AnyLayer, x: Any, *, depth: int | None = None) -> Summary:
    """Return the table of a model's parts: names, shapes, parameters, bytes and operations.

    Print it, or let a notebook show it; `nn.tabulate` gives the same as data.

    Parameters
    ----------
    layer, x
        As for `nn.tabulate`.
    depth
        How many levels of parts are shown, at least 1; by default all.

    Raises
    ------
    TypeError, ValueError
        `layer` is no layer, or `depth` not as above.
    LayerError
        The model refuses `x`.

    Examples
    --------
    >>> from purefn.functional import nn
    >>> model = nn.serial(hidden=nn.linear(16), act=nn.relu, head=nn.linear(3))
    >>> print(summary(model, ShapeDtype((8, 5))))
    name    kind    input    output   params  state  bytes   flops
    ------  ------  -------  -------  ------  -----  -----  ------
    hidden  linear  (8, 5)   (8, 16)      96      0  384 B  1.28 k
    act     relu    (8, 16)  (8, 16)       0      0    0 B       0
    head    linear  (8, 16)  (8, 3)       51      0  204 B     768
    total   serial  (8, 5)   (8, 3)      147      0  588 B  2.05 k
    """
    if depth is not None:
        positive_int("nn.summary", "depth", depth)
    rows = tabulate(layer, x)
    return Summary(tuple(row for row in rows if depth is None or _depth(row) <= depth))


def tabulate(layer: AnyLayer, x: Any) -> tuple[Row, ...]:
    """Return a row for the model and one for each part that it is made of, in their order.

    Nothing is computed and no memory taken; the evaluation is that of `train=False`.

    Parameters
    ----------
    layer
        Any layer or model; combinators show their parts.
    x
        An example batch, or `ShapeDtype`s in the place of its tensors.

    Raises
    ------
    TypeError
        `layer` is no layer.
    LayerError
        The model refuses `x`.

    Examples
    --------
    >>> from purefn.functional import models
    >>> rows = tabulate(models.resnet18(), ShapeDtype((1, 3, 224, 224)))
    >>> rows[0].params, rows[0].flops
    (11689512, 3628146688)
    >>> [row.params for row in rows if row.path == "layer1.0.conv1"]
    [36864]
    """
    if not isinstance(layer, Layer | StatefulLayer):
        raise TypeError(f"nn.tabulate: expected a Layer or a StatefulLayer, got {layer!r}.")
    x = _shapes(x)
    made = _shapes(layer.init(random.key(0).to("meta"), x))
    params, state = made if isinstance(layer, StatefulLayer) else (made, {})
    counter = _Counter()
    seen: dict[str, _Seen] = {}
    observed: Any = _observed("", layer, counter, seen).apply

    def run(*arguments: Any) -> Any:
        # What a loop holds as a graph would not be seen.
        with counter.mode, one_step_for_all(counter.repeated):
            return observed(*arguments)

    eval_shape(run, *((params, state) if isinstance(layer, StatefulLayer) else (params,)), x)
    sizes, state_sizes = tree.to_state_dict(params), tree.to_state_dict(state)
    return tuple(_row(path, found, sizes, state_sizes) for path, found in seen.items())


class _Counter:
    """Counts operations, those of one step of a loop as often as there are steps."""

    def __init__(self) -> None:
        self.mode = FlopCounterMode(display=False, custom_mapping=ON_CPUS)
        #: How often what is run now would be run.
        self.times = 1
        self._of_other_steps = 0

    def total(self) -> int:
        """Return how many operations there have been."""
        return int(self.mode.get_total_flops()) + self._of_other_steps

    @contextlib.contextmanager
    def repeated(self, length: int) -> Iterator[None]:
        """Let what is run within stand for as many times."""
        before, times = self.total(), self.times
        self.times *= length
        yield
        self.times = times
        self._of_other_steps += (length - 1) * (self.total() - before)


@dataclass
class _Seen:
    """What a part was seen to do."""

    kind: str
    input: tree.PyTree = None
    output: tree.PyTree = None
    flops: int = 0


def _observed(path: str, layer: AnyLayer, counter: _Counter, seen: dict[str, _Seen]) -> AnyLayer:
    """Return the layer that writes down what it and its parts do, in order of their beginning."""
    inner: Any = layer
    if layer.parts and layer.rebuild is not None:
        inner = layer.rebuild(
            {
                name: _observed(f"{path}.{name}" if path else name, part, counter, seen)
                for name, part in layer.parts.items()
            }
        )

    def apply(*args: Any, **options: Any) -> Any:
        here = seen.setdefault(path, _Seen(layer.kind or _maker(layer)))
        before = counter.total()
        result = inner.apply(*args, **options)
        here.flops += (counter.total() - before) * counter.times
        here.input = _shapes(args[-1])
        here.output = _shapes(result[0] if isinstance(layer, StatefulLayer) else result)
        return result

    changed: Any = {"apply": apply}
    return replace(layer, **changed)


def _maker(layer: AnyLayer) -> str:
    """Return the name of the public function that made a layer."""
    apply: Any = layer.apply
    if inspect.isfunction(apply):
        # What conv1d, conv2d and conv3d have in common knows under which name it was called.
        name = inspect.getclosurevars(apply).nonlocals.get("name")
        return name if isinstance(name, str) else apply.__qualname__.split(".")[0].lstrip("_")
    return type(apply).__name__


def _shapes(value: tree.PyTree) -> tree.PyTree:
    return tree.map(lambda leaf: ShapeDtype(leaf.shape, leaf.dtype), value)


def _row(path: str, found: _Seen, params: dict[str, Any], state: dict[str, Any]) -> Row:
    own, own_state = (
        [leaf for name, leaf in leaves.items() if not path or f"{name}.".startswith(f"{path}.")]
        for leaves in (params, state)
    )
    return Row(
        path,
        found.kind,
        found.input,
        found.output,
        tree.size(own),
        tree.size(own_state),
        tree.nbytes([own, own_state]),
        found.flops,
    )


def _depth(row: Row) -> int:
    return row.path.count(".") + 1 if row.path else 0


_HEAD = ("name", "kind", "input", "output", "params", "state", "bytes", "flops")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.path or "total",
        row.kind,
        _written(row.input),
        _written(row.output),
        f"{row.params:,}",
        f"{row.state:,}",
        size_in_bytes(row.nbytes),
        metric(row.flops),
    )


def _written(shapes: tree.PyTree) -> str:
    return ", ".join(str(tuple(leaf.shape)) for leaf in tree.leaves(shapes))
