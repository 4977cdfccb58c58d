"""What is refused, and what the message says: losses that mix examples, shapes, dtypes, batches."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's name

import purefn.functional as pf
from purefn.functional import nn, random
from purefn.functional.per_example import clipped_grad, grads, normalized_grad, norms

TRANSFORMS = {
    "grads": grads,
    "norms": norms,
    "clipped_grad": lambda losses_fn: clipped_grad(losses_fn, 1.0),
    "normalized_grad": normalized_grad,
}
every_transform = pytest.mark.parametrize("transform", TRANSFORMS)

PARAMS = {"weight": torch.linspace(-1, 1, 12).view(4, 3), "scale": torch.ones(4)}
X = torch.linspace(-2, 3, 15).view(5, 3).sin()


def refused(losses_fn, *args, match, transform="clipped_grad", error=ValueError):
    """Demand the error, which begins with the name of the transform, eager and in a program."""
    with pytest.raises(error, match=match) as caught:
        TRANSFORMS[transform](losses_fn)(*args)
    assert str(caught.value).startswith(f"{transform}: ")
    with pytest.raises(error, match=match):
        pf.jit(TRANSFORMS[transform](losses_fn), backend="eager")(*args)


# --- Losses of which one depends on another example ----------------------------------------------


def outputs(params, x):
    return x @ params["weight"].T


def batch_norm(params, x):
    return F.batch_norm(outputs(params, x), None, None, params["scale"], training=True).sum(1)


def batch_mean(params, x):
    y = outputs(params, x)
    return (y - y.mean(0)).square().sum(1)


def softmax_over_the_batch(params, x):
    return outputs(params, x).softmax(0).square().sum(1)


def contrastive(params, x):
    y = F.normalize(outputs(params, x))
    return F.cross_entropy(y @ y.T, torch.arange(len(y)), reduction="none")


def with_neighbours(params, x):
    y = outputs(params, x)
    return (y * y.roll(1, 0)).sum(1)


def sorted_losses(params, x):
    return outputs(params, x).sum(1).sort().values


def whole_norm(params, x):
    y = outputs(params, x)
    return (y / y.norm()).sum(1)


def attention_over_the_batch(params, x):
    y = outputs(params, x)[None]
    return F.scaled_dot_product_attention(y, y, y)[0].sum(1)


MIXING = {
    batch_norm: "batch_norm", batch_mean: "mean", softmax_over_the_batch: "softmax",
    contrastive: "mm", with_neighbours: "roll", sorted_losses: "sort", whole_norm: "norm",
    attention_over_the_batch: "",
}  # fmt: skip


@pytest.mark.parametrize("losses_fn", MIXING)
def test_losses_that_mix_examples(losses_fn):
    name = losses_fn.__name__
    operator = MIXING[losses_fn]
    refused(losses_fn, PARAMS, X, match=rf"losses of {name} mix .*first in \w*{operator}")


@every_transform
def test_every_transform_refuses_them(transform):
    refused(batch_mean, PARAMS, X, transform=transform, match="mix examples")


@pytest.mark.parametrize("method", ["auto", "ghost", "materialize"])
def test_every_method_refuses_them(method):
    with pytest.raises(ValueError, match="mix examples"):
        clipped_grad(batch_mean, 1.0, method=method)(PARAMS, X)


def test_the_batch_norm_of_a_network():
    model = nn.serial(nn.linear(4), nn.batch_norm(), nn.linear(2))
    params, state = model.init(random.key(0), X)

    def in_training(params, x):
        return model(params, state, x, train=True)[0].sum(1)

    def with_given_statistics(params, x):
        return model(params, state, x)[0].sum(1)

    refused(in_training, params, X, match="mix examples.*fixed statistics")
    assert clipped_grad(with_given_statistics, 1.0)(params, X).norms.shape == (5,)


def test_a_last_layer_of_zeros_hides_nothing():
    def normalized(params, x):
        return F.batch_norm(x, None, None, training=True) @ params

    def centred(params, x):
        return (x - x.mean(0)) @ params

    for losses_fn in (normalized, centred):
        refused(losses_fn, torch.zeros(3), X, match="mix examples")


def test_a_large_constant_hides_nothing():
    def relative(params, x):
        y = x @ params
        return 1e4 + y - y.mean()

    refused(relative, torch.ones(3), X, match="mix examples.*mean")


def test_losses_weighted_by_how_often_their_class_comes_up():
    def balanced(params, x, labels):
        rows = F.cross_entropy(x @ params, labels, reduction="none")
        return rows / F.one_hot(labels, 5).sum(0).to(rows)[labels]

    def shared(params, x, labels):
        return (x @ params).sum(1) / (labels[:, None] == labels[None, :]).sum(1)

    for losses_fn in (balanced, shared):
        refused(losses_fn, torch.zeros(3, 5), X, torch.arange(5), match="mix examples")


def test_losses_that_tell_nothing_are_looked_at_again():
    def losses_fn(params, x):
        return (x @ params).log() + (x @ params).mean()

    grads(losses_fn)(torch.ones(3), -1 - X.abs())  # logarithms of nothing but negative numbers
    with pytest.raises(ValueError, match="mix examples"):
        grads(losses_fn)(torch.ones(3), 1 + X.abs())


def test_auxiliary_outputs_that_mix_examples():
    def centred(params, x):
        y = outputs(params, x)
        return y.sum(1), {"centred": y - y.mean(0)}

    def counted(params, x):
        return outputs(params, x).sum(1), torch.arange(len(x))

    with pytest.raises(ValueError, match=r"auxiliary outputs, of centred mix examples.*mean"):
        grads(centred, has_aux=True)(PARAMS, X)
    assert len(grads(counted, has_aux=True)(PARAMS, X)[1]) == 5


@pytest.mark.parametrize("method", ["auto", "ghost", "materialize"])
def test_a_choice_that_needs_a_value(method):
    def losses_fn(params, x):
        return x @ params if x.sum() > 0 else x @ params * 2

    clipped = clipped_grad(losses_fn, 1.0, method=method)
    for call in (clipped, pf.jit(clipped, backend="eager")):
        with pytest.raises(pf.TraceError, match=r"clipped_grad\(losses_fn\) needs the value.*if x"):
            call(torch.ones(3), X)


def test_losses_that_depend_on_the_place_in_the_batch():
    def dropout(params, x):
        return (outputs(params, x) * random.bernoulli(random.key(0), 0.5, (len(x), 4))).sum(1)

    def counted(params, x):
        return outputs(params, x).sum(1) * torch.arange(1, len(x) + 1)

    def averaged(params, x):
        return outputs(params, x).sum(1) / len(x)

    for losses_fn in (dropout, counted, averaged):
        refused(losses_fn, PARAMS, X, match="another loss in a batch than alone.*key of its own")


def test_a_key_for_each_example_is_right():
    def dropout(params, x, key):
        kept = pf.vmap(lambda key: random.bernoulli(key, 0.5, (4,)))(key)
        return (outputs(params, x) * kept).sum(1)

    keys = random.split(random.key(0), 5)
    assert clipped_grad(dropout, 1.0)(PARAMS, X, keys).norms.shape == (5,)


def test_a_tensor_of_the_batch_that_is_closed_over():
    weights = torch.arange(1.0, 6.0)

    def closed_over(params, x):
        return outputs(params, x).sum(1) * weights

    refused(closed_over, PARAMS, X, match="closed over")
    # A batch of one can be repeated for each weight, and so can every row.
    refused(closed_over, PARAMS, X[:1], match=r"closed over")


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_of_every_size_are_tested(size):
    refused(batch_mean, PARAMS, X[:size], match="mix examples")


def test_losses_that_do_not_mix_are_not_refused():
    def with_penalty(params, x):
        return outputs(params, x).cumsum(1).softmax(1)[:, 0] + params["weight"].square().sum()

    def normalized(params, x):
        y = F.group_norm(outputs(params, x), 2, params["scale"])
        return F.layer_norm(y, (4,)).sin() @ torch.arange(1.0, 5.0)

    for losses_fn in (with_penalty, normalized):
        assert clipped_grad(losses_fn, 1.0)(PARAMS, X).norms.isfinite().all()


def cancelling(outputs):
    return outputs @ torch.ones(64) - outputs.sum(1)


def test_a_loss_that_is_nothing_but_rounding_is_not_refused():
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(64, 300, generator=draw), torch.randn(5, 300, generator=draw)
    gradient = clipped_grad(lambda w, x: cancelling((x @ w.T).sin()), 1.0)
    assert gradient(weight, x).norms.max() < 1e-3


def written(y):
    buffer = torch.zeros(len(y))
    buffer.copy_(y.mean())
    return buffer


@pytest.mark.parametrize("mixed", [torch.mean, written])
def test_examples_that_mix_beside_what_cancels_are_refused(mixed):
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(64, 300, generator=draw), torch.randn(5, 300, generator=draw)

    def losses(weight, x):
        y = (x @ weight.T).sin()
        return cancelling(y) + 1e-5 * mixed(y)

    with pytest.raises(ValueError, match="mix examples"):
        clipped_grad(losses, 1.0)(weight, x)


# --- What losses return --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses_fn", "match"),
    [
        (lambda params, x: outputs(params, x).sum(), r"shape \(\).*drop the \.mean\(\) or \.sum"),
        (lambda params, x: outputs(params, x).mean(), r"drop the \.mean\(\)"),
        (lambda params, x: outputs(params, x), r"reduced over every other axis"),
        (lambda params, x: outputs(params, x).sum(1, keepdim=True), r"expected shape"),
        (lambda params, x: outputs(params, x).sum(0), r"expected shape"),
    ],
)
@every_transform
def test_losses_of_another_shape(transform, losses_fn, match):
    refused(losses_fn, PARAMS, X, transform=transform, match=match)


@pytest.mark.parametrize(
    ("losses_fn", "given"),
    [
        (lambda params, x: None, "None"),
        (lambda params, x: 1.0, "float"),
        (lambda params, x: (outputs(params, x).sum(1), x), "has_aux=True"),
    ],
)
def test_losses_that_are_no_tensor(losses_fn, given):
    refused(losses_fn, PARAMS, X, match=given, error=TypeError)


def test_losses_that_are_integers():
    refused(lambda params, x: outputs(params, x).sum(1).long(), PARAMS, X, match="floating")


def test_an_aux_that_is_not_of_the_examples():
    def with_mean(params, x):
        return outputs(params, x).sum(1), x.mean()

    with pytest.raises(ValueError, match=r"auxiliary leaf of shape .*along its first axis"):
        grads(with_mean, has_aux=True)(PARAMS, X)
    with pytest.raises(TypeError, match=r"has_aux=True, .* has to return a pair"):
        grads(lambda params, x: outputs(params, x).sum(1), has_aux=True)(PARAMS, X)


# --- What losses are given -----------------------------------------------------------------------


def plain(params, x, y):
    return outputs(params, x).sum(1) * y


@every_transform
def test_batches_of_unequal_lengths(transform):
    refused(
        plain, PARAMS, X, torch.ones(4), transform=transform,
        match=r"leaves of the batch differ in length: x has 5, y has 4",
    )  # fmt: skip


def test_leaves_of_the_batch_that_are_none():
    refused(plain, PARAMS, X, torch.tensor(1.0), match=r"y is .*no first axis.*Close over")
    refused(
        plain,
        PARAMS,
        X,
        1.0,
        match=r"y is .*(expected a tensor|no first)",
        error=(TypeError, ValueError),
    )
    refused(lambda params: params["scale"], PARAMS, match="without a batch")
    refused(plain, PARAMS, X, {"a": [torch.ones(3)]}, match=r"y\['a'\]\[0\] has 3")


@every_transform
def test_parameters_without_a_derivative(transform):
    params = {"weight": PARAMS["weight"], "steps": torch.tensor(3)}
    refused(
        plain, params, X, torch.ones(5), transform=transform, error=TypeError,
        match=r"params\['steps'\] is .*int64.*only floating-point tensors",
    )  # fmt: skip
    complex_params = {"weight": PARAMS["weight"] * 1j}
    refused(
        plain, complex_params, X, torch.ones(5), transform=transform, error=TypeError,
        match=r"params\['weight'\]",
    )  # fmt: skip


def test_settings():
    with pytest.raises(TypeError, match="argnums"):
        grads(plain, argnums="params")
    with pytest.raises(ValueError, match="selects argument 5"):
        grads(plain, argnums=5)(PARAMS, X, torch.ones(5))
    with pytest.raises(TypeError, match="clipped_grad: "):
        clipped_grad("losses", 1.0)(PARAMS, X)
    for count in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="grads: expected an int >= 1 or None for chunk_size"):
            grads(plain, chunk_size=count)
