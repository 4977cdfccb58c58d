"""What augmentations do once their parameters are drawn, against torchvision and closed forms."""

import colorsys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purefn.data import augmentation
from purefn.data.augmentation.policies import (
    OPERATIONS,
    apply_operation,
    rand_augment_strengths,
    trivial_augment_strengths,
)
from purefn.functional import random


@pytest.fixture
def functional(torchvision):
    import torchvision.transforms.v2.functional as functional

    return functional


def pictures(n=4, channels=3, height=11, width=14, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, height, width, dtype=dtype, generator=generator)


def one_by_one(function, images, *parameters):
    """Apply a function of torchvision to each image with its own parameters, plain numbers."""
    rows = zip(images, *(parameter.tolist() for parameter in parameters), strict=True)
    return torch.stack([function(image, *numbers) for image, *numbers in rows])


def close(ours, theirs, atol=1e-12):
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


@dtypes
def test_crop_is_torchvisions(functional, dtype):
    images = pictures(dtype=dtype)
    top, left = torch.tensor([-3, 0, 5, 20]), torch.tensor([2, -4, 9, 0])
    ours = augmentation.crop(images, top, left, (8, 7))
    close(ours, one_by_one(lambda x, i, j: functional.crop(x, i, j, 8, 7), images, top, left), 0)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
def test_what_lies_outside_is_torchvisions_padding(functional, mode):
    images = pictures()
    padded = functional.pad(images, [6, 5, 6, 5], padding_mode=mode, fill=0.25)
    ours = augmentation.crop(images, -5, -6, (21, 26), padding_mode=mode, fill=0.25)
    close(ours, padded, 0)


def test_a_fill_for_each_channel():
    ours = augmentation.crop(pictures(), -1, 0, 2, fill=(0.1, 0.2, 0.3))
    assert ours[0, :, 0, 0].tolist() == [0.1, 0.2, 0.3]


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.integers(0, 5), st.integers(1, 17)
)
def test_mirrors_continue_without_end(height, width, top, left, times):
    """A mirrored image repeats after twice its length, however far outside the rectangle lies."""
    image = pictures(1, 1, height, width)
    for mode, period in (("symmetric", (2 * height, 2 * width)), ("reflect", None)):
        period = period or (max(2 * (height - 1), 1), max(2 * (width - 1), 1))
        near = augmentation.crop(image, top, left, 3, padding_mode=mode)
        far = augmentation.crop(
            image, top - times * period[0], left + times * period[1], 3, padding_mode=mode
        )
        close(near, far, 0)


@dtypes
@pytest.mark.parametrize("size", [(5, 6), (11, 14), (20, 31), (1, 1)])
def test_resized_crop_is_torchvisions(functional, dtype, size):
    images = pictures(dtype=dtype)
    top, left = torch.tensor([0, 2, 5, 10]), torch.tensor([0, 3, 9, 13])
    height, width = torch.tensor([11, 7, 2, 1]), torch.tensor([14, 9, 5, 1])
    ours = augmentation.resized_crop(images, top, left, height, width, size)

    def theirs(image, *rectangle):
        return functional.resized_crop(image, *rectangle, size, antialias=True)

    close(ours, one_by_one(theirs, images, top, left, height, width), TOLERANCE[dtype])


def test_resize_and_center_crop_are_torchvisions(functional):
    images = pictures()
    for size in (4, (6, 20), (11, 14)):
        sides = [size, size] if isinstance(size, int) else list(size)
        close(augmentation.resize(images, size), functional.resize(images, sides, antialias=True))
    for size in (1, 4, (6, 13), (11, 14)):
        close(augmentation.center_crop(images, size), functional.center_crop(images, size), 0)


ANGLES = torch.tensor([12.0, -77.0, 133.7, 0.5], dtype=torch.float64)


