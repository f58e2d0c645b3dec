"""Samples and predictions of trained models, the same for every model that is compared."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sos import datasets
from sos.distributions.low_rank_normal import LowRankNormal
from sos.system.devices import device, generator
from sos.training.store import Model

BATCH = 50  # images decoded at a time


@dataclass(frozen=True)
class Draw:
    """Hold distributions p(y|z) for draws of z, and one sample y (count, S) of each."""

    p: LowRankNormal
    y: Tensor
    shape: tuple[int, int, int]  # channels, height, width

    def images(self, flat: Tensor) -> Tensor:
        """Reshape flat values (..., S) to images (..., C, H, W)."""
        return flat.unflatten(-1, self.shape)


@torch.no_grad()
def draw(model: Model, count: int, seed: int = 0) -> Draw:
    """Draw `count` codes z ~ N(0, I), and from each p(y|z) one sample.

    The codes are the same for all models with equally many latents.
    """
    stream = generator("draw", seed, device=device())
    p = model.vae.decode(model.vae.prior(count, stream))
    return Draw(p, p.rsample(generator=stream), model.vae.image_shape)


@torch.no_grad()
def reconstruct(model: Model, images: Tensor) -> LowRankNormal:
    """Return p(y|z) at the code z = m(x) of each image (N, C, H, W) in [0, 1], as a batch (N,)."""
    return model.vae.decode(model.vae.encode(images.to(device()))[0])


def test_images(model: Model, count: int) -> Tensor:
    """Return the first test images (N, C, H, W) in [0, 1]."""
    images = datasets.load_split(model.experiment.data, "test").images[:count]
    return torch.from_numpy(images.copy()).to(device()).float() / 255


@torch.no_grad()
def sampled_residuals(model: Model, count: int = 256) -> Tensor:
    """Return y - μ of one sample for each of `count` draws of z ~ N(0, I): (count, C, H, W)."""
    drawn = draw(model, count, seed=1)
    return drawn.images(drawn.y - drawn.p.mean)


@torch.no_grad()
def data_residuals(model: Model, count: int = 256) -> Tensor:
    """Compute x - μ(z), z ~ q(z|x), of test images: what samples of y - μ should look like."""
    stream = generator("residuals", device=device())
    residuals = []
    for part in test_images(model, count).split(BATCH):
        mean, std = model.vae.encode(part)
        noise = torch.randn(mean.shape, generator=stream, device=device())
        residuals.append(part - model.vae.images(model.vae.decode(mean + std * noise).mean))
    return torch.cat(residuals)
