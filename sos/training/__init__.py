"""Training by equation 3: the loop, its constraints, where it starts, and models on disk."""

from sos.training.constraint import Constraint
from sos.training.loop import Run, train
from sos.training.start import init_covariance, markov_target, ppca_target
from sos.training.state import TrainingState
from sos.training.store import Model, load_or_train

__all__ = [
    "Constraint",
    "Model",
    "Run",
    "TrainingState",
    "init_covariance",
    "load_or_train",
    "markov_target",
    "ppca_target",
    "train",
]
