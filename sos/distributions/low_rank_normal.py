"""The observation distribution of the paper: y ~ N(μ, PPᵀ + D) over whole images (§3.3).

One alphabet for shapes: `batch`, `S` pixels (channels x height x width, channel-major), `R` rank,
`n` values per factor. Inside, factors are R-major, (items, R, S): a component is one contiguous
image. Densities, entropies and divergences are in nats and always float64: at the paper's size they
are near 5e5, where float32 resolves only 0.03.

Numerics. Whatever meets the inverse of D runs in float64, over blocks of pixels that fit the cache,
so nothing as large as P is stored and no float32 rounding is divided by a small ε. Gradients
need that as much as values do: PᵀD⁻¹ e = alpha is a sum whose terms are λ / ε times
larger than itself, of which float32 would keep no digit. Where ε is so large that float32 keeps
enough of them (see SINGLE_ERROR), products run in it, chunk by chunk, on P as it lies in memory.
"""

import math
import operator
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    constraints,
    kl_divergence,
    register_kl,
)

__all__ = ["LowRankNormal", "PrincipalComponents", "TrainingTerms"]

LOG_2PI = math.log(2 * math.pi)
EPS = torch.finfo(torch.float64).eps
REFERENCE = 1e-5  # the paper's ε, beside which the entropy of a learnt D counts
CPU_BUDGET = 2**19  # float64 numbers per block: two of 4 MB stay in the L3 cache
GPU_BUDGET = 2**26  # few large blocks: what counts is the number of launches
CHUNK = 1024  # pixels per chunk: one Gram matrix of all would keep few cores busy
PADDING = 8  # keeps the rows of a block from falling on the same cache sets
# Where products run in float32: D = εI, on a CPU, and a loss of at most 0.02 nats. A Gram matrix,
# summed in float64 over chunks, loses up to 2e-6 of itself where rows have equal values, whose
# roundings all go one way, but 1e-9 to 2e-7 with noise and images. What is lost is therefore
# measured on the first of many items, with a margin for the others, up to a limit of 5 nats that
# none could pass. A few items have to be safe whatever they are.
SINGLE_ERROR = 2e-6
SHORT = 256  # pixels per chunk
TOLERANCE, LIMIT = 0.02, 5.0  # nats
MANY, MARGIN = 8, 4  # items; times


class TrainingTerms(NamedTuple):
    """Hold what training needs of p(y|z) at given values y (eq. 3); every distribution gives it.

    `span_gain` κ: the gradients of μ and P are multiplied by I + (κ/ε)PPᵀ,
    for D = εI. With ε = 1e-5 the plain gradient is e / ε outside the span of P
    but only about r / λ inside it, a million times less, so that Adam never learns the mean,
    nor the size of the components, inside the span. The matrix is symmetric positive definite:
    stationary points stay where they are. κ = 1 makes it Σ / ε, which gives the
    natural gradient of μ up to a factor.
    """

    log_prob: Tensor  # log p(y|z), nats, float64 (*sample, *batch)
    # The part of H(y|z) that training can move, nats, float64 (*batch): of a low rank that of P and
    # of a learnt D, H - H[N(μ, 1e-5 I)], zero where there is no P; of a sparse precision all of it
    entropy: Tensor
    variance: Tensor | None  # mean of diag(Σ), for the record; None where it takes long


class PrincipalComponents(NamedTuple):
    """Hold the thin singular value decomposition P = U diag(s) Vᵀ, s descending (eq. 5)."""

    directions: Tensor  # U (..., S, R): unit images, zero where s is zero
    scales: Tensor  # s (..., R): standard deviation along each direction
    rotation: Tensor  # V (..., R, R), float64


class Block(NamedTuple):
    """Say where a block lies: some items, and some of their pixels, a whole number of chunks."""

    items: slice
    pixels: slice
    width: int  # of a chunk

    def view(self, x: Tensor) -> Tensor:
        """Return the block's view of x: (items, rows, S) → (depth, rows, length)."""
        return x[self.items, :, self.pixels]


