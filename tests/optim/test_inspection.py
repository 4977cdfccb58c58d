"""get, get_all and replace: what a state holds, by name."""

import pytest
import torch

from purefn import optim
from purefn.functional import tree


@pytest.fixture
def params():
    # Names that states use too: what stands in a tree of parameters is not mistaken for them.
    return {"mu": torch.ones(2), "inner_state": {"count": torch.ones(3)}}


def make_optimizer():
    return optim.chain(
        optim.clip_by_global_norm(1.0),
        optim.partition(
            {
                "a": optim.masked(optim.adam(), True),
                "b": optim.named_chain(("momentum", optim.trace(0.9)), ("rate", optim.scale(-0.1))),
            },
            {"mu": "a", "inner_state": "b"},
        ),
        optim.multi_steps(optim.inject_hyperparams(optim.sgd)(lr=0.1), 2),
    )


ADAM = "state[1].inner_states['a'].inner_state[0]"
PATHS = [
    f"{ADAM}.count",
    f"{ADAM}.mu",
    f"{ADAM}.nu",
    "state[1].inner_states['b']['momentum'].count",
    "state[1].inner_states['b']['momentum'].trace",
    "state[2].mini_step",
    "state[2].gradient_step",
    "state[2].weight",
    "state[2].acc_grads",
    "state[2].inner_state.count",
    "state[2].inner_state.hyperparams['lr']",
]


def test_everything_is_listed_by_its_path(params):
    state = make_optimizer().init(params)
    found = optim.get_all(state)
    assert list(found) == PATHS
    for path, value in found.items():
        assert optim.get(state, path) is value
        assert eval(path, {"state": state}) is value


def test_what_has_one_name_is_found_by_it(params):
    state = make_optimizer().init(params)
    assert optim.get(state, "mu") == state[1].inner_states["a"].inner_state[0].mu
    assert optim.get(state, "trace")["inner_state"]["count"].tolist() == [0.0] * 3
    assert optim.get(state, "lr").item() == 0.1
    counts = optim.get_all(state, "count")
    assert list(counts) == [path for path in PATHS if path.endswith(".count")]
    assert optim.get_all(state, "nope") == {}


@pytest.mark.parametrize(("name", "number"), [("count", 3), ("inner_state", 0), ("", 0)])
def test_a_name_must_be_that_of_one_thing(params, name, number):
    state = make_optimizer().init(params)
    for ask in (lambda: optim.get(state, name), lambda: optim.replace(state, **{name: 0})):
        with pytest.raises(KeyError, match=f"names {number} entries of the state, which holds"):
            ask()
    with pytest.raises(KeyError, match="which holds: nothing"):
        optim.get((), "mu")


def test_replace_changes_that_alone(params):
    state = make_optimizer().init(params)
    before = tree.map(torch.clone, state)
    trace = {"mu": None, "inner_state": {"count": torch.full((3,), 7.0)}}
    new = optim.replace(state, lr=0.5, trace=trace, **{f"{ADAM}.count": 9})
    for path, value in optim.get_all(new).items():
        old = optim.get(before, path)
        if path.endswith("['lr']"):
            assert (value.item(), value.dtype) == (0.5, old.dtype)
        elif path.endswith(".trace"):
            assert value is not old
            assert value["inner_state"]["count"].tolist() == [7.0] * 3
        elif path == f"{ADAM}.count":
            assert (value.item(), value.dtype) == (9, torch.int64)
        else:
            assert all(map(torch.equal, tree.leaves(value), tree.leaves(old)))
    assert all(map(torch.equal, tree.leaves(state), tree.leaves(before)))
    assert tree.structure(new) == tree.structure(state)
    make_optimizer().update(params, new, params)


def test_replacing_nothing_gives_the_state(params):
    state = make_optimizer().init(params)
    same = optim.replace(state)
    assert tree.structure(same) == tree.structure(state)
    assert all(a is b for a, b in zip(tree.leaves(same), tree.leaves(state), strict=True))


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"lr": "fast"}, TypeError, "lr: expected a number or a tensor, got 'fast'"),
        ({"lr": True}, TypeError, "lr: expected a number or a tensor, got True"),
        ({"lr": torch.tensor(0.1)}, ValueError, r"lr: expected .*float64, on cpu, got .*float32"),
        ({"lr": torch.ones(2).double()}, ValueError, r"lr: expected .*shape \(\).*got .*\(2,\)"),
        ({"mini_step": 0.5}, TypeError, "mini_step: expected an int for a tensor"),
        ({"mu": 0.5}, ValueError, r"mu does not have the structure of state.*\.mu"),
        (
            {"mu": {"mu": 0.5, "inner_state": {"count": None}}},
            ValueError,
            r"mu\['mu'\]: expected a tensor of shape \(2,\), .*got the number 0.5",
        ),
    ],
)
def test_a_value_is_like_the_one_that_it_replaces(params, values, kind, message):
    state = make_optimizer().init(params)
    with pytest.raises(kind, match=message):
        optim.replace(state, **values)
