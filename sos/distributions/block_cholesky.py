"""Cholesky factors of precision matrices over images, row group by row group.

The precision Λ = LLᵀ of `SparsePrecisionNormal` couples a pixel with the h = k // 2 rows before and
after its own. Cut into groups of h rows, of b = h x width x channels values each, it is
block-tridiagonal, and so is what conditioning makes of it: rows and columns of fixed values become
those of the identity, and soft observations add to the diagonal. Determinants, solutions and the
diagonal of the inverse then take O(S b²) operations and O(S b) memory for S values, never S².

Inside, values are in groups, (items, G, b) for G groups, pixel by pixel and channel by channel; the
last group is padded with independent values. Everything is float64.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, int, int]


class Layout(NamedTuple):
    """Say where the values of an image of `shape` and the entries of L and LLᵀ lie in groups.

    Entries are numbered in the (2, G, b, b) blocks on the diagonal and below it.
    """

    groups: int  # G
    size: int  # b
    places: Tensor  # of each value, channel-major (S,), among the G · b places
    padding: Tensor  # the entries on the diagonal of places that hold no value
    inside: Tensor  # whether value k has the neighbour f, itself first: (1 + n, S)
    root: Tensor  # the entry of L_k+f,k: (1 + n, S), zero where there is no neighbour
    pairs: Tensor  # f and g of each pair f <= g: (2, pairs)
    gram: Tensor  # the entry of (LLᵀ)_k+f,k+g, in the lower triangle: (pairs, S)


@cache
def layout(shape: Shape, steps: tuple[tuple[int, int, int], ...], device: str) -> Layout:
    """Lay out images of `shape` whose values have later neighbours at `steps`."""
    channels, height, width = shape
    rows = max([1, *(row for _, row, _ in steps)])
    groups, size = -(-height // rows), rows * width * channels
    every = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    c, i, j = (axis.flatten() for axis in every)
    inside, there = [], []
    for dc, di, dj in ((0, 0, 0), *steps):
        inside.append((c + dc < channels) & (i + di < height) & (0 <= j + dj) & (j + dj < width))
        there.append(((i + di) * width + j + dj) * channels + c + dc)
    inside, there = torch.stack(inside), torch.stack(there)

    def entry(row: Tensor, column: Tensor) -> Tensor:
        row, column = torch.maximum(row, column), torch.minimum(row, column)
        group = column // size
        below = row // size - group
        return ((below * groups + group) * size + row % size) * size + column % size

    pairs = torch.triu_indices(len(there), len(there))
    both = inside[pairs[0]] & inside[pairs[1]]
    gram = entry(there[pairs[0]], there[pairs[1]]).where(both, torch.zeros(()).long())
    root = entry(there, there[:1]).where(inside, torch.zeros(()).long())
    empty = torch.ones(groups * size, dtype=torch.bool)
    empty[there[0]] = False
    empty = empty.nonzero()[:, 0]
    tensors = there[0], entry(empty, empty), inside, root, pairs, gram
    return Layout(groups, size, *(x.to(device) for x in tensors))


class BlockTridiagonal(NamedTuple):
    """Hold a symmetric matrix by its blocks on and below the diagonal.

    diag (items, G, b, b) and below (items, G - 1, b, b), the block of row g + 1 and column g.
    """

    diag: Tensor
    below: Tensor

    def times(self, x: Tensor) -> Tensor:
        """Multiply the symmetric matrix by columns x (items, G, b, m)."""
        product = self.diag @ x
        product[:, 1:] += self.below @ x[:, :-1]
        product[:, :-1] += self.below.mT @ x[:, 1:]
        return product

    def restricted(self, free: Tensor, added: Tensor) -> "BlockTridiagonal":
        """Add (items, G, b) to the diagonal, and put the identity where values are not `free`."""
        keep = free.to(self.diag)
        diag = self.diag * keep[..., :, None] * keep[..., None, :]
        diag = diag + torch.diag_embed(added * keep + 1 - keep)
        return BlockTridiagonal(diag, self.below * keep[:, 1:, :, None] * keep[:, :-1, None, :])

    def cholesky(self) -> "BlockCholesky":
        """Factorise the matrix. Raises torch.linalg.LinAlgError unless it is positive definite."""
        diag, below = [torch.linalg.cholesky(self.diag[:, 0])], []
        for group in range(1, self.diag.shape[1]):
            left = _solve(diag[-1], self.below[:, group - 1].mT).mT
            below.append(left)
            diag.append(torch.linalg.cholesky(self.diag[:, group] - left @ left.mT))
        return BlockCholesky(diag, below)


class BlockCholesky(NamedTuple):
    """Hold the lower triangular C of CCᵀ: G blocks on the diagonal, and G - 1 below it."""

    diag: list[Tensor]  # (items, b, b) each
    below: list[Tensor]

    def log_det(self) -> Tensor:
        """Return log|CCᵀ|, (items,)."""
        parts = [x.diagonal(dim1=-2, dim2=-1).log().sum(-1) for x in self.diag]
        return 2 * torch.stack(parts).sum(0)

    def solve(self, rhs: Tensor) -> Tensor:
        """Solve CCᵀx = rhs, both (items, G, b, m)."""
        found: list[Tensor] = []
        for group, block in enumerate(self.diag):
            right = rhs[:, group]
            if group:
                right = right - self.below[group - 1] @ found[-1]
            found.append(_solve(block, right))
        return self.solve_transposed(torch.stack(found, 1))

    def solve_transposed(self, rhs: Tensor) -> Tensor:
        """Solve Cᵀx = rhs, both (items, G, b, m): of white noise it makes noise of (CCᵀ)⁻¹."""
        found: list[Tensor] = []
        for group in reversed(range(len(self.diag))):
            right = rhs[:, group]
            if found:
                right = right - self.below[group].mT @ found[-1]
            found.append(torch.linalg.solve_triangular(self.diag[group].mT, right, upper=True))
        return torch.stack(found[::-1], 1)

    def inverse_diagonal(self) -> Tensor:
        """Return the diagonal of (CCᵀ)⁻¹, (items, G, b), of which only G blocks are computed.

        The last is (CCᵀ)⁻¹ of its own group, and with B below it each other one is
        C⁻ᵀ(I + BᵀΣB)C⁻¹, where Σ is the block after it (Takahashi et al., 1973).
        """
        found: list[Tensor] = []
        covariance = None
        for group in reversed(range(len(self.diag))):
            block = self.diag[group]
            inner = torch.eye(block.shape[-1]).to(block).expand_as(block)
            if covariance is not None:
                below = self.below[group]
                inner = inner + below.mT @ covariance @ below
            half = torch.linalg.solve_triangular(block.mT, inner, upper=True)
            covariance = torch.linalg.solve_triangular(block.mT, half.mT, upper=True)
            found.append(covariance.diagonal(dim1=-2, dim2=-1))
        return torch.stack(found[::-1], 1)


def _solve(tril: Tensor, rhs: Tensor) -> Tensor:
    """Solve Cx = rhs of one block."""
    return torch.linalg.solve_triangular(tril, rhs, upper=False)


def _weights(log_diag: Tensor, weights: Tensor, plan: Layout) -> Tensor:
    """The columns of L, L_kk first: (items, 1 + n, S), zero where there is no neighbour."""
    columns = torch.cat([log_diag.double().exp()[:, None], weights.double()], 1)
    return columns * plan.inside


def _blocks(entries: Tensor, values: Tensor, plan: Layout) -> tuple[Tensor, Tensor]:
    """Sum values (items, m, S) at entries (m, S), with ones on the diagonal of the padding."""
    count = plan.groups * plan.size**2
    blocks = values.new_zeros(len(values), 2 * count)
    blocks = blocks.index_add(1, entries.flatten(), values.flatten(1))
    blocks[:, plan.padding] = 1
    on, below = blocks.unflatten(1, (2, plan.groups, plan.size, plan.size)).unbind(1)
    return on, below[:, :-1]


def root_blocks(log_diag: Tensor, weights: Tensor, plan: Layout) -> "BlockCholesky":
    """Return L itself in blocks: log_diag (items, S), weights (items, n, S), channel-major."""
    diag, below = _blocks(plan.root, _weights(log_diag, weights, plan), plan)
    return BlockCholesky(list(diag.unbind(1)), list(below.unbind(1)))


def precision_blocks(log_diag: Tensor, weights: Tensor, plan: Layout) -> BlockTridiagonal:
    """Return LLᵀ in blocks: log_diag (items, S), weights (items, n, S), channel-major."""
    columns = _weights(log_diag, weights, plan)
    first, second = plan.pairs
    diag, below = _blocks(plan.gram, columns[:, first] * columns[:, second], plan)
    return BlockTridiagonal(diag.tril() + diag.tril(-1).mT, below)


def grouped(x: Tensor, plan: Layout) -> Tensor:
    """Put values x (items, m, S) in groups, as columns (items, G, b, m)."""
    placed = x.new_zeros(*x.shape[:-1], plan.groups * plan.size)
    placed[..., plan.places] = x
    return placed.unflatten(-1, (plan.groups, plan.size)).movedim(1, -1)


def flat(x: Tensor, plan: Layout) -> Tensor:
    """Undo `grouped`: (items, G, b, m) to (items, m, S)."""
    return x.movedim(-1, 1).flatten(2)[..., plan.places]
