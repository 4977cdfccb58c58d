import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrizations

import purefn.functional as pf
from purefn.functional import nn, random, tree

KEY = random.key(0)
LAYERS = {
    "linear": (nn.linear(3), lambda: torch.nn.Linear(5, 3), (4, 5)),
    "conv1d": (nn.conv1d(4, 3), lambda: torch.nn.Conv1d(2, 4, 3), (3, 2, 6)),
    "conv2d": (nn.conv2d(4, (2, 3)), lambda: torch.nn.Conv2d(2, 4, (2, 3)), (2, 2, 4, 5)),
}
kinds = st.sampled_from(sorted(LAYERS))
dtypes = st.sampled_from([torch.float32, torch.float64])


def normal(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(kind=kinds, dim=st.sampled_from([0, 1, 2, None]), of=dtypes, length=st.floats(0.5, 2))
@settings(max_examples=20)
def test_weight_norm(kind, dim, of, length, matches_torch):
    layer, module, shape = LAYERS[kind]
    dim = dim if dim is None else min(dim, len(shape) - 1)
    module = parametrizations.weight_norm(module().to(of), dim=dim)
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(length)
    matches_torch(nn.weight_norm(layer, dim=dim), module, normal(shape, of))


@given(
    kind=kinds,
    dim=st.sampled_from([0, 1, -1]),
    iterations=st.integers(1, 3),
    eps=st.sampled_from([1e-12, 0.1]),
    dtype=dtypes,
)
@settings(max_examples=20)
def test_spectral_norm_follows_torch_over_several_steps(
    kind, dim, iterations, eps, dtype, matches_torch, is_close, from_module
):
    layer, module, shape = LAYERS[kind]
    module = parametrizations.spectral_norm(
        module().to(dtype), n_power_iterations=iterations, eps=eps, dim=dim
    )
    layer = nn.spectral_norm(layer, n_power_iterations=iterations, eps=eps, dim=dim)
    params, state = from_module(module)
    for step in range(3):
        x = normal(shape, dtype, step)
        matches_torch(layer, module, x, train=True)
        matches_torch(layer, module, x, train=False)
        with torch.no_grad():
            moved = module.parametrizations.weight.original
            moved.add_(0.1 * normal(moved.shape, dtype, step))
        params, _ = from_module(module)
        expected = module.train()(x).detach()
        y, state = layer(params, state, x, train=True)
        is_close(y, expected, "output")
        y, unchanged = layer(params, state, x)
        is_close(y, module.eval()(x).detach(), "evaluation")
        assert unchanged is state
        for name, buffer in module.named_buffers():
            is_close(tree.to_state_dict(state)[name], buffer, name)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weight_norm_computes_the_weight_that_the_layer_draws(name):
    layer, x = nn.linear(3), torch.ones(4, 5, dtype=torch.float64)
    plain = layer.init(KEY, x)
    wrapped = nn.weight_norm(layer, name=name)
    torch.testing.assert_close(wrapped(wrapped.init(KEY, x), x), layer(plain, x))


def test_two_parameters_of_one_layer(matches_torch):
    module = parametrizations.weight_norm(torch.nn.Linear(5, 3))
    module = parametrizations.weight_norm(module, "bias")
    layer = nn.weight_norm(nn.weight_norm(nn.linear(3)), "bias")
    matches_torch(layer, module, normal((4, 5)))
    names = tree.to_state_dict(layer.init(KEY, torch.ones(4, 5)))
    assert names.keys() == module.state_dict().keys()


def test_spectral_norm_of_a_vector(matches_torch):
    module = parametrizations.spectral_norm(torch.nn.Linear(5, 3), "bias")
    layer = nn.spectral_norm(nn.linear(3), "bias")
    assert layer.init(KEY, torch.ones(4, 5))[1] == {}
    matches_torch(layer, module, normal((4, 5)), train=True)


def test_the_first_state_is_near_the_singular_vectors():
    layer = nn.spectral_norm(nn.linear(3, bias=False))
    x = torch.eye(5)
    params, state = layer.init(KEY, x)
    y, _ = layer(params, state, x)
    assert abs(torch.linalg.matrix_norm(y, 2).item() - 1) < 1e-2
    vectors = state["parametrizations"]["weight"]["0"]
    for vector in vectors.values():
        torch.testing.assert_close(vector.norm(), torch.tensor(1.0))


def test_no_gradient_flows_through_the_vectors():
    layer = nn.spectral_norm(nn.linear(3))
    x = normal((4, 5))
    params, state = layer.init(KEY, x)

    def objective(params, state):
        y, state = layer(params, state, x, train=False)
        return y.sum()

    assert all((g == 0).all() for g in tree.leaves(pf.grad(objective, argnums=1)(params, state)))
    weight = params["parametrizations"]["weight"]["original"].requires_grad_()
    _, state = layer(params, state, x, train=True)
    assert weight.requires_grad
    assert not any(leaf.requires_grad for leaf in tree.leaves(state))


def test_in_a_model_of_other_layers(matches_torch):
    module = torch.nn.Sequential(
        parametrizations.spectral_norm(torch.nn.Linear(5, 4)),
        torch.nn.Tanh(),
        parametrizations.weight_norm(torch.nn.Linear(4, 2)),
    )
    model = nn.serial(nn.spectral_norm(nn.linear(4)), nn.tanh, nn.weight_norm(nn.linear(2)))
    matches_torch(model, module, normal((3, 5)), train=True)
    params, state = model.init(KEY, torch.ones(3, 5))
    loaded = copy.deepcopy(module)
    loaded.load_state_dict({**tree.to_state_dict(params), **tree.to_state_dict(state)})


def test_the_key_reaches_the_layer():
    layer = nn.Layer(
        lambda key, x: {"weight": torch.ones(2, 2)},
        lambda params, x, *, key=None, train=False: x @ params["weight"] + random.uniform(key),
    )
    x = torch.ones(1, 2)
    wrapped, spectral = nn.weight_norm(layer), nn.spectral_norm(layer)
    expected = layer(layer.init(KEY, x), x, key=KEY)
    torch.testing.assert_close(wrapped(wrapped.init(KEY, x), x, key=KEY), expected)
    y, _ = spectral(*spectral.init(KEY, x), x, key=KEY)
    torch.testing.assert_close(y, expected - 1)
    assert wrapped.uses_key
    assert spectral.uses_key
    assert not nn.weight_norm(nn.linear(3)).uses_key
    assert not nn.spectral_norm(nn.linear(3)).uses_key


def test_parameters_and_states_that_do_not_fit():
    x = torch.ones(4, 5)
    layer = nn.weight_norm(nn.linear(3))
    params = layer.init(KEY, x)
    with pytest.raises(
        nn.LayerError, match=r"\['original0', 'original1'\] for 'parametrizations.w"
    ):
        layer(nn.linear(3).init(KEY, x), x)
    originals = params["parametrizations"]["weight"]
    for wrong in (torch.ones(3), originals["original0"].double()):
        other = {**params, "parametrizations": {"weight": {**originals, "original0": wrong}}}
        with pytest.raises(nn.LayerError, match="norms of 'original1' over all dimensions but 0"):
            layer(other, x)
    with pytest.raises(nn.LayerError, match="weight_norm expected a layer with the parameter 'w'"):
        nn.weight_norm(nn.linear(3), "w").init(KEY, x)
    with pytest.raises(nn.LayerError, match="weight_norm expected 'weight' to have a dimension 2"):
        nn.weight_norm(nn.linear(3), dim=2).init(KEY, x)
    with pytest.raises(nn.LayerError, match="linear expected an input of shape"):
        layer(params, torch.ones(4, 6))
    with pytest.raises(
        nn.LayerError, match="spectral_norm expected 'weight' to have a dimension 2"
    ):
        nn.spectral_norm(nn.linear(3), dim=2).init(KEY, x)

    layer = nn.spectral_norm(nn.linear(3))
    params, state = layer.init(KEY, x)
    vectors = state["parametrizations"]["weight"]["0"]
    with pytest.raises(nn.LayerError, match=r"'_u' and '_v' for 'parametrizations.weight.0', got"):
        layer(params, {}, x)
    for wrong, message in (
        (torch.ones(4), r"'_u' of shape \(3,\) for 'original', got"),
        (vectors["_u"].double(), r"torch\.float32 and '_u' of torch\.float64"),
    ):
        other = {"parametrizations": {"weight": {"0": {**vectors, "_u": wrong}}}}
        with pytest.raises(nn.LayerError, match=message):
            layer(params, other, x)
    with pytest.raises(nn.LayerError, match="spectral_norm expected True or False for train"):
        layer(params, state, x, train=1)


@pytest.mark.parametrize("wrapper", [nn.weight_norm, nn.spectral_norm])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.relu,), {}, TypeError, "expected a Layer.*, got builtin"),
        ((nn.linear(3), 0), {}, TypeError, "expected the name of a parameter, got 0"),
        ((nn.linear(3),), {"dim": "out"}, TypeError, "expected an integer for dim, got 'out'"),
    ],
)
def test_arguments_that_do_not_fit(wrapper, arguments, options, error, message):
    with pytest.raises(error, match=f"{wrapper.__name__}: {message}"):
        wrapper(*arguments, **options)


