"""The encoder-decoder is torch.nn.Transformer between the embeddings written here."""

import math
import warnings

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import losses, models, nn, random, tree

SIZES = {"d_model": 8, "nhead": 2, "dim_feedforward": 12}
LAYERS = {"num_encoder_layers": 2, "num_decoder_layers": 2}


class Reference(torch.nn.Module):
    def __init__(self, norm_first, activation="relu"):
        super().__init__()
        self.source_embedding = torch.nn.Embedding(11, 8)
        self.target_embedding = torch.nn.Embedding(9, 8)
        with warnings.catch_warnings():
            # torch says that it cannot use nested tensors with norm_first.
            warnings.simplefilter("ignore")
            self.transformer = torch.nn.Transformer(
                **SIZES,
                **LAYERS,
                dropout=0.0,
                batch_first=True,
                norm_first=norm_first,
                activation=activation,
            )
        self.head = torch.nn.Linear(8, 9)

    def forward(self, source, target, source_mask, target_mask):
        ignored = [None if mask is None else ~mask for mask in (source_mask, target_mask)]
        length = target.shape[1]
        y = self.transformer(
            self.embedded(self.source_embedding, source),
            self.embedded(self.target_embedding, target),
            tgt_mask=torch.ones(length, length, dtype=torch.bool).triu(1),
            src_key_padding_mask=ignored[0],
            tgt_key_padding_mask=ignored[1],
            memory_key_padding_mask=ignored[0],
        )
        return self.head(y)

    def embedded(self, table, tokens):
        x = math.sqrt(8) * table(tokens)
        place = torch.arange(tokens.shape[1])[:, None]
        rate = 10_000.0 ** (-torch.arange(0, 8, 2, dtype=x.dtype) / 8)
        waves = torch.zeros(tokens.shape[1], 8, dtype=x.dtype)
        waves[:, 0::2], waves[:, 1::2] = torch.sin(place * rate), torch.cos(place * rate)
        return x + waves


def drawn(*shape, seed=0, high=9):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def masks(length, lengths):
    return torch.arange(length) < torch.tensor(lengths)[:, None]


SOURCE, TARGET = drawn(3, 6, high=11), drawn(3, 5, seed=1)
SOURCE_MASK, TARGET_MASK = masks(6, [6, 2, 4]), masks(5, [3, 5, 1])


def model_of(**options):
    return models.encoder_decoder_transformer(
        11, 9, **{**SIZES, **LAYERS, "dropout": 0.0, **options}
    )


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_torchs(norm_first, masked):
    torch.manual_seed(0)
    module = Reference(norm_first).double()
    params = tree.from_state_dict({k: v.clone() for k, v in module.state_dict().items()})
    given = (SOURCE_MASK, TARGET_MASK) if masked else (None, None)
    # What torch gives at padding is nothing to compare with.
    counted = (TARGET_MASK if masked else torch.ones_like(TARGET_MASK))[..., None]
    weights = torch.linspace(-1, 1, 135, dtype=torch.float64).reshape(3, 5, 9) * counted
    model = model_of(norm_first=norm_first)

    def total(params):
        logits = model(params, (SOURCE, TARGET, *given))
        return (logits * weights).sum(), logits

    grads, logits = pf.grad(total, has_aux=True)(params)
    expected = module(SOURCE, TARGET, *given)
    (expected * weights).sum().backward()
    torch.testing.assert_close(
        logits * counted, expected.detach() * counted, rtol=1e-12, atol=1e-12
    )
    grads = tree.to_state_dict(grads)
    named = dict(module.named_parameters())
    assert grads.keys() == named.keys()
    for name, parameter in named.items():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-11, atol=1e-12)


def test_the_activation_is_that_of_every_layer():
    torch.manual_seed(0)
    module = Reference(norm_first=False, activation="gelu").double()
    params = tree.from_state_dict({k: v.clone() for k, v in module.state_dict().items()})
    model = model_of(activation=nn.gelu)
    expected = module(SOURCE, TARGET, None, None).detach()
    torch.testing.assert_close(model(params, (SOURCE, TARGET)), expected, rtol=1e-12, atol=1e-12)
    decoder = model.decoder(model.encode(params, SOURCE), None, 5)
    torch.testing.assert_close(decoder(params, {}, TARGET)[0], expected, rtol=1e-12, atol=1e-12)


