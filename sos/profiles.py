"""The settings of every experiment at every scale: one table, a row for each profile."""

import json
import re
import typing
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

from sos.config import Data, Evaluation, Experiment, Network, Objective, Profile, Study, Training
from sos.system import paths


def _pair(data: Data, sos: Network, objective: Objective, training: Training) -> tuple:
    """Make β-VAE and SOS-VAE on the same data, which differ in the observation distribution alone.

    The β-VAE has rank 0, a learnt diagonal and no entropy constraint (§3.3: "detrimental"). A nat
    of KL is worth hundreds of times less to it, so that its multiplier keeps the authors' pace.
    """
    return (
        Experiment(
            f"{data.name}-beta",
            data,
            replace(sos, rank=0, diagonal=None),
            Objective(objective.kl_target),
            replace(training, span_gain=0.0, freeze_heads=False),
        ),
        Experiment(f"{data.name}-sos", data, sos, objective, training),
    )


def _gray(data: Data, sos: Network, objective: Objective, training: Training) -> tuple:
    """Make the gray faces of §4.1: β-VAE, SOS-VAE, and a sparse precision in three ways.

    The first is that of Dorta et al. The second has a constraint on its entropy, which only the
    SOS-VAE has in the paper. The third puts the sparse precision in the place of the SOS-VAE's D,
    which is not in the paper. There L is the size of what P leaves, so that the likelihood finds
    the size of P and needs no constraint.
    """
    beta, low_rank = _pair(data, sos, objective, training)
    sparse = replace(sos, rank=0, diagonal=None, neighbourhood=5)
    training = replace(training, freeze_heads=False)
    # An entropy of S terms moves by thousands of nats where a rank part moves by one.
    whole = replace(
        objective,
        rank_entropy_target="markov",
        entropy_damping=objective.entropy_damping / 100,
        entropy_multiplier_rate=objective.entropy_multiplier_rate / 100,
    )
    free = Objective(objective.kl_target)
    return (
        replace(beta, name="gray-beta"),
        Experiment("gray-dorta", data, sparse, free, training),
        replace(low_rank, name="gray-sos"),
        Experiment("gray-constrained", data, sparse, whole, training),
        Experiment("gray-hybrid", data, replace(sparse, rank=sos.rank), free, training),
    )


def _bare(data: Data, small: Data, rank: int, training: Training) -> tuple:
    """Make the models of §4.5: no network, and D = εI or, on smaller images, a learnt diagonal.

    "paper" is trained as the paper has it. "free" and "span" are trained without the entropy
    constraint, to the maximum of the likelihood. "shrunk" has three quarters of the target of
    "paper".
    """
    network = Network(width=0, latent=0, rank=rank)
    whole = Objective(0.0, "ppca")
    free = Objective(0.0)
    shrunk = replace(whole, rank_entropy_factor=0.75)
    gain = replace(training, span_gain=0.05)
    return (
        Experiment("bare-paper", data, network, whole, training),
        Experiment("bare-shrunk", data, network, shrunk, training),
        Experiment("bare-free", data, network, free, training),
        Experiment("bare-span", data, network, free, gain),
        Experiment(
            "bare-diagonal",
            small,
            replace(network, diagonal=None),
            free,
            replace(training, init_covariance=True),
        ),
    )


REMEDIES = (
    "fixed",
    "constrained",
    "pretrained",
)  # of Appendix A, as names of experiments have them


