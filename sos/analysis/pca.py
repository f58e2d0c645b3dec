"""The exact optimum of the bare distribution: probabilistic PCA and factor analysis (§4.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from sos.distributions.low_rank_normal import LOG_2PI, LowRankNormal
from sos.models.bare import log_density

BLOCK = 2**18  # float64 numbers that are read twice while they are in a core's cache


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

    @torch.no_grad()
    def log_densities(self, images: np.ndarray, epsilons: Sequence[float]) -> Tensor:
        """Compute the mean log-densities (n,) of uint8 images (N, ...) at the maxima for n ε.

        With v_r = max(λ_r, ε), the mean square q_r of the images along eigenvector r, and the mean
        q of |x - μ|², they are -½(S log 2π + Σ log v_r + Σ q_r/v_r + (S - R) log ε + (q - Σ q_r)/ε)
        nats. So the images are read once for all ε.
        """
        squares, total = torch.zeros_like(self.values), torch.zeros((), dtype=torch.float64)
        for part in np.array_split(images, max(1, len(images) // 500)):
            offset = torch.from_numpy(part.reshape(len(part), -1) / 255.0) - self.mean
            squares += (offset @ self.vectors).square().sum(0) / len(images)
            total += offset.square().sum() / len(images)
        epsilon = torch.tensor(epsilons, dtype=torch.float64)
        inside = torch.maximum(self.values, epsilon[:, None])
        outside = (len(self.mean) - len(self.values)) * epsilon.log()
        outside += (total - squares.sum()) / epsilon
        return -0.5 * (
            len(self.mean) * LOG_2PI + (inside.log() + squares / inside).sum(1) + outside
        )

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
    """Compute the exact principal components of uint8 images (N, ...), by ARPACK in float64.

    The largest entry of each eigenvector is positive.
    """
    return spectrum_of(np.asarray(images).reshape(len(images), -1) / 255.0, rank)


def spectrum_of(flat: np.ndarray, rank: int) -> Spectrum:
    """Compute the exact principal components of float64 rows (N, S), by ARPACK."""
    mean = flat.mean(axis=0)
    flat = flat - mean
    rows = max(1, BLOCK // len(mean))
    parts = [flat[start : start + rows] for start in range(0, len(flat), rows)]

    def covariance(v: np.ndarray) -> np.ndarray:
        return sum((part @ v.ravel()) @ part for part in parts) / len(flat)

    start = np.random.default_rng(0).standard_normal(len(mean))
    operator = LinearOperator((len(mean), len(mean)), covariance, dtype=flat.dtype)
    values, vectors = eigsh(operator, rank, v0=start)
    values, vectors = values[::-1].copy(), vectors[:, ::-1]
    vectors = vectors * _peak_signs(vectors.T)
    rest = sum(np.vdot(part, part) for part in parts) / len(flat) - values.sum()
    return Spectrum(*map(torch.from_numpy, (mean, vectors, values)), float(rest))


def _peak_signs(rows: np.ndarray) -> np.ndarray:
    """Return the sign of the entry of each row that is largest in magnitude."""
    return np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)])


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
    mean, axes = incremental_pca(images, rank)
    scores = np.random.default_rng(0).standard_normal((count, len(axes)))
    return torch.from_numpy(mean + scores @ axes).float()


def incremental_pca(images: np.ndarray, rank: int, batch: int = 100) -> tuple[np.ndarray, ...]:
    """Fit a PCA to uint8 images (N, ...) batch by batch (Ross et al., 2008), in float64.

    Returns the mean (S,) and the axes (R, S), principal components times standard deviations. The
    batches and signs are those of scikit-learn's `IncrementalPCA`, which decomposes each batch with
    the axes so far by an SVD. The eigenvectors of its small Gram matrix cost less.
    """
    flat = images.reshape(len(images), -1)
    mean, axes, seen = np.zeros(flat.shape[1]), np.empty((0, flat.shape[1])), 0
    for part in np.split(flat, range(batch, len(flat) - rank + 1, batch)):
        part, total = part / 255.0, seen + len(part)
        shift = part.mean(axis=0) - mean
        between = np.sqrt(seen * len(part) / total) * shift
        rows = np.vstack([axes, part - part.mean(axis=0), between])
        _, left = np.linalg.eigh(rows @ rows.T)
        axes = left[:, : -rank - 1 : -1].T @ rows
        mean, seen = mean + shift * (len(part) / total), total
    return mean, axes * (_peak_signs(axes) / np.sqrt(seen - 1))[:, None]


def factor_analysis(
    images: np.ndarray, rank: int, tolerance: float = 3.0, steps: int = 200
) -> LowRankNormal:
    """Maximise the likelihood of uint8 images (N, ...) with a free diagonal D.

    In turn PPᵀ becomes the best for D, by probabilistic PCA of D^-½(x - μ), and D takes the
    variance that PPᵀ leaves (Barber, 2012, algorithm 21.1), until the log-likelihood of all images
    gains less than `tolerance` nats or `steps` are done. scikit-learn's `FactorAnalysis` does the
    same. Here the power iterations of a step start from the eigenvectors of the step before.
    """
    flat = images.reshape(len(images), -1) / 255.0
    mean = flat.mean(axis=0)
    flat -= mean
    covariance = flat.T @ flat / len(flat)
    variance = covariance.diagonal()
    noise, before = np.ones_like(variance), np.inf
    vectors = np.random.default_rng(0).standard_normal((len(mean), min(len(mean), rank + 10)))
    for _ in range(steps):
        root = np.sqrt(noise)[:, None]
        for _ in range(4):
            product = covariance @ (vectors / root) / root
            vectors, values, _ = np.linalg.svd(product, full_matrices=False)
        leading = values[:rank]
        factor = root * vectors[:, :rank] * np.sqrt(np.maximum(leading - 1, 0))
        lost = np.log(leading).sum() - leading.sum() + (np.log(noise) + variance / noise).sum()
        if len(flat) / 2 * (before - lost) < tolerance:
            break
        before, noise = lost, np.maximum(variance - np.square(factor).sum(axis=1), 1e-12)
    return LowRankNormal(*map(torch.from_numpy, (mean, factor, noise)), validate_args=False)


def variance_ratio(samples: Tensor, images: np.ndarray) -> float:
    """Return the mean variance of a value over samples (N, S), divided by that over images."""
    return samples.var(0).mean().item() / (images / 255.0).var(axis=0).mean()


def compare(
    distributions: dict[str, LowRankNormal], best: str, exact: Spectrum, images: np.ndarray
) -> dict[str, dict[str, float]]:
    """Compare distributions with the `best` of them: entropy, variance, log-density, span.

    Log-densities are those of the images, in nats per value. The angle is the largest between the
    spans, in degrees.
    """
    pixels, span = len(exact.mean), distributions[best].cov_factor.cpu()
    density = {name: log_density(p, images) / pixels for name, p in distributions.items()}
    return {
        name: {
            "rank_entropy": p.rank_entropy.item(),
            "variance_ratio": p.variance.mean().item() / exact.data_variance,
            "log_density": density[name],
            "gap": density[best] - density[name],
            "angle": principal_angles(p.cov_factor.cpu(), span)[-1].item(),
        }
        for name, p in distributions.items()
    }
