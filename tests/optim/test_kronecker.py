"""What Shampoo and SOAP share: states of factors, one for each axis of a leaf."""

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree


@pytest.mark.parametrize(
    ("rescale", "basis"),
    [
        (optim.scale_by_shampoo(), "roots"),
        (optim.scale_by_soap(), "bases"),
    ],
)
def test_a_state_of_other_parameters_is_refused(rescale, basis):
    gradient = {"w": torch.ones(2, 3)}
    state, wide = rescale.init(gradient), rescale.init(tree.cast(gradient, torch.float64))
    other = rescale.init({"w": torch.ones(4, 5)})
    for name in ("statistics", basis):

        def update(place, name=name):
            return rescale.update(gradient, state._replace(**{name: place}))

        path = rf"state\.{name}\['w'\]"
        with pytest.raises(
            ValueError, match=rf"{path}\[0\] is .*\(4, 4\).*updates\['w'\].*\(2, 2\)"
        ):
            update(getattr(other, name))
        with pytest.raises(ValueError, match=rf"{path}\[0\] is .*float64.*updates\['w'\].*float32"):
            update(getattr(wide, name))
        with pytest.raises(ValueError, match=rf"{path} is a tuple of 1, but .* of 2 tensors"):
            update({"w": getattr(state, name)["w"][:1]})
        with pytest.raises(ValueError, match=rf"state\.{name}.*'w'"):
            update({"v": getattr(state, name)["w"]})


@pytest.mark.parametrize("rescale", [optim.scale_by_shampoo(), optim.scale_by_soap()])
def test_half_precision_may_have_a_state_in_float32(rescale):
    gradient = {"w": torch.ones(2, 3, dtype=torch.bfloat16)}
    updates, state = rescale.update(gradient, rescale.init(gradient))
    assert updates["w"].dtype == torch.bfloat16
    rescale.update(gradient, state)


@pytest.mark.parametrize("transform", [lambda f: f, pf.jit(backend="eager"), pf.vmap])
@pytest.mark.parametrize("optimizer", [optim.shampoo(), optim.soap()])
def test_autocast_is_for_models(optimizer, transform):
    generator = torch.Generator().manual_seed(0)
    start, *gradients = [
        {name: torch.randn(4, 3, generator=generator) for name in ("w", "v")} for _ in range(5)
    ]
    if transform is pf.vmap:
        start, *gradients = [tree.stack([given] * 2) for given in (start, *gradients)]
    init = pf.vmap(optimizer.init) if transform is pf.vmap else optimizer.init

    def run(enabled):
        def autocast_update(grads, state, params):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                updates, state = optimizer.update(grads, state, params)
                assert ((params["w"] @ params["w"].mT).dtype == torch.bfloat16) == enabled
            return updates, state

        update, params, state = transform(autocast_update), start, init(start)
        for grads in gradients:
            updates, state = update(grads, state, params)
            params = optim.apply_updates(params, updates)
        return tree.leaves((params, state))

    assert all(map(torch.equal, run(True), run(False)))
