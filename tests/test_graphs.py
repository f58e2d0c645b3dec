"""The captured training step against the eager one. Needs a GPU."""

from dataclasses import replace

import pytest
import torch

from sos import profiles
from sos.training import cuda_graph, loop

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def values(steps: int) -> tuple[list, dict]:
    """Terms and multipliers of each step through pre-training and release, and the graphs."""
    where = torch.device("cuda")
    e = profiles.PROFILES["smoke"].experiments["faces-sos"]
    e = replace(e, objective=replace(e.objective, rank_entropy_target=30.0))
    images = torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8).to(where)
    rows = []
    with cuda_graph.stream(where):
        run = loop.Run(e, images, where)
        run.vae.train()
        for step in range(steps):
            terms = run.training_step(loop.batch(images, step, e.training), step < 20)
            row = [t.item() for t in vars(terms).values()]
            rows.append([*row, run.kl.multiplier.item(), run.rank_entropy.multiplier.item()])
    return rows, run._captured.phases


def test_captured_steps_are_the_eager_ones(monkeypatch):
    torch.manual_seed(0)
    captured, found = values(35)
    assert isinstance(found[False], cuda_graph.Captured)
    torch.manual_seed(0)
    monkeypatch.setattr(cuda_graph, "EAGER_STEPS", 1000)
    eager, found = values(35)
    assert found[False] == 15
    for one, other in zip(captured, eager, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
