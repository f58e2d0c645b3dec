"""How figures look and where they are saved: one owner of fonts, colours, sizes and file names."""

import io
import os
import sys
from contextlib import AbstractContextManager
from functools import cache

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sos.system import paths

WIDTH = 7.0  # inches: the text width of a page, so that the fonts below are what a page shows
FILE_DPI = 200
SHOWN_DPI = 120  # in notebooks, whose size counts; the files have more
STYLE = {
    "figure.dpi": SHOWN_DPI,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,  # editable text
}
# Colours that colour-blind readers tell apart (Okabe & Ito, 2008).
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
# Every model keeps its colour and its line in all figures.
LINES = {
    "β-VAE": {"color": VERMILLION, "ls": (0, (5, 1.5))},
    "SOS-VAE": {"color": BLUE, "ls": "-"},
    "data": {"color": BLACK, "ls": (0, (1, 1.2))},
    "Dorta et al.": {"color": GREEN, "ls": (0, (6, 1.5, 1, 1.5))},
    "Dorta et al. with ξ_H": {"color": SKY, "ls": (0, (3, 1, 1, 1, 1, 1))},
    "low rank + sparse": {"color": PURPLE, "ls": (0, (8, 2))},
}


def styled() -> AbstractContextManager[None]:
    """Use the collection's own style over matplotlib's defaults, not the user's files."""
    return plt.style.context(["default", STYLE])


def plain() -> AbstractContextManager[None]:
    """Use matplotlib's defaults, in which figures are drawn to files."""
    return plt.style.context("default")


def save(figure: Figure, name: str, profile: str):
    """Write <profile>/<name>.png and .pdf, each whole or not at all; return what a notebook shows.

    Figures with pictures are shown as JPEG, at a fifth of the size. The runner's files go to
    figures/, and those of notebooks that are run by hand go to executed/figures/.
    """
    show_pictures()
    average_what_shrinks(figure)
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        look = {"format": suffix, "metadata": metadata, "bbox_inches": "tight", "dpi": FILE_DPI}
        file = paths.FIGURES / profile / f"{name}.{suffix}"
        with plain(), paths.replacing(file) as temporary:
            figure.savefig(temporary, **look)
    plt.close(figure)  # the notebook shows what is returned, once
    figure.set_dpi(SHOWN_DPI)
    return _as_jpeg(figure) if any(axes.images for axes in figure.axes) else figure


def _as_jpeg(figure: Figure):
    from IPython.display import Image

    stream = io.BytesIO()
    quality = {"quality": 85, "optimize": True}
    look = {"dpi": SHOWN_DPI, "bbox_inches": "tight", "pil_kwargs": quality}
    with plain():
        figure.savefig(stream, format="jpeg", **look)
    return Image(stream.getvalue(), format="jpeg")


@cache
def show_pictures() -> None:
    """Make sure that a notebook shows figures, which with MPLBACKEND=Agg would be text."""
    if "ipykernel" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None and matplotlib.get_backend().lower() == "agg":
        shell.enable_matplotlib("inline")
    if paths.BY_HAND:
        print(f"figures go to {os.path.relpath(paths.FIGURES)}; run_all.sh renews figures/")


def average_what_shrinks(figure: Figure) -> None:
    """Average images with more pixels than the file gives them; others keep their pixels."""
    figure.draw_without_rendering()  # places the axes
    for image in (image for axes in figure.axes for image in axes.images):
        shown = image.get_window_extent().width * FILE_DPI / figure.dpi
        if image.get_array().shape[1] > shown:
            image.set_interpolation("antialiased")
