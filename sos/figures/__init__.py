"""Figures and tables out of finished arrays and numbers."""

from sos.figures.labels import title
from sos.figures.panels import pictures, robust_limit, row, sheets
from sos.figures.results import Results, benchmark
from sos.figures.style import save
from sos.figures.tables import number, table

__all__ = [
    "Results",
    "benchmark",
    "number",
    "pictures",
    "robust_limit",
    "row",
    "save",
    "sheets",
    "table",
    "title",
]
