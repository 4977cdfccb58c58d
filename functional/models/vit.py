"""Vision transformers: an image as a sequence of patches.

Dosovitskiy et al. 2020, An image is worth 16x16 words: transformers for image recognition at scale
(arXiv:2010.11929), as in torchvision. Parameters have torchvision's names, so that
`tree.from_state_dict(weights)` loads them, and begin as torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import nn, random
from ..initializers import Initializer, normal, truncated_normal, xavier_uniform, zeros
from ..nn.checks import check_input, check_probability, positive_int
from ..nn.combinators import check_names, stateless_parts
from ..nn.layer import describe
from ..nn.parameters import check_parameters, check_same_dtype
from .perceptron import mlp


def vision_transformer(
    num_classes: int = 1000,
    *,
    image_size: int,
    patch_size: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    mlp_dim: int,
    in_channels: int = 3,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Layer:
    """Return a vision transformer for square images: torchvision's `VisionTransformer`.

    With the class token `c`, patches `x_p` and positions `P`,

        z = [c; E x_p] + P
        z = z + attention(norm(z)),  z = z + mlp(norm(z))      num_layers times
        y = W norm(z)[0] + b,

    equations 1 to 4 of the paper. Images of shape `(N, in_channels, image_size, image_size)` map to
    logits `(N, num_classes)`.

    Parameters
    ----------
    num_classes
        How many logits there are.
    image_size, patch_size
        Height and width of an image and of a patch, the second a divisor of the first.
    num_layers, num_heads
        How many blocks there are and how many heads their attention has.
    hidden_dim, mlp_dim
        How many features a position has, a multiple of `num_heads`, and how many the network of a
        block has inside.
    in_channels
        How many channels an image has.
    dropout, attention_dropout
        The probability with which features of the sequence, of a branch and inside its network, and
        weights of the attention, are set to zero in training.
    drop_path
        The probability with which a branch of the last block leaves out an example in training. It
        grows in equal steps from 0 in the first (Huang et al. 2016, arXiv:1603.09382).

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        On use: the images have another shape than given here or another dtype than the parameters;
        or no key is given for dropout in training.

    Examples
    --------
    >>> from purefn.functional import models, random, tree
    >>> model = models.vision_transformer(
    ...     10, image_size=8, patch_size=2, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
    ...     in_channels=1,
    ... )
    >>> images = torch.zeros(4, 1, 8, 8)
    >>> params = model.init(random.key(0), images)
    >>> model(params, images).shape, params["encoder"]["pos_embedding"].shape
    (torch.Size([4, 10]), torch.Size([1, 17, 16]))
    """
    counts = {"num_classes": num_classes, "num_layers": num_layers, "in_channels": in_channels}
    _check_sizes(image_size, patch_size, hidden_dim, num_heads, mlp_dim=mlp_dim, **counts)
    probabilities = {"dropout": dropout, "attention_dropout": attention_dropout}
    for argument, probability in {**probabilities, "drop_path": drop_path}.items():
        check_probability("vision_transformer", argument, probability)
    blocks: dict[str, nn.Layer] = {}
    for index in range(num_layers):
        dropped = drop_path * index / max(num_layers - 1, 1)
        blocks[f"encoder_layer_{index}"] = _block(
            num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, dropped
        )
    return nn.serial(
        images=_images(in_channels, image_size),
        conv_proj=_patches(hidden_dim, patch_size, in_channels),
        sequence=nn.lift(lambda x: x.flatten(2).transpose(1, 2), "sequence"),
        class_token=_class_token(),
        encoder=nn.serial(
            pos_embedding=_position_embedding(),
            dropout=nn.dropout(dropout),
            layers=nn.serial(**blocks),
            ln=nn.layer_norm(eps=1e-6),
        ),
        first=nn.lift(lambda x: x[:, 0], "first"),
        heads=nn.serial(head=logits_layer(num_classes)),
    )


def vit_b_16(
    num_classes: int = 1000,
    *,
    image_size: int = 224,
    in_channels: int = 3,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Layer:
    """Return ViT-Base of patches of 16 x 16: torchvision's `vit_b_16`; see `vision_transformer`.

    >>> isinstance(vit_b_16(), nn.Layer)
    True
    """
    return vision_transformer(
        num_classes,
        image_size=image_size,
        patch_size=16,
        in_channels=in_channels,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        **_BASE,
    )


def vit_b_32(
    num_classes: int = 1000,
    *,
    image_size: int = 224,
    in_channels: int = 3,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Layer:
    """Return ViT-Base of patches of 32 x 32: torchvision's `vit_b_32`; see `vision_transformer`.

    >>> isinstance(vit_b_32(), nn.Layer)
    True
    """
    return vision_transformer(
        num_classes,
        image_size=image_size,
        patch_size=32,
        in_channels=in_channels,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        **_BASE,
    )


def vit_l_16(
    num_classes: int = 1000,
    *,
    image_size: int = 224,
    in_channels: int = 3,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Layer:
    """Return ViT-Large of patches of 16 x 16: torchvision's `vit_l_16`; see `vision_transformer`.

    >>> isinstance(vit_l_16(), nn.Layer)
    True
    """
    return vision_transformer(
        num_classes,
        image_size=image_size,
        patch_size=16,
        in_channels=in_channels,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        **_LARGE,
    )


#: The parts of a block's two branches.
_BRANCHES = (("ln_1", "self_attention"), ("ln_2", "mlp"))

#: The sizes of table 1.
_BASE = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
_LARGE = {"num_layers": 24, "num_heads": 16, "hidden_dim": 1024, "mlp_dim": 4096}


def interpolate_positions(params: nn.Params, image_size: int) -> nn.Params:
    """Return the parameters of a vision transformer for images of another size.

    The position embeddings of the patches, a square grid, are interpolated by cubic convolution
    with corner on corner; that of the class token stays. This is torchvision's
    `interpolate_embeddings`, after section 3.2 of Dosovitskiy et al. 2020 (arXiv:2010.11929).

    Parameters
    ----------
    params
        The parameters of a `vision_transformer`.
    image_size
        That of the model that the result is for, a multiple of the size of a patch.

    Raises
    ------
    TypeError, ValueError
        `image_size` is no such integer, or the parameters are not those of a vision transformer.

    Examples
    --------
    >>> from purefn.functional import models, random
    >>> sizes = dict(patch_size=2, num_layers=1, num_heads=2, hidden_dim=4, mlp_dim=8)
    >>> model = models.vision_transformer(10, image_size=8, **sizes)
    >>> params = model.init(random.key(0), torch.zeros(1, 3, 8, 8))
    >>> larger = models.vision_transformer(10, image_size=12, **sizes)
    >>> larger(models.interpolate_positions(params, 12), torch.zeros(1, 3, 12, 12)).shape
    torch.Size([1, 10])
    """
    old, patch_size = _positions_and_patch_size(params)
    positive_int("interpolate_positions", "image_size", image_size)
    if image_size % patch_size:
        raise ValueError(
            f"interpolate_positions: expected image_size a multiple of the patches' {patch_size}, "
            f"got {image_size}."
        )
    side, length = math.isqrt(old.shape[1] - 1), image_size // patch_size
    if side == length:
        return params
    token, grid = old[:, :1], old[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid, size=(length, length), mode="bicubic", align_corners=True)
    new = torch.cat([token, grid.flatten(2).transpose(1, 2)], 1)
    return {**params, "encoder": {**params["encoder"], "pos_embedding": new}}


def _positions_and_patch_size(params: Any) -> tuple[Tensor, int]:
    """Return the embeddings of a class token and of a square grid of patches, or refuse them."""
    try:
        positions, weight = params["encoder"]["pos_embedding"], params["conv_proj"]["weight"]
        squares = positions.shape[1] - 1
        if positions.ndim == 3 and weight.ndim == 4 and math.isqrt(squares) ** 2 == squares:
            return positions, weight.shape[-1]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        pass
    raise ValueError(
        "interpolate_positions: expected the params of a vision_transformer for square images, "
        "with 'conv_proj.weight' and with an 'encoder.pos_embedding' of shape (1, 1 + side ** 2, "
        f"E), got {describe(params)}."
    )


def logits_layer(num_classes: int) -> nn.Layer:
    """Return the last layer, of zeros, so that an untrained network says nothing."""
    return nn.linear(num_classes, weight_init=zeros, bias_init=zeros)


def _check_sizes(
    image_size: int, patch_size: int, hidden_dim: int, num_heads: int, **others: int
) -> None:
    """Refuse sizes that are not positive, and patches and heads that do not divide evenly."""
    pairs = {"image_size": image_size, "patch_size": patch_size}
    pairs |= {"hidden_dim": hidden_dim, "num_heads": num_heads}
    for argument, value in {**pairs, **others}.items():
        positive_int("vision_transformer", argument, value)
    for whole, divisor in (("image_size", "patch_size"), ("hidden_dim", "num_heads")):
        if pairs[whole] % pairs[divisor]:
            raise ValueError(
                f"vision_transformer: expected {whole} to be a multiple of "
                f"{divisor}={pairs[divisor]}, got {pairs[whole]}."
            )


def _images(channels: int, size: int) -> nn.Layer:
    """Return the layer that hands images on, refusing others."""

    def images(x: Any) -> Any:
        check_input("vision_transformer", x, ("N", channels, size, size))
        return x

    return nn.lift(images)


def _patches(hidden_dim: int, patch_size: int, in_channels: int) -> nn.Layer:
    """Return the linear map of each patch, a convolution whose windows do not overlap."""
    stddev = 1 / math.sqrt(in_channels * patch_size**2)
    return nn.conv2d(
        hidden_dim,
        patch_size,
        stride=patch_size,
        weight_init=truncated_normal(stddev, lower=-2 / stddev, upper=2 / stddev),
        bias_init=zeros,
    )


def _class_token() -> nn.Layer:
    """Return the layer that begins each sequence with a token; its parameter is a bare tensor."""

    def init(key: Tensor, x: Any) -> nn.Params:
        return zeros(key, (1, 1, x.shape[-1]), x.dtype)

    def apply(
        params: nn.Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        token = _checked("class_token", params, x, 1)
        return torch.cat([token.expand(x.shape[0], -1, -1), x], 1)

    return nn.Layer(init, apply, uses_key=False)


def _position_embedding() -> nn.Layer:
    """Return the layer that adds a vector for each position; its parameter is a bare tensor."""
    draw: Initializer = normal(0.02)

    def init(key: Tensor, x: Any) -> nn.Params:
        return draw(key, (1, *x.shape[1:]), x.dtype)

    def apply(
        params: nn.Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        return x + _checked("pos_embedding", params, x, x.shape[1])

    return nn.Layer(init, apply, uses_key=False)


def _checked(name: str, value: Any, x: Tensor, length: int) -> Tensor:
    """Return a parameter that is a tensor of shape `(1, length, E)`, or refuse it."""
    check_parameters(name, {name: value}, {name: (1, length, x.shape[-1])})
    check_same_dtype(name, x, {name: value})
    return value  # type: ignore[no-any-return]


def _block(
    num_heads: int,
    hidden_dim: int,
    mlp_dim: int,
    dropout: float,
    attention_dropout: float,
    drop_path: float,
) -> nn.Layer:
    """Return `x = x + attention(norm(x))` and then `x = x + mlp(norm(x))`.

    Unlike in `nn.residual`, the parts of both branches stand beside each other: torchvision's
    names.
    """
    parts = {
        "ln_1": nn.layer_norm(eps=1e-6),
        "self_attention": nn.multi_head_attention(num_heads, dropout=attention_dropout),
        "ln_2": nn.layer_norm(eps=1e-6),
        "mlp": _network(hidden_dim, mlp_dim, dropout),
        "dropout": nn.dropout(dropout),
        "drop_path": nn.drop_path(drop_path),
    }
    return _branches(parts)


def _branches(parts: Mapping[str, nn.Layer | nn.StatefulLayer]) -> nn.Layer:
    """Return the block of these parts, the last two of which end both branches."""
    known = stateless_parts("encoder_layer", parts)
    branches = [(*names, "dropout", "drop_path") for names in _BRANCHES]
    chains = [nn.serial(**{name: known[name] for name in branch}) for branch in branches]

    def init(key: Tensor, x: Any) -> nn.Params:
        keys = random.split(key, len(chains)).unbind(0)
        drawn = [chain.init(key, x) for chain, key in zip(chains, keys, strict=True)]
        return {**drawn[0], **drawn[1]}

    def apply(
        params: nn.Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_names("encoder_layer", "parameters", known, params)
        keys = (None, None) if key is None else random.split(key, len(chains)).unbind(0)
        for chain, branch, chain_key in zip(chains, branches, keys, strict=True):
            own = {name: params[name] for name in branch if name in params}
            x = x + chain(own, x, key=chain_key, train=train)
        return x

    return nn.Layer(init, apply, kind="encoder_layer", parts=known, rebuild=_branches)


def _network(hidden_dim: int, mlp_dim: int, dropout: float) -> nn.Layer:
    """Return the network for each position, whose linear layers begin as torchvision's."""
    return mlp(
        (mlp_dim, hidden_dim),
        activation=nn.gelu,
        dropout=dropout,
        weight_init=xavier_uniform(),
        bias_init=normal(1e-6),
    )
