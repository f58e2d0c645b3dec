"""Edit an image, and condition the observation distribution on the edits (§4.4, eq. 6–7).

A pixel is a number, row · width + column, and an edit gives it a colour, one number per channel.
Distributions here have batch shape () and are over flat, channel-major images.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from sos.datasets import LUMA
from sos.distributions.low_rank_normal import LowRankNormal

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Stroke:
    """Hold painted pixels, their one colour, and the standard deviation of the edit's noise."""

    pixels: tuple[int, ...]
    colour: tuple[float, ...]  # one number per channel, in [0, 1]
    std: float = 0.0  # 0: exactly this colour


def stroke(
    pixels: Tensor | np.ndarray | Iterable[int],
    colour: float | Sequence[float],
    shape: Shape,
    std: float = 0.0,
) -> Stroke:
    """Make a stroke from pixel numbers or a mask (H, W), and a colour or gray value in [0, 1].

    Raises ValueError for pixels off the canvas, colours outside [0, 1], and negative noise. A
    stroke without pixels changes nothing.
    """
    channels, height, width = shape
    if isinstance(pixels, Integral):
        pixels = [pixels]
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
    if channels == 1 and values.shape == (3,):  # on gray images a colour becomes its gray value
        values = np.atleast_1d(LUMA @ values)
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
    """Return the pixels under a round brush of `size` pixels along `points`, (x, y) in pixels.

    A pixel is painted if its centre lies within size / 2 of the path, or if it holds one of the
    points. Pixels off the canvas are left out. `observation.js` draws by the same rule. Raises
    ValueError for points and sizes that are not finite, and for sizes that are not positive.
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


def sketch(
    points: Sequence[tuple[float, float]],
    size: float,
    colour: float | Sequence[float],
    shape: Shape,
    std: float = 0.0,
) -> Stroke:
    """Make a stroke along points (x, y) in shares of width and height, for any resolution.

    `size` is the brush's diameter as a share of the height; it is at least one pixel.
    """
    _, height, width = shape
    path = [(x * width, y * height) for x, y in points]
    return stroke(brush(path, max(1.0, size * height), shape), colour, shape, std)


def soft(strokes: Iterable[Stroke], std: float) -> list[Stroke]:
    """Return the same strokes as observations with noise of this standard deviation."""
    return [replace(one, std=std) for one in strokes]


def edits(strokes: Iterable[Stroke], shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Combine strokes into edits: flat indices (q,), values (q,) and noise variances (q,).

    Where strokes overlap, the last one holds.
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
    """Condition p on all strokes at once (eq. 7).

    The result is again a LowRankNormal. Without strokes it is p itself.
    """
    check_shape(p, shape)
    index, values, variance = (x.to(p.loc.device) for x in edits(strokes, shape))
    return p.condition(index, values, variance) if index.numel() else p


def story(p: LowRankNormal, strokes: Sequence[Stroke], shape: Shape) -> Tensor:
    """Edit sequentially as in Figure 6; return images (2 · strokes, C, H, W).

    For each stroke they are the image with the paint on it, and the conditional mean.
    """
    images = [condition(p, strokes[:count], shape).mean for count in range(len(strokes) + 1)]
    told = []
    for before, after, one in zip(images, images[1:], strokes, strict=False):
        index, values, _ = edits([one], shape)
        painted = before.clone()
        painted[index] = values.to(painted)
        told += [painted, after]
    return torch.stack(told).unflatten(-1, shape)


def noise_length(p: LowRankNormal, strokes: Iterable[Stroke], shape: Shape) -> float:
    """Compute ‖E[ω_p | edits]‖, the length of the noise that the edits ask for.

    A random draw has about √R.
    """
    check_shape(p, shape)
    index, values, variance = (x.to(p.loc.device) for x in edits(strokes, shape))
    return p.noise_posterior(index, values, variance)[0].norm().item()


def condition_sample(
    p: LowRankNormal, sample: Tensor, strokes: Iterable[Stroke], shape: Shape, noise: Tensor
) -> Tensor:
    """Condition a sample y of p by Matheron's rule: y + Σ₁₂(Σ₂₂ + T)⁻¹(b - Tʹη - y₂).

    The rule moves y only as far as the edits need (Wilson et al., 2021). The results are exact
    samples of the conditional distribution (eq. 7), and vary smoothly with the edits. `noise` (S,)
    holds the standard normal η of soft edits, with T = TʹTʹ.
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
    """Check that p is one distribution over images of this shape. Raises ValueError otherwise."""
    if not isinstance(p, LowRankNormal):
        raise ValueError(f"the distribution must be a LowRankNormal, not {type(p).__name__}")
    if len(shape) != 3 or not all(isinstance(n, Integral) and n > 0 for n in shape):
        raise ValueError(f"shape must be (channels, height, width), not {tuple(shape)}")
    if shape[2] in (1, 3) and shape[0] > 4:
        raise ValueError(
            f"shape must be (channels, height, width), but {tuple(shape)} ends in them"
        )
    if p.batch_shape or p.event_shape[0] != math.prod(shape):
        raise ValueError(
            f"the distribution must be one over {math.prod(shape)} values, channels x height x "
            f"width = {'x'.join(map(str, shape))}, not {tuple(p.batch_shape)} over "
            f"{p.event_shape[0]}; take one of a batch by p[number]"
        )


