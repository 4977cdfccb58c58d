"""`check_optimizer` passes what is right, places what is wrong, and refuses to show nothing."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from purefn import optim
from purefn.functional import tree
from purefn.testing import Counterexample, VacuousError, check_optimizer, whole_tree

check = functools.partial(check_optimizer, examples=2)


def momentum(theta, gradients, lr=1e-3, momentum=0.9):
    buffer = np.zeros_like(theta)
    for g in gradients:
        buffer = momentum * buffer + g
        theta = theta - lr * buffer
        yield theta, {"trace": buffer}


def sgd_momentum(lr=1e-3, momentum=0.9):
    return optim.sgd(lr, momentum)


@whole_tree
def normalized(theta, gradients, lr=0.1):
    for g in gradients:
        norm = np.sqrt(sum((leaf**2).sum() for leaf in g))
        theta = [leaf - lr * np.sign(norm) * grad for leaf, grad in zip(theta, g, strict=True)]
        yield theta


# --- what is right passes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "reference", "settings"),
    [
        (sgd_momentum, momentum, {}),
        (optim.sgd, normalized, {"hyperparameters": {"lr": 0.2}}),
        (sgd_momentum, functools.partial(torch.optim.SGD, momentum=0.9), {}),
        (optim.sgd, lambda lr=1e-3: optim.chain(optim.scale(lr), optim.scale(-1)), {}),
        (optim.sgd(0.1), optim.chain(optim.scale(0.1), optim.scale(-1)), {}),
        (optim.sgd(0.1), torch.optim.SGD, {"hyperparameters": {"lr": 0.1}}),
        (optim.adam, torch.optim.Adam, {"hyperparameters": {"lr": st.floats(0.01, 1.0)}}),
        (optim.adam, torch.optim.Adam, {"shapes": [(3, 2), ()]}),
        (optim.adam, torch.optim.Adam, {"states": {"mu": "exp_avg", "nu": "exp_avg_sq"}}),
        (optim.adam, torch.optim.Adam, {"without": ["vmap", "jit"], "seed": 1}),
    ],
)
def test_every_kind_of_reference_and_setting(ours, reference, settings):
    check(ours, reference, **settings)


def test_extra_arguments_reach_both():
    """Polyak's step: the loss over the squared norm of the gradient."""

    @whole_tree
    def polyak(theta, gradients, value, max_lr=1.0):
        for g, loss in zip(gradients, value, strict=True):
            squared = sum((leaf**2).sum() for leaf in g)
            step = min(max_lr, loss / squared) if squared else 0.0
            theta = [leaf - step * grad for leaf, grad in zip(theta, g, strict=True)]
            yield theta

    def recipe(max_lr=1.0):
        def update(updates, state, params=None, *, value, **extra):
            squared = tree.dot(updates, updates)
            step = torch.where(squared > 0, value / squared.clamp(min=1e-300), 0).clamp(max=max_lr)
            return tree.map(lambda g: (-step * g).to(g.dtype), updates), state

        return optim.GradientTransformation(lambda params: optim.EmptyState(), update)

    def extra(step, params, grads):
        return {"value": tree.dot(params, params).double() + 1.0}

    check(recipe, polyak, extra=extra, without=["precision"])
    with pytest.raises(Counterexample):
        check(lambda max_lr=1.0: recipe(max_lr / 2), polyak, extra=extra, without=["precision"])


# --- what is wrong is placed ---------------------------------------------------------------------


def wrong(change, base=optim.adam):
    @functools.wraps(base)
    def recipe(*args, **options):
        right = base(*args, **options)

        def update(updates, state, params=None, **extra):
            made, new = right.update(updates, state, params, **extra)
            return change(made), new

        return optim.GradientTransformation(right.init, update)

    return recipe


def test_a_counter_example_tells_all_and_is_small():
    with pytest.raises(Counterexample) as caught:
        check_optimizer(
            wrong(lambda made: tree.map(lambda leaf: leaf * 1.001, made)), torch.optim.Adam
        )
    found = caught.value
    assert (found.property, found.step, found.name) == ("reference", 1, "params")
    assert found.leaf.startswith("params[")
    assert found.hyperparameters == {}
    assert found.got == pytest.approx(1.001 * found.expected)
    assert found.tolerance < abs(found.got - found.expected) / 1000
    assert sum(leaf.numel() for leaf in tree.leaves(found.case.params)) == 1
    assert len(found.case.gradients) == 1
    assert found.found.case.gradients[59:]
    for word in (
        "first step",
        "expected",
        "got",
        "ulp",
        "gradient, step 1",
        "First found at step 1",
    ):
        assert word in str(found)


def test_the_hyperparameters_that_it_takes_are_found():
    @functools.wraps(optim.adam)
    def recipe(*args, **options):
        if options.get("amsgrad") and options.get("maximize"):
            options["weight_decay"] = options.get("weight_decay", 0) + 1e-3
        return optim.adam(*args, **options)

    with pytest.raises(Counterexample) as caught:
        check_optimizer(recipe, torch.optim.Adam)
    assert {"amsgrad", "maximize"} <= set(caught.value.hyperparameters)


def test_what_needs_two_leaves_keeps_them():
    def change(made):
        leaves, structure = tree.flatten(made)
        if len(leaves) > 1:
            leaves[1] = leaves[1] + 1e-3 * leaves[0].sum()
        return tree.unflatten(structure, leaves)

    with pytest.raises(Counterexample) as caught:
        check(wrong(change), torch.optim.Adam, shapes={"a": torch.empty(3), "b": torch.empty(2)})
    assert caught.value.leaf == "params['b']"
    assert len(tree.leaves(caught.value.case.params)) == 2


