"""Digits: bias corrections at every step, moments in another dtype, values at the edge."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.optim import moments

# ------------------------------------------------------------------------------- bias correction


@given(
    decay=st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.999999]),
    count=st.sampled_from([1, 2, 3, 10, 100, 1000, 10**4]),
)
def test_bias_correction_is_the_exact_number_rounded(decay, count):
    exact = float(1 - Fraction(decay) ** count)
    corrected = moments.bias_correction(decay, torch.tensor(count)).item()
    assert abs(corrected - exact) <= 4 * np.spacing(exact)


@pytest.mark.parametrize("count", [10**5, 10**6, 10**7])
def test_bias_correction_after_many_steps(count):
    decay = 1 - 2.0**-23
    exact = -np.expm1(np.longdouble(count) * np.log1p(np.longdouble(-(2.0**-23))))
    corrected = moments.bias_correction(decay, torch.tensor(count)).item()
    assert abs(corrected - float(exact)) <= 1e-14 * float(exact)


@pytest.mark.parametrize("count", [0, 1, 9_999_999])
def test_adam_in_float32_keeps_its_digits(count):
    """A constant gradient moves by `lr * sign(g)`, whatever the step, if moments fit the step."""
    optimizer = optim.adam(1.0, eps=0.0)
    g = torch.tensor([0.3, -2e-3, 70.0])
    state = optimizer.init(g)
    rest1, rest2 = (1 - moments.bias_correction(b, torch.tensor(count)) for b in (0.9, 0.999))
    inner = state[0]._replace(
        count=torch.tensor(count),
        mu=((1 - rest1) * g.double()).float(),
        nu=((1 - rest2) * g.double() ** 2).float(),
    )
    updates, _ = optimizer.update(g, (inner, *state[1:]), g)
    torch.testing.assert_close(updates, -g.sign(), rtol=3e-7, atol=0)


# ------------------------------------------------------------------------- moments of another dtype


def adam_by_hand(gradients, mu_dtype, b1=0.9, b2=0.999, eps=1e-8):
    """Adam in float64, whose first moment is rounded to `mu_dtype` after each step."""
    m = v = torch.zeros_like(gradients[0])
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        yield m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + eps), m.to(mu_dtype)
        m = m.to(mu_dtype).double()


@pytest.mark.parametrize("mu_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale_by", [optim.scale_by_adam, optim.scale_by_amsgrad])
def test_the_first_moment_in_another_dtype(scale_by, mu_dtype):
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, 1, 60, dtype=torch.float64)  # growing: AMSGrad is then Adam
    gradients = [
        scale * (1 + torch.rand(4, 3, dtype=torch.float64, generator=generator)) for scale in scales
    ]
    rescale = scale_by(mu_dtype=mu_dtype)
    state = rescale.init(gradients[0])
    for g, (update, mu) in zip(gradients, adam_by_hand(gradients, mu_dtype), strict=True):
        ours, state = rescale.update(g, state)
        torch.testing.assert_close(ours, update, rtol=1e-12, atol=0)
        assert state.mu.dtype == mu_dtype
        assert torch.equal(state.mu, mu)


@pytest.mark.parametrize("params_dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mu_dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_mu_dtype_is_kept_however_it_runs(params_dtype, mu_dtype):
    params = {"w": torch.rand(3, 2).to(params_dtype), "s": torch.rand(()).to(params_dtype)}
    optimizer = optim.adamw(0.1, mu_dtype=mu_dtype, amsgrad=True)
    grads = tree.map(torch.ones_like, params)
    compiled = pf.jit(optimizer.update, backend="eager")
    state = optimizer.init(params)
    for _ in range(3):
        updates, after = optimizer.update(grads, state, params)
        assert_same((updates, after), compiled(grads, state, params))
        assert tree.map(lambda leaf: leaf.dtype, after) == tree.map(lambda leaf: leaf.dtype, state)
        assert optim.get(after, "mu")["w"].dtype == mu_dtype
        assert updates["w"].dtype == params_dtype
        state = after
    assert compiled.trace_count == 1


def assert_same(left, right):
    for ours, theirs in zip(tree.leaves(left), tree.leaves(right), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(
            ours, theirs, rtol=1e-6 if ours.dtype != torch.bfloat16 else 0.01, atol=0
        )


@pytest.mark.parametrize("wrong", [torch.int32, torch.complex64, "float32", 32])
def test_a_mu_dtype_that_is_none(wrong):
    with pytest.raises(TypeError, match=r"mu_dtype: expected a floating-point torch\.dtype"):
        optim.adam(mu_dtype=wrong)


def test_complex_moments_have_no_other_dtype():
    with pytest.raises(TypeError, match=r"params\['w'\] is a tensor of torch\.complex64"):
        optim.adam(mu_dtype=torch.float32).init({"w": torch.ones(1, dtype=torch.complex64)})
