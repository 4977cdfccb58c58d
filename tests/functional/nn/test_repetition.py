"""Chains by `nn.repeat` against `nn.serial` of as many layers."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import nn, per_example, random, tree
from purefn.functional.staging import tracing

KEY, N = random.key(0), 3


def dense():
    return nn.residual(nn.serial(nn.layer_norm(), nn.linear(4), nn.tanh, nn.dropout(0.3)))


def convolution():
    return nn.serial(nn.conv2d(2, 3, padding=1), nn.batch_norm(), nn.relu, nn.dropout(0.3))


LAYERS = {"stateless": (dense, (5, 4)), "stateful": (convolution, (5, 2, 4, 4))}


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("transform", [None, "aot_eager"])
def test_the_chain_is_that_of_serial(make, shape, transform, run_layer):
    chain, serial = nn.repeat(make(), N), nn.serial(*(make() for _ in range(N)))
    x = torch.randn(shape, dtype=torch.float64)
    key = random.key(1)

    def gradients(model):
        def objective(params, state, x):
            y, state = run_layer(model, params, state, x, key=key, train=True)
            return y.square().sum(), (y, state)

        return lambda *given: pf.grad(objective, argnums=(0, 2), has_aux=True)(*given)

    made = tree.cast(chain.init(KEY, x), torch.float64)
    params, state = made if isinstance(chain, nn.StatefulLayer) else (made, {})

    def of_each(values):
        return {str(i): own for i, own in enumerate(tree.unstack(values))} if values else {}

    run = gradients(chain) if transform is None else pf.jit(gradients(chain), backend=transform)
    (own, x_grad), (y, new_state) = run(params, state, x)
    (expected, x_expected), (out, expected_state) = gradients(serial)(
        of_each(params), of_each(state), x
    )
    pairs = [(of_each(own), expected), (x_grad, x_expected), (y, out)]
    pairs += [(of_each(new_state), expected_state)] if state else []
    for ours, theirs in pairs:
        for one, other in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_layers_are_drawn_from_split_keys():
    made = nn.repeat(dense(), N).init(KEY, torch.ones(5, 4))
    loop = tree.stack([dense().init(key, torch.ones(5, 4)) for key in random.split(KEY, N)])
    assert tree.all(tree.map(torch.equal, made, loop))


def test_what_is_traced_does_not_grow_with_the_length():
    def nodes(n):
        model = nn.repeat(dense(), n)
        params = model.init(KEY, torch.ones(5, 4))
        leaves, structure = tree.flatten(params)

        def fun(leaves):
            loss = lambda params: model(params, torch.ones(5, 4)).sum()  # noqa: E731
            return tree.leaves(pf.grad(loss)(tree.unflatten(structure, leaves)))

        return len(tracing.trace(fun, leaves).graph.nodes)

    assert nodes(2) == nodes(9)


def test_under_other_transforms():
    model, x = nn.repeat(dense(), N), torch.randn(5, 4, dtype=torch.float64)
    params = tree.cast(model.init(KEY, x), torch.float64)

    def losses(params, x):
        return model(params, x).square().sum(-1)

    each = per_example.grads(losses)(params, x)
    loop = [pf.grad(lambda p, row: losses(p, row).sum())(params, x[i : i + 1]) for i in range(5)]
    for one, other in zip(tree.leaves(each), tree.leaves(tree.stack(loop)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    together = nn.ensemble(model, 2)
    stacked = tree.cast(together.init(KEY, x), torch.float64)
    first = tree.unstack(stacked)[0]
    torch.testing.assert_close(together(stacked, x)[0], model(first, x), rtol=1e-12, atol=1e-13)


def test_parts_are_those_of_the_layer():
    model = nn.repeat(nn.serial(a=nn.linear(4), b=nn.relu), 5)
    rows = {row.path: row for row in nn.tabulate(model, torch.ones(2, 4))}
    assert set(rows) == {"", "a", "b"}
    assert rows["a"].params == rows[""].params == 5 * 20
    assert rows["a"].flops == rows[""].flops == 5 * 2 * 2 * 4 * 4
    changed = nn.at(model, "b").set(nn.tanh)
    params = changed.init(KEY, torch.ones(2, 4))
    assert changed(params, torch.ones(2, 4)).abs().max() < 1


class TestRefusals:
    def test_a_layer_that_returns_something_else(self):
        with pytest.raises(nn.LayerError, match=r"returns what it receives.*\(2, 4\).*\(2, 3\)"):
            nn.repeat(nn.linear(3), 2).init(KEY, torch.ones(2, 4))

    def test_parameters_of_another_number_of_layers(self):
        params = nn.repeat(nn.linear(4), 2).init(KEY, torch.ones(2, 4))
        with pytest.raises(nn.LayerError, match="repeat expected leaves with a first axis of len"):
            nn.repeat(nn.linear(4), 3)(params, torch.ones(2, 4))

    @pytest.mark.parametrize("n", [0, -1, 2.0, True])
    def test_counts(self, n):
        with pytest.raises((TypeError, ValueError), match=r"repeat: .*n"):
            nn.repeat(nn.linear(4), n)

    def test_functions_are_no_layers(self):
        with pytest.raises(TypeError, match="repeat: expected a Layer"):
            nn.repeat(torch.relu, 2)

    def test_a_missing_key(self):
        model = nn.repeat(nn.dropout(0.5), 2)
        with pytest.raises(nn.LayerError, match="key"):
            model({}, torch.ones(2, 4), train=True)
