"""Losses of sequences whose alignment is unknown: connectionist temporal classification.

The forward recursion is written here as a `scan`, in the semiring of logarithms, so that it can be
differentiated any number of times in both modes, batched and compiled; torch's kernel has only a
first derivative.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..control import scan
from .checks import (
    check_integer,
    check_integers,
    check_logits,
    check_switch,
    check_values,
    in_range,
    nan_unless,
)
from .reduction import log_sum_exp, widened


def ctc(
    log_probabilities: Tensor,
    labels: Tensor,
    input_lengths: Tensor,
    label_lengths: Tensor,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Tensor:
    r"""Return the negative log-likelihood of labels over all their alignments, per example.

    .. math::
        \ell = -\log \sum_{\pi \in \mathcal B^{-1}(y)} \prod_{t=1}^{T} p_t(\pi_t)

    where :math:`\mathcal B` removes repetitions and then blanks from a path; Graves et al. 2006,
    "Connectionist Temporal Classification". The sum is the forward recursion of equations 6 and 7
    there, in logarithms. torch divides by the lengths before it averages:
    `(values / label_lengths.clamp(min=1)).mean()`.

    Parameters
    ----------
    log_probabilities
        Shape `(N, T, C)`, floating point, batch first: a `log_softmax` over the last dimension.
    labels
        Class numbers of shape `(N, S)`, any integer dtype; what lies beyond an example's length is
        not read.
    input_lengths, label_lengths
        How many frames, at most `T`, and how many labels, at most `S`, an example has: shape
        `(N,)`, any integer dtype; of masks, `mask.sum(1)`.
    blank
        The class of the blank, which is no label.
    zero_infinity
        Whether an example whose labels do not fit into its frames is 0 rather than infinite. Its
        gradient is 0 in both cases.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `log_probabilities`.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or option does not fit; a label lies outside the classes or is the blank, or
        a length outside its bounds (under `jit` and `vmap` the result is NaN instead).

    Examples
    --------
    >>> log_p = torch.full((1, 3, 2), 0.5).log()
    >>> one = torch.tensor([1])
    >>> ctc(log_p, torch.tensor([[1]]), 3 * one, one).neg().exp()  # 6 paths of 8
    tensor([0.7500])
    """
    _check_shapes(log_probabilities, labels, input_lengths, label_lengths)
    frames, classes = log_probabilities.shape[1:]
    check_integer("ctc", "blank", blank)
    if not 0 <= blank < classes:
        raise ValueError(f"ctc: blank must lie in [0, {classes}), got {blank}.")
    check_switch("ctc", "zero_infinity", zero_infinity)
    input_lengths, label_lengths = input_lengths.long(), label_lengths.long()
    positions = torch.arange(labels.shape[1], device=labels.device)
    read = positions < label_lengths.unsqueeze(1)
    y = torch.where(read, labels.long(), blank)
    valid = _valid(y, read, input_lengths, label_lengths, frames, classes, blank)
    y = torch.where(in_range(y, classes), y, blank)
    values = -_log_likelihood(widened(log_probabilities), y, input_lengths, label_lengths, blank)
    if zero_infinity:
        values = values.masked_fill(values == math.inf, 0)
    return (values * nan_unless(valid, values)).to(log_probabilities.dtype)


def _log_likelihood(
    log_p: Tensor, y: Tensor, input_lengths: Tensor, label_lengths: Tensor, blank: int
) -> Tensor:
    """Run the forward recursion over the labels with a blank before, between and after them."""
    blanks = y.new_full((y.shape[0], 1), blank)
    extended = torch.stack([blanks.expand_as(y), y], 2).flatten(1)
    extended = torch.cat([extended, blanks], 1)
    # A step may skip the blank between two labels, unless they are equal, as all blanks are.
    skips = extended != _shifted(extended, 2, blank)

    def step(alpha: Tensor, frame: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        t, log_p_t = frame
        skipped = _shifted(alpha, 2, -math.inf).masked_fill(~skips, -math.inf)
        paths = torch.stack([alpha, _shifted(alpha, 1, -math.inf), skipped])
        following = log_sum_exp(paths, 0) + log_p_t.gather(1, extended)
        return torch.where((t < input_lengths).unsqueeze(1), following, alpha), None

    # Before the first frame everything stands at the first blank, which leads to the same place.
    start = torch.zeros_like(extended, dtype=log_p.dtype)
    start = start.masked_fill(torch.arange(start.shape[1], device=start.device) > 0, -math.inf)
    times = torch.arange(log_p.shape[1], device=log_p.device)
    alpha, _ = scan(step, start, (times, log_p.transpose(0, 1)))
    # A path ends at the last blank or at the last label.
    last = 2 * label_lengths.clamp(0, y.shape[1]).unsqueeze(1)
    at_label = alpha.gather(1, (last - 1).clamp(min=0)).masked_fill(last == 0, -math.inf)
    return log_sum_exp(torch.cat([alpha.gather(1, last), at_label], 1), 1)


def _shifted(values: Tensor, by: int, fill: float) -> Tensor:
    """Return values moved to the right along dimension 1."""
    return torch.nn.functional.pad(values, (by, 0), value=fill)[:, : values.shape[1]]


def _valid(
    y: Tensor,
    read: Tensor,
    input_lengths: Tensor,
    label_lengths: Tensor,
    frames: int,
    classes: int,
    blank: int,
) -> Tensor:
    """Say for each example whether its labels and lengths are within bounds."""
    named = ~read | (in_range(y, classes) & (y != blank))
    check_values("ctc", "labels", y, named, f"lie in [0, {classes}) and not be blank={blank}")
    valid = named.all(1)
    for name, lengths, most in (
        ("input_lengths", input_lengths, frames),
        ("label_lengths", label_lengths, y.shape[1]),
    ):
        inside = (lengths >= 0) & (lengths <= most)
        check_values("ctc", name, lengths, inside, f"lie in [0, {most}]")
        valid = valid & inside
    return valid


def _check_shapes(
    log_p: Tensor, labels: Tensor, input_lengths: Tensor, label_lengths: Tensor
) -> None:
    check_logits("ctc", "log_probabilities", log_p)
    named = {"labels": labels, "input_lengths": input_lengths, "label_lengths": label_lengths}
    for name, value in named.items():
        check_integers("ctc", name, value)
    if log_p.ndim != 3 or labels.ndim != 2 or labels.shape[0] != log_p.shape[0]:
        raise ValueError(
            "ctc: log_probabilities must have shape (batch, frames, classes) and labels "
            f"(batch, labels), got {tuple(log_p.shape)} and {tuple(labels.shape)}."
        )
    for name in ("input_lengths", "label_lengths"):
        if named[name].shape != log_p.shape[:1]:
            raise ValueError(
                f"ctc: {name} must have shape ({log_p.shape[0]},), got {tuple(named[name].shape)}."
            )
