"""Encode images as PNG, and show a still picture of a widget where no kernel runs."""

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sos.analysis.editing import Shape

LARGEST = 16  # screen pixels per pixel
RUN = "Run the cells up to this one to use it"
BAND, BAND_INK = (25, 118, 210), (255, 255, 255)  # seen on light and on dark pages


def comfortable_zoom(shape: Shape, side: int = 360) -> int:
    """Return the zoom at which the longer side of an image has about `side` screen pixels."""
    return min(LARGEST, max(1, round(side / max(shape[1:]))))


def png(image: Tensor, zoom: int = 1) -> bytes:
    """Encode an image (C, H, W), clamped to [0, 1], as PNG, `zoom` times as high and wide."""
    return encode(pixels_of(image, zoom))


def pixels_of(image: Tensor, zoom: int = 1) -> Image.Image:
    """Convert an image (C, H, W), clamped to [0, 1], to bytes, `zoom` times as high and wide."""
    pixels = image.detach().cpu().mul(255).add(0.5).clamp(0, 255).to(torch.uint8)
    pixels = pixels.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array)


def encode(picture: Image.Image) -> bytes:
    """Encode a picture as PNG, in little time."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Load the typeface of figures, which has the minus sign."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def banded(picture: bytes, sentence: str) -> bytes:
    """Add a band with a sentence below a picture, a PNG file, which it widens where it must."""
    above, letters = Image.open(io.BytesIO(picture)).convert("RGB"), font(13)
    side = 9  # of the mark that starts cells
    width = max(above.width, round(letters.getlength(sentence)) + side + 32)
    result = Image.new("RGB", (width, above.height + 30), BAND)
    result.paste((255, 255, 255), (0, 0, width, above.height))
    result.paste(above, ((width - above.width) // 2, 0))
    ink, middle = ImageDraw.Draw(result), above.height + 15
    ink.polygon([(10, middle - 5), (10, middle + 5), (10 + side, middle)], fill=BAND_INK)
    ink.text((18 + side, middle), sentence, BAND_INK, letters, anchor="lm")
    return encode(result)


def labelled(
    sheet: Tensor, rows: Sequence[str], columns: Sequence[str], title: str, zoom: int = 1
) -> bytes:
    """Encode tiles with the names of their rows and columns as PNG.

    `sheet` (C, H, W) has the tiles in rows and columns of one size, with gaps between them.
    """
    picture, letters = pixels_of(sheet, zoom).convert("RGB"), font(11)
    left, top = 10 + round(max(map(letters.getlength, rows), default=0)), 36
    width = max(left + picture.width, round(letters.getlength(title)) + 8)
    result = Image.new("RGB", (width, top + picture.height), (255, 255, 255))
    result.paste(picture, (left, top))
    ink = ImageDraw.Draw(result)
    ink.text((4, 2), title, "black", letters)
    for names, length, along in ((columns, picture.width, 0), (rows, picture.height, 1)):
        for number, name in enumerate(names):
            middle = round((number + 0.5) * length / len(names))
            place = (left - 5, top + middle) if along else (left + middle, top - 3)
            ink.text(place, name, "black", letters, anchor="rm" if along else "ms")
    return encode(result)


class Still:
    """Show a widget also as a still picture with a band that says how to bring it to life.

    JupyterLab shows the live widget. GitHub, nbviewer and unexecuted notebooks show the picture.
    """

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        text = f"{type(self).__name__}: run the notebook to use it"
        picture = base64.b64encode(banded(self.still(), RUN)).decode()
        return data | {"text/plain": text, "image/png": picture}, metadata

    def still(self) -> bytes:
        """Return the picture as a PNG file."""
        raise NotImplementedError
