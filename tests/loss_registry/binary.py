"""Losses of binary predictions: torch's, and torchvision's focal loss."""

from functools import partial

from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn import data
from purefn.functional import losses

from .case import Case

elements = partial(F.binary_cross_entropy_with_logits, reduction="none")


def focal(alpha, gamma):
    def reference(x, y):
        torchvision = data.import_torchvision()
        return torchvision.ops.sigmoid_focal_loss(x, y, alpha=alpha, gamma=gamma)

    return reference


def logits_and_labels(draw):
    return draw.normal(draw.N, 3, 2), draw.uniform(draw.N, 3, 2)


CASES = [
    Case(
        "bce",
        losses.bce,
        lambda draw: (draw.uniform(draw.N, 3), draw.uniform(draw.N, 3)),
        partial(F.binary_cross_entropy, reduction="none"),
    ),
    Case(
        "bce",
        lambda p, y, w: losses.bce(p, y, weight=w),
        lambda draw: tuple(draw.uniform(draw.N, 3) for _ in range(3)),
        lambda p, y, w: F.binary_cross_entropy(p, y, weight=w, reduction="none"),
        variant="-weight",
        constant=(2,),
    ),
    Case("bce_with_logits", losses.bce_with_logits, logits_and_labels, elements),
    Case(
        "bce_with_logits",
        lambda x, y, w: losses.bce_with_logits(x, y, pos_weight=w),
        lambda draw: (*logits_and_labels(draw), draw.uniform(3, 2)),
        lambda x, y, w: elements(x, y, pos_weight=w),
        variant="-pos_weight",
        shared=(2,),
        constant=(2,),
    ),
    *(
        Case(
            "sigmoid_focal",
            partial(losses.sigmoid_focal, alpha=alpha, gamma=gamma),
            logits_and_labels,
            focal(-1 if alpha is None else alpha, gamma),
            variant=f"-{alpha}-{gamma}",
        )
        for alpha, gamma in ((0.25, 2.0), (None, 2), (0.9, 0.5), (0.5, 0))
    ),
    Case(
        "multilabel_soft_margin",
        lambda x, y, w: losses.multilabel_soft_margin(x, y, weight=w),
        lambda draw: (draw.normal(draw.N, 3), draw.uniform(draw.N, 3), draw.uniform(3)),
        lambda x, y, w: F.multilabel_soft_margin_loss(x, y, weight=w, reduction="none"),
        shared=(2,),
    ),
    Case(
        "sparsemax",
        losses.sparsemax,
        lambda draw: (draw.normal(draw.N, 3), draw.uniform(draw.N, 3)),
        None,
    ),
]
