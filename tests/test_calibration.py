"""Calibration, of models that are right and of models that are wrong in a known way."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sos.analysis import calibration, metrics
from sos.distributions import LowRankNormal, LowRankPlusSparseNormal, SparsePrecisionNormal

seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=20, deadline=None)
SHAPE, SIZE, RANK, EPSILON, COUNT = (1, 6, 5), 30, 3, 0.01, 600


def normal(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def low_rank(seed, count, diagonal=EPSILON, scale=1.0, dtype=torch.float64):
    """One distribution for each of `count` images; squares of P from about 1 to 0.1."""
    factor = normal(seed, count, SIZE, RANK) * torch.tensor([0.25, 0.15, 0.1]) * scale
    return LowRankNormal(normal(seed + 1, count, SIZE).to(dtype), factor.to(dtype), diagonal)


def uneven():
    return 0.005 + 0.02 * torch.linspace(0, 1, SIZE, dtype=torch.float64)


def sparse(seed, count):
    weights = 0.3 * normal(seed, count, 4, SIZE)
    log_diag = 1 + 0.2 * normal(seed + 1, count, SIZE)
    return SparsePrecisionNormal(normal(seed + 2, count, SIZE), log_diag, weights, SHAPE)


def hybrid(seed, count):
    return LowRankPlusSparseNormal(sparse(seed, count), 0.5 * normal(seed + 3, count, SIZE, RANK))


def covariance(p):
    """Return Σ (S, S) of one distribution, row by row."""
    return torch.stack([p.covariance_row(index) for index in range(SIZE)])


def z_values(mean, expected, error):
    return ((mean - expected) / error).abs()


MODELS = {
    "εI": lambda: low_rank(0, COUNT),
    "diagonal": lambda: low_rank(0, COUNT, uneven()),
    "float32": lambda: low_rank(0, COUNT, dtype=torch.float32),
    "sparse": lambda: sparse(3, COUNT),
    "hybrid": lambda: hybrid(5, COUNT),
}


@pytest.fixture(scope="module", params=MODELS)
def right(request):
    """A model and samples of itself."""
    p = MODELS[request.param]()
    return p, p.sample(generator=torch.Generator().manual_seed(9))


# ------------------------------------------------------------------------- the positive control


def test_a_models_own_samples_are_calibrated(right):
    p, x = right
    found = calibration.per_image(p, x)
    for name, expected in {"chi_square": 1, "coverage_50": 0.5, "coverage_90": 0.9}.items():
        error = found[name].std() / COUNT**0.5
        assert z_values(found[name].mean(), expected, error) < 4, name
    assert found["chi_square"].std().item() == pytest.approx((2 / SIZE) ** 0.5, rel=0.15)
    white = calibration.whiten(p, x)
    assert calibration.kurtosis(white.flatten()).item() == pytest.approx(3, abs=0.2)
    torch.testing.assert_close(white.T @ white / COUNT, torch.eye(SIZE).double(), rtol=0, atol=0.25)


def test_components_of_a_models_own_samples_are_calibrated(right):
    p, x = right
    if isinstance(p, SparsePrecisionNormal):
        with pytest.raises(ValueError, match="p: has no P, and so no components"):
            calibration.component_scores(p, x)
        return
    scores = calibration.component_scores(p, x)
    assert scores.shape == (COUNT, RANK) and scores.dtype == torch.float64
    found = calibration.component_squares(scores)
    assert (z_values(found["square"], 1, found["error"]) < 4).all()
    torch.testing.assert_close(
        found["error"], torch.full((RANK,), (2 / COUNT) ** 0.5).double(), rtol=0.3, atol=0
    )
    for values in (calibration.pit(scores), calibration.pit(calibration.pixel_scores(p, x))):
        assert abs(values.mean().item() - 0.5) < 0.05
    counts = calibration.histogram(calibration.pit(scores), 10)
    assert counts.sum() == scores.numel()
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4


# ------------------------------------------------------------------------------- wrong models


def test_an_epsilon_that_is_ten_times_too_large_is_found():
    x = low_rank(0, COUNT).sample(generator=torch.Generator().manual_seed(9))
    found = calibration.per_image(low_rank(0, COUNT, 10 * EPSILON), x)
    assert calibration.interval(found["chi_square"])["high"] < 0.3
    assert calibration.interval(found["coverage_50"])["low"] > 0.6
    counts = calibration.histogram(
        calibration.pit(calibration.pixel_scores(low_rank(0, COUNT, 10 * EPSILON), x)), 10
    )
    assert counts[4] > 1.5 * counts[0]


def test_an_epsilon_that_is_ten_times_too_small_is_found():
    x = low_rank(0, COUNT).sample(generator=torch.Generator().manual_seed(9))
    p = low_rank(0, COUNT, EPSILON / 10)
    found = calibration.per_image(p, x)
    assert calibration.interval(found["chi_square"])["low"] > 5
    assert calibration.interval(found["coverage_90"])["high"] < 0.88
    squares = calibration.component_squares(calibration.component_scores(p, x))["square"]
    assert ((squares - 1).abs() < 0.25).all()  # beside s_r², ε hardly counts


def test_half_of_p_is_found_component_by_component():
    x = low_rank(0, COUNT).sample(generator=torch.Generator().manual_seed(9))
    found = calibration.component_squares(
        calibration.component_scores(low_rank(0, COUNT, scale=0.5), x)
    )
    assert (found["square"] - 4 * found["error"] > 1.5).all() and (found["square"] < 4.5).all()


def test_only_the_component_that_is_wrong_is_blamed():
    directions = torch.linalg.qr(normal(8, SIZE, RANK))[0] * torch.tensor([1.5, 0.9, 0.3])
    p = LowRankNormal(torch.zeros(SIZE).double(), directions, EPSILON).expand((COUNT,))
    x = p.sample(generator=torch.Generator().manual_seed(9))
    wrong = p.scale_components([1.0, 0.6, 1.0])
    found = calibration.component_squares(calibration.component_scores(wrong, x))
    assert (found["square"] > 1 + 5 * found["error"]).tolist() == [False, True, False]
    expected = (0.81 + EPSILON) / (0.36 * 0.81 + EPSILON)
    assert z_values(found["square"][1], expected, found["error"][1]) < 4


def test_heavy_tails_are_found():
    p = low_rank(0, COUNT)
    heavy = p.mean + torch.distributions.StudentT(5.0).sample((COUNT, SIZE)) * 0.1
    assert calibration.kurtosis(calibration.whiten(p, heavy).flatten()) > 4


# ----------------------------------------------------------------------------------- oracles


@quick
@given(seeds, st.sampled_from(["εI", "diagonal", "sparse", "hybrid"]), st.booleans())
def test_all_is_what_dense_matrices_give(seed, kind, shared):
    make = {"εI": low_rank, "sparse": sparse, "hybrid": hybrid}
    p = low_rank(seed, 2, uneven()) if kind == "diagonal" else make[kind](seed, 2)
    p = p[0] if shared else p
    x = normal(seed + 7, 2, SIZE)
    white = calibration.whiten(p, x)
    for image in range(2):
        one = p if shared else p[image]
        sigma, r = covariance(one), x[image] - one.mean
        square = r @ torch.linalg.solve(sigma, r)
        assert calibration.chi_square(p, x)[image].item() * SIZE == pytest.approx(square.item())
        assert white[image].square().sum().item() == pytest.approx(square.item())
        scores = r / sigma.diagonal().sqrt()
        torch.testing.assert_close(calibration.pixel_scores(p, x)[image], scores)


@quick
@given(seeds)
def test_components_are_eigenvectors_of_the_covariance(seed):
    p, x = low_rank(seed, 2), normal(seed + 7, 2, SIZE)
    scores = calibration.component_scores(p, x)
    for image in range(2):
        values, vectors = torch.linalg.eigh(covariance(p[image]))
        values, vectors = values.flip(0)[:RANK], vectors.flip(1)[:, :RANK]
        expected = ((x - p.mean)[image] @ vectors).square() / values
        torch.testing.assert_close(scores[image].square(), expected)


def test_scores_of_another_d_are_standard_and_independent_by_algebra():
    """Of the rows t of w = Tx, TΣTᵀ has to be I: scores of the unit vectors give T."""
    for p in (low_rank(1, 1, uneven())[0], hybrid(1, 1)[0]):
        for turn in (calibration.component_scores, calibration.whiten):
            rows = turn(p, p.mean + torch.eye(SIZE)).T
            torch.testing.assert_close(rows @ covariance(p) @ rows.T, torch.eye(len(rows)).double())


def test_a_component_that_does_not_exist_is_nan_and_left_out():
    factor = torch.cat([normal(0, 4, SIZE, 2), torch.zeros(4, SIZE, 1).double()], 2)
    factor[0] = normal(1, SIZE, 3)
    p = LowRankNormal(torch.zeros(4, SIZE).double(), factor, EPSILON)
    scores = calibration.component_scores(p, p.sample())
    assert scores.isnan().sum(0).tolist() == [0, 0, 3]
    found = calibration.component_squares(scores)
    assert found["square"][2].item() == pytest.approx(scores[0, 2].item() ** 2)
    assert found["error"][2].isnan() and found["error"][:2].isfinite().all()
    assert calibration.histogram(calibration.pit(scores)).sum() == 9


def test_squares_have_the_error_of_a_mean():
    scores = normal(2, 50, 4)
    found = calibration.component_squares(scores)
    expected = scipy.stats.sem(scores.square().numpy())
    np.testing.assert_allclose(found["error"], expected)


@quick
@given(seeds, st.integers(1, 30))
def test_histogram_is_numpys(seed, bins):
    values = torch.rand(200, generator=torch.Generator().manual_seed(seed)).double()
    values[:2] = torch.tensor([0.0, 1.0])
    expected = np.histogram(values.numpy(), bins, (0, 1))[0]
    # An edge that is no binary fraction may fall on either side.
    assert np.abs(calibration.histogram(values, bins).numpy() - expected).sum() <= 2


def test_pit_coverage_and_kurtosis_of_known_numbers():
    scores = torch.tensor([[0.0, 0.6, 1.7, -3.0]])
    np.testing.assert_allclose(calibration.pit(scores), scipy.stats.norm.cdf(scores))
    assert calibration.coverage(scores, 0.5).item() == 0.5
    assert calibration.coverage(scores, 0.9).item() == 0.5
    assert calibration.coverage(scores, 0.95).item() == 0.75
    white = normal(3, 4, 50)
    expected = scipy.stats.kurtosis(white.numpy(), axis=1, fisher=False)
    np.testing.assert_allclose(calibration.kurtosis(white), expected)


# ------------------------------------------------------------------- samples against the data


def smooth(seed, count, side=16):
    noise = normal(seed, count, 1, side + 2, side + 2)
    return torch.nn.functional.avg_pool2d(noise, 3, stride=1)


def test_images_of_one_kind_pass_the_checks():
    found = calibration.predictive_checks(smooth(0, 800), smooth(1, 800))
    for name in ("coarse_ratio", "middle_ratio", "fine_ratio"):
        assert found[name] == pytest.approx(1, abs=0.1)
    assert found["worst_log_ratio"] < 0.1
    assert found["variance_samples"] == pytest.approx(1 / 9, rel=0.05)
    assert found["neighbour_data"] == pytest.approx(2 / 3, abs=0.02)
    assert all(type(value) is float for value in found.values())


def test_white_noise_does_not_pass_for_smooth_images():
    noise, data = normal(0, 200, 1, 16, 16) / 3, smooth(1, 200)
    found = calibration.predictive_checks(5 + noise, data)
    assert found["variance_samples"] == pytest.approx(found["variance_data"], rel=0.05)
    assert abs(found["neighbour_samples"]) < 0.02
    assert (
        found["coarse_ratio"] < 0.3 and found["fine_ratio"] > 3 and found["worst_log_ratio"] > 0.7
    )
    deviation = data - data.mean(0)
    assert found["neighbour_data"] == metrics.neighbour_correlation(deviation)


# ---------------------------------------------------------------------------------- intervals


def test_interval_is_the_one_of_the_normal_for_many_images():
    values = 3 + 2 * normal(4, 400)
    found, error = calibration.interval(values), scipy.stats.sem(values.numpy())
    assert found["mean"] == pytest.approx(values.mean().item())
    assert found["low"] == pytest.approx(found["mean"] - 1.96 * error, abs=0.2 * error)
    assert found["high"] == pytest.approx(found["mean"] + 1.96 * error, abs=0.2 * error)
    assert found == calibration.interval(values.numpy())
    wider = calibration.interval(values, 0.99)
    assert wider["low"] < found["low"] and wider["high"] > found["high"]


def test_interval_covers_the_mean_about_as_often_as_it_says():
    draws = normal(5, 200, 40).exp()  # skewed
    inside = [calibration.interval(row, 0.9, resamples=300) for row in draws]
    share = np.mean([one["low"] < math.exp(0.5) < one["high"] for one in inside])
    assert 0.78 < share < 0.96


def test_interval_of_equal_numbers_is_a_point():
    assert calibration.interval([2.0, 2.0, 2.0]) == {"mean": 2.0, "low": 2.0, "high": 2.0}


# ------------------------------------------------------------------------------------- errors


def test_what_is_wrong_is_named():
    p, x = low_rank(0, 3), normal(0, 3, SIZE)
    with pytest.raises(ValueError, match=r"x: expected flat images \(N, 30\), got \(3, 5, 6\)"):
        calibration.whiten(p, x.view(3, 5, 6))
    with pytest.raises(ValueError, match=r"one for each of 2 images, got a batch \(3,\)"):
        calibration.component_scores(p, x[:2])
    with pytest.raises(TypeError, match="p: a Independent has no known whitening"):
        other = torch.distributions.Independent(torch.distributions.Normal(x, 1.0), 1)
        calibration.whiten(other, x)
    with pytest.raises(ValueError, match="p: D has zeros, as after exact edits"):
        calibration.whiten(p[0].condition([1], [0.5]), x)
    with pytest.raises(ValueError, match="values: expected 0..1, got -"):
        calibration.histogram(x)
    with pytest.raises(ValueError, match="level: expected a share between 0 and 1, .* got 90"):
        calibration.coverage(x, 90)
    with pytest.raises(ValueError, match="samples and data: expected images"):
        calibration.predictive_checks(smooth(0, 3, 8), smooth(0, 3, 9))
    for values in ([1.0], [1.0, math.nan], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="values: expected at least 2 finite numbers"):
            calibration.interval(values)
