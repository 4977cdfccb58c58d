"""masked, freeze, selective_transform: against torch's parameter groups, and what a mask may be."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.optim.masks import Selector, a_bool, inverted

BIASES = {"conv": {"weight": False, "bias": True}, "head": {"weight": False, "bias": True}}
#: The same mask in each form.
FORMS = {"function": lambda name: name.endswith(".bias"), "tree": BIASES}


def make_params(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (3, 2), "bias": (3,)}
    return {
        layer: {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for name, shape in shapes.items()
        }
        for layer in ("conv", "head")
    }


def make_gradients(params, steps=10):
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


def train_torch(make_optimizer, params, gradients):
    """Train with `make_optimizer(named)`; parameters without requires_grad get no gradient."""
    named = {n: leaf.clone().requires_grad_() for n, leaf in tree.to_state_dict(params).items()}
    optimizer = make_optimizer(named)
    for grads in gradients:
        for name, grad in tree.to_state_dict(grads).items():
            if named[name].requires_grad:
                named[name].grad = grad.clone()
        optimizer.step()
    return {name: leaf.detach() for name, leaf in named.items()}


def assert_close(params, expected):
    for name, leaf in tree.to_state_dict(params).items():
        torch.testing.assert_close(leaf, expected[name], rtol=1e-12, atol=1e-14)


def assert_equal(left, right):
    assert tree.structure(left) == tree.structure(right)
    assert all(map(torch.equal, tree.leaves(left), tree.leaves(right)))


# ------------------------------------------------------------------------ torch's parameter groups


@pytest.mark.parametrize("mask", FORMS.values(), ids=FORMS)
def test_a_masked_decay_is_a_parameter_group_without(mask):
    params = make_params()
    gradients = make_gradients(params)

    def torchs(named):
        biases = [leaf for name, leaf in named.items() if name.endswith("bias")]
        weights = [leaf for name, leaf in named.items() if name.endswith("weight")]
        groups = [{"params": biases, "weight_decay": 0.3}, {"params": weights}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    decay = optim.masked(optim.add_decayed_weights(0.3), mask)
    ours, _ = train(optim.chain(decay, optim.sgd(lr=0.1, momentum=0.9)), params, gradients)
    assert_close(ours, train_torch(torchs, params, gradients))


@pytest.mark.parametrize(
    "mask", [lambda name: name.startswith("conv"), {"conv": True, "head": False}]
)
def test_selective_transform_is_requires_grad_false(mask):
    params = make_params()
    gradients = make_gradients(params)

    def torchs(named):
        for name, leaf in named.items():
            leaf.requires_grad_(not name.startswith("conv"))
        return torch.optim.AdamW(named.values(), lr=0.1, weight_decay=0.2)

    optimizer = optim.selective_transform(optim.adamw(lr=0.1, weight_decay=0.2), freeze_mask=mask)
    ours, state = train(optimizer, params, gradients)
    assert_close(ours, train_torch(torchs, params, gradients))
    assert_equal(ours["conv"], params["conv"])
    assert optim.get(state, "mu")["conv"] == {"weight": None, "bias": None}
    ours, _ = train(
        optim.chain(optim.adamw(lr=0.1, weight_decay=0.2), optim.freeze(mask)), params, gradients
    )
    assert_close(ours, train_torch(torchs, params, gradients))


def test_frozen_parameters_stay_whatever_their_gradients_are():
    params = make_params()
    grads = tree.map(lambda p: torch.full_like(p, torch.nan), params)
    for optimizer in (
        optim.freeze(True),
        optim.selective_transform(optim.adam(), freeze_mask=True),
    ):
        result, _ = train(optimizer, params, [grads])
        assert_equal(result, params)


# -------------------------------------------------------------------------------------------- forms


def test_names_are_those_of_to_state_dict():
    class Pair(NamedTuple):
        left: torch.Tensor
        right: list

    params = {"pair": Pair(torch.ones(1), [torch.ones(2), None, {"x": torch.ones(3)}])}
    seen = []
    optim.masked(optim.identity(), lambda name: not seen.append(name)).init(params)
    assert (
        seen == list(tree.to_state_dict(params)) == ["pair.left", "pair.right.0", "pair.right.2.x"]
    )


def test_a_flag_stands_for_a_subtree():
    params = make_params()
    grads = make_gradients(params, 1)[0]
    prefix = optim.masked(optim.scale(2.0), {"conv": True, "head": {"weight": False, "bias": True}})
    updates, _ = prefix.update(grads, prefix.init(params))
    assert_equal(updates["conv"], tree.map(lambda g: 2 * g, grads["conv"]))
    assert torch.equal(updates["head"]["weight"], grads["head"]["weight"])
    assert torch.equal(updates["head"]["bias"], 2 * grads["head"]["bias"])
    doubled = tree.map(lambda g: 2 * g, grads)
    for flag, expected in ((True, doubled), (False, grads)):
        whole = optim.masked(optim.scale(2.0), flag)
        assert_equal(whole.update(grads, whole.init(params))[0], expected)


def test_a_leaf_alone_has_the_empty_name():
    single = optim.masked(optim.scale(2.0), lambda name: name == "")
    params = torch.ones(2)
    assert single.update(params, single.init(params), params)[0].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("mask", FORMS.values(), ids=FORMS)
def test_leaves_that_are_not_selected_have_no_state(mask):
    params = make_params()
    state = optim.masked(optim.scale_by_adam(), mask).init(params)
    assert isinstance(state, optim.MaskedState)
    biases = [params["conv"]["bias"], params["head"]["bias"]]
    assert tree.nbytes((state.inner_state.mu, state.inner_state.nu)) == 2 * tree.nbytes(biases)
    assert state.inner_state.mu["conv"]["weight"] is None


def test_masks_within_masks():
    """A mask within another is still written for all parameters, as a tree and as a function."""
    params = make_params()
    gradients = make_gradients(params)
    biases = {"conv": {"weight": False, "bias": True}, "head": {"weight": True, "bias": True}}
    labels = {"conv": "a", "head": {"weight": "b", "bias": "a"}}
    nested = optim.masked(
        optim.partition(
            {
                "a": optim.chain(
                    optim.masked(optim.trace(0.9), biases), optim.scale_by_learning_rate(0.1)
                ),
                "b": optim.adam(lr=0.2),
            },
            labels,
        ),
        lambda name: name != "conv.weight",
    )
    result, state = train(nested, params, gradients)
    bare = {"conv": {"bias": optim.sgd(0.1, 0.9)}}
    bare["head"] = {"weight": optim.adam(lr=0.2), "bias": optim.sgd(0.1, 0.9)}
    for layer, parts in bare.items():
        for name, rule in parts.items():
            alone, _ = train(rule, params[layer][name], [grads[layer][name] for grads in gradients])
            assert torch.equal(result[layer][name], alone)
    # What nothing transforms passes through: the gradients are added.
    total = params["conv"]["weight"] + sum(grads["conv"]["weight"] for grads in gradients)
    torch.testing.assert_close(result["conv"]["weight"], total)
    momentum = optim.get(state, "trace")
    assert list(tree.to_state_dict(momentum)) == ["conv.bias", "head.bias"]


def test_extra_arguments_are_selected_on_demand():
    params = make_params()
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    spy = optim.GradientTransformation(lambda params: optim.EmptyState(), update)
    for selects in (False, True):
        wrapper = optim.masked(spy, BIASES, mask_compatible_extra_args=selects)
        wrapper.update(params, wrapper.init(params), params, like=params, value=1.0)
        assert seen["value"] == 1.0
        assert len(tree.leaves(seen["like"])) == (2 if selects else 4)


@pytest.mark.parametrize("mask", FORMS.values(), ids=FORMS)
def test_compiled_and_batched(mask):
    params = make_params()
    gradients = make_gradients(params, 4)
    optimizer = optim.chain(
        optim.clip(1.0),
        optim.masked(optim.adam(lr=0.1, weight_decay=0.1), mask),
        optim.freeze(mask),
    )
    expected = train(optimizer, params, gradients)
    steps = []

    def compiled(update):
        steps.append(pf.jit(update, backend="eager"))
        return steps[0]

    assert_equal(train(optimizer, params, gradients, compiled), expected)
    assert steps[0].trace_count == 1
    stacked, both = tree.stack([params, params]), tree.stack(gradients[:2])
    state = pf.vmap(optimizer.init)(stacked)
    updates, _ = pf.vmap(optimizer.update)(both, state, stacked)
    for index, grads in enumerate(gradients[:2]):
        alone, _ = optimizer.update(grads, optimizer.init(params), params)
        assert_equal(tree.unstack(updates)[index], alone)


def test_none_in_the_parameters_is_no_leaf():
    params = {"a": None, "b": torch.ones(1)}
    for mask in (True, {"a": True, "b": True}, {"a": None, "b": True}, lambda name: name == "b"):
        wrapper = optim.masked(optim.scale(2.0), mask)
        updates, _ = wrapper.update(params, wrapper.init(params), params)
        assert (updates["a"], updates["b"].item()) == (None, 2.0)


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        ({"conv": True}, ValueError, r"entries \['conv'\], found entries \['conv', 'head'\]"),
        ({"conv": True, "head": {"weight": True}}, ValueError, r"params\['head'\] does not have"),
        ({"conv": True, "head": None}, ValueError, r"mask\['head'\]: expected None"),
        ({"conv": True, "head": [True, True]}, ValueError, r"params\['head'\].*expected list"),
        (
            {"conv": True, "head": "no"},
            TypeError,
            r"'head\.bias': expected True or False, got 'no'",
        ),
        ({"conv": np.bool_(True), "head": True}, TypeError, r"'conv\.bias': expected True or Fal"),
        (
            {"conv": 1, "head": True},
            TypeError,
            r"'conv\.bias': expected True or False, got 1 \(int",
        ),
        (lambda name: None, TypeError, r"mask for 'conv\.bias': expected True or False, got None"),
        (lambda name: torch.tensor(True), TypeError, "expected True or False, got tensor"),
        (torch.tensor(True), TypeError, "expected Python bools, which are known before training"),
        ({"conv": str.isupper, "head": True}, TypeError, "got a tree of functions"),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda mask: optim.masked(optim.identity(), mask),
        optim.freeze,
        lambda mask: optim.selective_transform(optim.sgd(), freeze_mask=mask),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(make, mask, kind, message):
    with pytest.raises(kind, match=message):
        make(mask).init(make_params())


def test_what_does_not_belong_to_the_mask_is_refused():
    params = make_params()
    wrapper = optim.masked(optim.trace(0.9), BIASES)
    state = wrapper.init(params)
    with pytest.raises(TypeError, match=r"masked\.update: expected the state .*MaskedState"):
        wrapper.update(params, state.inner_state)
    other = params | {"head": {"weight": torch.ones(1)}}
    with pytest.raises(ValueError, match=r"params\['head'\] does not have the structure"):
        wrapper.update(params, state, other)
    with pytest.raises(ValueError, match=r"head"):
        wrapper.update(other, state)
    with pytest.raises(TypeError, match=r"masked: inner: expected a GradientTransformation"):
        optim.masked(0.1, True)
    broken = optim.GradientTransformation(lambda p: None, lambda u, s, p=None, **e: (1.0, s))
    with pytest.raises(ValueError, match="the inner transformation has changed the structure"):
        optim.masked(broken, True).update(params, optim.MaskedState(None))


def test_the_inverse_of_a_mask_hides_no_mistake():
    assert inverted({"a": True, "b": "no"}) == {"a": False, "b": "no"}
    assert inverted(lambda name: 1)("a") == 1


def test_a_mask_is_asked_once_for_each_structure():
    asked = []
    selector = Selector("mask", lambda name: not asked.append(name), a_bool)
    params = make_params()
    assert selector.flags(params) == selector.flags(params) == (True,) * 4
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda mask: optim.masked(optim.sgd(), mask), "masked: mask"),
        (optim.freeze, "mask"),
        (
            lambda labels: optim.partition({"a": optim.sgd()}, labels),
            "partition: param_labels",
        ),
    ],
)
def test_what_a_function_of_the_tree_raises_says_what_it_was_given(make, argument):
    """A mask of optax is a function of the parameters, not of a name."""
    optimizer = make(lambda params: tree.map(lambda leaf: leaf.ndim > 1, params))
    with pytest.raises(AttributeError, match="'str' object has no attribute 'ndim'") as raised:
        optimizer.init(make_params())
    (note,) = raised.value.__notes__
    for part in (argument, "the dotted name of one leaf", "'conv1.weight'", "given 'conv.bias'"):
        assert part in note
