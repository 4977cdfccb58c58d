"""Networks that hypothesis draws: every method, in every kind of program, is the definition."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import tree
from purefn.functional.per_example import clipped_grad

ROWS = 5
METHODS = ["auto", "ghost", "materialize"]


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


# --- Layers on (batch, positions, width), which take parameters from a pool ----------------------


def linear(h, take, i):
    return F.linear(h, take("matrix"), take("vector"))


def product(h, take, i):
    return h @ take("matrix")


def turned(h, take, i):
    return h @ take("matrix").T


def by_einsum(h, take, i):
    return torch.einsum("btd,de->bte", h, take("matrix"))


def over_positions(h, take, i):
    return h.cumsum(1) / torch.arange(1, h.shape[1] + 1)[:, None] + take("vector")


def convolution(h, take, i):
    return F.conv1d(h.mT, take("kernel"), take("vector"), padding=1).mT


def transposed_convolution(h, take, i):
    # Of one position torch's own vmap of grad fails.
    padded = F.pad(h.mT, (0, 1))
    return F.conv_transpose1d(padded, take("kernel"), padding=1).mT[:, :-1]


def normalization(h, take, i):
    return F.layer_norm(h, h.shape[-1:], take("vector"), take("vector"))


def root_mean_square(h, take, i):
    return F.rms_norm(h, h.shape[-1:], take("vector"))


def attention(h, take, i):
    q, k, v = (h @ take("matrix") for _ in range(3))
    y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=True)
    return y[:, 0] @ take("matrix")


def recurrence(h, take, i):
    inner, outer, bias = take("matrix"), take("matrix"), take("vector")
    state, states = torch.zeros_like(h[:, 0]), []
    for t in range(h.shape[1]):
        state = torch.tanh(h[:, t] @ inner + state @ outer + bias)
        states.append(state)
    return torch.stack(states, 1)


def scanned(h, take, i):
    inner, outer = take("matrix"), take("matrix")

    def step(state, x):
        state = torch.tanh(x @ inner + state @ outer)
        return state, state

    return pf.scan(step, torch.zeros_like(h[:, 0]), h.transpose(0, 1))[1].transpose(0, 1)


def embedding(h, take, i):
    return h + F.embedding(i, take("table"))


def lookup(h, take, i):
    return h * take("table")[i]


def logits(h, take, i):
    table = take("table")
    return (h @ table.T).softmax(-1) @ table


def adapted(h, take, i):
    down, up = take("matrix")[:, :1], take("matrix")[:1]
    return h @ take("matrix") + h @ down @ up


def merged(h, take, i):
    return h @ (take("matrix") + 0.5 * take("matrix") @ take("matrix"))


def rescaled(h, take, i):
    return h @ (take("matrix") * take("vector").exp())


def in_halves(h, take, i):
    weight = take("matrix")
    return torch.cat([h @ weight[:, :1], (h @ weight[:, 1:]).sin()], -1)


def gated(h, take, i):
    return (h @ take("matrix")).sigmoid() * take("number")


LAYERS = [
    linear, product, turned, by_einsum, over_positions, convolution, transposed_convolution,
    normalization, root_mean_square, attention, recurrence, scanned, embedding, lookup, logits,
    adapted, merged, rescaled, in_halves, gated,
]  # fmt: skip


def pool(width, sizes):
    shapes = {
        "matrix": (width, width), "vector": (width,), "kernel": (width, width, 3),
        "table": (ROWS, width), "number": (),
    }  # fmt: skip
    return {kind: [normal(*shapes[kind]) for _ in range(sizes)] for kind in shapes}


@st.composite
def networks(draw, layers=LAYERS, most=4):
    """Draw losses, and the parameters and batch that they take."""
    width, sizes = draw(st.integers(2, 3)), draw(st.integers(1, 3))
    chosen = draw(st.lists(st.sampled_from(layers), min_size=1, max_size=most))
    residual = draw(st.lists(st.booleans(), min_size=most, max_size=most))
    first = draw(st.integers(0, 5))
    torch.manual_seed(draw(st.integers(0, 99)))
    params = pool(width, sizes)
    examples, positions = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    batch = normal(examples, positions, width), torch.randint(0, ROWS, (examples, positions))

    def losses(params, x, i):
        count = first

        def take(kind):
            # In turn, so that a small pool ties what different layers use.
            nonlocal count
            count += 1
            return params[kind][count % sizes]

        h = x
        for layer, is_residual in zip(chosen, residual, strict=False):
            y = layer(h, take, i)
            h = h + y if is_residual else y.tanh()
        return (h.square() + h.sin()).sum((1, 2))

    losses.layers = [layer.__name__ for layer in chosen]
    return losses, params, batch


def expected_of(oracle, losses, params, batch):
    """Return a bound between the norms, the norms, and the sum of clipped gradients."""
    gradients = oracle.gradients(losses, params, *batch)
    norms = sum(map(oracle.square, gradients)).sqrt()
    bound = norms.mean().item()
    weights = (bound / norms).clamp_max(1)
    return bound, norms, [torch.tensordot(weights, leaf, 1) for leaf in gradients]


def assert_is(oracle, found, expected, what):
    _, norms, sums = expected
    oracle.assert_equal(found.norms, norms, f"norms {what}", rtol=1e-10)
    oracle.assert_equal(found.grads, sums, f"sums {what}", rtol=1e-10)


@settings(max_examples=10)
@given(network=networks())
def test_every_method(oracle, network):
    losses, params, batch = network
    expected = expected_of(oracle, losses, params, batch)
    for method in METHODS:
        found = clipped_grad(losses, expected[0], method=method)(params, *batch)
        assert_is(oracle, found, expected, (method, losses.layers))


@settings(max_examples=5)
@given(network=networks(), method=st.sampled_from(METHODS), microbatch=st.integers(1, 3))
def test_compiled(oracle, network, method, microbatch):
    losses, params, batch = network
    expected = expected_of(oracle, losses, params, batch)

    @pf.jit(backend="eager")
    def step(params, bound, *batch):
        return clipped_grad(losses, bound, method=method, microbatch=microbatch)(params, *batch)

    bound = torch.tensor(expected[0], dtype=torch.float64)
    assert_is(oracle, step(params, bound, *batch), expected, (method, losses.layers))


@settings(max_examples=4)
@given(network=networks(most=3), method=st.sampled_from(METHODS))
def test_mapped_over_models(oracle, network, method):
    losses, params, batch = network
    models = [params, tree.map(lambda leaf: leaf * 0.5, params)]
    expected = [expected_of(oracle, losses, model, batch) for model in models]
    bounds = torch.tensor([bound for bound, _, _ in expected], dtype=torch.float64)

    def of_model(params, bound):
        return clipped_grad(losses, bound, method=method)(params, *batch)

    found = pf.vmap(of_model)(tree.stack(models), bounds)
    for number in range(2):
        of_one = tree.map(lambda leaf, number=number: leaf[number], found._replace(aux=()))
        assert_is(oracle, of_one, expected[number], (method, losses.layers))


@settings(max_examples=4)
@given(network=networks(most=3), method=st.sampled_from(METHODS))
def test_losses_that_close_over_values_of_the_step(oracle, network, method):
    losses, params, batch = network
    frozen = normal(*batch[0].shape[1:])
    expected = expected_of(
        oracle, lambda params, x, i: losses(params, x * frozen.exp(), i), params, batch
    )

    @pf.jit(backend="eager")
    def step(params, frozen, bound, x, i):
        scale = frozen.exp()

        def scaled(params, x, i):
            return losses(params, x * scale, i)

        return clipped_grad(scaled, bound, method=method)(params, x, i)

    bound = torch.tensor(expected[0], dtype=torch.float64)
    assert_is(oracle, step(params, frozen, bound, *batch), expected, (method, losses.layers))


@settings(max_examples=5)
@given(network=networks(layers=[linear, product, turned, by_einsum, attention, logits, embedding]))
def test_matrices_need_no_gradients(oracle, network):
    losses, params, batch = network
    used = {path for path in tree.path_strings(params, "params") if "matrix" in path}
    assert used <= oracle.understood(losses, params, *batch)
