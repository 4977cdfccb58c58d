import dataclasses

import pytest
import torch

from purefn import data
from purefn.functional import tree

CLASSES = ("cat", "dog")


def example(labels=(0, 1, 1)):
    images = torch.arange(len(labels) * 4, dtype=torch.float32).reshape(-1, 1, 2, 2) / 100
    return data.Dataset(images, torch.tensor(labels), CLASSES)


def test_a_dataset_is_a_tree_of_images_and_labels():
    ds = example()
    assert len(ds) == 3
    assert tree.path_strings(ds, "ds") == ["ds.images", "ds.labels"]
    tail = tree.map(lambda leaf: leaf[1:], ds)
    assert isinstance(tail, data.Dataset)
    assert tail.classes == CLASSES
    assert tail.labels.tolist() == [1, 1]
    torch.testing.assert_close(tail.images, ds.images[1:], rtol=0, atol=0)


def test_classes_belong_to_the_structure():
    other = dataclasses.replace(example(), classes=("dog", "cat"))
    assert tree.structure(other) != tree.structure(example())


def test_a_dataset_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        example().labels = torch.zeros(3)


def test_tree_operations_do_not_check():
    shapes = tree.map(lambda leaf: tuple(leaf.shape), example())
    assert tree.map(str, example()).classes == shapes.classes == CLASSES


def test_check_returns_the_same_object():
    ds = example()
    assert data.check_dataset(ds) is ds


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": torch.tensor([0, 2, 5])}, ValueError, r"ds\.labels\[1\] is 2: expected 0 to 1"),
        ({"labels": torch.tensor([0, 1, -1])}, ValueError, r"ds\.labels\[2\] is -1"),
        ({"labels": torch.tensor([0, 1])}, ValueError, "3 images but 2 labels"),
        ({"labels": torch.tensor([[0], [1], [1]])}, ValueError, r"1 dimensions.*\(3, 1\)"),
        ({"labels": torch.tensor([0.0, 1.0, 1.0])}, TypeError, "int64, got torch.float32"),
        ({"images": torch.zeros(3, 4, 4)}, ValueError, r"4 dimensions.*\(3, 4, 4\)"),
        ({"images": torch.zeros(3, 1, 4, 4, dtype=torch.uint8)}, TypeError, "float32, got.*uint8"),
        (
            {"images": torch.zeros(0, 1, 4, 4), "labels": torch.zeros(0, dtype=torch.int64)},
            ValueError,
            "at least one image",
        ),
        ({"classes": ("cat",)}, ValueError, r"labels\[1\] is 1: expected 0 to 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        data.check_dataset(dataclasses.replace(example(), **changes), "ds")
