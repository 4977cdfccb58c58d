import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import ShapeDtype, nn, per_example, random, tree

KEY = random.key(0)


def indices(rows, shape, seed, dtype=torch.int64):
    return torch.randint(0, rows, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 5),
    width=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    mode=st.sampled_from(["sum", "mean", "max"]),
    padding=st.one_of(st.none(), st.integers(-5, 4)),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    seed=st.integers(0, 99),
)
def test_embedding_bag(rows, width, shape, mode, padding, dtype, seed, matches_torch):
    if padding is not None and not -rows <= padding < rows:
        with pytest.raises(ValueError, match=f"embedding_bag: .* within the {rows} rows, got"):
            nn.embedding_bag(rows, width, mode, padding)
        return
    layer = nn.embedding_bag(rows, width, mode, padding)
    module = torch.nn.EmbeddingBag(rows, width, mode=mode, padding_idx=padding)
    # The row of the padding counts for nothing even where it is not zero.
    torch.nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(seed))
    x = indices(rows, shape, seed, dtype)
    matches_torch(layer, module, x)
    if padding is not None:
        weight = layer.init(KEY, x)["weight"]
        assert torch.equal(weight[padding], torch.zeros(width))


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from([None, 1, -2]),
    seed=st.integers(0, 99),
)
def test_weights_of_samples(shape, padding, seed):
    module = torch.nn.EmbeddingBag(5, 3, mode="sum", padding_idx=padding).double()
    layer = nn.embedding_bag(5, 3, "sum", padding)
    x = indices(5, shape, seed)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    theirs = weights.clone().requires_grad_()
    expected = module(x, per_sample_weights=theirs)
    expected.square().sum().backward()

    def objective(params, weights):
        y = layer(params, (x, weights))
        return y.square().sum(), y

    params = {"weight": module.weight.detach().clone()}
    grads, y = pf.grad(objective, (0, 1), has_aux=True)(params, weights)
    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(grads[0]["weight"], module.weight.grad)
    torch.testing.assert_close(grads[1], theirs.grad)


def test_compiled_weights_of_samples():
    layer = nn.embedding_bag(5, 3, "sum", 2)
    x, weights = indices(5, (4, 6), 0), torch.randn(4, 6)
    grad = pf.grad(lambda params, w: layer(params, (x, w)).square().sum(), (0, 1))
    params = layer.init(KEY, (x, weights))
    compiled = pf.jit(grad, backend="aot_eager")(params, weights)
    eager = grad(params, weights)
    for one, other in zip(tree.leaves(compiled), tree.leaves(eager), strict=True):
        torch.testing.assert_close(one, other)


def test_pairs_per_example_and_under_vmap():
    layer = nn.embedding_bag(5, 3, "sum", 2)
    x, weights = indices(5, (4, 6), 0), torch.randn(4, 6)
    params = layer.init(KEY, (x, weights))

    def losses(params, x, weights):
        return layer(params, (x, weights)).square().sum(1)

    found = per_example.grads(losses)(params, x, weights)["weight"]
    for row in range(4):
        one = x[row][None], weights[row][None]
        expected = pf.grad(lambda p, one=one: losses(p, *one).sum())(params)["weight"]
        torch.testing.assert_close(found[row], expected)
    norms = per_example.norms(losses, method="ghost")(params, x, weights).parts["weight"]
    torch.testing.assert_close(norms, found.flatten(1).square().sum(1))
    batched = pf.vmap(lambda x, w: losses(params, x[None], w[None])[0])(x, weights)
    torch.testing.assert_close(batched, losses(params, x, weights))


def test_the_parameter_has_the_dtype_of_the_weights():
    x = (indices(5, (4, 6), 0), ShapeDtype((4, 6), torch.float64))
    assert nn.embedding_bag(5, 3, "sum").init(KEY, x)["weight"].dtype == torch.float64


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_nothing_become_zeros(mode):
    layer = nn.embedding_bag(5, 3, mode, 2)
    params = {"weight": torch.ones(5, 3)}
    assert torch.equal(layer(params, torch.full((2, 4), 2)), torch.zeros(2, 3))
    assert torch.equal(layer(params, torch.zeros(2, 0, dtype=torch.int64)), torch.zeros(2, 3))
    assert layer(params, torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 3)


def test_what_is_no_number_stays_in_its_row():
    weight = torch.ones(5, 3)
    weight[2] = torch.nan
    for mode in ("sum", "mean", "max"):
        layer = nn.embedding_bag(5, 3, mode, 2)
        assert layer({"weight": weight}, torch.tensor([[1, 2]])).isfinite().all()


def test_refuses_options():
    for mode in ("add", None, 2):
        with pytest.raises(ValueError, match=f"embedding_bag: expected mode .*, got .?{mode}"):
            nn.embedding_bag(5, 3, mode)
    with pytest.raises(ValueError, match="embedding_bag: expected num_embeddings >= 1, got 0"):
        nn.embedding_bag(0, 3)
    with pytest.raises(TypeError, match="embedding_bag: expected an integer for padding_idx"):
        nn.embedding_bag(5, 3, "sum", 1.0)


