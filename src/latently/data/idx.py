"""The idx format of the original MNIST files, as is or compressed by gzip.

Two zero bytes, a byte for the type, a byte for the number of axes, one big-endian 32-bit size per
axis, then the values. Labels are found beside images: `train-images-idx3-ubyte.gz` has
`train-labels-idx1-ubyte` or `train-labels-idx1-ubyte.gz`.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path
from typing import IO

import numpy as np

from latently.data.arrays import brief, check_memory, guarded
from latently.errors import UserError

__all__ = ["is_idx", "labels_beside", "read_idx", "read_idx_array"]

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r".*(\.idx|[-.]idx\d-[a-z]+)(\.gz)?", re.IGNORECASE | re.DOTALL)
_GZIP = b"\x1f\x8b"


def read_idx(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read x of an idx file, and the labels beside it (None if there are none).

    Raises:
        UserError: A file that is missing, damaged, too large, or longer than it declares.
    """
    x, beside = read_idx_array(path), labels_beside(path)
    return x, None if beside is None else read_idx_array(beside)


def read_idx_array(path: Path) -> np.ndarray:
    """Read the one array of an idx file.

    Raises:
        UserError: See `read_idx`.
    """
    return guarded(path, _read, "idx")


def is_idx(path: Path) -> bool:
    """Whether a file is idx by its name, or by its first bytes.

    >>> is_idx(Path("train-images-idx3-ubyte.gz")), is_idx(Path("photo.png"))
    (True, False)
    """
    if _NAME.fullmatch(path.name):
        return True
    if not path.is_file():  # a pipe would wait for a writer
        return False
    try:
        with _opened(path) as stream:
            start = stream.read(4)
    except (OSError, EOFError):  # no file, not readable, or other gzip
        return False
    return len(start) == 4 and start[:2] == b"\0\0" and start[2] in _TYPES and start[3] > 0


def labels_beside(path: Path) -> Path | None:
    """The file of labels that belongs to a file of images, if there is one."""
    name = re.sub(r"idx\d", "idx1", path.name.replace("images", "labels"))
    bare = name.removesuffix(".gz")
    found = (path.with_name(n) for n in (name, bare, f"{bare}.gz"))
    return next((p for p in found if "images" in path.name and p.is_file()), None)


def _opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    with path.open("rb") as stream:
        compressed = stream.read(2) == _GZIP
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _read(path: Path) -> np.ndarray:
    with _opened(path) as stream:
        dtype, shape = _header(stream, path)
        size = math.prod(shape) * dtype.itemsize
        content = stream.read(size + 1)  # no more, however much would unpack
    if len(content) != size:
        found = "more" if len(content) > size else str(len(content))
        raise UserError(
            f"{path.name}: declares shape {brief(shape)}, {size} bytes, and has {found}; "
            "copy or save it again"
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _header(stream: IO[bytes] | gzip.GzipFile, path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    zeros, kind, axes = struct.unpack(">HBB", stream.read(4))
    if zeros or kind not in _TYPES or not axes:
        raise UserError(f"{path.name}: not an idx file (its first bytes are others)")
    shape = struct.unpack(f">{axes}I", stream.read(4 * axes))
    dtype = np.dtype(_TYPES[kind])
    check_memory(math.prod(shape), dtype, f"{path.name}: declares shape {brief(shape)},")
    return dtype, shape
