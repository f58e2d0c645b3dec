"""What each setting means: frozen dataclasses. Their values are in `sos.profiles`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Data:
    """Which images, at which size, and how many of each split."""

    # "faces", "brains" (simulated, by index), "folder" (the user's own images), or the paper's data
    # sets, "celeba" and "biobank"
    name: str
    height: int  # pixels
    width: int  # pixels
    channels: int  # 3 colour, 1 gray
    train: int  # images; where they are read, the three numbers are upper bounds
    validation: int
    test: int
    folder: str | None = None  # where images that are read lie
    partition: Literal["subset", "official"] = "subset"  # of CelebA, see `sos.datasets.celeba`
    skip_unreadable: bool = False  # leave out images that cannot be read, instead of stopping


@dataclass(frozen=True)
class Network:
    """The paper's network (§4.1); `rank` 0 with a learnt diagonal is the β-VAE."""

    width: int = 64  # channels at full resolution; the paper's is 64
    latent: int = 128  # dimensions of z; 0: no network at all, `sos.models.BareNormal`
    rank: int = 25  # R, columns of the covariance factor P
    # Channels that the heads read, `width` unless given. A 1x1 convolution of w features gives
    # each colour's rows of P rank w + 1 at most, so that narrow networks need more here.
    head_width: int | None = None
    learned_constant: bool = False  # an image beside z, see `sos.models.networks.Decoder`
    nearest_skip: bool = False  # see `sos.models.networks.ResidualUp`
    diagonal: float | None = 1e-5  # ε of D = εI; None: a learnt diagonal
    # k of the k x k neighbourhoods of a sparse Cholesky factor L of a precision (Dorta et al.,
    # 2018), (LLᵀ)⁻¹ then taking the place of D; 0: D as above.
    neighbourhood: int = 0


@dataclass(frozen=True)
class Objective:
    """Equation 3 in per-item means. Targets in nats per image."""

    kl_target: float  # ξ_KL
    # ξ_H less the constant ½S(1 + log 2πε); None: no constraint; "ppca": the rule of
    # `sos.training.ppca_target`, from the training images. With a sparse factor all of
    # ξ_H, for which "markov" is the rule of `sos.training.markov_target`.
    rank_entropy_target: float | Literal["ppca", "markov"] | None = None
    rank_entropy_factor: float = 1.0  # by which that target is wrong on purpose
    damping: float = 250.0  # the authors' 10 on sums over a batch of 25
    multiplier_rate: float = 25.0  # the authors' 1 on sums over a batch of 25
    entropy_damping: float = 250.0  # the same two for ξ_H
    entropy_multiplier_rate: float = 25.0


@dataclass(frozen=True)
class Training:
    """How the weights are found."""

    steps: int  # optimiser steps in all
    pretraining: int  # of these, steps that train the mean alone
    kl_warmup: int = 0  # steps over which ξ_KL rises from zero (Burgess et al., 2018)
    batch: int = 25  # images
    learning_rate: float = 1e-4  # Adam, default betas
    decay: bool = False  # after pre-training, a warm-up and a cosine decay to zero
    init_covariance: bool = False  # after pre-training, start the covariance at its right size
    # κ of `LowRankNormal.log_prob_and_rank_entropy`, or of its counterpart in `VAE._sparse_terms`;
    # 0: the plain gradient, as the paper
    span_gain: float = 0.0
    # Mean predicted variance at which a training ends, its explosion being the result; None: what
    # is not finite is an error.
    stop_at_variance: float | None = None
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
class Evaluation:
    """How finished models are measured."""

    images: int  # real images that a row of Table 1 is compared with
    generated: int | None = None  # images per row, as many as real ones unless given
    extractor: str = "efficientnet-lite0"  # or "inception", whose weights have to be at hand
    png: bool = False  # write what is compared as files too, see `sos.evaluation.write_pngs`


@dataclass(frozen=True)
class Profile:
    """One scale of the whole collection."""

    name: str
    experiments: dict[str, Experiment]
    evaluation: Evaluation
