"""Layers that change the resolution."""

import torch

from purefn.functional import nn

from .case import Case

_SHAPES = {1: (2, 3, 5), 2: (2, 3, 5, 4), 3: (2, 2, 3, 4, 3)}
_MODES = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}


def _upsample(variant, shape, **options):
    return Case(
        "upsample", nn.upsample(**options), torch.nn.Upsample(**options), shape, variant=variant
    )


CASES = [
    *[
        _upsample(f"{mode}{number}", _SHAPES[number], scale_factor=1.7, mode=mode)
        for mode, numbers in _MODES.items()
        for number in numbers
    ],
    *[
        _upsample(
            f"{mode}-corners", _SHAPES[_MODES[mode][0]], size=6, mode=mode, align_corners=True
        )
        for mode in ("linear", "bilinear", "bicubic", "trilinear")
    ],
    _upsample("size", _SHAPES[2], size=(3, 7)),
    Case(
        "upsample",
        nn.upsample(scale_factor=2),
        torch.nn.UpsamplingNearest2d(scale_factor=2),
        _SHAPES[2],
        variant="nearest2d",
    ),
    Case(
        "upsample",
        nn.upsample(size=(4, 7), mode="bilinear", align_corners=True),
        torch.nn.UpsamplingBilinear2d((4, 7)),
        _SHAPES[2],
        variant="bilinear2d",
    ),
    _upsample(
        "recompute",
        _SHAPES[2],
        scale_factor=(1.3, 2.0),
        mode="bilinear",
        recompute_scale_factor=True,
    ),
    Case("pixel_shuffle", nn.pixel_shuffle(2), torch.nn.PixelShuffle(2), (2, 8, 3, 2)),
    Case("pixel_unshuffle", nn.pixel_unshuffle(2), torch.nn.PixelUnshuffle(2), (2, 3, 4, 6)),
    Case("channel_shuffle", nn.channel_shuffle(3), torch.nn.ChannelShuffle(3), (2, 6, 3, 2)),
    Case("unfold", nn.unfold(2), torch.nn.Unfold(2), (2, 3, 4, 5)),
    Case(
        "unfold",
        nn.unfold((2, 3), 2, 1, (2, 1)),
        torch.nn.Unfold((2, 3), 2, 1, (2, 1)),
        (2, 3, 5, 6),
        variant="options",
    ),
    Case("fold", nn.fold((4, 5), 2), torch.nn.Fold((4, 5), 2), (2, 12, 12)),
    Case(
        "fold",
        nn.fold((5, 6), (2, 3), 2, 1, (2, 1)),
        torch.nn.Fold((5, 6), (2, 3), 2, 1, (2, 1)),
        (2, 12, 12),
        variant="options",
    ),
]
