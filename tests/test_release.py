"""The released weights belong to this code, and keep what the README and notebook 01 claim."""

import json

import pytest

from sos import config, models, paths
from sos.report import last_values

DEMO = config.profile("demo")
PAIRS = ("faces", "brains")


def released(name: str) -> models.Model:
    folder = models.find(DEMO.experiments[name], "shipped")
    assert folder is not None and folder.parent == paths.SHIPPED, (
        f"{name}: no released weights for this configuration; train and run python -m sos.release"
    )
    return models.load(DEMO.experiments[name], folder)


def numbers(name: str) -> dict[str, float]:
    return json.loads((released(name).folder / "evaluation.json").read_text())["numbers"]


@pytest.mark.parametrize("name", DEMO.experiments)
def test_constraints_end_within_three_percent(name):
    model = released(name)
    kl = last_values(model.history, "kl_nats")
    assert kl == pytest.approx(model.experiment.objective.kl_target, rel=0.03)
    target = model.meta["rank_entropy_target"]
    if target is not None:
        assert last_values(model.history, "rank_entropy_nats") == pytest.approx(target, rel=0.03)


@pytest.mark.parametrize("data", PAIRS)
def test_samples_vary_as_much_as_the_data(data):
    n = numbers(f"{data}-sos")
    total = n["variance_latent"] + n["variance_observation"]
    assert total == pytest.approx(n["variance_data"], rel=0.25)


@pytest.mark.parametrize("data", PAIRS)
def test_orderings(data):
    sos, beta = numbers(f"{data}-sos"), numbers(f"{data}-beta")
    assert sos["distance_samples"] < beta["distance_means"] < beta["distance_samples"]
    if data == "faces":
        assert sos["distance_samples"] < sos["distance_means"]


def test_gray_orderings():
    """What notebook 02 says of samples: low rank before sparse before independent pixels."""
    n = {name: numbers(f"gray-{name}") for name in ("beta", "dorta", "sos", "constrained")}
    samples = {name: values["distance_samples"] for name, values in n.items()}
    assert samples["sos"] < samples["dorta"] < samples["constrained"] < samples["beta"]
    assert (
        n["dorta"]["test_nll_nats"] < n["constrained"]["test_nll_nats"] < n["beta"]["test_nll_nats"]
    )


@pytest.mark.parametrize("data", PAIRS)
def test_coherence(data):
    assert numbers(f"{data}-sos")["neighbour_correlation"] >= 0.8
    assert abs(numbers(f"{data}-beta")["neighbour_correlation"]) < 0.05


def test_released_weights_are_small():
    size = sum(file.stat().st_size for file in paths.SHIPPED.rglob("*") if file.is_file())
    assert size < 40e6
