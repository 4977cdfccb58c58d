"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .. import nn
from ..initializers import Initializer
from ..nn.checks import check_probability, positive_int


def mlp(
    features: Sequence[int],
    *,
    activation: Callable[[Tensor], Tensor] = nn.relu,
    dropout: float = 0.0,
    bias: bool = True,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> nn.Layer:
    """Return the network `h[i] = activation(W[i] h[i - 1] + b[i])` over the last dimension.

    The last layer has neither activation nor dropout, so that its outputs may be logits. Names of
    parameters are those of `torchvision.ops.MLP`, "0", "3", "6", ... (activation and dropout are
    counted), and so are the outputs, but that torchvision also drops elements of the last one.

    Rumelhart et al. 1986, Learning representations by back-propagating errors.

    Parameters
    ----------
    features
        The lengths of the hidden layers and, last, of the output. That of the input is inferred by
        `init`.
    activation
        A pure function of a tensor.
    dropout
        The probability with which an element of a hidden layer is set to zero in training.
    bias
        Whether the linear layers have biases.
    weight_init, bias_init
        Initializers in the place of those of `nn.linear`.

    Raises
    ------
    TypeError, ValueError
        `features` is empty or holds something else than positive integers, or another option is
        not one of the above.
    LayerError
        On use: the input is not of shape `(..., in_features)`, or no key is given for dropout in
        training.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import models, random, tree
    >>> model = models.mlp([32, 32, 10])
    >>> params = model.init(random.key(0), torch.ones(2, 64))
    >>> list(tree.to_state_dict(params))
    ['0.bias', '0.weight', '3.bias', '3.weight', '6.bias', '6.weight']
    >>> model(params, torch.ones(2, 64)).shape
    torch.Size([2, 10])
    """
    widths = check_widths("mlp", "features", features)
    *hidden, last = (
        nn.linear(width, bias=bias, weight_init=weight_init, bias_init=bias_init)
        for width in widths
    )
    check_probability("mlp", "dropout", dropout)
    drop = nn.dropout(dropout)
    return nn.serial(*(part for layer in hidden for part in (layer, activation, drop)), last)


def check_widths(model: str, argument: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Return `widths`, one or more positive integers, or refuse them.

    >>> check_widths("mlp", "features", [])
    Traceback (most recent call last):
    ValueError: mlp: expected one or more integers for features, got [].
    """
    if not isinstance(widths, Sequence) or isinstance(widths, str):
        raise TypeError(f"{model}: expected a sequence of integers for {argument}, got {widths!r}.")
    if not widths:
        raise ValueError(f"{model}: expected one or more integers for {argument}, got {widths!r}.")
    return tuple(positive_int(model, argument, width) for width in widths)
