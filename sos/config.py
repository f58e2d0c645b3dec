"""What each setting means: frozen dataclasses. Their values are in `sos.profiles`."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Data:
    """Say which images, at which size, and how many of each split."""

    # "faces" and "brains" are simulated; "celeba" and "biobank" are the paper's data sets; "folder"
    # is a folder of the user's own images, and "cells" are solar cells of the package elpv-dataset
    name: str
    height: int  # pixels
    width: int  # pixels
    channels: int  # 3 for colour, 1 for gray
    train: int  # number of images; for images that are read, the three numbers are upper bounds
    validation: int
    test: int
    folder: str | None = None  # where images that are read lie
    partition: Literal["subset", "official"] = "subset"  # of CelebA, see `sos.datasets.celeba`
    skip_unreadable: bool = False  # leave out images that cannot be read, instead of stopping


@dataclass(frozen=True)
class Network:
    """Describe the paper's network (§4.1); `rank` 0 with a learnt diagonal makes it a β-VAE."""

    width: int = 64  # channels at full resolution; the paper has 64
    latent: int = 128  # dimensions of z; 0 means no network at all, see `sos.models.BareNormal`
    rank: int = 25  # R, the number of columns of the covariance factor P
    # Channels that the heads read; `width` unless given. A 1x1 convolution of w features gives each
    # colour's rows of P a rank of w + 1 at most, so that narrow networks need more here.
    head_width: int | None = None
    # The decoder's coarse grid gets a learnt image beside what z makes of it. Without it, what all
    # images share has to be coded in z. The paper has none. See `sos.models.networks.Decoder`.
    learned_constant: bool = False
    # Skips of the decoder repeat pixels; the paper's transposed 1x1 convolutions leave a
    # checkerboard that training takes long to remove. See `sos.models.networks.ResidualUp`.
    nearest_skip: bool = False
    # ε of D = εI; "shared" learns it, one number for all pixels and images (Rybkin et al., 2021),
    # "image" one number for each image; None means a learnt diagonal
    diagonal: float | Literal["shared", "image"] | None = 1e-5
    # What stands beside what the decoder makes of z: P, D and L get learnt constants, which start
    # at the likeliest one covariance for what pre-training leaves, and P's columns scales of their
    # own. Pre-training then learns its ε. See `sos.training.init_covariance`
    constants: bool = False
    # k of the k x k neighbourhoods of a sparse Cholesky factor L of a precision (Dorta et al.,
    # 2018), with (LLᵀ)⁻¹ in the place of D; 0 means D as above
    neighbourhood: int = 0

    @property
    def epsilon(self) -> float | None:
        """Return the fixed ε of D = εI, or None where D is learnt."""
        return None if self.diagonal is None or isinstance(self.diagonal, str) else self.diagonal


@dataclass(frozen=True)
class Objective:
    """Set the targets of equation 3, in nats per image, and how its multipliers move.

    The algorithm is `sos.training.loop`; damping and rate are explained in
    `sos.training.constraint`.
    """

    kl_target: float | None  # ξ_KL; None leaves the KL its weight of one: the ELBO of equation 1
    # ξ_H less the constant ½S(1 + log 2πε), so that it is a target of the rank entropy; with a
    # sparse L it is a target of the whole entropy. None means no constraint, "ppca" the rule of
    # `sos.training.ppca_target`, "markov", for a sparse L, that of `sos.training.markov_target`.
    rank_entropy_target: float | Literal["ppca", "markov"] | None = None
    rank_entropy_factor: float = 1.0  # multiplies that target, to make it wrong on purpose
    damping: float = 250.0  # c of the KL constraint; the authors have 10 on sums over a batch of 25
    multiplier_rate: float = 25.0  # by which β ascends; the authors have 1 on such sums
    entropy_damping: float = 250.0  # the same two for the constraint on the entropy
    entropy_multiplier_rate: float = 25.0


@dataclass(frozen=True)
class Training:
    """Say how the weights are found."""

    steps: int  # steps of the optimiser in all
    pretraining: int  # how many of these train the mean alone (§3.3)
    # While the mean is trained alone, the density is that of N(μ, εI), and P is not in the loss.
    # With this, as in the authors' code, it is the whole density with frozen variance heads, whose
    # P is almost zero, and the constraint on the entropy acts. See `sos.training.loop.Run.freeze`
    freeze_heads: bool = False
    kl_warmup: int = 0  # steps over which ξ_KL rises from zero (Burgess et al., 2018)
    batch: int = 25  # images
    learning_rate: float = 1e-4  # of Adam with its default betas
    decay: bool = False  # after pre-training, the rate warms up over 50 steps and decays to zero
    # After pre-training, start the covariance at the size that it needs instead of at almost
    # nothing, see `sos.training.init_covariance`
    init_covariance: bool = False
    span_gain: float = 0.0  # κ of `sos.distributions.TrainingTerms`; 0 is the plain gradient
    # Mean predicted variance at which a training ends, its explosion being the result; with None
    # a number that is not finite is an error
    stop_at_variance: float | None = None
    flip: bool = True  # mirror training images with probability one half
    # Add uniform noise of one gray level, without which the likelihood of 8-bit images has no limit
    dequantise: bool = False
    seed: int = 0  # of the initial weights, the batches and the latent noise


@dataclass(frozen=True)
class Experiment:
    """Hold all that determines the weights of one model."""

    name: str
    data: Data
    network: Network
    objective: Objective
    training: Training


@dataclass(frozen=True)
class Evaluation:
    """Say how finished models are measured."""

    images: int  # number of real images that a row of Table 1 is compared with
    generated: int | None = None  # images per row; as many as real ones unless given
    extractor: str = "efficientnet-lite0"  # or "inception", whose weights have to be at hand
    png: bool = False  # also write what is compared as files, see `sos.analysis.evaluation`


@dataclass(frozen=True)
class Profile:
    """Hold one scale of the whole collection."""

    name: str
    experiments: dict[str, Experiment]
    evaluation: Evaluation


@dataclass(frozen=True)
class Study:
    """Say which trainings are compared, of which only measurements are kept.

    They are all models with all combinations of `changes`, each from several seeds.
    """

    asks: str  # the question, in words
    models: tuple[str, ...]  # names of experiments, or beginnings of names
    measure: str  # a kind of `sos.analysis.seeds.MEASUREMENTS`
    seeds: int = 5
    # {field of Network, Objective or Training: its values}
    changes: dict[str, tuple] = field(default_factory=dict)
