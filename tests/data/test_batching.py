import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purefn import data
from purefn.functional import random

seeds = st.integers(0, 2**31 - 1)


@st.composite
def plans(draw):
    """Draw the arguments of `batches`, valid ones."""
    rows = draw(st.integers(1, 40))
    drop_last = draw(st.booleans())
    batch_size = draw(st.integers(1, rows if drop_last else rows + 5))
    key = draw(st.none() | seeds.map(random.key))
    epochs = draw(st.integers(0, 4))
    return rows, {"batch_size": batch_size, "key": key, "epochs": epochs, "drop_last": drop_last}


def listed(batches):
    return [batch.tolist() for batch in batches]


@given(plans())
def test_every_epoch_is_a_permutation_cut_into_batches(plan):
    rows, options = plan
    sequence = data.batches(torch.arange(rows), **options)
    found = listed(sequence)
    size, epochs = options["batch_size"], options["epochs"]
    full, rest = divmod(rows, size)
    lengths = [size] * full + ([rest] if rest and not options["drop_last"] else [])
    assert [len(batch) for batch in found] == lengths * epochs
    assert len(sequence) == len(found)
    for epoch in _epochs(found, len(lengths)):
        order = [row for batch in epoch for row in batch]
        assert len(set(order)) == len(order) == sum(lengths)
        assert set(order) <= set(range(rows))


def _epochs(found, per_epoch):
    return [found[start : start + per_epoch] for start in range(0, len(found), per_epoch)]


@given(plans(), st.data())
def test_a_resumed_sequence_is_the_tail_of_the_whole_one(plan, draw):
    rows, options = plan
    whole = listed(data.batches(torch.arange(rows), **options))
    start = draw.draw(st.integers(0, len(whole)))
    resumed = data.batches(torch.arange(rows), start_step=start, **options)
    assert len(resumed) == len(whole) - start
    assert listed(resumed) == whole[start:]


@given(plans())
def test_a_sequence_is_determined_by_its_arguments(plan):
    rows, options = plan
    sequence = data.batches(torch.arange(rows), **options)
    once = listed(sequence)
    torch.manual_seed(0)
    assert listed(sequence) == once
    assert listed(data.batches(torch.arange(rows), **options)) == once


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_a_batch_does_not_depend_on_the_number_of_epochs(rows, size, epochs, more):
    options = {"key": random.key(1), "drop_last": False}
    few = listed(data.batches(torch.arange(rows), size, epochs=epochs, **options))
    many = listed(data.batches(torch.arange(rows), size, epochs=epochs + more, **options))
    assert many[: len(few)] == few


def test_the_orders_are_those_of_jax():
    """jax.random.permutation(jax.random.fold_in(jax.random.key(3), epoch), 7), recorded."""
    batches = data.batches(torch.arange(7), 7, key=random.key(3), epochs=3)
    assert listed(batches) == [[6, 2, 5, 3, 0, 1, 4], [6, 2, 4, 0, 1, 3, 5], [5, 4, 1, 2, 3, 6, 0]]


def test_without_a_key_the_order_is_that_of_the_data():
    batches = data.batches(torch.arange(5), 2, key=None, epochs=2, drop_last=False)
    assert listed(batches) == [[0, 1], [2, 3], [4]] * 2


def test_a_dataset_gives_images_with_their_labels():
    train, _ = data.digits()
    row_of = {image.numpy().tobytes(): row for row, image in enumerate(train.images)}
    for images, labels in data.batches(train, 100, key=random.key(0), epochs=1):
        assert images.shape == (100, 1, 8, 8)
        rows = [row_of[image.numpy().tobytes()] for image in images]
        assert torch.equal(labels, train.labels[rows])


def test_a_tree_gives_trees_like_it():
    rows = {"tokens": torch.arange(12).reshape(6, 2), "extra": (torch.arange(6.0), None)}
    for batch in data.batches(rows, 2, key=random.key(5), epochs=1):
        assert torch.equal(batch["tokens"][:, 0].float(), 2 * batch["extra"][0])
        assert batch["extra"][1] is None