def test_refuses_inputs():
    layer = nn.embedding_bag(5, 3, "sum")
    x, params = torch.tensor([[0, 1]]), {"weight": torch.ones(5, 3)}
    with pytest.raises(nn.LayerError, match=r"embedding_bag expected .*\(N, k\), got \(1,\)"):
        layer(params, torch.tensor([1]))
    with pytest.raises(nn.LayerError, match=r"embedding_bag expected .*int64, got torch.float32"):
        layer(params, torch.ones(2, 3))
    with pytest.raises(nn.LayerError, match=r"embedding_bag expected indices .*\[0, 5\), got \[5"):
        layer(params, torch.tensor([[5, 1]]))
    with pytest.raises(nn.LayerError, match=r"'weight' to be a tensor of shape \(5, 3\)"):
        layer({"weight": torch.ones(3, 5)}, x)
    with pytest.raises(nn.LayerError, match=r"embedding_bag expected .* \(1, 2\), got \(2, 1\)"):
        layer(params, (x, torch.ones(2, 1)))
    with pytest.raises(nn.LayerError, match=r"embedding_bag got an input of torch.float64 and 'we"):
        layer(params, (x, torch.ones(1, 2, dtype=torch.float64)))
    with pytest.raises(nn.LayerError, match=r"per_sample_weights\), got a tuple of length 4"):
        layer(params, (x, torch.ones(1, 2), x, x))
    with pytest.raises(nn.LayerError, match="weights with mode='sum' only, got mode='mean'"):
        nn.embedding_bag(5, 3)(params, (x, torch.ones(1, 2)))


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    mode=st.sampled_from(["sum", "mean", "max"]),
    padding=st.sampled_from([None, 1, -2]),
    seed=st.integers(0, 99),
)
def test_bags_of_different_lengths(lengths, mode, padding, seed):
    module = torch.nn.EmbeddingBag(5, 3, mode=mode, padding_idx=padding).double()
    layer = nn.embedding_bag(5, 3, mode, padding)
    x = indices(5, (sum(lengths),), seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    # torch's backward pass of a maximum fails where there is no row at all.
    weights = (torch.randn(len(x), dtype=torch.float64),) if mode == "sum" else ()
    expected = module(x, offsets, *weights)

    def objective(params):
        y = layer(params, (x, offsets, *weights))
        return y.square().sum(), y

    grads, y = pf.grad(objective, has_aux=True)({"weight": module.weight.detach().clone()})
    torch.testing.assert_close(y, expected.detach(), rtol=1e-12, atol=1e-12)
    if len(x):
        expected.square().sum().backward()
        # Where a bag has one row twice, torch gives the first the whole gradient: the sum is one.
        torch.testing.assert_close(grads["weight"], module.weight.grad, rtol=1e-12, atol=1e-12)


def test_offsets_under_the_transforms():
    x, offsets = indices(5, (2, 6), 0), torch.tensor([[0, 2, 5], [0, 0, 3]])
    for mode in ("sum", "mean", "max"):
        layer = nn.embedding_bag(5, 3, mode)
        params = layer.init(KEY, (x[0], offsets[0]))
        grad = pf.grad(lambda p, x, o, layer=layer: layer(p, (x, o)).square().sum())
        rows = [grad(params, *pair)["weight"] for pair in zip(x, offsets, strict=True)]
        mapped = pf.vmap(grad, (None, 0, 0))(params, x, offsets)["weight"]
        torch.testing.assert_close(mapped, torch.stack(rows))
        compiled = pf.jit(grad, backend="aot_eager")(params, x[0], offsets[0])["weight"]
        torch.testing.assert_close(compiled, rows[0])


def test_refuses_offsets():
    layer = nn.embedding_bag(5, 3)
    x = indices(5, (4,), 0)
    params = layer.init(KEY, (x, torch.tensor([0, 2])))
    for offsets in ([1, 2], [0, 3, 2], [0, 5]):
        with pytest.raises(nn.LayerError, match=r"offsets that begin with 0 .* up to 4, got \["):
            layer(params, (x, torch.tensor(offsets)))
    with pytest.raises(nn.LayerError, match=r"shape \(k\), got \(1, 4\)"):
        layer(params, (x[None], torch.tensor([0])))
    with pytest.raises(nn.LayerError, match="mode='sum' only"):
        layer(params, (x, torch.tensor([0]), torch.ones(4)))


def test_the_first_of_equal_rows_has_the_gradient_of_their_maximum():
    layer, module = nn.embedding_bag(6, 3, "max"), torch.nn.EmbeddingBag(6, 3, mode="max")
    torch.nn.init.zeros_(module.weight)
    indices, offsets = torch.tensor([4, 1, 2, 3, 3, 5]), torch.tensor([0, 3])
    (expected,) = torch.autograd.grad(module(indices, offsets).sum(), module.weight)
    params = {"weight": torch.zeros(6, 3)}
    for x in ((indices, offsets), indices.reshape(2, 3)):
        grads = pf.grad(lambda params, x=x: layer(params, x).sum())(params)
        assert torch.equal(grads["weight"], expected)
    unknown = {"weight": torch.zeros(6, 3).index_fill(0, torch.tensor([2]), torch.nan)}
    y = layer(unknown, (indices, offsets))
    assert y[0].isnan().all()
    assert not y[1].any()
