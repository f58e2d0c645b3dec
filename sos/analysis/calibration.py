"""How well predicted distributions describe the images they are of.

What takes p and x takes N flat images x (N, S), and one distribution for each, a batch (N,), or
one for all. What is said to be standard normal or uniform is so for samples of p itself. It is not
quite so where p is decoded from a code that was inferred from the same image, which has explained a
part of it: there the control is samples that went through the encoder too.
"""

import math
from collections.abc import Iterator

import numpy as np
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Distribution

from sos.analysis import metrics
from sos.distributions import LowRankNormal, LowRankPlusSparseNormal, SparsePrecisionNormal

KINDS = LowRankNormal, SparsePrecisionNormal, LowRankPlusSparseNormal
# Frequencies in cycles per pixel, from the first to below the second
BANDS = {"coarse": (0, 0.125), "middle": (0.125, 0.375), "fine": (0.375, 1)}


def _each(p: Distribution, x: Tensor) -> Iterator[tuple[Distribution, Tensor]]:
    """Yield one distribution at a time, and the images it is of. Raises TypeError, ValueError."""
    if x.dim() != 2 or x.shape[-1] != p.event_shape[0]:
        raise ValueError(
            f"x: expected flat images (N, {p.event_shape[0]}), got {tuple(x.shape)}; flatten "
            "images with x.flatten(1)"
        )
    if not isinstance(p, KINDS):
        raise TypeError(
            f"p: a {type(p).__name__} has no known whitening; pass a "
            f"{', a '.join(kind.__name__ for kind in KINDS)}"
        )
    if p.batch_shape not in ((), (len(x),)):
        raise ValueError(
            f"p: expected one distribution, or one for each of {len(x)} images, got a batch "
            f"{tuple(p.batch_shape)}; decode as many codes as there are images"
        )
    if not p.batch_shape:
        yield p, x
    for number in range(len(x) if p.batch_shape else 0):
        yield p[number], x[number : number + 1]


