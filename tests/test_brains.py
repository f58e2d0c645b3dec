"""Simulated brain slices: reproducible, one subject at every size, anatomically sensible."""

import numpy as np
import pytest
from scipy import ndimage

from sos.datasets import brains

COUNT = 60
BACKGROUND, VENTRICLES, CSF, GRAY, WHITE = range(5)


@pytest.fixture(scope="module")
def pictures() -> brains.Rendered:
    """The first COUNT pictures at 80x64, each field stacked."""
    return brains.Rendered(*map(np.stack, zip(*map(brains.render, range(COUNT)), strict=True)))


def halve(image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    return image.reshape(height // 2, 2, width // 2, 2).mean((1, 3))


@pytest.mark.parametrize("height, width", [(80, 64), (233, 197), (16, 48), (33, 16)])
def test_shapes_and_types(height, width):
    image, factors, regions = brains.render(3, height, width)
    assert image.shape == (brains.CHANNELS, height, width) and image.dtype == np.uint8
    assert factors.shape == (len(brains.FACTORS),) and factors.dtype == np.float32
    assert regions.shape == (height, width) and regions.dtype == np.uint8
    assert regions.max() < len(brains.REGIONS)


def test_same_index_same_picture_other_index_other_picture(pictures):
    again = brains.render(7)
    for field, value in zip(pictures, again, strict=True):
        np.testing.assert_array_equal(field[7], value)
    assert len(np.unique(pictures.factors, axis=0)) == COUNT
    assert np.abs(np.diff(pictures.image.astype(float), axis=0)).mean((1, 2, 3)).min() > 5


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_same_subject_at_every_size(index):
    large, small = brains.render(index, 160, 128), brains.render(index, 80, 64)
    np.testing.assert_array_equal(large.factors, small.factors)
    error = np.abs(halve(large.image[0]) - small.image[0])[small.regions != BACKGROUND].mean()
    other = np.abs(halve(large.image[0]) - brains.render(index + 1).image[0]).mean()
    assert error < 4 < 10 < other  # gray levels; the rest is noise, drawn afresh for each size


def test_tall_and_wide_pictures_keep_proportions():
    """A wider frame adds background at the sides and leaves the brain as it was."""
    frame, wide = brains.render(5, 80, 64), brains.render(5, 80, 96)
    np.testing.assert_array_equal(wide.regions[:, 16:80], frame.regions)
    assert not wide.regions[:, :16].any() and not wide.regions[:, 80:].any()


def test_factors_are_named_and_finite(pictures):
    assert len(set(brains.FACTORS)) == len(brains.FACTORS)
    assert {"age", "slice_height_mm", "scale_x", "rotation_z", "noise"} <= set(brains.FACTORS)
    assert np.isfinite(pictures.factors).all()
    ages = pictures.factors[:, brains.FACTORS.index("age")]
    assert ages.min() >= 45 and ages.max() <= 85 and ages.std() > 4


def test_tissues_have_sensible_shares_and_order(pictures):
    shares = [(pictures.regions == region).mean() for region in range(len(brains.REGIONS))]
    lowest, highest = (0.3, 0.01, 0.01, 0.2, 0.2), (0.5, 0.08, 0.1, 0.4, 0.4)
    assert np.less(lowest, shares).all() and np.less(shares, highest).all()
    image = pictures.image[:, 0] / 255
    means = [image[pictures.regions == region].mean() for region in range(len(brains.REGIONS))]
    background, ventricles, csf, gray, white = means
    assert 0.7 < white < 0.85 and 0.48 < gray < 0.62 and 0.1 < ventricles < csf < 0.3
    assert background < 0.02


def test_background_is_black_and_the_frame_uncut(pictures):
    image = pictures.image[:, 0]
    corners = image[:, :10, :10], image[:, :10, -10:], image[:, -10:, :10], image[:, -10:, -10:]
    assert not np.any(corners)
    border = np.concatenate([image[:, [0, -1]].ravel(), image[:, :, [0, -1]].ravel()])
    assert (border > 0).mean() < 0.01
    assert (image == 255).mean() < 1e-3


def test_older_brains_have_larger_ventricles_and_wider_sulci(pictures):
    ages = pictures.factors[:, brains.FACTORS.index("age")]
    for region, expected in ((VENTRICLES, 0.4), (CSF, 0.6), (GRAY, -0.3)):
        share = (pictures.regions == region).mean((1, 2))
        correlation = np.corrcoef(ages, share)[0, 1]
        assert correlation * np.sign(expected) > abs(expected), brains.REGIONS[region]


def test_look_up_agrees_with_scipy():
    maps, origin = brains._template()
    points = np.random.default_rng(0).uniform(-60, 60, (3, 20, 30)).astype(np.float32)
    points[2] = points[2] / 6 + 15
    voxels = points + origin[:, None, None]
    expected = [ndimage.map_coordinates(m, voxels, order=1) for m in np.moveaxis(maps, -1, 0)]
    np.testing.assert_allclose(brains._look_up(points), expected, atol=1e-4)


def test_smooth_fields_have_unit_variance_and_ignore_the_pixel_size():
    fine, coarse = (
        brains._smooth_field(np.random.default_rng(1), brains._view(*size), 9, 20)
        for size in ((320, 256), (160, 128))
    )
    assert 0.9 < fine.std() < 1.1
    averaged = brains._average(fine, 2)
    np.testing.assert_allclose(averaged, coarse, atol=0.05)


def test_version_guards_the_pictures():
    """If this fails on purpose, bump VERSION and record the new block means."""
    blocks = brains.render(0).image[0].reshape(4, 20, 4, 16).mean((1, 3))
    recorded = {
        1: [
            [27.7, 122.7, 129.3, 22.6],
            [105.6, 172.3, 181.1, 114.4],
            [109.1, 161.4, 160.6, 121.0],
            [25.5, 121.4, 121.8, 29.8],
        ]
    }
    np.testing.assert_allclose(blocks, recorded[brains.VERSION], atol=1.5)


@pytest.mark.parametrize(
    "arguments, message",
    [((-1,), "index is -1, expected 0 or more"), ((0, 15, 64), "15x64, expected at least 16x16")],
)
def test_bad_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        brains.render(*arguments)


def test_missing_asset_is_not_needed_to_import(monkeypatch):
    """The asset is read by the first picture, not by the import."""
    brains._template.cache_clear()
    monkeypatch.setattr(brains, "ASSET", brains.ASSET.with_name("absent.npz"))
    with pytest.raises(FileNotFoundError, match="absent.npz"):
        brains.render(0)


def test_a_changed_factor_changes_what_it_stands_for_and_nothing_else():
    before = brains.render(7)
    wider = brains.render(7, changes={"ventricle_growth": 0.8})
    names = list(brains.FACTORS)
    same = [k for k, name in enumerate(names) if name != "ventricle_growth"]
    np.testing.assert_array_equal(wider.factors[same], before.factors[same])
    assert wider.factors[names.index("ventricle_growth")] == np.float32(0.8)
    ventricles = brains.REGIONS.index("ventricles")
    assert (wider.regions == ventricles).sum() > 1.2 * (before.regions == ventricles).sum()
    brighter = brains.render(7, changes={"gray_intensity": 0.7})
    np.testing.assert_array_equal(brighter.regions, before.regions)
    gray = before.regions == brains.REGIONS.index("gray")
    change = brighter.image[0].astype(float) - before.image[0]
    # Pixels of the border hold a little gray matter.
    assert change[gray].mean() > 20 and change[before.regions == 0].mean() < 0.5
    for unchanged in (brains.render(7, changes={}), brains.render(7, changes=None)):
        np.testing.assert_array_equal(unchanged.image, before.image)


@pytest.mark.parametrize("lesion, sign", [((12, -0.2), -1), ((12, 0.2), 1)])
def test_a_lesion_changes_its_own_place_alone(lesion, sign):
    before = brains.render(7)
    after, share = brains.render_lesion(7, brains.Lesion(*lesion))
    assert share.shape == before.regions.shape and 0 <= share.min() and share.max() <= 1
    change = after.image[0].astype(float) - before.image[0]
    assert (share > 0.9).sum() > 5
    assert not change[share == 0].any()
    assert (sign * change[share > 0.9] > 20).all()
    small = brains.render_lesion(7, brains.Lesion(6, -0.2))[1]
    assert 0 < small.sum() < share.sum() and not small[share == 0].any()


def test_textures_leave_the_mean_and_sizes_agree():
    before = brains.render(7, 160, 128)
    after, share = brains.render_lesion(7, brains.Lesion(25, 0, 0.1), 160, 128)
    change = (after.image[0].astype(float) - before.image[0])[share > 0.99]
    assert change.std() > 10 and abs(change.mean()) < 0.4 * change.std()
    small = brains.render_lesion(7, brains.Lesion(25, 0, 0.1), 80, 64)[1]
    assert abs(share.mean() - small.mean()) < 0.1 * share.mean()


def test_what_cannot_be_changed_is_refused():
    with pytest.raises(ValueError, match="no factor is called hair_red; expected age"):
        brains.render(0, changes={"hair_red": 1})
    with pytest.raises(ValueError, match="age is nan; give it a finite value"):
        brains.render(0, changes={"age": np.nan})
    with pytest.raises(ValueError, match="positive radius"):
        brains.render_lesion(0, brains.Lesion(0, -0.2))
