"""Region masks of simulated images, and what is measured with them."""

import numpy as np
import pytest
import torch

from sos import datasets, profiles
from sos.analysis import regions
from sos.config import Data
from sos.distributions.low_rank_normal import LowRankNormal
from sos.training.store import load_or_train

FACES = Data("faces", 32, 32, 3, 20, 5, 20)
BRAINS = Data("brains", 40, 32, 1, 20, 5, 20)


@pytest.fixture(scope="module", params=[FACES, BRAINS, Data("faces", 32, 32, 1, 20, 5, 20)])
def scenes(request):
    return regions.scenes(request.param, 4), request.param


def test_every_pixel_lies_in_one_region(scenes):
    found, data = scenes
    assert found.images.shape == (4, data.channels, data.height, data.width)
    assert (found.masks.sum(1) == 1).all()
    assert found.names == tuple(regions.GROUPS[data.name])
    torch.testing.assert_close(regions.area_shares(found).sum(1), torch.ones(4))


def test_images_are_those_of_the_split(scenes):
    found, data = scenes
    index = datasets.items(data, "test")[2]
    expected = torch.from_numpy(datasets.make(data, index)["images"]).float() / 255
    assert torch.equal(found.images[2], expected)


def test_every_region_of_a_simulator_is_shown():
    for data in (FACES, BRAINS):
        parts = [part for group in regions.GROUPS[data.name].values() for part in group]
        assert sorted(parts) == sorted(datasets.simulator(data).REGIONS)


def test_energy_shares_match_a_loop_over_the_svd(scenes):
    found, data = scenes
    size = data.channels * data.height * data.width
    factor = torch.randn(4, size, 3, generator=torch.Generator().manual_seed(0))
    shares = regions.energy_shares(LowRankNormal(torch.zeros(4, size), factor), found)
    assert shares.shape == (4, 3, len(found.names))
    for image in range(4):
        u = np.linalg.svd(factor[image].double().numpy(), full_matrices=False)[0]
        for component in range(3):
            energy = u[:, component].reshape(data.channels, data.height, data.width) ** 2
            for k, name in enumerate(found.names):
                expected = energy.sum(0)[found.mask(image, name)].sum()
                assert shares[image, component, k].item() == pytest.approx(expected, abs=1e-5)


def test_change_leaves_painted_pixels_out():
    before, after = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    after[:, 0, 0], after[:, 0, 1], after[:, 1, 0] = 0.9, 0.3, -0.6
    masks = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]]).bool()
    painted = torch.tensor([[1, 0], [0, 1]]).bool()
    change = regions.change_by_region(before, after, masks, painted)
    torch.testing.assert_close(change[:2], torch.tensor([0.3, 0.6]))
    assert change[2].isnan()


def test_own_images_have_no_known_regions():
    data = Data("folder", 32, 32, 3, 5, 5, 5, folder="nowhere")
    assert not regions.has_masks(data) and regions.has_masks(FACES)
    with pytest.raises(ValueError, match="without --faces"):
        regions.scenes(data, 3)


def test_coded_colours_are_squared_correlations(monkeypatch):
    """A decoder that halves lightness keeps R² = 1; one that drops red and blue keeps no warmth."""
    found = regions.scenes(FACES, 12)
    gray = found.images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    noise = 1e-3 * torch.rand(found.images.shape, generator=torch.Generator().manual_seed(0))
    decoded = (0.2 + 0.5 * gray + noise).flatten(1)

    class Model:
        class experiment:
            data = FACES

    monkeypatch.setattr(
        regions.sampling,
        "reconstruct",
        lambda model, images: LowRankNormal(decoded, decoded[..., None], 1.0),
    )
    coded = regions.coded_colours(Model, 12)
    for name, r2 in coded.items():
        if "eyes" not in name:  # of few pixels
            assert r2["lightness"] > 0.95, name
    assert coded["skin"]["warmth"] < 0.4 and coded["background"]["warmth"] < 0.4


def test_a_component_is_separable_with_half_of_its_energy_in_a_small_region():
    areas = torch.tensor([0.6, 0.2, 0.2])
    shares = torch.tensor([[0.9, 0.3, 0.4, 0.2], [0.05, 0.6, 0.3, 0.5], [0.05, 0.1, 0.3, 0.3]])
    assert regions.separable(shares, areas) == 2  # the second and the last
    assert regions.separable(shares[:, :1], areas) == 0


def test_numbers_of_a_study_are_those_of_the_notebook():
    model = load_or_train(profiles.profile("smoke").experiments["brains-sos"])
    found = regions.load_or_measure(model, profiles.profile("smoke").evaluation)
    shown = regions.numbers(regions.panels({"": model}, regions.IMAGES))[""]
    for name in regions.GROUPS["brains"]:
        shares = [value for key, value in shown.items() if key.endswith(f" in {name}")]
        assert found[f"{name}, area"] == shown[f"area of {name}"]
        assert found[f"{name}, share"] == max(shares)
