"""Multi-layer perceptrons are torchvision's, and those of torch.nn."""

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import data
from purefn.functional import initializers, losses, models, nn, per_example, random, tree


@pytest.fixture(scope="module")
def torchvision_mlp():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    data.import_torchvision()
    return importlib.import_module("torchvision.ops").MLP


widths = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@given(widths, st.integers(1, 5), st.booleans(), st.sampled_from(["relu", "tanh", "gelu"]))
def test_outputs_and_state_dicts_are_torchvisions(
    torchvision_mlp, features, in_features, bias, name
):
    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}[name]
    module = torchvision_mlp(in_features, features, activation_layer=activation, bias=bias).double()
    model = models.mlp(features, activation=getattr(nn, name), bias=bias)
    x = torch.randn(3, in_features).double()
    params = tree.from_state_dict(module.state_dict())
    torch.testing.assert_close(model(params, x), module(x), rtol=1e-12, atol=1e-13)
    drawn = model.init(random.key(0), x)
    module.load_state_dict(tree.to_state_dict(drawn))
    torch.testing.assert_close(model(drawn, x), module(x), rtol=1e-12, atol=1e-13)


def test_gradients_are_torchvisions(torchvision_mlp):
    module = torchvision_mlp(6, [5, 4, 3]).double()
    model, x = models.mlp([5, 4, 3]), torch.randn(8, 6).double()
    params, labels = tree.from_state_dict(module.state_dict()), torch.arange(8) % 3

    def losses_fn(params, x, labels):
        return losses.cross_entropy(model(params, x), labels)

    each = tree.to_state_dict(per_example.grads(losses_fn)(params, x, labels))
    for index in range(8):
        module.zero_grad()
        logits = module(x[index : index + 1])
        torch.nn.functional.cross_entropy(logits, labels[index : index + 1]).backward()
        for path, parameter in module.named_parameters():
            torch.testing.assert_close(each[path][index], parameter.grad, rtol=1e-11, atol=1e-13)


def test_hidden_elements_are_dropped_and_outputs_are_not():
    model = models.mlp([1000, 50], dropout=0.25)
    ones, zeros = torch.ones(1000, 1), torch.zeros(50)
    params = {
        "0": {"weight": ones, "bias": zeros.new_zeros(1000)},
        "3": {"weight": torch.eye(50, 1000), "bias": zeros},
    }
    found = model(params, torch.ones(4, 1), key=random.key(0), train=True)
    # Each output is one hidden element: 0 or 4/3 of it, and so is not dropped again.
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs((found == 0).double().mean() - 0.25) < 0.1
    assert model(params, torch.ones(4, 1)).equal(torch.ones(4, 50))
    whole = models.mlp([3, 50], dropout=1.0)
    params = whole.init(random.key(0), torch.ones(2, 1))
    found = whole(params, torch.ones(2, 1), key=random.key(1), train=True)
    assert found.equal(params["3"]["bias"].expand(2, 50))


def test_initializers_reach_every_layer():
    model = models.mlp(
        [3, 2], weight_init=initializers.constant(0.5), bias_init=initializers.constant(-2.0)
    )
    params = model.init(random.key(0), torch.ones(1, 4))
    assert all(params[part]["weight"].eq(0.5).all() for part in "03")
    assert all(params[part]["bias"].eq(-2.0).all() for part in "03")


def test_compiled_and_over_many_parameters():
    model, x = models.mlp([5, 3], dropout=0.5), torch.randn(4, 6)
    params = model.init(random.key(0), x)

    def train(params, x, key):
        return model(params, x, key=key, train=True)

    found = pf.jit(train, backend="aot_eager")(params, x, random.key(1))
    torch.testing.assert_close(found, train(params, x, random.key(1)))
    several = pf.vmap(model.init, in_axes=(0, None))(random.split(random.key(0), 3), x)
    found = pf.vmap(model, in_axes=(0, None))(several, x)
    for index, key in enumerate(random.split(random.key(0), 3).unbind(0)):
        torch.testing.assert_close(found[index], model(model.init(key, x), x))


def test_refusals():
    with pytest.raises(ValueError, match="mlp: expected one or more integers for features"):
        models.mlp([])
    with pytest.raises(TypeError, match="expected a sequence of integers for features, got 10"):
        models.mlp(10)
    with pytest.raises(ValueError, match="mlp: expected features >= 1, got 0"):
        models.mlp([3, 0])
    with pytest.raises(TypeError, match=r"expected an integer for features, got 3\.0"):
        models.mlp([3.0])
    with pytest.raises(
        ValueError, match=r"mlp: expected a probability dropout within \[0, 1\], got 2.0"
    ):
        models.mlp([3, 2], dropout=2.0)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        models.mlp([3, 2], activation=torch.nn.ReLU())
    model = models.mlp([3, 2], dropout=0.5)
    params = model.init(random.key(0), torch.ones(1, 4))
    with pytest.raises(nn.LayerError, match="needs a key in training"):
        model(params, torch.ones(1, 4), train=True)
    with pytest.raises(nn.LayerError, match=r"shape \(..., 4\), got \(1, 5\)"):
        model(params, torch.ones(1, 5))
