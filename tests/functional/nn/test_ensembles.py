"""Ensembles against a loop over their members."""

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import nn, per_example, random, tree

KEY, N = random.key(0), 3


def stateless():
    return nn.serial(nn.linear(6), nn.tanh, nn.dropout(0.5), nn.linear(2))


def stateful():
    return nn.serial(nn.conv2d(4, 2), nn.batch_norm(), nn.relu, nn.dropout(0.3), nn.flatten(),
                     nn.linear(2))  # fmt: skip


MEMBERS = {"stateless": (stateless(), (5, 4)), "stateful": (stateful(), (5, 2, 4, 4))}
each_member = pytest.mark.parametrize(("member", "shape"), MEMBERS.values(), ids=MEMBERS)


def close(actual, expected):
    assert tree.structure(actual) == tree.structure(expected)
    for one, other in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@each_member
def test_members_are_drawn_from_split_keys(member, shape):
    x = torch.randn(shape)
    made = nn.ensemble(member, N).init(KEY, x)
    loop = tree.stack([member.init(key, x) for key in random.split(KEY, N)])
    assert tree.structure(made) == tree.structure(loop)
    assert tree.all(tree.map(torch.equal, made, loop))
    assert all(leaf.is_contiguous() for leaf in tree.leaves(made))
    declared = pf.eval_shape(nn.ensemble(member, N).init, KEY, x)
    assert [leaf.shape for leaf in tree.leaves(made)] == [
        leaf.shape for leaf in tree.leaves(declared)
    ]


@each_member
@pytest.mark.parametrize("own", [False, True], ids=["one batch", "own batches"])
def test_outputs_states_and_gradients_are_those_of_a_loop(member, shape, own, run_layer):
    x = torch.randn((N, *shape) if own else shape, dtype=torch.float64)
    model = nn.ensemble(member, N, in_axes=0 if own else None)
    made = tree.cast(model.init(KEY, x), torch.float64)
    params, state = made if isinstance(model, nn.StatefulLayer) else (made, {})

    def objective(layer, params, state, x, key):
        y, state = run_layer(layer, params, state, x, key=key, train=True)
        return y.square().sum(), (y, state)

    def gradients(layer):
        return lambda *given: pf.grad(lambda *given: objective(layer, *given), has_aux=True)(*given)

    whole = gradients(model)
    if own:  # to compile is slow
        whole = pf.jit(whole, backend="aot_eager")
    grads, (y, new_state) = whole(params, state, x, random.key(1))
    if state == {}:
        assert new_state == {}
    rows = zip(
        tree.unstack(params),
        tree.unstack(state) if state else [{}] * N,
        x if own else [x] * N,
        random.split(random.key(1), N),
        strict=True,
    )
    loop = [gradients(member)(*row) for row in rows]
    close(grads, tree.stack([one for one, _ in loop]))
    close(y, torch.stack([out for _, (out, _) in loop]))
    if state:
        close(new_state, tree.stack([one for _, (_, one) in loop]))


def test_training_at_once_is_training_each():
    """With an elementwise rule; each member has moved as it would have alone."""
    member = nn.serial(nn.linear(8), nn.tanh, nn.linear(1))
    model = nn.ensemble(member, N)
    x = torch.randn(16, 3, dtype=torch.float64)
    target = torch.sin(x.sum(1, keepdim=True))
    optimizer = optim.adam(lr=0.01)

    def train(layer, params):
        state = optimizer.init(params)
        loss = pf.grad(lambda p: (layer(p, x) - target).square().mean((-2, -1)).sum())
        for _ in range(20):
            updates, state = optimizer.update(loss(params), state, params)
            params = optim.apply_updates(params, updates)
        return params

    params = tree.cast(model.init(KEY, x), torch.float64)
    together = train(model, params)
    close(together, tree.stack([train(member, one) for one in tree.unstack(params)]))


