"""A neutral table: named columns as arrays of numpy, whatever library they came from.

| object | library | columns |
|---|---|---|
| `pandas.DataFrame` | pandas | by dtype, see below |
| `polars.DataFrame` | polars | by dtype; a `LazyFrame` is refused: collect it |
| `pyarrow.Table` | pyarrow | by type |
| 2-D array of numpy | numpy | called `column 1`, `column 2`, ... |
| dict of columns | none | arrays, lists; text stays text |
| `Frame` | its own | as it is |

| column | array |
|---|---|
| whole numbers | int or uint; float64 with NaN where cells are missing, objects beyond 2**53 |
| other numbers, decimals | float |
| truth values | bool; objects with None where cells are missing |
| text, categories, times of day | objects: `str` and None |
| dates, date-times | datetime64 with NaT; with a time zone in UTC |
| time spans | timedelta64 with NaT |
| lists, records, bytes, mixed Python objects | objects |

Columns are addressed by name, so two of one name are refused; a column without a name is called
`column 3` by its place, counted from 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latently.data.tables import native as libraries
from latently.data.tables.words import shown
from latently.errors import UserError

__all__ = ["Frame", "as_frame", "column_names"]


@dataclass(frozen=True, eq=False)
class Frame:
    """Named columns of one length.

    Args:
        names: of the columns, all different.
        columns: arrays `(n,)`, by the tables at the top of this module.
        native: the object of pandas, polars, pyarrow or numpy that the columns came from; None
            for text and for columns handed in one by one.
        source: what to call the table in messages, such as the file's name.
        types: of each column as it came, in the words of its library; `text` for files of text.
        levels: of each column the declared values of a category in their order, None without.
        ordered: of each column whether that order has a meaning.
        notices: a line for each thing that reading decided.

    Raises:
        UserError: no columns, columns of unlike lengths or more than one axis, a name twice.

    >>> frame = Frame(("age", "city"), (np.array([31, 40]), np.array(["Bonn", None])))
    >>> len(frame), frame["age"]
    (2, array([31, 40]))
    """

    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    native: Any = None
    source: str = "table"
    types: tuple[str, ...] = ()
    levels: tuple[tuple[Any, ...] | None, ...] = ()
    ordered: tuple[bool, ...] = ()
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.columns or len(self.names) != len(self.columns):
            raise UserError(
                f"{self.source}: {len(self.names)} names for {len(self.columns)} columns; "
                "a table has at least one column, and each has a name"
            )
        _refuse_duplicates(self.names, self.source)
        n = len(self.columns[0]) if self.columns[0].ndim else 0
        for name, column in zip(self.names, self.columns, strict=True):
            if column.ndim != 1 or len(column) != n:
                raise UserError(
                    f"{self.source}: column {shown(name)} has shape {column.shape}, the first one "
                    f"({n},); columns are lists of one length"
                )
        fill: dict[str, tuple[Any, ...]] = {
            "types": tuple(_type_text(column) for column in self.columns),
            "levels": (None,) * len(self.columns),
            "ordered": (False,) * len(self.columns),
        }
        for field, value in fill.items():
            if len(getattr(self, field)) != len(self.columns):
                object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[self.place(name)]

    def __repr__(self) -> str:
        return f"<Frame {self.source}: {len(self)} rows, {len(self.names)} columns>"

    @property
    def library(self) -> str | None:
        """Whose table it was: `pandas`, `polars`, `pyarrow`, `numpy`, or None."""
        return libraries.library_of(self.native)

    def place(self, name: str) -> int:
        """Where a column stands, counted from 0.

        Raises:
            UserError: no such column.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise UserError(
                f"{self.source}: no column {shown(name)}; its columns are "
                f"{', '.join(map(shown, self.names[:12]))}{' ...' * (len(self.names) > 12)}"
            ) from None

    def take(self, rows: Any) -> Frame:
        """Rows by a slice, a mask or their numbers, of the native object too.

        >>> Frame(("a",), (np.arange(5),)).take(slice(0, 2)).columns
        (array([0, 1]),)
        """
        where = np.arange(len(self))[rows]
        columns = tuple(column[where] for column in self.columns)
        native = None if self.native is None else libraries.take(self.native, where)
        return replace(self, columns=columns, native=native)

    def to(self, library: str) -> Any:
        """The columns as a table of `pandas`, `polars` or `pyarrow`, or as an array of `numpy`.

        What is a table of that library already is handed back as it is.

        Raises:
            UserError: another library, or one that is not installed.
        """
        if self.native is not None and library == self.library:
            return self.native
        return libraries.make(library, self.names, self.columns, self.types)


