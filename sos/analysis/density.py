"""Log-densities of images: bounds for VAEs, and exact ones where there is no network.

Images are 8-bit numbers k and x = k/255. A density of such numbers has no limit, so all of this is
measured on dequantised images (Theis et al., 2016), whose density bounds the probability of the
bytes: log P(k) ≥ E_u log p((k + u - ½)/255) - S log 255. Densities are in nats per image and
float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sos.analysis import metrics, pca
from sos.distributions.low_rank_normal import LowRankNormal
from sos.models.networks import ROUNDING
from sos.models.vae import kl_from_prior
from sos.system.progress import tqdm

CODES = 50  # codes decoded at a time
# The variance of the noise that 8 bits and `dequantise` leave: no ε below it describes images.
QUANTISATION_VARIANCE = ROUNDING


# ------------------------------------------------------------------------------ dequantisation


def dequantise(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw x = (k + u - ½)/255, u ~ U(0, 1), for 8-bit images k: their mean is k/255.

    The images are uint8 (N, C, H, W), and x is float32 of the same shape. The 256 bins of u are
    1/255 wide and lie side by side from -½/255 to 255½/255. Raises TypeError for other types and
    ValueError for other shapes.
    """
    metrics._check_images(images, "images", floating=False)
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    return (images + noise - 0.5) / 255


def bits_per_dimension(nats: Tensor | float, values: int) -> Tensor | float:
    """Return -(log p - S log 255) / (S log 2), an upper bound of the bits that a byte costs.

    `nats` are log-densities of dequantised images of S `values` each, or bounds of them. A density
    that is uniform over all images gives 8.
    """
    if values < 1:
        raise ValueError(f"values: an image has at least one value, got {values}; pass C x H x W")
    return math.log2(255) - nats / (values * math.log(2))


# ---------------------------------------------------------------------------- bounds for VAEs


