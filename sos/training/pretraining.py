"""Pre-training that several models have in common: one saves it, and the others go on from it.

Nothing but the mean is trained in it (§3.3). It is therefore the same for models that differ only
in their covariance and in what comes later; `sos.training.store.pretraining_of` says which.
"""

import hashlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from sos.system import distributed, paths

# Parts of a model that N(μ, εI) comes from; the last where ε is learnt.
ACTING = ("encoder.", "decoder.", "head.mean.", "head.log_variance")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretraining:
    """Name a pre-training by all that determines its result, to the bit, and where it is kept."""

    settings: str
    file: Path
    reuse: bool = True  # False trains anew, and overwrites the file


def save(state, shared: Pretraining) -> None:
    """Save what pre-training has made of a training, whole or not at all.

    With weights and Adam's two moments that is 12 bytes per parameter: 15 MB in the demo and 370 MB
    at the paper's size. The file stays in the cache, for settings that are tried later.
    """
    parameters = _acting(dict(state.vae.named_parameters()))
    content = {
        "vae": _acting(state.vae.state_dict()),
        "adam": {name: state.optimiser.state[p] for name, p in parameters.items()},
        "kl_multiplier": state.kl.multiplier,
        "progress": (state.step, state.seconds, state.history),
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    data = stream.getvalue()
    with paths.replacing(shared.file) as temporary:
        temporary.write_bytes(_digest(data, shared) + data)


def start(state, shared: Pretraining) -> None:
    """Start a training where a saved pre-training ended; do nothing where there is none to be used.

    Of several processes all do so, or none does. What does not act in pre-training keeps its
    initial values. The seconds of pre-training count, so that what is recorded in the end is the
    cost of the whole training, whoever did its first part.
    """
    saved = _read(state, shared)
    if not all(distributed.all_gather(saved is not None)):
        return
    state.vae.load_state_dict(saved["vae"], strict=False)
    for name, parameter in _acting(dict(state.vae.named_parameters())).items():
        state.optimiser.state[parameter] = saved["adam"][name]
    state.kl.multiplier = saved["kl_multiplier"]
    state.step, state.seconds, state.history = saved["progress"]


def _read(state, shared: Pretraining) -> dict | None:
    """Read a file of `save`; return None where there is none, and with a warning a wrong one."""
    if not (shared.reuse and shared.file.exists()):
        return None
    try:
        data = shared.file.read_bytes()
        digest, data = data[:SHA256_BYTES], data[SHA256_BYTES:]
        if digest != _digest(data, shared):  # torch.load lets changed bits of a tensor pass
            raise ValueError("damaged, or of another training")
        device = state.kl.multiplier.device
        saved = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        if _shapes(saved["vae"]) != _shapes(_acting(state.vae.state_dict())):
            raise ValueError("of an older version, with other parameters")
    except (OSError, ValueError) as error:
        log.warning("%s is not used (%s): pre-training is done anew", shared.file, error)
        return None
    return saved


SHA256_BYTES = hashlib.sha256().digest_size


def _digest(data: bytes, shared: Pretraining) -> bytes:
    """Return the SHA-256 of settings and content."""
    return hashlib.sha256(shared.settings.encode() + data).digest()


def _acting(named: dict) -> dict:
    """Return what acts in pre-training of things by their names."""
    return {name: value for name, value in named.items() if name.startswith(ACTING)}


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
