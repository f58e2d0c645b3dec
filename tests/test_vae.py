"""The terms of equation 3 against torch.distributions and dense matrices, and `SpanGradient`."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from sos.config import Data, Network
from sos.distributions.low_rank_normal import LowRankNormal
from sos.distributions.sparse_precision_normal import LowRankPlusSparseNormal, _SpanGradient
from sos.models.networks import DIAGONAL_FLOOR
from sos.models.vae import VAE

HEIGHT, WIDTH, CHANNELS, BATCH = 5, 4, 2, 3
PIXELS = HEIGHT * WIDTH * CHANNELS


def model(**network):
    """A tiny VAE in training mode whose heads predict something other than a constant."""
    data = Data("faces", HEIGHT, WIDTH, CHANNELS, train=1, validation=1, test=1)
    torch.manual_seed(1)
    vae = VAE(data, Network(**{"width": 2, "latent": 3, "rank": 4, "diagonal": 1e-2} | network))
    with torch.no_grad():
        for parameter in vae.head.parameters():
            parameter.normal_(std=0.3)
    return vae


def inputs(vae, count=BATCH):
    torch.manual_seed(2)
    return torch.rand(count, CHANNELS, HEIGHT, WIDTH), torch.randn(count, vae.latent)


def prediction(vae, x, noise, mean_only=False):
    mean, std = vae.encode(x)
    return vae.decode(mean + std * noise, mean_only)


def dense(y):
    factor = y.cov_factor.double()
    covariance = factor @ factor.mT + torch.diag_embed(y.cov_diag.double().expand(y.loc.shape))
    return MultivariateNormal(y.loc.double(), covariance)


DISTRIBUTIONS = [{}, {"diagonal": None}, {"rank": 0}, {"rank": 0, "diagonal": None}]


# ---------------------------------------------------------------------------- the terms


@pytest.mark.parametrize("network", DISTRIBUTIONS)
def test_nll_is_that_of_the_dense_normal(network):
    vae = model(**network)
    x, noise = inputs(vae)
    with torch.no_grad():
        y, terms = prediction(vae, x, noise), vae.terms(x, noise)
    expected = -dense(y).log_prob(x.flatten(1).double()).mean()
    assert terms.nll_nats.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("network", DISTRIBUTIONS)
def test_rank_entropy_is_the_entropy_less_that_of_the_diagonal(network):
    vae = model(**network)
    x, noise = inputs(vae)
    with torch.no_grad():
        y, terms = prediction(vae, x, noise), vae.terms(x, noise)
    learnt = vae.head.variance is not None and y.rank  # then D counts as what exceeds its floor
    diagonal = torch.full_like(y.loc, DIAGONAL_FLOOR) if learnt else y.cov_diag.expand(y.loc.shape)
    floor = Normal(0.0, diagonal.double().sqrt()).entropy().sum(-1)
    expected = (dense(y).entropy() - floor).mean()
    assert terms.rank_entropy_nats.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)
    assert terms.variance.item() == pytest.approx(y.variance.mean().item(), rel=1e-5)


def test_kl_is_that_of_torch_distributions():
    vae = model()
    x, noise = inputs(vae)
    with torch.no_grad():
        for parameter in vae.encoder.mean.parameters():
            parameter.mul_(5)
        mean, std = vae.encode(x)
        kl = vae.terms(x, noise).kl_nats
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1).mean()
    assert kl.item() == pytest.approx(expected.item(), rel=1e-5)


def test_squared_error_is_the_mean_over_pixels():
    vae = model()
    x, noise = inputs(vae)
    with torch.no_grad():
        y, terms = prediction(vae, x, noise), vae.terms(x, noise)
    expected = (vae.images(y.loc) - x).square().mean()
    assert terms.squared_error.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("network", DISTRIBUTIONS)
def test_all_terms_are_means_over_the_images(network):
    vae = model(**network).eval()
    x, noise = inputs(vae)
    with torch.no_grad():
        together = vars(vae.terms(x, noise))
        alone = [vars(vae.terms(x[i : i + 1], noise[i : i + 1])) for i in range(BATCH)]
    for name, value in together.items():
        expected = sum(terms[name].item() for terms in alone) / BATCH
        assert value.item() == pytest.approx(expected, rel=1e-5), name


def test_terms_do_not_depend_on_which_way_memory_runs():
    vae = model().eval()
    x, noise = inputs(vae)
    with torch.no_grad():
        plain = vae.terms(x, noise)
        vae.to(memory_format=torch.channels_last)
        other = vae.terms(x.contiguous(memory_format=torch.channels_last), noise)
    for name, value in vars(plain).items():
        assert vars(other)[name].item() == pytest.approx(value.item(), rel=1e-5), name


SPARSE = {"sparse": {"rank": 0, "diagonal": None}, "both": {"rank": 4, "diagonal": None}}


def dense_sparse(y):
    """N(μ, (LLᵀ)⁻¹ + PPᵀ) of one batch element after another."""
    local = getattr(y, "local", y)
    roots = [torch.from_numpy(local.root(item).toarray()) for item in range(len(y.loc))]
    covariance = torch.stack([torch.linalg.inv(root @ root.T) for root in roots])
    if local is not y:
        factor = y.cov_factor.double()
        covariance = covariance + factor @ factor.mT
    return MultivariateNormal(y.loc.double(), covariance)


@pytest.mark.parametrize("network", SPARSE.values(), ids=SPARSE)
def test_terms_of_a_sparse_precision(network):
    vae = model(neighbourhood=3, **network)
    x, noise = inputs(vae)
    with torch.no_grad():
        y, terms = prediction(vae, x, noise), vae.terms(x, noise)
    expected = dense_sparse(y)
    nll = -expected.log_prob(x.flatten(1).double()).mean()
    assert terms.nll_nats.item() == pytest.approx(nll.item(), rel=1e-4)
    entropy = expected.entropy().mean().item()
    assert terms.rank_entropy_nats.item() == pytest.approx(entropy, rel=1e-4)


@pytest.mark.parametrize("network", SPARSE.values(), ids=SPARSE)
def test_a_gain_adds_a_share_of_the_residual_to_the_gradient_of_a_sparse_mean(network):
    """d nll / dμ becomes g - κ m (x - μ), m = E[L_kk²], and d nll / dP (I + κ m PPᵀ) times itself.

    No value changes, nor the gradient of L.
    """
    gain, vae = 0.3, model(neighbourhood=3, **network).eval()
    x, noise = inputs(vae)
    gradients = {}
    for share in (0.0, gain):
        vae.zero_grad()
        terms = vae.terms(x, noise, span_gain=share)
        terms.nll_nats.backward()
        gradients[share] = {n: p.grad.clone() for n, p in vae.head.named_parameters()}
        gradients[share]["nll"] = terms.nll_nats.detach()
    assert torch.equal(gradients[0.0]["nll"], gradients[gain]["nll"])
    with torch.no_grad():
        y = prediction(vae, x, noise)
        weight = gain * y.log_diag.mul(2).exp().mean()
        added = -weight * vae.images(x.flatten(1) - y.loc).sum((0, 2, 3)) / BATCH
    for name in ("precision.weight", "precision.bias"):
        torch.testing.assert_close(gradients[gain][name], gradients[0.0][name])
    if network["rank"]:
        factor = y.cov_factor.detach().clone().requires_grad_()
        LowRankPlusSparseNormal(y.local, factor).log_prob(x.flatten(1)).mean().neg().backward()
        moved = factor.grad + weight * factor @ (factor.mT @ factor.grad)
        by_channel = moved.detach().mT.unflatten(-1, (CHANNELS, -1)).sum((0, 3)).flatten()
        torch.testing.assert_close(
            gradients[gain]["factor.bias"],
            by_channel,
            rtol=1e-3,
            atol=1e-4 * by_channel.abs().max(),
        )
    change = gradients[gain]["mean.bias"] - gradients[0.0]["mean.bias"]
    torch.testing.assert_close(change, added, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------------- pre-training


@pytest.mark.parametrize("network", DISTRIBUTIONS)
def test_mean_only_nll_is_the_squared_error_and_a_constant(network):
    vae = model(**network)
    x, noise = inputs(vae)
    with torch.no_grad():
        terms = vae.terms(x, noise, mean_only=True)
    epsilon = network.get("diagonal", 1e-2) or DIAGONAL_FLOOR
    constant = 0.5 * PIXELS * math.log(2 * math.pi * epsilon)
    expected = PIXELS * terms.squared_error.item() / (2 * epsilon) + constant
    assert terms.nll_nats.item() == pytest.approx(expected, rel=1e-5)
    assert terms.rank_entropy_nats.item() == 0


@pytest.mark.parametrize("network", DISTRIBUTIONS)
@pytest.mark.parametrize("mean_only", [True, False])
def test_covariance_heads_get_a_gradient_only_after_pretraining(network, mean_only):
    vae = model(**network)
    terms = vae.terms(*inputs(vae), mean_only=mean_only)
    (terms.nll_nats + terms.kl_nats + terms.rank_entropy_nats).backward()
    for name, parameter in vae.named_parameters():
        covariance = name.startswith("head.") and not name.startswith("head.mean.")
        assert (parameter.grad is None) == (covariance and mean_only), name


# ---------------------------------------------------------------------------- SpanGradient


def incoming(seed, batch, pixels, rank):
    """A mean, a factor as the head stores it, and gradients for both, all float64."""
    g = torch.Generator().manual_seed(seed)
    loc, grad_loc = torch.randn(2, batch, pixels, generator=g, dtype=torch.float64)
    rows, grad_rows = torch.randn(2, batch, rank, pixels, generator=g, dtype=torch.float64)
    return loc.requires_grad_(), rows.mT.requires_grad_(), grad_loc, grad_rows.mT


def outgoing(loc, factor, grad_loc, grad_factor, gain):
    return torch.autograd.grad(
        _SpanGradient.apply(loc, factor, gain), (loc, factor), (grad_loc, grad_factor)
    )


SIZES = {"batch": st.integers(1, 3), "pixels": st.integers(1, 12), "rank": st.integers(0, 5)}
GAINS = st.floats(0, 1e3)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), gain=GAINS, **SIZES)
def test_span_gradient_multiplies_by_the_dense_matrix(seed, gain, batch, pixels, rank):
    loc, factor, grad_loc, grad_factor = incoming(seed, batch, pixels, rank)
    matrix = torch.eye(pixels).double() + gain * (factor @ factor.mT).detach()
    got_loc, got_factor = outgoing(loc, factor, grad_loc, grad_factor, gain)
    torch.testing.assert_close(got_loc, (matrix @ grad_loc[..., None])[..., 0])
    torch.testing.assert_close(got_factor, matrix @ grad_factor)


@given(seed=st.integers(0, 2**32), gain=GAINS)
@settings(max_examples=20, deadline=None)
def test_span_gradient_changes_no_value(seed, gain):
    loc, factor, _, _ = incoming(seed, 2, 6, 3)
    same_loc, same_factor = _SpanGradient.apply(loc, factor, gain)
    assert torch.equal(same_loc, loc) and torch.equal(same_factor, factor)


def test_no_gain_is_the_plain_gradient():
    loc, factor, grad_loc, grad_factor = incoming(0, 2, 6, 3)
    got_loc, got_factor = outgoing(loc, factor, grad_loc, grad_factor, 0.0)
    assert torch.equal(got_loc, grad_loc) and torch.equal(got_factor, grad_factor)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), gain=GAINS, **SIZES)
def test_stationary_points_stay_and_descent_stays_descent(seed, gain, batch, pixels, rank):
    """The matrix is positive definite: no zero is added, and every step still goes downhill."""
    loc, factor, grad_loc, grad_factor = incoming(seed, batch, pixels, rank)
    pair = outgoing(loc, factor, grad_loc, grad_factor, gain)
    for got, plain in zip(pair, (grad_loc, grad_factor), strict=True):
        assert (got * plain).sum() >= plain.square().sum() * (1 - 1e-9)
    zeros = torch.zeros_like(grad_loc), torch.zeros_like(grad_factor)
    assert not any(got.any() for got in outgoing(loc, factor, *zeros, gain))


def terms_gradient(vae, x, noise, loc, factor, **options):
    """Gradient of the NLL by a prediction that is put in the decoder's place."""
    loc, factor = loc.clone().requires_grad_(), factor.clone().requires_grad_()
    vae.decode = lambda z, mean_only=False: LowRankNormal(loc, factor, vae.head.epsilon)
    return torch.autograd.grad(vae.terms(x, noise, **options).nll_nats, (loc, factor))


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_terms_use_gain_over_epsilon_up_to_the_natural_gradient(gain):
    """κ = 1 gives the natural gradient of the mean, (μ - x)/ε: Σ/ε · Σ⁻¹(μ - x)."""
    vae = model()
    x, noise = inputs(vae)
    y = prediction(vae, x, noise)
    # In float64, because the matrix multiplies what float32 loses of the plain gradient.
    loc, factor = y.loc.detach().double(), y.cov_factor.detach().double()
    plain = terms_gradient(vae, x, noise, loc, factor)
    gained = terms_gradient(vae, x, noise, loc, factor, span_gain=gain)
    matrix = torch.eye(PIXELS).double() + gain / 1e-2 * factor @ factor.mT
    torch.testing.assert_close(gained[0], (matrix @ plain[0][..., None])[..., 0])
    torch.testing.assert_close(gained[1], matrix @ plain[1])
    if gain == 1.0:
        torch.testing.assert_close(gained[0], (loc - x.flatten(1)) / 1e-2 / BATCH)


