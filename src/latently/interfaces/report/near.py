"""Nearest rows in code space, and whether they have the label of the row they are near to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.data import Data
from latently.inference.latent_space import nearest
from latently.interfaces.report.frame import Picture
from latently.interfaces.report.kinds import bare
from latently.interfaces.report.latents import MAX_ROWS
from latently.interfaces.report.numbers import plain
from latently.interfaces.report.subject import Subject, shuffled
from latently.models import Mixture

__all__ = ["NEAREST", "Near", "Neighbour", "near", "same_label_in_data"]

NEAREST = 5
_QUERIES = 6  # fewer of large images
_SIDE = 64  # CSS pixels, about


@dataclass(frozen=True)
class Neighbour:
    """A row beside another.

    Attributes:
        row: its number.
        picture: what it looks like.
        distance: in standard deviations of the codes; "" of the row that was asked about.
        label: its label, "" if there is none.
        other: the label is not that of the row that was asked about.
    """

    row: int
    picture: Picture
    distance: str
    label: str
    other: bool


@dataclass(frozen=True)
class Near:
    """The neighbours of some rows under one model.

    Attributes:
        lines: a row, then its nearest; none for rows that are no images.
        rows: how many rows were searched.
        latents: numbers of a code that were compared.
        of: numbers of a code.
        same: share of neighbours with the row's own label, with its error; "" without labels.
    """

    lines: tuple[tuple[Neighbour, ...], ...]
    rows: int
    latents: int
    of: int
    same: str


def near(subject: Subject) -> Near | None:
    """The nearest rows of some, drawn by seed; None of models without codes, or of few rows.

    None of mixtures, whose components have a section of their own.
    """
    if not subject.layers or isinstance(bare(subject.model), Mixture):
        return None
    if subject.frame is None and subject.data.labels is None:
        return None  # nothing to show of them
    codes = torch.cat([layer.flat for layer in subject.layers], 1)
    if len(codes) < NEAREST + 2 or not bool(codes.isfinite().all()):
        return None
    if float(codes.std(0).max()) == 0:
        return None
    found = nearest(codes, codes, NEAREST + 1)
    index, distance = _others(found.index, found.distance)
    same = _same_label(subject.data, index)
    lines: list[tuple[Neighbour, ...]] = []
    if subject.frame is not None:
        beside = NEAREST + 1
        most = subject.frame.count(_QUERIES * beside, least=2 * beside) // beside
        asked = shuffled(len(codes), subject.seed, "neighbours")[:most].tolist()
        lines = [_line(subject, a, index[a], distance[a]) for a in asked]
    return Near(tuple(lines), len(codes), found.latents, found.of, same)


def same_label_in_data(data: Data) -> str:
    """The share of neighbours with the row's own label, by distance between the rows themselves.

    "" without labels, of rows with holes, and of tables, whose columns have units of their own.
    """
    x = data.x[:MAX_ROWS].flatten(1)
    if (
        data.labels is None
        or data.table is not None
        or data.mask is not None
        or len(x) < NEAREST + 2
    ):
        return ""
    found = torch.cdist(x, x).topk(NEAREST + 1, largest=False)
    return _same_label(data, _others(found.indices, found.values)[0])


def _others(index: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours without the row itself, which rows equal to it may have pushed off the list."""
    own = index == torch.arange(len(index))[:, None]
    own[:, -1] |= ~own.any(1)
    kept = (len(index), index.shape[1] - 1)
    return index[~own].view(kept), distance[~own].view(kept)


def _same_label(data: Data, index: Tensor) -> str:
    if data.labels is None:
        return ""
    labels = data.labels[: len(index)]
    share = (labels[index] == labels[:, None]).double().mean(1)
    stderr = 100 * float(share.std()) / math.sqrt(len(share))
    return f"{plain(100 * float(share.mean()), 1)} ± {plain(stderr, 1)} %"


def _line(
    subject: Subject, asked: int, index: Sequence[int] | Tensor, distance: Tensor
) -> tuple[Neighbour, ...]:
    own = _label(subject.data, asked)
    line = [Neighbour(asked, _picture(subject, asked), "", own, False)]
    for row, apart in zip([int(i) for i in index], distance.tolist(), strict=True):
        label = _label(subject.data, row)
        shown = plain(apart, 2)
        line.append(Neighbour(row, _picture(subject, row), shown, label, label != own))
    return tuple(line)


def _label(data: Data, row: int) -> str:
    return "" if data.labels is None else data.label_name(data.labels[row])


def _picture(subject: Subject, row: int) -> Picture:
    data, frame = subject.data, subject.frame
    assert frame is not None
    x = data.x[row : row + 1].double()
    if data.mask is not None:
        x = x.masked_fill(~data.mask[row : row + 1], math.nan)
    label = _label(data, row)
    return frame.one(
        x, f"row {row}" + (f", label {label}" if label else ""), side=_SIDE, most=_SIDE
    )
