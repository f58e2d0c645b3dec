"""Where the variance of images lives: in the code z, in the noise ω of P, or in neither.

For §5 of the paper, which leaves open "where the split lies and what influences it".
"""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sos import datasets
from sos.analysis import assessment, evaluation
from sos.analysis.sampling import BATCH
from sos.config import Evaluation
from sos.system.devices import device, generator
from sos.training.store import Model

VERSION = 1  # bump when the same model no longer gives the same numbers
COMPONENTS = 60  # of pictures, from which factors are read
PENALTIES = np.logspace(-1, 5, 13)  # of the regressions, chosen by leave-one-out


def cache_key(model: Model, settings: Evaluation) -> dict[str, str | int]:
    """Return what determines the numbers: what determines an evaluation, and this code."""
    return evaluation.cache_key(model, settings) | {"split_version": VERSION}


def load_or_measure(model: Model, settings: Evaluation) -> dict:
    """Return the split of a model, cached or measured now."""
    key = cache_key(model, settings)
    file = evaluation.cached_file(f"split-{model.experiment.name}", key)
    return evaluation.load_or_make(key, (file,), lambda: measure(model, key["images"]))


def measure(model: Model, count: int) -> dict:
    """Measure nats of z and of ω, the shares of variance, and R² of the known factors.

    The first two are those of `assessment`. `r2_latent`, `r2_factor`, `r2_both` and `r2_images`
    are lists, a number for each of the data's factors; see `factor_shares`. Their means over
    factors are `r2_latent_mean` and so on.
    """
    x = assessment.test_images(model, count)
    numbers = assessment.densities(model, x)
    numbers |= assessment.variances(model, x[: assessment.COMPARED])
    factors = datasets.load_split(model.experiment.data, "test").factors
    if factors is None:  # of images that were not made here
        return numbers
    pictures = parts_of_images(model, x)
    for part, found in pictures.items():
        shares = factor_shares(found, factors[:count])
        numbers |= {f"r2_{part}": shares.tolist(), f"r2_{part}_mean": float(shares.mean())}
    return numbers


@torch.no_grad()
def parts_of_images(model: Model, x: Tensor) -> dict[str, list[Tensor]]:
    """Take images x (N, C, H, W) apart: μ(z) and Pω, with z ~ q(z|x) and ω ~ p(ω|x, z).

    Draws, not means, because a code that hardly differs from noise tells nothing, however exactly
    its mean depends on x. Returns {part: pictures (N, S) that it consists of}.
    """
    stream, vae = generator("split", model.experiment.training.seed, device=device()), model.vae
    means, coherent = [], []
    for part in x.split(BATCH):
        mean, std = vae.encode(part)
        p = vae.decode(mean + std * torch.randn(mean.shape, generator=stream, device=device()))
        means.append(p.loc.cpu())
        if p.rank:
            center, covariance = p.noise_posterior(slice(None), part.flatten(1))
            root = torch.linalg.cholesky(covariance)
            draw = torch.randn(center.shape, generator=stream, device=device(), dtype=center.dtype)
            omega = center + (root @ draw[..., None])[..., 0]
            coherent.append((p.cov_factor.double() @ omega[..., None])[..., 0].float().cpu())
    latent = torch.cat(means)
    factor = torch.cat(coherent) if coherent else torch.zeros_like(latent)
    images = x.flatten(1).cpu()
    both = [latent, factor]
    return {"latent": [latent], "factor": [factor], "both": both, "images": [images]}


def factor_shares(pictures: list[Tensor], factors: np.ndarray) -> np.ndarray:
    """Compute how much of each factor (N, F) pictures tell, as R² on images that are held out.

    Each of the pictures (N, S) is summed up by its principal components, from which a ridge
    regression reads the factor, fitted on the first half of the images. A share below zero, worse
    than no regression, counts as zero.
    """
    half = len(factors) // 2
    columns = []
    for flat in pictures:
        flat = flat.numpy()
        most = min(COMPONENTS, half - 1, flat.shape[1])
        if flat.std() > 0:
            columns.append(PCA(most, random_state=0).fit(flat[:half]).transform(flat))
    if not columns:
        return np.zeros(factors.shape[1])
    read = np.concatenate(columns, axis=1)
    shares = []
    for factor in factors.T.astype(np.float64):
        regression = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
        regression.fit(read[:half], factor[:half])
        left = factor[half:] - regression.predict(read[half:])
        shares.append(1 - left.var() / factor[half:].var())
    return np.maximum(shares, 0.0)
