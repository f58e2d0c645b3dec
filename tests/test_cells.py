"""Solar cells are read from their package, which may be absent, and defects are ranked."""

import importlib
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from sos import datasets, profiles
from sos.analysis import claims, defects, seeds
from sos.config import Data
from sos.datasets import cells
from sos.distributions import LowRankNormal
from sos.figures import real_images
from sos.figures.panels import pictures, row
from sos.run import options, runner
from sos.system import paths

DATA = Data("cells", 16, 16, 1, train=10_000, validation=10_000, test=10_000)
COUNT = 60  # cells of the stand-in package, of which every third is defective


@pytest.fixture(autouse=True)
def forget():
    """What is read once per process is read again."""
    cells.scan.cache_clear()
    cells.ordered.cache_clear()
    yield
    cells.scan.cache_clear()
    cells.ordered.cache_clear()


@pytest.fixture
def absent(monkeypatch):
    """The package is not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        cells.importlib.util,
        "find_spec",
        lambda name, *more: None if name == "elpv_dataset" else found(name, *more),
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in package, in which cell k has the gray level k everywhere."""
    root = tmp_path / "elpv_dataset"
    (root / "data" / "images").mkdir(parents=True)
    (root / "__init__.py").touch()
    lines, probabilities = [], itertools.cycle((0.0, 0.0, 1.0, 0.0, 0.0, 1 / 3))
    for k in range(COUNT):
        name = f"images/cell{k:04d}.png"
        Image.new("L", (30, 30), k).save(root / "data" / name)
        lines.append(f"{name}  {next(probabilities)}  {'mono' if k % 2 else 'poly'}\n")
    (root / "data" / "labels.csv").write_text("".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec("elpv_dataset", [str(tmp_path)])
    found = importlib.util.find_spec
    monkeypatch.setattr(
        cells.importlib.util,
        "find_spec",
        lambda name, *more: spec if name == "elpv_dataset" else found(name, *more),
    )
    digest = cells.hashlib.sha256()
    for k in range(COUNT):
        digest.update((root / "data" / f"images/cell{k:04d}.png").read_bytes())
    labels = cells.hashlib.sha256("".join(lines).encode())
    real = {"labels": labels.hexdigest(), "images": digest.hexdigest()}
    monkeypatch.setattr(cells, "SHA256", real)
    monkeypatch.setattr(cells, "SOUND", 40)
    monkeypatch.setattr(cells, "DEFECTIVE", 20)
    return root


def grays(split: str) -> list[int]:
    """The gray levels of a split, which are the numbers of its cells."""
    return [int(cells.read(item, DATA).flat[0]) for item in cells.files(DATA, split)]


def test_every_cell_is_in_one_split_and_defective_ones_apart(package):
    splits = {name: grays(name) for name in ("train", "validation", "test", "defective")}
    assert sorted(itertools.chain(*splits.values())) == list(range(COUNT))
    assert sorted(splits["defective"]) == [k for k in range(COUNT) if k % 3 == 2]
    assert [len(one) for one in splits.values()] == [28, 4, 8, 20]
    for name, numbers in splits.items():
        found = cells.cells(DATA, name)
        assert [int(cell.file.stem[4:]) for cell in found] == numbers
        assert all((cell.defect > 0) == (name == "defective") for cell in found)


def test_images_are_resized_as_pillow_does(package):
    image = np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8)
    file = cells.ordered("sound")[3].file
    Image.fromarray(image).save(file)
    wanted = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(cells.read(("sound", 3), DATA)[0], np.asarray(wanted))


def test_other_files_than_the_package_s_are_refused(package):
    Image.new("L", (30, 30), 255).save(package / "data" / "images" / "cell0007.png")
    with pytest.raises(ValueError, match="the images are not those of elpv-dataset=="):
        cells.scan()


def test_without_the_package_counts_and_keys_are_known(absent):
    assert [len(cells.files(DATA, s)) for s in ("train", "validation", "test")] == [1056, 150, 302]
    assert len(cells.files(DATA, "defective")) == 1116
    assert datasets.cache_key(DATA, "train") == "cells-16x16x1-train-v1-1056"
    with pytest.raises(FileNotFoundError, match="python -m pip install elpv-dataset=="):
        cells.scan()
    assert not datasets.is_at_hand(DATA)
    assert datasets.is_at_hand(Data("faces", 16, 16, 1, 1, 1, 1))


def test_the_package_itself_is_the_one_that_is_meant():
    pytest.importorskip("elpv_dataset")
    assert sum(cell.defect == 0 for cell in cells.scan()) == cells.SOUND
    assert len(cells.scan()) == cells.SOUND + cells.DEFECTIVE