def test_gradients_of_every_example():
    member = stateless()
    model = nn.ensemble(member, N)
    x = torch.randn(5, 4, dtype=torch.float64)
    params = tree.cast(model.init(KEY, x), torch.float64)

    def losses_fn(params, x):
        return model(params, x).square().sum((0, 2))

    found = per_example.grads(losses_fn)(params, x)
    rows = [pf.grad(lambda p, row=row: losses_fn(p, row[None]).sum())(params) for row in x]
    close(found, tree.stack(rows))
    norms = per_example.norms(losses_fn, method="ghost")(params, x).total.sqrt()
    torch.testing.assert_close(norms, torch.stack([tree.norm(row) for row in rows]))


def test_an_ensemble_of_ensembles_and_inside_a_model():
    inner = nn.serial(nn.linear(4), nn.tanh)
    x = torch.randn(5, 4)
    deep = nn.ensemble(nn.ensemble(inner, 2), N)
    params = deep.init(KEY, x)
    assert params["0"]["weight"].shape == (N, 2, 4, 4)
    assert deep(params, x).shape == (N, 2, 5, 4)
    chain = nn.serial(nn.ensemble(inner, 2), nn.ensemble(inner, 2, in_axes=0))
    assert chain(chain.init(KEY, x), x).shape == (2, 5, 4)


def test_an_input_of_several_tensors_has_axes_of_its_own():
    member = nn.bilinear(3)
    pair = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, N, 2, dtype=torch.float64)
    model = nn.ensemble(member, N, in_axes=(None, 1))
    params = model.init(KEY, pair)
    expected = [member(one, (pair[0], pair[1][:, i])) for i, one in enumerate(tree.unstack(params))]
    close(model(params, pair), torch.stack(expected))
    attention = nn.ensemble(nn.multi_head_attention(2), N, in_axes=(0, None, None))
    x = torch.randn(N, 2, 5, 4)
    assert attention(attention.init(KEY, (x, None, None)), (x, None, None)).shape == x.shape


def test_what_is_refused():
    with pytest.raises(TypeError, match="expected a Layer"):
        nn.ensemble(torch.relu, 3)
    with pytest.raises(ValueError, match="n >= 1, got 0"):
        nn.ensemble(nn.linear(2), 0)
    with pytest.raises(TypeError, match="integer for n"):
        nn.ensemble(nn.linear(2), 2.0)
    x = torch.randn(5, 4)
    model, own = nn.ensemble(nn.linear(2), N), nn.ensemble(nn.linear(2), N, in_axes=0)
    params = model.init(KEY, x)
    with pytest.raises(nn.LayerError, match=r"length 3 along axis 0.*got shape \(5, 4\)"):
        own(params, x)
    with pytest.raises(nn.LayerError, match=r"length 3 along axis 0.*got shape \(5, 4\)"):
        own.init(KEY, x)
    with pytest.raises(nn.LayerError, match=r"first axis of length 3.*'bias'; tree.stack"):
        model(tree.unstack(params)[0], x)
    with pytest.raises(nn.LayerError, match=r"\(..., 4\), got \(5, 7\)"):
        model(params, torch.randn(5, 7))
    with pytest.raises(nn.LayerError, match=r"like in_axes=\(0, 1\), got a torch.float32 tensor"):
        nn.ensemble(nn.linear(2), N, in_axes=(0, 1))(params, x)
    with pytest.raises(nn.LayerError, match=r"like in_axes=\(0, 1\), got a tuple of length 3"):
        nn.ensemble(nn.bilinear(2), N, in_axes=(0, 1))(params, (x, x, x))
    with pytest.raises(TypeError, match="in_axes"):
        nn.ensemble(nn.linear(2), N, in_axes="0")
    dropping = nn.ensemble(nn.serial(nn.dropout(0.5)), N)
    with pytest.raises(nn.LayerError, match=r"model\['0'\]: dropout needs a key"):
        dropping({}, x, train=True)
