"""Norms and clipped sums where a weight is tied, reused, or made of others: cross terms count."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's name

from purefn.functional import tree

BATCH = 3

#: Cases in which no products are found as yet, so that gradients are formed.
FORMED = {
    "whole and by heads", "and its sum", "upside down", "as a number", "with a chosen row",
    "rows that overlap", "chunks", "split", "unbound", "selected rows", "a triangle", "a diagonal",
    "strides of its own", "part and whole", "two rows", "two columns", "one block twice",
    "scaled by rows", "with a scale for each column", "an outer product", "a Kronecker product",
    "an orthogonal matrix", "of unit rows", "centred", "a mean", "repeated", "expanded", "rolled",
    "masked", "a product in another shape", "of complex numbers", "a penalty",
    "nothing but a penalty",
    "one scale for all examples", "keys from constants", "mixed experts", "broadcast addition",
}  # fmt: skip


def assert_clips_and_understands(oracle, case, losses, params, batch):
    """Demand the numbers, and of cases that are not `FORMED` that matrices need no gradients."""
    oracle.assert_clips(losses, params, batch)
    if case not in FORMED:
        paths = tree.path_strings(params, "params")
        wide = {p for p, leaf in zip(paths, tree.leaves(params), strict=True) if leaf.ndim}
        assert wide <= oracle.understood(losses, params, batch)


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


# --- Weights used more than once -----------------------------------------------------------------

REUSES = {
    "applied twice": ((3, 3), lambda x, w: (x @ w).tanh() @ w),
    "applied four times": ((3, 3), lambda x, w: (((x @ w).tanh() @ w).tanh() @ w).tanh() @ w),
    "with its transpose": ((3, 5), lambda x, w: (x @ w).tanh() @ w.T),
    "square, with its transpose": ((3, 3), lambda x, w: (x @ w).tanh() @ w.T),
    "a row, with its transpose": ((3, 1), lambda x, w: (x @ w).tanh() @ w.T),
    "to one input from two": ((3, 4), lambda x, w: x @ w + x.sin() @ w),
    "against itself": ((3, 4), lambda x, w: x @ w - x.cos() @ w),
    "cancelling itself": ((3, 4), lambda x, w: x @ w - x @ w + x.cumsum(1) @ w * 1e-3),
    "in two spellings": ((3, 4), lambda x, w: x @ w + torch.einsum("btd,de->bte", x.sin(), w)),
    "whole and by heads": (
        (3, 4),
        lambda x, w: x @ w + torch.einsum("btd,dhk->btkh", x.sin(), w.view(3, 2, 2)).flatten(2),
    ),
    "and its sum": ((3, 4), lambda x, w: x @ w + x.sum(-1, keepdim=True) * w.sum(0)),
    "upside down": ((3, 4), lambda x, w: x @ w + x.sin() @ w.flip(0)),
    "in both factors": ((4, 3), lambda x, w: x @ (w.T @ w)),
    "in a quadratic form": ((3, 3), lambda x, w: torch.einsum("bti,ij,btj->bt", x, w + w.T, x)),
    "as a number": ((1, 1), lambda x, w: ((x[..., :1] @ w).tanh() @ w.T) * w),
}  # fmt: skip


@pytest.mark.parametrize("reuse", REUSES)
def test_a_matrix_used_more_than_once(oracle, reuse):
    torch.manual_seed(0)
    shape, use = REUSES[reuse]

    def losses(params, x):
        return oracle.energy(use(x, params))

    assert_clips_and_understands(oracle, reuse, losses, normal(*shape), normal(BATCH, 4, 3))


TIES = {
    "language model": lambda e, i: F.embedding(i, e).cumsum(1).tanh() @ e.T,
    "indexed": lambda e, i: e[i].tanh() @ e.T,
    "with padding": lambda e, i: F.embedding(i, e, padding_idx=2).tanh() @ e.T,
    "encoder and decoder": lambda e, i: (e[i].tanh() @ e.T).softmax(-1) @ e + F.embedding(6 - i, e),
    "mean of a bag": lambda e, i: (e[i].mean(1) @ e.T)[:, None],
    "with a chosen row": lambda e, i: (e[i] + e[2]).tanh() @ e.T,
}


@pytest.mark.parametrize("tie", TIES)
def test_an_embedding_tied_to_the_head(oracle, tie):
    torch.manual_seed(0)

    def losses(params, i):
        logits = TIES[tie](params, i)
        return logits.log_softmax(-1)[..., 0].sum(1)

    assert_clips_and_understands(oracle, tie, losses, normal(7, 3), torch.randint(0, 7, (BATCH, 5)))


TWO_SHAPES = {
    "two matrices": ((3, 4), lambda w, i, x: x @ w + (x @ w.view(4, 3).T).sin()),
    "square and wide": ((3, 4), lambda w, i, x: x @ w + x[..., :2] @ w.view(2, 6)[:, :4]),
    "two matrices of a vector": ((12,), lambda w, i, x: x @ w.view(3, 4) + (x @ w.view(4, 3).T)),
    "two tables": ((4, 6), lambda w, i, x: w[i].sin() + w.view(8, 3)[i].repeat(1, 1, 2)),
    "a table and a matrix": (
        (4, 3),
        lambda w, i, x: torch.cat([w[i], x @ w.view(3, 4)], -1),
    ),
    "a kernel and a matrix": (
        (4, 3, 3),
        lambda w, i, x: torch.cat([F.conv1d(x.mT, w, padding=1).mT, x @ w.view(3, 12)], -1),
    ),
}


@pytest.mark.parametrize("use", TWO_SHAPES)
def test_a_weight_in_two_shapes(oracle, use):
    torch.manual_seed(0)
    shape, apply = TWO_SHAPES[use]

    def losses(params, i, x):
        return oracle.energy(apply(params, i, x))

    batch = torch.randint(0, 4, (BATCH, 5)), normal(BATCH, 5, 3)
    oracle.assert_clips(losses, normal(*shape), *batch, methods=("ghost", "auto"))


def test_a_weight_written_into_zeros(oracle):
    torch.manual_seed(0)

    def losses(params, x):
        weight = torch.zeros(3, 4, dtype=params.dtype)
        weight[1:, :2] = params
        weight[0] = weight[1] * 2
        return oracle.energy(x @ weight)

    oracle.assert_clips(losses, normal(2, 2), normal(BATCH, 5, 3))


def test_a_tensor_that_is_two_leaves(oracle):
    torch.manual_seed(0)
    w = normal(3, 3)

    def losses(params, x):
        return oracle.energy((x @ params["first"]).tanh() @ params["second"])

    oracle.assert_clips(losses, {"first": w, "second": w}, normal(BATCH, 4, 3))


# --- Weights in parts ----------------------------------------------------------------------------

PARTS = {
    "rows": ((8, 3), lambda x, w: (x @ w[:4].T) * (x @ w[4:].T)),
    "rows that overlap": ((8, 3), lambda x, w: (x @ w[:5].T) * (x @ w[3:].T)),
    "columns": ((4, 6), lambda x, w: (x @ w[:, :3].T) * (x @ w[:, 3:].T)),
    "every second column": ((4, 6), lambda x, w: (x @ w[:, ::2].T) * (x @ w[:, 1::2].T)),
    "chunks": ((6, 3), lambda x, w: torch.stack([x @ part.T for part in w.chunk(3)]).prod(0)),
    "split": ((6, 3), lambda x, w: torch.cat([x @ p.T for p in w.split([1, 2, 3])], -1)),
    "one of a stack": ((2, 3, 3), lambda x, w: (x @ w[0]).tanh() @ w[1]),
    "unbound": ((2, 3, 3), lambda x, w: (x @ w.unbind()[0]).tanh() @ w.unbind()[1]),
    "the middle of a stack": ((3, 2, 3), lambda x, w: (x @ w[:, 0]).tanh() @ w[:, 1]),
    "a flat vector": ((20,), lambda x, w: (x @ w[:12].view(3, 4)).tanh() @ w[12:].view(4, 2)),
    "narrowed": ((5, 6), lambda x, w: x @ w.narrow(0, 1, 3).narrow(1, 2, 4)),
    "selected rows": ((5, 4), lambda x, w: x @ w[torch.tensor([4, 0, 4])]),
    "a triangle": ((3, 3), lambda x, w: x @ w.tril()),
    "a diagonal": ((3, 3), lambda x, w: x @ w.diag().diag()),
    "strides of its own": ((12,), lambda x, w: x @ w.as_strided((3, 3), (1, 2))),
    "turned axes": ((2, 3, 4), lambda x, w: x @ w.permute(1, 2, 0).reshape(3, 8)),
    "part and whole": ((3, 3), lambda x, w: (x @ w).tanh() @ w[:, :2]),
}


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_a_weight(oracle, part):
    torch.manual_seed(0)
    shape, use = PARTS[part]

    def losses(params, x):
        return oracle.energy(use(x, params))

    assert_clips_and_understands(oracle, part, losses, normal(*shape), normal(BATCH, 5, 3))


# --- Weights made of others ----------------------------------------------------------------------

MADE = {
    "two rows": ({"a": (2, 3), "b": (4, 3)}, lambda a, b: torch.cat([a, b]).T),
    "two columns": ({"a": (3,), "b": (3,)}, lambda a, b: torch.stack([a, b], 1)),
    "one block twice": ({"a": (3, 2)}, lambda a: torch.cat([a, a.flip(0)], 1)),
    "scaled": ({"a": (3, 4)}, lambda a: a * 0.3),
    "negated": ({"a": (3, 4)}, lambda a: -a),
    "scaled by a parameter": ({"a": (3, 4), "s": ()}, lambda a, s: a * s),
    "scaled by rows": ({"a": (3, 4), "s": (3, 1)}, lambda a, s: a * s.exp()),
    "with a scale for each column": ({"a": (3, 4), "s": (4,)}, lambda a, s: a * s),
    "an outer product": ({"a": (3,), "b": (4,)}, torch.outer),
    "a product": ({"a": (3, 2), "b": (2, 4)}, torch.matmul),
    "a product in another shape": (
        {"a": (4, 2), "b": (2, 3)},
        lambda a, b: (a @ b).view(3, 4),
    ),
    "a merged adapter": ({"w": (3, 4), "a": (3, 2), "b": (2, 4)}, lambda w, a, b: w + 0.5 * a @ b),
    "a Kronecker product": ({"a": (3, 2), "b": (1, 2)}, torch.kron),
    "symmetric": ({"a": (3, 3)}, lambda a: a + a.T),
    "skew": ({"a": (3, 3)}, lambda a: a - a.T),
    "an orthogonal matrix": ({"a": (3, 3)}, lambda a: torch.matrix_exp(a - a.T)),
    "of unit rows": ({"v": (3, 4), "g": (3, 1)}, lambda v, g: g * F.normalize(v, dim=1)),
    "centred": ({"a": (3, 4)}, lambda a: a - a.mean(0)),
    "a mean": ({"a": (2, 3, 4)}, lambda a: a.mean(0)),
    "repeated": ({"a": (3, 2)}, lambda a: a.repeat(1, 2)),
    "expanded": ({"a": (3, 1)}, lambda a: a.expand(3, 4)),
    "rolled": ({"a": (3, 4)}, lambda a: a.roll(1, 0)),
    "masked": ({"a": (3, 4)}, lambda a: a * (torch.arange(4) > 1)),
    "rounded, straight through": ({"a": (3, 4)}, lambda a: a + (a.round() - a).detach()),
    "of complex numbers": (
        {"a": (3, 4, 2)},
        lambda a: torch.view_as_complex(a).square().abs(),
    ),
}


@pytest.mark.parametrize("made", MADE)
def test_a_weight_made_of_others(oracle, made):
    torch.manual_seed(0)
    shapes, make = MADE[made]
    params = {name: normal(*shape) for name, shape in shapes.items()}

    def losses(params, x):
        return oracle.energy(x @ make(*params.values()))

    assert_clips_and_understands(oracle, made, losses, params, normal(BATCH, 5, 3))


def test_a_weight_made_once_and_used_twice(oracle):
    torch.manual_seed(0)

    def losses(params, x):
        w = params["w"] + params["a"] @ params["b"]
        return oracle.energy((x @ w).tanh() @ w.T)

    params = {"w": normal(3, 4), "a": normal(3, 2), "b": normal(2, 4)}
    oracle.assert_clips(losses, params, normal(BATCH, 5, 3))


@pytest.mark.parametrize("positions", [None, 1, 5])
def test_low_rank_adapters_beside_a_frozen_weight(oracle, positions):
    torch.manual_seed(0)
    frozen = normal(4, 3)
    params = {"a": normal(2, 3), "b": normal(4, 2)}
    x = normal(BATCH, 3) if positions is None else normal(BATCH, positions, 3)

    def losses(params, x):
        low = F.linear(F.linear(x, params["a"]), params["b"])
        return oracle.energy(F.linear(x, frozen) + 2.0 * low)

    oracle.assert_clips(losses, params, x)
    assert oracle.understood(losses, params, x) == {"params['a']", "params['b']"}


# --- Losses that use parameters in other ways ----------------------------------------------------


def keys_from_constants(w, x):
    keys = torch.ones(2, 3).double() @ w
    return (x @ keys[:, :3].T).softmax(-1)[..., 0]


def mixed_experts(w, x):
    gate = (x @ w)[..., :2].softmax(-1)
    return torch.einsum("btd,edk,bte->btk", x, w.view(2, 3, 2), gate)


def chosen_expert(w, x):
    return x @ w.view(2, 3, 2)[(x[:, 0, 0] > 0).long()]


OTHERS = {
    "a penalty": lambda w, x: x @ w + w.square().sum(),
    "nothing but a penalty": lambda w, x: x + w.square().sum(),
    "one scale for all examples": lambda w, x: x * w.sin().sum(),
    "keys from constants": keys_from_constants,
    "weights from the example": lambda w, x: torch.bmm(x.mT, x @ w),
    "mixed experts": mixed_experts,
    "the chosen expert": chosen_expert,
    "none of it": lambda w, x: x,
    "none of it, by way of zero": lambda w, x: x @ w * 0,
    "broadcast addition": lambda w, x: torch.baddbmm(
        w.sum(0), x, w.expand(len(x), 3, 4), beta=0.5, alpha=2.0
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_losses_that_use_a_parameter_in_other_ways(oracle, other):
    torch.manual_seed(0)

    def losses(params, x):
        return oracle.energy(OTHERS[other](params, x))

    assert_clips_and_understands(oracle, other, losses, normal(3, 4), normal(BATCH, 5, 3))


def test_losses_that_are_squeezed(oracle):
    torch.manual_seed(0)
    oracle.assert_clips(lambda w, x: (x @ w).squeeze(), normal(3, 1), normal(BATCH, 3))