def test_options_that_do_not_fit():
    with pytest.raises(ValueError, match="weight_norm: expected dim >= 0 or None, got -1"):
        nn.weight_norm(nn.linear(3), dim=-1)
    with pytest.raises(ValueError, match="expected n_power_iterations >= 1, got 0"):
        nn.spectral_norm(nn.linear(3), n_power_iterations=0)
    with pytest.raises(ValueError, match="spectral_norm: expected a finite eps > 0, got 0"):
        nn.spectral_norm(nn.linear(3), eps=0)


def test_spectral_norm_of_two_parameters_of_one_layer():
    """torch's parametrizations of both weights of a cell, step by step."""
    theirs = torch.nn.RNNCell(4, 3).double()
    for name in ("weight_ih", "weight_hh"):
        parametrizations.spectral_norm(theirs, name)
    ours = nn.spectral_norm(nn.spectral_norm(nn.rnn_cell(3), "weight_ih"), "weight_hh")
    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    buffers = {name for name, _ in theirs.named_buffers()}
    values = {name: value.clone() for name, value in theirs.state_dict().items()}
    params = tree.from_state_dict({n: v for n, v in values.items() if n not in buffers})
    state = tree.from_state_dict({n: v for n, v in values.items() if n in buffers})
    drawn = ours.init(random.key(0), x)
    assert tree.structure(drawn) == tree.structure((params, state))
    for train in (True, True, False):
        theirs.train(train)
        y, state = ours(params, state, x, train=train)
        torch.testing.assert_close(y, theirs(x).detach(), rtol=1e-12, atol=1e-12)
    after = tree.to_state_dict(state)
    for name in buffers:
        torch.testing.assert_close(after[name], theirs.state_dict()[name], rtol=1e-12, atol=1e-12)


def test_spectral_norm_of_a_layer_with_a_state_of_its_own():
    inside = nn.batch_norm()
    layer = nn.spectral_norm(inside)  # of a vector: divided by its length
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    params, state = layer.init(random.key(0), x)
    y, moved = layer(params, state, x, train=True)
    scaled = {"weight": torch.full((3,), 3**-0.5, dtype=x.dtype), "bias": params["bias"]}
    expected, expected_state = inside(scaled, inside.init(random.key(0), x)[1], x, train=True)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert tree.all(tree.map(torch.equal, moved, expected_state))


def test_weight_norm_takes_no_state():
    with pytest.raises(TypeError, match="weight_norm: expected a Layer, got StatefulLayer"):
        nn.weight_norm(nn.batch_norm())
