"""What per-example gradients are timed on: a network, a loss for each example, a batch of any size.

The first six are those of Subramani et al. 2020, Enabling fast differentially private SGD via
just-in-time compilation and vectorization (arXiv 2010.09063), with random data of their shapes; the
recurrent one reads 32 words where theirs reads 256, so that a loop in Python compiles in seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from .convolutional import cifar_cnn, mnist_cnn
from .perceptrons import linear_stack, logistic_regression, two_layers
from .sequences import bag_of_words, lstm
from .transformer import transformer
from .workload import PerExample

#: What makes each workload, given the size of the batch.
WORKLOADS: dict[str, Callable[[int], PerExample]] = {
    "logistic": logistic_regression,
    "mlp": two_layers,
    "mnist-cnn": mnist_cnn,
    "cifar-cnn": cifar_cnn,
    "embedding": bag_of_words,
    "lstm": lambda batch: lstm(batch, loop="python"),
    "lstm-scan": lambda batch: lstm(batch, loop="scan"),
    "transformer": transformer,
    "linear-stack": linear_stack,
}

__all__ = ["WORKLOADS", "PerExample"]
