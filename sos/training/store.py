"""Train or load in one call.

A model is found by its cache key, a hash of all that determines its weights.
"""

import json
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sos import datasets, models
from sos.config import Experiment
from sos.models.networks import fixed_variance, learns_noise
from sos.models.vae import VAE
from sos.system import devices, distributed, paths
from sos.system.version import commit
from sos.training import loop, watch
from sos.training.pretraining import Pretraining
from sos.training.state import checkpoint_step

CACHE = paths.CACHE / "models"


@dataclass(frozen=True)
class Model:
    """Hold a trained model with the record of how it came about."""

    experiment: Experiment
    vae: VAE
    history: list[dict[str, float]]  # one row each `sos.training.watch.LOG_EVERY` steps
    meta: dict  # device, threads, seconds, versions, SHA-256 of the weights
    folder: Path


# Settings younger than the first released models: at these values they are no part of the key, so
# that older models keep theirs.
YOUNGER = {
    ("network", "neighbourhood"): 0,
    ("network", "constants"): False,
    ("objective", "rank_entropy_factor"): 1.0,
    ("training", "freeze_heads"): False,
    ("training", "stop_at_variance"): None,
    ("training", "dequantise"): False,
}


def cache_key(experiment: Experiment) -> str:
    """Return the cache key: the name and 12 hexadecimal digits of a SHA-256.

    The hash is over settings, data and code version.
    """
    settings = asdict(experiment)
    settings["data"] = datasets.cache_key(experiment.data, "train")
    settings["version"] = loop.VERSION
    for (group, name), value in YOUNGER.items():
        if settings[group][name] == value:
            del settings[group][name]
    return f"{experiment.name}-{paths.fingerprint(settings)}"


# Settings that only act after pre-training, where the mean of N(μ, εI) is trained and nothing but
# the KL is constrained. What is not named here counts.
AFTER_PRETRAINING = {
    "network": ("rank", "diagonal", "neighbourhood", "constants"),
    "objective": (
        "rank_entropy_target",
        "rank_entropy_factor",
        "entropy_damping",
        "entropy_multiplier_rate",
    ),
    "training": ("steps", "decay", "init_covariance", "span_gain"),
}


def pretraining_of(
    experiment: Experiment, threads: int | None = None, reuse: bool = True
) -> Pretraining | None:
    """Return the pre-training of a training on `threads`, by default as many as this process has.

    Returns None where there is none to be shared. Bare models are left out, because theirs takes
    less than a second. So is what ends between two rows of the history, because `stop_at_variance`
    may have to go back to the weights of the last row, and what has frozen heads, because all
    settings count in it.
    """
    network, steps = experiment.network, experiment.training.pretraining
    if not (network.latent and 0 < steps < experiment.training.steps) or steps % watch.LOG_EVERY:
        return None
    if experiment.training.freeze_heads:
        return None
    settings = asdict(experiment)
    del settings["name"]
    for group, names in AFTER_PRETRAINING.items():
        for name in names:
            del settings[group][name]
    settings["data"] = datasets.cache_key(experiment.data, "train")
    settings["epsilon"] = "learnt" if learns_noise(network) else fixed_variance(network)
    settings["version"] = loop.VERSION
    settings |= machine() | {"processes": distributed.world_size()}
    settings["threads"] = threads or settings["threads"]
    text = json.dumps(settings, sort_keys=True)
    name = f"{experiment.data.name}-{paths.fingerprint(settings)}.pt"
    return Pretraining(text, paths.CACHE / "pretraining" / name, reuse)


WEIGHTS = ("released", "train", "fresh")


