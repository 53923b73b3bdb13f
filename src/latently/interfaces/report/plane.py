"""The latent plane: posterior means of rows as points, coloured by what is known of the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from latently.interfaces.report.groups import Grouping, groupings
from latently.interfaces.report.latents import Layer, prior_of
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.svg import INK, MUTED, panel, places, series, svg
from latently.probability.distributions import Factorized, StandardNormal

__all__ = ["Plane", "planes", "principal"]

_PRIOR_RADIUS = math.sqrt(-2 * math.log(0.05))  # holds 95 % of N(0, I) in the plane
_LAYERS = 3
_SIZE = (430.0, 400.0)  # CSS pixels
SHAPES = "●▲■"


@dataclass(frozen=True)
class Plane:
    """Posterior means of one layer in the plane.

    Attributes:
        layer: number of the layer, from 1; 0 if there is one only.
        rows: points.
        size: latents of the layer.
        shares: of the variance of all latents, one per axis; None where the axes are the latents.
        circle: the circle that holds 95 % of a standard normal prior is drawn.
        figures: one per grouping.
        groups: the groupings.
    """

    layer: int
    rows: int
    size: int
    shares: tuple[float, float] | None
    circle: bool
    figures: tuple[Markup, ...]
    groups: tuple[Grouping, ...]


def planes(subject: Subject) -> list[Plane]:
    """A plane for each layer of two latents or more whose posterior means differ."""
    drawn = []
    for number, layer in enumerate(subject.layers[:_LAYERS], 1):
        if layer.size > 1 and layer.rows > 2 and float(layer.flat.std(0).max()) > 1e-6:
            drawn.append(_plane(subject, layer, number if len(subject.layers) > 1 else 0))
    return drawn


def _plane(subject: Subject, layer: Layer, number: int) -> Plane:
    points, shares = (layer.flat, None) if layer.size == 2 else principal(layer.flat)
    circle = shares is None and _standard(subject)
    names = [f"latent {j}" for j in (0, 1)]
    if shares is not None:
        percent = [f"{100 * share:.0f} % of the variance" for share in shares]
        names = [f"{axis} axis, {p}" for axis, p in zip(("first", "second"), percent, strict=True)]
    groups = groupings(subject.data, layer.rows)
    alt = f"{subject.name}{f', layer {number}' if number else ''}: posterior means"
    figures = [_scatter(points.numpy(), g, names, circle, alt, subject.index) for g in groups]
    return Plane(number, layer.rows, layer.size, shares, circle, tuple(figures), tuple(groups))


def principal(z: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """The two directions of most variance: coordinates (n, 2) and shares of the variance.

    The largest coefficient of a direction is positive.

    >>> principal(torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.5, 0.0, 0.0]]))[1]
    (0.923..., 0.076...)
    """
    centred = z - z.mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    top = directions[:2]
    largest = top.gather(1, top.abs().argmax(1, keepdim=True))
    share = values.square() / values.square().sum()
    return centred @ (top * largest.sign()).T, (float(share[0]), float(share[1]))


def _standard(subject: Subject) -> bool:
    """Whether the prior of the only layer is the standard normal."""
    if subject.only_layer is None:
        return False
    context = subject.context(slice(0, 1))
    context = None if context is None else context.to(subject.model.device)
    with torch.no_grad():
        prior = prior_of(subject.model, context)
    if not isinstance(prior, Factorized):
        return False
    base = prior.base
    if isinstance(base, StandardNormal):
        return True
    parts = (getattr(base, "loc", None), getattr(base, "log_scale", None))
    return all(isinstance(part, Tensor) and not part.any() for part in parts)


def _scatter(
    points: np.ndarray, groups: Grouping, names: list[str], circle: bool, alt: str, key: int
) -> Markup:
    """A scatter whose points are one path per group, a few bytes each."""
    figure, axes = panel(*_SIZE)
    axes.grid(visible=False)
    axes.set_aspect("equal", adjustable="datalim")
    axes.plot(points[:, 0], points[:, 1], linestyle="none")  # fits the axes to the points
    if circle:
        turn = np.linspace(0, 2 * np.pi, 73)
        x, y = _PRIOR_RADIUS * np.cos(turn), _PRIOR_RADIUS * np.sin(turn)
        axes.plot(x, y, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.locator_params(nbins=6)
    axes.set_xlabel(names[0], color=MUTED, fontsize=10)
    axes.set_ylabel(names[1], color=MUTED, fontsize=10)
    at = places(figure, axes, points)
    index = groups.index.numpy()
    members = [at[index == number] for number in range(len(groups.names))]
    one = series(key) if len(members) == 1 else ""
    r = 1.6 if len(at) > 1000 else 2.1
    drawn = [_dots(xy, r, number, groups.ordered, one) for number, xy in enumerate(members)]
    if len(members) > 1 and not groups.ordered:
        drawn += [_named(xy, name) for xy, name in zip(members, groups.names, strict=True)]
    by = f" by {groups.title}" if groups.title else ""
    told = f"{alt} of {len(points)} rows{by}; {names[0]} against {names[1]}"
    return svg(figure, told, key, Markup("".join(drawn)))


def _dots(xy: np.ndarray, r: float, number: int, ordered: bool, color: str) -> str:
    """A path of dots, triangles or squares: a shape for those who cannot tell the colours."""
    color = color or f"var(--{'q' if ordered else 'g'}{number})"
    kind = 0 if ordered else number % len(SHAPES)
    if kind == 0:
        d = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in xy)
        style = f'stroke="{color}" stroke-width="{2 * r:.1f}" stroke-linecap="round"'
        return f'<path class="dots" d="{d}" {style} fill="none"/>'
    side = 2.3 * r if kind == 1 else 1.8 * r
    body = f"l{side / 2:.1f} {side:.1f}h-{side:.1f}z" if kind == 1 else _square(side)
    left = 0 if kind == 1 else side / 2
    d = "".join(f"M{x - left:.1f} {y - side / 2:.1f}{body}" for x, y in xy)
    return f'<path class="dots" d="{d}" fill="{color}"/>'


def _square(side: float) -> str:
    return f"h{side:.1f}v{side:.1f}h-{side:.1f}z"


def _named(xy: np.ndarray, name: str) -> str:
    """The name of a group at its median, readable over the points."""
    x, y = np.median(xy, 0)
    text = Markup.escape(name if len(name) <= 12 else name[:11] + "…")
    place = f'x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle"'
    return f'<text class="named" {place} fill="{INK}">{text}</text>'
