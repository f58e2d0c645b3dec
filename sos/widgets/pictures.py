"""Encode images as PNG, and show a still picture of a widget where no kernel runs."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from sos.analysis.editing import Shape

LARGEST = 16  # screen pixels per pixel


def comfortable_zoom(shape: Shape, side: int = 360) -> int:
    """Return the zoom at which the longer side of an image has about `side` screen pixels."""
    return min(LARGEST, max(1, round(side / max(shape[1:]))))


def png(image: Tensor, zoom: int = 1) -> bytes:
    """Encode an image (C, H, W), clamped to [0, 1], as PNG, `zoom` times as high and wide."""
    pixels = image.detach().cpu().mul(255).add(0.5).clamp(0, 255).to(torch.uint8)
    pixels = pixels.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


class Still:
    """Show a widget also as a still picture.

    JupyterLab shows the live widget. GitHub, nbviewer and unexecuted notebooks show the picture.
    """

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        text = f"{type(self).__name__}: run the notebook to use it"
        picture = base64.b64encode(self.still()).decode()
        return data | {"text/plain": text, "image/png": picture}, metadata

    def still(self) -> bytes:
        """Return the picture as a PNG file."""
        raise NotImplementedError
