"""Finding and replacing parts of models by name."""

import pytest
import torch

import purefn.functional as pf
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


TRANSFORMERS = {
    "encoder": lambda: nn.transformer_encoder(
        nn.transformer_encoder_layer(2, 8, dropout=0.0), 2, nn.layer_norm()
    ),
    "decoder": lambda: nn.transformer_decoder(nn.transformer_decoder_layer(2, 8, dropout=0.0), 2),
    "both": lambda: nn.transformer(2, 1, 2, 8, dropout=0.0),
}
TEXTS = torch.randn(2, 4, 6), torch.randn(2, 3, 6)


@pytest.mark.parametrize("which", TRANSFORMERS)
def test_parts_of_transformers_are_called_like_torchs_and_can_be_replaced(which):
    """By adapters for every matrix of the networks, the second one as wide as the input."""
    model = TRANSFORMERS[which]()
    x = TEXTS[0] if which == "encoder" else TEXTS
    params = model.init(KEY, x)
    layers = set(nn.at(model, lambda name: True).names)
    weights = [name.removesuffix(".out_proj.weight") for name in tree.to_state_dict(params)]
    assert layers == {name.rpartition(".")[0] for name in weights if name.endswith("t")} | {
        name for name in weights if name.endswith("attn")
    }
    names = nn.at(model, "**.linear[12]").names
    assert len(names) == 2 * len(nn.at(model, "**.norm2").names)
    adapted = nn.at(model, *names).apply(lambda part: nn.lora(part, 2, alpha=1.0))
    made = adapted.init(KEY, x)
    for name in layers:
        own = tree.at(params, name).get()
        if name in names:
            factors = tree.at(made, f"{name}.adapters.weight").get()
            assert factors["B"].shape[0] == own["weight"].shape[0]
            own = {**tree.at(made, name).get(), "base": own}
        made = tree.at(made, name).set(own)
    torch.testing.assert_close(adapted(made, x), model(params, x), rtol=1e-6, atol=1e-6)


def test_a_network_of_other_layers_inside_a_transformer():
    layer = nn.transformer_encoder_layer(2, 8, dropout=0.0)
    gated = nn.at(layer, "linear1").set(nn.serial(nn.linear(10), lambda x: x[..., :5] * x[..., 5:]))
    x = TEXTS[0]
    params = gated.init(KEY, x)
    assert params["linear2"]["weight"].shape == (6, 5)
    attended = nn.layer_norm()(
        params["norm1"], x + nn.multi_head_attention(2)(params["self_attn"], x)
    )
    inner = nn.linear(10)(params["linear1"]["0"], attended)
    inner = torch.relu(inner[..., :5] * inner[..., 5:])
    y = attended + nn.linear(6)(params["linear2"], inner)
    torch.testing.assert_close(gated(params, x), nn.layer_norm()(params["norm2"], y))
    drawing = nn.at(layer, "norm1").set(nn.serial(nn.layer_norm(), nn.dropout(0.5)))
    assert drawing.uses_key
    params = drawing.init(KEY, x)
    options = {"key": random.key(1), "train": True}
    once, twice = (drawing(params, x, **options) for _ in range(2))
    assert torch.equal(once, twice)
    assert not torch.equal(once, drawing(params, x))


def test_keys_of_a_transformer_layer_stay_when_a_part_takes_one():
    layer = nn.transformer_encoder_layer(2, 8, dropout=0.5)
    same = nn.Layer(lambda key, x: {}, lambda params, x, *, key=None, train=False: x)
    x = TEXTS[0]
    plain = nn.at(layer, "norm2").set(nn.identity)
    keyed = nn.at(layer, "norm2").set(same)
    params = plain.init(KEY, x)
    options = {"key": random.key(1), "train": True}
    assert torch.equal(plain(params, x, **options), keyed(params, x, **options))


@pytest.mark.parametrize("capacity", [None, 1.0])
@pytest.mark.parametrize("make", [nn.mixture_of_experts, nn.tracked_mixture_of_experts])
def test_router_and_experts_of_a_mixture_can_be_replaced(make, capacity, run_layer):
    experts = [nn.serial(nn.linear(4), act, nn.linear(6)) for act in (nn.relu, nn.tanh)]
    old, expected = (make(expert, 3, capacity_factor=capacity) for expert in experts)
    x = torch.randn(5, 6)
    made = expected.init(KEY, x)
    made = made if isinstance(expected, nn.StatefulLayer) else (made, {})
    whole = nn.ensemble(experts[1], 3, in_axes=None if capacity is None else 0)
    for name, part in (("experts.1", nn.tanh), ("experts", whole)):
        new = nn.at(old, name).set(part)
        assert type(new) is type(old)
        found = run_layer(new, *made, x)
        assert tree.all(tree.map(torch.equal, found, run_layer(expected, *made, x)))
    noisy = nn.at(old, "router").set(nn.noisy_router(3))
    assert noisy.uses_key
    drawn = noisy.init(KEY, x)
    drawn = drawn[0] if isinstance(noisy, nn.StatefulLayer) else drawn
    assert sorted(drawn["router"]) == ["noise_weight", "weight"]


