"""What goes in and out of a converted module, and what is refused."""

from collections import UserDict
from typing import NamedTuple

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import purefn.functional as pf
from purefn.functional import interop, nn, tree

X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))


def mixed(*parts):
    return torch.nn.Sequential(*parts)


# --- what goes in and comes out ------------------------------------------------------------------


class Output(dict):
    """What HuggingFace's output classes are at heart: a dict with attributes."""

    def __getattr__(self, name):
        return self[name]


class Pair(NamedTuple):
    first: object
    second: object


class Wrapping(torch.nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x)


def test_outputs_come_as_plain_trees():
    layer, _ = interop.from_module(Wrapping(lambda x: Output(logits=x, loss=None, all=[x, (x,)])))
    y = layer({}, X)
    assert type(y) is dict
    assert list(y) == ["logits", "all"]
    layer, _ = interop.from_module(Wrapping(lambda x: Pair(x, Output(inner=x))))
    y = layer({}, X)
    assert isinstance(y, Pair)
    assert list(y.second) == ["inner"]


def test_what_is_no_tree_is_refused_with_its_place():
    class Cache: ...

    layer, _ = interop.from_module(Wrapping(lambda x: Output(logits=x, past=[Cache()])))
    with pytest.raises(nn.LayerError, match=r"output\['past'\]\['0'\] of type Cache.*forward="):
        layer({}, X)
    layer, _ = interop.from_module(
        Wrapping(lambda x: Output(logits=x, past=[Cache()])), lambda module, x: module(x).logits
    )
    assert torch.equal(layer({}, X), X)


def test_any_mapping_is_keywords():
    module = Wrapping(None)
    module.forward = lambda first, second: first.mul_(2) - second
    layer, _ = interop.from_module(module)
    before = X.clone()
    assert torch.equal(layer({}, UserDict(first=X, second=X)), X)
    assert torch.equal(X, before)


def test_a_list_is_one_argument():
    layer, _ = interop.from_module(Wrapping(torch.stack))
    assert layer({}, [X, X]).shape == (2, 4, 6, 8)


# --- refusals ------------------------------------------------------------------------------------


def linear(size):
    return torch.nn.Linear(size, size)


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (torch.relu, TypeError, "expected a torch.nn.Module"),
        (torch.nn.Linear, TypeError, "expected a torch.nn.Module"),
        (torch.nn.LazyLinear(3), ValueError, "is lazy.*weight.*on an example"),
        (torch.nn.DataParallel(linear(2)), TypeError, r"a wrapper: give its `\.module`"),
        (
            torch.compile(linear(2), backend="eager"),
            TypeError,
            r"a wrapper: give its `\._orig_mod`",
        ),
    ],
)
def test_what_is_no_module_with_values_is_refused(module, error, message):
    with pytest.raises(error, match=message):
        interop.from_module(module)


def test_a_forward_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="a function for forward, got 'logits'"):
        interop.from_module(linear(2), "logits")


def test_parameters_that_are_not_the_modules_are_refused():
    layer, params, state = interop.from_module(
        mixed(torch.nn.Linear(8, 6), torch.nn.BatchNorm1d(6))
    )
    wrong = {**params, "0": {"weight": params["0"]["weight"], "bais": torch.zeros(6)}}
    with pytest.raises(
        nn.LayerError, match=r"without \['0.bias'\] and with the unknown \['0.bais'\]"
    ):
        layer(wrong, state, X)
    with pytest.raises(
        nn.LayerError, match=r"'0.bias' to be a tensor of shape \(6,\), got.*\(1,\)"
    ):
        layer({**params, "0": {**params["0"], "bias": torch.zeros(1)}}, state, X)
    with pytest.raises(nn.LayerError, match="a state without"):
        layer(params, {}, X)
    with pytest.raises(nn.LayerError, match="the order of arguments"):
        layer(X, params, state)
    with pytest.raises(nn.LayerError, match="True or False for train"):
        layer(params, state, X, train=1)
    with pytest.raises(nn.LayerError, match=r"Sequential failed on .* \(2, 7\)"):
        layer(params, state, torch.ones(2, 7))
    with pytest.raises(TypeError, match="key"):
        layer(params, state, X, key=3)


class Clamping(torch.nn.Linear):
    def forward(self, x):
        self.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


class Assigning(torch.nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            self.weight[0] = 0
            self.weight /= 2
        return super().forward(x)


class Renormalizing(torch.nn.Linear):
    def forward(self, x):
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 1.0)
        return super().forward(x)


class Halving(torch.nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            torch._foreach_mul_([self.bias, self.weight], 0.5)
        return super().forward(x)


class Averaging(torch.nn.Linear):
    def forward(self, x):
        return functional.batch_norm(super().forward(x), self.weight[0], self.bias, training=True)


@pytest.mark.parametrize("kind", [Clamping, Assigning, Renormalizing, Halving, Averaging])
def test_a_module_that_writes_its_parameters_is_refused_before_it_does(kind):
    layer, params = interop.from_module(kind(8, 8))
    before = tree.map(torch.clone, params)
    for run in (layer, pf.grad(lambda params, x: layer(params, x).sum())):
        with pytest.raises(nn.LayerError, match=r"writes its parameter '(weight|bias)' in place"):
            run(params, X)
    assert tree.all(tree.map(torch.equal, before, params))


def test_a_hook_on_a_gradient_is_refused():
    module = mixed(linear(8), linear(8))
    module[1].weight.register_hook(lambda grad: 0 * grad)
    with pytest.raises(ValueError, match=r"hooks on the gradients of \['1.weight'\]"):
        interop.from_module(module)


def test_a_tensor_where_no_value_can_be_put_is_refused():
    class Holder:
        def __init__(self, tensor):
            self.tensor = tensor

    class Hiding(torch.nn.Linear):
        def forward(self, x):
            return self.holder.tensor * 2

    module = Hiding(8, 8)
    module.holder = Holder(module.weight)
    layer, params = interop.from_module(module)
    with pytest.raises(nn.LayerError, match="weight is read where it has no value"):
        layer(params, X)


def test_checkpoints_are_refused_under_transforms():
    class Saving(torch.nn.Linear):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    layer, params = interop.from_module(Saving(8, 8))
    assert layer(params, X).shape == X.shape
    with pytest.raises(nn.LayerError, match=r"uses torch.utils.checkpoint.*pf\.remat"):
        pf.grad(lambda params: layer(params, X).sum())(params)
    leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
    with pytest.raises(nn.LayerError, match=r"after the call, as torch\.utils\.checkpoint"):
        layer(leaves, X).sum().backward()


def test_a_buffer_that_appears_during_the_call_is_refused():
    class Growing(torch.nn.BatchNorm1d):
        def forward(self, x):
            self.register_buffer("seen", x.mean())
            return super().forward(x)

    layer, params, state = interop.from_module(Growing(6))
    with pytest.raises(nn.LayerError, match=r"registered or emptied the buffers \['seen'\]"):
        layer(params, state, X)


def test_functional_calls_inside_are_seen_through():
    class Many(torch.nn.Module):
        def forward(self, x):
            y = functional.max_pool1d(functional.gelu(x), 2)
            rows, columns = torch.meshgrid(y[0, 0], y[0, 1], indexing="ij")
            spread = torch.functional.unique(rows + columns).sum()
            z = functional.interpolate(torch.einsum("nij,nkj->nik", y, y), scale_factor=2.0)
            return spread * torch.norm(torch.cdist(z, z), dim=-1)

    layer, _ = interop.from_module(Many())
    assert torch.equal(layer({}, X), Many()(X))