def test_a_missing_part_of_the_state_is_told():
    with pytest.raises(Counterexample, match="counterpart of `speed`"):
        check(optim.adam, torch.optim.Adam, states={"speed": "exp_avg"})


# --- what shows nothing is refused ---------------------------------------------------------------


def stops(theta, gradients, lr=1e-3):
    for g in gradients[:3]:
        theta = theta - lr * g
        yield theta


def forgets_scalars(theta, gradients, lr=1e-3):
    for g in gradients:
        theta = theta - lr * g * (theta.ndim > 0)
        yield theta


def remembers(right):
    """Keep in the state what nobody reads."""

    def update(updates, state, params=None, **extra):
        made, inner = right.update(updates, state[0], params, **extra)
        return made, (inner, optim.TraceState(state[1].count + 1, updates))

    def init(params):
        return right.init(params), optim.TraceState(torch.tensor(0), tree.zeros_like(params))

    return optim.GradientTransformation(init, update)


@pytest.mark.parametrize(
    ("ours", "reference", "settings", "message"),
    [
        (optim.sgd, torch.optim.SGD, {"hyperparameters": {"lr": 0.0}}, "never moves"),
        (optim.sgd, torch.optim.SGD, {"hyperparameters": {"lr": 1e-15}}, "less than a thousand"),
        (optim.sgd, stops, {}, "yields 3 of 60 steps"),
        (wrong(lambda u: {**u, "b": u["b"] * 0}, optim.sgd), forgets_scalars,
         {"shapes": {"a": torch.empty(2), "b": torch.empty(())}}, r"params\['b'\] never moves"),
        (lambda lr=1e-3: remembers(optim.sgd(lr)), torch.optim.SGD, {},
         "compared with nothing"),
    ],
)  # fmt: skip
def test_a_vacuous_check_is_refused(ours, reference, settings, message):
    with pytest.raises(VacuousError, match=message):
        check(ours, reference, **settings)


def test_a_part_that_changes_nothing_may_be_declared():
    check(
        lambda lr=1e-3: remembers(optim.sgd(lr)), torch.optim.SGD, uncompared=["trace"],
    )  # fmt: skip


@pytest.mark.parametrize("bad", [{"without": ["luck"]}, {"reference": 3}, {"ours": None}])
def test_what_is_no_check_is_refused(bad):
    with pytest.raises((TypeError, ValueError), match=r"without|expected"):
        check_optimizer(**{"ours": optim.sgd, "reference": torch.optim.SGD, **bad})


def test_cases_are_the_same_every_time():
    found = []
    for _ in range(2):
        with pytest.raises(Counterexample) as caught:
            check(wrong(lambda made: tree.map(torch.neg, made)), torch.optim.Adam)
        found.append(str(caught.value))
    assert found[0] == found[1]


# ------------------------------------------------------------------------ inputs that are written


def afterwards(act, make=optim.adam):
    """Return a recipe that does `act(leaf)` to all it was given, after it has made its step."""

    def recipe(**hyperparameters):
        optimizer = make(**hyperparameters)

        def update(updates, state, params=None, **extra):
            made = optimizer.update(updates, state, params, **extra)
            tree.map(act, (updates, state, params, hyperparameters.get("lr", 0.0)))
            return made

        return optim.GradientTransformation(optimizer.init, update)

    return recipe


def is_batched(leaf):
    return torch._C._functorch.is_batchedtensor(leaf)


@pytest.mark.parametrize(
    "when",
    [
        lambda leaf: leaf.dtype == torch.float32,
        lambda leaf: leaf.dtype == torch.bfloat16,
        is_batched,
        lambda leaf: not is_batched(leaf) and not leaf.is_contiguous(),
        lambda leaf: leaf.dtype == torch.float64 and leaf.ndim == 0 and leaf.item() == 1e-3,
    ],
    ids=["float32", "bfloat16", "batched", "strided", "learning rate"],
)
def test_an_input_written_in_one_way_to_run_only(when):
    def act(leaf):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and when(leaf):
            leaf.mul_(1.5)

    with pytest.raises(Counterexample, match="writes its input"):
        check_optimizer(afterwards(act), torch.optim.Adam)


def test_init_writes_nothing():
    def recipe(lr=1e-3):
        optimizer = optim.sgd(lr)

        def init(params):
            return optimizer.init(tree.map(lambda leaf: leaf.clamp_(-0.4, 0.4), params))

        return optim.GradientTransformation(init, optimizer.update)

    with pytest.raises(Counterexample, match="init writes the parameters"):
        check_optimizer(recipe, torch.optim.SGD)


# --------------------------------------------------------------------------- what is compared


def test_a_recipe_of_any_keywords_has_those_of_the_reference():
    def recipe(**given):
        return optim.sgd(**{**given, "weight_decay": 2 * given.get("weight_decay", 0)})

    with pytest.raises(Counterexample) as caught:
        check_optimizer(recipe, torch.optim.SGD)
    assert caught.value.case.hyperparameters["weight_decay"]


def test_names_that_nobody_shares_compare_nothing():
    with pytest.raises(VacuousError, match="learning_rate"):
        check_optimizer(lambda learning_rate=1e-3: optim.sgd(learning_rate), torch.optim.SGD)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"shapes": [(0,)]}, {"shapes": []}])
def test_a_check_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"steps|shapes"):
        check_optimizer(optim.sgd, torch.optim.SGD, **wrong)
