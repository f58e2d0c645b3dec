"""The ledger of claims as tables, as a page, and as a forest plot (notebook 11)."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sos.analysis import verdicts
from sos.analysis.claims import NOT_TESTABLE, Claim, Test
from sos.figures.labels import KIND, LABELS, PAPER_DATA, PAPER_TABLE_1
from sos.figures.panels import letter
from sos.figures.style import BLACK, BLUE, VERMILLION, WIDTH, styled
from sos.figures.table_1 import Records, judged, orderings
from sos.figures.tables import markdown_table, number

ORDER = verdicts.HOLDS, "partly", verdicts.NO, verdicts.UNDECIDED, verdicts.NOT_RUN, NOT_TESTABLE
COLOURS = {verdicts.HOLDS: BLUE, verdicts.NO: VERMILLION, verdicts.UNDECIDED: "0.6"}
MARKS = {verdicts.HOLDS: "o", verdicts.NO: "s", verdicts.UNDECIDED: "D"}


def counts(claims: Sequence[Claim]) -> str:
    """Write how many claims have each verdict: "10 holds · 3 partly"."""
    found = {word: sum(claim.verdict == word for claim in claims) for word in ORDER}
    return " · ".join(f"{count} {word}" for word, count in found.items() if count)


def measured(test: Test) -> str:
    """Write the numbers of a test: mean ± standard deviation of each quantity."""
    parts = []
    for _, mean, deviation in test.numbers:
        text = number(mean) or ""
        parts.append(text if np.isnan(deviation) else f"{text} ± {number(deviation, 2)}")
    joined = (" < " if " < " in test.words else "").join(parts) or verdicts.NOT_RUN
    return joined.replace("-", "−")


def claim_rows(claims: Sequence[Claim]) -> list[dict]:
    """Make one row for each claim: section, claim, verdict, and where it was measured."""
    return [
        {
            "§": claim.section,
            "claim of the paper": claim.claim,
            "verdict": claim.verdict,
            "comparisons": verdicts.counted([t.found.verdict for t in claim.tests])
            or ("exact" if claim.exact else "–"),
            "measured in": f"[{claim.where[:2]}]({claim.where})",
        }
        for claim in claims
    ]


def test_rows(claim: Claim) -> list[dict]:
    """Make one row for each comparison that tests a claim."""
    return [
        {
            "comparison": test.words,
            "mean ± sd": measured(test),
            "seeds that agree": test.found.count if test.found.seeds else verdicts.NOT_RUN,
            "verdict": test.found.verdict,
        }
        for test in claim.tests
    ]


def page(claims: Sequence[Claim], notebooks: str = "notebooks/") -> str:
    """Write CLAIMS.md: counts, a table of all claims, and each with its criterion and numbers."""
    rows = claim_rows(claims)
    for row, claim in zip(rows, claims, strict=True):
        row["claim of the paper"] = f"[{claim.claim}](#{claim.key})"
        row["measured in"] = f"[{claim.where[:2]}]({notebooks}{claim.where})"
    parts = [
        "# Claims of the paper, and what became of them\n",
        "This page is written by `python -m sos.run.claims` from `data/claims.yaml` and the "
        "released records in `data/evaluations/`; a test fails where they disagree. Criteria were "
        "committed before the seeds were measured, except where a note says otherwise. "
        "All images are simulated, so that what is about the paper's data is a "
        "replication on other data. Numbers are means ± standard deviations over seeds. A "
        "comparison holds where the 95 % interval of its mean over seeds, paired by seed, excludes "
        "zero; otherwise it is undecided, and so is everything that rests on fewer than three "
        "seeds.\n",
        f"**{len(claims)} claims:** {counts(claims)}.\n",
        markdown_table(list(rows[0]), [[str(cell) for cell in row.values()] for row in rows]),
    ]
    for claim in claims:
        paper = f" The paper has {claim.paper}." if claim.paper else ""
        parts.append(f'<a id="{claim.key}"></a>\n\n## {claim.claim}\n')
        parts.append(
            f"§ {claim.section} · **{claim.verdict}** · [measured here]({notebooks}{claim.where})\n"
        )
        parts.append(f"*Tested:* {claim.tested}{paper}\n")
        parts.append(f"*Criterion:* {claim.criterion}\n")
        if claim.exact:
            parts.append(f"*Shown by:* `{claim.exact}`, which every run of the tests repeats.\n")
        if reason := claim.untested or claim.untestable:
            parts.append(f"*Not tested:* {reason}\n")
        if claim.notes:
            parts.append(f"{claim.notes}\n")
        if claim.tests:
            found = test_rows(claim)
            parts.append(markdown_table(list(found[0]), [list(row.values()) for row in found]))
    return "\n".join(parts)


def relative(a: float, b: float) -> float:
    """Return the difference b - a as a share of the mean of the two."""
    return 2 * (b - a) / (a + b)


def forest(records: Records, judge: str = "distance") -> Figure:
    """Draw all orderings of the paper's Table 1: ours with intervals over seeds, and the paper's.

    A point is the mean over seeds of 2(b - a)/(a + b), where the paper finds a < b.
    """
    with styled():
        groups = {data: orderings(data) for data in PAPER_DATA}
        heights = [len(pairs) + 1.2 for pairs in groups.values()]
        figure, axes = plt.subplots(
            len(groups), 1, figsize=(WIDTH, 0.19 * sum(heights) + 0.6), sharex=True,
            height_ratios=heights, layout="constrained",
        )  # fmt: skip
        for ax, (data, pairs) in zip(axes, groups.items(), strict=True):
            _draw_orderings(ax, data, pairs, records, judge)
        axes[-1].set_xlabel("relative difference of the two rows; right of zero the paper's order")
        _legend(axes[0])
        letter(axes)
    return figure


def _draw_orderings(ax: Axes, data: str, pairs: Sequence, records: Records, judge: str) -> None:
    """Draw the orderings of one data set, a line for each."""
    labels = []
    for place, ((one, first), (other, second)) in enumerate(pairs):
        labels.append(f"{KIND[one]} {first} < {KIND[other]} {second}")
        a = verdicts.values_of(records.get(f"{data}-{one}", ()), f"{judge}_{first}")
        b = verdicts.values_of(records.get(f"{data}-{other}", ()), f"{judge}_{second}")
        shares = [relative(*pair) for pair in verdicts.paired(a, b)]
        found = verdicts.above_zero(shares)
        verdict = judged(records, data, pairs[place], judge).verdict
        if found.seeds:
            colour = COLOURS[verdict]
            ends = [found.low, found.high] if found.seeds > 1 else [found.mean] * 2
            ax.plot(ends, [place, place], color=colour, lw=1.6, solid_capstyle="butt")
            ax.plot(shares, [place] * len(shares), "|", color=colour, ms=4, alpha=0.6)
            ax.plot(found.mean, place, MARKS[verdict], color=colour, ms=4.5)
        published = [PAPER_TABLE_1[PAPER_DATA[data], KIND[k], w] for k, w in pairs[place]]
        ax.plot(relative(*published), place, "o", mfc="none", mec=BLACK, ms=5, mew=0.8)
    ax.axvline(0, color=BLACK, lw=0.7)
    ax.set_yticks(range(len(pairs)), labels)
    ax.set_ylim(len(pairs) - 0.4, -0.6)
    ax.set_title(LABELS[data])


def _legend(ax: Axes) -> None:
    """Explain marks and colours."""
    for verdict in (verdicts.HOLDS, verdicts.NO, verdicts.UNDECIDED):
        ax.plot([], [], MARKS[verdict], color=COLOURS[verdict], ms=4.5, label=f"here: {verdict}")
    ax.plot([], [], "o", mfc="none", mec=BLACK, ms=5, label="the paper")
    ax.legend(loc="lower right", fontsize=7)