@dataclass(frozen=True)
class ImportanceSamples:
    """Hold what K codes z_k ~ q(z|x) say of each of N images, in nats, float64."""

    log_likelihood: Tensor  # log p(x|z_k), (N, K)
    log_ratio: Tensor  # log p(z_k) - log q(z_k|x), (N, K)
    kl: Tensor  # KL[q(z|x) ‖ p(z)], (N,)

    @property
    def log_weights(self) -> Tensor:
        """Return log p(x|z_k)p(z_k)/q(z_k|x), (N, K)."""
        return self.log_likelihood + self.log_ratio

    @property
    def elbo(self) -> Tensor:
        """Estimate E_q log p(x|z) - KL[q(z|x) ‖ p(z)], with the exact KL: (N,)."""
        return self.log_likelihood.mean(1) - self.kl

    def bound(self, codes: int) -> Tensor:
        """Estimate the bound E log 1/k Σ p(x|z)p(z)/q(z|x) of k `codes` (Burda et al., 2016): (N,).

        It is the mean over all K/k groups of k codes, and so without bias for every k. Raises
        ValueError unless k divides K.
        """
        count = self.log_ratio.shape[1]
        if codes < 1 or count % codes:
            raise ValueError(f"codes: {codes} does not divide the {count} that there are of each")
        groups = self.log_weights.unflatten(1, (-1, codes))
        return groups.logsumexp(2).mean(1) - math.log(codes)

    @property
    def effective_samples(self) -> Tensor:
        """Compute (Σ w)²/Σ w², 1 to K: near 1, one code decides and the bound is loose. (N,)."""
        log_weights = self.log_weights
        return (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()


def importance_samples(
    vae,
    x: Tensor,
    count: int,
    generator: torch.Generator | None = None,
    codes: int = CODES,
    title: str = "",
) -> ImportanceSamples:
    """Draw `count` codes z ~ q(z|x) for each image x (N, C, H, W), and weigh them.

    The model has encode(x), which returns mean and standard deviation, and decode(z), whose
    log_prob takes flat images. It is in evaluation mode; x has its dtype and device, and so has the
    generator. At most `codes` codes are decoded at a time, so that P takes codes x S x R numbers;
    results do not depend on it beyond rounding. With a `title` there is a progress bar. Raises
    ValueError for a model in training mode and for counts below 1.
    """
    if getattr(vae, "training", False):
        raise ValueError(
            "vae: in training mode, where a batch changes its numbers; call vae.eval()"
        )
    if min(count, codes) < 1:
        raise ValueError(f"count and codes: expected at least 1, got {count} and {codes}")
    parts = []
    with tqdm(total=len(x), desc=title, unit="image", disable=not title) as bar:
        for part in x.split(max(1, codes // count)):
            parts.append(_weighed(vae, part, count, generator, codes))
            bar.update(len(part))
    return ImportanceSamples(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def _weighed(vae, x: Tensor, count: int, generator, codes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p(x|z) (n, K), log p(z) - log q(z|x) (n, K) and the KL (n,) of a few images."""
    mean, std = vae.encode(x)
    options = {"generator": generator, "device": mean.device, "dtype": mean.dtype}
    # Image by image, so that the noise does not depend on how many are looked at together.
    noise = torch.stack([torch.randn(count, mean.shape[1], **options) for _ in x])
    z = mean[:, None] + std[:, None] * noise
    image = torch.arange(len(x), device=x.device).repeat_interleave(count)
    parts = zip(z.flatten(0, 1).split(codes), image.split(codes), strict=True)
    flat = x.flatten(1)
    likelihood = torch.cat([vae.decode(code).log_prob(flat[at]) for code, at in parts])
    mean, std, z, noise = (part.double() for part in (mean, std, z, noise))
    ratio = 0.5 * (noise.square() - z.square()).sum(2) + std.log().sum(1)[:, None]
    return likelihood.double().view(len(x), count), ratio, kl_from_prior(mean, std)


def elbo(vae, x: Tensor, count: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Estimate E_q log p(x|z) - KL[q(z|x) ‖ p(z)] with `count` codes, nats per image: (N,).

    Arguments and errors are those of `importance_samples`.
    """
    return importance_samples(vae, x, count, generator).elbo


def importance_bounds(
    vae,
    x: Tensor,
    ladder: Sequence[int] = (1, 8, 64),
    generator: torch.Generator | None = None,
    codes: int = CODES,
    title: str = "",
) -> dict[str, Tensor]:
    """Estimate the importance-weighted bounds of log p(x) for a ladder of numbers of codes.

    All L rungs use the same codes, as many as the last rung says (`ImportanceSamples.bound`), so
    that no image's bound ever falls from one rung to the next. Returns "bounds" (L, N), "elbo" (N,)
    and "effective_samples" (N,). The other arguments and errors are those of `importance_samples`;
    raises ValueError unless each rung divides the next.
    """
    steps = zip(ladder, ladder[1:], strict=False)
    if not ladder or min(ladder) < 1 or any(after % before for before, after in steps):
        raise ValueError(f"ladder: each rung must divide the next, as in (1, 8, 64), not {ladder}")
    drawn = importance_samples(vae, x, ladder[-1], generator, codes, title)
    bounds = torch.stack([drawn.bound(rung) for rung in ladder])
    return {"bounds": bounds, "elbo": drawn.elbo, "effective_samples": drawn.effective_samples}


# -------------------------------------------------------------------- controls without a network


def ppca(x: Tensor, rank: int) -> LowRankNormal:
    """Maximise the likelihood of N(μ, PPᵀ + εI) for images x (N, ...), ε too, in closed form.

    It is probabilistic PCA (Tipping & Bishop, 1999): P from the leading eigenvalues, and ε the mean
    of the others. Its `log_prob` of test images is exact. Raises ValueError for a rank outside
    1..min(N, S) - 1.
    """
    flat = x.flatten(1).double().cpu().numpy()
    if not 1 <= rank < min(flat.shape):
        raise ValueError(
            f"rank: {flat.shape[0]} images of {flat.shape[1]} values have 1 to "
            f"{min(flat.shape) - 1} components, not {rank}; lower the rank or give more images"
        )
    found = pca.spectrum_of(flat, rank)
    return found.optimum(found.epsilon)


def stored_values(p: LowRankNormal) -> int:
    """Count the numbers that one distribution stores: S of μ, S·R of P, and 1 or S of D.

    They are what a file holds: P's rotation, which changes nothing, is not taken off. Raises
    ValueError for a batch.
    """
    if p.batch_shape:
        raise ValueError(f"p: expected one distribution, not a batch {tuple(p.batch_shape)}: p[0]")
    size = p.event_shape[0]
    one_epsilon = bool((p.cov_diag == p.cov_diag[0]).all())
    return size * (1 + p.rank) + (1 if one_epsilon else size)
