import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import purefn.functional as pf
from purefn.functional import initializers, nn, random

KEY = random.key(0)


@settings(max_examples=40)
@given(
    option=st.floats(0, 3),
    value=st.floats(-3, 3),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_options_are_those_of_torch(option, value, seed, dtype, matches_torch):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)
    matches_torch(lambda x: nn.hardshrink(x, option), torch.nn.Hardshrink(option), x)
    matches_torch(lambda x: nn.softshrink(x, option), torch.nn.Softshrink(option), x)
    matches_torch(lambda x: nn.threshold(x, value, option), torch.nn.Threshold(value, option), x)


def test_the_edges_of_the_thresholds_are_those_of_torch(matches_torch):
    x = torch.tensor([-0.5, 0.0, 0.5, math.inf, -math.inf], dtype=torch.float64)
    matches_torch(nn.softshrink, torch.nn.Softshrink(), x[:3])
    matches_torch(nn.hardshrink, torch.nn.Hardshrink(), x[:3])
    matches_torch(lambda x: nn.threshold(x, 0.5, 2.0), torch.nn.Threshold(0.5, 2.0), x[:3])
    matches_torch(nn.prelu(), torch.nn.PReLU(), x[:3])
    matches_torch(nn.rrelu(), torch.nn.RReLU(), x[:3])
    assert torch.equal(nn.hardshrink(x), torch.tensor([0, 0, 0, math.inf, -math.inf]).double())


def test_hardsigmoid_has_a_second_derivative(is_close):
    """Which torch's kernel has not; it is zero, and that of the square is not."""
    x = torch.linspace(-4, 4, 16, dtype=torch.float64)

    def square(x):
        return nn.hardsigmoid(x).square()

    slope = (x.abs() < 3).double() / 6
    for first in (pf.grad, pf.jacfwd):
        for second in (pf.grad, pf.jacfwd):
            is_close(pf.vmap(second(first(square)))(x), 2 * slope**2, (first, second))
    half = x.bfloat16()
    values, tangents = pf.jvp(pf.grad(lambda x: square(x).sum()), (half,), (half,))
    assert values.dtype == tangents.dtype == torch.bfloat16


def test_glu_of_halves_has_a_forward_derivative():
    """For which torch has no kernel on the CPU."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    half = x.bfloat16()
    _, tangent = pf.jvp(nn.glu, (half,), (half,))
    assert tangent.dtype == torch.bfloat16
    _, expected = pf.jvp(nn.glu, (half.float(),), (half.float(),))
    torch.testing.assert_close(tangent.float(), expected, rtol=0.01, atol=0.01)


def test_softmax2d_takes_one_image(matches_torch):
    matches_torch(nn.softmax2d, torch.nn.Softmax2d(), torch.randn(3, 4, 5, dtype=torch.float64))
    message = r"softmax2d expected an input of shape \(N, C, H, W\) or \(C, H, W\), got \(3, 4\)"
    with pytest.raises(nn.LayerError, match=message):
        nn.softmax2d(torch.ones(3, 4))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.lift(nn.glu), "glu failed on a torch.float32 tensor of shape .2, 3.: .*even"),
        (nn.lift(lambda x: nn.softshrink(x, -1.0), "softshrink"), "softshrink failed on .*lambd"),
    ],
)
def test_what_torch_refuses_is_explained(layer, message):
    with pytest.raises(nn.LayerError, match=message):
        layer({}, torch.ones(2, 3))


@settings(max_examples=30)
@given(
    channels=st.integers(1, 3),
    rest=st.lists(st.integers(1, 3), max_size=2),
    shared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_prelu(channels, rest, shared, seed, matches_torch):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channels, *rest, generator=generator, dtype=torch.float64)
    number = 1 if shared else channels
    module = torch.nn.PReLU(number)
    torch.nn.init.uniform_(module.weight, -1, 1, generator=generator)
    matches_torch(nn.prelu(number), module, x)


def test_a_shared_slope_takes_any_shape(matches_torch):
    for shape in ((), (4,), (2, 3, 2, 2, 2, 2)):
        matches_torch(nn.prelu(), torch.nn.PReLU(), torch.randn(shape, dtype=torch.float64))


def test_slopes_are_drawn_by_the_initializer():
    x = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(nn.prelu(3).init(KEY, x)["weight"], torch.full((3,), 0.25).double())
    layer = nn.prelu(3, weight_init=initializers.ones)
    assert torch.equal(layer.init(KEY, x)["weight"], torch.ones(3, dtype=torch.float64))


def test_prelu_refuses():
    with pytest.raises(ValueError, match="prelu: expected num_parameters >= 1, got 0"):
        nn.prelu(0)
    with pytest.raises(TypeError, match=r"prelu: expected an integer for num_parameters, got 0.25"):
        nn.prelu(0.25)
    layer, params = nn.prelu(3), {"weight": torch.ones(3)}
    for shape in ((2, 4), (3,), ()):
        with pytest.raises(nn.LayerError, match=r"prelu expected .* \(N, 3, ...\), got \("):
            layer(params, torch.ones(shape))
    with pytest.raises(nn.LayerError, match=r"prelu got an input of torch.float64 and 'weight' of"):
        layer(params, torch.ones(2, 3, dtype=torch.float64))
    with pytest.raises(nn.LayerError, match="prelu expected a floating-point input"):
        layer(params, torch.ones(2, 3, dtype=torch.int64))


def test_slopes_of_rrelu_are_uniform():
    x = -torch.ones(100_000, dtype=torch.float64)
    slopes = -nn.rrelu(0.25, 0.75)({}, x, key=KEY, train=True)
    assert stats.kstest(slopes.numpy(), "uniform", (0.25, 0.5)).pvalue > 1e-3


def test_rrelu_in_training():
    x = torch.randn(1000, dtype=torch.float64)
    layer = nn.rrelu()

    def run(x, key=KEY):
        return layer({}, x, key=key, train=True)

    y = run(x)
    assert torch.equal(y[x > 0], x[x > 0])
    assert ((y / x)[x < 0] >= 1 / 8 - 1e-7).all()
    assert ((y / x)[x < 0] <= 1 / 3 + 1e-7).all()
    assert torch.equal(y, run(x))
    assert not torch.equal(y, run(x, random.key(1)))
    gradient = pf.grad(lambda x: run(x).sum())(x)
    torch.testing.assert_close(gradient, y / x, rtol=1e-12, atol=0)
    assert run(x.bfloat16()).dtype == torch.bfloat16
    slopes = nn.rrelu(0.5, 0.5)({}, x, key=KEY, train=True)
    torch.testing.assert_close(slopes, torch.where(x > 0, x, x / 2))


def test_rrelu_refuses():
    with pytest.raises(
        ValueError, match=r"rrelu: expected finite lower <= upper, got 0.5 and 0.25"
    ):
        nn.rrelu(0.5, 0.25)
    with pytest.raises(
        ValueError, match=r"rrelu: expected finite lower <= upper, got -inf and 1.0"
    ):
        nn.rrelu(-math.inf, 1.0)
    with pytest.raises(TypeError, match="rrelu: expected a number for upper, got None"):
        nn.rrelu(0.5, None)
    with pytest.raises(nn.LayerError, match="rrelu needs a key in training"):
        nn.rrelu()({}, torch.ones(2), train=True)
    with pytest.raises(nn.LayerError, match="rrelu expected a floating-point input"):
        nn.rrelu()({}, torch.ones(2, dtype=torch.int64))
    with pytest.raises(nn.LayerError, match="rrelu expected True or False for train"):
        nn.rrelu()({}, torch.ones(2), train=1)
