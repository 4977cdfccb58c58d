"""Parameters of flax's models, linen's and nnx's, to ours and back; see `layouts` for the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..nn import Params, State
from . import layouts
from .arrays import from_numpy, to_own_numpy
from .flax_cells import cell_from_flax, cell_to_flax, is_cell

_ATTENTION = {"query", "key", "value", "out"}
_RENAMED = {"scale": "weight", "embedding": "weight", "negative_slope": "weight"}
_STATISTICS = {"mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class _Options:
    names: Mapping[str, str]
    transposed: frozenset[str]
    flattened: Mapping[str, Sequence[int]]

    def is_transposed(self, path: str) -> bool:
        return path in self.transposed or path.split(".")[-1].startswith("ConvTranspose")


def from_flax(
    variables: tree.PyTree,
    *,
    names: Mapping[str, str] | None = None,
    transposed: Iterable[str] = (),
    flattened: Mapping[str, Sequence[int]] | None = None,
) -> tuple[Params, State]:
    """Return a flax model's parameters and state in our names and layouts.

    The table in `purefn.functional.interop.layouts` says what becomes of each array. JAX need not
    be installed for it: arrays are those of JAX or numpy, and are copied.

    Parameters
    ----------
    variables
        linen's variables, `{"params": ..., "batch_stats": ...}`; or of an nnx model
        `nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))`.
    names
        For paths in flax with dots, as `"Conv_0"`, the path here, as `"conv1"`; other paths stay.
    transposed
        Paths of transposed convolutions. Those that flax called `ConvTranspose_0`, ... need not be
        listed.
    flattened
        Paths of dense layers that follow a flattened image, with its shape `(H, W, C)`.

    Returns
    -------
    params, state
        Nested dicts of tensors. The state, that of batch norms, is `{}` where there are none.

    Raises
    ------
    TypeError
        `variables` are not nested dicts, or a leaf is not an array of a dtype that torch has (as
        the keys in an unfiltered nnx state).
    ValueError
        An option names no such path, an image does not have its layer's size, a kernel has fewer
        than two dimensions, or two paths become one.

    Examples
    --------
    >>> import numpy as np
    >>> variables = {"params": {"Dense_0": {"kernel": np.ones((5, 3)), "bias": np.zeros(3)}}}
    >>> params, state = from_flax(variables, names={"Dense_0": "head"})
    >>> params["head"]["weight"].shape, state
    (torch.Size([3, 5]), {})
    """
    options = _options(names, transposed, flattened)
    params: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    seen: set[str] = set()
    _check_dicts("from_flax", "variables", variables)
    for path, node in _nodes(_merged(_with_string_keys(variables))):
        seen.add(path)
        try:
            tensors = from_numpy(_as_numpy(node))
        except TypeError as error:
            raise TypeError(f"from_flax: {path}: {error}") from error
        own, statistics = _node_from_flax(path, tensors, options)
        for target, values in ((params, own), (state, statistics)):
            for name, value in tree.to_state_dict(values).items():
                full = ".".join(filter(None, [_renamed(path, options), name]))
                if full in target:
                    raise ValueError(f"from_flax: two arrays would be called {full!r}.")
                target[full] = value.contiguous()
    _check_used("from_flax", options, seen)
    return tree.from_state_dict(params), tree.from_state_dict(state)


def to_flax(
    params: Params,
    state: State,
    like: tree.PyTree,
    *,
    names: Mapping[str, str] | None = None,
    transposed: Iterable[str] = (),
    flattened: Mapping[str, Sequence[int]] | None = None,
) -> tree.PyTree:
    """Return our parameters and state as a flax model's, numpy arrays in the place of `like`'s.

    Parameters
    ----------
    params, state
        As `from_flax` returns them; `{}` for the state of a model without.
    like
        The model's variables, or the pure dict of an nnx model: structure and shapes are theirs.
    names, transposed, flattened
        As given to `from_flax`, of which this is the inverse.

    Raises
    ------
    TypeError
        `like` is not nested dicts, or a parameter is not a tensor.
    ValueError
        A parameter is missing, is not used, or has another shape than in `like`; a bias has no
        place in flax's layer (that of a GRU's hidden gates) and is not zero; or an option names no
        such path.

    Examples
    --------
    >>> import numpy as np
    >>> like = {"params": {"Dense_0": {"kernel": np.ones((5, 3)), "bias": np.zeros(3)}}}
    >>> params = {"Dense_0": {"weight": torch.ones(3, 5), "bias": torch.zeros(3)}}
    >>> to_flax(params, {}, like)["params"]["Dense_0"]["kernel"].shape
    (5, 3)
    """
    options = _options(names, transposed, flattened)
    _check_dicts("to_flax", "like", like)
    values = {**tree.to_state_dict(params), **tree.to_state_dict(state)}
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"to_flax: expected tensors, got {name!r} = {value!r}.")
    unused = {name for name in values if not name.endswith("num_batches_tracked")}
    found: dict[str, dict[str, Any]] = {}
    for path, node in _nodes(_merged(_with_string_keys(like))):
        prefix = _renamed(path, options)
        dot = f"{prefix}." if prefix else ""
        own = {n.removeprefix(dot): v for n, v in values.items() if n.startswith(dot)}
        used: set[str] = set()
        found[path] = _node_to_flax(path, _Read(own, used, f"to_flax: {path}"), node, options)
        unused -= {dot + name for name in used}
    if unused:
        raise ValueError(f"to_flax: the model has no place for {sorted(unused)}.")
    _check_used("to_flax", options, set(found))
    return _filled(like, (), found)


class _Read(Mapping[str, Tensor]):
    """A dict that remembers what was read, and says what is missing."""

    def __init__(self, values: Mapping[str, Tensor], used: set[str], where: str) -> None:
        self._values, self._used, self._where = values, used, where

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._values:
            raise ValueError(f"{self._where}: there is no {name!r}; got {sorted(self._values)}.")
        self._used.add(name)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _node_from_flax(path: str, node: Any, options: _Options) -> tuple[Any, dict[str, Tensor]]:
    """Return parameters and statistics of one layer."""
    if set(node) >= _ATTENTION:
        return _attention_from_flax(node), {}
    if is_cell(node):
        return cell_from_flax(node), {}
    if set(node) == {"cell"}:
        return {f"{name}_l0": value for name, value in cell_from_flax(node["cell"]).items()}, {}
    params = {
        "weight" if name == "kernel" else _RENAMED.get(name, name): _weight(path, value, options)
        if name == "kernel"
        else value.reshape(1)
        if name == "negative_slope"
        else value
        for name, value in node.items()
        if name not in _STATISTICS
    }
    statistics = {ours: node[name] for name, ours in _STATISTICS.items() if name in node}
    if statistics:
        statistics["num_batches_tracked"] = torch.tensor(0)
    return params, statistics


def _node_to_flax(path: str, values: _Read, like: Any, options: _Options) -> dict[str, Any]:
    """Return one layer of flax, of tensors."""
    if set(like) >= _ATTENTION:
        return _attention_to_flax(values, like)
    if is_cell(like):
        return cell_to_flax(values, like)
    if set(like) == {"cell"}:
        names = {name.removesuffix("_l0"): values[name] for name in list(values)}
        return {"cell": cell_to_flax(names, like["cell"])}
    return {
        name: _kernel(path, values["weight"], options)
        if name == "kernel"
        else values["weight"].reshape(tuple(leaf.shape))
        if name == "negative_slope" and values["weight"].numel() == 1
        else values[_RENAMED.get(name, _STATISTICS.get(name, name))]
        for name, leaf in like.items()
    }


def _weight(path: str, kernel: Tensor, options: _Options) -> Tensor:
    if kernel.ndim < 2:
        raise ValueError(
            f"from_flax: {path} has a kernel of shape {tuple(kernel.shape)}; those of layers have "
            "inputs and outputs."
        )
    if options.is_transposed(path):
        return layouts.transposed_weight(kernel)
    weight = layouts.conv_weight(kernel)
    image = options.flattened.get(path)
    if image is None:
        return weight
    if len(image) != 3 or torch.Size(image).numel() != weight.shape[1]:
        raise ValueError(
            f"from_flax: {path} has {weight.shape[1]} inputs, no image of shape {tuple(image)}."
        )
    return layouts.channels_first(weight, image)


def _kernel(path: str, weight: Tensor, options: _Options) -> Tensor:
    if options.is_transposed(path):
        return layouts.transposed_kernel(weight)
    image = options.flattened.get(path)
    return layouts.conv_kernel(weight if image is None else layouts.channels_last(weight, image))


def _attention_from_flax(node: Any) -> dict[str, Any]:
    parts = [node[name] for name in ("query", "key", "value")]
    params: dict[str, Any] = layouts.packed_projections(
        [part["kernel"].flatten(1).T for part in parts],
        [part["bias"].flatten() if "bias" in part else None for part in parts],
    )
    params["out_proj"] = {"weight": node["out"]["kernel"].flatten(0, 1).T}
    if "bias" in node["out"]:
        params["out_proj"]["bias"] = node["out"]["bias"]
    return params


def _attention_to_flax(values: Mapping[str, Tensor], like: Any) -> dict[str, Any]:
    read = {name: values[name] for name in values}
    weights, biases = layouts.unpacked_projections(read)
    found: dict[str, Any] = {}
    for index, name in enumerate(("query", "key", "value")):
        found[name] = {"kernel": weights[index].T.reshape(tuple(like[name]["kernel"].shape))}
        if "bias" in like[name]:
            if biases is None:
                raise ValueError(f"to_flax: {name} needs a bias, and there is no 'in_proj_bias'.")
            found[name]["bias"] = biases[index].reshape(tuple(like[name]["bias"].shape))
    shape = tuple(like["out"]["kernel"].shape)
    found["out"] = {"kernel": values["out_proj.weight"].T.reshape(shape)}
    if "bias" in like["out"]:
        found["out"]["bias"] = values["out_proj.bias"]
    return found


# --- trees ---------------------------------------------------------------------------------------


def _options(
    names: Mapping[str, str] | None,
    transposed: Iterable[str],
    flattened: Mapping[str, Sequence[int]] | None,
) -> _Options:
    return _Options(dict(names or {}), frozenset(transposed), dict(flattened or {}))


def _check_dicts(function: str, what: str, values: Any) -> None:
    """Refuse what is no dict of names."""
    if not isinstance(values, Mapping):
        raise TypeError(
            f"{function}: expected nested dicts for {what}, got {type(values).__name__}; of an nnx "
            "model, `nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))`."
        )


def _check_used(function: str, options: _Options, paths: set[str]) -> None:
    """Refuse options for paths that are not there."""
    given = {*options.transposed, *options.flattened}
    unknown = sorted(given - paths)
    unknown += [
        name
        for name in options.names
        if not any(path == name or path.startswith(f"{name}.") for path in paths)
    ]
    if unknown:
        raise ValueError(f"{function}: no layer is called {unknown}; there are {sorted(paths)}.")


def _renamed(path: str, options: _Options) -> str:
    """Return the path here of a path in flax: the longest name that fits its beginning counts."""
    for name in sorted(options.names, key=len, reverse=True):
        if path == name or path.startswith(f"{name}."):
            return options.names[name] + path[len(name) :]
    return path


def _with_string_keys(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(name): _with_string_keys(value) for name, value in values.items()}
    return values


def _merged(variables: Any) -> Any:
    """Return linen's collections as one tree; an nnx model has no others."""
    if "params" not in variables or not set(variables) <= {"params", "batch_stats"}:
        return variables
    return _joined(variables["params"], variables.get("batch_stats", {}))


