"""`jit` on CUDA: in place, recorded as CUDA graphs, and the same numbers as on the CPU."""

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import losses, nn, random, tree

pytestmark = pytest.mark.cuda

MODEL = nn.serial(nn.linear(32), nn.relu, nn.linear(32), nn.relu, nn.linear(10))
ADAM = optim.adam()


def step(params, state, images, labels):
    def loss(params):
        return losses.cross_entropy(MODEL(params, images), labels).mean()

    value, grads = pf.value_and_grad(loss)(params)
    updates, state = ADAM.update(grads, state, params)
    return optim.apply_updates(params, updates), state, value


def start(device):
    images = random.normal(random.key(1), (16, 8))
    params = MODEL.init(random.key(0), images)
    call = (params, ADAM.init(params), images, torch.arange(16) % 10)
    return tree.map(lambda leaf: leaf.to(device), call)


def train(transform, device, steps=6):
    """Return the losses, kept as they were returned, and the last parameters."""
    run = transform(step)
    params, state, images, labels = start(device)
    values = []
    for _ in range(steps):
        params, state, value = run(params, state, images, labels)
        values.append(value)
    return [value.item() for value in values], params


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "reduce-overhead"}, {"mode": "max-autotune-no-cudagraphs"}, {"backend": "eager"}],
    ids=["default", "CUDA graphs", "autotuned", "eager"],
)
@pytest.mark.parametrize("donated", [(), (0, 1)], ids=["fresh", "donated"])
def test_a_run_is_the_run_on_the_cpu(options, donated):
    expected, expected_params = train(lambda fun: fun, "cpu")
    values, params = train(lambda fun: pf.jit(fun, donate_argnums=donated, **options), "cuda")
    assert values == pytest.approx(expected, rel=1e-4)
    for ours, theirs in zip(tree.leaves(params), tree.leaves(expected_params), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-4)


def test_a_replay_overwrites_no_earlier_output():
    fun = pf.jit(lambda x: (x + 1, x.sum()), mode="reduce-overhead")
    results = [fun(torch.full((64,), float(i), device="cuda")) for i in range(8)]
    for i, (moved, total) in enumerate(results):
        assert torch.equal(moved, torch.full((64,), i + 1.0, device="cuda"))
        assert total.item() == 64 * i


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_donated_state_stays_where_it_is(mode):
    run = pf.jit(step, donate_argnums=(0, 1), mode=mode)
    params, state, images, labels = start("cuda")
    places = {leaf.data_ptr() for leaf in tree.leaves((params, state))}
    for _ in range(6):
        params, state, _ = run(params, state, images, labels)
        assert {leaf.data_ptr() for leaf in tree.leaves((params, state))} == places
    before = torch.cuda.memory_allocated()
    for _ in range(6):
        params, state, _ = run(params, state, images, labels)
    assert torch.cuda.memory_allocated() == before


def test_no_program_answers_for_another_device():
    fun = pf.jit(lambda x, y: x * 2 + y)
    for device in ("cpu", "cuda", "cpu", "cuda"):
        x = torch.arange(5.0, device=device)
        result = fun(x, 1.0)
        assert result.device == x.device
        assert torch.equal(result, x * 2 + 1)
    assert fun.trace_count == 2
