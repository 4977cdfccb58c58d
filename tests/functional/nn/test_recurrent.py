import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import purefn.functional as pf
from purefn.functional import nn, per_example, random, tree

KEY = random.key(0)
KINDS = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
CELLS = {"rnn_cell": torch.nn.RNNCell, "lstm_cell": torch.nn.LSTMCell, "gru_cell": torch.nn.GRUCell}


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value_and_grads(outputs, inputs):
    """The leaves of a tree of outputs, and the gradients of a weighted sum of them."""
    leaves = tree.leaves(outputs)
    total = sum((leaf * normal(9 + i, *leaf.shape)).sum() for i, leaf in enumerate(leaves))
    grads = torch.autograd.grad(total, inputs, allow_unused=True)
    pairs = zip(grads, inputs, strict=True)
    return [*leaves, *(torch.zeros_like(x) if grad is None else grad for grad, x in pairs)]


def assert_same(layer, run_torch, module, x, carry, lengths=None):
    """Compare outputs, last carries and all gradients with torch's."""
    params = tree.from_state_dict(module.state_dict())
    inputs = [x, *tree.leaves(carry)]
    expected_inputs = [leaf.clone().requires_grad_() for leaf in inputs]
    expected = value_and_grads(
        run_torch(*_input(expected_inputs, carry)), [*expected_inputs, *module.parameters()]
    )

    leaves = [leaf.clone().requires_grad_() for leaf in inputs]
    named = {name: params[name].requires_grad_() for name, _ in module.named_parameters()}
    ours = _input(leaves, carry)
    ours = ours if lengths is None else (ours[0], ours[1], lengths)
    actual = value_and_grads(layer(named, ours), [*leaves, *named.values()])
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def _input(leaves, carry):
    return leaves[0], tree.unflatten(tree.structure(carry), leaves[1:])


def carry_of(kind, h, c):
    return (h, c) if kind.startswith("lstm") else h


@settings(max_examples=10, deadline=None)
@given(
    kind=st.sampled_from(list(CELLS)),
    batch=st.sampled_from([(), (1,), (3,)]),
    bias=st.booleans(),
    nonlinearity=st.sampled_from(["tanh", "relu"]),
)
def test_cells_with_a_carry(kind, batch, bias, nonlinearity):
    options = {"nonlinearity": nonlinearity} if kind == "rnn_cell" else {}
    module = CELLS[kind](3, 4, bias=bias, dtype=torch.float64, **options)
    layer = getattr(nn, kind)(4, bias=bias, **options)
    carry = carry_of(kind, normal(1, *batch, 4), normal(2, *batch, 4))
    assert_same(layer, module, module, normal(0, *batch, 3), carry)


network = {
    "kind": st.sampled_from(list(KINDS)),
    "num_layers": st.integers(1, 3),
    "bias": st.booleans(),
    "bidirectional": st.booleans(),
    "proj_size": st.sampled_from([0, 2]),
}


def network_and_module(kind, num_layers, bias, bidirectional, proj_size):
    options = {"num_layers": num_layers, "bias": bias, "bidirectional": bidirectional}
    if kind == "lstm":
        options["proj_size"] = proj_size
    module = KINDS[kind](3, 4, batch_first=True, dtype=torch.float64, **options)
    width = proj_size if kind == "lstm" and proj_size else 4
    return getattr(nn, kind)(4, **options), module, (num_layers * (1 + bidirectional), width)


@settings(max_examples=15, deadline=None)
@given(**network, batch=st.sampled_from([(), (1,), (3,)]), length=st.integers(1, 4))
def test_networks_with_a_carry(kind, batch, length, **options):
    layer, module, (count, width) = network_and_module(kind, **options)
    carry = carry_of(kind, normal(1, count, *batch, width), normal(2, count, *batch, 4))
    assert_same(layer, module, module, normal(0, *batch, length, 3), carry)


