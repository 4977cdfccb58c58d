import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purefn import data

positive = st.floats(0.01, 10)
finite = st.floats(-10, 10)


@given(st.data(), st.integers(1, 4), st.sampled_from([torch.float32, torch.float64]))
def test_normalize_is_the_textbook_formula(draw, channels, dtype):
    mean = draw.draw(st.lists(finite, min_size=channels, max_size=channels))
    std = draw.draw(st.lists(positive, min_size=channels, max_size=channels))
    images = torch.linspace(0, 1, 2 * channels * 6, dtype=dtype).reshape(2, channels, 2, 3)
    result = data.normalize(images, mean, std)
    assert result.dtype == dtype
    column = (1, channels, 1, 1)
    expected = (images.double().numpy() - np.reshape(mean, column)) / np.reshape(std, column)
    rounding = 4 * torch.finfo(dtype).eps * (1 + np.abs(np.reshape(mean, column)))
    error = np.abs(result.double().numpy() - expected) * np.reshape(std, column)
    assert np.all(error <= rounding)


def test_normalize_is_torchvisions(torchvision):
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = data.STATISTICS["imagenet"]
    expected = torchvision.transforms.Normalize(mean, std)(images)
    torch.testing.assert_close(data.normalize(images, mean, std), expected, rtol=0, atol=1e-6)


def test_normalize_works_under_vmap_and_compile():
    images = torch.linspace(0, 1, 24).reshape(2, 3, 2, 2)
    statistics = data.STATISTICS["cifar10"]

    def fun(images):
        return data.normalize(images, *statistics)

    expected = fun(images)
    assert torch.equal(torch.func.vmap(fun)(images), expected)
    compiled = torch.compile(fun, fullgraph=True, backend="aot_eager", dynamic=False)
    assert torch.equal(compiled(images), expected)


@pytest.mark.parametrize(
    ("images", "mean", "std", "error", "message"),
    [
        (torch.zeros(1, 3, 2, 2), [0.5], [1.0] * 3, ValueError, "mean has 1 entries.*3 channels"),
        (torch.zeros(1, 3, 2, 2), [0.5] * 3, [1.0], ValueError, "std has 1 entries.*3 channels"),
        (torch.zeros(1, 1, 2, 2), [0.5], [0.0], ValueError, "std to be positive"),
        (torch.zeros(1, 1, 2, 2), [0.5], [-1.0], ValueError, "std to be positive"),
        (torch.zeros(1, 1, 2, 2), [float("nan")], [1.0], ValueError, "finite numbers in mean"),
        (torch.zeros(1, 1, 2, 2), [0.5], [float("inf")], ValueError, "finite numbers in std"),
        (torch.zeros(2, 2), [0.5], [1.0], ValueError, "channels, height, width"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), [0.5], [1.0], TypeError, "uint8.*/ 255"),
        (torch.zeros(1, 1, 2, 2), 0.5, (0.2,), TypeError, r"mean to be a sequence.*got 0\.5"),
        (torch.zeros(1, 1, 2, 2), (0.5,), 0.2, TypeError, r"std to be a sequence.*got 0\.2"),
        (torch.zeros(1, 1, 2, 2), (0.5,), "1", TypeError, "std to be a sequence.*got '1'"),
    ],
)
def test_normalize_refuses(images, mean, std, error, message):
    with pytest.raises(error, match=message):
        data.normalize(images, mean, std)


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_channel_statistics_are_numpys(count, channels, side, seed):
    pixels = np.random.default_rng(seed).random((count, channels, side, side))
    statistics = data.channel_statistics(torch.from_numpy(pixels))
    np.testing.assert_allclose(statistics.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, pixels.std((0, 2, 3)), rtol=1e-9, atol=1e-15)


def test_normalized_images_have_zero_mean_and_unit_variance():
    train, _ = data.digits()
    normalized = data.normalize(train.images, *data.channel_statistics(train.images))
    statistics = data.channel_statistics(normalized)
    assert statistics.mean == pytest.approx((0.0,), abs=1e-6)
    assert statistics.std == pytest.approx((1.0,), abs=1e-6)


def test_the_table_holds_for_the_digits():
    train, _ = data.digits()
    measured = data.channel_statistics(train.images)
    assert measured.mean == pytest.approx(data.STATISTICS["digits"].mean, abs=5e-5)
    assert measured.std == pytest.approx(data.STATISTICS["digits"].std, abs=5e-5)


@pytest.mark.parametrize("name", sorted(data.STATISTICS))
def test_the_table_has_a_plausible_entry_for_each_channel(name):
    mean, std = data.STATISTICS[name]
    assert len(mean) == len(std) == (3 if name in ("cifar10", "cifar100", "imagenet") else 1)
    # No variable on [0, 1] has a variance above mean * (1 - mean).
    assert all(0 < s**2 < m * (1 - m) for m, s in zip(mean, std, strict=True))


def test_the_table_cannot_be_written():
    with pytest.raises(TypeError):
        data.STATISTICS["digits"] = data.Statistics((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (
            torch.zeros(1, 1, 2, 2, dtype=torch.uint8),
            TypeError,
            "floating-point.*uint8",
        ),
        (torch.zeros(1, 2, 2), ValueError, r"shape \(n, channels.*got \(1, 2, 2\)"),
        (torch.zeros(0, 1, 2, 2), ValueError, "at least one pixel"),
    ],
)
def test_channel_statistics_refuse(images, error, message):
    with pytest.raises(error, match=message):
        data.channel_statistics(images)
