"""Models with the weights that torchvision has published."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import nn, tree
from ..abstract import ShapeDtype, eval_shape
from ..nn.checks import positive_int
from ..random.threefry import check_key
from . import resnet, vgg, vit
from .downloading import fetched
from .published import find

#: Names that belong to the state.
_STATE = ("running_mean", "running_var", "num_batches_tracked")


def pretrained(
    name: str,
    *,
    weights: str = "DEFAULT",
    num_classes: int | None = None,
    key: Tensor | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> tuple[Any, ...]:
    """Return a model and its published weights: `(model, params)` or `(model, params, state)`.

    There is a state where the model has batch norm, as with `model.init`. Parameters are in
    float32, on the CPU, also where the file has them in float16. `published_weights(name, weights)`
    says how images have to be prepared. torchvision need not be installed.

    The file is verified each time, its name holds the beginning of its SHA-256, and is read without
    running any code that it may contain.

    Parameters
    ----------
    name
        The name of a model, as in `models.resnet18`.
    weights
        torchvision's name of one of its sets of weights for the model; "DEFAULT" is the one that it
        recommends.
    num_classes
        To fine-tune for other classes than the 1000 of ImageNet: how many. The last layer is then
        drawn anew, as an untrained model has it.
    key
        A key of `random.key`, which the last layer is drawn with.
    root
        The folder that keeps the files; without it torch's own, where torchvision keeps the same
        files: `torch.hub.get_dir()` and there `checkpoints`.
    download
        Whether a file that is not there is fetched.

    Raises
    ------
    TypeError, ValueError
        There is no such model, or are no such weights (the message lists those that there are);
        `num_classes` is no positive integer, `root` no path; or one of `num_classes` and `key` is
        given without the other.
    RuntimeError
        The file is damaged, cannot be fetched, or does not hold the weights of the model.

    Examples
    --------
    >>> from purefn.functional import models, random
    >>> model, params, state = models.pretrained("resnet18")  # doctest: +SKIP
    >>> model, params = models.pretrained(
    ...     "vit_b_16", num_classes=10, key=random.key(0)
    ... )  # doctest: +SKIP
    >>> models.pretrained("resnet19")
    Traceback (most recent call last):
    ValueError: pretrained: expected one of the models resnet18, resnet34, ..., got \
'resnet19'.
    """
    published = find("pretrained", name, weights)
    if (num_classes is None) != (key is None):
        raise ValueError(
            f"pretrained: expected num_classes and key together, got num_classes={num_classes} and "
            f"{'no key' if key is None else 'a key'}; key=random.key(0) draws the new last layer."
        )
    if num_classes is not None and key is not None:
        positive_int("pretrained", "num_classes", num_classes)
        check_key("pretrained", key)
    if root is not None and not isinstance(root, str | os.PathLike):
        raise TypeError(f"pretrained: expected the path of a folder for root, got {root!r}.")
    folder = Path(torch.hub.get_dir(), "checkpoints") if root is None else Path(root).expanduser()
    network = _network(name)
    model = network.build(1000 if num_classes is None else num_classes, published.crop_size)
    path = fetched(published.url, folder, published.sha256, download=download)
    flat = _in_float32(_with_todays_names(_read(path)))
    if num_classes is not None and key is not None:
        flat = _with_new_head(flat, network, num_classes, key)
    params = tree.from_state_dict({n: v for n, v in flat.items() if not n.endswith(_STATE)})
    state = tree.from_state_dict({n: v for n, v in flat.items() if n.endswith(_STATE)})
    trees = (params, state) if isinstance(model, nn.StatefulLayer) else (params,)
    images = ShapeDtype((1, 3, published.crop_size, published.crop_size))
    try:
        eval_shape(model.apply, *trees, images)
    except nn.LayerError as error:
        raise RuntimeError(f"{path} does not hold the weights of {name}: {error}") from error
    return (model, *trees)


@dataclass(frozen=True)
class _Network:
    """How a model is built for a number of classes and a size of images, and its last layer."""

    build: Callable[[int, int], nn.Layer | nn.StatefulLayer]
    head: str
    logits_layer: Callable[[int], nn.Layer]


def _network(name: str) -> _Network:
    """Return the network of a published name."""
    if hasattr(vit, name):
        make = getattr(vit, name)
        return _Network(
            lambda num_classes, size: make(num_classes, image_size=size),
            "heads.head",
            vit.logits_layer,
        )
    module, head = (vgg, "classifier.6") if hasattr(vgg, name) else (resnet, "fc")
    make = getattr(module, name)
    return _Network(lambda num_classes, _: make(num_classes), head, module.logits_layer)


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, LookupError, OSError, RuntimeError, ValueError, pickle.PickleError) as error:
        raise RuntimeError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(held, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items()
    ):
        raise RuntimeError(f"{path} does not hold a dict of tensors by name.")
    return {name: value.detach() for name, value in held.items()}


def _with_todays_names(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and complete what older versions of torch and torchvision saved, as these do.

    The networks in blocks of vision transformers had layers `linear_1` and `linear_2`, and batch
    norm did not count its batches.
    """
    named = {
        re.sub(r"\.mlp\.linear_([12])\.", lambda m: f".mlp.{3 * int(m[1]) - 3}.", name): value
        for name, value in flat.items()
    }
    counts = {
        f"{name.removesuffix('running_mean')}num_batches_tracked": torch.tensor(0)
        for name in named
        if name.endswith("running_mean")
    }
    return {**counts, **named}


def _in_float32(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.float() if value.is_floating_point() else value for name, value in flat.items()
    }


def _with_new_head(
    flat: Mapping[str, Tensor], network: _Network, num_classes: int, key: Tensor
) -> dict[str, Tensor]:
    """Draw the last layer anew; where there is none, the model will miss it."""
    weight = flat.get(f"{network.head}.weight")
    if weight is None or weight.ndim != 2:
        return dict(flat)
    layer = network.logits_layer(num_classes)
    drawn = layer.init(key.cpu(), ShapeDtype((1, weight.shape[1])))
    return {**flat, **{f"{network.head}.{name}": value for name, value in drawn.items()}}
