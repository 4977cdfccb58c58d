import pytest
import torch

import purefn.functional as pf
from purefn.functional import nn, per_example, random, tree

KEY = random.key(0)
X = random.normal(random.key(1), (3, 4, 5), torch.float64)
EXPERT = nn.serial(nn.linear(6), nn.tanh, nn.linear(5))


def made(layer, x=X):
    return layer.init(KEY, x)


def test_with_one_expert_it_is_the_expert():
    layer = nn.mixture_of_experts(EXPERT, 1, top_k=1)
    params = made(layer)
    alone = EXPERT(tree.unstack(params["experts"])[0], X)
    torch.testing.assert_close(layer(params, X), alone, rtol=1e-12, atol=1e-12)


def test_capacity_for_all_is_no_limit():
    limited, free = (nn.mixture_of_experts(EXPERT, 4, capacity_factor=c) for c in (4.0, None))
    params = made(free)
    torch.testing.assert_close(limited(params, X), free(params, X), rtol=1e-12, atol=1e-12)


def test_what_does_not_fit_is_dropped():
    layer = nn.mixture_of_experts(nn.linear(5), 2, top_k=1, capacity_factor=0.5)
    params = made(layer)
    # All twelve tokens want expert 1, which has room for three.
    same = X[:1, :1].expand(3, 4, 5)
    y = layer(params, same).flatten(0, 1)
    assert y[:3].abs().min() > 0
    assert torch.equal(y[3:], torch.zeros(9, 5, dtype=torch.float64))


def test_examples_are_independent_unless_there_is_a_capacity():
    layer = nn.mixture_of_experts(EXPERT, 4)
    params = made(layer)
    alone = torch.stack([layer(params, x) for x in X])
    torch.testing.assert_close(layer(params, X), alone, rtol=1e-12, atol=1e-12)

    def losses_of(layer):
        return lambda params, x: layer(params, x).square().flatten(1).sum(1)

    grads = per_example.grads(losses_of(layer))(params, X)
    for index, x in enumerate(X):
        own = pf.grad(lambda p, x=x: layer(p, x).square().sum())(params)
        for left, right in zip(tree.leaves(grads), tree.leaves(own), strict=True):
            torch.testing.assert_close(left[index], right, rtol=1e-11, atol=1e-12)
    limited = nn.mixture_of_experts(EXPERT, 4, capacity_factor=0.5)
    with pytest.raises(ValueError, match="example"):
        per_example.grads(losses_of(limited))(params, X)


def test_load_and_its_loss_are_those_of_the_paper():
    layer = nn.tracked_mixture_of_experts(EXPERT, 3, top_k=1)
    params, state = made(layer)
    assert nn.load_balancing_loss(state).item() == pytest.approx(1.0)
    _, state = layer(params, state, X)
    probabilities = (X.reshape(-1, 5) @ params["router"]["weight"].T).softmax(-1)
    counts = torch.bincount(probabilities.argmax(-1), minlength=3).double() / 12
    expected = 3 * sum(counts[i] * probabilities[:, i].mean() for i in range(3))
    both = {"a": state, "b": {"c": state}}
    torch.testing.assert_close(nn.load_balancing_loss(both), 2 * expected, rtol=1e-12, atol=0)


def test_the_loss_of_stacked_mixtures_is_their_sum():
    layer = nn.tracked_mixture_of_experts(EXPERT, 4)
    several = nn.ensemble(layer, 3)
    params, state = several.init(KEY, X)
    assert nn.load_balancing_loss(state).item() == pytest.approx(3.0)
    _, state = several(params, state, X)
    each = [nn.load_balancing_loss(one) for one in tree.unstack(state)]
    torch.testing.assert_close(nn.load_balancing_loss(state), sum(each), rtol=1e-12, atol=0)


def test_the_loss_trains_the_router_from_within_a_model():
    block = nn.residual(nn.tracked_mixture_of_experts(EXPERT, 3))
    model = nn.serial(block, nn.linear(2))
    params, state = made(model)

    def loss(params):
        return nn.load_balancing_loss(model(params, state, X)[1])

    grads = tree.to_state_dict(pf.grad(loss)(params))
    moving = {name for name, value in grads.items() if value.abs().max() > 0}
    assert moving == {"0.body.router.weight"}


def test_noise_is_scaled_by_its_weights():
    router = nn.noisy_router(
        3, weight_init=pf.initializers.normal(), noise_init=pf.initializers.ones
    )
    params = made(router)
    noisy = router(params, X, key=random.key(5), train=True)
    noise = random.normal(random.key(5), (3, 4, 3), torch.float64)
    scale = (1 + X.sum(-1, keepdim=True).exp()).log()
    expected = X @ params["weight"].T + noise * scale
    torch.testing.assert_close(noisy, expected, rtol=1e-12, atol=1e-12)


def test_refusals():
    for options in ({"top_k": 5}, {"top_k": 0}, {"capacity_factor": 0.0}):
        with pytest.raises(ValueError, match="mixture_of_experts: expected"):
            nn.mixture_of_experts(EXPERT, 4, **options)
    with pytest.raises(TypeError, match="no state"):
        nn.mixture_of_experts(nn.batch_norm(), 4)
    with pytest.raises(TypeError, match="router"):
        nn.mixture_of_experts(EXPERT, 4, router=torch.relu)
    with pytest.raises(ValueError, match="tracked_mixture_of_experts"):
        nn.load_balancing_loss({"running_mean": torch.ones(2)})
    layer = nn.mixture_of_experts(EXPERT, 4)
    params = made(layer)
    with pytest.raises(nn.LayerError, match=r"model\['router'\]"):
        layer(params, X[..., :4])
    with pytest.raises(nn.LayerError, match="router to return 4 numbers"):
        nn.mixture_of_experts(EXPERT, 4, router=nn.linear(3)).apply(
            {**params, "router": nn.linear(3).init(KEY, X)}, X
        )
    with pytest.raises(nn.LayerError, match="other"):
        layer({**params, "other": {}}, X)
    noisy = nn.mixture_of_experts(EXPERT, 4, router=nn.noisy_router(4))
    with pytest.raises(nn.LayerError, match="noisy_router needs a key"):
        noisy(made(noisy), X, train=True)
    pair = nn.mixture_of_experts(nn.serial(nn.linear(2), lambda x: x.sum()), 2)
    with pytest.raises(nn.LayerError, match="a vector for each token"):
        pair(made(pair), X)