def test_without_the_package_its_models_are_not_trained(absent):
    args = options.arguments(["--profile", "smoke", "--only", "08", "12"])
    names = {e.name for e in runner.needed(args)}
    assert names and not any(name.startswith("cells-") for name in names)


def test_cells_in_the_place_of_faces(absent, capsys):
    with pytest.raises(SystemExit):
        options.arguments(["--data", "cells"])
    assert "python -m pip install elpv-dataset==" in capsys.readouterr().err
    chosen = profiles.profile("smoke", {"cells": True})
    data = chosen.experiments["faces-sos"].data
    assert (data.name, data.channels) == ("cells", 1)
    assert chosen.experiments["brains-sos"].data.name == "brains"


def test_cells_and_a_folder_exclude_each_other(package, tmp_path, capsys):
    with pytest.raises(SystemExit):
        options.arguments(["--data", "cells", "--faces", str(tmp_path)])
    assert "leave out --faces" in capsys.readouterr().err
    args = options.arguments(["--data", "cells"])
    assert options.images(args) == {
        "cells": True,
        "partition": "subset",
        "skip_unreadable": False,
    }


@pytest.mark.parametrize("values", (2, 5, 1000), ids="{} values".format)
def test_areas_are_scikit_learn_s(values):
    rng = np.random.default_rng(values)
    sound, defective = rng.integers(0, values, 80), rng.integers(0, values + 1, 50)
    truth = np.repeat([0, 1], [80, 50])
    wanted = roc_auc_score(truth, np.concatenate([sound, defective]))
    found = defects.ranked(sound.astype(float), defective.astype(float))
    assert defects._area(sound, defective) == pytest.approx(wanted, abs=1e-12)
    assert found["auroc"] == pytest.approx(wanted, abs=1e-12)
    assert found["low"] < wanted < found["high"]


def test_scores_are_those_of_dense_matrices():
    torch.manual_seed(0)
    mean, factor = torch.rand(2, 9), torch.randn(2, 9, 3)
    p = LowRankNormal(mean, factor, torch.full((2, 9), 0.3))
    x = torch.rand(2, 1, 3, 3)
    found = defects.of_maps(p, x)
    residual = (x.flatten(1) - mean).double()
    covariance = factor.double() @ factor.double().mT + 0.3 * torch.eye(9).double()
    precision = covariance.inverse()
    alone = residual / covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    others = (precision @ residual[..., None])[..., 0]
    others = others / precision.diagonal(dim1=-2, dim2=-1).sqrt()
    for name, scores in (("residual", alone), ("leave-one-out", others)):
        square = scores.square().mean(1)
        assert torch.allclose(found[f"{name}, mean square"], square, rtol=1e-5)
        assert torch.allclose(found[f"{name}, peak"], scores.abs().max(1).values, rtol=1e-5)


def test_cells_are_judged_by_label_and_by_kind(package):
    """Of polycrystalline cells the scores know the defects; of the others they know nothing."""
    sound, defective = cells.cells(DATA, "test"), cells.cells(DATA, "defective")

    def scores(found, of_poly):
        return torch.tensor([of_poly if cell.kind == "poly" else 0.5 for cell in found])

    both = [scores(sound, 0.0), scores(defective, 1.0)]
    found = defects.judged({"mine": both}, DATA)
    assert found["mine, poly, auroc"] == 1.0
    assert found["mine, mono, auroc"] == 0.5
    assert len(found["mine, curve"]) == len(defects.FALSE_ALARMS)


def test_pictures_of_cells_carry_their_licence(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    figure = pictures([row("cells", torch.rand(3, 1, 8, 8))])
    real_images.keep(figure, "some", "demo")
    folder = tmp_path / "demo" / "cells"
    assert {f.name for f in folder.iterdir()} == {"some.png", "some.pdf", "LICENSE.txt"}
    assert "CC BY-NC-SA 4.0" in (folder / "LICENSE.txt").read_text(encoding="utf-8")
    assert any("CC BY-NC-SA 4.0" in text.get_text() for text in figure.texts)


def test_figures_without_any_record_are_drawn():
    nothing = {kind: [] for kind in profiles.CELL_KINDS}
    figure = real_images.detection(nothing, {}, "leave-one-out, peak")
    assert len(figure.axes) == 2
    assert real_images.detection_rows(nothing, {}) == []


def test_conclusions_that_carry_over_are_claims_of_the_ledger():
    records = seeds.records_of(profiles.PROFILES["demo"], "released")
    rows = real_images.carry_over_rows(claims.load(records))
    assert len(rows) == len(real_images.CARRIES_OVER)
    assert all("CLAIMS.md#cells-" in one["solar cells"] for one in rows)


def test_cells_alone_ask_for_none_of_the_paper_s_data(package):
    args = options.arguments(["--profile", "paper", "--only", "12"])
    assert options.images(args) is None
