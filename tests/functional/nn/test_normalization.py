import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import initializers, nn, random, tree

MODULES = {
    0: torch.nn.BatchNorm1d,
    1: torch.nn.BatchNorm1d,
    2: torch.nn.BatchNorm2d,
    3: torch.nn.BatchNorm3d,
}
KEY = random.key(0)


@given(
    batch=st.lists(st.integers(1, 3), max_size=2),
    features=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    eps=st.sampled_from([1e-5, 1e-2]),
    affine=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_layer_norm(batch, features, eps, affine, bias, dtype, matches_torch):
    features = [*features[:-1], features[-1] + 1]  # of one value the norm is zero
    generator = torch.Generator().manual_seed(len(features))
    x = torch.randn(*batch, *features, generator=generator).to(dtype)
    module = torch.nn.LayerNorm(features, eps, affine, bias)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.5, generator=generator)
    matches_torch(
        nn.layer_norm(len(features), eps=eps, elementwise_affine=affine, bias=bias), module, x
    )


@pytest.mark.parametrize("make", [nn.layer_norm, nn.batch_norm, nn.untracked_batch_norm])
def test_weight_and_bias_are_drawn_apart(make):
    drawn = make(weight_init=initializers.normal(), bias_init=initializers.normal()).init(
        KEY, torch.ones(2, 4)
    )
    params = drawn[0] if isinstance(drawn, tuple) else drawn
    assert not torch.isclose(params["weight"], params["bias"]).any()


def test_layer_norm_refusals():
    layer = nn.layer_norm(2)
    params = layer.init(KEY, torch.ones(2, 3, 4))
    with pytest.raises(nn.LayerError, match=r"shape \(\.\.\., 3, 4\), got \(2, 3, 5\)"):
        layer(params, torch.ones(2, 3, 5))
    with pytest.raises(nn.LayerError, match=r"the last 2, got shape \(5,\); normalized_dims is th"):
        layer.init(KEY, torch.ones(5))
    with pytest.raises(nn.LayerError, match=r"the last 2, got shape \(5,\); normalized_dims is th"):
        nn.layer_norm(2, elementwise_affine=False)({}, torch.ones(5))
    with pytest.raises(
        nn.LayerError, match=r"'bias' to be a tensor of shape \(3, 4\), got .*\(3, 1"
    ):
        layer({**params, "bias": torch.ones(3, 1)}, torch.ones(2, 3, 4))
    with pytest.raises(nn.LayerError, match="their number and no length"):
        nn.layer_norm(64).init(KEY, torch.ones(8, 64))  # as for torch.nn.LayerNorm
    with pytest.raises(nn.LayerError, match="layer_norm expected a tensor, got None"):
        layer(params, None)
    with pytest.raises(nn.LayerError, match="floating-point"):
        layer.init(KEY, torch.ones(2, 3, 4, dtype=torch.int32))
    with pytest.raises(nn.LayerError, match=r"'bias' of torch.float32|'weight' of torch.float32"):
        layer(params, torch.ones(2, 3, 4, dtype=torch.float16))
    with pytest.raises(ValueError, match="normalized_dims >= 1"):
        nn.layer_norm(0)
    with pytest.raises(TypeError, match="elementwise_affine, got 0; the input size is inferred"):
        nn.layer_norm(elementwise_affine=0)
    with pytest.raises(TypeError, match="layer_norm: expected True or False for bias, got None"):
        nn.layer_norm(bias=None)


@pytest.mark.parametrize("norm", [nn.layer_norm, nn.batch_norm])
@pytest.mark.parametrize(
    ("eps", "error", "message"),
    [
        (0, ValueError, "a finite eps > 0, got 0"),
        (-1e-5, ValueError, "a finite eps > 0, got -1e-05"),
        (float("nan"), ValueError, "a finite eps > 0, got nan"),
        ("small", TypeError, "a number for eps, got 'small'"),
        (True, TypeError, "a number for eps, got True"),
    ],
)
def test_eps_that_does_not_fit(norm, eps, error, message):
    with pytest.raises(error, match=f"_norm: expected {message}"):
        norm(eps=eps)


def test_torchs_signature_builds_no_other_layer():
    with pytest.raises(TypeError, match="positional argument"):
        nn.batch_norm(64)
    with pytest.raises(TypeError, match="positional argument"):
        nn.layer_norm(64, 1e-5)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1)])
