import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from purefn.functional import nn, random, tree

KEY = random.key(0)
INSTANCE = {1: torch.nn.InstanceNorm1d, 2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}
dtypes = st.sampled_from([torch.float32, torch.float64])
epsilons = st.sampled_from([1e-5, 1e-2])


def normal(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_drawn_parameters(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.5, generator=torch.Generator().manual_seed(5))
    return module


@given(
    batch=st.lists(st.integers(0, 3), max_size=2),
    features=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    eps=st.sampled_from([None, 1e-5, 1e-2]),
    affine=st.booleans(),
    dtype=dtypes,
)
def test_rms_norm(batch, features, eps, affine, dtype, matches_torch):
    features = [*features[:-1], features[-1] + 1]  # of one value the gradient vanishes
    module = with_drawn_parameters(torch.nn.RMSNorm(features, eps, affine))
    layer = nn.rms_norm(len(features), eps=eps, elementwise_affine=affine)
    matches_torch(layer, module, normal((*batch, *features), len(batch), dtype))


@given(
    batch=st.integers(0, 3),
    groups=st.integers(1, 3),
    of_group=st.integers(1, 5),
    spatial=st.lists(st.integers(1, 3), max_size=3),
    eps=epsilons,
    affine=st.booleans(),
    bias=st.booleans(),
    dtype=dtypes,
)
def test_group_norm(batch, groups, of_group, spatial, eps, affine, bias, dtype, matches_torch):
    assume(of_group * math.prod(spatial) > 3)  # of two values the gradients vanish
    channels = groups * of_group
    module = with_drawn_parameters(torch.nn.GroupNorm(groups, channels, eps, affine, bias=bias))
    layer = nn.group_norm(groups, eps=eps, affine=affine, bias=bias)
    x = normal((batch, channels, *spatial), batch, dtype)
    matches_torch(layer, module, x)


@given(
    dims=st.integers(1, 3),
    batch=st.integers(1, 3),
    eps=epsilons,
    momentum=st.sampled_from([0.1, 0.0, 1.0, 0.37]),
    affine=st.booleans(),
    bias=st.booleans(),
    dtype=dtypes,
)
def test_instance_norm_follows_torch_over_several_steps(
    dims, batch, eps, momentum, affine, bias, dtype, matches_torch, is_close
):
    options = {"eps": eps, "affine": affine, "bias": bias}
    shape = (batch, 3, *(5, 2, 2)[:dims])
    plain = with_drawn_parameters(INSTANCE[dims](3, **options))
    matches_torch(nn.instance_norm(**options), plain, normal(shape, dims, dtype), train=True)

    options["momentum"] = momentum
    module = INSTANCE[dims](3, track_running_stats=True, **options).to(dtype)
    layer = nn.tracked_instance_norm(**options)
    params, state = layer.init(KEY, torch.ones(shape, dtype=dtype))
    for step in range(3):
        x = step + 2 * normal(shape, step, dtype)
        matches_torch(layer, module, x, train=True)
        matches_torch(layer, module, x, train=False)
        module.train()(x)
        before = tree.map(torch.clone, state)
        _, new_state = layer(params, state, x, train=True)
        assert all(map(torch.equal, tree.leaves(state), tree.leaves(before)))
        state = new_state
        for name, buffer in module.named_buffers():
            is_close(state[name], buffer, name)


@given(
    dims=st.integers(1, 3),
    affine=st.booleans(),
    is_single=st.booleans(),
    train=st.booleans(),
    dtype=dtypes,
)
def test_an_instance_without_a_batch_is_torchs(
    dims, affine, is_single, train, dtype, matches_torch
):
    options = {"affine": affine, "spatial_dims": dims}
    shape = (*(() if is_single else (2,)), 3, *(5, 2, 2)[:dims])
    x = normal(shape, dims, dtype)
    module = with_drawn_parameters(INSTANCE[dims](3, affine=affine))
    matches_torch(nn.instance_norm(**options), module, x, train=train)
    tracked = INSTANCE[dims](3, affine=affine, track_running_stats=True)
    layer = nn.tracked_instance_norm(**options)
    matches_torch(layer, with_drawn_parameters(tracked), x, train=train)
    made = layer.init(KEY, x)
    assert tree.structure(made) == tree.structure(
        layer.init(KEY, normal((2, *shape[-dims - 1 :]), 0))
    )
    assert made[1]["running_mean"].shape == (3,)


def test_examples_without_places_are_torchs(matches_torch):
    x = torch.ones(2, 4, 0)
    matches_torch(nn.instance_norm(affine=True), torch.nn.InstanceNorm1d(4, affine=True), x)
    module = torch.nn.InstanceNorm1d(4, track_running_stats=True)
    for train in (True, False):
        matches_torch(nn.tracked_instance_norm(), module, x, train=train)


def test_no_gradient_flows_into_the_statistics_of_instances():
    layer = nn.tracked_instance_norm()
    x = torch.randn(2, 3, 4, requires_grad=True)
    _, state = layer(*layer.init(KEY, x), x, train=True)
    assert not any(leaf.requires_grad for leaf in tree.leaves(state))


@given(
    size=st.integers(1, 7),
    channels=st.integers(1, 5),
    spatial=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    alpha=st.sampled_from([1e-4, 0.0, 0.7]),
    beta=st.sampled_from([0.75, -0.5, 1.0]),
    k=st.sampled_from([1.0, 0.3]),
    dtype=dtypes,
)
def test_local_response_norm(size, channels, spatial, alpha, beta, k, dtype, matches_torch):
    module = torch.nn.LocalResponseNorm(size, alpha, beta, k)
    x = normal((2, channels, *spatial), size, dtype)
    matches_torch(nn.local_response_norm(size, alpha, beta, k), module, x)


def test_squares_of_halves_do_not_overflow():
    """Of 300 the square is beyond float16."""
    layer, x = nn.local_response_norm(2), torch.full((1, 2, 1), 300.0, dtype=torch.float16)
    y = layer({}, x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.double(), layer({}, x.double()), rtol=1e-3, atol=0)


def test_inputs_that_do_not_fit():
    layer = nn.group_norm(2)
    params = layer.init(KEY, torch.ones(3, 4, 5))
    with pytest.raises(nn.LayerError, match=r"group_norm expected .*\(N, 4, D1\), got \(3, 6, 5\)"):
        layer(params, torch.ones(3, 6, 5))
    with pytest.raises(nn.LayerError, match=r"divisible by num_groups = 2, got shape \(3, 5, 5\)"):
        layer.init(KEY, torch.ones(3, 5, 5))
    with pytest.raises(nn.LayerError, match=r"divisible by num_groups = 2, got shape \(3, 5, 5\)"):
        nn.group_norm(2, affine=False)({}, torch.ones(3, 5, 5))
    with pytest.raises(
        nn.LayerError, match=r"than one value in each of 2 groups, got shape \(3, 2"
    ):
        layer.init(KEY, torch.ones(3, 2))
    with pytest.raises(
        nn.LayerError, match=r"one value in each of 2 groups, got shape \(3, 4, 0\)"
    ):
        layer(params, torch.ones(3, 4, 0))
    with pytest.raises(nn.LayerError, match=r"'bias' to be a tensor of shape \(4,\), got .*\(1,\)"):
        layer({**params, "bias": torch.ones(1)}, torch.ones(3, 4, 5))
    with pytest.raises(nn.LayerError, match=r"input of torch.float64 and 'weight'"):
        layer(params, torch.ones(3, 4, 5).double())
    with pytest.raises(nn.LayerError, match=r"rms_norm expected .*floating-point"):
        nn.rms_norm().init(KEY, torch.ones(3, 4, dtype=torch.int32))
    with pytest.raises(nn.LayerError, match=r"rms_norm expected .* the last 2, got shape \(4,\); "):
        nn.rms_norm(2).init(KEY, torch.ones(4))
    with pytest.raises(nn.LayerError, match=r"local_response_norm expected .*\(N, C, D1\), got"):
        nn.local_response_norm(2)({}, torch.ones(3, 4))


def test_instances_without_a_variance():
    with pytest.raises(nn.LayerError, match=r"instance_norm expected .*\(N, C, D1\), got \(3, 4\)"):
        nn.instance_norm()({}, torch.ones(3, 4))
    with pytest.raises(nn.LayerError, match=r"^instance_norm expected more than one value in each"):
        nn.instance_norm()({}, torch.ones(3, 4, 1))
    layer = nn.tracked_instance_norm()
    params, state = layer.init(KEY, torch.ones(3, 4, 1))
    assert layer(params, state, torch.ones(3, 4, 1))[0].shape == (3, 4, 1)
    with pytest.raises(nn.LayerError, match=r"^tracked_instance_norm expected more than one value"):
        layer(params, state, torch.ones(3, 4, 1), train=True)
    with pytest.raises(nn.LayerError, match=r"tracked_instance_norm expected .*\(N, 4, D1\), got"):
        layer(params, state, torch.ones(3, 5, 2))
    with pytest.raises(nn.LayerError, match="tracked_instance_norm expected True or False for tra"):
        layer(params, state, torch.ones(3, 4, 2), train=torch.tensor(True))
    single = nn.instance_norm(spatial_dims=2, affine=True)
    with pytest.raises(nn.LayerError, match=r"^instance_norm expected more than one value in each"):
        single.init(KEY, torch.ones(4, 1, 1))
    with pytest.raises(nn.LayerError, match=r"\(N, C, H, W\) or \(C, H, W\), got \(4, 5\)"):
        single.init(KEY, torch.ones(4, 5))
    with pytest.raises(nn.LayerError, match=r"\(N, 4, H, W\) or \(4, H, W\), got \(5, 2, 2\)"):
        single(single.init(KEY, torch.ones(4, 2, 2)), torch.ones(5, 2, 2))


def test_no_examples_at_all():
    x = torch.ones(0, 4, 2)
    for layer in (nn.instance_norm(), nn.group_norm(2, affine=False), nn.local_response_norm(2)):
        assert layer({}, x).shape == (0, 4, 2)
    assert nn.instance_norm(affine=True)({"weight": torch.ones(4), "bias": torch.ones(4)}, x) is x
    layer = nn.tracked_instance_norm(affine=True)
    params, state = layer.init(KEY, x)
    for train in (True, False):
        y, after = layer(params, state, x, train=train)
        assert y.shape == x.shape
        assert all(torch.equal(after[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.rms_norm(0), ValueError, "rms_norm: expected normalized_dims >= 1, got 0"),
        (lambda: nn.rms_norm(eps=0), ValueError, "rms_norm: expected a finite eps > 0, got 0"),
        (lambda: nn.rms_norm(elementwise_affine=1), TypeError, "elementwise_affine, got 1"),
        (lambda: nn.group_norm(0), ValueError, "group_norm: expected num_groups >= 1, got 0"),
        (lambda: nn.group_norm(2.0), TypeError, "an integer for num_groups, got 2.0"),
        (lambda: nn.group_norm(2, eps=-1), ValueError, "group_norm: expected a finite eps > 0"),
        (lambda: nn.group_norm(2, affine=None), TypeError, "group_norm: .* affine, got None"),
        (lambda: nn.group_norm(2, 4), TypeError, "positional argument"),
        (lambda: nn.instance_norm(bias=3), TypeError, "instance_norm: .* bias, got 3"),
        (
            lambda: nn.instance_norm(spatial_dims=4),
            ValueError,
            "instance_norm: expected spatial_dims to be 1, 2, 3 or None, got 4",
        ),
        (
            lambda: nn.tracked_instance_norm(spatial_dims=True),
            TypeError,
            "tracked_instance_norm: expected an integer for spatial_dims, got True",
        ),
        (lambda: nn.instance_norm(eps="1"), TypeError, "instance_norm: .* number for eps, got '1'"),
        (
            lambda: nn.tracked_instance_norm(momentum=None),
            TypeError,
            "tracked_instance_norm: expected a number for momentum, got None",
        ),
        (
            lambda: nn.tracked_instance_norm(momentum=2),
            ValueError,
            r"a momentum within \[0, 1\], got 2",
        ),
        (lambda: nn.local_response_norm(0), ValueError, "norm: expected size >= 1, got 0"),
        (lambda: nn.local_response_norm(2, -1.0), ValueError, "finite alpha >= 0, got -1.0"),
        (lambda: nn.local_response_norm(2, "1"), TypeError, "a number for alpha, got '1'"),
        (lambda: nn.local_response_norm(2, beta=float("nan")), ValueError, "finite beta, got nan"),
        (lambda: nn.local_response_norm(2, beta=True), TypeError, "number for beta, got True"),
        (lambda: nn.local_response_norm(2, k=0), ValueError, "a finite k > 0, got 0"),
    ],
)
def test_options_that_do_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make()
