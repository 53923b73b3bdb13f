"""Arrays in numpy's files, read as if hostile: no pickle, sizes known before anything is unpacked.

A `.npz` is read from key `x` (labels `y`), or from its only array beside `y`.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import DTypeLike

from latently.errors import UserError

__all__ = ["brief", "check_memory", "guarded", "npz_keys", "read_key", "read_npy", "read_npz"]

T = TypeVar("T")


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read x and labels (None if there are none) of a `.npz`.

    Raises:
        UserError: A file that is missing, damaged, pickled or too large, or whose x is unclear.
    """
    return guarded(path, _npz)


def read_npy(path: Path) -> tuple[np.ndarray, None]:
    """Read x of a `.npy`, which has no labels.

    Raises:
        UserError: A file that is missing, damaged, pickled or too large.
    """
    return guarded(path, _npy)


def npz_keys(path: Path) -> list[str]:
    """The names of the arrays of a `.npz` beside its x.

    Raises:
        UserError: A file that is missing or damaged, or whose x is unclear.
    """

    def keys(path: Path) -> list[str]:
        with zipfile.ZipFile(path) as archive:
            found = [name.removesuffix(".npy") for name in archive.namelist()]
        return [key for key in found if key != _data_key(found, path)]

    return guarded(path, keys)


def read_key(path: Path, key: str) -> np.ndarray:
    """Read one array of a `.npz`.

    Raises:
        UserError: See `read_npz`; no such array.
    """

    def one(path: Path) -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            return _member(archive, archive.getinfo(f"{key}.npy"), path)

    return guarded(path, one)


def guarded(path: Path, read: Callable[[Path], T], kind: str = "") -> T:
    """What `read` makes of a file, whatever it raises turned into one line.

    Raises:
        UserError: A file that is missing, not readable, or damaged.
    """
    if not path.is_file():
        raise UserError(f"no such file: {str(path)!r}; check the path of the data")
    try:
        return read(path)
    except UserError:
        raise
    except PermissionError:
        raise UserError(f"{path.name}: not readable by you; check its permissions") from None
    # a damaged file raises any of a dozen types (zlib, lzma, struct, tokenize, zipfile, numpy)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UserError(
            f"{path.name}: damaged or not a {kind or path.suffix} file ({cause}); copy or save it "
            "again"
        ) from None


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with zipfile.ZipFile(path) as archive:
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
        key = _data_key(list(members), path)
        x = _member(archive, members[key], path)
        y = _member(archive, members["y"], path) if "y" in members and key != "y" else None
    return x, y


def _data_key(keys: list[str], path: Path) -> str:
    if "x" in keys:
        return "x"
    candidates = [k for k in keys if k != "y"] or keys
    if len(candidates) == 1:
        return candidates[0]
    # repr: a name in a file may hold line ends
    shown = ", ".join(repr(k[:40]) for k in keys[:10]) or "no arrays"
    more = ", ..." if len(keys) > 10 else ""
    raise UserError(
        f"{path.name}: holds {shown}{more}, none of them 'x'; "
        "save it with np.savez(file, x=..., y=...)"
    )


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    with archive.open(member) as stream:
        _check_header(stream, member.file_size, f"{path.name}: {member.filename[:40]!r}")
    with archive.open(member) as stream:
        return _read(stream)


def _npy(path: Path) -> tuple[np.ndarray, None]:
    with path.open("rb") as stream:
        _check_header(stream, path.stat().st_size, path.name)
        stream.seek(0)
        return _read(stream), None


def _read(stream: IO[bytes]) -> np.ndarray:
    array: np.ndarray = npy_format.read_array(stream, allow_pickle=False)
    return array


def _check_header(stream: IO[bytes], size: int, where: str) -> None:
    """Refuse an array by what its header declares, before its bytes are read."""
    version = npy_format.read_magic(stream)
    readers: dict[tuple[int, int], Any] = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }
    if version not in readers:  # (3, 0) is for records with Unicode field names
        raise UserError(f"{where}: npy version {version}; save one plain array of numbers")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise UserError(
            f"{where}: holds pickled Python objects, which are never loaded; "
            "save numbers: np.save(file, x.astype(float))"
        )
    cells = math.prod(shape)
    check_memory(cells, dtype, f"{where}: declares shape {brief(shape)},")
    if cells * dtype.itemsize > size - stream.tell():
        raise UserError(
            f"{where}: truncated: shape {brief(shape)} needs {cells * dtype.itemsize} bytes, "
            f"the file has {size - stream.tell()}; copy or save it again"
        )


def check_memory(cells: int, dtype: DTypeLike, what: str) -> None:
    """Refuses what would take more memory than is allowed, before it is unpacked.

    Raises:
        UserError: `what`, with the limit and how to raise it.
    """
    limit = _limit_bytes()
    # a model reads floats: a byte of a file is four in memory
    if cells * max(np.dtype(dtype).itemsize, 4) > limit:
        raise UserError(
            f"{what} over the memory limit of {limit / 2**30:.4g} GiB; set LATENTLY_MEMORY_GIB if "
            "this is meant"
        )


def _limit_bytes() -> int:
    """How much memory an array may take: LATENTLY_MEMORY_GIB, by default 8."""
    text = os.environ.get("LATENTLY_MEMORY_GIB", "8")
    try:
        return int(float(text) * 2**30)
    except (ValueError, OverflowError):
        raise UserError(f"LATENTLY_MEMORY_GIB={text!r} is not a number; set e.g. 8") from None


def brief(shape: tuple[int, ...]) -> str:
    """A shape as text of bounded length."""
    return f"{shape}" if len(f"{shape}") <= 60 else f"{str(shape)[:57]}..."
