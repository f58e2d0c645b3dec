"""Densities and their bounds, against closed forms, scikit-learn and dense matrices."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from sos.analysis import density, mixture, pca
from sos.config import Data, Network
from sos.distributions import LowRankNormal
from sos.models.vae import VAE

seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=15, deadline=None)


def stream(seed):
    return torch.Generator().manual_seed(seed)


def normal(seed, *shape):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------ dequantisation


@quick
@given(seeds, st.sampled_from([1, 3]))
def test_dequantised_images_stay_in_their_bins(seed, channels):
    images = torch.randint(0, 256, (3, channels, 5, 4), generator=stream(seed), dtype=torch.uint8)
    x = density.dequantise(images, stream(seed))
    assert x.dtype == torch.float32 and x.shape == images.shape
    assert ((255 * x - images).abs() <= 0.5 + 1e-4).all()
    assert torch.equal(x, density.dequantise(images, stream(seed)))


def test_dequantised_images_have_the_mean_and_the_variance_that_are_told():
    images = torch.full((1, 1, 300, 300), 7, dtype=torch.uint8)
    x = density.dequantise(images, stream(0)).double()
    assert x.mean().item() == pytest.approx(7 / 255, abs=5 * (1 / 255) / 12**0.5 / 300)
    assert x.var().item() == pytest.approx(density.QUANTISATION_VARIANCE, rel=0.02)


def test_dequantise_names_what_is_wrong():
    with pytest.raises(TypeError, match="images: expected dtype uint8"):
        density.dequantise(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="values: an image has at least one value, got 0"):
        density.bits_per_dimension(0.0, 0)


def test_a_uniform_density_costs_eight_bits():
    nats = 12 * math.log(255 / 256)  # on an interval that is 256/255 long
    assert density.bits_per_dimension(nats, 12) == pytest.approx(8)


def test_the_bound_of_the_probability_of_bytes_holds():
    """log P(k), the integral over the bin, of a normal whose standard deviation is two bins."""
    deviation, mean = 2 / 255, 100.3 / 255
    k = torch.arange(90, 111, dtype=torch.float64)
    p = torch.distributions.Normal(mean, deviation)
    probability = p.cdf((k + 0.5) / 255) - p.cdf((k - 0.5) / 255)
    u = (torch.arange(1000, dtype=torch.float64)[:, None] + 0.5) / 1000
    bits = density.bits_per_dimension(p.log_prob((k + u - 0.5) / 255).mean(0), 1)
    gap = bits + probability.log2()
    assert (gap > 0).all() and (probability * gap).sum() < 0.05


# ------------------------------------------------------------------------------------- bounds


class LinearVAE:
    """x = b + Wz + Pw + √ε v, whose density, posterior and ELBO are known.

    The columns of W are turned such that the true posterior has independent dimensions. The
    encoder's mean is `shift` standard deviations away from it, and its deviation is `spread` times
    as large.
    """

    shape, latent, rank, epsilon = (1, 3, 4), 2, 2, 0.02

    def __init__(self, shift=0.0, spread=1.0, dtype=torch.float64):
        size = math.prod(self.shape)
        self.centre, self.factor = normal(1, size), 0.3 * normal(2, size, self.rank)
        weight = normal(3, size, self.latent)
        noise = self.factor @ self.factor.T + self.epsilon * torch.eye(size).double()
        information, turn = torch.linalg.eigh(weight.T @ torch.linalg.solve(noise, weight))
        self.weight = weight @ turn
        self.variance = 1 / (1 + information)
        self.gain = self.variance[:, None] * torch.linalg.solve(noise, self.weight).T
        self.marginal = noise + self.weight @ self.weight.T
        self.shift, self.spread, self.dtype, self.decoded = shift, spread, dtype, []

    def encode(self, x):
        mean = (x.double().flatten(1) - self.centre) @ self.gain.T
        std = self.variance.sqrt().expand_as(mean)
        mean, std = mean + self.shift * std, self.spread * std
        return mean.to(self.dtype), std.to(self.dtype)

    def decode(self, z):
        self.decoded.append(len(z))
        loc = self.centre.to(z) + z @ self.weight.T.to(z)
        factor = self.factor.to(z).expand(len(z), -1, -1)
        return LowRankNormal(loc, factor, self.epsilon)

    def images(self, count, seed=4):
        size = math.prod(self.shape)
        tril = torch.linalg.cholesky(self.marginal)
        x = self.centre + normal(seed, count, size) @ tril.T
        return x.unflatten(1, self.shape).to(self.dtype)

    def log_density(self, x):
        flat = x.double().flatten(1).numpy()
        found = multivariate_normal(self.centre.numpy(), self.marginal.numpy()).logpdf(flat)
        return torch.from_numpy(found)

    def divergence(self):
        """KL[q(z|x) ‖ p(z|x)], the same for all images."""
        each = 0.5 * (self.spread**2 - 1 - 2 * math.log(self.spread) + self.shift**2)
        return self.latent * each


def test_the_true_posterior_gives_the_density_itself():
    vae = LinearVAE()
    x = vae.images(7)
    found = density.importance_bounds(vae, x, (1, 3, 6), stream(0))
    exact = vae.log_density(x)
    torch.testing.assert_close(found["bounds"], exact.expand(3, 7), rtol=0, atol=1e-9)
    torch.testing.assert_close(found["effective_samples"], torch.full((7,), 6.0).double())


def test_bounds_rise_to_the_density():
    vae = LinearVAE(shift=0.4, spread=1.3)
    x, ladder = vae.images(40), (1, 4, 32, 2048)
    found = density.importance_bounds(vae, x, ladder, stream(0), codes=4096)
    exact, bounds = vae.log_density(x), found["bounds"]
    assert (bounds.diff(dim=0) >= -1e-12).all()  # for every image, by Jensen's inequality
    gaps = (exact - bounds).mean(1)
    assert gaps[0].item() == pytest.approx(vae.divergence(), rel=0.05)
    assert gaps.diff().max() < 0 and abs(gaps[-1]) < 0.01
    effective = found["effective_samples"]
    assert (effective > 100).all() and (effective < 2048).all()


def test_elbo_is_the_density_less_the_divergence():
    vae = LinearVAE(shift=-0.5, spread=0.7)
    x = vae.images(30)
    loss = vae.log_density(x) - density.elbo(vae, x, 500, stream(1))
    error = loss.std().item() / 30**0.5
    assert loss.mean().item() == pytest.approx(vae.divergence(), abs=5 * error)
    assert error < 0.05


@quick
@given(seeds, st.integers(1, 5), st.sampled_from([1, 2, 6, 12]), st.integers(1, 20))
def test_any_number_of_codes_at_a_time_gives_the_same(seed, images, count, codes):
    vae = LinearVAE(0.1, 1.1)
    x = vae.images(images, seed)
    whole = density.importance_samples(vae, x, count, stream(seed), codes=1000)
    vae.decoded.clear()
    parts = density.importance_samples(vae, x, count, stream(seed), codes=codes)
    assert max(vae.decoded) <= codes and sum(vae.decoded) == images * count
    for name in ("log_likelihood", "log_ratio", "kl"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_weights_are_those_of_the_three_densities():
    vae = LinearVAE(0.3, 0.8, torch.float32)
    x = vae.images(2)
    found = density.importance_samples(vae, x, 3, stream(2))
    mean, std = (part.double() for part in vae.encode(x))
    noise = torch.stack([torch.randn(3, 2, generator=g) for g in [stream(2)] for _ in range(2)])
    z = mean[:, None] + std[:, None] * noise
    q = torch.distributions.Normal(mean[:, None], std[:, None]).log_prob(z).sum(2)
    prior = torch.distributions.Normal(0, 1).log_prob(z).sum(2)
    p = vae.decode(z.flatten(0, 1)).log_prob(x.flatten(1).repeat_interleave(3, 0)).view(2, 3)
    torch.testing.assert_close(found.log_weights, p + prior - q, rtol=1e-4, atol=1e-3)
    assert found.log_weights.dtype == torch.float64


def test_a_network_has_bounds_too(capsys, monkeypatch):
    monkeypatch.delenv("SOS_BATCH", raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    torch.manual_seed(0)
    vae = VAE(Data("faces", 16, 16, 1, 4, 1, 4), Network(width=4, latent=3, rank=2)).eval()
    images = torch.randint(0, 256, (2, 1, 16, 16), generator=stream(3), dtype=torch.uint8)
    x = density.dequantise(images, stream(3))
    found = density.importance_bounds(vae, x, (1, 2), stream(4), codes=3, title="bounds")
    assert "bounds: 100%" in capsys.readouterr().err
    assert found["bounds"].shape == (2, 2) and found["bounds"].isfinite().all()
    assert not found["elbo"].requires_grad


def test_bounds_name_what_is_wrong():
    vae = LinearVAE()
    x = vae.images(2)
    for ladder in ((), (0, 2), (2, 3), (4, 2)):
        with pytest.raises(ValueError, match="ladder: each rung must divide the next"):
            density.importance_bounds(vae, x, ladder)
    with pytest.raises(ValueError, match="codes: 3 does not divide the 4"):
        density.importance_samples(vae, x, 4).bound(3)
    with pytest.raises(ValueError, match="count and codes: expected at least 1, got 0 and 50"):
        density.elbo(vae, x, 0)
    vae.training = True
    with pytest.raises(ValueError, match="vae: in training mode"):
        density.elbo(vae, x)


# ---------------------------------------------------------------------------------------- PPCA


def clustered(seed, count, size, clusters=2, apart=6.0):
    """Draw points (count, size) from normals of random covariance."""
    rng = np.random.default_rng(seed)
    centres = apart * rng.standard_normal((clusters, size))
    roots = rng.standard_normal((clusters, size, size))
    chosen = rng.integers(clusters, size=count)
    points = np.einsum("nij,nj->ni", roots[chosen], rng.standard_normal((count, size)))
    return torch.from_numpy(centres[chosen] + points)


@quick
@given(seeds, st.integers(1, 6))
def test_ppca_is_scikit_learns(seed, rank):
    x, test = clustered(seed, 80, 8).split(40)
    found = density.ppca(x, rank)
    oracle = PCA(rank).fit(x.numpy())
    oracle.explained_variance_ *= 39 / 40  # the likelihood divides by N
    oracle.noise_variance_ *= 39 / 40
    expected = torch.from_numpy(oracle.score_samples(test.numpy()))
    torch.testing.assert_close(found.log_prob(test), expected, rtol=1e-9, atol=0)


def test_ppca_takes_images_and_matches_the_one_of_bytes():
    images = torch.randint(0, 256, (50, 1, 4, 5), generator=stream(5), dtype=torch.uint8)
    found = density.ppca(images / 255, 3)
    exact = pca.spectrum(images, 3)
    assert found.cov_diag[0].item() == pytest.approx(exact.epsilon, rel=1e-5)
    with pytest.raises(ValueError, match="rank: 50 images of 20 values have 1 to 19 comp.*not 20"):
        density.ppca(images / 255, 20)


def test_stored_values_are_counted():
    loc, factor = torch.zeros(20), torch.ones(20, 3)
    assert density.stored_values(LowRankNormal(loc, factor, 0.1)) == 20 + 60 + 1
    assert density.stored_values(LowRankNormal(loc, factor, torch.rand(20) + 1)) == 20 + 60 + 20
    with pytest.raises(ValueError, match=r"not a batch \(2,\): p\[0\]"):
        density.stored_values(LowRankNormal(loc.expand(2, 20), factor))


# ------------------------------------------------------------------------------------- mixture


def test_one_component_is_ppca():
    x, test = clustered(6, 90, 7).split(60)
    found, exact = mixture.fit(x, 1, 3), density.ppca(x, 3)
    torch.testing.assert_close(found.log_prob(test), exact.log_prob(test), rtol=1e-9, atol=0)
    assert found.stored_values == density.stored_values(exact) + 1


def test_as_many_directions_as_there_are_give_a_full_covariance():
    """R = S - 1 leaves one eigenvalue to ε, so that the mixture is scikit-learn's own."""
    x, test = clustered(7, 400, 4, clusters=3).split(300)
    found = mixture.fit(x, 3, 3, tolerance=1e-9, steps=500)
    means = found.components.loc.numpy()
    oracle = GaussianMixture(3, reg_covar=0, tol=1e-10, max_iter=500, means_init=means).fit(x)
    expected = torch.from_numpy(oracle.score_samples(test.numpy()))
    torch.testing.assert_close(found.log_prob(test), expected, rtol=0, atol=1e-4)


