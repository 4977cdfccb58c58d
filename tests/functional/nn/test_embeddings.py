import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from purefn.functional import nn, random

KEY = random.key(0)


@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 5)),
    shape=st.lists(st.integers(1, 4), max_size=3),
    padding=st.one_of(st.none(), st.integers(-6, 5)),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    seed=st.integers(0, 99),
)
def test_embedding(sizes, shape, padding, dtype, seed, matches_torch):
    if padding is not None and not -sizes[0] <= padding < sizes[0]:
        with pytest.raises(ValueError, match=f"padding_idx within the {sizes[0]} rows, got"):
            nn.embedding(*sizes, padding)
        return
    x = torch.randint(0, sizes[0], shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    layer = nn.embedding(*sizes, padding)
    matches_torch(layer, torch.nn.Embedding(*sizes, padding), x)
    if padding is not None:
        weight = layer.init(KEY, x)["weight"]
        assert torch.equal(weight[padding], torch.zeros(sizes[1]))
        assert (weight != 0).any(dim=1).sum() == sizes[0] - 1


def test_default_values_are_standard_normal():
    weight = nn.embedding(200, 50).init(KEY, torch.tensor([0]))["weight"]
    assert stats.kstest(weight.flatten().numpy(), "norm").pvalue > 1e-3


def test_refusals():
    layer = nn.embedding(5, 3)
    params = layer.init(KEY, torch.tensor([0]))
    with pytest.raises(nn.LayerError, match=r"torch.int32 or torch.int64, got torch.float32"):
        layer(params, torch.ones(2))
    with pytest.raises(nn.LayerError, match=r"torch.int32 or torch.int64, got torch.uint8"):
        layer.init(KEY, torch.ones(2, dtype=torch.uint8))
    for index in (5, -1):
        model, tokens = nn.serial(tokens=layer), torch.tensor([index])
        with pytest.raises(
            nn.LayerError,
            match=rf"^model\['tokens'\]: embedding expected indices .*\[0, 5\), got \[{index}\]",
        ):
            model({"tokens": params}, tokens)
    with pytest.raises(nn.LayerError, match=r"'weight' to be a tensor of shape \(5, 3\)"):
        layer({"weight": torch.ones(3, 5)}, torch.tensor([0]))
    with pytest.raises(ValueError, match="num_embeddings >= 1, got 0"):
        nn.embedding(0, 3)
    for padding_idx in (True, 1.0, "0"):
        with pytest.raises(TypeError, match="embedding: expected an integer for padding_idx, got"):
            nn.embedding(5, 3, padding_idx)
