"""Per-example gradients that are clipped and summed are never formed, and the sums are the same."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

import purefn.functional as pf
from purefn.functional import tree
from purefn.functional.staging.contractions import rewriting

BATCH = 7  # which no other axis of a network here is as long as


@pytest.fixture
def always(monkeypatch):
    """Contract wherever that can be done, whatever it costs."""
    monkeypatch.setattr(rewriting, "PATIENCE", math.inf)


# --- the textbook program, spelled in every way ---


def per_example(loss):
    return pf.vmap(pf.grad(loss), in_axes=(None, 0, 0))


def beside(weights, grads):
    return weights.reshape(-1, *[1] * (grads.dim() - 1))


SQUARED_NORMS = {
    "flatten, square, sum": lambda g: g.flatten(1).square().sum(1),
    "power, sum over axes": lambda g: (g**2).sum(tuple(range(1, g.dim()))),
    "product with itself": lambda g: (g * g).flatten(1).sum(-1),
    "norm": lambda g: g.flatten(1).norm(dim=1) ** 2,
    "vector_norm": lambda g: torch.linalg.vector_norm(g, dim=tuple(range(1, g.dim()))).square(),
    "einsum": lambda g: torch.einsum("bi,bi->b", g.flatten(1), g.flatten(1)),
    "axis after axis": lambda g: functools.reduce(
        lambda squares, _: squares.sum(-1), range(g.dim() - 1), g.square()
    ),
    "vmap": lambda g: pf.vmap(lambda one: one.square().sum())(g),
    "vmap of norm": lambda g: pf.vmap(lambda one: one.norm())(g).square(),
}
WEIGHTED_SUMS = {
    "product, sum": lambda s, g: (beside(s, g) * g).sum(0),
    "quotient, sum": lambda s, g: (g / beside(1 / s, g)).sum(0),
    "einsum": lambda s, g: torch.einsum("b,b...->...", s, g),
    "tensordot": lambda s, g: torch.tensordot(s, g, 1),
    "vector times matrix": lambda s, g: (s @ g.flatten(1)).reshape(g.shape[1:]),
    "matrix times vector": lambda s, g: (g.flatten(1).T @ s).reshape(g.shape[1:]),
    "vmap": lambda s, g: pf.vmap(torch.mul)(s, g).sum(0),
    "mean": lambda s, g: (g * beside(s, g)).mean(0),
    "negative": lambda s, g: -(2 * (g * -beside(s, g))).sum(0) / 3,
}


def clipped(loss, norm="flatten, square, sum", aggregate="einsum", max_norm=0.5):
    def step(params, *batch):
        grads = per_example(loss)(params, *batch)
        squares = sum(SQUARED_NORMS[norm](leaf) for leaf in tree.leaves(grads))
        scale = (max_norm / squares.sqrt()).clamp(max=1.0)
        return tree.map(lambda g: WEIGHTED_SUMS[aggregate](scale, g), grads), squares

    return step


# --- networks ---


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=normal.generator)


def network(kind):
    """Return a loss of one example, float64 parameters and a batch."""
    normal.generator = torch.Generator().manual_seed(0)
    return NETWORKS[kind]()


def error(logits, label):
    return F.cross_entropy(logits, label)


LABELS = torch.arange(BATCH) % 3


def mlp():
    params = {
        "first": {"weight": normal(11, 5), "bias": normal(11)},
        "last": {"weight": normal(3, 11), "bias": normal(3)},
    }

    def loss(params, x, y):
        hidden = torch.tanh(F.linear(x, params["first"]["weight"], params["first"]["bias"]))
        return error(F.linear(hidden, params["last"]["weight"], params["last"]["bias"]), y)

    return loss, params, normal(BATCH, 5), LABELS


def matrices():
    """The other order of axes, and a product with a time axis."""
    params = {"first": normal(5, 11), "last": normal(11, 3)}

    def loss(params, x, y):
        return error((torch.tanh(x @ params["first"]) @ params["last"]).sum(0), y)

    return loss, params, normal(BATCH, 2, 5), LABELS


def outer():
    """A product written as one of elements, and a table of which one row is taken."""
    params = {"weight": normal(3, 9)}

    def loss(params, x, y):
        return error((params["weight"] * x).sum(-1).sin(), y)

    return loss, params, normal(BATCH, 9), LABELS


def convolutions():
    params = {"first": normal(8, 2, 3, 2), "bias": normal(8), "grouped": normal(4, 4, 2, 2)}
    params["last"] = normal(5, 24)

    def loss(params, x, y):
        x = F.conv2d(x[None], params["first"], params["bias"], stride=(2, 1), padding=(1, 2))
        x = F.conv2d(torch.tanh(x), params["grouped"], dilation=2, groups=2, stride=(1, 2))
        return error(F.linear(torch.tanh(x).flatten(1), params["last"])[0], y)

    return loss, params, normal(BATCH, 2, 8, 5), LABELS


def convolution_in_time():
    params = {"kernel": normal(4, 2, 3), "last": normal(3, 4)}

    def loss(params, x, y):
        x = torch.tanh(F.conv1d(x, params["kernel"], stride=2, padding=1))
        return error(params["last"] @ x.sum(-1), y)

    return loss, params, normal(BATCH, 2, 9), LABELS


def convolution_in_space():
    params = {"kernel": normal(4, 2, 3, 2, 1)}

    def loss(params, x, y):
        x = torch.tanh(F.conv3d(x, params["kernel"], padding=(1, 0, 0)))
        return error(x.flatten(1).sum(-1), y)

    return loss, params, normal(BATCH, 2, 3, 4, 3), LABELS


def lookup():
    params = {"table": normal(13, 4), "last": normal(3, 4)}

    def loss(params, x, y):
        return error(
            F.linear(torch.tanh(F.embedding(x, params["table"])).sum(0), params["last"]), y
        )

    return loss, params, torch.arange(BATCH * 5).reshape(BATCH, 5) % 4, LABELS


def tied_lookup():
    """A table that is looked up and multiplied with: the cross terms count."""
    params = {"table": normal(3, 5)}

    def loss(params, x, y):
        return error(
            F.linear(torch.tanh(F.embedding(x, params["table"])), params["table"]).sum(0), y
        )

    return loss, params, torch.arange(BATCH * 2).reshape(BATCH, 2) % 3, LABELS


def norms_between():
    params = {"weight": normal(6, 4), "scale": normal(6), "shift": normal(6)}

    def loss(params, x, y):
        x = F.layer_norm(F.linear(x, params["weight"]), (6,), params["scale"], params["shift"])
        return error(x.sin().sum(0), y)

    return loss, params, normal(BATCH, 2, 4), LABELS


def attention():
    params = {name: normal(8, 8) for name in "qkvo"}

    def loss(params, x, y):
        q, k, v = (F.linear(x, params[name]).unflatten(-1, (2, 4)).mT for name in "qkv")
        mixed = torch.softmax(q.transpose(0, 1) @ k.transpose(0, 1).mT / 2, -1) @ v.transpose(0, 1)
        return error((x + F.linear(mixed.transpose(0, 1).flatten(1), params["o"])).sum(0), y)

    return loss, params, normal(BATCH, 5, 8), LABELS


def recurrent():
    params = {"input": normal(16, 3), "hidden": normal(16, 4), "bias": normal(16)}

    def loss(params, x, y):
        hidden = cell = x.new_zeros(4)
        for now in x.unbind():
            gates = F.linear(now, params["input"], params["bias"])
            i, f, g, o = (gates + F.linear(hidden, params["hidden"])).chunk(4)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        return error(hidden, y)

    return loss, params, normal(BATCH, 5, 3), LABELS


def reused():
    """One weight three times, once turned round."""
    params = {"weight": normal(5, 5)}

    def loss(params, x, y):
        x = torch.tanh(F.linear(x, params["weight"]))
        return error(torch.tanh(F.linear(x, params["weight"])) @ params["weight"], y)

    return loss, params, normal(BATCH, 5), LABELS


def mixed():
    """A kernel, a table and a weight that is used twice."""
    params = {"kernel": normal(5, 1, 3), "table": normal(13, 4), "weight": normal(5, 5)}

    def loss(params, x, y):
        x = F.conv1d(F.embedding(x, params["table"]).sum(-1)[None], params["kernel"], stride=2)
        x = torch.tanh(F.linear(x.sum(-1), params["weight"]))
        return error(torch.tanh(F.linear(x, params["weight"])), y)

    return loss, params, torch.arange(BATCH * 9).reshape(BATCH, 9) % 5, LABELS


NETWORKS = {
    made.__name__: made
    for made in (
        mlp,
        matrices,
        outer,
        convolutions,
        convolution_in_time,
        convolution_in_space,
        lookup,
        tied_lookup,
        norms_between,
        attention,
        recurrent,
        reused,
        mixed,
    )
}


# --- what is asserted ---


def assert_close(found, expected, tolerance=1e-12):
    for ours, theirs in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.squeeze().stride() == theirs.squeeze().stride()
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item(), equal_nan=True
        )


def per_example_sizes(params):
    return {BATCH * leaf.numel() for leaf in tree.leaves(params) if leaf.dim() > 1}


def formed(step, params, *batch, **options):
    """Return the nodes of the compiled graph whose memory holds a leaf for each example."""
    jitted = pf.jit(step, backend="eager", **options)
    graph = jitted.lower(params, *batch).graph(contracted=True).graph
    sizes = per_example_sizes(params)
    values = {node: node.meta["val"] for node in graph.nodes if node.op == "call_function"}
    return [
        f"{node.format_node()} {tuple(value.shape)}"
        for node, value in values.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.untyped_storage().nbytes() // value.itemsize in sizes
    ]


def check(step, params, *batch):
    assert not formed(step, params, *batch)
    assert_close(pf.jit(step, backend="eager")(params, *batch), step(params, *batch))


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_network_has_per_example_gradients(kind, always):
    loss, params, *batch = network(kind)
    check(clipped(loss), params, *batch)


@pytest.mark.parametrize("norm", SQUARED_NORMS)
def test_every_spelling_of_a_norm(norm, always):
    loss, params, *batch = network("mixed")
    check(clipped(loss, norm=norm), params, *batch)


@pytest.mark.parametrize("aggregate", WEIGHTED_SUMS)
def test_every_spelling_of_a_weighted_sum(aggregate, always):
    loss, params, *batch = network("mixed")
    check(clipped(loss, aggregate=aggregate), params, *batch)


def test_differences_of_gradients(always):
    loss, params, *batch = network("mlp")

    def step(params, x, y):
        grads = per_example(loss)(params, x, y)
        others = per_example(loss)(params, x.cos(), y)
        between = tree.map(lambda g, other: torch.sub(g, other, alpha=2), grads, others)
        return tree.map(lambda g: (g.mean(0), g.flatten(1).norm(dim=1)), between)

    check(step, params, *batch)


# --- drawn networks ---


@st.composite
def programs(draw):
    """Draw a small network that uses its weights several times, and its parameters and batch."""
    seed = draw(st.integers(0, 2**16))
    normal.generator = torch.Generator().manual_seed(seed)
    width, time = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    layers = draw(
        st.lists(
            st.sampled_from(["linear", "turned", "convolution", "scale", "mix"]),
            min_size=1,
            max_size=4,
        )
    )
    params = {
        "linear": normal(width, width),
        "convolution": normal(width, width, draw(st.integers(1, 2))),
        "scale": normal(width),
        "table": normal(4, width),
        "bias": normal(width),
    }
    dilation, starts = draw(st.integers(1, 2)), draw(st.booleans())

    def layer(kind, params, x):
        if kind == "linear":
            return F.linear(x, params["linear"], params["bias"])
        if kind == "turned":
            return x @ params["linear"]
        if kind == "scale":
            return x * params["scale"]
        if kind == "mix":
            return torch.softmax(x @ x.mT, -1) @ x
        kernel = params["convolution"]
        return F.conv1d(x.mT.contiguous(), kernel, dilation=dilation, padding=dilation).mT

    def loss(params, x, index):
        x = F.embedding(index, params["table"]) + x if starts else x
        for kind in layers:
            x = torch.tanh(layer(kind, params, x))
        return (x @ params["table"].mT).logsumexp(-1).sum()

    batch = draw(st.integers(1, 4))
    indices = torch.randint(0, 4, (batch, time), generator=normal.generator)
    return loss, params, normal(batch, time, width), indices


@settings(max_examples=8, deadline=None)
@given(programs(), st.sampled_from([*SQUARED_NORMS]), st.sampled_from([*WEIGHTED_SUMS]))
def test_drawn_networks(program, norm, aggregate):
    loss, params, *batch = program
    step = clipped(loss, norm, aggregate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewriting, "PATIENCE", math.inf)
        found = pf.jit(step, backend="eager")(params, *batch)
    (grads, squares), (own, norms) = found, step(params, *batch)
    largest = max(leaf.abs().max().item() for leaf in tree.leaves(own))
    for ours, theirs in zip(tree.leaves(grads), tree.leaves(own), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * max(largest, 1e-3))
    torch.testing.assert_close(squares, norms, rtol=1e-12, atol=1e-12)


# --- numbers ---


def rank_one(params, x, g):
    """A loss whose gradient is the outer product of `g` and `x`."""
    return g @ (params["weight"] @ x)


def run(*batch, **options):
    params = {"weight": torch.zeros(batch[1].shape[-1], batch[0].shape[-1], dtype=batch[0].dtype)}
    step = clipped(rank_one)
    return pf.jit(step, backend="eager", **options)(params, *batch), step(params, *batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_less_precise_than_the_program_as_written(dtype):
    normal.generator = torch.Generator().manual_seed(1)
    x, g = normal(BATCH, 6).to(dtype), normal(BATCH, 5).to(dtype)
    found, written = run(x, g)
    exact, _ = run(x.double(), g.double(), options={"contract_per_example": False})
    for ours, theirs, true in zip(*map(tree.leaves, (found, written, exact)), strict=True):
        assert ours.dtype == dtype
        limit = max((theirs.double() - true).norm(), torch.finfo(dtype).eps * true.norm())
        assert (ours.double() - true).norm() <= limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operands_whose_squares_overflow(dtype):
    large = torch.finfo(dtype).max ** 0.75
    x = torch.tensor([[1.0, 2.0], [-3.0, 4.0], [0.0, 0.0]], dtype=dtype)
    (grads, squares), (expected, norms) = run(x * large, x.flip(0) / large)
    torch.testing.assert_close(squares, norms)
    torch.testing.assert_close(grads, expected)


def test_gradients_of_zero_infinity_and_nan():
    inf, nan = math.inf, math.nan
    x = torch.tensor([[0.0, 0.0], [inf, 1.0], [nan, 1.0], [1.0, 1.0]])
    for row in range(4):
        found, written = run(x[row : row + 1], torch.ones(1, 2))
        for ours, theirs in zip(tree.leaves(found), tree.leaves(written), strict=True):
            assert torch.equal(ours.isnan(), theirs.isnan())
            assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())


# --- where it must not be done ---


def test_what_is_returned_is_formed(always):
    loss, params, *batch = network("mlp")

    def step(params, *batch):
        grads = per_example(loss)(params, *batch)
        return tree.map(lambda g: (g.mean(0), g.square().flatten(1).sum(1)), grads), grads

    assert_close(pf.jit(step, backend="eager")(params, *batch), step(params, *batch), 0)


def test_reads_of_another_kind_leave_everything_as_it_is(always):
    loss, params, *batch = network("mlp")

    def step(params, *batch):
        grads = per_example(loss)(params, *batch)
        return tree.map(lambda g: (g.mean(0), g.abs().amax(0)), grads)

    assert_close(pf.jit(step, backend="eager")(params, *batch), step(params, *batch), 0)


def test_ordinary_training_is_not_touched():
    loss, params, *batch = network("convolutions")

    def step(params, *batch):
        return pf.grad(lambda p: pf.vmap(loss, in_axes=(None, 0, 0))(p, *batch).sum())(params)

    lowered = pf.jit(step, backend="eager").lower(params, *batch)
    assert lowered.graph(contracted=True).operators == lowered.graph().operators


FIELDS = {
    "each field has its rows": lambda: torch.arange(0, 35, 5),
    "with an axis for the examples": lambda: torch.arange(0, 35, 5)[None],
    "each example has its rows": lambda: torch.arange(0, 35, 5)[:, None],
}


@pytest.mark.parametrize("fields", FIELDS)
def test_offsets_of_rows_that_are_not_those_of_examples(fields, always):
    # As many examples as fields: functorch would add the same numbers, or numbers as these.
    normal.generator = torch.Generator().manual_seed(1)
    table, index = normal(35, 3), torch.arange(BATCH * 7).reshape(BATCH, 7) % 6 % 5
    index[:-1, 2] += 7  # beyond what belongs to the example or field

    def norm(table):
        def loss(table):
            return F.embedding(index + FIELDS[fields](), table).tanh().square().sum((1, 2)).mean()

        return pf.grad(loss)(table).square().sum().sqrt()

    assert_close(pf.jit(norm, backend="eager")(table), norm(table), 1e-12)


@pytest.mark.parametrize("shape", [(0, 3, 2), (BATCH, 0, 2), (BATCH, 3, 0)])
def test_nothing_is_summed(shape):
    normal.generator = torch.Generator().manual_seed(1)
    params = {"weight": normal(3, shape[-1])}

    def loss(params, x, _):
        return (x @ params["weight"].T).tanh().square().sum()

    batch = normal(*shape), LABELS[: shape[0]]
    found = pf.jit(clipped(loss), backend="eager")(params, *batch)
    torch.testing.assert_close(found, clipped(loss)(params, *batch))


def test_can_be_left_out():
    loss, params, *batch = network("mlp")
    options = {"contract_per_example": False}
    assert formed(clipped(loss), params, *batch, options=options)
    jitted = pf.jit(clipped(loss), backend="eager", options=options)
    assert_close(jitted(params, *batch), clipped(loss)(params, *batch), 0)
    with pytest.raises(TypeError, match=r"contract_per_example.*expected True or False, got 1"):
        pf.jit(clipped(loss), options={"contract_per_example": 1})


def test_what_is_smaller_than_its_gram_matrices_is_formed():
    params = {"weight": torch.zeros(3, 2)}

    def loss(params, x, _):
        return (x @ params["weight"].T).sin().sum()

    assert formed(clipped(loss), params, torch.ones(BATCH, 50, 2), LABELS)
    assert not formed(clipped(loss), params, torch.ones(BATCH, 2), LABELS)
