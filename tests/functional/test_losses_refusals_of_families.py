"""What the families of losses refuse, and the NaN that stands for it where values are not seen."""

import math
from functools import partial

import pytest
import torch
from loss_registry import CASES

import purefn.functional as pf
from purefn.functional import losses, random

X, V = torch.zeros(2, 3), torch.zeros(2)
LABELS, SIGNS = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
FRAMES = torch.zeros(2, 4, 3)
KEY = random.key(0)
PARAMS = losses.init_adaptive_softmax(KEY, 3, 9, cutoffs=(4,), div_value=1.0)


def labels_of(*rows):
    return torch.tensor(rows)


REFUSED = [
    # Of one shape and dtype.
    (losses.l1, (X, V), {}, ValueError, "targets must have the shape of predictions"),
    (losses.log_cosh, (X, X.double()), {}, TypeError, "targets must have the dtype"),
    (losses.bce, (X, V), {}, ValueError, "labels must have the shape of probabilities"),
    (losses.bce, (X, X), {"weight": V}, ValueError, "weight must be 0-d or have 2 dimensions"),
    (losses.poisson_nll, (X, V), {}, ValueError, "targets must have the shape of log_rates"),
    (losses.poisson_nll, (X, X), {"full": 1}, TypeError, "full must be True or False, got 1"),
    (losses.poisson_nll_with_rates, (X, X), {"eps": -1.0}, ValueError, "eps must be finite and at"),
    (losses.gaussian_nll, (X, X, V), {}, ValueError, r"variances must have 2 dim.*got \(2,\)"),
    (losses.gaussian_nll, (X, X, X.double()), {}, TypeError, "variances must have the dtype"),
    (losses.gaussian_nll, (X, X, 1.0), {}, TypeError, "variances must be a tensor, got float"),
    (losses.gaussian_nll, (X, X, X), {"eps": math.nan}, ValueError, "eps must be finite"),
    (losses.gaussian_nll, (X, X, X[:, :2]), {}, ValueError, r"variances must have.*got \(2, 2\)"),
    (losses.gaussian_nll, (X, X, X), {"full": 1}, TypeError, "full must be True or False, got 1"),
    (losses.kl_div, (V, V), {}, ValueError, r"log_probabilities must have shape \(batch, classes"),
    (losses.js_div, (X, V), {}, ValueError, "log_targets must have the shape"),
    (losses.generalized_kl_div, (X.long(), X), {}, TypeError, "log_predictions must be floating"),
    (losses.pairwise_distance, (V, V), {}, ValueError, r"x must have shape \(batch, ..., feat"),
    (losses.pairwise_distance, (X, X), {"p": -1.0}, ValueError, "p must be at least 0, got -1.0"),
    (
        losses.pairwise_distance,
        (X, X),
        {"eps": -1.0},
        ValueError,
        "eps must be finite and at least",
    ),
    (losses.cosine_similarity, (X, X), {"eps": 0.0}, ValueError, "eps must be finite and above 0"),
    (losses.cosine_distance, (X, X[:, :1]), {}, ValueError, "y must have the shape of x"),
    (losses.ntxent, (X, LABELS), {"temperature": 0.0}, ValueError, "temperature must be finite"),
    (losses.ntxent, (X, LABELS[:1]), {}, ValueError, r"labels \(batch,\), got \(2, 3\) and \(1,\)"),
    (losses.ntxent, (X, V), {}, TypeError, "labels must be integers"),
    (losses.triplet_margin, (X, X, X), {"p": -1.0}, ValueError, "p must be at least 0, got -1.0"),
    # Labels that are signs.
    (losses.hinge, (V, LABELS), {}, ValueError, r"labels must be 1 or -1; found \[0\]"),
    (losses.perceptron, (X, SIGNS), {}, ValueError, r"labels must have shape \(2, 3\), got \(2,\)"),
    (losses.soft_margin, (V, SIGNS > 0), {}, TypeError, "labels must be integers or of dtype"),
    (
        losses.hinge_embedding,
        (V, 2 * SIGNS),
        {},
        ValueError,
        r"labels must be 1 or -1; found \[2\]",
    ),
    (
        losses.hinge_embedding,
        (V, SIGNS),
        {"margin": V},
        TypeError,
        "margin must be a Python number",
    ),
    *(
        (loss, arguments, {name: value}, ValueError, f"{name} must be finite, got {value}")
        for loss, arguments, name in (
            (losses.margin_ranking, (V, V, SIGNS), "margin"),
            (losses.hinge_embedding, (V, SIGNS), "margin"),
            (losses.multi_margin, (X, LABELS), "margin"),
            (losses.poly_cross_entropy, (X, LABELS), "epsilon"),
        )
        for value in (math.nan, math.inf)
    ),
    (losses.margin_ranking, (V, X, SIGNS), {}, ValueError, "second must have the shape of first"),
    (losses.cosine_embedding, (X, X, SIGNS), {"margin": 2}, ValueError, r"lie in \[-1, 1\], got 2"),
    (losses.cosine_embedding, (X, X, X.long() + 1), {}, ValueError, r"labels must have shape \(2,"),
    # Labels that are classes.
    (losses.multi_margin, (X, LABELS + 3), {}, ValueError, r"labels must lie in \[0, 3\); found"),
    (losses.multi_margin, (X, LABELS), {"p": 3}, ValueError, "p must be 1 or 2, got 3"),
    (losses.multi_margin, (X, LABELS), {"weight": V}, ValueError, r"weight must have shape \(3,\)"),
    (losses.multi_margin, (X[..., None], X[:, :1].long()), {}, ValueError, r"\(batch, classes\)"),
    (losses.multiclass_hinge, (X, LABELS - 1), {}, ValueError, r"lie in \[0, 3\); found \[-1\]"),
    (losses.multiclass_perceptron, (V, LABELS), {}, ValueError, r"\(batch, classes, ...\)"),
    (losses.multiclass_sparsemax, (X, LABELS + 5), {}, ValueError, r"labels must lie in \[0, 3\)"),
    (
        losses.multilabel_margin,
        (X, labels_of([3, -1, 0], [0, -1, 9])),
        {},
        ValueError,
        r"labels must lie in \[0, 3\) before a -1; found \[3\]",
    ),
    (losses.multilabel_margin, (X, LABELS), {}, ValueError, "must have one shape"),
    (losses.multilabel_margin, (X, X.byte()), {}, TypeError, "labels must be signed integers"),
    (losses.multilabel_soft_margin, (X, X), {"weight": V}, ValueError, r"must have shape \(3,\)"),
    (losses.softmax_focal, (X, LABELS + 3), {}, ValueError, r"labels must lie in \[0, 3\)"),
    (losses.softmax_focal, (X, LABELS), {"gamma": -1.0}, ValueError, "gamma must be finite and at"),
    (losses.softmax_focal, (X, X), {"ignore_index": 1}, ValueError, "ignore_index=1 was given"),
    (
        losses.sigmoid_focal,
        (X, X),
        {"alpha": -1},
        ValueError,
        r"alpha must lie in \[0, 1\] or be N",
    ),
    (losses.sigmoid_focal, (X, X), {"gamma": True}, TypeError, "gamma must be a Python number"),
    (losses.poly_cross_entropy, (X, X.double()), {}, TypeError, "labels must have the dtype"),
    (losses.dice, (X, LABELS + 3), {}, ValueError, r"labels must lie in \[0, 3\); found \[3\]"),
    (
        losses.dice,
        (X, LABELS),
        {"smooth": -1.0},
        ValueError,
        "smooth must be finite and at least 0",
    ),
    (losses.dice, (X, LABELS), {"weight": V}, ValueError, r"weight must have shape \(3,\)"),
    (losses.binary_dice, (X, V), {}, ValueError, "labels must have the shape of logits"),
    (
        losses.generalized_dice,
        (X, X[:, :2]),
        {},
        ValueError,
        "labels must have the shape of logits",
    ),
    # The last layer.
    (losses.linear_cross_entropy, (X, X[:, :2], LABELS), {}, ValueError, r"\(2, 3\) and \(2, 2\)"),
    (losses.linear_cross_entropy, (X, X.double(), LABELS), {}, TypeError, "one floating-point dt"),
    (
        losses.linear_cross_entropy,
        (X, X, LABELS),
        {"linear_bias": torch.zeros(3)},
        ValueError,
        r"linear_bias must have shape \(2,\), got \(3,\)",
    ),
    (losses.adaptive_softmax, ({"head": {}}, X, LABELS), {}, ValueError, "params must be those of"),
    (
        losses.adaptive_softmax,
        (PARAMS, X[:, :2], LABELS),
        {},
        ValueError,
        r"must have shape \(any, 2",
    ),
    (
        losses.adaptive_softmax,
        (PARAMS, V, LABELS),
        {},
        ValueError,
        r"inputs must be floating point",
    ),
    (
        losses.adaptive_softmax,
        (PARAMS, X.double(), LABELS),
        {},
        TypeError,
        "'weight'. must have the",
    ),
    (
        losses.adaptive_softmax,
        (PARAMS, X, LABELS + 9),
        {},
        ValueError,
        r"labels must lie in \[0, 9",
    ),
    (losses.init_adaptive_softmax, (KEY, 8, 9), {"cutoffs": (2.5,)}, TypeError, "must be a Python"),
    (losses.init_adaptive_softmax, (KEY, 8, 9), {"cutoffs": (9,)}, ValueError, "cutoffs must incr"),
    (losses.init_adaptive_softmax, (KEY, 8, 9), {"cutoffs": ()}, ValueError, "cutoffs must incr"),
    (
        losses.init_adaptive_softmax,
        (KEY, 8, 9),
        {"cutoffs": (2, 5)},
        ValueError,
        "choose a smaller",
    ),
    # Triplets.
    (losses.triplet_margin, (X, X, X), {"margin": 0.0}, ValueError, "margin must be finite and ab"),
    (losses.triplet_margin, (X, X, X), {"swap": 1}, TypeError, "swap must be True or False, got 1"),
    (losses.triplet_margin, (X, X, V), {}, ValueError, "negatives must have the shape of anchors"),
    (
        losses.triplet_margin_with_distance,
        (X, X, X),
        {"distance_function": "l2"},
        TypeError,
        "distance_function must be a function of two tensors, got str",
    ),
    (
        losses.triplet_margin_with_distance,
        (X, X, X),
        {"distance_function": lambda x, y: (x - y).sum()},
        ValueError,
        r"must return one value for each of the 2 examples, got shape \(\)",
    ),
    # Sequences.
    (losses.ctc, (X, LABELS, LABELS, LABELS), {}, ValueError, r"\(batch, frames, classes\) and"),
    (losses.ctc, (FRAMES, X.long() + 1, LABELS + 5, LABELS), {}, ValueError, r"input_lengths must"),
    (losses.ctc, (FRAMES, X.long() + 1, LABELS, LABELS + 4), {}, ValueError, r"label_lengths must"),
    (losses.ctc, (FRAMES, X.long(), SIGNS, SIGNS), {}, ValueError, "and not be blank=0; found"),
    (
        losses.ctc,
        (FRAMES, X.long() + 3, SIGNS, SIGNS),
        {},
        ValueError,
        r"labels must lie in \[0, 3",
    ),
    (
        losses.ctc,
        (FRAMES, X.long(), SIGNS[:1], SIGNS),
        {},
        ValueError,
        "input_lengths must have sh",
    ),
    (losses.ctc, (FRAMES, X.long(), SIGNS, SIGNS), {"blank": 3}, ValueError, r"blank must lie in"),
    (losses.ctc, (FRAMES, X, SIGNS, SIGNS), {}, TypeError, "labels must be integers"),
    (losses.ctc, ([0.0], X.long(), SIGNS, SIGNS), {}, TypeError, "log_probabilities must be a ten"),
    # Lists.
    (losses.list_mle, ([0.0], X), {}, TypeError, "scores must be a tensor, got list"),
    (losses.pairwise_hinge, (X, [0.0]), {}, TypeError, "relevances must be a tensor, got list"),
    (losses.list_mle, (V, V), {}, ValueError, r"scores must have shape \(batch, items\)"),
    (losses.ranking_softmax, (X, X), {"mask": X}, TypeError, "mask must be bools of the shape of"),
    (losses.pairwise_hinge, (X, X), {"mask": SIGNS > 0}, TypeError, "mask must be bools of the sh"),
    (losses.pairwise_logistic, (X, X.long()), {}, TypeError, "relevances must have the dtype"),
]


