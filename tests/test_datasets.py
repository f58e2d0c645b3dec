"""The cache of images, which repairs itself, and folders of the user's own images."""

import json
import logging
import os
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sos import datasets
from sos.config import Data
from sos.datasets import cache as disk
from sos.datasets import faces, files, folder
from sos.figures import panels
from sos.run import runner
from sos.system import paths

SPLITS = ("train", "validation", "test")


def data(name="faces", height=16, width=20, channels=3, train=7, validation=3, test=4, where=None):
    return Data(name, height, width, channels, train, validation, test, where)


class Simulator(SimpleNamespace):
    """Pictures by index that cost nothing, and a list of those that were drawn."""

    VERSION, CHANNELS, FACTORS = 1, 3, ("index",)

    def render(self, index, height, width):
        if index in self.broken:
            raise RuntimeError(f"picture {index} fails")
        self.drawn.append(index)
        image = np.random.default_rng(index).integers(0, 256, (3, height, width), dtype=np.uint8)
        return SimpleNamespace(image=image, factors=np.array([index], np.float32))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(disk, "cpu_count", lambda: 1)  # in this process
    monkeypatch.setattr(disk, "tqdm", partial(disk.tqdm, disable=True))
    folder.survey.cache_clear()  # temporary folders of the same name are not the same
    return tmp_path / "cache"


@pytest.fixture
def simulated(monkeypatch):
    simulator = Simulator(drawn=[], broken=set())
    monkeypatch.setitem(datasets.SIMULATORS, "faces", simulator)
    return simulator


# ---------------------------------------------------------------------------- simulated images


@pytest.mark.parametrize("name, channels", [("faces", 3), ("faces", 1), ("brains", 1)])
def test_splits_have_their_sizes_and_factors(name, channels):
    chosen = data(name, channels=channels, train=3, validation=1, test=2)
    loaded = datasets.load(chosen)
    assert tuple(loaded) == SPLITS
    for split, count in zip(SPLITS, (3, 1, 2), strict=True):
        assert loaded[split].images.shape == (count, channels, 16, 20)
        assert loaded[split].images.dtype == np.uint8
        assert loaded[split].factors.shape == (count, len(loaded[split].factor_names))
    pictures = {image.tobytes() for split in SPLITS for image in loaded[split].images}
    assert len(pictures) == 6


def test_splits_are_drawn_from_different_indices(simulated):
    """A larger training split must never reach the others' pictures."""
    drawn = [set(datasets.items(data(train=10**6), split)) for split in SPLITS]
    assert len(set.union(*drawn)) == sum(map(len, drawn))


def test_image_i_is_the_simulators_whatever_the_size_of_the_split():
    small, large = (datasets.load_split(data(train=count), "train") for count in (2, 4))
    np.testing.assert_array_equal(small.images, large.images[:2])
    rendered = faces.render(1, 16, 20)
    np.testing.assert_array_equal(small.images[1], rendered.image)
    np.testing.assert_array_equal(small.factors[1], rendered.factors)


def test_gray_faces_are_pils_gray():
    colour = datasets.load_split(data(train=3), "train").images
    gray = datasets.load_split(data(train=3, channels=1), "train").images
    for one, other in zip(colour, gray, strict=True):
        pil = np.asarray(Image.fromarray(one.transpose(1, 2, 0)).convert("L"))
        assert np.abs(pil.astype(int) - other[0]).max() <= 1


def test_gray_images_made_from_colour_are_those_made_from_nothing(tmp_path, monkeypatch):
    rendered = datasets.load_split(data(train=3, channels=1), "train")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "another")
    datasets.load_split(data(train=3), "train")
    monkeypatch.setattr(disk, "build", None)  # nothing is rendered any more
    derived = datasets.load_split(data(train=3, channels=1), "train")
    np.testing.assert_array_equal(derived.images, rendered.images)
    np.testing.assert_array_equal(derived.factors, rendered.factors)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'cats'.*faces.*brains.*folder"):
        datasets.load_split(data("cats"), "train")


