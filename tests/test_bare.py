"""The observation distribution without a network, against dense matrices and exact optima."""

from dataclasses import asdict

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.decomposition import FactorAnalysis, IncrementalPCA

from sos import datasets, profiles
from sos.analysis import pca
from sos.config import Data, Experiment, Network, Objective, Training
from sos.distributions.low_rank_normal import LowRankNormal
from sos.models import bare
from sos.models.bare import BareNormal
from sos.models.networks import DIAGONAL_FLOOR
from sos.system import paths
from sos.training import loop, store

DATA = Data("faces", 6, 5, 1, train=400, validation=20, test=20)
PIXELS, RANK, EPSILON = 30, 3, 1e-3


@pytest.fixture(scope="module")
def images():
    """400 images that have three strong directions, as uint8 (400, 1, 6, 5)."""
    stream = np.random.default_rng(0)
    directions = stream.standard_normal((RANK, PIXELS)) * np.array([[0.1], [0.06], [0.04]])
    flat = 0.5 + stream.standard_normal((400, RANK)) @ directions
    flat += EPSILON**0.5 * stream.standard_normal(flat.shape)
    return np.rint(255 * flat.clip(0, 1)).astype(np.uint8).reshape(400, 1, 6, 5)


@pytest.fixture(scope="module")
def flat(images):
    return images.reshape(400, -1) / 255.0


def experiment(network=None, objective=None, **settings):
    settings = {"steps": 1500, "pretraining": 50, "batch": 100, "learning_rate": 1e-2} | settings
    network = {"width": 0, "latent": 0, "rank": RANK, "diagonal": EPSILON} | (network or {})
    return Experiment(
        "bare-test",
        DATA,
        Network(**network),
        Objective(0.0, **(objective or {})),
        Training(**{"decay": True, "flip": False} | settings),
    )


def trained(images, tmp_path, **kwargs):
    return loop.train(experiment(**kwargs), torch.from_numpy(images), tmp_path / "c.pt").vae


@pytest.mark.parametrize("gain", [0.0, 0.05], ids=["plain", "span gradient"])
def test_training_reaches_the_closed_form(images, tmp_path, gain):
    p = trained(images, tmp_path, span_gain=gain).distribution()
    best = pca.spectrum(images, RANK).optimum(EPSILON)
    gap = bare.log_density(best, images) - bare.log_density(p, images)
    assert 0 <= gap < 1e-3 * PIXELS


def test_training_reaches_factor_analysis(images, tmp_path):
    settings = {"init_covariance": True, "steps": 3000, "batch": 400}
    p = trained(images, tmp_path, network={"diagonal": None}, **settings).distribution()
    best = pca.factor_analysis(images, RANK)
    assert abs(bare.log_density(best, images) - bare.log_density(p, images)) < 2e-3 * PIXELS


def test_training_ends_where_the_constraint_says(images, tmp_path):
    exact = pca.spectrum(images, RANK)
    target = exact.rank_entropy(EPSILON) - 2.0
    constraint = {"rank_entropy_target": target, "entropy_damping": 10.0}
    p = trained(images, tmp_path, objective=constraint, span_gain=0.05).distribution()
    expected = exact.constrained(EPSILON, torch.tensor([target]))
    assert p.rank_entropy.item() == pytest.approx(target, abs=0.05)
    assert p.variance.mean().item() == pytest.approx(expected["variance"].item(), rel=0.05)


@pytest.mark.parametrize("multiplier", [0.0, 3.0])
def test_gradient_vanishes_at_the_optimum(images, flat, multiplier):
    best = pca.spectrum(images, RANK).optimum(EPSILON, multiplier)
    loc, factor = (x.clone().requires_grad_() for x in (best.loc, best.cov_factor))

    def gradients(factor):
        p = LowRankNormal(loc, factor, EPSILON, validate_args=False)
        log_prob, entropy = p.log_prob_and_rank_entropy(torch.from_numpy(flat))
        return torch.autograd.grad(multiplier * entropy - log_prob.mean(), (loc, factor))

    at, beside = gradients(factor), gradients(1.01 * factor)
    assert at[0].abs().max() < 1e-8
    assert at[1].abs().max() < 1e-8 * beside[1].abs().max().clamp(min=1)


