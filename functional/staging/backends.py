"""From a graph to something that runs: inductor called directly, or any backend of torch.compile."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode

from . import graphs

#: Takes the list of inputs, which it may empty, and returns the outputs.
Runner = Callable[[list[Tensor]], Sequence[Tensor]]
Backend = str | Callable[..., Any]


def compile_options(mode: str | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return inductor's settings for a `mode` and `options` of `torch.compile`.

    Raises
    ------
    ValueError
        There is no such mode or option.
    """
    if mode is None and not options:
        return {}
    from torch._inductor import config, list_mode_options

    modes = list_mode_options()
    if mode is not None and mode not in modes:
        raise ValueError(f"jit: mode={mode!r}: expected one of {sorted(modes)}.")
    known = config.get_config_copy() if options else {}
    for name in options or {}:
        if name.replace("-", "_") not in known:
            raise ValueError(f"jit: options[{name!r}]: inductor has no such option.")
    given = {name.replace("-", "_"): value for name, value in (options or {}).items()}
    return {**(modes[mode] if mode is not None else {}), **given}


def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """Return what inductor wants to see instead of the operators that it does not know."""
    import torch._inductor.lowering as _lowering  # noqa: F401 - which some of them look into
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()  # type: ignore[no-any-return, no-untyped-call]


def compile_graph(
    graph: fx.Graph,
    mode: FakeTensorMode,
    backend: Backend,
    options: Mapping[str, Any],
    written: Sequence[int] = (),
) -> Runner:
    """Return what runs a graph without writes, but for those into the inputs `written` at its end.

    `options` are inductor's; other backends get none.
    """
    if backend == "inductor":
        return _inductor(graph, mode, options, written)
    module = fx.GraphModule({}, graph)
    if backend == "eager":
        return lambda inputs: module(*inputs)
    compiler = torch._dynamo.lookup_backend(backend)
    with tracing(TracingContext(mode)):
        run = compiler(module, graphs.values(graph))
    return lambda inputs: run(*inputs)


def differentiable(
    graph: fx.Graph, inputs: Sequence[Tensor], backend: Backend, options: Mapping[str, Any]
) -> Runner:
    """Return what runs a graph so that torch.autograd can go through it backwards."""
    module = fx.GraphModule({}, graph)
    if backend == "eager":
        return lambda inputs: module(*inputs)
    compiler = torch._dynamo.lookup_backend(backend)
    if backend == "inductor":
        from torch._inductor import config

        with config.patch(dict(options)):
            run = compiler(module, list(inputs))
    else:
        run = compiler(module, list(inputs))
    return lambda inputs: run(*inputs)


def _inductor(
    graph: fx.Graph, mode: FakeTensorMode, options: Mapping[str, Any], written: Sequence[int]
) -> Runner:
    from torch._inductor import config
    from torch._inductor.compile_fx import _recursive_joint_graph_passes, compile_fx_inner
    from torch._inductor.utils import BoxedBool
    from torch._inductor.virtualized import V

    inputs = graphs.values(graph)
    if not any(node.op == "call_function" for node in graph.nodes):
        module = fx.GraphModule({}, graph)
        return lambda inputs: module(*inputs)
    on_cpu = all(value.device.type == "cpu" for value in inputs)
    settings = {**(CPU if on_cpu else CUDA), **options}
    with (
        config.patch(settings),
        V.set_fake_mode(mode),
        tracing(TracingContext(mode)),
        _without_warnings_about_wrappers(),
    ):
        module = fx.GraphModule({}, graph)
        _recursive_joint_graph_passes(module)
        output = module.graph.output_node()
        output.meta["user_visible_output_idxs"] = list(range(len(output.args[0])))
        compiled = compile_fx_inner(
            module,
            inputs,
            static_input_idxs=list(written),
            cudagraphs=BoxedBool(config.triton.cudagraphs and not on_cpu),
            is_inference=True,
            cpp_wrapper=config.cpp_wrapper,
        )
    return compiled  # type: ignore[return-value]


#: A wrapper in C++ halves the time between small kernels, and the instructions a processor has are
#: known without compiling a program for each to see.
CPU: dict[str, Any] = {"cpp_wrapper": True, "cpp.vec_isa_ok": True}
#: What torch chooses.
CUDA: dict[str, Any] = {}


@contextlib.contextmanager
def _without_warnings_about_wrappers() -> Iterator[None]:
    """Keep quiet which operators the C++ wrapper calls in a slower way."""
    logger = logging.getLogger("torch._inductor.ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
