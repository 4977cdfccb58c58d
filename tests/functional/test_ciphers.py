"""The cipher as one operator of a graph, and small ciphers computed together."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import nn, random
from purefn.functional.random import cipher
from purefn.functional.staging import ciphers, graphs, tracing

KEY = random.key(7)


def words(*shape):
    draw = torch.Generator().manual_seed(len(shape))
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, generator=draw)


INNER = [(0, 0, None, None), (None, None, 0, 0), (0, None, None, 0), (None, 0, 1, 1)]


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", [(0, 0, 0, 0), (None, 0, None, None)])
def test_the_operator_over_batches_of_any_of_its_words(inner, outer):
    """The oracle is the cipher of each example by itself."""
    arguments = []
    for rank, axis, other in zip((0, 0, 1, 1), inner, outer, strict=True):
        shape = [5] * rank
        if axis is not None:
            shape.insert(axis, 3)
        arguments.append(words(*([2, *shape] if other == 0 else shape)))

    def example(i, j):
        rows = [x if axis is None else x[i] for x, axis in zip(arguments, outer, strict=True)]
        return [x if a is None else x.select(a, j) for x, a in zip(rows, inner, strict=True)]

    batched = pf.vmap(pf.vmap(cipher.operator, inner), outer)(*arguments)
    for i in range(2):
        for j in range(3):
            first, second, high, low = (x.expand(5).tolist() for x in example(i, j))
            for place in range(5):
                key, block = (first[place], second[place]), (high[place], low[place])
                alone = cipher.threefry2x32(key, block, cipher.rotate_left_int)
                found = [int(x[i, j, place]) for x in batched]
                assert [x % 2**32 for x in found] == [x % 2**32 for x in alone]


def count(graph):
    return sum(node.target is cipher.operator for node in graph.nodes)


def traced(fun, *args):
    return tracing.trace(lambda leaves: fun(*leaves), args)


def test_what_depends_on_each_other_is_computed_one_after_the_other():
    def chain(key):
        first, second = random.split(key)
        later = random.fold_in(first, random.bits(second).to(torch.int64))
        return random.bits(later, (3,)), random.bits(first, (4,)), random.uniform(second, (2,))

    trace = traced(chain, KEY)
    graph = ciphers.together(trace.graph, trace.mode)
    # split; bits, bits and uniform; fold_in; bits
    assert (count(trace.graph), count(graph)) == (6, 4)
    compiled = pf.jit(chain, backend="aot_eager")(KEY)
    assert all(map(torch.equal, compiled, chain(KEY)))


def test_what_is_compiled_has_neither_ciphers_nor_writes():
    def draws(key, number):
        return random.bits(random.fold_in(key, number), (3,)), random.split(key)

    trace = traced(draws, KEY, torch.tensor(3))
    graph = ciphers.written_out(trace.graph, trace.mode)
    assert count(graph) == 0
    assert not any(map(graphs.is_mutable, graph.nodes))


def test_inductor_draws_what_eager_draws():
    def draws(key, number):
        """A step's key, of a number that is traced, and what follows from it."""
        first, second = random.split(random.fold_in(key, number))
        inner = random.split(first, 3)
        each = pf.vmap(lambda key: random.bits(key, (2,)))(inner)
        return random.bits(first, (3,)), random.bits(random.fold_in(second, 1), (4,)), each

    compiled, folded = pf.jit(draws), pf.jit(random.fold_in)
    for number in (0, 1, 77):
        assert all(map(torch.equal, compiled(KEY, number), draws(KEY, number)))
        assert torch.equal(folded(KEY, number), random.fold_in(KEY, number))


def test_large_ciphers_stay_where_they_are():
    size = ciphers.SMALL + 1

    def draws(key):
        return [random.bits(part, (size,)) for part in random.split(key, 3)]

    trace = traced(draws, KEY)
    assert count(ciphers.together(trace.graph, trace.mode)) == 4
    compiled = pf.jit(draws, backend="aot_eager")(KEY)
    assert all(map(torch.equal, compiled, draws(KEY)))


def test_a_network_that_drops_needs_as_many_ciphers_as_it_is_deep():
    def block():
        return nn.serial(linear=nn.linear(4), drop=nn.dropout(0.5), more=nn.dropout(0.1))

    def loss(params, x, key):
        return model(params, x, key=key, train=True).square().sum()

    model = nn.serial(**{f"block{i}": nn.residual(block()) for i in range(6)})
    x = torch.ones(3, 4)
    params = model.init(KEY, x)
    leaves, structure = pf.tree.flatten(params)

    def gradients(x, key, *leaves):
        return pf.tree.leaves(pf.grad(loss)(pf.tree.unflatten(structure, leaves), x, key))

    trace = traced(gradients, x, KEY, *leaves)
    assert count(trace.graph) >= 18
    assert count(ciphers.together(trace.graph, trace.mode)) <= 4
    compiled = pf.jit(gradients, backend="aot_eager")(x, KEY, *leaves)
    for ours, theirs in zip(compiled, gradients(x, KEY, *leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_ciphers_in_the_bodies_of_loops():
    def fun(keys):
        def step(total, key):
            first, second = random.split(key)
            return total + random.uniform(first) + random.uniform(second), random.bits(first, (3,))

        return pf.scan(step, 0.0, keys)

    keys = random.split(KEY, 4)
    for ours, theirs in zip(pf.jit(fun, backend="aot_eager")(keys), fun(keys), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0, check_dtype=True)


def test_other_tracers_see_the_operations_themselves():
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda key: random.bits(key, (3,)))(KEY).graph
    assert count(graph) == 0
    assert len(graph.nodes) > 100
