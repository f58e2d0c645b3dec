"""The notebooks of the collection: what each shows, what it needs, how long it takes."""

import json
from dataclasses import dataclass
from pathlib import Path

from sos import profiles
from sos.config import Experiment
from sos.system import paths

RUN_TIMES = paths.NOTEBOOKS / "run_times.json"  # seconds of each notebook, renewed by --write


@dataclass(frozen=True)
class Notebook:
    """Hold one notebook of the collection and what has to exist before it runs."""

    name: str
    section: str  # of the paper
    shows: str
    experiments: tuple[str, ...] = ()  # keys of Profile.experiments

    @property
    def source(self) -> Path:
        """Return the notebook's file in the repository."""
        return paths.NOTEBOOKS / f"{self.name}.ipynb"


EXPERIMENTS = profiles.PROFILES["demo"].experiments  # the other profiles have the same keys
SOS_MODELS = ("faces-sos", "brains-sos")
# Whose images notebook 08 shows; of the others it has the numbers.
EPSILON_MODELS = (
    *(f"epsilon-faces-{kind}" for kind in ("sigma", "paper", "learnt", "sparse", "hybrid")),
    *(f"epsilon-{data}-{kind}" for data in ("brains", "gray") for kind in ("paper", "learnt")),
)
NOTEBOOKS = (
    Notebook("00_start_here", "3.3", "this map, a tour of the distribution, the images"),
    Notebook(
        "01_beta_vae_vs_sos_vae",
        "4.1",
        "Figures 1 and 2a–d, Table 1 (first eight rows), coherence",
        ("faces-beta", "faces-sos", "brains-beta", "brains-sos"),
    ),
    Notebook(
        "02_dorta_comparison",
        "4.1",
        "Figure 3, Table 1 (last six rows), local against global structure, costs",
        ("gray-beta", "gray-dorta", "gray-sos", "gray-constrained", "gray-hybrid"),
    ),
    Notebook(
        "03_interpolation",
        "4.2",
        "Figure 4, and the same by way of the latent space",
        SOS_MODELS,
    ),
    Notebook(
        "04_component_scaling",
        "4.3, B",
        "Figures 5, 9, 10, what each component moves",
        SOS_MODELS,
    ),
    Notebook(
        "05_interactive_editing",
        "4.4, C",
        "Figures 6, 11–14, samples and uncertainty given edits, soft edits, scores, pages",
        (*SOS_MODELS, "epsilon-faces-learnt", "epsilon-brains-learnt"),
    ),
    Notebook(
        "06_pca_comparison",
        "4.5",
        "Figure 7, and the exact solution: how good is back-propagation?",
        tuple(name for name in EXPERIMENTS if name.startswith("bare-")),
    ),
    Notebook(
        "07_stabilising_the_variance",
        "3.3, A",
        "Figure 8, each stabiliser on and off, traces, wrong targets",
        tuple(name for name in EXPERIMENTS if name.startswith("variance-")),
    ),
    Notebook(
        "08_the_right_epsilon",
        "beyond",
        "which ε is right: density, calibration and samples, with fair baselines and seeds",
        EPSILON_MODELS,
    ),
    Notebook(
        "09_does_editing_predict",
        "4.4",
        "held-out pixels, edits against the true picture, lesions: what editing is worth",
        tuple(name for name in EPSILON_MODELS if "-gray-" not in name),
    ),
    Notebook(
        "10_where_the_variance_lives",
        "3.3, 5",
        "what the rank buys; which factors the code tells, and which the covariance",
    ),
    Notebook(
        "11_claims",
        "all",
        "every claim of the paper with its verdict over seeds, and a report",
    ),
    Notebook(
        "12_real_images",
        "beyond",
        "photographs of solar cells: what carries over from simulated images, and defects",
        tuple(f"cells-{kind}" for kind in profiles.CELL_KINDS),
    ),
)


def run_times() -> dict[str, float]:
    """Read the recorded {notebook: seconds}, measured with released weights."""
    return json.loads(RUN_TIMES.read_text()) if RUN_TIMES.exists() else {}


def record_time(notebook: Notebook, seconds: float) -> None:
    """Update the run time that notebook 00 shows, if it changed by more than a factor of 1.5."""
    times = run_times()
    if not 1 / 1.5 < seconds / times.get(notebook.name, 1e-9) < 1.5:
        times[notebook.name] = round(seconds)
        paths.write_text(RUN_TIMES, json.dumps(times, indent=1, sort_keys=True) + "\n")


def minutes(seconds: float) -> str:
    """Format a duration in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def notebook_rows() -> list[dict]:
    """List the notebooks for notebook 00: section, what each shows, and seconds."""
    measured, rows = run_times(), []
    for notebook in NOTEBOOKS:
        trained = [_seconds(EXPERIMENTS[name]) for name in notebook.experiments]
        seconds = measured.get(notebook.name)
        rows.append(
            {
                "notebook": f"[{notebook.name}]({notebook.name}.ipynb)",
                "section": notebook.section,
                "shows": notebook.shows,
                "with released weights": None if seconds is None else f"{seconds:.0f} s",
                "training it needs": _training(trained),
            }
        )
    return rows


def _seconds(experiment: Experiment) -> float | None:
    """Return the seconds of a training: of released weights, or else of a released record."""
    from sos.analysis import seeds  # the options' listing needs no packages
    from sos.training import store

    seconds = store.recorded_seconds(experiment, "released")
    if seconds is None:
        record = seeds.released(experiment, profiles.PROFILES["demo"].evaluation) or {}
        seconds = record.get(seeds.SECONDS)
    return seconds


def _training(seconds: list[float | None]) -> str | None:
    if None in seconds:
        return None
    return minutes(sum(seconds)) if seconds else "–"