def test_a_batch_is_a_copy():
    rows = torch.arange(4)
    for key in (None, random.key(0)):
        for batch in data.batches(rows, 4, key=key, epochs=1):
            batch.zero_()
    assert rows.tolist() == [0, 1, 2, 3]


def test_resuming_replays_nothing(monkeypatch):
    epochs = []

    def fold_in(key, epoch):
        epochs.append(epoch)
        return original(key, epoch)

    original = random.fold_in
    monkeypatch.setattr(random, "fold_in", fold_in)
    options = {"key": random.key(0), "epochs": 1000, "start_step": 4999}
    assert len(list(data.batches(torch.arange(10), 2, **options))) == 1
    assert epochs == [999]


def test_batches_arrive_on_the_device():
    rows = {"x": torch.arange(4.0)}
    for batch in data.batches(rows, 2, key=None, epochs=1, device="meta"):
        assert batch["x"].device.type == "meta"
        assert batch["x"].shape == (2,)


@pytest.mark.cuda
@pytest.mark.parametrize("data_device", ["cpu", "cuda"])
@pytest.mark.parametrize("key_device", ["cpu", "cuda"])
def test_the_order_is_the_same_on_cuda(data_device, key_device):
    rows = torch.arange(20)
    expected = listed(data.batches(rows, 6, key=random.key(2), epochs=2))
    key = random.key(2).to(key_device)
    batches = data.batches(rows.to(data_device), 6, key=key, epochs=2, device="cuda")
    assert listed(batches) == expected
    assert {batch.device.type for batch in batches} == {"cuda"}


def test_a_finished_run_has_no_batch_left():
    batches = data.batches(torch.arange(6), 2, key=None, epochs=2, start_step=6)
    assert len(batches) == 0
    assert list(batches) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 7}, ValueError, "batch_size=7 is larger than the data, which have 6 rows"),
        ({"batch_size": 0}, ValueError, "batch_size to be at least 1, got 0"),
        ({"batch_size": -2}, ValueError, "batch_size to be at least 1, got -2"),
        ({"batch_size": 2.0}, TypeError, r"batch_size to be an int, got 2\.0"),
        ({"epochs": -1}, ValueError, "epochs to be at least 0, got -1"),
        ({"epochs": None}, TypeError, "epochs to be an int, got None"),
        ({"start_step": -1}, ValueError, "start_step to be at least 0, got -1"),
        ({"start_step": 7}, ValueError, "start_step=7 lies beyond.*2 epochs of 3.*are 6 steps"),
        ({"device": "gpu"}, RuntimeError, "'gpu' cannot be used.*device string: gpu"),
        ({"device": "cuda:99"}, RuntimeError, "'cuda:99' cannot be used"),
        ({"drop_last": "no"}, TypeError, "drop_last to be True or False, got 'no'"),
        ({"key": torch.zeros(2)}, TypeError, "batches: expected a key.*float32"),
        ({"key": random.split(random.key(0), 3)}, ValueError, r"one key.*shape \(3, 2\)"),
        ({"key": 0}, TypeError, r"got 0\. Make a key with random\.key\(seed\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(changes, error, message):
    options = {"batch_size": 2, "key": None, "epochs": 2, **changes}
    with pytest.raises(error, match=message):
        data.batches(torch.arange(6), **options)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (
            {"x": torch.zeros(3), "y": (torch.zeros(4),)},
            ValueError,
            r"dataset\['x'\] has 3 rows, dataset\['y'\]\[0\] has 4",
        ),
        ({"x": torch.zeros(3), "y": torch.tensor(1.0)}, ValueError, r"dataset\['y'\].*0-d"),
        ({"x": [1, 2]}, TypeError, r"dataset\['x'\]\[0\] to be a tensor, got 1"),
        ({}, ValueError, "at least one tensor"),
        (torch.zeros(0, 2), ValueError, "at least one row"),
    ],
)
def test_data_without_common_rows_are_refused(rows, error, message):
    with pytest.raises(error, match=message):
        data.batches(rows, 1, key=None, epochs=1)
