"""Interpolation in the observation space (§4.2, eq. 4 and 8), and in the latent space beside it."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from sos.low_rank_normal import LowRankNormal, slerp
from sos.vae import VAE


def bilinear_at(corners: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
    """Spherical interpolation on a square (eq. 8): between corners (4, n) at x, y in [0, 1].

    Corners are top left, top right, bottom left, bottom right; x runs to the right, y down.
    """
    top, bottom = (slerp(corners[k], corners[k + 1], x) for k in (0, 2))
    return slerp(top, bottom, y)


def bilinear(corners: Tensor, steps: int) -> Tensor:
    """`bilinear_at` on a grid, row by row: (4, n) → (steps², n)."""
    if corners.dim() != 2 or corners.shape[0] != 4 or steps < 2:
        raise ValueError(
            f"corners must be (4, n) and steps at least 2, not {tuple(corners.shape)} and {steps}"
        )
    t = torch.linspace(0, 1, steps, dtype=corners.dtype, device=corners.device)
    y, x = torch.meshgrid(t, t, indexing="ij")
    return bilinear_at(corners, x.flatten(), y.flatten())


def observation_grid(p: LowRankNormal, corners: Tensor, noise_diag: Tensor, steps: int) -> Tensor:
    """Images (steps², S) between four noises ω_p (4, R), all with the same ω_d (S,) (eq. 4)."""
    return p.rsample_from(bilinear(corners, steps), noise_diag)


@torch.no_grad()
def latent_grid(vae: VAE, corners: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The same square by way of the latent space: codes (steps², latent) and means (steps², S).

    Corner images (4, C, H, W) are encoded, their codes interpolated, and each code decoded.
    """
    codes = bilinear(vae.encode(corners.clamp(0, 1))[0], steps)
    return codes, vae.decode(codes).mean


def milliseconds(work: Callable[[], object], repeats: int = 20) -> float:
    """The median time of a call, on a GPU until its work is done, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - began))
    return median(taken[1:])


@torch.no_grad()
def frame_costs(vae: VAE, z: Tensor, noise: Tensor) -> dict[str, float]:
    """Milliseconds for one new frame: by new noise ω_p for a known p(y|z), and by a new z.

    z (1, latent) and noise (R,) are of any frame; both ways end in an image (S,).
    """
    p = vae.decode(z)
    still = torch.zeros_like(p.loc[0])
    return {
        "observation": milliseconds(lambda: p.rsample_from(noise, still)),
        "latent": milliseconds(lambda: vae.decode(z).rsample_from(noise, still)),
    }
