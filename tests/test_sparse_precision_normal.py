"""SparsePrecisionNormal and LowRankPlusSparseNormal against dense float64 matrices and scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import spsolve_triangular
from torch.distributions import MultivariateNormal, kl_divergence

from sos.distributions.low_rank_normal import LowRankNormal
from sos.distributions.sparse_precision_normal import (
    LowRankPlusSparseNormal,
    SparsePrecisionNormal,
    neighbour_regression,
    offsets,
)

# (channels, height, width), neighbourhood
SHAPES = {
    "square, 3x3": ((1, 5, 5), 3),
    "wide, 5x5": ((1, 4, 7), 5),
    "tall, 7x7": ((1, 6, 4), 7),
    "smaller than its neighbourhood": ((1, 2, 2), 7),
    "one row": ((1, 1, 6), 5),
    "one column": ((1, 6, 1), 3),
    "one pixel": ((1, 1, 1), 3),
    "no neighbours": ((1, 3, 4), 1),
    "colour": ((3, 4, 3), 3),
    "two channels, no neighbours": ((2, 2, 3), 1),
}
each_shape = pytest.mark.parametrize("shape, k", SHAPES.values(), ids=SHAPES)


def random(shape, k, batch=(), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size, count = math.prod(shape), len(offsets(k, shape[0]))

    def normal(*dims):
        return torch.randn(dims, generator=generator, dtype=torch.float64).to(dtype)

    log_diag, off_diag = 0.5 + 0.3 * normal(*batch, size), 0.4 * normal(*batch, count, size)
    return SparsePrecisionNormal(normal(*batch, size), log_diag, off_diag, shape)


def dense_root(p, item=()):
    """L by its definition, value by value."""
    channels, height, width = p.shape
    root = torch.diag(p.log_diag[item].double().exp())
    for f, (dc, di, dj) in enumerate(offsets(p.neighbourhood, channels)):
        for k in range(len(root)):
            c, i, j = np.unravel_index(k, p.shape)
            if c + dc < channels and i + di < height and 0 <= j + dj < width:
                later = np.ravel_multi_index((c + dc, i + di, j + dj), p.shape)
                root[later, k] = p.off_diag[item][f, k]
    return root


def dense(p, item=()):
    root = dense_root(p, item)
    return MultivariateNormal(p.loc[item].double(), precision_matrix=root @ root.T)


# ------------------------------------------------------------------------------ against matrices


@each_shape
def test_log_prob_and_entropy(shape, k):
    p = random(shape, k)
    y = torch.randn(4, math.prod(shape), dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(y), dense(p).log_prob(y))
    torch.testing.assert_close(p.entropy(), dense(p).entropy())


@each_shape
def test_variance_and_covariance_rows(shape, k):
    p = random(shape, k, batch=(2,))
    covariance = torch.stack([dense(p, item).covariance_matrix for item in range(2)])
    torch.testing.assert_close(p.variance, covariance.diagonal(dim1=-2, dim2=-1))
    for index in {0, math.prod(shape) // 2, -1}:
        torch.testing.assert_close(p.covariance_row(index), covariance[:, index])


@each_shape
def test_root_and_samples_against_scipy(shape, k):
    p = random(shape, k)
    noise = torch.randn(3, math.prod(shape), dtype=torch.float64)
    root = p.root()
    torch.testing.assert_close(torch.from_numpy(root.toarray()), dense_root(p))
    order = permutation(shape)  # pixel by pixel, in which L is lower triangular
    upper = root[order][:, order].T.tocsr()
    expected = np.empty((3, len(order)))
    expected[:, order] = spsolve_triangular(upper, noise.numpy().T[order], lower=False).T
    torch.testing.assert_close(p.rsample_from(noise) - p.loc, torch.from_numpy(expected))


def permutation(shape):
    channels = shape[0]
    return np.arange(math.prod(shape)).reshape(channels, -1).T.ravel()


@each_shape
def test_gradients(shape, k):
    p = random(shape, k, batch=(2,))
    parts = [x.clone().requires_grad_() for x in (p.loc, p.log_diag, p.off_diag)]
    y, noise = torch.randn(2, 3, 2, math.prod(shape), dtype=torch.float64)

    def build(*x):
        return SparsePrecisionNormal(*x, shape)

    assert torch.autograd.gradcheck(lambda *x: build(*x).log_prob(y), parts)
    assert torch.autograd.gradcheck(lambda *x: build(*x).rsample_from(noise), parts)
    noise.requires_grad_()
    assert torch.autograd.gradcheck(lambda n: p.rsample_from(n), noise)


def seen(size, seed=1):
    """A third of the values, in random order."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[: (size + 1) // 3]


