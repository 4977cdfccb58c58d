import math

import pytest
import torch
from scipy import stats

import purefn.functional as pf
from purefn.functional import nn, random

KEY = random.key(0)
SHAPES = {"dropout1d": (40, 50, 3), "dropout2d": (40, 50, 3, 2), "dropout3d": (40, 50, 2, 3, 2)}
CHANNELS = {
    "dropout1d": nn.dropout1d,
    "dropout2d": nn.dropout2d,
    "dropout3d": nn.dropout3d,
    "feature_alpha_dropout": nn.feature_alpha_dropout,
}
EVERY = {**CHANNELS, "alpha_dropout": nn.alpha_dropout, "drop_path": nn.drop_path}


@pytest.fixture(params=list(EVERY))
def name(request):
    return request.param


def example(name, dtype=torch.float64):
    return torch.ones(SHAPES.get(name, (40, 50, 3)), dtype=dtype)


@pytest.mark.parametrize("name", list(CHANNELS))
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_channels_are_dropped_whole_and_independently(name, p):
    y = CHANNELS[name](p)({}, example(name), key=KEY, train=True).flatten(2)
    assert torch.equal(y, y[..., :1].expand_as(y))
    dropped = y[..., 0] < 0.5
    assert stats.binomtest(int(dropped.sum()), 2000, p).pvalue > 1e-3
    # Two channels of one example, and one channel of two examples, agree as by chance.
    for one, other in (
        (dropped[:, ::2], dropped[:, 1::2]),
        (dropped[::2], dropped[1::2]),
    ):
        agreement = int((one == other).sum())
        assert stats.binomtest(agreement, 1000, p**2 + (1 - p) ** 2).pvalue > 1e-3


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", list(SHAPES))
def test_kept_channels_are_divided(name, p):
    x = torch.randn(SHAPES[name], dtype=torch.float64) + 3.0
    y = CHANNELS[name](p)({}, x, key=KEY, train=True)
    torch.testing.assert_close(y[y != 0], x[y != 0] / (1 - p), rtol=1e-15, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_alpha_dropout_keeps_mean_and_variance(p):
    n = 400_000
    x = random.normal(random.key(1), (n,), torch.float64)
    y = nn.alpha_dropout(p)({}, x, key=KEY, train=True)
    kurtosis = ((y - y.mean()) ** 4).mean().item() / y.var().item() ** 2
    assert y.mean().item() == pytest.approx(0.0, abs=4 / math.sqrt(n))
    assert y.var().item() == pytest.approx(1.0, abs=4 * math.sqrt((kurtosis - 1) / n))
    dropped = y == y.mode().values
    assert stats.binomtest(int(dropped.sum()), n, p).pvalue > 1e-3


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (nn.alpha_dropout, torch.nn.AlphaDropout),
        (nn.feature_alpha_dropout, torch.nn.FeatureAlphaDropout),
    ],
)
def test_alpha_dropout_has_the_values_of_torch(layer, module, p):
    x = torch.full((40, 50), 1.5, dtype=torch.float64)
    y = layer(p)({}, x, key=KEY, train=True)
    assert y.unique().numel() == 2
    torch.manual_seed(0)
    torch.testing.assert_close(y.unique(), module(p)(x).unique(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_drop_path_drops_examples(p):
    x = torch.randn(3000, 2, 3, dtype=torch.float64) + 5.0
    y = nn.drop_path(p)({}, x, key=KEY, train=True)
    dropped = (y == 0).flatten(1)
    assert torch.equal(dropped.all(1), dropped.any(1))
    assert stats.binomtest(int(dropped.all(1).sum()), 3000, p).pvalue > 1e-3
    torch.testing.assert_close(y[y != 0], x[y != 0] / (1 - p), rtol=1e-15, atol=0)


def test_drop_path_of_the_batch_decides_once():
    x, layer = torch.ones(4, 3), nn.drop_path(0.3, "batch")
    keys = random.split(KEY, 1000)
    ys = pf.vmap(lambda key: layer({}, x, key=key, train=True))(keys).flatten(1)
    assert torch.equal(ys, ys[:, :1].expand_as(ys))
    assert stats.binomtest(int((ys[:, 0] == 0).sum()), 1000, 0.3).pvalue > 1e-3


def test_a_dropped_branch_passes_the_input_on():
    model = nn.residual(nn.serial(nn.linear(3), nn.drop_path(1.0)))
    x = torch.randn(4, 3)
    assert torch.equal(model(model.init(KEY, x), x, key=KEY, train=True), x)


def test_the_key_alone_decides(name):
    layer, x = EVERY[name](0.5), example(name)
    y = layer({}, x, key=KEY, train=True)
    assert torch.equal(y, layer({}, x, key=random.key(0), train=True))
    assert not torch.equal(y, layer({}, x, key=random.key(1), train=True))


def test_the_edges(name):
    x = example(name)
    assert torch.equal(EVERY[name](0)({}, x, train=True), x)
    assert torch.equal(EVERY[name](1)({}, x, key=KEY, train=True), torch.zeros_like(x))
    assert torch.equal(EVERY[name](0.5)({}, x, key=KEY), x)
    infinite = EVERY[name](0.5)({}, x * math.inf, key=KEY, train=True)
    assert not infinite.isnan().any()
    half = example(name, torch.bfloat16)
    assert EVERY[name](0.5)({}, half, key=KEY, train=True).dtype == torch.bfloat16


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, "half", True, None])
def test_refuses_what_is_no_probability(name, p):
    with pytest.raises(ValueError, match=rf"{name}: expected a probability p within \[0, 1\], got"):
        EVERY[name](p)


def test_refusals(name):
    layer, x = EVERY[name](0.5), example(name)
    with pytest.raises(nn.LayerError, match=f"{name} needs a key in training"):
        layer({}, x, train=True)
    with pytest.raises(nn.LayerError, match=f"{name} expected a floating-point input, got torch.i"):
        layer({}, x.long())
    with pytest.raises(nn.LayerError, match=f"{name} expected True or False for train"):
        layer({}, x, key=KEY, train=torch.tensor(True))
    with pytest.raises(nn.LayerError, match=f"{name} expected a dict of"):
        layer({"weight": x}, x)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.dropout1d(), (2,), r"dropout1d expected an input of shape \(N, C, L\), got \(2,\)"),
        (nn.dropout2d(), (2, 3, 4), r"dropout2d expected an input of shape \(N, C, H, W\), got"),
        (nn.dropout3d(), (2, 3, 4), r"dropout3d expected an input of shape \(N, C, D, H, W\)"),
        (nn.feature_alpha_dropout(), (2,), r"feature_alpha_dropout expected .*\(N, C, ...\), got"),
        (nn.drop_path(0.5), (), r"drop_path expected an input of shape \(N, ...\), got \(\)"),
    ],
)
def test_refuses_shapes(layer, shape, message):
    with pytest.raises(nn.LayerError, match=message):
        layer({}, torch.ones(shape))
    with pytest.raises(nn.LayerError, match=message):
        layer.init(KEY, torch.ones(shape))


@pytest.mark.parametrize("mode", ["rows", None, 0])
def test_drop_path_refuses_modes(mode):
    with pytest.raises(
        ValueError, match=f"drop_path: expected mode .*'row' or 'batch', got {mode}|'r"
    ):
        nn.drop_path(0.5, mode)
