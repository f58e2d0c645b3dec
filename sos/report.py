"""Numbers as files: results JSON of each notebook, and tables made from those files alone."""

import csv
import io
import json
import math
from collections.abc import Sequence

from sos import paths

NOT_RUN = "not run"

# Table 1 of the paper: Fréchet inception distance of 50,000 images (Langley et al., 2022).
PAPER_TABLE_1 = {
    ("CelebA", "β-VAE", "means"): 121.65,
    ("CelebA", "β-VAE", "samples"): 196.40,
    ("CelebA", "SOS-VAE", "means"): 132.93,
    ("CelebA", "SOS-VAE", "samples"): 104.62,
    ("UKBB", "β-VAE", "means"): 211.24,
    ("UKBB", "β-VAE", "samples"): 332.89,
    ("UKBB", "SOS-VAE", "means"): 141.87,
    ("UKBB", "SOS-VAE", "samples"): 79.712,
}


class Results:
    """The numbers of one notebook: {name: {value, unit}}, with what they were computed on."""

    def __init__(self, notebook: str, profile: str, machine: dict):
        self.file = paths.FIGURES / profile / "results" / f"{notebook}.json"
        self.content = {"notebook": notebook, "profile": profile, **machine, "numbers": {}}

    def add(self, name: str, value: float, unit: str) -> float:
        """Records a number and returns it. Raises ValueError for one that is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; only finite numbers are results")
        self.content["numbers"][name] = {"value": float(f"{value:.6g}"), "unit": unit}
        return value

    def add_all(self, groups: dict[str, dict[str, float]], unit: str = "1") -> None:
        """{group: {name: value}}, recorded as <group>.<name>."""
        for group, numbers in groups.items():
            for name, value in numbers.items():
                self.add(f"{group}.{name}", value, unit)

    def write(self) -> None:
        text = json.dumps(self.content, indent=1, ensure_ascii=False)
        paths.write_text(self.file, text + "\n")


def load_numbers(notebook: str, profile: str) -> dict[str, float]:
    """{name: value} of a notebook's results file; empty where it was not run."""
    try:
        file = paths.FIGURES / profile / "results" / f"{notebook}.json"
        numbers = json.loads(file.read_text(encoding="utf-8"))["numbers"]
    except FileNotFoundError:
        return {}
    return {name: entry["value"] for name, entry in numbers.items()}


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits without an exponent; "not run" for None."""
    if value is None:
        return NOT_RUN
    if value == 0:
        return "0"
    rounded = float(f"{abs(value):.{digits - 1}e}")  # 99.97 becomes 100 and has no decimal
    decimals = max(digits - 1 - math.floor(math.log10(rounded)), 0)
    return f"{value:.{decimals}f}"


def write_table(name: str, profile: str, header: Sequence[str], rows: Sequence[Sequence[str]]):
    """figures/<profile>/<name>.md, .csv and .tex; returns the Markdown text."""
    folder = paths.FIGURES / profile
    markdown = markdown_table(header, rows)
    paths.write_text(folder / f"{name}.md", markdown)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    paths.write_text(folder / f"{name}.csv", stream.getvalue())
    body = " \\\\\n".join(" & ".join(map(latex, row)) for row in rows)
    columns = "l" + "r" * (len(header) - 1)
    tex = (
        f"\\begin{{tabular}}{{{columns}}}\n\\hline\n"
        f"{' & '.join(map(latex, header))} \\\\\n\\hline\n{body} \\\\\n\\hline\n\\end{{tabular}}\n"
    )
    paths.write_text(folder / f"{name}.tex", tex)
    return markdown


def latex(text: str) -> str:
    """Text with what is special to LaTeX escaped."""
    symbols = {"β": "$\\beta$", "−": "$-$", "–": "--", "\\": "\\textbackslash{}"}
    symbols |= {character: f"\\{character}" for character in "&%_#${}"}
    symbols |= {character: f"\\{character}{{}}" for character in "~^"}
    return "".join(symbols.get(character, character) for character in text)


# What is printed below comes from evaluations (dictionaries of numbers) and results files alone.

DATA = {"faces": "faces", "brains": "brain slices"}
KIND = {"beta": "β-VAE", "sos": "SOS-VAE"}
PAPER_DATA = {"faces": "CelebA", "brains": "UKBB"}
UNITS = {"kl": "nats", "entropy": "nats", "nll": "nats", "variance": "squared intensity"}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def title(name: str) -> str:
    """ "faces-sos" → "faces, SOS-VAE"."""
    data, kind = name.split("-")
    return f"{DATA[data]}, {KIND[kind]}"


def model_table(models: dict) -> str:
    """What was trained, how, on what and for how long."""
    header = ("model", "image", "R", "D", "parameters", "steps × batch", "trained on", "seconds")
    rows = []
    for name, model in models.items():
        e, meta = model.experiment, model.meta
        network = e.network
        rows.append(
            (
                title(name),
                f"{e.data.height}×{e.data.width}×{e.data.channels}",
                str(network.rank),
                "learnt" if network.diagonal is None else f"{network.diagonal:g} I",
                f"{sum(p.numel() for p in model.vae.parameters()) / 1e6:.2f} M",
                f"{e.training.steps} × {e.training.batch}",
                f"{meta['device']}, {meta['threads']} thread{'s' * (meta['threads'] > 1)}",
                f"{meta['seconds']:.0f}",
            )
        )
    return markdown_table(header, rows)


def last_values(history: list[dict], name: str, share: float = 0.1) -> float:
    """Mean over the last tenth of training, in which single steps still fluctuate."""
    tail = history[-max(1, round(share * len(history))) :]
    return sum(row[name] for row in tail) / len(tail)


def constraint_table(models: dict, measured: dict) -> str:
    """Targets, what training ended with, and what test images give."""
    header = ("model", "ξ_KL", "KL, training", "KL, test", "ξ_H", "rank entropy, training", "test")
    rows = []
    for name, model in models.items():
        objective, numbers = model.experiment.objective, measured[name]
        entropy = ("–", "–", "–")
        if model.meta["rank_entropy_target"] is not None:
            entropy = (
                number(model.meta["rank_entropy_target"], 4),
                number(last_values(model.history, "rank_entropy_nats"), 4),
                number(numbers["test_rank_entropy_nats"], 4),
            )
        rows.append(
            (
                title(name),
                number(objective.kl_target, 3),
                number(last_values(model.history, "kl_nats"), 3),
                number(numbers["test_kl_nats"], 3),
                *entropy,
            )
        )
    return markdown_table(header, rows)


def shares(measured: dict) -> dict[str, dict[str, float]]:
    """Share of Var[y] in the observation space, by data set and model."""
    result: dict = {}
    for name, numbers in measured.items():
        data, kind = name.split("-")
        observation, latent = numbers["variance_observation"], numbers["variance_latent"]
        result.setdefault(DATA[data], {})[KIND[kind]] = observation / (observation + latent)
    return result


def coherence_table(measured: dict) -> str:
    header = (
        "model", "correlation of neighbours in y − μ", "Var in latent space",
        "Var in observation space", "total", "data", "total / data",
    )  # fmt: skip
    rows = []
    for name, n in measured.items():
        total = n["variance_latent"] + n["variance_observation"]
        values = (n["variance_latent"], n["variance_observation"], total, n["variance_data"])
        correlation = f"{n['neighbour_correlation']:.2f}".replace("-0.00", "0.00")
        rows.append(
            (
                title(name),
                correlation,
                *(number(v, 2) for v in values),
                f"{total / n['variance_data']:.2f}",
            )
        )
    return markdown_table(header, rows)


def calibration_table(measured: dict) -> str:
    """How large the residuals x - μ of test images are inside and outside the span of P."""
    header = (
        "model", "mean ‖ω̂‖²/R", "variance outside the span", "its share of the data's variance",
        "ε", "variance outside / ε",
    )  # fmt: skip
    rows = []
    for name, n in measured.items():
        if "test_calibration" in n:
            outside, epsilon = n["test_residual_outside"], n["epsilon"]
            share = f"{100 * outside / n['variance_data']:.0f} %"
            values = (number(n["test_calibration"], 2), number(outside, 2), share)
            rows.append((title(name), *values, f"{epsilon:g}", number(outside / epsilon, 2)))
    return markdown_table(header, rows)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def comparison_table(numbers: dict[str, dict[str, float]]) -> str:
    """{data: numbers of `sos.interpolation.compare`}: what each way costs, keeps and shows."""
    header = ("data", "interpolated", "decoder passes", "RMSE at the corners", "spread of images")
    rows = []
    for data, n in numbers.items():
        ours, theirs = n["spread_observation"], n["spread_latent"]
        rows.append((data, "noise ω_p", "1", "0", number(ours, 2)))
        rmse = number(n["corner_rmse_latent"], 2)
        rows.append((data, "code z", f"{n['decoder_passes_latent']:.0f}", rmse, number(theirs, 2)))
    return markdown_table(header, rows)


def cost_table(costs: dict[str, dict[str, float]]) -> str:
    """{data: milliseconds of `sos.interpolation.frame_costs`}."""
    header = ("data", "next image by noise ω_p", "next image by code z", "ratio")
    rows = [
        (data, *(f"{number(c[way], 2)} ms" for way in c), number(c["latent"] / c["observation"], 2))
        for data, c in costs.items()
    ]
    return markdown_table(header, rows)


def component_table(panels: dict) -> str:
    """For each region the component with the largest share of its energy there.

    {data: (shares (regions, R), areas (regions,), names)}, as `sos.plots.shares_by_region` has it.
    """
    header = ("data", "region", "its area", "strongest component", "energy there", "over area")
    rows = []
    for data, (shares, areas, names) in panels.items():
        for share, area, name in zip(shares, areas.tolist(), names, strict=True):
            best = share.max().item()
            cells = (percent(area), str(int(share.argmax()) + 1), percent(best))
            rows.append((data, name.replace("\n", " "), *cells, number(best / area, 2)))
    return markdown_table(header, rows)


def effect_table(effects: dict, names: Sequence[str]) -> str:
    """{kind of edit: (regions, 1 + regions)} of `sos.regions.edit_effects`, in 8-bit gray levels.

    The change of the region that was edited is set in bold.
    """
    names = [name.replace("\n", " ") for name in names]
    header = ("edit", "edited region", "asked for", *(f"change: {name}" for name in names))
    rows = []
    for kind, table in effects.items():
        for row, name in enumerate(names):
            asked, *changes = (number(255 * x, 2) for x in table[row].tolist())
            changes[row] = f"**{changes[row]}**"
            rows.append((kind, name, asked, *changes))
    return markdown_table(header, rows)


def selectivity(table, names: Sequence[str], edited: str, other: str) -> float:
    """How many times more the edited region changes than another one."""
    row, column = names.index(edited), names.index(other)
    return (table[row, 1 + row] / table[row, 1 + column]).item()


def benchmark(name: str) -> dict:
    """What benchmarks/<name>.json holds; empty where that was not run or does not travel along."""
    try:
        return json.loads((paths.ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


PAGE = (
    "Each button is a distribution over images that the decoder of a variational autoencoder "
    "predicted. Paint on it, and the rest of the image follows: the mean, or a sample, of the "
    "distribution given your strokes. All of it is computed in this page; nothing is sent away."
)


def editing_speed() -> str:
    """The committed timings of benchmarks/editing.py."""
    content = benchmark("editing")
    header = ("what", "image", "ours", "target", "other", "ratio")
    rows = content.get("rows") or [[NOT_RUN] * len(header)]
    return markdown_table(header, rows) + f"\n{content.get('machine', '')}\n"


def unit(name: str) -> str:
    known = (u for word, u in UNITS.items() if word in name)
    return next(known, "images" if name.endswith("images") else "1")


def add_measurements(results: Results, measured: dict) -> None:
    """All numbers of all evaluations, named <model>.<measurement>."""
    for name, numbers in measured.items():
        for key, value in numbers.items():
            results.add(f"{name}.{key}", value, unit(key))


def table_1(profile: str) -> str:
    """The first eight rows of Table 1 with floors, beside the paper's; files and Markdown."""
    numbers = load_numbers("01_beta_vae_vs_sos_vae", profile)
    header = ("data", "model", "images", "distance here", "floor", "paper's data", "paper's FID")
    rows = []
    for data, paper_data in PAPER_DATA.items():
        for kind, label in KIND.items():
            for what in ("means", "samples"):
                distance = numbers.get(f"{data}-{kind}.distance_{what}")
                floor = numbers.get(f"{data}-{kind}.distance_floor")
                paper = PAPER_TABLE_1[paper_data, label, what]
                cells = (number(distance, 3), number(floor, 2), paper_data, f"{paper:g}")
                rows.append((DATA[data], label, what, *cells))
    return write_table("table1", profile, header, rows)


