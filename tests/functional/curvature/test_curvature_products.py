"""gnvp and the Fisher-vector products, against matrices formed with torch.func."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import curvature, random, tree

F64 = torch.float64


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def product(matrix, problem):
    return matrix @ tree.ravel(problem.tangent)[0]


def log_prob(problem):
    """Return `(theta, targets) -> log p`, shape `(N,)`, by torch.distributions."""
    return lambda theta, targets: problem.torch_distribution(problem.flat(theta)).log_prob(targets)


def mean_outer_product(scores):
    return scores.mT @ scores / len(scores)


def dense_fisher(problem):
    """The expectation over labels, as a sum where they can be counted."""
    theta = problem.theta
    if problem.outcomes is None:
        return gaussian_fisher(problem)
    total = torch.zeros(len(theta), len(theta), dtype=F64)
    rows = len(tree.leaves(problem.flat(theta))[0])
    for outcome in problem.outcomes:
        targets = outcome.expand(rows, *outcome.shape)
        p = log_prob(problem)(theta, targets).exp()
        scores = torch.func.jacrev(log_prob(problem))(theta, targets)
        total += scores.mT @ (p[:, None] * scores) / rows
    return total


def gaussian_fisher(problem):
    """The Fisher information of N(mean, variance): the metric of its two parameters."""

    def mean_and_log_variance(theta):
        distribution = problem.torch_distribution(problem.flat(theta))
        return distribution.mean, distribution.variance.log()

    mean_rows, spread_rows = torch.func.jacrev(mean_and_log_variance)(problem.theta)
    variance = problem.torch_distribution(problem.flat(problem.theta)).variance
    mean_rows, spread_rows = mean_rows.flatten(0, 1), spread_rows.flatten(0, 1)
    weighted = mean_rows / variance.reshape(-1, 1)
    return (mean_rows.mT @ weighted + spread_rows.mT @ spread_rows / 2) / len(variance)


# --- generalised Gauss-Newton --------------------------------------------------------------------


def bumpy(outputs):
    """A loss that is not convex, of outputs in one piece or two."""
    return sum(
        (torch.sin(leaf) * torch.arange(leaf.numel()).view_as(leaf)).sum()
        for leaf in tree.leaves(outputs)
    )


def test_gnvp_is_the_jacobian_around_the_hessian_of_the_loss(problem, variant):
    outputs, unravel = tree.ravel(problem.model(problem.params))
    jacobian = torch.func.jacrev(lambda theta: tree.ravel(problem.flat(theta))[0])(problem.theta)
    hessian = torch.func.hessian(lambda f: bumpy(unravel(f)))(outputs)

    def gnvp(params, v):
        return curvature.gnvp(problem.model, bumpy, (params,), (v,))

    found = variant(gnvp)(problem.params, problem.tangent)
    assert tree.structure(found) == tree.structure(problem.params)
    close(tree.ravel(found)[0], product(jacobian.mT @ hessian @ jacobian, problem))


def test_gnvp_of_a_linear_model_is_the_hessian():
    x, y = torch.randn(5, 3, dtype=F64), torch.randn(5, dtype=F64)
    w, v = torch.randn(3, dtype=F64), torch.randn(3, dtype=F64)

    def loss(f):
        return torch.cosh(f - y).sum()

    close(
        curvature.gnvp(lambda w: x @ w, loss, (w,), (v,)),
        curvature.hvp(lambda w: loss(x @ w), (w,), (v,)),
    )


def test_gnvp_along_several_arguments_is_a_row_of_blocks():
    x, y = torch.randn(3, dtype=F64), torch.randn(3, dtype=F64)
    primals, tangents = (x, {"y": y}), (torch.randn(3, dtype=F64), {"y": torch.randn(3, dtype=F64)})
    found = curvature.gnvp(lambda x, p: x * p["y"], lambda f: (f**2).sum(), primals, tangents)
    close(found, y * 2 * (y * tangents[0] + x * tangents[1]["y"]))


def test_hvp_is_that_of_autodiff():
    assert curvature.hvp is pf.hvp


# --- Fisher --------------------------------------------------------------------------------------


def test_fvp_is_the_expectation_over_all_labels(problem, variant):
    def fvp(params, v):
        return curvature.fvp(problem.model, problem.distribution, (params,), (v,))

    found = variant(fvp)(problem.params, problem.tangent)
    assert tree.structure(found) == tree.structure(problem.params)
    close(tree.ravel(found)[0], product(dense_fisher(problem), problem))


def test_fvp_is_the_gauss_newton_product_of_an_exponential_family(problem, key):
    if problem.distribution is curvature.gaussian_with_variance:
        pytest.skip("the outputs are not its natural parameters")
    targets = problem.distribution.sample(key, problem.model(problem.params)).to(F64)

    def loss(outputs):
        return -problem.torch_distribution(outputs).log_prob(targets).mean()

    found = curvature.fvp(
        problem.model, problem.distribution, (problem.params,), (problem.tangent,)
    )
    expected = curvature.gnvp(problem.model, loss, (problem.params,), (problem.tangent,))
    close(tree.ravel(found)[0], tree.ravel(expected)[0])


def test_log_prob_is_that_of_torch(problem, key):
    outputs = problem.model(problem.params)
    targets = problem.distribution.sample(key, outputs)
    expected = problem.torch_distribution(outputs).log_prob(targets.to(F64))
    close(problem.distribution.log_prob(outputs, targets), expected)


@pytest.mark.variants("eager", "vmap")
def test_sampled_fvp_is_the_mean_outer_product_of_its_draws(problem, key, variant):
    samples, outputs = 3, problem.model(problem.params)
    draws = [problem.distribution.sample(k, outputs) for k in random.split(key, samples)]
    scores = [torch.func.jacrev(log_prob(problem))(problem.theta, y.to(F64)) for y in draws]

    def sampled(params, v, key):
        return curvature.sampled_fvp(
            problem.model, problem.distribution, (params,), (v,), key=key, samples=samples
        )

    found = variant(sampled)(problem.params, problem.tangent, key)
    close(tree.ravel(found)[0], product(mean_outer_product(torch.cat(scores)), problem))


def test_sampled_fvp_is_unbiased(problem, key):
    groups, samples, primals, tangents = 40, 100, (problem.params,), (problem.tangent,)

    def estimate(key):
        found = curvature.sampled_fvp(
            problem.model, problem.distribution, primals, tangents, key=key, samples=samples
        )
        return tree.ravel(found)[0]

    estimates = pf.vmap(estimate)(random.split(key, groups))
    error = estimates.std(0) / groups**0.5
    z = (estimates.mean(0) - product(dense_fisher(problem), problem)) / error
    assert z.abs().max() < 4.5
    assert (error < 0.2 * product(dense_fisher(problem), problem).norm()).all()


def test_empirical_fvp_is_the_mean_outer_product_of_gradients(problem, key, variant):
    targets = problem.distribution.sample(key, problem.model(problem.params)).to(F64)
    scores = torch.func.jacrev(log_prob(problem))(problem.theta, targets)

    def empirical(params, v):
        def losses(params):
            return -problem.torch_distribution(problem.model(params)).log_prob(targets)

        return curvature.empirical_fvp(losses, (params,), (v,))

    found = variant(empirical)(problem.params, problem.tangent)
    close(tree.ravel(found)[0], product(mean_outer_product(scores), problem))


def test_logistic_regression_has_its_textbook_hessian(make_matrix):
    x, w, v = (torch.randn(shape, dtype=F64) for shape in ((7, 3), (3,), (3,)))
    p = torch.sigmoid(x @ w)
    expected = x.mT @ (p * (1 - p) * (x @ v)) / 7
    close(curvature.fvp(lambda w: x @ w, curvature.bernoulli, (w,), (v,)), expected)


def test_a_distribution_of_ones_own():
    """Poisson counts of log-rates; no closed form given, then one."""
    rates = torch.tensor([0.5, 2.0, 4.0], dtype=F64)
    poisson = curvature.OutputDistribution(
        log_prob=lambda f, y: y * f - f.exp() - torch.lgamma(y + 1),
        sample=lambda key, f: (random.uniform(key, f.shape, F64) < 0.5).to(F64),
    )
    args = (lambda w: w + rates.log(), poisson, (torch.zeros(3, dtype=F64),), (rates,))
    with pytest.raises(ValueError, match=r"fvp: the distribution has no closed form.*sampled_fvp"):
        curvature.fvp(*args)
    found = curvature.sampled_fvp(*args, key=random.key(0))
    drawn = poisson.sample(random.split(random.key(0), 1)[0], rates.log())
    close(found, (drawn - rates) ** 2 * rates / 3)
    closed = poisson._replace(fisher=lambda f, u: f.exp() * u / len(f))
    close(curvature.fvp(args[0], closed, *args[2:]), rates**2 / 3)


def test_inputs_are_not_written(problem):
    before = tree.map(torch.clone, (problem.params, problem.tangent))
    tangent = problem.tangent
    curvature.fvp(problem.model, problem.distribution, (problem.params,), (tangent,))
    assert tree.all(tree.map(torch.equal, before, (problem.params, tangent)))


# --- refusals ------------------------------------------------------------------------------------


class TestRefusals:
    w = torch.ones(2)

    def test_losses_that_are_no_vector(self):
        def mean_loss(w):
            return w.mean()

        with pytest.raises(ValueError, match=r"empirical_fvp: mean_loss returned float32 of shape"):
            curvature.empirical_fvp(mean_loss, (self.w,), (self.w,))

    def test_a_tangent_unlike_the_primal(self):
        with pytest.raises(ValueError, match=r"tangents\[0\] is float32 of shape \(3,\)"):
            curvature.gnvp(torch.sin, torch.sum, (self.w,), (torch.ones(3),))

    def test_a_loss_that_is_no_scalar(self):
        with pytest.raises(TypeError, match=r"expected one 0-d floating-point tensor"):
            curvature.gnvp(torch.sin, lambda f: f, (self.w,), (self.w,))

    def test_a_model_that_is_no_function(self):
        with pytest.raises(TypeError, match="gnvp: expected a function for the model"):
            curvature.gnvp(self.w, torch.sum, (self.w,), (self.w,))

    @pytest.mark.parametrize(("samples", "error"), [(0, ValueError), (1.5, TypeError)])
    def test_a_number_of_samples_that_is_none(self, samples, error):
        with pytest.raises(error, match=r"sampled_fvp: expected .*samples"):
            curvature.sampled_fvp(
                torch.sin,
                curvature.gaussian(),
                (self.w,),
                (self.w,),
                key=random.key(0),
                samples=samples,
            )
