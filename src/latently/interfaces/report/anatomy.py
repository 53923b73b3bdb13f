"""What a density over the plane is made of: the components of a mixture, the grid of a flow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from latently.inference._mode import evaluating
from latently.interfaces.report import maps
from latently.interfaces.report.maps import Curve, Window, Word
from latently.interfaces.report.numbers import plain
from latently.interfaces.report.subject import Subject, shown_context
from latently.models import Mixture, Model
from latently.models.components._elliptical import Elliptical
from latently.probability.distributions.gaussian import Gaussian

__all__ = ["Anatomy", "anatomy", "ellipses", "warped"]

_TURN = np.linspace(0, 2 * np.pi, 91)
_WORDS = 12  # components whose weights are written
_RADII = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # of the grid's circles, in deviations of the base
_SPOKES = 24
_POINTS = 361  # of a circle, or a spoke, before the flow bends it


@dataclass(frozen=True)
class Anatomy:
    """What a model is made of.

    Attributes:
        kind: "components" or "grid".
        figure: the map.
        parts: how many components; 0 for a grid.
        words: whether their weights are written.
        under: the context of a grid, "" if there is none.
    """

    kind: str
    figure: Markup
    parts: int = 0
    words: bool = False
    under: str = ""


def anatomy(subject: Subject, window: Window, rows: np.ndarray) -> Anatomy | None:
    """Ellipses of a mixture, the warped grid of a flow, over rows (n, 2); None of other models."""
    if subject.model.invertible:
        return _grid(subject, window, rows)
    if isinstance(subject.model, Mixture) and isinstance(subject.model.parts, Elliptical):
        return _components(subject, subject.model, subject.model.parts, window, rows)
    return None


def _components(
    subject: Subject, model: Mixture, parts: Elliptical, window: Window, rows: np.ndarray
) -> Anatomy:
    """Ellipses: their lines are the wider, the larger their weight."""
    weights = model.weights.cpu().numpy()
    curves: list[Curve] = []
    words: list[Word] = []
    for k, weight in enumerate(weights.tolist()):
        mean, covariance = _moments(parts, k)
        width = 0.6 + 1.6 * weight / float(weights.max())
        curves += [(curve, width) for curve in ellipses(mean, covariance)]
        words.append((float(mean[0]), float(mean[1]), plain(weight)))
    words = words if len(words) <= _WORDS else []
    alt = f"{subject.name}: {len(weights)} components"
    figure = maps.lines(window, rows, curves, words, alt, subject.index)
    return Anatomy("components", figure, len(weights), bool(words))


def ellipses(mean: np.ndarray, covariance: np.ndarray) -> list[np.ndarray]:
    """Points (n, 2) at one and at two standard deviations from a mean (2,)."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(min=0))
    circle = np.stack([np.cos(_TURN), np.sin(_TURN)])
    return [(mean[:, None] + r * root @ circle).T for r in (1, 2)]


@torch.no_grad()
def _moments(parts: Elliptical, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (2,) and scatter (2, 2) of a component."""
    normal = parts.scatter.normal(k, (2,))
    covariance = torch.diag(normal.variance)
    if isinstance(normal, Gaussian):
        root, own = normal.parts()
        covariance = root.mT @ root + torch.diag(own)
    return normal.mean.cpu().numpy(), covariance.cpu().numpy()


def _grid(subject: Subject, window: Window, rows: np.ndarray) -> Anatomy:
    """The grid over rows, circles of whole deviations wider; given a context, the first row's."""
    context = subject.context(slice(0, 1))
    widths = [1.6 if r == round(r) else 0.7 for r in _RADII] + [0.7] * _SPOKES
    curves = list(zip(warped(subject.model, context), widths, strict=True))
    alt = f"{subject.name}: circles and spokes of the base space"
    figure = maps.lines(window, rows, curves, (), alt, subject.index)
    under = "" if context is None else shown_context(subject.data, context[0])
    return Anatomy("grid", figure, under=under)


def warped(model: Model, context: Tensor | None) -> np.ndarray:
    """Circles and spokes of the base space where the model puts them, (lines, points, 2)."""
    base = [_circle(r) for r in _RADII] + [_spoke(j) for j in range(_SPOKES)]
    eps = torch.from_numpy(np.concatenate(base)).to(model.device)
    own = None if context is None else context.expand(len(eps), -1).to(model.device)
    with evaluating(model):
        placed: np.ndarray = model.decode((eps,), own).double().cpu().numpy()
    return placed.reshape(-1, _POINTS, 2)


def _circle(radius: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, _POINTS)
    return radius * np.stack([np.cos(turn), np.sin(turn)], 1)


def _spoke(number: int) -> np.ndarray:
    turn, r = 2 * np.pi * number / _SPOKES, np.linspace(0, _RADII[-1], _POINTS)
    return np.stack([r * np.cos(turn), r * np.sin(turn)], 1)
