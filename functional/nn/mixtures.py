"""Mixtures of experts: layers of which each token uses a few, as a router decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import random, tree
from ..abstract import ShapeDtype
from ..initializers import Initializer, zeros
from .checks import check_flag, check_input, check_positive, needed_key, positive_int
from .combinators import check_names, stateless_parts
from .dense import linear
from .ensembles import ensemble
from .layer import Layer, LayerError, Params, State, StatefulLayer, describe, in_part
from .parameters import check_parameters, check_same_dtype

_LOAD = {"dispatched", "probability"}


def mixture_of_experts(
    expert: Layer,
    num_experts: int,
    top_k: int = 2,
    *,
    capacity_factor: float | None = None,
    router: Layer | None = None,
) -> Layer:
    """Return the layer `y = sum_i g_i(x) expert_i(x)` over the `top_k` experts of each token `x`.

    With `p = softmax(router(x))` and `T` the `top_k` experts of the largest `p`,

        g_i = p_i / sum_(j in T) p_j    for i in T, else 0    (Shazeer et al. 2017,
                                                               arXiv:1701.06538),
        g_i = p_i                       where `top_k` is 1    (Fedus et al. 2021,
                                                               arXiv:2101.03961).

    Inputs have shape `(..., E)`, and each vector of length `E` is a token. Parameters are those of
    the router, `router`, and `experts`, those of one expert with a first axis of length
    `num_experts`, as `tree.stack` makes them.

    Without a capacity every expert computes every token, and tokens are independent. With one, an
    expert computes at most `ceil(capacity_factor * tokens * top_k / num_experts)` tokens, all first
    choices before all second ones and each in the order of the tokens; what does not fit is
    dropped, its summand zero. Then tokens, of one example and of others, depend on each other:
    `per_example` refuses such a loss.

    Parameters
    ----------
    expert
        A layer from `(tokens, E)` to `(tokens, D)`, without a state.
    num_experts
        How many experts there are.
    top_k
        How many of them each token uses.
    capacity_factor
        Above 0; `None` for no limit.
    router
        A layer that gives `num_experts` numbers for each token, such as `nn.noisy_router`;
        `nn.linear(num_experts, bias=False)` unless given.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input is not of shape `(..., E)` and floating-point, router or expert refuse it (the
        message begins with their names) or return other shapes, or there are parameters that no
        part has.

    Examples
    --------
    >>> from purefn.functional import nn
    >>> expert = nn.serial(nn.linear(16), nn.relu, nn.linear(6))
    >>> layer = nn.mixture_of_experts(expert, 4)
    >>> x = torch.ones(8, 5, 6)
    >>> params = layer.init(random.key(0), x)
    >>> params["router"]["weight"].shape, params["experts"]["0"]["weight"].shape
    (torch.Size([4, 6]), torch.Size([4, 16, 6]))
    >>> layer(params, x).shape
    torch.Size([8, 5, 6])
    """
    return _untracked(
        _Mixture.of("mixture_of_experts", expert, num_experts, top_k, capacity_factor, router)
    )


def tracked_mixture_of_experts(
    expert: Layer,
    num_experts: int,
    top_k: int = 2,
    *,
    capacity_factor: float | None = None,
    router: Layer | None = None,
) -> StatefulLayer:
    """Return `mixture_of_experts` with the load of its experts in the last call as its state.

    The state holds for each expert `i` of the `n`, over the tokens of the call,

        dispatched_i   which share of all choices fell on `i`,
        probability_i  the mean of `p_i`,

    both `1 / n` at first. Gradients flow through `probability`, so that `nn.load_balancing_loss`
    of the new state can be added to a loss wherever in a model the mixture is. Options, errors and
    parameters are those of `mixture_of_experts`; the state is not read.

    Examples
    --------
    >>> from purefn.functional import nn
    >>> layer = nn.tracked_mixture_of_experts(nn.linear(6), 4)
    >>> x = random.normal(random.key(1), (8, 5, 6))
    >>> params, state = layer.init(random.key(0), x)
    >>> y, state = layer(params, state, x)
    >>> state["dispatched"].shape, state["dispatched"].sum()
    (torch.Size([4]), tensor(1.0000))
    """
    name = "tracked_mixture_of_experts"
    return _tracked(_Mixture.of(name, expert, num_experts, top_k, capacity_factor, router))


def load_balancing_loss(state: State) -> Tensor:
    """Return `n sum_i dispatched_i probability_i`, summed over all mixtures of a model's state.

    It is 1 for each mixture whose `n` experts are used evenly and up to `n` where one does
    everything. Fedus et al. 2021, equation 4 (arXiv:2101.03961), who add 0.01 of it to the loss.

    Parameters
    ----------
    state
        The new state of a model with `nn.tracked_mixture_of_experts` in it.

    Returns
    -------
    A 0-d tensor.

    Raises
    ------
    ValueError
        There is no such mixture in the state.

    Examples
    --------
    >>> load = {"dispatched": torch.tensor([1.0, 0.0]), "probability": torch.tensor([0.75, 0.25])}
    >>> load_balancing_loss({"block": {"experts": load}})
    tensor(1.5000)
    """
    losses = [
        load["dispatched"].shape[-1] * (load["dispatched"] * load["probability"]).sum()
        for load in _loads(state)  # which are stacked where mixtures are
    ]
    if not losses:
        raise ValueError(
            "load_balancing_loss: expected the state of a model with "
            f"nn.tracked_mixture_of_experts in it, got {describe(state)}."
        )
    total: Tensor = torch.stack(losses).sum()
    return total


def noisy_router(
    num_experts: int, *, weight_init: Initializer = zeros, noise_init: Initializer = zeros
) -> Layer:
    """Return the router `h = x W^T + e softplus(x V^T)`, `e` being standard normal in training.

    Outside of training `h = x W^T`. The noise spreads tokens over experts before there is anything
    to tell these apart. Parameters are `weight` (`W`) and `noise_weight` (`V`), both of shape
    `(num_experts, E)`, by default zeros. Shazeer et al. 2017, equation 4 (arXiv:1701.06538).

    Parameters
    ----------
    num_experts
        The length of the output's last dimension.
    weight_init, noise_init
        Initializers in the place of zeros.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        No key is given in training; the input is not of shape `(..., E)`, not floating-point, or
        not of the dtype of the parameters; or the parameters are not this layer's.

    Examples
    --------
    >>> router = noisy_router(3)
    >>> params = router.init(random.key(0), torch.ones(2, 4))
    >>> router(params, torch.ones(2, 4))
    tensor([[0., 0., 0.],
            [0., 0., 0.]])
    >>> router(params, torch.ones(2, 4), key=random.key(1), train=True).unique().numel()
    6
    """
    name = "noisy_router"
    positive_int(name, "num_experts", num_experts)
    shapes = dict.fromkeys(("weight", "noise_weight"), (num_experts, "E"))

    def init(key: Tensor, x: Any) -> Params:
        check_input(name, x, ("...", "E"))
        keys = random.split(key)
        shape = (num_experts, x.shape[-1])
        return {
            "weight": weight_init(keys[0], shape, x.dtype),
            "noise_weight": noise_init(keys[1], shape, x.dtype),
        }

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Tensor:
        check_parameters(name, params, shapes)
        width = params["weight"].shape[1]
        check_parameters(name, params, dict.fromkeys(shapes, (num_experts, width)))
        check_input(name, x, ("...", width))
        check_same_dtype(name, x, params)
        check_flag(name, "train", train)
        clean = F.linear(x, params["weight"])
        if not train:
            return clean
        noise = random.normal(needed_key(name, key), clean.shape, clean.dtype)
        return clean + noise * F.softplus(F.linear(x, params["noise_weight"]))

    return Layer(init, apply)


def _untracked(mixture: _Mixture) -> Layer:
    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Tensor:
        return mixture.apply(params, x, key, train)[0]

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer:
        return _untracked(mixture.of_parts(parts))

    return Layer(
        mixture.init,
        apply,
        mixture.uses_key,
        kind=mixture.name,
        parts=mixture.parts,
        rebuild=rebuild,
    )


def _tracked(mixture: _Mixture) -> StatefulLayer:
    name, num_experts = mixture.name, mixture.num_experts

    def init(key: Tensor, x: Any) -> tuple[Params, State]:
        params = mixture.init(key, x)
        even = torch.full((num_experts,), 1 / num_experts, dtype=x.dtype, device=key.device)
        return params, {"dispatched": even, "probability": even.clone()}

    def apply(
        params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Tensor, State]:
        check_parameters(name, state, dict.fromkeys(_LOAD, (num_experts,)))
        y, probabilities, chosen = mixture.apply(params, x, key, train)
        experts = torch.arange(num_experts, device=chosen.device)
        # The state keeps its dtype, which beside halves is that of the parameters.
        dtype = state["probability"].dtype
        load = {
            "dispatched": (chosen[..., None] == experts).to(dtype).flatten(0, -2).mean(0),
            "probability": probabilities.to(dtype).mean(0),
        }
        return y, load

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> StatefulLayer:
        return _tracked(mixture.of_parts(parts))

    return StatefulLayer(
        init, apply, mixture.uses_key, kind=name, parts=mixture.parts, rebuild=rebuild
    )


@dataclass(frozen=True)
class _Mixture:
    """The checked options of a mixture, and what it computes."""

    name: str
    num_experts: int
    top_k: int
    capacity_factor: float | None
    router: Layer
    #: All experts, for the same tokens or, where they have a capacity, each for its own.
    experts: Layer

    @staticmethod
    def of(
        name: str,
        expert: Layer,
        num_experts: int,
        top_k: int,
        capacity_factor: float | None,
        router: Layer | None,
    ) -> _Mixture:
        """Check the options."""
        positive_int(name, "num_experts", num_experts)
        if positive_int(name, "top_k", top_k) > num_experts:
            raise ValueError(f"{name}: expected top_k of at most {num_experts}, got {top_k}.")
        if capacity_factor is not None:
            check_positive(name, "capacity_factor", capacity_factor)
        router = linear(num_experts, bias=False) if router is None else router
        for argument, layer in {"expert": expert, "router": router}.items():
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"{name}: expected a Layer, which has no state, for {argument}, got {layer!r}."
                )
        experts = ensemble(expert, num_experts, in_axes=None if capacity_factor is None else 0)
        return _Mixture(name, num_experts, top_k, capacity_factor, router, experts)

    @property
    def parts(self) -> dict[str, Layer]:
        """Router and experts, by the names of their parameters."""
        return {"router": self.router, "experts": self.experts}

    def of_parts(self, parts: Mapping[str, Layer | StatefulLayer]) -> _Mixture:
        """Return the mixture with another router or other experts."""
        own = stateless_parts(self.name, parts)
        return replace(self, router=own["router"], experts=own["experts"])

    @property
    def uses_key(self) -> bool:
        """Whether router or experts may read a key."""
        return self.router.uses_key or self.experts.uses_key

    def init(self, key: Tensor, x: Any) -> Params:
        """Draw the parameters of router and experts."""
        check_input(self.name, x, ("...", "E"))
        token = ShapeDtype((1, x.shape[-1]), x.dtype)
        each = ShapeDtype((self.num_experts, 1, x.shape[-1]), x.dtype)
        keys = random.split(key)
        return {
            "router": in_part("router", self.router.init, keys[0], token),
            "experts": in_part(
                "experts",
                self.experts.init,
                keys[1],
                token if self.capacity_factor is None else each,
            ),
        }

    def apply(
        self, params: Params, x: Any, key: Tensor | None, train: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, and the probabilities and choices of all tokens in a row."""
        check_names(self.name, "parameters", self.parts, params)
        check_input(self.name, x, ("...", "E"))
        tokens = x.reshape(-1, x.shape[-1])
        router_key, expert_key = (None, None) if key is None else random.split(key).unbind(0)
        own = params.get("router", {})
        h = in_part("router", self.router.apply, own, tokens, key=router_key, train=train)
        if not isinstance(h, Tensor) or h.shape != (len(tokens), self.num_experts):
            raise LayerError(
                f"{self.name} expected its router to return {self.num_experts} numbers for each "
                f"token, shape {(len(tokens), self.num_experts)}, got {describe(h)}."
            )
        p = h.softmax(-1)
        gates, chosen = p.topk(self.top_k, -1)
        if self.top_k > 1:
            gates = gates / gates.sum(-1, keepdim=True)

        def run(x: Tensor) -> Tensor:
            own = params.get("experts", {})
            y = in_part("experts", self.experts.apply, own, x, key=expert_key, train=train)
            if not isinstance(y, Tensor) or y.shape[:2] != (self.num_experts, x.shape[-2]):
                raise LayerError(
                    f"{self.name} expected experts to return a vector for each token, got "
                    f"{describe(y)} for {self.num_experts} experts and {x.shape[-2]} tokens."
                )
            return y

        if self.capacity_factor is None:
            outputs = run(tokens)
            weights = torch.zeros_like(p).scatter(-1, chosen, gates)
            y = torch.einsum("te,ted->td", weights, outputs.transpose(0, 1))
        else:
            room = math.ceil(self.capacity_factor * chosen.numel() / self.num_experts)
            y = self._within(room, run, tokens, gates, chosen)
        return y.reshape(*x.shape[:-1], *y.shape[1:]), p, chosen

    def _within(self, room: int, run: Any, tokens: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """Return the weighted sum of what each expert makes of the tokens that it has room for."""
        count, n, k = len(tokens), self.num_experts, self.top_k
        capacity = min(room, count)
        experts = chosen.T.flatten()  # first choices come first
        is_chosen = experts[:, None] == torch.arange(n, device=tokens.device)
        place = is_chosen.cumsum(0).gather(1, experts[:, None]).squeeze(1) - 1
        # What does not fit goes to a slot behind the last, which is read from a row of zeros.
        slot = torch.where(place < capacity, experts * capacity + place, n * capacity)
        token = torch.arange(count, device=tokens.device).repeat(k)
        source = torch.full((n * capacity + 1,), count, device=tokens.device)
        source = source.scatter(0, slot, token)[:-1]
        inputs = _with_zeros(tokens)[source].unflatten(0, (n, capacity))
        outputs = _with_zeros(run(inputs).flatten(0, 1))[slot]
        weighted: Tensor = gates.T.reshape(-1, 1) * outputs
        y: Tensor = weighted.unflatten(0, (k, count)).sum(0)
        return y


def _with_zeros(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.zeros_like(rows[:1])])


def _loads(state: tree.PyTree) -> list[Mapping[str, Tensor]]:
    """Return the loads of all mixtures in a state."""
    if not isinstance(state, Mapping):
        return []
    if set(state) == _LOAD:
        return [state]
    return [load for name in sorted(state) for load in _loads(state[name])]
