"""A GPT computes and learns what a plain torch.nn implementation does, and loads its weights."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import losses, models, nn, random, tree

VOCABULARY, CONTEXT = 13, 9
SIZES = {"num_layers": 2, "num_heads": 2, "embedding_dim": 8}


class Attention(torch.nn.Module):
    """As in nanoGPT, without its flash kernel: scores, mask, softmax."""

    def __init__(self, width, heads, bias):
        super().__init__()
        self.heads = heads
        self.c_attn = torch.nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = torch.nn.Linear(width, width, bias=bias)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(x).chunk(3, -1)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(width / self.heads)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        y = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, width))


class Block(torch.nn.Module):
    def __init__(self, width, heads, inside, bias, approximate):
        super().__init__()
        self.ln_1 = torch.nn.LayerNorm(width, bias=bias)
        self.attn = Attention(width, heads, bias)
        self.ln_2 = torch.nn.LayerNorm(width, bias=bias)
        self.mlp = torch.nn.ModuleDict(
            {
                "c_fc": torch.nn.Linear(width, inside, bias=bias),
                "act": torch.nn.GELU(approximate=approximate),
                "c_proj": torch.nn.Linear(inside, width, bias=bias),
            }
        )

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        y = self.ln_2(x)
        for part in self.mlp.values():
            y = part(y)
        return x + y


class GPT(torch.nn.Module):
    def __init__(
        self,
        vocabulary=VOCABULARY,
        context=CONTEXT,
        layers=2,
        heads=2,
        width=8,
        inside=32,
        bias=True,
        tied=True,
        approximate="tanh",
    ):
        super().__init__()
        self.transformer = torch.nn.ModuleDict(
            {
                "wte": torch.nn.Embedding(vocabulary, width),
                "wpe": torch.nn.Embedding(context, width),
                "h": torch.nn.ModuleList(
                    [Block(width, heads, inside, bias, approximate) for _ in range(layers)]
                ),
                "ln_f": torch.nn.LayerNorm(width, bias=bias),
            }
        )
        self.lm_head = torch.nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, tokens):
        parts = self.transformer
        x = parts.wte(tokens) + parts.wpe(torch.arange(tokens.shape[1]))
        for block in parts.h:
            x = block(x)
        return self.lm_head(parts.ln_f(x))


TIES = {"lm_head.weight": "transformer.wte.weight"}


def params_of(module, tied=True):
    params = tree.from_state_dict({k: v.clone() for k, v in module.state_dict().items()})
    return nn.tie_params(params, TIES) if tied else params


def gradients_of(module, tied=True):
    grads = {name: value.grad.clone() for name, value in module.named_parameters()}
    assert ("lm_head.weight" in grads) is not tied
    return grads


def tokens_of(seed, *shape, vocabulary=VOCABULARY):
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def mean_loss(model, params, windows):
    logits = model(params, windows[:, :-1])
    return losses.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).mean()


def loss_of(module, windows):
    return F.cross_entropy(module(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def close(ours, theirs, rtol=1e-12):
    assert ours.keys() == theirs.keys()
    scale = max(float(value.abs().max()) for value in theirs.values())
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=rtol, atol=rtol * scale, msg=name)


@settings(max_examples=12)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 20)),
    st.integers(1, CONTEXT - 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["none", "tanh"]),
)
def test_logits_and_gradients_are_those_of_torch(sizes, length, bias, tied, approximate):
    layers, heads, depth, inside = sizes
    width = heads * depth
    torch.manual_seed(0)
    module = GPT(VOCABULARY, CONTEXT, layers, heads, width, inside, bias, tied, approximate)
    module.double()
    model = models.gpt(
        VOCABULARY,
        CONTEXT,
        num_layers=layers,
        num_heads=heads,
        embedding_dim=width,
        mlp_dim=inside,
        activation=functools.partial(nn.gelu, approximate=approximate),
        bias=bias,
        tied=tied,
    )
    params, windows = params_of(module, tied), tokens_of(1, 3, length + 1)
    expected = module(windows[:, :-1])
    torch.testing.assert_close(model(params, windows[:, :-1]), expected, rtol=1e-12, atol=1e-12)
    loss_of(module, windows).backward()
    grads = pf.grad(lambda params: mean_loss(model, params, windows))(params)
    close(tree.to_state_dict(grads), gradients_of(module, tied))


def test_training_is_that_of_torch():
    torch.manual_seed(0)
    module = GPT().double()
    model, windows = models.gpt(VOCABULARY, CONTEXT, **SIZES), tokens_of(1, 4, CONTEXT + 1)
    params = params_of(module)
    theirs = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.1)
    ours = optim.adamw(lr=1e-2, weight_decay=0.1)
    state = ours.init(params)

    @pf.jit(backend="aot_eager")
    def step(params, state):
        value, grads = pf.value_and_grad(lambda p: mean_loss(model, p, windows))(params)
        updates, state = ours.update(grads, state, params)
        return optim.apply_updates(params, updates), state, value

    values = []
    for _ in range(5):
        params, state, value = step(params, state)
        theirs.zero_grad()
        loss = loss_of(module, windows)
        loss.backward()
        theirs.step()
        values.append((value, loss.detach()))
    torch.testing.assert_close(*zip(*values, strict=True), rtol=1e-10, atol=0)
    assert values[-1][0] < values[0][0] - 0.1
    close(tree.to_state_dict(nn.untie_params(params, TIES)), dict(module.state_dict()), 1e-8)


def test_float32_is_as_exact_as_torch():
    torch.manual_seed(0)
    module, tokens = GPT(), tokens_of(1, 8, CONTEXT)
    ours = models.gpt(VOCABULARY, CONTEXT, **SIZES)(params_of(module), tokens)
    theirs = module(tokens)
    exact = module.double()(tokens)
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max()


def test_transforms_and_bfloat16():
    model, tokens = models.gpt(VOCABULARY, CONTEXT, **SIZES), tokens_of(1, 3, 5)
    params = tree.cast(model.init(random.key(0), tokens), torch.float64)
    whole = model(params, tokens)
    each = pf.vmap(lambda row: model(params, row))(tokens)
    torch.testing.assert_close(each, whole, rtol=1e-12, atol=1e-12)
    compiled = pf.jit(model.apply, backend="aot_eager")(params, tokens)
    torch.testing.assert_close(compiled, whole, rtol=1e-12, atol=1e-12)
    half = model(tree.cast(params, torch.bfloat16), tokens)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), whole, rtol=0, atol=0.02)


def test_rotary_positions_take_the_place_of_learned_ones():
    model = models.gpt(VOCABULARY, CONTEXT, **SIZES, rotary=nn.rotary)
    tokens = tokens_of(1, 2, 5)
    params = tree.cast(model.init(random.key(0), tokens), torch.float64)
    assert "wpe" not in params["transformer"]
    # By hand, from the parts: only the positions differ from what is compared with torch above.
    plain = models.gpt(VOCABULARY, CONTEXT, **SIZES)
    zeros = {"weight": torch.zeros(CONTEXT, 8, dtype=torch.float64)}
    without = {**params, "transformer": {**params["transformer"], "wpe": zeros}}
    assert not torch.allclose(model(params, tokens), plain(without, tokens))
    # The first position is turned by nothing and sees itself alone.
    first = model(params, tokens[:, :1]), plain(without, tokens[:, :1])
    torch.testing.assert_close(*first, rtol=1e-12, atol=1e-12)


def test_a_position_does_not_see_what_follows():
    model, tokens = models.gpt(VOCABULARY, CONTEXT, **SIZES), tokens_of(1, 1, 6)
    params = model.init(random.key(0), tokens)
    other = tokens.clone()
    other[0, 4] = (other[0, 4] + 1) % VOCABULARY
    before, after = model(params, tokens)[0], model(params, other)[0]
    torch.testing.assert_close(before[:4], after[:4], rtol=0, atol=1e-6)
    assert not torch.allclose(before[4:], after[4:], atol=1e-4)


def test_parameters_begin_as_gpt2s():
    model = models.gpt(300, 40, num_layers=2, num_heads=4, embedding_dim=32)
    flat = tree.to_state_dict(model.init(random.key(0), torch.zeros(1, 4, dtype=torch.int64)))
    assert "lm_head.weight" not in flat
    draws = set()
    for name, value in flat.items():
        if ".ln_" in name:
            expected = torch.ones(32) if name.endswith("weight") else torch.zeros(32)
            assert torch.equal(value, expected)
        elif name.endswith("bias"):
            assert not value.any()
        else:
            stddev = 0.02 / math.sqrt(4) if "c_proj" in name else 0.02
            # Six standard errors of a sample's deviation.
            assert abs(value.std() / stddev - 1) < 6 / math.sqrt(2 * value.numel()), name
            assert abs(value.mean()) < 6 * stddev / math.sqrt(value.numel()), name
            draws.add(round(float(value.flatten()[0] / stddev), 4))
    assert len(draws) == 2 + 2 * 4  # each matrix has a key of its own


def test_gpt2_has_the_published_number_of_parameters():
    """The count of a small one follows a formula, by which GPT-2 has its 124,439,808."""

    def count(vocabulary, context, layers, width):
        block = 4 * width + (3 + 1 + 4 + 4) * width**2 + (3 + 1 + 4 + 1) * width
        return (vocabulary + context) * width + layers * block + 2 * width

    model = models.gpt(VOCABULARY, CONTEXT, num_layers=3, num_heads=1, embedding_dim=4)
    params = model.init(random.key(0), tokens_of(0, 1, 2))
    assert tree.size(params) == count(VOCABULARY, CONTEXT, 3, 4)
    assert count(50257, 1024, 12, 768) == 124_439_808


def test_a_checkpoint_of_gpt2_loads():
    """The published files transpose matrices, leave out the prefix and hold masks."""
    torch.manual_seed(0)
    module = GPT().double()
    stored = {}
    for name, value in module.state_dict().items():
        is_conv1d = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        stored[name.removeprefix("transformer.")] = value.T if is_conv1d else value
    masks = {"h.0.attn.bias": torch.ones(1, 1, 9, 9), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    model, tokens = models.gpt(VOCABULARY, CONTEXT, **SIZES), tokens_of(1, 2, CONTEXT)
    for prefix in ("", "transformer."):
        weights = {
            name if name.startswith("lm_head") else prefix + name: value
            for name, value in {**stored, **masks}.items()
        }
        logits = model(models.gpt2_params(weights), tokens)
        torch.testing.assert_close(logits, module(tokens), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="names of GPT-2"):
        models.gpt2_params({"weight": torch.ones(2)})
    with pytest.raises(TypeError, match=r"expected a tensor for wte\.weight, got a numpy array"):
        models.gpt2_params({"wte.weight": stored["wte.weight"].numpy()})
    with pytest.raises(TypeError, match=r"expected a dict of tensors, got a list"):
        models.gpt2_params([stored["wte.weight"]])
    with pytest.raises(ValueError, match=r"lm_head\.weight to be tied"):
        models.gpt2_params({**stored, "lm_head.weight": torch.ones(VOCABULARY, 8)})


def test_dropout_is_keyed_and_keeps_the_mean():
    model, tokens = models.gpt(VOCABULARY, CONTEXT, **SIZES, dropout=0.2), tokens_of(1, 2, 5)
    params = model.init(random.key(0), tokens)
    draw = functools.partial(model, params, tokens, train=True)
    one, again, other = (draw(key=random.key(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    without = models.gpt(VOCABULARY, CONTEXT, **SIZES)(params, tokens)
    assert torch.equal(model(params, tokens), without)
    with pytest.raises(nn.LayerError, match="needs a key"):
        draw()


@pytest.mark.parametrize("place", ["embedding", "attn", "mlp"])
def test_every_place_drops_features(place):
    """One place alone adds ones to zeros; what is dropped there shows in every position."""
    sizes = {"num_layers": 1, "num_heads": 1, "embedding_dim": 12}
    model = models.gpt(12, CONTEXT, **sizes, dropout=0.5, tied=False)
    params = tree.zeros_like(model.init(random.key(0), tokens_of(0, 1, 2)))
    inside = params["transformer"]
    if place == "embedding":
        inside["wte"]["weight"] = torch.ones(12, 12)
    else:
        inside["h"]["0"][place]["c_proj"]["bias"] = torch.ones(12)
    inside["ln_f"]["weight"], params["lm_head"]["weight"] = torch.ones(12), torch.eye(12)
    tokens = tokens_of(0, 2, 5, vocabulary=12)
    logits = model(params, tokens, key=random.key(1), train=True)
    rows = logits.flatten(0, 1)
    assert all(len(row.unique()) == 2 for row in rows)
    assert len({tuple(row.tolist()) for row in rows > 0}) > 5


def test_weights_of_the_attention_are_dropped():
    """A first position sees itself alone: where that weight is dropped, nothing is left."""
    sizes = {"num_layers": 1, "num_heads": 1, "embedding_dim": 12}
    model = models.gpt(12, CONTEXT, **sizes, dropout=0.5, tied=False)
    params = tree.zeros_like(model.init(random.key(0), tokens_of(0, 1, 2)))
    attention = params["transformer"]["h"]["0"]["attn"]
    attention["c_attn"]["bias"] = torch.arange(36).ge(24).float()  # all values are ones
    attention["c_proj"]["weight"] = params["lm_head"]["weight"] = torch.eye(12)
    params["transformer"]["ln_f"]["weight"] = torch.ones(12)
    logits = model(params, tokens_of(0, 200, 1, vocabulary=12), key=random.key(1), train=True)
    assert 0.35 < (logits == 0).all(-1).float().mean() < 0.65


def test_what_cannot_be_a_gpt_is_refused():
    gpt = functools.partial(models.gpt, VOCABULARY, CONTEXT)
    for option in SIZES:
        with pytest.raises(ValueError, match=f"{option} >= 1, got 0"):
            gpt(**{**SIZES, option: 0})
        with pytest.raises(TypeError, match=f"integer for {option}"):
            gpt(**{**SIZES, option: 2.0})
    with pytest.raises(ValueError, match="mlp_dim >= 1"):
        gpt(**SIZES, mlp_dim=0)
    with pytest.raises(ValueError, match="embedding_dim to be a multiple of num_heads=2, got 7"):
        gpt(**{**SIZES, "embedding_dim": 7})
    with pytest.raises(TypeError, match="tied"):
        gpt(**SIZES, tied=1)
    with pytest.raises(TypeError, match="bias"):
        gpt(**SIZES, bias=1)
    with pytest.raises(ValueError, match="within"):
        gpt(**SIZES, dropout=1.5)
    with pytest.raises(TypeError, match="rotary"):
        gpt(**SIZES, rotary=True)
    with pytest.raises(TypeError, match="dropout"):
        models.gpt_decoder(VOCABULARY, CONTEXT, **SIZES, dropout=0.1)


def test_what_does_not_fit_is_refused_on_use():
    model = models.gpt(VOCABULARY, CONTEXT, **SIZES)
    params = model.init(random.key(0), tokens_of(0, 1, 2))
    with pytest.raises(nn.LayerError, match="at most context_length=9 tokens, got 10"):
        model(params, tokens_of(0, 1, 10))
    with pytest.raises(nn.LayerError, match=r"\['wte'\].*int64"):
        model(params, torch.ones(1, 3))
    with pytest.raises(nn.LayerError, match=r"\['wte'\]"):
        model(params, torch.full((1, 3), VOCABULARY))
    with pytest.raises(nn.LayerError, match=r"shape \(N, L\)"):
        model(params, tokens_of(0, 1, 2, 3))
    wrong = tree.map(torch.clone, params)
    wrong["transformer"]["h"]["1"]["attn"]["c_atn"] = torch.ones(3)
    with pytest.raises(nn.LayerError, match=r"\['h'\]\['1'\]\['attn'\].*c_atn"):
        model(wrong, tokens_of(0, 1, 2))
    with pytest.raises(nn.LayerError, match=r"without 'lm_head\.weight'"):
        model({**params, "lm_head": {"weight": torch.ones(13, 8)}}, tokens_of(0, 1, 2))
