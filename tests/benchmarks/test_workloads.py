import pytest
import torch

from benchmarks.contenders import CONTENDERS, available
from benchmarks.steps import agreed_losses
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.update import resnet50_shapes
from purefn.functional import tree


@pytest.mark.parametrize("name", ["mlp-30x32", "mnist-cnn", "transformer", "gpt"])
def test_eager_contenders_take_the_same_steps(name):
    workload = WORKLOADS[name]()
    names = available(workload, ["torch eager", "purefn eager", "torchopt", "jax"])
    losses = agreed_losses({name: CONTENDERS[name](workload) for name in names})
    first, second, third = losses["purefn eager"]
    assert first > second > third


def test_resnet50_takes_the_same_steps():
    """Large: on two images, which is what the batch norms need at least."""
    workload = WORKLOADS["resnet50"]()
    workload.batch = tuple(leaf[:2] for leaf in workload.batch)
    names = available(workload, ["torch eager", "purefn eager", "jax"])
    losses = agreed_losses({name: CONTENDERS[name](workload) for name in names})
    assert len(set(losses["purefn eager"])) == 3


def test_a_contender_that_computes_something_else_is_named():
    steps = {"right": lambda: torch.tensor(1.0), "wrong": lambda: torch.tensor(1.001)}
    with pytest.raises(AssertionError, match=r"wrong has the losses \[1\.0"):
        agreed_losses(steps)


def test_contenders_leave_the_workload_as_it_is():
    workload = WORKLOADS["mlp-10x64"]()
    before = tree.map(torch.clone, dict(workload.module.state_dict()))
    for name in ("torch eager", "purefn eager"):
        CONTENDERS[name](workload)()
    after = dict(workload.module.state_dict())
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_resnet18_is_the_published_one_with_the_small_stem():
    # torchvision's has 11,689,512 for 1000 classes and a 7 x 7 stem.
    parameters = sum(leaf.numel() for leaf in WORKLOADS["resnet18"]().module.parameters())
    assert parameters == 11_689_512 - (1000 - 10) * 513 - 64 * 3 * (49 - 9)


def test_gpt_has_one_matrix_for_embedding_and_head():
    module = WORKLOADS["gpt"]().module
    block = 12 * 256**2 + 13 * 256
    expected = (512 + 64) * 256 + 4 * block + 2 * 256
    assert sum(leaf.numel() for leaf in module.parameters()) == expected


def test_resnet50_has_the_published_shapes():
    shapes = list(resnet50_shapes())
    assert len(shapes) == 161
    assert sum(torch.Size(shape).numel() for shape in shapes) == 25_557_032
