"""Predict hidden pixels from revealed ones: the conditional distribution, and the code behind it.

Where the whole image is known, as in an editor, the code is the encoder's. Where only some pixels
are, it has to be inferred from these. Their density given a code is exact for every distribution
here, so its posterior needs no encoder: around a code z the mean is nearly μ(z) + J(z' - z), with
which z' is a second ω, and J a second P. Each step conditions that distribution on the revealed
pixels, as ever by equation 7, and goes to the code that it finds (iterated Gauss-Newton).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sos.distributions import (
    ConditionedNormal,
    LowRankNormal,
    LowRankPlusSparseNormal,
    SparsePrecisionNormal,
)
from sos.models.networks import Observation
from sos.models.vae import VAE

STEPS = 3  # of which each takes a decoder pass and its slopes; more improve an error by 1 %
SLOPE = 0.05  # prior standard deviations over which the mean's slope is measured
CODES = 50  # decoded at a time

Change = Callable[[Observation], Observation]


@dataclass(frozen=True)
class Prediction:
    """Hold what revealed pixels say of an image (S,), and of how likely the hidden ones are."""

    mean: Tensor  # (S,), float64
    variance: Tensor  # (S,), float64
    nats: float  # log p(hidden | revealed)


def predict(p: Observation, y: Tensor, revealed: Tensor) -> Prediction:
    """Condition one distribution on the `revealed` values (S,) bool of a flat image y (S,)."""
    values = y[revealed]
    given = p.condition(revealed, values)
    if isinstance(given, ConditionedNormal):
        known = given.log_evidence
    else:
        known = p.marginal_log_prob(revealed, values)
    nats = (p.log_prob(y) - known).item()
    return Prediction(given.mean.double(), given.variance.double(), nats)


def with_factor(p: Observation, loc: Tensor, columns: Tensor) -> Observation:
    """Move p to another mean (..., S), and give its covariance further columns of P (..., S, R)."""
    if isinstance(p, LowRankNormal):
        return p._derived(loc, torch.cat([p.cov_factor, columns], -1), p._diag)
    low_rank = isinstance(p, LowRankPlusSparseNormal)
    local, factor = (p.local, torch.cat([p.cov_factor, columns], -1)) if low_rank else (p, columns)
    parts = local.log_diag, local.off_diag, local.shape
    return LowRankPlusSparseNormal(SparsePrecisionNormal(loc, *parts, False), factor)


@torch.no_grad()
def slopes(vae: VAE, z: Tensor, mean: Tensor) -> Tensor:
    """Measure dμ/dz at codes z (N, latent) by forward differences over SLOPE: (N, S, latent).

    `mean` is μ(z) (N, S). The decoder is piecewise linear, and its pieces are small; a difference
    averages over them.
    """
    moved = z[:, None] + SLOPE * torch.eye(z.shape[1]).to(z)
    means = vae.decode(moved.flatten(0, 1), mean_only=True).loc.view(*moved.shape[:2], -1)
    return ((means - mean[:, None]) / SLOPE).mT


def linearised(p: Observation, z: Tensor, slope: Tensor) -> Observation:
    """Integrate the code out of p(y|z): N(μ - Jz, JJᵀ + Σ), z ~ N(0, I), around codes z (N, ..)."""
    return with_factor(p, p.loc - (slope @ z[..., None])[..., 0], slope)


@torch.no_grad()
def infer(
    vae: VAE,
    y: Tensor,
    revealed: Tensor,
    start: Tensor,
    change: Change = lambda p: p,
    steps: int = STEPS,
) -> tuple[Tensor, list[Observation]]:
    """Find the codes of images y (N, S) of which only the `revealed` values (N, S) bool are known.

    They maximise log p(y_2|z) + log p(z), from codes `start` (N, latent) on; a step that lowers it
    is halved. Returns the codes and, for each image, `linearised` there, which knows that the code
    is uncertain. `change` is done to each p(y|z) first.
    """
    best, found = [-math.inf] * len(y), [None] * len(y)
    z, code, target, size = start.clone(), start, start.clone(), torch.ones(len(y), 1).to(start)
    for _ in range(steps + 1):
        for at in torch.arange(len(y)).split(CODES):
            p = change(vae.decode(code[at]))
            slope = slopes(vae, code[at], p.loc)
            moved = with_factor(p, p.loc, slope)
            around = linearised(p, code[at], slope)
            for place, n in enumerate(at.tolist()):
                gram, constant = moved[place].observed_gram(revealed[n], y[n][revealed[n]])
                here = code[n].double()
                fit = _evidence(gram[: -len(here), : -len(here)], constant) - 0.5 * here.dot(here)
                if fit > best[n]:
                    best[n], found[n], z[n], size[n] = fit, around[place], code[n], 1
                    target[n] = here + _step(gram, here)
                else:
                    size[n] /= 2
        code = z + size * (target - z)
    return z, found


def _evidence(gram: Tensor, constant: Tensor) -> Tensor:
    """log p(b) of what `observed_gram` returns: -½(c + G_00 - gᵀK⁻¹g + log|K|), K = I + G."""
    inner, cross = gram[1:, 1:], gram[1:, 0]
    inner = inner + torch.eye(len(cross)).to(inner)
    square = gram[0, 0] - cross.dot(torch.linalg.solve(inner, cross))
    return -0.5 * (constant + square + torch.linalg.slogdet(inner)[1])


def _step(gram: Tensor, z: Tensor) -> Tensor:
    """The likeliest z' - z, of which (1, -ω)ᵀG(1, -ω) + |ω|² + |z' - z + z|² is least."""
    right = gram[1:, 0].clone()
    right[-len(z) :] -= z
    return torch.linalg.solve(gram[1:, 1:] + torch.eye(len(right)).to(gram), right)[-len(z) :]
