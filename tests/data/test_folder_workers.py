"""Image files and other rows read by worker processes, through the public functions."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from typing import NamedTuple

import pytest
import torch

from purefn import data
from purefn.functional import random


@pytest.fixture
def root(pillow, tmp_path):
    """Write 11 + 3 coloured images of two classes, of several sizes."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 11), ("test", 3)):
        for index in range(count):
            folder = tmp_path / part / ("cat" if index % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            shape = (5 + index % 3, 7, 3)
            pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
            pillow.fromarray(pixels.numpy()).save(folder / f"{index:02}.png")
    return tmp_path


def floats(batches):
    return [(images / 255, labels) for images, labels in batches]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for (images, labels), (expected, expected_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_those_of_the_folder_in_memory(root, workers):
    train, test = data.image_files(root, size=(4, 6))
    in_memory, test_in_memory = data.image_folder(root, size=(4, 6))
    assert train.classes == in_memory.classes
    assert [len(train), len(test)] == [11, 3]
    options = {"key": random.key(0), "epochs": 3}
    read = data.read_batches(train, 3, workers=workers, **options)
    expected = list(data.batches(in_memory, 3, **options))
    assert len(read) == len(expected) == 9
    assert_same(floats(read), expected)
    options = {"key": None, "epochs": 1, "drop_last": False}
    read = data.read_batches(test, 2, workers=workers, **options)
    assert_same(floats(read), list(data.batches(test_in_memory, 2, **options)))


def test_a_keyed_split_is_that_of_the_folder_in_memory(root):
    options = {"size": 4, "test_fraction": 0.3, "key": random.key(5), "mode": "L"}
    ours = data.image_files(root / "train", **options)
    theirs = data.image_folder(root / "train", **options)
    for files, dataset in zip(ours, theirs, strict=True):
        assert torch.equal(files.labels, dataset.labels)
        for row in range(len(files)):
            pixels, label = files[row]
            assert pixels.dtype == torch.uint8
            assert torch.equal(pixels / 255, dataset.images[row])
            assert label == dataset.labels[row]


def test_a_run_resumes_at_any_step(root):
    train, _ = data.image_files(root, size=4)
    options = {"key": random.key(1), "epochs": 2, "workers": 2}
    whole = list(data.read_batches(train, 4, **options))
    assert len(whole) == 4
    for start in (1, 2, 4):
        tail = data.read_batches(train, 4, start_step=start, **options)
        assert tail.start_step == start
        assert tail.steps_per_epoch == 2
        assert_same(list(tail), whole[start:])
    assert_same(list(tail), [])


def test_iterating_again_gives_the_same_and_draws_nothing_from_the_global_generator(root):
    train, _ = data.image_files(root, size=4)
    read = data.read_batches(train, 4, key=random.key(1), epochs=1, workers=1)
    before = torch.get_rng_state()
    first, second = list(read), list(read)
    assert_same(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named(root, workers):
    (root / "train" / "cat" / "03.png").write_bytes(b"no image")
    train, _ = data.image_files(root, size=4)
    read = data.read_batches(train, 11, key=None, epochs=1, workers=workers)
    with pytest.raises(ValueError, match=r"cannot read the image .*cat.03\.png") as caught:
        list(read)
    assert "Traceback" not in str(caught.value)
    assert caught.value.__notes__ == ["while read_batches read row 1"]


def children():
    """Return the workers that are alive."""
    return [process for process in multiprocessing.active_children() if process.is_alive()]


def wait_for_none(seconds=20):
    end = time.monotonic() + seconds
    while children() and time.monotonic() < end:
        time.sleep(0.01)
    return not children()


class Slow:
    """Rows that take a while to read."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.tensor(index)


def test_workers_end_when_the_iterator_is_dropped():
    batches = iter(data.read_batches(Slow(), 2, key=None, epochs=1, workers=2))
    assert next(batches).tolist() == [0, 1]
    assert len(children()) == 2
    del batches
    gc.collect()
    assert wait_for_none()


def test_a_killed_worker_is_an_error_not_a_halt():
    """At any moment: what it was sending may have broken off."""
    rows = Rows(lambda index: torch.full((1000,), index), length=100_000)
    for moment in range(5):
        batches = iter(data.read_batches(rows, 8, key=None, epochs=1, workers=2))
        next(batches)
        victim = children()[0].pid
        kill = threading.Timer(0.02 + 0.003 * moment, os.kill, (victim, signal.SIGKILL))
        kill.start()
        start = time.monotonic()
        with pytest.raises(RuntimeError, match=r"worker process has ended.*fewer workers"):
            list(batches)
        assert time.monotonic() - start < 60
        kill.join()
        assert wait_for_none()


def test_an_error_that_is_kept_does_not_keep_the_workers():
    def row(index):
        return torch.zeros(index)

    batches = data.read_batches(Rows(row), 2, key=None, epochs=1, workers=2)
    with pytest.raises(ValueError, match="cannot be stacked") as kept:
        list(batches)
    assert wait_for_none(), kept


class Rows:
    """What is not as it should be, chosen by name."""

    def __init__(self, row, length=4):
        self.row, self.length = row, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.row(index)


class UnsendableError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def unsendable(index):
    raise UnsendableError("this", "that")


def exhausted(index):
    return next(iter([torch.tensor(0)] if index == 0 else []))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (lambda index: {"x": "text"}, TypeError, r"expected row\['x'\] to be a tensor"),
        (lambda index: torch.zeros(index), ValueError, r"rows \[0, 1\] cannot be stacked"),
        (unsendable, RuntimeError, "UnsendableError: this and that"),
        (exhausted, RuntimeError, "StopIteration"),
        (lambda index: {"x": torch.ones(2).requires_grad_()}, TypeError, r"row\['x'\] to be data"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row, error, message, workers):
    with pytest.raises(error, match=message) as caught:
        list(data.read_batches(Rows(row), 2, key=None, epochs=1, workers=workers))
    note = f"while read_batches read row {1 if row is exhausted else 0}"
    assert "stacked" in message or caught.value.__notes__ == [note]


def test_rows_that_a_worker_cannot_send_are_an_error_not_a_halt():
    class Here(NamedTuple):
        x: torch.Tensor

    rows = Rows(lambda index: Here(torch.tensor(index)))
    with pytest.raises(TypeError, match=r"cannot send rows \[0, 1\]: .*Here.*workers=0"):
        list(data.read_batches(rows, 2, key=None, epochs=1, workers=1))
    (first, _) = data.read_batches(rows, 2, key=None, epochs=1, workers=0)
    assert first.x.tolist() == [0, 1]


def test_trees_of_a_torch_dataset_and_their_device():
    dataset = torch.utils.data.TensorDataset(torch.arange(5.0), torch.arange(5) ** 2)
    (batch,) = data.read_batches(dataset, 4, key=None, epochs=1, workers=1, device="cpu")
    assert [leaf.tolist() for leaf in batch] == [[0.0, 1.0, 2.0, 3.0], [0, 1, 4, 9]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 12}, ValueError, "batch_size=12"),
        ({"workers": -1}, ValueError, "read_batches: expected workers"),
        ({"workers": 1.0}, TypeError, "workers to be an int"),
        ({"start_step": 100}, ValueError, "start_step=100"),
        ({"key": 3}, TypeError, "key"),
        ({"device": "teapot"}, RuntimeError, "read_batches: device 'teapot'"),
        ({"dataset": 3}, TypeError, "got int"),
        ({"dataset": []}, ValueError, "at least one row"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    arguments = {"dataset": [torch.zeros(1)] * 11, "batch_size": 2, "key": None, "epochs": 1}
    with pytest.raises(error, match=message):
        data.read_batches(**{**arguments, **options})


def test_what_image_files_refuses(root, tmp_path):
    for options, message in (
        ({"size": 0}, "size"),
        ({"size": 4, "mode": "CMYK"}, "CMYK"),
        ({"size": 4, "test_fraction": 0.5, "key": random.key(0)}, "which state the split"),
    ):
        with pytest.raises(ValueError, match=message):
            data.image_files(root, **options)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.image_files(tmp_path / "nowhere", size=4)
    (root / "test" / "cat" / "again.png").symlink_to(root / "train" / "cat" / "01.png")
    with pytest.raises(ValueError, match="same file"):
        data.image_files(root, size=4)
