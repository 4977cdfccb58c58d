"""Tied weights against torch modules that hold one parameter twice."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import nn, per_example, random, tree

KEY = random.key(0)
TIES = {"decoder.weight": "encoder.weight"}


def language_model():
    """Return one model twice, ours and torch's, whose output embedding is that of the input."""
    ours = nn.serial(
        encoder=nn.embedding(7, 4), hidden=nn.linear(4), act=nn.tanh, decoder=nn.linear(7)
    )
    theirs = torch.nn.Sequential()
    for name, module in {
        "encoder": torch.nn.Embedding(7, 4),
        "hidden": torch.nn.Linear(4, 4),
        "act": torch.nn.Tanh(),
        "decoder": torch.nn.Linear(4, 7),
    }.items():
        theirs.add_module(name, module)
    theirs.decoder.weight = theirs.encoder.weight
    return nn.tie(ours, TIES), theirs.double()


WORDS = torch.tensor([[1, 2, 3], [3, 3, 6]])


def test_outputs_and_gradients_are_those_of_torch():
    ours, theirs = language_model()
    weights = {name: leaf.detach() for name, leaf in theirs.state_dict().items()}
    params = nn.tie_params(tree.from_state_dict(weights), TIES)
    assert set(tree.to_state_dict(params)) == {n for n, _ in theirs.named_parameters()}

    expected = theirs(WORDS)
    expected.square().sum().backward()
    torch.testing.assert_close(ours(params, WORDS), expected.detach(), rtol=1e-12, atol=1e-12)

    def objective(params):
        return ours(params, WORDS).square().sum()

    for gradient in (pf.grad(objective), pf.jit(pf.grad(objective), backend="aot_eager")):
        grads = tree.to_state_dict(gradient(params))
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-12, atol=1e-12)


