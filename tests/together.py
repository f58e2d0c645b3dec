"""What tests/test_parallel.py compares: run in one process, or in each of several by torchrun."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from test_training import EXTRAS, Killed, experiment, patterns, plain_float32
from torch import nn

from sos import models
from sos.analysis import evaluation, metrics
from sos.models.networks import BatchNorm
from sos.system import distributed
from sos.training import loop, store
from sos.training.pretraining import Pretraining

BATCH = 7  # not a multiple of two
FREE = {"rank_entropy_target": None}
CASES = {
    "paper": experiment(batch=BATCH),
    "extras": experiment(batch=BATCH, **EXTRAS),
    "beta": experiment({"rank": 0, "diagonal": None}, FREE, batch=BATCH, init_covariance=True),
    "sparse": experiment(
        {"rank": 0, "diagonal": None, "neighbourhood": 3}, FREE, batch=BATCH, init_covariance=True
    ),
    "bare": experiment({"width": 0, "latent": 0}, batch=BATCH),
}
BROKEN, WHOLE = "extras", 12  # the case that is interrupted after its checkpoint, and its steps
IMAGES = 130  # three batches, of which the last is smaller


def normalised(count: int = BATCH) -> dict[str, torch.Tensor]:
    """A batch normalisation forwards and backwards, and how it is in evaluation afterwards."""
    stream = torch.Generator().manual_seed(0)
    x, push = (torch.randn(count, 3, 4, 5, generator=stream) + 2 for _ in range(2))
    layer = BatchNorm(3)
    nn.init.normal_(layer.weight, generator=stream)
    mine = distributed.shard(x).clone().requires_grad_()
    y = layer(mine)
    (y * distributed.shard(push)).sum().backward()
    distributed.sum_gradients(layer.parameters())
    result = {"y": torch.cat(distributed.all_gather(y.detach()))}
    result |= {"x_gradient": torch.cat(distributed.all_gather(mine.grad))}
    result |= {f"{name}_gradient": p.grad for name, p in layer.named_parameters()}
    result |= {"later": layer.eval()(x).detach()} | layer.state_dict()
    return result


def trained(name: str, folder: Path) -> dict:
    """History and weights of a training, and the multipliers that each process holds."""
    run = loop.train(CASES[name], patterns(), folder / name / "checkpoint.pt")
    held = [run.kl.multiplier.item(), run.vae.state_dict()]
    return {"history": run.history, "weights": held[1], "held": distributed.all_gather(held)}


def break_off(folder: Path) -> None:
    """Leaves the checkpoint of a training that all processes end after step 7."""
    original, calls = loop.Run.training_step, iter(range(7))

    def training_step(self, *args):
        if next(calls, None) is None:
            raise Killed
        return original(self, *args)

    loop.Run.training_step = training_step
    try:
        trained(BROKEN, folder)
    except Killed:
        pass
    finally:
        loop.Run.training_step = original


def in_common(folder: Path) -> dict:
    """Steps and weights of a training alone, from the pre-training of another, and where it fails.

    In the last case one of several processes cannot read it.
    """
    common = Pretraining("settings", folder / "common" / "saved.pt")
    unread = replace(common, reuse=distributed.process_index() == 0)
    loop.train(CASES["paper"], patterns(), folder / "first.pt", None, common)
    second, result = experiment({"rank": 1}, batch=BATCH), {}
    for name, shared in {"alone": None, "common": common, "unread": unread}.items():
        steps, original = [], loop.Run.training_step

        def training_step(self, *args, steps=steps, original=original):
            steps.append(self.step)
            return original(self, *args)

        loop.Run.training_step = training_step
        run = loop.train(second, patterns(), folder / f"{name}.pt", None, shared)
        loop.Run.training_step = original
        result[name] = distributed.all_gather([steps, run.history, run.vae.state_dict()])
    return result


def measured() -> dict:
    """Feature statistics of generated images, an image's features being some of its pixels."""
    features = lambda images: images.flatten(1)[:, ::37]  # noqa: E731
    made = metrics.Extractor("pixels", 10, features, torch.device("cpu"), 16)
    evaluation.extractor = lambda name: made
    torch.manual_seed(0)
    e = CASES["paper"]
    vae = models.new_model(e.data, e.network).eval()
    model = store.Model(e, vae, [], {}, Path())
    images = evaluation.generated(model, IMAGES)
    return vars(evaluation.statistics_of(images, IMAGES, "pixels", "test")["samples"])


def everything(folder: Path) -> dict:
    result = {"normalised": normalised(), "measured": measured(), "common": in_common(folder)}
    result |= {name: trained(name, folder / "unbroken") for name in CASES}
    if (folder / "broken" / BROKEN).exists():
        result["resumed"] = trained(BROKEN, folder / "broken")
    break_off(folder / "left")
    return result


if __name__ == "__main__":
    plain_float32(setattr)
    torch.set_num_threads(1)
    with distributed.process_group():
        found = everything(Path(sys.argv[1]))
        if distributed.process_index() == 0:
            torch.save(found, Path(sys.argv[1], "found.pt"))
