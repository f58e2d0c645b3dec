"""The likeliest one covariance of each form, against dense matrices and scikit-learn."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from sos.analysis.density import ppca
from sos.distributions import LowRankPlusSparseNormal, SparsePrecisionNormal
from sos.distributions.sparse_precision_normal import offsets
from sos.models.residuals import low_rank_and_sparse, probabilistic_pca

SHAPES = [(1, 5, 4), (3, 3, 4)]


def images(shape, count=4000, rank=2, seed=0):
    """Draw from N(0, AᵀA + (LLᵀ)⁻¹), a sparse precision and a few global patterns; centred."""
    torch.manual_seed(seed)
    size, neighbours = torch.Size(shape).numel(), len(offsets(3, shape[0]))
    log_diag, off_diag = 1 + 0.2 * torch.randn(size), -0.7 * torch.rand(neighbours, size)
    local = SparsePrecisionNormal(torch.zeros(size), log_diag, off_diag, shape)
    axes = torch.randn(rank, size)
    x = torch.randn(count, rank) @ axes + local.rsample((count,))
    return (x - x.mean(0)).view(count, *shape)


def density(log_diag, ratios, axes, x):
    shape = tuple(x.shape[1:])
    local = SparsePrecisionNormal(
        torch.zeros_like(log_diag), log_diag, ratios * log_diag.exp(), shape
    )
    p = LowRankPlusSparseNormal(local, axes.mT) if len(axes) else local
    return p.log_prob(x.flatten(1)).mean().item()


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("epsilon", [None, 0.02])
def test_probabilistic_pca_has_the_density_of_the_exact_solution(rank, epsilon):
    x = images((1, 5, 4)).flatten(1)
    axes, noise = probabilistic_pca(x, rank, epsilon)
    covariance = axes.mT @ axes + noise * torch.eye(x.shape[1])
    found = MultivariateNormal(torch.zeros(x.shape[1]), covariance).log_prob(x).mean().item()
    if epsilon is not None:
        assert noise == epsilon
    elif rank:
        assert found == pytest.approx(ppca(x, rank).log_prob(x.double()).mean().item(), abs=1e-3)
    for factor in (0.9, 1.1):  # a maximum in the size of the axes
        other = factor * axes.mT @ axes + noise * torch.eye(x.shape[1])
        worse = MultivariateNormal(torch.zeros(x.shape[1]), other).log_prob(x).mean().item()
        assert worse < found or not rank


@pytest.mark.parametrize("shape", SHAPES)
def test_low_rank_and_sparse_beats_both_of_its_parts(shape):
    """And comes near the density of the true covariance, estimated without any structure."""
    x = images(shape)
    log_diag, ratios, axes = low_rank_and_sparse(x, 2, 3)
    both = density(log_diag, ratios, axes, x)
    sparse = density(*low_rank_and_sparse(x, 0, 3), x)
    low, noise = probabilistic_pca(x.flatten(1), 2)
    size = x[0].numel()
    low_rank = MultivariateNormal(torch.zeros(size), low.mT @ low + noise * torch.eye(size))
    whole = MultivariateNormal(torch.zeros(size), x.flatten(1).T.cov())
    assert both > sparse + 0.5
    assert both > low_rank.log_prob(x.flatten(1)).mean() + 0.5
    assert both > whole.log_prob(x.flatten(1)).mean() - 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_factor_is_the_likeliest_for_its_precision(shape):
    """Nudging P in any direction loses density, on the images that it was found for."""
    x = images(shape)
    log_diag, ratios, axes = low_rank_and_sparse(x, 2, 3)
    best = density(log_diag, ratios, axes, x)
    torch.manual_seed(1)
    for _ in range(5):
        nudge = 0.05 * axes.std() * torch.randn_like(axes)
        for sign in (-1, 1):
            assert density(log_diag, ratios, axes + sign * nudge, x) < best
    for factor in (0.97, 1.03):
        assert density(log_diag, ratios, factor * axes, x) < best
