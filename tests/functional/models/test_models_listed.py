"""Every public function of `models` is in a test of the folder."""

import inspect
import re
from pathlib import Path

import pytest

from purefn.functional import models

TESTS = "\n".join(
    file.read_text() for file in Path(__file__).parent.glob("test_*.py") if file != Path(__file__)
)


FUNCTIONS = [name for name in models.__all__ if inspect.isfunction(getattr(models, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_is_tested(name):
    assert re.search(rf"\b{name}\b", TESTS)
