"""How a table of text is written: its delimiter, and whether its first line holds names.

The delimiter is the sign (tab, `;`, `|`, `,`) that cuts most of the first lines into one number of
cells, two or more; the first of these four where several do so equally well. Where none does so
for 9 of 10 lines, runs of blanks are the delimiter if they cut all lines into one number of
cells, and otherwise the table has one column, or is ragged, which reading it will tell.

The first line holds names if none of its cells is a number or a date, and

- some column below has numbers or dates only, or
- all is text, no cell of the first line is empty, and none occurs again in its column,

or if its numbers are years that follow each other, as of columns by year, and the columns below
them have numbers only, none of which is such a year.

Cells that mean a missing value say nothing, in either place. Lines that begin with `#`, `%` or `|`
above the first row are comments, but for the last one if it has two or more cells, as many as the
rows.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from latently.data.tables.cells import MISSING
from latently.data.tables.dates import looks_dated
from latently.data.tables.numbers import parse_numbers

__all__ = ["COMMENTS", "Layout", "sniff"]

_LINES = 1000
_YEAR = re.compile(r"(1[89]|20)\d\d", re.ASCII)
_SIGNS = ("\t", ";", "|", ",")
COMMENTS = ("#", "%", "|")


class Layout(NamedTuple):
    """Delimiter (a blank stands for runs of them), names in the first line, lines to skip."""

    delimiter: str
    header: bool
    skip: int


def sniff(head: str, *, complete: bool, suffix: str = "", header: bool | None = None) -> Layout:
    r"""How a text is written, from its beginning.

    Args:
        head: the first characters.
        complete: whether these are all; otherwise their last line is left out of account.
        suffix: of the file; `.tsv` settles the delimiter.
        header: what is known about the first line, None for nothing.

    >>> sniff("age;city\n31;Bonn\n40;Rome\n", complete=True)
    Layout(delimiter=';', header=True, skip=0)
    >>> sniff("31, Bonn\n40, Rome\n", complete=True)
    Layout(delimiter=',', header=False, skip=0)
    """
    lines = head.splitlines(keepends=True)
    lines = lines if complete or len(lines) < 2 else lines[:-1]
    skip = _comments(lines)
    rows = lines[skip : skip + _LINES]
    delimiter = "\t" if suffix.startswith(".tsv") else _delimiter(rows)
    if skip and _is_row(lines[skip - 1], rows, delimiter):
        skip -= 1
    lines = lines[skip : skip + _LINES]
    if header is None:
        header = _has_names(_split(lines, delimiter))
    return Layout(delimiter, header, skip)


def _comments(lines: Sequence[str]) -> int:
    """Lines of comment at the top: they begin so, and the first line after them does not.

    A row may begin with `|` too, in a table of that delimiter; so do all other rows then.
    """
    count = sum(1 for _ in itertools.takewhile(lambda line: line.startswith(COMMENTS), lines))
    return count if count < len(lines) and count <= 100 else 0


def _is_row(line: str, rows: Sequence[str], delimiter: str) -> bool:
    """Whether a line of comment is the names after all, such as `#chromosome,position`."""
    widths = {len(row) for row in _split([line, *rows[:1]], delimiter)}
    return len(widths) == 1 and max(widths) > 1


def _split(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    texts = [line.strip(" \t\r\n") for line in lines] if delimiter == " " else lines
    rows = csv.reader(iter(texts), delimiter=delimiter, skipinitialspace=True)
    try:
        return [row for row in rows if row]
    except csv.Error:
        return []


def _delimiter(lines: Sequence[str]) -> str:
    best, most = ",", 0.0
    for sign in _SIGNS:
        share = _agreement(lines, sign)
        if share > most:
            best, most = sign, share
    if most < 0.9 and _agreement(lines, " ") == 1.0:
        return " "
    return best


def _agreement(lines: Sequence[str], sign: str) -> float:
    """Share of rows of the most frequent number of cells; 0 if that number is one."""
    rows = _split(lines, sign)
    if not rows:
        return 0.0
    width, count = Counter(map(len, rows)).most_common(1)[0]
    return count / len(rows) if width > 1 else 0.0


def _has_names(rows: Sequence[Sequence[str]]) -> bool:
    if not rows:
        return False
    first, below = [cell.strip() for cell in rows[0]], rows[1:]
    columns = [[row[j].strip() for row in below if j < len(row)] for j in range(len(first))]
    columns = [[cell for cell in column if cell not in MISSING] for column in columns]
    values = [_is_value(cell) for cell in first]
    if any(values):
        names = list(itertools.compress(first, values))
        return _has_years(names, list(itertools.compress(columns, values)))
    if any(
        column and name not in MISSING[1:] and all(map(_is_value, column))
        for name, column in zip(first, columns, strict=True)
    ):
        return True
    told = len(set(first)) == len(first) and "" not in first
    return told and not any(n in set(c) for n, c in zip(first, columns, strict=True))


def _has_years(names: Sequence[str], columns: Sequence[Sequence[str]]) -> bool:
    """Whether the numbers in the first line are the years that columns are of."""
    if len(names) < 2 or not all(map(_YEAR.fullmatch, names)):
        return False
    follow = all(int(b) - int(a) == 1 for a, b in itertools.pairwise(names))
    cells = [cell for column in columns for cell in column]
    return (
        follow
        and bool(cells)
        and all(map(_is_value, cells))
        and not any(map(_YEAR.fullmatch, cells))
    )


def _is_value(cell: str) -> bool:
    """Whether a cell is a number or a date."""
    if cell in MISSING:
        return False
    dated = cell[:1].isdigit() and looks_dated([cell])
    return dated or not bool(np.isnan(parse_numbers([cell]).values[0]))
