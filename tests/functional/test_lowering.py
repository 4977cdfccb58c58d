"""make_graph, f.lower(...), ahead-of-time compilation and cost."""

import gc
import weakref

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import purefn.functional as pf
from purefn.functional import ShapeDtype, tree


def loss(params, x):
    return {"loss": torch.tanh(x @ params["w"]).sum()}


class TestMakeGraph:
    def test_it_reads_like_the_function(self):
        graph = pf.make_graph(loss)({"w": ShapeDtype((4, 3))}, torch.ones(2, 4))
        assert str(graph).splitlines() == [
            "loss(params['w']: float32[4, 3], x: float32[2, 4]):",
            "    mm: float32[2, 3] = aten.mm(x, params['w'])",
            "    tanh: float32[2, 3] = aten.tanh(mm)",
            "    sum: float32[] = aten.sum(tanh)",
            "    return output['loss'] = sum",
        ]
        assert graph.operators == ("aten.mm", "aten.tanh", "aten.sum")
        assert graph.inputs == ("params['w']", "x")
        assert graph.outputs == ("output['loss']",)

    def test_the_module_computes_what_the_function_does(self):
        params, x = {"w": torch.randn(4, 3)}, torch.randn(2, 4)
        graph = pf.make_graph(pf.value_and_grad(lambda *args: loss(*args)["loss"]))(params, x)
        outputs = graph.to_module()(params["w"], x)
        value, grads = pf.value_and_grad(lambda *args: loss(*args)["loss"])(params, x)
        for ours, expected in zip(outputs, (value, grads["w"]), strict=True):
            torch.testing.assert_close(ours, expected)

    def test_numbers_settings_and_captured_tensors(self):
        captured = torch.ones(3)
        fun = pf.make_graph(
            lambda x, scale, power: captured + scale * x**power, static_argnames="power"
        )
        lines = str(fun(ShapeDtype((3,), torch.float64), 2.0, power=3)).splitlines()
        assert lines[0].endswith("(x: float64[3], scale: float64[], captured[0]: float32[3]):")
        assert any("aten.pow(x, 3)" in line for line in lines)

    def test_several_results_of_one_operator(self):
        graph = pf.make_graph(lambda x: x.max(0))(ShapeDtype((2, 3)))
        assert "max = aten.max(x, 0)" in str(graph)
        assert "getitem_1: int64[3] = max[1]" in str(graph)

    def test_loops_show_their_bodies(self):
        graph = pf.make_graph(
            lambda x: pf.scan(lambda carry, row: (carry + row, carry), torch.zeros(3), x)
        )(ShapeDtype((5, 3)))
        assert "scan.graphs[0](" in str(graph)
        assert "            add: float32[3] = aten.add(" in str(graph)

    @pytest.mark.parametrize(
        "transform",
        [lambda f: f, pf.vmap, lambda f: pf.jit(f, backend="eager"), pf.make_graph],
        ids=["eager", "vmap", "jit", "make_graph"],
    )
    def test_inside_of_transforms_and_unseen_by_them(self, transform, capsys):
        def fun(x):
            print(pf.make_graph(lambda y: (y * 2).sum())(x).operators)
            return x + 1

        result = transform(fun)(torch.ones(2, 3))
        assert capsys.readouterr().out == "('aten.mul', 'aten.sum')\n"
        if transform is pf.make_graph:
            assert result.operators == ("aten.add",)

    def test_what_cannot_be_traced_is_refused_as_in_jit(self):
        with pytest.raises(pf.TraceError, match="needs the value"):
            pf.make_graph(lambda x: x if x > 0 else -x)(ShapeDtype(()))
        with pytest.raises(TypeError, match=r"x\['a'\] is a str"):
            pf.make_graph(lambda x: x)({"a": "text"})


@pf.jit(backend="eager", static_argnames="negate")
def update(params, x, rate, negate=False):
    change = rate * x.mean() * (-1 if negate else 1)
    return tree.map(lambda p: p - change, params), x.sum()


PARAMS, X = {"w": torch.arange(3.0)}, torch.ones(4)


