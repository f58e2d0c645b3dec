"""Where the covariance starts: the targets of its entropy, and its size after pre-training."""

import math

import numpy as np
import torch
from torch import Tensor

from sos.config import Network
from sos.distributions.sparse_precision_normal import neighbour_regression
from sos.models.networks import fixed_variance
from sos.models.residuals import principal_components
from sos.system.devices import generator, precision

RESIDUALS = 1600  # images


def ppca_target(images: Tensor, network: Network, kl_target: float) -> float:
    """Compute the rank entropy (nats) with which samples of p(y|z) vary as much as the images.

    The images (N, C, H, W) are uint8. Of the network its rank and its diagonal alone count:
    `ppca_target(images, Network(rank=25, diagonal=1e-5), kl_target=8)`. Raises ValueError where
    nothing is left, and for images that are not bytes.

    The best normal of rank R for the images themselves has the leading eigenvalues λ_r of their
    covariance (Tipping & Bishop, 1999). It is scaled up by the share of the variance that R
    directions explain, so that no variance is missing. Its rank entropy is then H(y) =
    ½ Σ log(λ_r/(share·ε)). A code z that carries I(y; z) = ξ_KL nats leaves H(y|z) = H(y) - ξ_KL
    of it.
    """
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8, 0..255, not {images.dtype}; pass (255 * x).round().byte()"
        )
    flat = subsample(images).cpu().flatten(1).float().numpy() / 255
    pca = principal_components(flat, network.rank)
    eigenvalues = pca.explained_variance_ / pca.explained_variance_ratio_.sum()
    ratios = np.maximum(eigenvalues / fixed_variance(network), 1)
    left = float(0.5 * np.log(ratios).sum()) - kl_target
    if left <= 0:
        raise ValueError(
            f"kl_target {kl_target:g} nats is more than the {left + kl_target:.1f} nats of rank "
            f"entropy that the images have: lower it, or give rank_entropy_target a number"
        )
    return left


def markov_target(images: Tensor, network: Network, kl_target: float) -> float:
    """Compute H(y) - ξ_KL (nats) of the best normal with a sparse factor L for the images.

    The images (N, C, H, W) are uint8. The columns of L are regressions over the images, each
    pixel's on its later neighbours. The conditional variances s² that they leave give
    H(y) = ½ Σ log 2πe s².
    """
    chosen = subsample(images).cpu().float()
    centred = (chosen - chosen.mean(0)) / 255
    variance, _ = neighbour_regression(centred, network.neighbourhood)
    # Rounding to 8 bits alone leaves 1/12 of a squared gray level.
    left = variance + (1 / 255) ** 2 / 12
    return float(0.5 * (2 * math.pi * math.e * left).log().sum()) - kl_target


RULES = {"ppca": ppca_target, "markov": markov_target}


def subsample(images: Tensor, most: int = 10_000) -> Tensor:
    """Return all images, or every n-th of very many, which is enough for means and eigenvalues."""
    return images[:: math.ceil(len(images) / most)]


@torch.no_grad()
def init_covariance(state, x: Tensor) -> None:
    """Set the initial covariance of a training to the size that it needs instead of almost nothing.

    x (batch, C, H, W) are the images of the step. P gets its target entropy, ½R log(1 + λ/ε) for R
    columns of squared length λ. A learnt D gets the mean squared error σ², its best constant. A
    sparse L becomes the best stationary one; beside it, a P without a target gets half of the
    residual. The heads in `sos.models.networks` do that. With constants all of them start at
    the maximum of the likelihood for what the mean leaves, see `start_at_residuals`.

    Where D = εI goes, the squared error counts 1/2σ² instead of 1/2ε. This change of unit also
    applies to the price of a nat of KL and to Adam's memory of past gradients, which would
    otherwise keep its steps small for long. With constants the price stays: what counts more is
    outside of P alone, and a price that rose would empty the code.
    """
    if state.network.constants:
        unit = start_at_residuals(state)
    else:
        target = None if state.rank_entropy is None else state.rank_entropy.target
        unit = state.vae.init_covariance(x, target)
        if unit is None:  # D stays εI
            return
        state.kl.change_unit(unit)
    for memory in state.optimiser.state.values():
        memory["exp_avg"] *= unit
        memory["exp_avg_sq"] *= unit**2


@torch.no_grad()
def start_at_residuals(state) -> float:
    """Start the constants of P, D and L at the maximum of the likelihood for x - μ(z), z ~ q(z|x).

    It is that of one covariance for all z. The residuals are those of some training images, batch
    by batch as in training, less their mean. Returns the change of unit.
    """
    training, vae = state.training, state.vae
    stream = generator("residuals", training.seed)
    residuals = []
    for part in subsample(state.images, RESIDUALS).split(training.batch):
        x = part.to(state.kl.multiplier.device).float() / 255
        x = x.contiguous(memory_format=state.format)
        with precision(x.device):
            mean, std = vae.encode(x)
            noise = torch.randn(mean.shape, generator=stream).to(mean)
            p = vae.decode(mean + std * noise, mean_only=True)
        residuals.append((x.flatten(1) - p.loc).cpu())
    flat = torch.cat(residuals)
    return vae.head.start_at_residuals(vae.images(flat - flat.mean(0)))
