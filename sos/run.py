"""Run everything that run_all.sh does: plan, data, training, notebooks, summary. Resumable."""

import argparse
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sos import config, paths
from sos.execute import execute as execute_notebook
from sos.execute import failing_cell

SOURCES = {".py", ".js", ".css", ".html"}  # also of widgets and pages
RUN_TIMES = paths.NOTEBOOKS / "run_times.json"  # seconds of each notebook, renewed by --write


@dataclass(frozen=True)
class Notebook:
    """One notebook of the collection and what has to exist before it runs."""

    name: str
    section: str  # of the paper
    shows: str
    experiments: tuple[str, ...] = ()  # keys of Profile.experiments

    @property
    def source(self) -> Path:
        """Return the notebook's file in the repository."""
        return paths.NOTEBOOKS / f"{self.name}.ipynb"


EXPERIMENTS = config.PROFILES["demo"].experiments  # the other profiles have the same keys
SOS_MODELS = ("faces-sos", "brains-sos")
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
        "Figures 6, 11–14, samples and uncertainty given edits, soft edits, pages",
        SOS_MODELS,
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
)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the options; ends the process with a message where they do not fit."""
    parser = argparse.ArgumentParser(
        prog="run_all.sh",
        description="Regenerates every figure and table: data, training, notebooks.",
        epilog="Interrupted at any point, the same command goes on where it was.",
    )
    add = parser.add_argument
    add("--profile", choices=tuple(config.PROFILES), default="demo", type=str.lower,
        help="smoke: tiny; demo (default): two CPU cores; paper-simulated: the paper's network, "
        "trained for minutes of a GPU; paper: its network and constants")  # fmt: skip
    add("--only", metavar="NN", action="extend", nargs="+", default=[],
        help="these notebooks alone, by number or name: --only 01 03")  # fmt: skip
    add("--dry-run", action="store_true",
        help="print the plan, with how long it takes here, and end")  # fmt: skip
    add("--weights", choices=("train", "shipped"), default="train",
        help="train (default): train here what is not in the cache; shipped: use the released "
        "weights where they fit the configuration")  # fmt: skip
    add("--fresh", action="store_true",
        help="train and execute again even what is cached")  # fmt: skip
    add("--faces", metavar="DIR", type=Path,
        help="a folder of your own images (any size) in place of the simulated faces")  # fmt: skip
    add("--data", choices=("real", "simulated"),
        help="real: CelebA and brain volumes or slices; simulated (default, but for the profile "
        "paper): as many images of the same sizes, made here")  # fmt: skip
    add("--celeba", metavar="PLACE", type=Path,
        help="where CelebA lies: a folder, img_align_celeba.zip or Parquet files (default "
        "data/celeba)")  # fmt: skip
    add("--biobank", metavar="PLACE", type=Path,
        help="where brain volumes (.nii.gz) or slices lie (default data/biobank)")  # fmt: skip
    add("--partition", choices=("subset", "official"), default="subset",
        help="of CelebA: subset (default): 10,000 images, as the paper; official: all of "
        "them")  # fmt: skip
    add("--skip-unreadable", action="store_true",
        help="leave out images that cannot be read, instead of stopping")  # fmt: skip
    add("--png", action="store_true",
        help="also write the images that Table 1 compares as files, in data/cache/png")  # fmt: skip
    add("--write", action="store_true",
        help="for maintainers: also renew the committed copies in notebooks/")  # fmt: skip
    chosen = parser.parse_args(argv)
    chosen.only = [numbered(word, parser) for words in chosen.only for word in words.split(",")]
    choose_data(chosen, parser)
    if chosen.fresh and chosen.weights == "shipped":
        parser.error("--fresh trains again and --weights shipped does not train: choose one")
    if chosen.write and (chosen.profile, chosen.weights) != ("demo", "shipped"):
        parser.error("--write needs --profile demo --weights shipped, which the copies show")
    return chosen


def numbered(word: str, parser: argparse.ArgumentParser) -> str:
    """Return the two digits of a notebook from any of its names: 1, 01, 01_beta, a path to it."""
    stem = Path(word).name.removesuffix(".ipynb")
    digits = re.match(r"\d*", stem).group().zfill(2)
    for notebook in NOTEBOOKS:
        if notebook.name.startswith(stem if len(stem) > 2 else digits):
            return digits
    known = "\n  ".join(notebook.name for notebook in NOTEBOOKS)
    parser.error(f"--only {word}: no such notebook; there are\n  {known}")


PLACES = {"faces": "folder", "celeba": "celeba", "biobank": "biobank"}  # {option: reader}


def choose_data(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Set faces, celeba and biobank to absolute paths, or None.

    Ends the process with a message that helps where images cannot be found.
    """
    if chosen.data is None:
        real = chosen.profile == "paper" or chosen.celeba or chosen.biobank
        chosen.data = "real" if real else "simulated"
    if chosen.data == "simulated" and (chosen.celeba or chosen.biobank):
        parser.error("--data simulated reads nothing: leave out --celeba and --biobank")
    if chosen.data == "real":
        # On a small profile with only one of the two given, the other stays simulated.
        both = chosen.profile == "paper" or not (chosen.celeba or chosen.biobank)
        needs = {name.split("-")[0] for n in chosen_notebooks(chosen) for name in n.experiments}
        if both and not chosen.faces and needs - {"brains"}:
            chosen.celeba = chosen.celeba or paths.DATA / "celeba"
        if both and "brains" in needs:
            chosen.biobank = chosen.biobank or paths.DATA / "biobank"
    if chosen.faces and chosen.celeba:
        parser.error("--faces and --celeba both take the simulated faces' place: choose one")
    for name, reader in PLACES.items():
        place = getattr(chosen, name)
        if place is None:
            continue
        from sos.datasets import READERS  # a slow import, which simulated images do not need

        place = place.expanduser().resolve()
        setattr(chosen, name, place)
        try:
            str(place).encode()
        except UnicodeEncodeError:
            parser.error(
                f"--{name} {str(place)!r}: the name is not UTF-8, and no notebook can hold it; "
                f"rename the folder, or give a link of another name"
            )
        try:
            READERS[reader].scan(str(getattr(chosen, name)))
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))


