"""The density over the plane, for rows of two continuous columns: what models say of every x."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from latently.data import Data
from latently.data.densities import Toy
from latently.data.toys import density_of
from latently.inference._mode import evaluating
from latently.inference.evidence import Evidence
from latently.inference.noise import derive, seeded
from latently.interfaces.report import maps
from latently.interfaces.report.anatomy import Anatomy, anatomy
from latently.interfaces.report.cells import Cells
from latently.interfaces.report.content import draws
from latently.interfaces.report.maps import Window
from latently.interfaces.report.numbers import decimals, error, plain
from latently.interfaces.report.subject import Subject, shuffled
from latently.interfaces.report.svg import MUTED, series
from latently.models import Model

__all__ = ["BOUND_DRAWS", "Shown", "Surface", "Truth", "surface"]

BOUND_DRAWS = 100  # of a point, by models whose density is a bound
_SIDE = {"exact": 160, "bound": 96}  # cells a side, about
_CONTEXTS = {"exact": 32, "bound": 10}  # different ones that a density is averaged over
_SHOWN = 2000  # rows, and draws
_BLOCK = 256  # points evaluated at a time
_MARGIN = 0.12  # beyond the rows, of their range
_TAIL = 5e-4  # of the rows that may lie outside on either side
_TOP = 0.99  # of the rows are where a density is below the strongest shade


@dataclass(frozen=True)
class Truth:
    """The density p that the rows were drawn from: what it is, a map, and its entropy in nats."""

    about: str
    figure: Markup
    entropy: str


@dataclass(frozen=True)
class Shown:
    """What is shown of one model.

    Attributes:
        index: of the model.
        name: of the model.
        kind: "exact" or "bound"; "" where there is no map of its density.
        density: that map, or why there is none.
        contexts: how many the density is averaged over; 0: none.
        conditional: the model is of p(x|c), and draws are under contexts of the rows.
        draws: a map of draws.
        outside: of them outside the map.
        anatomy: what the model is made of, None where that is no figure.
        lacks: an estimate of KL(p || model) with its error; "" where p is unknown.
        evidence: the kind of the log q(x) in it.
        given: "|label" where both densities are told the label.
    """

    index: int
    name: str
    kind: str
    density: Markup | str
    contexts: int
    conditional: bool
    draws: Markup
    outside: int
    anatomy: Anatomy | None
    lacks: str
    evidence: str
    given: str


@dataclass(frozen=True)
class Surface:
    """The section.

    Attributes:
        rows: a map of rows.
        shown: how many.
        of: of how many complete rows.
        outside: of those shown outside the map.
        truth: what they were drawn from, None where that is unknown.
        models: the models.
        scale: what the shades mean, "" where there are none.
        fitted: the rows are those of a training split.
        names: of the columns.
    """

    rows: Markup
    shown: int
    of: int
    outside: int
    truth: Truth | None
    models: tuple[Shown, ...]
    scale: Markup
    fitted: bool
    names: tuple[str, str] = ("x0", "x1")


@dataclass(frozen=True)
class _Map:
    """A density at the cells of a window, (rows, columns), averaged over so many contexts."""

    values: np.ndarray
    contexts: int = 0


def surface(
    subjects: Sequence[Subject], found: Sequence[Evidence | None], data: Data, seed: int
) -> Surface | None:
    """The section; None for rows of another shape, of counted values, or never complete.

    Models without a density, whose evidence is None, have no map.
    """
    whole = data.x if data.mask is None else data.x[data.mask.flatten(1).all(1)]
    if data.shape != (2,) or data.discrete or not len(whole):
        return None
    cells = Cells.of(data)
    if any(cells.levels(j) or cells.kind(j) == "count" for j in range(2)):
        return None
    x = whole.double().cpu().numpy()
    window, truth = _window(x, (cells.names[0], cells.names[1])), density_of(data)
    pairs = [(s, one) for s, one in zip(subjects, found, strict=True) if one is not None]
    made = [_density(subject, window) for subject, _ in pairs]
    known = [] if truth is None else [_true(truth, window)]
    top = _top([*known, *(m for m in made if isinstance(m, _Map))], window, x)
    shown = x[shuffled(len(x), seed, "surface")[:_SHOWN].sort().values.numpy()]
    return Surface(
        rows=maps.dots(window, shown, MUTED, f"{len(shown)} rows of the data", len(subjects)),
        shown=len(shown),
        of=len(x),
        outside=_outside(window, shown),
        truth=None if truth is None else _told(truth, known[0], window, top, len(subjects)),
        models=tuple(
            _shown(subject, evidence, density, window, shown, top)
            for (subject, evidence), density in zip(pairs, made, strict=True)
        ),
        scale=maps.scale(top) if top else Markup(""),
        fitted=data.protocol.endswith(("/train", "/train+val")),
        names=window.names,
    )


def _window(x: np.ndarray, names: tuple[str, str] = ("x0", "x1")) -> Window:
    """The range of rows (n, 2), but for a tail, with a margin."""
    low, high = np.quantile(x, [_TAIL, 1 - _TAIL], axis=0)
    flat = ~(high > low)
    low, high = np.where(flat, low - 0.5, low), np.where(flat, high + 0.5, high)
    wide = _MARGIN * (high - low)
    (left, down), (right, up) = (low - wide).tolist(), (high + wide).tolist()
    return Window((left, down), (right, up), names)


def _true(truth: Toy, window: Window) -> _Map:
    points, shape = window.cells(_SIDE["exact"])
    return _Map(truth.log_prob(points).exp().view(shape).numpy())


def _density(subject: Subject, window: Window) -> _Map | str:
    """A model's density over a window, or why there is none."""
    model, kind = subject.model, subject.model.density
    if kind is None:
        return "The model has no density."
    contexts, shares = _contexts(subject.data)
    if contexts is not None and len(contexts) > _CONTEXTS[kind]:
        return f"The rows have {len(contexts):,} different contexts, too many to average over."
    points, shape = window.cells(_SIDE[kind] if contexts is None else _SIDE[kind] * 2 // 3)
    x = torch.from_numpy(points).to(model.device, subject.data.x.dtype)
    inside = ~model.misfit(x)[0].any(1)
    log_p = torch.full((len(x), len(shares)), -math.inf, dtype=torch.float64)
    with torch.no_grad(), evaluating(model), seeded(derive(subject.seed, "surface"), model.device):
        for j, share in enumerate(shares):
            context = None if contexts is None else contexts[j].to(model.device)
            log_p[inside.cpu(), j] = math.log(share) + _log_prob(model, x[inside], context)
    density = log_p.logsumexp(1).exp().view(shape).numpy()
    return _Map(density, 0 if contexts is None else len(contexts))


def _log_prob(model: Model, x: Tensor, context: Tensor | None) -> Tensor:
    """log p(x), or its bound, of points (n, 2), (n,), under one context (C,)."""
    found = [torch.zeros(0, dtype=torch.float64)]
    for block in x.split(_BLOCK):
        own = None if context is None else context.expand(len(block), -1)
        found.append(model.log_prob(block, context=own, samples=BOUND_DRAWS).double().cpu())
    return torch.cat(found)


def _contexts(data: Data) -> tuple[Tensor | None, list[float]]:
    """The different contexts of the rows with their shares; of models that take none, [1]."""
    if data.context is None:
        return None, [1.0]
    found, count = data.context.unique(dim=0, return_counts=True)
    return found, (count / count.sum()).tolist()


def _top(made: Sequence[_Map], window: Window, x: np.ndarray) -> float:
    """A density that hardly a row exceeds, in the map where it is highest; 0 without maps."""
    inside = x[window.inside(x)]
    low, high = np.array(window.low), np.array(window.high)
    share = (inside - low) / (high - low)
    tops = []
    for one in made:
        down, across = one.values.shape
        column = np.minimum((share[:, 0] * across).astype(int), across - 1)
        row = np.minimum(((1 - share[:, 1]) * down).astype(int), down - 1)
        here = np.nan_to_num(one.values[row, column], posinf=0.0)
        tops.append(float(np.quantile(here, _TOP)) if len(here) else 0.0)
    return max(tops, default=0.0) or max((float(m.values.max()) for m in made), default=0.0)


def _told(truth: Toy, one: _Map, window: Window, top: float, key: int) -> Truth:
    alt = "The density that the rows were drawn from"
    figure = maps.shades(window, one.values, top, alt, key)
    return Truth(truth.about, figure, plain(truth.entropy, 4))


def _shown(
    subject: Subject,
    evidence: Evidence,
    made: _Map | str,
    window: Window,
    rows: np.ndarray,
    top: float,
) -> Shown:
    name, key = subject.name, subject.index
    drawn = draws(subject.model, subject.data, len(rows), subject.seed)[0].double().numpy()
    density: Markup | str = made if isinstance(made, str) else Markup("")
    if isinstance(made, _Map):
        density = maps.shades(window, made.values, top, f"{name}: density of the model", key)
    given, lacks = _lacks(subject, evidence)
    return Shown(
        index=key,
        name=name,
        kind=str(subject.model.density) if isinstance(made, _Map) else "",
        density=density,
        contexts=made.contexts if isinstance(made, _Map) else 0,
        conditional=subject.data.context is not None,
        draws=maps.dots(window, drawn, series(key), f"{name}: {len(drawn)} draws", key),
        outside=_outside(window, drawn),
        anatomy=anatomy(subject, window, rows),
        lacks=lacks,
        evidence=evidence.kind,
        given=given,
    )


def _outside(window: Window, points: np.ndarray) -> int:
    return int((~window.inside(points)).sum())


def _lacks(subject: Subject, evidence: Evidence) -> tuple[str, str]:
    """What both densities are told, and KL(p || model) by the rows of the evidence.

    `KL(p || q) = E_p[log p(x) - log q(x)]`, the mean of paired differences.
    """
    data, truth = subject.data, density_of(subject.data)
    by_label = data.conditions is not None and data.conditions.name == "label"
    if truth is None or data.mask is not None or (data.context is not None and not by_label):
        return "", ""
    if data.context is None:
        given, log_p = "", truth.log_prob(data.x.cpu())
    elif data.labels is None:
        return "", ""
    else:
        own = data.labels.cpu()[:, None]
        given, log_p = "|label", truth.log_parts(data.x.cpu()).gather(1, own)[:, 0]
    lacks = log_p - evidence.values.cpu()
    stderr = float(lacks.std() / math.sqrt(len(lacks))) if len(lacks) > 1 else math.nan
    return given, f"{plain(float(lacks.mean()), decimals(stderr))} {error(stderr)}"
