"""A toy on 12x12 pixels where structured results can be compared with dense ones (notebook 00)."""

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from sos.distributions.low_rank_normal import LowRankNormal

SIDE = 12  # pixels
EPSILON = 1e-3
PAPER_PIXELS, PAPER_RANK, PAPER_EPSILON = 218 * 178 * 3, 25, 1e-5


def distribution() -> LowRankNormal:
    """Make N(μ, PPᵀ + εI) over a gray ramp, with three smooth columns: bright, left-right, ring."""
    x = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    row, column = torch.meshgrid(x, x, indexing="ij")
    radius = (row.square() + column.square()).sqrt()
    columns = torch.stack([0.15 * (-radius).exp(), 0.12 * column, 0.12 * (6 * radius).cos()])
    return LowRankNormal((0.5 + 0.1 * row).flatten(), columns.flatten(1).T, EPSILON)


def independent(p: LowRankNormal) -> LowRankNormal:
    """Return independent pixels with the mean and the variances of p, with rank 0."""
    return LowRankNormal(p.mean, p.cov_factor[:, :0], p.variance)


def edit(p: LowRankNormal) -> tuple[int, Tensor, Tensor]:
    """Return the central pixel, five pixels that are painted, and their colours."""
    painted = torch.tensor([13, 14, 26, 90, 91])
    return SIDE // 2 * SIDE + SIDE // 2, painted, p.mean[painted] + 0.2


def dense_conditional(p: LowRankNormal, painted: Tensor, colours: Tensor) -> MultivariateNormal:
    """Compute equations 6 and 7 with dense matrices; painted pixels get a vanishing variance."""
    covariance = p.covariance_matrix
    gain = torch.linalg.solve(covariance[painted][:, painted], covariance[painted]).T
    mean = p.mean + gain @ (colours - p.mean[painted])
    rest = covariance - gain @ covariance[painted]
    jitter = 1e-14 * torch.eye(len(mean), dtype=torch.float64, device=mean.device)
    return MultivariateNormal(mean, rest + jitter, validate_args=False)


def gap(a: Tensor, b: Tensor) -> str:
    """Return the largest difference of a and b, as an order of magnitude.

    The order of magnitude does not depend on the machine.
    """
    difference = (a - b).abs().max().item()
    return next(f"below {limit:g}" for limit in (1e-10, 1e-6, 1e-3, 1e3) if difference < limit)


def float32_errors() -> tuple[float, float]:
    """Measure |error| of log p(y) in nats at the paper's size in float32.

    Returns the error of our class and that of torch's class.
    """
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(1.5, 0.5, PAPER_RANK)  # standard deviations along the columns
    columns = torch.randn(PAPER_RANK, PAPER_PIXELS, generator=generator) / PAPER_PIXELS**0.5
    factor = (columns * scales[:, None]).mT
    p = LowRankNormal(torch.full((PAPER_PIXELS,), 0.5), factor, PAPER_EPSILON)
    y = p.sample(generator=generator)
    exact = LowRankNormal(p.mean.double(), factor.double(), PAPER_EPSILON).log_prob(y.double())
    diagonal = torch.full((PAPER_PIXELS,), PAPER_EPSILON)
    theirs = LowRankMultivariateNormal(p.mean, factor, diagonal).log_prob(y)
    return (p.log_prob(y) - exact).abs().item(), (theirs - exact).abs().item()
