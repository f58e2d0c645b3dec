"""Interpolation in the observation space: eq. 4 and 8 on a square."""

import math

import pytest
import torch

from sos import config, interpolation
from sos.low_rank_normal import LowRankNormal
from sos.vae import VAE


def corners(rank=6, seed=0):
    return torch.randn(4, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slerp_by_hand(a, b, t):
    angle = math.acos((a @ b / (a.norm() * b.norm())).item())
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def test_grid_has_the_formulas_values():
    tl, tr, bl, br = c = corners()
    grid = interpolation.bilinear(c, 5).unflatten(0, (5, 5))
    for row in range(5):
        for column in range(5):
            top, bottom = (slerp_by_hand(a, b, column / 4) for a, b in ((tl, tr), (bl, br)))
            expected = slerp_by_hand(top, bottom, row / 4)
            torch.testing.assert_close(grid[row, column], expected)


def test_grid_ends_in_its_corners():
    c = corners()
    grid = interpolation.bilinear(c, 3)
    torch.testing.assert_close(grid[[0, 2, 6, 8]], c)


def test_unit_corners_stay_on_the_sphere():
    c = torch.nn.functional.normalize(corners(), dim=1)
    norms = interpolation.bilinear(c, 7).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(49, dtype=torch.float64))


def test_diagonal_noise_is_the_same_in_every_image():
    generator = torch.Generator().manual_seed(1)
    p = LowRankNormal(
        torch.rand(40, generator=generator), torch.randn(40, 6, generator=generator), 0.3
    )
    still = torch.randn(40, generator=generator)
    images = interpolation.observation_grid(p, corners().float(), still, 4)
    omega = interpolation.bilinear(corners().float(), 4)
    torch.testing.assert_close(images, p.loc + omega @ p.cov_factor.mT + 0.3**0.5 * still)


@pytest.mark.parametrize(("shape", "steps"), [((3, 6), 4), ((4, 6), 1), ((4,), 4)])
def test_bad_corners_are_refused(shape, steps):
    with pytest.raises(ValueError, match="corners"):
        interpolation.bilinear(torch.zeros(shape), steps)


def test_latent_grid_decodes_each_code():
    e = config.profile("smoke").experiments["faces-sos"]
    vae = VAE(e.data, e.network).eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    codes, means = interpolation.latent_grid(vae, images, 3)
    with torch.no_grad():
        torch.testing.assert_close(codes[[0, 2, 6, 8]], vae.encode(images)[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(means[4], vae.decode(codes[4:5]).mean[0], rtol=1e-4, atol=1e-5)


def test_costs_are_medians_of_what_was_called():
    calls = []
    assert interpolation.milliseconds(lambda: calls.append(1), repeats=5) >= 0
    assert len(calls) == 6