def decimate(p: LowRankNormal, shape: Shape, step: int) -> LowRankNormal:
    """Return the marginal distribution of every step-th pixel along both axes, in float64."""
    check_shape(p, shape)
    kept = torch.arange(p.event_shape[0]).unflatten(0, shape)[:, ::step, ::step].flatten()
    loc, factor, diag = p.loc[kept].double(), p.cov_factor[kept].double(), p.cov_diag[kept].double()
    return p._derived(loc, factor, diag)  # allows the zero variances of exact edits


def removed_variance(p: LowRankNormal, shape: Shape, noise_variance: float = 0.0) -> Tensor:
    """Compute how much variance of the whole image each pixel's colour removes: (H, W), float64.

    For the values 2 of one pixel it is tr(Σ·₂(Σ₂₂ + τI)⁻¹Σ₂·) (from eq. 7). There
    Σ₂·Σ·₂ = P₂GP₂ᵀ + P₂P₂ᵀD₂ + D₂P₂P₂ᵀ + D₂², with G = PᵀP. These are C×C
    matrices, one for each pixel.
    """
    check_shape(p, shape)
    channels = shape[0]
    factor = p.cov_factor.double().contiguous()

    def blocks(a: Tensor, b: Tensor) -> Tensor:  # a₂ b₂ᵀ of each pixel: (pixels, C, C)
        a, b = (x.unflatten(0, (channels, -1)) for x in (a, b))
        return torch.linalg.vecdot(a[:, None], b[None]).permute(2, 0, 1)

    diag = p.cov_diag.double().unflatten(0, (channels, -1)).T  # (pixels, C)
    inner = blocks(factor, factor)
    square = blocks(factor @ (factor.mT @ factor), factor)
    square = square + inner * (diag[:, None] + diag[:, :, None]) + torch.diag_embed(diag.square())
    known = inner + torch.diag_embed(diag + noise_variance)
    # Values that are fixed already have rows and columns of zeros; a one makes them solvable.
    known = known + torch.diag_embed((known.diagonal(dim1=1, dim2=2) == 0).to(known))
    removed = torch.linalg.solve(known, square).diagonal(dim1=1, dim2=2).sum(1)
    return removed.reshape(shape[1:])


def error_curve(
    p: LowRankNormal, truth: Tensor, pixels: Sequence[int], shape: Shape, std: float = 0.0
) -> list[float]:
    """Compute the conditional mean's root mean square error as pixels of an image are revealed.

    The image is (C, H, W). The errors are over all its values, after none, one, two … of `pixels`.
    """
    flat = truth.to(p.loc).flatten()
    colours = flat.unflatten(0, (shape[0], -1)).T.tolist()
    told = [stroke([pixel], colours[pixel], shape, std) for pixel in pixels]
    means = (condition(p, told[:count], shape).mean for count in range(len(told) + 1))
    return [(mean - flat).square().mean().sqrt().item() for mean in means]


def information_curves(
    p: LowRankNormal, images: Tensor, count: int, std: float
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Measure what knowing pixels is worth, most telling first and in random order.

    p is the batch (N,) of distributions of images (N, C, H, W). The result is two groups of curves,
    which are means over the images after 0 … count pixels. The first group is the share of the
    variance that soft edits leave. The second is the error of the conditional mean, after soft and
    exact edits, on the image that the pixels come from.
    """
    shape, stream = tuple(images.shape[1:]), torch.Generator().manual_seed(0)
    left, errors = defaultdict(list), defaultdict(list)
    for one, truth in zip((p[number] for number in range(len(images))), images, strict=True):
        best, variances = greedy_pixels(one, shape, count, std**2)
        random = torch.randperm(shape[1] * shape[2], generator=stream)[:count].tolist()
        left["most telling first"].append(variances)
        left["random order"].append(remaining(one, random, shape, std))
        errors["most telling, soft"].append(error_curve(one, truth, best, shape, std))
        errors["random, soft"].append(error_curve(one, truth, random, shape, std))
        errors["most telling, exact"].append(error_curve(one, truth, best, shape))
    mean = {k: torch.tensor(v).mean(0) for k, v in left.items()}
    shares = {k: (v / v[0]).tolist() for k, v in mean.items()}
    return shares, {k: torch.tensor(v).mean(0).tolist() for k, v in errors.items()}


def remaining(p: LowRankNormal, pixels: Sequence[int], shape: Shape, std: float) -> list[float]:
    """Return the mean variance per value that is left after none, one, two … of the pixels."""
    left = [p.variance.double().mean().item()]
    for pixel in pixels:
        p = condition(p, [stroke([pixel], 0.5, shape, std)], shape)
        left.append(p.variance.double().mean().item())
    return left


def greedy_pixels(
    p: LowRankNormal, shape: Shape, count: int, noise_variance: float = 0.0
) -> tuple[list[int], list[float]]:
    """Choose the pixels that tell most: each removes the most variance given those before it.

    Returns their numbers, and the mean variance per value that is left after none, one, two …
    pixels. Colours do not matter, because the conditional variance of a normal is the same for all.
    """
    pixels, given, std = [], p, math.sqrt(noise_variance)
    for _ in range(count):
        pixels.append(int(removed_variance(given, shape, noise_variance).argmax()))
        given = condition(given, [stroke(pixels[-1:], 0.5, shape, std)], shape)
    return pixels, remaining(p, pixels, shape, std)
