"""The networks of image_classifier.py, and what pixels go through before they reach one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from purefn import data
from purefn.data import augmentation
from purefn.functional import models, nn, random

Network = Literal["mlp", "cnn", "resnet18", "resnet50", "vit"]
Change = Literal[
    "crop",
    "resized-crop",
    "flip",
    "rotate",
    "color",
    "rand-augment",
    "trivial-augment",
    "cutout",
    "erase",
    "mixup",
    "cutmix",
]


class Classifier(NamedTuple):
    """A network, where it starts, and what makes its input of pixels from 0 to 1."""

    model: nn.StatefulLayer
    prepare: Callable[[Tensor], Tensor]
    params: Any
    state: Any


def make_classifier(
    network: Network, pixels: Tensor, classes: int, statistics: data.Statistics, key: Tensor
) -> Classifier:
    """Return a network with parameters drawn for images like `pixels`."""
    prepare = partial(data.normalize, mean=statistics.mean, std=statistics.std)
    example = prepare(pixels)
    model = with_state(make_model(network, classes, *example.shape[1:]))
    return Classifier(model, prepare, *model.init(key, example))


def make_pretrained(network: Network, classes: int, key: Tensor, root: Path | None) -> Classifier:
    """Return a network with torchvision's weights, but for a last layer drawn for the classes."""
    name = "vit_b_16" if network == "vit" else network
    if network in ("mlp", "cnn"):
        raise ValueError(f"--pretrained: there are no weights for {network}; take a resnet or vit.")
    published = models.published_weights(name)

    def prepare(pixels: Tensor) -> Tensor:
        """Bring images to the size and the colours that the weights have seen."""
        pixels = augmentation.resize(pixels, published.crop_size)
        pixels = pixels.expand(-1, 3, -1, -1)  # grey is a colour, too
        return data.normalize(pixels, published.mean, published.std)

    try:
        model, *trees = models.pretrained(name, num_classes=classes, key=key, root=root)
    except RuntimeError as error:  # the file is damaged, or cannot be fetched
        raise OSError(f"--pretrained: {error}") from error
    params, state = trees if len(trees) == 2 else (*trees, {})
    return Classifier(with_state(model), prepare, params, state)


def make_model(
    network: Network, classes: int, channels: int, height: int, width: int
) -> nn.Layer | nn.StatefulLayer:
    """Return one of the networks, for images of that shape."""
    if network == "mlp":
        return nn.serial(
            flat=nn.flatten(),
            hidden=nn.linear(256),
            act=nn.relu,
            drop=nn.dropout(0.2),
            head=nn.linear(classes),
        )
    if network == "resnet18":
        return models.resnet18(classes, in_channels=channels)
    if network == "resnet50":
        return models.resnet50(classes, in_channels=channels)
    if network == "vit":
        return small_vit(classes, channels, height, width)
    return nn.serial(
        conv1=nn.conv2d(32, 3, padding=1),
        act1=nn.relu,
        pool1=nn.max_pool2d(2),
        conv2=nn.conv2d(64, 3, padding=1),
        act2=nn.relu,
        pool2=nn.adaptive_avg_pool2d(4),
        drop=nn.dropout(0.25),
        flat=nn.flatten(),
        hidden=nn.linear(128),
        act3=nn.relu,
        head=nn.linear(classes),
    )


def small_vit(classes: int, channels: int, height: int, width: int) -> nn.Layer:
    """Return a vision transformer of four blocks, on at most 8 x 8 patches of at least 2 x 2."""
    if height != width or height < 2:
        raise ValueError(
            f"--model vit: expected square images of at least 2 x 2, got {height} x {width}."
        )
    sizes = [size for size in range(2, height + 1) if height % size == 0 and height // size <= 8]
    return models.vision_transformer(
        classes,
        image_size=height,
        patch_size=sizes[0],
        num_layers=4,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
        in_channels=channels,
    )


def with_state(model: nn.Layer | nn.StatefulLayer) -> nn.StatefulLayer:
    """Return a layer without a state as one whose state is empty, so that one step serves both."""
    if isinstance(model, nn.StatefulLayer):
        return model

    def init(key: Tensor, x: Any) -> tuple[Any, Any]:
        return model.init(key, x), {}

    def apply(
        params: Any, state: Any, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Any, Any]:
        return model(params, x, key=key, train=train), state

    return nn.StatefulLayer(init, apply, model.uses_key)


def _as_large(change: Callable[..., Tensor], **options: Any) -> augmentation.Augmentation:
    """Return a change whose result has the size of what it was given."""
    return lambda key, images: change(key, images, tuple(images.shape[2:]), **options)


#: What may happen to images, on pixels from 0 to 1.
CHANGES: dict[str, augmentation.Augmentation] = {
    "crop": lambda key, images: augmentation.random_crop(
        key, images, tuple(images.shape[2:]), padding=max(1, images.shape[3] // 8)
    ),
    "resized-crop": _as_large(augmentation.random_resized_crop, scale=(0.35, 1.0)),
    "flip": augmentation.random_horizontal_flip,
    "rotate": partial(augmentation.random_rotation, degrees=15, interpolation="bilinear"),
    "color": partial(
        augmentation.color_jitter, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    ),
    "rand-augment": augmentation.rand_augment,
    "trivial-augment": augmentation.trivial_augment,
    "cutout": lambda key, images: augmentation.cutout(key, images, max(1, images.shape[3] // 2)),
    "erase": augmentation.random_erasing,
}

#: What may happen to images and labels together.
MIXES = {"mixup": partial(augmentation.mixup, alpha=0.4), "cutmix": augmentation.cutmix}


def make_augmentation(
    names: Sequence[Change], classes: int
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the function of a key, images and labels that makes all the changes named.

    Labels become probabilities where images are mixed, which comes last.
    """
    change = augmentation.compose(*(CHANGES[name] for name in names if name in CHANGES))
    mixes = [MIXES[name] for name in names if name in MIXES]

    def augment(key: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = change(random.fold_in(key, 0), images)
        if mixes:
            labels = torch.eye(classes, dtype=images.dtype, device=images.device)[labels]
        for number, mix in enumerate(mixes, start=1):
            images, labels = mix(random.fold_in(key, number), images, labels)
        return images, labels

    return augment


def as_pixels(images: Tensor) -> Tensor:
    """Return values from 0 to 1: what workers read comes as bytes."""
    return images / 255 if images.dtype == torch.uint8 else images