def dense_condition(mean, covariance, held, values, noise):
    """Equations 6 and 7 as they stand, with the noise of observations on the diagonal of Σ₂₂."""
    if not len(held):
        return mean, covariance, torch.zeros((), dtype=torch.float64)
    known = covariance[held][:, held] + torch.diag(noise)
    gain = torch.linalg.solve(known, covariance[held]).T
    evidence = MultivariateNormal(mean[held], known).log_prob(values)
    return mean + gain @ (values - mean[held]), covariance - gain @ covariance[held], evidence


def with_low_rank(shape, k, batch=(), rank=2, seed=0):
    local = random(shape, k, batch, seed=seed)
    generator = torch.Generator().manual_seed(seed + 7)
    size = math.prod(shape)
    factor = torch.randn(*batch, size, rank, generator=generator, dtype=torch.float64)
    return LowRankPlusSparseNormal(local, factor)


BUILDERS = {"sparse": random, "low rank + sparse": with_low_rank}
each_kind = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def dense_moments(p, item=()):
    """Mean and covariance, value by value."""
    if isinstance(p, SparsePrecisionNormal):
        return p.loc[item], dense(p, item).covariance_matrix
    factor = p.cov_factor[item]
    return p.loc[item], dense(p.local, item).covariance_matrix + factor @ factor.T