def scale_table(measured: dict) -> str:
    """Distance of μ + t(y - μ) to real images for t = 0, ½, 1."""
    header = ("model", "t = 0 (means)", "t = ½", "t = 1 (samples)")
    keys = [f"distance_{kind}" for kind in ("means", "half_samples", "samples")]
    rows = [
        (title(name), *(number(numbers[key], 3) for key in keys))
        for name, numbers in measured.items()
        if keys[1] in numbers
    ]
    return markdown_table(header, rows)


def orderings(profile: str) -> str:
    """Every pair of rows of Table 1 on one data set: the paper's order, and whether it holds."""
    numbers = load_numbers("01_beta_vae_vs_sos_vae", profile)
    header = ("data", "the paper finds", "paper", "here", "holds here")
    pairs = (
        (("sos", "samples"), ("sos", "means")),
        (("sos", "samples"), ("beta", "means")),
        (("sos", "samples"), ("beta", "samples")),
        (("beta", "means"), ("beta", "samples")),
        (("sos", "means"), ("beta", "means")),
        (("sos", "means"), ("beta", "samples")),
    )
    rows = []
    for data, paper_data in PAPER_DATA.items():
        for pair in pairs:
            paper = {one: PAPER_TABLE_1[paper_data, KIND[one[0]], one[1]] for one in pair}
            better, worse = sorted(pair, key=paper.get)
            here = [numbers.get(f"{data}-{k}.distance_{w}") for k, w in (better, worse)]
            holds = NOT_RUN if None in here else "yes" if here[0] < here[1] else "**no**"
            claim = " < ".join(f"{KIND[k]} {w}" for k, w in (better, worse))
            values = (f"{paper[better]:.0f} < {paper[worse]:.0f}", " vs ".join(map(number, here)))
            rows.append((DATA[data], claim, *values, holds))
    return markdown_table(header, rows)


def environment() -> str:
    """Versions of what the numbers depend on, beside those that the collection was made with."""
    import platform
    from importlib.metadata import version

    names = ("torch", "torchvision", "numpy", "scipy", "matplotlib", "papermill", "jupyterlab")
    rows = [("python", platform.python_version())] + [(name, version(name)) for name in names]
    return markdown_table(("package", "version"), rows)
