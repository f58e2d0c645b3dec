"""The paper's encoder, decoder trunk and observation head, for any image size and width (§4.1)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sos.config import Data, Network
from sos.distributions.low_rank_normal import REFERENCE, LowRankNormal
from sos.distributions.sparse_precision_normal import (
    LowRankPlusSparseNormal,
    SparsePrecisionNormal,
    neighbour_regression,
    offsets,
)
from sos.models.residuals import low_rank_and_sparse, probabilistic_pca
from sos.system import distributed

Observation = LowRankNormal | SparsePrecisionNormal | LowRankPlusSparseNormal

HEAD_STD = 1e-5  # standard deviation of the heads' initial weights: predictions start constant
TEMPLATE_STD = 0.2  # several times what z adds to the grid at first
DIAGONAL_FLOOR = REFERENCE  # a learnt variance is softplus(·) + this
ROUNDING = 1 / (12 * 255**2)  # the variance of 8-bit rounding, below which no shared ε falls
LEARNT_NOISE = "shared", "image"  # of `Network.diagonal`
# Units of parameters, by which Adam's steps are multiplied: P's entries are small, where P has a
# constant, and log ε and the logarithms of P's scales have far to go.
FACTOR_UNIT, NOISE_UNIT, SCALE_UNIT = 0.1, 10.0, 3.0
# Smooth limits of log L_kk: conditional standard deviations from 150 down to 0.0025.
LOG_DIAG = (-5.0, 6.0)


def downsampled(size: int) -> int:
    """Return ⌈size / 2⌉, an axis's length after a 3x3 convolution of stride 2 and padding 1."""
    return (size + 1) // 2


def pyramid(height: int, width: int) -> list[tuple[int, int]]:
    """Return the four grid sizes of the network, finest first: 218x178 → 109x89 → 55x45 → 28x23."""
    sizes = [(height, width)]
    for _ in range(3):
        sizes.append((downsampled(sizes[-1][0]), downsampled(sizes[-1][1])))
    return sizes


class BatchNorm(nn.BatchNorm2d):
    """Normalise as nn.BatchNorm2d, in training by the statistics of all processes' items together.

    nn.SyncBatchNorm does the same on GPUs alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features x (batch, channels, H, W)."""
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        values, count = x.to(self.weight.dtype), x.numel() // x.shape[1]
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        sums = distributed.Sum.apply(torch.cat([count * mean, mean.new_tensor([count])]))
        counts, mean_of_all = sums[-1].detach(), sums[:-1] / sums[-1]
        spread = distributed.Sum.apply(count * (variance + (mean - mean_of_all).square()))
        self.update(mean_of_all, spread, counts)
        scale = self.weight * (spread / counts + self.eps).rsqrt()
        shift = self.bias - scale * mean_of_all
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def update(self, mean: Tensor, spread: Tensor, count: Tensor) -> None:
        """Update the running statistics, of which the variance is unbiased."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(spread / (count - 1), self.momentum)


# What comes before which normalisation, in `ResidualBase` and in `conv_bn_relu`.
NORMALISED = {"norm1": "conv1", "norm2": "conv2", "1": "0"}


def without_bias(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Conv2d | nn.ConvTranspose2d:
    """Return the convolution without its bias, which the normalisation after it would take away.

    The gradient of the bias is zero but for rounding. Of a step of 43.7 ms on an H200, at
    218x178x3, adding all biases and summing their gradients took 7.7 ms. The convolution is made
    with a bias all the same, so that the other weights start as they always have.
    """
    convolution.register_parameter("bias", None)
    return convolution


def absorb_old_biases(module: nn.Module, state: dict, *_) -> None:
    """Take from a state what `without_bias` leaves out, because some released weights have it.

    The running mean of x + bias less the bias is that of x.
    """
    for name in [name for name in state if name.endswith(".running_mean")]:
        *path, norm, _ = name.split(".")
        before = NORMALISED.get(norm)  # None: a normalisation that is not of these networks
        bias = before and state.pop(".".join((*path, before, "bias")), None)
        if bias is not None:
            state[name] = state[name] - bias.to(state[name].dtype)


class ResidualBase(nn.Module):
    """Compute conv1 · BN · ReLU · conv2 · BN, add the skip, and apply ReLU.

    The sum and the ReLUs are in place.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to features x (batch, channels, H, W)."""
        y = F.relu_(self.norm1(self.conv1(x)))
        return F.relu_(self.norm2(self.conv2(y)).add_(self.skip(x)))


class Residual(ResidualBase):
    """Compute conv3x3 · BN · ReLU · conv3x3 · BN, add the skip, and apply ReLU.

    The first convolution may have a stride.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1):
        super().__init__()
        self.conv1 = without_bias(nn.Conv2d(channels_in, channels_out, 3, stride, padding=1))
        self.norm1 = BatchNorm(channels_out)
        self.conv2 = without_bias(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.norm2 = BatchNorm(channels_out)
        same = channels_in == channels_out and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride)


