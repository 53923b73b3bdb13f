"""Draws the pictures of docs/divergences.md and docs/out_of_distribution.md.

python docs/pictures.py             both, beside the pages
python docs/update.py --pictures    the same, and the others

On white, so that they can be read on a page of any colour. The second is drawn from
benchmarks/results/ood.json.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from latently.inference.divergences import fit_gaussian

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent
RESULT = DOCS.parent / "benchmarks" / "results" / "ood.json"
INK, MUTED, FAINT = "#222222", "#666666", "#dddddd"
TARGET, FORWARD, REVERSE = "#9a9a9a", "#0072b2", "#d55e00"  # told apart by colour-blind readers
IN, OUT = FORWARD, REVERSE
_POINTS = 600


def line_target() -> MixtureSameFamily:
    """Two modes on the line."""
    weights = Categorical(torch.tensor([0.6, 0.4]).double())
    return MixtureSameFamily(
        weights, Normal(torch.tensor([-2.5, 2.5]).double(), torch.tensor([0.7, 1.0]).double())
    )


def plane_target() -> MixtureSameFamily:
    """Two modes in the plane, of different shapes."""
    means = torch.tensor([[-2.0, -1.0], [2.0, 1.0]]).double()
    covariances = torch.tensor([[[1.0, 0.7], [0.7, 1.0]], [[0.9, -0.5], [-0.5, 0.7]]]).double()
    weights = Categorical(torch.tensor([0.5, 0.5]).double())
    return MixtureSameFamily(weights, MultivariateNormal(means, covariances))


def divergences(path: Path) -> None:
    """Gaussians fitted to two modes in both directions, and the divergences by their mean."""
    figure, (line, mean, plane) = _figure(3, 9.6, 3.0)
    _draw_line(line)
    _draw_means(mean)
    _draw_plane(plane)
    _save(figure, path)


def out_of_distribution(path: Path, result: dict[str, Any]) -> None:
    """log p(x) of pictures of the model's own set and of the other, one panel a model."""
    runs = result["runs"]
    figure, axes = _figure(len(runs), 2.6 * len(runs), 2.5)
    for axis, run in zip(axes, runs, strict=True):
        low, high = run["histogram"]["edges"]
        counts = run["histogram"]["counts"]
        own, other = run["model_of"], run["against"]
        edges = np.linspace(low, high, len(counts[own]) + 1)
        for name, colour in ((own, IN), (other, OUT)):
            axis.stairs(counts[name], edges, fill=True, color=colour, alpha=0.55, label=name)
        axis.set_title(f"{run['likelihood']}\nVAE of {own}", fontsize=9, color=INK)
        axis.set_xlabel("log p(x), nats", fontsize=8, color=MUTED)
        axis.set_yticks([])
        axis.locator_params(axis="x", nbins=4)
        axis.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
        axis.set_ylim(top=1.35 * max(max(c) for c in counts.values()))
    _save(figure, path)


def _figure(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, panels)))
    for axis in axes:
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axis.spines[side].set_color(MUTED)
        axis.tick_params(color=MUTED, labelcolor=MUTED, labelsize=8, length=3)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    """On white, in 64 colours: a third of the bytes."""
    from PIL import Image

    figure.savefig(path, dpi=110, facecolor="white")
    with Image.open(path) as drawn:
        small = drawn.convert("RGB").quantize(64)
    small.save(path, optimize=True)


def _draw_line(axis: Axes) -> None:
    target = line_target()
    x = torch.linspace(-6.5, 6.5, _POINTS, dtype=torch.float64)
    axis.fill_between(x, target.log_prob(x).exp(), color=TARGET, alpha=0.5, label="p")

    def draw(q: MultivariateNormal, colour: str, style: str, label: str) -> None:
        height = q.log_prob(x.unsqueeze(-1)).exp()
        axis.plot(x, height, style, color=colour, linewidth=1.6, label=label)

    draw(fit_gaussian(target).distribution, FORWARD, "-", "forward")
    for start, style in ((-2.5, "-"), (2.5, "--")):
        fit = fit_gaussian(target, direction="reverse", start=torch.tensor([start]))
        draw(fit.distribution, REVERSE, style, f"reverse, from {start:g}")
    axis.set_title("the fitted q", fontsize=9, color=INK)
    axis.set_ylim(0, 0.85)
    axis.set_yticks([])
    axis.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="upper left", ncols=2)


def _draw_means(axis: Axes) -> None:
    """Both divergences of q = N(m, 1) by m, on a grid."""
    target = line_target()
    m = torch.linspace(-6, 6, 241, dtype=torch.float64)
    z = torch.linspace(-16, 16, 4001, dtype=torch.float64)
    step, log_p = z[1] - z[0], target.log_prob(z)
    log_q = Normal(m.unsqueeze(-1), 1.0).log_prob(z)
    forward = (log_p.exp() * (log_p - log_q)).sum(-1) * step
    reverse = (log_q.exp() * (log_q - log_p)).sum(-1) * step
    axis.plot(m, forward, color=FORWARD, linewidth=1.6, label="KL(p || q), forward")
    axis.plot(m, reverse, color=REVERSE, linewidth=1.6, label="KL(q || p), reverse")
    axis.set_title("the divergences of N(m, 1), nats", fontsize=9, color=INK)
    axis.set_xlabel("m", fontsize=8, color=MUTED)
    axis.set_ylim(0, 16)
    axis.grid(axis="y", color=FAINT, linewidth=0.5)
    axis.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="upper center")


def _draw_plane(axis: Axes) -> None:
    target = plane_target()
    side = torch.linspace(-5, 5, 160, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    density = target.log_prob(grid).exp()
    axis.contourf(side, side, density, 7, cmap="Greys", alpha=0.6, vmax=1.4 * float(density.max()))
    _ellipses(axis, fit_gaussian(target).distribution, FORWARD, "-")
    for mean, style in zip(target.component_distribution.mean, ("-", "--"), strict=True):
        fit = fit_gaussian(target, direction="reverse", start=mean)
        _ellipses(axis, fit.distribution, REVERSE, style)
    axis.set_title("the same in the plane", fontsize=9, color=INK)
    axis.set_aspect("equal")


def _ellipses(axis: Axes, q: MultivariateNormal, colour: str, style: str) -> None:
    """One and two deviations."""
    turn = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    circle = torch.stack([turn.cos(), turn.sin()], -1)
    for size in (1, 2):
        x, y = (q.mean + size * circle @ q.scale_tril.T).T
        axis.plot(x, y, style, color=colour, linewidth=1.5 if size == 1 else 0.9)


def main() -> None:
    """Both pictures."""
    divergences(DOCS / "divergences.png")
    out_of_distribution(DOCS / "out_of_distribution.png", json.loads(RESULT.read_text("utf-8")))


if __name__ == "__main__":
    main()
