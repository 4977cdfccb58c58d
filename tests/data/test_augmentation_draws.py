"""What augmentations draw: for each image on its own, from the right distribution and the key."""

import colorsys
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

import purefn.functional as pf
from purefn.data import augmentation
from purefn.data.augmentation.drawing import integers, uniforms
from purefn.data.augmentation.mixing import symmetric_beta
from purefn.data.augmentation.policies import (
    OPERATIONS,
    apply_operation,
    rand_augment_strengths,
    trivial_augment_strengths,
)
from purefn.data.augmentation.rectangles import draw_corners, draw_rectangles
from purefn.functional import random

KEY = random.key(3)
COUNT = 4000


def coordinates(n=COUNT, height=9, width=12):
    """Return images whose two channels say which row and which column a pixel is of, from 1 on."""
    rows = torch.arange(1.0, height + 1)[:, None].expand(height, width)
    columns = torch.arange(1.0, width + 1).expand(height, width)
    return torch.stack([rows, columns]).expand(n, 2, height, width)


def is_uniform(values, count):
    """Test that integers are uniform over `0, ..., count - 1`, and that each occurs."""
    frequencies = torch.bincount(values.long(), minlength=count)
    assert len(frequencies) == count
    assert stats.chisquare(frequencies.numpy()).pvalue > 1e-3


def test_random_crop_draws_every_place_alike():
    cropped = augmentation.random_crop(KEY, coordinates(), (6, 8), padding=(1, 2))
    is_uniform(_first(cropped[:, 0].amax(2)) + 1, 6)
    is_uniform(_first(cropped[:, 1].amax(1)) + 2, 9)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