def test_spectrum_is_the_dense_one(images, flat):
    exact = pca.spectrum(images, RANK)
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    np.testing.assert_allclose(exact.values, values[::-1][:RANK], rtol=1e-9)
    overlap = np.abs(exact.vectors.T.numpy() @ vectors[:, ::-1][:, :RANK])
    np.testing.assert_allclose(overlap, np.eye(RANK), atol=1e-7)
    assert exact.epsilon == pytest.approx(values[:-RANK].mean(), rel=1e-9)
    assert exact.data_variance == pytest.approx(flat.var(0).mean(), rel=1e-9)
    left = flat - flat.mean(0)
    left = left - left @ exact.vectors.numpy() @ exact.vectors.numpy().T
    np.testing.assert_allclose(exact.left_over(images), left.var(0), rtol=1e-7)


def test_constrained_optima_have_what_is_promised(images):
    exact = pca.spectrum(images, RANK)
    best = bare.log_density(exact.optimum(EPSILON), images)
    entropies = exact.rank_entropy(EPSILON) + torch.tensor([-2.0, 0.0, 0.5]).double()
    curve = exact.constrained(EPSILON, entropies)
    for k, entropy in enumerate(entropies.tolist()):
        multiplier = np.expm1(2 * (exact.rank_entropy(EPSILON) - entropy) / RANK)
        p = exact.optimum(EPSILON, multiplier)
        assert p.rank_entropy.item() == pytest.approx(entropy, abs=1e-9)
        assert p.variance.mean().item() == pytest.approx(curve["variance"][k].item(), rel=1e-9)
        lost = best - bare.log_density(p, images)
        assert lost == pytest.approx(curve["lost"][k].item(), abs=1e-9)


def test_best_epsilon_is_the_maximum(images):
    exact = pca.spectrum(images, RANK)
    at = [exact.epsilon * factor for factor in (0.98, 1, 1.02)]
    below, best, above = (bare.log_density(exact.optimum(e), images) for e in at)
    assert below < best > above


def test_densities_of_all_epsilons_are_those_of_the_optima(images):
    exact = pca.spectrum(images, RANK)
    epsilons = [1e-6, EPSILON, exact.values[1].item() * 1.1, 1.0]  # the third is above two λ
    expected = [bare.log_density(exact.optimum(epsilon), images[:37]) for epsilon in epsilons]
    np.testing.assert_allclose(exact.log_densities(images[:37], epsilons), expected, rtol=1e-12)


@pytest.mark.parametrize("count", [400, 230, 202, 60])  # also with a short batch, long, and alone
def test_incremental_pca_is_that_of_scikit_learn(images, flat, count):
    found = IncrementalPCA(RANK, batch_size=100).fit(flat[:count])
    mean, axes = pca.incremental_pca(images[:count], RANK)
    np.testing.assert_allclose(mean, found.mean_, rtol=1e-12)
    expected = found.components_ * found.explained_variance_[:, None] ** 0.5
    np.testing.assert_allclose(axes, expected, rtol=0, atol=1e-10)


def test_factor_analysis_is_that_of_scikit_learn(images, flat):
    """The same step by step, with scikit-learn's decompositions by LAPACK, and stationary."""
    settings = {"svd_method": "lapack", "tol": 1e-6, "max_iter": 5000}
    found = FactorAnalysis(RANK, **settings).fit(flat)
    p = pca.factor_analysis(images, RANK, tolerance=1e-6, steps=5000)
    np.testing.assert_allclose(p.loc, found.mean_, rtol=1e-12)
    np.testing.assert_allclose(p.cov_diag, found.noise_variance_, rtol=1e-4)
    np.testing.assert_allclose(p.covariance_matrix, found.get_covariance(), rtol=0, atol=1e-7)
    assert bare.log_density(p, images) == pytest.approx(found.score(flat), abs=1e-7)
    np.testing.assert_allclose(p.variance, flat.var(0), rtol=1e-4)


