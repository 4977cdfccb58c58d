import copy
import warnings

import pytest
import torch

import purefn.functional as pf
from purefn.functional import nn, tree

TOLERANCE = {torch.float64: 1e-12, torch.float32: 8 * torch.finfo(torch.float32).eps}


def close(actual, expected, what):
    """Demand equality to a few roundings of the largest element."""
    assert actual.dtype == expected.dtype, what
    assert actual.shape == expected.shape, what
    if expected.numel() and expected.is_floating_point():
        bound = TOLERANCE[expected.dtype] * max(expected.abs().max().item(), 1.0)
        assert (actual - expected).abs().max().item() <= bound, what
    else:
        assert torch.equal(actual, expected), what


def params_and_state(module):
    """Return copies of the parameters and of the buffers of a torch module, as trees."""
    buffers = {name for name, _ in module.named_buffers()}
    values = {name: value.clone() for name, value in module.state_dict().items()}
    params = {name: value for name, value in values.items() if name not in buffers}
    state = {name: value for name, value in values.items() if name in buffers}
    return tree.from_state_dict(params), tree.from_state_dict(state)


def run(layer, params, state, x, **options):
    """Apply a layer with or without a state; always return both."""
    if isinstance(layer, nn.StatefulLayer):
        return layer(params, state, x, **options)
    return layer(params, x, **options), {}


def assert_matches_torch(layer, module, x, train=False):
    """Compare output, both gradients and next state with those of a torch module."""
    layer = layer if isinstance(layer, nn.Layer | nn.StatefulLayer) else nn.lift(layer)
    module = copy.deepcopy(module).train(train)
    module.zero_grad()
    if x.is_floating_point():
        module = module.to(x.dtype)
    params, state = params_and_state(module)

    x_torch = x.clone().requires_grad_(x.is_floating_point())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = module(x_torch)
    cotangent = torch.linspace(-1, 1, expected.numel(), dtype=expected.dtype).reshape(
        expected.shape
    )
    expected.backward(cotangent) if expected.requires_grad else None

    def objective(params, x):
        y, new_state = run(layer, params, state, x, train=train)
        return (y * cotangent).sum(), (y, new_state)

    argnums = (0, 1) if x.is_floating_point() else (0,)
    grads, (y, new_state) = pf.grad(objective, argnums=argnums, has_aux=True)(params, x)

    close(y, expected.detach(), "output")
    if x.is_floating_point():
        close(grads[1], x_torch.grad, "gradient of the input")
    named_grads = tree.to_state_dict(grads[0])
    assert named_grads.keys() == dict(module.named_parameters()).keys()
    for name, parameter in module.named_parameters():
        close(named_grads[name], parameter.grad, f"gradient of {name}")
    new_state = tree.to_state_dict(new_state)
    assert new_state.keys() == dict(module.named_buffers()).keys()
    for name, buffer in module.named_buffers():
        close(new_state[name], buffer, name)


@pytest.fixture(scope="session")
def matches_torch():
    return assert_matches_torch


@pytest.fixture(scope="session")
def is_close():
    return close


@pytest.fixture(scope="session")
def run_layer():
    return run


@pytest.fixture(scope="session")
def from_module():
    return params_and_state
