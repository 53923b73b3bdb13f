"""Which kind a column is: the rules, in the order they are asked.

| column | kind |
|---|---|
| no cell holds anything | empty |
| lists, records, bytes and the like | identifier |
| one value | constant |
| truth values; any two values (of numbers other than 0 and 1 from 10 rows on) | binary |
| dates, moments, text in a form of `dates` | datetime |
| a category declared with an order | ordinal |
| text that is numbers throughout | by the rules of numbers |
| text of more than 20 values, more than half of all cells different | identifier |
| text of more than 20 values of which pooling (see below) would leave less than half of the \
cells | identifier |
| other text and categories | categorical |
| whole numbers, called id, more than half of them different | identifier |
| whole numbers, 20 or more, all different, increasing or without a gap | identifier |
| whole numbers, 3 to 20 levels of which half occur, 5 cells for each, unless a negative binomial \
explains them as well (it has two free numbers, levels have one each) | ordinal |
| numbers of at most 10 values, 20 cells for each | ordinal |
| whole numbers of 0 to 10,000, of a mean of 10 or more and a variance below it, where a normal \
fits better than a Poisson distribution by 0.05 nats a cell, such as years | real |
| other whole numbers of 0 to 10,000 | count |
| numbers above 0, where a log-normal or gamma fits better than a normal or Student's t by 0.05 \
nats a cell | positive |
| numbers from 0 on, 5 % of them 0, or as above but for the zeros | positive |
| other numbers | real |

Why: numbers on a handful of values have no density, so a normal would reward itself without bound
for narrowing on them. Text with a few words among numbers is an error, because it is read wrongly
either way. A choice holds only until `kinds` says otherwise.

Rare values are pooled into one code, `other`, if they are two or more: those in fewer than 5 cells
(in small tables, in less than a twentieth of the cells) and all beyond the 255 most frequent.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from latently.data.tables import fits
from latently.data.tables.cells import SPAN, Cells, as_numbers, as_times, first_row, label_at
from latently.data.tables.dates import ambiguous
from latently.data.tables.words import at, plural, shown
from latently.errors import UserError

__all__ = ["Found", "count_family", "find", "has_atom", "pooled", "positive_family", "real_family"]

RARE = 5  # cells that a value needs to have a code of its own
MOST_CATEGORIES = 255
MOST_ORDINAL = 20
MOST_POINTS = 10
LARGEST_COUNT = 10_000
_ZEROS = 0.05  # share of a column that lies at 0, from which on 0 has a probability
_SAMPLE = 20_000  # rows that choose among families
_MARGIN = 0.05  # nats a cell
_TAILS = 0.1  # more than for other families: latents make tails of their own, at half the time
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of a name, also of one such as customerId
_NAMES = {"id", "ids", "uuid", "guid"}


class Found(NamedTuple):
    """What a column is: its cells in the form of that kind, and why where it is worth a word."""

    kind: str
    cells: Cells
    note: str = ""


def find(column: Cells, levels: tuple[object, ...] | None, ordered: bool) -> Found:
    """The kind of a column by the table at the top of this module.

    Args:
        column: as it was read.
        levels: declared categories, None without.
        ordered: whether they have an order.

    Raises:
        UserError: text with a few words among numbers or dates.
    """
    n = int(column.present.sum())
    if not n:
        return Found("empty", column, "no cell holds anything")
    if column.form == "object":
        return Found("identifier", column, "its cells are no numbers, texts or dates")
    if levels is not None and column.form != "time":  # codes stand for texts and numbers
        return (
            _labels(column) if not ordered or _distinct(column) < 2 else Found("ordinal", column)
        )
    if column.form == "flag":
        return Found("constant" if _distinct(column) == 1 else "binary", column)
    if column.form == "text":
        return _text(column, n)
    return _read(column)


def _distinct(column: Cells) -> int:
    return len(column.tally()[0])


def _read(column: Cells) -> Found:
    if column.form == "time":
        return Found("constant" if _distinct(column) == 1 else "datetime", column)
    return _numbers(column)


def _text(column: Cells, n: int) -> Found:
    for read, what in ((as_numbers(column), "numbers"), (as_times(column), "dates")):
        if read is None:
            continue
        strange = read.present & np.isnan(read.values)
        if not strange.any():
            return _read(read)
        _refuse_strays(column, read, strange, what)
    return _labels(column)


def _refuse_strays(column: Cells, read: Cells, strange: np.ndarray, what: str) -> None:
    """Up to five different words among more than ten different numbers or dates."""
    count = int(strange.sum())
    rest = int(read.present.sum()) - count
    if rest < count or _distinct(replace(read, present=read.present & ~strange)) <= 10:
        return
    words = _distinct(replace(column, present=strange))
    if words > 5:
        return
    row = first_row(strange)
    word, name = label_at(column, row), shown(column.name)
    raise UserError(
        f"{at(column.name, row)}: {word} among {rest:,} {what} ({plural(count, 'such cell')}); "
        "empty these cells, count it as missing (na_values; latently schema --na-values), or "
        f"choose kinds={{{name}: 'categorical'}} (--kinds)"
    )


def _labels(column: Cells) -> Found:
    """Text, or a category of anything."""
    values, counts = column.tally()
    n, distinct = int(counts.sum()), len(values)
    if distinct == 1:
        return Found("constant", column)
    if distinct == 2:
        return Found("binary", column)
    how = f"{distinct:,} values in {plural(n, 'cell')}"
    dated = column.form == "text" and ambiguous(column.labels)
    note = "dates whose day and month nobody can tell apart" if dated else ""
    if distinct > MOST_ORDINAL and distinct > n / 2:
        return Found("identifier", column, f"left out: {note or f'nearly all differ, {how}'}")
    if distinct > MOST_ORDINAL and counts[_rare(counts)].sum() > n / 2:
        return Found("identifier", column, f"left out: {note or f'mostly rare values, {how}'}")
    return Found("categorical", column, note)


def pooled(counts: np.ndarray) -> np.ndarray:
    """Which values get no code of their own, bool, by the last paragraph at the top.

    >>> pooled(np.array([500, 300, 2, 1])).tolist(), pooled(np.array([500, 300, 1])).tolist()
    ([False, False, True, True], [False, False, False])
    """
    rare = _rare(counts)
    if rare.all():  # declared categories of which none is frequent
        rare = _rank(counts) >= MOST_CATEGORIES
    return rare if rare.sum() > 1 else np.zeros(len(counts), dtype=bool)


def _rare(counts: np.ndarray) -> np.ndarray:
    least = min(float(RARE), int(counts.sum()) / 20)
    beyond: np.ndarray = _rank(counts) >= MOST_CATEGORIES
    return beyond | (counts < least)


def _rank(counts: np.ndarray) -> np.ndarray:
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return rank


def _numbers(column: Cells) -> Found:
    values, counts = column.tally()
    n, distinct = int(counts.sum()), len(values)
    low, high = float(values[0]), float(values[-1])
    whole = bool((values == np.floor(values)).all())
    if distinct == 1:
        return Found("constant", column)
    if distinct == 2 and (n >= 10 or (low == 0 and high == 1)):
        return Found("binary", column)
    whole = whole and column.note != SPAN  # seconds are measured, not counted
    if whole:
        note = _identifies(column, n, distinct, high - low + 1)
        if note:
            return Found("identifier", column, note)
        found = _levels(values, counts, n)
        if found:
            return Found(found, column)
    if distinct <= MOST_POINTS and n >= 20 * distinct:
        return Found("ordinal", column, f"ordinal: {distinct} values only, which have no density")
    if whole and low >= 0 and high <= LARGEST_COUNT:
        return Found("real" if _too_even(values, counts) else "count", column)
    return Found("positive" if _is_positive(column.observed) else "real", column)


def _identifies(column: Cells, n: int, distinct: int, width: float) -> str:
    named = not _NAMES.isdisjoint(word.lower() for word in _WORD.findall(column.name))
    if named and distinct > n / 2 and distinct > 2:
        return f"left out: called {shown(column.name)}, {distinct:,} values in {plural(n, 'cell')}"
    if distinct == n >= MOST_ORDINAL:
        if width == n:
            return f"left out: the numbers of {n:,} rows, each once"
        if bool((np.diff(column.observed) > 0).all()):
            return "left out: whole numbers that increase from row to row"
    return ""


def _levels(values: np.ndarray, counts: np.ndarray, n: int) -> str:
    """Ordinal or count, where whole numbers are few; otherwise nothing is said."""
    distinct, width = len(values), values[-1] - values[0] + 1
    if not 3 <= distinct <= width <= MOST_ORDINAL or distinct < width / 2 or n < 5 * distinct:
        return ""
    if values[0] < 0:
        return "ordinal"
    free = fits.histogram(counts) - (width - distinct) / 2 * np.log(n)
    return "ordinal" if free > _count_score(values, counts) else "count"


def _inflated(values: np.ndarray, counts: np.ndarray) -> bool:
    """More zeros than a negative binomial has: by 3 standard errors, and 2 % of the cells."""
    if values[0] != 0 or len(values) < 2:
        return False
    n, zeros = int(counts.sum()), int(counts[0])
    share = fits.zeros_explained(values, counts)
    excess = zeros / n - share
    return zeros >= RARE and excess > 0.02 and excess > 3 * np.sqrt(share * (1 - share) / n)


def _count_score(values: np.ndarray, counts: np.ndarray) -> float:
    """Of the better one of a negative binomial and one with a free share of zeros."""
    score = fits.negative_binomial(values, counts)
    if not _inflated(values, counts):
        return score
    n, zeros = int(counts.sum()), int(counts[0])
    parts = fits.histogram(np.array([zeros, n - zeros]))
    # above zero, a negative binomial of v - 1 stands in for one without its zero
    return max(score, parts + fits.negative_binomial(values[1:] - 1, counts[1:]))


def _too_even(values: np.ndarray, counts: np.ndarray) -> bool:
    n = int(counts.sum())
    mean = float((values * counts).sum()) / n
    each = np.repeat(values, counts)
    if mean < 10 or float(each.var()) >= mean:
        return False
    return fits.normal(each) > fits.negative_binomial(values, counts) + _MARGIN * n


def _some(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, len(values) // _SAMPLE)]


def has_atom(values: np.ndarray) -> bool:
    """Whether numbers lie from 0 on, many of them at 0 and the others at many places.

    >>> has_atom(np.array([0.0] * 5 + [k / 7 for k in range(95)])), has_atom(np.zeros(9))
    (True, False)
    """
    if not len(values) or values.min() < 0 or (values == 0).mean() < _ZEROS:
        return False
    return len(np.unique(values)) > MOST_ORDINAL


def _is_positive(values: np.ndarray) -> bool:
    if values.min() < 0 or values.max() <= 0:
        return False
    if (values == 0).mean() >= _ZEROS:
        return True
    above = _some(values[values > 0])
    if len(above) < 10:
        return False
    skewed = max(fits.log_normal(above), fits.gamma(above))
    return skewed > max(fits.normal(above), fits.student_t(above)) + _MARGIN * len(above)


def positive_family(values: np.ndarray) -> str:
    """The family of numbers that are not negative, with an atom at 0 if some are 0."""
    above = _some(values[values > 0])
    name = "LogNormal"
    if len(above) > 1 and fits.gamma(above) > fits.log_normal(above):
        name = "Gamma"
    return name if values.min() > 0 else f"Hurdle(family={name})"


def real_family(values: np.ndarray) -> str:
    """StudentT where it fits better than a normal by 0.1 nats a cell."""
    few = _some(values)
    if len(few) < 20:
        return "Normal"
    heavy = fits.student_t(few) > fits.normal(few) + _TAILS * len(few)
    return "StudentT" if heavy else "Normal"


def count_family(values: np.ndarray) -> str:
    """A negative binomial, with a share of zeros of its own where there are more than it has."""
    different, counts = np.unique(values, return_counts=True)
    many = _inflated(different, counts)
    return "ZeroInflated(family=NegativeBinomial)" if many else "NegativeBinomial"
