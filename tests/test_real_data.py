"""CelebA and brain volumes in every shape in which people have them, from stand-in files."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pyarrow
import pytest
import scipy.ndimage
import torch
from PIL import Image
from pyarrow import parquet

from sos import datasets, profiles
from sos.config import Data
from sos.datasets import biobank, celeba
from sos.run import options, runner
from sos.system import devices, paths

COUNT = 120
CELEBA = Data("celeba", 218, 178, 3, train=70, validation=12, test=24)
BRAINS = Data("biobank", 233, 197, 1, train=70, validation=12, test=24)


def portrait(number: int) -> np.ndarray:
    """A smooth picture (218, 178, 3) that tells its number: its red is 2 * number."""
    rows, columns = np.mgrid[:218, :178] / 218
    image = np.stack([np.full_like(rows, 2 * number), 255 * rows, 255 * columns], -1)
    return image.round().astype(np.uint8)


def encoded(number: int, quality: int = 95) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(portrait(number)).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


@pytest.fixture(scope="module")
def jpegs():
    """{name: bytes}, as CelebA names them."""
    return {f"{number:06d}.jpg": encoded(number) for number in range(1, COUNT + 1)}


def partition_lines(names) -> str:
    splits = [0] * 80 + [1] * 15 + [2] * 25
    return "".join(f"{name} {split}\n" for name, split in zip(names, splits, strict=True))


def as_torchvision(root, jpegs):
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for name, content in jpegs.items():
        (folder / name).write_bytes(content)
    (root / "celeba" / celeba.PARTITION).write_text(partition_lines(jpegs))
    return root


def as_folder(root, jpegs):
    return as_torchvision(root, jpegs) / "celeba" / "img_align_celeba"


def as_zip(root, jpegs):
    with zipfile.ZipFile(root / celeba.ZIP, "w") as archive:
        for name, content in jpegs.items():
            archive.writestr(f"img_align_celeba/{name}", content)
    (root / celeba.PARTITION).write_text(partition_lines(jpegs))
    return root / celeba.ZIP


def as_zip_in_folder(root, jpegs):
    return as_zip(root, jpegs).parent


def as_parquet(root, jpegs):
    contents, start = list(jpegs.items()), 0
    for split, count in (("test", 25), ("train", 80), ("valid", 15)):
        rows = [{"bytes": c, "path": n} for n, c in contents[start : start + count]]
        table = pyarrow.table({"image": rows, "Male": [1] * count})
        parquet.write_table(table, root / f"{split}-00000-of-00001.parquet", row_group_size=7)
        start += count
    return root


SHAPES = [as_torchvision, as_folder, as_zip, as_zip_in_folder, as_parquet]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")


def numbers(images: np.ndarray) -> list[int]:
    """Which portraits these are, by their red."""
    return np.rint(images[:, 0].mean((1, 2)) / 2).astype(int).tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_shape_gives_the_same_pictures(shape, tmp_path, jpegs, cache):
    (tmp_path / "data").mkdir()
    data = replace(CELEBA, folder=str(shape(tmp_path / "data", jpegs)))
    splits = {name: split.images for name, split in datasets.load(data).items()}
    assert {n: len(i) for n, i in splits.items()} == {"train": 70, "validation": 12, "test": 24}
    found = [number for images in splits.values() for number in numbers(images)]
    assert len(set(found)) == len(found)  # disjoint
    first = portrait(numbers(splits["train"][:1])[0]).transpose(2, 0, 1)
    assert np.abs(splits["train"][0].astype(int) - first).max() <= 6  # JPEG, and nothing else


@pytest.mark.parametrize("shape", [as_torchvision, as_folder, as_zip], ids=lambda s: s.__name__)
def test_the_subset_is_the_same_in_every_shape(shape, tmp_path, jpegs, cache):
    (tmp_path / "data").mkdir()
    data = replace(CELEBA, folder=str(shape(tmp_path / "data", jpegs)))
    order = np.random.default_rng(42).permutation(COUNT)[:5] + 1
    assert numbers(datasets.load_split(data, "train").images[:5]) == order.tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_official_partition(shape, tmp_path, jpegs, cache):
    (tmp_path / "data").mkdir()
    place = str(shape(tmp_path / "data", jpegs))
    data = replace(CELEBA, folder=place, partition="official", train=1000, validation=9, test=999)
    counts = {name: len(split.images) for name, split in datasets.load(data).items()}
    assert counts == {"train": 80, "validation": 9, "test": 25}


def test_official_partition_needs_its_list(tmp_path, jpegs):
    place = as_zip(tmp_path, jpegs)
    (tmp_path / celeba.PARTITION).unlink()
    data = replace(CELEBA, folder=str(place), partition="official")
    with pytest.raises(FileNotFoundError, match="list_eval_partition.txt.*--partition"):
        celeba.files(data, "train")


def test_gray_small_faces_are_the_central_square(tmp_path, jpegs, cache):
    data = replace(CELEBA, height=64, width=64, channels=1, folder=str(as_zip(tmp_path, jpegs)))
    image = celeba.read(celeba.files(data, "train")[0], data)
    assert image.shape == (1, 64, 64)
    number = int(np.random.default_rng(42).permutation(COUNT)[0]) + 1
    square = Image.fromarray(portrait(number)[20:198]).convert("L")
    expected = np.asarray(square.resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(image[0].astype(int) - expected).max() <= 3


def test_a_moved_data_set_is_the_same(tmp_path, jpegs):
    place = as_zip(tmp_path, jpegs)
    before = datasets.cache_key(replace(CELEBA, folder=str(place)), "train")
    (tmp_path / "x").mkdir()
    moved = place.rename(tmp_path / "x" / celeba.ZIP)
    assert datasets.cache_key(replace(CELEBA, folder=str(moved)), "train") == before


def damaged(jpegs) -> dict[str, bytes]:
    broken = dict(jpegs)
    broken["000007.jpg"] = b"not a picture"
    broken["000011.jpg"] = jpegs["000011.jpg"][:300]  # truncated
    return broken


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_unreadable_images_are_named_and_counted(shape, tmp_path, jpegs, cache):
    (tmp_path / "data").mkdir()
    data = replace(CELEBA, folder=str(shape(tmp_path / "data", damaged(jpegs))), train=84)
    with pytest.raises(ValueError, match="celeba train: . of 84 images cannot be read") as caught:
        datasets.load_split(data, "train")
    assert "--skip-unreadable" in str(caught.value)
    bad = int(re.search(r"celeba train: (\d+) of 84", str(caught.value)).group(1))
    assert str(caught.value).count("cannot be read as an image") == 2  # of all splits
    skipping = replace(data, skip_unreadable=True)
    assert len(datasets.load_split(skipping, "train").images) == 84 - bad
    assert datasets.cache_key(skipping, "train") != datasets.cache_key(data, "train")


def test_mended_images_are_read_again(tmp_path, jpegs, cache):
    place = as_folder(tmp_path, damaged(jpegs))
    data = replace(CELEBA, folder=str(place), train=84)
    with pytest.raises(ValueError, match="cannot be read"):
        datasets.load_split(data, "train")
    celeba.scan.cache_clear()
    for name in ("000007.jpg", "000011.jpg"):
        (place / name).write_bytes(jpegs[name])
    assert len(datasets.load_split(data, "train").images) == 84


@pytest.mark.parametrize("name", [celeba.ZIP, "train-0.parquet"])
def test_half_fetched_archives_are_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"PK half of it")
    with pytest.raises(ValueError, match=f"{name}.*fetch it again"):
        celeba.scan(str(tmp_path))


def test_damage_inside_archives_is_named(tmp_path, jpegs, cache):
    file = as_zip(tmp_path, jpegs)
    content = bytearray(file.read_bytes())
    where = content.index(b"000007.jpg") + len("000007.jpg")
    content[where : where + 50] = b"\xff" * 50
    file.write_bytes(content)
    data = replace(CELEBA, folder=str(file), train=84, validation=12, test=24)
    listed = []
    for split in ("train", "validation", "test"):
        try:
            datasets.load_split(data, split)
        except ValueError as error:
            listed.append(str(error))
    assert len(listed) == 1 and "000007.jpg" in listed[0]


def test_parquet_files_of_paths_are_named(tmp_path, cache):
    names = [f"{number:06d}.jpg" for number in range(COUNT)]
    parquet.write_table(pyarrow.table({"image": names}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"84 of 84 images cannot be read:\n.*train.parquet"):
        datasets.load_split(replace(CELEBA, folder=str(tmp_path), train=84), "train")


def test_pictures_that_are_there_twice_count_once(tmp_path, jpegs):
    as_torchvision(tmp_path, jpegs)
    wild = tmp_path / "celeba" / "img_celeba"
    wild.mkdir()
    for name, content in jpegs.items():
        (wild / name).write_bytes(content)
    assert len(celeba.scan(str(tmp_path))) == COUNT


def test_lines_of_the_partition_that_mean_nothing_are_quoted(tmp_path, jpegs):
    as_torchvision(tmp_path, jpegs)
    (tmp_path / "celeba" / celeba.PARTITION).write_text("000001.jpg 0\n000002.jpg train\n")
    data = replace(CELEBA, folder=str(tmp_path), partition="official")
    with pytest.raises(ValueError, match="line '000002.jpg train'; expected a file name and 0"):
        celeba.files(data, "train")


HEADER = "image_id,partition\r\n"


@pytest.mark.parametrize("name, before, between, encoding", [
    ("list_eval_partition.csv", HEADER, ",", "utf-8"),
    ("list_eval_partition.csv", HEADER, ";", "utf-8-sig"),
    ("list_eval_partition.csv", HEADER, "\t", "utf-16"),
    (celeba.PARTITION, "", "  ", "utf-8-sig"),
])  # fmt: skip
def test_partitions_as_people_have_them(name, before, between, encoding, tmp_path, jpegs):
    """Kaggle's table, what spreadsheets make of it, and a list of JPEG files beside PNG ones."""
    folder = tmp_path / "img_align_celeba_png"
    folder.mkdir()
    for file, content in jpegs.items():
        (folder / file.replace("jpg", "png")).write_bytes(content)
    lines = before + partition_lines(jpegs).replace(" ", between).replace("\n", "\r\n")
    (tmp_path / name).write_bytes(lines.encode(encoding))
    data = replace(CELEBA, folder=str(tmp_path), partition="official", train=1000, test=1000)
    assert [len(celeba.files(data, split)) for split in celeba.SPLITS] == [80, 12, 25]


