"""One image file, decoded: what cannot be shown in 8 bits, opaque and alone is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .extras import import_pillow

#: Three channels, or one: the names are Pillow's.
Mode = Literal["L", "RGB"]


def read_image(file: Path, shape: tuple[int, int] | None, mode: Mode) -> Tensor:
    """Return one image as uint8 pixels of shape `(channels, height, width)`, upright."""
    image_module, operations = import_pillow()
    try:
        with image_module.open(file) as opened:
            frames = getattr(opened, "n_frames", 1)
            image = operations.exif_transpose(opened)
    # Pillow's decoders raise SyntaxError, struct.error and others for damaged files.
    except Exception as error:
        raise ValueError(f"image folder: cannot read the image {file}: {error}") from error
    if frames > 1:
        raise ValueError(f"image folder: {file} has {frames} frames, expected a single image.")
    image = _opaque(file, image).convert(mode)
    if shape is not None:
        height, width = shape
        image = image.resize((width, height), image_module.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if mode == "L" else pixels.permute(2, 0, 1)


def _opaque(file: Path, image: Any) -> Any:
    """Return an opaque 8-bit image, refusing what a conversion would silently clip or drop."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(
            f"image folder: {file} has more than 8 bits a pixel (Pillow's mode {image.mode!r}); "
            "save it with 8 bits first."
        )
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    lowest_alpha, _ = image.getchannel("A").getextrema()
    if lowest_alpha < 255:
        raise ValueError(
            f"image folder: {file} has transparent pixels; put it on a background first."
        )
    return image
