"""Measure what a component or an edit changes, by the region masks of simulated images."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from sos import datasets
from sos.analysis import editing, evaluation, sampling
from sos.config import Data, Evaluation
from sos.distributions.low_rank_normal import LowRankNormal
from sos.training.store import Model

VERSION = 1  # bump when the same model no longer gives the same numbers
IMAGES = 100  # over which shares of energy are averaged
LEADING = 5  # components that a claim about "the principal components" has to hold for

# The regions that are shown, and the regions of the simulators that make up each.
GROUPS = {
    "faces": {
        "background": ("background",), "hair": ("hair",), "skin": ("skin",),
        "clothes": ("clothes",), "eyes, brows,\nmouth, beard": ("eyes", "brows", "mouth", "beard"),
    },
    "brains": {
        "background": ("background",), "ventricles": ("ventricles",),
        "other fluid": ("csf",), "gray matter": ("gray",), "white matter": ("white",),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Scenes:
    """Hold images with a mask of each named region."""

    images: Tensor  # (N, C, H, W) in [0, 1]
    masks: Tensor  # (N, regions, H, W) bool; exactly one is true at each pixel
    names: tuple[str, ...]

    def mask(self, number: int, name: str) -> np.ndarray:
        """Return the mask (H, W) of one region of one image."""
        return self.masks[number, self.names.index(name)].numpy()


def has_masks(data: Data) -> bool:
    """Return whether regions are known, as for simulated images but not for those of a folder."""
    return data.name in GROUPS


def scenes(data: Data, count: int, split: str = "test") -> Scenes:
    """Render the first `count` images of a split again, with their regions (under 20 ms each).

    Raises ValueError for images whose regions are not known.
    """
    if not has_masks(data):
        raise ValueError(
            f"regions are known for simulated images ({', '.join(GROUPS)}), not for "
            f"{data.name!r}: run without --faces, or skip what needs them"
        )
    simulator, groups = datasets.simulator(data), GROUPS[data.name]
    indices = datasets.items(data, split)[:count]
    rendered = [simulator.render(index, data.height, data.width) for index in indices]
    regions = np.stack([one.regions for one in rendered])
    numbers = [[simulator.REGIONS.index(part) for part in parts] for parts in groups.values()]
    masks = np.stack([np.isin(regions, group) for group in numbers], 1)
    pictures = np.stack([datasets.in_channels(data, one.image) for one in rendered])
    images = torch.from_numpy(pictures).float() / 255
    return Scenes(images, torch.from_numpy(masks), tuple(groups))


def energy_shares(p: LowRankNormal, scenes: Scenes) -> Tensor:
    """Return the share of each principal component's energy |u_r|² in each region: (N, R, regions).

    p is the batch (N,) of distributions of these images. The shares of a component sum to one;
    those of a component that is zero are zero.
    """
    directions = p.principal_components().directions.cpu()  # (N, S, R)
    channels = scenes.images.shape[1]
    energy = directions.square().unflatten(1, (channels, -1)).sum(1)  # (N, pixels, R)
    return energy.mT @ scenes.masks.flatten(2).to(energy).mT


def area_shares(scenes: Scenes) -> Tensor:
    """Return the share of each region in the area of the image: (N, regions)."""
    return scenes.masks.flatten(2).float().mean(2)


Panel = tuple[Tensor, Tensor, tuple[str, ...]]  # shares (regions, R), areas (regions,), names


@torch.no_grad()
def panels(models: dict[str, Model], count: int) -> dict[str, Panel]:
    """Average the components' energy shares and the regions' areas over `count` test images."""
    result = {}
    for label, model in models.items():
        known_images = scenes(model.experiment.data, count)
        shares = (
            energy_shares(sampling.reconstruct(model, known_images.images), known_images).mean(0).mT
        )
        result[label] = shares, area_shares(known_images).mean(0), known_images.names
    return result


def numbers(panels: dict[str, Panel]) -> dict[str, dict[str, float]]:
    """Return the entries of `panels` by name, for a results file."""
    result: dict[str, dict[str, float]] = {}
    for label, (shares, areas, names) in panels.items():
        entries = result.setdefault(label, {})
        for share, area, name in zip(shares.tolist(), areas.tolist(), names, strict=True):
            name = one_line(name)
            entries[f"area of {name}"] = area
            entries |= {f"component {k + 1} in {name}": value for k, value in enumerate(share)}
    return result


def one_line(name: str) -> str:
    """Return the name of a region without the line break that labels of figures have."""
    return name.replace("\n", " ")


def cache_key(model: Model, settings: Evaluation) -> dict[str, str | int]:
    """Return what determines the numbers: what determines an evaluation, and this code."""
    return evaluation.cache_key(model, settings) | {"regions_version": VERSION}


def load_or_measure(model: Model, settings: Evaluation) -> dict[str, float]:
    """Return where the components' energy lies, cached or measured now.

    Each region has its "area", and the "share" of the component that has most of its energy there.
    "separable" is `separable` of the leading components.
    """
    key = cache_key(model, settings)

    def measure() -> dict[str, float]:
        shares, areas, names = panels({"": model}, IMAGES)[""]
        numbers = {"separable": separable(shares[:, :LEADING], areas)}
        for name, area, share in zip(names, areas.tolist(), shares, strict=True):
            name = one_line(name)
            numbers |= {f"{name}, area": area, f"{name}, share": share.max().item()}
        return numbers

    file = evaluation.cached_file(f"components-{model.experiment.name}", key)
    return evaluation.load_or_make(key, (file,), measure)


def separable(shares: Tensor, areas: Tensor) -> int:
    """Count the components with half of their energy in one small region.

    `shares` are (regions, R) and `areas` (regions,), and a small region has less than a quarter of
    the image.
    """
    return int((shares[areas < 0.25] >= 0.5).any(0).sum())


@torch.no_grad()
def coded_colours(model: Model, count: int) -> dict[str, dict[str, float]]:
    """Compute how much of each region's colour an image's code holds, as R² after decoding.

    R² is the squared correlation, over `count` test images x, of a region's mean colour in x and in
    μ(m(x)). It is computed for lightness, the mean of red, green and blue, and for warmth, red
    minus blue.
    """
    known_images = scenes(model.experiment.data, count)
    means = sampling.reconstruct(model, known_images.images).mean.cpu()
    decoded = means.view_as(known_images.images)
    result = {}
    for number, name in enumerate(known_images.names):
        mask = known_images.masks[:, number, None]  # (N, 1, H, W)
        here = mask.flatten(1).any(1)
        size = mask[here].sum((2, 3))
        pair = [(x[here] * mask[here]).sum((2, 3)) / size for x in (known_images.images, decoded)]
        tones = {"lightness": [colour.mean(1) for colour in pair]}
        if len(pair[0][0]) == 3:
            tones["warmth"] = [colour[:, 0] - colour[:, 2] for colour in pair]
        r2 = {tone: torch.corrcoef(torch.stack(x))[0, 1].item() ** 2 for tone, x in tones.items()}
        result[one_line(name)] = r2
    return result


def interior_point(mask: np.ndarray) -> tuple[float, float]:
    """Return the centre (x, y) of the pixel that is farthest from the border of a region (H, W)."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), mask.shape)
    return float(column) + 0.5, float(row) + 0.5


