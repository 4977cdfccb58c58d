"""Vision transformers have torchvision's parameters, logits, gradients and initial values."""

import importlib.util

import pytest
import scipy.stats
import torch

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import ShapeDtype, losses, models, nn, per_example, random, tree

SIZES = {
    "image_size": 12,
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 12,
    "mlp_dim": 20,
}


@pytest.fixture(scope="module")
def torchvision():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return importlib.import_module("torchvision.models", data.import_torchvision().__name__)


def theirs(torchvision, num_classes=5, **changes):
    """Return a small model of torchvision in float64, none of its parameters zero, and these."""
    torch.manual_seed(0)
    module = torchvision.VisionTransformer(**{**SIZES, **changes}, num_classes=num_classes).double()
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    return module, tree.from_state_dict(weights)


def ours(**changes):
    return models.vision_transformer(5, **{**SIZES, **changes})


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 12, 12, generator=torch.manual_seed(1)).double()


def test_logits_and_gradients_are_torchvisions(torchvision, images):
    module, params = theirs(torchvision)
    labels = torch.tensor([0, 4, 2, 2])

    def loss(params, images):
        return losses.cross_entropy(ours()(params, images), labels).mean()

    expected = module.eval()(images)
    torch.testing.assert_close(ours()(params, images), expected, rtol=1e-12, atol=1e-13)
    grads, grad = pf.grad(loss, argnums=(0, 1))(params, images)
    x = images.clone().requires_grad_()
    torch.nn.functional.cross_entropy(module.train()(x), labels).backward()
    torch.testing.assert_close(grad, x.grad, rtol=1e-11, atol=1e-13)
    grads = tree.to_state_dict(grads)
    assert grads.keys() == dict(module.named_parameters()).keys()
    for path, parameter in module.named_parameters():
        torch.testing.assert_close(grads[path], parameter.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16"])
def test_weights_have_torchvisions_names_and_shapes(torchvision, name):
    with torch.device("meta"):
        weights = getattr(torchvision, name)().state_dict()
    params = tree.from_state_dict({n: ShapeDtype(v.shape, v.dtype) for n, v in weights.items()})
    x = ShapeDtype((2, 3, 224, 224))
    # A name too many is refused as well as one that is missing.
    assert pf.eval_shape(getattr(models, name)(), params, x).shape == (2, 1000)


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16"])
def test_every_argument_of_every_network_arrives(name):
    make = getattr(models, name)
    rows = {
        row.path: row
        for row in nn.tabulate(make(3, image_size=64, in_channels=2), ShapeDtype((1, 2, 64, 64)))
    }
    assert rows[""].output.shape == (1, 3)
    for argument in ("dropout", "attention_dropout", "drop_path"):
        with pytest.raises(ValueError, match=f"a probability {argument} within"):
            make(**{argument: 2.0})


def test_logits_of_vit_b_16_are_torchvisions(torchvision):
    with torch.device("meta"):
        module = torchvision.vit_b_16(image_size=32, num_classes=10)
    draw = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(value.shape).uniform_(-0.05, 0.05, generator=draw)
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(weights, assign=True)
    x = torch.randn(2, 3, 32, 32, generator=draw)
    with torch.no_grad():
        expected = module.eval()(x)
    logits = models.vit_b_16(10, image_size=32)(tree.from_state_dict(weights), x)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_initial_values_are_distributed_as_torchvisions(torchvision):
    sizes = {**SIZES, "image_size": 40, "patch_size": 2, "hidden_dim": 60, "mlp_dim": 200}
    torch.manual_seed(0)
    module = torchvision.VisionTransformer(**sizes, num_classes=5)
    params = models.vision_transformer(5, **sizes).init(random.key(0), torch.zeros(1, 3, 40, 40))
    params = tree.to_state_dict(params)
    expected = module.state_dict()
    assert params.keys() == expected.keys()
    for name, value in params.items():
        assert (value.shape, value.dtype) == (expected[name].shape, expected[name].dtype), name
        if len(expected[name].unique()) == 1:
            assert value.equal(expected[name]), name
        else:
            first, second = (part.flatten().numpy() for part in (value, expected[name]))
            assert scipy.stats.ks_2samp(first, second).pvalue > 1e-3, name
    module.load_state_dict(params)
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        logits = module.eval()(x)
    found = models.vision_transformer(5, **sizes)(tree.from_state_dict(params), x)
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropped", ["dropout", "attention_dropout"])
def test_what_drops_everything_leaves_what_torchvision_leaves(torchvision, images, dropped):
    module, params = theirs(torchvision, **{dropped: 1.0})
    found = ours(**{dropped: 1.0})(params, images, key=random.key(0), train=True)
    torch.testing.assert_close(found, module.train()(images), rtol=1e-12, atol=1e-13)
    assert not torch.allclose(found, ours()(params, images))
    torch.testing.assert_close(ours(**{dropped: 1.0})(params, images), ours()(params, images))


def test_a_last_block_that_is_always_dropped_is_not_there(torchvision, images):
    module, params = theirs(torchvision)
    del module.encoder.layers.encoder_layer_1
    found = ours(drop_path=1.0)(params, images, key=random.key(0), train=True)
    torch.testing.assert_close(found, module.eval()(images), rtol=1e-12, atol=1e-13)


def test_paths_are_dropped_for_each_example_and_branch(torchvision, images):
    _, params = theirs(torchvision)
    images = images[:1].expand(64, -1, -1, -1)
    found = ours(drop_path=0.5)(params, images, key=random.key(0), train=True)
    # Of the last block's two branches any may be left out, and what stays is doubled.
    assert len({tuple(row) for row in (found * 1e8).round().tolist()}) == 4


@pytest.mark.parametrize("image_size", [8, 12, 20])
def test_positions_are_interpolated_as_by_torchvision(torchvision, image_size):
    vision_transformer = importlib.import_module("torchvision.models.vision_transformer")
    module, params = theirs(torchvision)
    before = tree.map(torch.clone, params)
    expected = vision_transformer.interpolate_embeddings(image_size, 4, module.state_dict())
    found = models.interpolate_positions(params, image_size)
    torch.testing.assert_close(
        tree.to_state_dict(found), dict(expected), rtol=1e-13, atol=1e-14, check_device=False
    )
    assert tree.all(tree.map(torch.equal, params, before))
    x = torch.randn(2, 3, image_size, image_size).double()
    assert ours(image_size=image_size)(found, x).shape == (2, 5)


def test_compiled_and_over_many_parameters(torchvision, images):
    _, params = theirs(torchvision)
    several = tree.map(lambda value: torch.stack([value, 2 * value]), params)
    found = pf.jit(pf.vmap(ours(), in_axes=(0, None)), backend="aot_eager")(several, images)
    for index in range(2):
        one = tree.map(lambda value, index=index: value[index], several)
        torch.testing.assert_close(found[index], ours()(one, images), rtol=1e-11, atol=1e-12)


def test_gradients_of_every_example(torchvision, images):
    module, params = theirs(torchvision)
    labels = torch.tensor([0, 4, 2, 2])

    def losses_fn(params, images, labels):
        return losses.cross_entropy(ours()(params, images), labels)

    grads = tree.to_state_dict(per_example.grads(losses_fn)(params, images, labels))
    for index in range(4):
        module.zero_grad()
        logits = module(images[index : index + 1])
        torch.nn.functional.cross_entropy(logits, labels[index : index + 1]).backward()
        for path, parameter in module.named_parameters():
            torch.testing.assert_close(grads[path][index], parameter.grad, rtol=1e-9, atol=1e-11)


def test_parts_of_blocks_are_found_and_replaced(images):
    def adapted(part):
        return nn.lora(part, 2, alpha=4.0)

    model = nn.at(ours(), "encoder.layers.*.self_attention").apply(adapted)
    drawn = model.init(random.key(0), images)
    with_adapters = model(drawn, images)
    assert with_adapters.shape == (4, 5)
    block = drawn["encoder"]["layers"]["encoder_layer_1"]
    assert sorted(block["self_attention"]) == ["adapters", "base"]
    plain = nn.at(ours(), "encoder.layers.encoder_layer_1.drop_path").set(nn.identity)
    assert tree.all(
        tree.map(torch.equal, plain.init(random.key(0), images), ours().init(random.key(0), images))
    )
    rows = {row.path: row for row in nn.tabulate(ours(), images)}
    attention = rows["encoder.layers.encoder_layer_0.self_attention"]
    assert (attention.params, attention.output.shape) == (4 * 12 * 12 + 4 * 12, (4, 10, 12))
    with pytest.raises(TypeError, match="has no state, for 'ln_1'"):
        nn.at(ours(), "encoder.layers.*.ln_1").set(nn.batch_norm())


def test_a_small_one_learns_digits():
    train, _ = data.digits()
    x, labels = train.images[:96], train.labels[:96]
    sizes = {"image_size": 8, "patch_size": 2, "hidden_dim": 16, "mlp_dim": 32, "in_channels": 1}
    model = models.vision_transformer(10, num_layers=2, num_heads=2, **sizes)
    optimizer = optim.adam(lr=1e-2)
    params = model.init(random.key(0), x)
    state = optimizer.init(params)

    def loss(params):
        return losses.cross_entropy(model(params, x), labels).mean()

    for _ in range(50):
        grads = pf.grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    assert (model(params, x).argmax(1) == labels).double().mean() > 0.9


def test_refusals(torchvision, images):
    for change, message in (
        ({"patch_size": 5}, "expected image_size to be a multiple of patch_size=5, got 12"),
        ({"num_heads": 5}, "expected hidden_dim to be a multiple of num_heads=5, got 12"),
        ({"num_layers": 0}, "expected num_layers >= 1, got 0"),
        ({"drop_path": 1.5}, r"a probability drop_path within \[0, 1\], got 1.5"),
        ({"dropout": 1.5}, r"a probability dropout within \[0, 1\], got 1.5"),
        ({"attention_dropout": -1}, r"a probability attention_dropout within \[0, 1\], got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            ours(**change)
    with pytest.raises(TypeError, match=r"an integer for mlp_dim, got 2\.0"):
        ours(mlp_dim=2.0)
    _, params = theirs(torchvision)
    with pytest.raises(nn.LayerError, match=r"\(N, 3, 12, 12\), got \(4, 3, 12, 8\)"):
        ours()(params, images[..., :8])
    with pytest.raises(nn.LayerError, match="needs a key in training"):
        ours(dropout=0.1)(params, images, train=True)
    layer = r"model\['encoder'\]\['layers'\]\['encoder_layer_1'\]"
    block = params["encoder"]["layers"]["encoder_layer_1"]
    with pytest.raises(nn.LayerError, match=layer + r"\['ln_2'\]"):
        ours()(_with_block(params, {**block, "ln_2": {}}), images)
    with pytest.raises(nn.LayerError, match=layer + ".*got parameters for"):
        ours()(_with_block(params, {**block, "ln_3": block["ln_2"]}), images)
    with pytest.raises(nn.LayerError, match=r"model\['class_token'\].*shape \(1, 1, 12\)"):
        ours()({**params, "class_token": torch.zeros(1, 2, 12)}, images)
    with pytest.raises(nn.LayerError, match=r"model\['class_token'\].*torch.float32"):
        ours()({**params, "class_token": params["class_token"].float()}, images)
    with pytest.raises(nn.LayerError, match=r"\['pos_embedding'\].*shape \(1, 5, 12\)"):
        ours(image_size=8)(params, images[..., :8, :8])


def _with_block(params, block):
    encoder = params["encoder"]
    layers = {**encoder["layers"], "encoder_layer_1": block}
    return {**params, "encoder": {**encoder, "layers": layers}}


def test_positions_that_are_no_square_are_refused(torchvision):
    _, params = theirs(torchvision)
    with pytest.raises(ValueError, match="a multiple of the patches' 4, got 10"):
        models.interpolate_positions(params, 10)
    with pytest.raises(TypeError, match="an integer for image_size"):
        models.interpolate_positions(params, 8.0)
    oblong = {**params, "encoder": {"pos_embedding": torch.zeros(1, 7, 12)}}
    for wrong in ({}, None, {**params, "conv_proj": {}}, oblong):
        with pytest.raises(ValueError, match="expected the params of a vision_transformer"):
            models.interpolate_positions(wrong, 8)
