"""The strangest rows of a table: which of their cells make them strange, and what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latently.data import Data
from latently.errors import UserError
from latently.inference.attribution import Attribution
from latently.inference.imputation import Imputation, impute
from latently.interfaces.report.cells import Cells
from latently.interfaces.report.numbers import plain, share
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.surprise import surprises

__all__ = ["Odd", "Strange", "Typical", "strangest", "typical"]

_ROWS = 6
_CELLS = 4  # of a row, at most
_ODD = 1.0  # nats above the usual from which a cell is told of
_SAMPLES = 1000  # particles a row
_USUAL = 50  # of which is told what surprise is usual: an error of 0.1 nats
_DRAWS = 200  # of which the probabilities of levels are told
_INTERVAL = (0.05, 0.5, 0.95)
_VALUES = 10  # of a typical row


@dataclass(frozen=True)
class Odd:
    """A cell that the rest of its row did not lead to expect.

    Attributes:
        name: of the column.
        value: as the table has it.
        expected: the median, or the likeliest level.
        range: the 90 % interval, or the probability of that level and of the one that is there.
        surprise: -log p(x_j|x_others) in nats.
        excess: the same, less what it is on average; the order of cells.
    """

    name: str
    value: str
    expected: str
    range: str
    surprise: str
    excess: str


@dataclass(frozen=True)
class Strange:
    """A row of least log p(x).

    Attributes:
        row: its number.
        label: its label, "" without.
        value: log p(x) in nats.
        cells: the most surprising ones; () where the model does not tell.
    """

    row: int
    label: str
    value: str
    cells: tuple[Odd, ...]


@dataclass(frozen=True)
class Typical:
    """A row of most log p(x): its number, label and log p(x), and its first values by name."""

    row: int
    label: str
    value: str
    cells: tuple[tuple[str, str], ...]


def strangest(subject: Subject, values: Tensor) -> tuple[Strange, ...]:
    """The rows of least log p(x), the strangest first, with their most surprising cells.

    Args:
        subject: a model with a density, and rows of a table.
        values: log p(x) of each row, (n,).
    """
    order = torch.nan_to_num(values, nan=-math.inf).argsort(stable=True)[:_ROWS].cpu()
    part = replace(subject.data.rows(order), conditions=None)
    odd = _odd(subject, part)
    return tuple(
        Strange(int(row), _label(subject.data, int(row)), plain(float(values[row])), odd[i])
        for i, row in enumerate(order)
    )


def typical(data: Data, values: Tensor) -> tuple[Typical, ...]:
    """The rows of most log p(x), the most typical first; none where there is one row alone.

    Rows with holes have a density of fewer cells, mostly a higher one: of rows that lack unlike
    many, those that lack least compete, a quarter of all at least.
    """
    cells, most = Cells.of(data), min(_ROWS, len(data) - 1)
    score = torch.nan_to_num(values, nan=-math.inf)
    if data.mask is not None:
        lacks = (~data.mask).flatten(1).sum(1)
        least = lacks.sort().values[min(len(lacks) - 1, max(_ROWS, len(lacks) // 4))]
        score = torch.where(lacks.to(score.device) <= least, score, -math.inf)
    order = score.argsort(descending=True, stable=True)
    found = []
    for row in order[: max(0, most)].tolist():
        x = data.x[row].flatten()
        seen = torch.ones_like(x, dtype=torch.bool) if data.mask is None else data.mask[row]
        shown = [
            (cells.names[j], cells.value(j, float(x[j])) if seen[j] else "")
            for j in range(min(_VALUES, len(x)))
        ]
        found.append(Typical(row, _label(data, row), plain(float(values[row])), tuple(shown)))
    return tuple(found)


def _label(data: Data, row: int) -> str:
    return "" if data.labels is None else data.label_name(data.labels[row])


def _odd(subject: Subject, part: Data) -> list[tuple[Odd, ...]]:
    """The most surprising cells of each of some rows."""
    nothing: list[tuple[Odd, ...]] = [() for _ in range(len(part))]
    found = surprises(subject, part, _SAMPLES, _USUAL)
    pairs = [] if found is None else _pairs(found)
    if found is None or not pairs:
        return nothing
    try:
        expected = impute(
            subject.model,
            _without(part, pairs).to(subject.model.device),
            draws=_DRAWS,
            samples=_SAMPLES,
            quantiles=_INTERVAL,
            seed=subject.seed,
        )
    except (UserError, NotImplementedError):
        return nothing
    cells = Cells.of(part)
    told: list[list[Odd]] = [[] for _ in range(len(part))]
    for place, (i, j) in enumerate(pairs):
        value = float(part.x[i, j])
        likely = math.exp(-float(found.values[i, j]))
        first, second = _expected(cells, j, place, value, likely, expected)
        nats = found.values[i, j], found.excess[i, j]
        surprise = [plain(float(value), 1) for value in nats]
        told[i].append(Odd(cells.names[j], cells.value(j, value), first, second, *surprise))
    return [tuple(row) for row in told]


def _pairs(found: Attribution) -> list[tuple[int, int]]:
    """The cells to tell of, row by row, the most surprising ones first, one if any is known."""
    return [
        (i, j)
        for i in range(len(found))
        for place, (j,) in enumerate(found.ranked(i, _CELLS))
        if not place or found.excess[i, j] >= _ODD
    ]


def _without(part: Data, pairs: Sequence[tuple[int, int]]) -> Data:
    """A row for each pair, with its cell missing, too."""
    rows = part.rows([i for i, _ in pairs])
    mask = torch.ones_like(rows.x, dtype=torch.bool) if rows.mask is None else rows.mask.clone()
    for place, (_, j) in enumerate(pairs):
        mask[place, j] = False
    return replace(rows, x=rows.x.masked_fill(~mask, 0), mask=mask)


def _expected(
    cells: Cells, j: int, place: int, value: float, likely: float, found: Imputation
) -> tuple[str, str]:
    """What was expected in place of a value of a certain probability, in two parts."""
    if cells.levels(j):
        draws = found.draws[:, place, j].cpu()
        likeliest = float(draws.mode().values)
        own = share((draws == likeliest).double().mean())
        of_value = f"; {cells.value(j, value)}: {share(likely)}" if value != likeliest else ""
        return cells.value(j, likeliest), own + of_value
    low, middle, high = (cells.rough(j, float(q)) for q in found.quantiles[:, place, j].cpu())
    return middle, f"{low} to {high}"
