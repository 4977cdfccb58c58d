"""Assertions about traces, graphs, written inputs and derivatives."""

import functools
import re

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import testing

jit = functools.partial(pf.jit, backend="eager")
X = torch.ones(2)


def raises(*messages):
    pattern = ".*".join(map(re.escape, messages))
    return pytest.raises(AssertionError, match=re.compile(pattern, re.DOTALL))


# --- traces --------------------------------------------------------------------------------------


def scale(params, factor):
    return params["w"] * factor


def test_a_retrace_is_explained_by_the_argument_that_caused_it():
    limited = testing.assert_max_traces(jit(scale), n=1)
    limited({"w": X}, 2.0)
    limited({"w": X + 1}, 3.0)
    message = "params['w']: float32 of shape (2,) -> float32 of shape (3,)"
    with raises("assert_max_traces: scale was traced 2 times, 1 allowed.\n  2: ", message):
        limited({"w": torch.ones(3)}, 2.0)


def test_a_limited_function_is_still_the_jitted_one():
    limited = testing.assert_max_traces(jit(scale), n=1)
    limited({"w": X}, 2.0)
    assert limited.trace_count == 1
    assert limited.__name__ == "scale"


def test_above_and_below_jit_as_a_decorator():
    @testing.assert_max_traces(n=1)
    @jit
    def above(x):
        return 2 * x

    @jit
    @testing.assert_max_traces(n=1)
    def below(x, *rest):
        return 2 * x

    for step in (above, below):
        step(X)
        step(X + 1)
        with raises("was traced 2 times, 1 allowed.\n  2: x: ", "shape (2,)", "shape (3,)"):
            step(torch.ones(3))
    with raises("rest[0]: nothing -> float32 of shape (2,)"):
        below(X, X)


def test_below_jit_a_static_argument_is_named():
    @functools.partial(jit, static_argnames="power")
    @testing.assert_max_traces(1)
    def raised(x, power):
        return x**power

    raised(X, power=2)
    with raises("power: the int 2 -> the int 3"):
        raised(X, power=3)


def test_a_function_outside_of_jit_is_traced_at_every_call():
    run = testing.assert_max_traces(scale, n=2)
    run({"w": X}, 1.0)
    run({"w": X}, 1.0)
    with raises("3 times, 2 allowed", "it runs outside of jit, or a new jit of it is made"):
        run({"w": X}, 1.0)


def test_a_context_counts_from_its_beginning():
    step, other = jit(scale), jit(lambda x: x)
    step({"w": X}, 1.0)
    with testing.assert_max_traces(step, n=0):
        step({"w": X}, 2.0)
        other(X)
    with raises("scale was traced once, 0 allowed.\n  2: params['w']"):  # noqa: SIM117
        with testing.assert_max_traces(step, n=0):
            step({"w": torch.ones(3)}, 2.0)


def test_a_context_watches_all_jitted_functions():
    step, other = jit(scale), jit(lambda x: x)
    step({"w": X}, 1.0)
    with testing.assert_max_traces(n=1):
        step({"w": torch.ones(3)}, 2.0)
        other(X)
    with raises("<lambda> was traced 2 times, 1 allowed"):  # noqa: SIM117
        with testing.assert_max_traces(n=1):
            for size in (1, 3):
                other(torch.ones(size))


def test_only_traces_within_the_context_are_explained():
    step = jit(scale)
    step({"w": X}, 1.0)
    step({"w": torch.ones(3)}, 1.0)
    with raises("0 allowed.\n  3: params['w']"):  # noqa: SIM117
        with testing.assert_max_traces(step, n=0):
            step({"w": torch.ones(4)}, 2.0)


@pytest.mark.parametrize("watched", [True, False], ids=["one", "all"])
def test_an_error_in_a_context_is_not_replaced(watched):
    step = jit(scale)

    def fail():
        with testing.assert_max_traces(step if watched else None, n=0):
            step({"w": X}, 1.0)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()


@pytest.mark.parametrize("n", [None, -1, True, "2"])
def test_a_limit_is_a_number(n):
    with pytest.raises(ValueError, match="expected n to be an int, at least 0"):
        testing.assert_max_traces(scale, n=n)


# --- graphs --------------------------------------------------------------------------------------


def branching(x):
    return x if x.sum() > 0 else -x


def test_a_function_that_branches_on_values_is_no_graph():
    testing.assert_no_graph_breaks(lambda x: torch.where(x > 0, x, -x), X)
    testing.assert_no_graph_breaks(jit(scale), {"w": X}, factor=2.0)
    with raises("assert_no_graph_breaks: jit(branching) needs the value", "test_assertions_pro"):
        testing.assert_no_graph_breaks(branching, X)


def test_an_error_of_the_function_itself_is_not_called_a_graph_break():
    with pytest.raises(KeyError):
        testing.assert_no_graph_breaks(scale, {}, 2.0)


@pytest.mark.slow
def test_what_dynamo_breaks_is_named_by_its_line():
    testing.assert_no_graph_breaks(torch.sin, X, compiler="torch.compile")
    with raises("torch.compile breaks branching in", "test_assertions_programs.py:"):
        testing.assert_no_graph_breaks(branching, X, compiler="torch.compile")


