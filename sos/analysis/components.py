"""One principal component at a time (§4.3, eq. 5)."""

import torch
from torch import Tensor

from sos.analysis.editing import Shape
from sos.distributions.low_rank_normal import LowRankNormal
from sos.system.devices import generator

# The authors' tiles clamp the scale of the other components to this; their text has them at 1.
AUTHORS_OTHERS = 0.03


def sweep(
    p: LowRankNormal, noise_factor: Tensor, noise_diag: Tensor, scales: Tensor, values: Tensor
) -> Tensor:
    """Move each component to each of `values` while the others keep their `scales` (eq. 5).

    The images are μ + U diag(s a) Vᵀω_p + √D ω_d, for one distribution p over flat images, noises
    (R,) and (S,), scales (R,) and values (T,). The result is (R, T, S). Its row r is the image at
    `scales`, moved along u_r.
    """
    directions, lengths, rotation = p.principal_components()
    along = lengths * (rotation.mT @ noise_factor.to(rotation)).to(lengths)  # s_r v_rᵀω_p
    scales, values = scales.to(along), values.to(along)
    image = p.loc + directions @ (scales * along) + p.cov_diag.sqrt() * noise_diag
    moves = (values - scales[:, None]) * along[:, None]  # (R, T)
    return image + moves[..., None] * directions.mT[:, None]


def sweep_values(reach: float = 5.0, interval: float = 0.5) -> Tensor:
    """Return the values of the paper's sweeps: -5, -4.5 … +5."""
    steps = round(2 * reach / interval)
    return torch.linspace(-reach, reach, steps + 1)


def tiles(p: LowRankNormal, shape: Shape, seed: int, others: float = 1.0) -> Tensor:
    """Draw the images (R, T, C, H, W) of Figures 5, 9 and 10: `sweep` over the paper's values.

    The noise is random.
    """
    stream = generator("component tiles", seed, device=p.loc.device)
    noise_factor = torch.randn(p.rank, generator=stream, device=p.loc.device)
    noise_diag = torch.randn(p.event_shape, generator=stream, device=p.loc.device)
    images = sweep(p, noise_factor, noise_diag, torch.full((p.rank,), others), sweep_values())
    return images.unflatten(-1, shape)
