"""The report's figures: evidence, training curves, latents, marginals of columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from latently.interfaces.report.latents import Layer
from latently.interfaces.report.svg import FAINT, INK, MUTED, panel, series, svg
from latently.interfaces.report.tables import Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bars", "curves", "forest", "marginal"]

_MARKERS = {"exact": "o", "lower_bound": ">", "estimate": "D"}
_FEW = 20  # values too few for a histogram: each is a line
_SHOWN = 0.8  # share of the epochs, the last ones, that the y-axis is fitted to
_PANELS = (
    ("bound", "Bound", "validation"),
    ("reconstruction", "Reconstruction, E log p(x|z)", ""),
    ("kl", "KL(q || p)", ""),
)


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
            _short(row.name, 44),
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


def curves(history: Sequence[Mapping[str, Any]], name: str, index: int, kept: str) -> list[Markup]:
    """Training curves of one model: a panel each for the bound, reconstruction and KL.

    A closed-form fit has one panel, log p(x) by pass, and none if there was one pass only.
    """
    if any("log_prob" in row for row in history):
        line = _line(history, "pass", "log_prob")
        return [_curve("log p(x)", {"training rows": line}, "pass", name, index)]
    drawn = []
    best = _best_epoch(history) if "best" in kept else None
    for key, title, second in _PANELS:
        lines = {"training": _line(history, "epoch", key)}
        if second:
            lines[second] = _line(history, "epoch", second)
        lines = {label: line for label, line in lines.items() if len(line[0])}
        if lines:
            drawn.append(_curve(title, lines, "epoch", name, index, best))
    return drawn


def _line(history: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    points = [
        (float(row.get(x, number)), float(row[y]))
        for number, row in enumerate(history, 1)
        if isinstance(row.get(y), int | float) and math.isfinite(row[y])
    ]
    array = np.array(points).reshape(-1, 2)
    if (np.diff(array[:, 0]) <= 0).any():  # a batch may end two epochs: count the rows instead
        array[:, 0] = np.arange(1, len(array) + 1)
    return array[:, 0], array[:, 1]


def _best_epoch(history: Sequence[Mapping[str, Any]]) -> float | None:
    x, y = _line(history, "epoch", "validation")
    return float(x[y.argmax()]) if len(x) else None


def _curve(
    title: str,
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    axis: str,
    name: str,
    index: int,
    best: float | None = None,
) -> Markup:
    from matplotlib.ticker import MaxNLocator

    figure, axes = panel()
    for number, (label, (x, y)) in enumerate(lines.items()):
        marker = "o" if len(x) < 3 else ""
        style = {"color": INK, "linewidth": 1.1} if number else {"color": series(index)}
        axes.plot(x, y, label=label, marker=marker, markersize=4, **style)
    if best is not None:
        axes.axvline(best, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), label="kept")
    _clip(axes, list(lines.values()))
    axes.set_title(title, loc="left", color=INK, fontsize=11, parse_math=False)
    axes.set_xlabel(axis, color=MUTED)
    axes.set_ylabel("nats", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.ticklabel_format(axis="y", useOffset=False)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    ends = "; ".join(f"{label} ends at {y[-1]:.2f}" for label, (_, y) in lines.items())
    return svg(figure, f"{name}, {title} in nats by {axis}: {ends}", index)


def _clip(axes: Axes, lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Fits the y-axis to the last values, so that the first ones do not flatten them."""
    late = [y[min(len(y) - 1, math.ceil((1 - _SHOWN) * len(y))) :] for _, y in lines]
    if min(len(y) for _, y in lines) < 5:
        late = [y for _, y in lines]
    low, high = min(y.min() for y in late), max(y.max() for y in late)
    margin = 0.06 * (high - low) or max(1e-3, 0.01 * abs(high))
    axes.set_ylim(low - margin, high + margin)


def bars(layer: Layer, name: str, index: int) -> Markup:
    """KL of each latent, or the variance of its posterior mean where KL is unknown; sorted."""
    shown = layer.activity if layer.kl is None else layer.kl
    if shown is None:
        return Markup("")
    values, order = shown.sort(descending=True)
    active = layer.active
    used = np.ones(len(values), bool) if active is None else active[order].numpy()
    figure, axes = panel()
    x = np.arange(1, len(values) + 1)
    width = 0.82 if len(x) <= 64 else 1.0
    drawn = axes.bar(x, values.numpy(), width=width, color=series(index))
    for bar, here in zip(drawn, used, strict=True):
        if not here:
            bar.set(color=MUTED, alpha=0.5)
    axes.set_xlim(0.3, len(x) + 0.7)
    axes.set_ylim(bottom=0)
    if len(x) <= 20:
        axes.set_xticks(x, [str(int(i)) for i in order])
    else:
        axes.set_xticks([])
    what = "variance of E[z|x] over rows" if layer.kl is None else "KL, nats"
    axes.set_ylabel(what, color=MUTED)
    axes.set_xlabel(
        f"latent{' number' if len(x) <= 20 else f's, {len(x)}'}, sorted", color=MUTED, fontsize=10
    )
    alt = f"{name}: {what} of {len(x)} latents, sorted, from {values[0]:.2f} to {values[-1]:.4f}"
    return svg(figure, alt, index)


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


def _edges(data: np.ndarray, draws: Sequence[np.ndarray], levels: int | None) -> np.ndarray:
    if levels is not None and levels <= 32:
        return np.arange(levels + 1) - 0.5
    ends = [np.quantile(v, [0.005, 0.995]) for d in draws if len(v := d[np.isfinite(d)])]
    low = min([*(e[0] for e in ends), *([data.min()] if len(data) else [])], default=0.0)
    high = max([*(e[1] for e in ends), *([data.max()] if len(data) else [])], default=1.0)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, 25)


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
