import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import purefn.functional as pf
from purefn.functional import initializers as init
from purefn.functional import random

KEY = random.key(7)
SHAPES = [(60, 50), (40, 10, 5), (30, 10, 3, 3), (12, 10, 3, 3, 2)]


# name, ours, the exact standard deviation for (fan_in, fan_out), the shape of the distribution
FAMILY = [
    ("lecun_uniform", init.lecun_uniform(), lambda i, o: math.sqrt(1 / i), "uniform"),
    ("lecun_normal", init.lecun_normal(), lambda i, o: math.sqrt(1 / i), "truncated"),
    ("glorot_uniform", init.glorot_uniform(), lambda i, o: math.sqrt(2 / (i + o)), "uniform"),
    ("glorot_normal", init.glorot_normal(), lambda i, o: math.sqrt(2 / (i + o)), "truncated"),
    ("he_uniform", init.he_uniform(), lambda i, o: math.sqrt(2 / i), "uniform"),
    ("he_normal", init.he_normal(), lambda i, o: math.sqrt(2 / i), "truncated"),
    ("xavier_uniform", init.xavier_uniform(3), lambda i, o: 3 * math.sqrt(2 / (i + o)), "uniform"),
    ("xavier_normal", init.xavier_normal(3), lambda i, o: 3 * math.sqrt(2 / (i + o)), "normal"),
    ("kaiming_uniform", init.kaiming_uniform(), lambda i, o: math.sqrt(2 / i), "uniform"),
    (
        "kaiming_normal",
        init.kaiming_normal(2, mode="fan_out"),
        lambda i, o: math.sqrt(0.4 / o),
        "normal",
    ),
    (
        "variance_scaling",
        init.variance_scaling(4, "fan_geo_avg"),
        lambda i, o: 2 / (i * o) ** 0.25,
        "truncated",
    ),
    ("uniform", init.uniform(-1, 1), lambda i, o: 1 / math.sqrt(3), "uniform"),
    ("normal", init.normal(0.3), lambda i, o: 0.3, "normal"),
    (
        "truncated_normal",
        init.truncated_normal(0.3),
        lambda i, o: 0.3 * 0.87962566103423978,
        "truncated",
    ),
]
FAMILY_IDS = [entry[0] for entry in FAMILY]

DISTRIBUTIONS = {
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    "normal": stats.norm(),
    "truncated": stats.truncnorm(-2, 2, scale=1 / 0.87962566103423978),
}

OTHERS = {
    "zeros": init.zeros,
    "ones": init.ones,
    "eye": init.eye,
    "constant": init.constant(2.5),
    "orthogonal": init.orthogonal(),
    "delta_orthogonal": init.delta_orthogonal(),
    "dirac": init.dirac(),
    "sparse": init.sparse(0.3),
}


def test_every_public_initializer_is_tested():
    public = {
        name
        for name, value in vars(init).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert public - {"fans", "calculate_gain"} == set(FAMILY_IDS) | set(OTHERS)


def test_every_initializer_of_torch_is_here():
    """But those that are deprecated, and under JAX's name where JAX has one."""
    theirs = {name[:-1] for name in dir(torch.nn.init) if name[-1] == "_" and name[0] != "_"}
    assert theirs - {"trunc_normal"} <= set(init.__all__)
    assert "truncated_normal" in init.__all__


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "draw", "deviation", "distribution"), FAMILY, ids=FAMILY_IDS)
def test_distribution(name, draw, deviation, distribution, shape):
    fan_in, fan_out = shape[1] * math.prod(shape[2:]), shape[0] * math.prod(shape[2:])
    expected = deviation(fan_in, fan_out)
    values = draw(KEY, shape, torch.float64).flatten() / expected
    assert stats.kstest(values.numpy(), DISTRIBUTIONS[distribution].cdf).pvalue > 1e-3
    low, high = DISTRIBUTIONS[distribution].support()
    assert low <= values.min()
    assert values.max() <= high
    assert values.std().item() == pytest.approx(1.0, rel=4 / math.sqrt(values.numel()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (init.xavier_uniform(2.0), ("xavier_uniform_", {"gain": 2.0})),
        (init.xavier_normal(2.0), ("xavier_normal_", {"gain": 2.0})),
        (init.kaiming_uniform(math.sqrt(5)), ("kaiming_uniform_", {"a": math.sqrt(5)})),
        (
            init.kaiming_normal(mode="fan_out", nonlinearity="relu"),
            ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
        ),
        (
            init.kaiming_uniform(nonlinearity="tanh"),
            ("kaiming_uniform_", {"nonlinearity": "tanh"}),
        ),
    ],
)
def test_distribution_is_torchs(ours, theirs, shape):
    name, options = theirs
    generator = torch.Generator().manual_seed(0)
    fill = getattr(torch.nn.init, name)
    expected = fill(
        torch.empty(shape, dtype=torch.float64), **options, generator=generator
    ).flatten()
    values = ours(KEY, shape, torch.float64).flatten()
    assert stats.ks_2samp(values.numpy(), expected.numpy()).pvalue > 1e-3
    assert values.std().item() == pytest.approx(expected.std().item(), rel=0.08)