def test_distributions_are_compared_with_the_best(images):
    exact = pca.spectrum(images, RANK)
    best, other = exact.optimum(EPSILON), exact.optimum(EPSILON, 1.0)
    found = pca.compare({"best": best, "other": other}, "best", exact, images)
    assert found["best"]["gap"] == 0
    assert found["best"]["log_density"] * PIXELS == bare.log_density(best, images)
    lost = bare.log_density(best, images) - bare.log_density(other, images)
    assert found["other"]["gap"] * PIXELS == pytest.approx(lost, rel=1e-9)
    assert found["other"]["angle"] == pytest.approx(0, abs=1e-5)
    assert found["other"]["rank_entropy"] == other.rank_entropy.item()
    share = other.covariance_matrix.trace().item() / PIXELS / exact.data_variance
    assert found["other"]["variance_ratio"] == pytest.approx(share, rel=1e-9)


def test_log_density_is_the_dense_one(images, flat):
    p = pca.spectrum(images, RANK).optimum(EPSILON)
    cov = p.cov_factor @ p.cov_factor.mT + EPSILON * torch.eye(PIXELS)
    dense = scipy.stats.multivariate_normal(p.loc.numpy(), cov.numpy()).logpdf(flat).mean()
    assert bare.log_density(p, images) == pytest.approx(dense, abs=1e-8)


@pytest.mark.parametrize("turn", [1e-9, 1e-3, 1.0])
def test_angles_are_those_of_scipy(turn):
    stream = np.random.default_rng(1)
    one = stream.standard_normal((40, 4))
    other = one @ stream.standard_normal((4, 4)) + turn * stream.standard_normal((40, 4))
    found = pca.principal_angles(torch.from_numpy(one), torch.from_numpy(other))
    expected = np.rad2deg(scipy.linalg.subspace_angles(one, other))[::-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-13)


def test_pca_samples_have_the_pca_covariance(images):
    samples = pca.pca_samples(images, RANK, 20_000).double()
    exact = pca.spectrum(images, RANK)
    values = torch.linalg.eigvalsh(samples.T.cov()).flip(0)
    np.testing.assert_allclose(values[:RANK], exact.values, rtol=0.05)
    assert values[RANK] < 1e-9


@pytest.mark.parametrize("diagonal", [EPSILON, None], ids=["fixed", "learnt"])
@pytest.mark.parametrize("mean_only", [False, True])
def test_terms_are_those_of_a_dense_normal(flat, diagonal, mean_only):
    model = BareNormal(DATA, Network(width=0, latent=0, rank=RANK, diagonal=diagonal))
    with torch.no_grad():
        model.mean.normal_()
        model.factor.normal_(std=0.1)
        if diagonal is None:
            model.log_variance.uniform_(-4, -2)
    x = torch.from_numpy(flat[:7]).float()
    terms = model.terms(x.view(7, 1, 6, 5), model.prior(7), mean_only)
    variance = torch.full((PIXELS,), diagonal or DIAGONAL_FLOOR)
    if diagonal is None and not mean_only:
        variance = model.log_variance.exp() + DIAGONAL_FLOOR
    factor = model.factor.T if not mean_only else model.factor.T[:, :0]
    cov = (factor @ factor.T + variance.diag()).double()
    dense = torch.distributions.MultivariateNormal(model.mean.double(), cov)
    floor = PIXELS * np.log(2 * np.pi * np.e * (diagonal or DIAGONAL_FLOOR)) / 2
    expected = -dense.log_prob(x.double()).mean().item()
    assert terms.nll_nats.item() == pytest.approx(expected, rel=1e-5)
    entropy = dense.entropy().item() - floor
    assert terms.rank_entropy_nats.item() == pytest.approx(entropy, abs=1e-3)
    assert terms.variance.item() == pytest.approx(cov.diagonal().mean().item(), rel=1e-5)
    assert terms.kl_nats.item() == 0


def test_one_distribution_for_every_code():
    model = BareNormal(DATA, Network(width=0, latent=0, rank=RANK))
    p = model.decode(model.prior(5))
    assert p.batch_shape == (5,) and p.cov_factor.shape == (5, PIXELS, RANK)
    assert p.cov_factor.data_ptr() == model.factor.data_ptr()
    mean, std = model.encode(torch.zeros(5, 1, 6, 5))
    assert mean.shape == std.shape == (5, 0)