def _ablation(data: Data, network: Network, objective: Objective, training: Training) -> tuple:
    """Make Appendix A: the SOS-VAE with each of its remedies on or off, all with plain gradients.

    The remedies are a fixed diagonal, a constraint on the entropy, and pre-training of the mean. A
    name has those that are on. Learning rates are constant, as in the paper. Exceptions are the
    "scheduled" trainings and those with another target, in which the rate rises over the first
    steps after pre-training and then decays.
    """
    made = {}
    for on in product((True, False), repeat=3):
        fixed, constrained, pretrained = on
        name = "-".join(word for word, is_on in zip(REMEDIES, on, strict=True) if is_on)
        made[name or "none"] = (
            network if fixed else replace(network, diagonal=None),
            objective if constrained else replace(objective, rank_entropy_target=None),
            training if pretrained else replace(training, pretraining=0),
        )
    slow = replace(training, decay=True)
    half, double = (replace(objective, rank_entropy_factor=factor) for factor in (0.5, 2.0))
    made["scheduled"] = network, objective, slow
    made["pretrained-scheduled"] = made["pretrained"][:2] + (slow,)
    made["half-target"] = network, half, slow
    made["half-target-undamped"] = network, replace(half, entropy_damping=0.0), slow
    made["double-target"] = network, double, slow
    return tuple(Experiment(f"variance-{name}", data, *parts) for name, parts in made.items())


CELL_KINDS = "beta", "sigma", "paper", "learnt", "sparse", "hybrid"
GRID = 1e-5, 1e-4, 1e-3, 1e-2, 1e-1  # values of ε, on colour faces

RATES = {"half": 0.5, "twice": 2}  # of the learning rate of the others


def _kinds(network: Network, objective: Objective, training: Training) -> dict[str, tuple]:
    """Make the kinds of models that `_epsilon` describes, {kind: network, objective, training}."""
    plain, training = Objective(None), replace(training, init_covariance=True, dequantise=True)
    helped, long = replace(training, span_gain=0.05), replace(training, steps=3 * training.steps)
    network = replace(network, diagonal="shared", constants=True)
    alone = replace(network, rank=0)
    paper = replace(network, diagonal=1e-5, constants=False)
    return {
        "paper": (paper, objective, helped),
        "learnt": (network, plain, training),
        "sigma": (alone, plain, training),
        "sparse": (replace(alone, diagonal=None, neighbourhood=5), plain, training),
        "hybrid": (replace(network, diagonal=None, neighbourhood=5), plain, training),
        "wide": (replace(alone, latent=network.latent + network.rank), plain, training),
        "beta": (replace(alone, diagonal=None), plain, training),
        "image": (replace(network, diagonal="image"), plain, training),
        "diagonal": (replace(network, diagonal=None), plain, training),
        "long": (network, plain, long),
    }


def _cells(data: Data, network: Network, objective: Objective, training: Training) -> tuple:
    """Make the models of real images: those of `_epsilon` that notebook 12 compares."""
    kinds = _kinds(network, objective, training)
    return tuple(Experiment(f"cells-{kind}", data, *kinds[kind]) for kind in CELL_KINDS)


