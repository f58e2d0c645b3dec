"""The variational autoencoder and the terms of its objective (§3.1–3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sos.config import Data, Network
from sos.low_rank_normal import LowRankNormal
from sos.networks import DIAGONAL_FLOOR, Decoder, Encoder, Observation, ObservationHead
from sos.sparse_precision_normal import LowRankPlusSparseNormal, SparsePrecisionNormal


@dataclass(frozen=True)
class Terms:
    """What equation 3 is made of, each a mean over the batch in nats per image."""

    nll_nats: Tensor  # -log p(x|z), one sample of z per image
    kl_nats: Tensor  # KL[q(z|x) ‖ p(z)]
    # ½ log|I + PᵀD⁻¹P|, the part of H(x|z) that training can move; where D is learnt beside P
    # also ½ log|D/ε| at ε = DIAGONAL_FLOOR, and with a sparse L all of H(x|z)
    rank_entropy_nats: Tensor
    squared_error: Tensor  # mean of (x - μ)² over pixels and images, for the record
    variance: Tensor | None = None  # mean of diag(PPᵀ + D), for the record; None with a sparse L


class SpanGradient(torch.autograd.Function):
    """Identity whose backward pass multiplies the gradients of μ and P by I + gain·PPᵀ.

    The `span_gain` of `LowRankNormal.log_prob_and_rank_entropy`, for any density.
    """

    @staticmethod
    def forward(ctx, loc: Tensor, factor: Tensor, gain: float):
        ctx.save_for_backward(factor)
        ctx.gain = gain
        return loc.view_as(loc), factor.view_as(factor)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loc: Tensor, grad_factor: Tensor):
        (factor,) = ctx.saved_tensors  # (batch, S, R), stored as (batch, R, S)
        rows = factor.mT
        loc = grad_loc + ctx.gain * (factor @ (rows @ grad_loc[..., None]))[..., 0]
        push = ctx.gain * (rows @ grad_factor)  # (batch, R, R)
        return loc, torch.baddbmm(grad_factor.mT, push.mT, rows).mT, None


@torch.no_grad()
def mean_variance(p: LowRankNormal) -> Tensor:
    """The mean of diag(PPᵀ + D) over pixels and batch, without a copy of P."""
    factor = p.cov_factor
    low_rank = torch.linalg.vector_norm(factor).square() / factor.shape[:-1].numel()
    return low_rank + p.cov_diag.mean()


def low_rank_terms(
    p: LowRankNormal, x: Tensor, span_gain: float, learnt: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x|z), the entropy that training can move, and the mean variance, for flat images x.

    p has a batch shape; `learnt` says whether its D is.
    """
    log_prob, entropy = p.log_prob_and_rank_entropy(x, span_gain)
    if learnt and p.rank:  # what a learnt D adds to the rank entropy
        entropy = entropy + 0.5 * (p.cov_diag.double() / DIAGONAL_FLOOR).log().sum(-1)
    return log_prob, entropy, mean_variance(p)


def check_gain(gain: float, learnt: bool) -> None:
    if gain and learnt:
        raise ValueError("span_gain needs a fixed diagonal, D = εI; set it to 0 for a learnt D")


class VAE(nn.Module):
    """q(z|x) and p(y|z) = N(μ(z), P(z)P(z)ᵀ + D(z)); with rank 0 and a learnt D, the β-VAE."""

    released_dtype = torch.half

    def __init__(self, data: Data, network: Network):
        super().__init__()
        self.image_shape = (data.channels, data.height, data.width)
        self.latent = network.latent
        self.encoder = Encoder(data.channels, network.width, network.latent)
        self.decoder = Decoder(data.height, data.width, network)
        self.head = ObservationHead(data.channels, network)

    @torch.no_grad()
    def start_mean_at(self, colour: Tensor) -> None:
        """Sets the bias of μ to one colour (C,)."""
        self.head.mean.bias.copy_(colour)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """q(z|x): mean and standard deviation (batch, latent) for images x in [0, 1]."""
        return self.encoder(x)

    def decode(self, z: Tensor, mean_only: bool = False) -> Observation:
        """p(y|z) over flat images, channel-major; `mean_only` is the pre-training distribution."""
        return self.head(self.decoder(z), mean_only)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` draws of z ~ N(0, I)."""
        like = next(self.parameters())
        options = {"dtype": like.dtype, "device": like.device, "generator": generator}
        return torch.randn(count, self.latent, **options)

    def terms(
        self, x: Tensor, noise: Tensor, mean_only: bool = False, span_gain: float = 0.0
    ) -> Terms:
        """The terms of equation 3 for images x (batch, C, H, W), with z = m + s·noise."""
        mean, std = self.encode(x)
        observation = self.decode(mean + std * noise, mean_only)
        learnt = self.head.variance is not None
        check_gain(span_gain, learnt)
        if isinstance(observation, LowRankNormal):
            log_prob, rank_entropy, variance = low_rank_terms(
                observation, x.flatten(1), span_gain, learnt
            )
        else:
            log_prob, rank_entropy = self._sparse_terms(observation, x.flatten(1), span_gain)
            variance = None
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(1)
        error = (x.flatten(1) - observation.loc.detach()).square().mean()
        return Terms(-log_prob.mean(), kl.mean(), rank_entropy.mean(), error, variance)

    def _sparse_terms(
        self, p: SparsePrecisionNormal | LowRankPlusSparseNormal, x: Tensor, gain: float
    ) -> tuple[Tensor, Tensor]:
        """log p(x|z) and the entropy.

        `gain` is κ of `SpanGradient`, with E[L_kk²] for 1/ε. The mean gets (1 + κΣ/ε) times its
        gradient, in which Σ times the plain one is the residual itself; P as in the SOS-VAE.
        """
        precision = (2 * p.log_diag.detach()).exp().mean()
        if gain and isinstance(p, LowRankPlusSparseNormal):
            _, factor = SpanGradient.apply(p.loc.detach(), p.cov_factor, gain * precision)
            p = LowRankPlusSparseNormal(p.local, factor)
        log_prob = p.log_prob(x)
        if gain:
            push = 0.5 * gain * precision * (x - p.loc).square().sum(1)
            log_prob = log_prob - (push - push.detach())
        return log_prob, p.entropy()

    def images(self, flat: Tensor) -> Tensor:
        """Flat values (..., S) as images (..., C, H, W)."""
        return flat.unflatten(-1, self.image_shape)
