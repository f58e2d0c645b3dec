"""Structured uncertainty by a sparse Cholesky factor of the precision (Dorta et al., 2018).

y ~ N(μ, (LLᵀ)⁻¹), L lower triangular over the values in the order pixel by pixel (rows, then
columns) and, at each pixel, channel by channel. Column k of L has its diagonal exp(log_diag_k) and
one weight for each later neighbour k + f inside the image: the later half of a k x k neighbourhood
in its own channel (Dorta et al., 2018), and the later channels of the same pixel (Dorta et al.,
2018b, for colour). Training needs no solve: Lᵀr is a sum of shifted products. Sampling solves
Lᵀe = u by back substitution along wavefronts, all images and samples at a time.

Shapes: `batch`, `S` = channels x height x width values, flat and channel-major as everywhere;
`n` offsets. Densities and entropies are in nats and float64. Depends on torch and scipy alone.
"""

import math
import re
from collections.abc import Iterator
from functools import cache, reduce

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.nn import functional as F

from sos.distributions import block_cholesky
from sos.distributions.conditioned_normal import ConditionedNormal
from sos.distributions.low_rank_normal import (
    LOG_2PI,
    LowRankNormal,
    TrainingTerms,
    _as_size,
    _check_value,
    _check_values,
    _combine,
    _folded,
    _noise,
    _observations,
    _operator,
    _pixel,
    _posterior_root,
    _take,
)

__all__ = ["LowRankPlusSparseNormal", "SparsePrecisionNormal", "offsets"]

Shape = tuple[int, int, int]
_NAMESPACE = re.sub(r"\W", "_", __name__)
LARGEST_LOG = 40.0  # exp of twice that is a float32
COLUMNS = 256  # unit vectors that the exact variance solves at a time
BLOCK = 100  # images that a regression looks at a time


def offsets(neighbourhood: int, channels: int) -> tuple[tuple[int, int, int], ...]:
    """List where the weights of a column lie: (channel, row, column) steps to later values.

    The k² // 2 later places of a k x k neighbourhood in raster order, then the later channels.
    Raises ValueError unless k is odd.
    """
    if neighbourhood < 1 or neighbourhood % 2 == 0:
        raise ValueError(
            f"neighbourhood must be odd, 1, 3, 5 …, not {neighbourhood}: pixels are at its centre"
        )
    h = neighbourhood // 2
    later = [(0, 0, column) for column in range(1, h + 1)]
    later += [(0, row, column) for row in range(1, h + 1) for column in range(-h, h + 1)]
    return tuple(later + [(channel, 0, 0) for channel in range(1, channels)])


def neighbourhood_of(count: int, channels: int) -> int:
    """Return the k of `count` offsets. Raises ValueError where there is none."""
    k = math.isqrt(max(2 * (count - channels + 1) + 1, 0))
    if count < channels - 1 or k % 2 == 0 or len(offsets(k, channels)) != count:
        known = ", ".join(f"{len(offsets(k, channels))} for {k}x{k}" for k in (1, 3, 5, 7))
        raise ValueError(
            f"off_diag must have one weight per later neighbour and channel ({known}, with "
            f"{channels} channel{'s' * (channels > 1)}), not {count}"
        )
    return k


def _shifted(x: Tensor, steps) -> list[Tensor]:
    """x (..., C, H, W) as seen from each place in steps (dc, di, dj); zero outside."""
    channels, height, width = x.shape[-3:]
    h = max((row for _, row, _ in steps), default=0)
    across = max((abs(column) for *_, column in steps), default=0)
    padded = F.pad(x, (across, across, 0, h, 0, channels - 1))
    return [
        padded[..., c : c + channels, i : i + height, across + j : across + j + width]
        for c, i, j in steps
    ]


@cache
def _wavefronts(shape: Shape, neighbourhood: int, device: str) -> tuple:
    """Back substitution's order: padded shape, flat places of all values, and how many at a time.

    A value may be solved once all later neighbours are: at step C ((h + 1)(H - 1 - i) + W - 1 - j)
    + C - 1 - c.
    """
    channels, height, width = shape
    h = neighbourhood // 2
    c, i, j = np.meshgrid(*map(np.arange, shape), indexing="ij")
    step = channels * ((h + 1) * (height - 1 - i) + width - 1 - j) + channels - 1 - c
    order = np.argsort(step, axis=None, kind="stable")
    counts = np.bincount(step.ravel())
    rows, columns = height + h, width + 2 * h
    places = ((c * rows + i) * columns + j + h).ravel()[order]
    jumps = [(dc * rows + di) * columns + dj for dc, di, dj in offsets(neighbourhood, channels)]
    padded = (2 * channels - 1) * rows * columns
    to = torch.device(device)
    return (
        padded,
        torch.from_numpy(order).to(to),
        torch.from_numpy(places).to(to),
        torch.tensor(jumps, device=to, dtype=torch.long),
        [count for count in counts.tolist() if count],
    )


