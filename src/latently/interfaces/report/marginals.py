"""Marginals of a table: what is observed, what models draw, and what they put into holes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

from latently.data import Data
from latently.errors import UserError
from latently.inference.imputation import impute
from latently.interfaces.report import apart
from latently.interfaces.report.cells import Cells, seen_of
from latently.interfaces.report.content import draws
from latently.interfaces.report.levels import Sample, of_levels, of_numbers
from latently.interfaces.report.numbers import plain, share
from latently.interfaces.report.subject import Subject, shuffled

__all__ = ["Marginal", "Marginals", "marginals"]

_MOST = 16  # columns
_DRAWS = 1000  # rows of each model
_ROWS = 128  # with holes, that are filled
_FILLED = 4  # times
_SAMPLES = 1000  # particles a row
_SEEN = 20_000  # observed cells of a column, at most


@dataclass(frozen=True)
class Marginal:
    """One column.

    Attributes:
        figure: of the observed values, of draws, of imputations.
        gaps: of each model that draws rows, its number and what is said of its draws.
    """

    figure: Markup
    gaps: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Marginals:
    """The columns that lack most or fit worst.

    Attributes:
        columns: those shown.
        of: how many there are.
        draws: rows drawn of each model.
        drawing: numbers of the models that draw rows.
        filling: of those that fill holes.
        rows: with holes, that were filled.
        filled: how often.
        seen: observed values of a column, at most.
    """

    columns: tuple[Marginal, ...]
    of: int
    draws: int
    drawing: tuple[int, ...]
    filling: tuple[int, ...]
    rows: int
    filled: int
    seen: int


def marginals(subjects: Sequence[Subject], data: Data, seed: int) -> Marginals | None:
    """Figures of the columns, the first where models fit worst or most is missing.

    None of rows from no table, and of images.
    """
    if data.table is None:
        return None
    cells, (x, seen) = Cells.of(data), seen_of(data)
    drawn = {
        s.index: draws(s.model, s.data, _DRAWS, s.seed)[0].flatten(1).double().cpu().numpy()
        for s in subjects
        if s.draws
    }
    rows = np.flatnonzero(~seen.all(1) & seen.any(1))
    rows = rows[shuffled(len(rows), seed, "marginals").numpy()[:_ROWS]]
    filled = {s.index: found for s in subjects if (found := _filled(s, rows)) is not None}
    samples = [_samples(cells, j, x, seen, drawn, filled, seen[rows]) for j in range(x.shape[1])]
    order = sorted(range(x.shape[1]), key=lambda j: -_worth(cells, j, samples[j], seen[:, j]))
    shown = [_marginal(cells, j, samples[j], seen[:, j]) for j in order[:_MOST]]
    return Marginals(
        columns=tuple(shown),
        of=x.shape[1],
        draws=_DRAWS,
        drawing=tuple(drawn),
        filling=tuple(filled),
        rows=len(rows),
        filled=_FILLED,
        seen=_SEEN,
    )


def _filled(subject: Subject, rows: np.ndarray) -> np.ndarray | None:
    """Draws of the missing cells of some rows, (draws, n, D); None of models that give none."""
    if not len(rows):
        return None
    part = subject.data.rows(rows)
    try:
        found = impute(
            subject.model,
            replace(part, conditions=None).to(subject.model.device),
            draws=_FILLED,
            samples=_SAMPLES,
            seed=subject.seed,
        )
    except (UserError, NotImplementedError):
        return None
    filled: np.ndarray = found.draws.flatten(2).double().cpu().numpy()
    return filled


def _samples(
    cells: Cells,
    j: int,
    x: np.ndarray,
    seen: np.ndarray,
    drawn: Mapping[int, np.ndarray],
    filled: Mapping[int, np.ndarray],
    of_rows: np.ndarray,
) -> list[Sample]:
    """What is observed of a column, then what each model draws, and puts into its holes."""
    own = x[seen[:, j], j]
    found = [Sample(own[:: max(1, len(own) // _SEEN)], None, "observed")]
    for index, values in drawn.items():
        found.append(Sample(cells.held(j, _finite(values[:, j])), index, "drawn"))
    if not of_rows[:, j].all():
        for index, values in filled.items():
            put = _finite(values[:, ~of_rows[:, j], j].reshape(-1))
            found.append(Sample(cells.held(j, put), index, "imputed"))
    return [found[0], *(sample for sample in found[1:] if len(sample.values))]


def _finite(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = values[np.isfinite(values)]
    return found


def _gaps(cells: Cells, j: int, samples: Sequence[Sample]) -> list[tuple[int, float, float]]:
    """Number of each model that draws, how far its draws are from the data, and what is chance."""
    own, nominal = samples[0].values, cells.nominal(j)
    return [
        (
            s.index or 0,
            apart.gap(own, s.values, nominal=nominal),
            apart.chance(own, s.values, nominal=nominal),
        )
        for s in samples
        if s.what == "drawn" and len(own)
    ]


def _worth(cells: Cells, j: int, samples: Sequence[Sample], seen: np.ndarray) -> float:
    """The share missing or the largest gap, whichever is more."""
    gaps = [gap for _, gap, _ in _gaps(cells, j, samples)]
    return max([1 - float(seen.mean()), *gaps])


def _marginal(cells: Cells, j: int, samples: Sequence[Sample], seen: np.ndarray) -> Marginal:
    lacking = float((~seen).mean())
    about = f"{share(lacking)} missing" if lacking else ""
    draw = of_levels if cells.levels(j) else of_numbers
    gaps = [
        (
            index,
            f"gap {plain(gap)}" + (f", chance up to {plain(by)}" if gap > by else ", as chance"),
        )
        for index, gap, by in _gaps(cells, j, samples)
        if not math.isnan(gap)
    ]
    return Marginal(draw(cells, j, samples, about), tuple(gaps))