@pytest.mark.parametrize("name, channels", [("brains", 3), ("faces", 2), ("faces", 4)])
def test_channels_that_the_simulator_lacks_are_refused(name, channels):
    with pytest.raises(ValueError, match=f"channels is {channels}; {name}"):
        datasets.load_split(data(name, channels=channels), "train")


@pytest.mark.parametrize("field", ["name", "height", "width", "channels", "train"])
def test_the_identity_of_a_split_names_what_determines_it(field):
    changed = {"name": "brains", "height": 17, "width": 21, "channels": 3, "train": 8}[field]
    gray = {"channels": 1}
    name = datasets.cache_key(data(**gray), "train")
    assert datasets.cache_key(data(**gray | {field: changed}), "train") != name
    assert datasets.cache_key(data(**gray, test=99), "train") == name
    assert datasets.cache_key(data(**gray), "test") != name


# ---------------------------------------------------------------------------- the cache


def test_pictures_are_drawn_once(simulated):
    first = datasets.load(data())
    assert len(simulated.drawn) == 14
    second = datasets.load(data())
    assert len(simulated.drawn) == 14
    for split in SPLITS:
        np.testing.assert_array_equal(first[split].images, second[split].images)
        np.testing.assert_array_equal(first[split].factors, second[split].factors)


def test_nothing_but_the_splits_stays_behind(simulated, cache):
    assert not any(datasets.is_cached(data(), split) for split in SPLITS)
    datasets.load(data())
    assert all(datasets.is_cached(data(), split) for split in SPLITS)
    names = {datasets.cache_key(data(), split) for split in SPLITS}
    assert {entry.name for entry in (cache / "images").iterdir()} == names


def damaged(target, file, how):
    if how == "missing":
        (target / file).unlink()
        return
    content = bytearray((target / file).read_bytes())
    content[len(content) // 2] ^= 1
    (target / file).write_bytes({"flipped": content, "truncated": content[:-1], "empty": b""}[how])


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "missing"])
@pytest.mark.parametrize("file", ["images.npy", "factors.npy", "meta.json"])
def test_a_damaged_split_is_drawn_again_with_a_warning(simulated, caplog, file, how):
    before = datasets.load_split(data(), "train")
    images, target = before.images.copy(), datasets.cache_folder(data(), "train")
    damaged(target, file, how)
    with caplog.at_level(logging.WARNING):
        again = datasets.load_split(data(), "train")
    assert str(target) in caplog.text and len(simulated.drawn) == 14
    np.testing.assert_array_equal(again.images, images)
    caplog.clear()
    datasets.load_split(data(), "train")
    assert not caplog.text and len(simulated.drawn) == 14


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(choice=st.randoms(use_true_random=False))
def test_no_change_of_a_byte_goes_unnoticed(simulated, choice):
    original = datasets.load_split(data(), "train").images.copy()
    file = choice.choice(sorted(datasets.cache_folder(data(), "train").iterdir()))
    content = bytearray(file.read_bytes())
    content[choice.randrange(len(content))] ^= choice.randrange(1, 256)
    file.write_bytes(content)
    np.testing.assert_array_equal(datasets.load_split(data(), "train").images, original)


@pytest.mark.parametrize("meta", ["{}", "[]", "null", '{"images": 3}', '{"images": {}}'])
def test_a_record_of_another_shape_is_damage(simulated, meta):
    datasets.load_split(data(), "train")
    (datasets.cache_folder(data(), "train") / "meta.json").write_text(meta)
    assert len(datasets.load_split(data(), "train").images) == 7


def test_an_interrupted_build_goes_on_from_its_blocks(simulated, monkeypatch):
    monkeypatch.setattr(disk, "BLOCK", 2)
    simulated.broken = {5}
    with pytest.raises(RuntimeError, match="picture 5 fails"):
        datasets.load_split(data(), "train")
    assert not datasets.is_cached(data(), "train") and simulated.drawn == [0, 1, 2, 3, 4]
    simulated.broken, simulated.drawn = set(), []
    images = datasets.load_split(data(), "train").images
    assert simulated.drawn == [4, 5, 6]  # the block that failed, and the rest
    expected = [Simulator(drawn=[], broken=()).render(i, 16, 20).image for i in range(7)]
    np.testing.assert_array_equal(images, expected)


