"""What observations of some pixels leave of a normal with a sparse precision (eq. 6–7).

y = μ + P w + e, w ~ N(0, I), e ~ N(0, Λ⁻¹), and P may have no columns. For each w, the posterior of
e is normal: its precision is Λ without the rows and columns of values that are known exactly, plus
1/noise where they are known with noise, and its mean is linear in b - μ_2 - P_2 w. That precision
is factorised once; what is left is a regression for the R numbers w. Everything is float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sos.distributions.block_cholesky import BlockTridiagonal, Layout, flat, grouped
from sos.distributions.low_rank_normal import LOG_2PI, _identity_like, _inverse_root

__all__ = ["ConditionedNormal"]


class ConditionedNormal:
    """Hold the conditional distribution: its mean, its variance, samples, and log p(b).

    It is what `condition` of a SparsePrecisionNormal and of a LowRankPlusSparseNormal returns.
    `log_evidence` (*batch) is log p(b), nats, float64; everything else has the dtype of `like`.
    """

    def __init__(
        self,
        precision: BlockTridiagonal,  # Λ = LLᵀ, (items,)
        whiten: Callable[[Tensor], Tensor],  # Lᵀr of r (m, items, S)
        half_log_det: Tensor,  # log|L|, (items,)
        plan: Layout,
        rows: Tensor,  # μ and the columns of P, (items, 1 + R, S), float64
        observed: tuple[Tensor, Tensor, Tensor],  # pixels (q,), values and noise (items, q)
        batch_shape: torch.Size,
        like: Tensor,
    ):
        self._plan, self._like = plan, like
        self.batch_shape, self.event_shape = batch_shape, rows.shape[-1:]
        index, values, noise = observed
        self._index, self._soft = index, noise > 0
        self._weight = torch.where(self._soft, 1 / noise, 0.0)
        given = rows[..., index].clone()  # what is observed of e, for w = 0 and of each column of P
        given[:, 0] = values - given[:, 0]
        self._free = torch.ones_like(rows[:, 0])
        self._free[:, index] = self._soft.to(rows)
        self._cholesky = precision.restricted(
            self._grouped(self._free)[..., 0], self._grouped(self._spread(self._weight))[..., 0]
        ).cholesky()
        e = self._explain(precision, given)
        white = whiten(e.transpose(0, 1)).transpose(0, 1)
        misfit = self._weight.sqrt()[:, None] * (given - e[..., index])
        white = torch.cat([white, misfit], -1)
        self._gram = white @ white.mT
        self._regress(rows, e, white)
        self._mean[:, index] = values.where(~self._soft, self._mean[:, index])  # no digit is lost
        log_det = self._cholesky.log_det() - 2 * half_log_det
        log_det = log_det + noise.where(self._soft, 1.0).log().sum(-1)
        self._constant = index.numel() * LOG_2PI + log_det
        self.log_evidence = (self._log_likelihood - 0.5 * self._constant).reshape(batch_shape)

    def _grouped(self, x: Tensor) -> Tensor:
        return grouped(x[:, None], self._plan)

    def _spread(self, x: Tensor) -> Tensor:
        """Numbers of the observed values (..., q) as images (..., S), zero elsewhere."""
        image = x.new_zeros(x.shape[:-1] + self.event_shape)
        image[..., self._index] = x
        return image

    def _explain(self, precision: BlockTridiagonal, given: Tensor) -> Tensor:
        """E[e | what is observed of e] for each of several observations (items, m, q): (.., S)."""
        fixed = grouped(self._spread(given.where(~self._soft[:, None], 0.0)), self._plan)
        pull = grouped(self._spread(given * self._weight[:, None]), self._plan)
        right = (pull - precision.times(fixed)) * self._grouped(self._free)
        return flat(self._cholesky.solve(right) + fixed, self._plan)

    def _regress(self, rows: Tensor, e: Tensor, white: Tensor) -> None:
        """Find w | b: `white` (items, 1 + R, ...) has the squares of the misfits as its Gram."""
        gram, capacitance = self._gram, self._gram[:, 1:, 1:]
        root, half_logdet = _inverse_root(capacitance + _identity_like(capacitance))
        weights = root @ (root.mT @ gram[:, 1:, :1])  # E[w | b] (items, R, 1)
        self._noise = weights[..., 0], root @ root.mT
        left = rows[:, 1:] - e[:, 1:]  # what of P the observations leave
        self._mean = rows[:, 0] + e[:, 0] + (weights.mT @ left)[:, 0]
        self._factor = root.mT @ left  # (items, R, S)
        misfit = white[:, 0] - (weights.mT @ white[:, 1:])[:, 0]
        distance = misfit.square().sum(-1) + weights.square().sum((-2, -1))
        self._log_likelihood = -0.5 * distance - half_logdet

    def _own(self, x: Tensor) -> Tensor:
        return x.reshape(self.batch_shape + self.event_shape).to(self._like)

    @property
    def mean(self) -> Tensor:
        """Return the conditional mean (*batch, S)."""
        return self._own(self._mean)

    loc = mean

    @property
    def variance(self) -> Tensor:
        """Compute the conditional variances (*batch, S), zero where values are known exactly."""
        local = flat(self._cholesky.inverse_diagonal()[..., None], self._plan)[:, 0]
        return self._own(local * self._free + self._factor.square().sum(-2))

    @property
    def noise_posterior(self) -> tuple[Tensor, Tensor]:
        """Return mean (*batch, R) and covariance (*batch, R, R) of w | b, float64."""
        return tuple(x.reshape(self.batch_shape + x.shape[1:]) for x in self._noise)

    @property
    def observed_gram(self) -> tuple[Tensor, Tensor]:
        """Return what `LowRankNormal.observed_gram` does, with the covariance of e in D's place."""
        gram = self._gram.reshape(self.batch_shape + self._gram.shape[1:])
        return gram, self._constant.reshape(self.batch_shape)

    def rsample_from(self, *noise: Tensor) -> Tensor:
        """Return samples (*sample, *batch, S) for the noise that the distribution itself takes.

        That is u (..., S) of a sparse precision, and w (..., R) and u (..., S) with a low rank.
        """
        *omega, u = noise
        shape = torch.broadcast_shapes(u.shape, self.batch_shape + self.event_shape)
        items = len(self._mean)
        u = u.to(self._mean).expand(shape).reshape(-1, items, shape[-1]).transpose(0, 1)
        y = flat(self._cholesky.solve_transposed(grouped(u, self._plan)), self._plan)
        y = y * self._free[:, None] + self._mean[:, None]
        for w in omega:
            rank = self._factor.shape[1]
            w = w.to(self._mean).expand(*shape[:-1], rank).reshape(-1, items, rank).transpose(0, 1)
            y = y + w @ self._factor
        return y.transpose(0, 1).reshape(shape).to(self._like)

    def sample(self, sample_shape=(), generator: torch.Generator | None = None) -> Tensor:
        """Draw samples (*sample_shape, *batch, S)."""
        lead = torch.Size(sample_shape) + self.batch_shape
        sizes = *([self._factor.shape[1]] if self._factor.shape[1] else []), *self.event_shape
        options = {"generator": generator, "dtype": torch.float64, "device": self._mean.device}
        return self.rsample_from(*(torch.randn(*lead, size, **options) for size in sizes))
