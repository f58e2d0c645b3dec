"""The exact optimum of the bare distribution: probabilistic PCA and factor analysis (§4.5)."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA, FactorAnalysis, IncrementalPCA
from torch import Tensor

from sos.distributions.low_rank_normal import LowRankNormal
from sos.models.bare import log_density


@dataclass(frozen=True)
class Spectrum:
    """Hold mean, leading eigenvectors and eigenvalues of the covariance of N images, in float64."""

    mean: Tensor  # (S,)
    vectors: Tensor  # (S, R), orthonormal columns
    values: Tensor  # (R,), descending
    rest: float  # sum of the other eigenvalues

    @property
    def data_variance(self) -> float:
        """Return the variance of a value over the images, averaged over the values."""
        return (self.values.sum().item() + self.rest) / len(self.mean)

    def left_over(self, images: np.ndarray) -> Tensor:
        """Compute the variance (S,) of each value of the images outside the leading vectors."""
        total = torch.from_numpy((images.reshape(len(images), -1) / 255.0).var(axis=0))
        return total - (self.vectors.square() @ self.values)

    @property
    def epsilon(self) -> float:
        """Return the maximum-likelihood ε (Tipping & Bishop, 1999).

        It is the mean of the other eigenvalues.
        """
        return self.rest / (len(self.mean) - len(self.values))

    def optimum(self, epsilon: float, multiplier: float = 0.0) -> LowRankNormal:
        """Return the maximum of the likelihood for D = εI: PPᵀ = U(Λ/(1 + λ_H) - εI)Uᵀ.

        The mean μ is that of the images. With λ_H = 0 the result is probabilistic PCA (Tipping &
        Bishop, 1999). A multiplier λ_H of the entropy turns the stationarity SΣ⁻¹P = P into
        SΣ⁻¹P = (1 + λ_H)P, which is the same for S/(1 + λ_H).
        """
        squares = (self.values / (1 + multiplier) - epsilon).clamp(min=0)
        return LowRankNormal(self.mean, self.vectors * squares.sqrt(), epsilon, validate_args=False)

    def rank_entropy(self, epsilon: float) -> float:
        """Compute ½ log|I + PᵀP/ε| at the maximum of the likelihood, in nats."""
        return 0.5 * (self.values / epsilon).clamp(min=1).log().sum().item()

    def constrained(self, epsilon: float, rank_entropies: Tensor) -> dict[str, Tensor]:
        """Compute mean variance and lost log-density of the optima with these rank entropies.

        The log-density is that of the images. All leading eigenvalues shrink by the one factor
        1/(1 + λ_H), which loses ½R(λ_H - log(1 + λ_H)) nats.
        """
        pixels, rank = len(self.mean), len(self.values)
        multipliers = ((self.rank_entropy(epsilon) - rank_entropies) * 2 / rank).expm1()
        variance = self.values.sum() / (1 + multipliers) + (pixels - rank) * epsilon
        return {
            "rank_entropy": rank_entropies,
            "variance": variance / pixels,
            "lost": 0.5 * rank * (multipliers - multipliers.log1p()),
        }


def spectrum(images: Tensor | np.ndarray, rank: int) -> Spectrum:
    """Compute the exact principal components of uint8 images (N, ...), by ARPACK in float64."""
    return spectrum_of(np.asarray(images).reshape(len(images), -1) / 255.0, rank)


def spectrum_of(flat: np.ndarray, rank: int) -> Spectrum:
    """Compute the exact principal components of float64 rows (N, S), by ARPACK."""
    pca = PCA(rank, svd_solver="arpack", random_state=0).fit(flat)
    # scikit-learn divides by N - 1; the likelihood by N.
    share = (len(flat) - 1) / len(flat)
    values = torch.from_numpy(pca.explained_variance_ * share)
    return Spectrum(
        torch.from_numpy(pca.mean_),
        torch.from_numpy(pca.components_.T.copy()),
        values,
        float(flat.var(axis=0).sum() - values.sum()),
    )


def principal_angles(one: Tensor, other: Tensor) -> Tensor:
    """Compute the angles (R,) between the spans of the columns of two (S, R).

    The angles are in degrees, in ascending order.
    """
    a, b = (torch.linalg.qr(x.double())[0] for x in (one, other))
    inner = a.mT @ b
    # Sines of the small angles are exact where their cosines round to one (Björck & Golub, 1973).
    sines = torch.linalg.svdvals(b - a @ inner).flip(0)
    cosines = torch.linalg.svdvals(inner)
    small = cosines > 0.5**0.5
    angles = torch.where(small, sines.clamp(max=1).asin(), cosines.clamp(max=1).acos())
    return angles.rad2deg()


def pca_samples(images: np.ndarray, rank: int, count: int) -> Tensor:
    """Draw samples (count, S) of a linear PCA as the authors do: incremental, without noise."""
    flat = images.reshape(len(images), -1) / np.float32(255)
    pca = IncrementalPCA(rank, batch_size=100).fit(flat)
    scores = np.random.default_rng(0).standard_normal((count, rank))
    return torch.from_numpy(pca.inverse_transform(scores * pca.explained_variance_**0.5)).float()


def factor_analysis(images: np.ndarray, rank: int) -> LowRankNormal:
    """Maximise the likelihood with a free diagonal, by scikit-learn's EM."""
    flat = images.reshape(len(images), -1) / 255.0
    # With fewer power iterations the likelihood is not monotonic, and EM stops at once.
    settings = {"iterated_power": 10, "tol": 3.0, "max_iter": 200, "random_state": 0}
    found = FactorAnalysis(rank, **settings).fit(flat)
    parts = found.mean_, found.components_.T.copy(), found.noise_variance_
    return LowRankNormal(*map(torch.from_numpy, parts), validate_args=False)


def variance_ratio(samples: Tensor, images: np.ndarray) -> float:
    """Return the mean variance of a value over samples (N, S), divided by that over images."""
    return samples.var(0).mean().item() / (images / 255.0).var(axis=0).mean()


def compare(
    p: LowRankNormal, best: LowRankNormal, exact: Spectrum, images: np.ndarray
) -> dict[str, float]:
    """Compare one distribution with the `best`: entropy, variance, log-density of images, span.

    Log-densities are in nats per value. The angle is the largest between the spans, in degrees.
    """
    pixels, density = len(exact.mean), log_density(p, images)
    return {
        "rank_entropy": p.rank_entropy.item(),
        "variance_ratio": p.variance.mean().item() / exact.data_variance,
        "log_density": density / pixels,
        "gap": (log_density(best, images) - density) / pixels,
        "angle": principal_angles(p.cov_factor.cpu(), best.cov_factor.cpu())[-1].item(),
    }