def test_what_adapters_and_precision_wrap_can_be_replaced():
    model = nn.serial(nn.linear(4), nn.batch_norm(), nn.relu, nn.linear(2))
    x = torch.randn(5, 6)
    options = {"alpha": 3.0, "where": ["3.weight"], "a_init": pf.initializers.ones}
    changed = nn.at(nn.lora(model, 2, **options), "base.2").set(nn.tanh)
    by_hand = nn.lora(nn.at(model, "2").set(nn.tanh), 2, **options)
    params, state = by_hand.init(KEY, x)
    assert tree.all(tree.map(torch.equal, changed.init(KEY, x), (params, state)))
    params["adapters"]["3"]["weight"]["B"] = torch.randn(2, 2)
    assert torch.equal(changed(params, state, x)[0], by_hand(params, state, x)[0])
    with pytest.raises(nn.LayerError, match=r"^model\['base'\]\['0'\]: linear expected an input"):
        changed(params, state, x[:, :3])
    with pytest.raises(nn.LayerError, match=r"^model\['base'\]\['0'\]: linear expected a float"):
        nn.lora(model, 2, alpha=3.0).init(KEY, x.long())
    assert isinstance(nn.at(nn.lora(model, 2, alpha=1.0), "base.1").set(nn.identity), nn.Layer)

    halves = {"compute": torch.bfloat16, "output": torch.float64, "params": torch.float64}
    changed = nn.at(nn.precision(model, **halves), "2").set(nn.tanh)
    by_hand = nn.precision(nn.at(model, "2").set(nn.tanh), **halves)
    params, state = changed.init(KEY, x)
    assert params["0"]["weight"].dtype == torch.float64
    y, _ = changed(params, state, x)
    assert y.dtype == torch.float64
    assert torch.equal(y, by_hand(params, state, x)[0])


def test_what_a_normalized_weight_belongs_to_can_be_replaced():
    """Of a layer that has parts beside a weight of its own."""

    def scaled(**parts):
        inner = nn.serial(**parts)

        def init(key, x):
            return {**inner.init(key, x), "weight": torch.full((3, 6), 2.0)}

        def apply(params, x, *, key=None, train=False):
            rest = {name: value for name, value in params.items() if name != "weight"}
            return inner(rest, x @ params["weight"].T)

        return nn.Layer(init, apply, parts=inner.parts, rebuild=lambda parts: scaled(**parts))

    x = torch.randn(5, 6)
    for wrap in (
        lambda layer: nn.weight_norm(layer, dim=1),
        lambda layer: nn.spectral_norm(layer, n_power_iterations=4, eps=1e-3, dim=1),
    ):
        model = wrap(scaled(act=nn.relu))
        made = model.init(KEY, x)
        made = made if isinstance(made, tuple) else (made,)
        changed, expected = nn.at(model, "act").set(nn.tanh), wrap(scaled(act=nn.tanh))
        assert changed.kind == model.kind
        for train in (False, True):
            found, wanted = (layer(*made, x, train=train) for layer in (changed, expected))
            assert tree.all(tree.map(torch.equal, found, wanted))


def test_parts_with_a_state_are_refused_where_none_is_handed_on():
    both = nn.transformer(2, 1, 1, 8)
    for name in ("encoder", "encoder.layers", "encoder.layers.0", "encoder.layers.0.norm1",
                 "encoder.norm", "decoder.layers.0.linear2"):  # fmt: skip
        with pytest.raises(TypeError, match=f"no state, for '{name.rpartition('.')[2]}'"):
            nn.at(both, name).set(nn.batch_norm())
    for name in ("router", "experts"):
        with pytest.raises(TypeError, match=f"no state, for '{name}'"):
            nn.at(nn.mixture_of_experts(nn.linear(3), 2), name).set(nn.batch_norm())
    narrow = nn.at(both, "**.linear2").set(nn.linear(1))
    with pytest.raises(
        nn.LayerError, match=r"\['linear2'\]: a transformer layer expected this part"
    ):
        narrow(narrow.init(KEY, TEXTS[::-1]), TEXTS[::-1])
    with pytest.raises(nn.LayerError, match=r"alone, take nn.linear"):
        nn.at(both, "encoder.layers.0.linear2").get().init(KEY, TEXTS[0])


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
