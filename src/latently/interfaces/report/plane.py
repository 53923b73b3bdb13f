"""The latent plane: posterior means of rows as points, coloured by what is known of the rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from latently.interfaces.report.density import Regions, is_standard, only_prior, regions
from latently.interfaces.report.groups import Grouping, groupings
from latently.interfaces.report.latents import Layer
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.svg import FAINT, INK, MUTED, panel, places, series, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Plane", "embedding", "planes", "principal"]

_PRIOR_RADIUS = math.sqrt(-2 * math.log(0.05))  # holds 95 % of N(0, I) in the plane
_LAYERS = 3
_UMAP_ROWS = 50  # with fewer rows its neighbourhoods are half of them
_SIZE = (430.0, 400.0)  # CSS pixels
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])  # of three shares
SHAPES = "●▲■"


@dataclass(frozen=True)
class Plane:
    """Posterior means of one layer in the plane.

    Attributes:
        layer: number of the layer, from 1; 0 if there is one only.
        rows: points.
        size: latents of the layer.
        shares: of the variance of all latents, one per axis; None where the axes are the latents.
        prior: what is drawn of the prior: "circle", that holds 95 % of a standard normal,
            "contours" with draws, "draws" alone, or "" for nothing.
        triangle: the points are shares of three, drawn in the triangle of all that sum to one.
        umap: the plane is one of UMAP, in which only neighbourhoods mean something.
        figures: one per grouping.
        groups: the groupings.
    """

    layer: int
    rows: int
    size: int
    shares: tuple[float, float] | None
    prior: str
    triangle: bool
    figures: tuple[Markup, ...]
    groups: tuple[Grouping, ...]
    umap: bool = False


def planes(subject: Subject) -> list[Plane]:
    """A plane for each layer of two latents or more whose posterior means differ.

    More than two are seen by their principal axes and, where the package `umap` is installed, by
    UMAP. One category of more than three has none: its values are all equally far from each other.
    """
    drawn = []
    for number, layer in enumerate(subject.layers[:_LAYERS], 1):
        if layer.kind == "categories" and layer.units == 1 and layer.size != 3:
            continue
        apart = layer.rows > 2 and float(layer.flat.std(0).max()) > 1e-6
        if apart and layer.size > (1 if layer.use is None else 2):  # two shares are one number
            named = number if len(subject.layers) > 1 else 0
            drawn.append(_plane(subject, layer, named))
            near = None if drawn[-1].shares is None else embedding(layer.flat, subject.seed)
            if near is not None:
                drawn.append(_embedded(subject, layer, named, near))
    return drawn


def _plane(subject: Subject, layer: Layer, number: int) -> Plane:
    triangle = layer.size == 3 and layer.use is not None and layer.units == 1
    points, shares, names = _points(layer, triangle)
    circle = layer.size == 2 and is_standard(only_prior(subject))
    found = None if circle or layer.size != 2 else regions(subject, points)
    groups = groupings(subject.data, layer.rows)
    alt = f"{subject.name}{f', layer {number}' if number else ''}: posterior means"
    ground = partial(_ground, circle=circle, found=found, corners=names if triangle else ())
    axes = ("", "") if triangle else names
    figures = [_scatter(points.numpy(), g, axes, ground, alt, subject.index) for g in groups]
    drawn = "" if found is None else "contours" if found.heights else "draws"
    return Plane(
        layer=number,
        rows=layer.rows,
        size=layer.size,
        shares=shares,
        prior="circle" if circle else drawn,
        triangle=triangle,
        figures=tuple(figures),
        groups=tuple(groups),
    )


def _embedded(subject: Subject, layer: Layer, number: int, points: np.ndarray) -> Plane:
    """The plane of UMAP, whose axes mean nothing."""
    groups = groupings(subject.data, layer.rows)
    alt = f"{subject.name}{f', layer {number}' if number else ''}: UMAP of posterior means"
    ground = partial(_ground, circle=False, found=None, corners=())
    axes = ("UMAP, first axis", "UMAP, second axis")
    figures = [_scatter(points, g, axes, ground, alt, subject.index) for g in groups]
    plane = Plane(number, layer.rows, layer.size, None, "", False, tuple(figures), tuple(groups))
    return replace(plane, umap=True)


def embedding(z: Tensor, seed: int) -> np.ndarray | None:
    """Places (n, 2) by UMAP; None where the package is not installed, or rows are few.

    Source: McInnes, Healy, Melville, "UMAP: Uniform Manifold Approximation and Projection for
    Dimension Reduction", 2018.
    """
    try:
        make = getattr(import_module("umap"), "UMAP", None)  # other packages have the name, too
    except ImportError:
        return None
    if make is None or len(z) <= _UMAP_ROWS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = make(n_components=2, random_state=seed, n_jobs=1).fit_transform(z.numpy())
    places: np.ndarray = np.asarray(found, dtype=np.float64)
    return places if np.isfinite(places).all() else None


def _points(
    layer: Layer, triangle: bool
) -> tuple[Tensor, tuple[float, float] | None, tuple[str, ...]]:
    """Places (n, 2), shares of the variance where they are projections, names of the axes."""
    if triangle:
        word = "category" if layer.kind == "categories" else "share"
        return (
            layer.flat @ torch.from_numpy(_CORNERS),
            None,
            tuple(f"{word} {j}" for j in range(3)),
        )
    if layer.size == 2:
        return layer.flat, None, ("latent 0", "latent 1")
    points, shares = principal(layer.flat)
    percent = [f"{100 * share:.0f} % of the variance" for share in shares]
    names = (f"{axis} axis, {p}" for axis, p in zip(("first", "second"), percent, strict=True))
    return points, shares, tuple(names)


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


def _ground(axes: Axes, *, circle: bool, found: Regions | None, corners: Sequence[str]) -> None:
    """What lies under the points: the prior, or the triangle of three shares."""
    dashed: dict[str, Any] = {"linestyle": (0, (3, 3)), "linewidth": 0.9}
    if circle:
        turn = np.linspace(0, 2 * np.pi, 73)
        x, y = _PRIOR_RADIUS * np.cos(turn), _PRIOR_RADIUS * np.sin(turn)
        axes.plot(x, y, color=MUTED, **dashed)
    if found is not None:
        axes.plot(*found.draws.T, ".", color=FAINT, markersize=3, zorder=0)
        if found.heights:
            lines = axes.contour(
                found.x, found.y, found.log_p, found.heights, colors=MUTED, linewidths=0.9
            )
            lines.set_linestyle([dashed["linestyle"], "solid"])
    if corners:
        axes.plot(*np.vstack([_CORNERS, _CORNERS[:1]]).T, color=MUTED, linewidth=0.9)
        for at, name, side in zip(_CORNERS, corners, ("top", "top", "bottom"), strict=True):
            away: dict[str, Any] = {"xytext": (0, -6 if side == "top" else 6)}
            style: dict[str, Any] = {"color": MUTED, "fontsize": 10, "ha": "center", "va": side}
            axes.annotate(name, at, textcoords="offset points", **away, **style)
        axes.set_axis_off()


def _scatter(
    points: np.ndarray,
    groups: Grouping,
    names: Sequence[str],
    ground: Callable[[Axes], None],
    alt: str,
    key: int,
) -> Markup:
    """A scatter whose points are one path per group, a few bytes each."""
    figure, axes = panel(*_SIZE)
    axes.grid(visible=False)
    axes.set_aspect("equal", adjustable="datalim")
    axes.plot(points[:, 0], points[:, 1], linestyle="none")  # fits the axes to the points
    ground(axes)
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
    against = f"; {names[0]} against {names[1]}" if names[0] else ", in the triangle of shares"
    told = f"{alt} of {len(points)} rows{by}{against}"
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
