"""The variational autoencoder and the terms of its objective (§3.1–3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sos.config import Data, Network
from sos.models.networks import Decoder, Encoder, Observation, observation_head


@dataclass(frozen=True)
class Terms:
    """Hold the terms of equation 3, each a mean over the batch in nats per image."""

    nll_nats: Tensor  # -log p(x|z), one sample of z per image
    kl_nats: Tensor  # KL[q(z|x) ‖ p(z)]
    # The part of H(x|z) that training can move, see `sos.distributions.TrainingTerms`
    rank_entropy_nats: Tensor
    squared_error: Tensor  # mean of (x - μ)² over pixels and images, for the record
    variance: Tensor | None = None  # mean of diag(PPᵀ + D), for the record; None with a sparse L


def kl_from_prior(mean: Tensor, std: Tensor) -> Tensor:
    """Compute KL[N(m, diag(s²)) ‖ N(0, I)] of m and s (batch, latent), in nats: (batch,)."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(1)


class VAE(nn.Module):
    """Model images by q(z|x) and p(y|z) = N(μ(z), P(z)P(z)ᵀ + D(z)) (§3.3).

    With rank 0 and a learnt D it is the β-VAE.
    """

    released_dtype = torch.half

    def __init__(self, data: Data, network: Network):
        super().__init__()
        self.image_shape = (data.channels, data.height, data.width)
        self.latent = network.latent
        self.encoder = Encoder(data.channels, network.width, network.latent)
        self.decoder = Decoder(data.height, data.width, network)
        self.head = observation_head(data, network)

    @torch.no_grad()
    def start_mean_at(self, colour: Tensor) -> None:
        """Set the bias of μ to one colour (C,)."""
        self.head.mean.bias.copy_(colour)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of q(z|x) for images x in [0, 1].

        Each is (batch, latent).
        """
        return self.encoder(x)

    def decode(self, z: Tensor, mean_only: bool = False) -> Observation:
        """Return p(y|z) over flat images, channel-major.

        With `mean_only` it is the distribution of pre-training, N(μ, εI).
        """
        return self.head(self.decoder(z), mean_only)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` codes z ~ N(0, I)."""
        like = next(self.parameters())
        options = {"dtype": like.dtype, "device": like.device, "generator": generator}
        return torch.randn(count, self.latent, **options)

    def terms(
        self, x: Tensor, noise: Tensor, mean_only: bool = False, span_gain: float = 0.0
    ) -> Terms:
        """Compute the terms of equation 3 for images x (batch, C, H, W), with z = m + s·noise.

        `mean_only` is set in pre-training (§3.3). `span_gain` is κ of
        `sos.distributions.TrainingTerms`.
        """
        mean, std = self.encode(x)  # q(z|x)
        p = self.decode(mean + std * noise, mean_only)  # p(y|z)
        log_prob, entropy, variance = p.training_terms(x.flatten(1), span_gain)
        kl = kl_from_prior(mean, std)
        error = (x.flatten(1) - p.loc.detach()).square().mean()
        return Terms(-log_prob.mean(), kl.mean(), entropy.mean(), error, variance)

    @torch.no_grad()
    def init_covariance(self, x: Tensor, rank_entropy_target: float | None) -> Tensor | None:
        """Set the initial covariance to the size that images x need.

        The rule is that of `sos.training.init_covariance`. Returns ε/σ², by which the unit of the
        loss changes where σ² takes the place of ε in it, and None where D stays εI.
        """
        features = self.decoder(self.encode(x)[0])
        return self.head.init_covariance(features, x, rank_entropy_target)

    def images(self, flat: Tensor) -> Tensor:
        """Reshape flat values (..., S) to images (..., C, H, W)."""
        return flat.unflatten(-1, self.image_shape)
