"""SM3-II against the paper's algorithm, slice by slice."""

import itertools

import numpy as np
import pytest
import torch

from purefn import optim
from purefn.testing import check_optimizer


def sm3(theta, gradients, lr, momentum=0.9, eps=1e-30, maximize=False):
    """Anil et al. 2019, arXiv:1901.11150, SM3-II, with the cover of the slices of a tensor.

    Written over elements and sets, as in the paper: `mu` is a dict by slice.
    """
    shape = theta.shape
    elements = list(np.ndindex(*shape))

    def cover(element):
        return list(enumerate(element)) if len(shape) > 1 else [element]

    mu = {part: 0.0 for element in elements for part in cover(element)}
    m = np.zeros_like(theta)
    for g in gradients:
        g = -g if maximize else g
        step, largest = np.zeros_like(theta), dict.fromkeys(mu, 0.0)
        for element in elements:
            nu = min(mu[part] for part in cover(element)) + g[element] ** 2
            step[element] = g[element] / np.sqrt(nu + eps)
            for part in cover(element):
                largest[part] = max(largest[part], nu)
        mu = largest
        m = momentum * m + (1 - momentum) * step
        theta = theta - lr * m
        yield theta, {"ema": m}


def test_sm3_is_the_papers():
    check_optimizer(optim.sm3, sm3, hyperparameters={"lr": 0.1}, examples=2)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_sums_are_those_of_the_slices(shape):
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(4)]
    rescale = optim.scale_by_cover()
    state = rescale.init(grads[0])
    assert [tuple(sums.shape) for sums in state.accumulators] == (
        [tuple(n if i == axis else 1 for i, n in enumerate(shape)) for axis in range(len(shape))]
        if len(shape) > 1
        else [shape]
    )
    for grad in grads:
        updates, state = rescale.update(grad, state)
        assert updates.shape == shape
    for axis, sums in enumerate(state.accumulators):
        total = sum(grad.square() for grad in grads)
        if total.numel():
            others = [i for i in range(len(shape)) if i != axis] if len(shape) > 1 else []
            bound = total.amax(others, keepdim=True) if others else total
            assert torch.all(sums >= bound * (1 - 1e-12))  # the paper's proposition 2


def test_a_vector_is_adagrad():
    grads = [torch.randn(5, dtype=torch.float64) for _ in range(5)]
    rescale = optim.scale_by_cover()
    state, total = rescale.init(grads[0]), torch.zeros(5, dtype=torch.float64)
    for grad in grads:
        updates, state = rescale.update(grad, state)
        total = total + grad**2
        torch.testing.assert_close(updates, grad / total.sqrt(), rtol=1e-14, atol=0)


def test_averages_of_squares_instead_of_sums():
    rescale, grads = optim.scale_by_cover(b2=0.75), torch.full((2, 2), 2.0, dtype=torch.float64)
    state = rescale.init(grads)
    for step in range(1, 5):
        _, state = rescale.update(grads, state)
        for sums in state.accumulators:
            torch.testing.assert_close(sums, torch.full_like(sums, 4 * (1 - 0.75**step)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_kept_in_float32(dtype):
    grads = torch.full((3, 2), 300.0, dtype=dtype)
    rescale = optim.scale_by_cover()
    updates, state = rescale.update(grads, rescale.init(grads))
    assert updates.dtype == dtype
    assert updates.tolist() == [[1.0] * 2] * 3
    assert [sums.dtype for sums in state.accumulators] == [torch.float32] * 2


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"w": torch.ones(3, 1)}, r"updates\['w'\] has shape \(3, 1\), but the sums"),
        ({"w": torch.ones(3)}, r"updates\['w'\] has shape \(3,\), but the sums"),
        ({"v": torch.ones(3, 2)}, "v"),
    ],
    ids=["a size", "a rank", "a name"],
)
def test_gradients_that_do_not_fit_the_state_are_refused(updates, message):
    rescale = optim.scale_by_cover()
    state = rescale.init({"w": torch.ones(3, 2)})
    with pytest.raises(ValueError, match=message):
        rescale.update(updates, state)


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match=r"sm3: params\['w'\] is a tensor of torch.complex64"):
        optim.sm3(lr=0.1).init({"w": torch.ones(2, dtype=torch.complex64)})


def test_an_infinite_gradient_is_not_hidden():
    grads = torch.tensor([[torch.inf, 1.0]])
    updates, _ = optim.scale_by_cover().update(grads, optim.scale_by_cover().init(grads))
    assert updates.isnan().tolist() == [[True, False]]


def test_leaves_are_independent():
    shapes = [(2, 3), (4,), ()]
    trees = [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    rescale = optim.scale_by_sm3()
    together = rescale.init(trees[0])
    alone = [rescale.init(leaf) for leaf in trees[0]]
    for grads in trees:
        updates, together = rescale.update(grads, together)
        for index, grad in enumerate(grads):
            single, alone[index] = rescale.update(grad, alone[index])
            assert torch.equal(single, updates[index])
    assert len(list(itertools.chain(*together[0].accumulators))) == 4
