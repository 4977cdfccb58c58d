"""Every row is in every batch by a coin of its own; batches depend on the key and the step."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from purefn import data
from purefn.functional import random
from purefn.optim import privacy


@st.composite
def plans(draw):
    rows = draw(st.integers(1, 40))
    return rows, {
        "expected_batch_size": draw(st.floats(0.01, rows)),
        "key": random.key(draw(st.integers(0, 2**31 - 1))),
        "steps": draw(st.integers(0, 6)),
    }


def listed(batches):
    return [(batch.tolist(), mask.tolist()) for batch, mask in batches]


@given(plans())
def test_a_batch_is_its_rows_in_order_and_then_zeros(plan):
    rows, options = plan
    batches = data.poisson_batches(torch.arange(1, rows + 1), **options)
    found = list(batches)
    assert len(found) == len(batches) == options["steps"]
    for batch, mask in found:
        assert batch.shape == mask.shape == (batches.max_batch_size,)
        size = int(mask.sum())
        assert mask.tolist() == [True] * size + [False] * (len(mask) - size)
        drawn = batch[:size].tolist()
        assert drawn == sorted(set(drawn))
        assert set(drawn) <= set(range(1, rows + 1))
        assert not batch[size:].any()


@given(plans(), st.data())
def test_a_resumed_sequence_is_the_tail_of_the_whole_one(plan, draw):
    rows, options = plan
    given_size = {"max_batch_size": rows}
    whole = listed(data.poisson_batches(torch.arange(rows), **options, **given_size))
    start = draw.draw(st.integers(0, len(whole)))
    resumed = data.poisson_batches(torch.arange(rows), start_step=start, **options, **given_size)
    assert len(resumed) == len(whole) - start
    torch.manual_seed(0)
    assert listed(resumed) == listed(resumed) == whole[start:]
    longer = data.poisson_batches(
        torch.arange(rows), **options | {"steps": options["steps"] + 2}, **given_size
    )
    assert listed(longer)[: len(whole)] == whole


def inclusions(rows, expected, steps, seed=0):
    """Return which rows are in which batch: a matrix of steps and rows."""
    batches = data.poisson_batches(
        torch.arange(rows), expected, key=random.key(seed), steps=steps, max_batch_size=rows
    )
    included = np.zeros((steps, rows), dtype=bool)
    for step, (batch, mask) in enumerate(batches):
        included[step, batch[mask].numpy()] = True
    return included, batches.probability


@pytest.mark.parametrize(("rows", "expected"), [(60, 20.0), (500, 3.7), (30, 30)])
def test_sizes_and_counts_are_binomial(rows, expected):
    included, probability = inclusions(rows, expected, steps=600)
    assert probability == expected / rows
    total = stats.binomtest(int(included.sum()), included.size, probability)
    assert total.pvalue > 1e-3
    for sums, of in ((included.sum(1), rows), (included.sum(0), 600)):
        if probability < 1:
            variance = of * probability * (1 - probability)
            statistic = ((sums - of * probability) ** 2 / variance).sum()
            assert 1e-4 < stats.chi2.cdf(statistic, len(sums)) < 1 - 1e-4


def test_rows_and_steps_are_independent():
    included, probability = inclusions(40, 12, steps=1500)
    centred = (included - probability) / np.sqrt(probability * (1 - probability))
    pairs = centred.T @ centred / len(centred) - np.eye(40)
    assert np.abs(pairs).max() < 5.5 / np.sqrt(1500)
    after = centred[1:].T @ centred[:-1] / (len(centred) - 1)
    assert np.abs(after).max() < 5.5 / np.sqrt(1500)


def test_the_coins_are_the_documented_ones_of_float64():
    """With the 23 bits of float32, a probability below 2^-23 would be 2^-23."""
    key, probability = random.key(1), 0.3
    batches = data.poisson_batches(torch.arange(2000), 600, key=key, steps=3)
    for step, (batch, mask) in enumerate(batches):
        coins = random.uniform(random.fold_in(key, step), (2000,), torch.float64)
        assert torch.equal(batch[mask], (coins < probability).nonzero().squeeze(1))


@given(st.integers(1, 20000), st.floats(1e-5, 1.0), st.integers(1, 10000))
def test_the_default_size_overflows_in_one_run_of_a_trillion(rows, probability, steps):
    batches = data.poisson_batches(
        torch.zeros(rows), rows * probability, key=random.key(0), steps=steps
    )
    size = batches.max_batch_size
    assert steps * stats.binom.sf(size, rows, batches.probability) <= 1e-12
    ample = rows * probability + 12 * np.sqrt(rows * probability) + 50
    assert size <= min(rows, ample)


def test_an_overflow_stops_the_run():
    batches = data.poisson_batches(
        torch.arange(100), 50, key=random.key(0), steps=9, max_batch_size=20
    )
    with pytest.raises(RuntimeError, match=r"step 0 drew \d+ rows, more than max_batch_size=20"):
        next(iter(batches))


def test_trees_data_sets_and_devices():
    rows = {"x": torch.arange(6.0).reshape(6, 1) + 1, "y": torch.arange(6) + 1}
    for batch, mask in data.poisson_batches(rows, 3, key=random.key(0), steps=4, device="cpu"):
        assert batch["x"].dtype == torch.float32
        assert torch.equal(batch["x"][:, 0].long(), batch["y"])
        assert mask.device.type == "cpu"
    train, _ = data.digits()
    batches = data.poisson_batches(train, 64, key=random.key(0), steps=1)
    ((images, labels), mask) = next(iter(batches))
    assert images.shape == (batches.max_batch_size, *train.images.shape[1:])
    assert labels.shape == mask.shape
    assert privacy.poisson(batches.probability).probability == 64 / len(train.labels)


def test_batches_are_copies():
    rows = torch.ones(5)
    for batch, _ in data.poisson_batches(rows, 5, key=random.key(0), steps=1):
        batch.zero_()
    assert rows.tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"expected_batch_size": 0}, ValueError, "more than 0"),
        ({"expected_batch_size": 11}, ValueError, "number of rows, 10"),
        ({"expected_batch_size": "4"}, TypeError, "to be a number"),
        ({"key": None}, TypeError, "poisson_batches: expected a key"),
        ({"key": random.split(random.key(0))}, ValueError, "one key"),
        ({"steps": -1}, ValueError, "poisson_batches: expected steps"),
        ({"steps": 2.0}, TypeError, "steps"),
        ({"start_step": 4}, ValueError, "beyond the end, steps=3"),
        ({"max_batch_size": 0}, ValueError, "max_batch_size"),
        ({"dataset": torch.zeros(())}, ValueError, "poisson_batches: expected dataset"),
        ({"device": "nowhere"}, RuntimeError, "poisson_batches: device"),
    ],
)
def test_refusals(options, error, message):
    given = {
        "dataset": torch.zeros(10),
        "expected_batch_size": 4,
        "key": random.key(0),
        "steps": 3,
    } | options
    with pytest.raises(error, match=message):
        data.poisson_batches(given.pop("dataset"), given.pop("expected_batch_size"), **given)
