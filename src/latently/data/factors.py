"""Pictures whose factors of variation are known: what measures of disentanglement are tested on.

Binary images of 16 x 16 pixels of one shape, every combination of

| factor | values |
|---|---|
| shape | triangle, T, L |
| size | 5, 7 or 9 pixels across |
| turn | 0, 90, 180 or 270 degrees, counterclockwise |
| x, y | the centre in 8 columns and 8 rows, 4 to 11 counted from 0 |

each once, 2,304 in all, no two of them equal. They are drawn, so there is nothing to download. The
label of a picture is the number of its combination, in mixed radix with y the last digit; `values`
gives its factors. With `p = default_rng(0).permutation(2304)`, training rows are p[:1612],
validation rows p[1612:1842], test rows p[1842:]; train+val are p[:1842]. Every factor is a column
that a model can be conditioned on, as in `load("factors", context="shape")`.

After the idea of dSprites: Matthey, Higgins, Hassabis, Lerchner, "dSprites: Disentanglement
testing Sprites dataset", 2017. No picture of it is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latently.data.base import Data
from latently.data.source import Source
from latently.errors import UserError

__all__ = ["FACTORS"]

NAMES = ("shape", "size", "turn", "x", "y")
SIZES = (3, 3, 4, 8, 8)  # how many values each factor has
SHAPES = ("triangle", "T", "L")
PIXELS = 16
_ROWS = math.prod(SIZES)
_FIRST = 4  # the first centre: the largest shape reaches four pixels to each side
_TRAIN, _VALIDATION = 1_612, 230


def values(index: ArrayLike | Tensor) -> Tensor:
    """The factors of pictures by their label, (n, 5) int64, in the order of `NAMES`.

    Raises:
        UserError: labels that are no numbers of combinations.

    >>> values([0, 1, 2303])
    tensor([[0, 0, 0, 0, 0],
            [0, 0, 0, 0, 1],
            [2, 2, 3, 7, 7]])
    """
    labels = torch.as_tensor(index).reshape(-1).long()
    if len(labels) and not bool(((labels >= 0) & (labels < _ROWS)).all()):
        raise UserError(
            f"factors: labels from {int(labels.min())} to {int(labels.max())}; those of this set "
            f"are 0 to {_ROWS - 1}"
        )
    digits = np.unravel_index(labels.cpu().numpy(), SIZES)
    return torch.from_numpy(np.stack(digits, axis=1).astype(np.int64))


def draw(factors: Sequence[int]) -> np.ndarray:
    """The picture (16, 16) of one combination: 1 where the shape is, 0 elsewhere."""
    shape, size, turn, x, y = factors
    reach = size + 2
    picture = np.zeros((PIXELS, PIXELS), dtype=np.float32)
    patch = np.rot90(_stencil(SHAPES[shape], reach), turn)
    top, left = _FIRST + y - reach, _FIRST + x - reach
    picture[top : top + len(patch), left : left + len(patch)] = patch
    return picture


def _stencil(shape: str, reach: int) -> np.ndarray:
    """A shape upright, (2 reach + 1, 2 reach + 1); no quarter turn maps one onto itself."""
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1] / reach
    if shape == "triangle":
        return np.abs(right) <= (down + 1) / 2
    if shape == "T":
        return (down <= -0.5) | (np.abs(right) <= 0.25)
    return (right <= -0.5) | (down >= 0.5)


def _load(protocol: str, split: str, data_dir: Path | None) -> Data:
    labels = _labels(split)
    x = np.stack([draw(row) for row in values(labels).tolist()])[:, None]
    return Data.from_array(x, levels=2, protocol=f"factors/{split}", labels=labels)


def _labels(split: str) -> np.ndarray:
    order = np.random.default_rng(0).permutation(_ROWS)
    held = _TRAIN + _VALIDATION
    parts = {
        "train": order[:_TRAIN],
        "validation": order[_TRAIN:held],
        "test": order[held:],
        "train+val": order[:held],
    }
    return parts[split]


def _columns(split: str, data_dir: Path | None) -> dict[str, np.ndarray]:
    return dict(zip(NAMES, values(_labels(split)).numpy().T, strict=True))


FACTORS = Source(
    "factors",
    "2,304 drawn pictures of 16 x 16 pixels with five known factors, built in",
    _load,
    columns=_columns,
)