@each_kind
@each_shape
@pytest.mark.parametrize("noise", ["exact", "soft", "both"])
def test_conditioning_a_batch(shape, k, noise, build):
    p, size = build(shape, k, (2,)), math.prod(shape)
    held = seen(size)
    values = torch.randn(2, len(held), dtype=torch.float64)
    variance = {
        "exact": torch.zeros(2, len(held)),
        "soft": torch.rand(2, len(held)) + 0.1,
        "both": torch.rand(2, len(held)) * (torch.arange(2 * len(held)).view(2, -1) % 2),
    }[noise].double()
    q = p.condition(held, values, variance)
    units = torch.eye(size, dtype=torch.float64)[:, None].expand(size, 2, size)
    if isinstance(p, LowRankPlusSparseNormal):  # the samples that one entry of the noise makes
        rank = torch.eye(2, dtype=torch.float64)[:, None].expand(2, 2, 2)
        spread = torch.cat([
            q.rsample_from(rank, torch.zeros(2, 2, size)),
            q.rsample_from(torch.zeros(size, 2, 2), units),
        ]) - q.mean  # fmt: skip
    else:
        spread = q.rsample_from(units) - q.mean
    evidence = p.marginal_log_prob(held, values, variance)
    for item in range(2):
        mean, covariance, expected = dense_condition(
            *dense_moments(p, item), held, values[item], variance[item]
        )
        torch.testing.assert_close(q.mean[item], mean, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(q.variance[item], covariance.diagonal(), rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(evidence[item], expected, rtol=1e-8, atol=1e-9)
        # A sample is the mean and B u: B B^T has to be the conditional covariance.
        made = spread[:, item].T @ spread[:, item]
        torch.testing.assert_close(made, covariance, rtol=1e-8, atol=1e-9)
    exact = variance == 0
    assert torch.equal(q.log_evidence, evidence)
    assert torch.equal(q.mean[:, held][exact], values[exact])
    assert not q.variance[:, held][exact].any()


@each_kind
@each_shape
def test_conditional_density_and_leave_one_out(shape, k, build):
    p, size = build(shape, k), math.prod(shape)
    held, y = seen(size, 2), torch.randn(size, dtype=torch.float64)
    mean, covariance = dense_moments(p)
    found, variance = p.leave_one_out(torch.stack([y, -y]))
    for i in range(size):
        others = torch.tensor([j for j in range(size) if j != i], dtype=torch.long)
        left, spread, _ = dense_condition(
            mean, covariance, others, y[others], torch.zeros(size - 1)
        )
        torch.testing.assert_close(found[0, i], left[i], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(variance[0, i], spread[i, i], rtol=1e-8, atol=1e-9)
    whole = MultivariateNormal(mean, covariance).log_prob(y)
    part = dense_condition(mean, covariance, held, y[held], torch.zeros(len(held)))[2]
    torch.testing.assert_close(p.conditional_log_prob(y, held), whole - part)


@each_shape
def test_the_posterior_of_the_noise(shape, k):
    p, held = with_low_rank(shape, k), seen(math.prod(shape))
    values, noise = torch.randn(2, len(held), dtype=torch.float64).abs()
    mean, spread = p.noise_posterior(held, values, noise)
    expected, covariance, factor = *dense_moments(p), p.cov_factor
    known = covariance[held][:, held] + torch.diag(noise)
    gain = torch.linalg.solve(known, factor[held]).T
    torch.testing.assert_close(mean, gain @ (values - expected[held]), rtol=1e-8, atol=1e-9)
    left = torch.eye(2, dtype=torch.float64) - gain @ factor[held]
    torch.testing.assert_close(spread, left, rtol=1e-8, atol=1e-9)
    gram, constant = p.observed_gram(held, values, noise)
    local = dense(p.local).covariance_matrix[held][:, held] + torch.diag(noise)
    columns = torch.cat([(values - expected[held])[:, None], factor[held]], 1)
    inverse = torch.linalg.inv(local) if len(held) else local
    torch.testing.assert_close(gram, columns.T @ inverse @ columns, rtol=1e-8, atol=1e-9)
    log_det = torch.linalg.slogdet(local)[1] + len(held) * math.log(2 * math.pi)
    torch.testing.assert_close(constant, log_det)


@each_kind
def test_marginal_density_has_gradients(build):
    p, held = build((3, 4, 3), 3), seen(36)
    local = p if isinstance(p, SparsePrecisionNormal) else p.local
    parts = [x.clone().requires_grad_() for x in (local.loc, local.log_diag, local.off_diag)]
    values = torch.randn(len(held), dtype=torch.float64)
    noise = torch.arange(len(held)) % 2 * 0.3

    def density(*parts):
        made = SparsePrecisionNormal(*parts, local.shape)
        if local is not p:
            made = LowRankPlusSparseNormal(made, p.cov_factor)
        return made.marginal_log_prob(held, values, noise)

    assert torch.autograd.gradcheck(density, parts)


def test_the_published_example_with_its_aliasing_mended():
    """Dorta et al.'s public example draws 3 images of 5x5 from np.random.seed(0).

    Its printed densities take log L_kk from memory that exp has overwritten; these are right.
    """
    draw = np.random.RandomState(0)
    loc = draw.normal(size=(3, 25))
    weights = torch.from_numpy(draw.normal(size=(3, 5, 5, 9))).flatten(1, 2).mT
    y = torch.from_numpy(draw.normal(size=(3, 25)))
    p = SparsePrecisionNormal(torch.from_numpy(loc), weights[:, 4], weights[:, 5:], (1, 5, 5))
    expected = torch.tensor([-158.70360, -141.43701, -135.08034], dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(y), expected, atol=2e-5, rtol=0)


# --------------------------------------------------------------------------------- properties


@st.composite
def distributions(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)))
    k = draw(st.sampled_from([1, 3, 5, 7]))
    batch = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return random(shape, k, batch, dtype, seed=draw(st.integers(0, 1000)))


@settings(deadline=None, max_examples=40)
@given(distributions(), st.sampled_from([(), (1,), (4,), (2, 3)]))
def test_whitening_undoes_sampling(p, sample_shape):
    noise = torch.randn(*sample_shape, *p.batch_shape, *p.event_shape, dtype=p.loc.dtype)
    y = p.rsample_from(noise)
    assert y.shape == noise.shape and y.dtype == p.loc.dtype
    tolerance = 2e-3 if y.dtype == torch.float32 else 1e-9
    torch.testing.assert_close(p.whiten(y - p.loc), noise, atol=tolerance, rtol=tolerance)


@settings(deadline=None, max_examples=20)
@given(distributions())
def test_weights_that_leave_the_image_do_not_count(p):
    channels, height, width = p.shape
    inside = torch.ones(p.off_diag.shape[-2:], dtype=torch.bool)
    place = np.indices(p.shape).reshape(3, -1)
    for f, step in enumerate(offsets(p.neighbourhood, channels)):
        later = place + np.array(step)[:, None]
        stays = (later >= 0).all(0) & (later < np.array(p.shape)[:, None]).all(0)
        inside[f] = torch.from_numpy(stays)
    wild = torch.where(inside, p.off_diag, torch.full_like(p.off_diag, 1e3))
    q = SparsePrecisionNormal(p.loc, p.log_diag, wild, p.shape)
    noise = torch.randn(*p.batch_shape, *p.event_shape, dtype=p.loc.dtype)
    assert torch.equal(p.log_prob(noise), q.log_prob(noise))
    assert torch.equal(p.rsample_from(noise), q.rsample_from(noise))


def test_batches_are_their_items():
    p = random((1, 4, 5), 5, batch=(3,))
    noise = torch.randn(2, 3, 20, dtype=torch.float64)
    y = p.rsample_from(noise)
    for item in range(3):
        one = p[item]
        torch.testing.assert_close(one.rsample_from(noise[:, item]), y[:, item])
        torch.testing.assert_close(one.log_prob(y[:, item]), p.log_prob(y)[:, item])
        torch.testing.assert_close(one.covariance_row(7), p.covariance_row(7)[item])
    wide = random((1, 4, 5), 5).expand((2, 3))
    assert wide.sample((4,)).shape == (4, 2, 3, 20) and wide.entropy().shape == (2, 3)


def test_samples_have_the_moments():
    p = random((1, 3, 4), 3)
    y = p.sample((200_000,), generator=torch.Generator().manual_seed(0))
    covariance = dense(p).covariance_matrix
    scale = covariance.diagonal().max()
    assert (y.mean(0) - p.loc).abs().max() < 0.01 * scale.sqrt()
    assert (y.T.cov() - covariance).abs().max() < 0.02 * scale


def test_extreme_finite_weights_do_not_overflow():
    size, count = 64 * 64, len(offsets(5, 1))
    loc = torch.zeros(size)
    p = SparsePrecisionNormal(loc, loc + 20, torch.full((count, size), 1e8), (1, 64, 64))
    y = p.loc + 1e-12
    expected = SparsePrecisionNormal(
        p.loc.double(), p.log_diag.double(), p.off_diag.double(), p.shape
    ).log_prob(y.double())
    assert p.log_prob(y).isfinite()
    torch.testing.assert_close(p.log_prob(y), expected, rtol=1e-5, atol=0.1)
    assert p.sample().isfinite().all() and p.entropy().isfinite()


# ----------------------------------------------------------------------- regression, closed form


def test_neighbour_regression_is_least_squares():
    images = torch.randn(50, 1, 4, 5, dtype=torch.float64).cumsum(-1)
    images -= images.mean(0)
    variance, weights = neighbour_regression(images, 3)
    flat = images.flatten(1).numpy()
    p = SparsePrecisionNormal(torch.zeros(20), torch.zeros(20), torch.ones(4, 20), (1, 4, 5))
    known = dense_root(p).numpy() != 0
    for k in range(20):
        later = [i for i in range(20) if known[i, k] and i != k]
        fit, *_ = np.linalg.lstsq(flat[:, later], flat[:, k], rcond=None)
        left = flat[:, k] - flat[:, later] @ fit
        assert variance[k].item() == pytest.approx((left**2).mean(), rel=1e-4)
        got = weights[k][weights[k].abs() > 1e-9]
        np.testing.assert_allclose(got, fit, rtol=1e-3, atol=1e-4)


def test_neighbour_regression_is_the_likeliest():
    """No other weights make the images likelier: the gradient of the log-density is zero there."""
    images = torch.randn(40, 1, 5, 4, dtype=torch.float64).cumsum(-2)
    images -= images.mean(0)
    variance, weights = neighbour_regression(images, 5)
    log_diag = (-0.5 * variance.log()).requires_grad_()
    off_diag = (-weights.T / variance.sqrt()).detach().requires_grad_()
    p = SparsePrecisionNormal(images.new_zeros(20), log_diag, off_diag, (1, 5, 4))
    p.log_prob(images.flatten(1)).mean().backward()
    assert log_diag.grad.abs().max() < 1e-3 and off_diag.grad.abs().max() < 1e-2


def test_pooled_regression_recovers_a_stationary_process():
    shape, ratios = (1, 24, 24), torch.tensor([-0.5, 0.1, -0.4, 0.05])
    size = math.prod(shape)
    log_diag = torch.full((size,), 1.5)
    p = SparsePrecisionNormal(
        torch.zeros(size), log_diag, ratios[:, None].expand(4, size) * math.exp(1.5), shape
    )
    images = p.sample((2000,), generator=torch.Generator().manual_seed(0)).unflatten(-1, shape)
    variance, weights = neighbour_regression(images, 3, pooled=True)
    assert variance.item() == pytest.approx(math.exp(-3), rel=0.02)
    torch.testing.assert_close(-weights[0], ratios, atol=0.03, rtol=0)


# ---------------------------------------------------------------------------- low rank + sparse


@each_shape
@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_plus_sparse(shape, k, rank):
    local, size = random(shape, k), math.prod(shape)
    factor = torch.randn(size, rank, dtype=torch.float64)
    p = LowRankPlusSparseNormal(local, factor)
    covariance = factor @ factor.T + dense(local).covariance_matrix
    expected = MultivariateNormal(local.loc, covariance)
    y = torch.randn(3, size, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(y), expected.log_prob(y))
    torch.testing.assert_close(p.entropy(), expected.entropy())
    torch.testing.assert_close(p.variance, covariance.diagonal())
    torch.testing.assert_close(p.covariance_row(0), covariance[0])
    w, u = torch.randn(2, rank, dtype=torch.float64), torch.randn(2, size, dtype=torch.float64)
    torch.testing.assert_close(p.rsample_from(w, u), local.rsample_from(u) + w @ factor.T)


def test_low_rank_plus_sparse_without_neighbours_is_low_rank_plus_diagonal():
    local = random((1, 4, 4), 1)
    factor = torch.randn(16, 3, dtype=torch.float64)
    q = LowRankNormal(local.loc, factor, (-2 * local.log_diag).exp())
    y = torch.randn(5, 16, dtype=torch.float64)
    torch.testing.assert_close(LowRankPlusSparseNormal(local, factor).log_prob(y), q.log_prob(y))


def test_low_rank_plus_sparse_batches_are_their_items():
    p = LowRankPlusSparseNormal(
        random((1, 3, 4), 3, batch=(3,)), torch.randn(12, 2, dtype=torch.float64)
    )
    y = p.sample((4,))
    assert y.shape == (4, 3, 12) and p.cov_factor.shape == (3, 12, 2)
    torch.testing.assert_close(p[1].log_prob(y[:, 1]), p.log_prob(y)[:, 1])
    torch.testing.assert_close(p[1].covariance_row(5), p.covariance_row(5)[1])
    several = p.expand((4, 3))
    assert several.sample().shape == (4, 3, 12) and several.entropy().shape == (4, 3)
    torch.testing.assert_close(several.log_prob(y), p.log_prob(y))


def test_low_rank_plus_sparse_gradients():
    local = random((1, 3, 4), 3, batch=(2,))
    factor = torch.randn(2, 12, 2, dtype=torch.float64)
    parts = [x.clone().requires_grad_() for x in (local.loc, local.log_diag, local.off_diag)]
    y = torch.randn(2, 12, dtype=torch.float64)

    def log_prob(loc, log_diag, off_diag, factor):
        local = SparsePrecisionNormal(loc, log_diag, off_diag, (1, 3, 4))
        return LowRankPlusSparseNormal(local, factor).log_prob(y)

    assert torch.autograd.gradcheck(log_prob, [*parts, factor.requires_grad_()])


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("k", [0, 2, 4, -1])
def test_even_neighbourhoods_are_refused(k):
    with pytest.raises(ValueError, match="must be odd"):
        offsets(k, 1)


def test_bad_input_is_refused_with_what_to_do():
    loc, log_diag, off_diag = torch.zeros(12), torch.zeros(12), torch.zeros(4, 12)
    with pytest.raises(ValueError, match="12 values, channels x height x width = 1x3x4"):
        SparsePrecisionNormal(torch.zeros(11), log_diag, off_diag, (1, 3, 4))
    with pytest.raises(ValueError, match="4 for 3x3.*12 for 5x5.*not 5"):
        SparsePrecisionNormal(loc, log_diag, torch.zeros(5, 12), (1, 3, 4))
    with pytest.raises(ValueError, match="3 channels"):
        SparsePrecisionNormal(loc, log_diag, torch.zeros(4, 12), (3, 2, 2))
    with pytest.raises(ValueError, match="batch shapes must broadcast"):
        SparsePrecisionNormal(torch.zeros(2, 12), torch.zeros(3, 12), off_diag, (1, 3, 4))
    # Said here, because torch.compile, which other tests use, switches torch's default off.
    for name, broken in (("loc", 0), ("log_diag", 1), ("off_diag", 2)):
        parts = [loc.clone(), log_diag.clone(), off_diag.clone()]
        parts[broken][..., 3] = math.nan
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            SparsePrecisionNormal(*parts, (1, 3, 4), validate_args=True)
    with pytest.raises(ValueError, match="log_diag must be .* between -40 and 40, .* 41 to 41"):
        SparsePrecisionNormal(loc, log_diag + 41, off_diag, (1, 3, 4), validate_args=True)
    p = SparsePrecisionNormal(loc, log_diag, off_diag, (1, 3, 4))
    with pytest.raises(ValueError, match="flatten images"):
        p.log_prob(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="noise must be"):
        p.rsample_from(torch.zeros(5))
    with pytest.raises(ValueError, match="must not be negative"):
        p.condition(torch.tensor([0]), 1.0, -0.1)
    with pytest.raises(ValueError, match=r"channels, height, width\), not \(3, 4\)"):
        SparsePrecisionNormal(loc, log_diag, off_diag, (3, 4))
    with pytest.raises(IndexError, match="0..11.*not 12"):
        p.covariance_row(12)
    with pytest.raises(ValueError, match="q = 2 edits, not"):
        p.condition([1, 2], torch.zeros(3))
    with pytest.raises(ValueError, match=r"expand the distribution, or condition once for each"):
        p.condition([1, 2], torch.zeros(3, 2))
    assert p.sample((0,)).shape == (0, 12)
    with pytest.raises(ValueError, match="0..11"):
        p.condition(torch.tensor([12]), 1.0)
    with pytest.raises(ValueError, match=r"mask, must be \(12,\), not \(6,\)"):
        p.condition(torch.ones(6, dtype=torch.bool), 1.0)
    with pytest.raises(ValueError, match="finite"):
        p.condition(torch.tensor([1]), math.nan)
    with pytest.raises(ValueError, match="S = 12"):
        LowRankPlusSparseNormal(p, torch.zeros(11, 2))


def test_the_last_of_repeated_edits_counts_and_all_or_none_may_be_edited():
    p = random((1, 3, 4), 3)
    twice = p.condition(torch.tensor([2, 2, 5]), torch.tensor([0.1, 0.7, 0.2]).double()).mean
    assert abs(twice[2] - 0.7) < 1e-6 and abs(twice[5] - 0.2) < 1e-6
    torch.testing.assert_close(p.condition(torch.tensor([], dtype=torch.long), 0.0).mean, p.loc)
    everything = p.condition(torch.ones(12, dtype=torch.bool), 0.5)
    assert (everything.mean == 0.5).all() and (everything.sample((2,)) == 0.5).all()


# ------------------------------------------------------------------------- as torch's own classes


def local_and_factor(local_batch, factor_batch):
    local = random((1, 3, 4), 3, local_batch)
    factor = torch.randn(*factor_batch, 12, 2, dtype=torch.float64)
    return LowRankPlusSparseNormal(local, factor)


@pytest.mark.parametrize("batches", [
    ((), ()), ((2,), (2,)), ((1,), (2,)), ((2,), ()), ((), (3,)), ((3, 1), (2,)), ((2,), (3, 1)),
])  # fmt: skip
def test_every_method_has_the_batch_shape_of_the_density(batches):
    p = local_and_factor(*batches)
    batch = torch.broadcast_shapes(*batches)
    y = p.sample(5)
    assert y.shape == p.rsample(np.array([5])).shape == (5, *batch, 12)
    assert p.log_prob(y).shape == (5, *batch) and p.entropy().shape == batch
    parts = p.mean, p.variance, p.stddev, p.log_diag, p.covariance_row(-1)
    assert {x.shape for x in parts} == {(*batch, 12)}
    assert p.expand((4, *batch)).sample().shape == (4, *batch, 12)
    every = p[...]
    torch.testing.assert_close(every.log_prob(y), p.log_prob(y))
    noise = torch.randn(*batch, 2).double(), torch.randn(*batch, 12).double()
    torch.testing.assert_close(every.rsample_from(*noise), p.rsample_from(*noise))


def test_an_index_means_the_batch_alone():
    p = local_and_factor((2, 3), (3,))
    for index in (0, (..., 0), (slice(None), 1), None, torch.tensor([1, 0]), ([1, 0], [2, 2])):
        numbers = torch.arange(6).view(2, 3)[index]
        for q in (p, p.local):
            assert q[index].batch_shape == numbers.shape
            assert torch.equal(q[index].loc, q.loc.reshape(6, 12)[numbers])
    with pytest.raises(IndexError):
        p[0, 0, 0]
    with pytest.raises(IndexError):
        p.local[0, 0, 0]


def test_repr_tells_the_sizes():
    p = local_and_factor((2,), ())
    sizes = "batch_shape=(2,), shape=(1, 3, 4)"
    assert repr(p.local) == f"SparsePrecisionNormal({sizes}, neighbourhood=3)"
    assert repr(p) == f"LowRankPlusSparseNormal({sizes}, rank=2, neighbourhood=3)"


def test_parameters_of_different_types_promote():
    p = random((1, 3, 4), 3, dtype=torch.float32)
    wide = SparsePrecisionNormal(p.loc.double(), p.log_diag, p.off_diag, p.shape)
    factor = torch.ones(12, 2, dtype=torch.float64)
    both = LowRankPlusSparseNormal(p, factor)
    assert {wide.sample().dtype, both.sample().dtype, both.loc.dtype} == {torch.float64}
    torch.testing.assert_close(wide.log_prob(wide.loc), p.log_prob(p.loc), rtol=1e-6, atol=1e-6)
    for dtype in (torch.float32, torch.float64):  # and what was to be checked still is
        checked = SparsePrecisionNormal(p.loc, p.log_diag, p.off_diag, p.shape, validate_args=True)
        both = LowRankPlusSparseNormal(checked, factor.to(dtype))
        with pytest.raises(ValueError, match="value must be finite"):
            both.log_prob(p.loc / 0)
    with pytest.raises(ValueError, match="real numbers"):
        SparsePrecisionNormal(*(x.long() for x in (p.loc, p.log_diag, p.off_diag)), p.shape)


@pytest.mark.parametrize("together", [False, True], ids=["sparse", "low rank and sparse"])
def test_transforms_of_torch_func(together):
    p = random((1, 3, 4), 3, (2,))
    factor = torch.randn(2, 12, 2, dtype=torch.float64)
    y = torch.randn(2, 12, dtype=torch.float64)

    def sums(loc, log_diag, off_diag, factor):
        q = SparsePrecisionNormal(loc, log_diag, off_diag, p.shape)
        draw = q.rsample_from(y[: len(loc)] if loc.dim() > 1 else y[0])
        if together:
            q = LowRankPlusSparseNormal(q, factor)
        return q.log_prob(y[: len(loc)] if loc.dim() > 1 else y[0]).sum() + draw.square().sum()

    inputs = p.loc, p.log_diag, p.off_diag, factor
    where = (0, 1, 2, 3)[: 3 + together]
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(sums(*leaves), leaves, allow_unused=True)
    for found, wanted in zip(torch.func.grad(sums, where)(*inputs), expected, strict=False):
        torch.testing.assert_close(found, wanted)
    mapped = torch.func.vmap(torch.func.grad(sums, where))(*inputs)
    single = torch.func.grad(sums, where)(*(x[0] for x in inputs))
    for found, wanted in zip(mapped, single, strict=True):
        torch.testing.assert_close(found[0], wanted)


def test_samples_differentiate_twice():
    p = random((1, 2, 3), 3)
    noise = torch.randn(6, dtype=torch.float64)

    def draw(log_diag, off_diag, noise):
        return SparsePrecisionNormal(p.loc, log_diag, off_diag, p.shape).rsample_from(noise)

    inputs = [x.clone().requires_grad_() for x in (p.log_diag, p.off_diag, noise)]
    assert torch.autograd.gradgradcheck(draw, inputs)


def test_a_compiled_loss_has_no_graph_breaks():
    p = random((1, 3, 4), 3, (2,))
    factor = torch.randn(2, 12, 2, dtype=torch.float64)
    y = torch.randn(2, 12, dtype=torch.float64)

    def loss(log_diag, factor):
        local = SparsePrecisionNormal(p.loc, log_diag, p.off_diag, p.shape)
        both = LowRankPlusSparseNormal(local, factor)
        return (both.log_prob(y) + both.entropy()).sum() + local.rsample_from(y).square().sum()

    plain, compiled = (
        torch.autograd.grad(
            f(*(inputs := [x.clone().requires_grad_() for x in (p.log_diag, factor)])), inputs
        )
        for f in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True))
    )
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("batches", [((), ()), ((2,), (2,)), ((2,), ()), ((), (3,))])
@pytest.mark.parametrize("k", [(3, 3), (1, 5)], ids=["alike", "different neighbourhoods"])
def test_kl_matches_dense(batches, k):
    shape = (2, 3, 3)
    p, q = (random(shape, n, b, seed=i) for i, (n, b) in enumerate(zip(k, batches, strict=True)))
    found = kl_divergence(p, q)
    assert found.shape == torch.broadcast_shapes(*batches)
    batch = found.shape
    for item in np.ndindex(*batch):
        expected = kl_divergence(dense(p.expand(batch), item), dense(q.expand(batch), item))
        torch.testing.assert_close(found[item], expected)
    with pytest.raises(ValueError, match="one shape"):
        kl_divergence(p, random((1, 3, 6), 3))