def test_each_side_has_its_own_number_of_layers():
    model = model_of(num_encoder_layers=1, num_decoder_layers=3)
    made = pf.eval_shape(model.init, random.key(0), (SOURCE, TARGET))["transformer"]
    assert {side: len(part["layers"]) for side, part in made.items()} == {
        "encoder": 1,
        "decoder": 3,
    }


def test_parameters_begin_as_torchs():
    model = models.encoder_decoder_transformer(
        11, 9, d_model=64, nhead=2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=96
    )
    params = tree.to_state_dict(model.init(random.key(0), (SOURCE, TARGET)))
    theirs = torch.nn.Transformer(64, 2, 1, 1, 96, batch_first=True).state_dict()
    for name, value in theirs.items():
        ours = params[f"transformer.{name}"]
        assert ours.shape == value.shape, name
        rtol = 0.06 if value.ndim > 1 else 0.3  # as far as so few numbers tell
        torch.testing.assert_close(ours.std(), value.std(), rtol=rtol, atol=1e-6)
    assert abs(params["source_embedding.weight"].std() - 1 / 8) < 0.01


def test_nothing_depends_on_padding_or_on_the_future():
    model = model_of()
    params = model.init(random.key(0), (SOURCE, TARGET))

    def logits(source, target):
        return model(params, (source, target, SOURCE_MASK, TARGET_MASK))

    first = logits(SOURCE, TARGET)
    other = logits(
        torch.where(SOURCE_MASK, SOURCE, drawn(3, 6, seed=5)),
        torch.where(TARGET_MASK, TARGET, drawn(3, 5, seed=6)),
    )
    assert torch.equal(first[TARGET_MASK], other[TARGET_MASK])
    # Padding in front is before the tokens, and not seen either.
    mask = TARGET_MASK.flip(1)
    one, two = (
        model(params, (SOURCE, torch.where(mask, TARGET, drawn(3, 5, seed=seed)), None, mask))
        for seed in (6, 7)
    )
    assert torch.equal(one[mask], two[mask])
    assert not torch.equal(one, two)
    later = logits(SOURCE, torch.cat([TARGET[:, :3], drawn(3, 2, seed=7)], 1))
    torch.testing.assert_close(later[:, :3], first[:, :3])
    assert not torch.allclose(later[:, 3:], first[:, 3:])
    changed = logits(drawn(3, 6, seed=8), TARGET)
    assert not torch.allclose(changed[:, 0], first[:, 0])


def test_compiled_equals_eager():
    model = model_of(norm_first=True, num_encoder_layers=1, num_decoder_layers=1)
    batch = (SOURCE, TARGET, SOURCE_MASK, TARGET_MASK)
    params = tree.cast(model.init(random.key(0), batch), torch.float64)

    def loss(params, *batch):
        return losses.cross_entropy(model(params, batch).transpose(1, 2), batch[1]).mean()

    step = pf.value_and_grad(loss)
    found = pf.jit(step, backend="aot_eager")(params, *batch)
    torch.testing.assert_close(found, step(params, *batch), rtol=1e-11, atol=1e-12)


def test_dropout_is_keyed():
    model = model_of(dropout=0.2)
    params = model.init(random.key(0), (SOURCE, TARGET))

    def logits(seed):
        return model(params, (SOURCE, TARGET), key=random.key(seed), train=True)

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    assert [model.uses_key, model_of().uses_key] == [True, False]
    # With nothing but the ones of the norms all branches are zero, and the embedding varies.
    params["transformer"] = tree.map(lambda leaf: leaf * (leaf == 1), params["transformer"])
    one, two = (model.encode(params, SOURCE, key=random.key(seed), train=True) for seed in range(2))
    assert not torch.allclose(one, two)


def test_gradients_of_each_example():
    model = model_of()
    batch = (SOURCE, TARGET, SOURCE_MASK, TARGET_MASK)
    params = tree.cast(model.init(random.key(0), batch), torch.float64)

    def value(params, *example):
        logits = model(params, tuple(part[None] for part in example))
        return losses.cross_entropy(logits.transpose(1, 2), example[1][None])[0]

    grads = pf.vmap(pf.grad(value), in_axes=(None, 0, 0, 0, 0))(params, *batch)
    for row in range(3):
        alone = pf.grad(value)(params, *(part[row] for part in batch))
        own = tree.map(lambda grad, row=row: grad[row], grads)
        torch.testing.assert_close(own, alone, rtol=1e-10, atol=1e-12)


