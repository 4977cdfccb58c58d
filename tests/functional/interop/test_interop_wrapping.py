"""Layers as torch modules, and values written into torch modules."""

import copy

import pytest
import torch

import purefn.functional as pf
from purefn.data import import_torchvision
from purefn.functional import interop, models, nn, random, tree

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
KEY = random.key(0)


def network():
    return nn.serial(
        conv=nn.conv2d(4, 3),
        norm=nn.batch_norm(),
        act=nn.relu,
        flat=nn.flatten(),
        head=nn.linear(2),
    )


def test_a_layer_trains_as_a_module_does():
    layer = network()
    given = params, state = layer.init(KEY, X)
    before = tree.map(torch.clone, given)
    module = interop.to_module(layer, params, state)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

    def loss(params, state):
        y, state = layer(params, state, X, train=True)
        return y.square().mean(), state

    for _ in range(2):
        (wanted, state), grads = pf.value_and_grad(loss, has_aux=True)(params, state)
        params = tree.map(lambda p, g: p - 0.1 * g, params, grads)
        optimizer.zero_grad()
        found = module(X).square().mean()
        found.backward()
        optimizer.step()
        torch.testing.assert_close(found.detach(), wanted)
    values = tree.to_state_dict(params) | tree.to_state_dict(state)
    assert set(module.state_dict()) == set(values)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, values[name])
    module.eval()
    y = module(X)
    torch.testing.assert_close(y.detach(), layer(params, state, X)[0])
    assert torch.equal(module(X), y)
    assert tree.all(tree.map(torch.equal, before, given))


