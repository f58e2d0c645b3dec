"""Numbers as files: what each notebook measured, and on what."""

import csv
import io
import json
import math
import platform
from collections.abc import Sequence
from importlib.metadata import version

from sos.analysis import verdicts
from sos.system import paths

UNITS = {"kl": "nats", "entropy": "nats", "nll": "nats", "variance": "squared intensity"}


class Results:
    """Collect a notebook's numbers, {name: {value, unit}}, with what they were computed on."""

    def __init__(self, notebook: str, profile: str, machine: dict):
        self.file = paths.FIGURES / profile / "results" / f"{notebook}.json"
        self.content = {"notebook": notebook, "profile": profile, **machine, "numbers": {}}

    def add(self, name: str, value: float, unit: str) -> float:
        """Record a number and return it. Raises ValueError for one that is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; only finite numbers are results")
        self.content["numbers"][name] = {"value": float(f"{value:.6g}"), "unit": unit}
        return value

    def add_all(self, groups: dict[str, dict[str, float]], unit: str = "1") -> None:
        """Record {group: {name: value}} as <group>.<name>."""
        for group, numbers in groups.items():
            for name, value in numbers.items():
                self.add(f"{group}.{name}", value, unit)

    def add_evaluations(self, measured: dict[str, dict[str, float]]) -> None:
        """Record all numbers of evaluations, {model: {measurement: value}}, with their units."""
        for name, numbers in measured.items():
            for key, value in numbers.items():
                self.add(f"{name}.{key}", value, _unit(key))

    def add_spreads(self, records: dict[str, Sequence[dict]]) -> None:
        """Record means over seeds, {model: a dictionary of numbers for each seed}.

        Beside the number of these weights, if there is one, stand the mean over seeds, the standard
        deviation, Student's 95 % interval of the mean, and how many seeds there are. What has
        several numbers for each seed is left out.
        """
        for name, found in ((name, found) for name, found in records.items() if len(found) > 1):
            single = (k for k, value in found[0].items() if not isinstance(value, list))
            for key in (k for k in single if k not in ("seed", "training_seconds")):
                values = list(verdicts.values_of(found, key).values())
                mean, low, high = verdicts.interval(values)
                deviation = verdicts.mean_and_deviation(values)[1]
                more = {"mean": mean, "sd": deviation, "low": low, "high": high}
                if f"{name}.{key}" not in self.content["numbers"]:
                    self.add(f"{name}.{key}", mean, _unit(key))
                entry = self.content["numbers"][f"{name}.{key}"]
                entry |= {word: float(f"{value:.6g}") for word, value in more.items()}
                entry["seeds"] = len(values)

    def add_comparison(self, name: str, found: verdicts.Comparison) -> None:
        """Record a mean difference over seeds with its interval, and the verdict on it."""
        self.add(name, found.mean, "1")
        entry = self.content["numbers"][name]
        ends = {"low": found.low, "high": found.high}
        entry |= {k: float(f"{v:.6g}") for k, v in ends.items() if math.isfinite(v)}
        entry |= {"seeds": found.seeds, "agree": found.agree, "verdict": found.verdict}

    def write(self) -> None:
        """Write figures/<profile>/results/<notebook>.json."""
        text = json.dumps(self.content, indent=1, ensure_ascii=False)
        paths.write_text(self.file, text + "\n")


def _unit(name: str) -> str:
    known = (u for word, u in UNITS.items() if word in name)
    return next(known, "images" if name.endswith("images") else "1")


def load_results(notebook: str, profile: str) -> dict:
    """Return the content of a notebook's results file, without numbers where it was not run."""
    try:
        file = paths.FIGURES / profile / "results" / f"{notebook}.json"
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"numbers": {}}


def load_numbers(notebook: str, profile: str) -> dict[str, float]:
    """Return {name: value} of a notebook's results file, which is empty where it was not run."""
    numbers = load_results(notebook, profile)["numbers"]
    return {name: entry["value"] for name, entry in numbers.items()}


COLUMNS = "notebook", "number", "value", "unit", "mean", "sd", "low", "high", "seeds", "commit"


def write_csv(profile: str) -> None:
    """Gather the numbers of all notebooks of a profile in results/results.csv, one in a row."""
    folder, rows = paths.FIGURES / profile / "results", [COLUMNS]
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        for name, entry in content["numbers"].items():
            more = {
                "notebook": content["notebook"],
                "number": name,
                "commit": content.get("commit"),
            }
            found = entry | more
            rows.append([found.get(column, "") for column in COLUMNS])
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    paths.write_text(folder / "results.csv", stream.getvalue())


def benchmark(name: str) -> dict:
    """Return benchmarks/<name>.json, or an empty dictionary where that file is absent."""
    try:
        return json.loads((paths.ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def environment() -> list[dict]:
    """Return rows with the versions of what the numbers depend on."""
    names = ("torch", "torchvision", "numpy", "scipy", "matplotlib", "papermill", "jupyterlab")
    found = {"python": platform.python_version()} | {name: version(name) for name in names}
    return [{"package": name, "version": number} for name, number in found.items()]
