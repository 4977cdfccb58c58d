"""`cond` and `switch`: what they return, what they compute, what they refuse."""

import pytest
import torch

import purefn.functional as pf


def plain(fun):
    return fun


def staged(fun):
    return pf.jit(fun, backend="eager")


HOW = pytest.mark.parametrize("how", [plain, staged])


@HOW
def test_only_the_branch_taken_is_computed(how):
    def f(flag, x):
        def endless(x):
            return pf.while_loop(lambda v: v == v, lambda v: v + 1, x)

        return pf.cond(flag, endless, lambda x: x * 2, x)

    assert how(f)(torch.tensor(False), torch.tensor(3.0)) == 6.0


@HOW
def test_an_index_outside_is_clamped(how):
    choose = how(lambda i, x: pf.switch(i, [lambda x: x, lambda x: -x, lambda x: 10 * x], x))
    x = torch.tensor(2.0)
    assert [choose(torch.tensor(i), x).item() for i in (-7, 0, 1, 2, 3)] == [2, 2, -2, 20, 20]
    many = how(pf.vmap(lambda i: pf.switch(i, [lambda x: x, lambda x: -x], x)))
    assert many(torch.tensor([-1, 0, 1, 5])).tolist() == [2, 2, -2, -2]


@HOW
def test_branches_take_trees_and_close_over_tensors(how):
    def f(flag, w, x):
        return pf.cond(
            flag,
            lambda t, s: {"r": t["a"] * w, "n": s},
            lambda t, s: {"r": t["a"] + x, "n": s + 1},
            {"a": x}, torch.tensor(3),
        )  # fmt: skip

    w, x = torch.tensor(2.0), torch.tensor(5.0)
    assert how(f)(torch.tensor(True), w, x) == {"r": 10.0, "n": 3}
    assert how(f)(torch.tensor(False), w, x) == {"r": 10.0, "n": 4}
    slope = how(pf.grad(lambda w, x, flag: f(flag, w, x)["r"], (0, 1)))
    assert slope(w, x, torch.tensor(True)) == (5.0, 2.0)
    assert slope(w, x, torch.tensor(False)) == (0.0, 2.0)


@pytest.mark.parametrize("how", [staged, lambda f: pf.vmap(f)])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda x: {"a": x.sum()}, r"false_fun\(...\)\['a'\] is float32 of shape \(2,\), but true"),
        (lambda x: {"a": x.double()}, "float64"),
        (lambda x: {"b": x}, "structure"),
        (lambda x: x, "structure"),
    ],
)
def test_branches_that_differ_are_refused(how, other, message):
    fun = lambda pred, x: pf.cond(pred, other, lambda x: {"a": x}, x)  # noqa: E731
    batch = () if how is staged else (1,)
    with pytest.raises(ValueError, match=message):
        how(fun)(torch.ones(batch, dtype=torch.bool), torch.ones(*batch, 2))
