"""Figures as inline SVG that takes its colours, and its font, from the page.

Drawn by matplotlib through its object interface: no pyplot, no window. Every colour is a
stand-in that becomes a CSS variable, so that one figure serves a light and a dark page.
"""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FAINT", "INK", "MUTED", "PALETTE", "panel", "places", "series", "svg"]

INK, MUTED, FAINT = "#010101", "#020202", "#030303"
PALETTE = 8  # colours in the page's style sheet
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", FAINT: "var(--faint)"}
_DROPPED = re.compile(
    r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|\s+xmlns(:xlink)?=\"[^\"]*\""
    r"|(?<=<g) id=\"[^\"]*\"",
    re.DOTALL,
)
_SIZE = re.compile(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>')


def series(index: int) -> str:
    """The stand-in colour of model number `index`."""
    return f"#0401{index % PALETTE:02x}"


def panel(width: float = 320, height: float = 190) -> tuple[Figure, Axes]:
    """One figure with one pair of axes in the style of the page; sizes in CSS pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=MUTED, labelsize=10, length=3)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def places(figure: Figure, axes: Axes, points: np.ndarray) -> np.ndarray:
    """Where data points (n, 2) lie in the figure, in CSS pixels from the upper left.

    What is drawn there by hand, as `more` of `svg`, takes a few bytes a point. Call it last: it
    holds for the axes as they are.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is known now, and stays
    at = axes.transData.transform(points)
    at[:, 1] = figure.bbox.height - at[:, 1]
    return at


def svg(figure: Figure, alt: str, key: int = 0, more: str = "") -> Markup:
    """The figure as an `<svg>` element that scales with the page and reads `alt` aloud.

    Figures of one page need different pairs (alt, key): the ids inside are made from them.
    `more` is drawn on top, in CSS pixels from the upper left; stand-ins for colours hold there.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": f"{key} {alt}"}
    ):  # restored on leaving
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = _DROPPED.sub("", text[text.index("<svg") :]).replace("xlink:href", "href")
    text = text.replace("</svg>", f"{more}</svg>")
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    text = re.sub(r"#0401([0-9a-f]{2})", lambda m: f"var(--s{int(m[1], 16)})", text)
    text = re.sub(r"\s*\n\s*", "\n", text).strip()
    label = html.escape(alt, quote=True)
    head = r'<svg viewBox="\1" role="img" aria-label="' + label.replace("\\", r"\\") + '">'
    return Markup(_SIZE.sub(head, text))  # matplotlib escapes the text it writes