DAB = 0.06  # diameter of a dab, as a share of the height


def kinds_of_edit(model: Model, scenes: Scenes, std: float) -> dict[str, Tensor]:
    """Compute `edit_effects` of one exact pixel, of an exact dab and of a soft one."""
    p, size = sampling.reconstruct(model, scenes.images), max(2.0, DAB * scenes.images.shape[2])
    return {
        "one pixel, exact": edit_effects(p, scenes, 1, 0.0),
        "dab, exact": edit_effects(p, scenes, size, 0.0),
        f"dab, σ = {std:.2f}": edit_effects(p, scenes, size, std),
    }


def effect_numbers(effects: dict) -> dict[str, dict[str, float]]:
    """Return {label: (kinds, names)}, kinds from `kinds_of_edit`, by name, for a results file."""
    result: dict[str, dict[str, float]] = {}
    for label, (kinds, names) in effects.items():
        columns = ["asked for", *map(one_line, names)]
        for kind, table in kinds.items():
            for edited, row in zip(columns[1:], table.tolist(), strict=True):
                entries = result.setdefault(f"{label}, {kind}, edit on {edited}", {})
                pairs = zip(columns, row, strict=True)
                entries |= {name: value for name, value in pairs if math.isfinite(value)}
    return result


def edit_effects(p: LowRankNormal, scenes: Scenes, size: float, std: float) -> Tensor:
    """Average what editing one region changes in each, over images: (regions, 1 + regions).

    In every image each region gets a dab of `size` pixels at its deepest place, in the mean colour
    that this region has in the next image, so that the edit is one that the data contain. The first
    column is what the dab asks for, |colour - μ| where it lands. The others are the mean |change|
    of the conditional mean in each region, outside the dab. p is the batch of distributions.
    """
    channels, height, width = shape = tuple(scenes.images.shape[1:])
    count, groups = scenes.masks.shape[:2]
    effects = torch.full((count, groups, 1 + groups), torch.nan)
    for number in range(count):
        one, other = p[number], (number + 1) % count
        before = one.mean.unflatten(-1, shape).cpu()
        for group in range(groups):
            mask, source = scenes.masks[number, group], scenes.masks[other, group]
            if not mask.any() or not source.any():
                continue  # for example a bald head has no hair
            colour = scenes.images[other][:, source].mean(1)
            pixels = editing.brush([interior_point(mask.numpy())], size, shape)
            dab = editing.stroke(pixels, colour.tolist(), shape, std)
            after = editing.condition(one, [dab], shape).mean.unflatten(-1, shape).cpu()
            painted = torch.zeros(height * width, dtype=torch.bool)
            painted[pixels] = True
            painted = painted.view(height, width)
            asked = (colour[:, None] - before[:, painted]).abs().mean()
            change = change_by_region(before, after, scenes.masks[number], painted)
            effects[number, group] = torch.cat([asked[None], change])
    return effects.nanmean(0)


def change_by_region(before: Tensor, after: Tensor, masks: Tensor, painted: Tensor) -> Tensor:
    """Average |after - before| over the unpainted pixels of each region: (regions,).

    Images are (C, H, W), masks (regions, H, W), and painted is (H, W) bool. A region without
    unpainted pixels gets NaN.
    """
    change = (after - before).abs().mean(0)
    left = masks & ~painted
    return (change * left).sum((1, 2)) / left.sum((1, 2))
