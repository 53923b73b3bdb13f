"""Walks through latent space, seen by the means of p(x|z): traversals, a grid over a plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.inference.latent_space import over_plane
from latently.interfaces.report.frame import Picture
from latently.interfaces.report.kinds import bare
from latently.interfaces.report.latents import prior_of
from latently.interfaces.report.numbers import plain, significant
from latently.interfaces.report.paths import moves, told
from latently.interfaces.report.subject import Subject, shown_context, shuffled
from latently.models import Mixture
from latently.probability.distributions import Factorized

__all__ = [
    "Manifold",
    "Strip",
    "Walk",
    "manifold",
    "traversals",
]

_SIDE = 15  # means a side of the grid over a latent plane
_GRID_VALUES = 1_000_000  # in that grid: bounds its time


@dataclass(frozen=True)
class Strip:
    """Images in a row, with what stands to their left in two lines.

    `index` is the number of the model that the row is of, whose colour is shown; -1 for none.
    """

    title: str
    about: str
    picture: Picture
    index: int = -1


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
        rounds: some strips go along a great circle.
    """

    strips: tuple[Strip, ...]
    heads: tuple[tuple[float, str], ...]
    start: str = ""
    how: str = ""
    by_kl: bool = False
    context: bool = False
    switches: bool = False
    rounds: bool = False


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


def manifold(subject: Subject) -> Manifold | None:
    """The means of p(x|z) over a plane of latents, for images under a model with two latents."""
    layer, frame = subject.only_layer, subject.frame
    if frame is None or layer is None or layer.size != 2 or layer.kind not in ("real", "range"):
        return None
    side = max(3, min(_SIDE, math.isqrt(_GRID_VALUES // math.prod(frame.shape))))
    context = subject.context(slice(0, 1))
    axes, prior = _quantiles(subject, side)
    z = over_plane(axes).reshape(-1, *layer.means.shape[1:])
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


def _called(subject: Subject, row: int) -> str:
    label = subject.label(row)
    return f"row {row} ({label})" if label else f"row {row}"
