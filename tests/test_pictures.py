"""Every kind of picture is seen as it is meant: files made by hand, numpy as the oracle."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sos.config import Data
from sos.datasets import folder

RAMP = np.tile(np.linspace(0, 1, 16), (16, 1))  # from black to white


def decoded(content: bytes, channels: int = 1) -> np.ndarray:
    image = folder.upright(io.BytesIO(content), "a picture")
    array = folder.fitted(image, Data("folder", 16, 16, channels, 1, 1, 1)).astype(int)
    return array[0] if channels == 1 else array


def png(values: np.ndarray, bits: int, colour: int = 0, **chunks: bytes) -> bytes:
    """A PNG from scratch: whole numbers (H, W) or (H, W, C) of so many bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    flat = values.reshape(len(values), -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in flat]
    else:  # bits of a row one after the other
        digits = (flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = [
            np.packbits(row.astype(np.uint8)).tobytes() for row in digits.reshape(len(flat), -1)
        ]
    size = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", size), *(chunk(k.encode(), v) for k, v in chunks.items())]
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


def tiff(values: np.ndarray, bits: int, photometric: int, order: str = "<") -> bytes:
    """An uncompressed gray TIFF from scratch, in either order of bytes."""
    if bits == 1:
        pixels = np.packbits(values.astype(np.uint8), axis=1).tobytes()
    else:
        pixels = values.astype(f"{order}u{bits // 8}").tobytes()
    tags = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: photometric, 273: 8,
            277: 1, 278: values.shape[0], 279: len(pixels)}  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, v) for tag, v in tags.items())
    mark = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 42)
    start = struct.pack(f"{order}I", 8 + len(pixels))
    return mark + start + pixels + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def of_bits(bits: int) -> np.ndarray:
    return np.rint(RAMP * (2**bits - 1)).astype(int)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparent", [False, True])
def test_gray_png_of_every_depth(bits, transparent):
    values, last = of_bits(bits), 2**bits - 1
    gone = values == values[0, 3]
    chunks = {"tRNS": struct.pack(">H", values[0, 3])} if transparent else {}
    expected = np.where(gone & transparent, 255, np.rint(255 * values / last))
    assert np.abs(decoded(png(values, bits, **chunks)) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_gray_and_colour_png_with_transparency(bits):
    values, last = of_bits(bits), 2**bits - 1
    alpha = values.T
    expected = 255 * (RAMP * RAMP.T + 1 - RAMP.T)  # on white
    both = png(np.stack([values, alpha], -1), bits, colour=4)
    assert np.abs(decoded(both) - expected).max() <= 2
    colour = png(np.stack([values, values, values, alpha], -1), bits, colour=6)
    assert np.abs(decoded(colour, 3) - expected).max() <= 2
    key = struct.pack(">HHH", 0, 0, 0)
    keyed = png(np.stack([values] * 3, -1), bits, colour=2, tRNS=key)
    assert np.abs(decoded(keyed, 3) - np.where(values == 0, 255, 255 * values / last)).max() <= 1


def test_palettes_with_transparency():
    palette = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    values = np.arange(256).reshape(16, 16) // 64
    image = decoded(png(values, 2, colour=3, PLTE=palette, tRNS=bytes([255, 255, 255, 0])), 3)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])
    assert np.array_equal(image, colours[values].transpose(2, 0, 1))


@pytest.mark.parametrize("bits", [1, 8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("zero_is_white", [False, True])
def test_tiff_of_either_photometry_and_order(bits, order, zero_is_white):
    values = of_bits(bits)
    shown = np.rint(255 * values / (2**bits - 1))
    expected = 255 - shown if zero_is_white else shown
    if (bits, order, zero_is_white) == (16, ">", True):  # which Pillow does not read
        with pytest.raises(ValueError, match="cannot be read as an image"):
            decoded(tiff(values, bits, 0, order))
        return
    assert np.abs(decoded(tiff(values, bits, int(not zero_is_white), order)) - expected).max() <= 1


@pytest.mark.parametrize("most", [255, 1023, 65535])
def test_portable_gray_maps(most):
    values = np.rint(RAMP * most).astype(">u2" if most > 255 else "u1")
    content = f"P5\n# a note\n16 16\n{most}\n".encode() + values.tobytes()
    assert np.abs(decoded(content) - np.rint(255 * RAMP)).max() <= 1


@pytest.mark.parametrize("kind", sorted({"PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM",
                                         "JPEG2000", "AVIF", "TGA", "PCX", "SGI"}))  # fmt: skip
def test_formats(kind):
    if kind not in folder.FORMATS:
        pytest.skip(f"this Pillow reads no {kind}")
    gray = np.rint(255 * RAMP).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.stack([gray, gray.T, 255 - gray], -1)).save(stream, kind)
    found = decoded(stream.getvalue(), 3)
    exact = kind in {"PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI"}
    error = np.abs(found - np.stack([gray, gray.T, 255 - gray]))
    assert error.max() == 0 if exact else error.mean() < 25


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first(kind):
    frames = [Image.new("L", (16, 16), level).convert("RGB") for level in (200, 20)]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    assert np.abs(decoded(stream.getvalue()) - 200).max() <= 4


def test_colours_of_print_and_of_the_eye():
    red = Image.new("RGB", (16, 16), (200, 30, 40))
    for mode, kind in (("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG")):
        stream = io.BytesIO()
        red.convert(mode).save(stream, kind, quality=95)
        found = decoded(stream.getvalue(), 3).reshape(3, -1).mean(1)
        assert np.abs(found - [200, 30, 40]).max() < 6
    stream = io.BytesIO()
    Image.new("LAB", (16, 16), (110, 188, 165)).save(stream, "TIFF")  # L 43, a 60, b 37: a red
    found = decoded(stream.getvalue(), 3)[:, 0, 0]
    assert found[0] > 150 and found[1] < 60 and found[2] < 80


@pytest.mark.parametrize("content", [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n", b"%PDF-1.4", b"GIF89a", b"",
])  # fmt: skip
def test_what_is_no_picture_is_named(content):
    with pytest.raises(ValueError, match="a picture cannot be read as an image"):
        decoded(content)


@pytest.mark.parametrize("kind, expected", [
    ("gray", True), ("gray as colour", True), ("JPEG", True), ("one in colour", False),
    ("sepia", False),
])  # fmt: skip
def test_whether_a_folder_is_gray(kind, expected, tmp_path):
    for number in range(100):
        gray = np.rint(200 * RAMP).astype(np.uint8) + number % 50
        image = Image.fromarray(gray)
        if kind == "gray as colour":
            image = image.convert("RGB")
        elif kind == "sepia" or (kind == "one in colour" and number == 70):
            image = Image.fromarray(np.stack([gray + 5, gray, gray // 2], -1))
        image.save(tmp_path / f"{number}.{'jpg' if kind == 'JPEG' else 'png'}")
    assert folder.is_gray(str(tmp_path)) is expected
