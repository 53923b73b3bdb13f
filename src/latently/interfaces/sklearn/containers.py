"""What holds rows: arrays of numbers or objects, and tables of pandas, polars and pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np

from latently.data.tables import Frame, as_frame

__all__ = ["as_table", "beside", "converted", "library_of", "named", "select"]


def as_table(X: Any) -> Any:
    """X where it is a table, lists with text in them as an array of objects; None: numbers.

    Text and numbers side by side are a table of columns, numbers alone are an array for
    scikit-learn to check, whatever their type.
    """
    if library_of(X) is not None or hasattr(X, "collect"):  # a lazy one
        return X
    if isinstance(X, list | tuple) and any(
        isinstance(value, str) for row in X if isinstance(row, list | tuple) for value in row
    ):
        X = np.array(X, dtype=object)
    if isinstance(X, np.ma.MaskedArray):  # `as_frame` refuses it; its mask would be lost
        return X
    if isinstance(X, np.ndarray) and X.ndim == 2:
        if X.dtype.kind in "UMm":
            return X.astype(object) if X.dtype.kind == "U" else X
        if X.dtype.kind == "O" and any(isinstance(value, str) for value in X.flat):
            return X
    return None


def library_of(X: Any) -> str | None:
    """The library of a data frame, as `Frame` names it; None: it is none."""
    if not nw.dependencies.is_into_dataframe(X):
        return None
    return type(X).__module__.partition(".")[0]


def named(X: Any, names: Sequence[str] | None) -> Frame:
    """X as a frame whose columns are called as in the fit, x0, x1, ... without one.

    Raises:
        UserError: what `as_frame` refuses.
    """
    frame = as_frame(X, source="X")
    if names is None and frame.library == "numpy":
        names = [f"x{j}" for j in range(len(frame.columns))]
    if names is None or tuple(names) == frame.names:
        return frame
    return replace(frame, names=tuple(names))


def select(table: Any, places: Sequence[int]) -> Any:
    """Some of its columns."""
    library = library_of(table)
    if library == "pandas":
        return table.iloc[:, list(places)]
    if library in ("polars", "pyarrow"):
        names = list(table.columns if library == "polars" else table.column_names)
        return table.select([names[j] for j in places])
    return table[:, list(places)]


def beside(table: Any, added: Mapping[str, np.ndarray]) -> Any:
    """A table with further columns."""
    library = library_of(table)
    if library == "pandas":
        import pandas

        return pandas.concat([table, pandas.DataFrame(added, index=table.index)], axis=1)
    if library == "polars":
        import polars

        return table.with_columns([polars.Series(name, x) for name, x in added.items()])
    if library == "pyarrow":
        import pyarrow

        for name, x in added.items():
            table = table.append_column(name, pyarrow.array(x))
        return table
    return np.column_stack([table, *(x.astype(table.dtype) for x in added.values())])


def converted(table: Any, library: str) -> Any:
    """The same columns as a table of another library.

    Raises:
        UserError: the library is not installed.
    """
    return as_frame(table).to(library)
