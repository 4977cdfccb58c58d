"""`precision` over every layer of the registry, and training in bfloat16 against float32."""

import copy

import pytest
import torch
from registry import CASES

import purefn.functional as pf
from purefn.functional import losses, nn, random, tree

HALF = torch.bfloat16
#: What rounding, and noise of another dtype, may send to another expert.
ROUTED = {"mixture_of_experts", "tracked_mixture_of_experts", "noisy_router"}


def floats(values):
    return [leaf for leaf in tree.leaves(values) if leaf.is_floating_point()]


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if floats(case.init(case.example()))],
    ids=lambda case: case.name + case.variant,
)
def test_every_layer_computes_in_bfloat16_and_keeps_float32(case, run_layer):
    """Parameters, state, outputs and gradients are float32, and near those of the plain layer."""
    x, key = case.example(), random.key(3)
    layer = nn.precision(case.layer)
    made = layer.init(random.key(0), x)
    params, state = made if isinstance(layer, nn.StatefulLayer) else (made, {})
    plain = case.init(x)
    assert tree.all(tree.map(torch.equal, (params, state), plain))

    def objective(layer):
        def value(params):
            y, after = run_layer(layer, params, state, x, key=key, train=True)
            return sum(leaf.sin().mean() for leaf in floats(y)), (y, after)

        return pf.grad(value, has_aux=True)(params)

    found, expected = objective(layer), objective(case.layer)
    assert all(leaf.dtype == torch.float32 for leaf in floats(found))
    assert tree.structure(found) == tree.structure(expected)
    if case.name in ROUTED:
        return
    (grads, (y, after)), (plain_grads, (plain_y, plain_after)) = found, expected
    for part, other in ((grads, plain_grads), (y, plain_y), (after, plain_after)):
        scale = max((leaf.abs().max().item() for leaf in floats(other)), default=0.0)
        for actual, wanted in zip(floats(part), floats(other), strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0.03 * scale)
    outputs = [floats(side[1][0]) for side in (found, expected)]
    if case.layer.uses_key or not params:
        return
    assert any(not torch.equal(a, b) for a, b in zip(*outputs, strict=True))  # it did compute so


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (nn.batch_norm(), torch.nn.BatchNorm2d(3)),
        (
            nn.tracked_instance_norm(affine=True),
            torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        ),
    ],
    ids=["batch_norm", "tracked_instance_norm"],
)
def test_statistics_are_those_of_torchs_float32_module_over_bfloat16_inputs(layer, module, train):
    """A hundred steps of averaging, at which a state in bfloat16 would have stopped moving."""
    module = copy.deepcopy(module)
    x = (2 + torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))).to(HALF)
    params, state = layer.init(random.key(0), x.float())
    for _ in range(100):
        expected = module(x)
        y, state = nn.precision(layer, output=HALF)(params, state, x, train=True)
    if not train:
        expected = module.eval()(x)
        y, _ = nn.precision(layer, output=HALF)(params, state, x)
    torch.testing.assert_close(y, expected, rtol=2**-8, atol=2**-8)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(state[name], getattr(module, name), rtol=1e-5, atol=1e-6)


def test_dtypes_are_those_that_were_asked_for():
    layer = nn.serial(a=nn.linear(3), look=lambda x: (seen.append(x.dtype), x)[1])
    seen = []
    model = nn.precision(layer, params=torch.float64, compute=torch.float16, output=HALF)
    params = model.init(random.key(0), torch.ones(2, 5))
    assert {leaf.dtype for leaf in tree.leaves(params)} == {torch.float64}
    seen.clear()
    assert model(params, torch.ones(2, 5)).dtype == HALF
    assert seen == [torch.float16]
    indices = nn.precision(nn.embedding(7, 3))
    table = indices.init(random.key(0), torch.tensor([[1, 2]]))
    assert indices(table, torch.tensor([[1, 2]])).dtype == torch.float32


@pytest.mark.parametrize("compute", [torch.float16, HALF, torch.float32, torch.float64])
@pytest.mark.parametrize("params", [HALF, torch.float32, torch.float64])
def test_a_state_fits_what_is_computed_in(params, compute):
    layer = nn.serial(nn.spectral_norm(nn.linear(4)), nn.batch_norm())
    model = nn.precision(layer, params=params, compute=compute, output=torch.float64)
    x = torch.randn(16, 5)
    own, state = model.init(random.key(0), x)
    assert {leaf.dtype for leaf in floats(own)} == {params}
    wanted = torch.float64 if compute == torch.float64 else torch.float32
    assert {leaf.dtype for leaf in floats(state)} == {wanted}
    y, after = model(own, state, x, train=True)
    assert {leaf.dtype for leaf in floats(after)} == {wanted}
    wide = tree.cast((own, state), torch.float64)
    expected, _ = layer(*wide, x.double(), train=True)
    torch.testing.assert_close(y, expected, rtol=0, atol=0.1)


def test_it_composes_with_every_transform():
    model = nn.precision(nn.serial(a=nn.linear(8), act=torch.tanh, b=nn.linear(4)))
    x, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    params = model.init(random.key(0), x)

    def values(params, x, labels):
        return losses.cross_entropy(model(params, x), labels)

    def mean(params, x, labels):
        return values(params, x, labels).mean()

    expected = pf.value_and_grad(mean)(params, x, labels)
    found = pf.jit(pf.value_and_grad(mean), backend="aot_eager")(params, x, labels)
    torch.testing.assert_close(found, expected)
    rows = pf.per_example.grads(values)(params, x, labels)
    torch.testing.assert_close(
        tree.map(lambda g: g.mean(0), rows), expected[1], rtol=0.02, atol=2e-3
    )
    norms = pf.per_example.norms(values, method="ghost")(params, x, labels)
    formed = sum(g.flatten(1).square().sum(1) for g in tree.leaves(rows))
    torch.testing.assert_close(norms.total, formed, rtol=0.03, atol=0)
    stacked = tree.stack([params, tree.map(lambda p: 2 * p, params)])
    batched = pf.vmap(model, in_axes=(0, None))(stacked, x)
    torch.testing.assert_close(batched[0], model(params, x), rtol=0.02, atol=0.02)


def test_refusals():
    with pytest.raises(TypeError, match="precision: expected a Layer or a StatefulLayer"):
        nn.precision(torch.nn.Linear(2, 2))
    for name, wrong in (("params", torch.int64), ("compute", "bfloat16"), ("output", None)):
        with pytest.raises(TypeError, match=f"floating-point torch.dtype for {name}, got"):
            nn.precision(nn.linear(2), **{name: wrong})
    norm = nn.batch_norm()
    params, state = norm.init(random.key(0), torch.ones(2, 3))
    wide = tree.cast(state, torch.float64)
    with pytest.raises(nn.LayerError, match="float64"):
        norm(params, wide, torch.ones(2, 3))
    with pytest.raises(nn.LayerError, match="float64"):
        norm(tree.cast(params, HALF), wide, torch.ones(2, 3, dtype=HALF))
    with pytest.raises(nn.LayerError, match=r"'weight' of torch\.float32"):
        norm(params, state, torch.ones(2, 3, dtype=HALF))
