"""CIFAR-10: colour pictures of 32 x 32 pixels in ten classes, (3, 32, 32), integers 0..255.

| protocol | train | validation | test | train+val |
|---|---|---|---|---|
| `8bit`, the set itself | first 45,000 | last 5,000 | 10,000 | 50,000 |
| `subset-8bit`, a part of it | first 9,000 | last 1,000 | 2,000 | 10,000 |

`8bit` reads the official binary archive or its extracted `.bin` files, never the pickled one; an
archive is checked by its SHA-256, extracted files by the labels' counts and by the published mean
and deviation of each channel. `subset-8bit` reads `train.npz` and `test.npz` of 10,000 and 2,000
images drawn at random: models overfit sooner on it, and its numbers compare with no published one.
Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import numpy as np

from latently.data.arrays import guarded, read_npz
from latently.data.base import Data
from latently.data.originals import check_content, find, integers
from latently.data.pixels import as_data
from latently.data.source import Source
from latently.errors import UserError

__all__ = ["CIFAR10"]

_ARCHIVE = "cifar-10-binary.tar.gz"
_SHA = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_ROW, _PER_FILE = 1 + 3 * 32 * 32, 10_000
_MEAN = {"train": (125.307, 122.950, 113.865)}
_DEVIATION = {"train": (62.993, 62.089, 66.705)}
_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_HINT = f"cifar10/{_ARCHIVE} of https://www.cs.toronto.edu/~kriz/{_ARCHIVE}, or its .bin files"
_SUBSET_HINT = (
    "cifar10/train.npz and cifar10/test.npz, keys x (n, 32, 32, 3) and y, the subset of 12,000 "
    "images; the whole set is cifar10:8bit"
)


def _load(protocol: str, split: str, data_dir: Path | None) -> Data:
    file = "test" if split == "test" else "train"
    read = _official if protocol == "8bit" else _subset
    x, y = read(file, data_dir)
    held = len(x) // 10
    part = {
        "train": slice(0, len(x) - held),
        "validation": slice(len(x) - held, None),
        "test": slice(None),
        "train+val": slice(None),
    }
    return as_data("cifar10", protocol, split, x, part[split], y)


def _subset(file: str, data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    path = find("cifar10", [f"{file}.npz"], data_dir, _SUBSET_HINT)
    x, y = read_npz(path)
    n = 10_000 if file == "train" else 2_000
    images = integers(path, "x", x, (n, 32, 32, 3))
    labels = integers(path, "labels y", y, (n,))
    check_content(path, f"cifar10/{file}", images, labels)
    return images.transpose(0, 3, 1, 2), labels


def _official(file: str, data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    first = _FILES[file][0]
    names = [_ARCHIVE, first, f"cifar-10-batches-bin/{first}"]
    path = find("cifar10", names, data_dir, _HINT + _pickled(data_dir))
    if path.name == _ARCHIVE:
        content = guarded(path, lambda path: _unpacked(path, file), "tar.gz")
    else:
        parts = [path.with_name(name) for name in _FILES[file]]
        content = b"".join(guarded(part, _content) for part in parts)
    rows = np.frombuffer(content, np.uint8).reshape(-1, _ROW)
    x, y = rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]
    if path.name != _ARCHIVE:
        _check_moments(path, file, x, y)
    return x, y


def _pickled(data_dir: Path | None) -> str:
    """A word on the pickled archive, if that is what lies there."""
    place = Path(data_dir or os.environ.get("LATENTLY_DATA") or "") / "cifar10"
    found = [n for n in ("cifar-10-python.tar.gz", "cifar-10-batches-py") if (place / n).exists()]
    return f" ({found[0]} holds pickles, which are never loaded)" if found else ""


def _unpacked(path: Path, file: str) -> bytes:
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != _SHA:
            raise UserError(
                f"{path}: not the official archive (its SHA-256 differs); get it again"
            )
    with tarfile.open(path, "r:gz") as archive:
        members = {Path(m.name).name: m for m in archive.getmembers() if m.isfile()}
        streams = [archive.extractfile(members[name]) for name in _FILES[file]]
        return b"".join(stream.read(_ROW * _PER_FILE) for stream in streams if stream)


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    if size != _ROW * _PER_FILE:
        raise UserError(
            f"{path}: {size:,} bytes, not {_ROW * _PER_FILE:,}; extract it again from {_ARCHIVE}"
        )
    return path.read_bytes()


def _check_moments(path: Path, file: str, x: np.ndarray, y: np.ndarray) -> None:
    right = np.bincount(y, minlength=10).tolist() == [len(y) // 10] * 10
    if right and file in _MEAN:
        channels = x.transpose(1, 0, 2, 3).reshape(3, -1)
        found = [*channels.mean(1), *channels.std(1)]
        right = np.allclose(found, [*_MEAN[file], *_DEVIATION[file]], rtol=0, atol=1e-3)
    if not right:
        raise UserError(
            f"{path}: these are not the original images of cifar10 (counts, means or deviations "
            f"differ); extract them again from {_ARCHIVE}"
        )


CIFAR10 = Source(
    "cifar10",
    "60,000 colour pictures of 32 x 32 pixels in ten classes",
    _load,
    {
        "8bit": "integers 0..255, of the official binary archive",
        "subset-8bit": "integers 0..255, 10,000 and 2,000 of the images only",
    },
)
