"""Figures of a diagnosis: units, gaps, two bounds, brackets, rate and distortion, factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from torch import Tensor

from latently.inference.bracket import Bracket
from latently.inference.diagnostics import Layer
from latently.inference.disentanglement import Gap
from latently.inference.gaps import Gaps
from latently.inference.opinion import Opinion
from latently.inference.rate_distortion import RateDistortion
from latently.interfaces.report.figures import ordered_bars
from latently.interfaces.report.svg import FAINT, INK, MUTED, panel, series, svg

__all__ = ["apart", "between", "curve", "ladder", "matrix", "units"]

_BINS = 20


def units(layer: Layer) -> Markup:
    """What each unit of a layer costs, or else holds, or else how its mean varies; sorted."""
    told_of = {"kl": "KL, nats", "information": "I(x; z), nats", "variance": "variance of E[z|x]"}
    known = [name for name in told_of if getattr(layer.dimensions[0], name) is not None]
    about = told_of[known[0]]
    values = np.array([getattr(unit, known[0]).value for unit in layer.dimensions])
    order = np.argsort(-values, kind="stable")
    used = np.array([unit.active for unit in layer.dimensions])
    figure, axes = ordered_bars(values[order], order, used[order], "unit", 0)
    axes.set_ylabel(about, color=MUTED)
    told = f"{about} of {len(values)} units of {layer.name}, sorted"
    return svg(figure, f"{told}, from {values.max():.2f} to {values.min():.4f}")


def ladder(found: Mapping[str, Gaps]) -> Markup:
    """From the ELBO of the encoder's q up to log p(x), for each set of rows."""
    figure, axes = panel(420, 70 + 52 * len(found))
    axes.grid(visible=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(len(found) - 0.4, -0.75)
    told = []
    for y, (name, gaps) in enumerate(found.items()):
        steps = [gaps.elbo.value, gaps.refined_elbo.value, gaps.log_p.value]
        for (a, b), color in zip(pairwise(steps), (1, 0), strict=True):
            axes.plot([a, b], [y, y], color=series(color), linewidth=9, solid_capstyle="butt")
        axes.plot(steps, [y] * 3, "|", color=INK, markersize=15, markeredgewidth=1.4)
        axes.text(0, y - 0.3, name, transform=axes.get_yaxis_transform(), color=INK, fontsize=10)
        told.append(
            f"{name}: ELBO {steps[0]:.2f}, refined {steps[1]:.2f}, log p(x) {steps[2]:.2f}"
        )
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=6)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_xlabel("nats", color=MUTED, fontsize=10)
    return svg(figure, "; ".join(told))


def apart(opinion: Opinion) -> Markup:
    """Second minus first bound, row by row."""
    values = (opinion.second.values - opinion.first.values).cpu().numpy()
    values = values[np.isfinite(values)]
    figure, axes = panel(360, 190)
    axes.hist(values, _BINS, color=series(0), alpha=0.85)
    axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
    axes.axvline(opinion.difference.value, color=INK, linewidth=1.4)
    axes.set_xlabel("second minus first, nats", color=MUTED, fontsize=10)
    axes.set_ylabel("rows", color=MUTED, fontsize=10)
    axes.locator_params(axis="x", nbins=6)
    axes.locator_params(axis="y", integer=True, nbins=5)
    low, high = (values.min(), values.max()) if len(values) else (0, 0)
    return svg(figure, f"Differences of {len(values)} rows, from {low:.2f} to {high:.2f} nats")


def between(bracket: Bracket) -> Markup:
    """Forward and reverse bound of every row, sorted by their gap, above the forward one."""
    gap = (bracket.uppers - bracket.lowers).cpu().numpy()
    order = np.argsort(gap, kind="stable")
    figure, axes = panel(360, 190)
    x = np.arange(1, len(gap) + 1)
    axes.vlines(x, 0, gap[order], color=series(0), linewidth=2.5)
    axes.plot(x, gap[order], "v", color=series(0), markersize=5)
    axes.plot(x, np.zeros(len(x)), "^", color=series(0), markersize=5)
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.set_xlabel(f"{len(x)} rows drawn from the model, sorted", color=MUTED, fontsize=10)
    axes.set_ylabel("upper less lower, nats", color=MUTED, fontsize=10)
    axes.set_xticks([])
    return svg(figure, f"Gap of the bracket, from {gap.min():.2f} to {gap.max():.2f} nats")


def curve(found: RateDistortion) -> Markup:
    """Rate against distortion of the best codes, and the encoder's own point."""
    rate, distortion = found.rate.cpu().numpy(), found.distortion.cpu().numpy()
    error = found.rate_mc_stderr.cpu().numpy()
    figure, axes = panel(420, 240)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.fill_between(
        distortion, rate - 2 * error, rate + 2 * error, color=series(0), alpha=0.2, linewidth=0
    )
    axes.plot(distortion, rate, "-o", color=series(0), markersize=3.5, linewidth=1.5)
    own = found.own_distortion.value, found.own_rate.value
    axes.plot(*own, "D", color=series(1), markersize=7)
    axes.annotate("the encoder", own, (7, 6), textcoords="offset points", color=INK, fontsize=10)
    axes.set_xlabel("distortion, −E log p(x|z), nats", color=MUTED, fontsize=10)
    axes.set_ylabel("rate, nats", color=MUTED, fontsize=10)
    axes.set_ylim(bottom=min(0.0, float(rate.min())))
    told = f"rate {rate.max():.1f} at distortion {distortion.min():.1f}"
    return svg(
        figure,
        f"Rate-distortion curve, up to {told}; the encoder: {own[1]:.1f} at {own[0]:.1f}",
    )


def matrix(gap: Gap, names: Sequence[str]) -> Markup:
    """How much each latent tells of each factor: the larger the square, the more."""
    share = _shares(gap.matrix, gap.scale)
    latents, factors = share.shape
    cell = 26
    figure, axes = panel(110 + cell * factors, 60 + cell * latents)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    axes.set_aspect("equal")
    y, x = np.mgrid[:latents, :factors]
    area = (0.92 * cell * np.sqrt(share.clip(0, 1))) ** 2
    axes.scatter(x.ravel(), y.ravel(), s=0.36 * area.ravel(), marker="s", color=series(0))
    axes.set_xlim(-0.6, factors - 0.4)
    axes.set_ylim(latents - 0.4, -0.6)
    axes.set_xticks(range(factors), list(names), rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(latents), [f"z[{i}]" for i in range(latents)])
    best = ", ".join(f"{n}: z[{int(b)}]" for n, b in zip(names, gap.best, strict=True))
    return svg(figure, f"{gap.number.name} by latent and factor; most by {best}")


def _shares(terms: Tensor, scale: Tensor) -> np.ndarray:
    return (terms / scale).cpu().numpy()