def as_mac_zip(root, jpegs):
    with zipfile.ZipFile(root / celeba.ZIP, "w") as archive:
        for name, content in jpegs.items():
            archive.writestr(f"img_align_celeba/{name}", content)
            archive.writestr(f"__MACOSX/img_align_celeba/._{name}", b"Mac OS X")
    return root / celeba.ZIP


def test_what_a_mac_adds_is_no_picture(tmp_path, jpegs):
    archive = as_mac_zip(tmp_path, jpegs)
    assert len(celeba.scan(str(archive))) == COUNT
    zipfile.ZipFile(archive).extractall(tmp_path / "unpacked")
    assert len(celeba.scan(str(tmp_path / "unpacked"))) == COUNT


def test_archives_that_python_cannot_unpack_say_what_to_do(tmp_path, jpegs):
    for at, value, reason in ((10, 9, "packed by method 9"), (8, 1, "encrypted")):
        archive = as_zip(tmp_path, jpegs)
        content = bytearray(archive.read_bytes())
        content[(entry := content.index(b"PK\1\2")) + at] = value
        archive.write_bytes(content)
        celeba.scan.cache_clear()
        with pytest.raises(ValueError, match=f"{celeba.ZIP}.*{reason}: unpack it.*give the folder"):
            celeba.scan(str(archive))
        assert entry


