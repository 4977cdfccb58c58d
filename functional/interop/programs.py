"""Pure models as files that run without this library: ONNX and torch.export."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from .. import tree
from ..nn import Layer, Params, State, StatefulLayer
from .extras import import_extra
from .wrapping import check_layer, to_module

#: How many roundings of its dtype an output may be away from the layer's, beside the largest.
_ROUNDINGS = 2000
#: What a file of each kind is made by, and how it is run on the leaves of an input.
_Run = Callable[[Path, tree.PyTree], Sequence[Tensor]]


class ExportError(RuntimeError):
    """An exported file that does not compute what the layer does, or could not be made."""

    __module__ = "purefn.functional.interop"


def export(
    layer: Layer | StatefulLayer,
    params: Params,
    x: Any,
    path: str | os.PathLike[str],
    *,
    state: State | None = None,
    dynamic_batch: bool = False,
) -> None:
    """Write a model, with its parameters inside, to a file that runs without this library.

    The ending of `path` says which: `.onnx` for ONNX, of one input for each tensor in `x`; `.pt2`
    for what `torch.export.load` reads. What is written computes `layer(params, x)` with
    `train=False`, or the output of `layer(params, state, x)`. Before it takes its place the file is
    read again, run on `x` (by onnxruntime or torch) and compared with the layer; a file that was
    there stays where anything fails.

    Parameters
    ----------
    x
        An example: a tensor or a tree of them.
    path
        Where to write.
    state
        The state of a stateful layer.
    dynamic_batch
        Whether the file takes any number of examples, the first dimension of each tensor in `x`,
        rather than the number in `x`. Two sizes are run then.

    Raises
    ------
    TypeError
        `x` holds no tensor or something else than tensors; a state is missing, or is given to a
        layer without one.
    ValueError
        `path` ends otherwise; a tensor of `x` has no first dimension or another than the rest,
        with `dynamic_batch`.
    ExportError
        The layer does what the format cannot say (the cause is torch's error), or the file
        computes something else: the message has the largest difference.
    ImportError
        ONNX is asked for and `purefn[export]` is not installed.

    Examples
    --------
    >>> from purefn.functional import nn, random
    >>> model = nn.serial(nn.linear(4), nn.relu, nn.linear(2))
    >>> x = torch.ones(3, 5)
    >>> params = model.init(random.key(0), x)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.pt2")
    ...     export(model, params, x, path, dynamic_batch=True)
    ...     program = torch.export.load(path).module()
    >>> program(torch.ones(7, 5)).shape
    torch.Size([7, 2])
    """
    path = Path(path)
    kinds: dict[str, tuple[Callable[..., None], _Run]] = {
        ".onnx": (_write_onnx, _run_onnx),
        ".pt2": (_write_torch, _run_torch),
    }
    if path.suffix not in kinds:
        raise ValueError(f"export: expected a path that ends in .onnx or .pt2, got {str(path)!r}.")
    write, run = kinds[path.suffix]
    _check_example(x, dynamic_batch)
    check_layer("export", layer, state)
    module = to_module(layer, params, state).eval().requires_grad_(False)
    examples = [x, _twice(x)] if dynamic_batch else [x]
    program = _traced(module, examples[-1], dynamic_batch)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    os.close(handle)
    try:
        write(program, Path(name))
        for example in examples:
            _compare(run(Path(name), example), module(example))
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _check_example(x: Any, dynamic_batch: bool) -> None:
    leaves = _pytree.tree_leaves(x)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(f"export: expected a tensor or a tree of tensors for x, got {x!r}.")
    sizes = {leaf.shape[:1] for leaf in leaves}
    if dynamic_batch and (len(sizes) > 1 or sizes == {torch.Size()}):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(
            "export: expected one number of examples, the first dimension of every tensor in x, "
            f"for dynamic_batch; got shapes {shapes}."
        )


def _twice(x: Any) -> Any:
    # Sizes 0 and 1 are special to torch.export: two examples at least.
    return _pytree.tree_map(lambda leaf: torch.cat([leaf, leaf]), x)


def _traced(module: torch.nn.Module, x: Any, dynamic_batch: bool) -> Any:
    """Return the program of torch.export."""
    shapes = None
    if dynamic_batch:
        batch = torch.export.Dim("batch")
        shapes = _pytree.tree_map(lambda leaf: {0: batch}, (x,))
    try:
        return torch.export.export(module, (x,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch's errors have no common ancestor
        raise ExportError(f"export: torch.export refused the layer: {error}") from error


def _compare(found: Sequence[Tensor], output: Any) -> None:
    """Refuse outputs that are not the layer's, to rounding."""
    expected, found = (
        [leaf for leaf in leaves if leaf is not None]
        for leaves in (_pytree.tree_leaves(output), found)
    )
    if len(found) != len(expected):
        raise ExportError(f"export: {len(found)} outputs came back of {len(expected)}.")
    for index, pair in enumerate(zip(expected, found, strict=True)):
        ours, theirs = map(torch.as_tensor, pair)
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise ExportError(
                f"export: output {index} came back as {theirs.dtype} of {tuple(theirs.shape)}, the "
                f"layer returns {ours.dtype} of {tuple(ours.shape)}."
            )
        if ours.numel() == 0 or torch.equal(ours, theirs):
            continue
        is_exact = not (ours.is_floating_point() or ours.is_complex())
        precision = 0.0 if is_exact else min(_ROUNDINGS * torch.finfo(ours.dtype).eps, 0.05)
        wide = torch.float64 if not ours.is_complex() else torch.complex128
        ours, theirs = ours.to(wide), theirs.to(wide)
        # Infinite where the other is, and no number where the other is none, is no difference.
        alike = (ours == theirs) | (ours.isnan() & theirs.isnan())
        difference = float(torch.where(alike, 0.0, (ours - theirs).abs()).max())
        largest = float(torch.where(ours.isfinite(), ours.abs(), 0.0).max())
        if is_exact or not difference <= precision * max(largest, 1e-30):
            raise ExportError(
                f"export: output {index} of the file differs by {difference:.3g} from the layer's, "
                f"whose largest value is {largest:.3g}; nothing was written."
            )


def _write_torch(program: Any, path: Path) -> None:
    torch.export.save(program, path)


def _run_torch(path: Path, x: Any) -> Sequence[Tensor]:
    leaves: list[Tensor] = _pytree.tree_leaves(torch.export.load(path).module()(x))
    return leaves


def _write_onnx(program: Any, path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(module, module, "export")
    try:
        with warnings.catch_warnings():
            # torch's exporter uses its own deprecated classes.
            warnings.simplefilter("ignore")
            converted: Any = torch.onnx.export(program, verbose=False)
            converted.save(path, external_data=False)
    except Exception as error:  # nor have the exporter's
        raise ExportError(f"export: ONNX has no way to say this layer: {error}") from error


def _run_onnx(path: Path, x: Any) -> Sequence[Tensor]:
    runtime = import_extra("onnxruntime", "onnxruntime", "export")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    arrays = [leaf.detach().cpu().numpy() for leaf in _pytree.tree_leaves(x)]
    try:
        outputs = session.run(None, dict(zip(names, arrays, strict=True)))
    except Exception as error:  # nor have onnxruntime's
        raise ExportError(f"export: onnxruntime refused the file: {error}") from error
    return [torch.as_tensor(output) for output in outputs]
