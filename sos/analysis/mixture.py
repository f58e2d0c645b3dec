"""A mixture of probabilistic PCAs: what images look like to a few low ranks, without a network."""

from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor

from sos.analysis.density import QUANTISATION_VARIANCE
from sos.analysis.pca import Spectrum
from sos.distributions.low_rank_normal import LOG_2PI, LowRankNormal

CHUNK = 500  # images whose density is computed at a time


@dataclass(frozen=True)
class Mixture:
    """Hold p(x) = Σ_k π_k N(x; μ_k, P_kP_kᵀ + ε_kI) (Tipping & Bishop, 1999), in float64."""

    weights: Tensor  # π (K,), sum to one
    components: LowRankNormal  # a batch (K,)
    history: Tensor  # mean log-density of the training images after each step of EM, nats

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log Σ_k π_k N(x; μ_k, P_kP_kᵀ + ε_kI) of flat images (N, S), in nats: (N,)."""
        return torch.cat(
            [
                (self.weights.log() + self.components.log_prob(part[:, None].double())).logsumexp(1)
                for part in x.split(CHUNK)
            ]
        )

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw images (count, S)."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        every = [self.components[k].sample((count,), generator) for k in range(len(self.weights))]
        return torch.stack(every)[chosen, torch.arange(count)]

    @property
    def stored_values(self) -> int:
        """Count the numbers that are stored, as `density.stored_values` does: K(S(R + 1) + 2)."""
        size = self.components.event_shape[0]
        return len(self.weights) * (size * (self.components.rank + 1) + 2)


def fit(
    x: Tensor,
    components: int,
    rank: int,
    *,
    basis: int = 512,
    steps: int = 100,
    tolerance: float = 0.01,
    least: float = QUANTISATION_VARIANCE,
    seed: int = 0,
) -> Mixture:
    """Fit a mixture of K PPCAs of rank R to images x (N, ...) by EM, started by k-means.

    Means and factors lie in the span of the `basis` leading principal components of all images, in
    whose coordinates EM runs; what lies outside counts exactly, by its length. So the likelihood
    never falls, and where `basis` is below min(N, S) - 1 its maximum is that of the constrained
    model. No ε_k falls below `least`. EM ends after `steps`, or where a step gains less than
    `tolerance` nats per image. Raises ValueError where a component is left with too few images, and
    for a rank outside 1..basis - 1.
    """
    data = _project(x.flatten(1).double().cpu(), basis, seed)
    _check_rank(rank, data.inside.shape[1])
    start = KMeans(components, n_init=4, random_state=seed).fit_predict(data.inside.numpy())
    shares = torch.nn.functional.one_hot(torch.from_numpy(start).long(), components).double()
    history: list[float] = []
    for _ in range(max(1, steps)):
        weights, parts = _maximise(data, shares, rank, least)
        joint = weights.log() + data.log_prob(parts)
        total = joint.logsumexp(1)
        history.append(total.mean().item())
        if len(history) > 1 and history[-1] - history[-2] < tolerance:
            break
        shares = (joint - total[:, None]).exp()
    return Mixture(weights, data.lift(parts), torch.tensor(history, dtype=torch.float64))


def _check_rank(rank: int, basis: int) -> None:
    """Raise ValueError unless there are as many components and one left for ε."""
    if not 1 <= rank < basis:
        raise ValueError(
            f"rank: expected 1 to {basis - 1} in a basis of {basis}, not {rank}; lower the rank, "
            "or give more images and a larger basis"
        )


@dataclass(frozen=True)
class _Coordinates:
    """Hold images as coordinates in a basis of M directions, and what lies outside of it."""

    centre: Tensor  # (S,)
    basis: Tensor  # (S, M), orthonormal columns
    inside: Tensor  # (N, M)
    outside: Tensor  # (N,), squared distance from the span

    def log_prob(self, parts: LowRankNormal) -> Tensor:
        """Compute the log-density of all images over all S values, for each of a batch (N, K)."""
        epsilon = parts.cov_diag[:, 0]
        more = len(self.centre) - self.basis.shape[1]
        rest = more * (LOG_2PI + epsilon.log()) + self.outside[:, None] / epsilon
        return parts.log_prob(self.inside[:, None]) - 0.5 * rest

    def lift(self, parts: LowRankNormal) -> LowRankNormal:
        """Return the distributions over images of those over coordinates."""
        loc = self.centre + parts.loc @ self.basis.T
        factor = self.basis @ parts.cov_factor
        return LowRankNormal(loc, factor, parts.cov_diag[:, :1], validate_args=False)


def _project(flat: Tensor, basis: int, seed: int) -> _Coordinates:
    """Find the leading directions of images (N, S); they are exact where they are all there are."""
    size = min(basis, len(flat) - 1, flat.shape[1])
    if size < 1:
        raise ValueError(f"x: a mixture needs at least 2 images, got {len(flat)}; give more")
    pca = PCA(size, svd_solver="randomized", iterated_power=4, random_state=seed)
    directions = torch.from_numpy(pca.fit(flat.numpy()).components_.T.copy())
    centre = torch.from_numpy(pca.mean_)
    deviation = flat - centre
    inside = deviation @ directions
    outside = deviation.square().sum(1) - inside.square().sum(1)
    return _Coordinates(centre, directions, inside, outside.clamp(min=0))


def _maximise(
    data: _Coordinates, shares: Tensor, rank: int, least: float
) -> tuple[Tensor, LowRankNormal]:
    """Return weights (K,) and PPCAs, a batch (K,) over coordinates, for shares (N, K) of images."""
    counts = shares.sum(0)
    few = int(counts.argmin())
    if counts[few] < rank + 2:
        raise ValueError(
            f"components: number {few} is left with {counts[few]:.1f} images, and a rank of {rank} "
            f"needs {rank + 2}; lower components or rank, give more images or try another seed"
        )
    optima = [_optimum(data, share / share.sum(), rank, least) for share in shares.T]
    loc, factor, diag = (
        torch.stack([getattr(one, name) for one in optima])
        for name in ("loc", "cov_factor", "cov_diag")
    )
    return counts / counts.sum(), LowRankNormal(loc, factor, diag[:, :1], validate_args=False)


def _optimum(data: _Coordinates, share: Tensor, rank: int, least: float) -> LowRankNormal:
    """Return the PPCA over coordinates that is likeliest for images with weights (N,), sum one."""
    mean = share @ data.inside
    deviation = (data.inside - mean) * share.sqrt()[:, None]
    values, vectors = torch.linalg.eigh(deviation.T @ deviation)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    rest = values[rank:].sum() + share @ data.outside
    found = Spectrum(mean, vectors[:, :rank], values[:rank], rest.item())
    return found.optimum(max(least, _epsilon(found.values, found.rest, len(data.centre))))


def _epsilon(values: Tensor, rest: float, size: int) -> float:
    """Return the likeliest ε of S values with R leading variances in the basis, and the `rest`.

    Variance outside the basis may exceed a leading one inside. That one then belongs to ε: ε is the
    mean of all but the first q, for the largest q whose last variance is not below it.
    """
    left = rest + values.flip(0).cumsum(0).flip(0)  # without the first q = 0 … R - 1
    left = torch.cat([left, left.new_tensor([rest])])
    epsilon = left / (size - torch.arange(len(left)))
    return epsilon[int((values >= epsilon[1:]).sum())].item()