@_operator(f"{_NAMESPACE}::back_substitute")
def _back_substitution(
    diag: Tensor, weights: Tensor, rhs: Tensor, shape: list[int], k: int
) -> Tensor:
    """e of Lᵀe = u: diag (items, S), weights (items, n, S), rhs and result (items, m, S)."""
    padded, order, places, jumps, counts = _wavefronts(tuple(shape), k, str(diag.device))
    items, m, _ = rhs.shape
    # Values first, so that what is gathered lies in rows of items and samples.
    u = rhs.permute(2, 0, 1)[order]  # (S, items, m)
    inverse = diag.T[order].reciprocal()[..., None]
    w = weights.permute(2, 1, 0)[order][..., None]  # (S, n, items, 1)
    e = rhs.new_zeros(padded, items, m)
    start = 0
    for count in counts:
        stop = start + count
        at = places[start:stop]
        later = e[at[:, None] + jumps]  # (count, n, items, m)
        known = (w[start:stop] * later).sum(1)
        e[at] = (u[start:stop] - known) * inverse[start:stop]
        start = stop
    solved = torch.empty_like(u)
    solved[order] = e[places]
    return solved.permute(1, 2, 0).contiguous()


@_back_substitution.register_fake
def _(diag, weights, rhs, shape, k):
    return rhs.new_empty(rhs.shape)


@_back_substitution.register_vmap
def _(info, axes, *arguments):
    # One L for all has further right sides; otherwise what is mapped are further items.
    into, count = int(axes[:2] == (None, None)), info.batch_size
    *root, rhs = arguments[:3]
    if not into:
        root = [_folded(x, axis, count, 0) for x, axis in zip(root, axes, strict=False)]
    solved = _back_substitution(*root, _folded(rhs, axes[2], count, into), *arguments[3:])
    return solved.unflatten(into, (count, -1)), into


class _BackSubstitute(torch.autograd.Function):
    """e = L⁻ᵀ u, with du = L⁻¹ de, dw_f(k) = -du_k e_{k+f} and dL_kk = -du_k e_k."""

    generate_vmap_rule = True

    @staticmethod
    def forward(diag, weights, rhs, shape, k):
        return _back_substitution(diag, weights, rhs, list(shape), k)

    @staticmethod
    def setup_context(ctx, inputs, output):
        diag, weights, _, *ctx.problem = inputs
        ctx.save_for_backward(diag, weights, output)

    @staticmethod
    def backward(ctx, grad):
        diag, weights, solved = ctx.saved_tensors
        shape, k = ctx.problem
        grad_rhs = _forward_substitute(diag, weights, grad, shape, k)
        seen = _shifted(solved.unflatten(-1, shape), offsets(k, shape[0]))
        pushes = [-(grad_rhs * one.flatten(-3)).sum(1) for one in seen]
        grad_weights = torch.stack(pushes, 1) if pushes else torch.zeros_like(weights)
        return -(grad_rhs * solved).sum(1), grad_weights, grad_rhs, None, None


_back_substitute = _BackSubstitute.apply


def _transposed(weights: Tensor, shape: Shape, k: int) -> Tensor:
    """Weights of rows, w_f(k - f), turned so that L a = b looks like Lᵀe = u."""
    turned = weights.flip(-1).unflatten(-1, shape)  # every axis the other way round
    steps = offsets(k, shape[0])
    moved = [_shifted(turned[..., f, :, :, :], [step])[0] for f, step in enumerate(steps)]
    return torch.stack(moved, -4).flatten(-3) if moved else weights


def _forward_substitute(diag: Tensor, weights: Tensor, rhs: Tensor, shape: Shape, k: int) -> Tensor:
    """a of L a = b: the same problem seen from the other corner of the image."""
    turned = diag.flip(-1), _transposed(weights, shape, k), rhs.flip(-1)
    return _back_substitute(*turned, shape, k).flip(-1)


