"""Edit one factor of a simulated image by a few pixels, and compare with the picture that is true.

A simulator renders the same subject again with one factor changed (`render(..., changes=...)`).
Pixels of what changed are revealed, and the edit is Matheron's rule on the original image x, as on
a sample in an editor: x + Σ·₂Σ₂₂⁻¹(b - x₂), which has the colours b at the revealed pixels (§4.4).
The truth says what of that is right.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from torch import Tensor

from sos import datasets
from sos.analysis import prediction
from sos.analysis.held_out import listed
from sos.config import Data
from sos.models.networks import Observation
from sos.models.vae import VAE
from sos.system.devices import device, generator
from sos.system.progress import tqdm

# What is changed, and the simulator's factors that make it up. They take the values that another
# test subject has.
FACTORS = {
    "faces": {
        "hair colour": ("hair_red", "hair_green", "hair_blue"),
        "skin tone": ("skin_tone", "skin_warmth"),
        "background": ("background_red", "background_green", "background_blue"),
        "light": ("light_azimuth",),
        "smile": ("smile",),
        "age": ("age",),
    },
    "brains": {
        "ventricles": ("ventricle_growth",),
        "sulci": ("sulcal_widening",),
        "contrast": ("gray_intensity", "white_intensity"),
        "receive field": ("bias_x", "bias_y"),
    },
}
REVEALED = 1, 3, 10, 30, 100  # pixels, at most as many as changed
PINNED = 10, 100  # numbers with which as many pixels that do not change are held as they are
OPTIMISED = 1, 10, 100  # numbers for which the code is optimised, which takes longest
CHANGED = 8 / 255  # intensity above which a pixel counts as changed
FEWEST = 10  # changed pixels; subjects with fewer are left out


@dataclass(frozen=True)
class Pair:
    """Hold a subject before and after one factor has changed, and the order of revealed pixels."""

    before: Tensor  # (C, H, W) in [0, 1]
    after: Tensor
    changed: Tensor  # (H, W) bool
    order: Tensor  # numbers of the changed pixels, in random order
    others: Tensor  # and of those that stay as they are

    def revealed(self, count: int, pinned: bool = False) -> Tensor:
        """Return which values of a flat image the first `count` changed pixels are: (S,) bool.

        With `pinned` there are as many others, which the edit is told to keep.
        """
        pixels = torch.zeros(self.changed.numel(), dtype=torch.bool)
        pixels[self.order[:count]] = True
        if pinned:
            pixels[self.others[: min(count, len(self.order))]] = True
        return pixels.repeat(len(self.before))

    @property
    def wanted(self) -> Tensor:
        """Return what an edit may ask for: new values where pixels change, old elsewhere (S,)."""
        return torch.where(self.changed, self.after, self.before).flatten()


def pairs(data: Data, factor: str, count: int) -> list[Pair]:
    """Render `count` test subjects before and after a factor takes another subject's value.

    Subjects of whom less than FEWEST pixels change are left out. Raises ValueError for images that
    are not simulated, and for unknown factors.
    """
    if data.name not in FACTORS:
        raise ValueError(
            f"one factor can be changed in simulated images ({', '.join(FACTORS)}), not in "
            f"{data.name!r}: run without --faces, or skip what needs it"
        )
    if factor not in FACTORS[data.name]:
        known = ", ".join(FACTORS[data.name])
        raise ValueError(f"factor is {factor!r}; of {data.name} there are {known}")
    simulator, names = datasets.simulator(data), FACTORS[data.name][factor]
    indices, split = datasets.items(data, "test"), datasets.load_split(data, "test")
    count = min(count, len(indices) // 2)
    others = split.factors[count : 2 * count]  # of subjects that are not among the `count`
    stream = generator("revealed pixels", sum(map(ord, factor)))

    def changed(index: int, other: np.ndarray) -> np.ndarray:
        changes = {name: float(other[simulator.FACTORS.index(name)]) for name in names}
        rendered = simulator.render(index, data.height, data.width, changes)
        return datasets.in_channels(data, rendered.image)

    todo = zip(indices[:count], others, strict=True)
    made = Parallel(n_jobs=cpu_count())(delayed(changed)(*each) for each in todo)
    found = (_pair(*each, stream) for each in zip(split.images[:count], made, strict=True))
    return [pair for pair in found if len(pair.order) >= FEWEST]


def _pair(before: np.ndarray, after: np.ndarray, stream: torch.Generator) -> Pair:
    before, after = (torch.from_numpy(image).float() / 255 for image in (before, after))
    changed = (after - before).abs().amax(0) > CHANGED
    order = torch.randperm(changed.numel(), generator=stream)
    there = changed.flatten()[order]
    return Pair(before, after, changed, order[there], order[~there])


def moved(p: Observation, image: Tensor, revealed: Tensor, values: Tensor) -> Tensor:
    """Move a flat image (S,) to `values` at the `revealed` ones: x + Σ·₂Σ₂₂⁻¹(b - x₂) (S,)."""
    shift = p.condition(revealed, p.loc[revealed] + values - image[revealed]).mean - p.loc
    result = (image + shift).clone()
    result[revealed] = values
    return result


Edit = Callable[[int, Pair, Tensor], Tensor]  # number of the subject, pair, revealed (S,) → (S,)


def by_distributions(each: Sequence[Observation]) -> Edit:
    """Edit each subject by the covariance of its own distribution."""

    def edit(n: int, pair: Pair, revealed: Tensor) -> Tensor:
        before, wanted = (x.flatten().to(each[n].loc) for x in (pair.before, pair.wanted))
        return moved(each[n], before, revealed, wanted[revealed])

    return edit


def paint_only(n: int, pair: Pair, revealed: Tensor) -> Tensor:
    """Change the revealed pixels and nothing else."""
    return torch.where(revealed, pair.after.flatten(), pair.before.flatten())


def copy_colour(n: int, pair: Pair, revealed: Tensor) -> Tensor:
    """Add the mean change of the revealed pixels to all pixels that truly change.

    It is told which pixels these are, which no other method is.
    """
    before, after = pair.before.flatten(), pair.after.flatten()
    channels = len(pair.before)
    change = (after - before)[revealed].view(channels, -1).mean(1)
    shift = change[:, None] * pair.changed.flatten()
    return torch.where(revealed, after, before + shift.flatten())


def errors(pair: Pair, predicted: Tensor) -> dict[str, float]:
    """Compare a prediction (S,) with the truth, in units of the whole true change ‖x' - x‖.

    "error" is that of the whole image, 1 for doing nothing; "inside" and "outside" are its parts
    where the truth changed and where it did not. Their squares sum to that of "error".
    """
    wrong = (predicted.cpu().view_as(pair.after) - pair.after).double().square().sum(0)
    whole = (pair.after - pair.before).double().square().sum()
    parts = wrong.sum(), wrong[pair.changed].sum(), wrong[~pair.changed].sum()
    values = (math.sqrt(part / whole) for part in parts)
    return dict(zip(("error", "inside", "outside"), values, strict=True))


Scores = dict[str, dict[str, list[float]]]  # {number of pixels: {name: one for each subject}}


def measure(
    edit: Edit, subjects: list[Pair], counts: Sequence[int] = REVEALED, pinned: bool = False
) -> Scores:
    """Score an edit for each number of revealed pixels."""
    result = {}
    for count in counts:
        masks = (pair.revealed(count, pinned) for pair in subjects)
        made = (edit(n, *each) for n, each in enumerate(zip(subjects, masks, strict=True)))
        result[str(count)] = listed(errors(*each) for each in zip(subjects, made, strict=True))
    return result


@torch.no_grad()
def of_model(
    vae: VAE, data: Data, count: int, change: prediction.Change, latent: bool, title: str
) -> dict[str, dict]:
    """Score edits by a model's distributions at the encoder's codes: {method: {factor: scores}}.

    The methods are "covariance", p(y|z) as in the paper; "pinned", the same told what stays; and
    with `latent` also "code", which moves z alone by `optimise`, and "both", in which the code is a
    second ω (`prediction.with_factor`). `change` is done to each p(y|z) first. Factors that change
    too few pixels of all subjects are left out.
    """
    result: dict[str, dict] = defaultdict(dict)
    for factor in tqdm(FACTORS[data.name], desc=title, unit="factor"):
        if not (subjects := pairs(data, factor, count)):
            continue
        x = torch.stack([pair.before for pair in subjects]).to(device())
        z, known, joint = vae.encode(x)[0], [], []
        for part in z.split(prediction.CODES):
            p = change(vae.decode(part))
            known += [p[n] for n in range(len(part))]
            if latent:
                p = prediction.with_factor(p, p.loc, prediction.slopes(vae, part, p.loc))
                joint += [p[n] for n in range(len(part))]
        edit = by_distributions(known)
        result["covariance"][factor] = measure(edit, subjects)
        result["pinned"][factor] = measure(edit, subjects, PINNED, pinned=True)
        if latent:
            result["both"][factor] = measure(by_distributions(joint), subjects)
            result["code"][factor] = _of_codes(vae, z, subjects)
    return dict(result)


def _of_codes(vae: VAE, z: Tensor, subjects: list[Pair]) -> Scores:
    """Score x + μ(z') - μ(z), where z' is optimised for the revealed pixels."""
    before = vae.decode(z, mean_only=True).loc.cpu()
    found = {}
    for count in OPTIMISED:
        masks = torch.stack([pair.revealed(count) for pair in subjects])
        after = optimise(vae, z, subjects, masks)
        shift = vae.decode(after, mean_only=True).loc.cpu() - before
        found[str(count)] = listed(
            errors(pair, torch.where(mask, pair.after.flatten(), pair.before.flatten() + change))
            for pair, mask, change in zip(subjects, masks, shift, strict=True)
        )
    return found


def optimise(vae: VAE, z: Tensor, subjects: list[Pair], revealed: Tensor) -> Tensor:
    """Find codes z' that bring μ(z') - μ(z) to the change of the `revealed` values (N, S) bool.

    They minimise ‖(μ(z') - μ(z))_2 - (b - x_2)‖²/ε + ‖z' - z‖² by Gauss-Newton with halved steps,
    ε being the model's.
    """
    mean = vae.decode(z, mean_only=True)
    epsilon = float(mean.cov_diag.flatten()[0])
    wanted = torch.stack([(pair.after - pair.before).flatten() for pair in subjects]).to(z)
    mask = revealed.to(z)
    best = torch.full((len(z),), math.inf).to(z)
    found, code, target, size = z.clone(), z, z.clone(), torch.ones(len(z), 1).to(z)
    for _ in range(prediction.STEPS + 1):
        here = vae.decode(code, mean_only=True).loc
        slope = prediction.slopes(vae, code, here) * mask[..., None]
        left = (wanted - here + mean.loc) * mask
        cost = left.square().sum(1) / epsilon + (code - z).square().sum(1)
        better = cost < best
        best = torch.where(better, cost, best)
        normal = slope.mT @ slope / epsilon + torch.eye(z.shape[1]).to(z)
        right = (slope.mT @ left[..., None])[..., 0] / epsilon - (code - z)
        step = torch.linalg.solve(normal.double(), right.double()).to(z)
        found = torch.where(better[:, None], code, found)
        target = torch.where(better[:, None], code + step, target)
        size = torch.where(better[:, None], torch.ones_like(size), size / 2)
        code = found + size * (target - found)
    return found


def of_distribution(p: Observation, data: Data, count: int) -> dict[str, dict]:
    """Score what needs no network: paint alone, copying the colour, and p for all subjects.

    The methods are named "paint alone", "copied colour", "covariance" and "pinned".
    """
    result: dict[str, dict] = defaultdict(dict)
    for factor in FACTORS[data.name]:
        if not (subjects := pairs(data, factor, count)):
            continue
        edit = by_distributions([p] * len(subjects))
        result["paint alone"][factor] = measure(paint_only, subjects)
        result["copied colour"][factor] = measure(copy_colour, subjects)
        result["covariance"][factor] = measure(edit, subjects)
        result["pinned"][factor] = measure(edit, subjects, PINNED, pinned=True)
    return dict(result)


@dataclass(frozen=True)
class Example:
    """Hold a distribution to paint on, of a test subject, and the picture that is true."""

    name: str
    p: Observation
    before: Tensor  # (C, H, W)
    truth: Tensor | None  # with one factor changed; None where images are not simulated


@torch.no_grad()
def examples(vae: VAE, data: Data, count: int = 4) -> list[Example]:
    """Return distributions of `count` test subjects, each with the truth of another changed factor.

    Of images that are read, the distributions are those of the first test images, without a truth.
    """
    if data.name in FACTORS:
        factors = [name for name in FACTORS[data.name] if name not in ("smile", "age")][:count]
        found = [(name, pairs(data, name, count + 4)) for name in factors]
        chosen = [
            (f"{name} changed", some[place % len(some)].before, some[place % len(some)].after)
            for place, (name, some) in enumerate(found)
            if some
        ]
    else:
        images = torch.from_numpy(datasets.load_split(data, "test").images[:count]).float() / 255
        chosen = [(f"image {n + 1}", one, None) for n, one in enumerate(images)]
    x = torch.stack([before for _, before, _ in chosen]).to(device())
    p = vae.decode(vae.encode(x)[0])
    return [Example(name, p[n], *pair) for n, (name, *pair) in enumerate(chosen)]