def as_frame(table: Any, *, source: str = "table") -> Frame:
    """A table of any library as a `Frame`, by the tables at the top of this module.

    Args:
        table: a data frame of pandas or polars, a table of pyarrow, a 2-D array of numpy, a
            mapping of names to columns, or a `Frame`.
        source: what to call it in messages.

    Raises:
        UserError: something else, no rows, a name twice, columns of unlike lengths.

    >>> as_frame({"age": [31, 40, None], "city": ["Bonn", "Rome", None]}).columns[1]
    array(['Bonn', 'Rome', None], dtype=object)
    """
    if isinstance(table, Frame):
        frame = table
    elif isinstance(table, Mapping):
        frame = _from_mapping(table, source)
    elif isinstance(table, np.ndarray):
        frame = _from_array(table, source)
    else:
        table = libraries.plain(table)
        read = libraries.read(table, source)
        frame = Frame(
            names=column_names(read.names, source),
            columns=read.columns,
            native=table,
            source=source,
            types=read.types,
            levels=read.levels,
            ordered=read.ordered,
        )
    if not len(frame):
        raise UserError(f"{frame.source}: has no rows; a table needs at least one")
    return frame


def column_names(names: Iterable[Any], source: str = "table") -> tuple[str, ...]:
    """Names as text without blanks around them; a column without one is called by its place.

    Raises:
        UserError: a name twice.

    >>> column_names(["age", "", None, 2020])
    ('age', 'column 2', 'column 3', '2020')
    """
    given = ["" if name is None else str(name).strip() for name in names]
    found = tuple(name or f"column {place}" for place, name in enumerate(given, 1))
    _refuse_duplicates(found, source)
    return found


def _refuse_duplicates(names: Sequence[str], source: str) -> None:
    first: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if name in first:
            raise UserError(
                f"{source}: columns {first[name]} and {place} are both called {shown(name)}; "
                "rename one, columns are found by name"
            )
        first[name] = place


def _from_mapping(table: Mapping[Any, Any], source: str) -> Frame:
    if not table:
        raise UserError(f"{source}: has no columns; a table needs at least one")
    names = column_names(table, source)
    columns = tuple(
        _as_column(values, name, source)
        for name, values in zip(names, table.values(), strict=True)
    )
    return Frame(names=names, columns=columns, source=source)


def _as_column(values: Any, name: str, source: str) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return np.array(values, dtype=object) if values.dtype.kind in "US" else values
    try:
        found = list(values)
    except TypeError:
        raise UserError(
            f"{source}: column {shown(name)} is one {type(values).__name__}; give a list of cells"
        ) from None
    column = np.empty(len(found), dtype=object)
    column[:] = found
    plain = {type(value) for value in found}
    if (plain and plain <= {int}) or plain == {bool} or (plain and plain <= {int, float}):
        with contextlib.suppress(OverflowError):  # whole numbers of more than 64 bits stay objects
            column = np.asarray(found)
    return column


def _from_array(table: np.ndarray, source: str) -> Frame:
    if table.ndim != 2 or not table.shape[1]:
        raise UserError(
            f"{source}: an array of shape {table.shape}; a table has two axes, rows and columns"
        )
    if isinstance(table, np.ma.MaskedArray):
        raise UserError(f"{source}: a masked array; write NaN, x.astype(float).filled(np.nan)")
    if table.dtype.kind not in "biufOUMm":
        raise UserError(
            f"{source}: an array of dtype {table.dtype}; a table takes numbers or text"
        )
    cells = table.astype(object) if table.dtype.kind == "U" else table
    columns = tuple(cells[:, j].copy() for j in range(table.shape[1]))
    names = tuple(f"column {place}" for place in range(1, table.shape[1] + 1))
    return Frame(names=names, columns=columns, native=table, source=source)


def _type_text(column: np.ndarray) -> str:
    return str(column.dtype)
