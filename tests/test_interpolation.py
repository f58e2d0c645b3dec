"""Interpolation in the observation space: eq. 4 and 8 on a square."""

import math

import pytest
import torch

from sos import profiles
from sos.analysis import interpolation
from sos.distributions.low_rank_normal import LowRankNormal
from sos.models.vae import VAE


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
    images = interpolation.Square(p, corners().float(), still).images(4)
    omega = interpolation.bilinear(corners().float(), 4)
    torch.testing.assert_close(images, p.loc + omega @ p.cov_factor.mT + 0.3**0.5 * still)


@pytest.mark.parametrize(("shape", "steps"), [((3, 6), 4), ((4, 6), 1), ((4,), 4)])
def test_bad_corners_are_refused(shape, steps):
    with pytest.raises(ValueError, match="corners"):
        interpolation.bilinear(torch.zeros(shape), steps)


@pytest.fixture(scope="module")
def vae():
    e = profiles.profile("smoke").experiments["faces-sos"]
    torch.manual_seed(0)
    made = VAE(e.data, e.network).eval().requires_grad_(False)
    made.head.mean.weight *= 1e4  # untrained heads give one and the same image
    made.head.factor.weight *= 1e4
    return made


def test_comparison_decodes_the_codes_of_the_corners(vae):
    between = interpolation.square(vae.decode(vae.prior(1))[0], seed=0)
    found = interpolation.compare(vae, between, 3)
    assert found.observation.shape == found.latent.shape == (9, 3, 32, 32)
    corners = found.observation[[0, 2, 6, 8]]
    torch.testing.assert_close(
        corners.flatten(1),
        between.p.rsample_from(between.corners, between.noise_diag),
        rtol=1e-4,
        atol=1e-5,
    )
    codes = vae.encode(corners.clamp(0, 1))[0]
    middle = interpolation.bilinear_at(codes, 0.5, 0.5)
    images = vae.images(vae.decode(torch.cat([codes, middle[None]])).mean)
    torch.testing.assert_close(found.latent[[0, 2, 6, 8, 4]], images, rtol=1e-3, atol=1e-4)
    error = (images[:4] - corners).square().mean().sqrt().item()
    assert found.numbers["corner_rmse_latent"] == pytest.approx(error, rel=1e-3)
    assert found.numbers["decoder_passes_latent"] == 9


def test_squares_repeat(vae):
    p = vae.decode(torch.zeros(1, vae.latent))[0]
    one, two, other = (interpolation.square(p, seed) for seed in (1, 1, 2))
    assert torch.equal(one.images(3), two.images(3))
    assert not torch.equal(one.corners, other.corners)


def test_straight_lines_cut_the_corner():
    right_angle = torch.eye(4)[:, :4]
    lengths = interpolation.middle_lengths(right_angle)
    assert lengths["middle_length_spherical"] == pytest.approx(1)
    assert lengths["middle_length_straight"] == pytest.approx(0.5**0.5)


def test_frame_costs_are_times(vae):
    costs = interpolation.frame_costs(vae, interpolation.square(vae.decode(vae.prior(1))[0], 0))
    assert set(costs) == {"observation", "latent"} and min(costs.values()) > 0


def test_costs_are_medians_of_what_was_called():
    calls = []
    assert interpolation.milliseconds(lambda: calls.append(1), repeats=5) >= 0
    assert len(calls) == 6
