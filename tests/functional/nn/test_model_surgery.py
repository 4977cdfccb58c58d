"""Finding and replacing parts of models by name."""

import pytest
import torch

from purefn.functional import ShapeDtype, models, nn, random, tree
from purefn.functional.nn.combinators import combination, named_parts

KEY = random.key(0)


def network():
    return nn.serial(
        stem=nn.serial(nn.conv2d(4, 3, padding=1), nn.batch_norm(), nn.relu),
        block=nn.residual(nn.serial(nn.conv2d(4, 3, padding=1), nn.relu)),
        branches=nn.parallel(a=nn.global_avg_pool(), b=nn.global_max_pool()),
        join=lambda outputs: outputs[0] + outputs[1],
        head=nn.linear(3),
    )


def test_parts_are_called_like_their_parameters():
    model = network()
    x = torch.randn(2, 3, 8, 8)
    params, _ = model.init(KEY, x)
    layers = nn.at(model, lambda name: True).get_all()
    parents = {name.rpartition(".")[0] for name in tree.to_state_dict(params)}
    assert parents <= set(layers)
    assert [layers[name].kind for name in ("stem.2", "block.shortcut")] == ["relu", "identity"]


def test_a_replaced_part_is_as_if_the_model_had_been_made_with_it(run_layer):
    """In every combinator, and beside torchvision's names of a residual network."""
    new = nn.conv2d(4, 5, padding=2)
    x = torch.randn(2, 3, 8, 8)
    model = nn.at(network(), "block.body.0").set(new)
    by_hand = nn.serial(
        **{
            **network().parts,
            "block": nn.residual(nn.serial(new, nn.relu)),
        }
    )
    made, expected = model.init(KEY, x), by_hand.init(KEY, x)
    assert tree.structure(made) == tree.structure(expected)
    assert tree.all(tree.map(torch.equal, made, expected))
    for train in (False, True):
        ours = run_layer(model, *made, x, train=train)
        theirs = run_layer(by_hand, *made, x, train=train)
        assert tree.all(tree.map(torch.equal, ours, theirs))


def test_a_block_of_a_residual_network_with_adapters():
    model = models.resnet18(num_classes=10)
    assert list(nn.at(model, "**.conv2").get_all()) == [
        f"layer{stage}.{block}.conv2" for stage in (1, 2, 3, 4) for block in (0, 1)
    ]
    changed = nn.at(model, "layer1.*.conv2").apply(lambda conv: nn.lora(conv, 2, alpha=1.0))
    old, new = (nn.at(one, "layer1.0").get() for one in (model, changed))
    images = torch.randn(2, 64, 4, 4)
    params, state = new.init(KEY, images)
    assert sorted(params["conv2"]) == ["adapters", "base"]
    expected, _ = old({**params, "conv2": params["conv2"]["base"]}, state, images)
    actual, _ = new(params, state, images)
    assert torch.equal(actual, expected)  # for B is zero at first


def test_what_has_no_state_makes_a_model_without_one():
    model = nn.serial(nn.linear(4), nn.batch_norm(), nn.linear(2))
    plain = nn.at(model, "1").set(nn.identity)
    assert isinstance(model, nn.StatefulLayer)
    assert isinstance(plain, nn.Layer)
    back = nn.at(plain, "1").set(nn.batch_norm())
    assert isinstance(back, nn.StatefulLayer)


def test_every_match_is_replaced_and_the_old_model_stays():
    model = nn.serial(nn.relu, nn.serial(nn.relu, nn.linear(2)), nn.relu)
    smooth = nn.at(model, lambda name: name.endswith("0")).set(torch.tanh)
    assert [part.kind for part in nn.at(smooth, "**.0").get_all().values()] == ["tanh", "tanh"]
    assert smooth.parts["2"] is model.parts["2"]
    assert [part.kind for part in nn.at(model, "**.0").get_all().values()] == ["relu", "relu"]
    twice = nn.at(model, "1").apply(lambda part: nn.serial(part, part))
    assert set(tree.to_state_dict(twice.init(KEY, torch.ones(1, 2)))) == {
        f"1.{part}.1.{name}" for part in (0, 1) for name in ("weight", "bias")
    }


