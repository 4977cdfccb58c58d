import functools
import warnings

import pytest
import torch

from benchmarks import per_example_contenders
from benchmarks.per_example import TOLERANCE, agreed, distance, reference, with_best_opacus
from benchmarks.per_example_contenders import CONTENDERS, Contender, available
from benchmarks.workloads.per_example import WORKLOADS
from purefn.functional import tree

EAGER = ["torch.func", "jax", "opacus hooks", "opacus functorch", "opacus ghost"]


@pytest.mark.parametrize("name", ["logistic", "mlp", "mnist-cnn", "embedding"])
def test_installed_contenders_agree_with_a_loop_in_float64(name):
    workload = WORKLOADS[name](3)
    names = [key for key, reason in available(workload, EAGER).items() if not reason]
    with warnings.catch_warnings(action="ignore"):  # Opacus's hooks warn.
        gradients, first, errors = agreed(workload, names)
    assert list(gradients) == list(first) == list(errors) == names
    assert max(errors.values()) < TOLERANCE


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_module_is_the_pure_function(name):
    workload = WORKLOADS[name](2)
    expected = workload.criterion.torch(workload.module(workload.inputs), workload.labels)
    losses = workload.losses(workload.params, *workload.batch)
    assert losses.shape == (2,)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


def test_sizes_are_those_of_the_published_networks():
    # github.com/TheSalon/fast-dpsgd, jaxdp.py and pytorch.py; the LSTM has one bias, as in JAX.
    published = {
        "logistic": 105,
        "mlp": 5_352,
        "mnist-cnn": 26_010,
        "cifar-cnn": 605_226,
        "embedding": 160_098,
        "lstm": 1_081_002,
    }
    assert published == {name: tree.size(WORKLOADS[name](1).params) for name in published}
    assert tree.size(WORKLOADS["linear-stack"](1).params) // 1_000_000 == 15


def test_examples_are_clipped_one_by_one():
    workload = WORKLOADS["mlp"](4)
    total = reference(workload)
    gradient = torch.func.grad(workload.loss)
    singles = [gradient(workload.params, *example) for example in zip(*workload.batch, strict=True)]
    norms = torch.stack([tree.norm(single) for single in singles])
    assert (norms > 1).all()
    clipped = [
        tree.map(functools.partial(torch.mul, 1 / norm), single)
        for single, norm in zip(singles, norms, strict=True)
    ]
    summed = tree.map(lambda *leaves: sum(leaves), *clipped)
    assert distance(summed, total) < 1e-6


def test_who_computes_something_else_is_left_out(monkeypatch, capsys):
    def wrong(workload):
        right = CONTENDERS["torch.func"].make(workload)
        return lambda: tree.map(lambda leaf: leaf * 1.01, right())

    def broken(workload):
        raise NotImplementedError("tied parameters")

    contenders = {"wrong": Contender(wrong), "broken": Contender(broken), **CONTENDERS}
    monkeypatch.setattr("benchmarks.per_example.CONTENDERS", contenders)
    gradients, _, _ = agreed(WORKLOADS["mlp"](2), ["wrong", "broken", "torch.func"])
    assert list(gradients) == ["torch.func"]
    printed = capsys.readouterr().out
    assert "wrong: left out: its relative error is 1.0e-02" in printed
    assert "broken: left out: NotImplementedError: tied parameters" in printed


def test_who_would_fill_the_memory_is_left_out(monkeypatch):
    monkeypatch.setattr(per_example_contenders, "_free_bytes", lambda: 1e5)
    reasons = available(WORKLOADS["mlp"](64), ["torch.func", "purefn auto"])
    assert reasons["purefn auto"] == ""
    assert reasons["torch.func"].startswith("the gradients of all examples take")


def test_the_best_mode_of_opacus_is_a_reference():
    rows = {"opacus hooks": {"median": 2.0}, "opacus ghost": {"median": 1.0}, "jax": {"median": 0}}
    assert with_best_opacus(rows)["best opacus"] == {"median": 1.0}
    assert with_best_opacus({"jax": {"median": 0.0}}) == {"jax": {"median": 0.0}}