def test_what_makes_no_sense_is_refused(images, tmp_path):
    with pytest.raises(ValueError, match="neighbourhood"):
        BareNormal(DATA, Network(width=0, latent=0, neighbourhood=5))
    with pytest.raises(ValueError, match="init_covariance"):
        trained(images, tmp_path, init_covariance=True)
    with pytest.raises(ValueError, match="span_gain"):
        trained(images, tmp_path, network={"diagonal": None}, span_gain=0.1)


def test_saved_and_loaded_without_rounding(images, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CACHE", tmp_path / "models")
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    split = datasets.Split(images)
    monkeypatch.setattr(datasets, "load_split", lambda data, name: split)
    model = store.load_or_train(experiment(steps=60))
    again = store.load_or_train(experiment(steps=60))
    assert torch.equal(model.vae.factor, again.vae.factor)
    assert model.vae.factor.dtype == torch.float32
    row = model.history[-1]
    measured = -bare.log_density(model.vae.distribution(), images)
    assert row["validation_nll_nats"] == pytest.approx(measured, rel=1e-9)


# The ablation of notebook 07.

FIELDS = {
    "fixed": "network.diagonal",
    "constrained": "objective.rank_entropy_target",
    "pretrained": "training.pretraining",
}
DERIVED = {
    ("fixed-constrained-pretrained", "scheduled"): "training.decay",
    ("pretrained", "pretrained-scheduled"): "training.decay",
    ("scheduled", "half-target"): "objective.rank_entropy_factor",
    ("scheduled", "double-target"): "objective.rank_entropy_factor",
    ("half-target", "half-target-undamped"): "objective.entropy_damping",
}


def differences(one: Experiment, other: Experiment) -> set[str]:
    """Fields of two experiments that differ, names aside."""
    pairs = [
        (f"{part}.{field}", value, asdict(other)[part][field])
        for part, fields in asdict(one).items()
        if isinstance(fields, dict)
        for field, value in fields.items()
    ]
    return {name for name, a, b in pairs if a != b}


@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_trainings_differ_in_the_named_switch_alone(profile):
    experiments = profiles.PROFILES[profile].experiments
    prefix = "variance-"
    found = {n.removeprefix(prefix): e for n, e in experiments.items() if n.startswith(prefix)}
    remedies = {n: set(n.split("-")) - {"none"} for n in list(found)[:8]}
    assert len({frozenset(words) for words in remedies.values()}) == 8
    for one, words in remedies.items():
        for other, others in remedies.items():
            expected = {FIELDS[word] for word in words ^ others}
            assert differences(found[one], found[other]) == expected
    for (one, other), field in DERIVED.items():
        assert differences(found[one], found[other]) == {field}
    assert len(found) == 8 + len(DERIVED)


def exploding(learning_rate=30.0, **settings):
    small = Network(width=2, latent=2, rank=2, head_width=4)
    rough = Training(50, pretraining=0, batch=20, learning_rate=learning_rate, **settings)
    return Experiment("variance-test", DATA, small, Objective(1.0), rough)


@pytest.mark.parametrize("rate", [30.0, 1e12], ids=["variance", "not finite"])
def test_explosions_are_results(images, tmp_path, monkeypatch, rate):
    monkeypatch.setattr(store, "CACHE", tmp_path / "models")
    split = datasets.Split(images)
    monkeypatch.setattr(datasets, "load_split", lambda data, name: split)
    e = exploding(rate, stop_at_variance=0.3)
    model = store.load_or_train(e)
    assert model.meta["stopped"] is not None
    assert len(model.history) < 20
    assert all(p.isfinite().all() for p in model.vae.parameters())
    assert store.load_or_train(e).meta == model.meta


def test_without_a_limit_explosions_are_errors(images, tmp_path):
    with pytest.raises(FloatingPointError, match="finite"):
        loop.train(exploding(1e12), torch.from_numpy(images), tmp_path / "c.pt")
