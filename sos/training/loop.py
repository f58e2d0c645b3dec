"""The algorithm of the paper: the modified differential method of multipliers on equation 3."""

import math
from pathlib import Path

import torch
from torch import Tensor

from sos.config import Experiment, Training
from sos.models.vae import Terms
from sos.system import devices, distributed
from sos.system.devices import generator, precision
from sos.training import cuda_graph, pretraining
from sos.training.pretraining import Pretraining
from sos.training.start import init_covariance
from sos.training.state import TrainingState
from sos.training.watch import watched

VERSION = 1  # bump when the same configuration gives other weights, beyond rounding
WARM_UP = 50  # steps


def train(
    experiment: Experiment,
    images: Tensor,
    checkpoint: Path,
    validation: Tensor | None = None,
    shared: Pretraining | None = None,
) -> "Run":
    """Train on uint8 `images` (N, C, H, W), saving the state to the file `checkpoint`.

    For a bare model, whose log-density needs no code z, `validation` images are measured along.
    A new training goes on from the `shared` pre-training if another has saved it, and otherwise
    saves it for others. It ends with the same weights either way.

    Called again after any interruption, even SIGKILL, it goes on from the last checkpoint and ends
    with the same weights as an unbroken run (same machine, same number of threads). Raises
    FloatingPointError when a term stops being finite, naming the step and the terms. With
    `Training.stop_at_variance` such a training ends instead, and so does one whose variance passes
    that limit.
    """
    training, device = experiment.training, devices.device()
    if devices.fits_on_device(images, device):  # otherwise batches are read from where they lie
        images = images.to(device)
    run = Run(experiment, images, device)
    if checkpoint.exists():
        run.restore(checkpoint)
    elif shared is not None:
        pretraining.start(run, shared)
    watching = watched(experiment.name, run, checkpoint, validation, shared)
    with cuda_graph.stream(device), watching as watch:
        while run.step < training.steps and run.stopped is None:
            early = run.step < training.pretraining
            run.freeze(early and training.freeze_heads)
            run.kl.scale_target(min(1.0, (run.step + 1) / max(training.kl_warmup, 1)))
            x = batch(images, run.step, training).to(device)
            watch(run.training_step(x, early and not training.freeze_heads))
    return run


class Run(TrainingState):
    """Train a model step by step by equation 3: weights descend and multipliers ascend."""

    def __init__(self, experiment: Experiment, images: Tensor, device: torch.device):
        super().__init__(experiment, images, device)
        self._captured, self._frozen = None, False
        if device.type == "cuda" and distributed.world_size() == 1:
            self._captured = cuda_graph.CapturedSteps(self.compute_step, self.optimiser.zero_grad)

    def freeze(self, frozen: bool) -> None:
        """Freeze all of the decoder's head but the mean, or let it learn.

        The trunk's gradient still comes through the frozen parts, whose outputs it changes.
        """
        if frozen == self._frozen:
            return
        self._frozen = frozen
        for name, parameter in self.vae.head.named_parameters():
            parameter.requires_grad_(not frozen or name.startswith("mean."))
        if self._captured is not None:
            self._captured.phases.clear()  # graphs have the gradients that they were captured with

    def training_step(self, x: Tensor, mean_only: bool) -> Terms:
        """Take one step on images x (batch, C, H, W), of which each process takes its share."""
        training = self.training
        x = x.contiguous(memory_format=self.format)
        stream = generator("latent noise", training.seed, self.step, device=x.device)
        noise = torch.randn(len(x), self.vae.latent, generator=stream, device=x.device)
        if training.init_covariance and self.step == training.pretraining:
            init_covariance(self, x)
        self.set_learning_rate(learning_rate(self.step, training))
        compute = self._captured or self.compute_step
        terms = compute(distributed.shard(x), distributed.shard(noise), mean_only)
        self.step += 1
        return terms

    def compute_step(self, x: Tensor, noise: Tensor, mean_only: bool) -> Terms:
        """Compute a step from its images and its latent noise alone."""
        with precision(x.device):
            terms = self.vae.terms(x, noise, mean_only, self.training.span_gain)  # log p, KL, H
        terms = distributed.all_reduce_mean(terms, len(x))
        self.optimiser.zero_grad()
        self.loss(terms, mean_only).backward()
        distributed.sum_gradients(self.vae.parameters())
        self.optimiser.step()  # weights descend
        for name, constraint in self.constraints(mean_only).items():
            constraint.ascend(getattr(terms, name))  # multipliers ascend
        return terms

    def loss(self, terms: Terms, mean_only: bool) -> Tensor:
        """Return equation 3, negated, with the damping of both constraints, as a mean per image."""
        loss = terms.nll_nats
        for name, constraint in self.constraints(mean_only).items():
            loss = loss + constraint.penalty(getattr(terms, name))
        return loss


def batch(images: Tensor, step: int, training: Training) -> Tensor:
    """Return the images of one step in [0, 1], each mirrored with probability one half."""
    indices = batch_indices(step, len(images), training)
    x = images[indices.to(images.device)].float() / 255
    if training.flip:
        coins = torch.rand(len(x), generator=generator("flip", training.seed, step)) < 0.5
        x = torch.where(coins.to(x.device)[:, None, None, None], x.flip(-1), x)
    if training.dequantise:  # within the level that each value was rounded to
        noise = torch.rand(x.shape, generator=generator("dequantise", training.seed, step)) - 0.5
        x = x + noise.to(x.device) / 255
    return x


def batch_indices(step: int, images: int, training: Training) -> Tensor:
    """Choose the images of one step: every epoch is a permutation, a function of seed and epoch."""
    per_epoch = max(images // training.batch, 1)
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(images, generator=generator("epoch", training.seed, epoch))
    return order[position * training.batch : (position + 1) * training.batch]


def learning_rate(step: int, training: Training) -> float:
    """Return the learning rate of a step, which is constant without `decay`.

    With `decay`, after pre-training, it warms up linearly and falls as a cosine to zero. The
    warm-up is for the covariance heads, whose first Adam steps are as large as their weights.
    """
    after = step - training.pretraining
    if not training.decay or after < 0:
        return training.learning_rate
    progress = after / (training.steps - training.pretraining)
    warm = min(1.0, (after + 1) / WARM_UP)
    return training.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
