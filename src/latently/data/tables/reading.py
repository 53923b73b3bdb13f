"""Files of tables.

| suffix | read as |
|---|---|
| `.csv`, `.tsv`, `.txt`, `.dat`, each also `.gz` | text, see `sniffing` |
| `.parquet`, `.feather`, `.arrow` | by pyarrow, types as they are |

Text is UTF-8 with or without a byte order mark, UTF-16 or UTF-32 with one, otherwise Windows-1252,
or where it has bytes that this has not, Latin-1, with a notice.
Every cell stays the text that it is, so that observed cells are written back verbatim; what it
means is the business of `Schema`. Blank lines are skipped, and so are lines of comment (`#`, `%`
or `|`) above the first row. Quotes inside quoted text are doubled. A cell holds at most 131,072
characters.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from latently.data.tables.frame import Frame, as_frame, column_names
from latently.data.tables.sniffing import Layout, sniff
from latently.data.tables.words import plural
from latently.errors import UserError

__all__ = ["SUFFIXES", "TEXT", "read_frame", "suffix_of"]

TEXT = (".csv", ".tsv", ".txt", ".dat")
COLUMNAR = (".parquet", ".feather", ".arrow")
SUFFIXES = (*TEXT, *(f"{suffix}.gz" for suffix in TEXT), *COLUMNAR)
_HEAD = 2**18  # characters that are looked at to see how a file is written
_BLOCK = 65_536  # rows
_OLDER = {"cp1252": "Windows-1252", "latin-1": "Latin-1"}  # encodings of text that is not UTF-8


def read_frame(path: str | Path, *, header: bool | None = None) -> Frame:
    """The table in a file.

    Args:
        path: of a suffix of the table above, or another one of text.
        header: whether the first line of text holds names; None looks.

    Raises:
        UserError: no such file, one that is no table, rows of unlike lengths (by line), a name
            twice, or pyarrow is needed and not installed.
    """
    path = Path(path)
    if suffix_of(path) in COLUMNAR:
        return _read_columnar(path)
    for encoding in _encodings(path):
        try:
            return _read_text(path, encoding, header)
        except UnicodeDecodeError:
            continue
    raise UserError(f"{path.name}: text in an unknown encoding; save it as UTF-8")


def suffix_of(path: str | Path) -> str:
    """The suffix that says what a file holds, `.gz` included, in lower case.

    >>> suffix_of("Adult.CSV.gz"), suffix_of("a.parquet")
    ('.csv.gz', '.parquet')
    """
    path = Path(path)
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path.name}: a damaged gzip file; fetch it again") from None
    except OSError as error:
        raise UserError(f"{path.name}: {error.strerror or error}; see the path") from None


def _opener(path: Path) -> Any:
    return gzip.open if path.suffix.lower() == ".gz" else open


def _encodings(path: Path) -> tuple[str, ...]:
    with _clear_errors(path), _opener(path)(path, "rb") as file:
        head = file.read(4096)
    if head[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return ("utf-32",)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ("utf-16",)
    if b"\0" in head:
        raise UserError(
            f"{path.name}: a binary file, not a table of text (UTF-16 without its mark is "
            f"none either; save it as UTF-8); known: {_known()}"
        )
    return ("utf-8-sig", *_OLDER)


def _known() -> str:
    return ", ".join(SUFFIXES)


def _read_text(path: Path, encoding: str, header: bool | None) -> Frame:
    with _clear_errors(path), _opener(path)(path, "rt", encoding=encoding, newline="") as file:
        head = file.read(_HEAD)
        layout = sniff(head, complete=len(head) < _HEAD, suffix=suffix_of(path), header=header)
        file.seek(0)
        names, columns = _parse(path.name, file, layout)
    notices = [f"{path.name}: not UTF-8; read as {_OLDER[encoding]}"] if encoding in _OLDER else []
    if layout.skip:
        notices.append(f"{path.name}: {plural(layout.skip, 'line')} of comment skipped")
    if not layout.header and header is None:
        notices.append(f"{path.name}: no names in the first line; columns are called by place")
    return Frame(
        names=names,
        columns=columns,
        source=path.name,
        types=("text",) * len(names),
        notices=tuple(notices),
    )


def _parse(name: str, file: Any, layout: Layout) -> tuple[tuple[str, ...], tuple[np.ndarray, ...]]:
    lines = _lines(name, itertools.islice(file, layout.skip, None), layout)
    reader = csv.reader(lines, delimiter=layout.delimiter, skipinitialspace=True, strict=True)
    try:
        given = next(filter(None, reader), None) if layout.header else None
        blocks, width = [], len(given or ())
        for rows, ends in _blocks(reader):
            width = width or len(rows[0])
            _check_widths(name, rows, ends, width, layout.skip)
            blocks.append([_column(cells) for cells in zip(*rows, strict=True)])
    except csv.Error as error:
        raise UserError(
            f"{name}, line {layout.skip + reader.line_num}: {error}; see whether a quote is left "
            "open there"
        ) from None
    if not blocks:
        what = "a line of names and no rows" if given else "no rows"
        raise UserError(f"{name}: has {what}; a table needs at least one row")
    columns = tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return column_names(given or [""] * width, name), columns


def _lines(name: str, lines: Iterable[str], layout: Layout) -> Iterator[str]:
    for number, line in enumerate(lines, layout.skip + 1):
        if "\0" in line:
            raise UserError(f"{name}, line {number}: a NUL byte; this is no table of text")
        yield line.strip(" \t\r\n") if layout.delimiter == " " else line


def _blocks(reader: Any) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Rows that are not blank, and the lines they end on, a block at a time."""
    rows: list[list[str]] = []
    ends: list[int] = []
    for row in reader:
        if row:
            rows.append(row)
            ends.append(reader.line_num)
        if len(rows) == _BLOCK:
            yield rows, ends
            rows, ends = [], []
    if rows:
        yield rows, ends


def _check_widths(
    name: str, rows: list[list[str]], ends: list[int], width: int, skipped: int
) -> None:
    if set(map(len, rows)) == {width}:
        return
    row, end = next((r, e) for r, e in zip(rows, ends, strict=True) if len(r) != width)
    raise UserError(
        f"{name}, line {skipped + end}: {plural(len(row), 'cell')} where the first row has "
        f"{width}; quote text that holds the delimiter, or see whether a quote is open above"
    )


def _column(cells: tuple[str, ...]) -> np.ndarray:
    column = np.empty(len(cells), dtype=object)
    column[:] = cells
    return column


def _read_columnar(path: Path) -> Frame:
    try:
        import pyarrow
        from pyarrow import feather, parquet
    except ImportError:
        raise UserError(f"{path.name}: needs pyarrow; pip install 'latently[tables]'") from None
    with _clear_errors(path), path.open("rb"):
        pass
    read = parquet.read_table if suffix_of(path) == ".parquet" else feather.read_table
    try:
        table = read(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path.name}: pyarrow cannot read it: {reason}") from None
    return as_frame(table, source=path.name)