def neighbour_regression(
    images: Tensor, neighbourhood: int, pooled: bool = False
) -> tuple[Tensor, Tensor]:
    """Regress each value on its later neighbours, over images (N, C, H, W) of mean zero.

    Returns the variances s² that are left, (S,), and the weights a, (S, n): the normal with
    L_kk = 1/s and L_{k+f,k} = -a_f/s is the likeliest with this sparsity (Vecchia, 1988).
    `pooled`: one regression for all pixels of a channel, (C,) and (C, n).
    """
    shape = tuple(images.shape[1:])
    steps = ((0, 0, 0), *offsets(neighbourhood, shape[0]))
    gram = images.new_zeros(len(steps), len(steps), math.prod(shape), dtype=torch.float64)
    for part in images.split(BLOCK):
        seen = torch.stack(_shifted(part.double(), steps)).flatten(2)  # (1 + n, block, S)
        for f, one in enumerate(seen):
            gram[f] += torch.einsum("bs,gbs->gs", one, seen)
    gram = gram.movedim(-1, 0) / len(images)  # (S, 1 + n, 1 + n)
    if pooled:
        gram = gram.unflatten(0, (shape[0], -1)).mean(1)
    variance, cross, among = gram[:, 0, 0], gram[:, 0, 1:], gram[:, 1:, 1:].clone()
    # Neighbours outside the image are columns of zeros; the ridge gives them the weight zero.
    ridge = 1e-6 * variance.mean() + torch.finfo(torch.float64).tiny
    among.diagonal(dim1=-2, dim2=-1).add_(ridge)
    weights = torch.linalg.solve(among, cross)
    left = variance - (2 * cross * weights).sum(1) + _quadratic(gram[:, 1:, 1:], weights)
    return left.to(images.dtype), weights.to(images.dtype)


def _quadratic(matrix: Tensor, x: Tensor) -> Tensor:
    """xᵀ A x of each matrix A."""
    return torch.einsum("si,sij,sj->s", x, matrix, x)


class _SpanGradient(torch.autograd.Function):
    """Return μ and P, and multiply their gradients by I + gain·PPᵀ.

    That is the matrix of `sos.distributions.TrainingTerms` with gain = κ/ε, for a density which has
    no closed form of it. In float32 it needs an ε that is not tiny: see `_RidgeAndRank`.
    """

    @staticmethod
    def forward(ctx, loc: Tensor, factor: Tensor, gain: float):
        ctx.save_for_backward(factor)
        ctx.gain = gain
        return loc.view_as(loc), factor.view_as(factor)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loc: Tensor, grad_factor: Tensor):
        (factor,) = ctx.saved_tensors  # (batch, S, R), stored as (batch, R, S)
        rows = factor.mT
        loc = grad_loc + ctx.gain * (factor @ (rows @ grad_loc[..., None]))[..., 0]
        push = ctx.gain * (rows @ grad_factor)  # (batch, R, R)
        return loc, torch.baddbmm(grad_factor.mT, push.mT, rows).mT, None


def _span_gain(p: Distribution, value: Tensor, log_prob: Tensor, gain: float) -> Tensor:
    """Add to the gradient of log p in μ κ·Σ/ε times itself; Σ times the plain gradient is y - μ.

    `gain` is κ/ε, where E[L_kk²] stands for 1/ε.
    """
    push = 0.5 * gain * (value - p.loc).square().sum(-1)
    return log_prob - (push - push.detach())


def _mean_precision(p: Distribution) -> Tensor:
    """Return the mean of L_kk², without a gradient."""
    return (2 * p.log_diag.detach()).exp().mean()


