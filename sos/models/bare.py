"""The observation distribution without deep learning: bare parameters (§4.5)."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from sos.config import Data, Network
from sos.distributions.low_rank_normal import LowRankNormal
from sos.models.networks import DIAGONAL_FLOOR, HEAD_STD
from sos.models.vae import Terms


class BareNormal(nn.Module):
    """Hold N(μ, PPᵀ + D) as bare parameters, with the interface of `VAE` and no code z.

    A learnt D is DIAGONAL_FLOOR + exp(·), each value on its own.
    """

    latent = 0
    released_dtype = torch.float32  # halves of P would cost nats where ε is small

    def __init__(self, data: Data, network: Network):
        super().__init__()
        if network.neighbourhood:
            raise ValueError("a bare model has D = εI or a learnt diagonal; set neighbourhood to 0")
        if isinstance(network.diagonal, str) or network.constants:
            raise ValueError(
                "a bare model with a learnt ε is probabilistic PCA, whose exact solution is "
                "`sos.analysis.density.ppca`; give diagonal a number or None, and leave "
                "constants False"
            )
        self.image_shape = (data.channels, data.height, data.width)
        pixels = math.prod(self.image_shape)
        self.diagonal = network.diagonal
        self.mean = nn.Parameter(torch.zeros(pixels))
        self.factor = nn.Parameter(HEAD_STD * torch.randn(network.rank, pixels))  # R-major
        start = torch.full((pixels,), math.log(DIAGONAL_FLOOR))
        self.log_variance = nn.Parameter(start) if network.diagonal is None else None

    @torch.no_grad()
    def start_mean_at(self, colour: Tensor) -> None:
        """Set μ to one colour (C,) everywhere."""
        self.mean.copy_(colour[:, None, None].expand(self.image_shape).flatten())

    def distribution(self, mean_only: bool = False) -> LowRankNormal:
        """Return the one distribution over flat images that there is."""
        diagonal = DIAGONAL_FLOOR if self.diagonal is None else self.diagonal
        if self.log_variance is not None and not mean_only:
            diagonal = DIAGONAL_FLOOR + self.log_variance.exp()
        factor = self.factor[:0] if mean_only else self.factor
        return LowRankNormal(self.mean, factor.mT, diagonal, validate_args=False)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of a code without dimensions, each (batch, 0)."""
        return x.new_zeros(len(x), 0), x.new_ones(len(x), 0)

    def decode(self, z: Tensor, mean_only: bool = False) -> LowRankNormal:
        """Return the same distribution for each of the codes (batch, 0)."""
        return self.distribution(mean_only).expand(z.shape[:1])

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return `count` codes without dimensions."""
        return self.mean.new_zeros(count, 0)

    def terms(
        self, x: Tensor, noise: Tensor, mean_only: bool = False, span_gain: float = 0.0
    ) -> Terms:
        """Compute the terms of equation 3 for images x (batch, C, H, W), with a KL of zero."""
        p, x = self.distribution(mean_only), x.flatten(1)
        # One item with many values, so that P is read once.
        log_prob, entropy, variance = p[None].training_terms(x[:, None], span_gain)
        error = (x - p.loc.detach()).square().mean()
        kl = log_prob.new_zeros(())
        return Terms(-log_prob.mean(), kl, entropy.mean(), error, variance)

    @torch.no_grad()
    def init_covariance(self, x: Tensor, rank_entropy_target: float | None) -> Tensor:
        """Set the initial covariance: a learnt D at the mean squared error of μ for images x.

        Returns ε over that error. Raises ValueError for a model with D = εI, which starts where it
        is.
        """
        if self.log_variance is None:
            raise ValueError("a bare model with D = εI starts where it is: init_covariance=False")
        error = (x - self.images(self.mean)).square().mean()
        self.log_variance.fill_((error - DIAGONAL_FLOOR).log())
        return DIAGONAL_FLOOR / error

    def images(self, flat: Tensor) -> Tensor:
        """Reshape flat values (..., S) to images (..., C, H, W)."""
        return flat.unflatten(-1, self.image_shape)


@torch.no_grad()
def log_density(p: LowRankNormal, images: Tensor | np.ndarray) -> float:
    """Return the mean log-density (nats) of uint8 images (N, ...) under p, in float64."""
    p = LowRankNormal(p.loc.double(), p.cov_factor.double(), p.cov_diag.double(), False)
    total = 0.0
    for start in range(0, len(images), 500):
        part = torch.from_numpy(np.array(images[start : start + 500])).to(p.loc.device)
        total += p.log_prob(part.flatten(1).double() / 255).sum().item()
    return total / len(images)
