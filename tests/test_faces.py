"""The simulated faces: one person per index at every size, named factors, sensible regions."""

import numpy as np
import pytest

from sos.datasets import faces
from sos.datasets.faces import FACTORS, REGIONS, render

SQUARE = [render(index) for index in range(64)]

# index: mean red, green, blue; spread of the 8x8 blocks; a cheek block; a block of clothes
CHECKSUMS = {
    0: (91.6, 73.5, 65.0, 56.8, 133.9, 145.9),
    1: (112.1, 103.2, 88.7, 28.3, 89.2, 22.1),
    2: (161.0, 128.9, 126.5, 59.5, 86.1, 118.1),
    3: (72.4, 58.3, 63.8, 47.3, 33.1, 43.5),
    5: (112.0, 97.2, 85.6, 62.0, 129.4, 186.0),
    16: (177.9, 157.9, 128.1, 42.4, 159.0, 192.0),
    10: (106.7, 92.6, 78.9, 61.7, 166.9, 163.2),
    48: (172.3, 162.9, 151.3, 59.0, 131.1, 165.2),
}

RANGES = {
    "skin_tone": (0, 1),
    "hair_length": (0, 1),
    "hair_volume": (0, 0.6),
    "fringe": (0, 1),
    "beard": (0, 1),
    "age": (0, 1),
    "masculinity": (0, 1),
    "weight": (-1, 1),
    "smile": (0, 1),
    "eyes_open": (0, 1),
    "yaw": (-0.55, 0.55),
    "pitch": (-0.55, 0.55),
    "roll": (-0.55, 0.55),
    "light_azimuth": (-1.2, 1.2),
    "light_elevation": (-0.2, 1.2),
}


def factor(name):
    return np.array([face.factors[FACTORS.index(name)] for face in SQUARE])


def block_means(image, blocks=8):
    channels, height, width = image.shape
    grid = image.reshape(channels, blocks, height // blocks, blocks, width // blocks)
    return grid.mean((2, 4))


@pytest.mark.parametrize("height, width", [(64, 64), (128, 128), (109, 89), (16, 40)])
def test_shapes_and_types(height, width):
    face = render(3, height, width)
    assert face.image.shape == (faces.CHANNELS, height, width) and face.image.dtype == np.uint8
    assert face.regions.shape == (height, width) and face.regions.dtype == np.uint8
    assert face.factors.shape == (len(FACTORS),) and face.factors.dtype == np.float32
    assert face.regions.max() < len(REGIONS)


def test_the_same_index_gives_the_same_picture():
    for first, again in zip(SQUARE[:4], map(render, range(4)), strict=True):
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)


def test_different_indices_give_different_pictures():
    coarse = np.stack([block_means(face.image).ravel() for face in SQUARE])
    distance = np.abs(coarse[:, None] - coarse[None]).mean(-1)
    assert distance[~np.eye(len(SQUARE), dtype=bool)].min() > 5


@pytest.mark.parametrize("index", range(6))
def test_every_size_shows_the_same_person(index):
    small = SQUARE[index]
    large = render(index, 128, 128)
    np.testing.assert_array_equal(large.factors, small.factors)
    shrunk = large.image.reshape(3, 64, 2, 64, 2).mean((2, 4))
    assert np.abs(shrunk - small.image).mean() < 1.5


def test_a_taller_picture_shows_more_and_stretches_nothing():
    square, tall = render(5, 96, 96), render(5, 128, 96)
    difference = tall.image[:, 16:112].astype(int) - square.image
    assert np.abs(difference).mean() < 0.5


def test_factors_are_named_and_within_their_ranges():
    assert len(set(FACTORS)) == len(FACTORS)
    for name, (low, high) in RANGES.items():
        assert low <= factor(name).min() and factor(name).max() <= high, name
    for name in FACTORS:
        assert np.std(factor(name)) > 0, name
        if name.endswith(("_red", "_green", "_blue")):
            assert 0 <= factor(name).min() and factor(name).max() <= 1, name
    shape = factor("shape_a") + factor("shape_b") + factor("shape_c")
    np.testing.assert_allclose(shape, 1, atol=1e-5)