def test_gradients_of_each_example_add_up_over_both_uses():
    ours, _ = language_model()
    params = tree.cast(ours.init(KEY, WORDS), torch.float64)

    def losses_fn(params, words):
        return ours(params, words).square().sum((1, 2))

    found = per_example.grads(losses_fn)(params, WORDS)
    rows = [pf.grad(lambda p, row=row: losses_fn(p, row[None]).sum())(params) for row in WORDS]
    for actual, expected in zip(tree.leaves(found), tree.leaves(tree.stack(rows)), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    norms = per_example.norms(losses_fn, method="ghost")(params, WORDS)
    expected = torch.stack([tree.norm(row) for row in rows])
    torch.testing.assert_close(norms.total.sqrt(), expected, rtol=1e-12, atol=0)


def test_state_dicts_go_both_ways():
    ours, theirs = language_model()
    params = tree.cast(ours.init(KEY, WORDS), torch.float64)
    both = nn.untie_params(params, TIES)
    theirs.load_state_dict(tree.to_state_dict(both))
    torch.testing.assert_close(theirs(WORDS).detach(), ours(params, WORDS), rtol=1e-12, atol=1e-12)
    again = nn.tie_params(tree.from_state_dict(theirs.state_dict()), TIES)
    assert tree.structure(again) == tree.structure(params)
    assert tree.all(tree.map(torch.equal, again, params))


def test_what_is_not_a_number_is_equal_to_itself():
    odd = torch.tensor([1.0, float("nan"), float("inf")])
    both = {"encoder": {"weight": odd}, "decoder": {"weight": odd.clone()}}
    assert nn.tie_params(both, TIES) == {"encoder": {"weight": odd}}
    largest = torch.finfo(torch.float32).max
    for other in (
        [1.0, torch.nan, largest],
        [1.0, 0.0, torch.inf],
        [1.0, torch.nan, -torch.inf],
        [0.0, torch.nan, torch.inf],
    ):
        with pytest.raises(nn.LayerError, match="equal parameters"):
            nn.tie_params({**both, "decoder": {"weight": torch.tensor(other)}}, TIES)
    with pytest.raises(nn.LayerError, match=r"to be like .*float64.* and .*float32"):
        nn.tie_params({**both, "decoder": {"weight": odd.double()}}, TIES)
    whole = {"encoder": {"weight": torch.arange(3)}, "decoder": {"weight": torch.arange(3)}}
    assert list(nn.tie_params(whole, TIES)) == ["encoder"]


def test_a_tied_block_is_used_twice_and_its_parts_can_be_replaced():
    """A subtree for a subtree: the two blocks of a recurrence in depth."""
    block = nn.serial(nn.linear(4), nn.tanh)
    model = nn.tie(nn.serial(first=block, second=block, head=nn.linear(2)), {"second": "first"})
    x = torch.randn(3, 4)
    params = model.init(KEY, x)
    assert sorted(params) == ["first", "head"]
    inner = block(params["first"], block(params["first"], x))
    assert torch.equal(model(params, x), nn.linear(2)(params["head"], inner))
    wide = nn.at(model, "head").set(nn.linear(5))
    params = tree.at(params, "head").set(nn.linear(5).init(KEY, inner))
    assert torch.equal(wide(params, x), nn.linear(5)(params["head"], inner))


def test_a_part_with_nothing_of_its_own_is_left_out():
    model = nn.serial(encoder=nn.embedding(7, 4), decoder=nn.linear(7, bias=False))
    params = nn.tie(model, TIES).init(KEY, WORDS)
    assert list(params) == ["encoder"]
    assert list(nn.untie_params(params, TIES)) == ["encoder", "decoder"]


def test_batch_norm_keeps_a_state_for_each_use():
    block = nn.serial(nn.linear(4, bias=False), nn.batch_norm())
    model = nn.tie(nn.serial(a=block, b=block), {"b": "a"})
    x = torch.randn(6, 4)
    params, state = model.init(KEY, x)
    assert sorted(params) == ["a"]
    assert sorted(state) == ["a", "b"]
    y, new = model(params, state, x, train=True)
    inner, first = block(params["a"], state["a"], x, train=True)
    expected, second = block(params["a"], state["b"], inner, train=True)
    assert torch.equal(y, expected)
    assert tree.all(tree.map(torch.equal, new, {"a": first, "b": second}))


def test_what_is_refused():
    model = nn.serial(a=nn.linear(4), b=nn.linear(4), c=nn.linear(2))
    x = torch.randn(3, 4)
    for ties in ({}, "b", ["b"], {"b": 1}, {"b..weight": "a"}):
        with pytest.raises(TypeError, match="tie: expected"):
            nn.tie(model, ties)
    for ties in ({"b": "b"}, {"b": "a", "c": "b"}, {"b": "b.weight"}, {"b": "a", "b.bias": "c"}):
        with pytest.raises(ValueError, match="apart from each other"):
            nn.tie(model, ties)
    with pytest.raises(TypeError, match="expected a Layer"):
        nn.tie(torch.relu, {"b": "a"})
    with pytest.raises(nn.LayerError, match=r"the name 'd.weight'"):
        nn.tie(model, {"d.weight": "a.weight"}).init(KEY, x)
    with pytest.raises(nn.LayerError, match=r"'c.weight' to be like 'a.weight'"):
        nn.tie(model, {"c.weight": "a.weight"}).init(KEY, x)
    with pytest.raises(nn.LayerError, match=r"'b' to be like 'a.weight'"):
        nn.tie(model, {"b": "a.weight"}).init(KEY, x)

    tied = nn.tie(model, {"b.weight": "a.weight"})
    params = tied.init(KEY, x)
    assert "bias" in params["b"]
    with pytest.raises(nn.LayerError, match=r"without 'b.weight'.*tie_params"):
        tied(model.init(KEY, x), x)
    with pytest.raises(nn.LayerError, match=r"the name 'a.weight'"):
        tied({"b": params["b"]}, x)
    with pytest.raises(nn.LayerError, match=r"'a.weight', got a torch.float32 tensor of shape"):
        tied(x, params)
    with pytest.raises(nn.LayerError, match=r"model\['b'\]: linear expected 'bias'"):
        tied(tree.at(params, "b.bias").set({}), x)
    with pytest.raises(nn.LayerError, match=r"equal parameters for 'b.weight'"):
        nn.tie_params(model.init(KEY, x), {"b.weight": "a.weight"})
