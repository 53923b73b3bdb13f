"""Image sets: the digits inside scikit-learn, MNIST and Fashion-MNIST from a data folder.

Splits and binarisation are part of the protocol:

| | train | validation | test | train+val |
|---|---|---|---|---|
| digits (`p = default_rng(0).permutation(1797)`) | p[:1257] | p[1257:1437] | p[1437:] | p[:1437] |
| mnist, fashion | first 50,000 | last 10,000 | 10,000 | all 60,000 |

`binary-dynamic`: train and train+val keep grey values x / 255 and are redrawn at every use in
training; validation and test are binarised once, each on its own array as
`default_rng(0).random(x.shape) < x / 255`. `binary-static-seed0`: the same formula once on the
60,000 images, *then* sliced into train and validation, and once on the test images. `8bit`: the
integers 0..255.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch

from latently.data.arrays import read_npz
from latently.data.base import Binarise, Data
from latently.data.check import check_labels, family_for
from latently.data.source import Source
from latently.errors import UserError

__all__ = ["DIGITS", "FASHION", "MNIST"]

_SIZES = {"train": 60_000, "test": 10_000}
_PARTS = {
    "train": slice(0, 50_000),
    "validation": slice(50_000, 60_000),
    "test": slice(0, 10_000),
    "train+val": slice(0, 60_000),
}
_PIXELS = {
    "binary-dynamic": "binary, training images redrawn at every use, held-out ones drawn once",
    "binary-static-seed0": "binary, every image drawn once with seed 0",
    "8bit": "integers 0..255",
}


def _digits(protocol: str, split: str, data_dir: Path | None) -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    parts = {
        "train": order[:1257],
        "validation": order[1257:1437],
        "test": order[1437:],
        "train+val": order[:1437],
    }
    rows = parts[split]
    x = bunch.images[rows].astype(np.float32)[:, None]
    return Data.from_array(x, levels=17, protocol=f"digits/{split}", labels=bunch.target[rows])


def _pixels(protocol: str, split: str, data_dir: Path | None, *, name: str, folder: str) -> Data:
    grey, labels = _read(folder, "test" if split == "test" else "train", data_dir)
    part, redraw = _PARTS[split], None
    if protocol == "8bit":
        x = grey[part]
    elif protocol == "binary-static-seed0":
        x = _binarised(grey)[part]
    elif split in ("train", "train+val"):
        x, redraw = grey[part].astype(np.float32) / 255, Binarise()
    else:
        x = _binarised(grey[part])
    levels = 256 if protocol == "8bit" else 2
    return Data(
        x=torch.from_numpy(x.astype(np.float32)[:, None]),
        family=family_for(levels),
        protocol=f"{name}:{protocol}/{split}",
        labels=check_labels(labels[part], len(x)),
        levels=levels,
        redraw=redraw,
    )


def _binarised(grey: np.ndarray) -> np.ndarray:
    # in chunks, or the random numbers take eight bytes a pixel; the stream is the same
    rng = np.random.default_rng(0)
    chunks = np.array_split(grey, max(1, len(grey) // 5000))
    return np.concatenate([rng.random(c.shape) < c / 255 for c in chunks])


def _read(folder: str, file: str, data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    root = data_dir or os.environ.get("LATENTLY_DATA")
    path = Path(root or "").expanduser() / folder / f"{file}.npz"
    if not root or not path.is_file():
        raise UserError(
            f"the images of {folder} are not at hand ({f'no {path}' if root else 'no folder set'})"
            f"; set LATENTLY_DATA or --data-dir to a folder with {folder}/train.npz and "
            f"{folder}/test.npz, with keys x, y"
        )
    x, y = read_npz(path)
    expected = (_SIZES[file], 28, 28)
    if x.dtype != np.uint8 or x.shape != expected:
        raise UserError(
            f"{path}: x is {x.dtype} of shape {x.shape}, not uint8 of shape {expected}; "
            "the protocol's numbers need the original images"
        )
    if y is None or y.shape != expected[:1] or y.dtype.kind not in "iu":
        found = "missing" if y is None else f"{y.dtype} of shape {y.shape}"
        raise UserError(f"{path}: labels y are {found}, not integers of shape {expected[:1]}")
    return x, y


DIGITS = Source("digits", "1,797 handwritten digits of 8 x 8 pixels, 0..16, built in", _digits)
MNIST = Source(
    "mnist",
    "70,000 handwritten digits of 28 x 28 pixels",
    partial(_pixels, name="mnist", folder="mnist"),
    _PIXELS,
)
FASHION = Source(
    "fashion",
    "70,000 pictures of clothes of 28 x 28 pixels",
    partial(_pixels, name="fashion", folder="fashion_mnist"),
    _PIXELS,
)