def find(experiment: Experiment, weights: str = "released") -> Path | None:
    """Return a finished model's folder in the cache or, with "released", in the released weights.

    The released weights come first. Returns None where there is no such model. Raises ValueError
    for other words than WEIGHTS.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}; expected one of {', '.join(WEIGHTS)}")
    places = {"released": (paths.RELEASED, CACHE), "train": (CACHE,), "fresh": ()}[weights]
    if not places:
        return None
    key = cache_key(experiment)
    return next((place / key for place in places if (place / key / "meta.json").exists()), None)


def load_or_train(experiment: Experiment, weights: str = "released") -> Model:
    """Load released weights or a cached training, or else train, from where it was stopped.

    `weights="train"` passes over the released weights, and "fresh" over the cache too: a new
    training then takes the cached one's place once it is finished. Only "fresh" also repeats a
    pre-training that another model had. A model whose file does not match its recorded SHA-256 is
    refused with an error that names it.
    """
    folder = distributed.broadcast(find(experiment, weights))
    if folder is None:
        folder = CACHE / cache_key(experiment)
        growing = CACHE / f"{folder.name}.{'fresh' if weights == 'fresh' else 'partial'}"
        with distributed.main_process_first():
            if (growing / "saved").exists():
                shutil.rmtree(growing)  # killed after `save`: that training is over
            images = torch.from_numpy(datasets.load_split(experiment.data, "train").images)
            validation = None
            if not experiment.network.latent:
                validation = torch.tensor(datasets.load_split(experiment.data, "validation").images)
        shared = pretraining_of(experiment, reuse=weights != "fresh")
        run = loop.train(experiment, images, growing / "checkpoint.pt", validation, shared)
        with distributed.main_process_first():
            if distributed.process_index() == 0:
                save(experiment, run, folder)
                if growing.exists():  # not if it exploded early
                    (growing / "saved").touch()
                    shutil.rmtree(growing)
    return load(experiment, folder)


def recorded_seconds(
    experiment: Experiment, weights: str = "any", of: str = "meta.json"
) -> float | None:
    """Return how long this training took when it was last done, or its evaluation.

    The evaluation is meant with `of` evaluation.json. The record is from here or from the released
    weights.
    """
    for place in (paths.RELEASED,) if weights == "released" else (CACHE, paths.RELEASED):
        file = place / cache_key(experiment) / of
        if file.exists():
            return json.loads(file.read_text()).get("seconds")
    return None


def steps_done(experiment: Experiment, weights: str) -> int:
    """Count the steps of an interrupted training, from which the next call goes on."""
    suffix = "fresh" if weights == "fresh" else "partial"
    file = CACHE / f"{cache_key(experiment)}.{suffix}" / "checkpoint.pt"
    return checkpoint_step(file) if file.exists() else 0


def rounded(vae: VAE) -> dict[str, Tensor]:
    """Round weights as they are released, those of VAEs to half precision, but no statistics."""
    parameters = {name for name, _ in vae.named_parameters()}
    return {
        name: value.detach().cpu().to(vae.released_dtype) if name in parameters else value.cpu()
        for name, value in vae.state_dict().items()
    }


def save(experiment: Experiment, run: loop.Run, folder: Path) -> None:
    """Write weights, history and record into a folder that appears whole or not at all."""
    with paths.replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        tensors = {name: value.contiguous() for name, value in rounded(run.vae).items()}
        save_file(tensors, temporary / "weights.safetensors")
        lines = "".join(json.dumps(row) + "\n" for row in run.history)
        (temporary / "history.jsonl").write_text(lines)
        meta = {
            "experiment": asdict(experiment),
            "data": datasets.cache_key(experiment.data, "train"),
            "training_version": loop.VERSION,
            "weights_sha256": datasets.digest(temporary / "weights.safetensors"),
            "rank_entropy_target": run.rank_entropy and run.rank_entropy.target,
            "stopped": run.stopped,
            "seconds": round(run.seconds, 1),
            **machine(),
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        if folder.exists():  # a folder cannot be renamed onto another
            shutil.rmtree(folder)


def load(experiment: Experiment, folder: Path) -> Model:
    """Load a finished model; raise ValueError where its file is not the recorded one."""
    meta = json.loads((folder / "meta.json").read_text())
    file = folder / "weights.safetensors"
    if datasets.digest(file) != meta["weights_sha256"]:
        raise ValueError(
            f"{file} does not match the checksum in meta.json: delete {folder} and run again, "
            f"or restore it with git"
        )
    vae = models.new_model(experiment.data, experiment.network)
    vae.load_state_dict(load_file(file))  # copies into the float32 parameters
    vae.to(devices.device(), memory_format=models.memory_format(experiment.network))
    vae.eval().requires_grad_(False)
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return Model(experiment, vae, history, meta, folder)


def provenance(models: dict[str, Model]) -> dict:
    """Return what results were computed on, and the SHA-256 of the weights behind them."""
    weights = {name: model.meta["weights_sha256"] for name, model in models.items()}
    data = {name: model.experiment.data for name, model in models.items()}
    read = {name: d.name for name, d in data.items() if d.folder}
    seeds = {name: model.experiment.training.seed for name, model in models.items()}
    origin = {"commit": commit(), "weights": weights, "seeds": seeds}
    return machine() | origin | ({"images": read} if read else {})


def machine() -> dict[str, str | int]:
    """Return what a result was computed on."""
    device = devices.device()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:  # what kernels the processor gets, AVX2 for instance, says more than what it is called
        name = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bfloat16": devices.has_fast_bfloat16(device),
    }
