"""C++ for elementwise mathematics over many tensors at once, from a graph of operators.

What an optimizer does to one parameter it does to hundreds. A compiler that is shown every one of
them writes hundreds of kernels; here one is written, a loop over elements, and run over a table of
pointers. Numbers are rounded as torch rounds them: each operator in its own dtype, none fused.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

aten, prims = torch.ops.aten, torch.ops.prims

#: How C++ stores and computes each dtype; bfloat16 is only stored.
_STORED = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.bool: "bool",
    torch.bfloat16: "bfloat16",
}
_COMPUTED = {**_STORED, torch.bfloat16: "float"}

_ARITHMETIC: dict[Any, str] = {
    aten.add: "{0} + {1}",
    aten.sub: "{0} - {1}",
    aten.mul: "{0} * {1}",
    aten.div: "{0} / {1}",
    aten.neg: "-{0}",
    aten.sqrt: "std::sqrt({0})",
    aten.rsqrt: "1 / std::sqrt({0})",
    aten.reciprocal: "1 / {0}",
    aten.abs: "std::abs({0})",
    aten.exp: "std::exp({0})",
    aten.log: "std::log({0})",
    aten.tanh: "std::tanh({0})",
    aten.sign: "({0} > 0) - ({0} < 0)",
    aten.maximum: "maximum({0}, {1})",
    aten.minimum: "minimum({0}, {1})",
    aten.clamp: "{0} < {1} ? {1} : {0} > {2} ? {2} : {0}",
    aten.clamp_min: "{0} < {1} ? {1} : {0}",
    aten.clamp_max: "{0} > {1} ? {1} : {0}",
    aten.addcmul: "{0} + {value} * {1} * {2}",
    aten.addcdiv: "{0} + {value} * {1} / {2}",
    aten.where: "{0} ? {1} : {2}",
    aten.alias: "{0}",
    aten.clone: "{0}",
    aten.detach: "{0}",
    prims.convert_element_type: "{0}",
}
_COMPARISONS: dict[Any, str] = {
    aten.eq: "{0} == {1}",
    aten.ne: "{0} != {1}",
    aten.lt: "{0} < {1}",
    aten.le: "{0} <= {1}",
    aten.gt: "{0} > {1}",
    aten.ge: "{0} >= {1}",
}
#: Overloads that do something else than their names.
_ROUGH = (
    aten.div.Tensor_mode,
    aten.div.Scalar_mode,
    aten.clamp.Tensor,
)
#: Limits that are tensors pass their NaN on.
_LIKE: dict[Any, Any] = {aten.clamp_min.Tensor: aten.maximum, aten.clamp_max.Tensor: aten.minimum}
_FILLS = (aten.full.default, aten.scalar_tensor.default, aten.full_like.default)

_SOURCE = """\
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {{
struct bfloat16 {{
  uint16_t bits;
  bfloat16() = default;
  bfloat16(float x) {{
    uint32_t u;
    std::memcpy(&u, &x, 4);
    bits = x != x ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  }}
  operator float() const {{
    uint32_t u = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &u, 4);
    return x;
  }}
}};
template <typename T> T maximum(T a, T b) {{ return a != a || a > b ? a : b; }}
template <typename T> T minimum(T a, T b) {{ return a != a || a < b ? a : b; }}

void some(int64_t first, int64_t last, void* const* pointers) {{
{declarations}
#pragma omp simd
  for (int64_t i = first; i < last; i++) {{
{body}
  }}
}}
}}