@settings(max_examples=15, deadline=None)
@given(**network, lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_lengths_are_torchs_packed_sequences(kind, lengths, **options):
    layer, module, (count, width) = network_and_module(kind, **options)
    batch, lengths = len(lengths), torch.tensor(lengths)

    def packed(x, carry):
        sequence = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, carry = module(sequence, carry)
        return pad_packed_sequence(y, batch_first=True, total_length=5)[0], carry

    carry = carry_of(kind, normal(1, count, batch, width), normal(2, count, batch, 4))
    assert_same(layer, packed, module, normal(0, batch, 5, 3), carry, lengths)


@pytest.mark.parametrize("kind", list(KINDS))
def test_padding_may_hold_anything(kind):
    layer = getattr(nn, kind)(4, bidirectional=True, num_layers=2)
    x, lengths = torch.randn(2, 5, 3), torch.tensor([2, 0])
    params = layer.init(KEY, x)

    def summed(params, x):
        return sum(leaf.square().sum() for leaf in tree.leaves(layer(params, (x, None, lengths))))

    padded = x.masked_fill(torch.arange(5)[:, None] >= lengths[:, None, None], float("nan"))
    expected = pf.value_and_grad(summed)(params, x)
    actual = pf.value_and_grad(summed)(params, padded)
    assert tree.all(tree.map(torch.equal, actual, expected))
    assert pf.grad(summed, argnums=1)(params, padded)[1].count_nonzero() == 0


def test_an_empty_sequence_keeps_its_carry():
    layer = nn.gru(4)
    x, carry = torch.randn(2, 3, 3), torch.randn(1, 2, 4)
    params = layer.init(KEY, x)
    y, last = layer(params, (x[:, :0], carry))
    assert y.shape == (2, 0, 4)
    assert torch.equal(last, carry)
    y, last = layer(params, (x, carry, torch.tensor([0, 3], dtype=torch.int32)))
    assert torch.equal(last[:, 0], carry[:, 0])
    assert y[0].count_nonzero() == 0


def test_two_halves_are_the_whole():
    layer = nn.lstm(4, num_layers=2)
    x = normal(0, 2, 6, 3)
    params = tree.cast(layer.init(KEY, x), torch.float64)
    whole, carry = layer(params, x)
    left, middle = layer(params, x[:, :2])
    right, last = layer(params, (x[:, 2:], middle))
    torch.testing.assert_close(torch.cat([left, right], 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, carry, rtol=1e-12, atol=1e-12)


def test_dropout_is_between_layers_and_keyed():
    layer = nn.gru(4, num_layers=3, dropout=0.5)
    x = torch.randn(2, 5, 3)
    params = layer.init(KEY, x)
    y = layer(params, x, key=random.key(1), train=True)[0]
    assert torch.equal(y, layer(params, x, key=random.key(1), train=True)[0])
    assert not torch.equal(y, layer(params, x, key=random.key(2), train=True)[0])
    assert torch.equal(layer(params, x, key=KEY)[0], layer(params, x)[0])
    assert y.count_nonzero() == y.numel()  # what the last layer returns is not dropped
    # With everything dropped, each layer after the first sees zeros.
    alone = nn.gru(4, num_layers=2)
    everything = nn.gru(4, num_layers=2, dropout=1.0)
    params = alone.init(KEY, x)
    second = {name.replace("l1", "l0"): value for name, value in params.items() if "l1" in name}
    expected = nn.gru(4)(second, torch.zeros(2, 5, 4))[0]
    y, last = everything(params, x, key=KEY, train=True)
    torch.testing.assert_close(y, expected)
    assert torch.equal(last[0], alone(params, x)[1][0])  # the input is not dropped
    with pytest.raises(nn.LayerError, match="dropout needs a key"):
        layer(params | layer.init(KEY, x), x, train=True)


def test_each_layer_drops_others():
    """Layers that copy what they receive show two masks, one after the other."""
    layer = nn.rnn(32, num_layers=3, nonlinearity="relu", bias=False, dropout=0.5)
    x = torch.ones(4, 16, 32)
    params = {
        name: torch.eye(32) if "ih" in name else torch.zeros(32, 32) for name in layer.init(KEY, x)
    }
    y, _ = layer(params, x, key=KEY, train=True)
    assert y.unique().tolist() == [0.0, 4.0]
    assert y.mean().item() == pytest.approx(1.0, abs=0.2)
    assert torch.equal(layer(params, x)[0], x)


def test_lengths_under_the_transforms():
    layer = nn.lstm(4, bidirectional=True)
    x, lengths = normal(0, 3, 4, 2), torch.tensor([1, 4, 2])
    params = tree.cast(layer.init(KEY, x), torch.float64)

    def losses(params, x, lengths):
        y, (h, _) = layer(params, (x, None, lengths))
        return y.square().sum((1, 2)) + h.sum((0, 2))

    rows = [
        pf.grad(lambda p, i=i: losses(p, x[i : i + 1], lengths[i : i + 1]).sum())(params)
        for i in range(3)
    ]
    expected = tree.stack(rows)

    def one(params, x, length):
        return losses(params, x[None], length[None]).sum()

    total = pf.grad(lambda p, *args: losses(p, *args).sum())
    for actual, wanted in (
        (per_example.grads(losses)(params, x, lengths), expected),
        (pf.vmap(pf.grad(one), in_axes=(None, 0, 0))(params, x, lengths), expected),
        (pf.jit(total, backend="aot_eager")(params, x, lengths),
         tree.map(lambda leaf: leaf.sum(0), expected)),
    ):  # fmt: skip
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", list(KINDS))
def test_lengths_outside_the_sequence_give_nan_where_they_cannot_be_seen(kind):
    layer = getattr(nn, kind)(4, bidirectional=True, num_layers=2)
    x, lengths = normal(0, 4, 3, 2), torch.tensor([3, 4, 0, -1])
    params = tree.cast(layer.init(KEY, x), torch.float64)

    def one(x, length):
        return layer(params, (x[None], None, length[None]))

    fits = torch.tensor([True, False, True, False])
    out = pf.vmap(one)(x, lengths)
    for leaf in tree.leaves(out):
        rows = leaf.flatten(1)
        assert rows[fits].isfinite().all()
        assert rows[~fits].isnan().all()
    compiled = pf.jit(lambda *args: layer(args[0], (args[1], None, args[2])), backend="aot_eager")
    (y, _), (wanted, _) = compiled(params, x, lengths), tree.map(lambda leaf: leaf[:, 0], out)
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("kind", list(KINDS))
def test_autocast(kind):
    layer = getattr(nn, kind)(4)
    x = torch.randn(2, 3, 5)
    params = layer.init(KEY, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(params, x)
    torch.testing.assert_close(y, layer(params, x)[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_summaries_call_them_by_their_names(kind):
    assert getattr(nn, kind)(4).kind == kind


def test_initial_values():
    params = nn.lstm(9).init(KEY, torch.ones(2, 3, 300))
    for value in params.values():
        assert value.abs().max() <= 1 / 3
    assert params["weight_ih_l0"].std() == pytest.approx(3**-1.5, rel=0.02)
    ones = pf.initializers.ones
    params = nn.gru(4, weight_init=ones, bias_init=pf.initializers.zeros).init(
        KEY, torch.ones(3, 2)
    )
    assert params["weight_hh_l0"].eq(1).all()
    assert params["bias_hh_l0"].eq(0).all()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: nn.rnn(0), ValueError, "rnn: expected hidden_size >= 1, got 0"),
        (lambda: nn.gru(2.0), TypeError, "gru: expected an integer for hidden_size, got 2.0"),
        (lambda: nn.lstm(2, num_layers=0), ValueError, "lstm: expected num_layers >= 1, got 0"),
        (lambda: nn.lstm(2, proj_size=2), ValueError, "proj_size < hidden_size, 2, got 2"),
        (lambda: nn.lstm(2, proj_size=-1), ValueError, "lstm: expected proj_size >= 0, got -1"),
        (lambda: nn.rnn(2, nonlinearity="sin"), ValueError, "rnn: expected 'tanh' or 'relu' for "),
        (lambda: nn.rnn(2, nonlinearity=["tanh"]), ValueError, r"'relu' for .*, got \['tanh'\]"),
        (lambda: nn.rnn_cell(2, nonlinearity=1), ValueError, "rnn_cell: expected 'tanh' or 'relu'"),
        (lambda: nn.gru(2, bias=1), TypeError, "gru: expected True or False for bias, got 1"),
        (lambda: nn.gru(2, bidirectional=2), TypeError, "for bidirectional, got 2"),
        (lambda: nn.lstm_cell(2, bias=1), TypeError, "lstm_cell: expected True or False for bias"),
        (lambda: nn.gru_cell(-1), ValueError, "gru_cell: expected hidden_size >= 1, got -1"),
        (lambda: nn.gru(2, num_layers=2, dropout=2), ValueError, "p within .0, 1., got 2"),
        (lambda: nn.gru(2, dropout=0.1), ValueError, "num_layers >= 2 with a dropout of 0.1"),
    ],
)
def test_options_that_do_not_fit(build, error, message):
    with pytest.raises(error, match=message):
        build()


X, H = torch.ones(2, 3, 5), torch.zeros(1, 2, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(2, 3, 6), r"lstm expected an input of shape \(N, L, 5\), got \(2, 3, 6\)"),
        (torch.ones(3, 6), r"lstm expected an input of shape \(L, 5\), got \(3, 6\)"),
        (torch.ones(5), r"lstm expected an input of shape \(N, L, 5\), got \(5,\)"),
        (X.int(), "lstm expected a floating-point input, got torch.int32"),
        (X.double(), "lstm got an input of torch.float64 and 'weight_ih_l0' of torch.float32"),
        ((X,), r"lstm expected x, \(x, carry\) or \(x, carry, lengths\), got a tuple of length 1"),
        (
            (X, H),
            r"lstm expected a carry \(h, c\), got a torch.float32 tensor of shape \(1, 2, 4\)",
        ),
        ((X, (H, H[0])), r"expected c of the carry \(h, c\) to be a .*\(1, 2, 4\), got .*\(2, 4\)"),
        (
            (X, (H, H.double())),
            "lstm got an input of torch.float32 and 'c of the carry' of torch.f",
        ),
        ((X, None, [3, 2]), r"lstm \(lengths\) expected a tensor, got a list of length 2"),
        ((X, None, torch.ones(2)), "lstm expected lengths as integers, got a torch.float32 tensor"),
        ((X, None, torch.tensor([1])), r"lstm \(lengths\) expected .* shape \(2\), got \(1,\)"),
        ((X[0], None, torch.tensor([1])), r"lstm expected .*\(N, L, 5\) with lengths"),
        ((X, None, torch.tensor([4, 3])), r"lstm expected lengths within \[0, 3\], got \[4\]"),
        ((X, None, torch.tensor([0, -1])), r"lstm expected lengths within \[0, 3\], got \[-1\]"),
    ],
)
def test_inputs_that_do_not_fit(given, message):
    layer = nn.lstm(4)
    params = layer.init(KEY, X)
    with pytest.raises(nn.LayerError, match=message):
        layer(params, given)


def test_inputs_of_cells_that_do_not_fit():
    layer = nn.gru_cell(4)
    params = layer.init(KEY, X[0])
    with pytest.raises(nn.LayerError, match=r"gru_cell expected an input .*\(N, 5\), got \(2, 3"):
        layer(params, X)
    with pytest.raises(nn.LayerError, match=r"gru_cell expected h of the carry h to be a tensor"):
        layer(params, (X[0], torch.zeros(4)))
    with pytest.raises(nn.LayerError, match=r"x or a pair \(x, carry\), got a tuple of length 3"):
        layer(params, (X[0], None, None))
