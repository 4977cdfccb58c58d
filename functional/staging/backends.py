"""From a graph to something that runs: inductor, or any other backend of torch.compile."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import logging
import os
import sys
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


class Interpreted:
    """Runs a function of separate arguments."""

    def __init__(self, fun: Callable[..., Sequence[Tensor]]) -> None:
        self._fun = fun

    def __call__(self, inputs: list[Tensor]) -> Sequence[Tensor]:
        """Run."""
        return self._fun(*inputs)


class Generated:
    """Runs code that inductor has generated; can be pickled, but for the libraries it loads."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._run = compiled.current_callable if _is_plain(compiled) else compiled

    def __call__(self, inputs: list[Tensor]) -> Sequence[Tensor]:
        """Run; the list of inputs is emptied."""
        return self._run(inputs)  # type: ignore[no-any-return]

    @property
    def source(self) -> str:
        """The Python that loads the libraries and calls them."""
        return str(self._compiled.source_code)

    def __getstate__(self) -> Any:
        """Return what inductor keeps of it in its own cache."""
        kept = copy.copy(self._compiled)
        kept.prepare_for_serialization()
        return kept

    def __setstate__(self, kept: Any) -> None:
        """Load what was generated."""
        from torch._inductor.output_code import CompiledFxGraphConstants

        kept.after_deserialization(CompiledFxGraphConstants())
        self.__init__(kept)  # type: ignore[misc]


def _is_plain(compiled: Any) -> bool:
    """Say whether calling the generated code itself leaves nothing out that its holder does."""
    return compiled.device_types <= {"cpu"} and compiled.current_callable is not None


class Replayed(Generated):
    """Runs a recorded CUDA graph, whose outputs lie where the next replay writes: they are copied.

    Donated inputs are written where they lie and are no outputs; nothing of their size is copied.
    """

    def __call__(self, inputs: list[Tensor]) -> Sequence[Tensor]:
        """Replay."""
        torch.compiler.cudagraph_mark_step_begin()
        return [output.clone() for output in self._run(inputs)]


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

    table: Mapping[Any, Callable[..., Any]] = select_decomp_table()
    return table


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
        return Interpreted(module)
    compiler = torch._dynamo.lookup_backend(backend)
    with tracing(TracingContext(mode)):
        return Interpreted(compiler(module, graphs.values(graph)))


def _inductor(
    graph: fx.Graph, mode: FakeTensorMode, options: Mapping[str, Any], written: Sequence[int]
) -> Runner:
    """Compile with inductor, in whose terms the graph is already written."""
    from torch._inductor import config
    from torch._inductor.compile_fx import _recursive_joint_graph_passes, compile_fx_inner
    from torch._inductor.cudagraph_utils import BoxedDeviceIndex
    from torch._inductor.utils import BoxedBool
    from torch._inductor.virtualized import V

    inputs = graphs.values(graph)
    module = fx.GraphModule({}, graph)
    if not any(node.op == "call_function" for node in graph.nodes):
        return Interpreted(module)
    _keep_freed_memory()
    on_cpu = all(node.meta["val"].device.type == "cpu" for node in graph.nodes if _gives(node))
    with (
        config.patch({**(CPU if on_cpu else CUDA), **options}),
        V.set_fake_mode(mode),
        tracing(TracingContext(mode)),
        _without_warnings_about_wrappers(),
    ):
        replays = bool(config.triton.cudagraphs) and not on_cpu
        _recursive_joint_graph_passes(module)
        output = module.graph.output_node()
        output.meta["user_visible_output_idxs"] = list(range(len(graphs.results(module.graph))))
        compiled = compile_fx_inner(
            module,
            inputs,
            # Where these lie does not change, so that a recorded CUDA graph may write them.
            static_input_idxs=list(written),
            cudagraphs=BoxedBool(replays),
            is_inference=True,
            boxed_forward_device_index=BoxedDeviceIndex(None),
            cpp_wrapper=config.cpp_wrapper,
        )
    return Replayed(compiled) if replays else Generated(compiled)


def _gives(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


#: A wrapper in C++ halves the time between small kernels; a processor's instructions are known
#: without compiling a program for each to see; and convolutions that are trained lose more by being
#: brought to channels-last and back than they gain (a tenth of a ResNet-18's step).
CPU: dict[str, Any] = {
    "cpp_wrapper": True,
    "cpp.vec_isa_ok": True,
    "layout_optimization": False,
}
#: What torch chooses.
CUDA: dict[str, Any] = {}


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep what a program frees for its next call.

    By default it gives memory back to the system as soon as some megabytes are free, and to get a
    page of 4 kB again takes as long as a thousand additions: a fifth of the step of a network whose
    activations take 100 MB, up to a half where more is kept. Up to 1 GB is kept now, but no block
    of more than 32 MB, which glibc does not allow. Who has set a variable of malloc's in the
    environment, or runs another allocator, has decided otherwise.
    """
    decided = any(name.startswith("MALLOC_") for name in os.environ)
    if decided or sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    trim_threshold, mmap_threshold = -1, -3  # in malloc.h
    library.mallopt(trim_threshold, 2**30)
    library.mallopt(mmap_threshold, 2**25)


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