extern "C" void run(int64_t rows, const int64_t* ends, void* const* pointers, int threads) {{
  const int64_t total = ends[rows - 1];
  threads = std::max<int64_t>(1, std::min<int64_t>(threads, total / 16384));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static, 1)
  for (int part = 0; part < threads; part++) {{
    const int64_t begin = total * part / threads / 64 * 64;
    const int64_t end = part == threads - 1 ? total : total * (part + 1) / threads / 64 * 64;
    int64_t row = std::upper_bound(ends, ends + rows, begin) - ends;
    for (; row < rows; row++) {{
      const int64_t start = row ? ends[row - 1] : 0;
      if (start >= end) break;
      some(std::max(begin, start) - start, std::min(end, ends[row]) - start,
           pointers + row * {slots});
    }}
  }}
}}
"""


def is_elementwise(node: fx.Node) -> bool:
    """Say whether `node` can be written as C++ on single elements of contiguous tensors."""
    if node.op != "call_function":
        return False
    value = node.meta["val"]
    if not isinstance(value, Tensor) or value.numel() == 0:
        return False
    if value.dtype not in _STORED or value.device.type != "cpu" or not value.is_contiguous():
        return False
    packet = getattr(node.target, "overloadpacket", None)
    if packet not in _ARITHMETIC and packet not in _COMPARISONS:
        return False
    if set(node.kwargs) - {"alpha", "value", "memory_format"} or node.target in _ROUGH:
        return False
    return all(_fits(operand, value) for operand in _operands(node))


def _operands(node: fx.Node) -> tuple[Any, ...]:
    """Return the arguments that are computed with; the dtype of a conversion is not."""
    if node.target is prims.convert_element_type.default:
        return node.args[:1]
    if node.target is aten.clamp.default:
        low, high = (*node.args[1:], None, None)[:2]
        limits = (-math.inf if low is None else low, math.inf if high is None else high)
        return (node.args[0], *limits)
    return node.args


def _fits(operand: Any, value: Tensor) -> bool:
    """Say whether an operand is a number, a 0-d tensor or a tensor like the result."""
    if _is_fill(operand):
        operand = _number(operand)
    if isinstance(operand, fx.Node):
        tensor = operand.meta["val"]
        same = tensor.ndim == 0 or (tensor.shape == value.shape and tensor.is_contiguous())
        return same and tensor.dtype in _STORED and tensor.device.type == "cpu"
    if not isinstance(operand, bool | int | float) or math.isnan(operand):
        return False
    return value.dtype.is_floating_point or math.isfinite(operand)


def _is_fill(operand: Any) -> bool:
    return isinstance(operand, fx.Node) and operand.target in _FILLS


def _number(fill: fx.Node) -> Any:
    number: Any = fill.args[0 if fill.target is aten.scalar_tensor.default else 1]
    return torch.tensor(number, dtype=fill.meta["val"].dtype).item()


def _value(operand: Any) -> Any:
    return operand.meta["val"] if isinstance(operand, fx.Node) else operand


class Region:
    """Elementwise nodes that belong together, with the tensors they read and those they return."""

    def __init__(self, nodes: Sequence[fx.Node], returned: Callable[[fx.Node], bool]) -> None:
        inside = set(nodes)
        self.nodes = list(nodes)
        self.inputs = list(
            dict.fromkeys(
                argument
                for node in nodes
                for argument in node.all_input_nodes
                if argument not in inside and not _is_fill(argument)
            )
        )
        self.outputs = [node for node in nodes if returned(node)]
        self.size = nodes[0].meta["val"].numel()

    @property
    def slots(self) -> list[fx.Node]:
        """The nodes whose memory a kernel of this region is given, in order."""
        return [*self.inputs, *self.outputs]

    def source(self) -> str:
        """Return the C++ of the region; equal for all that differ in names and sizes only."""
        names = {node: f"x{index}" for index, node in enumerate([*self.inputs, *self.nodes])}
        declarations = []
        body = []
        for index, node in enumerate(self.inputs):
            value = node.meta["val"]
            kind, computed = _STORED[value.dtype], _COMPUTED[value.dtype]
            declarations.append(f"  auto p{index} = static_cast<const {kind}*>(pointers[{index}]);")
            if value.ndim == 0:
                declarations.append(f"  const {computed} {names[node]} = *p{index};")
            else:
                body.append(f"    const {computed} {names[node]} = p{index}[i];")
        for node in self.nodes:
            value = node.meta["val"]
            expression = _expression(node, names)
            if value.dtype is torch.bfloat16:
                expression = f"float(bfloat16({expression}))"
            body.append(f"    const {_COMPUTED[value.dtype]} {names[node]} = {expression};")
        for index, node in enumerate(self.outputs, start=len(self.inputs)):
            kind = _STORED[node.meta["val"].dtype]
            declarations.append(f"  auto p{index} = static_cast<{kind}*>(pointers[{index}]);")
            body.append(f"    p{index}[i] = {names[node]};")
        return _SOURCE.format(
            declarations="\n".join(declarations), body="\n".join(body), slots=len(self.slots)
        )


def _expression(node: fx.Node, names: dict[fx.Node, str]) -> str:
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    dtype = node.meta["val"].dtype
    operands = _operands(node)
    if packet in _COMPARISONS:
        first, second = operands
        common = torch.result_type(_value(first), _value(second))
        rounded = [_rounded(operand, common) for operand in operands]
        return _COMPARISONS[packet].format(*(_operand(o, common, names) for o in rounded))
    kind = _COMPUTED[dtype]
    text = [_operand(operand, dtype, names) for operand in operands]
    if packet is aten.where:
        text[0] = _operand(operands[0], torch.bool, names)
    alpha = node.kwargs.get("alpha", 1)
    if alpha != 1:
        text[1] = f"{_literal(alpha, dtype)} * {text[1]}"
    template = _ARITHMETIC[_LIKE.get(node.target, packet)]
    value = _literal(node.kwargs.get("value", 1), dtype)
    if node.kwargs.get("value", 1) == 1:
        template = template.replace("{value} * ", "")
    return f"{kind}({template.format(*text, value=value)})"


def _rounded(operand: Any, dtype: torch.dtype) -> Any:
    """Return a number as the dtype holds it, which is what torch compares with."""
    is_number = isinstance(operand, bool | int | float)
    return torch.tensor(operand, dtype=dtype).item() if is_number else operand


def _operand(operand: Any, dtype: torch.dtype, names: dict[fx.Node, str]) -> str:
    if _is_fill(operand):
        operand = _number(operand)
    if isinstance(operand, fx.Node):
        return f"{_COMPUTED[dtype]}({names[operand]})"
    return _literal(operand, dtype)


def _literal(number: Any, dtype: torch.dtype) -> str:
    if not dtype.is_floating_point:
        return f"{int(number)}"
    text = repr(float(number)).replace("inf", "INFINITY")
    return f"{_COMPUTED[dtype]}({text})"


class Kernel:
    """One compiled loop over the rows of a table of pointers; a row is a region."""

    def __init__(self, source: str, sizes: Sequence[int], slots: int) -> None:
        self._made_of = (source, sizes, slots)
        self._rows = len(sizes)
        self._ends = (ctypes.c_int64 * self._rows)(*itertools.accumulate(sizes))
        self._table = ctypes.c_void_p * (self._rows * slots)
        self._run = library(source).run
        self._run.restype = None
        pointer = ctypes.c_void_p
        self._run.argtypes = [ctypes.c_int64, pointer, pointer, ctypes.c_int]

    def __call__(self, tensors: Sequence[Tensor]) -> None:
        """Run over all rows, given the tensors of all their slots one after another."""
        pointers = self._table(*map(Tensor.data_ptr, tensors))
        self._run(self._rows, self._ends, pointers, torch.get_num_threads())

    def __reduce__(self) -> Any:
        """Let a copy in another process load what was compiled here."""
        return Kernel, self._made_of

    @property
    def path(self) -> str:
        """The file of the compiled library."""
        return str(library(self._made_of[0])._name)


@functools.cache
def library(source: str) -> ctypes.CDLL:
    """Return the compiled source; inductor keeps what was built on disk."""
    from torch._inductor import config
    from torch._inductor.codecache import CppCodeCache

    # Loops are to run on vectors, which roots that may set errno do not.
    flags = ("-ftree-loop-vectorize", "-fno-math-errno")
    with config.patch({"cpp.vec_isa_ok": True}):
        loaded: ctypes.CDLL = CppCodeCache.load(source, extra_flags=flags)
    return loaded
