"""Transforms of functions that call torch's attention themselves, against attention by hand."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import purefn.functional as pf

QUERY, KEY, VALUE = torch.randn(
    3, 2, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)
CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()


def fused(query):
    return scaled_dot_product_attention(query, KEY, VALUE, is_causal=True).square().sum((1, 2, 3))


def by_hand(query):
    scores = (query @ KEY.mT / 2).masked_fill(~CAUSAL, -torch.inf)
    return (scores.softmax(-1) @ VALUE).square().sum((1, 2, 3))


TRANSFORMS = {
    "jacrev": pf.jacrev,
    "jacfwd": pf.jacfwd,
    "hessian": lambda fun: pf.hessian(lambda query: fun(query).sum()),
    "jvp": lambda fun: lambda query: pf.jvp(fun, (query,), (QUERY,)),
    "hvp": lambda fun: lambda query: pf.hvp(lambda q: fun(q).sum(), (query,), (QUERY,)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("stage", [lambda f: f, lambda f: pf.jit(f, backend="aot_eager")])
def test_every_derivative_is_that_of_the_formula(name, stage):
    """A warning that a derivative is a loop would be an error."""
    transform = TRANSFORMS[name]
    torch.testing.assert_close(stage(transform(fused))(QUERY), transform(by_hand)(QUERY))


def test_the_kernels_of_others_stay_as_they_were():
    before = torch.backends.cuda.flash_sdp_enabled()
    pf.jacrev(fused)(QUERY)
    with pytest.raises(ZeroDivisionError):
        pf.jvp(lambda query: fused(query) * (1 / 0), (QUERY,), (QUERY,))
    assert torch.backends.cuda.flash_sdp_enabled() == before
