"""Cells of one column to numbers and back, by what the column is.

Out: numbers as they are, levels as their code, moments as seconds since 1970 in UTC. A cell that
is missing, or whose value has no code and no `other` to stand for it, is 0 with mask False.

Back: numbers are rounded to `decimals` and clipped to `low` and `high`, moments to `unit`, codes
to the nearest one there is. What is put in so never lies beyond what was observed: draws of
families with long tails would, and no column's own rules (a share, an age, a price) are known.
Whoever wants draws without bounds sets `low` and `high` to None. Cells that are kept are not
touched.
The code `other` comes back as the text "other", in a column of numbers as the commonest of those
that it stands for, or where that is not known as a missing cell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from latently.data.tables.cells import (
    Cells,
    as_numbers,
    as_times,
    cells,
    check_size,
    first_row,
    is_null,
    label_at,
    objects_by_label,
)
from latently.data.tables.column import DISCRETE, OTHER, Column
from latently.data.tables.dates import FORMS, date_text, parse_dates, round_to
from latently.data.tables.frame import Frame
from latently.data.tables.infer import outside
from latently.data.tables.numbers import number_text, parse_numbers
from latently.data.tables.words import at, plural, shown
from latently.errors import UserError

__all__ = [
    "Coded",
    "constant_differs",
    "decode_column",
    "encode_column",
    "fill_constant",
    "held",
]

CALENDAR = (-62135596800.0, 253402214400.0)  # the years 1 to 9999 in seconds
_WHOLE = 2.0**63 - 1024  # the largest float that 64 bits hold as a whole number
_BITS = re.compile(r"(u?)int(\d+)", re.IGNORECASE)  # of a type of whole numbers
COMMA = "decimal comma"
_ABOVE_ZERO = ("LogNormal", "Gamma")  # families that give no probability to 0


class Coded(NamedTuple):
    """A column as numbers: x `(n,)`, 0 where masked; mask; cells that hold anything; notice."""

    x: np.ndarray
    mask: np.ndarray
    present: np.ndarray
    notice: str = ""


def encode_column(column: Column, frame: Frame, place: int, missing: Sequence[str]) -> Coded:
    """A column of a frame as numbers.

    Raises:
        UserError: cells of another type, or outside what the kind takes, by column and row.
    """
    raw = cells(frame, place, missing)
    if column.kind in DISCRETE:
        return _encode_levels(column, raw)
    if not raw.present.any():
        return Coded(np.zeros(len(raw.present)), raw.present, raw.present)
    if column.kind == "datetime":
        read = as_times(raw, column.dtype.removeprefix("text, "))
    else:
        read = as_numbers(raw, known=True, comma=COMMA in column.dtype)
    strange = raw.present if read is None else read.present & np.isnan(read.values)
    if column.kind != "datetime" and raw.form == "time":
        strange = raw.present
    if read is None or strange.any():
        row = first_row(strange)
        raise UserError(
            f"{at(column.name, row)}: {_strange(raw, row)} is no "
            f"{'date' if column.kind == 'datetime' else 'number'}, and the column was "
            f"{column.kind} when the schema was made; leave the cell empty if it is missing"
        )
    wrong = outside(read.values, column.kind) if column.kind != "datetime" else np.zeros(1, bool)
    family = str(column.likelihood).partition("(")[0]
    if family in _ABOVE_ZERO or (family != "Hurdle" and column.kind == "positive"):
        wrong = wrong | (read.values == 0)
    if wrong.any():
        row = first_row(wrong)
        raise UserError(
            f"{at(column.name, row)}: {read.values[row]:g} has no probability under "
            f"{column.likelihood}, kind {column.kind}; leave the cell empty, or choose another "
            "likelihood or kind"
        )
    return Coded(np.where(read.present, read.values, 0.0), read.present, read.present)


def _strange(raw: Cells, row: int) -> str:
    """A cell of another type, in words."""
    words = {"time": "a date", "object": "an object"}
    return words[raw.form] if raw.form in words else label_at(raw, row)


def _encode_levels(column: Column, raw: Cells) -> Coded:
    n = len(raw.present)
    if not raw.present.any():
        return Coded(np.zeros(n), raw.present, raw.present)
    if raw.form in ("object", "time"):
        row = first_row(raw.present)
        raise UserError(
            f"{at(column.name, row)}: holds {raw.form}s, and the column was {column.kind} when "
            "the schema was made; convert it to text or numbers"
        )
    if raw.form == "number":
        labels, codes = np.unique(raw.values, return_inverse=True)
        texts = [_key(value) for value in labels.tolist()]
    else:
        texts, codes = _keys_of_text(column, raw), raw.values
    known = _codes(column)
    unknown = len(column.categories) if column.other else -1
    table = np.array([known.get(text, unknown) for text in texts], dtype=np.int64)
    x = np.where(raw.present, table[codes], -1)
    mask = x >= 0
    strange = raw.present & ~mask
    notice = ""
    if strange.any():
        count, row = int(strange.sum()), first_row(strange)
        notice = (
            f"column {shown(column.name)}: {plural(count, 'cell')} of values that the schema does "
            f"not know, such as {label_at(raw, row)} in row {row}, count as missing"
        )
    return Coded(np.where(mask, x, 0).astype(np.float64), mask, raw.present, notice)


def _keys_of_text(column: Column, raw: Cells) -> list[str]:
    texts = [str(label) for label in raw.labels]
    if all(isinstance(value, bool) for value in column.categories):
        words = {"1": "True", "0": "False"}
        return [words.get(text, text.capitalize()) for text in texts]
    if any(isinstance(value, str) for value in column.categories):
        spelled = _spelled(column)
        texts = [text.strip() for text in texts]
        known = set(column.categories)
        numbers = _numbers_of(texts) if spelled else {}
        return [t if t in known else spelled.get(numbers.get(t, ""), t) for t in texts]
    values = parse_numbers(texts).values
    if not np.isnan(values).any():
        check_size(raw.name, values)
    numbers = _numbers_of(texts)
    return [numbers.get(text, text) for text in texts]


def _numbers_of(texts: Sequence[str]) -> dict[str, str]:
    """Texts that are finite numbers, and what these are compared by."""
    values = parse_numbers(texts).values
    return {t: _key(v) for t, v in zip(texts, values, strict=True) if np.isfinite(v)}


def _spelled(column: Column) -> dict[str, str]:
    """Of levels that are numbers as they were written: what is the same number, and the level."""
    texts = [value for value in column.categories if isinstance(value, str)]
    found = {number: text for text, number in _numbers_of(texts).items()}
    return found if len(found) == len(column.categories) else {}


def _key(value: Any) -> str:
    """What values are compared by, so that 1, 1.0 and the text 1 are one."""
    if isinstance(value, str | bool):
        return str(value).strip()
    return number_text(float(value)) if np.isfinite(value) else ""


def _codes(column: Column) -> dict[str, int]:
    codes = {_key(value): code for code, value in enumerate(column.categories)}
    codes |= {number: codes[_key(text)] for number, text in _spelled(column).items()}
    if all(isinstance(value, bool) for value in column.categories):
        codes |= {str(int(value)): code for code, value in enumerate(column.categories)}
    return codes


def held(column: Column, x: np.ndarray) -> np.ndarray:
    """Numbers of a model as the column has them: within its bounds, rounded; codes there are.

    Args:
        column: a modelled one.
        x: finite numbers of any shape.
    """
    if column.kind in DISCRETE:
        return np.clip(np.rint(x), 0, column.levels - 1)
    least, most = CALENDAR if column.kind == "datetime" else (-np.inf, np.inf)
    low, high = column.low, column.high
    values = np.clip(x, least if low is None else low, most if high is None else high)
    if column.kind == "datetime":
        return round_to(values, column.unit)
    return values if column.decimals is None else np.round(values, column.decimals) + 0.0


def decode_column(
    column: Column, x: np.ndarray, like: np.ndarray | None, dtype: str
) -> np.ndarray:
    """Numbers of a model as cells of the type that the column has.

    Args:
        column: a modelled one.
        x: `(n,)` finite numbers.
        like: the column as the table has it, for its type; None goes by `column.dtype`.
        dtype: the type in the words of the table's library.
    """
    target = _target(column, like, dtype)
    if column.kind in DISCRETE:
        return _decode_levels(column, x, target, like)
    values = held(column, x)
    if column.kind == "datetime":
        return _decode_times(column, values, target, like)
    if target == "i":  # bounds may have been taken away
        values = np.clip(values, *_ends(dtype or column.dtype))
    return _typed(values, target, COMMA in column.dtype, dtype or column.dtype)


def _target(column: Column, like: np.ndarray | None, dtype: str) -> str:
    """How cells are held: text, i (whole), f, b, m (span), M (moment), D (decimal), O."""
    if like is not None:
        if like.dtype.kind in "iu" or _BITS.match(dtype):  # with holes they are held as floats
            return "i"
        if like.dtype.kind in "fbmM":
            return like.dtype.kind
        present = _first(like)
        if dtype.startswith("text") or isinstance(present, str):
            return "text"
        if present is not None:
            whole = isinstance(present, int) and _is_whole(column)
            return "D" if isinstance(present, Decimal) else "i" if whole else "O"
    words = column.dtype.lower()
    if words.startswith("text"):
        return "text"
    for start, target in (
        (("int", "uint"), "i"),
        (("timedelta", "duration"), "m"),
        (("bool",), "b"),
        (("float", "double", "decimal"), "f"),
    ):
        if words.startswith(start):
            return target
    return "M" if column.kind == "datetime" else "O"


def _first(like: np.ndarray | None) -> Any:
    """The first cell that holds anything; None without."""
    cells_ = [] if like is None else like.tolist()
    return next((value for value in cells_ if not is_null(value)), None)


def _is_whole(column: Column) -> bool:
    """Whether numbers, or the one of a constant, are whole."""
    if column.kind != "constant":
        return column.decimals == 0
    (value,) = column.categories
    return not isinstance(value, str | bool) and value == int(value)


def _typed(values: np.ndarray, target: str, comma: bool = False, dtype: str = "") -> np.ndarray:
    if target == "text":
        return _objects([number_text(value, comma) for value in values.tolist()])
    if target == "i":
        return _whole(np.rint(values), dtype)
    if target == "m":
        return np.rint(values * 1e6).astype("timedelta64[us]")
    if target == "D":
        return _objects([Decimal(number_text(value)) for value in values.tolist()])
    if target == "b":
        return values > 0.5
    return values


def _whole(values: np.ndarray, dtype: str) -> np.ndarray:
    """Whole numbers that a type holds; a double near the end of its range may lie beyond it."""
    if not (np.abs(values) > _WHOLE).any():
        return values.astype(np.int64)
    least, most = _ends(dtype)
    return _objects([min(max(int(value), least), most) for value in values.tolist()])


def _ends(dtype: str) -> tuple[int, int]:
    """The least and the largest number of a type of whole numbers."""
    found = _BITS.match(dtype)
    signed, bits = (not found[1], int(found[2])) if found else (True, 64)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _objects(values: list[Any]) -> np.ndarray:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def _decode_times(
    column: Column, seconds: np.ndarray, target: str, like: np.ndarray | None
) -> np.ndarray:
    if target == "text":
        form = column.dtype.removeprefix("text, ")
        form = form if form in FORMS else "%Y-%m-%d %H:%M:%S"
        different, codes = np.unique(seconds, return_inverse=True)
        texts = _objects([date_text(value, form) for value in different.tolist()])
        found: np.ndarray = texts[codes]
        return found
    moments = np.rint(seconds * 1e6).astype(np.int64).astype("datetime64[us]")
    if like is None and column.dtype.lower() in ("date", "date32[day]", "date64[ms]"):
        return moments.astype("datetime64[D]")
    if target != "O":
        return moments
    present = _first(like)
    if not isinstance(present, datetime):
        return _objects([m.date() for m in moments.tolist()])
    zone = present.tzinfo
    aware = (
        m if zone is None else m.replace(tzinfo=UTC).astimezone(zone) for m in moments.tolist()
    )
    return _objects(list(aware))


def _decode_levels(
    column: Column, x: np.ndarray, target: str, like: np.ndarray | None
) -> np.ndarray:
    codes = held(column, x).astype(np.int64)
    values: list[Any] = list(column.categories)
    texts = any(isinstance(value, str) for value in values)
    if column.other:
        values.append(OTHER if texts else column.commonest)
    if target == "text":
        comma = COMMA in column.dtype
        values = [None if value is None else _written(value, comma) for value in values]
    if texts and like is not None and like.dtype == object:
        objects = objects_by_label(like)
        values = [objects.get(value, value) for value in values]
    if target in "ifb" and not texts and None not in values:
        table = np.array(values)
        return _typed(table.astype(np.float64), target)[codes]
    return _objects(values)[codes]


def _written(value: Any, comma: bool) -> str:
    if isinstance(value, str | bool):
        return str(value)
    return number_text(value, comma)


def fill_constant(column: Column, n: int, like: np.ndarray | None, dtype: str) -> np.ndarray:
    """The one value of a constant column in n cells; missing cells of what is left out."""
    if column.kind != "constant":
        return _objects([None] * n)
    (value,) = column.categories
    target = _target(column, like, dtype)
    if target == "text":
        return _objects([_written(value, COMMA in column.dtype)] * n)
    if target == "M":
        return np.full(n, np.datetime64(value, "us"))
    if target == "O" and isinstance(_first(like), date):
        moment = np.datetime64(value, "us").astype(np.int64) / 1e6
        return _decode_times(column, np.full(n, moment), target, like)
    if target in "ifbm" and not isinstance(value, str):
        return _typed(np.full(n, float(value)), target, dtype=dtype or column.dtype)
    return _objects([value] * n)


def _alike(texts: list[str]) -> bool:
    """Whether texts are one number or one date, such as 1.5 and 1.50."""
    numbers = parse_numbers(texts, codes=False).values
    dates = parse_dates(texts)
    return any(len(set(values.tolist())) == 1 for values in (numbers, *(dates or ())[:1]))


def constant_differs(column: Column, frame: Frame, place: int, missing: Sequence[str]) -> bool:
    """Whether a column that was constant holds another value now."""
    raw = cells(frame, place, missing)
    if raw.form in ("text", "flag"):
        there, _ = raw.tally()  # truth values have two labels, whether both occur or not
        keys = _keys_of_text(column, raw)
        others = {keys[code] for code in there.tolist()} - set(_codes(column))
        return bool(others) and not _alike([str(column.categories[0]), *sorted(others)])
    if raw.form == "number" and not isinstance(column.categories[0], str):
        return bool((raw.observed != float(column.categories[0])).any())
    return False
