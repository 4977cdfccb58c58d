"""Batches of images changed at random: pure functions of a key, which compile into the step.

`f(key, images, ...) -> images`, over floating-point images of shape `(N, C, H, W)`, with a draw of
its own for each image; names and meanings are those of torchvision.transforms.v2. Each is a draw
and a function without chance, such as `crop` or `adjust_hue`, that takes a number for all images
or a tensor with one for each. Operations on colours expect values from 0 to 1, so they stand before
`data.normalize`; those on places take any. `mixup` and `cutmix` change the labels, too.

A key, like the images, lives on the device that computes.
"""

from .color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    random_grayscale,
    rgb_to_grayscale,
)
from .composition import Augmentation, compose, random_apply
from .cropping import (
    center_crop,
    crop,
    random_crop,
    random_resized_crop,
    resize,
    resized_crop,
)
from .erasing import cutout, erase, random_erasing
from .mixing import cutmix, mixup
from .orientation import (
    affine,
    random_affine,
    random_horizontal_flip,
    random_rotation,
    random_vertical_flip,
    rotate,
)
from .policies import rand_augment, trivial_augment
from .sharpness import adjust_sharpness, gaussian_blur, random_gaussian_blur
from .tones import autocontrast, equalize, invert, posterize, solarize

__all__ = [
    "Augmentation",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "adjust_sharpness",
    "affine",
    "autocontrast",
    "center_crop",
    "color_jitter",
    "compose",
    "crop",
    "cutmix",
    "cutout",
    "equalize",
    "erase",
    "gaussian_blur",
    "invert",
    "mixup",
    "posterize",
    "rand_augment",
    "random_affine",
    "random_apply",
    "random_crop",
    "random_erasing",
    "random_gaussian_blur",
    "random_grayscale",
    "random_horizontal_flip",
    "random_resized_crop",
    "random_rotation",
    "random_vertical_flip",
    "resize",
    "resized_crop",
    "rgb_to_grayscale",
    "rotate",
    "solarize",
    "trivial_augment",
]
