"""The likeliest one covariance for residuals of all images, of each form that heads predict."""

import numpy as np
import torch
from torch import Tensor

from sos.distributions.sparse_precision_normal import SparsePrecisionNormal, neighbour_regression

ROUNDS = 2  # of L given P and P given L


def principal_components(flat: np.ndarray, rank: int):
    """Fit scikit-learn's PCA to rows (N, S)."""
    from sklearn.decomposition import PCA  # a second, which released weights do not need

    return PCA(rank, svd_solver="randomized", random_state=0).fit(flat)


def probabilistic_pca(
    flat: Tensor, rank: int, epsilon: float | None = None
) -> tuple[Tensor, float]:
    """Maximise the likelihood of N(·, AᵀA + εI) for rows (N, S): A (R, S), and ε unless given.

    The closed form is Tipping & Bishop's (1999): eigenvectors of length √(λ - ε).
    """
    rows = flat.cpu().numpy()
    total = rows.var(axis=0, dtype=np.float64).sum()
    if not rank:
        return flat.new_zeros(0, flat.shape[1]), epsilon or float(total / flat.shape[1])
    pca = principal_components(rows, rank)
    values = pca.explained_variance_ * (len(rows) - 1) / len(rows)
    if epsilon is None:
        # Of all S - R other directions; scikit-learn counts no more than there are images.
        epsilon = float(total - values.sum()) / max(1, rows.shape[1] - rank)
    axes = np.sqrt(np.maximum(values - epsilon, 0))[:, None] * pca.components_
    return torch.from_numpy(axes).to(flat), epsilon


def low_rank_and_sparse(
    residuals: Tensor, rank: int, neighbourhood: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit N(0, AᵀA + (LLᵀ)⁻¹) to residuals (N, C, H, W), L and A in turn.

    Returns log L_kk (S,), L_{k+f,k}/L_kk (n, S) and A (R, S). L is the likeliest for what A leaves
    (`neighbour_regression`), with ω drawn from its posterior, and A the likeliest for this L: the
    principal components of what L whitens. With rank 0 one step is exact.
    """
    flat = residuals.flatten(1)
    axes, variance = probabilistic_pca(flat, rank)
    white, root = flat / variance**0.5, axes / variance**0.5
    stream = torch.Generator().manual_seed(0)
    for _ in range(ROUNDS if rank else 1):
        left = flat - _explained(white, root, stream) @ axes
        variances, weights = neighbour_regression(left.view_as(residuals), neighbourhood)
        log_diag, ratios = -0.5 * variances.log(), -weights.T
        local = SparsePrecisionNormal(
            torch.zeros_like(flat[0]), log_diag, ratios * log_diag.exp(), residuals.shape[1:]
        )
        white = local.whiten(flat)
        root, _ = probabilistic_pca(white, rank, 1.0)
        axes = local.rsample_from(root).contiguous()
    return log_diag, ratios, axes


def _explained(white: Tensor, root: Tensor, generator: torch.Generator) -> Tensor:
    """Draw ω (N, R) from its posterior, for rows white = ω root + noise, root with rows apart."""
    precision = 1 + root.square().sum(1)  # of ω, since the rows of root are orthogonal
    noise = torch.randn(len(white), len(root), generator=generator).to(white)
    return white @ root.mT / precision + noise * precision.rsqrt()