@pytest.mark.parametrize("kind", [list, bytes])
def test_parquet_columns_of_bytes_or_numbers(kind, tmp_path, jpegs, cache):
    rows = [kind(content) for content in list(jpegs.values())[:100]]
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "train-00000-of-00001.parquet")
    data = replace(CELEBA, folder=str(tmp_path), height=40, width=40, train=5)
    assert datasets.load_split(data, "train").images.shape == (5, 3, 40, 40)


def test_other_columns_are_named(tmp_path):
    parquet.write_table(pyarrow.table({"picture": [b""]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="columns picture; expected one named `image`"):
        celeba.scan(str(tmp_path))


@pytest.mark.parametrize("reader", [celeba, biobank], ids=["celeba", "biobank"])
@pytest.mark.parametrize("place", ["nowhere", "."], ids=["absent", "empty"])
def test_missing_data_say_what_to_do(reader, place, tmp_path):
    place = tmp_path / place
    with pytest.raises(FileNotFoundError, match="--data simulated") as caught:
        reader.scan(str(place))
    assert str(place.absolute()) in str(caught.value)


# ----------------------------------------------------------------------- brain volumes

STEP = 4.0  # mm per voxel of the stand-in volumes


def intensity(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """A head in MNI millimetres: an ellipsoid, bright in front and on the left."""
    inside = (x / 70) ** 2 + ((y + 18) / 88) ** 2 + ((z - 20) / 60) ** 2 < 1
    return inside * (500 + 2 * y - x)


def volume(file: Path, flip: bool = False, step: float = STEP, number: int = 0) -> None:
    """The head on a grid of its own; `flip` turns two axes, as scanners do; each number differs."""
    shape = tuple(int(length / step) for length in (200, 240, 180))
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = -98, -134, -60
    if flip:
        affine[:2, :2] *= -1
        affine[:2, 3] += (np.array(shape[:2]) - 1) * step
    voxels = np.stack([*np.indices(shape), np.ones(shape)])
    world = np.tensordot(affine, voxels, 1)[:3]
    x, y, z = world
    a, b, c, d = np.random.default_rng(number).standard_normal(4) * bool(number) / 60
    head = intensity(x, y, z) * np.exp(a * x + b * y + c * np.abs(x) + d * np.abs(y))
    nibabel.save(nibabel.Nifti1Image(head.astype(np.float32), affine), file)


def expected_slice() -> np.ndarray:
    y, x = np.mgrid[98:-135:-1, -98:99]
    return intensity(x, y, np.full_like(x, biobank.SLICE_MM))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_axial_slice_lies_where_the_affine_says(flip, suffix, tmp_path):
    volume(tmp_path / f"one{suffix}", flip, step=2.0)
    found = biobank.axial(tmp_path / f"one{suffix}").astype(float)
    expected = expected_slice()
    assert found.shape == (233, 197)
    inside = expected > 0
    assert ((found > 0) == inside).mean() > 0.98
    core = scipy.ndimage.binary_erosion(inside, iterations=4) & (found < 255)
    scale = found[core].sum() / expected[core].sum()
    assert np.abs(found[core] - scale * expected[core]).max() < 2  # gray levels
    assert found.max() == 255


def test_brain_volumes_become_a_data_set(tmp_path, cache):
    for number in range(COUNT):
        volume(tmp_path / f"sub-{number:03d}.nii.gz", step=20.0, number=number)
    data = replace(BRAINS, folder=str(tmp_path))
    splits = {name: split.images for name, split in datasets.load(data).items()}
    assert splits["train"].shape == (70, 1, 233, 197) and splits["train"].dtype == np.uint8
    assert len(splits["test"]) == 24 and splits["test"].max() == 255
    small = replace(data, height=40, width=32)
    assert datasets.load_split(small, "test").images.shape == (24, 1, 40, 32)


def test_ready_slices_stay_as_they_are(tmp_path, cache):
    shown = np.rint(255 * expected_slice() / expected_slice().max()).clip(0, 255).astype(np.uint8)
    for number in range(COUNT):
        shown[0, 0] = number  # no two are copies
        Image.fromarray(shown).save(tmp_path / f"{number}.png")
    split = datasets.load_split(replace(BRAINS, folder=str(tmp_path)), "test")
    assert np.array_equal(split.images[0, 0, 1:], shown[1:])


ORIENTED = np.array([[5.0, 0, 0, -98], [0, 5, 0, -134], [0, 0, 5, -72], [0, 0, 0, 1]])


def head_of(kind: str) -> np.ndarray:
    """A brain in a box, its intensities as a program of some kind leaves them."""
    x, y, z = np.indices((40, 48, 38)) / 40
    brain = ((x - 0.5) ** 2 + (y - 0.6) ** 2 + (z - 0.45) ** 2 < 0.15).astype(float)
    brain *= 500 + 300 * x + 100 * y
    inside = brain > 0
    scored = (brain - brain[inside].mean()) / brain[inside].std()
    return {
        "plain": brain,
        "from -1 to 1": brain / brain.max() * 2 - 1,
        "z-scored as a whole": (brain - brain.mean()) / brain.std(),
        "on a pedestal": brain + 100,
        "marked background": np.where(inside, brain, -32768),
        "missing background": np.where(inside, brain, np.nan),
        "ringing": np.where(inside, brain, np.random.default_rng(0).uniform(-20, 0, brain.shape)),
        "z-scored inside": np.where(inside, scored, 0),
    }[kind]


def saved(file: Path, values: np.ndarray, **header) -> Path:
    image = nibabel.Nifti1Image(values.astype(np.float32), ORIENTED)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, file)
    return file


@pytest.mark.parametrize("kind", [
    "from -1 to 1", "z-scored as a whole", "on a pedestal", "missing background", "ringing",
    "marked background",
])  # fmt: skip
def test_intensities_on_any_scale_give_the_same_slice(kind, tmp_path):
    plain = biobank.axial(saved(tmp_path / "plain.nii", head_of("plain"))).astype(int)
    found = biobank.axial(saved(tmp_path / "other.nii", head_of(kind))).astype(int)
    assert plain.max() == 255 and np.abs(found - plain).max() <= 1


def test_a_brain_around_zero_is_refused(tmp_path):
    file = saved(tmp_path / "z.nii.gz", head_of("z-scored inside"))
    with pytest.raises(ValueError, match="z.nii.gz.*nothing tells what black is: give the volume"):
        biobank.axial(file)


def test_a_volume_that_does_not_say_how_it_lies_is_refused(tmp_path):
    file = saved(tmp_path / "a.nii", head_of("plain"))
    content = bytearray(file.read_bytes())
    content[252:256] = bytes(4)  # qform_code and sform_code
    file.write_bytes(content)
    with pytest.raises(ValueError, match="a.nii.*does not say how it lies.*register"):
        biobank.axial(file)


@pytest.mark.parametrize("at, values", [
    (70, (1536,)), (70, (999,)), (70, (128,)), (70, (32,)), (42, (-20,)), (40, (9,)),
    (42, (32767, 32767, 32767)), (344, (0,)), (40, (4, 40, 48, 38, 9)),
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_headers_that_lie_are_that_files_fault(at, values, suffix, tmp_path):
    content = bytearray(saved(tmp_path / "good.nii", head_of("plain")).read_bytes())
    content[at : at + 2 * len(values)] = np.array(values, "<i2").tobytes()
    file = tmp_path / f"bad{suffix}"
    file.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    with pytest.raises(ValueError, match=f"bad{suffix} cannot be read as a volume"):
        biobank.axial(file)


LAYOUTS = {
    "UK Biobank": (
        [f"{p}_20252_{v}_0/T1/{name}.nii.gz" for p in range(1000000, 1000030) for v in (2, 3)
         for name in ("T1_brain_to_MNI", "T1_brain", "T1", "T1_brain_mask", "T1_fast/T1_brain_seg",
                      "transforms/T1_to_MNI_warp", "T1_first/T1_first_all_fast_firstseg")],
        "T1_brain_to_MNI.nii.gz", 60, 30,
    ),
    "fMRIPrep": (
        [f"sub-{p:02d}/anat/sub-{p:02d}_{name}.nii.gz" for p in range(30)
         for name in ("desc-preproc_T1w", "space-MNI152NLin2009cAsym_desc-preproc_T1w", "dseg",
                      "space-MNI152NLin2009cAsym_desc-brain_mask", "label-GM_probseg")],
        "space-MNI152NLin2009cAsym_desc-preproc_T1w.nii.gz", 30, 30,
    ),
    "HCP": (
        [f"{p}/{name}.nii.gz" for p in range(100307, 100337)
         for name in ("MNINonLinear/T1w_restore_brain", "T1w/T1w_acpc_dc_restore_brain",
                      "MNINonLinear/aparc+aseg", "MNINonLinear/T2w_restore_brain")],
        "T1w_restore_brain.nii.gz", 30, 30,
    ),
    "BIDS, one folder": (
        [f"sub-{p:02d}_{name}.nii.gz" for p in range(30) for name in ("T1w", "T2w", "FLAIR")],
        "T1w.nii.gz", 30, 30,
    ),
    "IXI": (
        [f"IXI{p:03d}-Guys-{name}.nii.gz" for p in range(30) for name in ("T1", "T2", "PD")],
        "T1.nii.gz", 30, 30,
    ),
    "plain names": ([f"brain{p}.nii.gz" for p in range(30)], ".nii.gz", 30, 30),
}  # fmt: skip


@pytest.mark.parametrize("names, ending, files, people", LAYOUTS.values(), ids=LAYOUTS)
def test_brains_are_chosen_by_name_and_split_by_person(names, ending, files, people, tmp_path):
    for number, name in enumerate(names):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(number))
    taken = biobank.scan(str(tmp_path))
    assert len(taken) == files and all(file.name.endswith(ending) for file in taken)
    found = biobank.survey(str(tmp_path))
    assert len(found.groups) == people
    assert sum(n for what, n in found.notes.items() if "left out" in what) == len(names) - files
    data = replace(BRAINS, folder=str(tmp_path), train=999, test=999)
    parts = [set(biobank.files(data, split)) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == files
    for group in found.groups:
        assert sum(bool(part & set(group)) for part in parts) == 1
    line = biobank.describe(data)
    assert all(f"{n} {what}" in line for what, n in found.notes.items() if n)


def test_other_volumes_of_the_same_names_are_other_data(tmp_path, cache):
    """Names and sizes alike, and nothing taken from the first folder's cache."""
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for number in range(20):
            values = head_of("plain") * (
                1 + number / 20 * np.indices((40, 48, 38))["ab".index(kind)]
            )
            saved(tmp_path / kind / f"sub-{number:03d}.nii", values)
    first, second = (replace(BRAINS, folder=str(tmp_path / kind), train=3) for kind in "ab")
    images = [datasets.load_split(data, "train").images for data in (first, second)]
    assert not np.array_equal(*images)
    file = biobank.files(second, "train")[0]
    assert np.array_equal(images[1][0], biobank.read(file, second))


def test_unusable_volumes_say_why(tmp_path):
    (tmp_path / "half.nii.gz").write_bytes(b"\x1f\x8b nothing")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), tmp_path / "dark.nii")
    far = np.eye(4)
    far[2, 3] = 500
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4)), far), tmp_path / "far.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4, 3)), np.eye(4)), tmp_path / "four.nii")
    colour = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "colour.nii")
    flat = nibabel.Nifti1Image(np.ones((4, 4, 4)), np.eye(4))
    flat.header.set_sform(np.diag([1.0, 1, 0, 1]), code=1)
    nibabel.save(nibabel.Nifti1Image(flat.dataobj, None, flat.header), tmp_path / "flat.nii")
    for name, reason in (
        ("colour.nii", "cannot be read as a volume"),
        ("flat.nii", "cannot be read as a volume"),
        ("half.nii.gz", "cannot be read as a volume"),
        ("dark.nii", "no positive values"),
        ("far.nii", "registered to MNI"),
        ("four.nii", "expected one volume"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            biobank.axial(tmp_path / name)


# ----------------------------------------------------------------------- the command line


def test_paper_profile_asks_for_data(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    with pytest.raises(SystemExit):
        options.arguments(["--profile", "paper"])
    told = capsys.readouterr().err
    assert str(tmp_path / "celeba") in told and "--data simulated" in told
    chosen = options.arguments(["--profile", "paper", "--data", "simulated"])
    assert options.images(chosen) is None


@pytest.mark.parametrize("profile", ["paper", "paper-simulated", "demo"])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_plan_warns_of_the_papers_network_on_a_cpu(profile, kind, monkeypatch, capsys):
    monkeypatch.setattr(devices, "device", lambda: torch.device(kind))
    chosen = options.arguments(["--profile", profile, "--data", "simulated", "--only", "03"])
    runner.print_plan(chosen, options.chosen_notebooks(chosen), runner.needed(chosen))
    assert ("no GPU" in capsys.readouterr().out) == (profile != "demo" and kind == "cpu")


def test_the_plan_has_no_such_warning_where_no_large_network_is_trained(monkeypatch, capsys):
    """Notebook 06 has no network, and the gray images of notebook 02 are small."""
    monkeypatch.setattr(devices, "device", lambda: torch.device("cpu"))
    words = ["--profile", "paper", "--data", "simulated", "--only", "02", "--only", "06"]
    chosen = options.arguments(words)
    runner.print_plan(chosen, options.chosen_notebooks(chosen), runner.needed(chosen))
    told = capsys.readouterr().out
    assert "to train" in told and "no GPU" not in told


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--data", "simulated", "--celeba", "x"], "--data simulated reads nothing"),
        (["--celeba", "nowhere"], "nowhere"),
        (["--faces", ".", "--celeba", "."], "choose one"),
    ],
)
def test_contradictions_are_refused(words, reason, capsys):
    with pytest.raises(SystemExit):
        options.arguments(words)
    assert reason in capsys.readouterr().err


def test_official_partition_takes_all_images():
    chosen = profiles.profile("paper", {"celeba": "x", "partition": "official"})
    data = chosen.experiments["faces-sos"].data
    assert (data.name, data.train, data.partition) == ("celeba", 162_770, "official")
    assert chosen.experiments["brains-sos"].data.name == "brains"


def test_a_profile_runs_on_real_formats(tmp_path, jpegs):
    """From a zip archive of faces and a folder of volumes to a notebook's figures."""
    (tmp_path / "faces").mkdir()
    (tmp_path / "brains").mkdir()
    as_zip(tmp_path / "faces", jpegs)
    for number in range(COUNT):
        volume(tmp_path / "brains" / f"{number}.nii.gz", step=20.0, number=number)
    places = {name: str(tmp_path / name) for name in ("SOS_CACHE", "SOS_FIGURES", "SOS_EXECUTED")}
    command = ["bash", str(paths.ROOT / "run_all.sh"), "--profile", "smoke", "--only", "03",
               "--celeba", "faces", "--biobank", "brains"]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path,
        env=os.environ | places | {"SOS_PYTHON": sys.executable}, timeout=1800,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "CelebA in" in result.stdout and "120 volumes" in result.stdout
    figures = Path(places["SOS_FIGURES"], "smoke")
    assert (figures / "fig04.png").stat().st_size
    assert json.loads((figures / "results" / "03_interpolation.json").read_text())["numbers"]
