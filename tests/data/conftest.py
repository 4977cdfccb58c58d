import importlib.util

import pytest

from purefn import data


@pytest.fixture
def torchvision():
    """Give the torchvision module; skip where it is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return data.import_torchvision()


@pytest.fixture
def pillow():
    """Give Pillow's module `Image`; skip where it is not installed."""
    return pytest.importorskip("PIL.Image")
