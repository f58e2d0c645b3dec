"""What a training holds: model, optimiser, multipliers and history, saved and restored whole."""

import copy
import math
from pathlib import Path

import torch
from torch import Tensor

from sos.config import Experiment
from sos.models import memory_format, new_model
from sos.models.networks import LEARNT_NOISE
from sos.system import distributed, paths
from sos.training.constraint import Constraint, Price
from sos.training.start import RULES, subsample


def check(experiment: Experiment) -> None:
    """Raise ValueError for settings that would only fail in the middle of a training."""
    network, training = experiment.network, experiment.training
    constrained = experiment.objective.rank_entropy_target is not None
    learnt_diagonal = network.diagonal is None and not network.neighbourhood
    if isinstance(network.diagonal, str) and network.diagonal not in LEARNT_NOISE:
        raise ValueError(
            f"diagonal is {network.diagonal!r}; expected ε as a number, 'shared' or 'image' to "
            f"learn it, or None to learn a diagonal"
        )
    if network.diagonal in LEARNT_NOISE and (network.neighbourhood or constrained):
        raise ValueError(
            "a learnt ε stands beside P alone and needs no constraint on the entropy: set "
            "neighbourhood to 0 and rank_entropy_target to None"
        )
    if network.constants and constrained:
        raise ValueError(
            "constants start at the maximum of the likelihood, and need no constraint on the "
            "entropy: set rank_entropy_target to None"
        )
    if network.constants and network.latent and not training.init_covariance:
        raise ValueError("constants start where pre-training ends: set init_covariance to True")
    if training.span_gain and learnt_diagonal:
        raise ValueError("span_gain needs a fixed diagonal, D = εI; set it to 0 for a learnt D")
    if training.init_covariance and constrained and network.rank and network.diagonal is None:
        raise ValueError(
            "init_covariance gives P its target entropy beside D = εI; set it to False, or "
            "rank_entropy_target to None, where D is learnt"
        )
    if training.stop_at_variance is not None and network.neighbourhood:
        raise ValueError(
            "stop_at_variance needs a variance, which a sparse L does not tell; set it to None"
        )
    plain = network.latent and network.rank and network.epsilon and not network.neighbourhood
    if training.freeze_heads and not plain:
        raise ValueError(
            "freeze_heads keeps P beside D = εI in the density: it needs a network, a rank above "
            "0 and a fixed diagonal; set it to False for other models"
        )
    if training.batch < distributed.world_size():
        raise ValueError(
            f"{distributed.world_size()} processes cannot share batches of {training.batch} "
            f"images: start at most {training.batch}"
        )


