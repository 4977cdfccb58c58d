"""The door to packages that extras install: torchvision, Pillow, safetensors."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..functional.interop.extras import import_extra


def import_torchvision() -> Any:
    """Import torchvision and return the module, also beside a torch without CUDA.

    A torchvision built for CUDA cannot load its compiled operators into a CPU-only torch, and its
    import then stops at `operator torchvision::nms does not exist`, although data sets, transforms
    and models need none of them. Where that happens, and only there, the missing operators are
    declared (not implemented) and the import goes on.

    Raises
    ------
    ImportError
        torchvision is not installed; the message says how to install it.

    Examples
    --------
    >>> resnet = import_torchvision().models.resnet18()  # doctest: +SKIP
    """
    try:
        return _import("torchvision", "torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    _declare_operators()
    return _import("torchvision", "torchvision")


def import_pillow() -> tuple[Any, Any]:
    """Import Pillow and return its modules `(Image, ImageOps)`.

    Raises
    ------
    ImportError
        Pillow is not installed; the message says how to install it.

    Examples
    --------
    >>> image_module, operations = import_pillow()  # doctest: +SKIP
    >>> upright = operations.exif_transpose(image_module.open("photo.jpg"))  # doctest: +SKIP
    """
    return _import("PIL.Image", "Pillow"), _import("PIL.ImageOps", "Pillow")


def import_safetensors() -> Any:
    """Import safetensors with its functions for torch, and return the module.

    Raises
    ------
    ImportError
        safetensors is not installed; the message says how to install it.
    """
    _import("safetensors.torch", "safetensors", extra="checkpoints")
    return _import("safetensors", "safetensors", extra="checkpoints")


def _import(module: str, distribution: str, extra: str = "vision") -> Any:
    return import_extra(module, distribution, extra)


@functools.cache
def _declare_operators() -> Any:
    """Declare what torchvision registers fake kernels for; the cache keeps it declared."""
    torch_library: Any = torch.library  # not typed
    library = torch_library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