@dtypes
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_affine_is_torchvisions(functional, torchvision, dtype, interpolation):
    images = pictures(dtype=dtype)
    translate = torch.tensor([[1.0, -2.0], [0.0, 3.5], [-1.0, 0.0], [2.0, 2.0]])
    scale = torch.tensor([1.0, 0.7, 1.3, 2.0], dtype=torch.float64)
    shear = torch.tensor([[5.0, 0.0], [-20.0, 3.0], [0.0, 15.0], [1.0, -1.0]])
    ours = augmentation.affine(
        images,
        angle=ANGLES,
        translate=tuple(translate.unbind(1)),
        scale=scale,
        shear=tuple(shear.unbind(1)),
        center=(3.0, 2.0),
        interpolation=interpolation,
    )

    def theirs(image, *numbers):
        return functional.affine(
            image,
            *numbers,
            center=[3.0, 2.0],
            interpolation=torchvision.transforms.InterpolationMode(interpolation),
        )

    expected = one_by_one(theirs, images, ANGLES, translate, scale, shear)
    close(ours, expected, 20 * TOLERANCE[dtype])


@pytest.mark.parametrize("fill", [0.0, 0.7, (0.1, 0.5, 0.9)])
def test_rotate_is_torchvisions(functional, fill):
    images = pictures()
    filled = list(fill) if isinstance(fill, tuple) else fill
    theirs = one_by_one(lambda x, a: functional.rotate(x, a, fill=filled), images, ANGLES)
    close(augmentation.rotate(images, ANGLES, fill=fill), theirs)


def test_a_bilinear_border_is_the_image_with_the_fill_around_it():
    """Filling is sampling an image that goes on in that colour: less the colour, plus it again."""
    images, options = pictures(), {"angle": 30.0, "interpolation": "bilinear"}
    filled = augmentation.affine(images, fill=0.7, **options)
    close(filled, augmentation.affine(images - 0.7, **options) + 0.7)


def test_half_turns_and_moves_of_whole_pixels_are_exact():
    images = pictures()
    close(augmentation.rotate(images, 180.0), images.flip(2, 3), 0)
    moved = augmentation.affine(images, translate=(3.0, -2.0))
    close(moved, augmentation.crop(images, 2, -3, (11, 14)), 0)


FACTORS = torch.tensor([0.0, 0.4, 1.0, 1.9], dtype=torch.float64)


@dtypes
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_adjustments_are_torchvisions(functional, name, channels, dtype):
    images = pictures(channels=channels, dtype=dtype)
    name = f"adjust_{name}"
    theirs = one_by_one(getattr(functional, name), images, FACTORS)
    close(getattr(augmentation, name)(images, FACTORS), theirs, TOLERANCE[dtype])
    again = getattr(functional, name)(images, 0.3)
    close(getattr(augmentation, name)(images, 0.3), again, TOLERANCE[dtype])