# Recorded from jax 0.10.2: `jax.nn.initializers.NAME()(jax.random.key(7), (3, 3))`. The fans of a
# square matrix are the same in JAX's layout, (in, out), as in torch's.
JAX_VALUES = {
    "lecun_uniform": (
        "0.348179817 0.94923377 -0.394312859 -0.112082958 0.461773157 "
        "0.261859179 -0.102899313 -0.177037716 -0.860471964"
    ),
    "lecun_normal": (
        "0.281813234 1.09932637 -0.322084814 -0.0882722884 0.383296758 "
        "0.209093794 -0.0810010955 -0.14006485 -0.882692099"
    ),
    "glorot_uniform": (
        "0.348179817 0.94923377 -0.394312859 -0.112082958 0.461773157 "
        "0.261859179 -0.102899313 -0.177037716 -0.860471964"
    ),
    "glorot_normal": (
        "0.281813234 1.09932637 -0.322084814 -0.0882722884 0.383296758 "
        "0.209093794 -0.0810010955 -0.14006485 -0.882692099"
    ),
    "he_uniform": (
        "0.492400616 1.34241927 -0.557642579 -0.15850924 0.653045833 "
        "0.37032479 -0.145521596 -0.250369132 -1.21689105"
    ),
    "he_normal": (
        "0.398544133 1.55468237 -0.455496758 -0.124835871 0.542063534 "
        "0.295703322 -0.114552855 -0.198081627 -1.24831522"
    ),
    "orthogonal": (
        "0.920692086 0.340780675 -0.190248609 -0.287572056 0.921892285 "
        "0.259648114 -0.263871759 0.184345782 -0.94677788"
    ),
}


@pytest.mark.parametrize("name", list(JAX_VALUES))
def test_values_are_those_of_jax(name):
    values = getattr(init, name)()(KEY, (3, 3)).flatten()
    expected = torch.tensor([float(number) for number in JAX_VALUES[name].split()])
    torch.testing.assert_close(values, expected, rtol=3e-6, atol=1e-7)


def test_the_aliases_agree():
    shape = (9, 5, 3)
    assert torch.equal(init.glorot_uniform()(KEY, shape), init.xavier_uniform()(KEY, shape))
    torch.testing.assert_close(
        init.he_uniform()(KEY, shape), init.kaiming_uniform()(KEY, shape), rtol=1e-6, atol=0
    )


@given(
    nonlinearity=st.sampled_from(
        [
            "linear",
            "conv1d",
            "conv2d",
            "conv3d",
            "conv_transpose2d",
            "sigmoid",
            "tanh",
            "relu",
            "leaky_relu",
            "selu",
        ]
    ),
    param=st.one_of(st.none(), st.floats(-3, 3)),
)
def test_gains_are_those_of_torch(nonlinearity, param):
    expected = torch.nn.init.calculate_gain(nonlinearity, param)
    assert init.calculate_gain(nonlinearity, param) == pytest.approx(expected, rel=1e-15)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=5))
