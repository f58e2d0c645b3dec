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
    """Mean, leading eigenvectors and eigenvalues of the covariance of N images, in float64."""

    mean: Tensor  # (S,)
    vectors: Tensor  # (S, R), orthonormal columns
    values: Tensor  # (R,), descending
    rest: float  # sum of the other eigenvalues

    @property
    def data_variance(self) -> float:
        """Mean variance of a value over the images."""
        return (self.values.sum().item() + self.rest) / len(self.mean)

    def left_over(self, images: np.ndarray) -> Tensor:
        """Variance (S,) of each value of the images outside the leading eigenvectors."""
        total = torch.from_numpy((images.reshape(len(images), -1) / 255.0).var(axis=0))
        return total - (self.vectors.square() @ self.values)

    @property
    def epsilon(self) -> float:
        """The maximum-likelihood ε: the mean of the other eigenvalues (Tipping & Bishop)."""
        return self.rest / (len(self.mean) - len(self.values))

    def optimum(self, epsilon: float, multiplier: float = 0.0) -> LowRankNormal:
        """Maximum likelihood for D = εI: PPᵀ = U(Λ/(1 + λ_H) - εI)Uᵀ, and μ the images' mean.

        With λ_H = 0 that is probabilistic PCA (Tipping & Bishop, 1999). A multiplier λ_H of the
        entropy turns the stationarity SΣ⁻¹P = P into SΣ⁻¹P = (1 + λ_H)P: the same for S/(1 + λ_H).
        """
        squares = (self.values / (1 + multiplier) - epsilon).clamp(min=0)
        return LowRankNormal(self.mean, self.vectors * squares.sqrt(), epsilon, validate_args=False)

    def rank_entropy(self, epsilon: float) -> float:
        """½ log|I + PᵀP/ε| of the maximum of the likelihood."""
        return 0.5 * (self.values / epsilon).clamp(min=1).log().sum().item()

    def constrained(self, epsilon: float, rank_entropies: Tensor) -> dict[str, Tensor]:
        """The optima with these rank entropies: mean variance, and log-density lost on the images.

        All leading eigenvalues shrink by the one factor 1/(1 + λ_H), which loses ½R(λ_H -
        log(1 + λ_H)) nats.
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
    """The exact principal components of uint8 images (N, ...), by ARPACK in float64."""
    flat = np.asarray(images).reshape(len(images), -1) / 255.0
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
    """Angles (R,) in degrees, ascending, between the spans of the columns of two (S, R)."""
    a, b = (torch.linalg.qr(x.double())[0] for x in (one, other))
    inner = a.mT @ b
    # Sines of the small angles are exact where their cosines round to one (Björck & Golub, 1973).
    sines = torch.linalg.svdvals(b - a @ inner).flip(0)
    cosines = torch.linalg.svdvals(inner)
    small = cosines > 0.5**0.5
    angles = torch.where(small, sines.clamp(max=1).asin(), cosines.clamp(max=1).acos())
    return angles.rad2deg()


def pca_samples(images: np.ndarray, rank: int, count: int) -> Tensor:
    """Samples (count, S) of a linear PCA, as the authors draw them: incremental, without noise."""
    flat = images.reshape(len(images), -1) / np.float32(255)
    pca = IncrementalPCA(rank, batch_size=100).fit(flat)
    scores = np.random.default_rng(0).standard_normal((count, rank))
    return torch.from_numpy(pca.inverse_transform(scores * pca.explained_variance_**0.5)).float()


def factor_analysis(images: np.ndarray, rank: int) -> LowRankNormal:
    """Maximum likelihood with a free diagonal, by scikit-learn's EM."""
    flat = images.reshape(len(images), -1) / 255.0
    # With fewer power iterations the likelihood is not monotonic, and EM stops at once.
    settings = {"iterated_power": 10, "tol": 3.0, "max_iter": 200, "random_state": 0}
    found = FactorAnalysis(rank, **settings).fit(flat)
    parts = found.mean_, found.components_.T.copy(), found.noise_variance_
    return LowRankNormal(*map(torch.from_numpy, parts), validate_args=False)


def variance_ratio(samples: Tensor, images: np.ndarray) -> float:
    """Mean variance of a value over samples (N, S), over that of images."""
    return samples.var(0).mean().item() / (images / 255.0).var(axis=0).mean()


def compare(
    p: LowRankNormal, best: LowRankNormal, exact: Spectrum, images: np.ndarray
) -> dict[str, float]:
    """One distribution beside the `best`: entropy, variance, log-density of images, span."""
    pixels, density = len(exact.mean), log_density(p, images)
    return {
        "rank_entropy": p.rank_entropy.item(),
        "variance_ratio": p.variance.mean().item() / exact.data_variance,
        "log_density": density / pixels,
        "gap": (log_density(best, images) - density) / pixels,
        "angle": principal_angles(p.cov_factor.cpu(), best.cov_factor.cpu())[-1].item(),
    }
