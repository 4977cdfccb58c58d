import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purefn.functional import initializers, nn, random

DTYPES = st.sampled_from([torch.float32, torch.float64])
KEY = random.key(0)


@given(
    batch=st.lists(st.integers(1, 4), max_size=3),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    bias=st.booleans(),
    dtype=DTYPES,
    seed=st.integers(0, 99),
)
def test_linear(batch, sizes, bias, dtype, seed, matches_torch):
    x = torch.randn(*batch, sizes[0], generator=torch.Generator().manual_seed(seed)).to(dtype)
    matches_torch(nn.linear(sizes[1], bias=bias), torch.nn.Linear(*sizes, bias=bias), x)


def test_default_values_are_uniform_within_the_inverse_root_of_fan_in():
    params = nn.linear(400).init(KEY, torch.ones(1, 100))
    for value in params.values():
        assert value.abs().max() <= 0.1
        assert value.abs().max() > 0.099
        assert value.var().item() == pytest.approx(0.01 / 3, rel=0.1)
    assert params["weight"].var().item() == pytest.approx(0.01 / 3, rel=0.02)


def test_weight_and_bias_are_drawn_with_different_keys():
    layer = nn.linear(1, weight_init=initializers.normal(), bias_init=initializers.normal()).init(
        KEY, torch.ones(1, 1)
    )
    assert layer["weight"].item() != layer["bias"].item()


def test_initializers_are_used():
    layer = nn.linear(3, weight_init=initializers.ones, bias_init=initializers.constant(2.0))
    x = torch.ones(2, 5, dtype=torch.float64)
    params = layer.init(KEY, x)
    assert torch.equal(params["weight"], torch.ones(3, 5, dtype=torch.float64))
    assert torch.equal(layer(params, x), torch.full((2, 3), 7.0, dtype=torch.float64))


@pytest.mark.parametrize("out", [0, -1, 2.0, True, torch.tensor(3), None])
def test_refuses_an_output_size_that_is_none(out):
    with pytest.raises((TypeError, ValueError), match=r"linear: expected .*out_features"):
        nn.linear(out)


def test_torchs_signature_builds_no_other_layer():
    with pytest.raises(TypeError, match="positional argument"):
        nn.linear(784, 10)
    with pytest.raises(TypeError, match=r"linear: .* for bias, got 10; the input size is inferred"):
        nn.linear(10, bias=10)
    for bias in ("no", None, torch.tensor(True)):
        with pytest.raises(TypeError, match=r"linear: expected True or False for bias, got .*\.$"):
            nn.linear(10, bias=bias)


def test_without_inputs_the_output_is_torchs_zero():
    x = torch.ones(2, 0)
    params = nn.linear(3).init(KEY, x)
    with pytest.warns(UserWarning, match="zero-element"):
        module = torch.nn.Linear(0, 3)
    assert torch.equal(params["bias"], module.bias)
    assert torch.equal(nn.linear(3)(params, x), module(x))


def test_weight_and_bias_are_drawn_apart():
    params = nn.linear(4).init(KEY, torch.ones(2, 1))
    assert not torch.isclose(params["weight"][:, 0], params["bias"]).any()


def test_refuses_inputs_that_do_not_fit():
    layer = nn.linear(3)
    params = layer.init(KEY, torch.ones(2, 5))
    with pytest.raises(nn.LayerError, match=r"shape \(\.\.\., 5\), got \(2, 4\)"):
        layer(params, torch.ones(2, 4))
    with pytest.raises(nn.LayerError, match=r"shape \(\.\.\., 5\), got \(\)"):
        layer(params, torch.ones(()))
    with pytest.raises(nn.LayerError, match=r"floating-point input, got torch.int64.*x.float\(\)"):
        layer(params, torch.ones(2, 5, dtype=torch.int64))
    with pytest.raises(nn.LayerError, match=r"torch.float64 and 'weight' of torch.float32"):
        layer(params, torch.ones(2, 5, dtype=torch.float64))
    with pytest.raises(nn.LayerError, match="expected a tensor, got a list of length 1"):
        layer(params, [1.0])
    with pytest.raises(nn.LayerError, match=r"the order of arguments is \(params, x\)"):
        layer(torch.ones(2, 5), params)
    with pytest.raises(nn.LayerError, match=r"'weight' to be a tensor of shape \(3, in_features\)"):
        layer(nn.linear(4).init(KEY, torch.ones(2, 5)), torch.ones(2, 5))
    with pytest.raises(nn.LayerError, match="floating-point"):
        layer.init(KEY, torch.ones(2, 5, dtype=torch.uint8))
    with pytest.raises(nn.LayerError, match="in_features"):
        layer.init(KEY, torch.ones(()))