def _blocks(items: int, rows: int, pixels: int, on_cpu: bool) -> Iterator[Block]:
    """Cut (items, rows, pixels) into blocks: several items, or a stretch of one; then the rests."""
    budget = GPU_BUDGET
    if on_cpu:
        budget = min(CPU_BUDGET, max(2**16, items * rows * pixels // 10))  # two: 0.4 copies of P
    width = min(pixels, math.ceil(pixels / math.ceil(pixels / CHUNK) / 8) * 8)
    whole = pixels // width * width
    depth = max(1, budget // (rows * whole))
    length = whole if depth > 1 else max(1, budget // (rows * width)) * width
    for first in range(0, items, depth):
        item = slice(first, min(first + depth, items))
        for start in range(0, whole, length):
            yield Block(item, slice(start, min(start + length, whole)), width)
        if whole < pixels:
            yield Block(item, slice(whole, pixels), pixels - whole)


def _float64_blocks(
    factor: Tensor, value: Tensor | None = None, loc: Tensor | None = None
) -> Iterator[tuple[Block, Tensor, Tensor]]:
    """Yield (place, [P; r], scratch) in float64, r = value - loc: (depth, R + n, length)."""
    items, rank, pixels = factor.shape
    rows = rank + (0 if value is None else value.shape[1])
    pair = factor.new_empty(2, 0, dtype=torch.float64)
    for place in _blocks(items, max(1, rows), pixels, factor.device.type == "cpu"):
        depth, length = (x.stop - x.start for x in (place.items, place.pixels))
        padded = rows * (depth * length + PADDING)
        if pair.shape[1] < padded:
            pair = factor.new_empty(2, padded, dtype=torch.float64)
        # Item after item within a row, so that chunks of all items are one batch of matrices.
        lines = pair[:, :padded].view(2, rows, depth * length + PADDING)[..., :-PADDING]
        block, scratch = lines.unflatten(-1, (depth, length)).transpose(1, 2)
        block[:, :rank] = place.view(factor)
        if rows > rank:
            block[:, rank:] = place.view(value)
            block[:, rank:] -= place.view(loc)
        yield place, block, scratch


def _grams(value, loc, factor, diag) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PᵀD⁻¹P (items, R, R), r D⁻¹P (items, n, R), r D⁻¹ r (items, n), all in float64.

    And the nats that each item may have lost to float32, infinite where that was not used: (items,)
    """
    if _try_single(value, loc, factor, diag):
        grams = _single_grams(value, loc, factor, diag)
        lost = _lost(grams, value, loc, factor, diag)
        if bool((lost < TOLERANCE).all()):
            return *grams, lost
    return *_double_grams(value, loc, factor, diag), diag.new_full(diag.shape[:1], math.inf)


def _try_single(value, loc, factor, diag) -> bool:
    """Whether the first item, which others are mostly like, lets float32 seem exact enough."""
    single = all(x.dtype == torch.float32 and x.is_cpu for x in (value, loc, factor))
    if not single or diag.shape[-1] > 1 or 0 in factor.shape:
        return False
    lengths = (torch.linalg.vector_norm(x) for x in (factor[0], value[0] - loc[0]))
    scale = sum(length.square() for length in lengths) / diag[0, 0]
    return bool(scale * SINGLE_ERROR / 2 < (LIMIT if len(factor) >= MANY else TOLERANCE))


def _lost(grams, value, loc, factor, diag) -> Tensor:
    """The nats that float32 may have cost each item: its relative error times (‖P‖² + ‖r‖²)/2ε."""
    gram, _, square = grams
    half = (gram.diagonal(dim1=-2, dim2=-1).sum(-1) + square.sum(-1)) / 2
    worst = SINGLE_ERROR * half
    if len(half) < MANY or bool((worst < TOLERANCE).all()):
        return worst
    exact = _double_grams(*(x[:1] for x in (value, loc, factor, diag)))
    errors = [(a[0] - b[0]).square().sum() for a, b in zip(grams[:2], exact, strict=False)]
    return (MARGIN * sum(errors).sqrt() / 2 * half / half[0]).where(worst < LIMIT, math.inf)


def _chunks(rows: Tensor) -> Iterator[Tensor]:
    """Cut (rows, S) into batches of matrices, (chunks, rows, pixels), as views."""
    pixels = rows.shape[-1]
    whole = pixels // SHORT * SHORT
    if whole:
        yield rows[:, :whole].unflatten(-1, (-1, SHORT)).transpose(0, 1)
    if whole < pixels:
        yield rows[None, :, whole:]


def _single_grams(value, loc, factor, diag) -> tuple[Tensor, Tensor, Tensor]:
    """What `_double_grams` computes, for D = εI, from products in float32."""
    (items, rank, _), residual = factor.shape, value - loc
    gram = factor.new_zeros(items, rank, rank, dtype=torch.float64)
    cross = factor.new_zeros(items, value.shape[1], rank, dtype=torch.float64)
    square = torch.linalg.vecdot(residual.double(), residual.double())
    for item in range(items):
        for p, r in zip(_chunks(factor[item]), _chunks(residual[item]), strict=True):
            gram[item] += _product(p, p.mT).sum(0, dtype=torch.float64)
            cross[item] += _product(r, p.mT).sum(0, dtype=torch.float64)
    return gram / diag, cross / diag, square / diag[:, 0]


def _double_grams(value, loc, factor, diag) -> tuple[Tensor, Tensor, Tensor]:
    """PᵀD⁻¹P (items, R, R), r D⁻¹P (items, n, R) and r D⁻¹ r (items, n), in float64."""
    (items, rank, _), n = factor.shape, value.shape[1]
    products = factor.new_zeros(items, rank + n, rank, dtype=torch.float64)
    squares = factor.new_zeros(items, n, dtype=torch.float64)
    isotropic = diag.shape[-1] == 1
    for place, block, _ in _float64_blocks(factor, value, loc):
        if not isotropic:
            block *= place.view(diag).double().rsqrt()
        chunks = block.unflatten(-1, (block.shape[-1] // place.width, place.width)).transpose(1, 2)
        products[place.items] += (chunks @ chunks[:, :, :rank].mT).sum(1)
        squares[place.items] += torch.linalg.vecdot(block[:, rank:], block[:, rank:])
    if isotropic:
        products, squares = products / diag, squares / diag[:, 0]
    return products[:, :rank], products[:, rank:], squares


def _capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being recorded, in which no value can decide what is done next."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _identity_like(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _inverse_root(capacitance: Tensor) -> tuple[Tensor, Tensor]:
    """T with TTᵀ = K⁻¹ and log|K| / 2 of K = I + PᵀD⁻¹P: (items, R, R), (items,).

    Cholesky without jitter. Where it breaks down (columns of P alike to 1 part in 1e16 and 1e16
    times D), K is scaled to a unit diagonal and those of its eigenvalues that lie below R x 1e-16,
    where float64 knows nothing of them, are raised to that. Non-finite matrices give NaN, as do
    breakdowns in a CUDA graph.
    """
    tril, info = torch.linalg.cholesky_ex(capacitance)
    identity = _identity_like(capacitance)
    root = torch.linalg.solve_triangular(tril, identity, upper=False).mT
    half_logdet = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    failed = info != 0
    if _capturing(capacitance):
        return root, half_logdet.where(~failed, math.nan)
    if bool(failed.any()):
        finite = capacitance.isfinite().flatten(1).all(1)
        safe = capacitance.where(finite[:, None, None], identity)
        norm = safe.diagonal(dim1=-2, dim2=-1).sqrt()
        values, vectors = torch.linalg.eigh(safe / norm[:, :, None] / norm[:, None, :])
        values = values.clamp_min(norm.shape[-1] * EPS)
        other_root = vectors / norm[:, :, None] * values.rsqrt()[:, None, :]
        other_logdet = norm.log().sum(-1) + values.log().sum(-1) / 2
        other_root = other_root.where(finite[:, None, None], math.nan)
        root = other_root.where(failed[:, None, None], root)
        half_logdet = other_logdet.where(finite, math.nan).where(failed, half_logdet)
    return root, half_logdet


def _posterior_root(gram: Tensor) -> Tensor:
    """T with TTᵀ = (I + G)⁻¹, the covariance of w given all values: (..., R, R)."""
    items = (gram + _identity_like(gram)).reshape(gram.shape[:-2].numel(), *gram.shape[-2:])
    return _inverse_root(items)[0].reshape(gram.shape)


def _to_residual(block: Tensor, alpha: Tensor) -> Tensor:
    """Turn the rows r of [P; r] into e = r - alpha P, in place, and return them."""
    rank = alpha.shape[-1]
    return block[:, rank:].sub_(alpha @ block[:, :rank])


def _residual_squares(value, loc, factor, diag, alpha) -> Tensor:
    """e D⁻¹ e from e = r - alpha P itself, for r so large that its Grams cancel: (items, n)."""
    squares = torch.zeros_like(alpha[..., 0])
    for place, block, _ in _float64_blocks(factor, value, loc):
        residual = _to_residual(block, alpha[place.items])
        scale = diag[place.items] if diag.shape[-1] == 1 else place.view(diag)
        squares[place.items] += (residual.square_() / scale).sum(-1)
    return squares


# The algebra below looks at values to decide what to do. As operators of torch it is a black box to
# torch.compile, and torch.func.vmap gets rules of its own. The names follow the module's, so that a
# copy of this file lives beside the original.
_operator = partial(torch.library.custom_op, mutates_args=())
_NAMESPACE = re.sub(r"\W", "_", __name__)


@_operator(f"{_NAMESPACE}::ridge_and_rank")
def _ridge_and_rank(
    value: Tensor, loc: Tensor, factor: Tensor, diag: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Distances M (items, n), rank entropies H (items,), and what their gradients need.

    That is K⁻½ (items, R, R), a (items, n, R), eᵀD⁻¹e (items, n) and what float32 may have cost
    (items,). value, loc (items, n, S); factor (items, R, S); diag (items, 1, 1) or (items, 1, S).
    """
    gram, cross, square, lost = _grams(value, loc, factor, diag)
    pixels = factor.shape[-1]
    root, half_logdet = _inverse_root(gram + _identity_like(gram))
    alpha = cross @ root @ root.mT
    outside = square + torch.linalg.vecdot(alpha @ gram - 2 * cross, alpha)
    inside = alpha.square().sum(-1)
    cancelled = EPS * square > 1e-9 * (pixels + outside + inside)
    if not _capturing(square) and bool(cancelled.any()):
        outside = _residual_squares(value, loc, factor, diag, alpha)
    return outside + inside, half_logdet, root, alpha, outside, lost


@_ridge_and_rank.register_fake
def _(value, loc, factor, diag):
    (items, rank, _), n = factor.shape, value.shape[1]
    shapes = (items, n), (items,), (items, rank, rank), (items, n, rank), (items, n), (items,)
    return tuple(factor.new_empty(shape, dtype=torch.float64) for shape in shapes)


@_operator(f"{_NAMESPACE}::ridge_and_rank_gradients")
def _gradients(
    grad_distance: Tensor, grad_entropy: Tensor, value: Tensor, loc: Tensor, factor: Tensor,
    diag: Tensor, root: Tensor, alpha: Tensor, outside: Tensor, lost: Tensor, gain: float,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `_ridge_and_rank` in its arguments; those not `needed` are (items, 0)."""
    need_value, need_loc, need_factor, need_diag = needed
    isotropic, rank, n = diag.shape[-1] == 1, factor.shape[1], value.shape[1]
    need_residual = need_value or need_loc
    single = lost.is_cpu and bool((lost < TOLERANCE).all())
    # With more values M's lower right part is a waste.
    together = need_residual and n <= rank and not single
    apart = need_residual and not together
    matrix = _gradient_matrix(grad_distance, grad_entropy, root, alpha, gain, together)
    twice = 2 * grad_distance[..., None]
    if isotropic:
        matrix, twice = matrix / diag, twice / diag
    # What grad_residual leaves of P a in r; D's gradient takes that away too.
    left = gain if apart else 0.0
    part, rest = (1 - left) * alpha, left * alpha
    grads = grad_value, grad_loc, grad_factor, grad_diag = _empty_gradients(
        value, loc, factor, diag, needed
    )
    grad_residual = grad_value if need_value else grad_loc
    if isotropic and need_diag:
        drop = (grad_distance * outside).sum(-1) + grad_entropy / 2 * _leverage(root)
        grad_diag.copy_(-drop[:, None, None] / diag)
        need_diag = False
    if single:
        _single_gradients(value - loc, factor, matrix, twice, part, grad_factor, grad_residual)
    for place, block, scratch in () if single else _float64_blocks(factor, value, loc):
        at = place.items
        inverse = None if isotropic else place.view(diag).double().reciprocal()
        if need_factor or together:
            product = torch.matmul(matrix[at], block, out=scratch[:, : matrix.shape[-2]])
            if not isotropic:
                product *= inverse
        if need_factor:
            place.view(grad_factor).copy_(product[:, :rank])
        if together:
            place.view(grad_residual).copy_(product[:, rank:])
        if need_diag or apart:
            residual = _to_residual(block, part[at])
        if apart:
            scale = twice[at] if isotropic else twice[at] * inverse
            place.view(grad_residual).copy_(residual * scale)
        if need_diag:
            if left:
                _to_residual(block, rest[at])
            leverage = (root[at].mT @ block[:, :rank]).square_().sum(-2, keepdim=True)
            drop = grad_distance[at, None] @ residual.square()
            drop = drop + grad_entropy[at, None, None] / 2 * leverage
            place.view(grad_diag).copy_(-drop * inverse.square())
    if need_loc:
        torch.neg(grad_residual, out=grad_loc)
    return grads


def _gradient_matrix(grad_distance, grad_entropy, root, alpha, gain, together) -> Tensor:
    """Return M of [dP; dr] = D⁻¹ M [P; r], M = [[2 h K⁻¹ + a g aᵀ, -a g], [-g aᵀ, g]].

    g = 2 grad_distance, h = grad_entropy / 2. Without `together` the rows of dP alone.
    """
    twice = 2 * grad_distance[..., None]  # g (items, n, 1)
    half = grad_entropy[:, None, None] / 2  # h (items, 1, 1)
    kept, pull = 1 - gain, twice * alpha
    inner = kept * (root @ root.mT) + gain * _identity_like(root)
    matrix = torch.cat([2 * half * inner + kept * alpha.mT @ pull, -pull.mT], -1)
    if together:
        lower = torch.cat([-kept * pull, torch.diag_embed(twice[..., 0])], -1)
        matrix = torch.cat([matrix, lower], -2)
    return matrix


def _leverage(root: Tensor) -> Tensor:
    """tr(PᵀD⁻¹P K⁻¹) = R - tr K⁻¹ of K⁻½ (items, R, R): (items,)."""
    return root.shape[-1] - root.square().sum((-2, -1))


def _single_gradients(residual, factor, matrix, twice, part, grad_factor, grad_residual) -> None:
    """Write the gradients of P and r for D = εI from products in float32, on P as it lies."""
    rank = factor.shape[1]
    with _own_precision(factor):
        if grad_factor.numel():
            left, right = matrix.float().split([rank, matrix.shape[-1] - rank], -1)
            torch.bmm(left, factor, out=grad_factor).baddbmm_(right, residual)
        if grad_residual.numel():
            torch.baddbmm(residual, part.float(), factor, alpha=-1, out=grad_residual)
            grad_residual *= twice.float()


@_gradients.register_fake
def _(
    grad_distance, grad_entropy, value, loc, factor, diag, root, alpha, outside, lost, gain, needed
):
    return _empty_gradients(value, loc, factor, diag, needed)


def _empty_gradients(value, loc, factor, diag, needed) -> tuple[Tensor, ...]:
    """Room for the gradients of value, loc, factor and diag, of those that are needed."""
    exact = torch.promote_types(value.dtype, loc.dtype)  # value may be of whole numbers
    arguments = (value, exact), (loc, exact), (factor, factor.dtype), (diag, torch.float64)
    return tuple(
        torch.empty_like(x, dtype=dtype) if need else x.new_empty(len(x), 0, dtype=dtype)
        for (x, dtype), need in zip(arguments, needed, strict=True)
    )


def _folded(x: Tensor, axis: int | None, count: int, into: int) -> Tensor:
    """An argument under vmap, its axis of `count` (None: the same for all) folded into another."""
    if axis is None:
        x = x.unsqueeze(into).expand(*x.shape[:into], count, *x.shape[into:])
    else:
        x = x.movedim(axis, into)
    return x.flatten(into, into + 1)


@_ridge_and_rank.register_vmap
def _(info, axes, *arguments):
    count = info.batch_size
    if axes[2:] == (None, None):  # one P for all: what is mapped are further values of each item
        value, loc = (_folded(x, a, count, 1) for x, a in zip(arguments[:2], axes, strict=False))
        results = _ridge_and_rank(value, loc, *arguments[2:])
        own = (1, None, None, 1, 1, None)  # the axis of each that has the further values
        pairs = zip(results, own, strict=True)
        return tuple(x if at is None else x.unflatten(at, (count, -1)) for x, at in pairs), own
    folded = (_folded(x, axis, count, 0) for x, axis in zip(arguments, axes, strict=True))
    results = _ridge_and_rank(*folded)
    return tuple(x.unflatten(0, (count, -1)) for x in results), (0,) * 6


@_gradients.register_vmap
def _(info, axes, *arguments):
    count, tensors, rest = info.batch_size, arguments[:10], arguments[10:]
    needed = rest[-1]
    if axes[4:7] == (None,) * 3 and not any(needed[2:]):  # one P for all, without a gradient
        own = [_folded(tensors[k], axes[k], count, 1) for k in (0, 2, 3, 7, 8)]
        distance, value, loc, alpha, outside = own
        unused = tensors[6].new_zeros(len(tensors[6]))  # the entropy's, which P and D alone have
        kept = (*tensors[4:7], alpha, outside, tensors[9])
        results = _gradients(distance, unused, value, loc, *kept, *rest)
        pairs = list(zip(results, needed, strict=True))
        mapped = (x.unflatten(1, (count, -1)) if need else x for x, need in pairs)
        return tuple(mapped), tuple(1 if need else None for _, need in pairs)
    folded = (_folded(x, axis, count, 0) for x, axis in zip(tensors, axes, strict=False))
    results = _gradients(*folded, *rest)
    return tuple(x.unflatten(0, (count, -1)) for x in results), (0,) * 4


class _Gradients(torch.autograd.Function):
    """`_gradients`, of which there are no further ones."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments):
        return _gradients(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError("LowRankNormal.log_prob and rank_entropy differentiate only once")


class _RidgeAndRank(torch.autograd.Function):
    """Mahalanobis distances M (items, n) and rank entropy H = log|I + PᵀD⁻¹P| / 2 (items,).

    With a = K⁻¹ PᵀD⁻¹ r and e = r - P a (ridge regression), M = eᵀ D⁻¹ e + aᵀ a: positive
    terms, stationary in a. dM/dr = 2 D⁻¹ e; dM/dP = -2 D⁻¹ e aᵀ; dM/dD = -(D⁻¹ e)²;
    dH/dP = D⁻¹P K⁻¹; dH/dd_i = -p_iᵀ K⁻¹ p_i / 2 d_i². There is no double backward.

    With a span gain κ, for D = εI, the gradients of loc and factor are multiplied by
    I + (κ/ε)PPᵀ = (1 - κ)I + κΣ/ε. As PᵀD⁻¹e = a and PᵀD⁻¹P K⁻¹ = I - K⁻¹, that takes no more work:
    e becomes r - (1 - κ) P a, and K⁻¹ becomes (1 - κ) K⁻¹ + κI. Multiplying gradients that were
    already rounded to float32 would not do: Pᵀ(e/ε) = a is a small difference of large terms.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value, loc, factor, diag, gain):
        return _ridge_and_rank(value, loc, factor, diag)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.gain = inputs
        kept = output[2:]
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*tensors, *kept)

    @staticmethod
    def backward(ctx, grad_distance, grad_entropy, *_):
        needed = list(ctx.needs_input_grad[:4])
        saved = ctx.saved_tensors
        grads = _Gradients.apply(grad_distance, grad_entropy, *saved, ctx.gain, needed)
        return *(grad if need else None for grad, need in zip(grads, needed, strict=True)), None


def _dense_distance_and_rank(value, loc, factor, diag) -> tuple[Tensor, Tensor]:
    """What `_RidgeAndRank` computes, from the Cholesky factor of PPᵀ + D itself, in float64."""
    rows, variance = factor.double(), diag.double().expand(len(factor), 1, factor.shape[-1])[:, 0]
    tril = torch.linalg.cholesky(rows.mT @ rows + torch.diag_embed(variance))
    residual = (value.double() - loc.double()).mT
    white = torch.linalg.solve_triangular(tril, residual, upper=False)
    half_logdet = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) - variance.log().sum(-1) / 2
    return white.square().sum(-2), half_logdet


def _transform(factor: Tensor, matrix: Tensor) -> Tensor:
    """P A in float64, rounded once: factor (items, R, S), matrix (items, R, R) → (items, R, S)."""
    result = torch.empty_like(factor)
    for place, block, scratch in _float64_blocks(factor):
        torch.matmul(matrix[place.items].mT, block, out=scratch)
        place.view(result).copy_(scratch)
    return result


def _own_precision(x: Tensor) -> AbstractContextManager:
    """A context in which products have the precision of their factors, also under autocast."""
    kind = x.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in their own precision, also under autocast."""
    with _own_precision(a):
        return a @ b


def _combine(factor: Tensor, weights: Tensor) -> Tensor:
    """P w without copies of P: (*own, S, R), (*sample, *own, R) → (*sample, *own, S)."""
    own, lead = factor.shape[:-2], weights.shape[:-1]
    samples = lead[: len(lead) - len(own)]
    if lead != samples + own:
        return _product(factor, weights.unsqueeze(-1)).squeeze(-1)
    folded = weights.reshape(samples.numel(), *own, weights.shape[-1]).movedim(0, -2)
    rows = _product(folded, factor.mT).movedim(-2, 0)
    return rows.reshape(weights.shape[:-1] + factor.shape[-2:-1])


def _as_size(shape) -> torch.Size:
    """A shape from what people give as one: a number, or a sequence of them, of numpy's too."""
    return torch.Size([shape] if isinstance(shape, Integral) else shape)


def _as_tensor(name: str, x, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    """x itself if it is a tensor; numbers, lists and arrays become one. Raises TypeError."""
    if isinstance(x, Tensor):
        return x
    try:
        return torch.as_tensor(x, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(x).__name__
        raise TypeError(f"{name} must be a tensor or numbers, not {kind} ({error})") from error


def _take(index, batch: torch.Size, *tensors: Tensor) -> list[Tensor]:
    """Tensors (*batch, ...) at an index of the batch: in p[..., 0] the dots end with the batch.

    Raises IndexError as a tensor of the batch's shape does.
    """
    index = index if isinstance(index, tuple) else (index,)
    tensors[0].new_empty(()).expand(batch)[index]
    if not any(part is Ellipsis for part in index):
        index = (*index, Ellipsis)
    return [x[(*index, *[slice(None)] * (x.dim() - len(batch)))] for x in tensors]


def _pixel(index: int, pixels: int) -> int:
    """A pixel's number from 0, of one that may count from the end. Raises IndexError."""
    index = operator.index(index)
    if not -pixels <= index < pixels:
        raise IndexError(
            f"index must lie in 0..{pixels - 1} or, from the end, in -{pixels}..-1, not {index}"
        )
    return index % pixels


def _check_values(name: str, x: Tensor, low: float = -math.inf, high: float = math.inf) -> bool:
    """Raises ValueError that names x unless all of it is finite and lies between the limits.

    Mostly one pass: the sum is finite only if all is. Returns False where nothing can be looked at,
    while torch.compile traces and inside torch.func.vmap.
    """
    if torch.compiler.is_compiling():
        return False
    x = x.detach()
    try:
        right = bool(x.sum().isfinite()) or bool(x.isfinite().all())
        right = right and (low == -math.inf or bool((x > low).all()))
        right = right and (high == math.inf or bool((x < high).all()))
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        return False
    if not right:
        least, most = torch.aminmax(x)
        kind = "positive and finite" if low == 0 else "finite"
        if high < math.inf:
            kind += f" and between {low:g} and {high:g}"
        raise ValueError(
            f"{name} must be {kind}, but its values reach from {least.item():g} to "
            f"{most.item():g}; check what produced it, or pass validate_args=False to skip this "
            f"check"
        )
    return True


def _check_value(value, loc: Tensor, validate: bool) -> Tensor:
    """The value of a density as a tensor (..., S), if `validate` a finite one. Raises ValueError.

    Bytes are refused where they are those of images and the mean lies within 0..1.
    """
    value = _as_tensor("value", value, loc.dtype, loc.device)
    if value.dim() < 1 or value.shape[-1] != loc.shape[-1]:
        raise ValueError(
            f"value must be (..., S) with S = {loc.shape[-1]}, not {tuple(value.shape)}; "
            f"flatten images with value.flatten(1)"
        )
    if validate and _check_values("value", value) and value.dtype == torch.uint8:
        high, most = (x.detach().abs().max().item() if x.numel() else 0 for x in (loc, value))
        if high <= 2 < most:
            raise ValueError(
                f"value must be on loc's scale, which reaches {high:.3g}, but is of bytes up to "
                f"{most}; divide images by 255, or pass value.float()"
            )
    return value


def _noise(name: str, noise, size: int, loc: Tensor) -> Tensor:
    """Noise for a sample as a tensor (..., size). Raises ValueError that names it."""
    noise = _as_tensor(name, noise, loc.dtype, loc.device)
    if noise.dim() < 1 or noise.shape[-1] != size:
        raise ValueError(
            f"{name} must be (..., {size}), not {tuple(noise.shape)}; draw it with torch.randn"
        )
    return noise


def _check_shapes(loc: Tensor, cov_factor: Tensor, cov_diag: Tensor) -> torch.Size:
    """The batch shape. Raises ValueError that names the argument."""
    if loc.dim() < 1 or loc.shape[-1] == 0 or not loc.is_floating_point():
        raise ValueError(
            f"loc must be a floating-point tensor (..., S), S > 0, not {loc.dtype} "
            f"{tuple(loc.shape)}; flatten images with loc.flatten(1)"
        )
    pixels = loc.shape[-1]
    real = not cov_factor.is_complex()
    if cov_factor.dim() < 2 or cov_factor.shape[-2] != pixels or not real:
        raise ValueError(
            f"cov_factor must be real and (..., S, R) with loc's S = {pixels}, not "
            f"{cov_factor.dtype} {tuple(cov_factor.shape)}; pass an R-major (..., R, S) one as x.mT"
        )
    if cov_diag.shape[-1] not in (1, pixels):
        raise ValueError(
            f"cov_diag must be a number, (..., 1) or (..., S) with loc's S = {pixels}, not "
            f"{tuple(cov_diag.shape)}; unsqueeze(-1) one number per item"
        )
    try:
        shapes = loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1]
        return torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        raise ValueError(
            f"batch shapes of loc, cov_factor and cov_diag must broadcast, but are "
            f"{', '.join(str(tuple(shape)) for shape in shapes)}; repeat or unsqueeze one of them"
        ) from error


class LowRankNormal(Distribution):
    """Model y ~ N(μ, PPᵀ + D), D = εI or diag(d) (§3.3).

    loc (..., S); cov_factor (..., S, R) of any strides, R = 0 and R >= S included; cov_diag a
    number, (), (..., 1) or (..., S). Batch shapes broadcast. Memory beyond the arguments: small
    blocks, and the gradients. `log_prob` brings the rank entropy along: `entropy` costs nothing
    more after it, while in the other order each reads P. `log_prob`, entropies and KL are float64,
    everything else has the dtype of loc and cov_factor, where they differ the larger, also under
    autocast. Raises ValueError for wrong shapes and, unless validate_args is False, for values that
    are not finite (cov_diag: positive).
    """

    arg_constraints = {}  # checked here in one pass each, with messages that say what to do
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor | float = 1e-5,
        validate_args: bool | None = None,
    ):
        if not (isinstance(loc, Tensor) and isinstance(cov_factor, Tensor)):
            raise TypeError(
                f"loc and cov_factor must be tensors, not {type(loc).__name__} and "
                f"{type(cov_factor).__name__}; pass torch.as_tensor(x)"
            )
        cov_diag = _as_tensor("cov_diag", cov_diag, torch.float64, loc.device)
        cov_diag = cov_diag.reshape(1) if cov_diag.dim() == 0 else cov_diag
        batch_shape = _check_shapes(loc, cov_factor, cov_diag)
        dtype = torch.promote_types(loc.dtype, cov_factor.dtype)
        self._loc, self._factor, self._diag = loc.to(dtype), cov_factor.to(dtype), cov_diag
        self._fixed = False  # True where condition() has set variances to zero
        self._kept = None  # the rank entropy that comes with a log-density, see `_keep`
        super().__init__(batch_shape, loc.shape[-1:], validate_args=False)
        self._validate_args = (
            Distribution._validate_args if validate_args is None else validate_args
        )
        if self._validate_args:
            _check_values("loc", loc)
            _check_values("cov_factor", cov_factor)
            _check_values("cov_diag", cov_diag, low=0)

    def _derived(self, loc: Tensor, factor: Tensor, diag: Tensor) -> "LowRankNormal":
        new = LowRankNormal(loc, factor, diag, validate_args=False)
        new._validate_args, new._fixed = self._validate_args, self._fixed
        return new

    def expand(self, batch_shape, _instance=None) -> "LowRankNormal":
        """Return the same distribution for a larger batch; nothing is copied."""
        batch_shape = _as_size(batch_shape)
        self._loc.new_empty(()).expand(self.batch_shape).expand(batch_shape)  # RuntimeError if not
        new = self._get_checked_instance(LowRankNormal, _instance)
        new._loc, new._factor, new._diag = self._loc, self._factor, self._diag
        new._fixed, new._kept = self._fixed, None
        super(LowRankNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __getitem__(self, index) -> "LowRankNormal":
        """Return the distributions at `index` of the batch, as views: p[0] of a batch (N,)."""
        batch, diag = self.batch_shape, self._diag
        parts = self.loc, self.cov_factor, diag.expand(batch + diag.shape[-1:])
        return self._derived(*_take(index, batch, *parts))

    def __repr__(self) -> str:
        sizes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        return f"{type(self).__name__}({sizes}, rank={self.rank})"

    @property
    def rank(self) -> int:
        """Return R, the number of columns of P."""
        return self._factor.shape[-1]

    @property
    def loc(self) -> Tensor:
        """Return μ (..., S)."""
        return self._loc.expand(self._extended_shape())

    @property
    def mean(self) -> Tensor:
        """Return μ (..., S)."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """Return μ (..., S)."""
        return self.loc

    @property
    def cov_factor(self) -> Tensor:
        """Return P (..., S, R)."""
        return self._factor.expand(self._extended_shape() + (self.rank,))

    @property
    def cov_diag(self) -> Tensor:
        """Return the diagonal of D (..., S)."""
        return self._diag.to(self._loc.dtype).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """Return diag(PPᵀ + D), (..., S)."""
        low_rank = torch.linalg.vector_norm(self._factor, dim=-1).square()
        return (low_rank + self._diag.to(self._loc.dtype)).expand(self._extended_shape())

    @property
    def covariance_matrix(self) -> Tensor:
        """Return PPᵀ + D (..., S, S), for small S."""
        return _product(self.cov_factor, self.cov_factor.mT) + torch.diag_embed(self.cov_diag)

    def _own(self, x: Tensor, own: torch.Size) -> Tensor:
        """Results per stored factor (items, ...) in the distribution's batch shape."""
        return x.reshape(own + x.shape[1:]).expand(self.batch_shape + x.shape[1:])

    def _items(self) -> Tensor:
        """The stored factors, R-major: (items, R, S)."""
        items = self._factor.shape[:-2].numel()
        return self._factor.mT.reshape(items, self.rank, self.event_shape[0])

    def _distance_and_rank(
        self, value: Tensor, loc: Tensor, gain: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Mahalanobis distances (*sample, *batch) of value from loc, and rank entropies (*batch).

        A factor shared by the whole batch is one item with many values; otherwise each batch
        element is an item.
        """
        if self._fixed:
            raise ValueError(
                "a distribution conditioned on exact values has variance 0 there and no density; "
                "use condition(..., noise_variance=...) with a positive number"
            )
        batch, (pixels,) = self.batch_shape, self.event_shape
        value, loc = torch.broadcast_tensors(value, loc)
        lead = value.shape[:-1]
        wide = lead[len(lead) - len(batch) :]
        if wide != batch:  # a value for each of several along an axis where the batch has one
            return self.expand(wide)._distance_and_rank(value, loc, gain)
        own = torch.broadcast_shapes(self._factor.shape[:-2], self._diag.shape[:-1])
        own = batch if own.numel() > 1 else own
        items = own.numel()
        factor = self._factor.expand(own + (pixels, self.rank)).mT.reshape(items, self.rank, pixels)
        diag = self._diag.expand(own + self._diag.shape[-1:])
        diag = diag.reshape(items, 1, diag.shape[-1])
        n = lead.numel() // max(1, items)
        value, loc = (x.reshape(n, items, pixels).transpose(0, 1) for x in (value, loc))
        dense = None
        if self.rank >= pixels and not gain:  # the covariance is smaller than P, and keeps digits
            with suppress(torch.linalg.LinAlgError):  # singular to float64
                dense = _dense_distance_and_rank(value, loc, factor, diag)
        distance, entropy, *_ = dense or _RidgeAndRank.apply(value, loc, factor, diag, float(gain))
        rank_entropy = self._own(entropy, own)
        if not (gain or dense):  # a gain multiplies gradients of the entropy too
            self._keep(rank_entropy, entropy)
        return distance.mT.reshape(lead), rank_entropy

    def _keep(self, rank_entropy: Tensor, entropy: Tensor) -> None:
        """Keep what came with a log-density for calls of `entropy` that follow.

        Not inside torch.func's transforms, whose tensors mean nothing outside, and no longer than
        until a backward pass has freed the graph or a parameter has changed in place.
        """
        self._kept = None
        if not _transforming():
            self._kept = rank_entropy, self._state()
            if entropy.grad_fn is not None:
                entropy.grad_fn.register_prehook(partial(_forget, weakref.ref(self)))

    def __getstate__(self) -> dict:
        """Return all but what was kept, whose graph can be neither copied nor pickled."""
        return {**self.__dict__, "_kept": None}

    def _state(self) -> tuple | None:
        """What the rank entropy depends on besides the tensors themselves; None if not known."""
        parameters = self._factor, self._diag
        if any(x.is_inference() for x in parameters):  # their changes are not counted
            return None
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in parameters)
        return *(x._version for x in parameters), wanted

    def _log_det_diag(self) -> Tensor:
        """log|D| in float64, broadcastable with the batch."""
        return self._diag.double().log().sum(-1) * (self.event_shape[0] / self._diag.shape[-1])

    def log_prob_and_rank_entropy(
        self, value: Tensor, span_gain: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Compute log p(value) and the rank entropy ½ log|I + PᵀD⁻¹P| in one pass over P (eq. 3).

        value (*sample, *batch, S) → (*sample, *batch) and (*batch), nats, float64. Differentiable
        once, in value, loc, cov_factor and cov_diag, by reverse mode: backward(), torch.func.grad,
        vjp and jacrev, under vmap and torch.compile too, but not jvp. Raises ValueError for a wrong
        value, and where condition() has fixed pixels.

        `span_gain` is the κ of `TrainingTerms`, for D = εI.
        """
        value = _check_value(value, self._loc, self._validate_args)
        if span_gain < 0:
            raise ValueError(f"span_gain must be 0 or more, not {span_gain}; 0.05 is a good start")
        if span_gain and (self._diag.shape[-1] > 1 or value.requires_grad):
            raise ValueError(
                "span_gain needs D = epsilon I and a value without gradient; give cov_diag as one "
                "number, detach the value, or leave span_gain at 0"
            )
        distance, rank_entropy = self._distance_and_rank(value, self.loc, span_gain)
        constant = self.event_shape[0] * LOG_2PI + self._log_det_diag()
        return -0.5 * (constant + distance) - rank_entropy, rank_entropy

    def training_terms(self, value: Tensor, span_gain: float = 0.0) -> TrainingTerms:
        """Return log p(value), the entropy above D = 1e-5 I if there is a P, the mean variance."""
        log_prob, entropy = self.log_prob_and_rank_entropy(value, span_gain)
        if self._diag.shape[-1] > 1 and self.rank:  # what a learnt D adds to the rank entropy
            entropy = entropy + 0.5 * (self.cov_diag.double() / REFERENCE).log().sum(-1)
        return TrainingTerms(log_prob, entropy, self._mean_variance())

    @torch.no_grad()
    def _mean_variance(self) -> Tensor:
        """Return the mean of diag(PPᵀ + D) over pixels and batch, without a copy of P."""
        factor = self.cov_factor
        low_rank = torch.linalg.vector_norm(factor).square() / factor.shape[:-1].numel()
        return low_rank + self.cov_diag.mean()

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log N(value; μ, PPᵀ + D) in nats, float64, (*sample, *batch)."""
        return self.log_prob_and_rank_entropy(value)[0]

    @property
    def rank_entropy(self) -> Tensor:
        """Compute ½ log|I + PᵀD⁻¹P|, the part of the entropy that P decides, in nats, (*batch)."""
        if self._kept is not None and self._kept[1] is not None and not _transforming():
            rank_entropy, state = self._kept
            if state == self._state():
                return rank_entropy
        none = self._loc.new_empty((0,) + self._extended_shape())
        return self._distance_and_rank(none, none)[1]

    def entropy(self) -> Tensor:
        """Compute ½S(1 + log 2π) + ½ log|D| + rank entropy, in nats, float64, (*batch)."""
        constant = self.event_shape[0] * (1 + LOG_2PI) + self._log_det_diag()
        return 0.5 * constant + self.rank_entropy

    def sample(self, sample_shape=(), generator: torch.Generator | None = None) -> Tensor:
        """Draw as `rsample` does, without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator)

    def rsample(self, sample_shape=(), generator: torch.Generator | None = None) -> Tensor:
        """Draw μ + P w + √D v with standard normal w and v (eq. 4): (*sample_shape, *batch, S)."""
        shape = self._extended_shape(_as_size(sample_shape))
        options = {"dtype": self._loc.dtype, "device": self._loc.device, "generator": generator}
        noise_factor = torch.randn(shape[:-1] + (self.rank,), **options)
        return self.rsample_from(noise_factor, torch.randn(shape, **options))

    def rsample_from(self, noise_factor: Tensor, noise_diag: Tensor) -> Tensor:
        """Return μ + P w + √D v for noise w (..., R) and v (..., S), which broadcast (eq. 4)."""
        noise_factor = _noise("noise_factor", noise_factor, self.rank, self._loc)
        noise_diag = _noise("noise_diag", noise_diag, self.event_shape[0], self._loc)
        deviation = self._diag.to(self._loc.dtype).sqrt()
        return self.loc + _combine(self._factor, noise_factor) + deviation * noise_diag

    def covariance_row(self, index: int) -> Tensor:
        """Return every pixel's covariance with pixel `index`, P p_i, + d_i at i: (*batch, S)."""
        index = _pixel(index, self.event_shape[0])
        own_variance = torch.zeros_like(self.loc)
        own_variance[..., index] = self.cov_diag[..., index]
        return _combine(self._factor, self._factor[..., index, :]) + own_variance

    @torch.no_grad()
    def principal_components(self) -> PrincipalComponents:
        """Decompose P = U diag(s) Vᵀ by the eigenvectors of PᵀP in float64 (eq. 5). No gradients.

        s descends; the largest entry of each image in U is positive; where P is rank-deficient
        (s² below R x 1e-16 of the largest), s and U are exactly zero.
        """
        factor = self._items()
        scales, rotation = _singular_values(factor)
        directions = _transform(factor, rotation / scales.where(scales > 0, math.inf)[:, None])
        if directions.numel():
            peak = directions.abs().argmax(-1, keepdim=True)
            sign = 1 - 2 * (directions.gather(-1, peak) < 0).to(factor.dtype)  # (items, R, 1)
            directions, rotation = directions * sign, rotation * sign.mT
        own = self._factor.shape[:-2]
        results = directions.mT, scales.to(factor.dtype), rotation
        return PrincipalComponents(*(self._own(x, own) for x in results))

    @torch.no_grad()
    def scale_components(self, scales: Tensor | Sequence[float]) -> "LowRankNormal":
        """Multiply the principal components by `scales`, P V diag(a) Vᵀ (eq. 5). No gradients.

        scales (R,) or (*batch, R), in descending order of the components; zero removes one, ones
        change nothing.
        """
        scales = _as_tensor("scales", scales, self._loc.dtype, self._loc.device)
        if scales.dim() < 1 or scales.shape[-1] != self.rank:
            raise ValueError(
                f"scales must be (..., R) with R = {self.rank}, not {tuple(scales.shape)}; "
                f"give one number per component"
            )
        rotation = self._own(_singular_values(self._items())[1], self._factor.shape[:-2])
        matrix = rotation * scales.to(rotation).unsqueeze(-2) @ rotation.mT  # (..., R, R)
        lead, (pixels,) = matrix.shape[:-2], self.event_shape
        shape = (lead.numel(), self.rank, pixels)
        factor = self._factor.mT.expand(lead + shape[1:]).reshape(shape)
        scaled = _transform(factor, matrix.reshape(lead.numel(), self.rank, self.rank))
        return self._derived(self.loc, scaled.reshape(lead + shape[1:]).mT, self._diag)

    @torch.no_grad()
    def condition(
        self,
        index: Tensor | Sequence[int] | int,
        values: Tensor | Sequence[float] | float,
        noise_variance: Tensor | Sequence[float] | float | None = None,
    ) -> "LowRankNormal":
        """Condition on values b of some pixels (eq. 6–7). No gradients.

        index: which of the S values, colours one by one, (q,), the last of equal ones counts, or
        a mask (S,); values and noise_variance: numbers or (..., q). Without noise the pixels
        become b exactly, of variance 0; with it, b is an observation of them with that variance.
        Repeated calls accumulate; a pixel that was fixed before simply takes its new value.
        O(q R² + R³ + S R²).

        w | b ~ N(m, V), V = (I + WᵀW)⁻¹, m = V Wᵀ D2⁻½ (b - mu2), W = D2⁻½ P2, D2 with
        the noise.
        """
        index, values, noise = _observations(self, index, values, noise_variance)
        if index.numel() == 0:
            return self
        offset, factor_2, diag_2 = self._seen(index, values)
        weight, weights, root = _regress(offset, factor_2, diag_2 + noise)
        kept = noise * weight  # the share of a pixel's own noise that remains: 0 for exact edits
        factor = _product(root.to(self._loc.dtype), self._factor.mT)  # (..., R, S)
        factor[..., index] *= kept.unsqueeze(-2).to(factor.dtype)
        shift = _product(weights.to(self._loc.dtype), self._factor.mT).squeeze(-2)
        loc = self._loc + shift
        predicted = offset + kept * ((weights @ factor_2.mT).squeeze(-2) - offset)
        mean_2 = torch.where(kept == 0, values, values - offset + predicted)
        lead = torch.broadcast_shapes(self.batch_shape, loc.shape[:-1], mean_2.shape[:-1])
        loc = loc.expand(lead + loc.shape[-1:]).clone()
        loc[..., index] = mean_2.to(loc.dtype)
        lead = torch.broadcast_shapes(self._diag.shape[:-1], kept.shape[:-1])
        diag = self._diag.expand(lead + self.event_shape).clone()
        diag[..., index] = (diag_2 * kept).to(diag.dtype)
        new = self._derived(loc, factor.mT, diag)
        new._fixed = self._fixed or bool((diag == 0).any())
        return new

    def _seen(self, index: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return b - mu2 (..., q), P2 (..., q, R) and D2 (..., q) of values b, in float64."""
        diag = self._diag.expand(self._diag.shape[:-1] + self.event_shape)
        offset = values - self._loc[..., index].double()
        return offset, self._factor[..., index, :].double(), diag[..., index].double()

    @torch.no_grad()
    def noise_posterior(self, index, values, noise_variance=None) -> tuple[Tensor, Tensor]:
        """Return mean (*batch, R) and covariance (*batch, R, R) of the noise ω of P, given b.

        Arguments are those of `condition`. float64, no gradients. A draw has the length √R; the
        mean is as long as what the values ask for.
        """
        index, values, noise = _observations(self, index, values, noise_variance)
        offset, factor_2, diag_2 = self._seen(index, values)
        _, mean, root = _regress(offset, factor_2, diag_2 + noise)
        batch = torch.broadcast_shapes(self.batch_shape, mean.shape[:-2])
        mean, covariance = mean.squeeze(-2), root @ root.mT
        return mean.expand(batch + mean.shape[-1:]), covariance.expand(batch + root.shape[-2:])

    @torch.no_grad()
    def observed_gram(self, index, values, noise_variance=None) -> tuple[Tensor, Tensor]:
        """Return what values b say of ω: G = XᵀD_2⁻¹X of X = [b - μ_2, P_2], and c.

        log p(b|ω) = -½(c + (1, -ω)ᵀ G (1, -ω)), c = q log 2π + log|D_2|, with the noise in D_2.
        G (*batch, 1 + R, 1 + R) and c (*batch) are float64. Arguments are those of `condition`.
        """
        index, values, noise = _observations(self, index, values, noise_variance)
        offset, factor_2, diag_2 = self._seen(index, values)
        total = diag_2 + noise
        lead = torch.broadcast_shapes(self.batch_shape, offset.shape[:-1], total.shape[:-1])
        parts = offset.unsqueeze(-2), factor_2.mT
        rows = torch.cat([x.expand(lead + x.shape[-2:]) for x in parts], -2)
        gram = (rows / total.unsqueeze(-2)) @ rows.mT
        return gram, (index.numel() * LOG_2PI + total.log().sum(-1)).expand(lead)

    def marginal(self, index: Tensor | Sequence[int] | int) -> "LowRankNormal":
        """Return the distribution of some values, N(μ_2, P_2P_2ᵀ + D_2), in ascending order.

        index: pixel numbers, each counted once, or a mask (S,).
        """
        index = _edited_pixels(index, self.event_shape[0], self._loc.device)[0]
        diag = self._diag if self._diag.shape[-1] == 1 else self._diag[..., index]
        return self._derived(self._loc[..., index], self._factor[..., index, :], diag)

    def marginal_log_prob(self, index, values, noise_variance=None) -> Tensor:
        """Compute log p(b) of values b of some pixels, nats, float64, (*batch). O(q R² + R³).

        index, values and noise_variance as in `condition`. With noise, b is an observation of the
        values with that variance. Differentiable as `log_prob` is.
        """
        index, values, noise = _observations(self, index, values, noise_variance)
        if index.numel() == 0:
            return values.new_zeros(self.batch_shape)
        p = self.marginal(index)
        if bool((noise > 0).any()):
            p = p._derived(p._loc, p._factor, p._diag.double() + noise)
            p._fixed = bool((p._diag == 0).any())
        return p.log_prob(values)

    def conditional_log_prob(self, value: Tensor, index) -> Tensor:
        """Compute log p(y_1 | y_2), the log-density of all values but those at `index`.

        value (*batch, S) are all values y; index as in `condition`. Nats, float64, (*batch). It is
        log p(y) - log p(y_2).
        """
        mask = torch.zeros(self.event_shape, dtype=torch.bool, device=self.loc.device)
        mask[_edited_pixels(index, self.event_shape[0], mask.device)[0]] = True
        return self.log_prob(value) - self.marginal_log_prob(mask, value[..., mask])

    @torch.no_grad()
    def leave_one_out(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each value given all others, float64, (*sample, *batch, S).

        They are y_i - (Λ(y - μ))_i/Λ_ii and 1/Λ_ii with Λ = D⁻¹ - D⁻¹P K⁻¹PᵀD⁻¹, K = I + PᵀD⁻¹P:
        Λ_ii = (1 - h_i)/d_i, where h_i = p_iᵀK⁻¹p_i/d_i. O(S R²), with a float64 copy of P.
        """
        value = _check_value(value, self._loc, self._validate_args).double()
        if self._fixed:
            raise ValueError(
                "values that were conditioned on exactly have no variance; use "
                "condition(..., noise_variance=...) with a positive number"
            )
        std = self._diag.double().sqrt()
        whitened = self._factor.double().mT / std[..., None, :]  # (..., R, S)
        directions = _posterior_root(whitened @ whitened.mT).mT @ whitened  # K^-½PᵀD^-½
        white = (value - self.loc.double()) / std
        shares = (directions @ white[..., None])[..., 0]
        push = white - (shares[..., None, :] @ directions)[..., 0, :]
        left = 1 - directions.square().sum(-2)  # 1 - h
        mean, variance = value - std * push / left, std.square() / left
        return mean, variance.expand_as(mean)


def _transforming() -> bool:
    """Whether torch.compile traces, or a transform of torch.func is under way."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _forget(owner: weakref.ref, _) -> None:
    """Drop what a distribution has kept, as the graph behind it is about to be freed."""
    if (p := owner()) is not None:
        p._kept = None


def _check_batches(p: Distribution, **tensors: Tensor) -> None:
    """Raises ValueError for tensors (*batch, n) that do not go with the batch of p."""
    for name, x in tensors.items():
        try:
            torch.broadcast_shapes(p.batch_shape, x.shape[:-1])
        except RuntimeError as error:
            raise ValueError(
                f"{name} must be of the batch {tuple(p.batch_shape)} or broadcast with it, but is "
                f"of {tuple(x.shape[:-1])}; give each its own, or one for all"
            ) from error


def _right_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values s² (..., m) and right singular vectors (..., R, m) of (..., q, R).

    Through the R x R Gram matrix, which is quick, where q > R and its rounding errors stay small
    beside 1; else through the matrix itself, so that what it leaves open stays exactly that.
    """
    q, rank = matrix.shape[-2:]
    if q > rank:
        gram = matrix.mT @ matrix
        if bool((gram.diagonal(dim1=-2, dim2=-1).sum(-1) * EPS < 1e-8).all()):
            values, vectors = torch.linalg.eigh(gram)
            return values.clamp_min(0), vectors
    _, values, rows = torch.linalg.svd(matrix, full_matrices=False)
    return values.square(), rows.mT


def _shrinking(squares: Tensor, directions: Tensor) -> Tensor:
    """(I + WᵀW)⁻½ = I + Q ((1 + s²)⁻½ - 1) Qᵀ of W = . diag(s) Qᵀ: (..., R, R)."""
    shrink = (1 + squares).rsqrt() - 1
    product = directions * shrink.unsqueeze(-2) @ directions.mT
    return _identity_like(product) + product


def _regress(offset: Tensor, factor_2: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1/total (zero where total is) (..., q), and mᵀ (..., 1, R) and V^½ (..., R, R) of w | b."""
    weight = torch.where(total > 0, 1 / total, 0.0)
    squares, directions = _right_singular(weight.sqrt().unsqueeze(-1) * factor_2)
    cross = (weight * offset).unsqueeze(-2) @ factor_2
    inverse = 1 / (1 + squares).unsqueeze(-2)
    mean = (cross @ directions * inverse) @ directions.mT
    return weight, mean, _shrinking(squares, directions)


def _observations(p: Distribution, index, values, noise_variance) -> tuple[Tensor, Tensor, Tensor]:
    """Check what is given of some pixels: their numbers (q,), values and noise (..., q)."""
    device = p.loc.device
    index, position, given = _edited_pixels(index, p.event_shape[0], device)
    if index.numel() == 0:
        none = torch.zeros(0, dtype=torch.float64, device=device)
        return index, none, none
    values = _per_edit("values", values, position, given, device)
    noise = 0.0 if noise_variance is None else noise_variance
    noise = _per_edit("noise_variance", noise, position, given, device)
    _check_batches(p, values=values, noise_variance=noise)
    _check_values("values", values)
    _check_values("noise_variance", noise)
    if bool((noise < 0).any()):
        raise ValueError("noise_variance must not be negative; pass None for exact edits")
    return index, values, noise


def _edited_pixels(index, pixels: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Ascending pixel numbers without repeats, where in `index` each stands last, its length."""
    if isinstance(index, slice):
        index = range(pixels)[index]
    index = _as_tensor("index", index, None, device).to(device)
    if index.dtype == torch.bool:
        if index.shape != (pixels,):
            raise ValueError(
                f"index, as a mask, must be ({pixels},), not {tuple(index.shape)}; flatten it"
            )
        index = index.nonzero().squeeze(-1)
    if index.dim() > 1 or (index.numel() and (index.is_floating_point() or index.is_complex())):
        raise ValueError(
            f"index must be pixel numbers (q,) or a mask ({pixels},), not {index.dtype} "
            f"{tuple(index.shape)}; flat numbers count channels, then rows, then columns"
        )
    index = index.reshape(-1).long()
    if index.numel() and not -pixels <= index.min() <= index.max() < pixels:
        raise ValueError(
            f"index must lie in 0..{pixels - 1} or, from the end, in -{pixels}..-1, but reaches "
            f"from {index.min()} to {index.max()}; "
            f"flat numbers count channels, then rows, then columns"
        )
    order = torch.arange(index.numel(), device=device)
    last = torch.full((pixels,), -1, device=device)
    last.scatter_reduce_(0, index % pixels, order, "amax")
    edited = (last >= 0).nonzero().squeeze(-1)
    return edited, last[edited], index.numel()


def _per_edit(name: str, x, position: Tensor, given: int, device: torch.device) -> Tensor:
    """x of every kept edit in float64: (..., q)."""
    x = _as_tensor(name, x, torch.float64, device).to(device, torch.float64)
    if x.dim() == 0:
        x = x.expand(1)
    if x.shape[-1] == 1:
        return x.expand(x.shape[:-1] + position.shape)
    if x.shape[-1] != given:
        raise ValueError(
            f"{name} must be a number or (..., q) with q = {given} edits, not {tuple(x.shape)}; "
            f"give one per index, of a whole image x those of a mask: x[mask]"
        )
    return x[..., position]


def _factor_gram(factor: Tensor) -> Tensor:
    """PᵀP in float64: (items, R, S) → (items, R, R)."""
    none = factor.new_empty(factor.shape[0], 0, factor.shape[-1])
    return _double_grams(none, none, factor, factor.new_ones(factor.shape[0], 1, 1))[0]


def _singular_values(factor: Tensor) -> tuple[Tensor, Tensor]:
    """s (items, R), descending, and V (items, R, R) of P = U diag(s) Vᵀ, in float64."""
    squares, rotation = torch.linalg.eigh(_factor_gram(factor))
    squares, rotation = squares.flip(-1), rotation.flip(-1)
    floor = squares[:, :1] * squares.shape[-1] * EPS
    return squares.where(squares > floor, 0.0).sqrt(), rotation


@register_kl(LowRankNormal, LowRankNormal)
def _kl_low_rank_normal(p: LowRankNormal, q: LowRankNormal) -> Tensor:
    """KL(p || q) = (tr(Σ_q⁻¹ Σ_p) - S + M_q(μ_p) + log|Σ_q| - log|Σ_p|) / 2.

    The trace is the Mahalanobis distances of p's components plus sum_i d_p,i (Σ_q⁻¹)_ii.
    Nats, float64, (*batch). For analysis: it makes float64 copies of both factors. Where the
    covariance itself is no larger than a factor, it is what loses no digits.
    """
    if p.event_shape != q.event_shape:
        raise ValueError(f"KL needs as many values, not {p.event_shape[0]} and {q.event_shape[0]}")
    batch, (pixels,) = torch.broadcast_shapes(p.batch_shape, q.batch_shape), p.event_shape
    if max(p.rank, q.rank) >= pixels and not (p._fixed or q._fixed):
        with suppress(torch.linalg.LinAlgError):  # singular to float64
            return kl_divergence(_dense(p), _dense(q))
    difference = p.loc.double() - q.loc.double()
    components = p.expand(batch).cov_factor.mT.double().movedim(-2, 0)  # (R, *batch, S)
    distances, rank_q = q._distance_and_rank(
        torch.cat([difference.expand(batch + (pixels,))[None], components]),
        difference.new_zeros(batch + (pixels,)),
    )
    whitened = q._factor.double() / q._diag.double().sqrt().unsqueeze(-1)
    leverage = (whitened @ _posterior_root(whitened.mT @ whitened)).square().sum(-1)
    ratio = p._diag.double() / q._diag.double()
    trace = distances[1:].sum(0) + (ratio * (1 - leverage)).sum(-1)
    log_ratio = q._log_det_diag() - p._log_det_diag() + 2 * (rank_q - p.rank_entropy)
    return 0.5 * (trace - pixels + distances[0] + log_ratio)


def _dense(p: Distribution) -> MultivariateNormal:
    """p with its whole covariance in float64."""
    if isinstance(p, MultivariateNormal):
        return MultivariateNormal(p.loc.double(), scale_tril=p.scale_tril.double())
    factor = p._factor.double()
    covariance = factor @ factor.mT + torch.diag_embed(p.cov_diag.double())
    return MultivariateNormal(p.loc.double(), covariance, validate_args=False)


def _low_rank(p: Distribution) -> LowRankNormal:
    """p as a LowRankNormal: torch's own class, or independent pixels."""
    if isinstance(p, LowRankMultivariateNormal):
        return LowRankNormal(p.loc, p.cov_factor, p.cov_diag, validate_args=False)
    if isinstance(p, Independent):
        if not isinstance(p.base_dist, Normal) or p.reinterpreted_batch_ndims != 1:
            raise NotImplementedError("KL needs Independent(Normal(mean, std), 1)")
        factor = p.mean.new_zeros(*p.event_shape, 0)
        return LowRankNormal(p.mean, factor, p.variance, validate_args=False)
    return p


def _kl_with_torchs(p: Distribution, q: Distribution) -> Tensor:
    """KL(p || q) of a LowRankNormal and one of torch's normals, in nats, float64: (*batch)."""
    dense = isinstance(p, MultivariateNormal) or isinstance(q, MultivariateNormal)
    form = _dense if dense else _low_rank
    return kl_divergence(form(p), form(q))


for _other in (LowRankMultivariateNormal, MultivariateNormal, Independent):
    register_kl(LowRankNormal, _other)(_kl_with_torchs)
    register_kl(_other, LowRankNormal)(_kl_with_torchs)