def test_a_gain_changes_gradients_alone():
    vae = model()
    x, noise = inputs(vae)
    with torch.no_grad():
        plain, gained = vae.terms(x, noise), vae.terms(x, noise, span_gain=0.5)
    for name, value in vars(plain).items():
        assert vars(gained)[name].item() == pytest.approx(value.item(), rel=1e-6), name


# ---------------------------------------------------------------------------- small parts


def test_images_undo_the_flat_order():
    vae = model()
    x, _ = inputs(vae)
    assert torch.equal(vae.images(x.flatten(1)), x)
    assert vae.images(torch.zeros(7, 2, PIXELS)).shape == (7, 2, CHANNELS, HEIGHT, WIDTH)


def test_the_prior_is_standard_normal_and_reproducible():
    vae = model()
    draws = vae.prior(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(draws, vae.prior(20_000, torch.Generator().manual_seed(0)))
    assert draws.shape == (20_000, 3)
    assert draws.mean().abs() < 0.02 and (draws.std() - 1).abs() < 0.02


@pytest.mark.parametrize("network", [*DISTRIBUTIONS, *SPARSE.values()])
def test_a_model_in_double_precision_agrees(network):
    vae = model(**network).eval()
    x, noise = inputs(vae)
    single = vae.terms(x, noise)
    double = vae.double().terms(x.double(), noise.double())
    assert double.squared_error.dtype == vae.prior(2).dtype == torch.float64
    assert double.nll_nats.item() == pytest.approx(single.nll_nats.item(), rel=1e-5)
    double.nll_nats.backward()
    assert vae.decode(vae.prior(2)).sample().dtype == torch.float64


def test_the_closed_form_keeps_digits_that_rounded_gradients_lose():
    """Why the span gain of a low rank is not `_SpanGradient`: ε is too small for float32."""
    torch.manual_seed(0)
    epsilon, gain = 1e-5, 0.05
    loc, factor = torch.zeros(4, 600, dtype=torch.float64), 0.3 * torch.randn(4, 5, 600).double().mT
    value = 0.08 * torch.randn(4, 600, dtype=torch.float64)

    def inside(dtype, separate):
        """The part of the gradient of μ in the span of P, in coordinates of P."""
        mu, p = loc.to(dtype).requires_grad_(), factor.to(dtype)
        seen, rows = (mu, p)
        if separate:
            seen, rows = _SpanGradient.apply(mu, p, gain / epsilon)
        q = LowRankNormal(seen, rows, epsilon)
        log_prob, _ = q.log_prob_and_rank_entropy(value.to(dtype), 0.0 if separate else gain)
        (grad,) = torch.autograd.grad(log_prob.sum(), mu)
        return (factor.mT @ grad.double()[..., None])[..., 0]

    exact = inside(torch.float64, separate=False)
    errors = [
        ((inside(*how) - exact).norm() / exact.norm()).item()
        for how in ((torch.float64, True), (torch.float32, False), (torch.float32, True))
    ]
    assert errors[0] < 1e-6 and errors[1] < 1e-5 and errors[2] > 1e-2
