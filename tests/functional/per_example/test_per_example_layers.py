"""Norms and clipped sums for each layer on its own: the numbers, and that products are found."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import tree
from purefn.functional.per_example import clipped_grad, lookups

BATCH = 3


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def indices(rows, *shape):
    return torch.randint(0, rows, shape)


# --- Linear layers -------------------------------------------------------------------------------


@settings(max_examples=6)
@given(
    leading=st.lists(st.integers(1, 3), max_size=3),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
)
def test_linear_over_any_leading_axes(oracle, leading, inputs, outputs):
    torch.manual_seed(0)
    params = {"w": normal(outputs, inputs), "b": normal(outputs)}
    x = normal(BATCH, *leading, inputs)

    def losses(params, x):
        return oracle.energy(F.linear(x, params["w"], params["b"]))

    oracle.assert_clips(losses, params, x)
    assert "params['w']" in oracle.understood(losses, params, x)


SPELLINGS = {
    "x @ w": ((3, 4), lambda x, w: x @ w),
    "x @ w.T": ((4, 3), lambda x, w: x @ w.T),
    "w @ x": ((4, 5), lambda x, w: w @ x),
    "matmul with a view": ((4, 3), lambda x, w: x @ w.view(3, 4)),
    "matmul with a reshaped transpose": ((3, 4), lambda x, w: x @ w.T.reshape(3, 4)),
    "btd,ed->bte": ((4, 3), lambda x, w: torch.einsum("btd,ed->bte", x, w)),
    "btd,dhk->bhtk": ((3, 2, 4), lambda x, w: torch.einsum("btd,dhk->bhtk", x, w)),
    "btd,dhk->bkth": ((3, 2, 4), lambda x, w: torch.einsum("btd,dhk->bkth", x, w)),
    "btd,tdk->btk": ((5, 3, 4), lambda x, w: torch.einsum("btd,tdk->btk", x, w)),
    "btd,tdk->bk": ((5, 3, 4), lambda x, w: torch.einsum("btd,tdk->bk", x, w)),
    "btd,bsd,de->bte": ((3, 2), lambda x, w: torch.einsum("btd,bsd,de->bte", x, x.sin(), w)),
    "bti,ij,btj->b": ((3, 3), lambda x, w: torch.einsum("bti,ij,btj->b", x, w, x)),
    "tensordot": ((3, 4), lambda x, w: torch.tensordot(x, w, 1)),
    "cumulated": ((3, 4), lambda x, w: torch.cumsum(x @ w, 1)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_product(oracle, spelling):
    torch.manual_seed(0)
    shape, product = SPELLINGS[spelling]

    def losses(params, x):
        return oracle.energy(product(x, params))

    oracle.assert_clips(losses, normal(*shape), normal(BATCH, 5, 3))
    assert oracle.understood(losses, normal(*shape), normal(BATCH, 5, 3))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_bilinear(oracle):
    torch.manual_seed(0)
    params = {"w": normal(2, 3, 4), "b": normal(2)}

    def losses(params, x, y):
        return oracle.energy(F.bilinear(x, y, params["w"], params["b"]))

    oracle.assert_clips(losses, params, normal(BATCH, 3), normal(BATCH, 4))


@pytest.mark.parametrize(
    ("shape", "use"),
    [
        ((), lambda x, b: x + b),
        ((1,), lambda x, b: x * b),
        ((3,), lambda x, b: x + b),
        ((3,), lambda x, b: torch.tanh(x + b) * b),
        ((5, 1), lambda x, b: x * b),
        ((1, 1, 1), lambda x, b: x - b),
        ((9, 3), lambda x, b: x + b[: x.shape[1]]),
        ((1, 3), lambda x, b: torch.cat([b.expand(len(x), 1, 3), x], 1).cumsum(1)),
        ((3,), lambda x, b: F.prelu(x.transpose(1, 2), b)),
        ((9,), lambda x, b: x + b[torch.arange(5) - torch.arange(3, 8) + 4, None]),
    ],
)
def test_what_is_added_or_multiplied(oracle, shape, use):
    torch.manual_seed(0)

    def losses(params, x):
        return oracle.energy(use(x, params))

    oracle.assert_clips(losses, normal(*shape), normal(BATCH, 5, 3))


# --- Tables --------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(
    shape=st.lists(st.integers(1, 4), max_size=2),
    padding=st.none() | st.integers(-4, 3),
    width=st.integers(1, 3),
)
def test_embedding(oracle, shape, padding, width):
    torch.manual_seed(0)

    def losses(params, i):
        return oracle.energy(F.embedding(i, params, padding_idx=padding))

    # More places than rows: some rows come up more than once.
    oracle.assert_clips(losses, normal(4, width), indices(4, BATCH, *shape))
    assert oracle.understood(losses, normal(4, width), indices(4, BATCH, *shape))


LOOKUPS = {
    "rows": ((7, 3), True, lambda e, i: e[i]),
    "rows from the end": ((7, 3), True, lambda e, i: e[i - 7]),
    "chosen rows": ((7, 3), True, lambda e, i: e[torch.where(i > 3, i - 3, i)]),
    "of an embedding of embeddings": ((7, 3), True, lambda e, i: e[i] * F.embedding(6 - i, e)),
    "numbers": ((7,), False, lambda e, i: e[i]),
    "matrices": ((7, 2, 3), True, lambda e, i: e[i]),
    "entries": ((7, 3), False, lambda e, i: e[i, i % 3]),
    "columns": ((3, 7), False, lambda e, i: e[:, i].transpose(0, 1)),
    "index_select": ((7, 3), False, lambda e, i: e.index_select(0, i.flatten()).view(*i.shape, 3)),
    "gather": ((7,), False, lambda e, i: e.expand(len(i), 7).gather(1, i)),
    "take_along_dim": ((1, 7), False, lambda e, i: e.take_along_dim(i, 1)),
    "one-hot": ((7, 3), True, lambda e, i: (i[..., None] == torch.arange(7)).double() @ e),
}


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_every_spelling_of_a_lookup(oracle, lookup):
    torch.manual_seed(0)
    shape, is_understood, look_up = LOOKUPS[lookup]

    def losses(params, i):
        return oracle.energy(look_up(params, i))

    batch = indices(7, BATCH, 5)
    oracle.assert_clips(losses, normal(*shape), batch)
    if is_understood:
        assert oracle.understood(losses, normal(*shape), batch)


BAGS = {
    "sum": lambda e, i: F.embedding(i, e).sum(1),
    "mean": lambda e, i: F.embedding(i, e).mean(1),
    "scaled": lambda e, i: (F.embedding(i, e) * 3).mean(1) / 7,
    "negated": lambda e, i: -F.embedding(i, e).sum(1),
    "of two": lambda e, i: F.embedding(i[:, :2], e).mean(1) + F.embedding(i[:, 2:], e).sum(1),
    "of one": lambda e, i: F.embedding(i[:, :1], e).sum(1),
    "with padding": lambda e, i: F.embedding(i, e, padding_idx=2).mean(1),
    "in rows": lambda e, i: F.embedding(i.unflatten(1, (2, -1)), e).mean(2),
    "of all rows": lambda e, i: F.embedding(i, e).mean((1, 2), keepdim=True),
}


@pytest.mark.parametrize("bag", BAGS)
@pytest.mark.parametrize("table", [2**20, 9, 1], ids=["counted", "counted in parts", "sorted"])
def test_rows_that_are_added_up(oracle, monkeypatch, bag, table):
    monkeypatch.setattr(lookups, "LARGEST_TABLE", table)
    torch.manual_seed(0)

    def losses(params, i):
        return oracle.energy(BAGS[bag](params, i))

    # Some rows come up more than once.
    batch = torch.tensor([[0, 1, 1, 2, 1, 0], [2, 2, 2, 2, 2, 2], [0, 1, 2, 3, 0, 3]])
    oracle.assert_clips(losses, normal(4, 3), batch, methods=("ghost", "auto", "materialize"))
    assert oracle.understood(losses, normal(4, 3), batch)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_embedding_bag(oracle, mode):
    torch.manual_seed(0)

    def losses(params, i):
        return oracle.energy(F.embedding_bag(i, params, mode=mode))

    oracle.assert_clips(losses, normal(7, 3), indices(7, BATCH, 5))


# --- Normalization -------------------------------------------------------------------------------

NORMALIZATIONS = {
    "layer_norm": ((4,), (5, 4), lambda x, w, b: F.layer_norm(x, (4,), w, b)),
    "layer_norm over two axes": ((5, 4), (5, 4), lambda x, w, b: F.layer_norm(x, (5, 4), w, b)),
    "group_norm": ((4,), (4, 3, 2), lambda x, w, b: F.group_norm(x, 2, w, b)),
    "instance_norm": ((4,), (4, 3, 2), lambda x, w, b: F.instance_norm(x, weight=w, bias=b)),
    "rms_norm": ((4,), (5, 4), lambda x, w, b: F.rms_norm(x, (4,), w) + b),
    "batch_norm with given statistics": (
        (4,),
        (4, 3, 2),
        lambda x, w, b: F.batch_norm(x, torch.arange(4.0).double(), torch.ones(4).double(), w, b),
    ),
}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_scale_and_shift_of_a_normalization(oracle, normalization):
    torch.manual_seed(0)
    shape, size, normalize = NORMALIZATIONS[normalization]

    def losses(params, x):
        return oracle.energy(normalize(x, params["w"], params["b"]))

    oracle.assert_clips(losses, {"w": normal(*shape), "b": normal(*shape)}, normal(BATCH, *size))


# --- Attention -----------------------------------------------------------------------------------


def heads(x):
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


def by_function(q, k, v, mask):
    return F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=mask is None)


def by_hand(q, k, v, mask):
    q, k, v = heads(q), heads(k), heads(v)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1) if mask is None else mask
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("attend", [by_function, by_hand])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(oracle, attend, masked):
    torch.manual_seed(0)
    params = {name: normal(4, 4) for name in "qkvo"} | {"bias": normal(4)}

    def losses(params, x, hidden):
        q, k, v = (F.linear(x, params[name]) for name in "qkv")
        if masked and attend is by_function:
            mask = ~hidden[:, None, None, :]
            y = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask)
        else:
            y = attend(q, k, v, hidden[:, None, None, :] if masked else None)
        y = y.transpose(1, 2).flatten(2)
        return oracle.energy(F.linear(y, params["o"], params["bias"]))

    hidden = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [True] * 4 + [False]])
    oracle.assert_clips(losses, params, normal(BATCH, 5, 4), hidden)
    matrices = {f"params['{name}']" for name in "qkvo"}
    assert matrices <= oracle.understood(losses, params, normal(BATCH, 5, 4), hidden)


@pytest.mark.parametrize("split", ["view", "chunk", "slices"])
def test_attention_with_fused_weights(oracle, split):
    torch.manual_seed(0)
    params = {"qkv": normal(12, 4), "bias": normal(12), "o": normal(4, 4)}

    def losses(params, x):
        if split == "view":
            fused = F.linear(x, params["qkv"], params["bias"])
            q, k, v = fused.view(*x.shape[:2], 3, 4).unbind(2)
        elif split == "chunk":
            q, k, v = (F.linear(x, w) for w in params["qkv"].chunk(3))
        else:
            q, k, v = (F.linear(x, params["qkv"][at : at + 4]) for at in (0, 4, 8))
        y = by_function(q, k, v, None).transpose(1, 2).flatten(2)
        return oracle.energy(y @ params["o"])

    oracle.assert_clips(losses, params, normal(BATCH, 5, 4))
    found = oracle.understood(losses, params, normal(BATCH, 5, 4))
    assert "params['o']" in found
    if split != "chunk":
        assert "params['qkv']" in found


# --- Recurrent cells -----------------------------------------------------------------------------


def rnn(params, x, state):
    h = torch.tanh(F.linear(x, params["wi"], params["bi"]) + F.linear(state, params["wh"]))
    return h, h


def lstm(params, x, state):
    h, c = state.chunk(2, -1)
    gates = F.linear(x, params["wi"], params["bi"]) + F.linear(h, params["wh"])
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return torch.cat([h, c], -1), h


def gru(params, x, state):
    ri, zi, ni = F.linear(x, params["wi"], params["bi"]).chunk(3, -1)
    rh, zh, nh = F.linear(state, params["wh"]).chunk(3, -1)
    z = (zi + zh).sigmoid()
    h = (1 - z) * (ni + (ri + rh).sigmoid() * nh).tanh() + z * state
    return h, h


CELLS = {"rnn": (rnn, 1, 1), "lstm": (lstm, 4, 2), "gru": (gru, 3, 1)}


@pytest.mark.parametrize("loop", ["python", "scan"])
@pytest.mark.parametrize(("cell", "length"), [("rnn", 4), ("lstm", 3), ("gru", 3), ("gru", 1)])
def test_recurrent_cells_over_time(oracle, cell, loop, length):
    torch.manual_seed(0)
    apply, gates, states = CELLS[cell]
    params = {"wi": normal(gates * 3, 2), "wh": normal(gates * 3, 3), "bi": normal(gates * 3)}

    def losses(params, x):
        state, outputs = x.new_zeros(len(x), states * 3), []
        if loop == "scan":
            _, y = pf.scan(lambda s, x: apply(params, x, s), state, x.transpose(0, 1))
            return oracle.energy(y.transpose(0, 1))
        for t in range(length):
            state, y = apply(params, x[:, t], state)
            outputs.append(y)
        return oracle.energy(torch.stack(outputs, 1))

    oracle.assert_clips(losses, params, normal(BATCH, length, 2))
    found = oracle.understood(losses, params, normal(BATCH, length, 2))
    assert {"params['wi']", "params['wh']"} <= found


def test_a_loop_of_a_fixed_number_of_steps(oracle):
    torch.manual_seed(0)

    def losses(params, x):
        return oracle.energy(pf.fori_loop(0, 4, lambda i, h: torch.tanh(h @ params), x))

    oracle.assert_clips(losses, normal(3, 3), normal(BATCH, 3))
    assert oracle.understood(losses, normal(3, 3), normal(BATCH, 3))


# --- What stands between layers ------------------------------------------------------------------

BETWEEN = {
    "masks": lambda h, m: torch.where(m[..., None], h, h.sin()).masked_fill(~m[..., None], 0.5),
    "scatter": lambda h, m: h.new_zeros(len(h), 2, 4).scatter_add(
        1, m[..., None].expand(-1, -1, 4).long(), h
    ),
    "fold": lambda h, m: F.fold(h.mT, (2, 6), (2, 2)),
    "fft": lambda h, m: torch.fft.ifft(torch.fft.fft(h).abs() * torch.fft.fft(h)).real,
    "complex": lambda h, m: torch.view_as_real(torch.complex(h, h.sin()) ** 2).flatten(2),
    "sorted": lambda h, m: h.sort(1).values[:, :3],
    "in place": lambda h, m: h.clone().mul_(2).add_(h).clamp_(min=-0.5),
    "overwritten": lambda h, m: torch.cat([h[:, 1:] * 2, h[:, :1].flip(2)], 1).roll(1, 2),
    "expanded": lambda h, m: h[:, :, None].expand(-1, -1, 3, -1) * torch.arange(3)[:, None],
    "single precision": lambda h, m: (h.float() * 2).double(),
    "a derivative": lambda h, m: torch.func.vmap(torch.func.grad(lambda z: z.tanh().sum()))(h),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_what_stands_between_layers(oracle, between):
    torch.manual_seed(0)
    params = {"w": normal(3, 4), "b": normal(4)}

    def losses(params, x, mask):
        return oracle.energy(BETWEEN[between](x @ params["w"] + params["b"], mask))

    mask = torch.rand(BATCH, 5) > 0.5
    rtol = 1e-6 if between == "single precision" else 1e-12
    oracle.assert_clips(losses, params, normal(BATCH, 5, 3), mask, rtol=rtol)
    assert "params['w']" in oracle.understood(losses, params, normal(BATCH, 5, 3), mask)


# --- Mixed precision: parameters that are narrowed where they are used ---------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(oracle, dtype):
    torch.manual_seed(0)
    shapes = {"table": (9, 4), "w": (5, 4), "kernel": (3, 5, 2), "b": (3,)}
    params = {name: torch.randn(shape) for name, shape in shapes.items()}
    batch = indices(9, 200, 6)

    def losses(params, i):
        narrow = tree.cast(params, dtype)
        h = F.linear(F.embedding(i, narrow["table"]), narrow["w"]).tanh()
        h = F.conv1d(h.mT, narrow["kernel"], narrow["b"])
        return oracle.energy(h.float())

    understood = oracle.understood(losses, params, batch)
    assert understood == {"params['table']", "params['w']", "params['kernel']"}
    oracle.assert_clips(losses, params, batch, methods=("ghost", "auto"), rtol=2e-2)

    def summed(mask):
        # More precise than gradients that are formed and rounded, and than a sum that is.
        return clipped_grad(losses, 0.1, mask=mask, method="ghost")(params, batch).grads

    moved = tree.map(torch.sub, summed(batch[:, 0] >= 0), summed(torch.arange(200) > 0))
    assert tree.norm(moved) <= 0.1 * (1 + 1e-4)
