"""The committed figures are those that the notebooks draw. Runs behind nbval, see tests/run.sh."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.testing.compare import ImageComparisonFailure, compare_images
from PIL import Image

from sos.figures import save
from sos.system import paths

COMMITTED = paths.ROOT / "figures" / "demo"
WHOLE = 2.0  # RMS over a whole figure, of 255
PATCH = 32.0  # mean difference over a patch of 16 x 16 pixels, of 255


def patch_difference(one: Path, other: Path, side: int = 16) -> float:
    """The largest mean difference over a square patch: a small change that the RMS overlooks."""
    images = [
        np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) for file in (one, other)
    ]
    gap = np.abs(images[0] - images[1]).mean(axis=2)
    rows, columns = (-(-length // side) * side for length in gap.shape)
    padded = np.zeros((rows, columns), dtype=np.float32)
    padded[: gap.shape[0], : gap.shape[1]] = gap
    return float(padded.reshape(rows // side, side, -1, side).mean(axis=(1, 3)).max())


def difference(committed: Path, regenerated: Path) -> str | None:
    """In words how two files differ; None where they agree."""
    if not regenerated.exists():
        return "no notebook wrote it"
    if not committed.exists():
        return "a notebook wrote it, but it is not committed"
    if committed.suffix != ".png":
        same = committed.read_text(encoding="utf-8") == regenerated.read_text(encoding="utf-8")
        return None if same else "its text differs"
    try:
        if compare_images(str(committed), str(regenerated), tol=WHOLE):
            return f"it differs by more than {WHOLE} RMS"
    except ImageComparisonFailure as error:  # sizes
        return str(error)
    patch = patch_difference(committed, regenerated)
    return f"a patch differs by {patch:.0f} of 255" if patch > PATCH else None


def differences(committed: Path, regenerated: Path) -> dict[str, str]:
    """{file name: how it differs} over pictures and tables."""
    kinds = {".png", ".md", ".csv", ".tex"}
    names = {f.name for place in (committed, regenerated) for f in place.glob("[!.]*.*")}
    found = {
        n: difference(committed / n, regenerated / n) for n in names if Path(n).suffix in kinds
    }
    return {name: words for name, words in sorted(found.items()) if words}


def test_committed_figures_are_regenerated():
    if "SOS_FIGURES_REGENERATED" not in os.environ:
        pytest.skip("nbval has not drawn the figures in this run; tests/run.sh does both")
    assert any(COMMITTED.glob("*.png")), f"no figure is committed in {COMMITTED}"
    regenerated = Path(os.environ["SOS_FIGURES_REGENERATED"], "demo")
    if weights_behind(COMMITTED) != weights_behind(regenerated):
        pytest.skip(
            "figures/demo shows models trained or images given here, not the released ones: "
            "git checkout figures/demo brings those back"
        )
    assert not differences(COMMITTED, regenerated)


def weights_behind(folder: Path) -> dict[str, str]:
    """{model: SHA-256 of its weights}, as the results of notebook 01 record it."""
    results = json.loads((folder / "results" / "01_beta_vae_vs_sos_vae.json").read_text())
    return results["weights"]


@pytest.fixture
def pair(tmp_path):
    """Two folders with the same large smooth figure and the same table."""
    folders = tmp_path / "committed", tmp_path / "regenerated"
    ramp = np.linspace(100, 160, 900 * 600).reshape(600, 900).astype(np.uint8)
    for folder in folders:
        folder.mkdir()
        Image.fromarray(np.stack([ramp] * 3, axis=2)).save(folder / "figure.png")
        (folder / "table.md").write_text("| 121.65 |\n")
    return folders


def repaint(file: Path, box: tuple[slice, slice], value: int) -> None:
    pixels = np.array(Image.open(file))
    pixels[box] = value
    Image.fromarray(pixels).save(file)


def test_equal_figures_pass(pair):
    assert differences(*pair) == {}


def test_one_grey_level_passes(pair):
    pixels = np.array(Image.open(pair[1] / "figure.png"))
    Image.fromarray(pixels + 1).save(pair[1] / "figure.png")
    assert differences(*pair) == {}


@pytest.mark.parametrize("side", [12, 40, 300])
def test_paint_is_found(pair, side):
    repaint(pair[0] / "figure.png", (slice(40, 40 + side), slice(64, 64 + side)), 255)
    assert list(differences(*pair)) == ["figure.png"]


def test_another_size_is_found(pair):
    Image.open(pair[0] / "figure.png").resize((300, 200)).save(pair[0] / "figure.png")
    assert list(differences(*pair)) == ["figure.png"]


def test_lost_new_and_edited_files_are_found(pair):
    (pair[1] / "figure.png").rename(pair[1] / "another.png")
    (pair[0] / "table.md").write_text("| 121.66 |\n")
    assert list(differences(*pair)) == ["another.png", "figure.png", "table.md"]


def test_hidden_files_and_pdf_are_ignored(pair):
    for name in (".figure.png.1.tmp", ".lock", "figure.pdf"):
        (pair[0] / name).write_bytes(b"")
    assert differences(*pair) == {}


@pytest.mark.parametrize("columns, contrast", [(5000, 0.3), (500, None)])
def test_images_are_averaged_where_they_shrink(tmp_path, monkeypatch, columns, contrast):
    """Stripes of one pixel, 5,000 of them on 2,000: skipping pixels leaves black and white."""
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    figure, ax = plt.subplots(figsize=(10, 4))
    stripes = np.tile([0.0, 1.0], (columns * 2 // 5, columns // 2))
    ax.imshow(stripes, "gray", interpolation="nearest")
    ax.set_axis_off()
    save(figure, "stripes", "demo")
    pixels = np.asarray(Image.open(tmp_path / "demo" / "stripes.png").convert("L")) / 255
    rows, columns = pixels.shape
    inside = pixels[rows // 3 : rows // 2, columns // 3 : columns // 2]
    assert np.ptp(inside) < contrast if contrast else np.ptp(inside) == 1
