"""Gradients of every example: their norms, clipped sums and statistics, at the price of one pass.

The form everywhere is `losses_fn(params, *batch) -> (batch,)`, a pure function of which each loss
depends on its own example alone. `calls` reads what is given and `independence` refuses losses that
mix examples; `capture` traces the gradient of one example, `factorization` finds the products that
it is made of, `factored` runs what comes before them for all examples, and `factors` and `leaves`
know what follows from products without forming them.
"""

from .adaptation import adapt_max_norm
from .clipping import ClippedGrad, clipped_grad, normalized_grad
from .elementwise import Moments, moments
from .fisher import empirical_fisher_diagonal, fisher_diagonal
from .gradients import SquaredNorms, grads, norms
from .groups import by_layer, by_leaf
from .influences import Influence, LeaveOneOut, influence, leave_one_out, tracin
from .noise import NoiseScale, RunningNoiseScale, noise_scale, noise_scale_of_batches
from .projections import projected_grads, trak
from .similarity import cosine_similarity, cross_gram, dot, gradient_diversity, gram
from .tangent_kernel import cross_ntk, ntk

__all__ = [
    "ClippedGrad",
    "Influence",
    "LeaveOneOut",
    "Moments",
    "NoiseScale",
    "RunningNoiseScale",
    "SquaredNorms",
    "adapt_max_norm",
    "by_layer",
    "by_leaf",
    "clipped_grad",
    "cosine_similarity",
    "cross_gram",
    "cross_ntk",
    "dot",
    "empirical_fisher_diagonal",
    "fisher_diagonal",
    "gradient_diversity",
    "grads",
    "gram",
    "influence",
    "leave_one_out",
    "moments",
    "noise_scale",
    "noise_scale_of_batches",
    "normalized_grad",
    "norms",
    "ntk",
    "projected_grads",
    "tracin",
    "trak",
]
