"""Residual networks have torchvision's parameters, logits, gradients and running statistics."""

import importlib.util

import pytest
import scipy.stats
import torch

import purefn.functional as pf
from purefn import data
from purefn.functional import ShapeDtype, models, nn, random, tree

NAMES = ["resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d"]
LARGE = ["resnet152", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2"]


@pytest.fixture(scope="module")
def torchvision():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return importlib.import_module("torchvision.models", data.import_torchvision().__name__)


def made(torchvision, name):
    """Return torchvision's model and its weights, with statistics as after some training."""
    torch.manual_seed(0)
    module = getattr(torchvision, name)(num_classes=10)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
    return module, split(module)


def split(module):
    buffers = {name for name, _ in module.named_buffers()}
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    params = {name: value for name, value in weights.items() if name not in buffers}
    state = {name: value for name, value in weights.items() if name in buffers}
    return tree.from_state_dict(params), tree.from_state_dict(state)


@pytest.mark.parametrize("name", [*NAMES, *LARGE])
def test_weights_have_torchvisions_names_and_shapes(torchvision, name):
    with torch.device("meta"):
        trees = split(getattr(torchvision, name)())
    trees = tree.map(lambda leaf: ShapeDtype(leaf.shape, leaf.dtype), trees)
    # A name too many is refused as well as one that is missing.
    x = ShapeDtype((2, 3, 64, 64))
    logits, after = pf.eval_shape(getattr(models, name)(), *trees, x)
    assert logits == ShapeDtype((2, 1000))
    assert after == trees[1]


@pytest.mark.parametrize("name", [*NAMES, *LARGE])
def test_every_argument_of_every_network_arrives(name):
    with pytest.raises(ValueError, match="expected num_classes >= 1, got 0"):
        getattr(models, name)(0)
    with pytest.raises(ValueError, match="expected in_channels >= 1, got -1"):
        getattr(models, name)(in_channels=-1)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchvisions(torchvision, name):
    module, (params, state) = made(torchvision, name)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = module.eval()(x)
    logits, after = getattr(models, name)(10)(params, state, x)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert after is state or tree.all(tree.map(torch.equal, after, state))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_step_of_training_is_torchvisions(torchvision, name):
    module, (params, state) = made(torchvision, name)
    module, model = module.double().train(), getattr(models, name)(10)
    params, state = (
        tree.map(lambda v: v.double() if v.is_floating_point() else v, part)
        for part in (params, state)
    )
    x, labels = torch.randn(3, 3, 64, 64).double(), torch.tensor([1, 4, 9])

    def loss(params):
        logits, after = model(params, state, x, train=True)
        return torch.nn.functional.cross_entropy(logits, labels), after

    grads, after = pf.grad(loss, has_aux=True)(params)
    torch.nn.functional.cross_entropy(module(x), labels).backward()
    _, expected = split(module)
    torch.testing.assert_close(after, expected, rtol=1e-9, atol=1e-12)
    grads = tree.to_state_dict(grads)
    for path, parameter in module.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(grads[path], parameter.grad, rtol=0, atol=1e-9 * scale)


SIZES = {
    "basic": ({"depths": (1, 2, 1)}, {}),
    "narrow": ({"depths": [2, 1, 1, 1], "width": 8}, {}),
    "bottleneck": (
        {"depths": (1, 2), "bottleneck": True, "width": 16, "widening": 2, "groups": 4},
        {"groups": 4, "width_per_group": 32},
    ),
}


@pytest.mark.parametrize("case", SIZES)
def test_networks_of_other_sizes_are_torchvisions(torchvision, case):
    resnet = importlib.import_module("torchvision.models.resnet")
    options, theirs = SIZES[case]
    depths, width = options["depths"], options.get("width", 64)
    block = resnet.Bottleneck if options.get("bottleneck") else resnet.BasicBlock

    class Sized(resnet.ResNet):
        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
            if planes == 64:
                self.inplanes = width
            if blocks == 0:
                return torch.nn.Identity()
            return super()._make_layer(block, planes * width // 64, blocks, stride, dilate)

    torch.manual_seed(0)
    module = Sized(block, [*depths, 0, 0, 0][:4], **theirs)
    module.conv1 = torch.nn.Conv2d(2, width, 7, 2, 3, bias=False)
    module.bn1 = torch.nn.BatchNorm2d(width)
    module.fc = torch.nn.Linear(module.inplanes, 5)
    params, state = split(module)
    x = torch.randn(3, 2, 40, 33)
    model = models.residual_network(5, in_channels=2, **options)
    drawn = model.init(random.key(0), x)
    assert pf.eval_shape(lambda: drawn) == pf.eval_shape(lambda: (params, state))
    expected = module.train()(x).detach()
    logits, after = model(params, state, x, train=True)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after, split(module)[1], rtol=1e-6, atol=1e-6)


def test_sizes_that_do_not_fit_are_refused():
    for options, message in (
        ({"depths": (2, 0)}, "residual_network: expected depths >= 1, got 0"),
        ({"depths": ()}, "expected one or more integers for depths"),
        ({"depths": (1,), "width": 0}, "expected width >= 1, got 0"),
        ({"depths": (1,), "groups": 2}, "expected bottleneck=True beside widening=1 and groups=2"),
        (
            {"depths": (1,), "bottleneck": True, "width": 6, "groups": 4},
            r"width \* widening to be a multiple of groups=4, got 6",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            models.residual_network(10, **options)
    with pytest.raises(TypeError, match="a sequence of integers for depths, got 2"):
        models.residual_network(10, depths=2)
    with pytest.raises(TypeError, match="True or False for bottleneck, got 4"):
        models.residual_network(10, depths=(1,), bottleneck=4)


def test_state_dicts_go_back(torchvision):
    params, state = models.resnet18(10).init(random.key(0), torch.zeros(1, 3, 64, 64))
    module = torchvision.resnet18(num_classes=10)
    module.load_state_dict({**tree.to_state_dict(params), **tree.to_state_dict(state)})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = module.eval()(x)
    logits, _ = models.resnet18(10)(params, state, x)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_initial_values_are_distributed_as_torchvisions(torchvision):
    torch.manual_seed(0)
    module, model = torchvision.resnet18(), models.resnet18()
    inputs = {row.path: row.input for row in nn.tabulate(model, ShapeDtype((2, 3, 64, 64)))}
    for place in ("conv1", "bn1", "layer1.0", "layer2.0.downsample", "fc"):
        drawn = nn.at(model, place).get().init(random.key(0), inputs[place])
        drawn = drawn if isinstance(drawn, tuple) else (drawn,)
        found = {path: value for part in drawn for path, value in tree.to_state_dict(part).items()}
        expected = module.get_submodule(place).state_dict()
        assert found.keys() == expected.keys()
        for path, value in found.items():
            if len(expected[path].unique()) == 1:
                assert value.equal(expected[path]), (place, path)
            else:
                samples = (part.flatten()[:50_000].numpy() for part in (value, expected[path]))
                assert scipy.stats.ks_2samp(*samples).pvalue > 1e-3, (place, path)


def test_compiled_equals_eager():
    model, x = models.resnet18(10), torch.randn(2, 3, 33, 33)
    params, state = model.init(random.key(0), x)

    def step(params, state, x):
        return model(params, state, x, train=True)

    found = pf.jit(step, backend="aot_eager")(params, state, x)
    torch.testing.assert_close(found, step(params, state, x), rtol=1e-4, atol=1e-5)


def test_refusals(torchvision):
    with pytest.raises(ValueError, match="resnet: expected num_classes >= 1, got 0"):
        models.resnet18(0)
    with pytest.raises(TypeError, match="resnet: expected an integer for in_channels"):
        models.resnet50(10, in_channels=None)
    model = models.resnet18(10, in_channels=1)
    with pytest.raises(nn.LayerError, match=r"shape \(N, 1, H, W\), got \(2, 3, 64, 64\)"):
        model.init(random.key(0), torch.zeros(2, 3, 64, 64))
    _, (params, state) = made(torchvision, "resnet18")
    del params["layer2"]["0"]["downsample"]["0"]
    with pytest.raises(nn.LayerError, match=r"model\['layer2'\]\['0'\]\['downsample'\]\['0'\]"):
        models.resnet18(10)(params, state, torch.zeros(2, 3, 64, 64))
