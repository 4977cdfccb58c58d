"""Low-rank adapters: training a large model by small additions to its weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, overload

import torch
from torch import Tensor

from .. import random, tree
from ..initializers import Initializer, zeros
from .checks import check_positive, positive_int
from .layer import Layer, LayerError, Params, State, StatefulLayer, describe, in_part
from .parameters import DEFAULT_WEIGHT

#: Which weights have an adapter: their names in the state dict, or a function of name and weight.
Where = Collection[str] | Callable[[str, Tensor], bool]


@overload
def lora(
    layer: Layer, rank: int, *, alpha: float, where: Where = ..., a_init: Initializer = ...
) -> Layer: ...
@overload
def lora(
    layer: StatefulLayer, rank: int, *, alpha: float, where: Where = ..., a_init: Initializer = ...
) -> StatefulLayer: ...
def lora(
    layer: Layer | StatefulLayer,
    rank: int,
    *,
    alpha: float,
    where: Where = lambda name, weight: weight.ndim >= 2,
    a_init: Initializer = DEFAULT_WEIGHT,
) -> Layer | StatefulLayer:
    """Return `layer` with `W + (alpha / rank) B A` in the place of each chosen weight `W`.

    Parameters are `{"base": params of the layer, "adapters": ...}`, where the adapters are a dict
    `{"A": ..., "B": ...}` at the path of each chosen weight: for `W` of shape `(out, *rest)`, `A`
    is of shape `(rank, prod(rest))` and `B`, at first zero, `(out, rank)`. So the output begins as
    that of `layer`. To train the adapters alone, differentiate by them; to begin from trained
    parameters, put them in the place of `params["base"]`. Hu et al. 2021, LoRA: low-rank
    adaptation of large language models.

    Parameters
    ----------
    layer
        Any layer or model; a state passes through unchanged.
    rank
        The rank of what is added, at least 1.
    alpha
        Above 0; `merge_lora` and `unmerge_lora` need the same.
    where
        The weights that have adapters: names as in `tree.to_state_dict(params)`, or a function
        `(name, weight) -> bool`; by default all of two or more dimensions.
    a_init
        The initializer of `A`, by default uniform within `±1 / sqrt(prod(rest))`.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        `where` names no weight, one that there is not, or one of fewer than two dimensions; the
        parameters are not this layer's; or `layer` refuses its input or parameters.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> from purefn.functional import nn
    >>> model = nn.serial(hidden=nn.linear(16), act=nn.tanh, head=nn.linear(3))
    >>> x = torch.ones(2, 5)
    >>> pretrained = model.init(random.key(0), x)
    >>> adapted = lora(model, 2, alpha=4.0, where=["hidden.weight"])
    >>> params = {**adapted.init(random.key(1), x), "base": pretrained}
    >>> list(tree.to_state_dict(params["adapters"]))
    ['hidden.weight.A', 'hidden.weight.B']
    >>> torch.equal(adapted(params, x), model(pretrained, x))
    True

    Only the adapters are trained:

    >>> trained, frozen = tree.partition(params, lambda path, leaf: path[0] == "adapters")
    >>> def loss(trained):
    ...     return adapted(tree.combine(trained, frozen), x).square().mean()
    >>> list(tree.to_state_dict(pf.grad(loss)(trained)))
    ['adapters.hidden.weight.A', 'adapters.hidden.weight.B']
    """
    if not isinstance(layer, Layer | StatefulLayer):
        raise TypeError(f"lora: expected a Layer or a StatefulLayer, got {layer!r}.")
    positive_int("lora", "rank", rank)
    check_positive("lora", "alpha", alpha)
    if isinstance(where, str) or not (callable(where) or isinstance(where, Collection)):
        raise TypeError(f"lora: expected names or a function for where, got {where!r}.")

    def with_adapters(key: Tensor, base: Params) -> Params:
        return {"base": base, "adapters": _adapters(key, base, rank, where, a_init)}

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer | StatefulLayer:
        return lora(parts["base"], rank, alpha=alpha, where=where, a_init=a_init)

    shown: dict[str, Any] = {"kind": "lora", "parts": {"base": layer}, "rebuild": rebuild}

    if isinstance(layer, StatefulLayer):
        stateful = layer

        def init_stateful(key: Tensor, x: Any) -> tuple[Params, State]:
            base_key, own_key = random.split(key)
            base, state = in_part("base", stateful.init, base_key, x)
            return with_adapters(own_key, base), state

        def apply_stateful(
            params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
        ) -> tuple[Any, State]:
            merged = merge_lora(params, alpha)
            result: tuple[Any, State] = in_part(
                "base", stateful.apply, merged, state, x, key=key, train=train
            )
            return result

        return StatefulLayer(init_stateful, apply_stateful, layer.uses_key, **shown)

    def init(key: Tensor, x: Any) -> Params:
        base_key, own_key = random.split(key)
        return with_adapters(own_key, in_part("base", layer.init, base_key, x))

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        return in_part("base", layer.apply, merge_lora(params, alpha), x, key=key, train=train)

    return Layer(init, apply, layer.uses_key, **shown)


def merge_lora(params: Params, alpha: float) -> Params:
    """Return the parameters of the layer inside of `lora` that give the same outputs without it.

    Raises
    ------
    TypeError, ValueError
        `alpha` is no number above 0.
    LayerError
        `params` are not those of `lora`.

    Examples
    --------
    >>> layer = linear(3)
    >>> adapted = lora(layer, 2, alpha=4.0)
    >>> x = torch.ones(1, 5)
    >>> params = adapted.init(random.key(0), x)
    >>> params["adapters"]["weight"]["B"] = torch.ones(3, 2)
    >>> torch.equal(layer(merge_lora(params, 4.0), x), adapted(params, x))
    True
    """
    _check_alpha("merge_lora", alpha)
    if not isinstance(params, Mapping) or set(params) != {"base", "adapters"}:
        raise LayerError(
            f"lora expected a dict of ['adapters', 'base'], got {describe(params)}; "
            "the order of arguments is (params, x)."
        )
    return _plus(params["base"], params["adapters"], alpha)


def unmerge_lora(merged: Params, adapters: Params, alpha: float) -> Params:
    """Return the parameters of `lora` of which `merge_lora` makes `merged`, but for rounding.

    Raises
    ------
    TypeError, ValueError
        `alpha` is no number above 0.
    LayerError
        The adapters are not those of these parameters.

    Examples
    --------
    >>> adapted = lora(linear(3), 2, alpha=4.0)
    >>> params = adapted.init(random.key(0), torch.ones(1, 5))
    >>> again = unmerge_lora(merge_lora(params, 4.0), params["adapters"], 4.0)
    >>> torch.equal(again["base"]["weight"], params["base"]["weight"])
    True
    """
    _check_alpha("unmerge_lora", alpha)
    return {"base": _plus(merged, adapters, -alpha), "adapters": adapters}


def _check_alpha(name: str, alpha: Any) -> None:
    if not isinstance(alpha, Tensor):  # as `jit` makes of a number
        check_positive(name, "alpha", alpha)


def _adapters(key: Tensor, base: Params, rank: int, where: Where, a_init: Initializer) -> Params:
    weights = tree.to_state_dict(base)
    if callable(where):
        chosen = [name for name, weight in weights.items() if where(name, weight)]
    else:
        chosen = sorted(where)
    unknown = [name for name in chosen if name not in weights]
    if unknown or not chosen:
        raise LayerError(f"lora expected where to name some of {list(weights)}, got {chosen}.")
    drawn = {}
    for name, one in zip(chosen, random.split(key, len(chosen)), strict=True):
        weight = weights[name]
        if weight.ndim < 2:
            raise LayerError(
                f"lora expected weights of two or more dimensions, got {describe(weight)} for "
                f"{name!r}."
            )
        columns = weight.shape[1:].numel()
        drawn[f"{name}.A"] = a_init(one, (rank, columns), weight.dtype)
        drawn[f"{name}.B"] = zeros(one, (weight.shape[0], rank), weight.dtype)
    return tree.from_state_dict(drawn)


def _plus(base: Params, adapters: Params, alpha: float) -> Params:
    """Return the parameters with `(alpha / rank) B A` added where there are adapters."""
    factors = tree.to_state_dict(adapters)
    weights = tree.to_state_dict(base)
    added: dict[str, Tensor] = {}
    for name in sorted({name.rpartition(".")[0] for name in factors}):
        added[name] = _product(name, factors, weights.get(name), alpha)
    return tree.unflatten(
        tree.structure(base),
        [value + added[name] if name in added else value for name, value in weights.items()],
    )


def _product(
    name: str, factors: Mapping[str, Tensor], weight: Tensor | None, alpha: float
) -> Tensor:
    """Return what is added to a weight, or refuse factors that do not fit it."""
    a, b = factors.get(f"{name}.A"), factors.get(f"{name}.B")
    if weight is None or a is None or b is None:
        raise LayerError(
            f"lora expected adapters A and B at the path of a weight, got a dict of "
            f"{sorted(factors)}."
        )
    rank, columns = a.shape[0] if a.ndim == 2 else -1, weight.shape[1:].numel()
    if (
        weight.ndim < 2
        or rank < 1
        or a.shape != (rank, columns)
        or b.shape != (weight.shape[0], rank)
    ):
        raise LayerError(
            f"lora expected factors A of shape (rank, {columns}) and B of shape "
            f"({weight.shape[0] if weight.ndim else 1}, rank) for {name!r}, "
            f"got {describe(a)} and {describe(b)}."
        )
    return (alpha / rank) * torch.mm(b, a).reshape(weight.shape)
