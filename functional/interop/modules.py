"""Torch modules as pure functions of their parameters and state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..nn import Layer, LayerError, Params, State, StatefulLayer, lift
from ..nn.checks import check_flag
from ..nn.layer import describe
from ..random.threefry import check_key
from .batches import beside
from .compiling import told_when_traced
from .drawing import KeyedDraws
from .generators import Guard
from .outputs import arguments, copied, plain
from .skeletons import Skeleton

Forward = Callable[[torch.nn.Module, Any], Any]


def from_module(module: torch.nn.Module, forward: Forward | None = None) -> tuple[Any, ...]:
    """Return a torch module as a pure function, with its parameters and state.

    For a module without buffers that is `(layer, params)`, else `(layer, params, state)`: a
    `nn.Layer` or `nn.StatefulLayer` like those of `functional.nn`, and nested dicts of copies
    with the module's own names: `tree.from_state_dict(module.state_dict())`, and in the state
    also the buffers that are not persistent. The module is copied: it is not written, and what
    becomes of it later is not seen.

    - Called is `module(x)`, or `module(*x)` for a tuple and `module(**x)` for a dict (or another
      mapping, as HuggingFace's tokenizers return, in eager). Outputs come
      as plain trees: HuggingFace's output classes as dicts without the entries that are `None`.
    - Buffers that the module writes come back as the new state. What it assigns to attributes, or
      puts into its lists and dicts, is forgotten.
    - `train` is the mode of the call. A part whose mode differs from that of the whole when it is
      given keeps its own always: a batch norm that was frozen by `module.bn.eval()` stays so.
    - Random operators draw from `key`, number `i` of a call from `random.fold_in(key, i)`, in
      evaluation too: dropout of every kind (that of attention, recurrent layers and stochastic
      depth included), and `torch.rand`, `bernoulli`, `Tensor.normal_`, ... with torch's arguments.
      From one key they draw other numbers than torch's generator.
    - A tensor with several names (tied weights) is one leaf, with the first of them, and its
      gradient the sum over its uses.
    - Every parameter is a leaf like the others, those with `requires_grad=False`, too: to keep some
      as they are, differentiate in a part of the tree (`tree.partition`).
    - `layer.init(key, x)` returns the values that the module had, whatever `key` and `x` are.

    Parameters
    ----------
    module
        A module whose parameters have shapes (no lazy one) and which `copy.deepcopy` copies.
    forward
        `forward(module, x)`, a function that calls the module, by default as above: to choose
        a method, fixed options, or a part of the output.

    Raises
    ------
    TypeError
        `module` is not a module; is TorchScript's; or only wraps one, as `DataParallel` does.
    ValueError
        It is lazy, or a parameter has hooks on its gradient.
    LayerError
        On use: parameters or state are not those of the module; the module draws random numbers
        and there is no key, or draws with an operator or from a generator that takes none; it
        writes a parameter in place; it returns what is no tree of tensors; or it fails.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    >>> layer, params, state = from_module(module)
    >>> sorted(tree.to_state_dict(params))
    ['0.bias', '0.weight', '1.bias', '1.weight']
    >>> def loss(params, state, x):
    ...     y, state = layer(params, state, x, train=True)
    ...     return y.square().mean(), state
    >>> x = torch.arange(12.0).reshape(4, 3)
    >>> grads, new_state = pf.grad(loss, has_aux=True)(params, state, x)
    >>> state["1"]["num_batches_tracked"], new_state["1"]["num_batches_tracked"]
    (tensor(0), tensor(1))
    """
    skeleton = Skeleton(module)
    if forward is not None and not callable(forward):
        raise TypeError(f"from_module: expected a function for forward, got {forward!r}.")
    guard = Guard(skeleton.name)
    call = _call if forward is None else forward
    params = _copies(skeleton.parameters)
    state = _copies(skeleton.buffers)

    def run(
        params: Params, state: State, x: Any, key: Tensor | None, train: bool
    ) -> tuple[Any, State]:
        return _run(skeleton, guard, call, params, state, x, key, train)

    if state:
        own = [tree.from_state_dict(named) for named in (skeleton.parameters, skeleton.buffers)]
        return _stateful(skeleton.name, run, *own), params, state
    return _stateless(skeleton.name, run, tree.from_state_dict(skeleton.parameters)), params


def _stateful(name: str, run: Callable[..., Any], params: Params, state: State) -> StatefulLayer:
    def init(key: Tensor, x: Any) -> tuple[Params, State]:
        check_key(f"{name}.init", key)
        return _on(key, params), _on(key, state)

    def apply(
        params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Any, State]:
        return run(params, state, x, key, train)  # type: ignore[no-any-return]

    return StatefulLayer(init, apply, kind=name)


def _stateless(name: str, run: Callable[..., Any], params: Params) -> Layer:
    def init(key: Tensor, x: Any) -> Params:
        check_key(f"{name}.init", key)
        return _on(key, params)

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        return run(params, {}, x, key, train)[0]

    return Layer(init, apply, kind=name)


def _run(
    skeleton: Skeleton,
    guard: Guard,
    call: Forward,
    params: Params,
    state: State,
    x: Any,
    key: Tensor | None,
    train: bool,
) -> tuple[Any, State]:
    """Call the module on copies of the input and the state; see `from_module`."""
    name = skeleton.name
    check_flag(name, "train", train)
    if key is not None:
        check_key(name, key)
    parameters = _named(name, "parameters", params, skeleton.parameters)
    buffers = _named(name, "a state", state, skeleton.buffers)
    around = [*tree.leaves(x), *parameters.values(), key]
    written = {path: beside(buffer.clone(), around) for path, buffer in buffers.items()}
    with (
        skeleton.inhabited(parameters, written, train) as module,
        guard.watching(train),
        told_when_traced(),
        KeyedDraws(name, key, parameters),
    ):
        # A lifted function has a layer's errors.
        try:
            y = lift(lambda x: call(module, x), name).apply({}, copied(x))
        except LayerError as error:
            if "saved tensor hooks" not in str(error):
                raise
            raise LayerError(
                f"{name} uses torch.utils.checkpoint, which has no derivative under torch.func: "
                "turn it off in the module, and call the layer within pf.remat."
            ) from error
        new = skeleton.read_buffers()
    return plain(name, y), tree.from_state_dict(new)


def _call(module: torch.nn.Module, x: Any) -> Any:
    args, options = arguments(x)
    return module(*args, **options)


def _named(
    module: str, what: str, given: tree.PyTree, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the leaves of nested dicts by name, or refuse those that are not the module's."""
    if not isinstance(given, Mapping):
        raise LayerError(
            f"{module} expected {what} as nested dicts, got {describe(given)}; the order of "
            "arguments is (params, x) or (params, state, x)."
        )
    named = tree.to_state_dict(given)
    missing = [name for name in expected if name not in named]
    unknown = [name for name in named if name not in expected]
    if missing or unknown:
        raise LayerError(f"{module} got {what} without {missing} and with the unknown {unknown}.")
    for name, leaf in expected.items():
        value = named[name]
        if not isinstance(value, Tensor) or value.shape != leaf.shape:
            raise LayerError(
                f"{module} expected {name!r} to be a tensor of shape {tuple(leaf.shape)}, got "
                f"{describe(value)}."
            )
    return named


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return tree.from_state_dict(  # type: ignore[no-any-return]
        {name: tensor.detach().clone() for name, tensor in tensors.items()}
    )


def _on(key: Tensor, values: tree.PyTree) -> tree.PyTree:
    """Return copies on the device of the key."""
    return tree.map(lambda leaf: leaf.to(key.device, copy=True), values)