def test_a_batch_without_a_variance_is_refused_in_training(shape):
    layer = nn.batch_norm()
    params, state = layer.init(KEY, torch.ones(4, *shape[1:]))
    x = torch.ones(shape)
    with pytest.raises(nn.LayerError, match="more than one value for each channel in training"):
        layer(params, state, x, train=True)
    with pytest.raises(nn.LayerError, match="more than one value for each channel in training"):
        nn.untracked_batch_norm(affine=False)({}, x)
    assert layer(params, state, x)[0].shape == shape


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 1), (2, 3, 0), (0, 3, 2, 2)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_batch_without_values_is_counted_as_by_torch(shape, momentum, matches_torch):
    module = MODULES[len(shape) - 2](3, momentum=momentum)
    for train in (True, False):
        matches_torch(nn.batch_norm(momentum=momentum), module, torch.ones(shape), train=train)
    module = MODULES[len(shape) - 2](3, track_running_stats=False)
    matches_torch(nn.untracked_batch_norm(), module, torch.ones(shape), train=True)


@st.composite
def batch_norms(draw):
    dims = draw(st.integers(0, 3))
    channels = draw(st.integers(1, 4))
    spatial = [draw(st.integers(1, 3)) for _ in range(dims)]
    options = {
        "eps": draw(st.sampled_from([1e-5, 1e-2])),
        "momentum": draw(st.sampled_from([0.1, 0.0, 1.0, 0.37, None])),
        "affine": draw(st.booleans()),
    }
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return dims, (draw(st.integers(2, 4)), channels, *spatial), options, dtype


@given(batch_norms())
def test_batch_norm_follows_torch_over_several_steps(is_close, matches_torch, case):
    dims, shape, options, dtype = case
    module = MODULES[dims](shape[1], **options).to(dtype)
    layer = nn.batch_norm(**options)
    generator = torch.Generator().manual_seed(dims)
    params, state = layer.init(KEY, torch.ones(shape, dtype=dtype))
    for step in range(6):
        x = (step + 2.0 * torch.randn(shape, generator=generator)).to(dtype)
        if x[:, 0].numel() > 2:  # of two values the normalised ones are ±1 and gradients vanish
            matches_torch(layer, module, x, train=True)
        matches_torch(layer, module, x, train=False)
        expected = module.train()(x).detach()
        before = tree.map(torch.clone, state)
        y, new_state = layer(params, state, x, train=True)
        assert all(map(torch.equal, tree.leaves(state), tree.leaves(before)))
        state = new_state
        is_close(y, expected, "output")
        for name, buffer in module.named_buffers():
            is_close(state[name], buffer, name)
        y, unchanged = layer(params, state, x)
        is_close(y, module.eval()(x).detach(), "evaluation")
        assert tree.structure(unchanged) == tree.structure(state)
        assert all(map(torch.equal, tree.leaves(unchanged), tree.leaves(state)))
    assert state["num_batches_tracked"].item() == 6


def test_no_gradient_flows_into_the_state():
    layer = nn.batch_norm()
    x = torch.randn(4, 3, requires_grad=True)
    params, state = layer.init(KEY, x)
    _, state = layer(params, state, x, train=True)
    assert not any(leaf.requires_grad for leaf in tree.leaves(state))


def test_the_running_variance_is_unbiased():
    layer = nn.batch_norm(momentum=1.0)
    x = torch.tensor([[0.0], [1.0]])
    _, state = layer(*layer.init(KEY, x), x, train=True)
    assert state["running_var"].item() == 0.5
    assert state["running_mean"].item() == 0.5


def test_batch_norm_refusals():
    layer = nn.batch_norm()
    x = torch.ones(4, 3, 2)
    params, state = layer.init(KEY, x)
    with pytest.raises(nn.LayerError, match=r"shape \(N, 3, D1\), got \(4, 2, 2\)"):
        layer(params, state, torch.ones(4, 2, 2))
    with pytest.raises(nn.LayerError, match=r"shape \(N, C\), got \(4,\)"):
        layer.init(KEY, torch.ones(4))
    with pytest.raises(nn.LayerError, match="more than one value for each channel in training"):
        layer(params, state, torch.ones(1, 3), train=True)
    with pytest.raises(nn.LayerError, match="expected True or False for train"):
        layer(params, state, x, train=torch.tensor(True))
    with pytest.raises(
        nn.LayerError, match=r"expected a dict of .*running_mean.*, got an empty dict"
    ):
        layer(params, {}, x)
    with pytest.raises(
        nn.LayerError, match=r"'bias' of shape \(3,\), as 'running_mean' has, got \(1,\)"
    ):
        layer({**params, "bias": torch.ones(1)}, state, x)
    with pytest.raises(nn.LayerError, match=r"input of torch.float64 and"):
        layer(params, state, x.double())
    with pytest.raises(
        nn.LayerError, match=r"input of torch.float64 and '(weight|bias)' of torch.f"
    ):
        layer(params, tree.cast(state, torch.float64), x.double())
    with pytest.raises(nn.LayerError, match=r"input of torch.float64 and 'running_\w+' of torch.f"):
        layer(tree.cast(params, torch.float64), state, x.double())
    with pytest.raises(nn.LayerError, match="floating-point"):
        layer.init(KEY, x.long())
    with pytest.raises(ValueError, match=r"momentum within \[0, 1\], got 1.5"):
        nn.batch_norm(momentum=1.5)
    with pytest.raises(TypeError, match="batch_norm: expected a number for momentum, got 'slow'"):
        nn.batch_norm(momentum="slow")
    with pytest.raises(TypeError, match="affine, got 64; the input size is inferred"):
        nn.batch_norm(affine=64)