class SparsePrecisionNormal(Distribution):
    """Model y ~ N(μ, (LLᵀ)⁻¹) over images of `shape` = (channels, height, width), S values.

    loc and log_diag (..., S); off_diag (..., n, S), n weights per value in the order of `offsets`.
    Batch shapes broadcast. `log_prob` and entropies are float64, everything else has loc's dtype.
    Raises ValueError for wrong shapes and, unless validate_args is False, for values that are not
    finite, or a log_diag beyond 40, whose exponential is no weight but a training that exploded.
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        log_diag: Tensor,
        off_diag: Tensor,
        shape: Shape,
        validate_args: bool | None = None,
    ):
        self.shape = tuple(_as_size(shape))
        if len(self.shape) != 3:
            raise ValueError(f"shape must be (channels, height, width), not {self.shape}")
        size = math.prod(self.shape)
        wanted = {"loc": loc, "log_diag": log_diag, "off_diag": off_diag}
        for name, x in wanted.items():
            if x.dim() < 1 + (name == "off_diag") or x.shape[-1] != size:
                raise ValueError(
                    f"{name} must end in {size} values, channels x height x width = "
                    f"{'x'.join(map(str, self.shape))}, not {tuple(x.shape)}"
                )
        self.neighbourhood = neighbourhood_of(off_diag.shape[-2], self.shape[0])
        try:
            batch = torch.broadcast_shapes(loc.shape[:-1], log_diag.shape[:-1], off_diag.shape[:-2])
        except RuntimeError as error:
            shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in wanted.items())
            raise ValueError(f"batch shapes must broadcast, but are {shapes}") from error
        dtype = reduce(torch.promote_types, (x.dtype for x in wanted.values()))
        if not dtype.is_floating_point:
            raise ValueError(f"loc, log_diag and off_diag must be real numbers, not {dtype}")
        self._loc, self._log_diag, self._off_diag = (x.to(dtype) for x in wanted.values())
        super().__init__(batch, torch.Size([size]), validate_args=False)
        validate = Distribution._validate_args if validate_args is None else validate_args
        self._validate_args = validate
        if validate:
            limit = {"log_diag": LARGEST_LOG}
            for name, x in wanted.items():
                most = limit.get(name, math.inf)
                _check_values(name, x, -most, most)

    def expand(self, batch_shape, _instance=None) -> "SparsePrecisionNormal":
        """Return the same distribution for a larger batch; nothing is copied."""
        batch_shape = _as_size(batch_shape)
        return SparsePrecisionNormal(
            self._loc.expand(batch_shape + self.event_shape), self._log_diag, self._off_diag,
            self.shape, validate_args=False,
        )  # fmt: skip

    def __getitem__(self, index) -> "SparsePrecisionNormal":
        """Return the distributions at `index` of the batch, as views."""
        parts = _take(index, self.batch_shape, self.loc, self.log_diag, self.off_diag)
        return SparsePrecisionNormal(*parts, self.shape, validate_args=False)

    def __repr__(self) -> str:
        sizes = f"batch_shape={tuple(self.batch_shape)}, shape={self.shape}"
        return f"{type(self).__name__}({sizes}, neighbourhood={self.neighbourhood})"

    @property
    def loc(self) -> Tensor:
        """Return μ (..., S)."""
        return self._loc.expand(self._extended_shape())

    mean = mode = loc

    @property
    def log_diag(self) -> Tensor:
        """Return log L_kk (..., S)."""
        return self._log_diag.expand(self._extended_shape())

    @property
    def off_diag(self) -> Tensor:
        """Return the weights L_{k+f,k} (..., n, S); those that leave the image do not count."""
        count = self._off_diag.shape[-2:]
        return self._off_diag.expand(self.batch_shape + count)

    def whiten(self, residual: Tensor) -> Tensor:
        """Return Lᵀr (..., S), which is standard normal for r = y - μ."""
        r = residual.unflatten(-1, self.shape)
        y = self._log_diag.exp() * residual
        seen = _shifted(r, offsets(self.neighbourhood, self.shape[0]))
        for number, one in enumerate(seen):
            y = y + self._off_diag[..., number, :] * one.flatten(-3)
        return y

    def _log_det_root(self) -> Tensor:
        """log|L| in float64: (*batch)."""
        return self._log_diag.double().sum(-1).expand(self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute -½(S log 2π + |Lᵀ(y - μ)|²) + Σ log L_kk, nats, float64, (*sample, *batch)."""
        value = _check_value(value, self._loc, self._validate_args)
        squares = self.whiten(value - self._loc).double().square().sum(-1)
        return -0.5 * (self.event_shape[0] * LOG_2PI + squares) + self._log_det_root()

    def entropy(self) -> Tensor:
        """Compute ½S(1 + log 2π) - Σ log L_kk, nats, float64, (*batch)."""
        return 0.5 * self.event_shape[0] * (1 + LOG_2PI) - self._log_det_root()

    def training_terms(self, value: Tensor, span_gain: float = 0.0) -> TrainingTerms:
        """Return log p(value), all of the entropy, and no variance, which takes S solves."""
        log_prob = self.log_prob(value)
        if span_gain:
            log_prob = _span_gain(self, value, log_prob, span_gain * _mean_precision(self))
        return TrainingTerms(log_prob, self.entropy(), None)

    def _items(self) -> tuple[Tensor, Tensor]:
        """log_diag (items, S) and weights (items, n, S) of every batch element."""
        items = self.batch_shape.numel()
        log_diag = self.log_diag.reshape(items, self.event_shape[0])
        return log_diag, self.off_diag.reshape(items, *self.off_diag.shape[-2:])

    sample = LowRankNormal.sample

    def rsample(self, sample_shape=(), generator: torch.Generator | None = None) -> Tensor:
        """Draw μ + L⁻ᵀu with standard normal u: (*sample_shape, *batch, S)."""
        shape = self._extended_shape(_as_size(sample_shape))
        options = {"dtype": self._loc.dtype, "device": self._loc.device, "generator": generator}
        return self.rsample_from(torch.randn(shape, **options))

    def rsample_from(self, noise: Tensor) -> Tensor:
        """Return μ + L⁻ᵀu for given noise u (*sample, *batch, S), exact and differentiable."""
        noise = _noise("noise", noise, self.event_shape[0], self._loc)
        shape = torch.broadcast_shapes(noise.shape, self._extended_shape())
        lead = shape[: len(shape) - len(self.batch_shape) - 1]
        log_diag, weights = self._items()
        u = noise.expand(shape).reshape(lead.numel(), *log_diag.shape).transpose(0, 1)
        e = _back_substitute(log_diag.exp(), weights, u, self.shape, self.neighbourhood)
        return self.loc + e.transpose(0, 1).reshape(shape)

    @torch.no_grad()
    def covariance_row(self, index: int) -> Tensor:
        """Return every value's covariance with value `index`, by two solves, La = e, Lᵀs = a."""
        index = _pixel(index, self.event_shape[0])
        log_diag, weights = self._items()
        unit = torch.zeros_like(log_diag)[:, None]
        unit[..., index] = 1
        problem = log_diag.exp(), weights
        a = _forward_substitute(*problem, unit, self.shape, self.neighbourhood)
        row = _back_substitute(*problem, a, self.shape, self.neighbourhood)
        return row.reshape(self._extended_shape())

    @property
    @torch.no_grad()
    def variance(self) -> Tensor:
        """Compute diag((LLᵀ)⁻¹) exactly, from L in blocks of b values, those of k // 2 rows.

        O(S b²) operations per batch element, and O(S b) memory.
        """
        total, plan = torch.zeros_like(self._items()[0]), self._layout()
        for item in range(len(total)):  # one after the other: a block fills the cores
            log_diag, weights = (x[item : item + 1] for x in self._items())
            root = block_cholesky.root_blocks(log_diag, weights, plan)
            total[item] = block_cholesky.flat(root.inverse_diagonal()[..., None], plan)[0, 0]
        return total.reshape(self._extended_shape())

    def _inverse_columns(self, log_diag: Tensor, weights: Tensor) -> Iterator[Tensor]:
        """Columns of one L⁻ᵀ as rows, COLUMNS at a time: log_diag (S,), weights (n, S)."""
        size = len(log_diag)
        problem = log_diag[None].exp(), weights[None]
        for start in range(0, size, COLUMNS):
            stop = min(start + COLUMNS, size)
            units = log_diag.new_zeros(stop - start, size)
            units[range(stop - start), range(start, stop)] = 1
            yield _back_substitute(*problem, units[None], self.shape, self.neighbourhood)[0]

    def root(self, item: int = 0) -> scipy.sparse.csc_array:
        """Return L of one batch element, a sparse float64 matrix in channel-major order."""
        log_diag, weights = (x[item].detach().double().cpu().numpy() for x in self._items())
        size = len(log_diag)
        number = torch.arange(1, size + 1).view(self.shape)  # zero: outside the image
        steps = offsets(self.neighbourhood, self.shape[0])
        rows, columns, entries = [np.arange(size)], [np.arange(size)], [np.exp(log_diag)]
        for f, later in enumerate(_shifted(number, steps)):
            there = later.flatten().numpy()
            inside = there > 0
            rows.append(there[inside] - 1)
            columns.append(np.flatnonzero(inside))
            entries.append(weights[f][inside])
        parts = np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))
        return scipy.sparse.coo_array(parts, shape=(size, size)).tocsc()

    @torch.no_grad()
    def condition(self, index, values, noise_variance=None) -> ConditionedNormal:
        """Condition on values b of some pixels (eq. 6–7), in the precision form. No gradients.

        index, values and noise_variance as in `LowRankNormal.condition`. With Λ = LLᵀ, fixed values
        2 and no noise, Λ_11 (μ_1' - μ_1) = -Λ_12 (b - μ_2). O(S b²) operations and O(S b) memory
        per batch element, where b is the number of values of k // 2 rows.
        """
        return self._condition(index, values, noise_variance)

    def _condition(self, index, values, noise_variance) -> ConditionedNormal:
        return _condition(self, self, self.loc[..., None, :], index, values, noise_variance)

    def marginal_log_prob(self, index, values, noise_variance=None) -> Tensor:
        """Compute log p(b) of values b of some pixels, nats, float64, (*batch). Differentiable.

        Arguments and cost are those of `condition`.
        """
        return self._condition(index, values, noise_variance).log_evidence

    conditional_log_prob = LowRankNormal.conditional_log_prob

    @torch.no_grad()
    def leave_one_out(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each value given all others, float64, (*sample, *batch, S).

        They are y_i - (Λ(y - μ))_i/Λ_ii and 1/Λ_ii, with Λ = LLᵀ. O(S n).
        """
        p, value = self._double(), _check_value(value, self._loc, self._validate_args).double()
        precision = p._precision_diagonal()
        push = p._unwhiten(p.whiten(value - p.loc))
        return value - push / precision, (1 / precision).expand_as(push)

    def _precision_diagonal(self) -> Tensor:
        """diag(LLᵀ): (..., S)."""
        own = (2 * self._log_diag).exp()
        return own + _pushed(self._off_diag.square(), self._steps(), self.shape)

    def _unwhiten(self, white: Tensor) -> Tensor:
        """L u (..., S)."""
        weights = self._off_diag * white[..., None, :]
        return self._log_diag.exp() * white + _pushed(weights, self._steps(), self.shape)

    def _double(self) -> "SparsePrecisionNormal":
        """The same distribution in float64."""
        parts = (x.double() for x in (self._loc, self._log_diag, self._off_diag))
        return SparsePrecisionNormal(*parts, self.shape, validate_args=False).expand(
            self.batch_shape
        )

    def _steps(self) -> tuple[tuple[int, int, int], ...]:
        return offsets(self.neighbourhood, self.shape[0])

    def _layout(self) -> block_cholesky.Layout:
        return block_cholesky.layout(self.shape, self._steps(), str(self._loc.device))


def _pushed(weights: Tensor, steps, shape: Shape) -> Tensor:
    """Sum weights w_f(k) (..., n, S) at the values k + f where they lead: (..., S)."""
    turned = weights.flip(-1).unflatten(-1, shape)  # every axis the other way round
    total = turned.new_zeros(turned.shape[:-4] + turned.shape[-3:])
    for number, step in enumerate(steps):
        total = total + _shifted(turned[..., number, :, :, :], [step])[0]
    return total.flatten(-3).flip(-1)


def _condition(
    p: Distribution, local: SparsePrecisionNormal, rows: Tensor, index, values, noise_variance
) -> ConditionedNormal:
    """Condition p = N(μ, PPᵀ + local), with μ and the columns of P as `rows` (*batch, 1 + R, S)."""
    index, values, noise = _observations(p, index, values, noise_variance)
    lead = torch.broadcast_shapes(values.shape[:-1], noise.shape[:-1], p.batch_shape)
    if lead != p.batch_shape:
        raise ValueError(
            f"values must be one number, (q,) or of the batch {tuple(p.batch_shape)}, not "
            f"{tuple(lead)}; expand the distribution, or condition once for each"
        )
    items = p.batch_shape.numel()
    observed = index, *(x.expand(lead + index.shape).reshape(items, -1) for x in (values, noise))
    rows = rows.reshape(items, *rows.shape[-2:]).double()
    log_diag, weights = (x.double() for x in local.expand(p.batch_shape)._items())
    plan = local._layout()
    root = SparsePrecisionNormal(rows[:, 0], log_diag, weights, local.shape, False)
    return ConditionedNormal(
        block_cholesky.precision_blocks(log_diag, weights, plan),
        root.whiten, log_diag.sum(-1), plan, rows, observed, p.batch_shape, p.loc,
    )  # fmt: skip


class LowRankPlusSparseNormal(Distribution):
    """Model y ~ N(μ, PPᵀ + (LLᵀ)⁻¹): low rank for what is global, sparse for what is local.

    Not in either paper. `local` is the SparsePrecisionNormal around μ, cov_factor (..., S, R).
    Its density needs no solve: Lᵀy is N(Lᵀ μ, QQᵀ + I) with Q = Lᵀ P, a LowRankNormal.
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, local: SparsePrecisionNormal, cov_factor: Tensor):
        size = local.event_shape[0]
        if cov_factor.dim() < 2 or cov_factor.shape[-2] != size:
            raise ValueError(
                f"cov_factor must be (..., S, R) with S = {size}, not {tuple(cov_factor.shape)}"
            )
        dtype = torch.promote_types(local.loc.dtype, cov_factor.dtype)
        if local.loc.dtype != dtype:
            parts = (x.to(dtype) for x in (local._loc, local._log_diag, local._off_diag))
            local = SparsePrecisionNormal(*parts, local.shape, local._validate_args)
        cov_factor = cov_factor.to(dtype)
        self.local, self._factor = local, cov_factor
        batch = torch.broadcast_shapes(local.batch_shape, cov_factor.shape[:-2])
        super().__init__(batch, local.event_shape, validate_args=False)
        every = cov_factor.expand(batch + cov_factor.shape[-2:])
        columns = local.whiten(every.movedim(-1, 0))  # (R, *batch, S)
        white = columns.movedim(0, -2).mT
        self._white = LowRankNormal(white.new_zeros(size), white, 1.0, validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "LowRankPlusSparseNormal":
        """Return the same distribution for a larger batch."""
        batch_shape = _as_size(batch_shape)
        factor = self._factor.expand(batch_shape + self._factor.shape[-2:])
        return LowRankPlusSparseNormal(self.local.expand(batch_shape), factor)

    def __getitem__(self, index) -> "LowRankPlusSparseNormal":
        """Return the distributions at `index` of the batch, as views."""
        local = self.local.expand(self.batch_shape)[index]
        return LowRankPlusSparseNormal(local, *_take(index, self.batch_shape, self.cov_factor))

    def __repr__(self) -> str:
        sizes = f"batch_shape={tuple(self.batch_shape)}, shape={self.local.shape}"
        kind = f"rank={self.rank}, neighbourhood={self.local.neighbourhood}"
        return f"{type(self).__name__}({sizes}, {kind})"

    @property
    def loc(self) -> Tensor:
        """Return μ (..., S)."""
        return self.local.loc.expand(self._extended_shape())

    mean = mode = loc

    @property
    def log_diag(self) -> Tensor:
        """Return log L_kk (..., S)."""
        return self.local.log_diag.expand(self._extended_shape())

    @property
    def rank(self) -> int:
        """Return R, the number of columns of P."""
        return self._factor.shape[-1]

    @property
    def cov_factor(self) -> Tensor:
        """Return P (..., S, R)."""
        return self._factor.expand(self._extended_shape() + (self.rank,))

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log N(Lᵀ(y - μ); 0, QQᵀ + I) + Σ log L_kk, nats, float64: (*sample, *batch)."""
        value = _check_value(value, self.local.loc, self.local._validate_args)
        white = self.local.whiten(value - self.local.loc)
        return self._white.log_prob(white) + self.local._log_det_root()

    def training_terms(self, value: Tensor, span_gain: float = 0.0) -> TrainingTerms:
        """Return log p(value), all of the entropy, and no variance, which takes S solves."""
        p, gain = self, 0.0
        if span_gain:
            gain = span_gain * _mean_precision(self)
            _, factor = _SpanGradient.apply(p.loc.detach(), p.cov_factor, gain)
            p = LowRankPlusSparseNormal(p.local, factor)
        log_prob = p.log_prob(value)
        if span_gain:
            log_prob = _span_gain(p, value, log_prob, gain)
        return TrainingTerms(log_prob, p.entropy(), None)

    def entropy(self) -> Tensor:
        """Compute the entropy of `local` + ½ log|I + QᵀQ|, nats, float64, (*batch)."""
        return self.local.entropy() + self._white.rank_entropy

    def rsample(self, sample_shape=(), generator: torch.Generator | None = None) -> Tensor:
        """Draw μ + P w + L⁻ᵀu: (*sample_shape, *batch, S)."""
        shape = self._extended_shape(_as_size(sample_shape))
        options = {"dtype": self.loc.dtype, "device": self.loc.device, "generator": generator}
        noise = torch.randn(shape[:-1] + (self.rank,), **options)
        return self.rsample_from(noise, torch.randn(shape, **options))

    sample = LowRankNormal.sample

    @torch.no_grad()
    def condition(self, index, values, noise_variance=None) -> ConditionedNormal:
        """Condition on values b of some pixels (eq. 6–7): e given w, and then w. No gradients.

        Arguments and cost are those of `SparsePrecisionNormal.condition`.
        """
        return self._condition(index, values, noise_variance)

    def _condition(self, index, values, noise_variance) -> ConditionedNormal:
        rows = torch.cat([self.loc[..., None, :], self.cov_factor.mT], -2)
        return _condition(self, self.local, rows, index, values, noise_variance)

    def observed_gram(self, index, values, noise_variance=None) -> tuple[Tensor, Tensor]:
        """Return what `LowRankNormal.observed_gram` does, with (LLᵀ)⁻¹ in D's place."""
        return self.condition(index, values, noise_variance).observed_gram

    def noise_posterior(self, index, values, noise_variance=None) -> tuple[Tensor, Tensor]:
        """Return mean (*batch, R) and covariance (*batch, R, R) of the noise ω of P, given b.

        Arguments and cost are those of `condition`.
        """
        return self.condition(index, values, noise_variance).noise_posterior

    marginal_log_prob = SparsePrecisionNormal.marginal_log_prob
    conditional_log_prob = LowRankNormal.conditional_log_prob

    @torch.no_grad()
    def leave_one_out(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each value given all others, float64, (*sample, *batch, S).

        They are y_i - (A(y - μ))_i/A_ii and 1/A_ii with A = Λ - ΛP(I + PᵀΛP)⁻¹PᵀΛ, which is
        L(I - QK⁻¹Qᵀ)Lᵀ, Q = LᵀP. O(S (n R + R²)).
        """
        value = _check_value(value, self.local.loc, self.local._validate_args).double()
        local = self.local.expand(self.batch_shape)._double()
        columns = self.cov_factor.double().movedim(-1, 0)  # (R, *batch, S)
        whitened = local.whiten(columns).movedim(0, -2)  # (*batch, R, S)
        directions = _posterior_root(whitened @ whitened.mT).mT @ whitened  # K^-½Qᵀ (.., R, S)
        spread = local._unwhiten(directions.movedim(-2, 0)).movedim(0, -2)
        precision = local._precision_diagonal() - spread.square().sum(-2)
        white = local.whiten(value - self.loc.double())
        shares = (directions @ white[..., None])[..., 0]  # (*sample, *batch, R)
        push = local._unwhiten(white - (shares[..., None, :] @ directions)[..., 0, :])
        return value - push / precision, (1 / precision).expand_as(push)

    def rsample_from(self, noise_factor: Tensor, noise_local: Tensor) -> Tensor:
        """Return μ + P w + L⁻ᵀu for given noise w (..., R) and u (..., S)."""
        noise_factor = _noise("noise_factor", noise_factor, self.rank, self._factor)
        low_rank = _combine(self._factor, noise_factor)
        return self.local.expand(self.batch_shape).rsample_from(noise_local) + low_rank

    def covariance_row(self, index: int) -> Tensor:
        """Return P p_i + the row of `local`: (*batch, S)."""
        p_i = self._factor[..., _pixel(index, self.event_shape[0]), :]
        return _combine(self._factor, p_i) + self.local.covariance_row(index)

    @property
    def variance(self) -> Tensor:
        """Compute |p_i|² + the variance of `local`, exactly: (..., S)."""
        return self.local.variance + self._factor.square().sum(-1)


@register_kl(SparsePrecisionNormal, SparsePrecisionNormal)
@torch.no_grad()
def _kl_sparse_precision(p: SparsePrecisionNormal, q: SparsePrecisionNormal) -> Tensor:
    """KL(p || q) = (|L_qᵀ L_p⁻ᵀ|_F² - S + |L_qᵀ (μ_p - μ_q)|²) / 2 + log|L_p| - log|L_q|.

    Nats, float64, (*batch). No gradients; O(S² n) per batch element as the exact variance.
    """
    if p.shape != q.shape:
        raise ValueError(f"KL needs images of one shape, not {p.shape} and {q.shape}")
    batch = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    p, q = (
        SparsePrecisionNormal(x.loc.double(), x.log_diag.double(), x.off_diag.double(), x.shape)
        for x in (p.expand(batch), q.expand(batch))
    )
    trace = p.loc.new_zeros(batch.numel())
    log_diag, weights = p._items()
    (q_log_diag, q_weights), centre = q._items(), q.loc.new_zeros(q.event_shape)
    for item in range(len(trace)):
        one = SparsePrecisionNormal(centre, q_log_diag[item], q_weights[item], q.shape)
        for columns in p._inverse_columns(log_diag[item], weights[item]):
            trace[item] += one.whiten(columns).square().sum()
    distance = q.whiten(p.loc - q.loc).square().sum(-1)
    constant = distance - p.event_shape[0]
    return (trace.reshape(batch) + constant) / 2 + p._log_det_root() - q._log_det_root()
