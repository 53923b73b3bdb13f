"""Maps of the plane: densities as shades, rows as dots, and lines, on the same axes.

A density is one grey picture that masks two layers of the page's own colours, so that it fits a
light and a dark page: the denser, the further from the colour of the page.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from latently.interfaces.report.numbers import significant
from latently.interfaces.report.svg import FAINT, INK, MUTED, panel, places, series, svg

__all__ = ["Curve", "Window", "Word", "dots", "lines", "scale", "shades"]

Curve = tuple[np.ndarray, float]
"""Points (n, 2) of a line, and its width in CSS pixels; it breaks where they are not finite."""
Word = tuple[float, float, str]
"""Text and where its middle stands."""

_WIDTH = 330.0  # CSS pixels of a map
_BESIDE, _BELOW = 48.0, 40.0  # of them that the numbers of the axes take
_FLAT, _TALL = 0.4, 1.1  # height of the axes in widths: least and most
_UNEQUAL = 4  # columns whose ranges differ by more have each a scale of their own
_MANY = 800  # dots that are drawn smaller
_BAR = (_WIDTH - 90, 12.0)  # the scale of the shades


@dataclass(frozen=True)
class Window:
    """The part of the plane that is drawn.

    Attributes:
        low: least x and y.
        high: most x and y.
        names: of the axes.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    names: tuple[str, str] = ("x0", "x1")

    @property
    def equal(self) -> bool:
        """Whether a unit of x is as long as one of y."""
        return 1 / _UNEQUAL <= self._ratio <= _UNEQUAL

    @property
    def height(self) -> float:
        """Of the axes, in widths."""
        return min(_TALL, max(_FLAT, self._ratio)) if self.equal else 1.0

    @property
    def _ratio(self) -> float:
        return (self.high[1] - self.low[1]) / (self.high[0] - self.low[0])

    def cells(self, side: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Midpoints of about side^2 cells, row by row from the upper left; rows and columns."""
        share = math.sqrt(self._ratio if self.equal else 1.0)
        down, across = round(side * share), round(side / share)
        x, y = (
            low + (np.arange(n) + 0.5) * ((high - low) / n)
            for low, high, n in zip(self.low, self.high, (across, down), strict=True)
        )
        right, up = np.meshgrid(x, y[::-1])
        return np.stack([right.ravel(), up.ravel()], 1), (down, across)

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Which points (n, 2) are drawn, (n,)."""
        return np.all((points >= np.array(self.low)) & (points <= np.array(self.high)), axis=1)


class _Canvas:
    """Axes of a window, with what is drawn on them by hand."""

    def __init__(self, window: Window) -> None:
        self.window = window
        height = _BELOW + window.height * (_WIDTH - _BESIDE)
        self.figure, self.axes = panel(_WIDTH, height)
        self.axes.grid(visible=False)
        self.axes.set_aspect("equal" if window.equal else "auto")
        self.axes.set_xlim(window.low[0], window.high[0])
        self.axes.set_ylim(window.low[1], window.high[1])
        self.axes.locator_params(nbins=6)
        self.axes.ticklabel_format(useOffset=False, scilimits=(-4, 5))
        self.axes.set_xlabel(window.names[0], color=MUTED, fontsize=10)
        self.axes.set_ylabel(window.names[1], color=MUTED, fontsize=10)
        (left, low), (right, high) = self.at(np.array([window.low, window.high]))
        size = f'width="{right - left:.1f}" height="{low - high:.1f}"'
        self.place = f'x="{left:.1f}" y="{high:.1f}" {size}'
        self.drawn = ""

    def at(self, points: np.ndarray) -> np.ndarray:
        """Where points lie, in CSS pixels."""
        return places(self.figure, self.axes, points)

    def dots(self, points: np.ndarray, color: str, opacity: float) -> None:
        """Points (n, 2), of which those inside are drawn."""
        d = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in self.at(points[self.window.inside(points)]))
        width = 2.2 if len(points) > _MANY else 3.2
        style = f'stroke="{color}" stroke-width="{width}" stroke-linecap="round"'
        self.drawn += f'<path d="{d}" {style} opacity="{opacity}" fill="none"/>'

    def svg(self, alt: str, key: int) -> Markup:
        return svg(self.figure, alt, key, self.drawn)


