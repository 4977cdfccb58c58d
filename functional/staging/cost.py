"""What a traced function costs, counted over its operators."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils.flop_counter import flop_registry, sdpa_flop_count, shape_wrapper

from .control import Run, is_control
from .graphs import placeholders, results
from .tracing import Trace, storage_id
from .valueless import revived


def _attention(query: Any, key: Any, value: Any, *options: Any, **named: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


#: Attention on a CPU, which torch's counter knows on other devices only; by shapes.
ON_CPUS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
_REGISTRY = {**{packet: shape_wrapper(count) for packet, count in ON_CPUS.items()}, **flop_registry}


class Cost(NamedTuple):
    """How much a program computes and moves when every operator runs by itself.

    Parameters
    ----------
    flops
        Floating-point operations of matrix products, convolutions and attention, a multiplication
        and an addition counted as two: what `torch.utils.flop_counter` counts. Elementwise
        operators and reductions count as none.
    bytes
        Bytes of memory read and written: for each operator the size of the tensors that it reads
        and of those that it makes or writes, an expanded dimension counted once. Views are free. A
        compiler that fuses operators moves less; what no compiler can avoid is `arguments` and
        `outputs`.
    arguments
        Bytes of the inputs, captured tensors included.
    outputs
        Bytes of the outputs.
    """

    flops: int
    bytes: int
    arguments: int
    outputs: int


def cost(traced: Trace) -> Cost:
    """Count a trace.

    Raises
    ------
    ValueError
        How often a part runs depends on values (a while loop, a choice).
    """
    with revived(traced.mode), traced.mode:
        flops, moved = _count(traced.graph)
    return Cost(
        flops,
        moved,
        sum(_size(node.meta["val"]) for node in placeholders(traced.graph)),
        sum(_size(node.meta["val"]) for node in results(traced.graph)),
    )


def _count(graph: fx.Graph) -> tuple[int, int]:
    flops = moved = 0
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            if is_control(node):
                flops, moved = map(sum, zip((flops, moved), _count_control(node), strict=True))
            continue
        flops += _flops(node)
        moved += _moved(node)
    return flops, moved


def _flops(node: fx.Node) -> int:
    count = _REGISTRY.get(node.target._overloadpacket)  # type: ignore[union-attr]
    if count is None:
        return 0
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    return int(count(*args, **kwargs, out_val=node.meta["val"]))


def _moved(node: fx.Node) -> int:
    """Return the bytes that an operator reads and writes."""
    read = {id(n): n.meta["val"] for n in node.all_input_nodes if isinstance(n.meta["val"], Tensor)}
    known = {storage_id(tensor): tensor for tensor in read.values()}
    made = [t for t in _tensors(node.meta["val"]) if storage_id(t) not in known]
    schema = node.target._schema  # type: ignore[union-attr]
    written = [
        node.args[index].meta["val"]  # type: ignore[union-attr]
        for index, argument in enumerate(schema.arguments[: len(node.args)])
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and isinstance(node.args[index], fx.Node)
    ]
    if not made and not written:
        return 0
    return sum(map(_size, [*read.values(), *made, *written]))


def _count_control(node: fx.Node) -> tuple[int, int]:
    """Run a loop without computing its graphs, and add up how often it asks for each."""
    total = [0, 0]

    def counting(trace: Trace) -> Run:
        flops, moved = _count(trace.graph)
        outputs = [result.meta["val"] for result in results(trace.graph)]

        def run(inputs: list[Tensor]) -> list[Tensor]:
            total[0] += flops
            total[1] += moved
            return list(outputs)

        return run

    operator: Any = node.target
    arguments: Any = node.args
    try:
        operator.compiled(counting)([argument.meta["val"] for argument in arguments])
    except DataDependentOutputException as error:
        raise ValueError(
            f"cost: how often the graphs of a {operator.__name__} run depends on values, which are "
            "not known."
        ) from error
    return total[0], total[1]


def _tensors(value: Any) -> list[Tensor]:
    return [
        part
        for part in (value if isinstance(value, list | tuple) else [value])
        if isinstance(part, Tensor)
    ]


def _size(tensor: Tensor) -> int:
    """Return the bytes that a tensor occupies, an expanded dimension counted once."""
    lengths = zip(tensor.shape, tensor.stride(), strict=True)
    count = tensor.element_size()
    for length, stride in lengths:
        count *= length if stride or not length else 1
    return count
