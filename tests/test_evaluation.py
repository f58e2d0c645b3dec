"""What is measured of a model, where the exact value is too slow for every model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.io import read_image

from sos import datasets
from sos.analysis import evaluation, metrics, sampling
from sos.config import Data, Evaluation, Experiment, Network, Objective, Training
from sos.models.vae import VAE
from sos.system import paths
from sos.training import store


@pytest.fixture
def sparse(tmp_path, monkeypatch):
    """A gray model with a sparse precision whose predictions depend on the code."""
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    data = Data("faces", 16, 16, 1, train=4, validation=1, test=4)
    network = Network(width=4, latent=3, rank=0, diagonal=None, neighbourhood=3)
    torch.manual_seed(0)
    vae = VAE(data, network).eval()
    for part in (vae.head.mean, vae.head.precision):
        torch.nn.init.normal_(part.weight, std=0.2)
    torch.nn.init.constant_(vae.head.precision.bias, 0.5)
    experiment = Experiment("gray-dorta", data, network, Objective(3.0), Training(1, 0))
    return store.Model(experiment, vae, [], {"weights_sha256": "0"}, Path())


def test_sampled_variances_are_the_exact_ones_on_average(sparse, monkeypatch):
    monkeypatch.setattr(evaluation, "SPLIT_DRAWS", 100)
    measured = evaluation.prior_variances(sparse)
    stream = evaluation.generator("variances", 0, device=evaluation.device())
    with torch.no_grad():
        p = sparse.vae.decode(sparse.vae.prior(100, stream)[:50])  # the first of two parts
    assert measured["variance_observation"] == pytest.approx(p.variance.mean().item(), rel=0.05)


def test_held_out_terms_of_a_sparse_model_say_nothing_of_a_span(sparse, monkeypatch):
    monkeypatch.setattr(evaluation, "SPLIT_DRAWS", 4)
    measured = evaluation.held_out(sparse)
    assert measured["test_kl_nats"] > 0
    assert not {"test_calibration", "test_residual_outside", "epsilon"} & set(measured)


def test_samples_without_a_model_are_measured_once(sparse, tmp_path, monkeypatch):
    """From the cache, then from beside the weights; a changed setting measures again."""
    pixels = metrics.Extractor("pixels", 3, lambda x: x[:, 0, 0, :3], torch.device("cpu"), 16)
    monkeypatch.setattr(evaluation, "extractor", lambda name: pixels)
    model, draws = replace(sparse, folder=tmp_path / "model"), []

    def draw():
        draws.append(torch.rand(4, 256, generator=torch.Generator().manual_seed(0)))
        return draws[-1]

    def distance(count):
        return evaluation.distance_of("exact", draw, model, Evaluation(images=count))

    found = distance(4)
    made = pixels(metrics.quantise(draws[0].view(4, 1, 16, 16)))
    real = pixels(torch.from_numpy(datasets.load_split(model.experiment.data, "test").images))
    both = (metrics.FeatureStatistics.of(features) for features in (made, real))
    assert found == metrics.frechet_distance(*both)
    assert distance(4) == found and len(draws) == 1
    key = evaluation.reference_key("exact", model, Evaluation(images=4))
    model.folder.mkdir()
    evaluation.cached_file("exact", key).rename(evaluation.reference_file("exact", model))
    assert distance(4) == found and len(draws) == 1
    monkeypatch.setattr(evaluation, "REFERENCES_VERSION", 2)
    assert distance(4) == found and len(draws) == 2


def test_residuals_of_samples_and_of_data_have_the_shape_of_images(sparse):
    assert sampling.sampled_residuals(sparse, 6).shape == (6, 1, 16, 16)
    assert sampling.data_residuals(sparse, 4).shape == (4, 1, 16, 16)


def test_local_and_global_tells_coarse_from_fine():
    """Residuals that are a wave over the image, and the same with half of it and with grain."""
    rows = torch.arange(32.0) * 2 * torch.pi / 32
    phases = torch.rand(40, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    wave = torch.sin(rows[:, None] + phases) + torch.sin(rows + phases)
    grain = 0.1 * torch.randn(wave.shape, generator=torch.Generator().manual_seed(1))
    real = wave + grain
    found = evaluation.local_and_global(0.5 * wave + 2 * grain, real)
    assert found["coarse_ratio"] == pytest.approx(0.25, rel=0.02)
    assert found["fine_ratio"] == pytest.approx(4, rel=0.02)
    assert found["near_data"] > 0.95 > found["near_samples"] > 0.8
    assert found["far_data"] == pytest.approx(found["far_samples"], abs=0.1)


def test_the_images_behind_the_distances_can_be_had_as_files(sparse, monkeypatch):
    """Written, interrupted and written again; decoded they are what is compared."""
    settings = Evaluation(images=3, generated=7)
    monkeypatch.setattr(evaluation, "BATCH", 3)
    folder = paths.CACHE / "png" / sparse.folder.name
    evaluation.write_pngs(sparse, settings)
    (folder / "samples" / "000005.png").unlink()
    kept = (folder / "samples" / "000000.png").stat().st_mtime_ns
    evaluation.write_pngs(sparse, settings)
    assert (folder / "samples" / "000000.png").stat().st_mtime_ns == kept
    for kind in ("means", "half_samples", "samples"):
        compared = torch.cat([batch[kind] for batch in evaluation.generated(sparse, 7)])
        files = sorted((folder / kind).iterdir())
        assert torch.equal(torch.stack([read_image(str(file)) for file in files]), compared)
    test = datasets.load_split(sparse.experiment.data, "test").images[:3]
    files = sorted((folder / "real").iterdir())
    assert torch.equal(torch.stack([read_image(str(file)) for file in files]), torch.tensor(test))
