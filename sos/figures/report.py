"""Numbers as files: results JSON of each notebook, and tables made from those files alone."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from itertools import combinations

from sos.config import Data, Network
from sos.system import paths

NOT_RUN = "not run"
NUMBER = re.compile(rf"\**[-+<≈]?\s?\d|–|{NOT_RUN}")  # what a table's cell of numbers begins with

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
    ("CelebA, gray", "β-VAE", "means"): 90.97,
    ("CelebA, gray", "β-VAE", "samples"): 257.11,
    ("CelebA, gray", "Dorta et al.", "means"): 73.44,
    ("CelebA, gray", "Dorta et al.", "samples"): 77.72,
    ("CelebA, gray", "SOS-VAE", "means"): 70.43,
    ("CelebA, gray", "SOS-VAE", "samples"): 74.66,
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


def load_results(notebook: str, profile: str) -> dict:
    """The content of a notebook's results file; without numbers where it was not run."""
    try:
        file = paths.FIGURES / profile / "results" / f"{notebook}.json"
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"numbers": {}}


def load_numbers(notebook: str, profile: str) -> dict[str, float]:
    """{name: value} of a notebook's results file; empty where it was not run."""
    numbers = load_results(notebook, profile)["numbers"]
    return {name: entry["value"] for name, entry in numbers.items()}