@pytest.mark.parametrize(
    ("loss", "arguments", "options", "error", "message"),
    REFUSED,
    ids=[f"{i}-{case[0].__name__}" for i, case in enumerate(REFUSED)],
)
def test_arguments_that_do_not_fit(loss, arguments, options, error, message):
    with pytest.raises(error, match=message) as caught:
        loss(*arguments, **options)
    # Losses that stand on another one speak with its name about its arguments.
    speaks = (
        loss.__name__,
        "cross_entropy",
        "adaptive_log_softmax",
        "triplet_margin_with_distance",
    )
    assert str(caught.value).startswith(tuple(f"{name}: " for name in speaks))


def test_probabilities_and_variances_out_of_bounds():
    with pytest.raises(
        ValueError, match=r"probabilities must lie in \[0, 1\]; found \[-0.5, 1.5\]"
    ):
        losses.bce(torch.tensor([0.5, 1.5, -0.5]), torch.zeros(3))
    for variances in (torch.tensor([1.0, -1.0]), torch.nn.Parameter(torch.tensor([1.0, -1.0]))):
        with pytest.raises(ValueError, match=r"variances must be at least 0; found \[-1.0\]"):
            losses.gaussian_nll(V, V, variances)


def test_fenchel_young_refuses_what_is_no_function_of_examples():
    with pytest.raises(TypeError, match="conjugate must be a function of a tensor, got Tensor"):
        losses.fenchel_young(X)
    with pytest.raises(TypeError, match="regularizer must be a function of a tensor, got float"):
        losses.fenchel_young(torch.sum, 1.0)
    with pytest.raises(ValueError, match="conjugate must return one value for each of the 2"):
        losses.fenchel_young(torch.sum)(X, X)
    with pytest.raises(ValueError, match="targets must have the shape of scores"):
        losses.fenchel_young(torch.sum)(X, V)


