"""How well a model predicts each column of a table from the others: errors, coverage, log scores.

Some observed cells are hidden and imputed, so that what stands there is known. Source of the
histograms of counts: Czado, Gneiting, Held, "Predictive model assessment for count data", 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from latently.data import Data, Mask
from latently.data.masks import MCAR
from latently.errors import UserError
from latently.inference.imputation import Imputation, impute
from latently.interfaces.report.alone import alone
from latently.interfaces.report.cells import Cells, seen_of
from latently.interfaces.report.numbers import DASH, error, plain, share, significant
from latently.interfaces.report.shapes import bar, drawing, line
from latently.interfaces.report.subject import Subject, shuffled
from latently.interfaces.report.surprise import surprises
from latently.interfaces.report.svg import PALETTE

__all__ = ["Fitted", "Hidden", "Scores", "hidden", "scores"]

_ROWS = 300  # at most, fewer of wide tables
_CELLS = 12_000  # of them together, about
_SAMPLES = 1000  # particles a row
_PARTICLES = 200  # of each cell, for its log score
_SCORED = 3000  # cells with a log score, about
_DRAWS = 100  # of which the probabilities of levels are told
_LEVELS = (0.05, *(k / 10 for k in range(1, 10)), 0.95)
_LEAST = 5  # hidden cells of a column, before anything is said of it
_DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Hidden:
    """Rows with hidden cells, the same for all models of a report.

    Attributes:
        rows: their numbers in the report's data.
        before: the rows as they were.
        after: the rows with some more cells missing.
        mask: what hid them, as an expression.
        centre: of each column what it is told without the others: mean, median or commonest level.
        alone: log p of each cell by its column's own distribution, (n, D), in nats.
        training: rows that a model was fitted to are among them.
    """

    rows: Tensor
    before: Data
    after: Data
    mask: str
    centre: np.ndarray
    alone: np.ndarray
    training: bool


@dataclass(frozen=True)
class Fitted:
    """What a model knows of one column.

    Attributes:
        name: of the column.
        kind: of the column.
        count: hidden cells.
        error: of what the model puts there, with its unit.
        ratio: that error over the one without a model, with its standard error.
        bar: the ratio, drawn.
        coverage: share of the hidden cells in their 90 % interval; of levels, how often the
            likeliest was right.
        told: of levels, the mean probability of the likeliest.
        histogram: where the hidden values lie among ten equally likely intervals.
        gain: nats per cell that the other columns are worth.
    """

    name: str
    kind: str
    count: int
    error: str
    ratio: tuple[str, str]
    bar: Markup
    coverage: tuple[str, str]
    told: str
    histogram: Markup
    gain: tuple[str, str]


@dataclass(frozen=True)
class Scores:
    """A model's columns, the best known ones first.

    Attributes:
        columns: one each.
        samples: particles of a row; 0 where the model is exact.
        scored: rows behind the log scores.
        gain: nats per row that the other columns are worth, with its standard error; "" where
            the model gives no log scores.
        warnings: of the imputation.
    """

    columns: tuple[Fitted, ...]
    samples: int
    scored: int
    gain: tuple[str, str]
    warnings: tuple[str, ...]


def hidden(
    data: Data, mask: Mask | None, seed: int, fitted_to: Sequence[str] = ()
) -> Hidden | None:
    """Rows with cells hidden by `mask`, or every fifth one; None of rows from no table.

    Args:
        data: the rows of the report.
        mask: what hides observed cells.
        seed: of the holes, and of the choice of rows.
        fitted_to: protocols of the rows that the models were fitted to.

    Raises:
        UserError: a mask that cannot be drawn on these rows.
    """
    if data.table is None or data.shape[0] < 2:
        return None
    mask = mask or MCAR(0.2)
    after = data.hidden(mask, seed)
    assert after.mask is not None
    known = after.mask.flatten(1)
    more = known if data.mask is None else known | ~data.mask.flatten(1)
    rows = (known.any(1) & ~more.all(1)).nonzero()[:, 0]
    most = max(50, min(_ROWS, _CELLS // data.shape[0]))
    rows = rows[shuffled(len(rows), seed, "predictive")[:most]].sort().values
    if not len(rows):
        return None
    before = data.rows(rows)
    return Hidden(
        rows=rows,
        before=before,
        after=after.rows(rows),
        mask=str(mask),
        centre=_centres(after),
        alone=alone(before, data).numpy(),
        training=any(_same_rows(data.protocol, name) for name in fitted_to),
    )


def _same_rows(protocol: str, fitted_to: str) -> bool:
    """Whether the rows of one protocol hold those of another.

    >>> _same_rows("a.csv", "a.csv without validation"), _same_rows("a/test", "a/train")
    (True, False)
    """
    if protocol.endswith(("/train", "/train+val")):
        return fitted_to.partition("/")[0] == protocol.partition("/")[0]
    return fitted_to == protocol or fitted_to.startswith((f"{protocol} ", f"{protocol}/"))


def _centres(data: Data) -> np.ndarray:
    cells, (x, seen) = Cells.of(data), seen_of(data)
    found = np.zeros(x.shape[1])
    for j in range(x.shape[1]):
        values = x[seen[:, j], j]
        if len(values):
            found[j] = _centre(cells, j, values)
    return found


def _centre(cells: Cells, j: int, values: np.ndarray) -> float:
    if cells.nominal(j):
        levels, counts = np.unique(values, return_counts=True)
        return float(levels[counts.argmax()])
    if cells.levels(j):
        return float(np.quantile(values, 0.5, method="lower"))
    return float(values.mean())


def scores(subject: Subject, made: Hidden) -> Scores | None:
    """What the model knows of each column; None of models that do not impute."""
    own = replace(made.after, context=subject.context(made.rows), conditions=None)
    try:
        found = impute(
            subject.model,
            own.to(subject.model.device),
            draws=_DRAWS,
            samples=_SAMPLES,
            quantiles=_LEVELS,
            seed=subject.seed,
        )
    except (UserError, NotImplementedError):
        return None
    gains = _gains(subject, made)
    cells, (truth, seen) = Cells.of(made.before), seen_of(made.before)
    lacking = seen & ~seen_of(made.after)[1]
    columns = []
    for j in range(truth.shape[1]):
        at = np.flatnonzero(lacking[:, j])
        if len(at) >= _LEAST:
            told = _Column(cells, j, truth[at, j], made.centre[j], at, found)
            columns.append((told, _fitted(told, _mean(gains[:, j]), subject.index)))
    columns.sort(
        key=lambda pair: pair[0].ratio[0] if math.isfinite(pair[0].ratio[0]) else math.inf
    )
    whole = np.nansum(gains, 1)[np.isfinite(gains).any(1)]
    warnings = tuple(line.partition("; raise --")[0] for line in found.warnings)
    return Scores(
        tuple(one for _, one in columns),
        found.samples,
        len(gains),
        _signed(_mean(whole)),
        warnings,
    )


def _gains(subject: Subject, made: Hidden) -> np.ndarray:
    """log p(x_j | x_others) - log p_j(x_j) of cells of some rows, (m, D); NaN where missing."""
    size = max(20, min(len(made.rows), _SCORED // made.alone.shape[1]))
    part = torch.linspace(0, len(made.rows) - 1, min(size, len(made.rows))).round().long()
    own = replace(
        made.before.rows(part), context=subject.context(made.rows[part]), conditions=None
    )
    found = surprises(subject, own, _PARTICLES, 1)
    if found is None:
        return np.full((0, made.alone.shape[1]), math.nan)
    known = seen_of(own)[1]
    gains: np.ndarray = -found.values.flatten(1).double().cpu().numpy() - made.alone[part.numpy()]
    gains[~known | ~np.isfinite(gains)] = math.nan
    return gains


class _Column:
    """The hidden cells of one column against what a model puts there."""

    def __init__(
        self,
        cells: Cells,
        j: int,
        truth: np.ndarray,
        centre: float,
        at: np.ndarray,
        found: Imputation,
    ) -> None:
        self.cells, self.j, self.truth = cells, j, truth
        self.lines = found.quantiles[:, at, j].double().cpu().numpy()
        self.draws = found.draws[:, at, j].double().cpu().numpy()
        put = self.lines[_LEVELS.index(0.5)]
        if cells.nominal(j):
            put = _commonest(self.draws) if found.mode is None else _numpy(found.mode[at, j])
        elif not cells.levels(j):
            put = _numpy(found.mean[at, j])
        self.put = put
        self.own, self.bare = self._apart(put), self._apart(np.full(len(truth), centre))

    def _apart(self, values: np.ndarray) -> np.ndarray:
        """What each value costs: wrong or right, levels apart, or squared differences."""
        if self.cells.nominal(self.j):
            return (values != self.truth).astype(float)
        far = np.abs(values - self.truth)
        return far if self.cells.levels(self.j) else far**2

    @property
    def squared(self) -> bool:
        return not self.cells.levels(self.j)

    @property
    def ratio(self) -> tuple[float, float]:
        """Error over the one of the centre, with its standard error by linearisation."""
        below = self.bare.mean()
        if not below > 0:
            return math.nan, math.nan
        ratio = self.own.mean() / below
        spread = (self.own - ratio * self.bare).std(ddof=1) / (below * math.sqrt(len(self.own)))
        if not self.squared:
            return float(ratio), float(spread)
        root = math.sqrt(ratio)
        return root, float(spread / (2 * root)) if root > 0 else math.nan

    @property
    def inside(self) -> np.ndarray:
        """Whether each cell lies in its 90 % interval; of names, whether the mode is right."""
        if self.cells.nominal(self.j):
            return self.put == self.truth
        return (self.lines[0] <= self.truth) & (self.truth <= self.lines[-1])

    @property
    def histogram(self) -> np.ndarray:
        """Shares of the hidden values in ten equally likely intervals; ties are shared out."""
        inner = self.lines[1:-1]
        low, high = (inner < self.truth).sum(0), (inner <= self.truth).sum(0)
        found = np.zeros(10)
        for a, b in zip(low, high, strict=True):
            found[a : b + 1] += 1 / (b - a + 1)
        shares: np.ndarray = found / len(self.truth)
        return shares


def _fitted(of: _Column, gain: tuple[float, float], index: int) -> Fitted:
    nominal, color, name = of.cells.nominal(of.j), f"s{index % PALETTE}", of.cells.names[of.j]
    ratio, spread = of.ratio
    inside = of.inside
    right = float(inside.mean())
    missed = 100 * math.sqrt(right * (1 - right) / len(inside))
    says = float((of.draws == of.put).mean()) if nominal else math.nan
    return Fitted(
        name=name,
        kind=of.cells.kind(of.j),
        count=len(of.truth),
        error=_error(of),
        ratio=(plain(ratio), error(spread) if math.isfinite(spread) else ""),
        bar=_ratio(
            ratio, spread, color, f"{name}, error against the column alone: {plain(ratio)}"
        ),
        coverage=(share(right), f"± {plain(missed, 0)}" if missed >= 0.5 else ""),
        told=share(says) if nominal else "",
        histogram=Markup("")
        if nominal
        else _calibration(of.histogram, len(of.truth), color, name),
        gain=_signed(gain),
    )


def _error(of: _Column) -> str:
    """The error in its own unit."""
    mean = float(of.own.mean())
    if of.cells.nominal(of.j):
        return f"{share(mean)} wrong"
    if of.cells.levels(of.j):
        return f"{significant(mean)} levels"
    if of.cells.kind(of.j) == "datetime":
        return f"RMSE {significant(math.sqrt(mean) / _DAY)} days"
    return f"RMSE {significant(math.sqrt(mean))}".replace(",", "")


def _ratio(ratio: float, spread: float, color: str, alt: str) -> Markup:
    """A bar up to the ratio, a line at 1, and two standard errors."""
    if not math.isfinite(ratio):
        return Markup("")
    unit, most = 56.0, 96.0
    end = min(most, unit * ratio)
    parts = [bar(0, 4, end, 8, color, opacity=0.75), line(unit, 1, unit, 15, "ink")]
    if math.isfinite(spread):
        low, high = (min(most, max(0.0, unit * (ratio + s * spread))) for s in (-2, 2))
        parts.append(line(low, 8, high, 8, "ink", width=1.2))
    return drawing(most, 16, parts, alt, least=72)


def _calibration(shares: np.ndarray, count: int, color: str, name: str) -> Markup:
    """Ten bars that should be even, and the height of even ones."""
    most = max(0.3, float(shares.max()))
    parts = [
        bar(8 * k, 22 - 22 * value / most, 7, 22 * value / most, color, opacity=0.75)
        for k, value in enumerate(shares)
    ]
    even = 22 - 22 * 0.1 / most
    alt = f"{name}: shares of {count} hidden values in ten equally likely intervals, "
    alt += ", ".join(f"{value:.2f}" for value in shares)
    return drawing(80, 22, [*parts, line(0, even, 80, even, "ink")], alt, least=64)


def _mean(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return math.nan, math.nan
    return float(known.mean()), float(known.std(ddof=1) / math.sqrt(len(known)))


def _signed(value: tuple[float, float]) -> tuple[str, str]:
    if not math.isfinite(value[0]):
        return DASH, ""
    return plain(value[0], sign=True), error(value[1])


def _numpy(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.double().cpu().numpy()
    return found


def _commonest(draws: np.ndarray) -> np.ndarray:
    return _numpy(torch.from_numpy(draws).mode(0).values)
