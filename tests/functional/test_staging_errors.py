"""What jit says when a function cannot be traced or compiled."""

import copy
import ctypes
import math
import pickle
import re

import numpy as np
import pytest
import scipy.special
import torch

import purefn.functional as pf
from purefn.functional import ShapeDtype

NUMBER, ITEMS, TABLE, CAPTURED = 0, [], {}, torch.ones(3)


@torch.library.custom_op("purefn_test::no_fake", mutates_args=())
def no_fake(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def branching(x):
    if x.sum() > 0:
        return x
    return -x


def looping(x):
    while x.sum() < 10:
        x = x + 1
    return x


def masked_assignment(x):
    return x[x > 0]


VALUE = (
    r"needs the value of a traced tensor at .*test_staging_errors\.py:\d+, in .*pf\.cond.*static"
)
SHAPE = r"makes a tensor whose shape depends on values at .*torch\.where"
NUMPY = r"gives a traced tensor to numpy at .*torch function of the same name"
LIBRARY = r"at .*test_staging_errors\.py.*torch\.library\.custom_op"
PRINT = r"formats a traced tensor as '\.3f' at .*Return|return it and print it outside"
FAKE = r"calls an operator that does not say what shape.*register_fake"

UNTRACEABLE = {
    "if": (branching, VALUE),
    "while": (looping, VALUE),
    "bool": (lambda x: x if bool(x[0]) else -x, VALUE),
    "item": (lambda x: x * x.sum().item(), VALUE),
    "int": (lambda x: int(x.sum()) * [1], VALUE),
    "float": (lambda x: float(x[0]) * x, VALUE),
    "tolist": (lambda x: x.tolist(), VALUE),
    "range": (lambda x: sum(range(x.sum().long())) * x, VALUE),
    "index of a list": (lambda x: [1, 2, 3][x[0].long()] * x, VALUE),
    "math": (lambda x: math.sqrt(x.sum()) * x, VALUE),
    "in": (lambda x: x if 1.0 in x else -x, VALUE),
    "equal": (lambda x: x if torch.equal(x, x) else -x, VALUE),
    "percent": (lambda x: print("%.3f" % x.sum()) or x, VALUE),  # noqa: UP031
    "if under vmap": (lambda x: pf.vmap(lambda row: row if row > 0 else -row)(x), VALUE),
    "item under vmap": (lambda x: pf.vmap(lambda row: row * row.item())(x), VALUE),
    "if under grad": (lambda x: pf.grad(lambda y: y.sum() if y[0] > 0 else y[0])(x), VALUE),
    "boolean mask": (masked_assignment, SHAPE),
    "nonzero": (lambda x: x.nonzero(), SHAPE),
    "unique": (lambda x: x.unique(), SHAPE),
    "one-sided where": (lambda x: torch.where(x > 0), SHAPE),
    "np.sin": (lambda x: torch.tensor(np.sin(x)), NUMPY),
    "np.mean": (lambda x: np.mean(x), NUMPY),
    "np.asarray": (lambda x: torch.tensor(np.asarray(x)), NUMPY),
    "numpy()": (lambda x: torch.tensor(x.numpy()), NUMPY),
    "array times tensor": (lambda x: np.ones(3) * x, NUMPY),
    "numpy under grad": (lambda x: pf.grad(lambda y: y.sum() * np.sum(y.detach()))(x), NUMPY),
    "scipy": (lambda x: torch.as_tensor(scipy.special.gamma(x)), NUMPY),
    "ctypes": (lambda x: ctypes.memset(x.data_ptr(), 0, 4) * x, LIBRARY),
    "storage": (lambda x: x.untyped_storage()[0] * x, LIBRARY),
    "pickle": (lambda x: pickle.dumps(x) and x, LIBRARY),
    "operator without a fake": (no_fake, FAKE),
    "format": (lambda x: print(f"{x.sum():.3f}") or x, PRINT),
    "torch.tensor": (lambda x: torch.tensor([x.sum(), 1.0]), r"torch\.stack"),
}


@pytest.mark.parametrize(("fun", "message"), UNTRACEABLE.values(), ids=UNTRACEABLE.keys())
def test_what_cannot_be_traced_is_named_with_what_to_write_instead(fun, message):
    jitted = pf.jit(fun, backend="eager")
    with pytest.raises(pf.TraceError, match=message) as caught:
        jitted(torch.ones(3))
    assert "disable_jit" in str(caught.value)
    assert "Fake" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert jitted.trace_count == 0


def test_the_line_of_the_user_is_quoted():
    line = r"test_staging_errors.py:\d+, in branching: `if x\.sum\(\) > 0:`"
    with pytest.raises(pf.TraceError, match=line):
        pf.jit(branching, backend="eager")(torch.ones(3))
    with pytest.raises(pf.TraceError, match=r"in masked_assignment: `return x\[x > 0\]`"):
        pf.jit(masked_assignment, backend="eager")(torch.ones(3))


def test_torchs_own_error_is_the_cause():
    with pytest.raises(pf.TraceError) as caught:
        pf.jit(no_fake, backend="eager")(torch.ones(3))
    assert "no fake impl registered" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "transform",
    [lambda f: f, pf.vmap, lambda f: pf.grad(lambda x: f(x).sum())],
    ids=["plain", "vmap", "grad"],
)
def test_printing_a_traced_tensor_shows_what_is_known(transform, capsys):
    def fun(x):
        print(x, f"{x} {x!s} {x!r}", [x.sum()])
        return x * 2

    pf.jit(transform(fun), backend="eager")(torch.ones(2, 3, dtype=torch.float64))
    shape = "(3,)" if transform is pf.vmap else "(2, 3)"
    one = f"Traced(float64 of shape {shape})"
    assert capsys.readouterr().out == f"{one} {one} {one} {one} [Traced(float64 of shape ())]\n"
    assert repr(torch.ones(2)) == "tensor([1., 1.])"


