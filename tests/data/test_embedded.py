"""The digits against what their publishers state, and against a checksum of scikit-learn's copy."""

import collections
import hashlib
import importlib.resources

import numpy as np
import pytest
import torch

from purefn import data

# The class counts of the description that comes with the data set (optdigits.names, testing part).
PUBLISHED_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
# sha256(images.astype(uint8).tobytes() + target.astype(uint8).tobytes()) of
# sklearn.datasets.load_digits(), scikit-learn 1.9.1.
SCIKIT_LEARN_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


@pytest.fixture(scope="module")
def stored():
    file = importlib.resources.files(data).joinpath("digits.npz")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


def test_the_file_holds_scikit_learns_pixels_and_labels(stored):
    images, labels = stored
    assert images.shape == (1797, 8, 8)
    assert images.dtype == labels.dtype == np.uint8
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert digest == SCIKIT_LEARN_SHA256


def test_of_each_digit_every_fifth_is_for_testing(stored):
    seen, parts = collections.Counter(), ([], [])
    for image, label in zip(*stored, strict=True):
        seen[label] += 1
        parts[seen[label] % 5 == 0].append((image, label))
    for rows, ds in zip(parts, data.digits(), strict=True):
        images, labels = zip(*rows, strict=True)
        np.testing.assert_array_equal(ds.images.numpy(), np.stack(images)[:, None] / 16)
        np.testing.assert_array_equal(ds.labels.numpy(), labels)


def test_counts_and_range():
    train, test = data.digits()
    assert (len(train), len(test)) == (1442, 355)
    together = torch.cat([train.labels, test.labels])
    assert together.bincount().tolist() == PUBLISHED_COUNTS
    assert test.labels.bincount().tolist() == [count // 5 for count in PUBLISHED_COUNTS]
    for ds in (train, test):
        assert ds.classes == tuple("0123456789")
        assert ds.images.shape[1:] == (1, 8, 8)
        assert ds.images.dtype == torch.float32
        assert ds.labels.dtype == torch.int64
        assert (ds.images.min(), ds.images.max()) == (0, 1)
        assert torch.equal(ds.images * 16, (ds.images * 16).round())


def test_no_image_is_in_both_parts():
    train, test = data.digits()
    in_train = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in in_train for image in test.images)


def test_each_call_gives_its_own_tensors():
    first, _ = data.digits()
    first.images.zero_()
    assert data.digits()[0].images.max() == 1
