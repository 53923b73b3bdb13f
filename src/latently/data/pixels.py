"""Protocols of 8-bit grey images, common to the sets that have them.

`binary-dynamic`: train and train+val keep grey values x / 255 and are redrawn at every use in
training; validation and test are binarised once, each on its own array as
`default_rng(0).random(x.shape) < x / 255`. `binary-static-seedN`, for any N: the same formula by
seed N once on all images of a file, *then* sliced. `8bit`: the integers 0..255.
"""

from __future__ import annotations

import numpy as np
import torch

from latently.data.base import Binarise, Data
from latently.data.binarise import draw, static_seed
from latently.data.check import check_labels, family_for

__all__ = ["PROTOCOLS", "as_data"]

PROTOCOLS = {
    "binary-dynamic": "binary, training images redrawn at every use, held-out ones drawn once",
    "binary-static-seed0": "binary, every image drawn once with seed 0, or any other",
    "8bit": "integers 0..255",
}


def as_data(
    name: str,
    protocol: str,
    split: str,
    grey: np.ndarray,
    part: slice | np.ndarray,
    labels: np.ndarray | None = None,
) -> Data:
    """One split by one protocol.

    Args:
        name: Of the set.
        protocol: See the top of this module.
        split: Of the set.
        grey: `(n, C, H, W)` uint8, all images of the file.
        part: Which of them are the split.
        labels: `(n,)`, of all images.
    """
    seed, redraw = static_seed(protocol.removeprefix("binary-")), None
    if protocol.endswith("8bit"):
        x = grey[part]
    elif seed is not None:
        x = draw(grey, seed, _unit)[part]
    elif split in ("train", "train+val"):
        x, redraw = grey[part].astype(np.float32) / 255, Binarise()
    else:
        x = draw(grey[part], 0, _unit)
    levels = 256 if protocol.endswith("8bit") else 2
    return Data(
        x=torch.from_numpy(x.astype(np.float32, order="C")),
        family=family_for(levels),
        protocol=f"{name}:{protocol}/{split}",
        labels=None if labels is None else check_labels(labels[part], len(x)),
        levels=levels,
        redraw=redraw,
    )


def _unit(grey: np.ndarray) -> np.ndarray:
    return grey / 255
