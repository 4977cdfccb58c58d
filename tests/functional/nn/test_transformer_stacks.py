import pytest
import torch

from purefn.functional import nn, random, tree

KEY = random.key(0)
X = random.normal(random.key(1), (2, 4, 6), torch.float64)
MEMORY = random.normal(random.key(2), (2, 3, 6), torch.float64)
LAYER = nn.transformer_encoder_layer(2, 8, dropout=0.0)


def test_masks_reach_every_layer_as_in_torch():
    theirs = torch.nn.Transformer(6, 2, 2, 2, 8, dropout=0.0, batch_first=True).double().eval()
    params = tree.from_state_dict(theirs.state_dict())
    source_mask = torch.rand(3, 3) < 0.6
    target_mask = torch.ones(4, 4, dtype=torch.bool).tril()
    memory_mask = torch.ones(4, 3, dtype=torch.bool).tril()
    source_mask.fill_diagonal_(True)
    ours = nn.transformer(2, 2, 2, 8, dropout=0.0)
    found = ours(params, (MEMORY, X, source_mask, target_mask, memory_mask))
    with torch.no_grad():
        expected = theirs(
            MEMORY, X, src_mask=~source_mask, tgt_mask=~target_mask, memory_mask=~memory_mask
        )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    causal = nn.transformer(2, 2, 2, 8, dropout=0.0, causal=True)
    found = causal(params, (MEMORY, X, source_mask, None, memory_mask))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_layers_draw_parameters_and_masks_of_their_own():
    model = nn.transformer_encoder(nn.transformer_encoder_layer(2, 8, dropout=0.5), 2)
    params = model.init(KEY, X)
    first, second = params["layers"]["0"], params["layers"]["1"]
    assert not torch.equal(first["linear1"]["weight"], second["linear1"]["weight"])
    layer = nn.transformer_encoder_layer(2, 8, dropout=0.5)
    keys = random.split(random.key(3), 3)
    expected = layer(first, X, key=keys[0], train=True)
    expected = layer(second, expected, key=keys[1], train=True)
    assert torch.equal(model(params, X, key=random.key(3), train=True), expected)


def test_a_norm_has_the_key_after_those_of_the_layers():
    norm = nn.serial(nn.linear(6), nn.dropout(0.5))
    model = nn.transformer_encoder(LAYER, 2, norm)
    assert model.uses_key
    assert not nn.transformer_encoder(LAYER, 2, nn.layer_norm()).uses_key
    params, keys = model.init(KEY, X), random.split(KEY, 3)
    parts = [*params["layers"].values(), params["norm"]]
    for found, layer, key in zip(parts, (LAYER, LAYER, norm), keys, strict=True):
        assert tree.all(tree.map(torch.equal, found, layer.init(key, X)))
    y = LAYER(params["layers"]["1"], LAYER(params["layers"]["0"], X))
    keys = random.split(random.key(3), 3)
    expected = norm(params["norm"], y, key=keys[2], train=True)
    assert torch.equal(model(params, X, key=random.key(3), train=True), expected)


def test_dynamo_traces_init():
    model = nn.transformer_encoder(LAYER, 2, nn.layer_norm())
    compiled = torch.compile(lambda x: model.init(KEY, x), fullgraph=True, backend="eager")
    assert tree.all(tree.map(torch.equal, compiled(X), model.init(KEY, X)))


def test_initializers_reach_every_projection():
    ones, threes = (nn_constant(value) for value in (1.0, 3.0))
    model = nn.transformer(2, 1, 1, 8, weight_init=ones, bias_init=threes)
    for name, value in tree.to_state_dict(model.init(KEY, (MEMORY, X))).items():
        if "norm" not in name:
            assert value.unique().tolist() == [3.0 if name.endswith("bias") else 1.0], name
    attention = nn.multi_head_attention(2, kv_heads=1, weight_init=ones, bias_init=threes)
    for name, value in tree.to_state_dict(attention.init(KEY, X)).items():
        assert value.unique().tolist() == [3.0 if name.endswith("bias") else 1.0], name


def nn_constant(value):
    return lambda key, shape, dtype=torch.float32: torch.full(shape, value, dtype=dtype)


def test_a_mask_may_have_a_single_dimension():
    attention = nn.multi_head_attention(2)
    params = attention.init(KEY, X)
    seen = torch.tensor([True, False, True, True])
    for x in (X, X[0]):
        found = attention(params, (x, None, seen))
        expected = attention(params, (x, None, seen.expand(4, 4)))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_refusals():
    with pytest.raises(TypeError, match="transformer_encoder: expected a Layer"):
        nn.transformer_encoder(torch.relu, 2)
    with pytest.raises(TypeError, match="for norm"):
        nn.transformer_encoder(LAYER, 2, nn.batch_norm())
    with pytest.raises(ValueError, match="num_layers"):
        nn.transformer_decoder(LAYER, 0)
    model = nn.transformer_encoder(LAYER, 2, nn.layer_norm())
    params = model.init(KEY, X)
    with pytest.raises(nn.LayerError, match=r"model\['layers'\]\['0'\]"):
        model(params, X[..., :5])
    with pytest.raises(nn.LayerError, match="0 to 1"):
        model({**params, "layers": {**params["layers"], "2": {}}}, X)
    with pytest.raises(nn.LayerError, match="other"):
        model({**params, "other": {}}, X)
    with pytest.raises(nn.LayerError, match=r"expected \(source, target\)"):
        nn.transformer(2, 1, 1, 8).init(KEY, X)
