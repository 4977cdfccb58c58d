"""What torchvision has published: files of weights, and how images were prepared for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights for the 1000 classes of ImageNet, and how images were prepared for it.

    Images were resized to a shorter side of `resize_size`, with antialiasing, cut to the square of
    `crop_size` at their centre, brought to values from 0 to 1 and normalised by `mean` and `std`
    (`data.normalize` does that). Names of the classes are in torchvision's
    `get_model_weights(name)[weights].meta["categories"]`.

    Parameters
    ----------
    file
        The name of the file; the hexadecimal digits after the last hyphen begin its SHA-256.
    resize_size, crop_size
        In pixels.
    interpolation
        How it was resized.
    mean, std
        One number for each of red, green and blue.

    Examples
    --------
    >>> PublishedWeights("resnet18-f37072fd.pth").sha256
    'f37072fd'
    """

    file: str
    resize_size: int = 256
    crop_size: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def url(self) -> str:
        """Where the file can be had."""
        return f"https://download.pytorch.org/models/{self.file}"

    @property
    def sha256(self) -> str:
        """The beginning of the file's SHA-256, in hexadecimal digits."""
        return self.file.rpartition("-")[2].partition(".")[0]


def published_weights(name: str, weights: str = "DEFAULT") -> PublishedWeights:
    """Return which file `pretrained` loads, and how images were prepared for it.

    Parameters
    ----------
    name
        The name of a model, as in `models.resnet18`.
    weights
        torchvision's name of one of its sets of weights; "DEFAULT" is the one that torchvision
        recommends.

    Raises
    ------
    ValueError
        There are no such weights; the message lists those that there are.

    Examples
    --------
    >>> found = published_weights("resnet50")
    >>> found.url, found.resize_size
    ('https://download.pytorch.org/models/resnet50-11ad3fa6.pth', 232)
    >>> published_weights("resnet18", "IMAGENET1K_V2")
    Traceback (most recent call last):
    ValueError: published_weights: resnet18 has the weights 'DEFAULT', 'IMAGENET1K_V1', got \
'IMAGENET1K_V2'.
    """
    return find("published_weights", name, weights)


def find(caller: str, name: str, weights: str) -> PublishedWeights:
    """Return the entry of the table, or refuse names that it does not have."""
    if not isinstance(name, str) or name not in PUBLISHED:
        raise ValueError(
            f"{caller}: expected one of the models {', '.join(PUBLISHED)}, got {name!r}."
        )
    known = PUBLISHED[name]
    if weights not in ("DEFAULT", *known):
        listed = ", ".join(repr(one) for one in ("DEFAULT", *known))
        raise ValueError(f"{caller}: {name} has the weights {listed}, got {weights!r}.")
    return next(iter(known.values())) if weights == "DEFAULT" else known[weights]


def _residual(file_v1: str, file_v2: str) -> dict[str, PublishedWeights]:
    """Return two sets of weights, the second from a longer recipe and better."""
    return {
        "IMAGENET1K_V2": PublishedWeights(file_v2, resize_size=232),
        "IMAGENET1K_V1": PublishedWeights(file_v1),
    }


def _only(file: str, resize_size: int = 256) -> dict[str, PublishedWeights]:
    return {"IMAGENET1K_V1": PublishedWeights(file, resize_size)}


def _swag(end_to_end: str, size: int, linear: str) -> dict[str, PublishedWeights]:
    """Return the weights of Singh et al. 2022 (arXiv:2201.08371), fine-tuned in two ways."""
    return {
        "IMAGENET1K_SWAG_E2E_V1": PublishedWeights(end_to_end, size, size, "bicubic"),
        "IMAGENET1K_SWAG_LINEAR_V1": PublishedWeights(linear, 224, 224, "bicubic"),
    }


#: The weights of each model, torchvision's default first.
PUBLISHED: Mapping[str, Mapping[str, PublishedWeights]] = MappingProxyType(
    {
        "resnet18": _only("resnet18-f37072fd.pth"),
        "resnet34": _only("resnet34-b627a593.pth"),
        "resnet50": _residual("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"),
        "resnet101": _residual("resnet101-63fe2227.pth", "resnet101-cd907fc2.pth"),
        "resnet152": _residual("resnet152-394f9c45.pth", "resnet152-f82ba261.pth"),
        "resnext50_32x4d": _residual(
            "resnext50_32x4d-7cdf4587.pth", "resnext50_32x4d-1a0047aa.pth"
        ),
        "resnext101_32x8d": _residual(
            "resnext101_32x8d-8ba56ff5.pth", "resnext101_32x8d-110c445d.pth"
        ),
        "resnext101_64x4d": _only("resnext101_64x4d-173b62eb.pth", 232),
        "wide_resnet50_2": _residual(
            "wide_resnet50_2-95faca4d.pth", "wide_resnet50_2-9ba9bcbe.pth"
        ),
        "wide_resnet101_2": _residual(
            "wide_resnet101_2-32ee1156.pth", "wide_resnet101_2-d733dc28.pth"
        ),
        "vgg11": _only("vgg11-8a719046.pth"),
        "vgg11_bn": _only("vgg11_bn-6002323d.pth"),
        "vgg13": _only("vgg13-19584684.pth"),
        "vgg13_bn": _only("vgg13_bn-abd245e5.pth"),
        "vgg16": _only("vgg16-397923af.pth"),
        "vgg16_bn": _only("vgg16_bn-6c64b313.pth"),
        "vgg19": _only("vgg19-dcbb9e9d.pth"),
        "vgg19_bn": _only("vgg19_bn-c79401a0.pth"),
        "vit_b_16": _only("vit_b_16-c867db91.pth")
        | _swag("vit_b_16_swag-9ac1b537.pth", 384, "vit_b_16_lc_swag-4e70ced5.pth"),
        "vit_b_32": _only("vit_b_32-d86f8d99.pth"),
        "vit_l_16": _only("vit_l_16-852ce7e3.pth", 242)
        | _swag("vit_l_16_swag-4f3808c9.pth", 512, "vit_l_16_lc_swag-4d563306.pth"),
    }
)