def _epsilon(
    side: int, counts: dict, network: Network, objective: Objective, training: Training
) -> tuple:
    """Make the models that ask which ε is right, on faces, brains and gray faces of one size.

    "paper" has the paper's ε and constraints. All others maximise the ELBO of equation 1 and
    nothing else, with plain gradients, and start at the likeliest one covariance for what the same
    pre-training leaves. "wide" has a latent dimension more for each component of the others, and
    "long" is "learnt" with three times as many steps. Two more lack a choice that "learnt" makes:
    P's constant and scales in "growing", and pre-training in "cold". On colour faces some are also
    trained at half and at twice the learning rate.
    """
    kinds = _kinds(network, objective, training)
    network, plain, training = kinds["learnt"]
    colour = {f"{e:.0e}": (replace(network, diagonal=e), plain, training) for e in GRID} | {
        "growing": (replace(network, constants=False), plain, training),
        "cold": (network, plain, replace(training, pretraining=0)),
    }
    for kind, (word, factor) in product(("learnt", "sigma", "sparse", "hybrid"), RATES.items()):
        other = replace(training, learning_rate=factor * training.learning_rate)
        colour[f"{kind}-{word}-rate"] = (kinds[kind][0], plain, other)
    sets = {
        "faces": (Data("faces", side, side, 3, **counts), kinds | colour),
        "brains": (Data("brains", 5 * side // 4, side, 1, **counts), kinds),
        "gray": (Data("faces", side, side, 1, **counts), kinds),
    }
    made = [
        Experiment(f"epsilon-{name}-{kind}", data, *parts)
        for name, (data, chosen) in sets.items()
        for kind, parts in chosen.items()
    ]
    return (*made, _held(next(e for e in made if e.name == "epsilon-faces-learnt")))


def _long(colour: Data, gray: Data, network: Network, training: Training) -> tuple:
    """Make the trainings as the paper has them: plain gradients, constant rates, 28,000 steps.

    Targets are those of the demo, so that its short trainings with help can be compared with these.
    """
    objective = Objective(kl_target=8.0, rank_entropy_target="ppca")
    models = _pair(colour, network, objective, training) + _gray(gray, network, objective, training)
    kept = "faces-beta", "faces-sos", "gray-beta", "gray-dorta", "gray-sos"
    return tuple(replace(e, name=f"long-{e.name}") for e in models if e.name in kept)


def _held(learnt: Experiment) -> Experiment:
    """Make "split-faces": a model with a learnt ε, and a target for its KL.

    There a nat of KL is worth some nats of log-density, not thousands as with the paper's ε. With
    the damping that suits the latter, a rising target would fill the code before the decoder can
    read it, with nats that say nothing.
    """
    objective = Objective(8.0, damping=30.0, multiplier_rate=1.0)
    return replace(learnt, name="split-faces", objective=objective)


def _profile(name: str, evaluation: Evaluation, *groups: tuple) -> Profile:
    experiments = [experiment for group in groups for experiment in group]
    return Profile(name, {e.name: e for e in experiments}, evaluation)


SMALL = {
    "learned_constant": True,
    "nearest_skip": True,
}  # what short trainings of narrow networks need
SHORT = {"decay": True, "init_covariance": True, "span_gain": 0.05}
# A short training cannot wait for multipliers to rise to their 1e4 in steps of the authors' size;
# with `span_gain` the entropy's multiplier is of the order of one.
STIFF = {"damping": 2500.0, "multiplier_rate": 300.0}
# What a nat of KL is worth grows with the number of pixels, and on faces reaches millions. On
# smooth brains it is worth 1e5; steps as large would wind the multiplier up to 2e6 while 128 latent
# dimensions still hold the nats of random weights, and for long the mean would learn nothing.
LARGE_FACES = {"damping": 25_000.0, "multiplier_rate": 3000.0}
LARGE_BRAINS = {"damping": 5000.0, "multiplier_rate": 100.0}
CELLS = {"train": 1056, "validation": 150, "test": 302}  # all that are sound
BARE = {"decay": True, "flip": False}  # the exact solution is that of the images as they are
SOFT = {"entropy_damping": 0.2, "entropy_multiplier_rate": 0.005}

PROFILES = {
    "smoke": _profile(
        "smoke",
        Evaluation(images=50),
        _pair(
            Data("faces", 32, 32, 3, train=200, validation=20, test=100),
            Network(width=4, latent=4, rank=5, head_width=16, **SMALL),
            Objective(kl_target=5.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=40, pretraining=20, kl_warmup=10, batch=10, learning_rate=4e-3, **SHORT),
        ),
        _pair(
            Data("brains", 40, 32, 1, train=200, validation=20, test=100),
            Network(width=4, latent=4, rank=5, head_width=16, **SMALL),
            Objective(kl_target=4.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=40, pretraining=20, kl_warmup=10, batch=10, learning_rate=4e-3, **SHORT),
        ),
        _gray(
            Data("faces", 32, 32, 1, train=200, validation=20, test=100),
            Network(width=4, latent=4, rank=5, head_width=16, **SMALL),
            Objective(kl_target=4.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=40, pretraining=20, kl_warmup=10, batch=10, learning_rate=4e-3, **SHORT),
        ),
        _bare(
            Data("faces", 32, 32, 3, train=200, validation=20, test=50),
            Data("faces", 32, 32, 3, train=200, validation=20, test=50),
            5,
            Training(steps=100, pretraining=20, batch=20, learning_rate=3e-2, **BARE),
        ),
        _ablation(
            Data("faces", 32, 32, 3, train=200, validation=20, test=50),
            Network(width=4, latent=4, rank=5, head_width=16, **SMALL),
            Objective(kl_target=5.0, rank_entropy_target="ppca", **STIFF),
            Training(steps=30, pretraining=10, kl_warmup=10, batch=10, learning_rate=4e-3,
                     stop_at_variance=1e4),
        ),
        _epsilon(
            32,
            {"train": 200, "validation": 20, "test": 100},
            Network(width=4, latent=4, rank=5, head_width=16, **SMALL),
            Objective(kl_target=5.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=40, pretraining=20, kl_warmup=20, batch=10, learning_rate=4e-3,
                     decay=True),
        ),
        _long(
            Data("faces", 32, 32, 3, train=200, validation=20, test=100),
            Data("faces", 32, 32, 1, train=200, validation=20, test=100),
            Network(width=4, latent=4, rank=5, head_width=16),
            Training(steps=60, pretraining=20, freeze_heads=True, batch=10),
        ),
        _cells(
            Data("cells", 32, 32, 1, train=200, validation=20, test=100),
            Network(width=4, latent=4, rank=5, head_width=16, **SMALL),
            Objective(kl_target=4.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=40, pretraining=20, kl_warmup=20, batch=10, learning_rate=4e-3,
                     decay=True),
        ),
    ),
    "demo": _profile(
        "demo",
        Evaluation(images=2000),
        _pair(
            Data("faces", 64, 64, 3, train=5000, validation=500, test=2000),
            Network(width=16, latent=10, head_width=64, **SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=900, pretraining=250, kl_warmup=200, batch=16, learning_rate=1.5e-3,
                     **SHORT),
        ),
        _pair(
            Data("brains", 80, 64, 1, train=5000, validation=500, test=2000),
            Network(width=16, latent=10, head_width=64, **SMALL),
            Objective(kl_target=12.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=900, pretraining=250, kl_warmup=200, batch=16, learning_rate=1.5e-3,
                     **SHORT),
        ),
        _gray(
            Data("faces", 64, 64, 1, train=5000, validation=500, test=2000),
            Network(width=16, latent=10, head_width=64, **SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=850, pretraining=200, kl_warmup=150, batch=16, learning_rate=1.5e-3,
                     **SHORT),
        ),
        _bare(
            Data("faces", 64, 64, 3, train=5000, validation=500, test=2000),
            Data("faces", 32, 32, 3, train=3000, validation=500, test=1000),
            25,
            Training(steps=2000, pretraining=100, batch=50, learning_rate=1e-2, **BARE),
        ),
        _ablation(
            Data("faces", 32, 32, 3, train=3000, validation=500, test=1000),
            Network(width=8, latent=10, head_width=64, **SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **STIFF),
            Training(steps=350, pretraining=100, kl_warmup=100, batch=16, learning_rate=1.5e-3,
                     stop_at_variance=1e4),
        ),
        _epsilon(
            32,
            {"train": 5000, "validation": 500, "test": 1000},
            Network(width=8, latent=10, head_width=64, **SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=1000, pretraining=350, kl_warmup=350, batch=16, learning_rate=2e-3,
                     decay=True),
        ),
        _long(
            Data("faces", 64, 64, 3, train=5000, validation=500, test=2000),
            Data("faces", 64, 64, 1, train=5000, validation=500, test=2000),
            Network(width=16, latent=10, head_width=64),
            Training(steps=28_000, pretraining=840, freeze_heads=True),
        ),
        _cells(
            Data("cells", 64, 64, 1, **CELLS),
            Network(width=16, latent=10, head_width=64, **SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=1000, pretraining=350, kl_warmup=350, batch=16, learning_rate=1.5e-3,
                     decay=True),
        ),
    ),
    # The paper's network and image sizes in minutes of a GPU, with the help that makes short
    # trainings work.
    "paper-simulated": _profile(
        "paper-simulated",
        Evaluation(images=2000),
        _pair(
            Data("faces", 218, 178, 3, train=5000, validation=500, test=2000),
            Network(**SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **LARGE_FACES, **SOFT),
            Training(steps=1500, pretraining=450, kl_warmup=200, learning_rate=3e-4, **SHORT),
        ),
        _pair(
            Data("brains", 233, 197, 1, train=5000, validation=500, test=2000),
            Network(**SMALL),
            Objective(kl_target=12.0, rank_entropy_target="ppca", **LARGE_BRAINS, **SOFT),
            Training(steps=1500, pretraining=450, kl_warmup=200, learning_rate=3e-4, **SHORT),
        ),
        _gray(
            Data("faces", 64, 64, 1, train=5000, validation=500, test=2000),
            Network(**SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=1600, pretraining=500, kl_warmup=400, learning_rate=5e-4, **SHORT),
        ),
        _bare(
            Data("faces", 218, 178, 3, train=5000, validation=500, test=2000),
            Data("faces", 64, 64, 3, train=5000, validation=500, test=2000),
            25,
            Training(steps=2000, pretraining=100, batch=50, learning_rate=1e-2, **BARE),
        ),
        _ablation(
            Data("faces", 64, 64, 3, train=5000, validation=500, test=2000),
            Network(**SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **STIFF),
            Training(steps=1600, pretraining=500, kl_warmup=400, learning_rate=5e-4,
                     stop_at_variance=1e4),
        ),
        _epsilon(
            64,
            {"train": 5000, "validation": 500, "test": 2000},
            Network(**SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=4000, pretraining=1000, kl_warmup=1000, learning_rate=5e-4, decay=True),
        ),
        _long(
            Data("faces", 64, 64, 3, train=5000, validation=500, test=2000),
            Data("faces", 64, 64, 1, train=5000, validation=500, test=2000),
            Network(),
            Training(steps=28_000, pretraining=840, freeze_heads=True),
        ),
        _cells(
            Data("cells", 128, 128, 1, **CELLS),
            Network(**SMALL),
            Objective(kl_target=8.0, rank_entropy_target="ppca", **STIFF, **SOFT),
            Training(steps=4000, pretraining=1000, kl_warmup=1000, learning_rate=5e-4, decay=True),
        ),
    ),
    # The paper's network and constants (§4.1); what it leaves open is as the authors' code has it.
    "paper": _profile(
        "paper",
        Evaluation(images=50_000, generated=50_000),  # of real ones, as many as there are
        _pair(
            Data("faces", 218, 178, 3, train=7000, validation=1000, test=2000),
            Network(),
            Objective(kl_target=45.0, rank_entropy_target=189.87),  # ξ_H = -504,750
            Training(steps=28_000, pretraining=840, freeze_heads=True),  # 100 and 3 epochs
        ),
        _pair(
            Data("brains", 233, 197, 1, train=7000, validation=1000, test=2000),
            Network(),
            Objective(kl_target=15.0, rank_entropy_target=190.70),  # ξ_H = -198,906
            Training(steps=28_000, pretraining=840, freeze_heads=True),
        ),
        _gray(
            Data("faces", 64, 64, 1, train=7000, validation=1000, test=2000),
            Network(),
            Objective(kl_target=45.0, rank_entropy_target=136.50),  # ξ_H = -17,630; ξ_KL not stated
            Training(steps=28_000, pretraining=840, freeze_heads=True),
        ),
        _bare(
            Data("faces", 218, 178, 3, train=7000, validation=1000, test=2000),
            Data("faces", 64, 64, 3, train=7000, validation=1000, test=2000),
            25,
            Training(steps=7000, pretraining=350, batch=50, learning_rate=1e-2, **BARE),
        ),
        _ablation(
            Data("faces", 64, 64, 3, train=7000, validation=1000, test=2000),
            Network(),
            Objective(kl_target=45.0, rank_entropy_target="ppca"),
            Training(steps=28_000, pretraining=840, stop_at_variance=1e4),
        ),
        _epsilon(
            64,
            {"train": 7000, "validation": 1000, "test": 2000},
            Network(),
            Objective(kl_target=45.0, rank_entropy_target="ppca"),
            Training(steps=28_000, pretraining=840),
        ),
        _long(
            Data("faces", 64, 64, 3, train=7000, validation=1000, test=2000),
            Data("faces", 64, 64, 1, train=7000, validation=1000, test=2000),
            Network(),
            Training(steps=28_000, pretraining=840, freeze_heads=True),
        ),
        _cells(
            Data("cells", 300, 300, 1, **CELLS),
            Network(),
            Objective(kl_target=45.0, rank_entropy_target="ppca"),
            Training(steps=28_000, pretraining=840),
        ),
    ),
}  # fmt: skip


OFFICIAL = {"train": 162_770, "validation": 19_867, "test": 19_962}  # images of CelebA


def profile(name: str = "demo", images: dict | None = None) -> Profile:
    """Return a row of PROFILES, with other images than simulated ones where `images` names a place.

    The entry "faces" of `images` is a folder of images; "celeba" and "biobank" are the paper's data
    sets; "cells", which is true or absent, puts solar cells in the place of the faces. Other
    entries are fields of `Data` for these, such as "partition". A name such as "demo.rank5" is that
    of a row with changes, see `define`.
    """
    how = dict(images or {})
    keys = "faces", "celeba", "biobank", "cells"
    faces, celeba, biobank, cells = (how.pop(key, None) for key in keys)
    base, _, word = name.partition(".")
    if base not in PROFILES or (word and not definition(name).exists()):
        raise ValueError(f"profile is {name!r}; expected one of {', '.join(PROFILES)}")
    if faces and celeba:
        raise ValueError("faces and celeba both take the simulated faces' place: give one of them")
    chosen, read = PROFILES[base], {}
    if word:
        changes = json.loads(definition(name).read_text(encoding="utf-8"))
        made = {key: changed(chosen.experiments[key], mine) for key, mine in changes.items()}
        chosen = replace(chosen, name=name, experiments=chosen.experiments | made)
    if faces or celeba:
        kind, place = ("folder", faces) if faces else ("celeba", celeba)
        read["faces"] = {"name": kind, "folder": place, **how}
        if faces:
            from sos.datasets import folder  # which knows what the settings here mean

            if folder.is_gray(faces):  # in colour their samples would be tinted
                read["faces"]["channels"] = 1
    if cells:
        read["faces"] = {"name": "cells", "channels": 1}
    if biobank:
        read["brains"] = {"name": "biobank", "folder": biobank, **how}
    if base == "paper" and how.get("partition") == "official" and celeba:
        read["faces"] |= OFFICIAL
    experiments = {
        key: replace(e, data=replace(e.data, **read.get(e.data.name, {})))
        for key, e in chosen.experiments.items()
    }
    return replace(chosen, experiments=experiments) if read else chosen


def definition(name: str) -> Path:
    """Return the file with the changes of a profile such as "demo.rank5"."""
    return paths.CACHE / "profiles" / f"{name}.json"


def define(base: str, word: str, changes: dict[str, dict[str, typing.Any]]) -> str:
    """Make a profile of another one and changes of its models; return its name, <base>.<word>.

    Raises ValueError for changes that cannot be made, and where there are results of this name
    with other changes.
    """
    for model, mine in changes.items():
        changed(PROFILES[base].experiments[model], mine)
    name, text = f"{base}.{word}", json.dumps(changes, indent=1, sort_keys=True) + "\n"
    file = definition(name)
    results = [place / name for place in (paths.FIGURES, paths.EXECUTED)]
    used = [str(place) for place in results if place.exists()]
    if used and file.exists() and file.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{name} has results of other changes, {json.loads(file.read_text())}: choose another "
            f"name, or remove {' and '.join(used)}"
        )
    paths.write_text(file, text)
    return name


CELLS = tuple(  # of Figure 8
    f"variance-{'-'.join(w for w, on in zip(REMEDIES, row, strict=True) if on) or 'none'}"
    for row in product((True, False), repeat=3)
)
MAIN = "learnt", "sigma", "paper", "sparse", "hybrid"  # models of notebook 08
STUDIES = {
    "table1": Study(
        "Which orderings of Table 1 hold over seeds?",
        ("faces-", "brains-", "gray-"),
        "judges",
    ),
    "figure8": Study(
        "Which remedies prevent the explosion, over seeds?",
        (*CELLS, "variance-scheduled", "variance-pretrained-scheduled"),
        "judges",
    ),
    "epsilon": Study(
        "Which ε is right, over seeds?",
        tuple(f"epsilon-{data}-{kind}" for data in ("faces", "brains", "gray") for kind in MAIN),
        "observation",
    ),
    "choices": Study(
        "What do the smaller choices of notebook 08 change?", ("epsilon-",), "observation", seeds=2
    ),
    "editing": Study(
        "Does editing predict, over seeds?",
        tuple(f"epsilon-{data}-{kind}" for data in ("faces", "brains") for kind in MAIN),
        "editing",
        seeds=3,
    ),
    "components": Study(
        "Are principal components separable, over seeds?", ("faces-sos", "brains-sos"), "components"
    ),
    "bare": Study("Does back-propagation find PCA, over seeds?", ("bare-paper",), "judges"),
    # A sparse L of 1x1 neighbourhoods is diagonal, so that the decoder is that of a β-VAE.
    "constraint": Study(
        "Is a constraint on the entropy detrimental to a β-VAE?",
        ("gray-dorta", "gray-constrained"),
        "judges",
        seeds=3,
        changes={"neighbourhood": (1,)},
    ),
    "rank": Study(
        "What does a larger rank buy, and cost?",
        ("epsilon-faces-learnt",),
        "observation",
        seeds=3,
        changes={"rank": (0, 3, 6, 12, 25, 50, 100)},
    ),
    "split": Study(
        "Where does the variance live, with a learnt ε and a target for the KL?",
        ("split-faces",),
        "split",
        seeds=3,
        changes={"rank": (0, 5, 25, 100), "kl_target": (2.0, 8.0, 32.0), "latent": (10, 35)},
    ),
    "split-plain": Study(
        "Where does the variance live, with a learnt ε and the plain ELBO?",
        ("epsilon-faces-learnt",),
        "split",
        seeds=3,
        changes={"rank": (0, 5, 25, 100), "latent": (10, 35)},
    ),
    "split-paper": Study(
        "Where does the variance live, with the paper's ε?",
        ("epsilon-faces-paper",),
        "split",
        seeds=3,
        changes={"rank": (5, 25, 100), "kl_target": (2.0, 8.0, 32.0), "latent": (10, 35)},
    ),
    "long": Study(
        "What do 28,000 plain steps give, beside short trainings with help?",
        ("long-",),
        "judges",
        seeds=1,
    ),
    "pretraining": Study(
        "What does the authors' way of pre-training change?",
        ("gray-sos", "variance-fixed-constrained-pretrained"),
        "judges",
        seeds=3,
        changes={"freeze_heads": (False, True)},
    ),
    "cells": Study("What carries over to real images?", ("cells-",), "observation", seeds=3),
    # As in Table 1, where the code of the β-VAE has the target of the SOS-VAE's.
    "cells-target": Study(
        "What does a β-VAE of photographs draw, with a code as short as the SOS-VAE's?",
        ("cells-beta",),
        "observation",
        seeds=3,
        changes={"kl_target": (8.0,)},
    ),
    "defects": Study("Do models of sound cells find defects?", ("cells-",), "defects", seeds=3),
    "cells-held-out": Study(
        "Do revealed pixels of real images predict the others?",
        ("cells-sigma", "cells-paper", "cells-learnt", "cells-hybrid"),
        "editing",
        seeds=3,
    ),
    "targets": Study(
        "How wrong may a target be?",
        ("variance-scheduled",),
        "judges",
        seeds=3,
        changes={"rank_entropy_factor": (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)},
    ),
}


def settings(experiment: Experiment) -> dict[str, typing.Any]:
    """Return all that can be changed of an experiment by name, {field: value}."""
    groups = experiment.network, experiment.objective, experiment.training
    return {one.name: getattr(group, one.name) for group in groups for one in fields(group)}


def changed(experiment: Experiment, changes: dict[str, typing.Any]) -> Experiment:
    """Return an experiment with other values of some fields of Network, Objective or Training.

    Raises ValueError, with the list, for fields that there are not, and for values of another kind.
    """
    known = settings(experiment)
    for name in changes:
        if name not in known:
            raise ValueError(f"{name!r} is no setting of a model; there are {', '.join(known)}")
    made = experiment
    for part in ("network", "objective", "training"):
        group = getattr(experiment, part)
        kinds = typing.get_type_hints(type(group))
        mine = {name: value for name, value in changes.items() if name in kinds}
        for name, value in mine.items():
            if not _fits(value, kinds[name]):
                raise ValueError(f"{name} is {value!r}; expected {_in_words(kinds[name])}")
        made = replace(made, **{part: replace(group, **mine)})
    return made


def _fits(value, kind) -> bool:
    """Tell whether a value is of a kind that an annotation allows."""
    if options := typing.get_args(kind):
        if typing.get_origin(kind) is typing.Literal:
            return isinstance(value, str) and value in options
        return any(_fits(value, option) for option in options)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


def _in_words(kind) -> str:
    """Write what an annotation allows."""
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
    if kind in words:
        return words[kind]
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    return " or ".join(map(_in_words, typing.get_args(kind)))


def named(experiments: dict[str, Experiment], words: tuple[str, ...]) -> list[Experiment]:
    """Return the experiments with these names; a word that is no name is a beginning of names."""
    whole = {word for word in words if word in experiments}
    begun = tuple(word for word in words if word not in experiments)
    return [e for name, e in experiments.items() if name in whole or name.startswith(begun)]


def trainings(study: Study, chosen: Profile) -> Iterator[Experiment]:
    """Yield all trainings of a study at the scale of a profile: seed by seed, model by model.

    A training that differs from its model in `changes` has them in its name.
    """
    rows = [
        dict(zip(study.changes, values, strict=True)) for values in product(*study.changes.values())
    ]
    for seed in range(study.seeds):
        for model in named(chosen.experiments, study.models):
            for row in rows:
                yield changed(variant(model, row), {"seed": seed})


def value_of(word: str) -> int | float | bool | str | None:
    """Read a value as it is typed: a number, true, false, none, or a word."""
    plain = {"true": True, "false": False, "none": None}
    if word.lower() in plain:
        return plain[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word


def experiment_named(chosen: Profile, name: str) -> Experiment:
    """Return the experiment of a profile, or the `variant`, that has this name."""
    model, *words = re.split(r"\.(?=[a-z_]+=)", name)
    changes = {key: value_of(value) for key, _, value in (word.partition("=") for word in words)}
    return variant(chosen.experiments[model], changes)


def variant(model: Experiment, changes: dict[str, typing.Any]) -> Experiment:
    """Return a model with changes, and with those that change anything in its name."""
    own = settings(model)
    new = {name: value for name, value in changes.items() if name in own and own[name] != value}
    words = [model.name, *(f"{name}={value}".lower() for name, value in new.items())]
    return replace(changed(model, changes), name=".".join(words))
