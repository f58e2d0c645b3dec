"""Edits of an image, and what the observation distribution makes of them (§4.4, eq. 6–7).

A pixel is a number, row · width + column, and an edit gives it a colour, one number per channel.
Distributions here are single ones over flat images, batch shape (), channel-major.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sos.low_rank_normal import LowRankNormal

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Stroke:
    """Painted pixels, the one colour they get, and how firmly they hold it."""

    pixels: tuple[int, ...]
    colour: tuple[float, ...]  # one number per channel, in [0, 1]
    std: float = 0.0  # standard deviation of the edit's noise; 0: exactly this colour


def stroke(
    pixels: Tensor | np.ndarray | Iterable[int],
    colour: float | Sequence[float],
    shape: Shape,
    std: float = 0.0,
) -> Stroke:
    """A checked stroke: pixel numbers or a mask (H, W), and a colour or gray value in [0, 1].

    Raises ValueError for pixels off the canvas, colours that no screen shows, and negative noise.
    No pixel at all is a stroke that changes nothing.
    """
    channels, height, width = shape
    given = pixels if isinstance(pixels, Tensor | np.ndarray) else list(pixels)
    numbers = np.asarray(given, dtype=None if len(given) else np.int64)
    if numbers.dtype == bool:
        if numbers.shape != (height, width):
            raise ValueError(
                f"pixels, as a mask, must be {(height, width)}, not {numbers.shape}; "
                f"give one entry per pixel, not per colour"
            )
        numbers = np.flatnonzero(numbers)
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(
            f"pixels must be whole numbers in one row, or a mask, not {numbers.dtype} "
            f"{numbers.shape}; pixel (row, column) has the number row * {width} + column"
        )
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < height * width:
        raise ValueError(
            f"pixels must lie in 0..{height * width - 1} on a canvas of {height}x{width}, but "
            f"reach from {numbers.min()} to {numbers.max()}; `brush` clips strokes to the canvas"
        )
    values = np.atleast_1d(np.asarray(colour, dtype=float))
    if values.shape not in {(1,), (channels,)}:
        raise ValueError(f"colour must be one number or {channels}, not {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():  # NaN fails too
        raise ValueError(
            f"colour must lie in [0, 1], but is {values.tolist()}; divide bytes by 255"
        )
    if not (math.isfinite(std) and std >= 0):
        raise ValueError(f"std must be zero (an exact edit) or a positive number, not {std}")
    painted = tuple(dict.fromkeys(numbers.tolist()))
    return Stroke(painted, tuple(np.broadcast_to(values, channels).tolist()), float(std))


def brush(points: Sequence[tuple[float, float]], size: float, shape: Shape) -> list[int]:
    """Pixels under a round brush of `size` pixels that runs along `points`, (x, y) in pixels.

    Painted is every pixel whose centre lies within size / 2 of the path, and every pixel that holds
    one of the points; what falls off the canvas is lost. `observation.js` draws by the same rule.
    """
    path = np.asarray(points, dtype=float)
    if path.ndim != 2 or path.shape[1] != 2 or not np.isfinite(path).all():
        raise ValueError(f"points must be finite pairs (x, y), not {path.tolist()}")
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"size must be a positive number of pixels, not {size}")
    _, height, width = shape
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    painted = np.zeros((height, width), bool)
    for (from_x, from_y), (to_x, to_y) in zip(path, np.append(path[1:], path[-1:], 0), strict=True):
        along_x, along_y = to_x - from_x, to_y - from_y
        length = along_x * along_x + along_y * along_y
        t = ((x - from_x) * along_x + (y - from_y) * along_y) / (length or 1.0)
        t = np.clip(t, 0, 1)
        off_x, off_y = x - (from_x + t * along_x), y - (from_y + t * along_y)
        painted |= off_x * off_x + off_y * off_y <= size * size / 4
        column, row = math.floor(from_x), math.floor(from_y)
        if 0 <= row < height and 0 <= column < width:
            painted[row, column] = True
    return np.flatnonzero(painted).tolist()


def edits(strokes: Iterable[Stroke], shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """What the strokes leave on the canvas: flat indices (q,), values (q,), noise variances (q,).

    Where strokes contradict each other, the last one holds.
    """
    channels, height, width = shape
    held: dict[int, Stroke] = {}
    for one in strokes:
        held |= dict.fromkeys(one.pixels, one)
    pixels = torch.tensor(list(held), dtype=torch.long)
    index = pixels + height * width * torch.arange(channels)[:, None]
    colours = torch.tensor([one.colour for one in held.values()], dtype=torch.float64)
    variance = torch.tensor([one.std**2 for one in held.values()], dtype=torch.float64)
    values = colours.reshape(-1, channels).T
    return index.flatten(), values.flatten(), variance.repeat(channels)


def condition(p: LowRankNormal, strokes: Iterable[Stroke], shape: Shape) -> LowRankNormal:
    """p given all strokes at once (eq. 7): again a LowRankNormal, p itself without strokes."""
    check_shape(p, shape)
    index, values, variance = (x.to(p.loc.device) for x in edits(strokes, shape))
    return p.condition(index, values, variance) if index.numel() else p


def condition_sample(
    p: LowRankNormal, sample: Tensor, strokes: Iterable[Stroke], shape: Shape, noise: Tensor
) -> Tensor:
    """The sample y of p, moved by as little as the edits need: y + Σ₁₂(Σ₂₂ + T)⁻¹(b - Tʹη - y₂).

    "Matheron's rule" (Wilson et al., 2021): exact samples of the conditional distribution, which
    vary smoothly with the edits. `noise` (S,) are the standard normal η of soft edits, T = TʹTʹ.
    """
    check_shape(p, shape)
    index, values, variance = (x.to(p.loc.device) for x in edits(strokes, shape))
    if not index.numel():
        return sample
    wanted = values - variance.sqrt() * noise[index].double()
    shifted = p.loc[index].double() + wanted - sample[index].double()
    moved = sample + (p.condition(index, shifted, variance).mean - p.loc)
    exact = variance == 0
    moved[index[exact]] = values[exact].to(moved.dtype)
    return moved


def check_shape(p: LowRankNormal, shape: Shape) -> None:
    """Raises ValueError unless p is one distribution over images of this shape."""
    if p.batch_shape or p.event_shape[0] != math.prod(shape):
        raise ValueError(
            f"the distribution must be one over {math.prod(shape)} values, channels x height x "
            f"width = {'x'.join(map(str, shape))}, not {tuple(p.batch_shape)} over "
            f"{p.event_shape[0]}; take one of a batch by p[number]"
        )


def removed_variance(p: LowRankNormal, shape: Shape, noise_variance: float = 0.0) -> Tensor:
    """How much variance of the whole image goes once a pixel's colour is known: (H, W).

    For the values 2 of one pixel, tr(Σ₁₂(Σ₂₂ + τI)⁻¹Σ₂₁), where Σ₂·Σ·₂ = P₂GP₂ᵀ + P₂P₂ᵀD₂ +
    D₂P₂P₂ᵀ + D₂², G = PᵀP: C×C matrices, whose number is that of the pixels. float64.
    """
    check_shape(p, shape)
    channels = shape[0]
    factor = p.cov_factor.double()
    own = factor.unflatten(0, (channels, -1)).transpose(0, 1)  # (pixels, C, R)
    diag = p.cov_diag.double().unflatten(0, (channels, -1)).T  # (pixels, C)
    inner = own @ own.mT
    square = own @ (factor.mT @ factor) @ own.mT
    square += inner * diag[:, None] + inner * diag[:, :, None] + torch.diag_embed(diag.square())
    known = inner + torch.diag_embed(diag + noise_variance)
    # Of pixels that are fixed already nothing is left to learn, and their matrix is zero.
    left = torch.linalg.pinv(known, hermitian=True)
    return torch.linalg.vecdot(left.flatten(1), square.flatten(1)).reshape(shape[1:])


def greedy_pixels(
    p: LowRankNormal, shape: Shape, count: int, noise_variance: float = 0.0
) -> tuple[list[int], list[float]]:
    """Which pixels tell most: each removes the most variance given those before it.

    Returns their numbers, and the mean variance per value that is left after none, one, two ...
    Colours don't matter: a normal distribution's conditional variance is the same for all.
    """
    pixels, left = [], [p.variance.double().mean().item()]
    std = math.sqrt(noise_variance)
    for _ in range(count):
        best = int(removed_variance(p, shape, noise_variance).argmax())
        pixels.append(best)
        p = condition(p, [stroke([best], 0.5, shape, std)], shape)
        left.append(p.variance.double().mean().item())
    return pixels, left
