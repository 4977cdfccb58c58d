"""The U-Net is that of a plain torch.nn module, written level by level."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import purefn.functional as pf
from purefn.functional import losses, models, nn, per_example, random, tree

WIDTHS = (4, 6, 8)

#: Our names of the parts, and those of the plain module.
PARTS = {
    "top.down": "down1",
    "top.below.level.down": "down2",
    "top.below.level.below.level.down": "bottom",
    "top.below.level.below.enlarge": "enlarge2",
    "top.below.level.up": "up2",
    "top.below.enlarge": "enlarge1",
    "top.up": "up1",
    "head": "head",
}


class Plain(torch.nn.Module):
    """Figure 1 of the paper with three levels and padding."""

    def __init__(self, norm=torch.nn.Identity):
        super().__init__()
        self.down1, self.down2 = self.two(1, 4, norm), self.two(4, 6, norm)
        self.bottom = self.two(6, 8, norm)
        self.enlarge2, self.up2 = torch.nn.ConvTranspose2d(8, 6, 2, 2), self.two(12, 6, norm)
        self.enlarge1, self.up1 = torch.nn.ConvTranspose2d(6, 4, 2, 2), self.two(8, 4, norm)
        self.head = torch.nn.Conv2d(4, 3, 1)

    @staticmethod
    def two(before, after, norm):
        return torch.nn.Sequential(
            torch.nn.Conv2d(before, after, 3, padding=1),
            norm(after),
            torch.nn.ReLU(),
            torch.nn.Conv2d(after, after, 3, padding=1),
            norm(after),
            torch.nn.ReLU(),
        )

    def forward(self, x):
        x1 = self.down1(x)
        x2 = self.down2(F.max_pool2d(x1, 2))
        x = self.enlarge2(self.bottom(F.max_pool2d(x2, 2)))
        x = self.enlarge1(self.up2(torch.cat([x2, x], 1)))
        return self.head(self.up1(torch.cat([x1, x], 1)))


INSIDE = {"conv1": "0", "norm1": "1", "conv2": "3", "norm2": "4"}


def plain_name(name):
    """Return the plain module's name of a parameter of ours."""
    path, _, leaf = name.rpartition(".")
    if path in PARTS:
        return f"{PARTS[path]}.{leaf}"
    part, _, inside = path.rpartition(".")
    return f"{PARTS[part]}.{INSIDE[inside]}.{leaf}"


def matched(model, module, x):
    """Return the trees that `model.init` draws, which are given to the module, too."""
    module.double()
    drawn = model.init(random.key(0), x)
    trees = drawn if isinstance(model, nn.StatefulLayer) else (drawn,)
    flat = {name: value for part in trees for name, value in tree.to_state_dict(part).items()}
    module.load_state_dict({plain_name(name): value.clone() for name, value in flat.items()})
    return trees


NORMS = {
    "none": (nn.identity, torch.nn.Identity),
    "group": (nn.group_norm(2), partial(torch.nn.GroupNorm, 2)),
    "batch": (nn.batch_norm(), torch.nn.BatchNorm2d),
}


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_of_training_is_that_of_torch(norm):
    torch.manual_seed(0)
    norm, module = NORMS[norm][0], Plain(NORMS[norm][1])
    model = models.unet(3, widths=WIDTHS, norm=norm)
    x, labels = torch.randn(2, 1, 8, 12).double(), torch.randint(3, (2, 8, 12))
    params, *state = matched(model, module, x)

    def loss(params, x):
        found = model(params, *state, x, train=True)
        logits, after = found if state else (found, None)
        return losses.cross_entropy(logits, labels).mean(), (logits, after)

    (grads, grad), (logits, after) = pf.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    leaf = x.clone().requires_grad_()
    expected = module(leaf)
    F.cross_entropy(expected, labels).backward()
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(grad, leaf.grad, rtol=1e-10, atol=1e-14)
    expected = dict(module.named_parameters())
    for name, value in tree.to_state_dict(grads).items():
        torch.testing.assert_close(value, expected[plain_name(name)].grad, rtol=1e-10, atol=1e-13)
    if state:
        buffers = dict(module.named_buffers())
        found = {plain_name(name): value for name, value in tree.to_state_dict(after).items()}
        torch.testing.assert_close(found, buffers, rtol=1e-12, atol=1e-13)