HALVES = {
    "layer_norm": (nn.layer_norm(), torch.nn.LayerNorm(64)),
    "rms_norm": (nn.rms_norm(), torch.nn.RMSNorm(64)),
    "softmax": (nn.lift(nn.softmax), torch.nn.Softmax(-1)),
    "log_softmax": (nn.lift(nn.log_softmax), torch.nn.LogSoftmax(-1)),
    "batch_norm": (nn.batch_norm(), torch.nn.BatchNorm1d(16)),
    "untracked_batch_norm": (
        nn.untracked_batch_norm(),
        torch.nn.BatchNorm1d(16, track_running_stats=False),
    ),
    "group_norm": (nn.group_norm(4), torch.nn.GroupNorm(4, 16)),
    "instance_norm": (nn.instance_norm(affine=True), torch.nn.InstanceNorm1d(16, affine=True)),
}


@pytest.mark.parametrize("name", list(HALVES))
def test_norms_of_halves_err_no_more_than_torchs(name, from_module, run_layer):
    """Output and gradients in bfloat16, measured against float64."""
    layer, module = HALVES[name]
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(32, 16, 64, generator=generator) + 5).bfloat16()
    cotangent = torch.randn(x.shape, generator=generator).bfloat16()

    def of_torch(dtype):
        own = copy.deepcopy(module).to(dtype)
        given = x.to(dtype, copy=True).requires_grad_()
        y = own(given)
        y.backward(cotangent.to(dtype))
        return [y.detach(), given.grad, *(p.grad for p in own.parameters())]

    params, state = from_module(copy.deepcopy(module).bfloat16())

    def objective(params, x):
        y, _ = run_layer(layer, params, state, x, train=True)
        return (y * cotangent).sum(), y

    (of_params, of_x), y = pf.grad(objective, argnums=(0, 1), has_aux=True)(params, x)
    ours = [y, of_x, *(of_params[key] for key, _ in module.named_parameters())]
    exact, theirs = of_torch(torch.float64), of_torch(torch.bfloat16)
    for found, reference, truth in zip(ours, theirs, exact, strict=True):
        assert found.dtype == torch.bfloat16
        error, bound = ((value.double() - truth).norm() for value in (found, reference))
        assert error <= 1.02 * bound


@pytest.mark.parametrize("wide_state", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        nn.batch_norm(),
        nn.batch_norm(affine=False),
        nn.untracked_batch_norm(),
        nn.instance_norm(affine=True),
        nn.tracked_instance_norm(affine=True),
    ],
)
def test_norms_of_halves_are_mapped(layer, train, wide_state, run_layer):
    """Of torch's own batching rules some mix halves and float32, which its kernels refuse."""
    xs = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    made = layer.init(KEY, xs[0])
    params, state = made if isinstance(layer, nn.StatefulLayer) else (made, {})
    state = tree.cast(state, torch.float32) if wide_state else state

    def output(params, x):
        return run_layer(layer, params, state, x, train=train)[0]

    def objective(params, x):
        return output(params, x).square().sum()

    found = pf.vmap(pf.value_and_grad(objective, (0, 1)), in_axes=(None, 0))(params, xs)
    rows = tree.stack([pf.value_and_grad(objective, (0, 1))(params, x) for x in xs])
    for one, other in zip(tree.leaves(found), tree.leaves(rows), strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)
    ys = pf.vmap(output, in_axes=(None, 0))(params, xs)
    alone = torch.stack([output(params, x) for x in xs])
    torch.testing.assert_close(ys, alone, rtol=0.02, atol=0.02)
    backward, forward = (
        transform(output, 1)(params, xs[0]) for transform in (pf.jacrev, pf.jacfwd)
    )
    assert backward.dtype == torch.bfloat16
    torch.testing.assert_close(backward, forward, rtol=0.02, atol=0.02)
