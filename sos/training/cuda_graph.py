"""The training step on a GPU: captured once as a CUDA graph, then replayed without the host."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

EAGER_STEPS = 5  # of each phase before its step is captured: Adam and cuDNN need them to settle

log = logging.getLogger(__name__)


class Captured:
    """Record the step function of one phase as a graph with places for its two inputs."""

    def __init__(self, step: Callable, x: Tensor, noise: Tensor, mean_only: bool):
        self.x, self.noise, self.graph = x.clone(), noise.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            self.terms = step(self.x, self.noise, mean_only)

    def replay(self, x: Tensor, noise: Tensor):
        """Run the recorded step on new images and noise, and return its terms."""
        self.x.copy_(x)
        self.noise.copy_(noise)
        self.graph.replay()
        return self.terms


class CapturedSteps:
    """Call `step(x, noise, mean_only)`, from the sixth step of a phase on as a CUDA graph.

    Where capturing fails, the step is still run eagerly. `before_capture` is called before a step
    is recorded. It drops gradients, which have to be allocated within the graph.
    """

    def __init__(self, step: Callable, before_capture: Callable[[], None]):
        self.step, self.before_capture = step, before_capture
        self.phases = {}  # {mean_only: eager steps so far, then the graph, None where it failed}

    def __call__(self, x: Tensor, noise: Tensor, mean_only: bool):
        phase = self.phases.setdefault(mean_only, 0)
        if isinstance(phase, int) and phase < EAGER_STEPS:
            self.phases[mean_only] = phase + 1
            return self.step(x, noise, mean_only)
        if isinstance(phase, int):
            phase = self._capture(x, noise, mean_only)
        if phase is None:
            return self.step(x, noise, mean_only)
        return phase.replay(x, noise)

    def _capture(self, x: Tensor, noise: Tensor, mean_only: bool) -> Captured | None:
        self.phases.pop(not mean_only, None)  # the other phase is over: its memory can go
        self.before_capture()
        try:
            graph = Captured(self.step, x, noise, mean_only)
        except RuntimeError as error:
            log.warning("the step could not be captured as a CUDA graph: %s", error)
            graph = None
        self.phases[mean_only] = graph
        return graph


@contextmanager
def stream(device: torch.device) -> Iterator[None]:
    """Use a stream of its own, as capturing needs, and the fastest convolutions.

    On a CPU this does nothing.
    """
    if device.type != "cuda":
        yield
        return
    own = torch.cuda.Stream(device)
    own.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(own), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        yield
    torch.cuda.current_stream(device).wait_stream(own)
