"""Every planted fault is found, and is placed where it is.

That the rules pass without a fault is what `tests/optim/test_against_torch.py` shows.
"""

import pytest

from purefn.testing import Counterexample, check_optimizer
from purefn.testing.faults import FAULTS
from purefn.testing.faults.planting import TORCH


def test_there_are_enough():
    assert len(FAULTS) >= 40
    assert {fault.rule for fault in FAULTS.values()} == set(TORCH)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    fault = FAULTS[name]
    with fault.plant() as wrong, pytest.raises(Counterexample) as caught:
        check_optimizer(wrong, fault.reference(wrong))
    found = caught.value
    assert found.property == fault.property
    assert fault.step is None or found.step == fault.step
    assert fault.leaf is None or found.leaf == fault.leaf