@pytest.mark.parametrize(
    ("make", "x"), [(nn.linear, torch.ones(2, 5)), (nn.conv1d, torch.ones(2, 3, 8))]
)
def test_initializers_that_do_not_fit(make, x):
    sizes = (3,) if make is nn.linear else (3, 2)
    with pytest.raises(TypeError, match=r"a function of .* for weight_init, got 'he'"):
        make(*sizes, weight_init="he").init(KEY, x)
    with pytest.raises(TypeError, match=r"a function of .* for bias_init, got 0\.5"):
        make(*sizes, bias_init=0.5).init(KEY, x)
    one = torch.ones(1)
    with pytest.raises(
        nn.LayerError, match=r"bias_init was asked for .* \(3,\), and gave .*\(1,\)"
    ):
        make(*sizes, bias_init=lambda key, shape, dtype: one).init(KEY, x)
    with pytest.raises(nn.LayerError, match=r"weight_init was asked for .* and gave float 1\.0"):
        nn.layer_norm(weight_init=lambda key, shape, dtype: 1.0).init(KEY, x)


def test_autocast_converts_instead():
    layer = nn.linear(3)
    params = layer.init(KEY, torch.ones(2, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(params, torch.ones(2, 5)).dtype == torch.bfloat16
        assert layer(params, torch.ones(2, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


@settings(max_examples=25)
@given(
    batch=st.lists(st.integers(1, 3), max_size=2),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    bias=st.booleans(),
)
def test_bilinear(batch, sizes, bias, is_close):
    first, second, out = sizes
    layer, module = nn.bilinear(out, bias=bias), torch.nn.Bilinear(*sizes, bias=bias).double()
    pair = [torch.randn(*batch, n, dtype=torch.float64) for n in (first, second)]
    params = {name: value.detach() for name, value in module.named_parameters()}
    assert {name: value.shape for name, value in layer.init(KEY, tuple(pair)).items()} == {
        name: value.shape for name, value in params.items()
    }
    is_close(layer(params, tuple(pair)), module(*pair).detach(), "output")


def test_bilinear_is_uniform_within_the_inverse_root_of_the_first_features():
    params = nn.bilinear(400).init(KEY, (torch.ones(1, 100), torch.ones(1, 3)))
    for value in params.values():
        assert 0.099 < value.abs().max() <= 0.1
        assert value.var().item() == pytest.approx(0.01 / 3, rel=0.1)
    layer = nn.bilinear(1, weight_init=initializers.ones, bias_init=initializers.constant(2.0))
    pair = torch.ones(2), torch.ones(3)
    assert layer(layer.init(KEY, pair), pair).tolist() == [8.0]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3), r"a pair of tensors \(x1, x2\), got a torch.float32 tensor"),
        ((torch.ones(2, 3),), "a pair of tensors .*, got a tuple of length 1"),
        ((torch.ones(2, 4), torch.ones(2, 5)), r"shape \(\.\.\., 3\), got \(2, 4\)"),
        ((torch.ones(2, 3), torch.ones(2, 4)), r"shape \(\.\.\., 5\), got \(2, 4\)"),
        ((torch.ones(2, 3), torch.ones(4, 5)), r"before the last, got .*\(2, 3\).*\(4, 5\)"),
        ((torch.ones(2, 3).long(), torch.ones(2, 5)), "floating-point input, got torch.int64"),
        ((torch.ones(2, 3), torch.ones(2, 5).double()), "'weight' of torch.float32"),
    ],
)
def test_bilinear_refuses_inputs(x, message):
    layer = nn.bilinear(4)
    params = layer.init(KEY, (torch.ones(2, 3), torch.ones(2, 5)))
    with pytest.raises(nn.LayerError, match=message):
        layer(params, x)


def test_bilinear_refuses_options():
    with pytest.raises(ValueError, match="bilinear: expected out_features >= 1, got 0"):
        nn.bilinear(0)
    with pytest.raises(TypeError, match="bilinear: expected True or False for bias, got 3"):
        nn.bilinear(4, bias=3)