def run_times() -> dict[str, float]:
    """Read the recorded {notebook: seconds}, measured with released weights."""
    return json.loads(RUN_TIMES.read_text()) if RUN_TIMES.exists() else {}


def chosen_notebooks(chosen: argparse.Namespace) -> list[Notebook]:
    """Return the notebooks that --only names, or all."""
    return [n for n in NOTEBOOKS if not chosen.only or n.name[:2] in chosen.only]


def parameters(chosen: argparse.Namespace) -> dict:
    """Return the parameters that papermill injects into every notebook."""
    return {"profile": chosen.profile, "weights": chosen.weights, "images": images(chosen)}


def images(chosen: argparse.Namespace) -> dict | None:
    """Return the `images` argument of `sos.config.profile`; None where all are simulated."""
    places = {name: str(place) for name in PLACES if (place := getattr(chosen, name))}
    if not places:
        return None
    return places | {"partition": chosen.partition, "skip_unreadable": chosen.skip_unreadable}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    chosen = arguments(argv)
    if not paths.NOTEBOOKS.is_dir():
        print(
            f"there are no notebooks in {paths.NOTEBOOKS}, and an installed package has none: "
            f"clone the repository to run them. `import sos` and a copied notebook do without it"
        )
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("papermill").setLevel(logging.WARNING)
    pause = "0.5" if sys.stderr.isatty() else "30"  # seconds between two updates of a bar
    os.environ["TQDM_MININTERVAL"] = os.environ.get("TQDM_MININTERVAL", pause)
    from sos import parallel  # imported late, so that --help needs no packages

    if not parallel.is_first():  # under torchrun or accelerate
        with parallel.joined():
            prepare_models(chosen)
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, stop)
    try:
        return work(chosen) if chosen.dry_run else run_alone(chosen)
    except Stopped as stopped:
        print("\nstopped; the same command goes on from here")
        return 128 + stopped.number
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
            raise
        print(f"{error}\nmake room, or let {', '.join(PLACES_TO_WRITE)} name other folders")
        return 1


PLACES_TO_WRITE = ("SOS_CACHE", "SOS_FIGURES", "SOS_EXECUTED")


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int):
        self.number = number


def stop(number: int, _) -> None:
    """Kill trainings and kernels at once, before they can print tracebacks, and raise Stopped."""
    import psutil  # imported late, so that --help needs no packages

    signal.signal(number, signal.SIG_IGN)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "resource_tracker" not in " ".join(child.cmdline()):  # it cleans up for joblib
                child.kill()
    raise Stopped(number)


