"""Paths through latent space that stay among the values latents can take."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latently.inference._codes import moved
from latently.interfaces.report.latents import Layer
from latently.interfaces.report.numbers import significant

__all__ = ["Path", "moves", "told"]

MOST = 8  # units that are moved
REACH = 3.0  # standard deviations to each side
_STOPS = 9
_QUANTILES = (0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
_CATEGORIES = 12


class Path(NamedTuple):
    """Latents that differ from those of one row in one unit.

    Attributes:
        unit: which unit is moved.
        name: what it is called.
        z: the stops, (stops, *Z).
    """

    unit: int
    name: str
    z: Tensor


def moves(layer: Layer, row: int) -> tuple[list[Path], list[str]]:
    """Each unit in use moved while the others stay where they are in a row, and the stops' names.

    Real latents go through -3 to 3 standard deviations of their means around the mean of these,
    latents of a range and shares through quantiles of their means, categories and whole numbers
    through their values. As one share moves the others keep their proportions.
    """
    steps = {"real": _deviations, "categories": _categories, "levels": _levels}
    return steps.get(layer.kind, _quantiles)(layer, layer.centres[row])


def _called(layer: Layer, unit: int) -> str:
    """What a unit that is no share is called."""
    if layer.kind == "categories":
        return "category" if layer.units == 1 else f"variable {unit}"
    return f"latent {unit}"


def _deviations(layer: Layer, start: Tensor) -> tuple[list[Path], list[str]]:
    where = torch.linspace(-REACH, REACH, _STOPS, dtype=start.dtype)
    stops = layer.flat.mean(0) + where[:, None] * layer.flat.std(0)
    return _cell_by_cell(layer, start, stops), [significant(float(t)) for t in where]


def _levels(layer: Layer, start: Tensor) -> tuple[list[Path], list[str]]:
    """Whole numbers between the means of the rows, which lie between the first and the last."""
    low, high = float(layer.means.min().floor()), float(layer.means.max().ceil())
    values = torch.linspace(low, high, _STOPS, dtype=start.dtype).round().unique()
    stops = values[:, None].expand(-1, layer.size)
    return _cell_by_cell(layer, start, stops), [significant(float(v)) for v in values]


def _quantiles(layer: Layer, start: Tensor) -> tuple[list[Path], list[str]]:
    levels = torch.tensor(_QUANTILES, dtype=start.dtype)
    stops = torch.quantile(layer.flat, levels, 0)
    heads = [f"{100 * level:.0f} %" for level in _QUANTILES]
    if layer.kind == "range":
        return _cell_by_cell(layer, start, stops), heads
    assert layer.use is not None
    spread = stops[-1] - stops[0]
    cells = spread.argsort(descending=True)[:MOST].tolist()
    paths = []
    for cell in cells:
        unit, share = divmod(cell, layer.use.shape[1])
        z = moved(start, cell, stops[:, cell], "shares")
        name = f"share {share}" if layer.units == 1 else f"row {unit}, share {share}"
        paths.append(Path(unit, name, z))
    return paths, heads


def _categories(layer: Layer, start: Tensor) -> tuple[list[Path], list[str]]:
    assert layer.use is not None
    levels = layer.use.shape[1]
    shown = layer.use.mean(0).topk(min(levels, _CATEGORIES)).indices.sort().values
    paths = []
    for unit in _chosen(layer):
        paths.append(Path(unit, _called(layer, unit), moved(start, unit, shown, "categories")))
    return paths, [str(int(category)) for category in shown]


def _cell_by_cell(layer: Layer, start: Tensor, stops: Tensor) -> list[Path]:
    """A path for each latent in use; `stops` is (stops, L)."""
    chosen = _chosen(layer)
    return [Path(j, _called(layer, j), moved(start, j, stops[:, j], layer.kind)) for j in chosen]


def _chosen(layer: Layer) -> list[int]:
    """The units in use, those that matter most first."""
    active = layer.active
    return [int(j) for j in layer.order if active is not None and active[j]][:MOST]


def told(layer: Layer, count: int) -> str:
    """How `count` units are moved, in the words of a caption."""
    means = "codes" if layer.without_prior else "posterior means"
    if layer.kind == "categories" and layer.units == 1:
        return "The latent category takes its values by number"
    noun = {"categories": "variable", "shares": "share"}.get(layer.kind, "latent")
    how = {
        "real": (
            f"through −3 to 3 standard deviations of its {means} around their mean, so that the "
            "ends of a line may lie where no row does"
        ),
        "range": f"through quantiles of its {means} over the rows",
        "shares": (
            "through quantiles of its posterior means over the rows; what is left to the other "
            "shares keeps its proportions"
        ),
        "categories": "through its categories by number",
        "levels": "through its values",
    }
    many = f"The {count} most active {noun}s, each" if count > 1 else f"The most active {noun}"
    return f"{many} {how[layer.kind]}"