def has_counterpart(notebook: str, profile: str, data: str) -> bool:
    """Whether the paper's numbers may stand beside those of a data set: not beside own images."""
    read = load_results(notebook, profile).get("images", {})
    return "folder" not in {kind for name, kind in read.items() if name.split("-")[0] == data}


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits without an exponent; "not run" for None."""
    if value is None:
        return NOT_RUN
    if math.isnan(value):
        return "–"
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
GRAY = "gray"  # the data set of notebook 02: the same faces without colour
LABELS = DATA | {GRAY: "gray faces"}
KIND = {
    "beta": "β-VAE",
    "dorta": "Dorta et al.",
    "sos": "SOS-VAE",
    "constrained": "Dorta et al. with ξ_H",
    "hybrid": "low rank + sparse",
}
PAPER_DATA = {"faces": "CelebA", "brains": "UKBB", GRAY: "CelebA, gray"}
UNITS = {"kl": "nats", "entropy": "nats", "nll": "nats", "variance": "squared intensity"}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its columns of numbers, but for the first, flush right."""
    numeric = [all(NUMBER.match(row[k]) for row in rows) for k in range(1, len(header))]
    lines = [header, ["---", *("---:" if right else "---" for right in numeric)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def title(name: str) -> str:
    """ "faces-sos" → "faces, SOS-VAE"."""
    data, kind = name.split("-")
    return f"{LABELS[data]}, {KIND[kind]}"


def noise(network: Network) -> str:
    """What stands beside PPᵀ in the covariance."""
    if network.neighbourhood:
        return f"(LLᵀ)⁻¹, {network.neighbourhood}×{network.neighbourhood}"
    return "learnt" if network.diagonal is None else f"{network.diagonal:g} I"


def image_size(data: Data) -> str:
    return f"{data.height}×{data.width}×{data.channels}"


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
                image_size(e.data),
                str(network.rank),
                noise(network),
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
    if not tail:  # it exploded before anything was recorded
        return math.nan
    return sum(row[name] for row in tail) / len(tail)


def after_release(history: list[dict]) -> list[dict]:
    """The rows in which P has been trained too."""
    return [row for row in history if row["rank_entropy_nats"]]


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


def coded_table(coded: dict[str, dict[str, dict[str, float]]]) -> str:
    """{data: `sos.regions.coded_colours`}: what the code of an image says of its colours."""
    header = ("data", "region", "R² of lightness", "R² of warmth (red − blue)")
    rows = [
        (
            data,
            name,
            *(f"{r2[tone]:.2f}" if tone in r2 else "–" for tone in ("lightness", "warmth")),
        )
        for data, regions in coded.items()
        for name, r2 in regions.items()
    ]
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
    """The committed timings of benchmarks/editing.py, and the errors of both formulas."""
    content = benchmark("editing")
    header = ("what", "image", "ours", "other", "ratio")
    # The fourth entry of a row is what the benchmark asks of itself.
    rows = [(*row[:3], *row[4:]) for row in content.get("rows", [])]
    text = markdown_table(header, rows or [[NOT_RUN] * len(header)])
    if content:
        errors = content["numbers"]["condition"]["largest_error"]
        text += (
            f"\nLargest error of the conditional mean: {errors['ours']:.1g} ours, "
            f"{errors['dense']:.1g} dense, in single precision. {content['machine']}\n"
        )
    return text


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
    rows = [
        row
        for data in DATA
        for row in distance_rows("01_beta_vae_vs_sos_vae", profile, data, ("beta", "sos"))
    ]
    return write_table("table1", profile, TABLE_1, rows)


def table_1_gray(profile: str) -> str:
    """The last six rows of Table 1 and two models of ours; files and Markdown."""
    rows = distance_rows("02_dorta_comparison", profile, GRAY, tuple(KIND))
    return write_table("table1_gray", profile, TABLE_1, rows)


TABLE_1 = ("data", "model", "images", "distance here", "floor", "paper's data", "paper's FID")


def distance_rows(notebook: str, profile: str, data: str, kinds: Sequence[str]) -> list[tuple]:
    """Rows of Table 1 for the models of one data set."""
    numbers, rows = load_numbers(notebook, profile), []
    label = LABELS[data]
    for kind in kinds:
        for what in ("means", "samples"):
            distance = numbers.get(f"{data}-{kind}.distance_{what}")
            floor = numbers.get(f"{data}-{kind}.distance_floor")
            paper = PAPER_TABLE_1.get((PAPER_DATA[data], KIND[kind], what))
            published = (PAPER_DATA[data], f"{paper:g}") if paper else ("not in the paper", "–")
            if not has_counterpart(notebook, profile, data):
                published = "none of these images", "–"
            rows.append(
                (label, KIND[kind], what, number(distance, 3), number(floor, 2), *published)
            )
    return rows


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


def orderings(profile: str, notebook: str = "01_beta_vae_vs_sos_vae") -> str:
    """Every pair of rows of Table 1 on one data set: the paper's order, and whether it holds."""
    numbers = load_numbers(notebook, profile)
    here_is = ("faces", "brains") if notebook.startswith("01") else (GRAY,)
    header = ("data", "the paper finds", "paper", "here", "holds here")
    rows = []
    for data in here_is:
        if not has_counterpart(notebook, profile, data):
            continue
        published = {
            (kind, what): PAPER_TABLE_1[PAPER_DATA[data], label, what]
            for kind, label in KIND.items()
            for what in ("means", "samples")
            if (PAPER_DATA[data], label, what) in PAPER_TABLE_1
        }
        for pair in combinations(sorted(published, key=published.get), 2):
            here = [numbers.get(f"{data}-{k}.distance_{w}") for k, w in pair]
            holds = NOT_RUN if None in here else "yes" if here[0] < here[1] else "**no**"
            claim = " < ".join(f"{KIND[k]} {w}" for k, w in pair)
            paper = " < ".join(f"{published[one]:.0f}" for one in pair)
            label = LABELS[data]
            rows.append((label, claim, paper, " vs ".join(map(number, here)), holds))
    if not rows:
        return "The paper has no numbers for images of one's own."
    return markdown_table(header, rows)


def density_table(measured: dict) -> str:
    """How likely test images are, and how far off means and variances are."""
    header = (
        "model",
        "log-density of test images (nats)",
        "KL, test",
        "RMSE of μ, test",
        "Var[y] / data",
    )
    rows = []
    for name, n in measured.items():
        total = (n["variance_latent"] + n["variance_observation"]) / n["variance_data"]
        rows.append(
            (
                title(name),
                f"{-n['test_nll_nats']:.0f}",
                number(n["test_kl_nats"], 2),
                number(n["test_squared_error"] ** 0.5, 2),
                f"{total:.2f}",
            )
        )
    return markdown_table(header, rows)


def local_and_global_table(numbers: dict[str, dict[str, float]]) -> str:
    """{model: `sos.evaluation.local_and_global`}: samples beside the residuals of test images."""
    header = (
        "model", "neighbours: samples", "test images", "a quarter image apart: samples",
        "test images", "coarse power, samples / test", "fine power, samples / test",
    )  # fmt: skip
    rows = []
    for name, n in numbers.items():
        keys = ("near_samples", "near_data", "far_samples", "far_data")
        correlations = (f"{n[key]:.2f}".replace("-0.00", "0.00") for key in keys)
        rows.append((name, *correlations, number(n["coarse_ratio"], 2), number(n["fine_ratio"], 2)))
    return markdown_table(header, rows)


def sparse_costs() -> str:
    """The committed timings of benchmarks/sparse.py."""
    content = benchmark("sparse")
    header = (
        "image", "distribution", "numbers per pixel", "log p and gradients", "one sample",
        "a row of Σ", "one distribution",
    )  # fmt: skip
    rows = [
        (
            f"{side}×{side}",
            KIND[name],
            f"{n['numbers_per_pixel']:.0f}",
            *(
                f"{number(n[key], 2)} ms"
                for key in ("log_prob_ms", "sample_ms", "covariance_row_ms")
            ),
            f"{number(n['megabytes'], 2)} MB",
        )
        for side, table in content.get("costs", {}).items()
        for name, n in table.items()
    ]
    where = (
        content and f"{content['device']}, {content['threads']} threads, torch {content['torch']}"
    )
    return markdown_table(header, rows or [[NOT_RUN] * len(header)]) + f"\n{where or ''}\n"


def environment() -> str:
    """Versions of what the numbers depend on, beside those that the collection was made with."""
    import platform
    from importlib.metadata import version

    names = ("torch", "torchvision", "numpy", "scipy", "matplotlib", "papermill", "jupyterlab")
    rows = [("python", platform.python_version())] + [(name, version(name)) for name in names]
    return markdown_table(("package", "version"), rows)


# Notebooks 06 and 07.


def bare_settings(models: dict) -> str:
    """How each training of the bare distribution goes about it."""
    header = ("training", "image", "R", "D", "ξ_H (nats)", "κ", "steps × batch", "seconds")
    rows = []
    for name, model in models.items():
        e, target = model.experiment, model.meta["rank_entropy_target"]
        rows.append(
            (
                name,
                image_size(e.data),
                str(e.network.rank),
                noise(e.network),
                "–" if target is None else number(target, 4),
                f"{e.training.span_gain:g}",
                f"{e.training.steps} × {e.training.batch}",
                f"{model.meta['seconds']:.0f}",
            )
        )
    return markdown_table(header, rows)


def gap_along(history: list[dict], best: float, pixels: int) -> tuple[list[int], list[float]]:
    """Steps, and how much log-density of validation images is missing, in nats per dimension."""
    rows = after_release(history)
    gaps = [(best + row["validation_nll_nats"]) / pixels for row in rows]
    return [row["step"] for row in rows], gaps


def bare_table(rows: dict[str, dict[str, float]]) -> str:
    """{distribution: numbers}: how far trained and exact distributions are from each other."""
    header = (
        "distribution", "rank entropy (nats)", "variance / data", "log-density, test (nats per "
        "dimension)", "below the best", "largest angle to its span", "FD of samples",
    )  # fmt: skip
    lines = []
    for name, n in rows.items():
        cells = (
            number(n.get("rank_entropy"), 4),
            f"{n['variance_ratio']:.2f}",
            number(n.get("log_density"), 5),
            number(n.get("gap"), 2),
            f"{n['angle']:.1f}°" if "angle" in n else "–",
            number(n.get("distance"), 3),
        )
        lines.append((name, *(cell.replace(NOT_RUN, "–") for cell in cells)))
    return markdown_table(header, lines)


LARGEST_VARIANCE = 0.25  # that values between 0 and 1 can have


def switched_on(name: str) -> str:
    """The stabilisers of a training of notebook 07 in words: "D + P" or "none"."""
    return name if name == "none" else " + ".join(name)


def ablation_table(models: dict, measured: dict) -> str:
    """{training: model}: what each combination of stabilisers ends with."""
    header = (
        "training", "variance of y given z", "/ data", "rank entropy (nats)",
        "log-density, test (nats per dimension)", "FD of samples", "RMSE of μ, test", "survived",
    )  # fmt: skip
    rows = []
    for label, model in models.items():
        n, data = measured[label], model.experiment.data
        pixels = data.height * data.width * data.channels
        stopped = model.meta.get("stopped")
        survived = n["variance_observation"] <= LARGEST_VARIANCE
        rows.append(
            (
                label,
                number(n["variance_observation"], 2),
                number(n["variance_observation"] / n["variance_data"], 2),
                number(n["test_rank_entropy_nats"], 3),
                number(-n["test_nll_nats"] / pixels, 3),
                number(n["distance_samples"], 3),
                number(n["test_squared_error"] ** 0.5, 2),
                stopped or ("yes" if survived else "**no**"),
            )
        )
    return markdown_table(header, rows)


def factor_table(models: dict, measured: dict) -> str:
    """{label: model}: targets of the entropy that are wrong by a factor, and what came of them."""
    header = (
        "target", "ξ_H (nats)", "per component", "rank entropy, training", "λ_H at the end",
        "variance / data", "FD of samples",
    )  # fmt: skip
    rows = []
    for label, model in models.items():
        target, n = model.meta["rank_entropy_target"], measured[label]
        rows.append(
            (
                label,
                number(target, 3),
                number(target / model.experiment.network.rank, 3),
                number(last_values(model.history, "rank_entropy_nats"), 3),
                number(model.history[-1]["rank_entropy_multiplier"], 3),
                number(n["variance_observation"] / n["variance_data"], 2),
                number(n["distance_samples"], 3),
            )
        )
    return markdown_table(header, rows)


def long_table(content: dict) -> str:
    """The committed results of benchmarks/variance.py."""
    header = ("stabilisers", "steps", "variance of y given z", "/ data", "rank entropy (nats)",
              "survived")  # fmt: skip
    rows = []
    for name, run in content.get("runs", {}).items():
        last = run["history"][-1]
        ratio = last["variance"] / content["data_variance"]
        survived = "yes" if last["variance"] <= LARGEST_VARIANCE else "**no**"
        rows.append(
            (
                switched_on(name),
                f"{last['step']:.0f}",
                number(last["variance"], 2),
                number(ratio, 2),
                number(last["rank_entropy_nats"], 3),
                run["stopped"] or survived,
            )
        )
    text = markdown_table(header, rows or [[NOT_RUN] * len(header)])
    return text + (f"\n{content['device']}, torch {content['torch']}\n" if rows else "")