class ResidualUp(ResidualBase):
    """Double the grid to exactly `size`, as `Residual` with a transposed first convolution.

    The paper's skip is a transposed 1x1 convolution of stride 2. It fills one pixel of four and
    leaves a checkerboard that training has to remove. With `nearest` the skip repeats pixels
    instead.
    """

    def __init__(
        self, channels_in: int, channels_out: int, source: tuple, size: tuple, nearest: bool
    ):
        super().__init__()
        # A transposed convolution of stride 2 gives 2n - 1 rows; the padding supplies the rest.
        extra = (size[0] - (2 * source[0] - 1), size[1] - (2 * source[1] - 1))
        transposed = nn.ConvTranspose2d(channels_in, channels_out, 3, 2, 1, output_padding=extra)
        self.conv1 = without_bias(transposed)
        self.norm1 = BatchNorm(channels_out)
        self.conv2 = without_bias(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.norm2 = BatchNorm(channels_out)
        if nearest:
            repeat = nn.Upsample(size, mode="nearest")
            self.skip = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1), repeat)
        else:
            self.skip = nn.ConvTranspose2d(channels_in, channels_out, 1, 2, output_padding=extra)


def conv_bn_relu(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Make a layer of convolution · BN · ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    return nn.Sequential(without_bias(convolution), BatchNorm(channels_out), nn.ReLU(inplace=True))


class Encoder(nn.Module):
    """Predict the mean and the standard deviation of q(z|x) from images (batch, C, H, W) (§3.1).

    Each is (batch, latent).
    """

    def __init__(self, channels: int, width: int, latent: int):
        super().__init__()
        w = width
        self.trunk = nn.Sequential(
            conv_bn_relu(channels, w, 3),
            *(Residual(w, w), Residual(w, w)),
            *(Residual(w, 2 * w, stride=2), Residual(2 * w, 2 * w)),
            *(Residual(2 * w, 4 * w, stride=2), Residual(4 * w, 4 * w)),
            *(Residual(4 * w, 8 * w, stride=2), Residual(8 * w, 8 * w)),
            conv_bn_relu(8 * w, 8 * w, 1),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.mean = nn.Linear(8 * w, latent)
        self.variance = nn.Linear(8 * w, latent)
        self.register_load_state_dict_pre_hook(absorb_old_biases)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of q(z|x), each (batch, latent)."""
        features = self.trunk(x).to(self.mean.weight.dtype)  # bfloat16 under autocast
        with torch.autocast(x.device.type, enabled=False):
            variance = F.softplus(self.variance(features)) + DIAGONAL_FLOOR
            return self.mean(features), variance.sqrt()


class Decoder(nn.Module):
    """Predict the features (batch, head_width, H, W) that heads read, from codes (batch, latent).

    The paper's first layer turns z into a coarse grid with one bias per channel. At z = 0 the grid
    is the same everywhere. Whatever all images share therefore has to come through z, as a constant
    part of the posterior that the prior lacks, or slowly from the zero padding. With
    `Network.learned_constant` the grid gets a learnt constant image of its own.
    """

    def __init__(self, height: int, width: int, network: Network):
        super().__init__()
        latent, w, nearest = network.latent, network.width, network.nearest_skip
        full, half, quarter, eighth = pyramid(height, width)
        self.grid = nn.ConvTranspose2d(latent, latent, eighth)
        constant = TEMPLATE_STD * torch.randn(latent, *eighth)
        # Released weights know the learned constant by this name.
        self.template = nn.Parameter(constant) if network.learned_constant else None
        self.trunk = nn.Sequential(
            conv_bn_relu(latent, 8 * w, 1),
            Residual(8 * w, 8 * w),
            *(ResidualUp(8 * w, 4 * w, eighth, quarter, nearest), Residual(4 * w, 4 * w)),
            *(ResidualUp(4 * w, 2 * w, quarter, half, nearest), Residual(2 * w, 2 * w)),
            *(ResidualUp(2 * w, w, half, full, nearest), Residual(w, w), Residual(w, w)),
            conv_bn_relu(w, network.head_width or w, 1),
        )
        self.register_load_state_dict_pre_hook(absorb_old_biases)

    def forward(self, z: Tensor) -> Tensor:
        """Return the features (batch, head_width, H, W) of codes z (batch, latent)."""
        grid = self.grid(z[..., None, None])
        return self.trunk(grid if self.template is None else grid + self.template)


class ObservationHead(nn.Module):
    """Predict p(y|z) from decoder features (batch, width, H, W), by 1x1 convolutions (§3.3).

    This class predicts the mean and the covariance factor P; a `rank` of 0 means that there is no
    P. Subclasses add what stands beside PPᵀ. With `mean_only` the prediction is N(μ, εI), whose
    log-density is the squared error over 2ε. The other parts then get no gradient, and so no step
    of the optimiser.
    """

    def __init__(self, data: Data, network: Network):
        super().__init__()
        channels, self.pixels = data.channels, data.height * data.width
        self.network = network
        self.width, self.rank = network.head_width or network.width, network.rank
        self.epsilon = fixed_variance(network)
        self.mean = _head(self.width, channels, bias=0.5)
        self.factor = _head(self.width, self.rank * channels, bias=0.0) if self.rank else None
        self.constant = self._constant(self.rank * channels)
        scaled = network.constants and self.rank
        self.log_scale = nn.Parameter(torch.zeros(self.rank)) if scaled else None
        self.log_variance = nn.Parameter(torch.zeros(1)) if learns_noise(network) else None

    def _constant(self, rows: int) -> nn.Parameter | None:
        """Make a constant of an output, if constants are asked for: zeros (rows, H·W)."""
        if not (self.network.constants and rows):
            return None
        return nn.Parameter(torch.zeros(rows, self.pixels))

    def forward(self, features: Tensor, mean_only: bool = False) -> Observation:
        """Return p(y|z) over flat images, channel-major, as a batch (batch,)."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.mean.weight.dtype)  # bfloat16 under autocast
            loc = self.mean(features).flatten(1)  # (batch, S), channel-major
            factor = loc.new_zeros(len(loc), loc.shape[1], 0)
            if mean_only:
                return LowRankNormal(loc, factor, self.shared_variance(), validate_args=False)
            if self.factor is not None:  # R-major, (batch, R, S), seen as (batch, S, R)
                rows = _rows(self.factor, features, self.constant, self._unit())
                factor = rows.view(len(loc), self.rank, -1).mT
            return self.distribution(loc, factor, features)

    def _unit(self) -> Tensor | None:
        """Return the units of P's rows, (R·C, 1): the scale of each column apart."""
        if self.log_scale is None:
            return None
        scales = FACTOR_UNIT * (SCALE_UNIT * self.log_scale).exp()
        return scales.repeat_interleave(self.mean.out_channels)[:, None]

    def shared_variance(self) -> float | Tensor:
        """Return ε of the mean-only phase: the fixed one, or the learnt one (1,) in float64."""
        return self.epsilon if self.log_variance is None else noise_variance(self.log_variance)

    @torch.no_grad()
    def start_noise_at(self, variance: float) -> None:
        """Set a shared ε, which is learnt, to a variance."""
        self.log_variance.fill_(math.log(max(variance - ROUNDING, ROUNDING)) / NOISE_UNIT)

    def start_at_residuals(self, residuals: Tensor) -> float:
        """Set the constants to the likeliest one covariance for residuals (N, C, H, W).

        Returns by how much the unit of the loss changes, as `init_covariance` does.
        """
        raise NotImplementedError

    @torch.no_grad()
    def start_factor_at_axes(self, axes: Tensor) -> None:
        """Set the constant of P, if there is one, to axes (R, S)."""
        if self.constant is not None:
            self.constant.copy_(axes.reshape(self.constant.shape) / FACTOR_UNIT)

    def distribution(self, loc: Tensor, factor: Tensor, features: Tensor) -> Observation:
        """Return the distribution around `loc` (batch, S) with the factor P (batch, S, R)."""
        raise NotImplementedError

    def init_covariance(
        self, features: Tensor, x: Tensor, rank_entropy_target: float | None
    ) -> Tensor | None:
        """Set the initial covariance to the size that images x need.

        The rule is that of `sos.training.init_covariance`. Returns ε/σ², by which the unit of the
        loss changes where σ² takes the place of ε in it, and None where D stays εI.
        """
        raise NotImplementedError

    def residual(self, features: Tensor, x: Tensor) -> Tensor:
        """Return x - μ (batch, C, H, W)."""
        return x - self(features, mean_only=True).mean.view_as(x)

    def start_factor_at_entropy(self, features: Tensor, rank_entropy: float | None) -> None:
        """Give P, if there is one, a rank entropy ½R log(1 + λ/ε) unless that is None."""
        if self.factor is not None and rank_entropy is not None:
            length = self.epsilon * math.expm1(2 * rank_entropy / self.rank)
            self.start_factor_at(features, length)

    @torch.no_grad()
    def start_factor_at(self, features: Tensor, length: float) -> None:
        """Mix the random factors so that P starts with R orthogonal columns of squared `length`.

        T = √λ·E[PᵀP]^{-½} over `features` makes E[(PTᵀ)ᵀPTᵀ] = λI.
        """
        factor = self(features).cov_factor.double()  # (batch, S, R)
        values, vectors = torch.linalg.eigh((factor.mT @ factor).mean(0))
        scales = (length / values.clamp(min=1e-9 * values[-1])).sqrt()
        mix = ((vectors * scales) @ vectors.mT).to(self.factor.weight.dtype)
        for parameter in (self.factor.weight, self.factor.bias):  # (R·C, ...), rank before channel
            parameter.copy_((mix @ parameter.view(self.rank, -1)).view_as(parameter))


class LowRankHead(ObservationHead):
    """Predict N(μ, PPᵀ + D), D being what `Network.diagonal` says.

    A learnt ε is exp(·) plus the variance of 8-bit rounding. That of an image adds the average of
    a 1x1 convolution to the logarithm.
    """

    def __init__(self, data: Data, network: Network):
        super().__init__(data, network)
        inverse_softplus = math.log(math.expm1(DIAGONAL_FLOOR))
        learnt = network.diagonal is None
        self.variance = _head(self.width, data.channels, inverse_softplus) if learnt else None
        self.variance_constant = self._constant(data.channels) if learnt else None
        self.noise = _head(self.width, 1, bias=0.0) if network.diagonal == "image" else None

    @torch.no_grad()
    def start_at_residuals(self, residuals: Tensor) -> float:
        """Set P's constant and ε to the probabilistic PCA of residuals (N, C, H, W).

        It is the likeliest N(0, PPᵀ + εI) (Tipping & Bishop, 1999). A D per pixel gets the variance
        that P leaves there.
        """
        flat = residuals.flatten(1)
        axes, variance = probabilistic_pca(flat, self.rank, self.network.epsilon)
        self.start_factor_at_axes(axes)
        unit = float(self.shared_variance()) / variance
        self.start_noise_at(variance)
        if self.variance_constant is not None:
            left = flat.square().mean(0) - axes.square().sum(0)
            left = left.clamp(min=0.1 * variance).reshape(self.variance_constant.shape)
            self.variance_constant.copy_(left.expm1().log() - self.variance.bias[:, None])
        return unit

    def distribution(self, loc: Tensor, factor: Tensor, features: Tensor) -> LowRankNormal:
        """Return N(μ, PPᵀ + D)."""
        if self.variance is not None:
            if self.variance_constant is None:
                raw = self.variance(features)
            else:
                raw = _rows(self.variance, features, self.variance_constant)
            diagonal = (F.softplus(raw) + DIAGONAL_FLOOR).flatten(1)
        elif self.noise is not None:
            here = self.noise(features).mean((1, 2, 3)).double()
            diagonal = noise_variance(self.log_variance.double() + here)[:, None]
        else:
            shared = self.network.diagonal == "shared"
            diagonal = self.shared_variance() if shared else self.epsilon
        return LowRankNormal(loc, factor, diagonal, validate_args=False)

    @torch.no_grad()
    def init_covariance(
        self, features: Tensor, x: Tensor, rank_entropy_target: float | None
    ) -> Tensor | None:
        """Give P its target entropy ½R log(1 + λ/ε), or a learnt D the mean squared error."""
        self.start_factor_at_entropy(features, rank_entropy_target)
        if self.variance is None:
            return None
        error = self.residual(features, x).square().mean()
        self.variance.bias.fill_(torch.log(torch.expm1(error - DIAGONAL_FLOOR)))
        return self.epsilon / error


class SparseHead(ObservationHead):
    """Predict N(μ, PPᵀ + (LLᵀ)⁻¹) with a sparse L.

    Without P it is the distribution of Dorta et al. (2018).
    """

    def __init__(self, data: Data, network: Network):
        super().__init__(data, network)
        self.neighbourhood = network.neighbourhood
        # Per value log L_kk, then L_{k+f,k} / L_kk for each neighbour f.
        each = 1 + len(offsets(self.neighbourhood, data.channels))
        self.precision = _head(self.width, each * data.channels, bias=0.0)
        self.precision_constant = self._constant(each * data.channels)

    def distribution(self, loc: Tensor, factor: Tensor, features: Tensor) -> Observation:
        """Return N(μ, PPᵀ + (LLᵀ)⁻¹), or N(μ, (LLᵀ)⁻¹)."""
        # Neighbours before channels, as the ranks of P. The ratios L_{k+f,k} / L_kk are minus the
        # weights with which value k is predicted from later ones: of order one at any noise level.
        raw = _rows(self.precision, features, self.precision_constant)
        raw = raw.view(len(loc), -1, loc.shape[1])
        low, high = LOG_DIAG
        above_low, above_high = (F.softplus(raw[:, 0] - x, beta=4) for x in (low, high))
        log_diag = low + above_low - above_high
        off_diag = raw[:, 1:] * log_diag.exp()[:, None]
        shape = (self.mean.out_channels, *features.shape[-2:])
        local = SparsePrecisionNormal(loc, log_diag, off_diag, shape, validate_args=False)
        return LowRankPlusSparseNormal(local, factor) if self.rank else local

    @torch.no_grad()
    def init_covariance(
        self, features: Tensor, x: Tensor, rank_entropy_target: float | None
    ) -> Tensor:
        """Give L the best stationary values for the residual, and P half of it or its target."""
        self.start_factor_at_entropy(features, rank_entropy_target)
        residual = self.residual(features, x)
        error = residual.square().mean()
        self.start_precision_at(residual)
        if self.factor is not None and rank_entropy_target is None:
            self.start_factor_at(features, 0.5 * error * residual[0].numel() / self.rank)
        return self.epsilon / error

    @torch.no_grad()
    def start_at_residuals(self, residuals: Tensor) -> float:
        """Set the constants of L and P to the likeliest ones for residuals (N, C, H, W)."""
        log_diag, ratios, axes = low_rank_and_sparse(residuals, self.rank, self.neighbourhood)
        rows = torch.cat([log_diag[None], ratios])
        self.precision_constant.copy_(rows.reshape(self.precision_constant.shape))
        self.start_factor_at_axes(axes)
        return 1.0

    @torch.no_grad()
    def start_precision_at(self, residuals: Tensor) -> None:
        """Set the biases of L to the best stationary L for residuals (N, C, H, W)."""
        variance, weights = neighbour_regression(residuals, self.neighbourhood, pooled=True)
        bias = torch.cat([-0.5 * variance.log()[None], -weights.T])  # (1 + n, C)
        self.precision.bias.copy_(bias.flatten())


def fixed_variance(network: Network) -> float:
    """Return the fixed ε, or where D is learnt the floor that stands for it."""
    return DIAGONAL_FLOOR if network.epsilon is None else network.epsilon


def noise_variance(log_variance: Tensor) -> Tensor:
    """Return the ε of a learnt logarithm, in float64, above the variance of rounding."""
    return ROUNDING + (NOISE_UNIT * log_variance.double()).exp()


def learns_noise(network: Network) -> bool:
    """Tell whether pre-training learns its ε: that of D, or one that the constants replace."""
    return network.diagonal in LEARNT_NOISE or network.constants


def observation_head(data: Data, network: Network) -> ObservationHead:
    """Make the head of the distribution that the settings ask for."""
    head = SparseHead if network.neighbourhood else LowRankHead
    return head(data, network)


class _Rows(torch.autograd.Function):
    """Compute W f + b (batch, out, H·W) for features f (batch, H·W, width), copying neither.

    The bias b is (out, 1) or (out, H·W).

    The gradient of f lies in memory as f does, unlike torch's own. The backward pass of what comes
    before is several times as fast where its operands lie alike.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, bias: Tensor, features: Tensor) -> Tensor:
        ctx.save_for_backward(weight, features)
        weights = weight.expand(len(features), -1, -1)
        ctx.shape = bias.shape
        return torch.baddbmm(bias, weights, features.mT)

    @staticmethod
    def backward(ctx, grad: Tensor):
        weight, features = ctx.saved_tensors
        weights = weight.expand(len(features), -1, -1)
        if features.is_contiguous():
            grad_features = torch.bmm(grad.mT, weights)
        else:
            grad_features = torch.bmm(weights.mT, grad).mT
        grad_bias = grad.sum((0, 2))[:, None] if ctx.shape[1] == 1 else grad.sum(0)
        return (grad @ features).sum(0), grad_bias, grad_features


def _rows(
    head: nn.Conv2d, features: Tensor, constant: Tensor | None = None, unit: Tensor | None = None
) -> Tensor:
    """Apply a 1x1 convolution to features (batch, width, H, W), and return (batch, out, H·W).

    A constant (out, H·W) is added, and units (out, 1) multiply both.
    """
    flat = features.permute(0, 2, 3, 1).flatten(1, 2)  # a view; contiguous if channels_last
    weight, bias = head.weight.flatten(1), head.bias[:, None]
    if constant is not None:
        bias = bias + constant
    if unit is not None:
        weight, bias = unit * weight, unit * bias
    return _Rows.apply(weight, bias, flat)


def _head(width: int, channels: int, bias: float) -> nn.Conv2d:
    head = nn.Conv2d(width, channels, 1)
    nn.init.normal_(head.weight, std=HEAD_STD)
    nn.init.constant_(head.bias, bias)
    return head


def memory_format(network: Network) -> torch.memory_format:
    """Return channels_last, or the contiguous format below 16 channels.

    Below 16 channels, oneDNN's weight gradient of strided 1x1 convolutions on channels_last writes
    past a buffer and can end the process (uxlfoundation/oneDNN#6035).
    """
    return torch.channels_last if network.width >= 16 else torch.contiguous_format
