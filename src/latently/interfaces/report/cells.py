"""What the cells of a report are called, and how they are printed: as the table prints them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from latently.data import Data
from latently.data.tables.coding import held
from latently.data.tables.column import OTHER
from latently.interfaces.report.numbers import DASH, plain, significant

if TYPE_CHECKING:
    from latently.data.tables import Column

__all__ = ["NAMES", "Cells", "seen_of"]

NAMES = ("binary", "categorical")  # kinds whose values have no order
_SHOWN = {"month": 7, "day": 10, "hour": 13, "minute": 16, "second": 19}  # characters of a date


@dataclass(frozen=True)
class Cells:
    """The columns of a report's rows.

    Attributes:
        names: of the columns of x.
        columns: what the schema says of each; () of rows that came from no table.
    """

    names: tuple[str, ...]
    columns: tuple[Column, ...] = ()

    @classmethod
    def of(cls, data: Data) -> Cells:
        """Those of a data set: the names of its table, or x0, x1, ..."""
        if data.table is None:
            return cls(tuple(f"x{j}" for j in range(math.prod(data.shape))))
        return cls(tuple(data.table.names), tuple(data.table.modelled))

    def kind(self, j: int) -> str:
        """The kind of a column; "real" of rows that came from no table."""
        return self.columns[j].kind if self.columns else "real"

    def nominal(self, j: int) -> bool:
        """Whether the values of a column are names: then nothing lies between two of them."""
        return self.kind(j) in NAMES

    def levels(self, j: int) -> tuple[str, ...]:
        """The names behind the codes 0, 1, ...; () of numbers."""
        if not self.columns or self.kind(j) not in (*NAMES, "ordinal"):
            return ()
        column = self.columns[j]
        found = tuple(_level(value) for value in column.categories)
        return (*found, OTHER) if column.other else found

    def steps(self, j: int) -> tuple[float, float] | None:
        """First value and step of levels that are numbers at even distances; None of others."""
        values = self.columns[j].categories
        if self.columns[j].other or any(isinstance(value, str | bool) for value in values):
            return None
        apart = np.diff(np.array(values, dtype=np.float64))
        even = bool(np.allclose(apart, apart[0]))
        return (float(values[0]), float(apart[0])) if even else None

    def held(self, j: int, values: np.ndarray) -> np.ndarray:
        """Finite numbers of a model as `Schema.decode` writes them: rounded, within the bounds."""
        return held(self.columns[j], values) if self.columns else values

    def value(self, j: int, value: float) -> str:
        """A value as the table has it: a name, a date, a number with the column's decimals."""
        return self._shown(j, value, None)

    def rough(self, j: int, value: float, digits: int = 3) -> str:
        """What a model says a value may be: no more digits than are worth a reader's time."""
        return self._shown(j, value, digits)

    def _shown(self, j: int, value: float, digits: int | None) -> str:
        if not math.isfinite(value) or not self.columns:
            return significant(value, digits or 3)
        column, levels = self.columns[j], self.levels(j)
        if levels:
            code = round(value)
            return levels[code] if 0 <= code < len(levels) else DASH
        if column.kind == "datetime":
            return _date(value, column.unit)
        decimals = 0 if column.kind == "count" else column.decimals
        return _number(value, decimals, digits)


def seen_of(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, D) in float64 and which of them are observed, (n, D) bool."""
    x = data.x.flatten(1).double().cpu().numpy()
    return x, np.ones(x.shape, bool) if data.mask is None else _array(data.mask)


def _array(mask: Tensor) -> np.ndarray:
    found: np.ndarray = mask.flatten(1).cpu().numpy()
    return found


def _level(value: object) -> str:
    """A category as text; whole numbers without a point, blanks made visible.

    >>> _level(3.0), _level("a  b"), _level(""), _level(True)
    ('3', 'a b', '(empty)', 'True')
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(str(value).split()) or "(empty)"


def _number(value: float, decimals: int | None, digits: int | None) -> str:
    """A number of so many decimals at most, and so many significant digits at most.

    Thousands are not set apart: years and codes stay in one piece.

    >>> _number(7.25, 4, None), _number(14.4542, 4, 3), _number(2015.0, 0, 3)
    ('7.25', '14.5', '2015')
    """
    if decimals is None or (value and not 1e-4 <= abs(value) < 1e9):
        text = significant(value, digits or 4)
    else:
        if digits is not None and value:
            decimals = max(0, min(decimals, digits - 1 - math.floor(math.log10(abs(value)))))
        text = plain(value, decimals)
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace(",", "")


def _date(value: float, unit: str | None) -> str:
    """A moment, seconds since 1970, to the unit of its column.

    >>> _date(86400.0, "day"), _date(90061.4, "minute"), _date(0.0, "month")
    ('1970-01-02', '1970-01-02 01:01', '1970-01')
    """
    if abs(value) > 1e13:  # beyond the calendar of numpy
        return significant(value, 4)
    text = str(np.datetime64(round(value), "s"))
    return text[: len(text) - 19 + _SHOWN.get(unit or "second", 19)].replace("T", " ")
