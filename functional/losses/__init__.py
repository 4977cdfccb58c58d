"""Losses: one value per example, never a reduced one.

Every loss returns a tensor of shape `(batch,)`; the caller writes `.mean()` (or weighs, clips,
sorts or differentiates the values one by one). An example of several elements, `(N, C, d1, ...)`
logits or `(N, ...)` predictions, has as its value the mean of torch's `reduction="none"` values
over its own elements, so that `.mean()` is torch's `reduction="mean"`.

One of torch's means is not a mean over examples: with class weights or ignored labels
`torch.nn.functional.cross_entropy` divides by the summed weights of the labels. That is one line,

>>> import torch
>>> logits, labels = torch.zeros(3, 4), torch.tensor([1, 0, -100])
>>> weight = torch.tensor([1.0, 2.0, 1.0, 1.0])
>>> values = cross_entropy(logits, labels, weight=weight)
>>> label_weights = torch.where(labels == -100, 0.0, weight[labels.clamp(min=0)])
>>> values.mean() / label_weights.mean()
tensor(1.3863)

and for labels of shape `(N, d1, ...)` the same line holds.

Padding is weighed by the caller. Make an example of every position and take a weighted mean, over
all or over each sequence:

>>> logits, labels = torch.zeros(2, 3, 4), torch.tensor([[1, 2, 0], [3, 0, 0]])  # (N, T, C), (N, T)
>>> there = torch.tensor([[True, True, True], [True, False, False]])
>>> values = cross_entropy(logits.flatten(0, 1), labels.flatten()).unflatten(0, labels.shape)
>>> torch.where(there, values, 0.0).sum(1) / there.sum(1)
tensor([1.3863, 1.3863])

Shapes and dtypes are compared before anything is computed: nothing is broadcast or cast. Labels
outside the classes are an error wherever their values can be seen; under `jit` and `vmap` they
cannot, and there the value of such an example is NaN, and its gradient too. bfloat16 and float16
are no less exact than in torch: the losses that torch puts together from many operations compute in
float32 here and round once.

Names are torch's without `_loss`, or optax's where torch has none:

==================================================  ==============================================
elsewhere                                           here
==================================================  ==============================================
torch: binary_cross_entropy, ..._with_logits        bce, bce_with_logits
torch: kl_div(..., log_target=True)                 kl_div_with_log_targets
torch: poisson_nll_loss(..., log_input=False)       poisson_nll_with_rates
torch: AdaptiveLogSoftmaxWithLoss                   adaptive_softmax, adaptive_log_softmax
optax: sigmoid_binary_cross_entropy                 bce_with_logits
optax: softmax_cross_entropy, ..._integer_labels,   cross_entropy
safe_softmax_cross_entropy
optax: squared_error, l2_loss                       mse, mse / 2
optax: poly_loss_cross_entropy                      poly_cross_entropy
optax: kl_divergence, ..._with_log_targets          kl_div, kl_div_with_log_targets
optax: convex_kl_divergence, generalized_...        generalized_kl_div
optax: dice_loss, multiclass_generalized_dice_loss  dice, generalized_dice
optax: make_fenchel_young_loss                      fenchel_young
optax: smooth_labels                                the argument label_smoothing
torchvision: sigmoid_focal_loss                     sigmoid_focal
rax: listmle_loss, softmax_loss                     list_mle, ranking_softmax
==================================================  ==============================================

Three values are not torch's `reduction="mean"` as they stand: a divergence sums over its classes
("batchmean"), `ctc` is not divided by the length of its labels, and `ntxent`, the one loss here
that compares examples with one another, has a value for each of them.
"""

from .binary import bce, bce_with_logits
from .classification import cross_entropy, nll
from .contrastive import ntxent
from .distances import cosine_distance, cosine_similarity, pairwise_distance
from .divergences import (
    generalized_kl_div,
    js_div,
    kl_div,
    kl_div_with_log_targets,
    reverse_kl_div,
)
from .embeddings import (
    cosine_embedding,
    hinge_embedding,
    margin_ranking,
    triplet_margin,
    triplet_margin_with_distance,
)
from .large_vocabulary import (
    adaptive_log_softmax,
    adaptive_softmax,
    init_adaptive_softmax,
    linear_cross_entropy,
)
from .likelihoods import gaussian_nll, poisson_nll, poisson_nll_with_rates
from .margins import (
    hinge,
    multi_margin,
    multiclass_hinge,
    multiclass_perceptron,
    multilabel_margin,
    multilabel_soft_margin,
    perceptron,
    soft_margin,
)
from .ranking import list_mle, pairwise_hinge, pairwise_logistic, ranking_softmax
from .regression import huber, l1, log_cosh, mse, smooth_l1
from .reweighted import poly_cross_entropy, sigmoid_focal, softmax_focal
from .segmentation import binary_dice, dice, generalized_dice
from .sequences import ctc
from .structured import entmax15, fenchel_young, multiclass_sparsemax, sparsemax

__all__ = [
    "adaptive_log_softmax",
    "adaptive_softmax",
    "bce",
    "bce_with_logits",
    "binary_dice",
    "cosine_distance",
    "cosine_embedding",
    "cosine_similarity",
    "cross_entropy",
    "ctc",
    "dice",
    "entmax15",
    "fenchel_young",
    "gaussian_nll",
    "generalized_dice",
    "generalized_kl_div",
    "hinge",
    "hinge_embedding",
    "huber",
    "init_adaptive_softmax",
    "js_div",
    "kl_div",
    "kl_div_with_log_targets",
    "l1",
    "linear_cross_entropy",
    "list_mle",
    "log_cosh",
    "margin_ranking",
    "mse",
    "multi_margin",
    "multiclass_hinge",
    "multiclass_perceptron",
    "multiclass_sparsemax",
    "multilabel_margin",
    "multilabel_soft_margin",
    "nll",
    "ntxent",
    "pairwise_distance",
    "pairwise_hinge",
    "pairwise_logistic",
    "perceptron",
    "poisson_nll",
    "poisson_nll_with_rates",
    "poly_cross_entropy",
    "ranking_softmax",
    "reverse_kl_div",
    "sigmoid_focal",
    "smooth_l1",
    "soft_margin",
    "softmax_focal",
    "sparsemax",
    "triplet_margin",
    "triplet_margin_with_distance",
]
