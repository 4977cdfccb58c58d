"""VGG networks have torchvision's parameters, logits, gradients and running statistics."""

import importlib.util

import pytest
import scipy.stats
import torch

import purefn.functional as pf
from purefn import data
from purefn.functional import ShapeDtype, losses, models, nn, per_example, random, tree

NAMES = ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]


@pytest.fixture(scope="module")
def torchvision():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return importlib.import_module("torchvision.models", data.import_torchvision().__name__)


def made(torchvision, name, dropout=0.5, dtype=torch.float32):
    """Return torchvision's model, but with hidden layers of 8 features, and its weights."""
    with torch.device("meta"):
        module = getattr(torchvision, name)(num_classes=10)
        module.classifier = torch.nn.Sequential(
            torch.nn.Linear(512 * 7 * 7, 8),
            torch.nn.ReLU(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(8, 8),
            torch.nn.ReLU(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(8, 10),
        )
    module = module.to(dtype).to_empty(device="cpu")
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(part.weight)
            torch.nn.init.uniform_(part.bias, -0.5, 0.5)
        if isinstance(part, torch.nn.BatchNorm2d):
            part.reset_parameters()
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
    return module, split(module.state_dict())


def split(weights):
    """Return the trees of a state dict: params, and state where there is one."""
    endings = ("running_mean", "running_var", "num_batches_tracked")
    params = {name: value for name, value in weights.items() if not name.endswith(endings)}
    state = {name: value.clone() for name, value in weights.items() if name.endswith(endings)}
    trees = [tree.from_state_dict(part) for part in (params, state)]
    return trees if state else trees[:1]


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_torchvisions_names_and_shapes(torchvision, name):
    with torch.device("meta"):
        weights = getattr(torchvision, name)().state_dict()
    trees = split({n: torch.empty_like(v, device="meta") for n, v in weights.items()})
    trees = tree.map(lambda leaf: ShapeDtype(leaf.shape, leaf.dtype), trees)
    found = pf.eval_shape(getattr(models, name)(), *trees, ShapeDtype((2, 3, 64, 64)))
    # A name too many is refused as well as one that is missing.
    logits, *after = found if name.endswith("_bn") else (found,)
    assert logits.shape == (2, 1000)
    assert after == trees[1:]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchvisions(torchvision, name):
    module, trees = made(torchvision, name)
    x = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        expected = module.eval()(x)
    found = getattr(models, name)(10, hidden_features=8)(*trees, x)
    logits = found[0] if name.endswith("_bn") else found
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_a_step_of_training_is_torchvisions(torchvision, name):
    module, (params, *state) = made(torchvision, name, dropout=0.0, dtype=torch.float64)
    module.train()
    model = getattr(models, name)(10, hidden_features=8, dropout=0.0)
    x, labels = torch.randn(3, 3, 32, 32).double(), torch.tensor([1, 4, 9])

    def loss(params):
        found = model(params, *state, x, train=True)
        logits, after = found if state else (found, None)
        return losses.cross_entropy(logits, labels).mean(), after

    grads, after = pf.grad(loss, has_aux=True)(params)
    torch.nn.functional.cross_entropy(module(x), labels).backward()
    if state:
        torch.testing.assert_close(after, split(module.state_dict())[1], rtol=1e-9, atol=1e-12)
    grads = tree.to_state_dict(grads)
    for path, parameter in module.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(grads[path], parameter.grad, rtol=0, atol=1e-9 * scale)


def test_what_drops_everything_leaves_what_torchvision_leaves(torchvision):
    module, (params,) = made(torchvision, "vgg11", dropout=1.0)
    model, x = models.vgg11(10, hidden_features=8, dropout=1.0), torch.randn(2, 3, 32, 32)
    found = model(params, x, key=random.key(0), train=True)
    assert found.equal(module.train()(x))
    assert not torch.allclose(found, model(params, x))


def test_state_dicts_go_back_and_begin_as_torchvisions(torchvision):
    model = models.vgg11_bn(10, hidden_features=64)
    params, state = model.init(random.key(0), torch.zeros(1, 3, 32, 32))
    drawn = {**tree.to_state_dict(params), **tree.to_state_dict(state)}
    with torch.device("meta"):
        module = torchvision.vgg11_bn(num_classes=10)
    for index, shape in ((0, (64, 25088)), (3, (64, 64)), (6, (10, 64))):
        module.classifier[index] = torch.nn.Linear(*reversed(shape), device="meta")
    module.load_state_dict(drawn, assign=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = module.eval()(x)
    torch.testing.assert_close(model(params, state, x)[0], expected, rtol=1e-5, atol=1e-6)
    torch.manual_seed(0)
    for part in module.modules():  # what `VGG.__init__` draws
        if isinstance(part, torch.nn.Conv2d):
            reference = torch.empty_like(part.weight)
            torch.nn.init.kaiming_normal_(reference, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, torch.nn.Linear):
            reference = torch.empty_like(part.weight).normal_(0, 0.01)
        else:
            continue
        assert part.bias.eq(0).all()
        samples = (value.detach().flatten()[:50_000].numpy() for value in (part.weight, reference))
        assert scipy.stats.ks_2samp(*samples).pvalue > 1e-3


def test_compiled_equals_eager_and_gradients_of_every_example(torchvision):
    model = models.vgg11(10, in_channels=1, hidden_features=8)
    x, labels = torch.randn(2, 1, 32, 32), torch.tensor([1, 4])
    params = model.init(random.key(0), x)

    def losses_fn(params, x, labels):
        return losses.cross_entropy(model(params, x), labels)

    found = pf.jit(model, backend="aot_eager")(params, x)
    torch.testing.assert_close(found, model(params, x), rtol=1e-4, atol=1e-6)
    squares = per_example.norms(losses_fn)(params, x, labels).total
    for index in range(2):
        grads = pf.grad(lambda p, i=index: losses_fn(p, x[i : i + 1], labels[i : i + 1]).sum())
        expected = tree.norm(grads(params)) ** 2
        torch.testing.assert_close(squares[index], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_of_every_network_arrives(torchvision, name):
    make, image = getattr(models, name), ShapeDtype((1, 2, 32, 32))
    model = make(3, in_channels=2, hidden_features=4)
    rows = {row.path: row for row in nn.tabulate(model, image)}
    assert rows[""].output.shape == (1, 3)
    assert rows["features.0"].params == 64 * 2 * 9 + 64
    assert rows["classifier.0"].output.shape == rows["classifier.3"].output.shape == (1, 4)
    with pytest.raises(ValueError, match="a probability dropout within"):
        make(dropout=2.0)
    kept = nn.at(model, "classifier.2").get()({}, torch.ones(9999), key=random.key(0), train=True)
    assert abs((kept == 0).double().mean() - 0.5) < 0.02


def test_refusals():
    with pytest.raises(ValueError, match="vgg: expected num_classes >= 1, got 0"):
        models.vgg11(0)
    with pytest.raises(TypeError, match="vgg: expected an integer for in_channels"):
        models.vgg16_bn(10, in_channels=None)
    with pytest.raises(ValueError, match="vgg: expected hidden_features >= 1, got -1"):
        models.vgg19(10, hidden_features=-1)
    with pytest.raises(
        ValueError, match=r"vgg: expected a probability dropout within \[0, 1\], got -0.1"
    ):
        models.vgg13(10, dropout=-0.1)
    model = models.vgg11(10, in_channels=1, hidden_features=8)
    with pytest.raises(nn.LayerError, match=r"shape \(N, 1, H, W\), got \(2, 3, 64, 64\)"):
        model.init(random.key(0), torch.zeros(2, 3, 64, 64))
    with pytest.raises(nn.LayerError, match=r"at least 32 x 32, got shape \(2, 1, 64, 31\)"):
        model.init(random.key(0), torch.zeros(2, 1, 64, 31))
