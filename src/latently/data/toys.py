"""Data in the plane whose density is known: how far a model is from the truth, in nats.

`toys:NAME` are draws from a density with `log p(x)` and entropy known (`latently.data.densities`):
20,000 training rows, 2,000 validation rows and 10,000 test rows, drawn from generators seeded by
name and split; train+val are the former two. No model can score more than minus the entropy on
average, and what a model q lacks is `KL(p || q) = E_p[log p(x) - log q(x)]`: the mean of paired
differences over test rows estimates it with a small error.

    truth, data = lt.toy("moons"), lt.data.load("toys:moons/test")
    lacks = truth.log_prob(data.x) - lt.evaluate(model, data).values
    lacks.mean(), lacks.std() / len(lacks) ** 0.5

The label of a row is the number of the part that it was drawn from, where there are several.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch

from latently.data.base import Data
from latently.data.densities import (
    Banana,
    Checkerboard,
    Moons,
    Normals,
    Pinwheel,
    Rings,
    Spirals,
    Toy,
)
from latently.data.source import Source
from latently.errors import UserError, closest

__all__ = ["TOYS"]

ROWS = {"train": 20_000, "validation": 2_000, "test": 10_000}

_ANGLES = np.arange(8) * np.pi / 4
_LATTICE = list(itertools.product((-4.0, -2.0, 0.0, 2.0, 4.0), repeat=2))

DENSITIES: dict[str, Toy] = {
    "banana": Banana(),
    "checkerboard": Checkerboard(),
    "circles": Rings((1.0, 2.0), 0.1),
    "eight": Normals(
        2 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1), 0.2, "eight normals in a ring"
    ),
    "grid": Normals(_LATTICE, 0.25, "twenty-five normals, five by five"),
    "moons": Moons(),
    "pinwheel": Pinwheel(),
    "spirals": Spirals(),
}


def toy(name: str) -> Toy:
    """The density that the rows of `toys:NAME` are drawn from.

    Raises:
        UserError: no density of that name.

    >>> toy("eight").entropy  # log 8 + 1 + log(2 pi 0.2^2), less what they overlap
    1.69806...
    """
    if name not in DENSITIES:
        raise UserError(f"no toy density is called {name!r}; {closest(name, DENSITIES)}")
    return DENSITIES[name]


def density_of(data: Data) -> Toy | None:
    """The density that rows were drawn from, by their protocol; None of other data."""
    name, colon, protocol = data.protocol.partition(":")
    known = name == TOYS.name and colon and data.shape == (2,)
    return DENSITIES.get(protocol.partition("/")[0]) if known else None


def _load(protocol: str, split: str, data_dir: Path | None) -> Data:
    density = toy(protocol)
    parts = ("train", "validation") if split == "train+val" else (split,)
    drawn = [density.draw(ROWS[part], _generator(protocol, part)) for part in parts]
    x, labels = (torch.cat(tensors) for tensors in zip(*drawn, strict=True))
    return Data.from_array(
        x, protocol=f"toys:{protocol}/{split}", labels=labels if density.parts > 1 else None
    )


def _generator(name: str, split: str) -> np.random.Generator:
    return np.random.default_rng(list(f"{name}/{split}".encode()))


TOYS = Source(
    "toys",
    "draws in the plane from a density that is known, built in",
    _load,
    {name: density.about for name, density in DENSITIES.items()},
)