def _partly_whitened(p: Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q (S, R) and w (N, S), float64, where w ~ N(0, QQᵀ + I) for x ~ p, one distribution.

    With Σ = PPᵀ + D it is Q = D^-½P and w = D^-½(x - μ); a sparse Lᵀ takes the place of D^-½.
    Raises ValueError for variances of zero.
    """
    residual = x.double() - p.loc.double()
    if isinstance(p, LowRankNormal):
        std = p.cov_diag.double().sqrt()
        if not bool((std > 0).all()):
            raise ValueError("p: D has zeros, as after exact edits; pass a noise_variance to them")
        return p.cov_factor.double() / std[:, None], residual / std
    if isinstance(p, SparsePrecisionNormal):
        return residual.new_empty(x.shape[1], 0), p.whiten(residual)
    return p.local.whiten(p.cov_factor.mT.double()).mT, p.local.whiten(residual)


# --------------------------------------------------------------------------- principal components


@torch.no_grad()
def component_scores(p: Distribution, x: Tensor) -> Tensor:
    """Compute u_rᵀ(x - μ)/√(s_r² + ε), standard normal under p, of all components: (N, R).

    Components descend, and the scores are float64. With D = εI the u_r are exact eigenvectors of Σ.
    With another D, or a sparse precision beside P, they are those of what D or the precision
    whitens, uᵀD^-½(x - μ)/√(s² + 1), which are standard normal and independent as well, in the
    order of their signal-to-noise ratio. NaN where s_r is zero, since there is no direction. Raises
    ValueError for distributions without a P, and for shapes that do not go together.
    """
    return torch.cat([_component_scores(one, images) for one, images in _each(p, x)])


def _component_scores(p: Distribution, x: Tensor) -> Tensor:
    """Compute the scores (N, R) of one distribution."""
    factor, white = _partly_whitened(p, x)
    if factor.shape[1] == 0:
        raise ValueError("p: has no P, and so no components; look at pixel_scores and chi_square")
    directions, scales, _ = _components(factor)
    scores = white @ directions / (1 + scales.square()).sqrt()
    return scores.where(scales > 0, math.nan)


def _components(factor: Tensor):
    """Decompose Q = U diag(s) Vᵀ."""
    return LowRankNormal(factor.new_zeros(len(factor)), factor, 1.0).principal_components()


def component_squares(scores: Tensor) -> dict[str, Tensor]:
    """Average squared scores (N, R) over images: "square" (R,), expected to be 1, and "error" (R,).

    A square above 1 means that the component is too small. The error is the standard error of the
    mean. NaN, where an image has no such component, is left out.
    """
    squares = scores.double().square()
    there = ~squares.isnan()
    count = there.sum(0)
    mean = squares.nanmean(0)
    scatter = (squares - mean).square().where(there, 0).sum(0)
    return {"square": mean, "error": (scatter / (count - 1) / count).sqrt()}


# --------------------------------------------------------------------------------- whole images


@torch.no_grad()
def chi_square(p: Distribution, x: Tensor) -> Tensor:
    """Compute (x - μ)ᵀΣ⁻¹(x - μ)/S, expected to be 1, of each image: (N,), float64.

    It is 1 - 2(log p(x) + H)/S, by density and entropy, which each distribution has. The standard
    deviation under p is √(2/S).
    """
    return 1 - 2 * (p.log_prob(x) + p.entropy()) / x.shape[-1]


@torch.no_grad()
def whiten(p: Distribution, x: Tensor) -> Tensor:
    """Return w (N, S), independent and standard normal under p, float64.

    For N(μ, PPᵀ + D) it is (I + QQᵀ)^-½D^-½(x - μ), Q = D^-½P, and Lᵀ(x - μ) for a sparse
    precision. Raises as `component_scores` does.
    """
    return torch.cat([_whiten(one, images) for one, images in _each(p, x)])


def _whiten(p: Distribution, x: Tensor) -> Tensor:
    """Whiten images (N, S) by one distribution."""
    factor, white = _partly_whitened(p, x)
    directions, scales, _ = _components(factor)
    shrink = (1 + scales.square()).rsqrt() - 1
    return white + (white @ directions * shrink) @ directions.mT


def kurtosis(white: Tensor) -> Tensor:
    """Compute E(w - w̄)⁴/(E(w - w̄)²)² over the last axis, which is 3 for a normal distribution.

    Of `whiten` it is one number per image, (N,); of a flattened one, it also counts how much the
    size of the residuals differs between images.
    """
    squares = (white - white.mean(-1, keepdim=True)).double().square()
    return squares.square().mean(-1) / squares.mean(-1).square()


# ------------------------------------------------------------------------------ single numbers


@torch.no_grad()
def pixel_scores(p: Distribution, x: Tensor) -> Tensor:
    """Compute (x_i - μ_i)/√Σ_ii, standard normal under p but not independent: (N, S), float64.

    The exact variances of a sparse precision take seconds per image at 64x64 pixels.
    """
    return (x.double() - p.loc.double()) / p.variance.double().sqrt()


def pit(scores: Tensor) -> Tensor:
    """Transform scores to Φ(score), which is uniform on 0..1 where they are standard normal."""
    return torch.special.ndtr(scores.double())


def histogram(values: Tensor, bins: int = 20) -> Tensor:
    """Count values of `pit` in equal bins of 0..1, NaN left out: (bins,), whole numbers.

    Raises ValueError for values outside 0..1, such as scores that were not transformed.
    """
    values = values[~values.isnan()].double()
    if values.numel() and not 0 <= values.min() <= values.max() <= 1:
        raise ValueError(
            f"values: expected 0..1, got {values.min():g} to {values.max():g}; transform scores "
            "with pit(scores)"
        )
    return (values * bins).long().clamp(max=bins - 1).bincount(minlength=bins)


def coverage(scores: Tensor, level: float) -> Tensor:
    """Compute the share of each image's scores (N, S) in the central interval of `level`: (N,).

    It is expected to be `level`, such as 0.5 or 0.9. Raises ValueError unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share between 0 and 1, such as 0.9, got {level:g}")
    return (scores.abs() <= scipy.stats.norm.ppf(0.5 + level / 2)).double().mean(-1)


def per_image(p: Distribution, x: Tensor) -> dict[str, Tensor]:
    """Measure each image's χ²/S, coverage of 50 % and 90 % intervals, and kurtosis: (N,) each."""
    scores = pixel_scores(p, x)
    return {
        "chi_square": chi_square(p, x),
        "coverage_50": coverage(scores, 0.5),
        "coverage_90": coverage(scores, 0.9),
        "kurtosis": kurtosis(whiten(p, x)),
    }


# -------------------------------------------------------------------------- samples against data


def predictive_checks(samples: Tensor, data: Tensor) -> dict[str, float]:
    """Compare images that a model draws with those it should resemble, float (N, C, H, W) both.

    Of both there are "variance_…", over images and averaged over pixels, in squared intensity, and
    "neighbour_…", the correlation of neighbouring pixels after the mean image is taken off.
    "coarse_ratio", "middle_ratio" and "fine_ratio" are the power of samples over that of data in
    BANDS, averaged over their rings, and "worst_log_ratio" is the largest |log10| of a single ring.
    Raises ValueError for images that differ in shape or have fewer than 4 rows or columns.
    """
    if samples.shape[1:] != data.shape[1:] or min(data.shape[2:], default=0) < 4:
        raise ValueError(
            f"samples and data: expected images (N, C, H, W) of one shape with H, W >= 4, got "
            f"{tuple(samples.shape)} and {tuple(data.shape)}; reshape with vae.images"
        )
    frequency, mine, numbers = _moments(samples, "samples")
    _, theirs, others = _moments(data, "data")
    result = numbers | others
    for band, (low, high) in BANDS.items():
        ring = (frequency >= low) & (frequency < high)
        result[f"{band}_ratio"] = (mine[ring].mean() / theirs[ring].mean()).item()
    return result | {"worst_log_ratio": (mine / theirs).log10().abs().max().item()}


def _moments(images: Tensor, name: str) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Compute the spectrum (frequencies, powers) of images, their variance and correlation."""
    images = images.double()
    deviation = images - images.mean(0)
    numbers = {
        f"variance_{name}": images.var(0).mean().item(),
        f"neighbour_{name}": metrics.neighbour_correlation(deviation),
    }
    return *metrics.radial_power_spectrum(deviation), numbers


def interval(
    values: Tensor | np.ndarray,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
    method: str = "BCa",
) -> dict[str, float]:
    """Return the mean of numbers (N,), one per image, and its bootstrap interval "low" to "high".

    Images are resampled; limits are corrected for bias and acceleration (Efron, 1987), or are
    those of the `method` "percentile", which takes a tenth of the time. For two models on the same
    images pass the differences. Raises ValueError for fewer than 2 numbers, and for numbers that
    are not finite.
    """
    values = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"values: expected at least 2 finite numbers (N,), one per image, got shape "
            f"{values.shape}; average over pixels first"
        )
    mean, spread = float(values.mean()), float(np.ptp(values))
    if not spread:  # nothing to resample
        return {"mean": mean, "low": mean, "high": mean}
    settings = {"confidence_level": level, "random_state": np.random.default_rng(seed)}
    settings |= {"method": method, "n_resamples": resamples, "batch": max(1, 2**22 // len(values))}
    limits = scipy.stats.bootstrap((values,), np.mean, **settings).confidence_interval
    return {"mean": mean, "low": float(limits.low), "high": float(limits.high)}
