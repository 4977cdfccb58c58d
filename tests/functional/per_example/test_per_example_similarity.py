"""Inner products of per-example gradients against those of gradients from one backward each."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import purefn.functional as pf
from purefn.functional import per_example, tree
from purefn.functional.per_example.calls import Call
from purefn.functional.per_example.products import _meeting, leaves_of

METHODS = ["auto", "ghost", "materialize"]


def plain(fun):
    return fun


def staged(fun):
    return pf.jit(fun, backend="eager")


HOW = pytest.mark.parametrize("how", [plain, staged])
WAYS = pytest.mark.parametrize(
    ("how", "method", "chunk_size"),
    [
        (plain, "auto", 2),
        (plain, "ghost", None),
        (plain, "materialize", None),
        (staged, "auto", None),
    ],
)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# --- functions whose gradients are products of every kind ----------------------------------------


def dense(params, x):
    h = torch.tanh(functional.linear(x, params["w"], params["b"]))
    return (h @ params["v"]).square().reshape(len(x), -1).sum(1)


def convolutional(params, x):
    h = functional.conv2d(x, params["w"], params["b"], stride=2, padding=1, groups=2).tanh()
    return h.square().flatten(1) @ params["v"]


def tied(params, tokens):
    table, w = params["table"], params["w"]
    logits = functional.embedding(tokens, table).tanh() @ w @ table.T
    targets = tokens.roll(1, 1).flatten()
    losses = functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
    return losses.view(tokens.shape).sum(1)


def embedded(params, tokens):
    return functional.linear(params["table"][tokens].mean(1), params["w"]).sin().sum(1)


def gated(params, x):
    """Two gates that take halves of one weight: gradients that are put side by side."""
    first, second = params["w"][:3], params["w"][3:]
    return (torch.sigmoid(x @ first.T) * torch.tanh(x @ second.T)).square().sum(1)


def cases():
    torch.manual_seed(0)
    tokens = torch.randint(0, 6, (5, 4))
    return {
        "vectors": (dense, {"w": randn(4, 3), "b": randn(4), "v": randn(4)}, randn(5, 3)),
        "sequences": (dense, {"w": randn(4, 3), "b": randn(4), "v": randn(4)}, randn(5, 6, 3)),
        "images": (
            convolutional,
            {"w": randn(4, 1, 3, 3), "b": randn(4), "v": randn(36)},
            randn(5, 2, 5, 5),
        ),
        "tied": (tied, {"table": randn(6, 3), "w": randn(3, 3)}, tokens),
        "embedded": (embedded, {"table": randn(60, 3), "w": randn(2, 3)}, tokens),
        "gated": (gated, {"w": randn(6, 4)}, randn(5, 4)),
    }


CASES = cases()
EVERY = pytest.mark.parametrize("case", CASES)


def matrix(oracle, losses_fn, params, *batch):
    return torch.cat([leaf.flatten(1) for leaf in oracle.gradients(losses_fn, params, *batch)], 1)


# --- values --------------------------------------------------------------------------------------


@WAYS
@EVERY
def test_gram_is_the_product_of_the_gradients(oracle, how, case, method, chunk_size):
    losses_fn, params, x = CASES[case]
    rows = matrix(oracle, losses_fn, params, x)
    gram = how(per_example.gram(losses_fn, method=method, chunk_size=chunk_size))
    oracle.assert_equal(gram(params, x), rows @ rows.T)


@WAYS
@EVERY
def test_cross_gram_is_between_two_batches(oracle, how, case, method, chunk_size):
    losses_fn, params, x = CASES[case]
    other = x[:2].flip(1)
    expected = matrix(oracle, losses_fn, params, x) @ matrix(oracle, losses_fn, params, other).T
    cross = how(per_example.cross_gram(losses_fn, method=method, chunk_size=chunk_size))
    oracle.assert_equal(cross(params, (x,), (other,)), expected)


def test_cross_gram_takes_batches_of_other_lengths_within_examples(oracle):
    losses_fn, params, x = CASES["sequences"]
    short = x[:3, :2]
    expected = matrix(oracle, losses_fn, params, x) @ matrix(oracle, losses_fn, params, short).T
    found = per_example.cross_gram(losses_fn, method="ghost")(params, (x,), (short,))
    oracle.assert_equal(found, expected)


@EVERY
def test_no_gradient_of_a_product_is_formed(case):
    losses_fn, params, x = CASES[case]
    leaves = leaves_of(Call("gram", losses_fn, (params, x)), "ghost")
    paths = tree.path_strings(params, "params")
    known = {path for path, leaf in zip(paths, leaves, strict=True) if _meeting(leaf, leaf)}
    assert known >= {path for path in paths if "w" in path or "table" in path}


@settings(max_examples=6)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    positions=st.lists(st.integers(1, 3), max_size=2),
    seed=st.integers(0, 2**20),
)
def test_methods_agree_for_any_sizes(sizes, positions, seed):
    torch.manual_seed(seed)
    batch, width, inputs = sizes
    params = {"w": randn(width, inputs), "b": randn(width), "v": randn(width)}
    x = randn(batch, *positions, inputs)
    first, *others = [per_example.gram(dense, method=method)(params, x) for method in METHODS]
    for other in others:
        torch.testing.assert_close(first, other, rtol=1e-10, atol=1e-12 * first.abs().max().item())


@EVERY
def test_cosines(oracle, case):
    losses_fn, params, x = CASES[case]
    rows = matrix(oracle, losses_fn, params, x)
    found = per_example.cosine_similarity(losses_fn)(params, x)
    oracle.assert_equal(found, functional.cosine_similarity(rows[:, None], rows[None], dim=2))


def test_the_cosine_with_a_zero_gradient_is_zero():
    params, x = {"w": randn(3)}, torch.cat([randn(2, 3), torch.zeros(1, 3).double()])
    found = per_example.cosine_similarity(lambda params, x: x @ params["w"])(params, x)
    assert torch.equal(found[2], torch.zeros(3).double())
    assert torch.equal(found[:, 2], torch.zeros(3).double())
    assert found.isfinite().all()


@EVERY
@pytest.mark.parametrize("method", METHODS)
def test_diversity_is_the_ratio_of_yin_et_al(oracle, case, method):
    losses_fn, params, x = CASES[case]
    rows = matrix(oracle, losses_fn, params, x)
    found = per_example.gradient_diversity(losses_fn, method=method, chunk_size=2)(params, x)
    oracle.assert_equal(found, rows.square().sum() / rows.sum(0).square().sum())


@HOW
@EVERY
def test_dot_is_the_product_with_one_direction(oracle, how, case):
    losses_fn, params, x = CASES[case]
    direction = tree.map(torch.randn_like, params)
    flat = torch.cat([leaf.flatten() for leaf in tree.leaves(direction)])
    found = how(lambda params, v, x: per_example.dot(losses_fn, v)(params, x))
    oracle.assert_equal(found(params, direction, x), matrix(oracle, losses_fn, params, x) @ flat)


# --- composition, precision and refusals ---------------------------------------------------------


def test_gram_of_several_models_by_vmap(oracle):
    losses_fn, params, x = CASES["sequences"]
    models = tree.map(lambda leaf: torch.stack([leaf, leaf + 1]), params)
    found = pf.vmap(per_example.gram(losses_fn), in_axes=(0, None))(models, x)
    for index, grams in enumerate(found):
        rows = matrix(oracle, losses_fn, tree.map(lambda leaf: leaf[index], models), x)  # noqa: B023
        oracle.assert_equal(grams, rows @ rows.T)


def test_products_of_half_precision_gradients_are_taken_in_single():
    params, x = {"w": torch.full((300,), 0.5, dtype=torch.float16)}, torch.ones(2, 300)
    x = 30 * x.half()
    found = per_example.gram(lambda params, x: x @ params["w"])(params, x)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.full((2, 2), 300.0 * 900))


def test_argnums_selects_what_is_differentiated():
    x, w = randn(3, 2), randn(2)
    found = per_example.gram(lambda x, w: x @ w, argnums=1)(x, w)
    torch.testing.assert_close(found, x @ x.T)


def test_a_parameter_that_is_not_used_adds_nothing():
    x = randn(3, 2)
    params = {"w": randn(2), "unused": randn(4)}
    found = per_example.gram(lambda params, x: x @ params["w"])(params, x)
    torch.testing.assert_close(found, x @ x.T)


@pytest.mark.parametrize("transform", ["gram", "cosine_similarity", "gradient_diversity"])
def test_what_grads_refuses_is_refused(transform):
    make = getattr(per_example, transform)
    params, x = {"w": randn(2)}, randn(3, 2)
    with pytest.raises(ValueError, match=r"drop the \.mean"):
        make(lambda params, x: (x @ params["w"]).mean())(params, x)
    with pytest.raises(ValueError, match="mix examples"):
        make(lambda params, x: x @ params["w"] - (x @ params["w"]).mean())(params, x)
    with pytest.raises(TypeError, match="only floating-point"):
        make(lambda params, x: x @ params["w"].double())({"w": torch.ones(2, dtype=int)}, x)
    with pytest.raises(ValueError, match="'auto', 'ghost', 'materialize' for method"):
        make(lambda params, x: x @ params["w"], method="fast")
    with pytest.raises(ValueError, match="int >= 1 or None for chunk_size"):
        make(lambda params, x: x @ params["w"], chunk_size=0)


def test_a_direction_unlike_the_parameters_is_refused():
    losses_fn, params, x = CASES["vectors"]
    with pytest.raises((TypeError, ValueError), match="w"):
        per_example.dot(losses_fn, {"w": params["w"]})(params, x)


def test_a_batch_that_is_no_tuple_is_refused():
    losses_fn, params, x = CASES["vectors"]
    with pytest.raises(TypeError, match=r"tuple .* for other_batch, got float64 of shape \(5, 3\)"):
        per_example.cross_gram(losses_fn)(params, (x,), x)