def test_it_has_a_torch_modules_names_order_and_modes():
    layer = network()
    module = interop.to_module(layer, *layer.init(KEY, X))
    assert [name for name, _ in module.named_parameters()] == [
        f"{part}.{name}" for part in ("conv", "norm", "head") for name in ("weight", "bias")
    ]
    assert [name for name, _ in module.named_buffers()] == [
        f"norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    ]
    assert module.training
    again = copy.deepcopy(module).double()
    assert again(X.double()).dtype == torch.float64
    assert "serial" in repr(module)


def test_a_torchvision_checkpoint_goes_through_a_module_of_ours():
    torch.manual_seed(0)
    torchs = import_torchvision().models.resnet18(num_classes=3).eval()
    weights = torchs.state_dict()
    names = dict(torchs.named_parameters())
    params = tree.from_state_dict({name: weights[name] for name in names})
    state = tree.from_state_dict({name: weights[name] for name in weights if name not in names})
    module = interop.to_module(models.resnet18(3), params, state).eval()
    module.load_state_dict(weights)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(module(x), torchs(x), rtol=1e-5, atol=1e-5)
    assert set(module.state_dict()) == set(weights)


def test_dropout_draws_its_keys_from_torchs_generator():
    module = interop.to_module(nn.dropout(0.5), {})
    x = torch.ones(100)
    torch.manual_seed(1)
    first, second = module(x), module(x)
    torch.manual_seed(1)
    assert torch.equal(module(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(module.eval()(x), x)


def test_a_part_may_be_called_layer():
    layer = nn.serial(layer=nn.linear(2))
    module = interop.to_module(layer, layer.init(KEY, X))
    assert set(module.state_dict()) == {"layer.weight", "layer.bias"}
    assert module(X).shape == (4, 3, 8, 2)


def test_to_module_and_back():
    layer = network()
    params, state = layer.init(KEY, X)
    again, new_params, new_state = interop.from_module(interop.to_module(layer, params, state))
    assert tree.all(tree.map(torch.equal, (params, state), (new_params, new_state)))
    for train in (False, True):
        wanted = layer(params, state, X, train=train)
        found = again(new_params, new_state, X, train=train)
        tree.map(torch.testing.assert_close, found, wanted)


def test_integers_are_parameters_without_gradient():
    layer = nn.lift(lambda x: x)
    module = interop.to_module(layer, {"table": torch.tensor([1, 2])})
    assert [p.requires_grad for p in module.parameters()] == [False]
    module = interop.to_module(layer, {"weight": torch.ones(2, dtype=torch.complex64)})
    assert [p.requires_grad for p in module.parameters()] == [True]


@pytest.mark.parametrize(
    ("layer", "params", "state", "error", "message"),
    [
        (torch.nn.Linear(2, 2), {}, None, TypeError, "expected a Layer"),
        (nn.relu, {}, None, TypeError, "expected a Layer"),
        (nn.linear(2), {}, {}, TypeError, "a layer without state takes no"),
        (network(), {}, None, TypeError, "a stateful layer needs"),
        (nn.linear(2), [torch.ones(2)], None, TypeError, "nested dicts"),
        (nn.linear(2), {"weight": 1.0}, None, TypeError, "'weight' = 1.0"),
        (nn.linear(2), {"forward": torch.ones(2)}, None, ValueError, "'forward' cannot be"),
        (nn.linear(2), {"eval": {"weight": torch.ones(2)}}, None, ValueError, "'eval' of"),
        (network(), {"a": torch.ones(2)}, {"a": torch.ones(2)}, ValueError, "'a' cannot be"),
    ],
)
def test_what_is_no_layer_with_its_values_is_refused(layer, params, state, error, message):
    with pytest.raises(error, match=message):
        interop.to_module(layer, params, state)


# --- writing into a module -----------------------------------------------------------------------


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5)
        self.head.weight = self.embedding.weight


def test_values_go_into_the_tensors_that_are_there():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    tensors = list(module.state_dict(keep_vars=True).values())
    layer, params, state = interop.from_module(module)
    _, state = layer(params, state, X, train=True)
    params = tree.map(lambda leaf: leaf + 1, params)
    interop.load_into(module, params, state)
    assert all(
        new is old
        for new, old in zip(module.state_dict(keep_vars=True).values(), tensors, strict=True)
    )
    torch.testing.assert_close(module.eval()(X).detach(), layer(params, state, X)[0])
    with torch.no_grad():
        module[0].weight.zero_()
    assert params["0"]["weight"].any()


def test_ties_hold():
    module = Tied()
    _, params = interop.from_module(module)
    interop.load_into(module, tree.map(torch.ones_like, params))
    assert module.head.weight is module.embedding.weight
    assert module.head.weight.eq(1).all()
    both = {**params, "head": {**params["head"], "weight": params["embedding"]["weight"]}}
    interop.load_into(module, both)
    by_the_other = {"head": both["head"]}
    interop.load_into(module, by_the_other)
    torch.testing.assert_close(module.embedding.weight.detach(), params["embedding"]["weight"])


def test_weights_can_be_exchanged():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    first, second = ([leaf.clone() for leaf in part.parameters()] for part in module)
    own = tree.from_state_dict(module.state_dict())
    interop.load_into(module, {"0": own["1"], "1": own["0"]})
    assert all(map(torch.equal, module[0].parameters(), second))
    assert all(map(torch.equal, module[1].parameters(), first))


def test_what_does_not_fit_is_refused_and_nothing_written():
    module = Tied()
    _, params = interop.from_module(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    ones = tree.map(torch.ones_like, params)
    wide = {**ones, "head": {"bias": torch.ones(6)}}
    double = {**ones, "head": {"bias": torch.ones(5).double()}}
    two = {**ones, "head": {**ones["head"], "weight": torch.zeros(5, 3)}}
    for wrong, error, message in [
        ({"embedding": ones["embedding"]}, ValueError, r"missing names \['head.bias'\]"),
        ({**ones, "more": torch.ones(1)}, ValueError, r"unknown names \['more'\]"),
        (wide, ValueError, r"'head.bias' has shape \(6,\)"),
        (double, ValueError, "dtype torch.float64"),
        ({**ones, "head": {"bias": torch.ones(5, device="meta")}}, ValueError, "is on meta"),
        ({**ones, "head": {"bias": torch.ones(5).to_sparse()}}, ValueError, "sparse_coo"),
        (two, ValueError, "one tensor in the module and were given two values"),
        ({**ones, "head": {"bias": 1.0}}, TypeError, "a tensor for 'head.bias'"),
    ]:
        with pytest.raises(error, match=message):
            interop.load_into(module, wrong)
    with pytest.raises(ValueError, match=r"load_into: state: .*unknown names \['count'\]"):
        interop.load_into(module, ones, {"count": torch.tensor(1)})
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        interop.load_into(ones, ones)
    with pytest.raises(ValueError, match="lazy"):
        interop.load_into(torch.nn.LazyLinear(2), ones)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
