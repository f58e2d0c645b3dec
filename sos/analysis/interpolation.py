"""Interpolate in the observation space (§4.2, eq. 4 and 8), and in the latent space to compare."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from sos.distributions.low_rank_normal import LowRankNormal
from sos.models.vae import VAE
from sos.system.devices import generator


def _blend(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Interpolate spherically: (sin((1 - t) w) a + sin(t w) b) / sin w, at the angle w (eq. 8).

    a and b are (..., n), and t is a number or (...). The angle w is that between the normalised
    vectors; the blend is that of the vectors themselves. Parallel and zero vectors are blended
    linearly. Opposite vectors pass through a perpendicular of a, and their lengths are blended
    linearly.
    """
    a, b = torch.broadcast_tensors(a, b)
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device).unsqueeze(-1)
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a, unit_b = a / length_a.where(length_a > 0, 1), b / length_b.where(length_b > 0, 1)
    apart, along = (
        (unit_a - unit_b).norm(dim=-1, keepdim=True),
        (unit_a + unit_b).norm(dim=-1, keepdim=True),
    )
    angle = 2 * torch.atan2(apart, along)
    tiny = 4 * torch.finfo(a.dtype).eps
    some = (length_a > 0) & (length_b > 0)
    parallel = (apart <= tiny) | ~some
    opposite = (along <= tiny) & some & (a.shape[-1] > 1)
    sine = angle.sin().where(~(parallel | (along <= tiny)), 1)
    arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine
    axis = torch.zeros_like(a).scatter(-1, unit_a.abs().argmin(-1, keepdim=True), 1.0)
    aside = axis - (axis * unit_a).sum(-1, keepdim=True) * unit_a
    aside = aside / aside.norm(dim=-1, keepdim=True).clamp_min(tiny)
    half_turn = (t * math.pi).cos() * unit_a + (t * math.pi).sin() * aside
    result = torch.where(opposite, half_turn * _blend(length_a, length_b, t), arc)
    return torch.where(parallel | ((along <= tiny) & ~opposite), _blend(a, b, t), result)


def bilinear_at(corners: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
    """Interpolate spherically on a square (eq. 8), between corners (4, n) at x, y in [0, 1].

    The corners are top left, top right, bottom left and bottom right. x runs to the right and y
    down.
    """
    top, bottom = (slerp(corners[k], corners[k + 1], x) for k in (0, 2))
    return slerp(top, bottom, y)


def bilinear(corners: Tensor, steps: int) -> Tensor:
    """Apply `bilinear_at` on a grid, row by row, from corners (4, n) to (steps², n).

    Raises ValueError for corners of another shape and for fewer than 2 steps.
    """
    if corners.dim() != 2 or corners.shape[0] != 4 or steps < 2:
        raise ValueError(
            f"corners must be (4, n) and steps at least 2, not {tuple(corners.shape)} and {steps}"
        )
    t = torch.linspace(0, 1, steps, dtype=corners.dtype, device=corners.device)
    y, x = torch.meshgrid(t, t, indexing="ij")
    return bilinear_at(corners, x.flatten(), y.flatten())


def corners_of(steps: int) -> list[int]:
    """Return the positions of the corners in a grid of steps² images."""
    return [0, steps - 1, steps * (steps - 1), steps * steps - 1]


@dataclass(frozen=True)
class Square:
    """Hold four samples of one distribution as the corners of a square, for one ω_d (eq. 4)."""

    p: LowRankNormal  # one distribution over flat images
    corners: Tensor  # ω_p (4, R)
    noise_diag: Tensor  # ω_d (S,), the same everywhere

    def images(self, steps: int) -> Tensor:
        """Return the images on a grid over the square, row by row: (steps², S)."""
        return self.p.rsample_from(bilinear(self.corners, steps), self.noise_diag)


def square(p: LowRankNormal, seed: int) -> Square:
    """Draw a square with four random corners of p."""
    where = p.loc.device
    stream = generator("square", seed, device=where)
    corners = torch.randn(4, p.rank, generator=stream, device=where)
    return Square(p, corners, torch.randn(p.event_shape, generator=stream, device=where))


@dataclass(frozen=True)
class Comparison:
    """Hold one square interpolated both ways: images (steps², C, H, W), costs and errors."""

    observation: Tensor
    latent: Tensor
    numbers: dict[str, float]


@torch.no_grad()
def compare(vae: VAE, between: Square, steps: int) -> Comparison:
    """Compare a square of samples with the square from latent codes of the same corners.

    The corner images are encoded, and their codes m(x) are interpolated (eq. 8). Each code is
    decoded to its mean, because a sample would need a noise ω_p, which is what the observation
    space interpolates.
    """
    ours = vae.images(between.images(steps))
    codes = bilinear(vae.encode(ours[corners_of(steps)].clamp(0, 1))[0], steps)
    theirs = vae.images(vae.decode(codes).mean)
    wanted = ours[corners_of(steps)]
    numbers = {
        "decoder_passes_observation": 1.0,
        "decoder_passes_latent": float(len(codes)),
        "corner_rmse_latent": (theirs[corners_of(steps)] - wanted).square().mean().sqrt().item(),
        "spread_observation": ours.var(0).mean().sqrt().item(),
        "spread_latent": theirs.var(0).mean().sqrt().item(),
    }
    return Comparison(ours, theirs, numbers)


def middle_lengths(corners: Tensor) -> dict[str, float]:
    """Return the length of the noise half-way between two corners, relative to that at the ends.

    Spherical interpolation (eq. 8) keeps the length of a draw, √R. A straight line shortens it.
    """
    a, b = corners[0].double(), corners[1].double()
    ends = (a.norm() + b.norm()) / 2
    return {
        "middle_length_spherical": (slerp(a, b, 0.5).norm() / ends).item(),
        "middle_length_straight": ((a + b).norm() / 2 / ends).item(),
    }


def milliseconds(work: Callable[[], object], repeats: int = 20) -> float:
    """Measure the median time of a call, after one call that warms up.

    On a GPU the time runs until the work is done.
    """
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - began))
    return median(taken[1:])


@torch.no_grad()
def frame_costs(vae: VAE, between: Square) -> dict[str, float]:
    """Measure the milliseconds for one more image, by another noise ω_p and by another code z."""
    p, noise, still = between.p, between.corners[0], between.noise_diag
    z = vae.prior(1)
    return {
        "observation": milliseconds(lambda: p.rsample_from(noise, still)),
        "latent": milliseconds(lambda: vae.decode(z).mean),
    }
