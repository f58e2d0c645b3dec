"""Every setting of every experiment: frozen dataclasses, and one table of profiles."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Data:
    """Which images, at which size, and how many of each split."""

    name: str  # "faces", "brains" (simulated, by index) or "folder" (the user's own images)
    height: int  # pixels
    width: int  # pixels
    channels: int  # 3 colour, 1 gray
    train: int  # images; for a folder, the three numbers are upper bounds
    validation: int
    test: int
    folder: str | None = None  # where the images of "folder" lie


@dataclass(frozen=True)
class Network:
    """The paper's network (§4.1); `rank` 0 with a learnt diagonal is the β-VAE."""

    width: int = 64  # channels at full resolution; the paper's is 64
    latent: int = 128  # dimensions of z
    rank: int = 25  # R, columns of the covariance factor P
    template: bool = False  # a learnt constant beside z, see `sos.networks.Decoder`
    diagonal: float | None = 1e-5  # ε of D = εI; None: a learnt diagonal


@dataclass(frozen=True)
class Objective:
    """Equation 3 in per-item means. Targets in nats per image."""

    kl_target: float  # ξ_KL
    rank_entropy_target: float | None = None  # ξ_H less the floor ½S(1 + log 2πε); None: no constraint
    damping: float = 250.0  # the authors' 10 on sums over a batch of 25
    multiplier_rate: float = 25.0  # the authors' 1 on sums over a batch of 25


@dataclass(frozen=True)
class Training:
    """How the weights are found."""

    steps: int  # optimiser steps in all
    pretraining: int  # of these, steps that train the mean alone
    kl_warmup: int = 0  # steps over which ξ_KL rises from zero (Burgess et al., 2018)
    batch: int = 25  # images
    learning_rate: float = 1e-4  # Adam, default betas
    decay: bool = False  # cosine decay of the learning rate to zero over each phase
    span_gain: float = 0.0  # κ of `sos.vae.SpanGradient`; 0: the plain gradient, as the paper
    flip: bool = True  # mirror training images with probability one half
    seed: int = 0


@dataclass(frozen=True)
class Experiment:
    """One model: all that determines its weights."""

    name: str
    data: Data
    network: Network
    objective: Objective
    training: Training


@dataclass(frozen=True)
class Profile:
    """One scale of the whole collection."""

    name: str
    experiments: dict[str, Experiment]
    evaluation_images: int  # images per row of Table 1; the paper's 50,000
    figure_columns: int = 10  # images per row of Figures 1 and 2
