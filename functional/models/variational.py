"""The variational autoencoder and what it maximises.

Kingma & Welling 2013, Auto-encoding variational Bayes (arXiv:1312.6114), with a Gaussian for the
codes and a standard Gaussian as their prior.
"""

from __future__ import annotations

from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from .. import nn, random
from ..losses.checks import check_pair, check_tensor
from ..nn.checks import check_flag, check_input, needed_key
from ..nn.combinators import Part, Stateless, combination, named_parts


class VariationalOutput(NamedTuple):
    """What a variational autoencoder returns: `p(x | z)` and `q(z | x)`, by their parameters.

    Examples
    --------
    >>> output = VariationalOutput(torch.zeros(1, 4), torch.zeros(1, 2), torch.zeros(1, 2))
    >>> gaussian_kl(output.mean, output.log_variance)
    tensor([0.])
    """

    reconstruction: Tensor
    mean: Tensor
    log_variance: Tensor


@overload
def variational_autoencoder(encoder: Stateless, decoder: Stateless) -> nn.Layer: ...  # type: ignore[overload-overlap]
@overload
def variational_autoencoder(encoder: Part, decoder: Part) -> nn.StatefulLayer: ...
def variational_autoencoder(encoder: Part, decoder: Part) -> nn.Layer | nn.StatefulLayer:
    """Return the layer that decodes a draw from the Gaussian that the encoder gives.

    The encoder's outputs of shape `(N, 2 K)` are means and logarithms of variances, and

        mean, log_variance = encoder(x)
        z = mean + exp(log_variance / 2) noise      in training, else    z = mean
        reconstruction = decoder(z).

    Equations 9 and 10 of Kingma & Welling 2013 (arXiv:1312.6114). The result is a
    `VariationalOutput`. The parts are called "encoder" and "decoder" in parameters, state and
    errors, and each can be used alone: `decoder(params["decoder"], random.normal(key, (n, K)))`
    makes new examples.

    Parameters
    ----------
    encoder, decoder
        Layers, or pure functions of a tensor. The result is stateful when one of them is.

    Raises
    ------
    TypeError
        A part is neither a layer nor a function.
    LayerError
        On use: the encoder's outputs are not of shape `(N, 2 K)`, no key is given in training, or a
        part refuses its input.

    Examples
    --------
    >>> from purefn.functional import losses, models
    >>> model = models.variational_autoencoder(models.mlp([32, 2 * 4]), models.mlp([32, 64]))
    >>> x = torch.zeros(8, 64)
    >>> params = model.init(random.key(0), x)
    >>> output = model(params, x, key=random.key(1), train=True)
    >>> output.reconstruction.shape, output.mean.shape
    (torch.Size([8, 64]), torch.Size([8, 4]))
    >>> log_likelihoods = -64 * losses.bce_with_logits(output.reconstruction, x)
    >>> models.elbo(log_likelihoods, output.mean, output.log_variance).shape
    torch.Size([8])
    """
    name = "variational_autoencoder"
    return combination(
        name,
        named_parts(name, (), {"encoder": encoder, "codes": _draw(name), "decoder": decoder}),
        next_input=lambda part, x, y: y,
        result=lambda outputs, x: VariationalOutput(x, *outputs[0].chunk(2, -1)),
    )


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence of Gaussians from the standard one, of shape `(N,)`.

        KL(N(mean, variance) || N(0, 1)) = sum(mean ** 2 + variance - 1 - log_variance) / 2

    in nats, over all dimensions after the first. Appendix B of Kingma & Welling 2013
    (arXiv:1312.6114).

    Parameters
    ----------
    mean, log_variance
        Floating-point tensors of one shape `(N, ...)` and one dtype.

    Raises
    ------
    TypeError, ValueError
        The tensors are not such.

    Examples
    --------
    >>> gaussian_kl(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2))
    tensor([2.5000, 0.0000])
    """
    check_pair("gaussian_kl", "mean", mean, "log_variance", log_variance)
    terms = mean**2 + torch.expm1(log_variance) - log_variance
    return terms.flatten(1).sum(1) / 2 if mean.ndim > 1 else terms / 2


def elbo(log_likelihoods: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the lower bound of the log-likelihood of each example, of shape `(N,)`.

        log p(x) >= E[log p(x | z)] - KL(q(z | x) || p(z)),

    in nats, with `q` Gaussian, `p(z)` standard, and the mean taken over the one `z` that was drawn.
    Equation 3 of Kingma & Welling 2013 (arXiv:1312.6114). The loss is `-elbo(...).mean()`.

    Parameters
    ----------
    log_likelihoods
        `log p(x | z)` of each example, of shape `(N,)`: a sum over the pixels, so that of
        `losses.bce_with_logits`, which is a mean, minus the number of pixels times that.
    mean, log_variance
        Those of `q`, of shape `(N, K)`.

    Raises
    ------
    TypeError, ValueError
        The tensors are not of these shapes, not floating-point or not of one dtype.

    Examples
    --------
    >>> elbo(torch.tensor([-3.0]), torch.tensor([[1.0]]), torch.tensor([[0.0]]))
    tensor([-3.5000])
    """
    divergence = gaussian_kl(mean, log_variance)
    check_tensor("elbo", "log_likelihoods", log_likelihoods)
    if log_likelihoods.shape != divergence.shape or log_likelihoods.dtype != divergence.dtype:
        raise ValueError(
            f"elbo: log_likelihoods must be {divergence.dtype} of shape {tuple(divergence.shape)}, "
            f"one for each row of mean, got {log_likelihoods.dtype} of shape "
            f"{tuple(log_likelihoods.shape)}."
        )
    return log_likelihoods - divergence


def _draw(name: str) -> nn.Layer:
    """Return the layer from means and logarithms of variances to a code."""

    def init(key: Tensor, x: Any) -> nn.Params:
        _check_halves(name, x)
        return {}

    def apply(
        params: nn.Params, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_flag(name, "train", train)
        _check_halves(name, x)
        mean, log_variance = x.chunk(2, -1)
        if not train:
            return mean  # type: ignore[no-any-return]
        noise = random.normal(needed_key(name, key), tuple(mean.shape), mean.dtype)
        code: Tensor = mean + torch.exp(log_variance / 2) * noise
        return code

    return nn.Layer(init, apply)


def _check_halves(name: str, x: Any) -> None:
    check_input(name, x, ("N", "2 K"))
    if x.shape[-1] % 2:
        raise nn.LayerError(
            f"{name} expected an encoder with as many means as logarithms of variances, got an odd "
            f"number of outputs, {x.shape[-1]}."
        )