def test_values_that_are_known_may_be_looked_at(capsys):
    def fun(x):
        print(f"{CAPTURED[0] is not None} {CAPTURED} {torch.tensor(2.0).item():.1f}")
        factor = float(captured) if bool(captured) else 0.0
        return x * factor * captured.numpy().item() * torch.tensor(3.0).item()

    captured = torch.tensor(2.0)
    assert pf.jit(fun, backend="eager")(torch.ones(2)).tolist() == [12.0, 12.0]
    assert capsys.readouterr().out == "True tensor([1., 1., 1.]) 2.0\n"


def test_a_deep_copy_is_traced():
    fun = pf.jit(lambda tree: copy.deepcopy(tree)["w"].mul_(2), backend="eager")
    w = torch.ones(2)
    assert fun({"w": w}).tolist() == [2.0, 2.0]
    assert w.tolist() == [1.0, 1.0]


def rebinds_a_global(x):
    global NUMBER
    NUMBER = NUMBER + 1
    return x


def appends_to_a_global(x):
    ITEMS.append(x)
    return x


def sets_an_item_of_a_global(x):
    TABLE["x"] = 1
    return x


def rebinds_a_nonlocal():
    count = 0

    def fun(x):
        nonlocal count
        count += 1
        return x

    return fun


@pytest.mark.parametrize(
    ("fun", "variable"),
    [
        (rebinds_a_global, "the global `NUMBER`"),
        (appends_to_a_global, "the global `ITEMS`"),
        (sets_an_item_of_a_global, "the global `TABLE`"),
        (rebinds_a_nonlocal(), "the captured variable `count`"),
    ],
)
def test_changing_what_is_not_its_own_is_refused(fun, variable):
    with pytest.raises(pf.TraceError, match=f"changes {variable}.*return the new value"):
        pf.jit(fun, backend="eager")(torch.ones(2))
    ITEMS.clear()
    TABLE.clear()


@pytest.mark.parametrize(
    ("fun", "message"),
    [
        (lambda x: x["w"].add_(1), r"writes into its argument x\['w'\] \(add_\)"),
        (lambda x: x["w"].t().__setitem__(0, 1.0), r"writes into its argument x\['w'\] \(fill_\)"),
        (
            lambda x: CAPTURED.mul_(x["w"][0, 0]),
            r"writes into a tensor that it did not make.*\(mul_\)",
        ),
    ],
)
def test_writing_a_tensor_is_refused_before_it_happens(fun, message):
    w = torch.full((2, 2), 2.0)
    with pytest.raises(ValueError, match=message):
        pf.jit(fun, backend="eager")({"w": w})
    assert torch.equal(w, torch.full((2, 2), 2.0))
    assert torch.equal(CAPTURED, torch.ones(3))


@pytest.mark.parametrize("value", ["text", len, np.ones(2), {1, 2}], ids=repr)
def test_an_output_that_is_no_tensor_is_named(value):
    with pytest.raises(TypeError, match=r"output\['a'\]\[1\] = " + re.escape(repr(value))):
        pf.jit(lambda x: {"a": [x, value]}, backend="eager")(torch.ones(3))


class Holder:
    leaked = None


class TestTensorsThatOutliveTheirTrace:
    @pytest.fixture
    def leaked(self):
        def fun(x):
            Holder.leaked = x * 2
            return x

        pf.jit(fun, backend="eager")(torch.ones(2))
        return Holder.leaked

    @pytest.mark.parametrize(
        "use",
        [lambda t: t + 1, lambda t: t.sum().item(), lambda t: bool(t[0] > 0), lambda t: t.clone()],
    )
    def test_in_eager(self, leaked, use):
        with pytest.raises(pf.TraceError, match=r"outlived the trace.*Return it"):
            use(leaked)

    def test_in_another_jit(self, leaked):
        with pytest.raises(pf.TraceError, match=r"earlier trace at .*test_staging_errors.*Return"):
            pf.jit(lambda x: x + leaked, backend="eager")(torch.ones(2))

    def test_as_an_argument(self, leaked):
        with pytest.raises(TypeError, match=r"x\['a'\] is a tensor that was traced"):
            pf.jit(lambda x: x, backend="eager")({"a": leaked})

    def test_nothing_is_wrong_with_the_outputs(self, leaked):
        fun = pf.jit(lambda x: (x + 1, x), backend="aot_eager")
        assert (fun(torch.ones(2))[0] + fun(torch.ones(2))[1]).tolist() == [3.0, 3.0]


