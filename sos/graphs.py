"""The training step on a GPU: captured once as a CUDA graph, then replayed without the host."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sos import parallel

EAGER_STEPS = 5  # of each phase before its step is captured: Adam and cuDNN need them to settle

log = logging.getLogger(__name__)


class Captured:
    """`Run.advance` of one phase as a graph with places for its two inputs."""

    def __init__(self, run, x: Tensor, noise: Tensor, mean_only: bool):
        self.x, self.noise, self.graph = x.clone(), noise.clone(), torch.cuda.CUDAGraph()
        run.optimiser.zero_grad()
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            self.terms = run.advance(self.x, self.noise, mean_only)

    def replay(self, x: Tensor, noise: Tensor):
        self.x.copy_(x)
        self.noise.copy_(noise)
        self.graph.replay()
        return self.terms


def advance(run, x: Tensor, noise: Tensor, mean_only: bool):
    """`run.advance`, from the sixth step of a phase on as a graph; eagerly where that fails.

    Eagerly too where several processes have to meet in the step: a graph of that is untested.
    """
    if parallel.world_size() > 1:
        return run.advance(x, noise, mean_only)
    graph = run.graphs.setdefault(mean_only, 0)
    if isinstance(graph, int):
        if graph < EAGER_STEPS:
            run.graphs[mean_only] = graph + 1
            return run.advance(x, noise, mean_only)
        run.graphs.pop(not mean_only, None)  # the other phase is over: its memory can go
        try:
            run.graphs[mean_only] = Captured(run, x, noise, mean_only)
        except RuntimeError as error:
            log.warning("the step could not be captured as a CUDA graph: %s", error)
            run.graphs[mean_only] = None
    graph = run.graphs[mean_only]
    return run.advance(x, noise, mean_only) if graph is None else graph.replay(x, noise)


@contextmanager
def stream(where: torch.device) -> Iterator[None]:
    """A stream of its own, as capturing needs, and the fastest convolutions; on a CPU nothing."""
    if where.type != "cuda":
        yield
        return
    own = torch.cuda.Stream(where)
    own.wait_stream(torch.cuda.current_stream(where))
    with torch.cuda.stream(own), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        yield
    torch.cuda.current_stream(where).wait_stream(own)
