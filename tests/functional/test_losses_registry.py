"""Every public loss under every transform: one that is not in `CASES` fails the first test."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_registry import CASES

import purefn.functional as pf
from purefn.functional import losses, per_example

NOT_LOSSES = {"init_adaptive_softmax"}
EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.bfloat16)}


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


each_case = each(CASES)
OF_TORCH = [case for case in CASES if case.reference is not None]


def element_means(elements):
    return elements.flatten(1).mean(1) if elements.ndim > 1 else elements


def values_and_gradients(loss, floats, others, constant=()):
    """Return values, and gradients that weigh the examples differently, in float64."""
    floats = [x.clone().requires_grad_(i not in constant) for i, x in enumerate(floats)]
    values = element_means(loss(*floats, *others))
    cotangent = torch.linspace(0.5, 1.5, len(values), dtype=values.dtype, device=values.device)
    gradients = torch.autograd.grad(
        values, [x for x in floats if x.requires_grad], cotangent, materialize_grads=True
    )
    return [result.detach().double() for result in (values, *gradients)]


def same(actual, expected, tolerance=1e-12):
    for a, b in zip(actual, expected, strict=True):
        scale = b.abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, scale))


def test_every_public_loss_has_a_case():
    functions = {name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
    assert functions == set(losses.__all__)
    assert {case.name for case in CASES} == functions - NOT_LOSSES


# --- against torch -------------------------------------------------------------------------------


@each(OF_TORCH)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-2, 1.0, 8.0]))
@settings(max_examples=8)
def test_values_and_gradients_are_torchs(case, seed, scale):
    floats, others = case.inputs(seed=seed, scale=scale)
    same(
        values_and_gradients(case.loss, floats, others, case.constant),
        values_and_gradients(case.reference, floats, others, case.constant),
    )


def no_worse_than_torch(case, dtype, share, floor):
    """Compare the errors, from float64 at the same inputs: ours and torch's."""
    floats, others = case.inputs(dtype)
    exact = values_and_gradients(
        case.reference, [x.double() for x in floats], others, case.constant
    )
    ours = values_and_gradients(case.loss, floats, others, case.constant)
    torchs = exact
    if dtype != torch.bfloat16 or case.has_bfloat16:
        torchs = values_and_gradients(case.reference, floats, others, case.constant)
    for value, reference, truth in zip(ours, torchs, exact, strict=True):
        allowed = share * (reference - truth).abs().max() + floor * EPS[dtype] * truth.abs().max()
        assert (value - truth).abs().max() <= allowed


@each(OF_TORCH)
def test_the_error_in_float32_is_a_few_ulp_of_torchs(case):
    no_worse_than_torch(case, torch.float32, share=2, floor=4)


@each(OF_TORCH)
def test_the_error_in_bfloat16_is_at_most_torchs(case):
    no_worse_than_torch(case, torch.bfloat16, share=1.01, floor=1)


#: Of one operation of torch's, in whose precision they stay, or of functions that are given.
NOT_WIDENED = {
    *("adaptive_log_softmax", "adaptive_softmax", "linear_cross_entropy", "cross_entropy", "nll"),
    *("bce", "l1", "mse"),
    *("ctc", "fenchel_young", "triplet_margin_with_distance"),
}


@each([case for case in OF_TORCH if case.name not in NOT_WIDENED])
@pytest.mark.parametrize("seed", range(5))
def test_bfloat16_is_rounded_once(case, seed):
    floats, others = case.inputs(torch.bfloat16, seed)
    exact = element_means(case.reference(*(x.double() for x in floats), *others))
    error = (case.loss(*floats, *others).double() - exact).abs()
    assert (error <= 0.501 * EPS[torch.bfloat16] * exact.abs() + 1e-6).all()


# --- one value for each example ------------------------------------------------------------------


@each_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_value_for_each_example_in_its_dtype(case, dtype):
    floats, others = case.inputs(dtype)
    copies = [x.clone() for x in (*floats, *others)]
    values = case.loss(*floats, *others)
    assert values.shape == (len(floats[0]),)
    assert values.dtype == dtype
    assert values.isfinite().all()
    assert all(map(torch.equal, (*floats, *others), copies))


