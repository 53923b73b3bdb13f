"""Missing cells: which columns lack them together, and with which values they go.

Whether cells are missing completely at random can be refuted by the data, but never confirmed:
they do not show whether a cell is missing because of the very value that it lacks. Source: Little,
"A test of missing completely at random for multivariate data with missing values", 1988.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from latently.data import Data
from latently.interfaces.report import apart
from latently.interfaces.report.cells import Cells, seen_of
from latently.interfaces.report.numbers import plain, share
from latently.interfaces.report.shapes import bar, cut, drawing, words
from latently.interfaces.report.subject import shuffled

__all__ = ["Link", "Missing", "missing"]

_PATTERNS, _COLUMNS = 14, 24  # drawn
_ROWS = 5000  # whose associations are measured
_LEAST = 8  # rows that a column lacks, and has, before anything is said of them
_TESTED = 4000  # pairs of columns
_SURE = 0.01  # chance of a single false alarm among all pairs
_TOLD = 0.1  # gaps below are true, and small
_LINKS = 10
_LEFT, _BARS, _CELL, _ROW, _TOP = 150, 92, 36, 20, 74  # CSS pixels


@dataclass(frozen=True)
class Link:
    """A column that is missing more often where another one has certain values.

    Attributes:
        column: that is missing.
        other: that it goes with.
        gap: largest difference of the shares of a set of values of `other` between rows that
            lack the column and rows that have it: below a value, of levels any set.
        where: the values of `other` with which the column is missing more often, in words.
        told: the numbers behind it.
    """

    column: str
    other: str
    gap: str
    where: str
    told: str


@dataclass(frozen=True)
class Missing:
    """The missing cells of a table.

    Attributes:
        cells: how many are missing.
        share: of all cells.
        complete: rows without a missing cell.
        columns: that lack cells.
        figure: the patterns, the most frequent ones first.
        shown: patterns and columns in the figure.
        patterns: how many there are.
        rest: rows of the patterns that are not in the figure.
        links: the strongest, one for each column that lacks cells.
        refuted: columns that are not missing completely at random.
        judged: columns that were tested.
        rows: that were tested.
        pairs: of columns that were tested.
    """

    cells: int
    share: str
    complete: str
    columns: int
    figure: Markup
    shown: tuple[int, int]
    patterns: int
    rest: str
    links: tuple[Link, ...]
    refuted: int
    judged: int
    rows: int
    pairs: int


def missing(data: Data, seed: int) -> Missing | None:
    """What a reader should know of missing cells; None where there are none.

    Args:
        data: rows of a table.
        seed: of the choice of rows whose associations are measured, where there are many.
    """
    x, seen = seen_of(data)
    if seen.all() or data.table is None:
        return None
    cells, n = Cells.of(data), len(x)
    lacking = (~seen).sum(0)
    shown = np.argsort(-lacking, kind="stable")[: min(_COLUMNS, int((lacking > 0).sum()))]
    found, counts = _patterns(~seen)
    most = min(_PATTERNS, len(counts))
    rows = shuffled(n, seed, "missing")[:_ROWS].sort().values.numpy()
    links, judged, pairs = _links(cells, x[rows], seen[rows])
    told = [link for _, link in sorted(links, key=lambda pair: -pair[0])][:_LINKS]
    return Missing(
        cells=int(lacking.sum()),
        share=share(lacking.sum() / seen.size),
        complete=f"{int(seen.all(1).sum()):,} ({share(seen.all(1).mean())})",
        columns=int((lacking > 0).sum()),
        figure=_figure(cells, shown, lacking / n, found[:most], counts[:most], n),
        shown=(most, len(shown)),
        patterns=len(counts),
        rest=f"{int(counts[most:].sum()):,} ({share(counts[most:].sum() / n)})",
        links=tuple(told),
        refuted=len(links),
        judged=judged,
        rows=len(rows),
        pairs=pairs,
    )


def _patterns(lacks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sets of columns that are missing together, (p, D) bool, and their rows, frequent first."""
    packed, counts = np.unique(np.packbits(lacks, axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    found = np.unpackbits(packed[order], axis=1, count=lacks.shape[1]).astype(bool)
    return found, counts[order]


def _links(
    cells: Cells, x: np.ndarray, seen: np.ndarray
) -> tuple[list[tuple[float, Link]], int, int]:
    """The strongest link of each column that has one, the columns and the pairs tested."""
    tested = list(_tested(cells, x, seen))
    judged = len({j for j, *_ in tested})
    best: dict[int, tuple[float, int]] = {}
    for j, k, gap, p in tested:
        if p * len(tested) < _SURE and gap > best.get(j, (0.0, 0))[0]:
            best[j] = gap, k
    links = [(gap, _link(cells, x, seen, j, k, gap)) for j, (gap, k) in best.items()]
    return links, judged, len(tested)


def _tested(
    cells: Cells, x: np.ndarray, seen: np.ndarray
) -> Iterator[tuple[int, int, float, float]]:
    """Column that is missing, other column, gap and p-value."""
    pairs = 0
    lacking = (~seen).sum(0)
    enough = (lacking >= _LEAST) & (lacking <= len(x) - _LEAST)
    for j in np.flatnonzero(enough)[np.argsort(-lacking[enough], kind="stable")]:
        for k in range(x.shape[1]):
            without, having = _split(x, seen, j, k)
            if k == j or min(len(without), len(having)) < _LEAST or pairs >= _TESTED:
                continue
            pairs += 1
            nominal = cells.nominal(k)
            gap = apart.gap(without, having, nominal=nominal)
            yield int(j), k, gap, apart.p_value(without, having, nominal=nominal)


def _split(x: np.ndarray, seen: np.ndarray, j: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Observed values of column k in rows that lack column j, and in rows that have it."""
    return x[~seen[:, j] & seen[:, k], k], x[seen[:, j] & seen[:, k], k]


def _link(cells: Cells, x: np.ndarray, seen: np.ndarray, j: int, k: int, gap: float) -> Link:
    without, having = _split(x, seen, j, k)
    name, other = cells.names[j], cells.names[k]
    if cells.levels(k):
        codes = np.unique(np.concatenate([without, having]))
        more = [(without == code).mean() - (having == code).mean() for code in codes]
        at = float(codes[int(np.argmax(more))])
        told = [share((part == at).mean()) for part in (without, having)]
        where = f"is {cut(cells.value(k, at), 32)}"
        what = f"{told[0]} of the rows that lack {name}, {told[1]} of the others"
        return Link(name, other, plain(gap), where, what)
    middles = [float(np.quantile(part, 0.5, method="lower")) for part in (without, having)]
    if middles[0] == middles[1]:
        told = [_spread(cells, k, part) for part in (without, having)]
        what = f"{told[0]} in rows that lack {name}, {told[1]} in the others, from 10 % to 90 %"
        return Link(name, other, plain(gap), "is spread otherwise", what)
    where = f"is {_word(cells, k, lower=middles[0] < middles[1])}"
    told = [cells.value(k, value) for value in middles]
    what = f"median {told[0]} in rows that lack {name}, {told[1]} in the others"
    return Link(name, other, plain(gap), where, what)


def _word(cells: Cells, k: int, *, lower: bool) -> str:
    if cells.kind(k) == "datetime":
        return "earlier" if lower else "later"
    return "lower" if lower else "higher"


def _spread(cells: Cells, k: int, values: np.ndarray) -> str:
    low, high = (float(v) for v in np.quantile(values, (0.1, 0.9), method="lower"))
    return f"{cells.value(k, low)} to {cells.value(k, high)}"


def _figure(
    cells: Cells,
    columns: np.ndarray,
    shares: np.ndarray,
    patterns: np.ndarray,
    counts: np.ndarray,
    n: int,
) -> Markup:
    """Columns from top to bottom, patterns from left to right, with their shares as bars."""
    height = _TOP + _ROW * len(columns) + 8
    start = _LEFT + _BARS + 14
    width = start + _CELL * len(counts) + 4
    parts = [
        words(_LEFT + 8, _TOP - 10, "missing", size=10.5, color="muted"),
        words(start - 6, 11, "share of rows with the pattern", size=10.5, color="muted"),
    ]
    tallest = max(counts) / n
    for i, count in enumerate(counts):
        x, high = start + i * _CELL, 38 * count / n / tallest
        parts.append(bar(x, _TOP - 8 - high, _CELL - 8, high, "muted", opacity=0.6))
        middle = x + (_CELL - 8) / 2
        parts.append(words(middle, _TOP - 12 - high, _tight(count / n), size=9.5, anchor="middle"))
    for r, j in enumerate(columns):
        y = _TOP + r * _ROW
        parts.append(words(_LEFT - 4, y + 12.5, cut(cells.names[j], 20), size=12, anchor="end"))
        parts.append(bar(_LEFT + 4, y + 2, (_BARS - 44) * shares[j], _ROW - 8, "s1"))
        end = _LEFT + 8 + (_BARS - 44) * shares[j]
        parts.append(words(end, y + 11.5, share(shares[j]), size=10, color="muted"))
        for i, pattern in enumerate(patterns):
            x = start + i * _CELL
            if pattern[j]:
                parts.append(bar(x, y, _CELL - 8, _ROW - 4, "s1"))
            else:
                parts.append(bar(x + (_CELL - 8) / 2 - 3, y + 5, 6, 6, "muted", opacity=0.6))
    told = "; ".join(
        f"{share(count / n)} of the rows lack {_listed(cells, pattern)}"
        for count, pattern in zip(counts[:5], patterns, strict=False)
    )
    return drawing(
        width, height, parts, f"Patterns of missing cells: {told}", least=min(620, int(width))
    )


def _tight(value: float) -> str:
    return share(value).replace(" ", "")


def _listed(cells: Cells, pattern: np.ndarray) -> str:
    names = [cells.names[j] for j in np.flatnonzero(pattern)]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing"
