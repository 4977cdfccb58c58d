"""partition against torch's parameter groups; labels and what is refused."""

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

LABELS = {
    "function": lambda name: name.rpartition(".")[2],
    "tree": {
        "conv": {"weight": "weight", "bias": "bias"},
        "head": {"weight": "weight", "bias": "bias"},
    },
}


@pytest.fixture
def params():
    generator = torch.Generator().manual_seed(0)

    def layer():
        return {
            "weight": torch.randn(3, 2, generator=generator, dtype=torch.float64),
            "bias": torch.randn(3, generator=generator, dtype=torch.float64),
        }

    return {"conv": layer(), "head": layer()}


def make_gradients(params, steps=12):
    generator = torch.Generator().manual_seed(1)
    return [
        tree.map(lambda p: torch.randn(p.shape, generator=generator, dtype=p.dtype), params)
        for _ in range(steps)
    ]


def train(optimizer, params, gradients, transform=lambda f: f):
    update, state = transform(optimizer.update), optimizer.init(params)
    for grads in gradients:
        updates, state = update(grads, state, params)
        params = optim.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_are_torchs_parameter_groups(params, labels):
    gradients = make_gradients(params)
    named = {name: leaf.clone() for name, leaf in tree.to_state_dict(params).items()}
    groups = [
        {"params": [p for n, p in named.items() if n.endswith("weight")], "weight_decay": 0.1},
        {
            "params": [p for n, p in named.items() if n.endswith("bias")],
            "lr": 0.5,
            "betas": (0.5, 0.9),
        },
    ]
    reference = torch.optim.Adam(groups, lr=0.1)
    for grads in gradients:
        for name, grad in tree.to_state_dict(grads).items():
            named[name].grad = grad
        reference.step()
    optimizer = optim.partition(
        {
            "weight": optim.adam(lr=0.1, weight_decay=0.1),
            "bias": optim.adam(lr=0.5, betas=(0.5, 0.9)),
        },
        labels,
    )
    result, state = train(optimizer, params, gradients)
    for name, leaf in tree.to_state_dict(result).items():
        torch.testing.assert_close(leaf, named[name], rtol=1e-12, atol=1e-14)
    moments = state.inner_states["bias"]
    assert list(tree.to_state_dict(optim.get(moments, "mu"))) == ["conv.bias", "head.bias"]
    for name, leaf in tree.to_state_dict(optim.get(moments, "nu")).items():
        expected = reference.state[named[name]]["exp_avg_sq"]
        torch.testing.assert_close(leaf, expected, rtol=1e-12, atol=1e-14)


def test_labels_may_be_a_prefix_and_of_any_kind(params):
    gradients = make_gradients(params, 3)
    optimizer = optim.partition(
        {
            0: optim.sgd(0.1),
            (1, "x"): optim.scale(-1.0),
            None: optim.set_to_zero(),
            "unused": optim.adam(),
        },
        lambda name: {"conv.weight": 0, "conv.bias": (1, "x")}.get(name),
    )
    result, _ = train(optimizer, params, gradients)
    total = tree.map(lambda *grads: sum(grads), *gradients)
    expected = {
        "conv.weight": params["conv"]["weight"] - 0.1 * total["conv"]["weight"],
        "conv.bias": params["conv"]["bias"] - total["conv"]["bias"],
    }
    for name, leaf in tree.to_state_dict(result).items():
        torch.testing.assert_close(leaf, expected.get(name, tree.to_state_dict(params)[name]))
    halves = optim.partition(
        {"a": optim.set_to_zero(), "b": optim.identity()}, {"conv": "a", "head": "b"}
    )
    updates, _ = halves.update(gradients[0], halves.init(params), params)
    assert not any(leaf.any() for leaf in tree.leaves(updates["conv"]))
    assert all(map(torch.equal, tree.leaves(updates["head"]), tree.leaves(gradients[0]["head"])))


def test_compiled_once_and_resumed(params):
    gradients = make_gradients(params)
    optimizer = optim.partition(
        {"weight": optim.adam(lr=0.1), "bias": optim.sgd(0.1, 0.9)}, LABELS["function"]
    )
    expected, _ = train(optimizer, params, gradients)
    steps = []

    def compiled(update):
        steps.append(pf.jit(update, backend="eager"))
        return steps[0]

    result, _ = train(optimizer, params, gradients, compiled)
    assert steps[0].trace_count == 1
    for leaf, other in zip(tree.leaves(result), tree.leaves(expected), strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-13, atol=0)


def test_extra_arguments_reach_every_part(params):
    seen = []

    def update(updates, state, params=None, **extra):
        seen.append(extra)
        return updates, state

    spy = optim.GradientTransformation(lambda params: optim.EmptyState(), update)
    optimizer = optim.partition({"weight": spy, "bias": spy}, LABELS["function"])
    optimizer.update(params, optimizer.init(params), params, value=1.0)
    assert seen == [{"value": 1.0}, {"value": 1.0}]


def test_what_is_refused(params):
    optimizer = optim.partition({"weight": optim.sgd(0.1)}, LABELS["function"])
    with pytest.raises(
        ValueError, match=r"for 'conv\.bias': got 'bias', expected one of .*'weight'"
    ):
        optimizer.init(params)
    with pytest.raises(ValueError, match=r"params\['head'\] does not have the structure"):
        optim.partition({"a": optim.sgd()}, {"conv": "a", "head": {"weight": "a"}}).init(params)
    with pytest.raises(TypeError, match=r"transforms\['a'\]: expected a GradientTransformation"):
        optim.partition({"a": 0.1}, "a")
    whole = optim.partition({"a": optim.sgd(0.1)}, "a")
    with pytest.raises(TypeError, match=r"partition\.update: .*a dict with the keys \['a'\], got"):
        whole.update(params, optim.PartitionState({"b": optim.EmptyState()}), params)
    with pytest.raises(TypeError, match=r"expected the state that its init returned"):
        whole.update(params, optim.EmptyState(), params)
    with pytest.raises(ValueError, match=r"got \['a'\], expected one of"):
        optim.partition({"a": optim.sgd(0.1)}, lambda name: ["a"]).init(params)
