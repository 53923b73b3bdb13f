"""The report's figures: evidence, latents, marginals of columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from latently.interfaces.report.latents import Layer
from latently.interfaces.report.shapes import cut
from latently.interfaces.report.svg import FAINT, INK, MUTED, panel, places, series, svg
from latently.interfaces.report.tables import Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bars", "forest", "marginal", "ordered_bars", "recovered"]

_MARKERS = {"exact": "o", "lower_bound": ">", "estimate": "D"}
_BINS = 24  # of a histogram
_FEW = 20  # values too few for a histogram: each is a line


def forest(ranking: Ranking) -> list[Markup]:
    """Mean log p(x) of every model, and the paired differences to the best one."""
    values = [(r.evidence.nats, r.evidence.nats_stderr) for r in ranking.rows]
    drawn = [_dots(ranking, values, "mean log p(x), nats", "Mean log p(x) of every model")]
    if len(ranking.rows) > 1:
        pairs = [row.difference or (0.0, 0.0) for row in ranking.rows]
        label = "paired difference to the best, nats"
        drawn.append(
            _dots(ranking, pairs, label, "Paired differences to the best model", zero=True)
        )
    return [figure for figure in drawn if figure]


def _dots(
    ranking: Ranking,
    values: Sequence[tuple[float, float]],
    label: str,
    alt: str,
    *,
    zero: bool = False,
) -> Markup:
    rows = [
        (row, mean, stderr if math.isfinite(stderr) else 0.0)
        for row, (mean, stderr) in zip(ranking.rows, values, strict=True)
        if math.isfinite(mean)
    ]
    if not rows:
        return Markup("")
    figure, axes = panel(380, 50 + 38 * len(rows))
    axes.grid(visible=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.55, -0.8)
    if zero:
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
    for y, (row, mean, stderr) in enumerate(rows):
        color = series(row.index)
        if stderr:
            axes.plot([mean - 2 * stderr, mean + 2 * stderr], [y, y], color=color, linewidth=2.5)
        marker = "o" if zero else _MARKERS[row.evidence.kind]
        axes.plot([mean], [y], marker, color=color, markersize=6.5)
        axes.text(
            0,
            y - 0.2,
            cut(row.name, 44),
            transform=axes.get_yaxis_transform(),
            color=INK,
            fontsize=10,
            va="bottom",
            parse_math=False,
        )
    _widen(axes, [mean for _, mean, _ in rows])
    axes.locator_params(axis="x", nbins=6)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_xlabel(label, color=MUTED, fontsize=10)
    told = "; ".join(f"{row.name}: {mean:.2f} ± {stderr:.2f}" for row, mean, stderr in rows)
    return svg(figure, f"{alt}, {ranking.title}: {told}")


def _widen(axes: Axes, centres: Sequence[float]) -> None:
    """Keeps a dot without error bar off the edges."""
    low, high = axes.get_xlim()
    if high - low < 1e-9 * max(1.0, *map(abs, centres)):
        low, high = low - 1, high + 1
    axes.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))


def bars(layer: Layer, name: str, index: int) -> Markup:
    """KL of each latent, or the variance of its posterior mean where KL is unknown; sorted.

    Of a single row of shares or categories: how much of the rows each of them takes.
    """
    if layer.use is not None and layer.units == 1:
        return _use(layer, name, index)
    shown = layer.activity if layer.kl is None else layer.kl
    if shown is None:
        return Markup("")
    values, order = shown.sort(descending=True)
    active = layer.active
    used = np.ones(len(values), bool) if active is None else active[order].numpy()
    free = "variance of z over rows" if layer.without_prior else "variance of E[z|x] over rows"
    what = free if layer.kl is None else "KL, nats"
    unit = "latent" if layer.use is None else "variable"
    figure, axes = ordered_bars(values.numpy(), order.numpy(), used, unit, index)
    axes.set_ylabel(what, color=MUTED)
    told = f"{what} of {len(values)} {unit}s, sorted, from {values[0]:.2f} to {values[-1]:.4f}"
    return svg(figure, f"{name}: {told}", index)


def _use(layer: Layer, name: str, index: int) -> Markup:
    """The mean over rows of each share or category, with a line where the prior has it."""
    assert layer.use is not None
    assert layer.used is not None
    values, order = layer.use[0].sort(descending=True)
    unit = {"categories": "category", "shares": "share"}[layer.kind]
    figure, axes = ordered_bars(
        values.numpy(), order.numpy(), layer.used[0, order].numpy(), unit, index
    )
    if layer.expected is not None:
        x = np.arange(1, len(values) + 1)
        ends = x - 0.41, x + 0.41
        axes.hlines(layer.expected[0, order].numpy(), *ends, color=INK, linewidth=1.2)
    axes.set_ylabel("mean over rows", color=MUTED)
    told = f"mean over rows of {len(values)} {unit} values, sorted"
    return svg(figure, f"{name}: {told}, from {values[0]:.3f} to {values[-1]:.4f}", index)


def ordered_bars(
    values: np.ndarray, order: np.ndarray, used: np.ndarray, unit: str, index: int
) -> tuple[Figure, Axes]:
    """Bars in the order given, those not in use grey, with their numbers while they are few."""
    figure, axes = panel()
    x = np.arange(1, len(values) + 1)
    width = 0.82 if len(x) <= 64 else 1.0
    heights = np.where(np.isfinite(values), values, 0)  # KL of rows without a density
    drawn = axes.bar(x, heights, width=width, color=series(index))
    for bar, here in zip(drawn, used, strict=True):
        if not here:
            bar.set(color=MUTED, alpha=0.5)
    axes.set_xlim(0.3, len(x) + 0.7)
    axes.set_ylim(bottom=0)
    few = len(x) <= 16
    axes.set_xticks(x if few else [], [str(int(i)) for i in order] if few else [])
    plural = "categories" if unit == "category" else f"{unit}s"
    about = f"{unit} number" if few else f"{len(x)} {plural}"
    axes.set_xlabel(f"{about}, sorted", color=MUTED, fontsize=10)
    return figure, axes


def marginal(
    column: str,
    data: np.ndarray,
    draws: Sequence[tuple[int, np.ndarray]],
    levels: int | None,
) -> Markup:
    """Histogram of one column of the data (filled) and of each model's draws (lines)."""
    figure, axes = panel(240, 150)
    edges = _edges(data, [values for _, values in draws], levels)
    if len(data) < _FEW:
        for value in data:
            axes.axvline(value, color=FAINT, linewidth=3)
    else:
        axes.hist(data, edges.tolist(), density=True, color=FAINT, label="data")
    for index, values in draws:
        inside = values[np.isfinite(values)]
        height, _ = np.histogram(inside, edges)
        height = height / max(1, len(inside)) / np.diff(edges)
        axes.stairs(height, edges, color=series(index), linewidth=1.4)
    axes.set_title(column, loc="left", color=INK, fontsize=11, parse_math=False)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5)
    axes.ticklabel_format(axis="x", useOffset=False, scilimits=(-4, 5))
    axes.xaxis.get_offset_text().set_color(MUTED)
    return svg(figure, f"Histogram of {column}: data and draws of {len(draws)} models")


