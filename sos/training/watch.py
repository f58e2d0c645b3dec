"""What goes on beside the steps of a training: progress bar, history, early end, checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from sos.models.bare import log_density
from sos.system import deadline, distributed
from sos.system.progress import tqdm
from sos.training import pretraining
from sos.training.pretraining import Pretraining
from sos.training.state import TrainingState

LOG_EVERY = 10  # steps between rows of the history
CHECKPOINT_EVERY = 100  # steps
CHECKPOINT_SECONDS = 20.0  # at least between two of them: hundreds of megabytes at paper size


class Watch:
    """Log, stop and save a training when called after each step with its terms."""

    def __init__(
        self,
        state: TrainingState,
        checkpoint: Path,
        validation: Tensor | None,
        shared: Pretraining | None,
        bar,
    ):
        self.state, self.checkpoint, self.validation, self.bar = state, checkpoint, validation, bar
        # What was resumed may have begun with another number of threads, and so with other bits.
        self.shared = shared if state.step == 0 else None
        self.saved = time.perf_counter()
        self.began = self.saved - state.seconds

    def __call__(self, terms) -> None:
        """Do what is due after this step."""
        self.bar.update()
        over = self.state.step == self.state.training.steps
        if self.state.step % LOG_EVERY == 0 or over:
            if self.state.has_exploded(terms):
                return
            self.log(terms)
        # Where a row of the history is written, a training can go on exactly.
        late = not over and self.state.step % LOG_EVERY == 0 and deadline.passed()
        if over or late or self.is_checkpoint_due():
            self.save()
        if self.shared is not None and self.state.step == self.state.training.pretraining:
            self.share()
        if late:
            deadline.check()

    def log(self, terms) -> None:
        """Add a row to the history and show it."""
        row = self.state.record(terms)
        if self.validation is not None:
            p = self.state.vae.distribution()
            row["validation_nll_nats"] = -log_density(p, self.validation)
        text = f"KL {row['kl_nats']:.3g}, error {row['squared_error']:.3g}"
        self.bar.set_postfix_str(text)

    def is_checkpoint_due(self) -> bool:
        """Tell whether enough steps and seconds have passed; all processes agree about it."""
        if self.state.step % CHECKPOINT_EVERY:
            return False
        return distributed.broadcast(time.perf_counter() - self.saved >= CHECKPOINT_SECONDS)

    def save(self) -> None:
        """Write a checkpoint of finite weights, which the main process does."""
        self.saved = time.perf_counter()
        self.state.seconds = self.saved - self.began
        self.state.check_weights(self.checkpoint)
        if distributed.process_index() == 0:
            self.state.save(self.checkpoint)

    def share(self) -> None:
        """Save the end of pre-training for other trainings, which the main process does."""
        self.state.seconds = time.perf_counter() - self.began
        if distributed.process_index() == 0 and self.state.weights_are_finite():
            pretraining.save(self.state, self.shared)


@contextmanager
def watched(
    name: str,
    state: TrainingState,
    checkpoint: Path,
    validation: Tensor | None,
    shared: Pretraining | None,
) -> Iterator[Watch]:
    """Watch a training from its first step to its last, with a bar of this name."""
    quiet = distributed.process_index() > 0
    total = state.training.steps
    state.vae.train()
    state.remember()
    with tqdm(desc=name, initial=state.step, total=total, unit="step", disable=quiet) as bar:
        watch = Watch(state, checkpoint, validation, shared, bar)
        yield watch
    state.seconds = time.perf_counter() - watch.began
    state.vae.eval()
