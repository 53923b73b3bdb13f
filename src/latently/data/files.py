"""Files and folders by path: which reader takes one, and what it holds beside x.

| path | read as |
|---|---|
| `.npz`, `.npy` | arrays of numpy |
| `.idx`, `...-idx3-ubyte`, each also `.gz`, or a file that begins like one | idx |
| a folder | pictures, see `latently.data.folders` |
| `.csv`, `.tsv`, `.parquet`, ... | tables, see `latently.data.tables` |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latently.data.arrays import guarded, npz_keys, read_key, read_npy, read_npz
from latently.data.folders import read_folder
from latently.data.idx import is_idx, read_idx
from latently.data.tables import SUFFIXES, Frame, read_frame
from latently.data.tables.reading import suffix_of
from latently.errors import UserError, closest

__all__ = ["KINDS", "Raw", "column", "is_data", "read"]

KINDS = ".csv, .tsv, .parquet, .npz, .npy, .idx, .idx.gz"
_READERS = {".npz": read_npz, ".npy": read_npy}


class Raw(NamedTuple):
    """What a path holds: rows, labels, levels where the format tells them, class names.

    A table has its `frame` in place of x.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    levels: int | None = None
    classes: tuple[str, ...] = ()
    frame: Frame | None = None


def is_data(path: Path) -> bool:
    """Whether a path is read, be it by its name or by what is there.

    A suffix decides before anything else, so that a missing file is called a missing file.
    """
    return path.suffix.lower() in _READERS or is_idx(path) or _is_table(path) or path.is_dir()


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
    if _is_table(path):
        return Raw(np.empty((0, 0)), frame=guarded(path, read_frame, "table"))
    return Raw(*read_idx(path))


def _is_table(path: Path) -> bool:
    return suffix_of(path) in SUFFIXES


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
