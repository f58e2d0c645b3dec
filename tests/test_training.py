"""Training: the constraints of eq. 3, reproducible streams, and resuming to the same bits."""

import copy
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sos.config import Data, Experiment, Network, Objective, Training
from sos.models.vae import VAE
from sos.system import devices
from sos.training import loop, start, state, watch
from sos.training.constraint import Constraint
from sos.training.loop import batch_indices, learning_rate

HEIGHT, WIDTH, IMAGES = 12, 10, 40


def experiment(network=(), objective=(), **schedule):
    """A tiny SOS-VAE: the defaults are the paper's constants and plain gradient."""
    return Experiment(
        "tiny",
        Data("faces", HEIGHT, WIDTH, 1, train=IMAGES, validation=1, test=1),
        Network(**{"width": 2, "latent": 3, "rank": 2, "diagonal": 1e-2} | dict(network)),
        Objective(**{"kl_target": 3.0, "rank_entropy_target": 4.0} | dict(objective)),
        training_of(**schedule),
    )


def training_of(**schedule):
    return Training(**{"steps": 12, "pretraining": 4, "batch": 8, "learning_rate": 2e-3} | schedule)


@pytest.mark.parametrize("changes, named", [
    ({"network": {"diagonal": None}, "init_covariance": True}, "init_covariance"),
    ({"network": {"rank": 0, "diagonal": None, "neighbourhood": 3},
      "objective": {"rank_entropy_target": None}, "stop_at_variance": 1.0}, "stop_at_variance"),
    ({"network": {"diagonal": None}, "freeze_heads": True}, "freeze_heads"),
    ({"network": {"rank": 0}, "objective": {"rank_entropy_target": None}, "freeze_heads": True},
     "freeze_heads"),
])  # fmt: skip
def test_what_could_only_fail_later_is_refused_at_once(changes, named):
    images = torch.zeros(IMAGES, 1, HEIGHT, WIDTH, dtype=torch.uint8)
    with pytest.raises(ValueError, match=named):
        loop.Run(experiment(**changes), images, torch.device("cpu"))


# Everything beyond the paper's schedule at once.
EXTRAS = {
    "network": {"learned_constant": True},
    "decay": True,
    "kl_warmup": 7,
    "init_covariance": True,
    "span_gain": 0.1,
}


def patterns(images=IMAGES, noise=0.02):
    """uint8 images (N, 1, H, W): gray plus three smooth patterns of random amplitudes."""
    g = torch.Generator().manual_seed(0)
    double = {"dtype": torch.float64}  # so that no rounding to 8 bits hangs on the processor
    i, j = torch.linspace(-1, 1, HEIGHT, **double)[:, None], torch.linspace(-1, 1, WIDTH, **double)
    shapes = torch.stack([i + 0 * j, j + 0 * i, i * j])
    amplitudes = 0.15 * torch.randn(images, 3, generator=g, **double)
    clean = 0.5 + (amplitudes[..., None, None] * shapes).sum(1)
    noisy = clean + noise * torch.randn(clean.shape, generator=g, **double)
    return (noisy.clamp(0, 1) * 255).round().byte()[:, None]


def train(experiment, folder, images=None):
    return loop.train(experiment, patterns() if images is None else images, checkpoint(folder))


def checkpoint(folder):
    return Path(folder) / "checkpoint.pt"


@pytest.fixture(autouse=True)
def one_processor(monkeypatch):
    """Bit for bit holds for one kind of device; saving and logging are frequent here."""
    plain_float32(monkeypatch.setattr)


def plain_float32(setattr_):
    setattr_(devices, "device", lambda: torch.device("cpu"))
    setattr_(devices, "has_fast_bfloat16", lambda device: False)
    setattr_(torch.backends.mkldnn, "enabled", False)  # see the test of narrow networks
    setattr_(watch, "CHECKPOINT_EVERY", 5)
    setattr_(watch, "CHECKPOINT_SECONDS", 0)
    setattr_(watch, "LOG_EVERY", 1)


def fail_at(monkeypatch, step, failure):
    """Calls `failure` in place of the terms of this step, counted from the start of the call."""
    original, calls = VAE.terms, iter(range(step + 1))

    def terms(self, *args, **kwargs):
        if next(calls) == step:
            failure()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(VAE, "terms", terms)


class Killed(BaseException):
    """Stands for the end of the process: nothing in the package may catch it."""


def interrupt():
    raise Killed


