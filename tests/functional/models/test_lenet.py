"""LeNet-5 is the network of torch's introduction, written with torch.nn."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import losses, models, nn, per_example, random, tree


def plain(activation=torch.nn.ReLU, padding=0, spatial=5, num_classes=10):
    """Return the network of pytorch.org's "Neural networks" tutorial."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=padding),
        activation(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5),
        activation(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * spatial * spatial, 120),
        activation(),
        torch.nn.Linear(120, 84),
        activation(),
        torch.nn.Linear(84, num_classes),
    ).double()


NAMES = {"0": "conv1", "3": "conv2", "7": "fc1", "9": "fc2", "11": "fc3"}


def renamed(named):
    return {
        f"{NAMES[name.partition('.')[0]]}.{name.partition('.')[2]}": value
        for name, value in dict(named).items()
    }


@pytest.mark.parametrize(
    ("size", "padding", "spatial", "activation"), [(32, 0, 5, "relu"), (28, 2, 5, "tanh")]
)
def test_logits_are_those_of_torch(size, padding, spatial, activation):
    module = plain({"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[activation], padding, spatial)
    model = models.lenet(padding=padding, activation=getattr(nn, activation))
    x = torch.randn(3, 1, size, size).double()
    params = tree.from_state_dict(renamed(module.state_dict()))
    torch.testing.assert_close(model(params, x), module(x), rtol=1e-12, atol=1e-13)
    drawn = tree.to_state_dict(model.init(random.key(0), x))
    module.load_state_dict(
        {name: drawn[renamed({name: 0}).popitem()[0]] for name in module.state_dict()}
    )
    found = model(tree.from_state_dict(drawn), x)
    torch.testing.assert_close(found, module(x), rtol=1e-12, atol=1e-13)


def test_gradients_of_every_example_are_those_of_torch():
    module, model = plain(spatial=1, num_classes=3), models.lenet(3)
    params = tree.from_state_dict(renamed(module.state_dict()))
    x, labels = torch.randn(4, 1, 16, 16).double(), torch.tensor([0, 2, 1, 2])

    def losses_fn(params, x, labels):
        return losses.cross_entropy(model(params, x), labels)

    each = tree.to_state_dict(per_example.grads(losses_fn)(params, x, labels))
    for index in range(4):
        module.zero_grad()
        logits = module(x[index : index + 1])
        torch.nn.functional.cross_entropy(logits, labels[index : index + 1]).backward()
        for path, parameter in renamed(module.named_parameters()).items():
            torch.testing.assert_close(each[path][index], parameter.grad, rtol=1e-10, atol=1e-13)


def test_compiled_and_over_many_parameters():
    model, x = models.lenet(3), torch.randn(2, 1, 16, 16)
    several = pf.vmap(model.init, in_axes=(0, None))(random.split(random.key(0), 3), x)
    found = pf.jit(pf.vmap(model, in_axes=(0, None)), backend="aot_eager")(several, x)
    for index in range(3):
        one = tree.map(lambda value, index=index: value[index], several)
        torch.testing.assert_close(found[index], model(one, x), rtol=1e-4, atol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="lenet: expected num_classes >= 1, got 0"):
        models.lenet(0)
    with pytest.raises(ValueError, match="lenet: expected padding >= 0, got -1"):
        models.lenet(padding=-1)
    with pytest.raises(TypeError, match="an integer for padding, got 'same'"):
        models.lenet(padding="same")
    with pytest.raises(nn.LayerError, match=r"model\['conv2'\]"):
        models.lenet().init(random.key(0), torch.zeros(1, 1, 8, 8))
    with pytest.raises(nn.LayerError, match=r"lenet expected .*\(N, C, H, W\), got \(1, 32, 32\)"):
        models.lenet().init(random.key(0), torch.zeros(1, 32, 32))
    params = models.lenet().init(random.key(0), torch.zeros(1, 1, 32, 32))
    with pytest.raises(nn.LayerError, match=r"model\['fc1'\].*\(..., 400\), got \(1, 256\)"):
        models.lenet()(params, torch.zeros(1, 1, 28, 28))
