"""How many examples a compiled program takes at a time."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's name

import purefn.functional as pf
from purefn.functional.per_example import clipped_grad, working_set
from purefn.functional.per_example.working_set import _even


def losses(params, x):
    return F.linear(torch.tanh(F.linear(x, params["a"])), params["b"]).square().sum((1, 2))


def params():
    torch.manual_seed(0)
    return {"a": torch.randn(5, 4).double(), "b": torch.randn(3, 5).double()}


def loops(call, *args):
    return pf.jit(call, backend="eager").lower(*args).graph().operators.count("scan")


@pytest.mark.parametrize(("most", "divided"), [(10**9, 0), (4000, 1)])
def test_a_program_is_divided_by_what_is_kept(oracle, monkeypatch, most, divided):
    monkeypatch.setattr(working_set, "ON_CPU", ((4, most),))
    x = torch.randn(24, 6, 4).double()
    for method in ("auto", "ghost", "materialize"):
        clipped = clipped_grad(losses, 3.0, method=method)
        assert loops(clipped, params(), x) == divided
        found, expected = pf.jit(clipped, backend="eager")(params(), x), clipped(params(), x)
        oracle.assert_equal(found._replace(aux=()), expected._replace(aux=()))


def test_what_was_asked_for_is_done(monkeypatch):
    monkeypatch.setattr(working_set, "ON_CPU", ((4, 1),))
    x = torch.randn(24, 6, 4).double()
    assert loops(clipped_grad(losses, 3.0, microbatch=24), params(), x) == 0
    assert loops(clipped_grad(losses, 3.0), params(), x) == 1


def test_few_examples_are_never_divided(monkeypatch):
    monkeypatch.setattr(working_set, "ON_CPU", ((8, 1),))
    assert loops(clipped_grad(losses, 3.0), params(), torch.randn(8, 6, 4).double()) == 0
    assert loops(clipped_grad(losses, 3.0), params(), torch.randn(16, 6, 4).double()) == 1


def test_losses_with_a_loop_are_divided_by_their_gradients(monkeypatch):
    # Longer than what is taken apart: every gradient is formed.
    def recurrent(params, x):
        return pf.fori_loop(0, 300, lambda i, h: torch.tanh(h @ params), x).square().sum(1)

    w, x = torch.eye(4).double() / 2, torch.randn(32, 4).double()
    clipped = clipped_grad(recurrent, 1.0)
    monkeypatch.setattr(working_set, "ON_CPU", ((4, 10**9),))
    assert loops(clipped, w, x) == 2  # forwards and backwards
    monkeypatch.setattr(working_set, "ON_CPU", ((4, 16 * w.nbytes),))
    assert loops(clipped, w, x) == 1  # over parts, with those two inside


def test_parts_are_equal_where_they_can_be():
    assert _even(64, 16) == 16
    assert _even(60, 16) == 15
    assert _even(64, 20) == 16
    assert _even(61, 16) == 16
    assert _even(62, 12) == 11  # six parts, the last of seven
    assert _even(7, 8) == 7
