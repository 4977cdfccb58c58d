"""jit(check_purity=True): what a key cannot see is found by running the function itself."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import random

SCALE = 2.0
SETTINGS = {"scale": 2.0}


def checked(fun, **options):
    return pf.jit(fun, check_purity=True, **{"backend": "eager", **options})


X = torch.arange(3.0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_pure_function_passes(backend):
    def step(params, x, rate):
        loss = lambda p: torch.tanh(x @ p["w"]).square().sum()  # noqa: E731
        value, grads = pf.value_and_grad(loss)(params)
        return {"w": params["w"] - rate * grads["w"]}, (value, x.argmax(), x > 0, value.bfloat16())

    fun = checked(step, backend=backend)
    for seed in range(3):
        torch.manual_seed(seed)
        params = {"w": torch.randn(4, 3)}
        expected = step(params, torch.ones(2, 4), 0.1)
        ours = fun(params, torch.ones(2, 4), 0.1)
        torch.testing.assert_close(ours[0]["w"], expected[0]["w"])
    assert fun.trace_count == 1


def test_keys_are_pure_and_nan_equals_nan():
    fun = checked(lambda key, x: (random.normal(key, (3,)), x.log(), x / 0))
    fun(random.key(0), torch.tensor([-1.0, 0.0, 1.0]))


def reads_a_global(x):
    return {"a": [x * SCALE], "b": x}


def test_a_global_that_changed_is_named(monkeypatch):
    fun = checked(reads_a_global)
    fun(X)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    message = (
        r"jit\(reads_a_global\) no longer does.*output\['a'\]\[0\]\[2\]: jit gives 4\.0, "
        r"the function gives 6\.0\. Since it was traced, the global `SCALE` changed"
    )
    with pytest.raises(pf.PurityError, match=message):
        fun(X)
    assert pf.jit(reads_a_global, backend="eager")(X)["a"][0].tolist() == [0.0, 3.0, 6.0]


def test_an_item_of_a_global_is_named(monkeypatch):
    fun = checked(lambda x: x * SETTINGS["scale"])
    fun(X)
    monkeypatch.setitem(SETTINGS, "scale", 3.0)
    with pytest.raises(pf.PurityError, match="the global `SETTINGS` changed"):
        fun(X)


def test_a_captured_tensor_that_was_replaced_is_named():
    offset = torch.zeros(3)
    fun = checked(lambda x: x + offset)
    fun(X)
    offset = torch.ones(3)
    with pytest.raises(
        pf.PurityError, match=r"output\[\d\].*the captured variable `offset` changed"
    ):
        fun(X)


def test_an_attribute_that_changed_is_found_but_not_named():
    class Model:
        scale = 2.0

    fun = checked(lambda x: x * Model.scale)
    fun(X)
    Model.scale = 3.0
    with pytest.raises(pf.PurityError, match="an attribute of an object"):
        fun(X)


def test_a_new_kind_of_call_is_traced_with_what_is_true_then(monkeypatch):
    fun = checked(reads_a_global)
    fun(X)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert fun(torch.ones(2))["a"][0].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    "fun", [lambda x: x + torch.rand(3), lambda x: torch.nn.functional.dropout(x.repeat(99) + 1)]
)
def test_random_state_is_found(fun):
    with pytest.raises(pf.PurityError, match=r"not repeatable.*one run gives.*take a key"):
        checked(fun)(X)


def test_a_hidden_counter_is_found():
    class Counter:
        count = 0

    def fun(x):
        Counter.count += 1
        return x * Counter.count

    with pytest.raises(pf.PurityError, match=r"not repeatable.*output\[2\]: one run gives 6"):
        checked(fun)(X)


def test_an_argument_written_behind_torchs_back_is_found():
    def fun(x):
        if not isinstance(x, torch._subclasses.FakeTensor):
            x.numpy()[0] = 7
        return x * 1

    x = torch.ones(3)
    with pytest.raises(pf.PurityError, match=r"writes into its argument x.*numpy"):
        checked(fun)(x)
    assert x.tolist() == [1.0, 1.0, 1.0]


def test_a_shape_a_dtype_and_a_structure_that_changed(monkeypatch):
    class Model:
        make = staticmethod(lambda x: x)

    for make, message in (
        (lambda x: x[:2], r"output: jit gives float32 of shape \(3,\) on cpu, .* shape \(2,\)"),
        (lambda x: x.double(), "the function gives float64 of shape"),
        (lambda x: (x, x), r"jit gives PyTreeSpec\(\*\), the function gives .*\(\*, \*\)"),
    ):
        fun = checked(lambda x: Model.make(x))
        Model.make = staticmethod(lambda x: x + 0)
        fun(X)
        Model.make = staticmethod(make)
        with pytest.raises(pf.PurityError, match=message):
            fun(X)


def test_a_wrong_backend_is_found():
    def wrong(module, inputs):
        return lambda *args: [output + 1 for output in module(*args)]

    with pytest.raises(pf.PurityError, match="the backend is wrong"):
        checked(lambda x: x * 2, backend=wrong)(X)


def test_donated_arguments_are_compared_too():
    fun = checked(lambda x, rate: x - rate, donate_argnums=0)
    x = torch.ones(3)
    address = x.data_ptr()
    result = fun(x, 0.5)
    assert result.data_ptr() == address
    assert result.tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(RuntimeError, match="donated"):
        x.sum()


def test_static_arguments_and_inlining():
    fun = checked(lambda x, power: x**power, static_argnames="power")
    assert fun(X, power=2).tolist() == [0.0, 1.0, 4.0]
    assert pf.vmap(lambda row: fun(row, power=2))(X).tolist() == [0.0, 1.0, 4.0]
    with pf.disable_jit():
        assert fun(X, power=2).tolist() == [0.0, 1.0, 4.0]


@pytest.mark.filterwarnings("ignore::purefn.functional.UncompiledWarning")
def test_gradients_go_through():
    x = X.clone().requires_grad_()
    checked(lambda x: (x * x).sum())(x).backward()
    assert x.grad.tolist() == [0.0, 2.0, 4.0]


@pytest.mark.slow
def test_rounding_of_generated_code_is_no_difference():
    x = torch.randn(300, 300)
    checked(lambda x: (torch.softmax(x, 0).sum(), (x @ x).std()), backend="inductor")(x)