@quick
@given(seeds, st.integers(2, 3), st.integers(1, 3), st.sampled_from([5, 8, 100]))
@example(595, 3, 3, 5)  # variance outside the basis exceeds a leading one inside
def test_em_never_falls_and_tells_the_density_of_images(seed, components, rank, basis):
    x = clustered(seed, 120, 9, clusters=components, apart=2.0)
    found = mixture.fit(x, components, rank, basis=basis, tolerance=-1, steps=12)
    assert (found.history.diff() > -1e-8).all() and len(found.history) == 12
    assert found.log_prob(x).mean().item() == pytest.approx(found.history[-1].item(), rel=1e-9)
    assert found.weights.sum().item() == pytest.approx(1)


def test_variance_outside_the_basis_counts_as_noise():
    """Without the last two of three variances, ε is the mean of all that is left."""
    values = torch.tensor([9.0, 2.0, 1.0])
    assert mixture._epsilon(values, 60.0, 13) == pytest.approx(63 / 12)
    assert mixture._epsilon(values, 5.0, 13) == pytest.approx(5 / 10)
    assert mixture._epsilon(values / 10, 60.0, 13) == pytest.approx(61.2 / 13)


def test_more_values_than_images():
    x = clustered(8, 60, 200)
    found = mixture.fit(x, 2, 4)
    assert found.log_prob(x).mean().item() == pytest.approx(found.history[-1].item(), rel=1e-9)
    assert found.history[-1] > density.ppca(x, 4).log_prob(x).mean()