def recovered(
    column: str,
    truth: np.ndarray,
    low: np.ndarray,
    median: np.ndarray,
    high: np.ndarray,
    *,
    name: str,
    index: int,
) -> Markup:
    """Hidden values of one column against the medians and intervals of their imputations."""
    figure, axes = panel(260, 190)
    ends = [min(truth.min(), low.min()), max(truth.max(), high.max())]
    axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
    for edge in (low, high):
        axes.plot(truth, edge, linestyle="none")  # fits the axes to the intervals
    axes.set_title(column, loc="left", color=INK, fontsize=11, parse_math=False)
    axes.set_xlabel("hidden value", color=MUTED, fontsize=10)
    axes.set_ylabel("imputed", color=MUTED, fontsize=10)
    axes.locator_params(nbins=5)
    axes.ticklabel_format(useOffset=False, scilimits=(-4, 5))
    inside = int(((low <= truth) & (truth <= high)).sum())
    told = f"{name}, {column}: {inside} of {len(truth)} hidden values lie in their interval"
    points = np.stack([np.tile(truth, 3), np.concatenate([low, median, high])], 1)
    at = places(figure, axes, points).reshape(3, -1, 2)
    lines = "".join(
        f"M{x:.1f} {a:.1f}V{b:.1f}" for (x, a), (_, b) in zip(at[0], at[2], strict=True)
    )
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in at[1])
    style = f'fill="none" stroke="{series(index)}"'
    drawn = f'<path d="{lines}" {style} opacity=".45"/>'
    drawn += f'<path d="{dots}" {style} stroke-width="3.4" stroke-linecap="round"/>'
    return svg(figure, told, index, drawn)


def _edges(data: np.ndarray, draws: Sequence[np.ndarray], levels: int | None) -> np.ndarray:
    if levels is not None and levels <= 32:
        return np.arange(levels + 1) - 0.5
    ends = [np.quantile(v, [0.005, 0.995]) for d in draws if len(v := d[np.isfinite(d)])]
    low = min([*(e[0] for e in ends), *([data.min()] if len(data) else [])], default=0.0)
    high = max([*(e[1] for e in ends), *([data.max()] if len(data) else [])], default=1.0)
    size = max(abs(low), abs(high))
    if not high - low > max(1e-12 * size, 1e-290):  # of no width that floats can part
        low, high = low - max(0.5, 1e-3 * size), high + max(0.5, 1e-3 * size)
    if size < 2**53 and all((values == values.round()).all() for values in (data, *draws)):
        width = max(1, math.ceil((high - low) / _BINS))  # whole numbers, none of them split
        return np.arange(math.floor(low), high + width + 1, width) - 0.5
    return np.linspace(low, high, _BINS + 1)
