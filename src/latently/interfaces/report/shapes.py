"""Small figures drawn by hand: bars, lines and words as SVG in the colours of the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from markupsafe import Markup

__all__ = ["band", "bar", "cut", "dot", "drawing", "line", "steps", "words"]


def drawing(
    width: float, height: float, parts: Sequence[str], alt: str, *, least: int = 0
) -> Markup:
    """An `<svg>` of so many CSS pixels that shrinks with the page, no further than `least`."""
    low = f"min-width:{least}px;" if least else ""
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}"'
    return Markup(f'{head} style="{low}max-width:{width:g}px">{"".join(parts)}</svg>')


def words(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 11,
    anchor: str = "start",
    color: str = "ink",
    bold: bool = False,
) -> str:
    """Text whose base line is at y."""
    weight = ' font-weight="650"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"'
    return f'<text {place} fill="var(--{color})"{weight}>{escape(text)}</text>'


def bar(
    x: float, y: float, width: float, height: float, color: str, *, opacity: float = 1.0
) -> str:
    """A filled rectangle; none of no size."""
    if width <= 0 or height <= 0:
        return ""
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    faded = f' opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<rect {size} fill="var(--{color})"{faded}/>'


def line(
    x0: float, y0: float, x1: float, y1: float, color: str = "muted", *, width: float = 1
) -> str:
    """A straight line."""
    ends = f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"
    return f'<path d="{ends}" fill="none" stroke="var(--{color})" stroke-width="{width:g}"/>'


def steps(
    edges: Sequence[float], heights: Sequence[float], ground: float, color: str, *, dashed: bool
) -> str:
    """The outline of a histogram; heights are places, those of empty bins at `ground`."""
    path = f"M{edges[0]:.1f} {ground:.1f}"
    for left, right, y in zip(edges[:-1], edges[1:], heights, strict=True):
        path += f"L{left:.1f} {y:.1f}L{right:.1f} {y:.1f}"
    path += f"L{edges[-1]:.1f} {ground:.1f}"
    dash = ' stroke-dasharray="3.5 2.5"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="var(--{color})" stroke-width="1.5"{dash}/>'


def band(points: Sequence[tuple[float, float]], color: str) -> str:
    """A line through points."""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="var(--{color})" stroke-width="1.5"/>'


def dot(x: float, y: float, color: str, *, hollow: bool = False, radius: float = 3.4) -> str:
    """A point; a hollow one is a ring with the page's colour inside."""
    fill = "page" if hollow else color
    edge = f' stroke="var(--{color})" stroke-width="1.6"' if hollow else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="var(--{fill})"{edge}/>'


def cut(text: str, length: int) -> str:
    """Text of so many characters at most.

    >>> cut("Married-civ-spouse", 10)
    'Married-c…'
    """
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
