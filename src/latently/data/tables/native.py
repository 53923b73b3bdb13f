"""Tables of pandas, polars and pyarrow: their columns as arrays of numpy, and columns put back.

Columns are read through narwhals, so that one code serves all three; whatever only one library
knows (an index, the order of categories) is asked of that library, which is there when its table
is. No library is imported before one of its tables came or was asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

from latently.data.tables.words import shown
from latently.errors import UserError

__all__ = [
    "Columns",
    "emptied",
    "library_of",
    "make",
    "plain",
    "put_back",
    "read",
    "stacked",
    "take",
    "zone_of",
]

_EXACT = 2**53  # whole numbers up to here are floats without loss
_LONGEST = 60  # characters of a type
_DECIMAL = re.compile(r"decimal128\((\d+), (\d+)\)")
_ZONE = re.compile(r"(?:tz=|time_zone='|\[\w+, (?!tz=))([A-Za-z][\w/+:-]*|[+-]\d\d:\d\d)")
LIBRARIES = ("pandas", "polars", "pyarrow", "numpy")


class Columns(NamedTuple):
    """What `read` found, a tuple entry for each column."""

    names: tuple[Any, ...]
    columns: tuple[np.ndarray, ...]
    types: tuple[str, ...]
    levels: tuple[tuple[Any, ...] | None, ...]
    ordered: tuple[bool, ...]


def library_of(table: Any) -> str | None:
    """`pandas`, `polars`, `pyarrow` or `numpy`; None for all else.

    >>> library_of(np.zeros((2, 2))), library_of([[1]])
    ('numpy', None)
    """
    name = type(table).__module__.partition(".")[0]
    return name if name in LIBRARIES else None


def zone_of(kind: str) -> str | None:
    """The time zone that a type of moments names in its library's words.

    >>> zone_of("timestamp[ns, tz=Europe/Berlin]"), zone_of("datetime64[ns, UTC]")
    ('Europe/Berlin', 'UTC')
    >>> zone_of("Datetime(time_unit='us', time_zone='Asia/Tokyo')"), zone_of("datetime64[ns]")
    ('Asia/Tokyo', None)
    """
    found = _ZONE.search(kind) if kind.lower().startswith(("timestamp", "datetime")) else None
    return None if found is None else found[1]


def plain(table: Any) -> Any:
    """A table of pyarrow without text in views, with which it computes nothing; others as is."""
    if library_of(table) != "pyarrow":
        return table
    import pyarrow

    types = pyarrow.types
    fields = []
    for field in table.schema:
        if types.is_string_view(field.type):
            field = field.with_type(pyarrow.large_string())
        elif types.is_binary_view(field.type):
            field = field.with_type(pyarrow.large_binary())
        fields.append(field)
    schema = pyarrow.schema(fields, table.schema.metadata)
    return table if schema.equals(table.schema) else table.cast(schema)


def read(table: Any, source: str) -> Columns:
    """The columns of a data frame.

    Raises:
        UserError: no data frame that narwhals knows, or a lazy one.
    """
    if library_of(table) == "pandas" and getattr(table, "ndim", 0) == 2:
        names = list(table.columns)
        # narwhals refuses names that are no text or come twice; names are checked by the caller
        table = table.set_axis([str(j) for j in range(table.shape[1])], axis=1)
    else:
        names = []
    try:
        frame = nw.from_native(table, eager_only=True)
    except TypeError:
        lazy = hasattr(table, "collect")
        fix = "call .collect() first" if lazy else "pass a data frame, a 2-D array or a dict"
        raise UserError(f"{source}: a {type(table).__name__} is no table; {fix}") from None
    series = [frame[name] for name in frame.columns]
    if not series:
        raise UserError(f"{source}: has no columns; a table needs at least one")
    levels, ordered = zip(*map(_levels, series), strict=True)
    return Columns(
        names=tuple(names or frame.columns),
        columns=tuple(map(_column, series)),
        types=tuple(_type(one) for one in series),
        levels=levels,
        ordered=ordered,
    )


def _type(series: nw.Series[Any]) -> str:
    native = series.to_native()
    text = str(getattr(native, "dtype", getattr(native, "type", "")))
    if len(text) > _LONGEST or text.startswith(("Enum", "dictionary")):
        text = text.split("(")[0].split("<")[0]
    return " ".join(text.split())[:_LONGEST]


def _levels(series: nw.Series[Any]) -> tuple[tuple[Any, ...] | None, bool]:
    """Declared categories, and whether their order has a meaning."""
    native = series.to_native()
    kind = getattr(native, "dtype", None)
    if library_of(native) == "pandas" and kind is not None and hasattr(kind, "categories"):
        return tuple(_plain(value) for value in kind.categories), bool(kind.ordered)
    if library_of(native) == "pyarrow" and str(native.type).startswith("dictionary"):
        kinds = native.unify_dictionaries().chunks
        values = kinds[0].dictionary.to_pylist() if kinds else []
        return tuple(values), bool(native.type.ordered)
    if isinstance(series.dtype, nw.Enum):
        return tuple(series.dtype.categories), False
    return None, False


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _column(series: nw.Series[Any]) -> np.ndarray:
    dtype = series.dtype
    absent = series.is_null().to_numpy().astype(bool)
    if dtype.is_integer():
        return _whole(series, absent)
    if dtype.is_float():
        return np.array(series.to_numpy(), dtype=np.float64 if dtype != nw.Float32 else np.float32)
    if dtype.is_decimal():  # a cast may multiply: 164 hundredths are not the double of 1.64
        found = [math.nan if value is None else float(value) for value in series.to_list()]
        return np.array(found, dtype=np.float64)
    if isinstance(dtype, nw.Date):
        return np.array(series.cast(nw.Datetime("us")).to_numpy()).astype("datetime64[D]")
    if isinstance(dtype, nw.Datetime | nw.Duration):
        return np.array(series.to_numpy())
    if dtype == nw.Boolean and not absent.any():
        return np.array(series.to_numpy(), dtype=bool)
    column = np.empty(len(series), dtype=object)
    column[:] = series.to_list()
    column[absent] = None
    return column


def _whole(series: nw.Series[Any], absent: np.ndarray) -> np.ndarray:
    wide = isinstance(series.dtype, nw.Int128 | nw.UInt128)
    if not absent.any() and not wide:
        return np.array(series.to_numpy())
    found = series.drop_nulls()
    large = len(found) and max(abs(int(found.min())), abs(int(found.max()))) > _EXACT
    if large or wide:
        column = np.empty(len(series), dtype=object)
        column[:] = series.to_list()
        column[absent] = None
        return column
    return np.array(series.cast(nw.Float64).to_numpy(), dtype=np.float64)


def take(table: Any, rows: np.ndarray) -> Any:
    """Rows of a native table by their numbers."""
    if library_of(table) == "pandas":
        return table.iloc[rows]
    if library_of(table) == "pyarrow":
        return table.take(rows)
    return table[rows]


def emptied(table: Any, lost: Mapping[int, np.ndarray]) -> Any:
    """A table of pyarrow without some cells: by place of the column which `(n,)` they are."""
    import pyarrow

    numbers = np.arange(len(table))
    for place, gone in lost.items():
        rows = pyarrow.array(numbers, mask=gone)  # a row that is not known has no cell
        table = table.set_column(place, table.schema.field(place), table.column(place).take(rows))
    return table


def stacked(tables: Sequence[Any], name: str) -> Any:
    """Tables of pyarrow under each other, with their number in a first column of that name."""
    import pyarrow

    number = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    whole = pyarrow.concat_tables(tables).unify_dictionaries()
    return whole.add_column(0, name, pyarrow.array(number))


def make(
    library: str,
    names: tuple[str, ...],
    columns: tuple[np.ndarray, ...],
    types: Sequence[str] = (),
) -> Any:
    """A table of a library from arrays; moments are in the time zone that their type names.

    Columns of pyarrow have the types that are named, where these are its own and hold the values.

    Raises:
        UserError: no such library, or one that is not installed.
    """
    if library not in LIBRARIES:
        raise UserError(f"library={shown(library)}: choose one of {', '.join(LIBRARIES)}")
    if library == "numpy":
        return np.column_stack(columns)
    data = {name: _listed(column) for name, column in zip(names, columns, strict=True)}
    zones = dict(zip(names, map(zone_of, types), strict=False))
    zones = {name: zone for name, zone in zones.items() if zone and _is_moment(data[name])}
    try:
        if library == "pandas":
            import pandas

            table = pandas.DataFrame(data)
            for name, zone in zones.items():
                table[name] = table[name].dt.tz_localize("UTC").dt.tz_convert(zone)
            return table
        if library == "polars":
            import polars

            frame = polars.DataFrame(data)
            return frame.with_columns(
                polars.col(name).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
                for name, zone in zones.items()
            )
        import pyarrow
    except ImportError:
        raise UserError(f"{library} is not installed; pip install 'latently[tables]'") from None
    arrays = {name: pyarrow.array(column) for name, column in data.items()}
    for name, zone in zones.items():
        arrays[name] = arrays[name].cast(pyarrow.timestamp("us", tz=zone))
    for name, words in zip(names, types, strict=False):
        if name not in zones:
            arrays[name] = _typed(arrays[name], words)
    return pyarrow.table(arrays)


def _typed(array: Any, words: str) -> Any:
    """An array of pyarrow in the type that its words name; as it is, where it fits into none."""
    import pyarrow

    if words.startswith("dictionary"):
        return array.dictionary_encode()
    exact = _DECIMAL.fullmatch(words)
    try:
        kind = pyarrow.decimal128(*map(int, exact.groups())) if exact else None
        return array.cast(kind or pyarrow.type_for_alias(words))
    except (ValueError, NotImplementedError):  # no type of pyarrow's, or one that loses something
        return array


def _is_moment(column: Any) -> bool:
    return isinstance(column, np.ndarray) and column.dtype.kind == "M"


def _listed(column: np.ndarray) -> Any:
    return column.tolist() if column.dtype == object else column


def put_back(
    like: Any,
    columns: dict[int, np.ndarray],
    kept: dict[int, np.ndarray],
    n: int,
) -> Any:
    """A table like another one, with columns in place of some of its own.

    Types, names, their order and, for as many rows, the index are those of `like`.

    Args:
        like: the table of a library.
        columns: by place the new cells `(n,)`; a column that is not named keeps its cells, or
            is missing throughout where n is another number of rows.
        kept: by place, where the cells of `like` stand, `(n,)` bool.
        n: rows of the result.
    """
    library = library_of(like)
    if library == "numpy":
        return _put_numpy(like, columns, kept, n)
    if library == "pandas":
        return _put_pandas(like, columns, kept, n)
    if library == "polars":
        return _put_polars(like, columns, kept, n)
    return _put_arrow(like, columns, kept, n)


def _put_numpy(
    like: np.ndarray, columns: dict[int, np.ndarray], kept: dict[int, np.ndarray], n: int
) -> np.ndarray:
    same = len(like) == n
    text = like.dtype.kind in "UO"  # a text may be longer than all there are
    kind = np.dtype(object) if text else like.dtype
    out = like.astype(kind) if same else np.empty((n, like.shape[1]), dtype=kind)
    if not same:
        out[:] = None if text else np.array("nan").astype(kind)
    for j, values in columns.items():
        here = ~kept[j] if j in kept else np.ones(n, dtype=bool)
        out[here, j] = values[here]
    return out.astype(str) if like.dtype.kind == "U" and not _holes(out.ravel()) else out


def _put_pandas(
    like: Any, columns: dict[int, np.ndarray], kept: dict[int, np.ndarray], n: int
) -> Any:
    import pandas

    same = len(like) == n
    index = like.index if same else pandas.RangeIndex(n)
    made = []
    for j in range(like.shape[1]):
        old = like.iloc[:, j]
        if j not in columns:
            made.append(old if same else _pandas_series(np.full(n, None), old.dtype, index))
            continue
        if same and j in kept and kept[j].all():
            made.append(old)
            continue
        new = _pandas_series(columns[j], old.dtype, index)
        if j in kept:
            if new.dtype != old.dtype:  # a category more
                old = old.astype(new.dtype)
            # by place: an index may hold a label twice
            new = (
                new.where(pandas.Series(~kept[j], index=index), old)
                if index.is_unique
                else (
                    pandas.Series(
                        new.reset_index(drop=True)
                        .where(pandas.Series(~kept[j]), old.reset_index(drop=True))
                        .array,
                        index=index,
                    )
                )
            )
        made.append(new)
    table = pandas.concat([one.reset_index(drop=True) for one in made], axis=1)
    table.index = index
    table.columns = like.columns
    return table


def _pandas_series(values: np.ndarray, dtype: Any, index: Any) -> Any:
    import pandas

    if hasattr(dtype, "categories"):
        more = [v for v in dict.fromkeys(values.tolist()) if v is not None]
        extra = [v for v in more if v not in set(dtype.categories)]
        if extra:
            dtype = pandas.CategoricalDtype([*dtype.categories, *extra], dtype.ordered)
    elif getattr(dtype, "tz", None) is not None:
        moments = pandas.Series(pandas.DatetimeIndex(values).tz_localize("UTC"), index=index)
        return moments.astype(dtype)
    elif values.dtype == object and getattr(dtype, "kind", "O") in "iu" and _holes(values):
        dtype = "float64" if isinstance(dtype, np.dtype) else dtype  # int64 has no missing cells
    elif values.dtype == object and dtype == np.dtype(bool) and _holes(values):
        dtype = np.dtype(object)
    return pandas.Series(values, index=index).astype(dtype)


def _holes(values: np.ndarray) -> bool:
    return any(value is None for value in values.tolist())


def _put_polars(
    like: Any, columns: dict[int, np.ndarray], kept: dict[int, np.ndarray], n: int
) -> Any:
    import polars

    made = []
    for j, name in enumerate(like.columns):
        old = like[name]
        if j not in columns:
            made.append(old if len(like) == n else polars.Series(name, [None] * n, old.dtype))
            continue
        if old.dtype == polars.Object:  # polars computes nothing with these
            merged = columns[j].astype(object)
            if j in kept:
                merged[kept[j]] = np.array([*old, None], dtype=object)[:-1][kept[j]]
            made.append(polars.Series(name, merged.tolist(), dtype=polars.Object))
            continue
        new = _polars_series(name, columns[j], old.dtype)
        if j in kept:
            new = new.zip_with(polars.Series(~kept[j]), old.cast(new.dtype))
        made.append(new)
    return polars.DataFrame(made)


def _polars_series(name: str, values: np.ndarray, dtype: Any) -> Any:
    import polars

    if isinstance(dtype, polars.Enum):
        known = dtype.categories.to_list()
        dtype = polars.Enum([*known, *sorted(set(values.tolist()) - {None, *known})])
    if values.dtype == object:
        return polars.Series(name, values.tolist(), dtype=dtype, strict=False)
    new = polars.Series(name, values)
    zone = getattr(dtype, "time_zone", None)
    if zone is not None:
        new = new.cast(polars.Datetime(dtype.time_unit)).dt.replace_time_zone("UTC")
        new = new.dt.convert_time_zone(zone)
    return new.cast(dtype)


def _put_arrow(
    like: Any, columns: dict[int, np.ndarray], kept: dict[int, np.ndarray], n: int
) -> Any:
    import pyarrow
    import pyarrow.compute

    made = []
    for j, field in enumerate(like.schema):
        old = like.column(j).combine_chunks()
        if j not in columns:
            made.append(old if len(like) == n else pyarrow.nulls(n, field.type))
            continue
        values, kind = columns[j], field.type
        inner = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if values.dtype == object:
            new = pyarrow.array(values.tolist(), type=inner)
        else:
            new = pyarrow.array(values)
            zoned = pyarrow.types.is_timestamp(inner) and inner.tz is not None
            new = new.cast(pyarrow.timestamp(inner.unit, "UTC")) if zoned else new
            new = new.cast(inner)
        if j in kept:
            plain = old.cast(inner) if inner != kind else old
            new = pyarrow.compute.if_else(pyarrow.array(kept[j]), plain, new)
        made.append(new.dictionary_encode().cast(kind) if inner != kind else new)
    return pyarrow.Table.from_arrays(made, schema=like.schema)