#: These the registry calls through methods of tensors; they are in `REFUSED`.
METHODS = {"ctc", "fenchel_young", "list_mle", "pairwise_hinge", "pairwise_logistic"}
METHODS |= {"ranking_softmax"}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in METHODS], ids=lambda case: case.id
)
def test_what_is_no_tensor_is_named(case):
    floats, others = case.inputs()
    name = case.name.removesuffix("_softmax") if case.name.startswith("adaptive") else case.name
    with pytest.raises(TypeError, match=f"{name}.*must be a tensor"):
        case.loss(floats[0].tolist(), *floats[1:], *others)


#: A batch of two, the second of them with a label or value that the loss refuses where it sees it.
UNSEEN = {
    "hinge": (losses.hinge, X, labels_of([1, -1, 1], [1, 0, 1])),
    "perceptron": (losses.perceptron, X + 1, labels_of([-1, -1, 1], [1, 0, 1])),
    "soft_margin": (losses.soft_margin, X, labels_of([1, -1, 1], [1, 0, 1])),
    "hinge_embedding": (losses.hinge_embedding, X, labels_of([1, -1, 1], [1, 0, 1])),
    "multi_margin": (losses.multi_margin, X, torch.tensor([1, 3])),
    "multiclass_hinge": (losses.multiclass_hinge, X, torch.tensor([1, -1])),
    "multiclass_perceptron": (losses.multiclass_perceptron, X, torch.tensor([1, 3])),
    "multiclass_sparsemax": (losses.multiclass_sparsemax, X, torch.tensor([1, 3])),
    "entmax15": (losses.entmax15, X, torch.tensor([1, 3])),
    "multilabel_margin": (losses.multilabel_margin, X, labels_of([1, -1, 5], [3, -1, 5])),
    "softmax_focal": (losses.softmax_focal, X, torch.tensor([1, 3])),
    "poly_cross_entropy": (losses.poly_cross_entropy, X, torch.tensor([1, 3])),
    "adaptive_softmax": (partial(losses.adaptive_softmax, PARAMS), X, torch.tensor([1, -100])),
    "dice": (losses.dice, X, torch.tensor([1, 3])),
    "generalized_dice": (losses.generalized_dice, X, torch.tensor([1, 3])),
    "bce": (losses.bce, torch.tensor([[0.5, 0.5], [0.5, 1.5]]), torch.zeros(2, 2)),
    "gaussian_nll": (
        lambda x, v: losses.gaussian_nll(x, torch.ones_like(x), v),
        X,
        torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]]),
    ),
    "ctc": (
        lambda x, y: losses.ctc(x, y, x[:, 0, 0].long() + 4, x[:, 0, 0].long() + 2),
        FRAMES,
        labels_of([1, 2, 0], [1, 0, 0]),
    ),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_is_refused_is_nan_where_it_cannot_be_seen(name):
    loss, x, y = UNSEEN[name]

    def one(x, y):
        return loss(x[None], y[None])[0]

    values, gradients = pf.vmap(lambda x, y: pf.value_and_grad(one)(x, y))(x, y)
    assert values.isnan().tolist() == [False, True]
    assert gradients[0].isfinite().all()
    assert gradients[1].isnan().any()


def test_what_is_refused_is_nan_when_compiled():
    cases = list(UNSEEN.values())
    arguments = [case[1:] for case in cases]

    def all_of_them(arguments):
        return [case[0](x, y) for case, (x, y) in zip(cases, arguments, strict=True)]

    for values in pf.jit(all_of_them, backend="aot_eager")(arguments):
        assert values.isnan().tolist() == [False, True]
