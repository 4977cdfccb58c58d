"""explain_retraces: which leaf of which argument made jit trace again."""

import gc
import weakref

import pytest
import torch

import purefn.functional as pf


@pytest.fixture
def step():
    @pf.jit(backend="eager", static_argnames="train")
    def step(params, images, train=False):
        return params["w"] * images.sum() + int(train)

    step({"w": torch.ones(3)}, torch.ones(64, 4))
    return step


def again(step, *args, **kwargs):
    step(*args, **kwargs)
    return [str(retrace) for retrace in pf.explain_retraces(step)[0].retraces]


W, IMAGES = torch.ones(3), torch.ones(64, 4)
WAS = "images: float32 of shape (64, 4) ->"


@pytest.mark.filterwarnings("ignore::purefn.functional.UncompiledWarning")
@pytest.mark.parametrize(
    ("params", "images", "change"),
    [
        ({"w": W}, torch.ones(32, 4), f"{WAS} float32 of shape (32, 4)"),
        ({"w": W}, IMAGES.double(), f"{WAS} float64 of shape (64, 4)"),
        ({"w": W}, torch.ones(4, 64).t(), "images: strides contiguous -> (1, 64)"),
        ({"w": W, "b": 1.0}, IMAGES, "params['b']: nothing -> float32 of shape ()"),
        ({"w": W.clone().requires_grad_()}, IMAGES, "params['w']: requires_grad False -> True"),
        ({"w": torch.nn.Parameter(W, False)}, IMAGES, "params['w']: type Tensor -> Parameter"),
    ],
)
def test_the_leaf_that_changed_is_named_with_what_it_was(step, params, images, change):
    assert again(step, params, images) == [f"2: {change}"]


def test_a_leaf_that_moved_is_gone_and_new(step):
    fun = pf.jit(lambda params: 1, backend="eager")
    fun({"w": W})
    assert again(fun, {"w": {"x": W}}) == [
        "2: params['w']: float32 of shape (3,) -> nothing; "
        "params['w']['x']: nothing -> float32 of shape (3,)"
    ]


def test_static_arguments_and_the_way_arguments_are_passed(step):
    assert again(step, {"w": W}, IMAGES, train=True) == [
        "2: static argument train: its default -> True"
    ]
    assert again(step, {"w": W}, images=IMAGES)[1:] == [
        "3 (from 1): images: passed by position -> by keyword"
    ]


def test_containers_are_named_where_no_leaf_differs():
    fun = pf.jit(lambda pair: pair[0], backend="eager")
    fun((W, W))
    assert again(fun, [W, W]) == ["2: the containers: (((*, *),), {}) -> (([*, *],), {})"]


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        (torch.no_grad, "grad mode: on -> off"),
        (torch.inference_mode, "inference mode: off -> on"),
        (lambda: torch.autocast("cpu"), "autocast cpu: off -> torch.bfloat16"),
    ],
)
def test_settings_of_torch_are_named(step, setting, change):
    with setting():
        (found,) = again(step, {"w": W}, torch.ones(64, 4))
    assert change in found


def test_threads_and_the_default_dtype_are_named(step):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert again(step, {"w": W}, torch.ones(64, 4)) == [
            f"2: the number of threads: {threads} -> {threads + 1}"
        ]
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float64)
        found = again(step, {"w": W}, torch.ones(64, 4, dtype=torch.float32))
        assert found[1] == "3 (from 1): default dtype: torch.float32 -> torch.float64"
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)


def test_the_closest_earlier_trace_is_compared(step):
    step({"w": torch.ones(5)}, torch.ones(8, 8).double())
    step({"w": W}, torch.ones(16, 4))
    assert again(step, {"w": torch.ones(5)}, torch.ones(8, 8)) == [
        "2: params['w']: float32 of shape (3,) -> float32 of shape (5,); "
        "images: float32 of shape (64, 4) -> float64 of shape (8, 8)",
        "3 (from 1): images: float32 of shape (64, 4) -> float32 of shape (16, 4)",
        "4 (from 2): images: float64 of shape (8, 8) -> float32 of shape (8, 8)",
    ]


def test_of_equally_close_traces_the_last_is_compared(step):
    step({"w": W}, torch.ones(32, 4))
    assert again(step, {"w": W}, torch.ones(16, 4))[1] == (
        "3: images: float32 of shape (32, 4) -> float32 of shape (16, 4)"
    )


def test_it_prints_as_text(step):
    assert str(pf.explain_retraces(step)).endswith("step was traced once.")
    step({"w": W}, torch.ones(32, 4))
    lines = str(pf.explain_retraces(step)).splitlines()
    assert lines[0].endswith("step was traced twice.")
    assert lines[1].startswith("  2: images: ")
    step.clear_cache()
    assert str(pf.explain_retraces(step)).endswith("step was traced 0 times.")


def test_all_functions_that_live_are_told_of(step):
    step({"w": W}, torch.ones(32, 4))
    name = step.name
    assert any(history.name == name for history in pf.explain_retraces())
    once = pf.jit(lambda lonely: lonely, backend="eager")
    once(W)
    assert all(history.name != once.name for history in pf.explain_retraces())


def test_nothing_is_kept_alive():
    fun = pf.jit(lambda x: x + 1, backend="eager")
    tensors = [torch.ones(2), torch.ones(3)]
    for x in tensors:
        fun(x)
    found = pf.explain_retraces(fun)
    gone, function = [weakref.ref(x) for x in tensors], weakref.ref(fun)
    del tensors, x, fun
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert function() is None
    assert len(found[0].retraces) == 1


def test_a_bound_method_is_a_jitted_function():
    class Model:
        @pf.jit(static_argnums=0, backend="eager")
        def apply(self, x):
            return x * 2

    model = Model()
    model.apply(torch.ones(2))
    model.apply(torch.ones(3))
    assert pf.explain_retraces(model.apply)[0].traces == 2


def test_other_functions_are_refused():
    with pytest.raises(TypeError, match="expected a function made by jit, got <function"):
        pf.explain_retraces(lambda x: x)
