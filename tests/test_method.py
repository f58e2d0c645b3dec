"""The cell of notebook 01 that is the method computes what the package trains with."""

from dataclasses import replace

import nbformat
import pytest
import torch

from sos import profiles
from sos.models import VAE
from sos.system import devices, paths
from sos.training import Run

NOTEBOOK = paths.NOTEBOOKS / "01_beta_vae_vs_sos_vae.ipynb"


@pytest.fixture
def cell():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (found,) = (c for c in cells if "method" in c.metadata.get("tags", ()))
    return found.source


def test_the_method_is_one_short_cell(cell):
    assert len(cell.splitlines()) <= 20


def test_its_losses_and_multipliers_are_the_packages(cell, monkeypatch, capsys):
    """Three steps from the same weights, on the same images, with the same latent noise."""
    monkeypatch.setattr(devices, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(devices, "has_fast_bfloat16", lambda device: False)
    experiment = profiles.profile("smoke").experiments["faces-sos"]
    # Always the same, because with some images Adam makes much of a gradient's last digits.
    fixed = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=fixed)
    x = images.float() / 255

    class Sampling:
        @staticmethod
        def test_images(model, count):
            return x

    class Model:
        meta = {"rank_entropy_target": 30.0}

    Model.experiment = experiment
    torch.manual_seed(1)
    seen = {
        "models": {"faces-sos": Model}, "sampling": Sampling, "VAE": VAE, "torch": torch,
        "device": devices.device,
    }  # fmt: skip
    exec(cell, seen)
    losses, run = package(experiment, images, x)
    assert [loss.item() for loss in seen["losses"]] == pytest.approx(losses, rel=1e-5)
    assert seen["β"] == pytest.approx(run.kl.multiplier.item(), rel=1e-5)
    assert seen["λ_H"] == pytest.approx(run.rank_entropy.multiplier.item(), rel=1e-5, abs=1e-9)
    capsys.readouterr()


def package(experiment, images, x) -> tuple[list[float], Run]:
    """The same three steps by `Run.compute_step`, without the help of short trainings."""
    plain = replace(
        experiment,
        objective=replace(experiment.objective, rank_entropy_target=30.0),
        training=replace(experiment.training, span_gain=0.0, init_covariance=False),
    )
    run, losses = Run(plain, images, torch.device("cpu")), []
    torch.manual_seed(1)
    run.vae.load_state_dict(VAE(plain.data, plain.network).state_dict())
    run.vae.train()
    loss = run.loss
    run.loss = lambda terms, mean_only: losses.append(loss(terms, mean_only)) or losses[-1]
    for _ in range(3):
        noise = torch.randn(len(x), run.vae.latent)
        run.compute_step(x, noise, mean_only=False)
    return [value.item() for value in losses], run
