"""Autoencoders are those of torch.nn, and give back the shape of what they are given."""

import pytest
import torch

import purefn.functional as pf
from purefn import data, optim
from purefn.functional import models, nn, per_example, random, tree

NAMES = {"encoder.conv1": "0", "encoder.conv2": "2", "encoder.head": "5"} | {
    "decoder.head": "6",
    "decoder.conv1": "9",
    "decoder.conv2": "11",
}


def plain():
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(3, 4, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 2 * 3, 5),
        torch.nn.Linear(5, 4 * 2 * 3),
        torch.nn.Unflatten(1, (4, 2, 3)),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(4, 3, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(3, 2, 4, 2, 1),
    ).double()


def convolutional():
    encoder = models.conv_encoder(5, widths=(3, 4))
    return models.autoencoder(encoder, models.conv_decoder((2, 8, 12), widths=(4, 3)))


def plain_name(name):
    path, _, leaf = name.rpartition(".")
    return f"{NAMES[path]}.{leaf}"


def test_outputs_and_gradients_of_every_example_are_those_of_torch():
    torch.manual_seed(0)
    model, module, x = convolutional(), plain(), torch.randn(3, 2, 8, 12).double()
    params = model.init(random.key(0), x)
    module.load_state_dict({plain_name(n): v for n, v in tree.to_state_dict(params).items()})
    torch.testing.assert_close(model(params, x), module(x).detach(), rtol=1e-12, atol=1e-13)

    def losses_fn(params, x):
        return (model(params, x) - x).square().flatten(1).sum(1)

    each = tree.to_state_dict(per_example.grads(losses_fn)(params, x))
    for index in range(3):
        module.zero_grad()
        one = x[index : index + 1]
        (module(one) - one).square().sum().backward()
        expected = dict(module.named_parameters())
        for name, value in each.items():
            torch.testing.assert_close(
                value[index], expected[plain_name(name)].grad, rtol=1e-10, atol=1e-12
            )


def test_parts_can_be_used_alone():
    encoder, decoder = models.mlp([16, 3]), models.mlp([16, 7])
    model, x = models.autoencoder(encoder, decoder), torch.randn(4, 7)
    params = model.init(random.key(0), x)
    code = encoder(params["encoder"], x)
    assert code.shape == (4, 3)
    assert decoder(params["decoder"], code).equal(model(params, x))


def test_parts_with_a_state_make_one_with_a_state():
    encoder = nn.serial(nn.linear(3), nn.batch_norm())
    model, x = models.autoencoder(encoder, nn.linear(5)), torch.randn(4, 5)
    params, state = model.init(random.key(0), x)
    y, after = model(params, state, x, train=True)
    expected, inside = encoder(params["encoder"], state["encoder"], x, train=True)
    assert y.equal(nn.linear(5)(params["decoder"], expected))
    assert tree.all(tree.map(torch.equal, after, {"encoder": inside}))


def test_widths_that_are_not_given_mirror_each_other():
    x = torch.zeros(1, 1, 8, 8)
    params = models.autoencoder(models.conv_encoder(4), models.conv_decoder((1, 8, 8))).init(
        random.key(0), x
    )
    for part, widths in (("encoder", (32, 64)), ("decoder", (32, 1))):
        found = tuple(len(params[part][f"conv{index}"]["bias"]) for index in (1, 2))
        assert found == widths
    assert params["decoder"]["head"]["bias"].shape == (64 * 2 * 2,)


def test_a_summary_of_it_is_made():
    rows = {row.path: row for row in nn.tabulate(convolutional(), torch.zeros(3, 2, 8, 12))}
    assert rows["encoder"].output.shape == (3, 5)
    assert rows["decoder"].output.shape == rows[""].output.shape == (3, 2, 8, 12)
    encoder = nn.serial(nn.linear(3), nn.batch_norm())
    rows = nn.tabulate(models.autoencoder(encoder, nn.linear(5)), torch.zeros(4, 5))
    assert (rows[0].params, rows[0].state) == (5 * 3 + 3 + 6 + 3 * 5 + 5, 7)


def test_a_linear_one_finds_the_principal_components():
    train, _ = data.digits()
    x = train.images[:200].flatten(1).double()
    x = x - x.mean(0)
    model = models.autoencoder(nn.linear(4, bias=False), nn.linear(64, bias=False))
    params = model.init(random.key(0), x)
    optimizer = optim.adam(lr=0.02)
    state = optimizer.init(params)

    def loss(params):
        return (model(params, x) - x).square().sum() / len(x)

    for _ in range(300):
        value, grads = pf.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    # Baldi & Hornik 1989: the least error is that of the four largest singular values.
    least = torch.linalg.svdvals(x)[4:].square().sum() / len(x)
    assert least <= value < 1.01 * least


def test_compiled_and_over_many_parameters():
    model, x = convolutional(), torch.randn(2, 2, 8, 12)
    several = pf.vmap(model.init, in_axes=(0, None))(random.split(random.key(0), 3), x)
    found = pf.jit(pf.vmap(model, in_axes=(0, None)), backend="aot_eager")(several, x)
    for index in range(3):
        one = tree.map(lambda value, index=index: value[index], several)
        torch.testing.assert_close(found[index], model(one, x), rtol=1e-4, atol=1e-5)


def test_refusals():
    x = torch.zeros(2, 2, 8, 12)
    wrong = models.autoencoder(models.conv_encoder(5), models.conv_decoder((1, 8, 12)))
    with pytest.raises(nn.LayerError, match=r"\(2, 1, 8, 12\) for a .* \(2, 2, 8, 12\)"):
        wrong.init(random.key(0), x)
    with pytest.raises(nn.LayerError, match=r"the shape of the input, got a tuple of length 2"):
        models.autoencoder(nn.identity, lambda x: (x, x)).init(random.key(0), x)
    with pytest.raises(TypeError, match="part 'decoder'"):
        models.autoencoder(nn.identity, 3)
    with pytest.raises(ValueError, match="conv_encoder: expected features >= 1, got 0"):
        models.conv_encoder(0)
    with pytest.raises(ValueError, match="conv_encoder: expected one or more integers for widths"):
        models.conv_encoder(3, widths=[])
    with pytest.raises(ValueError, match=r"multiples of 4, for 2 widths, got shape \(1, 8, 10\)"):
        models.conv_decoder((1, 8, 10))
    for wrong in ((8, 8), 8):
        with pytest.raises(ValueError, match=r"three integers \(C, H, W\) of an image for shape"):
            models.conv_decoder(wrong)
    with pytest.raises(nn.LayerError, match=r"\(N, C, H, W\), got \(2, 8, 12\)"):
        models.conv_encoder(5).init(random.key(0), x[0])
    decoder = models.conv_decoder((1, 8, 8))
    with pytest.raises(nn.LayerError, match=r"\(N, features\), got \(2, 3, 4\)"):
        decoder.init(random.key(0), torch.zeros(2, 3, 4))