def test_it_learns_to_reverse_and_translates_greedily():
    """A target is its source backwards, between a start (0) and an end (1)."""
    model = models.encoder_decoder_transformer(
        8, 8, d_model=32, nhead=4, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=32,
        dropout=0.0, norm_first=True,
    )  # fmt: skip
    source = 2 + drawn(64, 4, high=6)
    start, end = torch.zeros(64, 1, dtype=torch.int64), torch.ones(64, 1, dtype=torch.int64)
    target = torch.cat([start, source.flip(1), end], 1)
    params = model.init(random.key(0), (source, target))
    optimizer = optim.adam(lr=0.01)
    state = optimizer.init(params)

    def loss(params):
        logits = model(params, (source, target[:, :-1]))
        return losses.cross_entropy(logits.transpose(1, 2), target[:, 1:]).mean()

    first = loss(params)
    for _ in range(100):
        updates, state = optimizer.update(pf.grad(loss)(params), state, params)
        params = optim.apply_updates(params, updates)
    assert loss(params) < 0.1 * first
    written = models.translate(model, params, source[:16], 7, start_token=0, end_token=1)
    assert (written == torch.cat([target[:16, 1:], end[:16], end[:16]], 1)).float().mean() > 0.95


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_target_in_pieces_is_the_target(norm_first):
    model = model_of(norm_first=norm_first, num_encoder_layers=1)
    params = model.init(random.key(0), (SOURCE, TARGET))
    params = tree.cast(params, torch.float64)
    memory = model.encode(params, (SOURCE, SOURCE_MASK))
    decoder = model.decoder(memory, SOURCE_MASK, 5)
    state, pieces = {}, []
    for piece in TARGET.split([2, 1, 2], 1):
        logits, state = decoder(params, state, piece)
        pieces.append(logits)
    made = decoder.init(random.key(0), TARGET)
    assert tree.structure(made) == tree.structure((params, state))
    whole = model(params, (SOURCE, TARGET, SOURCE_MASK, None))
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 3, "key": random.key(5)}])
def test_each_token_follows_those_before(options):
    model = model_of()
    params = model.init(random.key(0), (SOURCE, TARGET))
    given = {"start_token": 2, "end_token": 3, "source_mask": SOURCE_MASK}
    written = models.translate(model, params, SOURCE, 6, **given, **options)
    fed = torch.cat([torch.full((3, 1), 2), written[:, :-1]], 1)
    logits = model(params, (SOURCE, fed, SOURCE_MASK, None))
    rank = (logits > logits.gather(2, written[..., None])).sum(-1)
    is_open = torch.nn.functional.pad((written != 3).cumprod(1)[:, :-1], (1, 0), value=1).bool()
    assert (rank[is_open] < options.get("top_k", 1)).all()
    assert (written[~is_open] == 3).all()
    assert (rank[is_open] > 0).any() == bool(options)


def test_translation_is_generation_with_the_decoder():
    model, start = model_of(), torch.full((3, 1), 2)
    params = model.init(random.key(0), (SOURCE, TARGET))
    decoder = model.decoder(model.encode(params, (SOURCE, SOURCE_MASK)), SOURCE_MASK, 9)
    translated = {"start_token": 2, "end_token": 3, "source_mask": SOURCE_MASK}
    options = {"key": random.key(4), "temperature": 5.0, "top_k": 3, "top_p": 0.5}
    texts = []
    for left_out in (None, "temperature", "top_k", "top_p"):
        given = {name: value for name, value in options.items() if name != left_out}
        # Where nothing is given, translate is greedy and generate is not.
        ours = models.translate(model, params, SOURCE, 9, **translated, **given)
        full = {**given, "temperature": given.get("temperature", 0.0)}
        text = models.generate(decoder, params, start, 9, **full, stop_token=3)
        assert torch.equal(ours, text[:, 1:])
        texts.append(ours)
    assert all(not torch.equal(texts[0], other) for other in texts[1:])


def test_one_token_is_the_first_of_many():
    model = model_of()
    params = model.init(random.key(0), (SOURCE, TARGET))
    one, more = (
        models.translate(model, params, SOURCE, length, start_token=2, end_token=3)
        for length in (1, 4)
    )
    assert torch.equal(one, more[:, :1])