def run_alone(chosen: argparse.Namespace) -> int:
    """Do the work, unless another process runs the same profile; return the exit status."""
    where = paths.EXECUTED / chosen.profile
    for place in (paths.CACHE, paths.FIGURES, where):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):  # raises OSError where nothing can be written
            pass
    with (where / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another run of profile {chosen.profile} is at work: wait for it, or stop it")
            return 2
        except OSError as error:  # some network file systems have no locks
            print(f"{where} cannot be locked ({error}): do not run this profile twice at a time")
        paths.sweep()
        return work(chosen)


def needed(chosen: argparse.Namespace) -> list[config.Experiment]:
    """Return the experiments that the chosen notebooks show."""
    profile = config.profile(chosen.profile, images(chosen))
    names = dict.fromkeys(name for n in chosen_notebooks(chosen) for name in n.experiments)
    return [profile.experiments[name] for name in names]


def prepare_models(
    chosen: argparse.Namespace, finished: Callable[[str], None] = lambda name: None
) -> dict[str, Exception]:
    """Train and measure the models that are needed; return {name: error} of those that failed."""
    from sos.prepare import prepare_all

    weights = "fresh" if chosen.fresh else chosen.weights
    settings = replace(config.PROFILES[chosen.profile].evaluation, png=chosen.png)
    return prepare_all(needed(chosen), weights, settings, finished)


class WholeRun:
    """A progress bar over all trainings and notebooks, with the time that is left."""

    def __init__(self, estimate, experiments: list, notebooks: list[Notebook]):
        from sos.progress import tqdm

        recorded = run_times()
        # Without an estimate each model counts as 60 s, as much as ten notebooks.
        models = 60.0 * len(experiments) if estimate is None else estimate.models or 0.0
        self.of_model = models / max(1, len(experiments))
        self.of_notebook = {n.name: recorded.get(n.name, 6.0) for n in notebooks}
        total = models + sum(self.of_notebook.values())
        shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left"
        self.bar = tqdm(desc="whole run", total=total, bar_format=shape)

    def model_is_done(self, name: str) -> None:
        """Advance the bar by one model."""
        self.bar.update(self.of_model)

    def notebook_is_done(self, notebook: Notebook) -> None:
        """Advance the bar by one notebook."""
        self.bar.update(self.of_notebook[notebook.name])

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()


def work(chosen: argparse.Namespace) -> int:
    """Print the plan, make everything, and print a summary; return the exit status.

    With --dry-run only the plan is printed.
    """
    notebooks, experiments = chosen_notebooks(chosen), needed(chosen)
    for data in dict.fromkeys(e.data for e in experiments if e.data.folder):
        from sos.datasets import READERS

        print(READERS[data.name].describe(data))
    print_plan(chosen, notebooks, experiments)
    estimate = print_estimate(chosen, notebooks, experiments)
    if chosen.dry_run:
        return 0
    with closing(WholeRun(estimate, experiments, notebooks)) as whole:
        rows = list(results(chosen, notebooks, experiments, whole))
    print_summary(rows, chosen)
    return 0 if all(state in ("done", "up to date") for _, state, _, _ in rows) else 1


def results(
    chosen: argparse.Namespace, notebooks: list[Notebook], experiments: list, whole: "WholeRun"
) -> Iterator[tuple[Notebook, str, float, list[str]]]:
    """Train, measure and execute; yield each notebook with its state, seconds and figures."""
    from sos import parallel

    with parallel.joined():  # the other processes are needed only for this
        failed = prepare_models(chosen, whole.model_is_done)
    for name, error in failed.items():
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    for notebook in notebooks:
        lacking = [name for name in notebook.experiments if name in failed]
        if lacking:
            yield notebook, f"SKIPPED, because {', '.join(lacking)} failed", 0.0, []
        else:
            try:
                yield notebook, *execute(notebook, chosen, experiments)
            except OSError as error:  # no room or no permission to write its outputs
                yield notebook, f"FAILED: {error}", 0.0, []
        whole.notebook_is_done(notebook)


def print_plan(chosen: argparse.Namespace, notebooks: list[Notebook], experiments: list) -> None:
    """Print what is at hand and what will be made."""
    from sos import datasets, models, plan
    from sos.training import device

    print(f"profile {chosen.profile}, figures to {paths.FIGURES / chosen.profile}")
    to_train = untrained(chosen, experiments)
    for data in dict.fromkeys(e.data for e in experiments):
        splits = ["train", "test"] if data in [e.data for e in to_train] else ["test"]
        missing = sum(plan.missing_images(data, split) for split in splits)
        title = f"{data.name} {data.height}x{data.width}x{data.channels}"
        kind = "read" if data.name in datasets.READERS else "make"
        print(f"  data      {title:<24}", f"{missing} images to {kind}" if missing else "cached")
    for experiment in experiments:
        folder_ = None if chosen.fresh else models.find(experiment, chosen.weights)
        state = f"at hand ({folder_.parent.name})" if folder_ else "to train"
        steps = models.steps_done(experiment, "fresh" if chosen.fresh else chosen.weights)
        if not folder_ and steps:
            state += f", from step {steps} of {experiment.training.steps}"
        print(f"  model     {experiment.name:<24} {state}: {plan.words(experiment)}")
    if to_train and chosen.weights == "shipped":
        print("  note      no weights are released for these settings and images: they are trained")
    for notebook in notebooks:
        current = not chosen.fresh and is_current(notebook, chosen, experiments)
        print(f"  notebook  {notebook.name:<24}", "up to date" if current else "to execute")
    if device().type == "cpu" and any(map(needs_gpu, to_train)):
        print("  no GPU    a step of the paper's network takes about two minutes on two CPU cores")


def untrained(chosen: argparse.Namespace, experiments: list) -> list:
    """Return the experiments that have no finished model, or all with --fresh."""
    from sos import models

    return [e for e in experiments if chosen.fresh or not models.find(e, chosen.weights)]


def print_estimate(chosen: argparse.Namespace, notebooks: list[Notebook], experiments: list):
    """Print how long the run takes on this machine, and its disk space; return the estimate.

    The estimate is None where it could only be guessed, as on a GPU.
    """
    from sos import plan

    to_train = untrained(chosen, experiments)
    needed, free = plan.bytes_needed(experiments, to_train), plan.free_bytes(paths.CACHE)
    print(f"nothing to download; up to {plan.amount(needed)} of disk, {plan.amount(free)} are free")
    if needed > free:
        print("  WARNING   that is more than there is: make room, or set SOS_CACHE elsewhere")
    recorded = run_times()
    to_run = [n for n in notebooks if chosen.fresh or not is_current(n, chosen, experiments)]
    seconds = sum(recorded.get(notebook.name, 0) for notebook in to_run)
    # Timing tiny models takes as long as training them, and timing those of the paper on a CPU
    # takes far too long.
    if to_train and (chosen.profile == "smoke" or any(map(needs_gpu, to_train))):
        print(flush=True)
        return None
    if to_train:
        print("timing a few steps of each kind of model ...", flush=True)
    found = plan.estimate(experiments, to_train, seconds)
    if found.total is None:
        print(flush=True)
        return None
    parts = {"images": found.images, "models": found.models, "notebooks": found.notebooks}
    told = ", ".join(f"{name} {plan.clock(value)}" for name, value in parts.items() if value)
    if told:
        print(f"about {plan.clock(found.total)} on this machine as it is now: {told}")
    print(flush=True)
    return found


def needs_gpu(experiment: config.Experiment) -> bool:
    """Return whether a network is as large as the paper's: 64 channels of 40,000 pixels."""
    return experiment.network.width * experiment.data.height * experiment.data.width > 2_000_000


def executed(notebook: Notebook, chosen: argparse.Namespace, suffix: str) -> Path:
    """Return the path of an executed notebook, or of a file beside it, by its suffix."""
    return paths.EXECUTED.absolute() / chosen.profile / f"{notebook.name}.{suffix}"


def key(notebook: Notebook, chosen: argparse.Namespace, experiments: list) -> str:
    """Return the cache key of an executed notebook: SHA-256 of all that it depends on.

    These are its code, the package, parameters and weights. Of the notebook only the sources of
    cells are hashed, so that outputs written in place change nothing.
    """
    from sos import models

    cells = json.loads(notebook.source.read_text(encoding="utf-8"))["cells"]
    parts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    files = [f for f in sorted(paths.PACKAGE.rglob("*.*")) if f.suffix in SOURCES]
    files += sorted((paths.ROOT / "benchmarks").glob("*.json"))  # shown in tables
    parts += [file.read_text(encoding="utf-8") for file in files]
    parts.append(json.dumps(parameters(chosen)))
    for experiment in experiments:
        if experiment.name in notebook.experiments:
            found = models.find(experiment, chosen.weights)
            parts.append((found / "meta.json").read_text() if found else "untrained")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_current(notebook: Notebook, chosen: argparse.Namespace, experiments: list) -> bool:
    """Return whether a notebook was executed with its present cache key and its figures exist."""
    try:
        stamp = json.loads(executed(notebook, chosen, "json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    made = [paths.FIGURES / chosen.profile / name for name in stamp["figures"]]
    made.append(executed(notebook, chosen, "ipynb"))
    return stamp["key"] == key(notebook, chosen, experiments) and all(f.exists() for f in made)


def execute(notebook: Notebook, chosen: argparse.Namespace, experiments: list):
    """Run one notebook into executed/<profile>/, unless it is current.

    Returns its state, the seconds that it took and the names of its figures.
    """
    stamp = executed(notebook, chosen, "json")
    if not chosen.fresh and not chosen.write and is_current(notebook, chosen, experiments):
        return "up to date", 0.0, json.loads(stamp.read_text())["figures"]
    target, folder = executed(notebook, chosen, "ipynb"), paths.FIGURES / chosen.profile
    before = key(notebook, chosen, experiments)  # edits made during the run do not count
    began = time.perf_counter()
    stamp.unlink(missing_ok=True)  # an older success no longer counts
    state, figures = execute_notebook(notebook.source, target, parameters(chosen), folder)
    if state == "FAILED":
        partial, log = (executed(notebook, chosen, suffix) for suffix in ("failed.ipynb", "log"))
        state += f" in {failing_cell(partial)}, see {log}"
    seconds = time.perf_counter() - began
    if state == "done":
        if chosen.write:
            from sos.notebooks import normalised

            paths.write_text(notebook.source, normalised(target))
            record_time(notebook, seconds)
        paths.write_text(stamp, json.dumps({"key": before, "figures": figures}, indent=1))
    return state, seconds, figures


def record_time(notebook: Notebook, seconds: float) -> None:
    """Update the run time that notebook 00 shows, if it changed by more than a factor of 1.5."""
    times = run_times()
    if not 1 / 1.5 < seconds / times.get(notebook.name, 1e-9) < 1.5:
        times[notebook.name] = round(seconds)
        paths.write_text(RUN_TIMES, json.dumps(times, indent=1, sort_keys=True) + "\n")


def print_summary(rows: list, chosen: argparse.Namespace) -> None:
    """Print a table of notebooks with state, seconds and figures, and where all outputs are."""
    print(f"\n{'notebook':<26} {'state':<12} {'seconds':>8}  figures")
    for notebook, state, seconds, figures in rows:
        pictures = ", ".join(name for name in figures if name.endswith(".png")) or "-"
        word = state if state in ("done", "up to date") else state.split()[0]
        print(f"{notebook.name:<26} {word:<12} {seconds:>8.0f}  {pictures}")
    for notebook, state, _, _ in rows:
        if state not in ("done", "up to date"):
            print(f"{notebook.name}: {state}")
    print(f"\nfigures and tables: {paths.FIGURES / chosen.profile}")
    print(f"executed notebooks: {paths.EXECUTED / chosen.profile}")
    if chosen.png:
        print(f"images of Table 1: {paths.CACHE / 'png'}")


def minutes(seconds: float) -> str:
    """Format a duration in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def map_of_notebooks() -> str:
    """Make the table of notebooks in notebook 00: section, what it shows, seconds; Markdown."""
    from sos import models, report

    measured = run_times()
    rows = []
    for notebook in NOTEBOOKS:
        needed = [config.PROFILES["demo"].experiments[name] for name in notebook.experiments]
        trained = [models.recorded_seconds(e, "shipped") for e in needed]
        seconds = measured.get(notebook.name)
        rows.append(
            (
                f"[{notebook.name}]({notebook.name}.ipynb)",
                notebook.section,
                notebook.shows,
                report.NOT_RUN if seconds is None else f"{seconds:.0f} s",
                report.NOT_RUN if None in trained else minutes(sum(trained)) if trained else "–",
            )
        )
    header = ("notebook", "section", "shows", "with released weights", "training it needs")
    return report.markdown_table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
