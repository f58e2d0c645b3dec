"""The runner behind run_all.sh: plan, data, training, notebooks, summary. Resumable."""

import argparse
import errno
import fcntl
import hashlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from sos import config, profiles
from sos.run.catalogue import Notebook, record_time, run_times
from sos.run.execute import Task, execute_all, failing_cell
from sos.run.options import arguments, chosen_notebooks, images, parameters
from sos.system import deadline, paths

SOURCES = {".py", ".js", ".css", ".html"}  # of the package, widgets and pages included


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = arguments(argv)
    if not paths.NOTEBOOKS.is_dir():
        print(
            f"there are no notebooks in {paths.NOTEBOOKS}, and an installed package has none: "
            f"clone the repository to run them. `import sos` and a copied notebook do without it"
        )
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("papermill").setLevel(logging.WARNING)
    pause = "0.5" if sys.stderr.isatty() else "30"  # seconds between two states of a bar
    os.environ["TQDM_MININTERVAL"] = os.environ.get("TQDM_MININTERVAL", pause)
    from sos.system import distributed  # the options' listing needs no packages

    if not distributed.is_main_process():  # under torchrun or accelerate
        with distributed.process_group():
            if not args.study:  # which the main process does alone
                deadline.set_minutes(args.minutes)
                with suppress(deadline.OutOfTime):
                    prepare_models(args)
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, stop)
    try:
        return work(args) if args.dry_run else run_alone(args)
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
    """End this process because a signal asked for it."""

    def __init__(self, number: int):
        self.number = number


def stop(number: int, _) -> None:
    """Kill trainings and kernels at once, before they can print tracebacks, and raise Stopped."""
    import psutil  # the options' listing needs no packages

    signal.signal(number, signal.SIG_IGN)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "resource_tracker" not in " ".join(child.cmdline()):  # joblib's, which cleans up
                child.kill()
    raise Stopped(number)


