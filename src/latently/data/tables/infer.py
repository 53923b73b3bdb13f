"""A column of a frame to what it is: the kind found or declared, its family, values and bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latently.data.tables import kinds
from latently.data.tables.cells import (
    MISSING,
    SPAN,
    Cells,
    as_numbers,
    as_times,
    cells,
    first_row,
    label_at,
)
from latently.data.tables.column import DISCRETE, KINDS, NUMERIC, Column, usual
from latently.data.tables.dates import date_text, unit_of
from latently.data.tables.frame import Frame
from latently.data.tables.kinds import Found
from latently.data.tables.numbers import decimals_of, number_text, parse_numbers
from latently.data.tables.words import at, plural, shown
from latently.errors import UserError, closest

__all__ = ["infer_column"]

_MOST_WIDE = 1000  # levels of an ordinal column of whole numbers, those that do not occur included


def infer_column(
    frame: Frame,
    place: int,
    missing: Sequence[str] = MISSING,
    kind: str | None = None,
    na_values: Sequence[str] = (),
) -> Column:
    """What a column is.

    Args:
        frame: the table.
        place: where the column stands, counted from 0.
        missing: texts that mean a missing cell.
        kind: what it is declared as; None finds out.
        na_values: more such texts, of this column alone.

    Raises:
        UserError: cells that the kind does not take, by column and row.

    >>> infer_column(Frame(("smoker",), (np.array(["no", "yes", "no"]),)), 0).likelihood
    'Bernoulli'
    """
    raw = cells(frame, place, (*missing, *na_values))
    levels, ordered = frame.levels[place], frame.ordered[place]
    if kind is None:
        found = kinds.find(raw, levels, ordered)
    else:
        found = _declared(raw, kind)
    column = _build(found, raw, frame.types[place], levels, ordered)
    return replace(column, na_values=tuple(na_values))


def _build(
    found: Found, raw: Cells, dtype: str, levels: tuple[Any, ...] | None, ordered: bool
) -> Column:
    kind, column, note = found
    if raw.form == "text" and levels is None:
        written = f", {column.note}" if column.note else ""
        dtype = f"text{written}" if column.form != "text" or dtype == "text" else dtype
    shared: dict[str, Any] = {
        "name": raw.name,
        "kind": kind,
        "dtype": dtype,
        "missing": round(1 - float(column.present.mean()), 6),
    }
    if kind in ("empty", "identifier"):
        return Column(**shared, note=note)
    if kind == "constant":
        return Column(**shared, categories=(_constant(column, raw),), note=note)
    if kind in DISCRETE:
        levels = levels if ordered or kind == "ordinal" else None
        told = _discrete(shared, column, levels, note)
        return told if raw.form != "text" or column.form == "text" else _spelled(told, raw)
    return _continuous(shared, column, note)


def _constant(column: Cells, raw: Cells) -> Any:
    """The one value; of text that is a date, or a number such as 1.50, how it is written most."""
    if raw.form in ("text", "flag"):
        values, counts = raw.tally()
        written = raw.labels[int(values[counts.argmax()])]
        if column.form == "number" and number_text(float(column.observed[0])) == written:
            return _number(float(column.observed[0]))
        return written
    if column.form == "time":
        return date_text(float(column.observed[0]), "%Y-%m-%dT%H:%M:%S")
    return _number(float(column.observed[0]))


def _number(value: float) -> int | float:
    return int(value) if value == int(value) and abs(value) < 2**53 else value


def _continuous(shared: dict[str, Any], column: Cells, note: str) -> Column:
    values, kind = column.observed, shared["kind"]
    note = note or ("time spans, in seconds" if column.note == SPAN else "")
    low, high = float(values.min()), float(values.max())
    if kind == "datetime":
        unit = "month" if column.note == "%Y-%m" else unit_of(values)
        return Column(**shared, likelihood="Normal", unit=unit, low=low, high=high, note=note)
    families = {
        "real": kinds.real_family,
        "positive": kinds.positive_family,
        "count": kinds.count_family,
    }
    return Column(
        **shared,
        likelihood=families[kind](values),
        decimals=decimals_of(values),
        low=low,
        high=high,
        note=note,
    )


def _discrete(
    shared: dict[str, Any], column: Cells, levels: tuple[Any, ...] | None, note: str
) -> Column:
    kind = shared["kind"]
    values, counts = column.tally()
    if column.form in ("text", "flag"):
        found = [column.labels[int(code)] for code in values]
    else:
        found = [_number(float(value)) for value in values]
    other, commonest = False, None
    if kind == "ordinal":
        categories = _in_order(column, found, levels)
    else:
        rare = kinds.pooled(counts)
        other = bool(rare.any())
        categories = sorted(v for v, gone in zip(found, rare.tolist(), strict=True) if not gone)
        if other:
            if column.form == "number":
                commonest = found[int(np.where(rare, counts, 0).argmax())]
            cells_ = plural(int(counts[rare].sum()), "cell")
            note = "; ".join(
                filter(None, [note, f"{rare.sum():,} rare values in {cells_} pooled"])
            )
    return Column(
        **shared,
        likelihood=usual(kind, len(categories) + other),
        categories=tuple(categories),
        other=other,
        note=note,
        commonest=commonest,
    )


def _spelled(column: Column, raw: Cells) -> Column:
    """A column of levels that texts hold as numbers: as they are written, if not at the shortest.

    >>> texts = np.array(["1.0", "2.0", "1.0"] * 5, dtype=object)
    >>> infer_column(Frame(("grade",), (texts,)), 0).categories
    ('1.0', '2.0')
    """
    comma = "decimal comma" in column.dtype
    codes, counts = raw.tally()
    labels = [raw.labels[code] for code in codes.tolist()]
    numbers = parse_numbers(labels, codes=False, comma=comma).values
    most = sorted(zip(counts.tolist(), labels, numbers.tolist(), strict=True), reverse=True)
    written: dict[float, str] = {}
    for _, label, number in most:
        written.setdefault(number, label)
    if all(text == number_text(value, comma) for value, text in written.items()):
        return column
    decimals = {len(text.replace(",", ".").partition(".")[2]) for text in written.values()}

    def text_of(value: float) -> str:
        if value in written:
            return written[value]
        shortest = number_text(value, comma)
        if len(decimals) > 1 or value != int(value):
            return shortest
        return f"{value:.{min(decimals)}f}".replace(".", "," if comma else ".")

    texts = tuple(text_of(value) for value in column.categories)
    return replace(column, categories=texts, commonest=None)


def _in_order(column: Cells, found: list[Any], levels: tuple[Any, ...] | None) -> list[Any]:
    """All levels: declared ones, every whole number of a narrow range, or what occurs."""
    if levels is not None:
        return list(levels)
    if column.form == "text":
        raise UserError(
            f"column {shown(column.name)}: the order of its {len(found)} texts is unknown; make "
            "it an ordered category, or write its categories in order into the schema's JSON"
        )
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in found)
    if whole and len(found) * 2 >= found[-1] - found[0] + 1 <= _MOST_WIDE:
        return list(range(found[0], found[-1] + 1))
    return found


def _declared(raw: Cells, kind: str) -> Found:
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(
            f"column {shown(raw.name)}: kind {shown(kind)} is unknown; {closest(str(kind), KINDS)}"
        )
    if kind == "identifier":
        return Found(kind, raw, "left out: declared an identifier")
    if not raw.present.any():
        return Found("empty", raw, f"declared {kind}, but no cell holds anything")
    if kind == "datetime":
        return Found(kind, _as_dates(raw))
    if kind in NUMERIC:
        numbers = _as_plain_numbers(raw, kind)
        _check_domain(numbers, kind)
        return Found(kind, numbers)
    return _declared_levels(raw, kind)


def _as_dates(raw: Cells) -> Cells:
    times = as_times(raw)
    if times is None:
        raise UserError(
            f"column {shown(raw.name)}: kind datetime, but its cells are no dates; write them as "
            "2020-01-31 or 2020-01-31 12:30:00"
        )
    _refuse_unread(raw, times, "no date")
    return times


def _as_plain_numbers(raw: Cells, kind: str) -> Cells:
    if raw.form == "time":
        raise UserError(f"column {shown(raw.name)}: kind {kind}, but it holds dates; use datetime")
    numbers = as_numbers(raw, known=True)
    _refuse_unread(raw, numbers, "no number")
    return numbers


def _refuse_unread(raw: Cells, read: Cells, what: str) -> None:
    strange = read.present & np.isnan(read.values)
    if strange.any():
        row = first_row(strange)
        raise UserError(
            f"{at(raw.name, row)}: {label_at(raw, row)} is {what}; empty the cell, count it as "
            "missing (na_values), or choose another kind"
        )


def _check_domain(column: Cells, kind: str) -> None:
    wrong = outside(column.values, kind)
    if wrong.any():
        row = first_row(wrong)
        what = "a whole number of 0 or more" if kind == "count" else "0 or more"
        raise UserError(
            f"{at(column.name, row)}: {column.values[row]:g} is not {what}, as kind {kind} needs; "
            "correct it, or choose kind real"
        )


def outside(values: np.ndarray, kind: str) -> np.ndarray:
    """Where numbers are not of a kind; NaN is of every kind.

    >>> outside(np.array([1.5, -1.0, 0.0]), "count").tolist()
    [True, True, False]
    """
    if kind == "real":
        return np.zeros(len(values), dtype=bool)
    wrong: np.ndarray = values < 0
    if kind == "count":
        wrong = wrong | (values != np.floor(values)) & ~np.isnan(values)
    return wrong


def _declared_levels(raw: Cells, kind: str) -> Found:
    if raw.form == "object":
        raise UserError(
            f"column {shown(raw.name)}: kind {kind}, but its cells are no numbers or texts; "
            "choose identifier"
        )
    if raw.form == "time":
        raise UserError(f"column {shown(raw.name)}: kind {kind}, but it holds dates; use datetime")
    column = raw
    if raw.form == "text":
        numbers = as_numbers(raw, checked=False)  # 12E400 may be a code
        column = numbers if np.isfinite(numbers.observed).all() else raw
    distinct = len(column.tally()[0])
    wanted = {"empty": 0, "constant": 1, "binary": 2}.get(kind, max(distinct, 2))
    if distinct != wanted:
        raise UserError(
            f"column {shown(raw.name)}: kind {kind}, but it holds {plural(distinct, 'value')}; "
            f"{'leave it to be constant' if distinct == 1 else 'choose another kind'}"
        )
    return Found(kind, column)
