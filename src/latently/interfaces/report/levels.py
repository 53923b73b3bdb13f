"""Figures of one column: histograms of numbers, bars of levels, observed beside drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from latently.interfaces.report.cells import Cells
from latently.interfaces.report.numbers import share
from latently.interfaces.report.shapes import bar, cut, dot, drawing, line, steps, words
from latently.interfaces.report.svg import PALETTE

__all__ = ["Sample", "of_levels", "of_numbers"]

_WIDTH, _HEIGHT = 250, 150  # CSS pixels
_BINS = 24
_LEVELS = 8  # bars, the last of all others where there are more
_NAMES = 104  # CSS pixels of their names
_DAYS = 5 * 86_400  # seconds from which dates are told by their days alone
_TAIL = 0.005  # of a sample that may lie beyond the axis on either side
_FINE = 1000  # steps of rounding from which nobody sees them
_ZEROS = 0.3  # share of zeros from which they stand beside the axis
_STEEP = 30.0  # ratio of quantiles from which positive numbers have a logarithmic axis


@dataclass(frozen=True)
class Sample:
    """Values of one column.

    Attributes:
        values: (n,), all finite.
        index: number of the model that they are of; None of the data.
        what: how they came about.
    """

    values: np.ndarray
    index: int | None
    what: Literal["observed", "drawn", "imputed"]

    @property
    def color(self) -> str:
        """Of its model."""
        return "faint" if self.index is None else f"s{self.index % PALETTE}"


@dataclass(frozen=True)
class _Axis:
    """Numbers to places on an axis: a linear or a logarithmic one, with zeros beside it.

    Values that are rounded to `step` have bins of whole steps, so that none is split; 0: they are
    not, or too finely for it to be seen.
    """

    low: float
    high: float
    steep: bool = False
    zeros: bool = False
    step: float = 0.0

    @classmethod
    def of(cls, samples: Sequence[np.ndarray], step: float) -> _Axis:
        known = [values for values in samples if len(values)]
        if not known:
            return cls(0.0, 1.0)
        positive = all((values >= 0).all() for values in known)
        if positive and _steep(known[0], step):
            low, high = _ends([values[values > 0] for values in known])
            zeros = any(bool((values == 0).any()) for values in known)
            return cls(math.log10(low), math.log10(max(high, low * 1.01)), True, zeros)
        zeros = bool(positive and _many_zeros(known[0], step))
        low, high = _ends([values[values > 0] for values in known] if zeros else known)
        if step and high - low < _FINE * step:
            ends = math.floor(low / step + 1e-6) - 0.5, math.ceil(high / step - 1e-6) + 0.5
            return cls(ends[0] * step, ends[1] * step, zeros=zeros, step=step)
        if not high - low > 1e-9 * max(abs(low), abs(high), 1e-290):
            low, high = low - 0.5 * max(1, abs(low)), high + 0.5 * max(1, abs(high))
        return cls(low, high, zeros=zeros)

    @property
    def edges(self) -> np.ndarray:
        """Of the bins."""
        if not self.step:
            return np.linspace(self.low, self.high, _BINS + 1)
        steps = round((self.high - self.low) / self.step)
        width = max(1, math.ceil(steps / _BINS))
        return self.low + self.step * width * np.arange(math.ceil(steps / width) + 1)

    def shares(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Share of zeros beside the axis, and of the values in each bin, ends included."""
        part = values[values > 0] if self.steep or self.zeros else values
        zeros = 1 - len(part) / len(values) if self.zeros else 0.0
        part = np.log10(part) if self.steep else part
        edges = self.edges
        counts, _ = np.histogram(np.clip(part, edges[0], edges[-1]), edges)
        return zeros, counts / len(values)

    def ticks(self) -> list[float]:
        """Round numbers on the axis, in its own unit."""
        from matplotlib.ticker import MaxNLocator

        if not self.steep:
            at = MaxNLocator(nbins=4, integer=self.step == 1).tick_values(self.low, self.high)
            return [float(t) for t in at if self.low <= t <= self.high]
        first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
        return [float(t) for t in range(first, last + 1, max(1, (last - first) // 3 + 1))]


def _ends(samples: Sequence[np.ndarray]) -> tuple[float, float]:
    """From the lowest to the highest value, but for the tails of each sample."""
    ends = [np.quantile(values, (_TAIL, 1 - _TAIL)) for values in samples if len(values)]
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def _steep(values: np.ndarray, step: float) -> bool:
    """Whether positive numbers are seen on a logarithmic axis alone."""
    positive = values[values > 0]
    if len(positive) < 20 or (step and positive.max() <= _BINS * step):
        return False
    low, high = np.quantile(positive, (0.05, 0.995))
    return bool(high > _STEEP * low)


def _many_zeros(values: np.ndarray, step: float) -> bool:
    """Whether zeros would dwarf all other numbers."""
    positive = values[values > 0]
    if len(positive) < 20 or (step and positive.max() <= _BINS * step):
        return False
    return bool((values == 0).mean() > _ZEROS)


def _step(cells: Cells, j: int) -> float:
    """What the values of a column are rounded to; 0: nothing that is known."""
    column = cells.columns[j]
    if column.kind in ("count", "datetime"):
        return 1.0 if column.kind == "count" else 0.0
    return 0.0 if column.decimals is None else 10.0**-column.decimals


def of_numbers(cells: Cells, j: int, samples: Sequence[Sample], about: str) -> Markup:
    """Histograms of numbers: the data filled, draws as lines, imputations as dashed lines."""
    axis = _Axis.of([sample.values for sample in samples], _step(cells, j))
    found = [(sample, *axis.shares(sample.values)) for sample in samples if len(sample.values)]
    most = max((part.max() for _, _, part in found), default=1.0) or 1.0
    left, right, top, ground = (40.0 if axis.zeros else 2.0), _WIDTH - 4.0, 26.0, _HEIGHT - 20.0
    span = axis.edges[-1] - axis.edges[0]

    def across(t: float) -> float:
        return left + (right - left) * (t - axis.edges[0]) / span

    def up(value: float) -> float:
        return ground - (ground - top) * value

    edges = [across(t) for t in axis.edges]
    parts = _head(cells.names[j], about)
    for sample, zero, shares in found:
        dashed = sample.what == "imputed"
        heights = [up(value / most) for value in shares]
        if sample.index is None:
            sides = zip(edges[:-1], edges[1:], heights, strict=True)
            parts += [bar(a, y, b - a + 0.2, ground - y, "faint") for a, b, y in sides]
            if axis.zeros:
                parts.append(bar(6, up(zero), 18, ground - up(zero), "faint"))
                said = share(zero)
                parts.append(words(27, up(zero) + 4, said, size=10, color="muted"))
            continue
        parts.append(steps(edges, heights, ground, sample.color, dashed=dashed))
        if axis.zeros:
            parts.append(steps([6, 24], [up(zero)], ground, sample.color, dashed=dashed))
    parts.append(line(left, ground, right, ground, "faint"))
    if axis.zeros:
        parts += [line(4, ground, 26, ground, "faint"), _tick(15, ground, "0")]
    for t, text in _labels(cells, j, axis):
        parts += [
            line(across(t), ground, across(t), ground + 3, "muted"),
            _tick(across(t), ground, text),
        ]
    return drawing(_WIDTH, _HEIGHT, parts, _alt(cells, j, samples, "Histogram"))


def _labels(cells: Cells, j: int, axis: _Axis) -> list[tuple[float, str]]:
    if cells.kind(j) == "datetime":
        at = [axis.low + f * (axis.high - axis.low) for f in (0.12, 0.5, 0.88)]
        part = slice(10) if axis.high - axis.low >= _DAYS else slice(5, 16)
        return [(t, cells.value(j, t)[part]) for t in at]
    made = [(t, cells.rough(j, 10.0**t if axis.steep else t, 4)) for t in axis.ticks()]
    return [pair for k, pair in enumerate(made) if k == 0 or pair[1] != made[k - 1][1]]


def of_levels(cells: Cells, j: int, samples: Sequence[Sample], about: str) -> Markup:
    """Shares of levels: bars of the data, points of draws, rings of imputations."""
    names = cells.levels(j)
    own = _shares(samples[0].values, len(names))
    order = list(range(len(names)))
    if cells.nominal(j):
        order.sort(key=lambda k: -own[k])
    groups = [[k] for k in order[:_LEVELS]]
    if len(order) > _LEVELS and cells.nominal(j):
        groups = [[k] for k in order[: _LEVELS - 1]] + [order[_LEVELS - 1 :]]
    elif len(order) > _LEVELS:
        groups = [part.tolist() for part in np.array_split(order, _LEVELS)]
    told = [
        (sample, [float(_shares(sample.values, len(names))[group].sum()) for group in groups])
        for sample in samples
    ]
    most = max((max(shares) for _, shares in told), default=1.0) or 1.0
    row = min(24.0, (_HEIGHT - 30) / max(3, len(groups)))
    parts = _head(cells.names[j], about)
    room = _WIDTH - _NAMES - 42
    for r, group in enumerate(groups):
        y = 28 + r * row
        name = cut(names[group[0]], 16) if len(group) == 1 else f"{len(group)} others"
        if len(group) > 1 and not cells.nominal(j):
            name = f"{cut(names[group[0]], 7)} to {cut(names[group[-1]], 7)}"
        parts.append(words(_NAMES - 6, y + row / 2 + 3.5, name, size=10.5, anchor="end"))
        reached = 0.0
        for place, (sample, shares) in enumerate(told):
            x = _NAMES + room * shares[r] / most
            reached = max(reached, x)
            if sample.index is None:
                parts.append(bar(_NAMES, y + 1.5, x - _NAMES, row - 3, "faint"))
                continue
            off = (place - len(told) / 2) * min(4.0, (row - 6) / len(told))
            parts.append(
                dot(x, y + row / 2 + off, sample.color, hollow=sample.what == "imputed", radius=3)
            )
        told_share = share(told[0][1][r]) if len(samples[0].values) else ""
        parts.append(words(reached + 7, y + row / 2 + 3.5, told_share, size=10, color="muted"))
    parts.append(line(_NAMES, 27, _NAMES, 28 + row * len(groups), "faint"))
    return drawing(_WIDTH, _HEIGHT, parts, _alt(cells, j, samples, "Shares of the levels"))


def _head(name: str, about: str) -> list[str]:
    length = 21 if about else 30
    parts = [words(2, 13, cut(name, length), size=12.5, bold=True)]
    return [*parts, words(_WIDTH - 4, 13, about, size=10.5, anchor="end", color="muted")]


def _tick(x: float, ground: float, text: str) -> str:
    return words(
        min(max(x, 4 + 2.7 * len(text)), _WIDTH - 2.7 * len(text)),
        ground + 14,
        text,
        size=10,
        anchor="middle",
        color="muted",
    )


def _shares(values: np.ndarray, levels: int) -> np.ndarray:
    codes = np.clip(values.round(), 0, levels - 1).astype(int)
    found: np.ndarray = np.bincount(codes, minlength=levels) / max(1, len(values))
    return found


def _alt(cells: Cells, j: int, samples: Sequence[Sample], what: str) -> str:
    kinds = [f"{len(s.values):,} {s.what}" for s in samples[:3]]
    return f"{what} of {cells.names[j]}: {', '.join(kinds)}"