def test_fans_are_those_of_torch(shape):
    expected = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape, device="meta"))
    assert init.fans(shape) == expected


def test_uniform_and_normal_move_and_scale():
    values = init.uniform(2.0, 3.0)(KEY, (10_000,), torch.float64)
    assert stats.kstest(values.numpy(), stats.uniform(2, 1).cdf).pvalue > 1e-3
    values = init.normal(0.5, mean=2.0)(KEY, (10_000,), torch.float64)
    assert stats.kstest(values.numpy(), stats.norm(2, 0.5).cdf).pvalue > 1e-3
    cut = init.truncated_normal(0.5, mean=2.0, lower=-1.0, upper=3.0)(KEY, (10_000,), torch.float64)
    assert stats.kstest(cut.numpy(), stats.truncnorm(-1, 3, 2, 0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 4), (6, 2, 3), (2, 3, 2, 2), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal(shape, dtype):
    weight = init.orthogonal(2.0)(KEY, shape, dtype)
    assert (weight.shape, weight.dtype) == (shape, dtype)
    matrix = weight.flatten(1) / 2
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=dtype))


def test_orthogonal_is_uniform_over_the_group():
    keys = random.split(KEY, 2000)
    weights = pf.vmap(lambda key: init.orthogonal()(key, (2, 2), torch.float64))(keys)
    angles = torch.atan2(weights[:, 1, 0], weights[:, 0, 0]).numpy()
    assert stats.kstest(angles, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    reflections = int((torch.linalg.det(weights) < 0).sum())
    assert stats.binomtest(reflections, 2000, 0.5).pvalue > 1e-3


@pytest.mark.parametrize("kernel", [(3,), (2, 5), (3, 1, 3)])
def test_delta_orthogonal_keeps_norms(kernel):
    weight = init.delta_orthogonal()(KEY, (6, 4, *kernel), torch.float64)
    assert (weight.abs().amax((0, 1)) > 0).sum() == 1
    matrix = weight[(slice(None), slice(None), *((length - 1) // 2 for length in kernel))]
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(4, dtype=torch.float64))


@given(
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_dirac_is_torchs(groups, channels, kernel):
    shape = (groups * channels[0], channels[1], *kernel)
    expected = torch.nn.init.dirac_(torch.empty(shape), groups)
    assert torch.equal(init.dirac(groups)(KEY, shape), expected)


@given(st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_eye_is_torchs(shape):
    assert torch.equal(init.eye(KEY, shape), torch.nn.init.eye_(torch.empty(shape)))


@given(st.integers(1, 20), st.integers(1, 5), st.floats(0, 1))
def test_sparse_has_torchs_number_of_zeros_in_each_column(rows, columns, sparsity):
    values = init.sparse(sparsity, stddev=0.5)(KEY, (rows, columns))
    expected = torch.nn.init.sparse_(torch.empty(rows, columns), sparsity)
    assert torch.equal((values == 0).sum(0), (expected == 0).sum(0))


def test_sparse_draws_normal_values():
    values = init.sparse(0.25, stddev=0.5)(KEY, (400, 50), torch.float64)
    assert stats.kstest(values[values != 0].numpy(), stats.norm(scale=0.5).cdf).pvalue > 1e-3
    assert len({tuple(column.tolist()) for column in (values == 0).T}) == 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "draw",
    [*(entry[1] for entry in FAMILY), *OTHERS.values()],
    ids=[*FAMILY_IDS, *OTHERS],
)
def test_shape_dtype_and_key_decide(draw, dtype):
    shape = (6, 4, 3) if draw in (OTHERS["dirac"], OTHERS["delta_orthogonal"]) else (6, 4)
    values = draw(KEY, shape, dtype)
    assert (values.shape, values.dtype) == (shape, dtype)
    assert values.isfinite().all()
    assert torch.equal(values, draw(random.key(7), list(shape), dtype))
    if draw not in (*list(OTHERS.values())[:4], OTHERS["dirac"]):
        assert not torch.equal(values, draw(random.key(8), shape, dtype))


@pytest.mark.parametrize("name", ["constant", "eye", "orthogonal", "dirac"])
def test_compiled_equals_eager(name):
    shape = (6, 4, 3) if name == "dirac" else (6, 4)
    compiled = pf.jit(lambda key: OTHERS[name](key, shape), backend="aot_eager")
    torch.testing.assert_close(compiled(KEY), OTHERS[name](KEY, shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: init.lecun_normal()(KEY, (3,)), r"at least two dimensions, got \(3,\)"),
        (lambda: init.orthogonal()(KEY, (3,)), r"at least two dimensions, got \(3,\)"),
        (lambda: init.variance_scaling(1, "fan"), "expected mode 'fan_in'.*got 'fan'"),
        (
            lambda: init.variance_scaling(1, "fan_in", "cauchy"),
            "expected distribution .*got 'cauchy'",
        ),
        (lambda: init.kaiming_uniform(nonlinearity="gelu"), r"expected one of \[.*got 'gelu'"),
        (
            lambda: init.eye(KEY, (3, 3, 3)),
            r"eye: expected a shape of two dimensions, got \(3, 3, 3\)",
        ),
        (lambda: init.sparse(0.5)(KEY, (3,)), "sparse: expected a shape of two dimensions"),
        (lambda: init.dirac()(KEY, (3, 3)), r"dirac: expected a shape \(out, in, \*kernel\)"),
        (lambda: init.dirac(2)(KEY, (3, 3, 3)), "divisible by groups = 2, got 3"),
        (lambda: init.delta_orthogonal()(KEY, (3, 4, 3)), "at least as many output channels"),
        (lambda: init.sparse(1.5), r"sparse: expected a sparsity within \[0, 1\], got 1.5"),
        (lambda: init.sparse(-0.1), r"sparse: expected a sparsity within \[0, 1\], got -0.1"),
        (lambda: init.variance_scaling(0.0), "variance_scaling: expected a finite scale > 0"),
        (lambda: init.variance_scaling(-1.0), r"finite scale > 0, got -1.0"),
        (lambda: init.dirac(0), "dirac: expected groups >= 1, got 0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: init.uniform(1.0, 0.0),
            r"uniform: expected finite minval <= maxval, got minval=1",
        ),
        (lambda: init.uniform(0.0, math.inf), "uniform: expected finite minval <= maxval"),
        (lambda: init.uniform(-math.inf, 0.0), "uniform: expected finite minval <= maxval"),
        (lambda: init.uniform(math.nan, 1.0), "uniform: expected finite minval <= maxval"),
        (lambda: init.normal(-1.0), "normal: expected a finite stddev >= 0, got -1.0"),
        (lambda: init.normal(math.inf), "normal: expected a finite stddev >= 0, got inf"),
        (lambda: init.sparse(0.5, stddev=-1.0), "sparse: expected a finite stddev >= 0, got -1.0"),
        (
            lambda: init.truncated_normal(math.nan),
            "truncated_normal: expected a finite stddev >= 0",
        ),
        (
            lambda: init.truncated_normal(lower=2.0, upper=-2.0),
            "truncated_normal: expected lower <",
        ),
        (lambda: init.truncated_normal(lower=1.0, upper=1.0), "truncated_normal: expected lower <"),
        (lambda: init.truncated_normal(lower=5.0, upper=6.0), "not both beyond 5 on one side"),
        (lambda: init.truncated_normal(lower=-6.0, upper=-5.0), "not both beyond 5 on one side"),
        (lambda: init.xavier_uniform(0.0), "xavier_uniform: expected a finite gain > 0, got 0.0"),
        (lambda: init.xavier_normal(-1.0), "xavier_normal: expected a finite gain > 0, got -1.0"),
        (
            lambda: init.xavier_normal(math.inf),
            "xavier_normal: expected a finite gain > 0, got inf",
        ),
        (lambda: init.he_normal()(KEY, (3, -1)), r"expected a shape without negative lengths"),
        (lambda: init.constant(1.0)(KEY, (3, -1)), r"constant: expected a shape without negative"),
    ],
)
def test_numbers_that_make_no_distribution(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: init.kaiming_uniform("relu"), "calculate_gain: expected param, .*, got str"),
        (lambda: init.kaiming_normal(True), "calculate_gain: expected param, .*, got bool"),
        (
            lambda: init.xavier_uniform("tanh"),
            "xavier_uniform: expected gain to be a Python number",
        ),
        (lambda: init.xavier_normal(KEY), "xavier_normal: expected gain to be .*, got Tensor"),
        (lambda: init.variance_scaling("1"), "variance_scaling: expected scale to be a Python num"),
        (lambda: init.uniform(KEY, (3,)), "uniform: expected minval to be .*, got Tensor"),
        (lambda: init.uniform(0.0, (3,)), "uniform: expected maxval to be .*, got tuple"),
        (lambda: init.normal("x"), "normal: expected stddev to be a Python number, got str"),
        (lambda: init.normal(mean=None), "normal: expected mean to be .*, got NoneType"),
        (lambda: init.truncated_normal(lower=None), "truncated_normal: expected lower to be"),
        (lambda: init.truncated_normal(stddev=KEY), "truncated_normal: expected stddev to be"),
        (lambda: init.constant("x"), "constant: expected value to be a Python number, got str"),
        (lambda: init.orthogonal("x"), "orthogonal: expected gain to be a Python number, got str"),
        (lambda: init.sparse("x"), "sparse: expected sparsity to be a Python number, got str"),
        (lambda: init.dirac(2.0), "dirac: expected groups to be a Python integer, got 2.0"),
        (lambda: init.dirac(True), "dirac: expected groups to be a Python integer, got True"),
        (
            lambda: init.orthogonal()(KEY, (3, 3), torch.int64),
            "orthogonal: expected a floating-poin",
        ),
        *(
            (
                lambda draw=draw: draw(KEY, 3),
                f"{name}: expected shape to be a tuple of integers, got 3",
            )
            for name, draw in {
                "constant": init.constant(1.0),
                "delta_orthogonal": init.delta_orthogonal(),
                "dirac": init.dirac(),
                "eye": init.eye,
                "fans": init.he_normal(),
                "normal": init.normal(),
                "sparse": init.sparse(0.5),
                "truncated_normal": init.truncated_normal(),
                "uniform": init.uniform(),
            }.items()
        ),
    ],
)
def test_what_is_no_number_dtype_or_shape_is_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*FAMILY_IDS, "sparse"])
def test_halves_are_drawn_in_float32_and_rounded(name, dtype):
    """As torch draws them: in steps of its own, bfloat16 would have a mean of -0.01."""
    draw = dict(zip(FAMILY_IDS, (entry[1] for entry in FAMILY), strict=True)).get(name)
    draw = draw or init.sparse(0.3)
    values = draw(KEY, (60, 50), dtype)
    assert torch.equal(values, draw(KEY, (60, 50)).to(dtype))


