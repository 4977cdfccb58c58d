"""Recurrent classifiers and language models are the plain torch.nn networks written here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import purefn.functional as pf
from purefn import optim
from purefn.functional import losses, models, nn, per_example, random, tree

POOLS = {"last": models.last_state, "mean": models.mean_over_steps, "max": models.max_over_steps}


class Classifier(torch.nn.Module):
    def __init__(self, layers, bidirectional, pool):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 5)
        self.lstm = torch.nn.LSTM(
            5, 6, layers, bidirectional=bidirectional, batch_first=True, bias=True
        )
        self.head = torch.nn.Linear(12 if bidirectional else 6, 3)
        self.pool = pool

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(
            self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False
        )
        packed, (h, _) = self.lstm(packed)
        y, _ = pad_packed_sequence(packed, batch_first=True)
        if self.pool == "last":
            return self.head(torch.cat([h[-2], h[-1]], 1) if self.lstm.bidirectional else h[-1])
        rows = [row[:length] for row, length in zip(y, lengths, strict=True)]
        reduce = {"mean": lambda row: row.mean(0), "max": lambda row: row.max(0).values}[self.pool]
        return self.head(torch.stack([reduce(row) for row in rows]))


def drawn(*shape, seed=0, high=11):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def assert_same(ours, params, module, theirs):
    """Compare the value, a tensor, and all gradients of a weighted sum of it."""

    def weighted(y):
        return (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()

    grads = tree.to_state_dict(pf.grad(lambda params: weighted(ours(params)))(params))
    expected = theirs()
    torch.testing.assert_close(ours(params), expected.detach(), rtol=1e-12, atol=1e-12)
    weighted(expected).backward()
    named = dict(module.named_parameters())
    assert grads.keys() == named.keys()
    for name, parameter in named.items():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
def test_the_classifier_is_torchs(pool, layers, bidirectional):
    torch.manual_seed(0)
    module = Classifier(layers, bidirectional, pool).double()
    model = models.lstm_classifier(
        3, 11, 5, 6, num_layers=layers, bidirectional=bidirectional, pool=POOLS[pool]
    )
    params = tree.from_state_dict(module.state_dict())
    tokens, lengths = drawn(4, 7), torch.tensor([7, 1, 4, 6])
    assert_same(
        lambda params: model(params, (tokens, lengths)),
        params,
        module,
        lambda: module(tokens, lengths),
    )
    whole = torch.full((4,), 7)
    torch.testing.assert_close(model(params, tokens), module(tokens, whole), rtol=1e-12, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000),
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    bidirectional=st.booleans(),
    pool=st.sampled_from(list(POOLS)),
)
def test_padding_does_not_matter(seed, lengths, bidirectional, pool):
    model = models.lstm_classifier(
        3, 11, 4, 5, num_layers=2, bidirectional=bidirectional, pool=POOLS[pool]
    )
    lengths = torch.tensor(lengths)
    tokens, other = drawn(len(lengths), 6, seed=seed), drawn(len(lengths), 6, seed=seed + 1)
    padded = torch.where(torch.arange(6) < lengths[:, None], tokens, other)
    params = model.init(random.key(seed), tokens)

    def total(params, tokens):
        logits = model(params, (tokens, lengths))
        return (logits * torch.tensor([1.0, -2.0, 3.0])).sum(), logits

    found, expected = (pf.value_and_grad(total, has_aux=True)(params, x) for x in (padded, tokens))
    assert tree.all(tree.map(torch.equal, found, expected))
    assert found[0][1].isfinite().all()
    # And no longer sequence is needed than the longest that is there.
    longest = max(int(lengths.max()), 1)
    shorter = model(params, (tokens[:, :longest], lengths))
    torch.testing.assert_close(shorter, expected[0][1], rtol=1e-5, atol=1e-6)


def test_a_pooling_gives_features_of_any_number():
    def both(*args):
        return torch.cat([pool(*args) for pool in POOLS.values()], 1)

    model = models.lstm_classifier(3, 11, 4, 5, bidirectional=True, pool=both)
    batch = (drawn(4, 6), torch.tensor([6, 0, 3, 1]))
    params = model.init(random.key(0), batch)
    assert params["head"]["weight"].shape == (3, 30)
    total = 0
    for part, pool in zip(params["head"]["weight"].split(10, 1), POOLS.values(), strict=True):
        own = models.lstm_classifier(3, 11, 4, 5, bidirectional=True, pool=pool)
        head = {"weight": part, "bias": params["head"]["bias"] / 3}
        total = total + own({**params, "head": head}, batch)
    torch.testing.assert_close(model(params, batch), total)

    plain = models.lstm_classifier(3, 11, 4, 5)
    steps = models.lstm_classifier(3, 11, 4, 5, pool=lambda y, last, valid: y)
    for use in (steps.init, steps.apply):
        first = random.key(0) if use is steps.init else plain.init(random.key(0), batch)
        with pytest.raises(nn.LayerError, match=r"what pool returned.* \(4, G\), got \(4, 6, 5\)"):
            use(first, batch)


def test_the_classifier_under_transforms():
    model = models.lstm_classifier(3, 11, 4, 5, bidirectional=True)
    batch = (drawn(4, 6), torch.tensor([6, 2, 1, 5]), torch.tensor([0, 1, 2, 1]))
    params = tree.cast(model.init(random.key(0), batch[0]), torch.float64)

    def values(params, tokens, lengths, labels):
        return losses.cross_entropy(model(params, (tokens, lengths)), labels)

    step = pf.value_and_grad(lambda *args: values(*args).mean())
    found = pf.jit(step, backend="aot_eager")(params, *batch)
    torch.testing.assert_close(found, step(params, *batch), rtol=1e-12, atol=1e-12)

    one = [
        pf.grad(lambda p, i=i: values(p, *(x[i : i + 1] for x in batch)).sum())(params)
        for i in range(4)
    ]
    stacked = tree.map(lambda *leaves: torch.stack(leaves), *one)
    grads = per_example.grads(values)(params, *batch)
    torch.testing.assert_close(grads, stacked, rtol=1e-10, atol=1e-12)


def test_the_classifier_learns():
    """Whether the first token comes again: to be carried over the whole sequence."""
    model = models.lstm_classifier(2, 6, 8, 16, pool=models.max_over_steps)
    tokens = drawn(256, 5, high=6)
    labels = (tokens[:, 1:] == tokens[:, :1]).any(1).long()
    optimizer = optim.adam(lr=0.02)
    params = model.init(random.key(0), tokens)
    state = optimizer.init(params)

    def loss(params):
        return losses.cross_entropy(model(params, tokens), labels).mean()

    first = loss(params)
    for _ in range(60):
        grads = pf.grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    assert loss(params) < 0.5 * first


class LanguageModel(torch.nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 6)
        self.lstm = torch.nn.LSTM(6, 6, 2, batch_first=True)
        self.head = torch.nn.Linear(6, 9)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens, carry=None):
        y, carry = self.lstm(self.embedding(tokens), carry)
        return self.head(y), carry


def language_model(tied):
    torch.manual_seed(0)
    module = LanguageModel(tied).double()
    params = {name: value.detach().clone() for name, value in module.named_parameters()}
    model = models.lstm_language_model(9, 6, 6, num_layers=2, tied=tied)
    return model, tree.from_state_dict(params), module


@pytest.mark.parametrize("tied", [False, True])
def test_the_language_model_is_torchs(tied):
    model, params, module = language_model(tied)
    tokens = drawn(3, 5, high=9)
    assert_same(lambda params: model(params, tokens)[0], params, module, lambda: module(tokens)[0])
    assert len(tree.leaves(params)) == (10 if tied else 11)
    made = pf.eval_shape(model.init, random.key(0), tokens)
    assert tree.all(tree.map(lambda a, b: a.shape == b.shape, made, params))


def test_a_carry_joins_windows():
    model, params, _ = language_model(tied=True)
    tokens = drawn(3, 8, high=9)
    whole, last = model(params, tokens)
    pieces, carry = [], None
    for window in tokens.split([3, 1, 4], 1):
        logits, carry = model(params, (window, carry))
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(carry, last, rtol=1e-12, atol=1e-12)


def test_generated_tokens_follow_those_before():
    model, params, _ = language_model(tied=True)
    decoder = models.lstm_decoder(9, 6, 6, num_layers=2, tied=True)
    prompt = drawn(3, 4, high=9)
    text = models.generate(decoder, params, prompt, 6, key=random.key(0), temperature=0.0)
    logits, _ = model(params, text)
    assert torch.equal(text[:, :4], prompt)
    assert torch.equal(logits[:, 3:-1].argmax(-1), text[:, 4:])

    drawn_text = models.generate(decoder, params, prompt, 6, key=random.key(1), top_k=2)
    logits, _ = model(params, drawn_text)
    rank = (logits[:, 3:-1] > logits[:, 3:-1].gather(2, drawn_text[:, 4:, None])).sum(-1)
    assert set(rank.flatten().tolist()) == {0, 1}


@pytest.mark.parametrize("is_truncated", [True, False])
def test_truncated_backpropagation_is_torchs(is_truncated):
    model, params, module = language_model(tied=False)
    windows = drawn(2, 12, high=9).split(4, 1)

    def ours(params):
        carry, total = None, 0.0
        for window in windows:
            logits, carry = model(params, (window, carry))
            carry = pf.stop_gradient(carry) if is_truncated else carry
            total = total + losses.cross_entropy(logits.transpose(1, 2), window).mean()
        return total

    def theirs():
        carry, total = None, 0.0
        for window in windows:
            logits, carry = module(window, carry)
            carry = tuple(part.detach() for part in carry) if is_truncated else carry
            total = total + torch.nn.functional.cross_entropy(logits.transpose(1, 2), window)
        return total

    assert_same(ours, params, module, theirs)


@pytest.mark.parametrize(
    "model",
    [
        models.lstm_language_model(9, 6, 6, num_layers=2, dropout=0.5, tied=True),
        models.lstm_classifier(3, 9, 4, 5, num_layers=2, dropout=0.5),
    ],
)
def test_dropout_is_keyed(model):
    tokens = drawn(3, 5, high=9)
    params = model.init(random.key(0), tokens)

    def output(**options):
        return tree.leaves(model(params, tokens, **options))[0]

    first, again, other = (output(key=random.key(seed), train=True) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(output(key=random.key(1)), output())
    with pytest.raises(nn.LayerError, match=r"model\['drop'\]: dropout needs a key"):
        model(params, tokens, train=True)


@pytest.mark.parametrize("is_classifier", [True, False])
def test_every_place_drops_features(is_classifier):
    """The last state is before the dropout of the head; where it varies, another one did it."""
    tokens, seen = drawn(3, 5, high=9), []

    def pool(y, last, valid):
        seen.append(last)
        return last

    def begun(layers):
        if is_classifier:
            model = models.lstm_classifier(3, 9, 4, 5, num_layers=layers, dropout=0.5, pool=pool)
        else:
            model = models.lstm_language_model(9, 4, 5, num_layers=layers, dropout=0.5)
        assert model.uses_key
        return model, model.init(random.key(0), tokens)

    def outputs(model, params, seed):
        y = model(params, tokens, key=random.key(seed), train=True)
        return (y, seen[-1]) if is_classifier else (y[0], y[1][0][-1])

    def varies(model, params):
        """Say of logits and last state whether they depend on the key."""
        pairs = zip(outputs(model, params, 1), outputs(model, params, 2), strict=True)
        return [not torch.equal(*pair) for pair in pairs]

    model, params = begun(1)
    assert varies(model, params) == [True, True]  # of the embedding
    biases = tree.map(lambda leaf: torch.full_like(leaf, leaf.ndim == 1), params["lstm"])
    assert varies(model, {**params, "lstm": biases}) == [True, False]  # before the head
    model, params = begun(2)
    zeros = tree.zeros_like(params["embedding"])
    assert varies(model, {**params, "embedding": zeros}) == [True, True]  # between the layers


def test_the_language_model_begins_as_zarembas():
    model = models.lstm_language_model(300, 40, 40)
    params = tree.to_state_dict(model.init(random.key(0), drawn(1, 2)))
    for name in ("embedding.weight", "head.weight"):
        assert 0.0999 < params[name].abs().max() <= 0.1
        assert abs(params[name].std() * 3**0.5 / 0.1 - 1) < 0.03
    assert not params["head.bias"].any()
    assert not torch.equal(params["embedding.weight"], params["head.weight"])


def test_poolings_leave_out_what_is_not_valid():
    y, valid = -torch.ones(2, 3, 4), torch.tensor([[True, False, True], [False] * 3])
    y[:, 1] = 7.0  # whatever stands there
    for pool in (models.mean_over_steps, models.max_over_steps):
        assert pool(y, y[:, 0], valid).tolist() == [[-1.0] * 4, [0.0] * 4]


def test_refusals():
    with pytest.raises(ValueError, match="num_classes >= 1, got 0"):
        models.lstm_classifier(0, 11, 4, 5)
    with pytest.raises(TypeError, match=r"expected a function such as last_state .* got 'mean'"):
        models.lstm_classifier(2, 11, 4, 5, pool="mean")
    with pytest.raises(ValueError, match=r"to be equal where the head is tied .* got 4 and 5"):
        models.lstm_language_model(11, 4, 5, tied=True)
    with pytest.raises(TypeError, match="expected True or False for tied, got 1"):
        models.lstm_language_model(11, 4, 4, tied=1)
    model, tokens = models.lstm_classifier(2, 11, 4, 5), drawn(3, 6)
    params = model.init(random.key(0), tokens)
    for x, message in (
        (tokens[0], r"shape \(N, L\), got \(6,\)"),
        (tokens[:, :0], "at least one step"),
        ((tokens, None, None), r"expected tokens or \(tokens, lengths\)"),
        (tokens.float(), r"model\['embedding'\]: embedding expected an input of torch.int32"),
        (tokens + 9, r"model\['embedding'\]: .* within \[0, 11\)"),
        (
            (tokens, torch.tensor([1, 2])),
            r"model\['lstm'\]: lstm \(lengths\) expected .* \(3\), got \(2,\)",
        ),
        ((tokens, torch.ones(3)), r"model\['lstm'\]: lstm expected lengths as integers"),
    ):
        with pytest.raises(nn.LayerError, match=message):
            model(params, x)
    with pytest.raises(nn.LayerError, match=r"got parameters for \['heads'\]"):
        model({**params, "heads": params["head"]}, tokens)
    language = models.lstm_language_model(11, 4, 4, tied=True)
    params = language.init(random.key(0), tokens)
    with pytest.raises(nn.LayerError, match=r"the tied head expected a dict of \['bias'\]"):
        language({**params, "head": {**params["head"], "weight": torch.ones(11, 4)}}, tokens)
    decoder = models.lstm_decoder(11, 4, 4, tied=True)
    with pytest.raises(
        nn.LayerError, match=r"lstm_decoder \(state\) expected a dict of \['c', 'h'\]"
    ):
        decoder(params, {"h": torch.ones(1, 3, 4)}, tokens)
    for use in (decoder.init, lambda key, x: decoder.apply(params, {}, x)):
        with pytest.raises(nn.LayerError, match="lstm_decoder expected a tensor, got a tuple"):
            use(random.key(0), (tokens, None))
    with pytest.raises(nn.LayerError, match=r"model\['lstm'\]: lstm expected a carry \(h, c\)"):
        language(params, (tokens, torch.ones(1, 3, 4)))


@pytest.mark.parametrize(
    "model",
    [
        models.lstm_classifier(3, 20, 4, 6, dropout=0.1),
        models.lstm_language_model(20, 6, 6, num_layers=2, dropout=0.1, tied=True),
    ],
    ids=["classifier", "language model"],
)
def test_parts_are_shown_and_replaced(model):
    tokens = torch.ones(2, 5, dtype=torch.int64)
    rows = {row.path: row for row in nn.tabulate(model, tokens)}
    assert list(rows) == ["", "embedding", "lstm", "head"]
    assert sum(rows[part].params for part in ("embedding", "lstm", "head")) == rows[""].params
    slower = nn.at(model, "lstm").set(nn.lora(nn.lstm(6), rank=2, alpha=4.0))
    params = slower.init(random.key(0), tokens)
    assert set(params["lstm"]) == {"base", "adapters"}
    tree_of = pf.grad(lambda p: pf.tree.leaves(slower(p, tokens))[0].sum())(params)
    assert pf.tree.structure(tree_of) == pf.tree.structure(params)
    with pytest.raises(TypeError, match="has no state"):
        nn.at(model, "head").set(nn.batch_norm())