class TrainingState:
    """Hold a model in training with everything that a checkpoint needs."""

    def __init__(self, experiment: Experiment, images: Tensor, device: torch.device):
        check(experiment)
        self.training, self.format = experiment.training, memory_format(experiment.network)
        self.network, self.images = experiment.network, images
        self.vae = self._new_model(experiment, images, device)
        self.optimiser = self._new_optimiser(device)
        self.kl, self.rank_entropy = self._new_constraints(experiment, images, device)
        self.step, self.seconds, self.history = 0, 0.0, []
        distributed.broadcast_parameters([*self.vae.parameters(), *self.vae.buffers()])
        # With `stop_at_variance`: why a training ended early, and the last finite weights it had.
        self.stopped, self.last_good = None, {}

    def _new_model(self, experiment: Experiment, images: Tensor, device: torch.device):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(experiment.training.seed)
            vae = new_model(experiment.data, experiment.network)
        # A mean that starts at the data's colour need not travel there.
        some = subsample(images).float()
        vae.start_mean_at(some.mean((0, 2, 3)).to(device) / 255)
        if vae.latent and vae.head.log_variance is not None:
            vae.head.start_noise_at(some.var(0).mean().item() / 255**2)
        return vae.to(device, memory_format=self.format)

    def _new_optimiser(self, device: torch.device) -> torch.optim.Adam:
        rate, on_gpu = self.training.learning_rate, device.type == "cuda"
        if on_gpu:  # what a graph of the step can replay
            rate = torch.tensor(rate, device=device)
        return torch.optim.Adam(self.vae.parameters(), rate, fused=True, capturable=on_gpu)

    def _new_constraints(
        self, experiment: Experiment, images: Tensor, device: torch.device
    ) -> tuple[Constraint | Price, Constraint | None]:
        """Make the constraints on KL ≈ ξ_KL and, if there is a target, on H ≈ ξ_H."""
        o = experiment.objective
        kl = Price(device)
        if o.kl_target is not None:
            kl = Constraint(o.kl_target, o.damping, o.multiplier_rate, device)
        target = o.rank_entropy_target
        if target is None:
            return kl, None
        if target in RULES:
            target = RULES[target](images, experiment.network, o.kl_target)
        target = distributed.broadcast(target * o.rank_entropy_factor)
        return kl, Constraint(target, o.entropy_damping, o.entropy_multiplier_rate, device)

    def constraints(self, mean_only: bool) -> dict[str, Constraint]:
        """Return the constraints that act, by the name of the term that each holds."""
        if mean_only or self.rank_entropy is None:
            return {"kl_nats": self.kl}
        return {"kl_nats": self.kl, "rank_entropy_nats": self.rank_entropy}

    def set_learning_rate(self, rate: float) -> None:
        """Set Adam's learning rate, on a GPU in the tensor that a captured step reads."""
        group = self.optimiser.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

    def save(self, file: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        content = {
            "vae": self.vae.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "multipliers": [c.multiplier for c in self.constraints(False).values()],
            "progress": (self.step, self.seconds, self.history),
        }
        with paths.replacing(file) as temporary:
            torch.save(content, temporary)

    def restore(self, file: Path) -> None:
        """Go on from a checkpoint. Raises ValueError for one of a model with other parameters."""
        saved = torch.load(file, map_location=self.kl.multiplier.device, weights_only=True)
        ours = self.optimiser.param_groups[0]
        if len(saved["optimiser"]["param_groups"][0]["params"]) != len(ours["params"]):
            raise ValueError(
                f"{file} is a training that an older version began, with other parameters: go on "
                f"with that version, or delete the file to train from the start"
            )
        self.vae.load_state_dict(saved["vae"])
        options = {name: ours[name] for name in ("lr", "fused", "capturable")}
        self.optimiser.load_state_dict(saved["optimiser"])
        self.optimiser.param_groups[0].update(options)  # it may come from another kind of device
        multipliers = saved["multipliers"]
        for one, multiplier in zip(self.constraints(False).values(), multipliers, strict=True):
            one.multiplier = multiplier
        self.step, self.seconds, self.history = saved["progress"]

    def record(self, terms) -> dict[str, float]:
        """Add a row to the history; raise FloatingPointError where a term is not finite."""
        entropy = self.rank_entropy
        kept = {name: term.double() for name, term in vars(terms).items() if term is not None}
        values = torch.stack(list(kept.values())).tolist()  # one wait for the GPU, not six
        row = {"step": self.step} | dict(zip(kept, values, strict=True))
        row["kl_multiplier"] = self.kl.multiplier.item()
        row["rank_entropy_multiplier"] = 0.0 if entropy is None else entropy.multiplier.item()
        if not all(map(math.isfinite, row.values())):
            raise FloatingPointError(f"training stopped being finite: {row}")
        self.history.append(row)
        return row

    def remember(self) -> None:
        """Keep the weights where a training may end by `stop_at_variance`."""
        if self.training.stop_at_variance is not None:
            self.last_good = copy.deepcopy(self.vae.state_dict())

    def has_exploded(self, terms) -> bool:
        """Tell whether to stop, by `stop_at_variance`, with the last finite weights.

        Without it, what is not finite is left to `record`, which raises.
        """
        limit = self.training.stop_at_variance
        if limit is None:
            return False
        known = (term for term in vars(terms).values() if term is not None)
        if not (self.weights_are_finite() and all(term.isfinite() for term in known)):
            self.stopped = f"not finite at step {self.step}"
            self.vae.load_state_dict(self.last_good)
        else:
            self.remember()
            if terms.variance > limit:
                self.stopped = f"variance {terms.variance:.3g} at step {self.step}"
        return self.stopped is not None

    def weights_are_finite(self) -> bool:
        """Tell whether all parameters are finite."""
        return all(parameter.isfinite().all() for parameter in self.vae.parameters())

    def check_weights(self, checkpoint: Path) -> None:
        """Raise FloatingPointError rather than have a checkpoint that can only fail again."""
        if not self.weights_are_finite():
            raise FloatingPointError(
                f"weights stopped being finite by step {self.step}; {checkpoint}, if it exists, "
                f"is the last good state"
            )


def checkpoint_step(file: Path) -> int:
    """Return the step at which a checkpoint was saved."""
    return torch.load(file, map_location="cpu", weights_only=True)["progress"][0]
