"""What a component or an edit changes, by the region masks that simulated images come with."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sos import datasets
from sos.config import Data
from sos.low_rank_normal import LowRankNormal

# What is shown, and the regions of the simulators that it is made of.
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
    """Images with the mask of each named region."""

    images: Tensor  # (N, C, H, W) in [0, 1]
    masks: Tensor  # (N, regions, H, W) bool; of each pixel exactly one is true
    names: tuple[str, ...]

    def mask(self, number: int, name: str) -> np.ndarray:
        """One region of one image: (H, W)."""
        return self.masks[number, self.names.index(name)].numpy()


def known(data: Data) -> bool:
    """Whether regions are known: of simulated images, not of a folder's."""
    return data.name in GROUPS


def scenes(data: Data, count: int, split: str = "test") -> Scenes:
    """The first `count` images of a split with their regions, rendered anew (under 20 ms each).

    Raises ValueError for images whose regions nobody knows.
    """
    if not known(data):
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
    """Share of each principal component's energy |u_r|² in each region: (N, R, regions).

    p is the batch (N,) of distributions of these images. The shares of a component sum to one;
    those of a component that is zero are zero.
    """
    directions = p.principal_components().directions.cpu()  # (N, S, R)
    channels = scenes.images.shape[1]
    energy = directions.square().unflatten(1, (channels, -1)).sum(1)  # (N, pixels, R)
    return energy.mT @ scenes.masks.flatten(2).to(energy).mT


def area_shares(scenes: Scenes) -> Tensor:
    """Share of each region in the picture: (N, regions)."""
    return scenes.masks.flatten(2).float().mean(2)


def change_by_region(before: Tensor, after: Tensor, masks: Tensor, painted: Tensor) -> Tensor:
    """Mean |after - before| over the pixels of each region that were not painted: (regions,).

    Images (C, H, W), masks (regions, H, W), painted (H, W) bool. NaN where no pixel is left.
    """
    change = (after - before).abs().mean(0)
    left = masks & ~painted
    return (change * left).sum((1, 2)) / left.sum((1, 2))