def test_keys_of_the_other_parts_stay():
    model = nn.serial(nn.linear(4), nn.dropout(0.5), nn.linear(3), nn.dropout(0.5))
    x = torch.randn(8, 4)
    changed = nn.at(model, "2").set(nn.linear(4))
    params = changed.init(KEY, x)
    assert torch.equal(params["0"]["weight"], model.init(KEY, x)["0"]["weight"])
    chain = nn.serial(nn.linear(4), nn.dropout(0.5), nn.linear(4), nn.dropout(0.5))
    options = {"key": random.key(1), "train": True}
    assert torch.equal(changed(params, x, **options), chain(params, x, **options))


def test_what_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"nothing is called 'steam'; there are 'stem'"):
        nn.at(model, "steam")
    with pytest.raises(ValueError, match="get_all"):
        nn.at(model, "stem.*").get()
    with pytest.raises(ValueError, match="has none"):
        nn.at(nn.linear(3), "weight")
    with pytest.raises(TypeError, match="expected a Layer"):
        nn.at({"a": 1}, "a")
    with pytest.raises(TypeError, match=r"torch.nn.Module Linear"):
        nn.at(model, "head").set(torch.nn.Linear(3, 3))
    with pytest.raises(TypeError, match="function"):
        nn.at(model, "head").set(3)
    own = nn.Layer(lambda key, x: {}, lambda params, x, **options: x, parts={"a": nn.linear(3)})
    with pytest.raises(TypeError, match="rebuild"):
        nn.at(own, "a").set(nn.relu)


def test_a_combination_of_ones_own_can_be_taken_apart():
    def gated(**parts):
        return combination(
            "gated",
            named_parts("gated", (), parts),
            next_input=lambda name, x, y: x,
            result=lambda outputs, x: outputs[0] * torch.sigmoid(outputs[1]),
        )

    model = nn.serial(gated(value=nn.linear(4), gate=nn.linear(4)), nn.linear(2))
    x = torch.randn(3, 5)
    changed = nn.at(model, "0.gate").set(lambda x: x[..., :4])
    params = changed.init(KEY, x)
    inner = (x @ params["0"]["value"]["weight"].T + params["0"]["value"]["bias"]) * torch.sigmoid(
        x[:, :4]
    )
    expected = nn.linear(2)(params["1"], inner)
    torch.testing.assert_close(changed(params, x), expected)


def test_the_members_of_an_ensemble_can_be_changed():
    member = nn.serial(nn.linear(4), nn.relu, nn.linear(2))
    changed = nn.at(nn.ensemble(member, 3), "1").set(nn.tanh)
    by_hand = nn.ensemble(nn.serial(nn.linear(4), nn.tanh, nn.linear(2)), 3)
    x = torch.randn(5, 4)
    params = by_hand.init(KEY, x)
    assert torch.equal(changed(params, x), by_hand(params, x))


def test_statistics_of_averaged_parameters_are_those_of_update_bn(from_module):
    """With batch norms that take the plain average of what they see, put in their places."""
    model = nn.serial(nn.conv2d(4, 3), nn.batch_norm(), nn.relu, nn.conv2d(3, 2), nn.batch_norm())
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 3, 2), torch.nn.BatchNorm2d(3),
    ).double()  # fmt: skip
    params, state = from_module(theirs)
    batches = list(torch.randn(3, 5, 2, 6, 6, dtype=torch.float64))
    torch.optim.swa_utils.update_bn(batches, theirs)

    rows = nn.tabulate(model, ShapeDtype((5, 2, 6, 6)))
    norms = [row.path for row in rows if row.kind == "batch_norm"]
    averaging = nn.at(model, *norms).set(nn.batch_norm(momentum=None))
    state = tree.zeros_like(state)
    for images in batches:
        _, state = averaging(params, state, images, train=True)
    _, expected = from_module(theirs)
    for ours, other in zip(tree.leaves(state), tree.leaves(expected), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-14)


def test_dynamo_traces_models_and_their_errors():
    model = nn.serial(nn.linear(4), nn.residual(nn.linear(4)))
    x = torch.randn(3, 5)
    params = model.init(KEY, x)
    compiled = torch.compile(
        lambda params, x: nn.serial(nn.linear(4), nn.residual(nn.linear(4)))(params, x),
        fullgraph=True,
        backend="eager",
    )
    assert torch.equal(compiled(params, x), model(params, x))
