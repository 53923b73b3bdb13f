"""Frey faces: 1,965 frames of a film of one face, 28 x 20 pixels, integers 0..255.

Neighbouring frames are alike, so that frames drawn at random leave near copies of themselves in
training. The split is by blocks of 50 consecutive frames, the last of 15: with
`p = default_rng(0).permutation(40)`, blocks p[:4] are for testing, p[4:8] for validation, and the
others, 1,565 frames, for training. (The training frame nearest to a test frame is a third further
off than under a random split.) Published numbers are of random splits and do not compare.
Source: Roweis, Saul, Hinton, "Global coordination of local linear models", 2001.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latently.data.arrays import read_npz
from latently.data.base import Data
from latently.data.originals import check_content, find, integers
from latently.data.pixels import as_data
from latently.data.source import Source

__all__ = ["FREY"]

_N = 1_965
_BLOCK = 50
_HINT = (
    "frey_faces/frey_faces.npz, key x (1965, 28, 20), the frames of frey_rawface.mat of "
    "https://cs.nyu.edu/~roweis/data.html in their order"
)


def _load(protocol: str, split: str, data_dir: Path | None) -> Data:
    path = find("frey_faces", ["frey_faces.npz"], data_dir, _HINT)
    grey = integers(path, "x", read_npz(path)[0], (_N, 28, 20))
    check_content(path, "frey_faces/frey_faces", grey)
    return as_data("frey", protocol, split, grey[:, None], _part(split))


def _part(split: str) -> np.ndarray:
    block = np.arange(_N) // _BLOCK
    order = np.random.default_rng(0).permutation(block[-1] + 1)
    blocks = {
        "train": order[8:],
        "validation": order[4:8],
        "test": order[:4],
        "train+val": order[4:],
    }
    return np.isin(block, blocks[split])


FREY = Source(
    "frey",
    "1,965 frames of a face of 28 x 20 pixels, split by blocks of frames",
    _load,
    {"8bit": "integers 0..255"},
)