@pytest.mark.parametrize("bounds", [(-100.0, 100.0), (-math.inf, math.inf), (-math.inf, 1.0)])
def test_bounds_that_cut_nothing_off_leave_no_outliers(bounds):
    """Where `erf` of a bound rounds to -1, a uniform number of 0 becomes that bound itself."""
    lower, upper = bounds
    draw = init.truncated_normal(lower=lower, upper=upper)
    values = draw(KEY, (20_000,), torch.float64).numpy()
    assert stats.kstest(values, stats.truncnorm(lower, upper).cdf).pvalue > 1e-3
    assert (random.uniform(random.key(46), (9927,))[-1] == 0).all()
    assert draw(random.key(46), (9927,)).min() > -6


@pytest.mark.parametrize("name", ["zeros", "ones", "eye", "constant", "dirac", "normal", "sparse"])
def test_a_wrong_key_is_named(name):
    draw = {
        "constant": init.constant(1.0),
        "dirac": init.dirac(),
        "normal": init.normal(),
        "sparse": init.sparse(0.5),
    }.get(name) or getattr(init, name)
    shape = (3, 3, 3) if name == "dirac" else (3, 3)
    with pytest.raises(TypeError, match=r": expected a key, .* random.key\(seed\)"):
        draw(0, shape)
