"""Ways between rows through latent space: pairs of rows, and sheets between four."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.inference._codes import walked
from latently.inference.latent_space import sheet
from latently.interfaces.report.frame import Picture
from latently.interfaces.report.latents import Layer
from latently.interfaces.report.subject import Subject, shuffled
from latently.interfaces.report.walks import Strip, Walk

__all__ = ["Sheet", "between", "between_labels", "corners", "interpolations", "partners", "sheets"]

_PAIRS = 6  # interpolations
_ROUND = 2  # of them that go along a great circle, too
_STEPS = 8
_SIDE = 7  # rows a side of a sheet
_MOST_LABELS = 100


@dataclass(frozen=True)
class Sheet:
    """Means of p(x|z) between the codes of four rows.

    Attributes:
        picture: the sheet.
        rows: numbers of the rows at its corners, the upper two first.
        labels: the two labels above and below, "" where rows were drawn.
        context: all is decoded under the context of the first row.
    """

    picture: Picture
    rows: tuple[int, ...]
    labels: tuple[str, str]
    context: bool


def between(layer: Layer, a: int, b: int, steps: int, how: str = "linear") -> Tensor | None:
    """Latents from those of row a to those of row b, (steps, *Z); None where there is no way."""
    if _single(layer):
        return None
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    return walked(layer.centres[a], layer.centres[b], t, layer.kind, how)


def _single(layer: Layer) -> bool:
    """Whether there is one discrete latent, which has no values between two."""
    return layer.kind in ("categories", "levels") and layer.units == 1


def interpolations(subject: Subject) -> Walk | None:
    """Pairs of rows drawn by seed, and the means of p(x|z) on the way from one to the other.

    The first pairs are joined by a great circle, too, where latents take any value. Under a
    context both rows of a pair have the same one, if there are two such rows; it is held.
    """
    layer, frame, data = subject.only_layer, subject.frame, subject.data
    if frame is None or layer is None or layer.rows < 2:
        return None
    rounds = layer.kind == "real" and layer.size > 1
    strips = []
    for number, (a, b) in enumerate(partners(subject, layer.rows)):
        title, about = f"row {a} to {b}", between_labels(subject, a, b)
        ends = data.x[[a, b]].double()
        if data.mask is not None:
            ends = ends.masked_fill(~data.mask[[a, b]], math.nan)
        for how in ("linear", "spherical") if rounds and number < _ROUND else ("linear",):
            z = between(layer, a, b, _STEPS, how)
            means = None if z is None else subject.means(z, subject.context([a]))
            if means is None:
                return None
            line = "" if how == "linear" else " along a great circle"
            alt = f"{subject.name}: from row {a} to row {b} in {_STEPS} steps{line}"
            picture = frame.strip([ends[:1], means, ends[1:]], f"{alt}, between the rows")
            words = (title, about) if how == "linear" else ("the same rows,", "great circle")
            strips.append(Strip(*words, picture))
    heads = frame.heads([["row"], ["mean", *[""] * (_STEPS - 2), "mean"], ["row"]])
    switches = layer.kind in ("categories", "levels")
    context = data.context is not None
    return Walk(tuple(strips), heads, context=context, switches=switches, rounds=rounds)


def sheets(subject: Subject) -> Sheet | None:
    """A bilinear sheet between four rows; None where latents allow none, or rows are too few."""
    layer, frame, data = subject.only_layer, subject.frame, subject.data
    if frame is None or layer is None or _single(layer):
        return None
    found = corners(subject, layer.rows)
    if found is None:
        return None
    rows, labels = found
    t = torch.linspace(0, 1, _SIDE, dtype=torch.float64)
    z = sheet(layer.centres[list(rows)], layer.kind, t, "linear")
    means = subject.means(z, subject.context([rows[0]]))
    if means is None:
        return None
    alt = f"{subject.name}: means of p(x|z) on a sheet between rows {', '.join(map(str, rows))}"
    picture = frame.grid(means, alt, columns=_SIDE, dense=True)
    return Sheet(picture, rows, labels, data.context is not None)


def corners(subject: Subject, n: int) -> tuple[tuple[int, ...], tuple[str, str]] | None:
    """Four of the first n rows: of two labels two each, or any; and the labels.

    The labels are the two whose mean rows lie nearest, so that every model of a report has the
    same. Under a context the rows share that of the first, and there are no labels.
    """
    order = shuffled(n, subject.seed, "corners")
    data = subject.data
    if data.context is not None:
        context = data.context[:n]
        order = order[(context[order] == context[order[0]]).all(1)]
    elif data.labels is not None:
        pair = _nearest_labels(subject, n)
        if pair is not None:
            halves = [order[data.labels[order] == label][:2] for label in pair]
            names = [str(data.label_name(label)) for label in pair]
            return tuple(torch.cat(halves).tolist()), (names[0], names[1])
    return (tuple(order[:4].tolist()), ("", "")) if len(order) >= 4 else None


def _nearest_labels(subject: Subject, n: int) -> tuple[Tensor, Tensor] | None:
    """The two labels of two rows or more whose mean rows are nearest; None of fewer labels."""
    data = subject.data
    assert data.labels is not None
    labels, count = data.labels[:n].unique(return_counts=True)
    labels = labels[count > 1]
    if not 2 <= len(labels) <= _MOST_LABELS:
        return None
    x = data.x[:n].flatten(1).double()
    if data.mask is not None:
        x = x.masked_fill(~data.mask[:n].flatten(1), 0.0)
    means = torch.stack([x[data.labels[:n] == label].mean(0) for label in labels])
    apart = torch.cdist(means, means).fill_diagonal_(math.inf)
    a, b = divmod(int(apart.argmin()), len(means))
    return labels[a], labels[b]


def partners(subject: Subject, n: int) -> list[tuple[int, int]]:
    """Pairs of rows, drawn by seed; under a context each of two rows that share it, if any do."""
    order = shuffled(n, subject.seed, "interpolations").tolist()
    context = subject.context(slice(0, n))
    if context is None:
        return list(zip(order[0 : 2 * _PAIRS : 2], order[1 : 2 * _PAIRS : 2], strict=False))
    pairs = []
    for number, a in enumerate(order[:_PAIRS]):
        rest = order[number + 1 :] + order[:number]
        alike = [b for b in rest if torch.equal(context[a], context[b])]
        pairs.append((a, (alike or rest)[0]))
    return pairs


def between_labels(subject: Subject, a: int, b: int) -> str:
    """The labels of a pair, "" if there are none."""
    data = subject.data
    if data.labels is None:
        return ""
    return f"label {data.label_name(data.labels[a])} to {data.label_name(data.labels[b])}"
