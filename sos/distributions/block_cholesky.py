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
    """Say where the values of an image of `shape` and the entries of its L lie in groups."""

    groups: int  # G
    size: int  # b
    places: Tensor  # of each value, channel-major (S,), among the G · b places
    padding: Tensor  # places that hold no value
    # For each step to a later neighbour: the values that have it, and where the weight lies
    # among the (2, G, b, b) entries of the blocks L_gg and L_g+1,g
    entries: tuple[tuple[Tensor, Tensor], ...]
    diagonal: Tensor  # where L_kk lies, of all places (G · b,)


@cache
def layout(shape: Shape, steps: tuple[tuple[int, int, int], ...], device: str) -> Layout:
    """Lay out images of `shape` whose values have later neighbours at `steps`."""
    channels, height, width = shape
    rows = max([1, *(row for _, row, _ in steps)])
    groups, size = -(-height // rows), rows * width * channels
    c, i, j = (
        axis.flatten() for axis in torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    )

    def place(c, i, j):
        return (i * width + j) * channels + c

    places, entries = place(c, i, j), []
    for dc, di, dj in steps:
        inside = (c + dc < channels) & (i + di < height) & (0 <= j + dj) & (j + dj < width)
        values = inside.nonzero()[:, 0]
        column, row = places[values], place(c + dc, i + di, j + dj)[values]
        group, below = column // size, row // size - column // size
        entry = ((below * groups + group) * size + row % size) * size + column % size
        entries.append((values.to(device), entry.to(device)))
    every = torch.arange(groups * size)
    empty = torch.ones(groups * size, dtype=torch.bool)
    empty[places] = False
    diagonal = (every // size * size + every % size) * size + every % size
    tensors = (x.to(device) for x in (places, empty.nonzero()[:, 0], diagonal))
    places, padding, diagonal = tensors
    return Layout(groups, size, places, padding, tuple(entries), diagonal)


class BlockTridiagonal(NamedTuple):
    """Hold a symmetric matrix, or a lower triangular one, by its blocks on and below the diagonal.

    diag (items, G, b, b) and below (items, G - 1, b, b), the block of row g + 1 and column g.
    """

    diag: Tensor
    below: Tensor

    def gram(self) -> "BlockTridiagonal":
        """Return LLᵀ of a lower triangular L."""
        diag = self.diag @ self.diag.mT
        diag[:, 1:] += self.below @ self.below.mT
        return BlockTridiagonal(diag, self.below @ self.diag[:, :-1].mT)

    def half_log_det(self) -> Tensor:
        """Return log|L| of a lower triangular L, (items,)."""
        return self.diag.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))

    def times(self, x: Tensor) -> Tensor:
        """Multiply the symmetric matrix by columns x (items, G, b, m)."""
        product = self.diag @ x
        product[:, 1:] += self.below @ x[:, :-1]
        product[:, :-1] += self.below.mT @ x[:, 1:]
        return product

    def transposed_times(self, x: Tensor) -> Tensor:
        """Multiply Lᵀ, of a lower triangular L, by columns x (items, G, b, m)."""
        product = self.diag.mT @ x
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


def lower_blocks(log_diag: Tensor, weights: Tensor, shape: Shape, steps) -> BlockTridiagonal:
    """Return L in blocks: log_diag (items, S), weights (items, n, S), channel-major."""
    plan = layout(shape, tuple(steps), str(log_diag.device))
    items, count = len(log_diag), plan.groups * plan.size**2
    blocks = log_diag.new_zeros(items, 2 * count, dtype=torch.float64)
    diagonal = torch.zeros_like(blocks[:, : plan.groups * plan.size])
    diagonal[:, plan.places] = log_diag.double()
    blocks[:, plan.diagonal] = diagonal.exp()  # one where there is no value
    for number, (values, entry) in enumerate(plan.entries):
        blocks[:, entry] = weights[:, number, values].double()
    on, below = blocks.unflatten(1, (2, plan.groups, plan.size, plan.size)).unbind(1)
    return BlockTridiagonal(on, below[:, :-1])


def grouped(x: Tensor, plan: Layout) -> Tensor:
    """Put values x (items, m, S) in groups, as columns (items, G, b, m)."""
    placed = x.new_zeros(*x.shape[:-1], plan.groups * plan.size)
    placed[..., plan.places] = x
    return placed.unflatten(-1, (plan.groups, plan.size)).movedim(1, -1)


def flat(x: Tensor, plan: Layout) -> Tensor:
    """Undo `grouped`: (items, G, b, m) to (items, m, S)."""
    return x.movedim(-1, 1).flatten(2)[..., plan.places]
