"""Walks through latent space, seen by the means of p(x|z): traversals, interpolations, a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.interfaces.report.frame import Picture
from latently.interfaces.report.kinds import bare
from latently.interfaces.report.latents import prior_of
from latently.interfaces.report.numbers import plain, significant
from latently.interfaces.report.paths import between, moves, told
from latently.interfaces.report.subject import Subject, shown_context, shuffled
from latently.models import Mixture
from latently.probability.distributions import Factorized

__all__ = [
    "Manifold",
    "Strip",
    "Walk",
    "between_labels",
    "interpolations",
    "manifold",
    "partners",
    "traversals",
]

_PAIRS = 6  # interpolations
_STEPS = 8
_SIDE = 15  # means a side of the grid over a latent plane
_GRID_VALUES = 1_000_000  # in that grid: bounds its time


@dataclass(frozen=True)
class Strip:
    """Images in a row, with what stands to their left in two lines."""

    title: str
    about: str
    picture: Picture


@dataclass(frozen=True)
class Walk:
    """Strips of one model.

    Attributes:
        strips: from top to bottom.
        heads: what stands above them, with its place in percent of the width.
        start: the row whose latents are held, in words, "" if there is none.
        how: how latents are moved, in words.
        by_kl: the strips say what each latent costs.
        context: a context was held.
        switches: discrete latents switch one after the other.
    """

    strips: tuple[Strip, ...]
    heads: tuple[tuple[float, str], ...]
    start: str = ""
    how: str = ""
    by_kl: bool = False
    context: bool = False
    switches: bool = False


@dataclass(frozen=True)
class Manifold:
    """Means of p(x|z) on a grid over a plane of latents.

    Attributes:
        picture: the grid, the first latent to the right, the second upwards.
        side: means a side.
        ends: the first and the last quantile, in percent.
        prior: whether the grid is made of quantiles of the prior; else of the posterior means.
        under: the context of all of them, in words, "" if there is none.
    """

    picture: Picture
    side: int
    ends: tuple[str, str]
    prior: bool
    under: str


def traversals(subject: Subject) -> Walk | None:
    """The most active latents, each moved while the others stay as they are in a row.

    None of mixtures, whose components have a section of their own.
    """
    layer, frame = subject.only_layer, subject.frame
    if frame is None or layer is None or layer.activity is None:
        return None
    if isinstance(bare(subject.model), Mixture):
        return None
    row = int(shuffled(layer.rows, subject.seed, "traversals")[0])
    paths, stops = moves(layer, row)
    if not paths:
        return None
    means = subject.means(torch.cat([path.z for path in paths]), subject.context([row]))
    if means is None:
        return None
    by_kl = layer.kl is not None and layer.kind != "shares"
    strips = []
    for path, images in zip(paths, means.unflatten(0, (len(paths), -1)), strict=True):
        cost = f"KL {plain(float(layer.kl[path.unit]))}" if by_kl else ""  # type: ignore[index]
        alt = f"{subject.name}: means of p(x|z) as {path.name} moves"
        strips.append(Strip(path.name, cost, frame.strip([images], alt)))
    start = _called(subject, row) if layer.units > 1 or layer.kind == "shares" else ""
    return Walk(tuple(strips), frame.heads([stops]), start, told(layer, len(strips)), by_kl)


def interpolations(subject: Subject) -> Walk | None:
    """Pairs of rows drawn by seed, and the means of p(x|z) on the way from one to the other.

    Under a context both rows of a pair have the same one, if there are two such rows; it is held.
    """
    layer, frame, data = subject.only_layer, subject.frame, subject.data
    if frame is None or layer is None or layer.rows < 2:
        return None
    strips = []
    for a, b in partners(subject, layer.rows):
        z = between(layer, a, b, _STEPS)
        means = None if z is None else subject.means(z, subject.context([a]))
        if means is None:
            return None
        ends = data.x[[a, b]].double()
        if data.mask is not None:
            ends = ends.masked_fill(~data.mask[[a, b]], math.nan)
        alt = f"{subject.name}: from row {a} to row {b} in {_STEPS} steps, between the rows"
        picture = frame.strip([ends[:1], means, ends[1:]], alt)
        strips.append(Strip(f"row {a} to {b}", between_labels(subject, a, b), picture))
    heads = frame.heads([["row"], ["mean", *[""] * (_STEPS - 2), "mean"], ["row"]])
    switches = layer.kind in ("categories", "levels")
    return Walk(tuple(strips), heads, context=data.context is not None, switches=switches)


def manifold(subject: Subject) -> Manifold | None:
    """The means of p(x|z) over a plane of latents, for images under a model with two latents."""
    layer, frame = subject.only_layer, subject.frame
    if frame is None or layer is None or layer.size != 2 or layer.kind not in ("real", "range"):
        return None
    side = max(3, min(_SIDE, math.isqrt(_GRID_VALUES // math.prod(frame.shape))))
    context = subject.context(slice(0, 1))
    axes, prior = _quantiles(subject, side)
    right, up = torch.meshgrid(axes[:, 0], axes[:, 1].flip(0), indexing="xy")
    z = torch.stack([right, up], -1).reshape(-1, *layer.means.shape[1:])
    means = subject.means(z, context)
    if means is None:
        return None
    alt = f"{subject.name}: means of p(x|z) on a grid of {side} by {side} latents"
    gap = 1 if max(frame.shape[-2:]) < 20 else 0  # small images run into one another
    return Manifold(
        frame.grid(means, alt, columns=side, gap=gap, dense=True),
        side,
        (significant(50 / side, 2), significant(100 - 50 / side, 3)),
        prior,
        "" if context is None else shown_context(subject.data, context[0]),
    )


def _quantiles(subject: Subject, side: int) -> tuple[Tensor, bool]:
    """Quantiles of each of two latents, (side, 2), and whether they are the prior's."""
    layer, context = subject.layers[0], subject.context(slice(0, 1))
    levels = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    context = None if context is None else context.to(subject.model.device)
    prior = prior_of(subject.model, context)
    if isinstance(prior, Factorized) and math.prod(prior.batch_shape) == 1:
        at = levels.to(subject.model.device).view(-1, *(1,) * (layer.means.dim() - 1))
        try:
            found = prior.icdf(at).detach().double().cpu()
            return found.expand(side, *layer.means.shape[1:]).flatten(1), True
        except NotImplementedError:
            pass
    return torch.quantile(layer.flat, levels, 0), False


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


def _called(subject: Subject, row: int) -> str:
    label = subject.label(row)
    return f"row {row} ({label})" if label else f"row {row}"


def between_labels(subject: Subject, a: int, b: int) -> str:
    """The labels of a pair, "" if there are none."""
    data = subject.data
    if data.labels is None:
        return ""
    return f"label {data.label_name(data.labels[a])} to {data.label_name(data.labels[b])}"