def test_an_unknown_compiler_is_refused():
    with pytest.raises(ValueError, match="expected compiler 'jit' or"):
        testing.assert_no_graph_breaks(branching, X, compiler="xla")


# --- inputs --------------------------------------------------------------------------------------


def make_params():
    return {"w": torch.ones(2), "b": torch.zeros(())}


def test_a_pure_function_returns_what_it_returns():
    checked = testing.assert_no_input_mutation(scale)
    assert torch.equal(checked(make_params(), factor=3.0), torch.full((2,), 3.0))
    assert checked.__name__ == "scale"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda params, lr: params["w"].sub_(1), "params['w']: 2 of 2 elements"),
        (lambda params, lr: params["w"].view(1, 2).zero_(), "params['w']: 2 of 2 elements"),
        (
            lambda params, lr: params["w"].add_(0),
            "written with the values that it had",
        ),
        (lambda params, lr: params["w"].numpy().fill(7), "params['w']: 2 of 2 elements"),
        (lambda params, lr: params.pop("b"), "a container has changed: only the first has"),
        (lambda params, lr: params.update(b=X), "params['b']: float32 of shape () != float32"),
        (lambda params, lr: lr.fill(3), "lr: 1 of 1 elements of float64"),
    ],
)
def test_a_write_is_found(write, message):
    checked = testing.assert_no_input_mutation(write)
    with raises("assert_no_input_mutation: <lambda> writes its arguments:\n  ", message):
        checked(make_params(), lr=np.array(0.1))


def test_every_leaf_that_is_written_is_named():
    def write(params):
        params["w"] += 1
        params["b"] -= 1

    with raises("params['b']: 1 of 1", "params['w']: 2 of 2"):
        testing.assert_no_input_mutation(write)(make_params())


def test_a_donating_program_is_found():
    step = pf.jit(lambda x: x + 1, donate_argnums=0, backend="eager")
    with pytest.raises((AssertionError, RuntimeError)):
        testing.assert_no_input_mutation(step)(torch.ones(2))


# --- derivatives ---------------------------------------------------------------------------------


class WrongSquare(torch.autograd.Function):
    """x^2, of which each derivative can be wrong."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, backward_factor, forward_factor):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.backward_factor, ctx.forward_factor = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx, cotangent):
        return ctx.backward_factor * ctx.saved_tensors[0] * cotangent, None, None

    @staticmethod
    def jvp(ctx, tangent, *rest):
        return ctx.forward_factor * ctx.saved_tensors[0] * tangent


POINT = ({"w": torch.tensor([[0.3, -1.2], [2.0, 0.7]]), "b": torch.tensor(0.4)},)


def smooth(params):
    hidden = torch.tanh(params["w"] @ params["w"] + params["b"])
    return {"out": hidden.sin() * params["b"], "sum": hidden.sum()}


@pytest.mark.parametrize("modes", [["forward"], ["reverse"], ["forward", "reverse"]])
def test_right_derivatives_pass(modes):
    testing.assert_numerical_grads(smooth, POINT, order=2, modes=modes)


def test_complex_and_constant_arguments():
    z = torch.tensor([0.3 + 1j, -1.0 + 0.5j])
    testing.assert_numerical_grads(lambda z, n: z.exp() ** n, (z, torch.tensor(2)), order=2)
    testing.assert_numerical_grads(lambda z: z.abs().sum(), (z,))
    testing.assert_numerical_grads(lambda z: z.conj() * z, (z,))


@pytest.mark.parametrize(
    ("factors", "messages"),
    [
        ((3, 2), ["  x, reverse: ", "but the difference quotient is"]),
        ((2, 3), ["  x, forward: ", " at ["]),
    ],
)
def test_a_wrong_derivative_is_named_by_leaf_and_mode(factors, messages):
    with raises("assert_numerical_grads: wrong derivatives of wrong:\n", *messages) as caught:

        def wrong(x, y):
            return WrongSquare.apply(x, *factors) + y

        testing.assert_numerical_grads(wrong, (torch.tensor([1.0, 2.0]), torch.tensor(3.0)))
    assert str(caught.value).count("\n") == 1


def test_a_small_mistake_is_found():
    with raises("x, reverse"):
        testing.assert_numerical_grads(
            lambda x: WrongSquare.apply(x, 2.0001, 2), (torch.tensor([1.0, 2.0]),)
        )


def test_a_second_derivative_that_is_wrong_is_named():
    def f(x):
        return x * pf.stop_gradient(x**0) * 3 + (x - pf.stop_gradient(x)) ** 2

    point = (torch.tensor([1.0, 2.0]),)
    testing.assert_numerical_grads(lambda x: 3 * x, point, order=3)
    with raises("over"):
        testing.assert_numerical_grads(f, point, order=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": 0}, ValueError, "expected order at least 1, got 0"),
        ({"modes": ["backward"]}, ValueError, "modes of 'forward' and 'reverse'"),
        ({"modes": "reverse"}, ValueError, "modes of 'forward' and 'reverse'"),
        ({"f_args": (torch.tensor(1),)}, TypeError, "no argument is a floating"),
        ({"f": lambda x: torch.tensor(1)}, TypeError, "no output is a floating"),
    ],
)
def test_what_cannot_be_checked_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        testing.assert_numerical_grads(**{"f": torch.sin, "f_args": (X,), **options})