def shades(window: Window, density: np.ndarray, top: float, alt: str, key: int) -> Markup:
    """A density of cells, (rows, columns), its root as shades; `top` has the strongest."""
    canvas, name = _Canvas(window), _name(alt, key)
    known = np.isfinite(density) & (0 < top < np.inf)  # exp of a log-density may be 0 or infinite
    share = np.divide(density, top, out=np.isposinf(density) * 1.0, where=known)
    strength = np.rint(255 * np.sqrt(np.clip(share, 0, 1)))
    picture = f'<image {canvas.place} preserveAspectRatio="none" href="{_png(strength)}"/>'
    canvas.drawn = _masked(name, canvas.place, picture)
    return canvas.svg(alt, key)


def dots(window: Window, points: np.ndarray, color: str, alt: str, key: int) -> Markup:
    """Points (n, 2) in a colour."""
    canvas = _Canvas(window)
    canvas.dots(points, color, 0.6)
    return canvas.svg(alt, key)


def lines(
    window: Window,
    ground: np.ndarray,
    curves: Sequence[Curve],
    words: Sequence[Word],
    alt: str,
    key: int,
) -> Markup:
    """Curves in a model's colour over points (n, 2) as faint dots."""
    canvas, name = _Canvas(window), _name(alt, key)
    canvas.dots(ground, MUTED, 0.3)
    drawn = "".join(_curve(canvas.at(points), width) for points, width in curves)
    canvas.drawn += f'<clipPath id="{name}"><rect {canvas.place}/></clipPath>'
    canvas.drawn += f'<g clip-path="url(#{name})" stroke="{series(key)}" fill="none">{drawn}</g>'
    for x, y, text in words:
        point = np.array([[x, y]])
        if window.inside(point)[0]:
            ((right, down),) = canvas.at(point)
            where = f'x="{right:.1f}" y="{down + 4:.1f}" text-anchor="middle"'
            canvas.drawn += (
                f'<text class="named" {where} fill="{INK}">{Markup.escape(text)}</text>'
            )
    return canvas.svg(alt, key)


def scale(top: float) -> Markup:
    """What the shades mean: a bar."""
    from matplotlib.figure import Figure

    (wide, high), left = _BAR, 8.0
    place = f'x="{left}" y="1" width="{wide}" height="{high}"'
    stops = '<stop stop-color="#000"/><stop offset="1" stop-color="#fff"/>'
    drawn = f'<linearGradient id="ramp">{stops}</linearGradient>'
    drawn += _masked("bar", place, f'<rect {place} fill="url(#ramp)"/>')
    drawn += f'<rect {place} fill="none" stroke="{FAINT}"/>'
    for strength, more in ((0.0, ""), (0.5, ""), (1.0, " or more")):
        where = f'x="{left + strength * wide:.1f}" y="{high + 15}" text-anchor="middle"'
        text = significant(top * strength**2, 2) + more
        drawn += f'<text {where} font-size="12" fill="{MUTED}">{text}</text>'
    figure = Figure(figsize=(_WIDTH / 72, (high + 20) / 72), dpi=72)
    return svg(figure, f"Shades of densities from 0 to {significant(top, 2)} and more", 0, drawn)


def _masked(name: str, place: str, picture: str) -> str:
    """Two layers of the page's colours, the second seen where the picture is bright only."""
    mask = f'<mask id="{name}" maskUnits="userSpaceOnUse" {place}>{picture}</mask>'
    first = f'<g mask="url(#{name})"><rect {place} fill="var(--accent)"/></g>'
    second = f'<g mask="url(#{name})"><rect {place} fill="{INK}" opacity=".7"/></g>'
    return f'{mask}{first}<g mask="url(#{name})">{second}</g>'


def _png(grey: np.ndarray) -> str:
    """A grey picture as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _name(alt: str, key: int) -> str:
    """An id that no other figure of the page has, whose (alt, key) differs."""
    return "m" + hashlib.blake2b(f"{key} {alt}".encode(), digest_size=6).hexdigest()


def _curve(at: np.ndarray, width: float) -> str:
    """A path through places, broken where they are not finite; it ends far outside at most."""
    d, down = "", False
    for x, y in np.clip(at, -1e4, 1e4):
        known = math.isfinite(x) and math.isfinite(y)
        d += f"{'L' if down else 'M'}{x:.1f} {y:.1f}" if known else ""
        down = known
    return f'<path d="{d}" stroke-width="{width}"/>'
