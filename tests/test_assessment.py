"""What is measured of an observation distribution, on images that it drew itself."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sos.analysis import assessment, controls, density
from sos.config import Network, Training
from sos.distributions import LowRankNormal, LowRankPlusSparseNormal, SparsePrecisionNormal
from sos.distributions.sparse_precision_normal import offsets

SHAPE = (1, 6, 6)
SIZE = math.prod(SHAPE)


class Known:
    """Predict the same distribution for all codes, and infer nothing: its density is exact."""

    latent, image_shape, training = 2, SHAPE, False

    def __init__(self, p):
        self.p = p

    def encode(self, x):
        return torch.zeros(len(x), self.latent), torch.ones(len(x), self.latent)

    def prior(self, count, generator=None):
        return torch.randn(count, self.latent, generator=generator)

    def decode(self, z):
        return self.p.expand((len(z),))

    def images(self, flat):
        return flat.unflatten(-1, SHAPE)


def known(kind):
    torch.manual_seed(0)
    loc, factor = torch.rand(SIZE), 0.3 * torch.randn(SIZE, 3)
    if kind == "low rank":
        return LowRankNormal(loc, factor, 0.02)
    off_diag = torch.rand(len(offsets(3, 1)), SIZE) - 0.8
    local = SparsePrecisionNormal(loc, 1.5 + 0.2 * torch.randn(SIZE), off_diag, SHAPE)
    return local if kind == "sparse" else LowRankPlusSparseNormal(local, factor)


KINDS = {"low rank": (3, 0), "sparse": (0, 3), "both": (3, 3)}


@pytest.fixture(params=KINDS)
def case(request):
    p = known(request.param)
    rank, neighbourhood = KINDS[request.param]
    network = Network(rank=rank, neighbourhood=neighbourhood)
    training = Training(steps=1, pretraining=0)
    experiment = SimpleNamespace(network=network, training=training)
    x = p.sample((800,), generator=torch.Generator().manual_seed(1)).view(-1, *SHAPE)
    return SimpleNamespace(vae=Known(p), experiment=experiment), x, p


def test_elbo_is_the_exact_density_where_nothing_is_inferred(case):
    model, x, p = case
    found = assessment.densities(model, x)
    exact = p.log_prob(x.flatten(1))
    assert found["elbo"] == pytest.approx(exact.mean().item(), abs=1e-3)
    assert found["elbo_error"] == pytest.approx((exact.std() / 800**0.5).item(), rel=1e-3)
    assert found["kl_nats"] == pytest.approx(0, abs=1e-6)
    bits = density.bits_per_dimension(found["elbo"], SIZE)
    assert found["bits"] == pytest.approx(bits, rel=1e-6)
    if isinstance(p, LowRankNormal):
        factor = p.cov_factor.double().numpy()
        gram = np.eye(3) + factor.T @ factor / 0.02
        assert found["rank_nats"] == pytest.approx(0.5 * np.linalg.slogdet(gram)[1], rel=1e-5)
        assert found["epsilon"] == pytest.approx(0.02)


def test_bounds_of_a_code_that_tells_nothing_gain_nothing(case):
    model, x, _ = case
    found = assessment.bounds(model, x[:5])
    assert found["bound_gains"] == pytest.approx([0, 0, 0], abs=1e-3)
    assert found["effective_samples"] == pytest.approx(64, rel=1e-3)


def test_a_model_is_calibrated_on_its_own_samples(case):
    model, x, _ = case
    found = assessment.calibrations(model, x)
    assert found["chi_square"] == pytest.approx(1, abs=0.04)
    assert found["chi_square_spread"] == pytest.approx((2 / SIZE) ** 0.5, rel=0.15)
    assert found["coverage_50"] == pytest.approx(0.5, abs=0.02)
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.02)
    assert found["kurtosis"] == pytest.approx(3, abs=0.2)
    assert found["pit"] == pytest.approx([0.05] * 20, abs=0.01)
    if model.experiment.network.rank:
        assert len(found["components"]) == 3
        for square, error in zip(found["components"], found["component_errors"], strict=True):
            assert abs(square - 1) < 4 * error < 0.5
    else:
        assert "components" not in found


def test_variances_add_up_and_samples_resemble_their_own_kind(case):
    model, x, p = case
    found = assessment.variances(model, x)
    assert found["variance_latent"] == pytest.approx(0, abs=1e-6)
    total = found["variance_factor"] + found["variance_noise"]
    assert total == pytest.approx(1, abs=0.06)
    factor = p.cov_factor if model.experiment.network.rank else torch.zeros(SIZE, 0)
    data = x.flatten(1).var(0).mean().item()
    share = factor.square().sum().item() / SIZE / data
    assert found["variance_factor"] == pytest.approx(share, abs=1e-4)
    for band in ("coarse", "middle", "fine"):
        assert found[f"{band}_ratio"] == pytest.approx(1, abs=0.2)


def test_draws_have_the_covariance_of_the_distribution(case):
    model, _, p = case
    drawn = assessment.draws(model, 6000)
    cov = np.cov(drawn["samples"].numpy().T)
    many = p.sample((6000,), generator=torch.Generator().manual_seed(3)).numpy()
    assert np.abs(cov - np.cov(many.T)).max() < 0.12 * np.abs(cov).max()
    if "coherent" in drawn:
        low_rank = np.cov((drawn["coherent"] - drawn["means"]).numpy().T)
        assert np.linalg.matrix_rank(low_rank, tol=1e-4) == 3
        parts = drawn["coherent"] + drawn["noise"]
        torch.testing.assert_close(parts, drawn["samples"])


def test_spoilt_images_are_spoilt_more_and_more():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    errors = {}
    for words, spoilt in controls.spoilt(images):
        assert spoilt.dtype == torch.uint8 and spoilt.shape == images.shape
        error = (spoilt.float() - images.float()).square().mean().item()
        errors.setdefault(words.split(",")[0], []).append(error)
    assert set(errors) == {"blur", "noise"}
    for found in errors.values():
        assert found == sorted(found) and len(set(found)) == len(found)