class RefusedError(ValueError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        RefusedError("no shape (3,) here"),
        TypeError("expected an ndarray"),
        RuntimeError("the data_ptr of nothing"),
        KeyError("weight"),
    ],
    ids=repr,
)
def test_an_exception_of_the_function_itself_arrives_as_it_is(error):
    def fun(x):
        raise error

    with pytest.raises(type(error)) as caught:
        pf.jit(fun, backend="eager")(torch.ones(3))
    assert caught.value is error


def test_an_error_of_an_operator_arrives_as_it_is():
    with pytest.raises(RuntimeError, match="7") as caught:
        pf.jit(lambda x: x @ torch.ones(7), backend="eager")(torch.ones(3))
    assert not isinstance(caught.value, pf.TraceError)


def failing(module, inputs):
    raise ValueError("no kernel here\nand much more")


def test_a_backend_that_fails_is_named():
    message = (
        r"jit\(branchless\) was traced, but the backend failing.*ValueError: no kernel here\. "
    )
    with pytest.raises(pf.CompileError, match=message) as caught:
        pf.jit(branchless, backend=failing)(torch.ones(3))
    assert isinstance(caught.value.__cause__, ValueError)


def branchless(x):
    return torch.where(x > 0, x, -x)


def test_an_inductor_that_fails_is_named(monkeypatch):
    from torch._inductor import graph

    def refuse(*args, **kwargs):
        raise AssertionError("no lowering")

    monkeypatch.setattr(graph.GraphLowering, "run", refuse)
    with pytest.raises(pf.CompileError, match=r"jit\(matmul\).*'inductor'.*no lowering"):
        pf.jit(matmul, options={"fx_graph_cache": False})(torch.ones(3, 3))


def matmul(x):
    return (x @ x).sort()[0]


def test_an_unknown_backend_is_the_users_error():
    with pytest.raises(Exception, match="no-such-backend"):
        pf.jit(branchless, backend="no-such-backend")(torch.ones(3))


def test_a_shape_is_no_argument_of_a_call():
    with pytest.raises(TypeError, match=r"x\[0\] is a ShapeDtype.*`lower` and `make_graph`"):
        pf.jit(lambda x: x, backend="eager")([ShapeDtype((3,))])


@pytest.mark.parametrize(
    ("args", "path"),
    [
        (({"a": "text"},), r"config\['a'\] is a str"),
        ((torch.nn.Linear(1, 1),), "config is a Linear"),
        (([1, {"b": np.ones(2)}],), r"config\[1\]\['b'\] is a ndarray"),
    ],
)
def test_an_untraceable_leaf_is_named(args, path):
    fun = pf.jit(lambda config: 1, backend="eager")
    with pytest.raises(TypeError, match=f"{path}.*static_argnames='config'"):
        fun(*args)


def test_static_arguments_are_checked():
    fun = pf.jit(lambda x, shape: x, static_argnames="shape", backend="eager")
    with pytest.raises(TypeError, match=r"shape: a static value must be hashable, got list"):
        fun(torch.ones(2), [1, 2])
    with pytest.raises(TypeError, match="shape: a static value must not be a tensor"):
        fun(torch.ones(2), shape=torch.ones(2))
    with pytest.raises(ValueError, match="static and donated"):
        pf.jit(lambda x: x, static_argnums=0, donate_argnums=0)
    with pytest.raises(ValueError, match="static_argnums=-3"):
        pf.jit(lambda x: x, static_argnums=-3)
    with pytest.raises(ValueError, match="no argument 'shapes'"):
        pf.jit(lambda x, shape: x, static_argnames="shapes")
    with pytest.raises(ValueError, match="donate_argnums=7 does not fit"):
        pf.jit(lambda x: x, donate_argnums=7)
    pf.jit(lambda *args, **kwargs: args, donate_argnums=7, static_argnames="anything")
    with pytest.raises(TypeError, match="expected a function, got Tensor"):
        pf.jit(torch.ones(2))


def test_unknown_modes_and_options_are_refused():
    with pytest.raises(ValueError, match="no_such_option"):
        pf.jit(lambda x: x + 1, options={"no_such_option": 1})(torch.ones(2))
    with pytest.raises(ValueError, match=r"no-such-mode.*max-autotune"):
        pf.jit(lambda x: x + 1, mode="no-such-mode")(torch.ones(2))
