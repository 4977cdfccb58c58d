"""Random numbers of torch modules: from the key, alike everywhere, and as torch means them."""

import functools
import math
import random as python_random

import numpy as np
import pytest
import torch
from torch.nn import functional

import purefn.functional as pf
from purefn.data import import_torchvision
from purefn.functional import interop, nn, random, tree

torchvision = import_torchvision()
X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
KEY = random.key(3)
MANY = 20000


class Calling(torch.nn.Module):
    """A module that does what it is told."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def drawing(function, x=X, key=KEY):
    layer, _ = interop.from_module(Calling(function))
    return layer({}, x, key=key)


RANDOM = {
    "dropout": torch.nn.Dropout(0.4),
    "dropout_in_place": torch.nn.Dropout(0.4, inplace=True),
    "dropout1d": torch.nn.Dropout1d(0.4),
    "alpha_dropout": torch.nn.AlphaDropout(0.4),
    "feature_alpha_dropout": torch.nn.FeatureAlphaDropout(0.4),
    "rrelu": torch.nn.RReLU(),
    "attention": Calling(lambda x: functional.scaled_dot_product_attention(x, x, x, None, 0.4)),
    "encoder": torch.nn.TransformerEncoderLayer(8, 2, 16, 0.4, batch_first=True),
    "multi_head": torch.nn.MultiheadAttention(8, 2, 0.4),
    "lstm": torch.nn.LSTM(8, 5, 2, dropout=0.4),
    "gru": torch.nn.GRU(8, 5, 2, dropout=0.4, bidirectional=True, batch_first=True),
    "gumbel": Calling(functional.gumbel_softmax),
    "stochastic_depth": torchvision.ops.StochasticDepth(0.5, "row"),
    "drop_block": torchvision.ops.DropBlock2d(0.3, 3),
    "fractional_pool": torch.nn.FractionalMaxPool2d(2, output_size=4),
}


def of(name):
    x = X[None] if name in ("drop_block", "fractional_pool") else X
    x = (x, x, x) if name == "multi_head" else x
    module = RANDOM[name]
    layer, *trees = interop.from_module(module)
    return layer, trees, x


@pytest.mark.parametrize("name", RANDOM)
def test_a_draw_needs_a_key_and_depends_on_it_alone(name):
    layer, trees, x = of(name)
    before = torch.get_rng_state()
    with pytest.raises(nn.LayerError, match=r"random numbers with torch.* needs a key"):
        layer(*trees, x, train=True)
    first = tree.leaves(layer(*trees, x, key=KEY, train=True))
    torch.rand(3)  # torch's generator moves, and that changes nothing
    again = tree.leaves(layer(*trees, x, key=KEY, train=True))
    other = tree.leaves(layer(*trees, x, key=random.key(4), train=True))
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))
    assert all(leaf.isfinite().all() for leaf in first)
    torch.set_rng_state(before)


def test_draws_are_the_same_compiled_and_mapped():
    names = ["dropout", "alpha_dropout", "encoder", "stochastic_depth", "gumbel"]
    layers = {name: of(name) for name in names}

    def run(key, names):
        parts = [layers[name] for name in names]
        return [layer(*trees, x, key=key, train=True) for layer, trees, x in parts]

    keys = random.split(KEY, 2)
    one_by_one = [run(key, names) for key in keys]
    mapped = pf.vmap(lambda key: run(key, names))(keys)
    for index, wanted in enumerate(one_by_one):
        for found, value in zip(mapped, wanted, strict=True):
            torch.testing.assert_close(found[index], value, rtol=1e-5, atol=1e-6)
    compiled = pf.jit(lambda key: run(key, ["dropout", "stochastic_depth"]), backend="aot_eager")
    found = compiled(keys[1])
    torch.testing.assert_close(found, [one_by_one[1][0], one_by_one[1][3]], rtol=1e-6, atol=1e-7)


def test_gradients_pass_through_what_was_kept():
    layer, _, x = of("dropout")
    y = layer({}, x, key=KEY, train=True)
    grads = pf.grad(lambda x: layer({}, x, key=KEY, train=True).sum())(x)
    torch.testing.assert_close(grads, (y != 0) / 0.6)


# --- what is drawn, against its definition -------------------------------------------------------


def test_dropout_is_that_of_this_library():
    for torchs, ours, x in [
        (torch.nn.Dropout(0.3), nn.dropout(0.3), X),
        (torch.nn.Dropout1d(0.3), nn.dropout1d(0.3), X),
        (torch.nn.Dropout2d(0.3), nn.dropout2d(0.3), X[None]),
        (torch.nn.AlphaDropout(0.3), nn.alpha_dropout(0.3), X),
        (torch.nn.FeatureAlphaDropout(0.3), nn.feature_alpha_dropout(0.3), X),
    ]:
        layer, _ = interop.from_module(torchs)
        wanted = ours({}, x, key=random.fold_in(KEY, 0), train=True)
        torch.testing.assert_close(layer({}, x, key=KEY, train=True), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize(
    "kind", [torch.nn.Dropout, torch.nn.AlphaDropout, torch.nn.FeatureAlphaDropout]
)
def test_dropout_that_is_certain_is_torchs(kind, probability):
    layer, _ = interop.from_module(kind(probability))
    assert torch.equal(layer({}, X, key=KEY, train=True), kind(probability)(X))


attend = functional.scaled_dot_product_attention


def test_attention_without_loss_is_torchs():
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 4, 5, 3, generator=generator).double() for _ in range(3))
    mask = torch.rand(5, 5, generator=generator) > 0.3
    mask[:, 0] = True
    few = {"key": k[:, :2], "value": v[:, :2], "enable_gqa": True}
    for options in [
        {"key": k, "value": v},
        {"key": k, "value": v, "is_causal": True},
        {"key": k, "value": v, "attn_mask": mask},
        {"key": k, "value": v, "attn_mask": mask.double(), "scale": 0.3},
        few,
    ]:
        # So rare that none is dropped: what is left is the rest of the formula.
        found = drawing(functools.partial(attend, dropout_p=1e-14, **options), q)
        torch.testing.assert_close(found, attend(q, **options), rtol=1e-12, atol=1e-13)


def test_attention_to_nothing_is_zero_with_a_derivative():
    mask = torch.tensor([[True, False], [False, False]])
    x = X[0, :2]

    def attended(x):
        return functional.scaled_dot_product_attention(x, x, x, mask, dropout_p=1e-14)

    torch.testing.assert_close(drawing(attended, x), attend(x, x, x, mask))
    grads = pf.grad(lambda x: drawing(attended, x).sum())(x)
    torch.testing.assert_close(grads, torch.cat([torch.ones(1, 8), torch.zeros(1, 8)]))


def test_attention_drops_weights():
    def attended(x):
        # The values are the identity: what comes out are the weights.
        values = torch.eye(6).expand(4, 6, 6)
        return functional.scaled_dot_product_attention(x, x, values, dropout_p=0.25)

    weights = torch.softmax(X @ X.transpose(1, 2) / math.sqrt(8), dim=-1)
    found = drawing(attended)
    kept = found != 0
    torch.testing.assert_close(found[kept], weights[kept] / 0.75)
    assert 0.6 < kept.float().mean() < 0.9


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_that_drop_everything_between_are_torchs(kind, bidirectional):
    torch.manual_seed(0)
    module = kind(8, 3, 3, dropout=1.0, bidirectional=bidirectional, batch_first=True).double()
    layer, params = interop.from_module(module)
    found = layer(params, X.double(), key=KEY, train=True)
    wanted = module(X.double())
    for a, b in zip(tree.leaves(found), tree.leaves(wanted), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=1e-14)
    rare = kind(8, 3, 3, dropout=1e-14, bidirectional=bidirectional, batch_first=True).double()
    rare.load_state_dict(module.state_dict())
    layer, params = interop.from_module(rare)
    for a, b in zip(
        tree.leaves(layer(params, X.double(), key=KEY, train=True)),
        tree.leaves(layer(params, X.double())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_packed_sequences_are_dropped_between_layers_too():
    class Packing(torch.nn.LSTM):
        def forward(self, x):
            packed = torch.nn.utils.rnn.pack_padded_sequence(x, [4, 4, 3, 2, 2, 1])
            return super().forward(packed)[0].data

    torch.manual_seed(0)
    module = Packing(8, 3, 2, dropout=1.0)
    layer, params = interop.from_module(module)
    torch.testing.assert_close(layer(params, X, key=KEY, train=True), module(X).detach())
    grads = pf.grad(lambda params: layer(params, X, key=KEY, train=True).sum())(params)
    module(X).sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad)


def test_randomized_slopes_lie_between():
    slopes = drawing(lambda x: functional.rrelu(x, 0.2, 0.3, training=True), -torch.ones(MANY))
    assert -0.3 <= slopes.min() < -0.299
    assert -0.201 < slopes.max() <= -0.2


LIKE = torch.empty(MANY, dtype=torch.float64)
NUMBERS = {
    "rand": (lambda x: torch.rand(MANY), 1 / 2, 1 / 12),
    "rand_of_rows": (lambda x: torch.rand(MANY // 100, 100, dtype=torch.float64), 1 / 2, 1 / 12),
    "rand_of_size": (lambda x: torch.rand(size=(MANY,)), 1 / 2, 1 / 12),
    "rand_like": (lambda x: torch.rand_like(LIKE), 1 / 2, 1 / 12),
    "rand_like_named": (lambda x: torch.rand_like(input=LIKE), 1 / 2, 1 / 12),
    "randn": (lambda x: torch.randn((MANY,)), 0, 1),
    "randn_like": (lambda x: torch.randn_like(LIKE, dtype=torch.float32), 0, 1),
    "normal": (lambda x: torch.normal(2.0, 3.0, (MANY,)), 2, 9),
    "normal_of_tensors": (lambda x: torch.normal(torch.full((MANY,), 2.0), 3.0), 2, 9),
    "normal_": (lambda x: torch.empty(MANY).normal_(2, std=3), 2, 9),
    "uniform_": (lambda x: LIKE.clone().uniform_(-1, 2), 1 / 2, 9 / 12),
    "init": (lambda x: torch.nn.init.uniform_(torch.empty(MANY), -1, 2), 1 / 2, 9 / 12),
    "init_normal": (lambda x: torch.nn.init.normal_(torch.empty(MANY), 2, 3), 2, 9),
    "exponential_": (lambda x: torch.empty(MANY).exponential_(2.0), 1 / 2, 1 / 4),
    "bernoulli": (lambda x: torch.bernoulli(torch.full((MANY,), 0.3)), 0.3, 0.21),
    "bernoulli_of_integers": (
        lambda x: torch.bernoulli(torch.zeros(MANY, dtype=torch.int64), 0.3),
        0.3,
        0.21,
    ),
    "bernoulli_": (lambda x: torch.empty(MANY).bernoulli_(0.3), 0.3, 0.21),
    "bernoulli_of_tensor": (lambda x: torch.empty(MANY).bernoulli_(LIKE * 0 + 0.3), 0.3, 0.21),
    "randint": (lambda x: torch.randint(4, (MANY,)), 1.5, 15 / 12),
    "randint_of_bounds": (lambda x: torch.randint(2, 6, (MANY,)), 3.5, 15 / 12),
    "randint_named": (lambda x: torch.randint(low=2, high=6, size=(MANY,)), 3.5, 15 / 12),
    "randint_of_floats": (lambda x: torch.randint(4, (MANY,), dtype=torch.float32), 1.5, 15 / 12),
    "randint_of_none": (lambda x: torch.randint(4, (MANY,), dtype=None), 1.5, 15 / 12),
    "randint_like": (lambda x: torch.randint_like(LIKE, 4), 1.5, 15 / 12),
    "randint_like_of_bounds": (lambda x: torch.randint_like(LIKE, 2, 6), 3.5, 15 / 12),
    "randperm": (lambda x: torch.randperm(MANY) / MANY, 1 / 2, 1 / 12),
    "multinomial": (
        lambda x: torch.multinomial(torch.tensor([1.0, 0.0, 3.0]), MANY, replacement=True),
        1.5,
        0.75,
    ),
}
LIKE.zero_()


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_the_moments_of_their_distribution(name):
    function, mean, variance = NUMBERS[name]
    found, torchs = drawing(function), function(None)
    assert (found.shape, found.dtype, found.device) == (torchs.shape, torchs.dtype, torchs.device)
    found = found.double()
    assert abs(found.mean() - mean) < 5 * math.sqrt(variance / MANY)
    assert abs(found.var() - variance) < 0.06 * variance


def test_samples_without_replacement_are_different():
    weights = torch.tensor([[1.0, 2.0, 3.0, 0.0]]).expand(500, 4)
    found = drawing(lambda x: torch.multinomial(weights, 3))
    assert found.sort(dim=-1).values.tolist() == [[0, 1, 2]] * 500
    share = (found[:, 0] == 2).float().mean()
    assert abs(share - 1 / 2) < 0.1


def test_draw_number_i_has_a_key_of_its_own():
    first, second = drawing(lambda x: (torch.rand(5), torch.rand(5)))
    torch.testing.assert_close(first, random.uniform(random.fold_in(KEY, 0), (5,)))
    torch.testing.assert_close(second, random.uniform(random.fold_in(KEY, 1), (5,)))


# --- refusals ------------------------------------------------------------------------------------


def test_what_takes_no_key_is_refused_by_its_name():
    with pytest.raises(nn.LayerError, match=r"torch\.poisson, which has no version"):
        drawing(lambda x: torch.poisson(x.abs()))
    with pytest.raises(nn.LayerError, match=r"torch\.geometric_, which has no version"):
        drawing(lambda x: x.geometric_(0.5))
    generator = torch.Generator()
    with pytest.raises(nn.LayerError, match=r"torch\.rand from a generator of its own"):
        drawing(lambda x: torch.rand(3, generator=generator))


WRONG = {
    "bernoulli": lambda x: torch.bernoulli(torch.tensor([0.5, 1.5])),
    "bernoulli_": lambda x: x.bernoulli_(-0.1),
    "nothing": lambda x: torch.multinomial(torch.zeros(2, 3), 1, replacement=True),
    "negative": lambda x: torch.multinomial(torch.tensor([1.0, -1.0]), 1),
    "infinite": lambda x: torch.multinomial(torch.tensor([1.0, math.inf]), 1),
    "normal": lambda x: torch.normal(torch.zeros(3), torch.tensor([1.0, -1.0, 1.0])),
    "normal_": lambda x: x.normal_(0.0, -1.0),
    "dropout": lambda x: torch.dropout(x, 1.5, True),
    "attention": lambda x: attend(x, x, x, dropout_p=1.5),
    "two_masks": lambda x: attend(x, x, x, torch.eye(6).bool(), 0.5, is_causal=True),
    "integers": lambda x: attend(x, x, x, torch.ones(6, 6, dtype=torch.int64), 0.5),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_torch_refuses_is_refused(name):
    with pytest.raises(RuntimeError):
        WRONG[name](X.clone())
    with pytest.raises(nn.LayerError, match="Calling failed"):
        drawing(WRONG[name])


def test_a_mask_beside_causal_attention_is_refused_under_transforms_too():
    def attended(x):
        return drawing(lambda x: attend(x, x, x, torch.eye(6).bool(), is_causal=True), x)

    with pytest.raises(nn.LayerError, match="no attn_mask beside is_causal"):
        pf.vmap(attended)(X)


def test_values_that_cannot_be_seen_pass():
    p = torch.tensor([0.0, 1.0])
    draw = pf.vmap(lambda p: drawing(torch.bernoulli, p))
    assert torch.equal(draw(p), p)
    assert torch.equal(pf.jit(draw, backend="aot_eager")(p), p)


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (python_random.random, "Python's `random`"),
        (np.random.random, "`numpy.random`"),
        (lambda: torch.manual_seed(3).seed(), "torch's default generator"),
    ],
)
def test_other_generators_are_refused(draw, name):
    with pytest.raises(nn.LayerError, match=name):
        drawing(lambda x: x * draw())


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap of torch's pooling
def test_a_network_with_every_kind_of_dropout_trains():
    torch.manual_seed(0)
    module = torchvision.models.SwinTransformer(
        [4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=3, dropout=0.2, stochastic_depth_prob=0.5
    )
    layer, params, state = interop.from_module(module)
    images = torch.randn(2, 3, 32, 32)

    def loss(params, key):
        return layer(params, state, images, key=key, train=True)[0].square().mean()

    keys = random.split(KEY, 2)
    alone = [pf.grad(loss)(params, key) for key in keys]
    mapped = pf.vmap(pf.grad(loss), in_axes=(None, 0))(params, keys)
    for index, grads in enumerate(alone):
        for found, wanted in zip(tree.leaves(mapped), tree.leaves(grads), strict=True):
            torch.testing.assert_close(found[index], wanted, rtol=1e-3, atol=1e-5)