def _joined(first: Any, second: Any) -> Any:
    joined = dict(first)
    for name, value in second.items():
        joined[name] = _joined(joined.get(name, {}), value) if isinstance(value, dict) else value
    return joined


def _nodes(node: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield every layer with its path: what holds arrays, or parts that are converted together."""
    together = set(node) >= _ATTENTION or is_cell(node) or _is_rnn(node)
    arrays = {name: value for name, value in node.items() if not isinstance(value, dict)}
    if together or arrays:
        yield path, node if together else arrays
    for name, value in node.items():
        if isinstance(value, dict) and not together:
            yield from _nodes(value, f"{path}.{name}" if path else name)


def _is_rnn(node: Any) -> bool:
    return set(node) == {"cell"} and is_cell(node["cell"])


def _as_numpy(values: Any) -> Any:
    """Let numpy have JAX's arrays, which it takes without JAX being imported here."""

    def array(leaf: Any) -> Any:
        return leaf.__array__() if hasattr(leaf, "__array__") else leaf

    return tree.map(array, values)


def _filled(like: Any, path: tuple[str, ...], found: Mapping[str, dict[str, Any]]) -> Any:
    """Return `like` with the tensors found for its layers, as numpy arrays."""
    read: Callable[[Any], Any] = _finder(found)
    if isinstance(like, Mapping):
        collections = set(like) <= {"params", "batch_stats"} and "params" in like and not path
        return {
            name: _filled(value, () if collections else (*path, str(name)), found)
            for name, value in like.items()
        }
    value = read(path)
    if tuple(value.shape) != tuple(like.shape):
        raise ValueError(
            f"to_flax: {'.'.join(path)} would have shape {tuple(value.shape)}, the model's is "
            f"{tuple(like.shape)}."
        )
    return to_own_numpy(value)


def _finder(found: Mapping[str, dict[str, Any]]) -> Callable[[tuple[str, ...]], Tensor]:
    def find(path: tuple[str, ...]) -> Tensor:
        for length in range(len(path) - 1, -1, -1):
            value: Any = found.get(".".join(path[:length]))
            for name in path[length:]:
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                return value  # type: ignore[no-any-return]
        raise KeyError(path)

    return find