def test_two_that_draw_the_same_split_at_once_both_get_it(simulated, monkeypatch):
    """The second begins while the first is in its second block, and finishes before it."""
    monkeypatch.setattr(disk, "BLOCK", 2)
    expected = datasets.load_split(data(), "train").images.copy()
    monkeypatch.setattr(paths, "CACHE", paths.CACHE / "other")
    draw, second = Simulator.render, []

    def render(self, index, height, width):
        if index == 3 and not second:
            second.append(None)
            second[0] = datasets.load_split(data(), "train").images
        return draw(self, index, height, width)

    monkeypatch.setattr(Simulator, "render", render)
    first = datasets.load_split(data(), "train").images
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second[0], expected)


def test_a_full_disk_is_reported(simulated, monkeypatch):
    def write(target, parts, count):
        raise OSError("no space left on device")

    monkeypatch.setattr(disk, "write", write)
    with pytest.raises(OSError, match="no space"):
        datasets.load_split(data(), "train")


def test_several_processes_draw_the_same(monkeypatch):
    alone = datasets.load_split(data(), "train").images.copy()
    monkeypatch.setattr(paths, "CACHE", paths.CACHE / "other")
    monkeypatch.setattr(disk, "cpu_count", lambda: 2)
    monkeypatch.setattr(disk, "BLOCK", 2)
    np.testing.assert_array_equal(datasets.load_split(data(), "train").images, alone)


# ---------------------------------------------------------------------------- folders


