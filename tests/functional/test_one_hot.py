"""`F.one_hot` wherever torch cannot look at the labels, against torch where it can."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's name

import purefn.functional as pf

LABELS = torch.tensor([2, 0, 2, 1])
W = torch.arange(1.0, 4.0)
EXPECTED = F.one_hot(LABELS, 3) * W


def by_grad(labels):
    return pf.grad(lambda w: (F.one_hot(labels, 3) * w * w / 2).sum())(W)


USES = {
    "grad": (by_grad, EXPECTED.sum(0)),
    "vmap of grad": (pf.vmap(by_grad), EXPECTED),
    "grad of vmap": (
        lambda labels: pf.grad(
            lambda w: pf.vmap(lambda label: F.one_hot(label, 3) * w * w / 2)(labels).sum()
        )(W),
        EXPECTED.sum(0),
    ),
    "vmap of vmap": (
        lambda labels: pf.vmap(pf.vmap(by_grad))(labels.reshape(2, 2)),
        EXPECTED.reshape(2, 2, 3),
    ),
    "closure": (lambda labels: F.one_hot(LABELS, num_classes=3) * W + 0 * labels[0], EXPECTED),
    "scan": (lambda labels: pf.scan(lambda c, x: (c, by_grad(x)), None, labels)[1], EXPECTED),
    "per example": (
        lambda labels: pf.per_example.grads(lambda w, y: (F.one_hot(y, 3) * w * w / 2).sum(-1))(
            W, labels
        ),
        EXPECTED,
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("transform", [lambda f: f, lambda f: pf.jit(f, backend="aot_eager")])
def test_one_hot_under(use, transform):
    fun, expected = USES[use]
    torch.testing.assert_close(transform(fun)(LABELS), expected, rtol=0, atol=0)


def test_labels_that_are_found_in_a_closure_are_read_at_each_call():
    labels = torch.tensor([0, 1])
    fun = pf.jit(lambda x: F.one_hot(labels, 2) * x, backend="eager")
    assert fun(torch.tensor(1)).tolist() == [[1, 0], [0, 1]]
    labels.fill_(1)
    assert fun(torch.tensor(1)).tolist() == [[0, 1], [0, 1]]


def test_the_number_of_classes_has_to_be_given_under_jit():
    with pytest.raises(pf.TraceError, match=r"number of classes.*one_hot\(labels, num_classes\)"):
        pf.jit(F.one_hot, backend="eager")(LABELS)


def test_outside_of_transforms_torch_still_checks_the_labels():
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        pf.vmap(lambda x: F.one_hot(LABELS, 2) * x)(torch.ones(2))
