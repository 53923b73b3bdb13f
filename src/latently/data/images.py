"""Image sets: the digits inside scikit-learn, MNIST and Fashion-MNIST from a data folder.

Splits and binarisation are part of the protocol:

| | train | validation | test | train+val |
|---|---|---|---|---|
| digits (`p = default_rng(0).permutation(1797)`) | p[:1257] | p[1257:1437] | p[1437:] | p[:1437] |
| mnist, fashion | first 50,000 | last 10,000 | 10,000 | all 60,000 |

The protocols are those of `latently.data.pixels`. MNIST and Fashion-MNIST are read from
`train.npz` and `test.npz` (keys x, y) or from the original idx files, compressed or not.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from latently.data.arrays import read_npz
from latently.data.base import Data
from latently.data.idx import read_idx
from latently.data.originals import check_content, find, integers
from latently.data.pixels import PROTOCOLS, as_data
from latently.data.source import Source

__all__ = ["DIGITS", "FASHION", "MNIST"]

_SIZES = {"train": 60_000, "test": 10_000}
_PARTS = {
    "train": slice(0, 50_000),
    "validation": slice(50_000, 60_000),
    "test": slice(0, 10_000),
    "train+val": slice(0, 60_000),
}
_ORIGINS = {
    "mnist": "http://yann.lecun.com/exdb/mnist",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist",
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
    return as_data(name, protocol, split, grey[:, None], _PARTS[split], labels)


def _read(folder: str, file: str, data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    idx = f"{'t10k' if file == 'test' else 'train'}-images"
    names = [f"{file}.npz", *(f"{idx}{dot}idx3-ubyte{gz}" for dot in "-." for gz in (".gz", ""))]
    hint = (
        f"{folder}/train.npz and {folder}/test.npz, with keys x, y, or with the four files "
        f"{folder}/*-ubyte.gz of {_ORIGINS[folder]}"
    )
    path = find(folder, names, data_dir, hint)
    x, y = read_npz(path) if path.suffix == ".npz" else read_idx(path)
    images = integers(path, "x", x, (_SIZES[file], 28, 28))
    labels = integers(path, "labels y", y, images.shape[:1])
    check_content(path, f"{folder}/{file}", images, labels)
    return images, labels


DIGITS = Source("digits", "1,797 handwritten digits of 8 x 8 pixels, 0..16, built in", _digits)
MNIST = Source(
    "mnist",
    "70,000 handwritten digits of 28 x 28 pixels",
    partial(_pixels, name="mnist", folder="mnist"),
    PROTOCOLS,
)
FASHION = Source(
    "fashion",
    "70,000 pictures of clothes of 28 x 28 pixels",
    partial(_pixels, name="fashion", folder="fashion_mnist"),
    PROTOCOLS,
)
