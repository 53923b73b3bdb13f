"""Imputations: what a model puts into holes, and how sure it is of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from markupsafe import Markup
from torch import Tensor

from latently.data import Data, Mask
from latently.data.masks import MCAR, Half
from latently.errors import UserError
from latently.inference.imputation import Imputation, impute
from latently.interfaces.pictures import is_image_shape
from latently.interfaces.report.cells import Cells
from latently.interfaces.report.figures import recovered
from latently.interfaces.report.numbers import significant
from latently.interfaces.report.subject import Subject, shuffled
from latently.interfaces.report.walks import Strip

__all__ = ["Cell", "Filled", "Holes", "filled", "holes"]

_IMAGES = 6
_DRAWS = 4
_ROWS = 200  # of a table at most, to compare with what was hidden
_COMPARED = 3000  # cells of these rows, about; a fifth of them hidden
_CELLS = 12  # listed, of a table with holes of its own
_COLUMNS = 6  # drawn
_POINTS = 60  # in the figure of a column
_SAMPLES = 1000
_ROW_VALUES, _VALUES = 3_000_000, 20_000_000  # of all particles of a row, and of a table
_INTERVAL = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Holes:
    """Rows with holes, the same for all models of a report.

    Attributes:
        data: the rows, with their holes.
        rows: their numbers in the report's data, (n,).
        truth: the same rows before cells were hidden; None if the holes are their own.
        mask: what hid the cells, as an expression, "" likewise.
    """

    data: Data
    rows: Tensor
    truth: Data | None
    mask: str


@dataclass(frozen=True)
class Cell:
    """A missing cell of a table with what the model says of it.

    `value` is the median, or the likeliest value where quantiles say nothing; then there is no
    interval from `low` to `high`.
    """

    row: int
    column: str
    value: str
    low: str = ""
    high: str = ""


@dataclass(frozen=True)
class Filled:
    """The imputations of one model.

    Attributes:
        samples: particles per row; 0 where the model is exact.
        warnings: of the imputation.
        strips: of images: data, what the model saw, draws, mean, spread.
        heads: what stands above them, with its place in percent of the width.
        spread: the standard deviation shown as white.
        cells: of tables with holes of their own.
        figures: of tables with hidden cells, one per column.
        inside: hidden cells whose value lies in its 90 % interval; 0 where that says nothing.
        likeliest: hidden cells that hold what is likeliest; None for continuous data.
        nominal: values are names, or 0 and 1.
        count: hidden cells.
    """

    samples: int
    warnings: tuple[str, ...]
    strips: tuple[Strip, ...] = ()
    heads: tuple[tuple[float, str], ...] = ()
    spread: str = ""
    cells: tuple[Cell, ...] = ()
    figures: tuple[Markup, ...] = ()
    inside: int = 0
    likeliest: int | None = None
    nominal: bool = False
    count: int = 0


def holes(data: Data, mask: Mask | None, seed: int) -> Holes | None:
    """Rows to impute, drawn by seed; None if there is nothing to fill.

    Rows with holes of their own, or, where there are none or a mask is asked for, rows with cells
    hidden by it: by default half of an image, every fifth cell of a table.

    Raises:
        UserError: the mask asked for cannot be drawn on these rows.
    """
    image = is_image_shape(data.shape)
    if mask is None and data.missing:
        truth, hidden, most = None, data, _IMAGES if image else _CELLS
    else:
        mask = mask or (Half("lower") if image else MCAR(0.2))
        truth, hidden = data, data.hidden(mask, seed)
        most = _IMAGES if image else _enough(data)
    if hidden.mask is None:
        return None
    known = hidden.mask.flatten(1)
    rows = (known.any(1) & ~known.all(1)).nonzero()[:, 0]
    if not len(rows):
        return None
    rows = rows[shuffled(len(rows), seed, "imputations")[:most]].sort().values
    before = None if truth is None else truth.rows(rows)
    return Holes(hidden.rows(rows), rows, before, "" if truth is None else str(mask))


def filled(subject: Subject, made: Holes) -> Filled | None:
    """What the model puts into the holes; None if it cannot."""
    own = replace(made.data, context=subject.context(made.rows), conditions=None)
    try:
        found = impute(
            subject.model,
            own.to(subject.model.device),
            draws=_DRAWS,
            samples=_particles(made.data),
            quantiles=_INTERVAL,
            seed=subject.seed,
        )
    except (UserError, NotImplementedError):
        return None
    warnings = tuple(line.partition("; raise --")[0] for line in found.warnings)
    bare = Filled(found.samples, warnings, nominal=subject.nominal)
    if subject.frame is not None:
        return _strips(subject, made, found, bare)
    if made.truth is None:
        return replace(bare, cells=_cells(made, found, subject))
    return _recovered(subject, made, made.truth, found, bare)


def _enough(data: Data) -> int:
    """Rows of a table whose hidden cells show the coverage: fewer where rows are long."""
    size = math.prod(data.shape)
    most = max(_ROWS // 4, min(_ROWS, _COMPARED // size))
    return max(5, min(most, _VALUES // (_particles(data) * size)))


def _particles(data: Data) -> int:
    """Particles per row: fewer for long rows, which bounds memory and time."""
    return max(50, min(_SAMPLES, _ROW_VALUES // math.prod(data.shape)))


def _strips(subject: Subject, made: Holes, found: Imputation, bare: Filled) -> Filled:
    frame = subject.frame
    assert frame is not None
    seen = _blank(made.data)
    first = [seen] if made.truth is None else [_blank(made.truth), seen]
    spread = found.std.cpu().double()
    if len(made.data.shape) == 3:  # one shade for all channels of a pixel
        spread = spread.mean(1, keepdim=True).expand_as(spread)
    most = float(spread.nan_to_num(0.0, posinf=0.0).max())
    shade = frame.low + (frame.high - frame.low) * spread / (most or 1.0)
    shade = shade.masked_fill(found.mask.cpu(), math.nan)
    strips = []
    for i, row in enumerate(made.rows.tolist()):
        groups = [torch.stack([part[i] for part in first]), found.draws[:, i].cpu().double()]
        groups += [found.mean[i : i + 1].cpu().double(), shade[i : i + 1]]
        alt = f"{subject.name}: row {row} with holes, {_DRAWS} imputations, mean and spread"
        strips.append(Strip(f"row {row}", subject.label(row), frame.strip(groups, alt)))
    names = [["seen"] if made.truth is None else ["data", "seen"]]
    names += [["draw 1", *(str(k + 1) for k in range(1, _DRAWS))], ["mean"], ["spread"]]
    return replace(
        bare,
        strips=tuple(strips),
        heads=frame.heads(names),
        spread=significant(most, 2),
    )


def _blank(data: Data) -> Tensor:
    """The values, NaN where they are missing."""
    x = data.x.cpu().double()
    return x if data.mask is None else x.masked_fill(~data.mask.cpu(), math.nan)


def _cells(made: Holes, found: Imputation, subject: Subject) -> tuple[Cell, ...]:
    """Some missing cells, at most one of each row while there are enough rows."""
    missing = (~found.mask.flatten(1)).cpu()
    lines = found.quantiles.flatten(2).cpu().double()
    order = torch.rand(missing.shape, generator=torch.Generator().manual_seed(subject.seed))
    rank = order.masked_fill(~missing, -1).argsort(1, descending=True).argsort(1)
    at = [tuple(pair) for pair in missing.nonzero().tolist()]
    chosen = sorted(sorted(at, key=lambda cell: int(rank[cell]))[:_CELLS])
    mode = None if found.mode is None else found.mode.flatten(1).cpu()
    named = Cells.of(made.data)
    told = []
    for i, j in chosen:
        row, column = int(made.rows[i]), named.names[j]
        if mode is not None and (subject.nominal or named.nominal(j)):
            told.append(Cell(row, column, named.value(j, float(mode[i, j]))))
        else:
            parts = (named.rough(j, float(lines[q, i, j])) for q in (1, 0, 2))
            told.append(Cell(row, column, *parts))
    return tuple(told)


def _recovered(
    subject: Subject, made: Holes, before: Data, found: Imputation, bare: Filled
) -> Filled:
    """Hidden values against what the model says of them."""
    hidden = (~found.mask.flatten(1)).cpu()
    if before.mask is not None:
        hidden &= before.mask.flatten(1)
    truth = before.x.flatten(1).cpu().double()
    if found.mode is not None:
        right = (found.mode.flatten(1).cpu() == truth) & hidden
        bare = replace(bare, likeliest=int(right.sum()))
    if subject.nominal:
        return replace(bare, count=int(hidden.sum()))
    low, median, high = found.quantiles.flatten(2).cpu().double()
    inside = (low <= truth) & (truth <= high) & hidden
    columns = hidden.any(0).nonzero()[:, 0]
    chosen = columns[torch.linspace(0, len(columns) - 1, min(len(columns), _COLUMNS)).long()]
    drawn, names = [], Cells.of(made.data).names
    for j in chosen.tolist():
        at = hidden[:, j].nonzero()[:_POINTS, 0]
        parts = [part[at, j].numpy() for part in (truth, low, median, high)]
        drawn.append(recovered(names[j], *parts, name=subject.name, index=subject.index))
    return replace(bare, figures=tuple(drawn), inside=int(inside.sum()), count=int(hidden.sum()))
