"""Hypothesis profiles: `dev` draws anew each run, `ci` repeats the same draws."""

import os

import pytest
import torch
from hypothesis import settings

from purefn.testing import profiles

profiles.register()
settings.register_profile("ci", settings.get_profile("ci"), max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)