@each(CASES)
def test_a_value_depends_on_its_own_example_or_the_loss_says_that_it_does_not(case):
    floats, others = case.inputs()
    jacobian = pf.jacrev(lambda x: case.loss(x, *floats[1:], *others))(floats[0]).flatten(2)
    elsewhere = jacobian[~torch.eye(len(jacobian), dtype=torch.bool)]
    assert case.mixes == bool(elsewhere.any())
    assert case.mixes == (
        "depends on the whole batch" in inspect.getdoc(getattr(losses, case.name))
    )


@each([case for case in CASES if not case.mixes])
def test_vmap_and_the_gradients_of_single_examples(case):
    floats, others = case.inputs()
    axes = case.axes(others)

    def one(*arguments):
        rows = [x if axis is None else x[None] for x, axis in zip(arguments, axes, strict=True)]
        return case.loss(*rows)[0]

    arguments = (*floats, *others)
    same([pf.vmap(one, axes)(*arguments)], [case.loss(*arguments)])
    gradients = pf.vmap(pf.grad(one), axes)(*arguments)
    jacobian = pf.jacrev(lambda x: case.loss(x, *arguments[1:]))(floats[0])
    same([gradients], [jacobian[range(len(jacobian)), range(len(jacobian))]])


@each([case for case in CASES if not case.mixes])
def test_an_empty_batch_has_no_values(case):
    floats, others = case.inputs()
    axes = case.axes(others)
    empty = [x if axis is None else x[:0] for x, axis in zip((*floats, *others), axes, strict=True)]
    assert case.loss(*empty).shape == (0,)


@each_case
def test_every_tensor_is_made_on_the_device_of_the_inputs(case):
    floats, others = case.inputs()
    arguments = [x.to("meta") for x in (*floats, *others)]
    assert case.loss(*arguments).shape == (len(floats[0]),)
    assert case.loss(*arguments).device.type == "meta"


@pytest.mark.cuda
def test_values_and_gradients_on_cuda_are_those_on_the_cpu():
    for case in CASES:
        floats, others = case.inputs()
        expected = values_and_gradients(case.loss, floats, others)
        floats, others = [x.cuda() for x in floats], [x.cuda() for x in others]
        actual = values_and_gradients(case.loss, floats, others)
        same([result.cpu() for result in actual], expected, 1e-11)


def test_gradients_of_single_examples_are_refused_where_examples_mix():
    embeddings, y = torch.eye(4), torch.tensor([0, 0, 1, 1])
    grads = per_example.grads(lambda w, x, y: losses.ntxent(x @ w, y))
    with pytest.raises(ValueError, match="mix examples"):
        grads(torch.ones(4, 2), embeddings, y)


# --- derivatives and compilation -----------------------------------------------------------------


@each_case
def test_both_derivatives_are_finite_differences(case):
    floats, others = case.inputs(seed=1)
    floats = [x.requires_grad_() for x in floats]
    loss = lambda *floats: case.loss(*floats, *others)  # noqa: E731
    assert torch.autograd.gradcheck(loss, floats, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, floats, fast_mode=True)


@each_case
def test_the_forward_derivative_is_the_reverse_one(case):
    floats, others = case.inputs()
    tangents = case.inputs(seed=3)[0]
    total = lambda *floats: case.loss(*floats, *others).sum()  # noqa: E731
    _, forward = pf.jvp(total, floats, tangents)
    gradients = pf.grad(total, argnums=tuple(range(len(floats))))(*floats)
    pairs = zip(gradients, tangents, strict=True)
    same([forward], [sum(((g * t).sum() for g, t in pairs), torch.tensor(0.0).double())], 1e-10)


@pytest.mark.parametrize("part", range(4))
def test_values_and_gradients_compile_to_the_eager_ones(part):
    cases = CASES[part::4]
    inputs = [case.inputs() for case in cases]

    def all_of_them(inputs):
        results = []
        for case, (floats, others) in zip(cases, inputs, strict=True):
            loss = lambda *floats, case=case, others=others: case.loss(*floats, *others)  # noqa: E731
            gradient = pf.grad(lambda *floats, loss=loss: loss(*floats).mean())
            results += [loss(*floats), gradient(*floats)]
        return results

    compiled = pf.jit(all_of_them, backend="aot_eager")(inputs)
    same(compiled, all_of_them(inputs))
