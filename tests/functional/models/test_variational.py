"""The variational autoencoder, against torch.distributions and integrals over the code."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

import purefn.functional as pf
from purefn.functional import losses, models, nn, per_example, random, tree


def small():
    return models.variational_autoencoder(models.mlp([8, 6]), models.mlp([8, 5]))


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=6, max_size=6),
    st.sampled_from([(6,), (6, 1), (2, 3), (1, 2, 3)]),
)
def test_divergence_is_that_of_torch(pairs, shape):
    mean, log_variance = (x.reshape(shape) for x in torch.tensor(pairs).double().unbind(1))
    distribution = Normal(mean, (log_variance / 2).exp())
    standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    dims = len(shape) - 1
    expected = kl_divergence(Independent(distribution, dims), Independent(standard, dims))
    found = models.gaussian_kl(mean, log_variance)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_divergence_of_almost_the_prior_keeps_its_digits():
    tiny = torch.tensor([[1e-4]])
    found = models.gaussian_kl(torch.zeros(1, 1), tiny)
    expected = models.gaussian_kl(torch.zeros(1, 1).double(), tiny.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=0)


def test_the_mean_is_decoded_outside_training():
    model, x = small(), torch.randn(4, 5).double()
    params = model.init(random.key(0), x)
    mean, log_variance = models.mlp([8, 6])(params["encoder"], x).chunk(2, -1)
    output = model(params, x)
    assert isinstance(output, models.VariationalOutput)
    assert output.mean.equal(mean)
    assert output.log_variance.equal(log_variance)
    assert output.reconstruction.equal(models.mlp([8, 5])(params["decoder"], mean))
    assert tree.all(tree.map(torch.equal, model(params, x, key=random.key(1)), output))


def test_codes_in_training_are_draws_of_the_gaussian():
    model = models.variational_autoencoder(nn.identity, nn.identity)
    mean, log_variance = torch.tensor([2.0, -1.0]), torch.tensor([0.0, -4.0])
    x = torch.cat([mean, log_variance]).expand(50_000, 4)
    codes = model({}, x, key=random.key(0), train=True).reconstruction
    error = (log_variance / 2).exp() / math.sqrt(len(x))
    assert ((codes.mean(0) - mean).abs() < 4 * error).all()
    assert ((codes.var(0).log() - log_variance).abs() < 4 * math.sqrt(2 / len(x))).all()
    assert codes.T.corrcoef()[0, 1].abs() < 4 / math.sqrt(len(x))
    again = model({}, x, key=random.key(0), train=True).reconstruction
    assert again.equal(codes)
    assert not model({}, x, key=random.key(1), train=True).reconstruction.equal(codes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_noise_has_the_dtype_of_the_mean(dtype):
    model = models.variational_autoencoder(nn.identity, nn.identity)
    x = torch.zeros(3, 8, dtype=dtype)
    code = model({}, x, key=random.key(0), train=True).reconstruction
    assert code.dtype == dtype
    # The noise of a variance of one is what is added, to its last digit.
    assert code.double().float().double().equal(code.double()) == (dtype == torch.bfloat16)


def test_gradients_go_through_the_draw():
    # d/dm E[z^2] = 2 m and d/ds E[z^2] = e^s for a draw of N(m, e^s).
    model = models.variational_autoencoder(nn.identity, nn.identity)

    def second_moment(m, s):
        x = torch.stack([m, s]).expand(100_000, 2)
        return model({}, x, key=random.key(0), train=True).reconstruction.square().mean()

    m, s = torch.tensor(0.5).double(), torch.tensor(-0.3).double()
    grads = pf.grad(second_moment, argnums=(0, 1))(m, s)
    torch.testing.assert_close(grads, (2 * m, s.exp()), rtol=2e-2, atol=0)


def test_the_bound_is_tight_for_the_true_posterior_and_below_otherwise():
    # p(x | z) = N(z, 1) and p(z) = N(0, 1): p(x) = N(0, 2), and the posterior is N(x / 2, 1 / 2).
    x = torch.tensor([[0.7], [-1.9]]).double()
    evidence = (-(x**2) / 4 - math.log(4 * math.pi) / 2).squeeze(1)

    def mean_bound(mean, log_variance):
        # E log p(x | z) in closed form.
        second = (x - mean) ** 2 + log_variance.exp()
        likelihood = (-second / 2 - math.log(2 * math.pi) / 2).squeeze(1)
        return models.elbo(likelihood, mean, log_variance)

    half = torch.full_like(x, 0.5).log()
    torch.testing.assert_close(mean_bound(x / 2, half), evidence, rtol=1e-12, atol=1e-13)
    worse, q, p = x / 2 + 0.3, half - 0.4, half
    gap = kl_divergence(Normal(worse, (q / 2).exp()), Normal(x / 2, (p / 2).exp())).squeeze(1)
    torch.testing.assert_close(mean_bound(worse, q), evidence - gap, rtol=1e-12, atol=1e-13)


def test_compiled_and_over_many_parameters_and_gradients_of_every_example():
    model, x = small(), torch.randn(3, 5)
    params = model.init(random.key(0), x)

    def losses_fn(params, x):
        output = model(params, x)
        likelihoods = -5 * losses.bce_with_logits(output.reconstruction, x.sigmoid())
        return -models.elbo(likelihoods, output.mean, output.log_variance)

    def train(params, x, key):
        return model(params, x, key=key, train=True)

    found = pf.jit(train, backend="aot_eager")(params, x, random.key(1))
    assert isinstance(found, models.VariationalOutput)
    torch.testing.assert_close(found, train(params, x, random.key(1)))
    several = tree.map(lambda value: torch.stack([value, -value]), params)
    found = pf.vmap(train, in_axes=(0, None, None))(several, x, random.key(1))
    for index in range(2):
        one = tree.map(lambda value, index=index: value[index], several)
        expected = train(one, x, random.key(1))
        torch.testing.assert_close(tree.map(lambda v, i=index: v[i], found), expected)
    each = per_example.grads(losses_fn)(params, x)
    for index in range(3):
        one = pf.grad(lambda p, i=index: losses_fn(p, x[i : i + 1]).sum())(params)
        torch.testing.assert_close(tree.map(lambda v, i=index: v[i], each), one)


def test_refusals():
    x = torch.zeros(2, 5)
    with pytest.raises(nn.LayerError, match=r"as many means as .*an odd number of outputs, 3"):
        models.variational_autoencoder(nn.linear(3), nn.linear(5)).init(random.key(0), x)
    with pytest.raises(nn.LayerError, match=r"shape \(N, 2 K\), got \(2, 1, 4\)"):
        models.variational_autoencoder(nn.identity, nn.identity)({}, torch.zeros(2, 1, 4))
    params = small().init(random.key(0), x)
    with pytest.raises(nn.LayerError, match="needs a key in training"):
        small()(params, x, train=True)
    with pytest.raises(nn.LayerError, match="True or False for train, got int 1"):
        models.variational_autoencoder(nn.identity, nn.identity)({}, torch.zeros(2, 4), train=1)
    with pytest.raises(TypeError, match="part 'encoder'"):
        models.variational_autoencoder("encoder", nn.linear(5))
    with pytest.raises(ValueError, match="log_variance must have the shape of mean"):
        models.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(TypeError, match="log_variance must have the dtype of mean"):
        models.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3).double())
    with pytest.raises(
        ValueError, match=r"of shape \(2,\), one for each row of mean, got .* \(2, 5"
    ):
        models.elbo(x, torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"must be torch\.float32 of .*got torch\.float64"):
        models.elbo(torch.zeros(2).double(), torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(TypeError, match="log_likelihoods must be a tensor, got float"):
        models.elbo(0.0, torch.zeros(2, 3), torch.zeros(2, 3))
