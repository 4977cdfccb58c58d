"""Every public layer under every transform: a layer that is not in `CASES` fails the first test."""

import copy

import pytest
import torch
from registry import CASES

import purefn.functional as pf
from purefn.functional import ShapeDtype, nn, per_example, random, tree

NOT_LAYERS = {
    "Layer",
    "LayerError",
    "Params",
    "Row",
    "State",
    "StatefulLayer",
    "Summary",
    "alibi_slopes",
    "at",
    "load_balancing_loss",
    "merge_lora",
    "precision",  # over every layer, in test_mixed_precision
    "summary",
    "tabulate",
    "tie_params",
    "unmerge_lora",
    "untie_params",
}


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name + case.variant)


OF_TORCH = [case for case in CASES if case.module is not None]
each_case = each(CASES)
#: One case of each layer, for what is the same in all: the last, which has most settings, and where
#: there is one it does not draw, for a drawn number is a hundred operators to trace.
LAST = list({case.name: case for case in sorted(CASES, key=lambda case: not case.draws)}.values())
each_layer = each(LAST)
with_parameters = each([case for case in OF_TORCH if list(case.module.parameters())])


def test_every_public_layer_has_a_case():
    assert {case.name for case in CASES} == set(nn.__all__) - NOT_LAYERS


@each(OF_TORCH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_and_gradients_are_those_of_torch(case, dtype, matches_torch):
    matches_torch(case.layer, case.module, case.example(dtype), train=False)


@each([case for case in OF_TORCH if not case.draws])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_gradients_and_state_in_training_are_those_of_torch(case, dtype, matches_torch):
    matches_torch(case.layer, case.module, case.example(dtype), train=True)


@each_case
def test_declared_shapes_are_the_actual_ones(case, run_layer):
    """In bfloat16; other dtypes are compared with torch's above."""
    dtype = torch.bfloat16
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


@each_layer
def test_init_needs_only_the_shape(case):
    x = case.example(torch.float64)
    drawn = tree.leaves(case.init(x))
    abstract = tree.leaves(case.init(ShapeDtype(x.shape, x.dtype)))
    declared = tree.leaves(pf.eval_shape(case.init, x))
    assert len(drawn) == len(abstract) == len(declared)
    for one, other, shape in zip(drawn, abstract, declared, strict=True):
        assert torch.equal(one, other)
        assert (one.shape, one.dtype) == (shape.shape, shape.dtype)


HAS_PARAMETERS = {case.name: case.init(case.example()) != ({}, {}) for case in LAST}
PROGRAMS = {
    "functions": [case for case in LAST if not (HAS_PARAMETERS[case.name] or case.draws)],
    "draws": [case for case in LAST if not HAS_PARAMETERS[case.name] and case.draws],
    **{case.name: [case] for case in LAST if HAS_PARAMETERS[case.name]},
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
    # What AOT adds to our own tracing is seen in one program of many layers.
    backend = "aot_eager" if program == "functions" else "eager"
    compiled = pf.jit(every, backend=backend)(made, xs, random.key(3))
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


@each(
    [
        case
        for case in OF_TORCH
        if list(case.module.parameters()) and not case.mixes and not case.draws
    ]
)
def test_gradients_of_every_example(case, run_layer, is_close):
    x = case.example(torch.float64)
    params, state = case.init(x)
    params = tree.cast(params, torch.float64)

    def losses(params, x):
        y, _ = run_layer(case.layer, params, state, x)
        return (y.tanh().square() + y).flatten(1).sum(1)

    found = tree.leaves(per_example.grads(losses)(params, x))
    rows = [pf.grad(lambda p, row=row: losses(p, row[None]).sum())(params) for row in x]
    norms = per_example.norms(losses, method="ghost")(params, x).parts
    for name, actual, expected, norm in zip(
        tree.path_strings(params), found, tree.leaves(tree.stack(rows)), tree.leaves(norms),
        strict=True,
    ):  # fmt: skip
        is_close(actual, expected, name)
        is_close(norm, expected.reshape(len(x), -1).square().sum(1), f"norm of {name}")


@with_parameters
def test_state_dicts_go_both_ways(case, from_module):
    x = case.example()
    params, state = case.init(x)
    merged = {**tree.to_state_dict(params), **tree.to_state_dict(state)}
    module = copy.deepcopy(case.module).float()
    module.load_state_dict(merged)
    for ours, theirs in zip((params, state), from_module(module), strict=True):
        assert tree.structure(ours) == tree.structure(theirs)
        assert tree.all(tree.map(torch.equal, ours, theirs))


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
