"""Codes and hidden pixels that are inferred, where a linear decoder gives them a closed form."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from sos.analysis import held_out, prediction
from sos.config import Data
from sos.distributions import LowRankNormal, LowRankPlusSparseNormal, SparsePrecisionNormal
from sos.distributions.sparse_precision_normal import offsets

SHAPE, LATENT, RANK = (3, 4, 3), 2, 3
SIZE = math.prod(SHAPE)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear:
    """A decoder whose mean is Wz + c and whose covariance is the same for all codes."""

    def __init__(self, kind: str):
        self.kind, self.weight, self.centre = kind, numbers(SIZE, LATENT), numbers(SIZE, seed=1)
        self.factor = 0.5 * numbers(SIZE, 0 if kind in ("white", "sparse") else RANK, seed=2)
        self.log_diag = 0.5 + 0.2 * numbers(SIZE, seed=3)
        self.off_diag = 0.3 * numbers(len(offsets(3, SHAPE[0])), SIZE, seed=4)

    def decode(self, z, mean_only=False):
        loc = z @ self.weight.T + self.centre
        batch = (len(z),)
        if mean_only or self.kind in ("white", "low rank"):
            factor = self.factor[:, :0] if mean_only else self.factor
            return LowRankNormal(loc, factor.expand(*batch, *factor.shape), 0.1)
        p = SparsePrecisionNormal(
            loc, self.log_diag.expand(*batch, -1), self.off_diag.expand(*batch, -1, -1), SHAPE
        )
        if self.kind == "sparse":
            return p
        return LowRankPlusSparseNormal(p, self.factor.expand(*batch, *self.factor.shape))

    def covariance(self):
        p = self.decode(torch.zeros(1, LATENT, dtype=torch.float64))[0]
        return torch.stack([p.covariance_row(k) for k in range(SIZE)])


each_kind = pytest.mark.parametrize("kind", ["white", "low rank", "sparse", "low rank + sparse"])


@each_kind
def test_codes_are_the_posterior_mode_of_a_linear_decoder(kind):
    vae, y, revealed = Linear(kind), numbers(4, SIZE, seed=5), numbers(4, SIZE, seed=6) > 0
    start = numbers(4, LATENT, seed=7)
    z, found = prediction.infer(vae, y, revealed, start)
    sigma = vae.covariance()
    for n, (one, mask) in enumerate(zip(y, revealed, strict=True)):
        known = torch.linalg.inv(sigma[mask][:, mask])
        weight = vae.weight[mask]
        precision = torch.eye(LATENT).double() + weight.T @ known @ weight
        right = weight.T @ known @ (one - vae.centre)[mask]
        torch.testing.assert_close(z[n], torch.linalg.solve(precision, right), rtol=1e-6, atol=1e-8)
        # With the code integrated out, y is normal, and the prediction is equation 7 for it.
        joint = sigma + vae.weight @ vae.weight.T
        gain = torch.linalg.solve(joint[mask][:, mask], joint[mask][:, ~mask]).T
        mean = vae.centre[~mask] + gain @ (one - vae.centre)[mask]
        left = joint[~mask][:, ~mask] - gain @ joint[mask][:, ~mask]
        predicted = prediction.predict(found[n], one, mask)
        torch.testing.assert_close(predicted.mean[~mask], mean, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(predicted.variance[~mask], left.diagonal(), rtol=1e-6, atol=1e-8)
        nats = MultivariateNormal(mean, left).log_prob(one[~mask]).item()
        assert predicted.nats == pytest.approx(nats, rel=1e-7)


def test_a_step_that_makes_things_worse_is_halved():
    """A decoder that bends: the code that is found is never less likely than the first."""

    class Bent(Linear):
        def decode(self, z, mean_only=False):
            return super().decode(3 * torch.sin(2 * z), mean_only)

    vae, y, revealed = Bent("low rank"), 3 * numbers(20, SIZE, seed=5), numbers(20, SIZE) > 1
    start = numbers(20, LATENT, seed=7)

    def fits(z):
        p = vae.decode(z)
        known = [
            p[n].marginal_log_prob(m, one[m])
            for n, (one, m) in enumerate(zip(y, revealed, strict=True))
        ]
        return torch.stack(known) - 0.5 * z.square().sum(1)

    previous = fits(start)
    for steps in (0, 1, 2, 4, 8):
        now = fits(prediction.infer(vae, y, revealed, start, steps=steps)[0])
        assert (now >= previous - 1e-6).all()
        previous = now
    assert (previous > fits(start) + 1).float().mean() > 0.5


@each_kind
def test_intervals_cover_what_the_distribution_itself_draws(kind):
    """The positive control: on samples of the model, shares are those of the intervals."""
    vae, stream = Linear(kind), torch.Generator().manual_seed(0)
    p = vae.decode(torch.zeros(1, LATENT, dtype=torch.float64))[0]
    y = p.sample((400,), generator=stream)
    revealed = torch.arange(SIZE) % 3 == 0
    rows = [held_out.scores(p, one, revealed) for one in y]
    shares = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    assert shares["coverage_50"] == pytest.approx(0.5, abs=0.03)
    assert shares["coverage_90"] == pytest.approx(0.9, abs=0.02)
    if kind == "white":  # other pixels say nothing
        assert shares["rmse"] == shares["unconditioned"]
    else:
        assert shares["rmse"] < 0.99 * shares["unconditioned"]
    hidden = p.conditional_log_prob(y[0], revealed).item() / int((~revealed).sum())
    assert rows[0]["nats"] == pytest.approx(hidden)


def test_nothing_revealed_or_nothing_hidden_has_no_score():
    p = Linear("low rank").decode(torch.zeros(1, LATENT, dtype=torch.float64))[0]
    for mask in (torch.zeros(SIZE, dtype=torch.bool), torch.ones(SIZE, dtype=torch.bool)):
        assert all(math.isnan(value) for value in held_out.scores(p, p.loc, mask).values())
    assert held_out.rounded(math.nan) is None and held_out.rounded(0.123456) == 0.1235


def test_slopes_are_those_of_the_decoder():
    vae = Linear("white")
    z = numbers(3, LATENT)
    found = prediction.slopes(vae, z, vae.decode(z).loc)
    torch.testing.assert_close(found, vae.weight.expand(3, SIZE, LATENT))


def test_masks_reveal_whole_pixels_and_the_shares_they_are_named_for():
    data = Data("faces", 32, 32, 3, train=10, validation=10, test=10)
    found = held_out.masks(data, 6)
    for name, mask in found.items():
        assert mask.shape == (6, 3 * 32 * 32), name
        pixels = mask.view(6, 3, -1)
        assert (pixels == pixels[:, :1]).all(), name
    shares = {name: mask.double().mean(1) for name, mask in found.items()}
    assert (shares["left half"] == 0.5).all() and (shares["50 % at random"] == 0.5).all()
    assert (shares["5 % at random"] == 51 / 1024).all() and (shares["10 pixels"] == 10 / 1024).all()
    assert 0.005 < shares["a stroke"][0] < 0.06 and 0 < shares["the hair"].max() < 0.6
    few, many = (held_out.masks(data, n)["10 pixels"] for n in (3, 6))
    assert not torch.equal(many[0], many[1])
    assert few.sum() == 3 * 30
    folder = Data("folder", 32, 32, 1, train=1, validation=1, test=1, folder="none")
    assert "the hair" not in held_out.masks(folder, 2)


def test_the_nearest_image_is_scored_where_it_is_hidden():
    train = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]).view(2, 1, 1, 3)
    x = torch.tensor([[0.9, 0.8, 0.6]]).view(1, 1, 1, 3)
    revealed = {"two": torch.tensor([[True, True, False]]), "none": torch.zeros(1, 3).bool()}
    found = held_out.of_nearest(train, x, revealed)
    assert found["two"]["revealed"]["rmse"] == [0.6]
    assert found["none"]["revealed"]["rmse"] == [None]