def test_gradients_of_every_example_are_those_of_torch():
    torch.manual_seed(0)
    module, model = Plain(), models.unet(3, widths=WIDTHS)
    x, labels = torch.randn(3, 1, 8, 8).double(), torch.randint(3, (3, 8, 8))
    (params,) = matched(model, module, x)

    def losses_fn(params, x, labels):
        return losses.cross_entropy(model(params, x), labels)

    each = tree.to_state_dict(per_example.grads(losses_fn)(params, x, labels))
    for index in range(3):
        module.zero_grad()
        F.cross_entropy(module(x[index : index + 1]), labels[index : index + 1]).backward()
        expected = dict(module.named_parameters())
        for name, value in each.items():
            torch.testing.assert_close(
                value[index], expected[plain_name(name)].grad, rtol=1e-10, atol=1e-13
            )


def test_the_papers_network_has_the_papers_sizes():
    shapes = pf.eval_shape(
        lambda params, x: models.unet(2)(params, x),
        _shapes_of_the_paper(),
        pf.ShapeDtype((1, 1, 32, 32)),
    )
    assert shapes.shape == (1, 2, 32, 32)


def _shapes_of_the_paper():
    """Return the parameters of figure 1: 64 to 1024 channels and back."""
    widths = (64, 128, 256, 512, 1024)
    params, path = {}, "top"
    for before, width in zip((1, *widths), widths, strict=False):
        params |= _two(f"{path}.down", before, width)
        if width < 1024:
            params |= _two(f"{path}.up", 2 * width, width)
            params[f"{path}.below.enlarge.weight"] = (2 * width, width, 2, 2)
            params[f"{path}.below.enlarge.bias"] = (width,)
        path += ".below.level"
    params |= {"head.weight": (2, 64, 1, 1), "head.bias": (2,)}
    return tree.from_state_dict({name: pf.ShapeDtype(shape) for name, shape in params.items()})


def _two(path, before, after):
    return {
        f"{path}.conv1.weight": (after, before, 3, 3),
        f"{path}.conv1.bias": (after,),
        f"{path}.conv2.weight": (after, after, 3, 3),
        f"{path}.conv2.bias": (after,),
    }


def test_compiled_and_over_many_parameters():
    model, x = models.unet(2, widths=(3, 4)), torch.randn(2, 1, 4, 6)
    several = pf.vmap(model.init, in_axes=(0, None))(random.split(random.key(0), 3), x)
    found = pf.jit(pf.vmap(model, in_axes=(0, None)), backend="aot_eager")(several, x)
    for index in range(3):
        one = tree.map(lambda value, index=index: value[index], several)
        torch.testing.assert_close(found[index], model(one, x), rtol=1e-4, atol=1e-5)


def test_one_level_is_two_convolutions():
    model, x = models.unet(1, widths=[5]), torch.randn(1, 1, 3, 7)
    params = model.init(random.key(0), x)
    inside = params["top"]["down"]
    expected = x
    for name in ("conv1", "conv2"):
        weight, bias = inside[name]["weight"], inside[name]["bias"]
        expected = F.conv2d(expected, weight, bias, padding=1).relu()
    expected = F.conv2d(expected, params["head"]["weight"], params["head"]["bias"])
    torch.testing.assert_close(model(params, x), expected)


def test_refusals():
    with pytest.raises(ValueError, match="unet: expected out_channels >= 1, got 0"):
        models.unet(0)
    with pytest.raises(ValueError, match="unet: expected one or more integers for widths"):
        models.unet(1, widths=())
    with pytest.raises(TypeError, match="unet: expected a sequence of integers for widths, got 64"):
        models.unet(1, widths=64)
    with pytest.raises(TypeError, match="unet: expected an integer for in_channels, got True"):
        models.unet(1, in_channels=True)
    with pytest.raises(TypeError, match=r"part 'norm1'.*torch"):
        models.unet(1, norm=torch.nn.Identity())
    model = models.unet(1, widths=WIDTHS)
    with pytest.raises(nn.LayerError, match=r"multiples of 4, got shape \(1, 1, 8, 6\).*zero_pad"):
        model.init(random.key(0), torch.zeros(1, 1, 8, 6))
    with pytest.raises(nn.LayerError, match=r"multiples of 4, got shape \(1, 1, 0, 8\)"):
        model.init(random.key(0), torch.zeros(1, 1, 0, 8))
    with pytest.raises(nn.LayerError, match=r"shape \(N, 1, H, W\), got \(1, 3, 8, 8\)"):
        model.init(random.key(0), torch.zeros(1, 3, 8, 8))
    params = model.init(random.key(0), torch.zeros(1, 1, 8, 8))
    del params["top"]["below"]["level"]["up"]["conv2"]
    place = r"\['top'\]\['below'\]\['level'\]\['up'\]\['conv2'\]"
    with pytest.raises(nn.LayerError, match=place):
        model(params, torch.zeros(1, 1, 8, 8))