class TestCompile:
    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("x", [X, ShapeDtype((4,))], ids=["tensor", "shape"])
    def test_it_computes_what_the_function_does(self, backend, x):
        fun = pf.jit(update.__wrapped__, backend=backend, static_argnames="negate")
        compiled = fun.lower({"w": ShapeDtype((3,))}, x, 0.5, negate=True).compile()
        (params, total), expected = compiled(PARAMS, X, 0.25, negate=True), [0.25, 1.25, 2.25]
        assert params["w"].tolist() == expected
        assert total.item() == 4
        assert fun.trace_count == 0

    def test_a_lowered_function_compiles_more_than_once(self):
        lowered = update.lower(PARAMS, X, 0.5)
        first, second = lowered.compile(), lowered.compile()
        assert torch.equal(first(PARAMS, X, 0.5)[0]["w"], second(PARAMS, X, 0.5)[0]["w"])

    @pytest.mark.parametrize(
        ("args", "kwargs", "difference"),
        [
            (
                ({"w": torch.ones(2)}, X, 0.5),
                {},
                r"params\['w'\]: float32 of shape \(3,\) -> .*\(2,\)",
            ),
            (
                (PARAMS, X.double(), 0.5),
                {},
                r"x: float32 of shape \(4,\) -> float64 of shape \(4,\)",
            ),
            ((PARAMS, torch.ones(8)[::2], 0.5), {}, r"x: strides contiguous -> \(2,\)"),
            ((PARAMS, X, 1), {}, r"rate: float32 of shape \(\) -> int64 of shape \(\)"),
            ((PARAMS, X, 0.5), {"negate": True}, "static argument negate: its default -> True"),
            (
                ({"b": PARAMS["w"]}, X, 0.5),
                {},
                r"params\['w'\]: .* -> nothing; params\['b'\]: nothing",
            ),
            ((PARAMS, X), {"rate": 0.5}, "rate: passed by position -> by keyword"),
            (
                ({"w": PARAMS["w"]}, X.clone().requires_grad_(), 0.5),
                {},
                "requires_grad False -> True",
            ),
        ],
    )
    def test_other_arguments_are_refused_by_name(self, args, kwargs, difference):
        compiled = update.lower(PARAMS, X, 0.5).compile()
        with pytest.raises(
            TypeError, match=f"compiled ahead of time for other arguments.*{difference}"
        ):
            compiled(*args, **kwargs)

    def test_other_settings_of_torch_are_refused(self):
        compiled = update.lower(PARAMS, X, 0.5).compile()
        with torch.no_grad(), pytest.raises(TypeError, match="grad mode: on -> off"):
            compiled(PARAMS, X, 0.5)

    def test_transforms_are_refused(self):
        compiled = pf.jit(torch.sin, backend="eager").lower(ShapeDtype(())).compile()
        with pytest.raises(TypeError, match="cannot be transformed"):
            pf.grad(compiled)(torch.tensor(1.0))

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_what_autograd_must_record_is_refused(self, backend):
        x = torch.arange(3.0, requires_grad=True)
        lowered = pf.jit(lambda x: (x * x).sum(), backend=backend).lower(x)
        with pytest.raises(ValueError, match=r"requires a gradient.*pf\.grad"):
            lowered.compile()

    def test_donation(self):
        fun = pf.jit(lambda x: x + 1, donate_argnums=0, backend="eager")
        x = torch.ones(3)
        compiled = fun.lower(ShapeDtype((3,))).compile()
        address = x.data_ptr()
        result = compiled(x)
        assert result.data_ptr() == address
        with pytest.raises(RuntimeError, match="donated"):
            x.sum()

    def test_no_argument_is_kept_alive(self):
        x = torch.ones(3)
        fun = pf.jit(torch.sin, backend="eager")
        lowered = fun.lower(x)
        gone = weakref.ref(x)
        del x
        gc.collect()
        assert gone() is None
        assert lowered.graph().operators == ("aten.sin",)

    @pytest.mark.slow
    def test_generated_code(self):
        fun = pf.jit(lambda x: torch.softmax(x, -1))
        x = torch.randn(5, 7)
        compiled = fun.lower(ShapeDtype((5, 7))).compile()
        torch.testing.assert_close(compiled(x), torch.softmax(x, -1), rtol=1e-6, atol=1e-6)


class TestCost:
    @pytest.mark.parametrize(
        "fun",
        [
            lambda x: x @ x.T,
            lambda x: torch.nn.functional.conv1d(x[None], x[:3, None, :2].repeat(1, 4, 1)),
            lambda x: torch.vmap(lambda row: torch.outer(row, row) @ row)(x),
            lambda x: x.sin() + 1,
        ],
    )
    def test_flops_are_those_of_torchs_counter(self, fun):
        x = torch.randn(4, 6)
        with FlopCounterMode(display=False) as counter:
            fun(x)
        assert pf.jit(fun).lower(x).cost().flops == counter.get_total_flops()

    def test_attention_on_a_cpu(self):
        q = torch.randn(2, 3, 4, 5, 6)[0]
        attend = torch.nn.functional.scaled_dot_product_attention
        # For 3 examples and 4 heads: 5 x 6 by 6 x 5, and 5 x 5 by 5 x 6.
        assert pf.jit(attend).lower(q, q, q).cost().flops == 2 * (2 * 3 * 4 * 5 * 5 * 6)

    def test_a_training_step_by_hand(self):
        def step(w, x):
            return w - 0.1 * pf.grad(lambda w: (x @ w).sum())(w)

        cost = pf.jit(step).lower(ShapeDtype((4, 3)), ShapeDtype((5, 4))).cost()
        # One product for the value, whose shape the gradient starts from, and one for the gradient.
        assert cost.flops == 2 * (2 * 4 * 3 * 5)
        assert (cost.arguments, cost.outputs) == (4 * (12 + 20), 4 * 12)

    def test_bytes_by_hand(self):
        def bytes_of(fun, *args):
            return pf.jit(fun).lower(*args).cost().bytes

        x, y = ShapeDtype((4, 3)), ShapeDtype((3,))
        assert bytes_of(torch.sin, x) == 48 + 48
        assert bytes_of(torch.add, x, y) == 48 + 12 + 48
        assert bytes_of(lambda x: x * x, x) == 48 + 48
        assert bytes_of(lambda x: x.t()[0], x) == 0
        assert bytes_of(lambda y: y.expand(4, 3).sin(), y) == 12 + 48
        assert bytes_of(torch.sin, ShapeDtype((4,), torch.bfloat16)) == 16

    def test_a_loop_counts_as_often_as_it_runs(self):
        def chain(x):
            return pf.scan(lambda carry, row: (carry @ row, None), torch.eye(3), x)[0]

        cost = pf.jit(chain).lower(ShapeDtype((7, 3, 3))).cost()
        assert cost.flops == 7 * 2 * 27

    def test_a_loop_of_unknown_length_is_refused(self):
        fun = pf.jit(lambda x: pf.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, x))
        with pytest.raises(ValueError, match="while run depends on values"):
            fun.lower(ShapeDtype((3,))).cost()
