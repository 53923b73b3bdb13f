"""OMNIGLOT: 32,460 drawings of 1,623 characters by 20 drawers each, at 28 x 28 pixels.

| split | rows | images |
|---|---|---|
| train | drawers 0..13 | 22,722 |
| validation | drawer 14 | 1,623 |
| test | drawers 15..19 | 8,115 |
| train+val | drawers 0..14 | 24,345 |

Every character is in every split, drawn by other hands. The protocols are those of
`latently.data.pixels`; labels are alphabets, and "character", "drawer" and "alphabet" can be a
context. The images are the original drawings of 105 x 105 pixels, reduced by area average. They
are *not* the `chardata.mat` of the IWAE paper and its successors, whose reduction and split
(24,345 and 8,070 images) differ: numbers do not compare with published ones to the nat.
Source: Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program
induction", 2015, https://github.com/brendenlake/omniglot.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latently.data.arrays import read_key, read_npz
from latently.data.base import Data
from latently.data.originals import check_content, find, integers
from latently.data.pixels import PROTOCOLS, as_data
from latently.data.source import Source

__all__ = ["OMNIGLOT"]

_N = 32_460
_COLUMNS = {"character": "u2", "drawer": "u1", "alphabet": "u1"}
_HINT = (
    "omniglot/omniglot28.npz: keys x (32460, 28, 28), ink 255, and character, drawer, alphabet; "
    "the drawings of https://github.com/brendenlake/omniglot reduced by area average"
)


def _read(data_dir: Path | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    path = find("omniglot", ["omniglot28.npz"], data_dir, _HINT)
    grey = integers(path, "x", read_npz(path)[0], (_N, 28, 28))
    columns = {
        name: integers(path, name, read_key(path, name), (_N,), dtype)
        for name, dtype in _COLUMNS.items()
    }
    check_content(path, "omniglot/omniglot28", grey, *columns.values())
    return grey, columns


def _part(drawer: np.ndarray, split: str) -> np.ndarray:
    return {
        "train": drawer < 14,
        "validation": drawer == 14,
        "test": drawer >= 15,
        "train+val": drawer < 15,
    }[split]


def _load(protocol: str, split: str, data_dir: Path | None) -> Data:
    grey, columns = _read(data_dir)
    rows = _part(columns["drawer"], split)
    return as_data("omniglot", protocol, split, grey[:, None], rows, columns["alphabet"])


def _columns(split: str, data_dir: Path | None) -> dict[str, np.ndarray]:
    _, columns = _read(data_dir)
    rows = _part(columns["drawer"], split)
    return {name: values[rows] for name, values in columns.items()}


OMNIGLOT = Source(
    "omniglot",
    "32,460 handwritten characters of 50 alphabets, 28 x 28 pixels",
    _load,
    PROTOCOLS,
    _columns,
)