def test_a_random_crop_continues_images_as_asked(mode):
    images = torch.rand(50, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    options = {"padding_mode": mode, "fill": (0.1, 0.2, 0.3)}
    ours = augmentation.random_crop(KEY, images, (9, 12), padding=4, **options)
    padded = augmentation.crop(images, -4, -4, (17, 20), **options)
    patches = padded.unfold(2, 9, 1).unfold(3, 12, 1)
    is_same = (patches == ours[:, :, None, None]).flatten(4).all(4).all(1)
    assert (is_same.flatten(1).sum(1) == 1).all()
    assert len(is_same.nonzero()[:, 1:].unique(dim=0)) > 25


def test_the_last_place_of_a_rectangle_is_drawn_too():
    images = torch.zeros(COUNT, 1, 9, 12)
    heights, widths = (torch.full((COUNT,), length) for length in (8, 10))
    top, left = draw_corners(KEY, images, heights, widths)
    is_uniform(top, 2)
    is_uniform(left, 3)


def _first(line):
    """Return where a line of consecutive coordinates, 0 outside, begins, from 0 on."""
    position = (line > 0).long().argmax(1, keepdim=True)
    return (line.gather(1, position) - 1 - position)[:, 0]


def test_rectangles_have_areas_and_ratios_of_the_right_distribution():
    side, scale, ratio = 1000, (0.2, 0.4), (0.5, 2.0)
    images = torch.zeros(1, 1, side, 1).expand(1500, 1, side, side)
    height, width, fits = draw_rectangles(KEY, images, scale, ratio, (1, 1), (side, side))
    assert fits.all()
    area, log_ratio = height * width / side**2, (width / height).log()
    assert stats.kstest(area.numpy(), stats.uniform(0.2, 0.2).cdf).pvalue > 1e-3
    low, high = math.log(0.5), math.log(2)
    assert stats.kstest(log_ratio.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    top, left = draw_corners(random.key(4), images, height, width)
    for start, length in ((top, height), (left, width)):
        assert (start >= 0).all()
        assert (start + length <= side).all()
        share = (start / (side - length)).numpy()
        assert stats.kstest(share, "uniform").pvalue > 1e-3


def test_of_several_tries_the_first_that_fits_counts():
    """Half of the shapes do not fit into a wide image; the others are drawn in their place."""
    images = torch.zeros(1500, 1, 30, 120)
    height, width, fits = draw_rectangles(KEY, images, (0.2, 0.4), (0.5, 2.0), (1, 1), (30, 120))
    assert 0.98 < fits.double().mean() < 1  # six of ten tries fail
    assert height[fits].max() == 30
    area = (height * width / 3600)[fits]
    assert ((area > 0.19) & (area < 0.41)).all()


def test_a_random_resized_crop_is_that_of_its_rectangle():
    images = torch.rand(6, 2, 9, 12, generator=torch.Generator().manual_seed(0))
    scale, ratio = (0.1, 0.6), (0.5, 2.0)
    ours = augmentation.random_resized_crop(KEY, images, 5, scale=scale, ratio=ratio)
    shape, place = random.split(KEY).unbind()
    height, width, _ = draw_rectangles(shape, images, scale, ratio, (1, 1), (9, 12))
    top, left = draw_corners(place, images, height, width)
    theirs = augmentation.resized_crop(images, top, left, height, width, 5)
    assert torch.equal(ours, theirs)
    assert len(height.unique()) > 2


@pytest.mark.parametrize("shape", [(4, 40), (40, 4)])
def test_a_random_resized_crop_that_never_fits_is_cut_from_the_middle(torchvision, shape):
    from torchvision.transforms.v2 import functional

    images = torch.rand(3, 1, *shape, generator=torch.Generator().manual_seed(0))
    ours = augmentation.random_resized_crop(KEY, images, 4, scale=(1.0, 1.0))
    place = (0, 17, 4, 5) if shape == (4, 40) else (17, 0, 5, 4)  # the ratios 4/3 and 3/4
    theirs = functional.resized_crop(images, *place, [4, 4], antialias=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "function",
    [
        partial(augmentation.random_horizontal_flip, p=0.3),
        partial(augmentation.random_vertical_flip, p=0.3),
        augmentation.random_apply(lambda key, images: images + 1, 0.3),
        partial(augmentation.random_erasing, p=0.3, scale=(0.3, 0.3), ratio=(1.0, 1.0)),
    ],
)
def test_probabilities(function):
    images = coordinates()
    changed = (function(KEY, images) != images).flatten(1).any(1)
    assert stats.binomtest(int(changed.sum()), COUNT, 0.3).pvalue > 1e-3


@pytest.mark.parametrize(
    "function", [augmentation.random_horizontal_flip, augmentation.random_vertical_flip]
)
def test_flips_are_torchs(function):
    images = torch.rand(5, 3, 4, 6)
    axis = 3 if function is augmentation.random_horizontal_flip else 2
    assert torch.equal(function(KEY, images, p=1.0), images.flip(axis))
    assert torch.equal(function(KEY, images, p=0.0), images)
    # A probability may be written without a point.
    assert torch.equal(function(KEY, images, p=1), images.flip(axis))
    assert torch.equal(function(KEY, images, p=0), images)


@pytest.mark.parametrize("p", [0, 1])
def test_a_probability_may_be_an_int(p):
    images = torch.rand(3, 3, 8, 8)
    for name in ("random_grayscale", "random_erasing"):
        function = getattr(augmentation, name)
        assert torch.equal(function(KEY, images, p=p), function(KEY, images, p=float(p)))
    added = augmentation.random_apply(lambda key, images: images + 1, p)(KEY, images)
    assert torch.equal(added, images + p)


def test_padding_may_be_on_one_axis_only():
    cropped = augmentation.random_crop(KEY, coordinates(), (9, 10), padding=(0, 2))
    assert (cropped[:, 0, 0].amax(1) == 1).all()
    is_uniform(_first(cropped[:, 1].amax(1)) + 2, 7)
    assert augmentation.random_crop(KEY, coordinates(2), 9, padding=(0, 0)).shape == (2, 2, 9, 9)


def test_random_grayscale_decides_for_each_image():
    images = torch.rand(1000, 3, 1, 2, generator=torch.Generator().manual_seed(0))
    gray = augmentation.random_grayscale(KEY, images, p=0.4)
    is_gray = (gray[:, 0] == gray[:, 2]).flatten(1).all(1)
    assert stats.binomtest(int(is_gray.sum()), 1000, 0.4).pvalue > 1e-3
    assert torch.equal(gray[~is_gray], images[~is_gray])


def test_rotation_angles_are_uniform():
    """The angle is read off a bright point that goes round the middle."""
    images = torch.zeros(400, 1, 41, 41)
    images[:, :, 20, 35:38] = 1  # to the right
    turned = augmentation.random_rotation(KEY, images, (-60, 90), interpolation="bilinear")
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing="ij")
    weight = turned[:, 0] / turned[:, 0].sum((1, 2), keepdim=True)
    down = ((rows - 20) * weight).sum((1, 2))
    right = ((columns - 20) * weight).sum((1, 2))
    degrees = torch.atan2(-down, right).rad2deg()  # counter-clockwise
    assert stats.kstest(degrees.numpy(), stats.uniform(-60, 150).cdf).pvalue > 1e-3


def test_fixed_intervals_are_fixed_numbers():
    """Every option reaches what is computed, along its own axis."""
    images = torch.rand(3, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    options = {"interpolation": "bilinear", "fill": (0.1, 0.2, 0.3)}
    ours = augmentation.random_affine(
        KEY, images, (20.0, 20.0), scale=(0.7, 0.7), shear=(10.0, 10.0), **options
    )
    theirs = augmentation.affine(images, angle=20.0, scale=0.7, shear=(10.0, 0.0), **options)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    ours = augmentation.random_rotation(KEY, images, (20.0, 20.0), **options)
    theirs = augmentation.rotate(images, 20.0, **options)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_moves_are_of_whole_pixels_also_between_them():
    images = coordinates(n=300, height=11, width=31)
    options = {"translate": (0.2, 0.2), "interpolation": "bilinear"}
    moved = augmentation.random_affine(KEY, images, 0, **options)
    down, right = (6 - moved[:, 0, 5, 15]).round(decimals=3), 16 - moved[:, 1, 5, 15]
    assert set(down.unique().tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert set(right.round(decimals=3).unique().tolist()) == set(range(-6, 7))


def test_affine_moves_are_uniform_over_whole_pixels():
    images = coordinates(n=1500, height=21, width=21)
    moved = augmentation.random_affine(KEY, images, 0, translate=(0.24, 0.1))
    right, down = 11 - moved[:, 1, 10, 10], 11 - moved[:, 0, 10, 10]
    assert set(right.unique().tolist()) == set(range(-5, 6))
    assert set(down.unique().tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    inner = right[right.abs() < 5] + 4
    is_uniform(inner, 9)
    scaled = augmentation.random_affine(KEY, images, 0, scale=(0.5, 2.0), shear=(5.0, 5.0))
    assert not torch.equal(scaled, images)


def test_color_jitter_factors_are_uniform_and_orders_are_all_drawn():
    images = torch.full((COUNT, 1, 1, 2), 0.3)
    images[..., 1] = 0.1
    bright = augmentation.color_jitter(KEY, images, brightness=0.5)[:, 0, 0, 0] / 0.3
    assert stats.kstest(bright.numpy(), stats.uniform(0.5, 1.0).cdf).pvalue > 1e-3
    fixed = {"brightness": (4.0, 4.0), "contrast": (0.5, 0.5)}
    both = augmentation.color_jitter(KEY, images, **fixed)[:, 0, 0]
    # Clipping makes the order matter.
    first = augmentation.adjust_contrast(augmentation.adjust_brightness(images[:1], 4.0), 0.5)
    last = augmentation.adjust_brightness(augmentation.adjust_contrast(images[:1], 0.5), 4.0)
    is_first = torch.isclose(both, first[0, 0, 0]).all(1)
    is_last = torch.isclose(both, last[0, 0, 0]).all(1)
    assert (is_first ^ is_last).all()
    assert stats.binomtest(int(is_first.sum()), COUNT, 0.5).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "reach", "low", "high"),
    [
        ("brightness", 0.3, 0.7, 1.3),
        ("brightness", 2, 0.0, 3.0),  # not from -1 on
        ("contrast", 0.3, 0.7, 1.3),
        ("saturation", 0.3, 0.7, 1.3),
        ("hue", 0.2, -0.2, 0.2),
        ("hue", (0.1, 0.3), 0.1, 0.3),
    ],
)
def test_each_factor_is_uniform_in_its_own_interval(name, reach, low, high):
    pixels = torch.tensor([[0.3, 0.1, 0.1], [0.1, 0.3, 0.1]]).T.reshape(1, 3, 1, 2)
    changed = augmentation.color_jitter(KEY, pixels.expand(1500, -1, -1, -1), **{name: reach})
    if name == "hue":
        rows = [colorsys.rgb_to_hsv(*row)[0] for row in changed[:, :, 0, 0].tolist()]
        values = (torch.tensor(rows) + 0.5) % 1 - 0.5  # from red
    elif name == "brightness":
        values = changed[:, 0, 0, 0] / 0.3
    elif name == "contrast":
        values = (changed[:, 0, 0, 0] - changed[:, 0, 0, 1]) / 0.2
    else:
        values = (changed[:, 0, 0, 0] - changed[:, 1, 0, 0]) / 0.2
    assert stats.kstest(values.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_neutral_intervals_change_nothing():
    images = torch.rand(3, 3, 4, 4)
    assert torch.equal(augmentation.color_jitter(KEY, images), images)
    ones = dict.fromkeys(("brightness", "contrast", "saturation"), (1.0, 1.0))
    assert torch.equal(augmentation.color_jitter(KEY, images, **ones, hue=(0.0, 0.0)), images)
    assert torch.equal(augmentation.rand_augment(KEY, images, num_ops=0), images)
    assert torch.equal(augmentation.random_crop(KEY, images, 4), images)
    assert torch.equal(augmentation.compose()(KEY, images), images)
    turned = augmentation.random_affine(KEY, images, 0)
    assert torch.equal(turned, images)
    whole = augmentation.random_resized_crop(KEY, images, 4, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    torch.testing.assert_close(whole, images)


def test_blur_widths_are_uniform():
    images = torch.zeros(600, 1, 31, 31)
    images[:, :, 15, 15] = 1
    blurred = augmentation.random_gaussian_blur(KEY, images, 29, sigma=(1.0, 3.0))
    offsets = torch.arange(31.0) - 15
    width = (blurred[:, 0].sum(1) * offsets**2).sum(1).sqrt()
    assert stats.kstest(width.numpy(), stats.uniform(1, 2).cdf).pvalue > 1e-3


def test_cutout_middles_are_uniform_and_edges_are_cut_off():
    images = augmentation.cutout(KEY, coordinates(height=10, width=12), (4, 6), fill=0.0)
    erased = images[:, 0] == 0
    rows, columns = erased.any(2), erased.any(1)
    # The last erased row is two less than the first plus four: it tells the middle at the border.
    top = torch.where(rows[:, 0], rows.sum(1) - 4, rows.long().argmax(1))
    left = torch.where(columns[:, 0], columns.sum(1) - 6, columns.long().argmax(1))
    is_uniform(top + 2, 10)
    is_uniform(left + 3, 12)
    assert (erased.flatten(1).sum(1) == rows.sum(1) * columns.sum(1)).all()


def test_erased_areas_are_uniform():
    side = 100
    images = torch.ones(1500, 1, side, side)
    erased = augmentation.random_erasing(KEY, images, p=1.0, scale=(0.1, 0.3), ratio=(0.5, 3.0))
    rows, columns = (erased == 0).any(3).sum((1, 2)), (erased == 0).any(2).sum((1, 2))
    area = (rows * columns / side**2).numpy()
    jitter = np.random.default_rng(0).uniform(-0.5, 0.5, 1500) / side  # what rounding takes away
    assert stats.kstest(area + 0.3 * jitter, stats.uniform(0.1, 0.2).cdf).pvalue > 1e-3
    ratio = (rows / columns).log()
    assert stats.kstest(ratio.numpy(), stats.uniform(math.log(0.5), math.log(6)).cdf).pvalue > 1e-3


def test_an_odd_cutout_has_its_middle_in_the_middle():
    images = augmentation.cutout(KEY, coordinates(1000), (3, 5))
    erased = images[:, 0] == 0
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    assert rows.unique().tolist() == [2, 3]
    assert columns.unique().tolist() == [3, 4, 5]


def test_erased_pixels_have_the_colour_asked_for():
    images, colour = torch.full((20, 3, 9, 12), 0.5), torch.tensor([0.1, 0.2, 0.3])
    erased = augmentation.random_erasing(KEY, images, p=1.0, fill=(0.1, 0.2, 0.3))
    is_erased = (erased != images).any(1)
    assert is_erased.flatten(1).any(1).all()
    assert torch.equal(erased.movedim(1, -1)[is_erased], colour.expand(int(is_erased.sum()), 3))


def test_what_would_erase_a_whole_side_fits_nowhere():
    """As in torchvision's `RandomErasing`."""
    images = coordinates(5, height=9, width=9)
    options = {"p": 1.0, "ratio": (1.0, 1.0)}
    assert torch.equal(
        augmentation.random_erasing(KEY, images, scale=(1.0, 1.0), **options), images
    )
    less = augmentation.random_erasing(KEY, images, scale=(0.75, 0.75), **options)
    assert ((less == 0).flatten(1).sum(1) == 2 * 8 * 8).all()


def test_operations_and_signs_are_drawn_alike():
    """On a picture that every operation changes in a way of its own."""
    pattern = torch.linspace(0.1, 0.8, 3 * 16 * 16).reshape(1, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    image = (pattern + 0.1 * torch.rand(1, 3, 16, 16, generator=generator)).clamp(0, 1)
    images = image.expand(COUNT, -1, -1, -1)
    changed = augmentation.rand_augment(KEY, images, num_ops=1, magnitude=15)
    results, counts = changed.flatten(1).unique(dim=0, return_counts=True)
    signed = 9
    assert len(results) == len(OPERATIONS) + signed
    expected = np.full(len(results), COUNT / len(OPERATIONS) / 2)
    expected[counts.numpy().argsort()[2 * signed :]] *= 2
    assert stats.chisquare(counts.numpy(), expected).pvalue > 1e-3


@pytest.mark.parametrize("policy", ["rand_augment", "trivial_augment"])
def test_a_policy_applies_the_magnitudes_of_its_table(policy):
    images = torch.rand(60, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    options = {"interpolation": "bilinear", "fill": 0.3}
    if policy == "rand_augment":
        ours = augmentation.rand_augment(KEY, images, num_ops=2, magnitude=21, **options)
        table, draws = rand_augment_strengths(9, 14), uniforms(KEY, images, 4)
        steps = [(torch.full((60,), 21), *draws[:2]), (torch.full((60,), 21), *draws[2:])]
    else:
        ours = augmentation.trivial_augment(KEY, images, **options)
        table, draws = trivial_augment_strengths(), uniforms(KEY, images, 3)
        steps = [(integers(draws[0], 0, 31), *draws[1:])]
    expected = images
    for bins, which, sign in steps:
        operation = integers(which, 0, len(OPERATIONS))
        magnitudes = []
        for row, number in enumerate(operation.tolist()):
            weakest, strongest, signed = table.get(OPERATIONS[number], (0.0, 0.0, False))
            magnitude = weakest + (strongest - weakest) * int(bins[row]) / 30
            magnitudes.append(-magnitude if signed and sign[row] < 0.5 else magnitude)
        expected = apply_operation(expected, operation, torch.tensor(magnitudes), **options)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_trivial_augment_draws_strengths():
    """A solarized ramp tells the threshold, one of 31."""
    images = (torch.arange(61.0) / 60).expand(COUNT, 1, 1, 61)
    changed = augmentation.trivial_augment(KEY, images)
    is_solarized = (changed[:, 0, 0, -1] == 0) & (changed[:, 0, 0, 0] < 2)
    kept = ((changed == images).flatten(1).sum(1))[is_solarized]
    assert len(kept.unique()) > 15


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 5.0])
def test_shares_are_distributed_as_beta(alpha):
    share = symmetric_beta(uniforms(KEY, torch.zeros(COUNT, 1, 1, 1), 4), alpha).double().numpy()
    is_small = share < 0.5
    assert stats.binomtest(int(is_small.sum()), COUNT, 0.5).pvalue > 1e-3
    # Near 0 float32 has digits that it lacks near 1, where much of the mass is if alpha is small.
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(share[is_small], lambda x: beta.cdf(x) / 0.5).pvalue > 1e-3
    mirrored = 1 - share[~is_small & (share < 0.99)]
    within = lambda x: (beta.cdf(x) - beta.cdf(0.01)) / (0.5 - beta.cdf(0.01))  # noqa: E731
    assert stats.kstest(mirrored, within).pvalue > 1e-3


def test_mixup_mixes_images_as_it_mixes_labels():
    images = torch.eye(6).reshape(6, 6, 1, 1).expand(-1, -1, 2, 3)
    mixed, labels = augmentation.mixup(KEY, images, torch.eye(6), alpha=0.8)
    torch.testing.assert_close(mixed[:, :, 0, 0], labels)
    share = labels.diagonal()
    assert ((share > 0) & (share < 1)).all()
    assert len(share.unique()) == 6
    partner = labels[torch.arange(6), torch.arange(6) - 1]
    torch.testing.assert_close(partner, 1 - share)


@pytest.mark.parametrize("alpha", [0.3, 4.0])
def test_shares_of_mixup_are_those_of_its_alpha(alpha):
    images, labels = torch.rand(COUNT, 1, 1, 1), torch.eye(2)[torch.arange(COUNT) % 2]
    shares = augmentation.mixup(KEY, images, labels, alpha=alpha)[1][:, 0]
    middle = shares[(shares > 0.01) & (shares < 0.99)].numpy()
    beta = stats.beta(alpha, alpha)
    low, high = beta.cdf([0.01, 0.99])
    assert stats.kstest(middle, lambda x: (beta.cdf(x) - low) / (high - low)).pvalue > 1e-3


def test_middles_of_cutmix_are_uniform_and_sides_those_of_its_alpha():
    """With a large alpha all shares are 1/2: sides are sqrt(1/2) of the image's."""
    height, width = 40, 30
    images = torch.arange(2.0).repeat(COUNT // 2)[:, None, None, None].expand(-1, 1, height, width)
    mixed, _ = augmentation.cutmix(KEY, images, torch.eye(2).repeat(COUNT // 2, 1), alpha=1e6)
    is_pasted = (mixed != images)[:, 0]
    for axis, length, half in ((2, height, 14), (1, width, 10)):
        line = is_pasted.any(axis)
        first, count = line.long().argmax(1), line.sum(1)
        assert count.max() == 2 * half
        is_uniform(torch.where(first > 0, first + half, count - half), length)


def test_cutmix_pastes_rectangles_and_mixes_labels_by_their_areas():
    n, height, width = 500, 12, 10
    images = torch.arange(float(n))[:, None, None, None].expand(-1, 2, height, width)
    mixed, labels = augmentation.cutmix(KEY, images, torch.eye(n))
    partner = images.roll(1, 0)
    is_pasted = (mixed == partner)[:, 0]
    assert ((mixed == images) | (mixed == partner)).all()
    rows, columns = is_pasted.any(2), is_pasted.any(1)
    assert (is_pasted == rows[:, :, None] & columns[:, None]).all()
    area = is_pasted.float().mean((1, 2))
    torch.testing.assert_close(labels.diagonal(), 1 - area)
    torch.testing.assert_close(labels[torch.arange(n), torch.arange(n) - 1], area)
    # Rectangles wholly inside have sides sqrt(1 - l) of the image's: their ratio is the image's.
    inside = ~(rows[:, 0] | rows[:, -1] | columns[:, 0] | columns[:, -1]) & (area > 0)
    sides = torch.stack([rows.sum(1) / height, columns.sum(1) / width], 1)[inside]
    assert inside.sum() > 50
    assert ((sides[:, 0] - sides[:, 1]).abs() < 2 / 10 + 1e-6).all()
    assert 0.2 < area.mean() < 0.4


IMAGES = torch.rand(4, 3, 12, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.eye(4)
EVERY = {
    "random_crop": partial(augmentation.random_crop, size=9, padding=2, padding_mode="reflect"),
    "random_resized_crop": partial(augmentation.random_resized_crop, size=7),
    "random_horizontal_flip": augmentation.random_horizontal_flip,
    "random_vertical_flip": augmentation.random_vertical_flip,
    "random_rotation": partial(augmentation.random_rotation, degrees=30, fill=0.5),
    "random_affine": partial(
        augmentation.random_affine, degrees=20, shear=10, interpolation="bilinear"
    ),
    "color_jitter": partial(
        augmentation.color_jitter, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    ),
    "random_grayscale": partial(augmentation.random_grayscale, p=0.5),
    "random_gaussian_blur": partial(augmentation.random_gaussian_blur, kernel_size=5),
    "random_erasing": augmentation.random_erasing,
    "cutout": partial(augmentation.cutout, size=4),
    "rand_augment": augmentation.rand_augment,
    "trivial_augment": augmentation.trivial_augment,
    "mixup": lambda key, images: augmentation.mixup(key, images, LABELS),
    "cutmix": lambda key, images: augmentation.cutmix(key, images, LABELS),
}
every = pytest.mark.parametrize("name", EVERY)


def test_every_random_augmentation_is_among_these():
    public = {name for name in augmentation.__all__ if name.startswith("random_")}
    draws = {"color_jitter", "cutout", "rand_augment", "trivial_augment", "mixup", "cutmix"}
    assert set(EVERY) == (public - {"random_apply"}) | draws


def parts(result):
    return result if isinstance(result, tuple) else (result,)


@every
def test_nothing_but_the_key_decides_and_nothing_is_written(name):
    before = IMAGES.clone()
    first, second = (EVERY[name](KEY, IMAGES) for _ in range(2))
    other = EVERY[name](random.key(4), IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(parts(first), parts(second), strict=True))
    assert not torch.equal(parts(first)[0], parts(other)[0])
    assert torch.equal(IMAGES, before)


@every
def test_vmap_is_a_loop_over_batches(name):
    keys = random.split(KEY, 3)
    images = torch.stack([IMAGES, IMAGES.flip(0), IMAGES.flip(2)])
    mapped = pf.vmap(EVERY[name])(keys, images)
    looped = [parts(EVERY[name](key, batch)) for key, batch in zip(keys, images, strict=True)]
    for ours, theirs in zip(parts(mapped), zip(*looped, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-6, atol=1e-6)
    shared = pf.vmap(EVERY[name], in_axes=(0, None))(keys, IMAGES)
    assert torch.allclose(parts(shared)[0][1], parts(EVERY[name](keys[1], IMAGES))[0], atol=1e-6)


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"rand_augment", "trivial_augment"}))
def test_gradients_in_the_images_are_those_of_finite_differences(name):
    """Along one direction, in float64; steps of 1/256, in those left out, have no derivative."""
    images = 0.3 + 0.4 * IMAGES.double()
    direction = torch.rand(images.shape, dtype=torch.float64)
    weights = torch.rand(parts(EVERY[name](KEY, images))[0].shape, dtype=torch.float64)

    def value(images):
        return (parts(EVERY[name](KEY, images))[0] * weights).sum()

    step = 1e-6
    numeric = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    exact = (pf.grad(value)(images) * direction).sum()
    torch.testing.assert_close(exact, numeric, rtol=1e-6, atol=1e-7)


@every
def test_compiled_is_as_in_python(name):
    compiled = pf.jit(EVERY[name], backend="eager")
    for key in (KEY, random.key(9)):
        ours, theirs = parts(compiled(key, IMAGES)), parts(EVERY[name](key, IMAGES))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert compiled.trace_count == 1


def test_several_compile_into_one_step():
    """The gradient of a loss over images changed at random, with the backward pass partitioned."""
    augment = augmentation.compose(EVERY["random_crop"], EVERY["random_horizontal_flip"])

    def loss(weight, key, images, labels):
        images, labels = augmentation.mixup(key, augment(key, images), labels)
        return (labels * (images.flatten(1) @ weight)).sum()

    arguments = (torch.ones(3 * 81, 4), KEY, IMAGES, LABELS)
    compiled = pf.jit(pf.grad(loss), backend="aot_eager")(*arguments)
    torch.testing.assert_close(compiled, pf.grad(loss)(*arguments), rtol=1e-5, atol=1e-6)


def test_compose_gives_each_its_own_key_in_order():
    flip, crop = augmentation.random_horizontal_flip, EVERY["random_crop"]
    composed = augmentation.compose(flip, crop)(KEY, IMAGES)
    by_hand = crop(random.fold_in(KEY, 1), flip(random.fold_in(KEY, 0), IMAGES))
    assert torch.equal(composed, by_hand)


@pytest.mark.cuda
@every
def test_cuda_draws_what_the_cpu_draws(name):
    if name in ("mixup", "cutmix"):
        function = getattr(augmentation, name)
        ours = function(KEY.cuda(), IMAGES.cuda(), LABELS.cuda())
    else:
        ours = EVERY[name](KEY.cuda(), IMAGES.cuda())
    for a, b in zip(parts(ours), parts(EVERY[name](KEY, IMAGES)), strict=True):
        assert a.device.type == "cuda"
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-5)
