"""How the layers of flax and equinox keep their parameters, and how torch's and ours do.

| flax                                 | here                                                     |
|--------------------------------------|----------------------------------------------------------|
| Dense, Linear: `kernel (I, O)`       | `weight (O, I)`                                          |
| Conv: `kernel (*K, I/G, O)`          | `weight (O, I/G, *K)`                                    |
| ConvTranspose: `kernel (*K, I, O)`   | `weight (I, O, *K)`, reversed along `K`                  |
| norms: `scale`; BatchNorm: also      | `weight`; state: `running_mean`, `running_var`,          |
| `mean`, `var`                        | `num_batches_tracked` of 0                               |
| Embed: `embedding`                   | `weight`                                                 |
| PReLU: `negative_slope`              | `weight (1,)`                                            |
| attention: `query`, `key`, `value`   | `in_proj_weight (3 E, D)` or, where widths differ,       |
| `kernel (D, H, E/H)`, `bias`; `out`  | `q_proj_weight`, ...; `in_proj_bias`, `out_proj`         |
| LSTM cells: `ii if ig io hi ...`,    | `weight_ih (4 H, I)`, `weight_hh (4 H, H)`, gates in the |
| or `dense_i`, `dense_h`              | order i f g o; `bias_ih`, `bias_hh`, a missing one 0     |
| GRU cells: `ir iz in hr hz hn`, ...  | the same of `3 H` rows in the order r z n                |
| RNN of a `cell`                      | the cell's names with `_l0`, as `nn.lstm` has them       |
| any other array                      | name and layout stay                                     |

equinox keeps torch's layouts, except: the bias of a convolution is `(O, 1, ...)`; a transposed
convolution's weight is `(O, I, *K)` and reversed; attention is `query_proj`, `key_proj`,
`value_proj` and `output_proj`; cells have one `bias`, and a GRU `bias_n`, its new gate's hidden
one; PReLU's weight is `negative_slope`.

Activations have their channels last in flax: images `(N, H, W, C)` become `(N, C, H, W)`. A layer
that follows a flattened image reads its numbers in another order, which `from_flax` must be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: The gates of a cell in torch's order, by how many there are.
GATES = {4: "ifgo", 3: "rzn", 1: " "}


def conv_weight(kernel: Tensor) -> Tensor:
    """Return the weight of a convolution or a dense layer: `(*K, I, O)` becomes `(O, I, *K)`."""
    return kernel.movedim((-1, -2), (0, 1))


def conv_kernel(weight: Tensor) -> Tensor:
    """Return the kernel of a convolution or a dense layer: `(O, I, *K)` becomes `(*K, I, O)`."""
    return weight.movedim((0, 1), (-1, -2))


def transposed_weight(kernel: Tensor) -> Tensor:
    """Return the weight of a transposed convolution: `(*K, I, O)` becomes `(I, O, *K)`, reversed.

    torch's is the transpose of a convolution, which moves the kernel backwards; flax's, unless told
    otherwise, is a convolution of the input with zeros in between.
    """
    return kernel.flip(tuple(range(kernel.ndim - 2))).movedim((-2, -1), (0, 1))


def transposed_kernel(weight: Tensor) -> Tensor:
    """Return the kernel of a transposed convolution, the inverse of `transposed_weight`."""
    return weight.movedim((0, 1), (-2, -1)).flip(tuple(range(weight.ndim - 2)))


def channels_first(weight: Tensor, image: Sequence[int]) -> Tensor:
    """Reorder the columns of `(O, H W C)` behind a flattened image `(H, W, C)` to `(C, H, W)`."""
    height, width, channels = image
    unflattened = weight.reshape(-1, height, width, channels)
    return unflattened.permute(0, 3, 1, 2).flatten(1)


def channels_last(weight: Tensor, image: Sequence[int]) -> Tensor:
    """Undo `channels_first`."""
    height, width, channels = image
    unflattened = weight.reshape(-1, channels, height, width)
    return unflattened.permute(0, 2, 3, 1).flatten(1)


def packed_projections(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """Return attention's projections as torch keeps them, of weights `(E, D)` and biases `(E,)`."""
    if len({weight.shape for weight in weights}) == 1:
        packed = {"in_proj_weight": torch.cat(list(weights))}
    else:
        packed = {f"{name}_proj_weight": w for name, w in zip("qkv", weights, strict=True)}
    given = [bias for bias in biases if bias is not None]
    if given:
        pairs = zip(weights, biases, strict=True)
        packed["in_proj_bias"] = torch.cat(
            [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in pairs]
        )
    return packed


def unpacked_projections(params: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor] | None]:
    """Undo `packed_projections`; the biases are `None` where there are none."""
    if "in_proj_weight" in params:
        weights = list(params["in_proj_weight"].chunk(3))
    else:
        weights = [params[f"{name}_proj_weight"] for name in "qkv"]
    bias = params.get("in_proj_bias")
    return weights, None if bias is None else list(bias.split([len(w) for w in weights]))
