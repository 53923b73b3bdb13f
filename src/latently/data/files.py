"""Files and folders by path: which reader takes one, and what it holds beside x.

| path | read as |
|---|---|
| `.npz`, `.npy` | arrays of numpy |
| `.idx`, `...-idx3-ubyte`, each also `.gz`, or a file that begins like one | idx |
| a folder | pictures, see `latently.data.folders` |
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latently.data.arrays import npz_keys, read_key, read_npy, read_npz
from latently.data.folders import read_folder
from latently.data.idx import is_idx, read_idx
from latently.errors import UserError, closest

__all__ = ["KINDS", "Raw", "column", "conversion", "is_data", "read"]

KINDS = ".npz, .npy, .idx, .idx.gz"
_READERS = {".npz": read_npz, ".npy": read_npy}
_TABLES = (".csv", ".tsv", ".txt", ".dat")
_LINE = 2**16  # bytes of a table that are read to see how it is written


class Raw(NamedTuple):
    """What a path holds: rows, labels, levels where the format tells them, class names."""

    x: np.ndarray
    y: np.ndarray | None = None
    levels: int | None = None
    classes: tuple[str, ...] = ()


def is_data(path: Path) -> bool:
    """Whether a path is read, be it by its name or by what is there.

    A suffix decides before anything else, so that a missing file is called a missing file.
    """
    return path.suffix.lower() in _READERS or is_idx(path) or path.is_dir()


def read(path: Path, classes: Sequence[str] = ()) -> Raw:
    """Read a file, or a folder of pictures with the class names of a fitted model.

    Raises:
        UserError: A path that is missing, or whose content its reader refuses.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is not None:
        return Raw(*reader(path))
    if path.is_dir():
        folder = read_folder(path, classes)
        return Raw(folder.x, folder.y, folder.levels, folder.classes)
    return Raw(*read_idx(path))


def conversion(path: Path) -> str | None:
    """What makes an array of a table of text, as one line of Python; None: the path is no table.

    Empty cells become NaN, and words among the numbers are refused.
    """
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if name.suffix.lower() not in _TABLES or not path.is_file():
        return None
    opened = gzip.open if name != path else open
    try:
        with opened(path, "rb") as file:
            line = file.readline(_LINE).decode("utf-8-sig", "replace")
    except (OSError, EOFError, zlib.error):
        line = ""
    delimiter = max(",;\t", key=line.count)
    cells = line.split(delimiter) if delimiter in line else line.split()
    options = f", delimiter={delimiter!r}" if delimiter in line else ""
    options += "" if all(map(_is_number, cells)) else ", skip_header=1"
    read = f"np.genfromtxt({str(path)!r}{options}, loose=False, ndmin=2)"
    return f"import numpy as np; np.save({str(name.with_suffix('.npy'))!r}, {read})"


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip() or "nan")
    except ValueError:
        return False
    return True


def column(path: Path, raw: Raw, name: str) -> np.ndarray:
    """The values of a context, one row per row of x: "label", or an array of a `.npz`.

    Raises:
        UserError: No array of that name.
    """
    if name == "label" and raw.y is not None:
        return raw.y
    keys = npz_keys(path) if path.suffix.lower() == ".npz" else []
    if name in keys:
        return read_key(path, name)
    there = [*(["label"] if raw.y is not None else []), *(key for key in keys if key != "y")]
    raise UserError(no_column(path.name, name, there))


def no_column(where: str, name: str, there: Sequence[str]) -> str:
    """The message for a context that is not there."""
    hint = closest(name, [repr(key[:40])[1:-1] for key in there[:20]])
    return f"{where}: no context {name[:40]!r}; {hint if there else 'there is none at all'}"
