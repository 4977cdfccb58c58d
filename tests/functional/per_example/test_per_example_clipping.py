"""Sums of clipped gradients: what each example adds, for whatever bound, group, mask and method."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import per_example, tree
from purefn.functional.per_example import clipped_grad, normalized_grad

METHODS = ["auto", "ghost", "materialize"]
method_names = pytest.mark.parametrize("method", METHODS)
methods = st.sampled_from(METHODS)


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def network():
    return {
        "encoder": {"weight": normal(4, 3), "bias": normal(4)},
        "head": {"weight": normal(2, 4), "scale": normal()},
    }


def losses(params, x):
    """Return losses of a network over positions; x has shape (batch, positions, 3)."""
    h = torch.tanh(x @ params["encoder"]["weight"].T + params["encoder"]["bias"])
    return (h @ params["head"]["weight"].T).sin().sum((1, 2)) * params["head"]["scale"]


def by_first_letter(path):
    return path.split("['")[-1][0]


def total_norm(oracle, leaves):
    return sum(oracle.square(leaf) for leaf in leaves).sqrt()


def weighted(weights, leaves):
    return [torch.tensordot(weight, leaf, 1) for weight, leaf in zip(weights, leaves, strict=True)]


# --- The table of edge cases ---------------------------------------------------------------------


def vector_losses(params, x):
    """Return losses of which the gradient is the example."""
    return x @ params


def matrix_losses(params, x):
    """Return losses of which the gradient is an outer product of norm |x|."""
    return (x @ params) @ torch.tensor([0.6, 0.8], dtype=x.dtype)


def table_losses(params, x):
    """Return losses of which the gradient is the example in one of the rows."""
    return (params[(x[:, 0] > 0).long()] * x).sum(1)


FORMS = {
    "vector": (vector_losses, (3,)),
    "matrix": (matrix_losses, (3, 2)),
    "table": (table_losses, (2, 3)),
}


def added(form, example, bound, method, **options):
    """Return the norm of what an example adds beside one of zeros, and the whole result."""
    function, shape = FORMS[form]
    direction = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    batch = torch.stack([direction * 0, direction * example])
    params = torch.zeros(shape, dtype=torch.float64)
    found = clipped_grad(function, bound, method=method, **options)(params, batch)
    return found.grads.square().sum().sqrt().item(), found


positive = st.floats(1e-6, 1e6)
forms = st.sampled_from(sorted(FORMS))


@settings(max_examples=15)
@given(form=forms, norm=positive, bound=positive, method=methods, rescale=st.booleans())
def test_what_an_example_adds(form, norm, bound, method, rescale):
    got, found = added(form, norm, bound, method, rescale=rescale)
    expected = min(norm, bound) / (bound if rescale else 1)
    assert got == pytest.approx(expected, rel=1e-12)
    assert found.norms.tolist() == pytest.approx([0, norm], rel=1e-12)
    assert found.sensitivity.item() == pytest.approx(1 if rescale else bound, rel=1e-12)


@settings(max_examples=8)
@given(form=forms, bound=st.sampled_from([0, 1.0, math.inf]), method=methods)
def test_norm_zero_adds_zeros(form, bound, method):
    for rescale in [False] if bound == math.inf else [False, True]:
        assert added(form, 0.0, bound, method, rescale=rescale)[0] == 0


@settings(max_examples=8)
@given(form=forms, norm=positive, method=methods)
def test_bound_zero(form, norm, method):
    got, found = added(form, norm, 0.0, method)
    assert got == 0
    assert found.sensitivity == 0
    got, found = added(form, norm, 0.0, method, rescale=True)
    assert got == pytest.approx(1, rel=1e-12)
    assert found.sensitivity == 1


@settings(max_examples=8)
@given(form=forms, norm=positive, method=methods)
def test_bound_infinite_adds_the_gradient(form, norm, method):
    got, found = added(form, norm, math.inf, method)
    assert got == pytest.approx(norm, rel=1e-12)
    assert found.sensitivity == math.inf


@method_names
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_adds_zeros(form, bad, method):
    function, shape = FORMS[form]
    batch = torch.tensor([[0.0, 3.0, 4.0], [1.0, bad, 0.0], [0.3, 0.0, 0.4]])
    found = clipped_grad(function, 1.0, method=method)(torch.zeros(shape), batch)
    kept = clipped_grad(function, 1.0, method=method)(torch.zeros(shape), batch[[0, 2]])
    torch.testing.assert_close(found.grads, kept.grads, rtol=1e-6, atol=0)
    assert not found.norms[1].isfinite()
    assert torch.equal(found.norms[[0, 2]], kept.norms)
    unsafe = clipped_grad(function, 1.0, method=method, nan_safe=False)(torch.zeros(shape), batch)
    assert unsafe.grads.isnan().any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_group_that_is_not_finite_drops_the_whole_example(bad):
    params = {"a": torch.zeros(2), "b": torch.zeros(2)}

    def both(params, x, y):
        return x @ params["a"] + y @ params["b"]

    x, y = torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.tensor([[bad, 1.0], [0.0, 1.0]])
    groups = per_example.by_leaf
    found = clipped_grad(both, {"params['a']": 1, "params['b']": 2}, groups=groups)(params, x, y)
    torch.testing.assert_close(found.grads, {"a": torch.tensor([0.6, 0.8]), "b": y[1]})


def test_bounds_that_are_none_are_refused():
    for bound in (-1.0, math.nan, True, "1", None, torch.ones(2), torch.tensor(1)):
        with pytest.raises(ValueError, match="max_norm"):
            clipped_grad(losses, bound)
    with pytest.raises(ValueError, match="rescale=False"):
        clipped_grad(losses, math.inf, rescale=True)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_tensor_that_is_no_bound(bad):
    params, x = torch.zeros(2), torch.ones(3, 2)

    def clip(bound, rescale=False):
        return clipped_grad(vector_losses, bound, rescale=rescale)(params, x)

    if bad != math.inf:
        with pytest.raises(ValueError, match="expected max_norm >= 0, got"):
            clip(torch.tensor(bad))
    with pytest.raises(ValueError, match="max_norm"):
        clip(torch.tensor(bad), rescale=True)
    traced = pf.jit(clip, backend="eager")(torch.tensor(bad))
    rescaled = pf.jit(lambda bound: clip(bound, True), backend="eager")(torch.tensor(bad))
    if bad < 0:
        assert not traced.grads.any()
        assert not traced.sensitivity
    if math.isnan(bad):
        assert not traced.grads.isfinite().any()
        assert traced.sensitivity.isnan()
    if bad > 0:
        assert rescaled.sensitivity.isnan()


@method_names
@pytest.mark.parametrize("rescale", [False, True])
def test_a_gradient_whose_square_underflows_adds_nothing(method, rescale):
    x = torch.full((1, 3), 1e-25)
    for bound in (0.0, 1e-39, 1e-30, 1.0):
        clipped = clipped_grad(vector_losses, bound, rescale=rescale, method=method)
        assert not clipped(torch.zeros(3), x).grads.any()
        assert not clipped(torch.zeros(3), torch.zeros(1, 3)).grads.any()


# --- Methods, microbatches and chunks ------------------------------------------------------------

sizes = st.none() | st.integers(1, 6)


@settings(max_examples=20)
@given(
    examples=st.integers(0, 5), positions=st.integers(1, 4), quantile=st.floats(0, 1),
    method=methods, chunk_size=sizes, microbatch=sizes, rescale=st.booleans(),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_every_method_is_the_definition(
    oracle, examples, positions, quantile, method, chunk_size, microbatch, rescale, seed
):
    torch.manual_seed(seed)
    params, x = network(), normal(examples, positions, 3)
    gradients = oracle.gradients(losses, params, x)
    norms = total_norm(oracle, gradients)
    bound = norms.quantile(quantile).item() if examples else 1.0
    found = clipped_grad(
        losses, bound, method=method, chunk_size=chunk_size, microbatch=microbatch, rescale=rescale
    )(params, x)
    weights = torch.where(norms > bound, bound / norms, 1) / (bound if rescale else 1)
    oracle.assert_equal(found.grads, weighted([weights] * len(gradients), gradients), "sums")
    oracle.assert_equal(found.norms, norms, "norms")
    oracle.assert_equal(found.values, losses(params, x), "values")
    assert tree.structure(found.grads) == tree.structure(params)
    assert found.aux is None


@method_names
@pytest.mark.parametrize("microbatch", [None, 2])
def test_what_is_returned_besides(method, microbatch):
    params, x = network(), normal(5, 2, 3)

    def with_more(params, x):
        return losses(params, x), {"mean": x.mean((1, 2)), "features": (x.sin(), None)}

    found = clipped_grad(with_more, 1.0, method=method, microbatch=microbatch, has_aux=True)
    aux = found(params, x).aux
    assert torch.equal(aux["features"][0], x.sin())
    torch.testing.assert_close(aux["mean"], x.mean((1, 2)))


@method_names
def test_parameters_in_other_places(oracle, method):
    torch.manual_seed(0)
    params, x = network(), normal(3, 2, 3)

    def in_parts(head, x, encoder):
        return losses({"head": head, "encoder": encoder}, x)

    expected = clipped_grad(losses, 1.0, method=method)(params, x)
    found = clipped_grad(in_parts, 1.0, argnums=(2, 0), method=method)(
        params["head"], x, params["encoder"]
    )
    oracle.assert_equal(found.grads, (expected.grads["encoder"], expected.grads["head"]))
    oracle.assert_equal(found.norms, expected.norms)


# --- Groups --------------------------------------------------------------------------------------

# The label of each parameter: the bias and the weight of the encoder, the scale and the weight of
# the head.
GROUPS = {
    "by_layer": (
        per_example.by_layer,
        ["params['encoder']", "params['encoder']", "params['head']", "params['head']"],
    ),
    "by_leaf": (per_example.by_leaf, tree.path_strings(network(), "params")),
    "a function": (by_first_letter, ["b", "w", "s", "w"]),
    "a prefix": ({"encoder": "a", "head": {"weight": "b", "scale": "a"}}, ["a", "a", "a", "b"]),
    "one label": ("all", ["all"] * 4),
}


@pytest.mark.parametrize("grouping", GROUPS)
@settings(max_examples=4)
@given(method=methods, microbatch=sizes, own_bounds=st.booleans(), rescale=st.booleans())
def test_each_group_is_clipped_by_its_own_norm(
    oracle, grouping, method, microbatch, own_bounds, rescale
):
    torch.manual_seed(0)
    params, x = network(), normal(4, 2, 3)
    groups, labels = GROUPS[grouping]
    names = list(dict.fromkeys(labels))
    gradients = oracle.gradients(losses, params, x)
    norms = {
        name: total_norm(oracle, [g for g, n in zip(gradients, labels, strict=True) if n == name])
        for name in names
    }
    if own_bounds:
        bounds = {name: 0.5 + place for place, name in enumerate(names)}
    else:
        bounds = dict.fromkeys(names, 1 / len(names) ** 0.5)
    found = clipped_grad(
        losses, bounds if own_bounds else 1.0, groups=groups, method=method,
        microbatch=microbatch, rescale=rescale,
    )(params, x)  # fmt: skip
    weights = {
        name: torch.where(norm > bounds[name], bounds[name] / norm, 1)
        / (bounds[name] if rescale else 1)
        for name, norm in norms.items()
    }
    oracle.assert_equal(found.grads, weighted([weights[name] for name in labels], gradients))
    assert set(found.norms) == set(names)
    oracle.assert_equal([found.norms[name] for name in names], list(norms.values()))
    square = len(names) if rescale else sum(bound**2 for bound in bounds.values())
    assert found.sensitivity.item() == pytest.approx(square**0.5, rel=1e-12)


def test_groups_that_do_not_fit_are_refused():
    params, x = network(), normal(2, 2, 3)
    with pytest.raises(ValueError, match="groups is None"):
        clipped_grad(losses, {"a": 1.0})
    with pytest.raises(ValueError, match=r"max_norm has bounds for.*but the groups\s+are"):
        clipped_grad(losses, {"encoder": 1.0}, groups=per_example.by_layer)(params, x)
    for label in ([1], torch.tensor(1)):
        with pytest.raises(TypeError, match=r"groups has the label .*a key of a dict"):
            clipped_grad(losses, 1.0, groups=lambda path, label=label: label)(params, x)
    with pytest.raises(ValueError, match="groups is no prefix of the parameters"):
        clipped_grad(losses, 1.0, groups={"encoder": "a"})(params, x)


# --- Masks ---------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    keep=st.lists(st.booleans(), min_size=1, max_size=5),
    padding=st.sampled_from([0.0, math.nan, math.inf, 1e300]),
    method=methods, microbatch=sizes, nan_safe=st.booleans(), grouped=st.booleans(),
)  # fmt: skip
def test_a_mask_drops_examples_whatever_they_hold(
    oracle, keep, padding, method, microbatch, nan_safe, grouped
):
    torch.manual_seed(0)
    params, x, mask = network(), normal(len(keep), 2, 3), torch.tensor(keep)
    options = {"method": method, "nan_safe": nan_safe}
    options["groups"] = per_example.by_layer if grouped else None
    expected = clipped_grad(losses, 0.7, **options)(params, x[mask])
    x[~mask] = padding
    found = clipped_grad(losses, 0.7, mask=mask, microbatch=microbatch, **options)(params, x)
    oracle.assert_equal(found.grads, expected.grads, "sums")
    oracle.assert_equal(tree.map(lambda n: n[mask], found.norms), expected.norms, "norms")
    oracle.assert_equal(found.values[mask], expected.values, "values")
    left_out = tree.leaves((found.values, found.norms))
    assert all(not leaf[~mask].any() for leaf in left_out)
    assert torch.equal(found.sensitivity, expected.sensitivity)


@pytest.mark.parametrize("mask", [torch.ones(3, dtype=torch.bool), torch.ones(4), [True] * 4])
def test_masks_that_do_not_fit_are_refused(mask):
    with pytest.raises(ValueError, match=r"mask is .*expected bool of shape \(4,\)"):
        clipped_grad(losses, 1.0, mask=mask)(network(), normal(4, 2, 3))


# --- Sensitivity ---------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    bound=st.floats(1e-3, 1e3), scale=st.floats(1e-3, 1e3), method=methods,
    rescale=st.booleans(), grouped=st.booleans(), normalized=st.booleans(),
    left_out=st.integers(0, 3),
)  # fmt: skip
def test_one_example_moves_the_sum_by_at_most_the_sensitivity(
    bound, scale, method, rescale, grouped, normalized, left_out
):
    torch.manual_seed(0)
    params, x = network(), scale * normal(4, 2, 3)
    groups = per_example.by_layer if grouped else None
    if normalized:
        summed = normalized_grad(losses, method=method, groups=groups)
    else:
        summed = clipped_grad(losses, bound, method=method, groups=groups, rescale=rescale)
    whole, less = summed(params, x), summed(params, x[torch.arange(4) != left_out])
    moved = tree.norm(tree.map(torch.sub, whole.grads, less.grads))
    assert moved <= whole.sensitivity * (1 + 1e-9)
    assert torch.equal(less.sensitivity, whole.sensitivity)


@settings(max_examples=8)
@given(stability=st.floats(1e-3, 10), method=methods, microbatch=sizes)
def test_normalized_grad_is_the_equation(oracle, stability, method, microbatch):
    torch.manual_seed(0)
    params, x = network(), normal(4, 2, 3)
    gradients = oracle.gradients(losses, params, x)
    norms = total_norm(oracle, gradients)
    found = normalized_grad(losses, stability, method=method, microbatch=microbatch)(params, x)
    oracle.assert_equal(found.grads, weighted([1 / (norms + stability)] * 4, gradients))
    oracle.assert_equal(found.norms, norms)
    assert found.sensitivity == 1


@pytest.mark.parametrize("stability", [0, -1.0, math.nan])
def test_a_stability_that_is_not_positive_is_refused(stability):
    with pytest.raises(ValueError, match="stability > 0"):
        normalized_grad(losses, stability)
    with pytest.raises(ValueError, match="stability > 0"):
        normalized_grad(losses, torch.tensor(stability, dtype=torch.float32))

    def normalized(stability):
        return normalized_grad(vector_losses, stability)(torch.zeros(2), torch.ones(3, 2))

    traced = pf.jit(normalized, backend="eager")(torch.tensor(stability, dtype=torch.float32))
    assert traced.sensitivity.isnan()


# --- In compiled steps ---------------------------------------------------------------------------


@method_names
def test_bounds_and_masks_are_values_of_one_program(oracle, method):
    torch.manual_seed(0)
    params, x = network(), normal(5, 2, 3)

    @pf.jit(backend="eager")
    def step(params, bound, mask, x):
        return clipped_grad(losses, bound, mask=mask, method=method)(params, x)

    for bound in (0.5, 2.0, 0.0, math.inf):
        for kept in (5, 3, 0):
            mask = torch.arange(5) < kept
            found = step(params, torch.tensor(bound), mask, x)
            expected = clipped_grad(losses, bound, mask=mask, method="materialize")(params, x)
            oracle.assert_equal(found._replace(aux=()), expected._replace(aux=()))
    assert step.trace_count == 1


@method_names
def test_narrow_parameters_have_wide_norms(oracle, method):
    torch.manual_seed(0)
    wide, x = network(), normal(5, 2, 3)
    for dtype, rtol in ((torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        params, narrow = tree.cast(wide, dtype), x.to(dtype)
        found = clipped_grad(losses, 0.5, method=method)(params, narrow)
        assert {leaf.dtype for leaf in tree.leaves(found.grads)} == {torch.float32}
        assert found.norms.dtype == found.sensitivity.dtype == torch.float32
        expected = clipped_grad(losses, 0.5)(tree.cast(params, torch.float64), narrow.double())
        oracle.assert_equal(found.norms.double(), expected.norms, rtol=rtol)
        oracle.assert_equal(tree.cast(found.grads, torch.float64), expected.grads, rtol=rtol)


@method_names
@pytest.mark.parametrize("microbatch", [None, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sum_of_narrow_gradients_moves_by_no_more_than_its_sensitivity(method, microbatch, dtype):
    torch.manual_seed(0)
    params, x = torch.zeros(1000, dtype=dtype), torch.randn(512, 1000).add(1).to(dtype)

    def of(mask):
        clipped = clipped_grad(vector_losses, 1.0, mask=mask, method=method, microbatch=microbatch)
        return clipped(params, x).grads.double()

    moved = (of(torch.ones(512, dtype=torch.bool)) - of(torch.arange(512) != 7)).norm()
    assert moved <= 1 + 1e-5


@method_names
def test_half_precision_norms_beyond_its_range(method):
    params, x = torch.zeros(3, 2, dtype=torch.float16), torch.full((2, 3), 1e4, dtype=torch.float16)
    found = clipped_grad(matrix_losses, 1.0, method=method)(params, x)
    torch.testing.assert_close(found.norms, torch.full((2,), 3e8**0.5), rtol=2e-3, atol=0)
    assert found.grads.float().norm() == pytest.approx(2, rel=2e-3)


@method_names
def test_settings_that_make_no_sense_are_refused(method):
    with pytest.raises(ValueError, match="expected one of 'auto', 'ghost', 'materialize'"):
        clipped_grad(losses, 1.0, method=method.upper())
    for name in ("chunk_size", "microbatch"):
        for count in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match=rf"int >= 1 or None for {name}, got"):
                clipped_grad(losses, 1.0, method=method, **{name: count})