def test_factors_name_what_is_seen():
    """Pixels labelled background are brighter where that factor is brighter, and so for skin."""
    for region, columns in {
        "background": ["background_red", "background_green", "background_blue"],
        "hair": ["hair_red", "hair_green", "hair_blue"],
        "skin": ["skin_tone"],
    }.items():
        named = np.mean([factor(column) for column in columns], 0)
        seen = np.full(len(SQUARE), np.nan)
        for index, face in enumerate(SQUARE):
            pixels = face.image[:, face.regions == REGIONS.index(region)]
            seen[index] = pixels.mean() if pixels.size > 60 else np.nan
        shown = ~np.isnan(seen)
        assert np.corrcoef(named[shown], seen[shown])[0, 1] > 0.6, region


def test_regions_are_where_a_portrait_has_them():
    labels = np.stack([face.regions for face in SQUARE])
    share = {name: (labels == index).mean() for index, name in enumerate(REGIONS)}
    assert 0.2 < share["background"] < 0.5
    assert 0.2 < share["skin"] < 0.5
    assert 0.05 < share["hair"] < 0.35
    assert 0.02 < share["clothes"] < 0.25
    middle = labels[:, 28:44, 26:38]
    assert (middle == REGIONS.index("background")).mean() < 0.01
    assert (labels[:, 60:, 26:38] == REGIONS.index("background")).mean() < 0.01


def test_hair_never_covers_the_eyes():
    eyes, hair = REGIONS.index("eyes"), REGIONS.index("hair")
    for index, face in enumerate(SQUARE):
        rows, columns = np.nonzero(face.regions == eyes)
        assert len(rows) >= 12, f"face {index} shows {len(rows)} pixels of its eyes"
        assert np.ptp(columns) >= 14, f"face {index} hides one of its eyes"
        between = face.regions[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert not (between == hair).any(), f"face {index} has hair before its eyes"


def test_pictures_are_those_of_this_version():
    """Coarse block means of a few pictures: if they move on purpose, bump VERSION and these."""
    assert faces.VERSION == 1
    for index, expected in CHECKSUMS.items():
        means = block_means(SQUARE[index].image)
        measured = [*means.mean((1, 2)), means.std(), means[1, 3, 4], means[0, 7, 3]]
        np.testing.assert_allclose(measured, expected, atol=0.6, err_msg=f"face {index}")


@pytest.mark.parametrize(
    "arguments, words",
    [((-1,), "index is -1"), ((0, 15, 64), "15 x 64"), ((0, 64, 8), "at least 16 x 16")],
)
def test_bad_arguments_say_what_to_do(arguments, words):
    with pytest.raises(ValueError, match=words):
        render(*arguments)


def test_a_changed_factor_changes_its_region_and_nothing_else():
    before, hair = render(1), {"hair_red": 0.8, "hair_green": 0.6, "hair_blue": 0.3}
    after = render(1, changes=hair)
    np.testing.assert_array_equal(after.regions, before.regions)
    change = np.abs(after.image.astype(float) - before.image).max(0)
    region = before.regions == REGIONS.index("hair")
    assert change[region].mean() > 50
    for name in ("background", "skin", "clothes", "eyes", "mouth"):  # their borders hold hair
        assert change[before.regions == REGIONS.index(name)].mean() < 3, name
    for name, value in hair.items():
        assert after.factors[FACTORS.index(name)] == np.float32(value)
    kept = [k for k, name in enumerate(FACTORS) if name not in hair]
    np.testing.assert_array_equal(after.factors[kept], before.factors[kept])
    np.testing.assert_array_equal(render(1, changes={}).image, before.image)
    with pytest.raises(
        ValueError, match="no factor is called ventricle_growth; expected skin_tone"
    ):
        render(0, changes={"ventricle_growth": 1})
    with pytest.raises(ValueError, match="smile is inf"):
        render(0, changes={"smile": np.inf})
