"""One column of a frame as numbers, moments or labels, with what is missing known.

| form | values | from |
|---|---|---|
| number | float64 `(n,)` | numbers, decimals, time spans (in seconds) |
| time | float64 `(n,)`, seconds since 1970 | dates and moments |
| text | codes `(n,)` into `labels`, stripped `str` | text, categories, mixed text and numbers |
| flag | codes `(n,)` into `labels`, (False, True) | truth values |
| object | codes of no meaning | lists, records, bytes, other Python objects |

Every different text is looked at once, however many rows hold it. A cell is missing if it is
None, NaN, NaT or NA, if its text without blanks around it is one of the codes in `missing`, or if
it is a number that one of these codes spells (-999).
"""

from __future__ import annotations

import decimal
import fractions
import math
import operator
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from latently.data.tables.dates import looks_dated, parse_dates
from latently.data.tables.frame import Frame
from latently.data.tables.numbers import number_text, parse_numbers
from latently.data.tables.words import at, shown
from latently.errors import UserError

__all__ = [
    "LARGEST",
    "MISSING",
    "Cells",
    "as_numbers",
    "as_times",
    "cells",
    "check_size",
    "first_row",
    "is_null",
    "label_at",
    "objects_by_label",
]

MISSING = (
    *("", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT"),
    *("null", "NULL", "None"),
)
_FEW = 7  # decimals that tell numbers of float32 apart
LARGEST = 1e30  # of numbers; squares of larger ones leave float32
_NUMBERS = (int, float, np.integer, np.floating, decimal.Decimal, fractions.Fraction)
SPAN = "time span"
_SPAN = 1e6  # microseconds of a second


@dataclass(frozen=True, eq=False)
class Cells:
    """A column, read by the table at the top of this module.

    Attributes:
        name: of the column.
        form: `number`, `time`, `text`, `flag` or `object`.
        present: bool `(n,)`, False where a cell is missing.
        values: float64 numbers, NaN where missing, or int64 codes of labels.
        labels: the different values of text and flags.
        note: how text was written that became numbers (`decimal comma`) or dates (their form);
            `time span` of seconds.
    """

    name: str
    form: str
    present: np.ndarray
    values: np.ndarray
    labels: tuple[Any, ...] = ()
    note: str = ""

    def tally(self) -> tuple[np.ndarray, np.ndarray]:
        """The different values that are there, in order, and how many cells hold each."""
        if self.form == "text":
            counts = np.bincount(self.observed, minlength=1)
            return np.flatnonzero(counts), counts[counts > 0]
        return np.unique(self.observed, return_counts=True)

    @property
    def observed(self) -> np.ndarray:
        """The values that are there."""
        return self.values[self.present]


def cells(frame: Frame, place: int, missing: Sequence[str] = MISSING) -> Cells:
    """A column of a frame.

    Raises:
        UserError: a number that is infinite or beyond 1e30, by column and row.
    """
    name, column = frame.names[place], frame.columns[place]
    kind = column.dtype.kind
    if kind in "iuf":
        return _numbers(name, widened(column), missing)
    if kind == "b":
        return _flags(name, column.astype(np.int64), np.ones(len(column), dtype=bool))
    if kind == "M":
        return _times(name, column)
    if kind == "m":
        spans = column.astype("timedelta64[us]")
        seconds = np.where(np.isnat(spans), math.nan, spans.astype(np.int64) / _SPAN)
        return replace(_numbers(name, seconds, ()), note=SPAN)
    if kind in "US":
        column = column.astype(str).astype(object)
    return _objects(name, column, missing)


def widened(column: np.ndarray) -> np.ndarray:
    """Numbers in double precision: of float32 the shortest decimals, if all have six at most.

    >>> widened(np.array([0.64, 2.5], dtype=np.float32)).tolist()
    [0.64, 2.5]
    """
    values = column.astype(np.float64)
    if column.dtype.kind != "f" or column.itemsize >= 8:
        return values
    for decimals in range(_FEW):
        rough = np.round(values, decimals)
        if np.array_equal(rough.astype(column.dtype), column, equal_nan=True):
            return rough
    return values


def _numbers(name: str, values: np.ndarray, missing: Sequence[str]) -> Cells:
    for code in _spelled(missing):
        values = np.where(values == code, math.nan, values)
    check_size(name, values)
    return Cells(name, "number", ~np.isnan(values), values)


def _spelled(missing: Sequence[str]) -> np.ndarray:
    """The numbers among texts that mean a missing cell."""
    numbers = parse_numbers([code.strip() for code in missing], codes=False).values
    found: np.ndarray = numbers[np.isfinite(numbers)]
    return found


def check_size(name: str, values: np.ndarray) -> None:
    """Refuse numbers that are infinite or beyond 1e30.

    Raises:
        UserError: by column and row.
    """
    with np.errstate(invalid="ignore"):
        bad = np.abs(values) > LARGEST
    if bad.any():
        row = first_row(bad)
        fix = "leave the cell empty if it is missing"
        if np.isfinite(values[row]):
            fix += ", or rescale the column"
            raise UserError(f"{at(name, row)}: {values[row]:g} is beyond {LARGEST:g}; {fix}")
        raise UserError(f"{at(name, row)}: {values[row]} is no finite number; {fix}")


def _flags(name: str, codes: np.ndarray, present: np.ndarray) -> Cells:
    return Cells(name, "flag", present, np.where(present, codes, 0), (False, True))


def _times(name: str, column: np.ndarray) -> Cells:
    absent = np.isnat(column)
    moments = np.where(absent, np.datetime64(0, "us"), column).astype("datetime64[us]")
    seconds = moments.astype(np.int64) / _SPAN
    return Cells(name, "time", ~absent, np.where(absent, math.nan, seconds))


def _objects(name: str, column: np.ndarray, missing: Sequence[str]) -> Cells:
    values = column.tolist()
    kinds = {kind for kind in set(map(type, values)) if not _is_null_type(kind)}
    if all(issubclass(kind, str) for kind in kinds):
        return _text(name, values, missing)
    present = np.fromiter((not is_null(value) for value in values), bool, len(values))
    there = (
        {type(value) for value in np.asarray(column)[present].tolist()}
        if float in kinds
        else set(kinds)
    )
    if all(issubclass(kind, bool | np.bool_) for kind in there) and there:
        true = (there_ and bool(value) for value, there_ in zip(values, present, strict=True))
        codes = np.fromiter(true, np.int64, len(values))
        return _flags(name, codes, present)
    if all(issubclass(kind, _NUMBERS) and kind is not bool for kind in there) and there:
        numbers = np.fromiter(map(_as_float, values, present.tolist()), float, len(values))
        return _numbers(name, numbers, missing)
    if all(issubclass(kind, date | np.datetime64) for kind in there) and there:
        return _moments(name, values, present)
    if all(issubclass(kind, (str, *_NUMBERS, bool, np.bool_)) for kind in there):
        return _text(
            name,
            [_as_text(v) if p else None for v, p in zip(values, present.tolist(), strict=True)],
            missing,
        )
    return Cells(name, "object", present, np.zeros(len(values), dtype=np.int64))


def _is_null_type(kind: type) -> bool:
    return kind.__name__ in ("NoneType", "NAType", "NaTType")


def is_null(value: Any) -> bool:
    """Whether an object stands for a missing cell: None, NA, NaT or NaN."""
    if _is_null_type(type(value)):
        return True
    if isinstance(value, float | np.floating | decimal.Decimal):
        return bool(value != value)
    return isinstance(value, np.datetime64 | np.timedelta64) and bool(np.isnat(value))


def _as_float(value: Any, present: bool) -> float:
    try:
        return float(value) if present else math.nan
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def objects_by_label(column: np.ndarray) -> dict[str, Any]:
    """Numbers and truth values among objects, by the text that stands for them among texts."""
    plain = [v for v in column.tolist() if isinstance(v, (*_NUMBERS, bool, np.bool_))]
    return {_as_text(value): value for value in plain if not is_null(value)}


def _as_text(value: Any) -> str:
    if isinstance(value, str | bool | np.bool_):
        return str(value)
    number = _as_float(value, True)
    return number_text(number) if math.isfinite(number) else str(number)


def _moments(name: str, values: list[Any], present: np.ndarray) -> Cells:
    seconds = np.full(len(values), math.nan)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for j in np.flatnonzero(present).tolist():
        value = values[j]
        if isinstance(value, np.datetime64):
            value = value.astype("datetime64[us]").item()
        if not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        seconds[j] = (moment - epoch) / timedelta(seconds=1)
    return Cells(name, "time", present, seconds)


def _text(name: str, values: list[str | None], missing: Sequence[str]) -> Cells:
    codes, found = _factorise(values)
    labels: list[str] = [text.strip() if isinstance(text, str) else "" for text in found]
    absent = {code.strip() for code in missing} | {""}
    numbers = _spelled(missing)
    if len(numbers):
        same = np.isin(parse_numbers(labels, codes=False).values, numbers)
        absent |= {label for label, gone in zip(labels, same.tolist(), strict=True) if gone}
    # a text without blanks around it is handed back by `strip` as the very object it is
    if all(map(operator.is_, labels, found)) and absent.isdisjoint(labels):
        return Cells(name, "text", np.ones(len(values), dtype=bool), codes, tuple(labels))
    # labels that differ in the blanks around them are one, those that mean nothing come first
    again, labels = _factorise(["", *("" if text in absent else text for text in labels)])
    codes = again[1:][codes] - 1
    return Cells(name, "text", codes >= 0, np.maximum(codes, 0), tuple(labels[1:]))


def _factorise(values: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
    """Codes of values in the order of their first rows, and the different values."""
    index: defaultdict[Any, int] = defaultdict()
    index.default_factory = index.__len__  # a value not met before gets the next number
    codes = np.fromiter(map(index.__getitem__, values), np.int64, len(values))
    return codes, list(index)


def first_row(bad: np.ndarray) -> int:
    """The first row of a mask."""
    return int(bad.argmax())


def as_numbers(
    column: Cells, *, known: bool = False, comma: bool = False, checked: bool = True
) -> Cells:
    """A column of text as numbers, NaN where a text is none but present: the caller decides.

    Numbers stay as they are; a truth value is 0 or 1.

    Args:
        column: as it was read.
        known: whether it is known to hold numbers, so that leading zeros make no codes of them.
        comma: whether it is known to have commas as decimal signs.
        checked: whether numbers must be finite and within 1e30, where all texts are numbers:
            among others `Inf` is a word.

    Raises:
        UserError: a number that is infinite or beyond 1e30.
    """
    if column.form in ("number", "time"):
        return column
    note = ""
    if column.form == "flag":
        numbers = np.array([0.0, 1.0])
    elif column.form == "object":
        numbers = np.array([math.nan])
    else:
        numbers, comma = parse_numbers(column.labels, codes=not known, comma=comma)
        note = "decimal comma" if comma else ""
    values = np.where(column.present, _at(numbers, column.values), math.nan)
    if checked and not np.isnan(values[column.present]).any():
        check_size(column.name, values)
    return Cells(column.name, "number", column.present, values, column.labels, note)


def as_times(column: Cells, form: str = "") -> Cells | None:
    """A column of text as moments, NaN where a text is none but present; None if none is one."""
    if column.form == "time":
        return column
    if column.form != "text" or not column.labels:
        return None
    few = column.labels[:: max(1, len(column.labels) // 200)]
    dated = parse_dates(column.labels, form) if looks_dated(few) else None
    if dated is None:
        return None
    values = np.where(column.present, _at(dated.values, column.values), math.nan)
    return Cells(column.name, "time", column.present, values, column.labels, dated.form)


def _at(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """`table[codes]`, also of an empty table, whose codes stand for missing cells."""
    if not len(table):
        return np.zeros(len(codes), dtype=table.dtype)
    found: np.ndarray = table[codes]
    return found


def label_at(column: Cells, row: int) -> str:
    """The cell of a row as a message shows it."""
    if column.form in ("text", "flag"):
        return shown(column.labels[int(column.values[row])])
    return shown(column.values[row])
