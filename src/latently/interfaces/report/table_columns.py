"""The columns of a table: what each of them was taken for, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latently.data import Data
from latently.interfaces.report.cells import Cells, seen_of
from latently.interfaces.report.numbers import share
from latently.interfaces.report.shapes import cut

if TYPE_CHECKING:
    from latently.data.tables import Column

__all__ = ["Line", "table_columns"]

_LEVELS = 3  # named, the commonest ones
_LONG = 24  # characters of a level


@dataclass(frozen=True)
class Line:
    """One column.

    Attributes:
        name: of the column.
        kind: what it was taken for.
        likelihood: its family in p(x|z); "" where it is not modelled.
        missing: share of the rows that lack it; "" where that is not known.
        holds: what is observed: the range and the median, or the commonest levels.
        note: of the schema.
    """

    name: str
    kind: str
    likelihood: str
    missing: str
    holds: str
    note: str


def table_columns(data: Data) -> list[Line]:
    """A line for each column of the table, in its order; none of rows from no table."""
    if data.table is None:
        return []
    cells, (x, seen) = Cells.of(data), seen_of(data)
    place = {column.name: j for j, column in enumerate(cells.columns)}
    lines = []
    for column in data.table.columns:
        j = place.get(column.name)
        missing, holds = "", ""
        if j is not None:
            missing = share((~seen[:, j]).mean()) if len(x) else ""
            holds = _holds(cells, j, x[seen[:, j], j])
        elif column.kind == "constant":
            holds = f"{cut(str(column.categories[0]), _LONG)} alone"
        lines.append(_line(column, missing, holds))
    return lines


def _line(column: Column, missing: str, holds: str) -> Line:
    likelihood = column.likelihood or ""
    return Line(column.name, column.kind, likelihood, missing, holds, column.note or "")


def _holds(cells: Cells, j: int, values: np.ndarray) -> str:
    """The values that are observed, in few words."""
    if not len(values):
        return "nothing"
    levels = cells.levels(j)
    if levels:
        codes, counts = np.unique(values, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_LEVELS]
        told = [
            f"{cut(cells.value(j, codes[k]), _LONG)}: {share(counts[k] / len(values))}"
            for k in order
        ]
        more = len(codes) - len(told)
        return ", ".join(told) + (f", {more} more" if more > 0 else "")
    low, middle, high = (float(v) for v in np.quantile(values, (0, 0.5, 1), method="lower"))
    if low == high:
        return f"{cells.value(j, low)} alone"
    return f"{cells.value(j, low)} to {cells.value(j, high)}, median {cells.value(j, middle)}"
