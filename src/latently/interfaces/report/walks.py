"""Walks through latent space, seen by the means of p(x|z): traversals, interpolations, a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.interfaces.report.frame import Picture
from latently.interfaces.report.latents import ACTIVE, prior_of
from latently.interfaces.report.numbers import plain, significant
from latently.interfaces.report.subject import Subject, shown_context, shuffled
from latently.probability.distributions import Factorized

__all__ = ["Manifold", "Strip", "Walk", "interpolations", "manifold", "traversals"]

_MOST = 8  # latents traversed
_STOPS = 9  # from -3 to 3 standard deviations
_REACH = 3.0
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
        by_kl: the strips say what each latent costs.
        context: a context was held.
    """

    strips: tuple[Strip, ...]
    heads: tuple[tuple[float, str], ...]
    start: str = ""
    by_kl: bool = False
    context: bool = False


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
    """The most active latents, each moved while the others stay at the posterior mean of a row.

    A latent moves through `mean + t sd`, t from -3 to 3, with the mean and the standard
    deviation of its posterior means over rows.
    """
    layer, frame = subject.only_layer, subject.frame
    if frame is None or layer is None or layer.activity is None:
        return None
    latents = [int(j) for j in layer.order if layer.activity[j] > ACTIVE][:_MOST]
    row = int(shuffled(layer.rows, subject.seed, "traversals")[0])
    z, where = layer.flat, torch.linspace(-_REACH, _REACH, _STOPS, dtype=torch.float64)
    walked = z[row].repeat(len(latents), _STOPS, 1)
    for number, j in enumerate(latents):
        walked[number, :, j] = z[:, j].mean() + where * z[:, j].std()
    if not latents:
        return None
    context = subject.context(slice(row, row + 1))
    means = subject.means(walked.reshape(-1, *layer.means.shape[1:]), context)
    if means is None:
        return None
    strips = [
        Strip(
            f"latent {j}",
            f"KL {plain(float(layer.kl[j]))}" if layer.kl is not None else "",
            frame.strip([images], f"{subject.name}: means of p(x|z) as latent {j} moves"),
        )
        for j, images in zip(latents, means.unflatten(0, (-1, _STOPS)), strict=True)
    ]
    heads = frame.heads([[significant(float(t)) for t in where]])
    return Walk(tuple(strips), heads, _called(subject, row), layer.kl is not None)


def interpolations(subject: Subject) -> Walk | None:
    """Pairs of rows drawn by seed, and the means of p(x|z) on the straight line between.

    Under a context both rows of a pair have the same one, if there are two such rows; it is held.
    """
    layer, frame, data = subject.only_layer, subject.frame, subject.data
    if frame is None or layer is None or layer.rows < 2:
        return None
    share = torch.linspace(0, 1, _STEPS, dtype=torch.float64)
    share = share.view(-1, *(1,) * (layer.means.dim() - 1))
    strips = []
    for a, b in _partners(subject, layer.rows):
        z = (1 - share) * layer.means[a] + share * layer.means[b]
        means = subject.means(z, subject.context(slice(a, a + 1)))
        if means is None:
            return None
        ends = data.x[[a, b]].double()
        if data.mask is not None:
            ends = ends.masked_fill(~data.mask[[a, b]], math.nan)
        alt = f"{subject.name}: from row {a} to row {b} in {_STEPS} steps, between the rows"
        picture = frame.strip([ends[:1], means, ends[1:]], alt)
        strips.append(Strip(f"row {a} to {b}", _labels(subject, a, b), picture))
    heads = frame.heads([["row"], ["mean", *[""] * (_STEPS - 2), "mean"], ["row"]])
    return Walk(tuple(strips), heads, context=data.context is not None)


def manifold(subject: Subject) -> Manifold | None:
    """The means of p(x|z) over a plane of latents, for images under a model with two latents."""
    layer, frame = subject.only_layer, subject.frame
    if frame is None or layer is None or layer.size != 2:
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


def _partners(subject: Subject, n: int) -> list[tuple[int, int]]:
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


def _labels(subject: Subject, a: int, b: int) -> str:
    data = subject.data
    if data.labels is None:
        return ""
    return f"label {data.label_name(data.labels[a])} to {data.label_name(data.labels[b])}"