def test_mixture_density_is_that_of_dense_matrices():
    x = clustered(9, 100, 6)
    found = mixture.fit(x, 2, 2)
    parts = [
        multivariate_normal(p.loc, p.covariance_matrix)
        for p in map(found.components.__getitem__, (0, 1))
    ]
    joint = [w * p.pdf(x.numpy()) for w, p in zip(found.weights.tolist(), parts, strict=True)]
    np.testing.assert_allclose(found.log_prob(x), np.log(sum(joint)), rtol=1e-9)


def test_a_mixture_beats_one_low_rank_with_as_many_values_where_there_are_clusters():
    x, test = clustered(10, 900, 12, clusters=3).split(600)
    found, single = mixture.fit(x, 3, 2), density.ppca(x, 8)
    assert found.stored_values <= density.stored_values(single) + 5
    assert found.log_prob(test).mean() > single.log_prob(test).mean() + 1


def test_samples_of_a_mixture_have_its_moments():
    x = clustered(11, 500, 3)
    found = mixture.fit(x, 2, 1)
    samples = found.sample(20_000, stream(6))
    torch.testing.assert_close(samples.mean(0), x.mean(0), rtol=0, atol=0.3)
    torch.testing.assert_close(samples.var(0).sum(), x.var(0).sum(), rtol=0.05, atol=0)


def test_epsilon_has_a_least_value():
    x = torch.cat([normal(12, 50, 2), torch.zeros(50, 4).double()], 1)
    found = mixture.fit(x, 1, 2, basis=5)
    assert found.components.cov_diag[0, 0].item() == pytest.approx(density.QUANTISATION_VARIANCE)


def test_mixture_names_what_is_wrong():
    x = clustered(13, 12, 6)
    with pytest.raises(ValueError, match="rank: expected 1 to 5 in a basis of 6, not 6"):
        mixture.fit(x, 2, 6)
    with pytest.raises(ValueError, match="components: number . is left with .* needs 6"):
        mixture.fit(x, 6, 4)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        mixture.fit(x[:1], 1, 1)
