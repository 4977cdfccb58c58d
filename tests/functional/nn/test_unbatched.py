"""Single examples, where torch takes them."""

import pytest
import torch
from registry import CASES

from purefn.functional import ShapeDtype, nn, random, tree

KINDS = (
    "conv1d", "conv2d", "conv3d", "conv_transpose", "max_pool", "avg_pool", "lp_pool", "adaptive_",
    "max_unpool", "fractional_", "_pad", "multi_head_attention", "transformer_", "softmax2d",
    "instance_normaffine",
)  # fmt: skip
SINGLE = [
    case
    for case in CASES
    if case.module is not None
    and any(kind in case.name + case.variant for kind in KINDS)
    and not case.name.startswith("global_")  # of which the number of dimensions is not known
]
KEY = random.key(0)


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name + case.variant)
def test_a_single_example_is_torchs(case, matches_torch, is_close, run_layer):
    x = case.example(torch.float64)
    if case.name.startswith("fractional"):  # torch's places have a batch
        params, state = case.init(x)
        both, _ = run_layer(case.layer, params, state, x)
        for one, expected in zip(x, both, strict=True):
            is_close(run_layer(case.layer, params, state, one)[0], expected, case.name)
        return
    if "causal" in case.variant or "first" in case.variant or "transformer_decoder" in case.name:
        module = _OfOne(case.module)
        module.train(False)
        params = tree.from_state_dict(
            {name: v.double() for name, v in case.module.state_dict().items()}
        )
        expected = module.double()(x[0]).detach()
        is_close(case.layer(params, x[0]), expected, case.name)
        return
    matches_torch(case.layer, case.module, x[0])
    drawn = tree.structure(case.init(x))
    assert tree.structure(case.init(ShapeDtype(x.shape[1:], x.dtype))) == drawn


class _OfOne(torch.nn.Module):
    """A module that makes its mask for a batch, of one example."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x[None])[0]


@pytest.mark.parametrize("dims", [1, 3])
def test_channels_of_a_single_example_are_dropped(dims):
    layer = getattr(nn, f"dropout{dims}d")(0.5)
    x = torch.ones(64, *(2 for _ in range(dims)))
    y = layer({}, x, key=KEY, train=True).flatten(1)
    assert torch.equal(y.amax(1), y.amin(1))
    assert y.unique().tolist() == [0.0, 2.0]
    assert torch.equal(layer({}, x), x)


def test_what_could_be_two_things_is_refused():
    with pytest.raises(nn.LayerError, match=r"dropout2d expected .*\(N, C, H, W\)"):
        nn.dropout2d(0.5)({}, torch.ones(3, 4, 4), key=KEY, train=True)
