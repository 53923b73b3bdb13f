"""Tables to files of the suffixes that `read_frame` reads.

Text is UTF-8, with names in the first line and an empty cell where nothing is known; cells of
`.csv` are separated by commas, those of `.tsv`, `.txt` and `.dat` by tabs. Numbers are the
shortest text that is read as the same number, moments of a column with a time zone in UTC with
`Z`, time spans seconds. An index of pandas is no column and is not written.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latently.data.tables.cells import is_null
from latently.data.tables.frame import Frame
from latently.data.tables.native import zone_of
from latently.data.tables.numbers import number_text
from latently.data.tables.reading import SUFFIXES, TEXT, suffix_of
from latently.data.tables.sniffing import COMMENTS
from latently.errors import UserError

__all__ = ["write_frame"]

_BLOCK = 65_536  # rows


def write_frame(path: str | Path, frame: Frame, *, suffix: str | None = None) -> None:
    """Writes a table to a file, which is not there or is replaced.

    Args:
        path: of a suffix that `read_frame` knows, or any with `suffix` given.
        frame: the table.
        suffix: what to write, where `path` is a temporary one that does not say so.

    Raises:
        UserError: an unknown suffix, a full disk, or pyarrow is needed and not installed.
        OSError: a temporary file that cannot be written.
    """
    path = Path(path)
    kind = suffix_of(path) if suffix is None else suffix_of(f"table{suffix}")
    if kind not in SUFFIXES:
        raise UserError(f"{path.name}: cannot write a table to it; known: {', '.join(SUFFIXES)}")
    try:
        if kind.startswith(TEXT):
            _write_text(path, frame, kind)
        else:
            _write_columnar(path, frame, kind)
    except OSError as error:
        if suffix is not None:  # whoever made the temporary name knows the one to tell
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _write_text(path: Path, frame: Frame, kind: str) -> None:
    with path.open("wb") as raw:
        if kind.endswith(".gz"):
            # no time and name of the file inside: equal tables give equal bytes
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                _write_rows(packed, frame, kind)
        else:
            _write_rows(raw, frame, kind)


def _write_rows(raw: Any, frame: Frame, kind: str) -> None:
    delimiter = "," if kind.startswith(".csv") else "\t"
    text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
    lines = _Lines(text)
    writer = csv.writer(lines, delimiter=delimiter, lineterminator=_Lines.end)
    names = writer
    if frame.names[0].startswith(COMMENTS):  # in quotes it is no line of comment
        names = csv.writer(
            lines, delimiter=delimiter, lineterminator=_Lines.end, quoting=csv.QUOTE_ALL
        )
    names.writerow(frame.names)
    columns = [
        _moments(column, zone_of(kind) is not None) if column.dtype.kind == "M" else column
        for column, kind in zip(frame.columns, frame.types, strict=True)
    ]
    for start in range(0, len(frame), _BLOCK):
        block = (_texts(column[start : start + _BLOCK]) for column in columns)
        writer.writerows(zip(*block, strict=True))
    text.detach()  # flushes; the file below is closed by whoever opened it


class _Lines:
    """Lines of text that end in a line feed.

    The writer quotes the signs that end its lines: a lone carriage return in a cell is read as
    the end of a line, too.
    """

    end = "\r\n"

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def write(self, line: str) -> int:
        """One line, or part of one."""
        return self._text.write(line.removesuffix(self.end) + "\n")


def _moments(column: np.ndarray, zoned: bool) -> np.ndarray:
    """Moments as texts, without a time zone of the days alone where no moment has an hour."""
    known = ~np.isnat(column)
    for unit in ("s", "ms", "us", "ns") if zoned else ("D", "s", "ms", "us", "ns"):
        rough = column.astype(f"datetime64[{unit}]")
        if rough.dtype == column.dtype or bool((rough[known] == column[known]).all()):
            break
    texts = np.datetime_as_string(rough, timezone="UTC" if zoned else "naive")
    found: np.ndarray = np.where(known, texts, "")
    return found


def _texts(column: np.ndarray) -> Iterator[str]:
    if column.dtype.kind == "m":
        spans = column.astype("timedelta64[us]")
        seconds = np.where(np.isnat(spans), np.nan, spans.astype(np.int64) / 1e6)
        return ("" if value != value else number_text(value) for value in seconds.tolist())
    if column.dtype.kind == "f":  # a float32 of 68.6 is not the double of these digits
        doubles = column.astype(str).astype(np.float64) if column.itemsize < 8 else column
        return map(_text, doubles.tolist())
    return map(_text, column.tolist())


def _text(value: Any) -> str:
    if is_null(value):
        return ""
    finite = isinstance(value, float) and math.isfinite(value)
    return number_text(value) if finite else str(value)


def _write_columnar(path: Path, frame: Frame, kind: str) -> None:
    table = frame.to("pyarrow") if frame.library != "pandas" else _from_pandas(frame)
    from pyarrow import feather, parquet

    if kind == ".parquet":
        parquet.write_table(table, path)
    else:
        feather.write_feather(table, str(path), compression="uncompressed")


def _from_pandas(frame: Frame) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UserError("pyarrow is not installed; pip install 'latently[tables]'") from None
    return pyarrow.Table.from_pandas(frame.native, preserve_index=False)