def assert_same_run(run, other):
    assert run.history == other.history and run.step == other.step
    weights, others = run.vae.state_dict(), other.vae.state_dict()
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name


# ---------------------------------------------------------------------------- pre-training


def test_frozen_heads_have_gradients_of_the_whole_objective_and_stay(tmp_path):
    """As in the authors' code: P is in the density and in the constraint; dense float64."""
    e = experiment(freeze_heads=True)
    run = loop.Run(e, patterns(), torch.device("cpu"))
    run.vae.head.factor.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    dense = copy.deepcopy(run.vae).double()
    x = patterns()[:8].float() / 255
    noise = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
    mean, std = dense.encode(x.double())
    p = dense.decode(mean + std * noise.double())
    whole = p.cov_factor @ p.cov_factor.mT + 1e-2 * torch.eye(HEIGHT * WIDTH, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(p.loc, whole)
    q = torch.distributions.Normal(mean, std)
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    entropy = 0.5 * (torch.logdet(whole).mean() - HEIGHT * WIDTH * math.log(1e-2))
    loss = -normal.log_prob(x.double().flatten(1)).mean()
    (loss + run.kl.penalty(kl) + run.rank_entropy.penalty(entropy)).backward()
    run.freeze(True)
    before = copy.deepcopy(run.vae.state_dict())
    run.compute_step(x, noise, mean_only=False)
    for (name, ours), theirs in zip(run.vae.named_parameters(), dense.parameters(), strict=True):
        if name.startswith("head.") and not name.startswith("head.mean."):
            assert ours.grad is None and torch.equal(ours, before[name])
        else:
            error = torch.linalg.vector_norm(ours.grad.double() - theirs.grad)
            assert error < 2e-3 * torch.linalg.vector_norm(theirs.grad) + 1e-3, name
            assert not torch.equal(ours, before[name])


def test_heads_are_frozen_as_long_as_pretraining_and_no_longer(tmp_path):
    moved = {}
    for steps in (4, 6):
        e = experiment(freeze_heads=True, steps=steps)
        start = loop.Run(e, patterns(), torch.device("cpu")).vae.head.factor.weight
        run = train(e, tmp_path / str(steps))
        moved[steps] = not torch.equal(run.vae.head.factor.weight, start)
        assert all(row["rank_entropy_nats"] > 0 for row in run.history)
    assert moved == {4: False, 6: True}


# ---------------------------------------------------------------------------- constraints

numbers = st.floats(-100, 100)
positive = st.floats(0.01, 100)


def constraint(target, damping=10.0, rate=1.0, multiplier=0.0):
    made = Constraint(target, damping, rate, torch.device("cpu"))
    made.multiplier = torch.tensor(multiplier, dtype=torch.float64)
    return made


@given(value=numbers, target=numbers, damping=positive, multiplier=st.floats(0, 100))
def test_gradient_of_the_penalty_is_multiplier_plus_damped_slack(
    value, target, damping, multiplier
):
    value = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    constraint(target, damping, multiplier=multiplier).penalty(value).backward()
    slack = value.item() - target
    assert value.grad.item() == pytest.approx(multiplier + damping * slack, rel=1e-9, abs=1e-9)


@given(value=numbers, target=numbers, rate=positive, multiplier=st.floats(0, 100))
def test_the_multiplier_ascends_and_stays_at_or_above_zero(value, target, rate, multiplier):
    ascending = constraint(target, rate=rate, multiplier=multiplier)
    ascending.ascend(torch.tensor(value, dtype=torch.float64))
    expected = max(0.0, multiplier + rate * (value - target))
    assert ascending.multiplier.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("optimum, target", [(3.0, 1.0), (-1.0, 1.0), (0.0, -2.0), (1.0, 1.0)])
def test_the_constraint_pulls_from_both_sides(optimum, target):
    """min (x - a)² with x ≈ ξ: from above the multiplier makes it exact; from below λ is clamped
    at zero and the damping alone leaves (a - ξ)·2/(2 + c)."""
    damping = 100.0
    pulling = constraint(target, damping, rate=5.0)
    x = torch.tensor(optimum, dtype=torch.float64, requires_grad=True)
    for _ in range(500):
        loss = (x - optimum) ** 2 + pulling.penalty(x)
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            x -= 0.005 * gradient
        pulling.ascend(x)
    left = min(optimum - target, 0) * 2 / (2 + damping)
    assert x.item() - target == pytest.approx(left, abs=1e-3)


@pytest.mark.parametrize("warmup", [0, 7])
def test_multipliers_of_a_training_follow_its_history(tmp_path, warmup):
    """λ ← max(0, λ + rate·(v - ξ)), with ξ_KL rising during a warm-up, and ξ_H after it."""
    rates = {"multiplier_rate": 5.0, "entropy_multiplier_rate": 3.0}
    chosen = experiment(objective=rates, pretraining=4, steps=12, kl_warmup=warmup)
    kl = entropy = 0.0
    for row in train(chosen, tmp_path).history:
        target = 3.0 * min(1, row["step"] / max(warmup, 1))
        kl = max(0.0, kl + 5.0 * (row["kl_nats"] - target))
        if row["step"] > 4:
            entropy = max(0.0, entropy + 3.0 * (row["rank_entropy_nats"] - 4.0))
        assert row["kl_multiplier"] == pytest.approx(kl, rel=1e-5, abs=1e-5)
        assert row["rank_entropy_multiplier"] == pytest.approx(entropy, rel=1e-5, abs=1e-5)


def test_the_ppca_target_is_that_of_the_dense_covariance():
    """½ Σ log(λ_r/ε) of R eigenvalues that share all of the variance, less what z carries."""
    images, epsilon, rank = patterns(), 2e-3, 5
    flat = images.flatten(1).double() / 255
    eigenvalues = torch.linalg.eigvalsh(flat.T.cov()).flip(0)
    leading = eigenvalues[:rank] * eigenvalues.sum() / eigenvalues[:rank].sum()
    expected = 0.5 * (leading.clamp(min=epsilon) / epsilon).log().sum().item() - 3.0
    got = start.ppca_target(images, Network(rank=rank, diagonal=epsilon), 3.0)
    assert got == pytest.approx(expected, rel=1e-3)


def test_the_ppca_target_wants_bytes():
    with pytest.raises(ValueError, match=r"uint8, 0..255, not torch.float32; pass"):
        start.ppca_target(torch.rand(9, 1, 2, 2), Network(rank=1), 1.0)


def test_the_markov_target_is_the_entropy_of_regressions():
    """½ Σ log 2πe s², s² what later neighbours leave of each pixel, less what z carries."""
    images = patterns()[:, :1]
    flat = images.flatten(1).double().numpy() / 255
    flat -= flat.mean(0)
    height, width = images.shape[2:]
    expected = -3.0
    for k in range(height * width):
        i, j = divmod(k, width)
        later = [
            (i + di) * width + j + dj
            for di, dj in ((0, 1), (1, -1), (1, 0), (1, 1))
            if i + di < height and 0 <= j + dj < width
        ]
        fit, *_ = np.linalg.lstsq(flat[:, later], flat[:, k], rcond=None)
        left = ((flat[:, k] - flat[:, later] @ fit) ** 2).mean() + (1 / 255) ** 2 / 12
        expected += 0.5 * math.log(2 * math.pi * math.e * left)
    got = start.markov_target(images, Network(neighbourhood=3), 3.0)
    assert got == pytest.approx(expected, rel=2e-3)


def test_a_training_can_take_its_target_from_the_images(tmp_path):
    network = {"rank": 3, "diagonal": 2e-3}
    chosen = experiment(network, {"rank_entropy_target": "ppca"}, steps=0, pretraining=0)
    target = start.ppca_target(patterns(), chosen.network, 3.0)
    assert train(chosen, tmp_path).rank_entropy.target == pytest.approx(target)


def test_without_an_entropy_target_there_is_no_second_constraint(tmp_path):
    free = experiment(
        network={"rank": 0, "diagonal": None}, objective={"rank_entropy_target": None}
    )
    history = train(free, tmp_path).history
    assert len(history) == 12
    assert all(row["rank_entropy_multiplier"] == 0 for row in history)


# ---------------------------------------------------------------------------- images of a step


@given(
    per_epoch=st.integers(1, 6),
    size=st.integers(1, 9),
    extra=st.integers(0, 8),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 50),
)
def test_an_epoch_shows_every_image_at_most_once(per_epoch, size, extra, seed, epoch):
    """Exactly once where the batches come out even; otherwise the last few of the order wait."""
    extra = min(extra, size - 1)
    images, schedule = per_epoch * size + extra, training_of(batch=size, seed=seed)
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    shown = [batch_indices(step, images, schedule) for step in steps]
    assert all(len(batch) == size for batch in shown)
    assert len(set(torch.cat(shown).tolist())) == per_epoch * size
    assert set(torch.cat(shown).tolist()) <= set(range(images))
    again = [batch_indices(step, images, schedule) for step in steps]
    assert all(torch.equal(a, b) for a, b in zip(shown, again, strict=True))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        (seed, epoch): tuple(batch_indices(epoch, 100, training_of(batch=100, seed=seed)).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9


def test_fewer_images_than_a_batch_are_all_shown():
    assert sorted(batch_indices(3, 5, training_of(batch=8)).tolist()) == [0, 1, 2, 3, 4]


def test_a_batch_is_the_images_in_unit_range_or_their_mirrors():
    images, flips = patterns(), []
    for step in range(10):
        x = loop.batch(images, step, training_of(flip=True))
        plain = loop.batch(images, step, training_of(flip=False))
        indices = batch_indices(step, IMAGES, training_of())
        assert torch.equal(plain, images[indices].float() / 255)
        for image, original in zip(x, plain, strict=True):
            flips.append(torch.equal(image, original.flip(-1)))
            assert flips[-1] or torch.equal(image, original)
        assert torch.equal(x, loop.batch(images, step, training_of(flip=True)))
    assert 0.25 < sum(flips) / len(flips) < 0.75


# ---------------------------------------------------------------------------- learning rate


def test_without_decay_the_learning_rate_is_constant():
    schedule = training_of(steps=100, pretraining=20, learning_rate=0.3)
    assert {learning_rate(step, schedule) for step in range(100)} == {0.3}


def test_decay_ramps_up_after_pretraining_and_follows_a_cosine_to_zero():
    schedule = training_of(steps=1200, pretraining=200, learning_rate=0.3, decay=True)
    rates = [learning_rate(step, schedule) for step in range(1201)]
    assert rates[:200] == [0.3] * 200
    assert rates[450] == pytest.approx(0.3 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[700] == pytest.approx(0.15) and rates[1200] == pytest.approx(0, abs=1e-9)
    top = rates.index(max(rates[200:]), 200)
    assert 200 <= top < 300 and 0 < rates[200] <= rates[top] <= 0.3
    assert all(a < b for a, b in zip(rates[200:top], rates[201 : top + 1], strict=True))
    assert all(a > b for a, b in zip(rates[top:], rates[top + 1 :], strict=False))


# ---------------------------------------------------------------------------- phases


def test_the_mean_starts_at_the_colour_of_the_data(tmp_path):
    run = train(experiment(steps=0, pretraining=0), tmp_path)
    with torch.no_grad():
        y = run.vae.decode(torch.zeros(1, 3))
    assert y.loc.mean().item() == pytest.approx(patterns().float().mean().item() / 255, abs=1e-3)


def test_pretraining_moves_everything_but_the_covariance(tmp_path):
    before = train(experiment(steps=0, pretraining=0), tmp_path / "0").vae.state_dict()
    after = train(experiment(steps=3, pretraining=3), tmp_path / "3").vae.named_parameters()
    for name, parameter in after:
        assert torch.equal(parameter, before[name]) == name.startswith("head.factor"), name


@pytest.mark.parametrize("target", [4.0, 20.0])
def test_a_warm_release_starts_the_factor_at_its_target(tmp_path, target):
    """R equal components would have the target exactly; by concavity unequal ones have less."""
    options = {"objective": {"rank_entropy_target": target}, "steps": 5, "pretraining": 4}
    last = train(experiment(init_covariance=True, **options), tmp_path / "warm").history[-1]
    assert 0.4 * target < last["rank_entropy_nats"] < 1.1 * target
    last = train(experiment(init_covariance=False, **options), tmp_path / "cold").history[-1]
    assert last["rank_entropy_nats"] < 0.1 * target


def test_a_warm_release_starts_a_learnt_diagonal_at_the_squared_error(tmp_path):
    """Its NLL is then ½S(1 + log 2πσ²), where σ² = 1e-5 would give ten thousands of nats."""
    beta = {"network": {"rank": 0, "diagonal": None}, "steps": 5, "pretraining": 4}
    beta["objective"] = {"rank_entropy_target": None}
    last = train(experiment(init_covariance=True, **beta), tmp_path / "warm").history[-1]
    best = 0.5 * HEIGHT * WIDTH * (1 + math.log(2 * math.pi * last["squared_error"]))
    assert last["nll_nats"] == pytest.approx(best, abs=0.1 * HEIGHT * WIDTH)
    last = train(experiment(init_covariance=False, **beta), tmp_path / "cold").history[-1]
    assert last["nll_nats"] > best + 1000


# ---------------------------------------------------------------------------- reproducing


def test_global_random_numbers_are_neither_used_nor_moved(tmp_path):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = train(experiment(), tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert_same_run(train(experiment(), tmp_path / "b"), first)


def test_another_seed_is_another_training(tmp_path):
    first, other = (train(experiment(seed=seed), tmp_path / str(seed)) for seed in range(2))
    assert all(a != b for a, b in zip(first.history, other.history, strict=True))


# One row per step: nll_nats, kl_nats, rank_entropy_nats.
FINGERPRINT = [
    (-15.79804, 1.734607, 0),
    (-23.71481, 1.713122, 0),
    (-26.41618, 1.775891, 1.38191e-06),
    (-46.61719, 1.773882, 0.000690234),
    (-37.83680, 2.094300, 0.00203131),
]


def test_fingerprint_of_five_steps(tmp_path):
    """Guards `training.VERSION`, a part of every model's name.

    Where this fails on purpose, because the same configuration now gives other weights: raise
    VERSION and store the new numbers. Where it fails by surprise, something changed training.
    Rounding differs between processors and is amplified by Adam, whose first steps follow the
    gradient's sign: hence the paper's small learning rate and no more than five steps.
    """
    options = {"steps": 5, "pretraining": 2, "learning_rate": 1e-4, "network": {"width": 4}}
    history = train(experiment(**options), tmp_path).history
    names = ("nll_nats", "kl_nats", "rank_entropy_nats")
    for row, expected in zip(history, FINGERPRINT, strict=True):
        got = [row[name] for name in names]
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-6), f"step {row['step']}"


# ---------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("options", [{}, EXTRAS], ids=["paper", "extras"])
@pytest.mark.parametrize("breaks", [(3,), (4,), (5,), (11,), (6, 3, 2)], ids=str)
def test_a_broken_run_ends_like_an_unbroken_one(tmp_path, monkeypatch, breaks, options):
    chosen = experiment(steps=13, pretraining=5, **options)
    unbroken = train(chosen, tmp_path / "unbroken")
    for step in breaks:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            fail_at(patch, step, interrupt)
            train(chosen, tmp_path / "broken")
    resumed = train(chosen, tmp_path / "broken")
    assert_same_run(resumed, unbroken)
    assert resumed.seconds > 0


def test_resuming_starts_at_the_last_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        fail_at(patch, 8, interrupt)
        train(experiment(), tmp_path)
    assert state.checkpoint_step(checkpoint(tmp_path)) == 5
    with monkeypatch.context() as patch, pytest.raises(Killed):
        fail_at(patch, 12 - 5 - 1, interrupt)  # only seven of twelve steps are left
        train(experiment(), tmp_path)


def test_a_checkpoint_with_other_parameters_is_refused_by_name(tmp_path):
    train(experiment(), tmp_path)
    saved = torch.load(checkpoint(tmp_path), weights_only=True)
    saved["optimiser"]["param_groups"][0]["params"].append(10**6)
    torch.save(saved, checkpoint(tmp_path))
    with pytest.raises(ValueError, match="checkpoint.pt is a training that an older version began"):
        train(experiment(), tmp_path)


def test_a_finished_run_takes_no_further_step(tmp_path, monkeypatch):
    finished = train(experiment(), tmp_path)
    fail_at(monkeypatch, 0, interrupt)
    again = train(experiment(), tmp_path)
    assert_same_run(again, finished)
    assert not again.vae.training


def kill_while_saving(folder, threads):
    """For a process of its own: trains, and dies by SIGKILL halfway through the second save."""
    plain_float32(setattr)
    torch.set_num_threads(threads)
    original, saves = torch.save, iter(range(2))

    def save(state, file):
        if next(saves) == 1:
            Path(file).write_bytes(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        original(state, file)

    torch.save = save
    train(experiment(), folder)


def test_a_process_killed_while_saving_loses_nothing_before(tmp_path):
    call = f"kill_while_saving({str(tmp_path / 'killed')!r}, {torch.get_num_threads()})"
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", f"import test_training; test_training.{call}"],
        env=os.environ | {"PYTHONPATH": here},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert state.checkpoint_step(checkpoint(tmp_path / "killed")) == 5
    resumed, unbroken = (train(experiment(), tmp_path / name) for name in ("killed", "whole"))
    assert_same_run(resumed, unbroken)


def test_a_failed_save_keeps_the_last_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    train(experiment(steps=5), tmp_path)
    before = checkpoint(tmp_path).read_bytes()

    def save(state, file):
        Path(file).write_bytes(b"half a checkpoint")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="no space"):
        train(experiment(steps=10), tmp_path)
    assert checkpoint(tmp_path).read_bytes() == before
    assert list(tmp_path.iterdir()) == [checkpoint(tmp_path)]


# ---------------------------------------------------------------------------- not finite


@pytest.mark.parametrize("log_every, named", [(1, 7), (5, 10)])
def test_a_loss_that_is_not_finite_stops_and_names_the_step(
    tmp_path, monkeypatch, log_every, named
):
    """At the latest at the next row of the history, and before anything is saved."""
    monkeypatch.setattr(watch, "LOG_EVERY", log_every)
    with monkeypatch.context() as patch, pytest.raises(FloatingPointError) as raised:
        original, calls = VAE.terms, iter(range(1, 100))

        def terms(self, x, *args, **kwargs):
            return original(self, x * math.nan if next(calls) >= 7 else x, *args, **kwargs)

        patch.setattr(VAE, "terms", terms)
        train(experiment(), tmp_path)
    assert re.search(rf"step\W+{named}\b", str(raised.value))
    assert "nan" in str(raised.value) and "nll_nats" in str(raised.value)
    saved = torch.load(checkpoint(tmp_path), weights_only=True)
    assert all(value.isfinite().all() for value in saved["vae"].values())
    assert train(experiment(), tmp_path).step == 12  # it can go on from there


# ---------------------------------------------------------------------------- the whole


def test_a_small_sos_vae_reaches_both_of_its_targets(tmp_path):
    """Equation 3 on images of three patterns: KL and rank entropy settle within 3 %."""
    chosen = experiment(
        network={"width": 4, "latent": 3, "rank": 3},
        objective={"kl_target": 4.0, "rank_entropy_target": 6.0},
        **{"steps": 250, "pretraining": 75, "batch": 25, "learning_rate": 4e-3, "decay": True},
        flip=False,
    )
    history = train(chosen, tmp_path, patterns(200)).history

    def average(name, steps):
        return sum(row[name] for row in history[steps]) / len(history[steps])

    last, pretraining = slice(-50, None), slice(25, 75)
    assert average("kl_nats", last) == pytest.approx(4.0, rel=0.03)
    assert average("rank_entropy_nats", last) == pytest.approx(6.0, rel=0.03)
    assert average("nll_nats", last) < average("nll_nats", pretraining)


# ---------------------------------------------------------------------------- below torch


def test_narrow_networks_stay_clear_of_onednns_overflow(tmp_path, monkeypatch):
    """oneDNN 3.13 and before write past a buffer in the weight gradient of a 1x1 convolution of
    stride 2 over fewer than 16 channels_last channels (uxlfoundation/oneDNN#6035)."""
    seen = []
    for kind in (torch.nn.Conv2d, torch.nn.ConvTranspose2d):

        def forward(self, x, original=kind.forward):
            y = original(self, x)
            narrow = x.shape[1] if isinstance(self, torch.nn.Conv2d) else y.shape[1]
            if self.kernel_size == (1, 1) and self.stride != (1, 1) and narrow < 16:
                seen.append(is_channels_last(x) or is_channels_last(y))
            return y

        monkeypatch.setattr(kind, "forward", forward)
    train(experiment(network={"width": 4}, steps=1), tmp_path)
    assert not any(seen)


def is_channels_last(x):
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def test_images_that_stay_in_a_file_train_the_same(tmp_path):
    """A map of the cache, as for data that are larger than the memory, against a tensor."""
    e, images = experiment(), patterns()
    np.save(tmp_path / "images.npy", images.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
    runs = [loop.train(e, x, tmp_path / f"{k}.pt") for k, x in enumerate((images, mapped))]
    one, other = (run.vae.state_dict() for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_very_many_images_are_thinned_for_their_statistics():
    images = torch.arange(25).view(25, 1, 1, 1)
    assert start.subsample(images, 25) is not None and len(start.subsample(images, 25)) == 25
    assert start.subsample(images, 10).flatten().tolist() == list(range(0, 25, 3))
