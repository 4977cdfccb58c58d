"""Every public layer under every transform: a layer that is not in `CASES` fails the first test."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import purefn.functional as pf
from purefn.functional import ShapeDtype, nn, random, tree

NOT_LAYERS = {"Layer", "LayerError", "Params", "State", "StatefulLayer"}


@dataclass
class Case:
    name: str
    layer: Any
    module: torch.nn.Module | None
    shape: tuple[int, ...]
    integers: bool = False
    variant: str = ""
    scale: float = 1.0

    def __post_init__(self):
        if not isinstance(self.layer, nn.Layer | nn.StatefulLayer):
            self.layer = nn.lift(self.layer)

    def example(self, dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        if self.integers:
            return torch.randint(0, 7, self.shape, generator=generator)
        return (self.scale * torch.randn(self.shape, generator=generator)).to(dtype)

    def init(self, x, seed=0):
        made = self.layer.init(random.key(seed), x)
        return made if isinstance(self.layer, nn.StatefulLayer) else (made, {})


CASES = [
    Case("linear", nn.linear(3), torch.nn.Linear(5, 3), (4, 5)),
    Case(
        "linear",
        nn.linear(3, bias=False),
        torch.nn.Linear(5, 3, bias=False),
        (2, 4, 5),
        variant="b",
    ),
    Case("conv1d", nn.conv1d(4, 3, padding=1), torch.nn.Conv1d(2, 4, 3, padding=1), (3, 2, 8)),
    Case("conv2d", nn.conv2d(4, 3), torch.nn.Conv2d(2, 4, 3), (3, 2, 6, 7)),
    Case(
        "conv2d",
        nn.conv2d(4, (2, 3), padding="same", groups=2, padding_mode="reflect"),
        torch.nn.Conv2d(2, 4, (2, 3), padding="same", groups=2, padding_mode="reflect"),
        (3, 2, 6, 7),
        variant="reflect",
    ),
    Case("conv3d", nn.conv3d(4, 2), torch.nn.Conv3d(2, 4, 2), (2, 2, 3, 4, 3)),
    Case("max_pool1d", nn.max_pool1d(2), torch.nn.MaxPool1d(2), (2, 3, 8)),
    Case("max_pool2d", nn.max_pool2d(2), torch.nn.MaxPool2d(2), (2, 3, 8, 6)),
    Case("max_pool3d", nn.max_pool3d(2), torch.nn.MaxPool3d(2), (2, 3, 4, 4, 4)),
    Case("avg_pool1d", nn.avg_pool1d(2), torch.nn.AvgPool1d(2), (2, 3, 8)),
    Case("avg_pool2d", nn.avg_pool2d(2), torch.nn.AvgPool2d(2), (2, 3, 8, 6)),
    Case("avg_pool3d", nn.avg_pool3d(2), torch.nn.AvgPool3d(2), (2, 3, 4, 4, 4)),
    Case(
        "adaptive_avg_pool1d", nn.adaptive_avg_pool1d(3), torch.nn.AdaptiveAvgPool1d(3), (2, 3, 8)
    ),
    Case(
        "adaptive_avg_pool2d",
        nn.adaptive_avg_pool2d((2, None)),
        torch.nn.AdaptiveAvgPool2d((2, None)),
        (2, 3, 5, 6),
    ),
    Case(
        "adaptive_avg_pool3d",
        nn.adaptive_avg_pool3d(2),
        torch.nn.AdaptiveAvgPool3d(2),
        (2, 3, 4, 3, 5),
    ),
    Case("flatten", nn.flatten(), torch.nn.Flatten(), (2, 3, 4)),
    Case("embedding", nn.embedding(7, 3), torch.nn.Embedding(7, 3), (4, 5), integers=True),
    Case("layer_norm", nn.layer_norm(), torch.nn.LayerNorm(6), (4, 5, 6)),
    Case("batch_norm", nn.batch_norm(), torch.nn.BatchNorm1d(6), (8, 6)),
    Case("batch_norm", nn.batch_norm(), torch.nn.BatchNorm2d(6), (3, 6, 2, 3), variant="2d"),
    Case("dropout", nn.dropout(0.4), torch.nn.Dropout(0.4), (20, 30)),
    Case("identity", nn.identity, torch.nn.Identity(), (4, 5)),
    Case("relu", nn.relu, torch.nn.ReLU(), (4, 5)),
    Case("relu6", nn.relu6, torch.nn.ReLU6(), (4, 5), scale=5.0),
    Case("leaky_relu", nn.leaky_relu, torch.nn.LeakyReLU(), (4, 5)),
    Case(
        "leaky_relu",
        lambda x: nn.leaky_relu(x, 0.3),
        torch.nn.LeakyReLU(0.3),
        (4, 5),
        variant="slope",
    ),
    Case("elu", nn.elu, torch.nn.ELU(), (4, 5)),
    Case("elu", lambda x: nn.elu(x, 2.0), torch.nn.ELU(2.0), (4, 5), variant="alpha"),
    Case("celu", lambda x: nn.celu(x, 2.0), torch.nn.CELU(2.0), (4, 5)),
    Case("selu", nn.selu, torch.nn.SELU(), (4, 5)),
    Case("gelu", nn.gelu, torch.nn.GELU(), (4, 5)),
    Case("gelu", lambda x: nn.gelu(x, "tanh"), torch.nn.GELU("tanh"), (4, 5), variant="tanh"),
    Case("silu", nn.silu, torch.nn.SiLU(), (4, 5)),
    Case("mish", nn.mish, torch.nn.Mish(), (4, 5)),
    Case("softplus", nn.softplus, torch.nn.Softplus(), (4, 5)),
    Case(
        "softplus",
        lambda x: nn.softplus(x, 3.0, 1.0),
        torch.nn.Softplus(3.0, 1.0),
        (4, 5),
        variant="b",
    ),
    Case("softsign", nn.softsign, torch.nn.Softsign(), (4, 5)),
    Case("tanh", nn.tanh, torch.nn.Tanh(), (4, 5)),
    Case("sigmoid", nn.sigmoid, torch.nn.Sigmoid(), (4, 5)),
    Case("log_sigmoid", nn.log_sigmoid, torch.nn.LogSigmoid(), (4, 5)),
    Case("hardtanh", lambda x: nn.hardtanh(x, -0.5, 0.2), torch.nn.Hardtanh(-0.5, 0.2), (4, 5)),
    Case("hardsigmoid", nn.hardsigmoid, torch.nn.Hardsigmoid(), (4, 5)),
    Case("hardswish", nn.hardswish, torch.nn.Hardswish(), (4, 5)),
    Case("softmax", nn.softmax, torch.nn.Softmax(dim=-1), (4, 5)),
    Case("log_softmax", nn.log_softmax, torch.nn.LogSoftmax(dim=-1), (4, 5)),
    Case(
        "log_softmax",
        lambda x: nn.log_softmax(x, 0),
        torch.nn.LogSoftmax(dim=0),
        (4, 5),
        variant="0",
    ),
    Case("lift", nn.lift(torch.exp), None, (4, 5)),
    Case(
        "serial",
        nn.serial(nn.linear(4), nn.tanh, nn.linear(2)),
        torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)),
        (3, 5),
    ),
    Case(
        "serial",
        nn.serial(
            nn.conv2d(4, 3, bias=False), nn.batch_norm(), nn.relu, nn.flatten(), nn.linear(2)
        ),
        torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, bias=False),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(16, 2),
        ),
        (3, 2, 4, 4),
        variant="stateful",
    ),
    Case("residual", nn.residual(nn.linear(5)), None, (3, 5)),
    Case(
        "parallel",
        nn.serial(nn.parallel(nn.linear(4), nn.relu), lambda ys: torch.cat(ys, dim=-1)),
        None,
        (3, 5),
    ),
]


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name + case.variant)


OF_TORCH = [case for case in CASES if case.module is not None]
each_case = each(CASES)
with_parameters = each([case for case in OF_TORCH if list(case.module.parameters())])


def test_every_public_layer_has_a_case():
    assert {case.name for case in CASES} == set(nn.__all__) - NOT_LAYERS


@each(OF_TORCH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_and_gradients_are_those_of_torch(case, dtype, matches_torch):
    matches_torch(case.layer, case.module, case.example(dtype), train=False)


@each([case for case in OF_TORCH if case.name != "dropout"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_gradients_and_state_in_training_are_those_of_torch(case, dtype, matches_torch):
    matches_torch(case.layer, case.module, case.example(dtype), train=True)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case.name}{case.variant}-{dtype}")
        for case in CASES
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
        # torch has no such kernel on the CPU.
        if (case.name, dtype) != ("avg_pool3d", torch.bfloat16)
    ],
)
def test_declared_shapes_are_the_actual_ones(case, dtype, run_layer):
    x = case.example(dtype)
    params, state = case.init(x)
    declared = pf.eval_shape(lambda p, s, x: run_layer(case.layer, p, s, x), params, state, x)
    y, new_state = run_layer(case.layer, params, state, x)
    actual = tree.map(lambda leaf: ShapeDtype(leaf.shape, leaf.dtype, leaf.device), (y, new_state))
    assert declared == actual
    assert y.isfinite().all()
    if not case.integers:
        assert y.dtype == dtype


@each(OF_TORCH)
def test_init_gives_torchs_names_shapes_and_dtypes(case, from_module):
    made = case.init(case.example())
    for ours, theirs in zip(made, from_module(case.module.float()), strict=True):
        ours, theirs = tree.to_state_dict(ours), tree.to_state_dict(theirs)
        assert {name: (v.shape, v.dtype) for name, v in ours.items()} == {
            name: (v.shape, v.dtype) for name, v in theirs.items()
        }


@each_case
def test_init_needs_only_the_shape(case):
    x = case.example(torch.float64)
    drawn = tree.leaves(case.init(x))
    abstract = tree.leaves(case.init(ShapeDtype(x.shape, x.dtype)))
    declared = tree.leaves(pf.eval_shape(case.init, x))
    assert len(drawn) == len(abstract) == len(declared)
    for one, other, shape in zip(drawn, abstract, declared, strict=True):
        assert torch.equal(one, other)
        assert (one.shape, one.dtype) == (shape.shape, shape.dtype)


PROGRAMS = {
    "functions": [case for case in CASES if case.init(case.example()) == ({}, {})],
    **{case.name + case.variant: [case] for case in CASES if case.init(case.example()) != ({}, {})},
}


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_compiled_equals_eager(program, run_layer):
    cases = PROGRAMS[program]

    def one(case, params, state, x, key):
        def objective(params, x):
            y, new_state = run_layer(case.layer, params, state, x, key=key, train=True)
            return y.square().sum(), (y, new_state)

        argnums = 0 if case.integers else (0, 1)
        return pf.value_and_grad(objective, argnums=argnums, has_aux=True)(params, x)

    def every(made, xs, key):
        rows = zip(cases, made, xs, strict=True)
        return [one(case, params, state, x, key) for case, (params, state), x in rows]

    xs = [case.example() for case in cases]
    made = [case.init(x) for case, x in zip(cases, xs, strict=True)]
    eager = every(made, xs, random.key(3))
    compiled = pf.jit(every, backend="aot_eager")(made, xs, random.key(3))
    for case, expected, actual in zip(cases, eager, compiled, strict=True):
        assert tree.structure(expected) == tree.structure(actual)
        for left, right in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5, msg=case.name)


@each_case
def test_vmap_over_parameters_and_inputs_equals_a_loop(case, run_layer, is_close):
    xs = [case.example(torch.float64, seed) for seed in range(3)]
    made = [case.init(x, seed) for seed, x in enumerate(xs)]
    keys = random.split(random.key(5), 3)

    def grads(params_and_state, x, key):
        def objective(params):
            y, state = run_layer(case.layer, params, params_and_state[1], x, key=key, train=True)
            return y.square().sum(), (y, state)

        return pf.grad(objective, has_aux=True)(params_and_state[0])

    batched = pf.vmap(grads)(tree.stack(made), torch.stack(xs), keys)
    loop = tree.stack([grads(*row) for row in zip(made, xs, keys, strict=True)])
    for actual, expected in zip(tree.leaves(batched), tree.leaves(loop), strict=True):
        is_close(actual, expected, case.name)


@each_case
def test_no_input_is_written(case, run_layer):
    x, key = case.example(), random.key(3)
    params, state = case.init(x)
    given = tree.leaves((params, state, x, key))
    before = [leaf.clone() for leaf in given]
    run_layer(case.layer, params, state, x, key=key, train=True)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))


@with_parameters
def test_init_is_a_function_of_the_key(case):
    x = case.example()
    names = tree.to_state_dict(case.init(x)[0])
    again = tree.to_state_dict(case.init(x)[0])
    other = tree.to_state_dict(case.init(x, seed=1)[0])
    for name, value in names.items():
        assert torch.equal(value, again[name])
        constant = value.unique().numel() == 1
        assert constant or not torch.equal(value, other[name])


@with_parameters
def test_parameters_of_another_model_are_refused(case, run_layer):
    x = case.example()
    params, state = case.init(x)
    names = tree.to_state_dict(params)
    for name in names:
        missing = tree.from_state_dict({n: v for n, v in names.items() if n != name})
        with pytest.raises(nn.LayerError, match=f"expected a dict of .*{name.split('.')[-1]}"):
            run_layer(case.layer, missing, state, x)
        wrong = tree.from_state_dict({**names, name: names[name].new_zeros(1, 1, 1, 1, 1, 1)})
        with pytest.raises(nn.LayerError, match=r"got .*\(1, 1, 1, 1, 1, 1\)"):
            run_layer(case.layer, wrong, state, x)
    unknown = tree.from_state_dict({**names, "other": torch.ones(1)})
    with pytest.raises(nn.LayerError, match="other"):
        run_layer(case.layer, unknown, state, x)
