"""Tables out of rows {column: cell}, as Markdown in notebooks and as files."""

import csv
import io
import math
import re
from collections.abc import Sequence

from sos.figures.labels import image_size, noise, title
from sos.system import paths

NOT_RUN = "not run"
NUMBER = re.compile(rf"\**[-−+<≈]?\s?\d|–|{NOT_RUN}")  # what a cell of numbers begins with


def table(rows: Sequence[dict[str, object]], name: str | None = None, profile: str = ""):
    """Show rows {column: cell} as a table, for a notebook; None stands for "not run".

    Columns of numbers are flush right, except the first column. With a `name` the table is also
    written to figures/<profile>/<name>.md, .csv and .tex.
    """
    from IPython.display import Markdown

    header = list(rows[0]) if rows else [NOT_RUN]
    cells = [[NOT_RUN if cell is None else str(cell) for cell in row.values()] for row in rows]
    text = markdown_table(header, cells or [[NOT_RUN]])
    if name is not None:
        write_table(name, profile, header, cells)
    return Markdown(text)


def number(value: float | None, digits: int = 3) -> str | None:
    """Write `digits` significant digits without an exponent; None stays None.

    Thousands are set apart.
    """
    if value is None:
        return None
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    rounded = float(f"{abs(value):.{digits - 1}e}")  # 99.97 becomes 100 and has no decimal
    decimals = max(digits - 1 - math.floor(math.log10(rounded)), 0)
    return f"{value:,.{decimals}f}" if abs(value) >= 10_000 else f"{value:.{decimals}f}"


def percent(share: float) -> str:
    """Write a share in whole percent."""
    return f"{100 * share:.0f} %"


def correlation(value: float) -> str:
    """Write two decimals, and zero without a sign."""
    return f"{value:.2f}".replace("-0.00", "0.00")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, with columns of numbers flush right, except the first column."""
    numeric = [all(NUMBER.match(row[k]) for row in rows) for k in range(1, len(header))]
    lines = [header, ["---", *("---:" if right else "---" for right in numeric)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_table(name: str, profile: str, header: Sequence[str], rows: Sequence[Sequence[str]]):
    """Write figures/<profile>/<name>.md, .csv and .tex."""
    folder = paths.FIGURES / profile
    paths.write_text(folder / f"{name}.md", markdown_table(header, rows))
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


def latex(text: str) -> str:
    """Escape what is special to LaTeX."""
    symbols = {"β": "$\\beta$", "−": "$-$", "–": "--", "\\": "\\textbackslash{}"}
    symbols |= {character: f"\\{character}" for character in "&%_#${}"}
    symbols |= {character: f"\\{character}{{}}" for character in "~^"}
    return "".join(symbols.get(character, character) for character in text)


# Rows that several notebooks show.


def model_rows(models: dict) -> list[dict]:
    """Say what was trained, how, on what and for how long."""
    rows = []
    for name, model in models.items():
        e, meta = model.experiment, model.meta
        millions = sum(p.numel() for p in model.vae.parameters()) / 1e6
        threads = f"{meta['threads']} thread{'s' * (meta['threads'] > 1)}"
        rows.append(
            {
                "model": title(name),
                "image": image_size(e.data),
                "R": e.network.rank,
                "D": noise(e.network),
                "parameters": f"{millions:.2f} M",
                "steps × batch": f"{e.training.steps} × {e.training.batch}",
                "trained on": f"{meta['device']}, {threads}",
                "seconds": f"{meta['seconds']:.0f}",
            }
        )
    return rows


def constraint_rows(models: dict, measured: dict) -> list[dict]:
    """Put targets beside what training ended with and what test images give."""
    rows = []
    for name, model in models.items():
        numbers, target = measured[name], model.meta["rank_entropy_target"]
        entropy = (target, last_values(model.history, "rank_entropy_nats"))
        entropy = (*entropy, numbers["test_rank_entropy_nats"])
        shown = ["–"] * 3 if target is None else [number(value, 4) for value in entropy]
        rows.append(
            {
                "model": title(name),
                "ξ_KL": number(model.experiment.objective.kl_target, 3),
                "KL, training": number(last_values(model.history, "kl_nats"), 3),
                "KL, test": number(numbers["test_kl_nats"], 3),
                "ξ_H": shown[0],
                "rank entropy, training": shown[1],
                "test": shown[2],
            }
        )
    return rows


def scale_rows(measured: dict) -> list[dict]:
    """List the distances of μ + t(y - μ) to real images for t = 0, ½, 1, where ½ was measured."""
    return [
        {
            "model": title(name),
            "t = 0 (means)": number(found["distance_means"]),
            "t = ½": number(found["distance_half_samples"]),
            "t = 1 (samples)": number(found["distance_samples"]),
        }
        for name, found in measured.items()
        if "distance_half_samples" in found
    ]


def last_values(history: list[dict], name: str, share: float = 0.1) -> float:
    """Average the last tenth of training, in which single steps still fluctuate."""
    tail = history[-max(1, round(share * len(history))) :]
    if not tail:  # it exploded before anything was recorded
        return math.nan
    return sum(row[name] for row in tail) / len(tail)


def covariance_rows(history: list[dict]) -> list[dict]:
    """Return the rows of a history in which the covariance is trained too."""
    return [row for row in history if row["rank_entropy_nats"]]