def run_alone(args: argparse.Namespace) -> int:
    """Do the work, unless another process runs the same profile; return the exit status."""
    where = paths.EXECUTED / args.profile
    for place in (paths.CACHE, paths.FIGURES, where):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):  # raises where nothing can be written
            pass
    with (where / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another run of profile {args.profile} is at work: wait for it, or stop it")
            return 2
        except OSError as error:  # some network file systems have no locks
            print(f"{where} cannot be locked ({error}): do not run this profile twice at a time")
        paths.sweep()
        return work(args)


def needed(args: argparse.Namespace) -> list[config.Experiment]:
    """Return the experiments that the chosen notebooks show, of images that can be had."""
    from sos import datasets

    profile = profiles.profile(args.profile, images(args))
    names = dict.fromkeys(name for n in chosen_notebooks(args) for name in n.experiments)
    every = (profile.experiments[name] for name in names)
    return [e for e in every if datasets.is_at_hand(e.data)]


def prepare_models(
    args: argparse.Namespace, finished: Callable[[str], None] = lambda name: None
) -> dict[str, Exception]:
    """Train and measure the models that are needed; return {name: error} of those that failed."""
    from sos.run.prepare import prepare_all

    weights = "fresh" if args.fresh else args.weights
    settings = replace(profiles.PROFILES[args.base].evaluation, png=args.png)
    return prepare_all(needed(args), weights, settings, finished)


class WholeRun:
    """Show a progress bar over all trainings and notebooks, with the time that is left."""

    def __init__(self, estimate, experiments: list, notebooks: list[Notebook]):
        from sos.run.workers import at_once
        from sos.system.progress import tqdm

        recorded, beside = run_times(), at_once(len(notebooks))
        # Without an estimate every model counts alike, and as much as ten notebooks do.
        models = 60.0 * len(experiments) if estimate is None else estimate.models or 0.0
        self.of_model = models / max(1, len(experiments))
        self.of_notebook = {n.name: recorded.get(n.name, 6.0) / beside for n in notebooks}
        total = models + sum(self.of_notebook.values())
        shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left"
        self.bar = tqdm(desc="whole run", total=total, bar_format=shape)

    def model_is_done(self, name: str) -> None:
        """Advance the bar by one model."""
        self._advance(self.of_model)

    def notebook_is_done(self, notebook: Notebook) -> None:
        """Advance the bar by one notebook."""
        self._advance(self.of_notebook[notebook.name])

    def _advance(self, amount: float) -> None:
        """Advance the bar, at most to its end, which a sum may pass by a rounding error."""
        self.bar.update(min(amount, self.bar.total - self.bar.n))

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()


def work(args: argparse.Namespace) -> int:
    """Print the plan, make everything, and print a summary; return the exit status.

    With --dry-run only the plan is printed.
    """
    deadline.set_minutes(args.minutes)
    if args.study:
        from sos.run import study

        return study.run(args)
    notebooks, experiments = chosen_notebooks(args), needed(args)
    from sos.datasets import READERS

    for data in dict.fromkeys(e.data for e in experiments if e.data.name in READERS):
        print(READERS[data.name].describe(data))
        if data.name == "folder":
            size = f"{data.height}x{data.width}x{data.channels}"
            show_folder(data, paths.EXECUTED / args.profile / f"faces-{size}.png")
    print_plan(args, notebooks, experiments)
    estimate = print_estimate(args, notebooks, experiments)
    if args.dry_run:
        return 0
    try:
        with closing(WholeRun(estimate, experiments, notebooks)) as whole:
            found = list(results(args, notebooks, experiments, whole))
    except deadline.OutOfTime:
        print(f"stopped after {args.minutes:g} minutes; the same command goes on from here")
        return deadline.EXIT_STATUS
    rows = sorted(found, key=lambda row: row[0].name)
    from sos.figures.results import write_csv  # the options' listing needs no packages

    write_csv(args.profile)
    print_summary(rows, args)
    if args.set:
        from sos.run.compare import print_comparison

        print_comparison(args)
    return 0 if all(state in ("done", "up to date") for _, state, _, _ in rows) else 1


def results(
    args: argparse.Namespace, notebooks: list[Notebook], experiments: list, whole: "WholeRun"
) -> Iterator[tuple[Notebook, str, float, list[str]]]:
    """Train, measure and execute; yield each notebook with its state, seconds and figures.

    Raises OutOfTime where the time ended before all models were there. Notebooks, which take
    seconds, are then executed in the call that completes them.
    """
    from sos.system import distributed

    with distributed.process_group():  # until the others have nothing left to do
        failed = prepare_models(args, whole.model_is_done)
    late = [error for error in failed.values() if isinstance(error, deadline.OutOfTime)]
    for name, error in failed.items():
        if error not in late:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    if late:
        raise late[0]
    todo = []
    for notebook in notebooks:
        lacking = [name for name in notebook.experiments if name in failed]
        current = not lacking and up_to_date(notebook, args, experiments)
        if not lacking and current is None:
            todo.append(notebook)
            continue
        state = f"SKIPPED, because {', '.join(lacking)} failed" if lacking else "up to date"
        yield notebook, state, 0.0, current or []
        whole.notebook_is_done(notebook)
    for result in execute_chosen(todo, args, experiments):
        yield result
        whole.notebook_is_done(result[0])


def print_plan(args: argparse.Namespace, notebooks: list[Notebook], experiments: list) -> None:
    """Print what is at hand and what will be made."""
    from sos import datasets
    from sos.run import plan
    from sos.system.devices import device
    from sos.training import store

    print(f"profile {args.profile}, figures to {paths.FIGURES / args.profile}")
    to_train = untrained(args, experiments)
    for data in dict.fromkeys(e.data for e in experiments):
        splits = ["train", "test"] if data in [e.data for e in to_train] else ["test"]
        missing = sum(plan.missing_images(data, split) for split in splits)
        title = f"{data.name} {data.height}x{data.width}x{data.channels}"
        kind = "read" if data.name in datasets.READERS else "make"
        print(f"  data      {title:<24}", f"{missing} images to {kind}" if missing else "cached")
    for experiment in experiments:
        folder_ = None if args.fresh else store.find(experiment, args.weights)
        state = f"at hand ({folder_.parent.name})" if folder_ else "to train"
        steps = store.steps_done(experiment, "fresh" if args.fresh else args.weights)
        if not folder_ and steps:
            state += f", from step {steps} of {experiment.training.steps}"
        print(f"  model     {experiment.name:<24} {state}: {plan.words(experiment)}")
    if to_train and args.weights == "released":
        print("  note      no weights are released for these settings and images: they are trained")
    for notebook in notebooks:
        current = not args.fresh and is_current(notebook, args, experiments)
        print(f"  notebook  {notebook.name:<24}", "up to date" if current else "to execute")
    if device().type == "cpu" and any(map(needs_gpu, to_train)):
        print("  no GPU    a step of the paper's network takes about two minutes on two CPU cores")


FEW, SHOWN = 1000, 48  # images: with fewer a warning; on a contact sheet


def show_folder(data: config.Data, file: Path) -> None:
    """Write a contact sheet of a folder as models will see it, and warn where there is little.

    Images that cannot be read are left out here, and named when all are read.
    """
    from sos import datasets
    from sos.figures.panels import contact_sheet
    from sos.figures.style import FILE_DPI

    figure = contact_sheet(data, SHOWN)
    if figure is not None:
        with paths.replacing(file) as temporary:
            figure.savefig(temporary, format="png", dpi=FILE_DPI, bbox_inches="tight")
        print(f"  look at   {file}: some of them as models will see them")
    count = len(datasets.items(data, "train"))
    if count < FEW:
        print(
            f"  WARNING   {count} images to train on, where settings are made for thousands: models"
            f" may learn them by heart, and distances of so few images are uncertain"
        )


def untrained(args: argparse.Namespace, experiments: list) -> list:
    """Return the experiments that have no finished model, or all with --fresh."""
    from sos.training import store

    return [e for e in experiments if args.fresh or not store.find(e, args.weights)]


def print_estimate(args: argparse.Namespace, notebooks: list[Notebook], experiments: list):
    """Print how long the run takes on this machine, and its disk space; return the estimate.

    The estimate is None where it could only be guessed, as on a GPU.
    """
    from sos.run import plan
    from sos.run.workers import at_once

    to_train = untrained(args, experiments)
    needed, free = plan.bytes_needed(experiments, to_train), plan.free_bytes(paths.CACHE)
    print(f"nothing to download; up to {plan.amount(needed)} of disk, {plan.amount(free)} are free")
    if needed > free:
        print("  WARNING   that is more than there is: make room, or set SOS_CACHE elsewhere")
    recorded = run_times()
    to_run = [n for n in notebooks if args.fresh or not is_current(n, args, experiments)]
    each = sorted((recorded.get(notebook.name, 0) for notebook in to_run), reverse=True)
    seconds = plan.scheduled(each, at_once(len(each)))
    # Of tiny models a timing takes as long as a training, of the paper's without a GPU for ever.
    if to_train and (args.base == "smoke" or any(map(needs_gpu, to_train))):
        print(flush=True)
        return None
    if to_train:
        print("timing a few steps of each kind of model ...", flush=True)
    weights = "fresh" if args.fresh else args.weights
    found = plan.estimate(experiments, to_train, seconds, weights)
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


def executed(notebook: Notebook, args: argparse.Namespace, suffix: str) -> Path:
    """Return the path of an executed notebook, or of a file beside it, by its suffix."""
    return paths.EXECUTED.absolute() / args.profile / f"{notebook.name}.{suffix}"


def cache_key(notebook: Notebook, args: argparse.Namespace, experiments: list) -> str:
    """Return the cache key of an executed notebook, a SHA-256 of all that it depends on.

    These are its code, the package, parameters and weights. Of the notebook only the sources of
    cells are hashed, so that outputs written in place change nothing.
    """
    from sos.training import store

    cells = json.loads(notebook.source.read_text(encoding="utf-8"))["cells"]
    parts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    files = [f for f in sorted(paths.PACKAGE.rglob("*.*")) if f.suffix in SOURCES]
    files += sorted((paths.ROOT / "benchmarks").glob("*.json"))  # which tables show, as they do
    files += sorted((paths.DATA / "evaluations").glob("*.json"))  # records, by the ledger
    files += [paths.DATA / "claims.yaml"]
    parts += [file.read_text(encoding="utf-8") for file in files]
    parts.append(json.dumps(parameters(args)))
    for experiment in experiments:
        if experiment.name in notebook.experiments:
            found = store.find(experiment, args.weights)
            parts.append((found / "meta.json").read_text() if found else "untrained")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_current(notebook: Notebook, args: argparse.Namespace, experiments: list) -> bool:
    """Return whether a notebook was executed with its present cache key and its figures exist."""
    try:
        stamp = json.loads(executed(notebook, args, "json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    made = [paths.FIGURES / args.profile / name for name in stamp["figures"]]
    made.append(executed(notebook, args, "ipynb"))
    return stamp.get("cache_key") == cache_key(notebook, args, experiments) and all(
        f.exists() for f in made
    )


def up_to_date(notebook: Notebook, args: argparse.Namespace, experiments: list) -> list[str] | None:
    """Return the figures of a notebook that need not be executed again; None where it has to be."""
    if args.fresh or args.write or not is_current(notebook, args, experiments):
        return None
    return json.loads(executed(notebook, args, "json").read_text())["figures"]


def execute_chosen(
    notebooks: list[Notebook], args: argparse.Namespace, experiments: list
) -> Iterator[tuple[Notebook, str, float, list[str]]]:
    """Run notebooks into executed/<profile>/; yield each with its state, seconds and figures."""
    folder, recorded = paths.FIGURES / args.profile, run_times()
    notebooks = sorted(notebooks, key=lambda n: -recorded.get(n.name, 0))  # none is left to the end
    tasks, keys = {}, {}
    for notebook in notebooks:
        target = executed(notebook, args, "ipynb")
        tasks[notebook] = Task(notebook.source, target, parameters(args), folder)
        keys[notebook] = cache_key(notebook, args, experiments)  # later edits are not executed
        executed(notebook, args, "json").unlink(missing_ok=True)  # no older success counts
    named = {notebook.source: notebook for notebook in notebooks}
    for source, state, seconds, figures in execute_all(list(tasks.values())):
        notebook = named[source]
        try:
            if state == "done":
                finish(notebook, args, keys[notebook], seconds, figures)
        except OSError as error:  # no room, or no right, to write
            state = f"FAILED: {error}"
        if state == "FAILED":
            partial, log = (executed(notebook, args, end) for end in ("failed.ipynb", "log"))
            state += f" in {failing_cell(partial)}, see {log}"
        yield notebook, state, seconds, figures


def finish(
    notebook: Notebook, args: argparse.Namespace, key: str, seconds: float, figures: list[str]
) -> None:
    """Record that a notebook was executed; with --write also renew its committed copy."""
    if args.write:
        from sos.run.notebooks import normalised

        paths.write_text(notebook.source, normalised(executed(notebook, args, "ipynb")))
        record_time(notebook, seconds)
    stamp = json.dumps({"cache_key": key, "figures": figures}, indent=1)
    paths.write_text(executed(notebook, args, "json"), stamp)


def print_summary(rows: list, args: argparse.Namespace) -> None:
    """Print a table of notebooks with state, seconds and figures, and where all outputs are."""
    print(f"\n{'notebook':<26} {'state':<12} {'seconds':>8}  figures")
    for notebook, state, seconds, figures in rows:
        pictures = ", ".join(name for name in figures if name.endswith(".png")) or "-"
        word = state if state in ("done", "up to date") else state.split()[0]
        print(f"{notebook.name:<26} {word:<12} {seconds:>8.0f}  {pictures}")
    for notebook, state, _, _ in rows:
        if state not in ("done", "up to date"):
            print(f"{notebook.name}: {state}")
    print(f"\nfigures and tables: {paths.FIGURES / args.profile}")
    print(f"executed notebooks: {paths.EXECUTED / args.profile}")
    if args.png:
        print(f"images of Table 1: {paths.CACHE / 'png'}")