@pytest.mark.parametrize("channels", [1, 3])
def test_adjust_hue_is_torchvisions(functional, channels):
    """In float32, in which torchvision computes it for every dtype."""
    images = pictures(channels=channels, dtype=torch.float32)
    images[0, :, 0] = 0.5  # a row without colour
    images[0, :, 1] = 0.0
    turns = torch.tensor([0.1, -0.5, 0.5, 0.0])
    close(
        augmentation.adjust_hue(images, turns),
        one_by_one(functional.adjust_hue, images, turns),
        2e-6,
    )


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=3, max_size=3),
    st.floats(-0.5, 0.5, allow_subnormal=False),
)
def test_adjust_hue_is_that_of_colorsys(color, turn):
    pixel = torch.tensor(color, dtype=torch.float64).reshape(1, 3, 1, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    assert augmentation.adjust_hue(pixel, turn).flatten().tolist() == pytest.approx(
        expected, abs=1e-12
    )


@dtypes
def test_grayscale_is_torchvisions(functional, dtype):
    images = pictures(dtype=dtype)
    theirs = functional.rgb_to_grayscale(images, num_output_channels=3)
    close(augmentation.rgb_to_grayscale(images), theirs, TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_gaussian_blur_is_torchvisions(functional, kernel_size, dtype):
    images = pictures(dtype=dtype)
    sigma = torch.tensor([0.1, 0.5, 1.5, 9.0], dtype=torch.float64)
    theirs = one_by_one(
        lambda x, s: functional.gaussian_blur(x, [kernel_size] * 2, [s] * 2), images, sigma
    )
    close(augmentation.gaussian_blur(images, kernel_size, sigma), theirs, TOLERANCE[dtype])


@dtypes
def test_tones_are_torchvisions(functional, dtype):
    images = pictures(dtype=dtype)
    images[0] *= 0.3
    images[1, 0] = 0.4  # a channel of one value
    images[2] = (images[2] * 6).floor() / 6
    images[3, 1, 0, :2] = torch.tensor([0.0, 1.0])
    thresholds = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=torch.float64)
    close(
        augmentation.solarize(images, thresholds),
        one_by_one(functional.solarize, images, thresholds.to(dtype)),
        0,
    )
    bits = torch.tensor([0, 1, 4, 8])
    close(
        augmentation.posterize(images, bits),
        one_by_one(functional.posterize, images, bits),
        TOLERANCE[dtype],
    )
    close(augmentation.invert(images), functional.invert(images), TOLERANCE[dtype])
    close(augmentation.autocontrast(images), functional.autocontrast(images), TOLERANCE[dtype])


@pytest.mark.parametrize("side", [8, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_equalize_is_torchvisions(functional, side, channels):
    images = pictures(4, channels, side, side + 1, torch.float32) ** 2
    images[1] = 0.4
    images[2] = (images[2] > 0.5).float()
    images[3] *= 0.2
    close(augmentation.equalize(images), functional.equalize(images), 1e-7)


@pytest.mark.parametrize("policy", ["rand_augment", "trivial_augment", "equalize"])
def test_a_value_that_is_no_number_stays_where_it_was(policy):
    images = pictures(3, dtype=torch.float32)
    images[0, 0, 2, 3] = float("nan")
    function = getattr(augmentation, policy)
    if policy == "equalize":
        equalized = function(images)
        assert torch.equal(equalized.isnan(), images.isnan())
        assert torch.equal(equalized[1:], function(images[1:]))
        return
    assert function(random.key(0), images)[1:].isfinite().all()


def test_erase_is_torchvisions(functional):
    images = pictures()
    place = [torch.tensor(v) for v in ([0, 3, 10, 2], [1, 0, 5, 2], [11, 4, 1, 0], [4, 14, 1, 5])]
    value = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)[:, None, None]
    theirs = one_by_one(lambda x, *p: functional.erase(x, *p, value), images, *place)
    close(augmentation.erase(images, *place, fill=(0.1, 0.2, 0.3)), theirs, 0)


def test_the_tables_of_policies_are_torchvisions(torchvision):
    v2 = torchvision.transforms.v2
    for theirs, ours in (
        (v2.RandAugment, rand_augment_strengths(40, 60)),
        (v2.TrivialAugmentWide, trivial_augment_strengths()),
    ):
        space = theirs._AUGMENTATION_SPACE
        assert tuple(space) == OPERATIONS
        for name, (magnitudes, signed) in space.items():
            expected = magnitudes(31, 40, 60)
            assert (expected is None) == (name not in ours)
            if expected is not None:
                weakest, strongest, ours_signed = ours[name]
                values = weakest + (strongest - weakest) * torch.arange(31) / 30
                values = values.round() if name == "Posterize" else values
                torch.testing.assert_close(values, expected.float())
                assert ours_signed == signed


@pytest.mark.parametrize("channels", [1, 3])
def test_the_operations_of_policies_are_torchvisions(torchvision, channels):
    """All at once, each on images of its own, and with both signs."""
    policy = torchvision.transforms.v2.RandAugment()
    table = {**rand_augment_strengths(11, 14)}
    names = [name for name in OPERATIONS for _ in range(4)]
    magnitudes = []
    for index, name in enumerate(names):
        weakest, strongest, signed = table.get(name, (0.0, 0.0, False))
        value = weakest + (strongest - weakest) * (0.1, 0.3, 0.6, 1.0)[index % 4]
        value = round(value) if name == "Posterize" else value
        magnitudes.append(-value if signed and index % 2 else value)
    images = pictures(len(names), channels, dtype=torch.float32)
    expected = [
        policy._apply_image_or_video_transform(
            image, name, value, torchvision.transforms.InterpolationMode.NEAREST, {torch.Tensor: 0}
        )
        for image, name, value in zip(images, names, magnitudes, strict=True)
    ]
    ours = apply_operation(
        images, torch.tensor([OPERATIONS.index(n) for n in names]), torch.tensor(magnitudes)
    )
    for name, image, reference in zip(names, ours, expected, strict=True):
        torch.testing.assert_close(image, reference, rtol=0, atol=2e-6, msg=name)


def test_half_precision_is_that_of_float32_rounded():
    images = pictures(dtype=torch.float32).bfloat16()
    for function in (
        lambda x: augmentation.rotate(x, 20.0, interpolation="bilinear"),
        lambda x: augmentation.resize(x, 7),
        lambda x: augmentation.adjust_hue(x, 0.2),
        lambda x: augmentation.gaussian_blur(x, 3, 0.8),
        lambda x: augmentation.adjust_contrast(x, 0.5),
    ):
        result = function(images)
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.float(), function(images.float()), rtol=0, atol=2**-7)


KEY = random.key(0)
IMAGES = pictures()
LABELS = torch.eye(4)
REFUSED = [
    (lambda: augmentation.crop(IMAGES[0], 0, 0, 4), r"\(N, C, H, W\)"),
    (lambda: augmentation.crop((IMAGES * 255).byte(), 0, 0, 4), "images / 255"),
    (lambda: augmentation.crop([1], 0, 0, 4), "to be a tensor"),
    (lambda: augmentation.crop(IMAGES[:, :, :0], 0, 0, 4), "at least one pixel"),
    (lambda: augmentation.crop(IMAGES, 0.5, 0, 4), "top to be an int"),
    (lambda: augmentation.crop(IMAGES, torch.zeros(4), 0, 4), "top to hold integers"),
    (lambda: augmentation.crop(IMAGES, 0, torch.zeros(3, dtype=torch.int64), 4), r"shape \(4,\)"),
    (lambda: augmentation.crop(IMAGES, 0, 0, 0), "size to be at least 1"),
    (lambda: augmentation.crop(IMAGES, 0, 0, (4, 4, 4)), "height, width"),
    (lambda: augmentation.crop(IMAGES, 0, 0, 4, padding_mode="mirror"), "'mirror'"),
    (lambda: augmentation.crop(IMAGES, 0, 0, 4, fill=(1.0, 2.0)), "2 entries"),
    (lambda: augmentation.crop(IMAGES, 0, 0, 4, fill="black"), "fill"),
    (lambda: augmentation.center_crop(IMAGES, 12), "larger than"),
    (lambda: augmentation.random_crop(KEY, IMAGES, 16, padding=1), "padding"),
    (lambda: augmentation.random_crop(KEY, IMAGES, 8, padding=-1), "padding to be at least 0"),
    (lambda: augmentation.random_crop(KEY, IMAGES, 8, padding=False), "padding to be an int"),
    (lambda: augmentation.random_crop(None, IMAGES, 8), "key"),
    (lambda: augmentation.resized_crop(IMAGES, 0, 0, 12, 4, 4), "inside the image"),
    (lambda: augmentation.random_resized_crop(KEY, IMAGES, 4, scale=(0.5, 1.5)), "scale"),
    (lambda: augmentation.random_resized_crop(KEY, IMAGES, 4, ratio=(2, 1)), r"\(low, high\)"),
    (lambda: augmentation.random_resized_crop(KEY, IMAGES, 4, ratio=1.0), "ratio"),
    (lambda: augmentation.random_horizontal_flip(KEY, IMAGES, p=1.5), "p to be from 0 to 1"),
    (lambda: augmentation.random_vertical_flip(KEY, IMAGES, p="half"), "p to be a number"),
    (lambda: augmentation.affine(IMAGES, scale=0.0), "scale"),
    (lambda: augmentation.affine(IMAGES, interpolation="bicubic"), "bicubic"),
    (lambda: augmentation.affine(IMAGES, translate=3.0), "translate"),
    (lambda: augmentation.affine(IMAGES, angle=torch.zeros(4, dtype=torch.bool)), "angle"),
    (lambda: augmentation.rotate(IMAGES, True), "angle"),
    (lambda: augmentation.random_rotation(KEY, IMAGES, -5), "degrees"),
    (lambda: augmentation.random_affine(KEY, IMAGES, 5, translate=(0.1, 2.0)), "translate"),
    (lambda: augmentation.random_affine(KEY, IMAGES, 5, translate=0.1), "translate"),
    (lambda: augmentation.random_affine(KEY, IMAGES, 5, scale=(0.0, 1.0)), "scale"),
    (lambda: augmentation.adjust_brightness(IMAGES, -1.0), "factor to be at least 0"),
    (lambda: augmentation.adjust_contrast(IMAGES[:, :2], 1.0), "1 or 3 channels"),
    (lambda: augmentation.adjust_saturation(IMAGES, float("nan")), "factor"),
    (lambda: augmentation.adjust_hue(IMAGES, 0.6), "from -0.5 to 0.5"),
    (lambda: augmentation.rgb_to_grayscale(IMAGES[:, :1]), "3 channels"),
    (lambda: augmentation.random_grayscale(KEY, IMAGES[:, :1]), "3 channels"),
    (lambda: augmentation.color_jitter(KEY, IMAGES, hue=0.7), "hue"),
    (lambda: augmentation.color_jitter(KEY, IMAGES, brightness=(-1, 1)), "brightness"),
    (lambda: augmentation.gaussian_blur(IMAGES, 4, 1.0), "odd"),
    (lambda: augmentation.gaussian_blur(IMAGES, 23, 1.0), "smaller side"),
    (lambda: augmentation.gaussian_blur(IMAGES, 3.0, 1.0), "kernel_size to be an int"),
    (lambda: augmentation.gaussian_blur(IMAGES, 3, 0.0), "sigma"),
    (lambda: augmentation.random_gaussian_blur(KEY, IMAGES, 3, sigma=1.0), "sigma"),
    (lambda: augmentation.solarize(IMAGES, 1.5), "threshold"),
    (lambda: augmentation.posterize(IMAGES, 9), "bits"),
    (lambda: augmentation.posterize(IMAGES, 2.0), "bits"),
    (lambda: augmentation.equalize(IMAGES[:, :2]), "1 or 3 channels"),
    (lambda: augmentation.random_erasing(KEY, IMAGES, scale=(0.0, 0.5)), "scale"),
    (lambda: augmentation.cutout(KEY, IMAGES, 0), "size"),
    (lambda: augmentation.mixup(KEY, IMAGES, torch.arange(4)), r"torch\.eye\(classes\)"),
    (lambda: augmentation.mixup(KEY, IMAGES, LABELS[:3]), r"labels of shape \(4, classes\)"),
    (lambda: augmentation.cutmix(KEY, IMAGES, LABELS, alpha=0.0), "alpha"),
    (lambda: augmentation.cutmix(KEY, IMAGES, [0, 1, 2, 3]), "labels to be a tensor"),
    (lambda: augmentation.rand_augment(KEY, IMAGES, magnitude=31), "below num_magnitude_bins"),
    (lambda: augmentation.rand_augment(KEY, IMAGES, num_ops=-1), "num_ops"),
    (lambda: augmentation.rand_augment(KEY, IMAGES[:, :2]), "channels"),
    (lambda: augmentation.trivial_augment(KEY, IMAGES, num_magnitude_bins=1), "bins"),
    (lambda: augmentation.compose(augmentation.resize, 3), "position 1"),
    (lambda: augmentation.random_apply(augmentation.random_vertical_flip, 2.0), "p to be"),
    (lambda: augmentation.random_apply("flip"), "'flip'"),
    (
        lambda: augmentation.random_apply(lambda key, x: x[:, :, :5])(KEY, IMAGES),
        r"became \(4, 3, 5, 14\)",
    ),
    (
        lambda: augmentation.random_apply(lambda key, x: x.float())(KEY, IMAGES),
        r"torch\.float64 became .* torch\.float32",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
