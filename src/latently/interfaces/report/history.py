"""How training went: curves of the objective, of the steps and their time, and what to know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from latently.interfaces.report.svg import INK, MUTED, panel, series, svg
from latently.models import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["counts", "curves", "small_curves"]

_EXACT = "log p(x)"
_SHOWN = 0.8  # share of the epochs, the last ones, that the y-axis is fitted to
_PANELS = (
    ("bound", "Bound on log p(x)", "validation"),
    ("objective", "Objective, no bound on log p(x)", "validation"),
    ("reconstruction", "Reconstruction, E log p(x|z)", ""),
    ("kl", "KL(q || p)", ""),
    ("penalty", "Penalty", ""),
)
_COUNTED = (
    ("non_finite", "not taken: the loss or the gradient was not finite"),
    ("skipped", "not taken: the norm of the gradient exceeded the limit"),
    ("clipped", "taken with the gradient shortened to the limit"),
)


def curves(
    history: Sequence[Mapping[str, Any]], name: str, index: int, kept: str, model: Model
) -> list[Markup]:
    """Training curves of one model: a panel each for what was maximised, reconstruction and KL.

    A closed-form fit has one panel, log p(x) by pass, and none if there was one pass only. A
    model without latents has one, too: there is nothing to split.
    """
    if any("log_prob" in row for row in history):
        line = _line(history, "pass", "log_prob")
        title = "log p(x) + log prior of the parameters / rows" if model.log_prior() else _EXACT
        return [_curve(title, {"training rows": line}, "pass", name, index)]
    drawn = []
    best = _best_epoch(history) if "best" in kept else None
    panels = _PANELS[:2] if model.invertible or _unpenalised(history) else _PANELS
    for key, title, second in panels:
        if key == "bound" and model.invertible and model.density == "exact":
            title = _EXACT
        lines = {"training": _line(history, "epoch", key)}
        if second and any(key in row for row in history):
            lines[second] = _line(history, "epoch", second)
        lines = {label: line for label, line in lines.items() if len(line[0])}
        if lines:
            drawn.append(_curve(title, lines, "epoch", name, index, best))
    return drawn


def _unpenalised(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the objective is the reconstruction alone, whose curve would be drawn twice."""
    penalties = _line(history, "epoch", "penalty")[1]
    return len(penalties) > 0 and not penalties.any()


def small_curves(history: Sequence[Mapping[str, Any]], name: str, index: int) -> list[Markup]:
    """The learning rate where it changes, the norm of the gradient, and seconds per epoch."""
    lines = {
        "Learning rate": _line(history, "epoch", "learning_rate"),
        "Gradient norm": _line(history, "epoch", "gradient_norm"),
        "Seconds per epoch": _durations(history),
    }
    return [
        _small(title, x, y, name, index)
        for title, (x, y) in lines.items()
        if len(y) > 2 and (title != "Learning rate" or np.ptp(y) > 0)
    ]


def counts(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each kind of step that did not go as usual, where there were any."""
    last = [row.get("step") for row in history]
    steps = max((step for step in last if isinstance(step, int)), default=0)
    told = []
    for key, words in _COUNTED:
        number = round(sum(_line(history, "epoch", key)[1]))
        if number:
            of = f" of {steps:,}" if steps else ""
            were = "step was" if number == 1 and not of else "steps were"
            told.append(f"{number:,}{of} {were} {words}.")
    return told


def _durations(history: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    x, y = _line(history, "epoch", "seconds")
    return x, np.diff(y, prepend=0.0)


def _small(title: str, x: np.ndarray, y: np.ndarray, name: str, index: int) -> Markup:
    from matplotlib.ticker import MaxNLocator

    figure, axes = panel(210, 105)
    axes.plot(x, y, color=series(index), linewidth=1.2)
    if y.min() > 0 and y.max() > 20 * y.min() and title != "Seconds per epoch":
        axes.set_yscale("log")
        axes.minorticks_off()
    else:
        late = y[math.ceil((1 - _SHOWN) * len(y)) :]
        axes.set_ylim(0, 1.08 * late.max() if late.max() > 0 else 1)
        axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    told = f"{name}, {title.lower()} by epoch: from {y[0]:.3g} to {y[-1]:.3g}"
    return svg(figure, told, index)


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
    if all(len(x) == 1 for x, _ in lines.values()):
        axes.set_xlim(0, 2 * max(x[0] for x, _ in lines.values()))  # no ticks between epochs
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