def picture(width, height, seed=0):
    """Smooth colours that differ from corner to corner, and from seed to seed."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture
def album(tmp_path):
    """A folder with 100 images of two sizes, some of them in a subfolder."""
    root = tmp_path / "album"
    (root / "more").mkdir(parents=True)
    for i in range(100):
        where = root / "more" if i % 10 == 0 else root
        size = (40, 50) if i % 4 else (60, 30)
        picture(*size, seed=i).save(where / f"{i:03d}.png")
    (root / "notes.txt").write_text("not an image")
    return root


def own(album, **settings):
    settings = {"train": 1000, "validation": 1000, "test": 1000} | settings
    return data("folder", where=str(album), **settings)


def test_a_folder_is_split_70_10_20(album):
    loaded = datasets.load(own(album))
    assert [len(loaded[split].images) for split in SPLITS] == [70, 10, 20]
    assert loaded["train"].images.shape[1:] == (3, 16, 20)
    assert loaded["train"].factors is None and loaded["train"].factor_names == ()
    files = [set(folder.files(own(album), split)) for split in SPLITS]
    assert len(set.union(*files)) == 100
    assert any(file.parent.name == "more" for file in files[0])


def test_the_three_numbers_are_upper_bounds_and_keep_the_shares(album):
    few, all_ = own(album, train=5, test=2), own(album)
    assert [len(folder.files(few, split)) for split in SPLITS] == [5, 10, 2]
    for split in SPLITS:
        files = folder.files(few, split)
        assert files == folder.files(all_, split)[: len(files)]


def test_images_are_mixed_but_always_alike(album):
    names = [file.name for file in folder.files(own(album), "train")]
    assert names != sorted(names)
    folder.survey.cache_clear()
    assert names == [file.name for file in folder.files(own(album), "train")]


def read(image, tmp_path, name="one.png", **options):
    file = tmp_path / name
    image.save(file, **options)
    return folder.read(file, data("folder", height=8, width=10))


def test_the_largest_central_part_of_the_aspect_is_kept(tmp_path):
    """Of 60 x 32 pixels, 10:8 keeps the middle 40: a mark there fills it, but for the blur."""
    image = Image.new("RGB", (60, 32), "red")
    image.paste("blue", (10, 0, 50, 32))
    array = read(image, tmp_path)
    assert array.shape == (3, 8, 10) and array.dtype == np.uint8
    blue = np.array([0, 0, 255])[:, None, None]
    assert (array == blue)[:, :, 1:-1].all() and (array[2] > 200).all()
    np.testing.assert_array_equal(array, array[:, :, ::-1])


def test_tall_images_lose_top_and_bottom_alike(tmp_path):
    image = Image.new("RGB", (20, 100), "red")
    image.paste("blue", (0, 42, 20, 58))
    array = read(image, tmp_path)
    assert (array[2, 1:-1] == 255).all() and (array[2] > 200).all()
    np.testing.assert_array_equal(array, array[:, ::-1])


def test_a_picture_of_the_right_size_stays_as_it_is(tmp_path):
    image = picture(10, 8)
    np.testing.assert_array_equal(read(image, tmp_path), np.asarray(image).transpose(2, 0, 1))


def test_small_pictures_are_enlarged(tmp_path):
    assert read(Image.new("RGB", (3, 2), (9, 8, 7)), tmp_path)[:, 4, 5].tolist() == [9, 8, 7]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_colour_or_gray(tmp_path, mode, channels):
    gray = Image.new("L", (30, 24), 255)
    image = Image.new(mode, gray.size, 65535) if mode == "I;16" else gray.convert(mode)
    file = tmp_path / ("one.tif" if mode in ("CMYK", "I;16") else "one.png")
    image.save(file)
    array = folder.read(file, data("folder", 8, 10, channels))
    assert array.shape == (channels, 8, 10) and array.min() >= 254


def test_transparent_parts_are_white(tmp_path):
    """What a picture without background is shown on; its hidden colour is anything."""
    image = Image.new("RGBA", (10, 8), (200, 0, 0, 0))
    image.paste((0, 0, 200, 255), (0, 0, 5, 8))
    array = read(image, tmp_path)
    assert array[:, 4, 1].tolist() == [0, 0, 200]
    assert array[:, 4, 8].tolist() == [255, 255, 255]


def test_sixteen_bits_become_eight(tmp_path):
    values = np.linspace(0, 65535, 80).reshape(8, 10).astype(np.uint16)
    array = read(Image.fromarray(values), tmp_path)
    expected = values.astype(float) * 255 / 65535
    assert np.abs(array - expected[None]).max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_whose_white_is_unknown_are_refused(tmp_path, dtype):
    with pytest.raises(ValueError, match="one.tif.*8 or 16 bits"):
        read(Image.fromarray(np.full((8, 10), 0.5 * 255, dtype)), tmp_path, "one.tif")


@settings(deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(218, 178), (233, 197), (64, 64)])
)
def test_pictures_of_any_size_fit(width, height, size):
    image = Image.new("L", (min(width, 12 * height), min(height, 12 * width)))
    assert folder.fitted(image, data("folder", *size, 1)).shape == (1, *size)


def test_photographs_are_turned_upright(tmp_path):
    upright = picture(20, 16)
    tags = Image.Exif()
    tags[0x0112] = 6  # to be shown turned a quarter clockwise
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    turned = read(sideways, tmp_path, "one.jpg", exif=tags, quality=95).astype(int)
    assert np.abs(turned - read(upright, tmp_path)).mean() < 4


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        datasets.load_split(own(tmp_path / "nowhere"), "train")


def test_too_few_images_are_counted(album):
    for file in list(album.glob("*.png"))[:3]:
        file.unlink()
    with pytest.raises(ValueError, match="97 images.*at least 100"):
        datasets.load_split(own(album), "train")


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(album, content):
    file = folder.files(own(album), "train")[3]
    file.write_bytes(file.read_bytes()[:60] if content is None else content)
    with pytest.raises(ValueError, match=str(file)):
        datasets.load_split(own(album), "train")


def test_an_unreadable_image_is_left_out_of_every_count(album):
    chosen = replace(own(album), skip_unreadable=True)
    for split in folder.SHARES:
        folder.files(chosen, split)[1].write_bytes(b"not an image")
    assert folder.describe(chosen)
    for split in folder.SHARES:
        expected = len(folder.files(chosen, split)) - 1
        assert datasets.count(chosen, split) == len(datasets.load_split(chosen, split).images)
        assert datasets.count(chosen, split) == expected


def test_an_empty_split_says_so(album):
    with pytest.raises(ValueError, match="folder validation: no images"):
        datasets.load_split(own(album, validation=0), "validation")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=100, deadline=None)
@given(
    suffix=st.sampled_from(["png", "jpg", "bmp", "tif", "webp"]),
    cut=st.floats(0, 1),
    choice=st.randoms(use_true_random=False),
)
def test_any_damaged_file_is_read_or_named(tmp_path_factory, suffix, cut, choice):
    file = tmp_path_factory.mktemp("damage") / f"one.{suffix}"
    picture(30, 24).save(file)
    content = bytearray(file.read_bytes()[: int(cut * 2 * file.stat().st_size)])
    for _ in range(3 if content else 0):
        content[choice.randrange(len(content))] = choice.randrange(256)
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a wrong size must not fill memory
        try:
            assert folder.read(file, data("folder", 8, 10)).shape == (3, 8, 10)
        except ValueError as error:
            assert str(file) in str(error)


@pytest.mark.parametrize("edit", ["added", "removed", "renamed", "rewritten"])
def test_the_cache_key_changes_with_the_files(album, edit):
    picture(9, 9).save(album / "more" / "spare.png")  # so that one can go
    before = folder.cache_key(own(album), "train")
    assert folder.cache_key(own(album), "train") == before
    file = folder.files(own(album), "train")[0]
    if edit == "added":
        picture(9, 9).save(album / "another.png")
    elif edit == "removed":
        file.unlink()
    elif edit == "renamed":
        file.rename(file.with_name("renamed.png"))
    else:
        rewrite(file)
    folder.survey.cache_clear()  # as in the next process
    assert folder.cache_key(own(album), "train") != before


def rewrite(file):
    """Other content of the same length, and times as before."""
    content, before = bytearray(file.read_bytes()), file.stat()
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_folder_that_moves_or_is_touched_stays_the_same(album, tmp_path):
    before = folder.cache_key(own(album), "train")
    os.utime(folder.files(own(album), "train")[0], ns=(0, 1))
    assert folder.cache_key(own(album), "train") == before
    moved = album.rename(tmp_path / "elsewhere")
    assert folder.cache_key(own(moved), "train") == before
    for memory in (paths.CACHE / "digests").glob("*"):
        memory.write_text("[damaged")
    files._remembered.cache_clear()
    assert folder.cache_key(own(moved), "train") == before


def test_only_new_files_are_read_again(album, monkeypatch):
    folder.cache_key(own(album), "train")
    file, read = folder.files(own(album), "train")[0], []
    rewrite(file)
    monkeypatch.setattr(files, "_digest", lambda file: read.append(file) or "other")
    folder.cache_key(own(album), "train")
    assert read == [file]


def test_pictures_that_change_while_they_are_read_are_not_kept(album, monkeypatch):
    file, original = folder.files(own(album), "train")[0], datasets.build

    def build(*args):
        original(*args)
        rewrite(file)

    monkeypatch.setattr(disk, "build", build)
    with pytest.raises(ValueError, match="changed while they were read: run again"):
        datasets.load_split(own(album), "train")
    assert not any((paths.CACHE / "images").glob("folder-*train*"))


def test_what_belongs_to_a_system_is_no_picture(album):
    before = folder.scan(str(album))
    for place in (".Trash-1000/files", ".ipynb_checkpoints", "@eaDir/a", "__MACOSX", "#recycle"):
        (album / place).mkdir(parents=True)
        picture(9, 9).save(album / place / "spare.png")
    (album / "._1.png").write_bytes(b"Mac OS X")
    folder.survey.cache_clear()
    assert folder.scan(str(album)) == before
    hidden = album.rename(album.with_name(".album"))  # the folder itself may be
    assert len(folder.scan(str(hidden))) == len(before)


def test_links_count_once_and_loops_end(album, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    picture(9, 9, seed=77).save(other / "linked.png")
    (album / "folder").symlink_to(other)
    (album / "again").symlink_to(other)
    (album / "file.png").symlink_to(other / "linked.png")
    (other / "loop").symlink_to(album)
    (album / "broken.png").symlink_to(tmp_path / "nothing.png")
    assert len(folder.scan(str(album))) == 101
    assert "1 links to nothing" in folder.describe(own(album))


def test_copies_stay_in_one_split_and_are_counted(album):
    for number, file in enumerate(list(folder.scan(str(album)))[:40]):
        (album / f"copy{number}.png").write_bytes(file.read_bytes())
    folder.survey.cache_clear()
    contents = [{f.read_bytes() for f in folder.files(own(album), split)} for split in SPLITS]
    assert len(set.union(*contents)) == sum(map(len, contents)) == 100
    assert len(folder.scan(str(album))) == 140
    assert "40 copies of others" in folder.describe(own(album))


def test_files_that_are_no_pictures_are_passed_over_and_counted(album):
    (album / "notes.txt").write_text("P5 is a mark, but not of this")
    (album / "labels.csv").write_text("a,b")
    picture(9, 9, seed=5).save(album / "nameless", format="PNG")
    picture(9, 9, seed=6).save(album / "wrong.dat", format="JPEG")
    line = folder.describe(own(album))
    assert "102 images" in line
    assert "1 .csv files passed over" in line and "1 .txt files passed over" in line


def test_unreadable_images_of_all_splits_are_told_at_once(album):
    broken = [folder.files(own(album), split)[1] for split in SPLITS]
    for file in broken:
        file.write_bytes(b"not an image")
    with pytest.raises(ValueError) as caught:
        datasets.load_split(own(album), "train")
    assert all(str(file) in str(caught.value) for file in broken)
    assert str(caught.value).count("--skip-unreadable") == 1


def test_an_edited_folder_is_read_again(album):
    before = datasets.load_split(own(album), "train").images[0].copy()
    file = folder.files(own(album), "train")[0]
    picture(33, 44, seed=1234).save(file)
    after = datasets.load_split(own(album), "train").images[0]
    assert (before != after).any()


def test_the_description_says_what_is_read_and_done(album):
    line = folder.describe(own(album, train=50))
    assert "\n" not in line
    for part in ("100 images", str(album), "40x50", "20:16", "20x16", "colour"):
        assert part in line
    for part in ("50 train", "10 validation", "20 test"):
        assert part in line
    assert "gray" in folder.describe(own(album, channels=1))


def test_the_cache_of_a_folder_holds_no_path(album, cache):
    """What is shared when a cache is shared: pictures and checksums."""
    datasets.load_split(own(album), "train")
    meta = json.loads((datasets.cache_folder(own(album), "train") / "meta.json").read_text())
    assert meta.keys() == {"images"} and str(album) not in json.dumps(meta)


def test_a_contact_sheet_shows_images_as_models_see_them(album, tmp_path, capsys):
    chosen = own(album)
    bad = folder.files(chosen, "train")[3]
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    folder.survey.cache_clear()
    figure = panels.contact_sheet(own(album), 200)
    (shown,) = (image.get_array() for image in figure.axes[0].images)
    assert shown.size and figure.axes[0].get_title() == "20×16, colour"
    runner.show_folder(chosen, tmp_path / "sheets" / "faces.png")
    text = capsys.readouterr().out
    assert "WARNING   70 images to train on" in text
    with Image.open(tmp_path / "sheets" / "faces.png") as written:
        assert written.width > 500


def test_a_folder_of_which_nothing_can_be_read_has_no_contact_sheet(album):
    for number, file in enumerate(folder.scan(str(album))):
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([number]))
    folder.survey.cache_clear()
    assert panels.contact_sheet(own(album), 5) is None
