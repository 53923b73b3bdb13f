"""A schema as JSON, to be read and edited by people, and as an aligned text.

    {"version": 1,
     "missing": ["", "?", "NA"],
     "columns": [
       {"name": "age", "kind": "count", "likelihood": "NegativeBinomial", "dtype": "int64",
        "decimals": 0, "low": 17, "high": 90},
       {"name": "income", "kind": "binary", "likelihood": "Bernoulli",
        "categories": ["<=50K", ">50K"], "dtype": "text"}]}

Fields are those of `Column` in its order; what has its default is left out, and so may the
likelihood and the missing texts be. The bounds of dates
are written as dates. Nothing is believed before it is checked: a schema may come out of any file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields
from typing import Any

from latently.data.tables.cells import MISSING
from latently.data.tables.column import Column, usual
from latently.data.tables.dates import date_text, parse_dates
from latently.data.tables.words import shown
from latently.errors import UserError, closest

__all__ = ["from_json", "table", "to_json"]

VERSION = 1
_MOST_COLUMNS = 100_000
_MOST_MISSING = 1000
_FIELDS = {field.name: field.default for field in fields(Column)}
_WIDEST = 60  # characters of a note or name in the text


def to_json(columns: Sequence[Column], missing: Sequence[str]) -> dict[str, Any]:
    """Columns and missing texts as plain values."""
    return {
        "version": VERSION,
        "missing": list(missing),
        "columns": [_to_json(column) for column in columns],
    }


def _to_json(column: Column) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, default in _FIELDS.items():
        value = getattr(column, name)
        if (
            name not in ("name", "kind", "dtype")
            and value == default
            and default is not NO_DEFAULT
        ):
            continue
        if name in ("low", "high"):
            value = _bound(column, value)
        out[name] = list(value) if isinstance(value, tuple) else value
    return out


def _bound(column: Column, value: float) -> Any:
    if column.kind == "datetime":
        try:
            return date_text(value, "%Y-%m-%dT%H:%M:%S")
        except OverflowError:
            return value
    return int(value) if value == int(value) and abs(value) < 2**53 else value


def from_json(content: Any) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Columns and missing texts from plain values.

    Raises:
        UserError: what is wrong, in one line that names column and field.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"a schema is an object with columns, not {_what(content)}")
    unknown = [key for key in content if key not in ("version", "missing", "columns")]
    if unknown:
        raise UserError(
            f"a schema has no field {shown(unknown[0])}; it has version, missing, columns"
        )
    if content.get("version", VERSION) != VERSION or content.get("version") is True:
        raise UserError(
            f"schema of version {shown(content['version'])}; this latently reads version {VERSION}"
        )
    missing = content.get("missing", MISSING)
    if not isinstance(missing, list | tuple) or len(missing) > _MOST_MISSING:
        raise UserError(f"missing is {_what(missing)}; write a list of at most 1,000 texts")
    for text in missing:
        if not isinstance(text, str) or len(text) > 1000:
            raise UserError(f"missing: {shown(text)} is no short text; put it in quotes")
    columns = content.get("columns")
    if not isinstance(columns, list | tuple) or not 0 < len(columns) <= _MOST_COLUMNS:
        raise UserError(
            f"columns is {_what(columns)}; write a list of 1 to {_MOST_COLUMNS:,} objects"
        )
    return tuple(_column(one, place) for place, one in enumerate(columns, 1)), tuple(missing)


def _what(value: Any) -> str:
    if isinstance(value, list | tuple | Mapping):
        return f"a {'list' if not isinstance(value, Mapping) else 'mapping'} of {len(value)}"
    return shown(value)


def _column(content: Any, place: int) -> Column:
    if not isinstance(content, Mapping):
        raise UserError(f"column {place} is {_what(content)}; write an object with name and kind")
    name = content.get("name")
    called = shown(name) if isinstance(name, str) and name else str(place)
    for key in content:
        if key not in _FIELDS:
            hint = closest(key[:40], _FIELDS) if isinstance(key, str) else "fields are text"
            raise UserError(f"column {called}: no field {shown(key)}; {hint}")
    for key in ("name", "kind"):
        if not isinstance(content.get(key), str):
            raise UserError(f"column {called}: {key} is {shown(content.get(key))}; write a text")
    values = dict(content)
    categories = values.get("categories", ())
    if not isinstance(categories, list | tuple):
        raise UserError(f"column {called}: categories is {_what(categories)}; write a list")
    values["categories"] = tuple(categories)
    codes = values.get("na_values", ())
    if not isinstance(codes, list | tuple):
        raise UserError(f"column {called}: na_values is {_what(codes)}; write a list of texts")
    values["na_values"] = tuple(codes)
    for key in ("low", "high"):
        values[key] = _read_bound(values.get(key), called, key, values["kind"])
    if values.get("likelihood") is None:
        values["likelihood"] = _usual(values, called)
    return Column(**values)


def _read_bound(value: Any, called: str, key: str, kind: str) -> Any:
    if isinstance(value, str):
        if kind != "datetime":
            raise UserError(
                f"column {called}: {key} is {shown(value)}, and the kind is {shown(kind)}; write "
                "a number"
            )
        dated = parse_dates([value[:40].strip()])
        if dated is None or math.isnan(dated.values[0]):
            raise UserError(f"column {called}: {key} is {shown(value)}; write a date, 2020-01-31")
        return float(dated.values[0])
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1e300:
        raise UserError(f"column {called}: {key} is {shown(value)}; a finite number is needed")
    return value


def _usual(values: Mapping[str, Any], called: str) -> str | None:
    if not isinstance(values.get("other", False), bool):
        raise UserError(f"column {called}: other is {shown(values['other'])}; true or false")
    low = values["low"]
    low = low if isinstance(low, int | float) else None
    return usual(values["kind"], len(values["categories"]) + values.get("other", False), low)


def table(columns: Sequence[Column]) -> str:
    """Columns as aligned text."""
    rows = [("column", "kind", "likelihood", "missing", "note")]
    for column in columns:
        share = f"{column.missing:.1%}".replace("%", " %") if column.missing else "-"
        family = column.likelihood or "left out"
        rows.append((_cut(column.name), column.kind, family, share, _cut(_note(column))))
    widths = [max(len(row[j]) for row in rows) for j in range(4)]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _note(column: Column) -> str:
    if column.note:
        return column.note
    if column.kind in ("binary", "ordinal", "categorical"):
        values = [str(value) for value in column.categories[:6]]
        return ", ".join(values) + ", ..." * (len(column.categories) > 6)
    return f"always {column.categories[0]}" if column.kind == "constant" else ""


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDEST else line[: _WIDEST - 3] + "..."