def test_translation_under_jit():
    model = model_of(num_encoder_layers=1, num_decoder_layers=1)
    params = model.init(random.key(0), (SOURCE, TARGET))

    def translated(params, source, mask):
        return models.translate(
            model, params, source, 5, start_token=2, end_token=3, source_mask=mask
        )

    expected = translated(params, SOURCE, SOURCE_MASK)
    found = pf.jit(translated, backend="aot_eager")(params, SOURCE, SOURCE_MASK)
    assert torch.equal(found, expected)
    assert not torch.equal(expected, translated(params, SOURCE, None))


def test_refusals():
    with pytest.raises(ValueError, match="num_decoder_layers >= 1, got 0"):
        models.encoder_decoder_transformer(11, 9, num_decoder_layers=0)
    with pytest.raises(TypeError, match="expected an EncoderDecoder"):
        models.translate(nn.linear(3), {}, SOURCE, 3, start_token=0, end_token=1)
    model = model_of()
    params = model.init(random.key(0), (SOURCE, TARGET))
    with pytest.raises(ValueError, match="expected start_token >= 0, got -1"):
        models.translate(model, params, SOURCE, 3, start_token=-1, end_token=1)
    with pytest.raises(TypeError, match="expected an integer for end_token, got None"):
        models.translate(model, params, SOURCE, 3, start_token=0, end_token=None)
    with pytest.raises(ValueError, match="d_model to be a multiple of nhead=2, got 7"):
        model_of(d_model=7)
    with pytest.raises(ValueError, match="expected a key for the temperature 1"):
        models.translate(model, params, SOURCE, 3, start_token=0, end_token=1, temperature=1)
    for x, message in (
        (SOURCE, r"expected \(source, target\)"),
        ((SOURCE, TARGET, SOURCE_MASK), r"\(source, target, source_mask, target_mask\)"),
        ((SOURCE, TARGET[:2]), r"\(target\) expected an input of shape \(3, T\), got \(2, 5\)"),
        ((SOURCE, TARGET, SOURCE_MASK, SOURCE_MASK), r"target_mask as booleans of shape \(3, 5\)"),
        ((SOURCE, TARGET, SOURCE_MASK.int(), None), "source_mask as booleans"),
        ((SOURCE + 9, TARGET), r"model\['source_embedding'\]: embedding expected indices"),
    ):
        with pytest.raises(nn.LayerError, match=message):
            model(params, x)
    with pytest.raises(nn.LayerError, match=r"\(memory\) expected an input of shape \(3, S, 8\)"):
        model.decode(params, (TARGET, torch.ones(3, 6, 7)))
    decoder = model.decoder(torch.ones(3, 6, 8), None, 5)
    with pytest.raises(
        nn.LayerError, match=r"state, if not {}, as a dict of \['layers', 'position'\], got a dict"
    ):
        decoder(params, {"position": torch.tensor(0)}, TARGET)
    with pytest.raises(nn.LayerError, match=r"'layers' of the decoder's state .* got an empty"):
        decoder(params, {"layers": {}, "position": torch.tensor(0)}, TARGET)
    transformer = params["transformer"]
    for own, message in (
        ({}, r"'decoder' as a dict of \['layers', 'norm'\]"),
        ({**transformer["decoder"], "layers": {}}, r"'layers' as a dict of \['0', '1'\]"),
        ({**transformer["decoder"], "layers": {"0": {}, "1": {}}}, r"layer 0 as .*'linear1'"),
    ):
        with pytest.raises(nn.LayerError, match=message):
            decoder({**params, "transformer": {**transformer, "decoder": own}}, {}, TARGET)
    for part in ("target_embedding", "head"):
        without = {name: value for name, value in params.items() if name != part}
        with pytest.raises(nn.LayerError, match=rf"model\['{part}'\].* got an empty dict"):
            decoder(without, {}, TARGET)
    with pytest.raises(nn.LayerError, match=r"'transformer' as a dict of \['decoder', 'encoder'\]"):
        model({**params, "transformer": {"encoder": {}}}, (SOURCE, TARGET))
    with pytest.raises(nn.LayerError, match="dropout needs a key"):
        model_of(dropout=0.1)(params, (SOURCE, TARGET), train=True)
    del params["transformer"]["decoder"]["layers"]["1"]["norm3"]
    with pytest.raises(nn.LayerError, match=r"\['decoder'\]\['layers'\]\['1'\]\['norm3'\]"):
        model(params, (SOURCE, TARGET))
