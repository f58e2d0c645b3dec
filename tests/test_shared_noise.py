"""An ε that is learnt as one number: its start, its likelihood, and the plain ELBO beside it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from test_training import experiment, one_processor, patterns, train  # noqa: F401

from sos.analysis.density import ppca
from sos.distributions.low_rank_normal import LowRankNormal
from sos.models import networks, new_model
from sos.training import loop, start, store
from sos.training.constraint import Price
from sos.training.pretraining import Pretraining

SHARED = {"diagonal": "shared", "constants": True}
PLAIN = {"kl_target": None, "rank_entropy_target": None}


def shared(network=(), **schedule):
    schedule = {"init_covariance": True, "decay": True} | schedule
    return experiment(SHARED | dict(network), PLAIN, **schedule)


def run_of(e, images=None):
    return loop.Run(e, patterns() if images is None else images, torch.device("cpu"))


def test_the_noise_starts_at_the_variance_of_the_images():
    images = patterns()
    found = run_of(shared(), images).vae.head.shared_variance().item()
    assert found == pytest.approx((images / 255.0).var(0).mean().item(), rel=1e-5)
    assert run_of(shared(), 0 * images).vae.head.shared_variance().item() > networks.ROUNDING


@pytest.mark.parametrize("rank", [0, 2])
def test_pre_training_learns_the_noise_of_the_mean_alone(rank):
    """N(μ, εI) with the one ε that the squared error asks for, which P and its noise then share."""
    e = shared({"rank": rank, "constants": bool(rank)}, steps=150, pretraining=150)
    e = replace(e, training=replace(e.training, learning_rate=2e-2))
    run = run_of(e)
    x = patterns().float() / 255
    for _ in range(150):
        terms = run.training_step(x[:8], mean_only=True)
    assert terms.variance.item() == pytest.approx(run.vae.head.shared_variance().item(), rel=0.2)
    assert terms.squared_error.item() == pytest.approx(terms.variance.item(), rel=0.3)


@pytest.mark.parametrize("constants", [True, False])
def test_a_nat_of_kl_keeps_its_price_where_the_likeliest_covariance_starts(constants):
    """Where D = σ²I starts alone it changes like what the squared error counts."""
    network = SHARED if constants else {"rank": 0, "diagonal": None}
    held = {"kl_target": 2.0, "rank_entropy_target": None}
    run = run_of(experiment(network, held, init_covariance=True))
    run.kl.multiplier.fill_(5.0)
    start.init_covariance(run, patterns()[:8].float() / 255)
    assert (run.kl.multiplier.item() == 5.0) == constants


def test_the_covariance_starts_as_the_probabilistic_pca_of_the_residuals():
    """Against the exact solution, through the density that both give the residuals.

    scikit-learn's own ε would be too large, because there are fewer images than pixels.
    """
    run = run_of(shared())
    x = patterns().float() / 255
    for _ in range(4):
        run.training_step(x[:8], mean_only=True)
    before = {name: value.clone() for name, value in run.vae.named_parameters()}
    start.init_covariance(run, x[:8])
    changed = {
        name for name, value in run.vae.named_parameters() if not torch.equal(value, before[name])
    }
    assert changed == {"head.constant", "head.log_variance"}  # the scales stay at one
    stream = start.generator("residuals", run.training.seed)
    residuals = []
    with torch.no_grad():  # the statistics of each batch, as in training
        for part in x.split(8):
            mean, std = run.vae.encode(part)
            z = mean + std * torch.randn(mean.shape, generator=stream)
            p = run.vae.decode(z)
            residuals.append((part.flatten(1) - p.loc).numpy())
    residuals = torch.from_numpy(np.concatenate(residuals)).double()
    exact = ppca(residuals, 2)
    found = LowRankNormal(exact.loc, p.cov_factor[0].double(), p.cov_diag[0, 0].item())
    difference = found.log_prob(residuals) - exact.log_prob(residuals)
    assert (
        difference.abs().max() < 1e-2
        and p.cov_diag[0, 0].item() < 0.9 * PCA(2).fit(residuals.numpy()).noise_variance_
    )


def test_gradients_with_constants_and_units_are_those_of_torch():
    torch.manual_seed(0)
    head = torch.nn.Conv2d(5, 6, 1)
    features = torch.randn(3, 5, 4, 2).contiguous(memory_format=torch.channels_last)
    constant, unit = torch.randn(6, 8), torch.rand(6, 1) + 0.5
    results = []
    for ours in (True, False):
        leaves = [x.clone().requires_grad_() for x in (features, constant, unit)]
        if ours:
            rows = networks._rows(head, *leaves)
        else:
            rows = leaves[2] * (head(leaves[0]).flatten(2) + leaves[1])
        weights = torch.linspace(-1, 1, rows.numel()).view_as(rows)
        parameters = [*leaves, head.weight, head.bias]
        results.append([rows, *torch.autograd.grad((rows.square() * weights).sum(), parameters)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_plain_elbo_is_minus_the_loss():
    run = run_of(shared(kl_warmup=0))
    assert isinstance(run.kl, Price) and run.rank_entropy is None
    x, noise = patterns()[:8].float() / 255, torch.randn(8, 3)
    terms = run.vae.terms(x, noise)
    assert run.loss(terms, False).item() == pytest.approx(
        (terms.nll_nats + terms.kl_nats).item(), rel=1e-12
    )
    run.kl.scale_target(0.25)
    assert run.loss(terms, False).item() == pytest.approx(
        (terms.nll_nats + 0.25 * terms.kl_nats).item(), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_training_beats_the_same_without_covariance(seed, tmp_path):
    """The density of the images, and a variance of the predictions near that of the images."""
    images = patterns()
    ends = {}
    for rank in (0, 2):
        network = {"rank": rank, "constants": bool(rank), "width": 4}
        e = shared(network, steps=150, pretraining=30, learning_rate=5e-3, seed=seed)
        ends[rank] = train(e, tmp_path / str(rank), images).history[-1]
    elbo = {rank: -row["nll_nats"] - row["kl_nats"] for rank, row in ends.items()}
    assert elbo[2] > elbo[0] + 20
    ratio = ends[2]["variance"] / (images / 255.0).var(0).mean().item()
    assert 0.3 < ratio < 1.5


def test_it_goes_on_after_an_interruption_as_if_there_had_been_none(tmp_path):
    whole = train(shared(), tmp_path / "whole")
    half = shared()
    first = loop.Run(half, patterns(), torch.device("cpu"))
    for step in range(6):
        first.kl.scale_target(1.0)
        first.training_step(loop.batch(patterns(), step, half.training), step < 4)
    first.save(tmp_path / "checkpoint.pt")
    second = train(half, tmp_path)
    for one, other in zip(
        whole.vae.state_dict().values(), second.vae.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("network, objective, message", [
    ({"neighbourhood": 3}, PLAIN, "stands beside P alone"),
    ({}, {"kl_target": None, "rank_entropy_target": 3.0}, "no constraint on the entropy"),
    ({"diagonal": 1e-2}, {"kl_target": None, "rank_entropy_target": 3.0}, "constants start"),
    ({"diagonal": "Shared"}, PLAIN, "diagonal is 'Shared'"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(network, objective, message):
    with pytest.raises(ValueError, match=message):
        run_of(experiment(SHARED | network, objective))


def test_constants_without_a_start_are_refused():
    with pytest.raises(ValueError, match="init_covariance"):
        run_of(shared(init_covariance=False))


def test_a_bare_model_has_a_closed_form_instead():
    e = experiment({"latent": 0, "width": 0, "diagonal": "shared"}, PLAIN)
    with pytest.raises(ValueError, match="ppca"):
        new_model(e.data, e.network)


def test_noise_is_never_less_than_that_of_rounding():
    vae = new_model(shared().data, shared().network)
    with torch.no_grad():
        vae.head.log_variance.fill_(-100.0)
    assert vae.head.shared_variance().item() == networks.ROUNDING
    within_one_level = np.linspace(-0.5, 0.5, 200_001) / 255
    assert math.isclose(networks.ROUNDING, within_one_level.var(), rel_tol=1e-4)


def test_dequantised_images_are_uniform_within_their_levels():
    training = replace(shared().training, dequantise=True, flip=False)
    images = patterns()
    parts = [loop.batch(images, step, training) for step in range(5)]
    rounded = [loop.batch(images, step, replace(training, dequantise=False)) for step in range(5)]
    rests = 255 * (torch.cat(parts) - torch.cat(rounded))
    assert rests.abs().max() < 0.501
    assert rests.var().item() == pytest.approx(1 / 12, rel=0.03)
    assert torch.equal(parts[3], loop.batch(images, 3, training))


def test_models_of_one_shared_noise_have_one_pre_training(tmp_path):
    """σ-VAE and SOS-VAE: the second goes on from where the first released its covariance."""
    both = [shared({"rank": rank, "constants": bool(rank)}, pretraining=10) for rank in (0, 2)]
    found = {store.pretraining_of(e).file for e in both}
    assert len(found) == 1
    common = Pretraining("settings", tmp_path / "common.pt")
    loop.train(both[0], patterns(), tmp_path / "0" / "checkpoint.pt", shared=common)
    second = loop.train(both[1], patterns(), tmp_path / "1" / "checkpoint.pt", shared=common)
    alone = loop.train(both[1], patterns(), tmp_path / "alone" / "checkpoint.pt")
    for one, other in zip(
        second.vae.state_dict().values(), alone.vae.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("network", [
    {"rank": 0},
    {"diagonal": 3e-3},
    {"diagonal": "image"},
    {"diagonal": None},
    {"diagonal": None, "rank": 0},
    {"diagonal": None, "rank": 0, "neighbourhood": 3},
    {"diagonal": None, "neighbourhood": 3},
], ids=str)  # fmt: skip
def test_all_heads_share_their_pre_training_and_start_near_the_best_covariance(network, tmp_path):
    """At the release each head describes the residuals better than εI alone, as pre-training does.

    Its own best constant covariance then is a maximum: shrinking or growing it loses.
    """
    e = shared(network, pretraining=10)
    assert store.pretraining_of(e).file == store.pretraining_of(shared(pretraining=10)).file
    run = run_of(e)
    x = patterns().float() / 255
    for _ in range(4):
        run.training_step(x[:8], mean_only=True)
    before = run.vae.terms(x, torch.zeros(len(x), 3), mean_only=True).nll_nats.item()
    start.init_covariance(run, x[:8])
    after = run.vae.terms(x, torch.zeros(len(x), 3)).nll_nats.item()
    if network.get("diagonal", "") != 3e-3 and network != {"rank": 0}:  # these may be the same
        assert after < before + 1


def test_the_scale_of_a_column_scales_it_alone():
    vae = new_model(shared().data, shared().network).eval()
    with torch.no_grad():
        vae.head.constant.normal_()
        z = torch.randn(2, 3)
        whole = vae.decode(z).cov_factor.clone()
        vae.head.log_scale[1] = math.log(2) / networks.SCALE_UNIT
        scaled = vae.decode(z).cov_factor
    torch.testing.assert_close(scaled, whole * torch.tensor([1.0, 2.0]), rtol=1e-4, atol=1e-6)


def test_an_epsilon_of_an_image_is_one_number_that_its_code_decides():
    e = shared({"diagonal": "image"})
    vae = new_model(e.data, e.network).eval()
    with torch.no_grad():
        vae.head.noise.weight.normal_()
        diagonal = vae.decode(torch.randn(3, 3)).cov_diag
    assert diagonal.shape[0] == 3 and torch.equal(diagonal, diagonal[:, :1].expand_as(diagonal))
    assert len(diagonal[:, 0].unique()) == 3 and diagonal.min() >= networks.ROUNDING
