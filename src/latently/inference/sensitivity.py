r"""Sensitivity: how far imputations hang on what was assumed of values that nobody saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.evidence import DataLike, as_evaluated
from latently.inference.imputation import SWEEPS, impute
from latently.inference.pareto import K_HAT_LIMIT

__all__ = ["Sensitivity", "sensitivity"]


@dataclass(frozen=True)
class Sensitivity:
    """How imputations move where the assumption on what is missing does.

    Attributes:
        tilts: d, by how many nats missing values were made likelier for each observed deviation.
        means: mean of the imputed cells of every column, (len(tilts), *shape), in data units; NaN
            where none was missing, and of unordered categories, whose codes have no mean.
        moves: by how many observed deviations the mean moves for each unit of d, (*shape), a
            least-squares slope; NaN likewise.
        names: of the columns of a table; None of other rows.
        heavy: rows whose weights were heavy (k-hat > 0.7) at some tilt.
    """

    tilts: tuple[float, ...]
    means: Tensor
    moves: Tensor
    names: tuple[str, ...] | None = None
    heavy: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """The column that hangs on the assumption most, and whether moves are understated."""
        column = int(torch.nan_to_num(self.moves.abs()).argmax())
        move = float(self.moves.flatten()[column])
        name = column if self.names is None else repr(self.names[column])
        found = (
            f"column {name}: its imputed mean moves by {move:+.2f} observed deviations where "
            "missing values are e times likelier for each deviation upwards than was assumed, "
            "which these data cannot rule out",
        )
        if not self.heavy:
            return found
        understated = (
            f"heavy importance weights (k-hat > {K_HAT_LIMIT}) in {self.heavy} rows: moves are "
            "understated; raise samples or sweeps, or tilt less"
        )
        return (*found, understated)


def sensitivity(
    model: Any,
    data: DataLike,
    *,
    tilts: Sequence[float] = (-0.5, 0.0, 0.5),
    samples: int = 1000,
    sweeps: int = SWEEPS,
    seed: int = 0,
) -> Sensitivity:
    r"""Imputes again as if missing values were higher, or lower, than what was fitted says.

        p_d(x_m | x_o, s) ~ p(x_m | x_o, s) exp(d sum_j u_j),

    u_j the missing numbers in observed deviations, for every d of `tilts`, with all first draws as
    they were. Observed values fit every d equally well, so that a table of results for a range of
    d says more than the result for one. Unordered categories have no u_j; what becomes of them is
    not told, though they may go with numbers. Source: Rotnitzky, Robins,
    Scharfstein, "Semiparametric Regression for Repeated Outcomes with Nonignorable Nonresponse",
    1998.

    Args:
        model: a fitted model of what is missing (`latently.not_random`).
        data: rows with holes.
        tilts: values of d, two or more.
        samples: particles per row.
        sweeps: most moves of the particles of a row where few of them count, as of `impute`.
        seed: of the draws.

    Raises:
        UserError: another model, fewer than two tilts, or some that are no finite numbers, or
            rows without holes.
    """
    if not hasattr(model, "tilted"):
        raise UserError(
            f"sensitivity is of models of what is missing, got {type(model).__name__}; build one "
            "by latently.not_random(model)"
        )
    tilts = _checked(tilts)
    data = as_evaluated(model, data)
    if data.mask is None or bool(data.mask.all()):
        raise UserError(f"sensitivity: {data.protocol} has no missing value, nothing can move")
    means, none, worst = [], torch.zeros(model.shape, dtype=torch.bool), []
    for by in tilts:
        with model.tilted(by):
            found = impute(
                model,
                data,
                draws=0,
                samples=samples,
                sweeps=sweeps,
                quantiles=(),
                cells=none,
                seed=seed,
            )
        lost = ~found.mask
        total = torch.where(lost, found.mean.double(), 0.0).sum(0)
        told = torch.where(model.numbers, total / lost.sum(0), torch.nan)
        means.append(told)  # 0 / 0: NaN, nothing was missing
        if found.k_hat is not None:
            worst.append(found.k_hat > K_HAT_LIMIT)
    stacked = torch.stack(means)
    d = torch.tensor(tilts, dtype=torch.float64).sub_(sum(tilts) / len(tilts))
    slopes = torch.tensordot(d, stacked.cpu(), 1) / d.square().sum()
    schema = getattr(data, "table", None)
    names = None if schema is None else schema.names
    heavy = int(torch.stack(worst).any(0).sum()) if worst else 0
    return Sensitivity(tilts, stacked, slopes / model.scale.cpu(), names, heavy)


def _checked(tilts: Sequence[float]) -> tuple[float, ...]:
    """Two numbers or more.

    Raises:
        UserError: other than that.
    """
    try:
        found = tuple(map(float, tilts))
    except (TypeError, ValueError):
        found = ()
    if len(set(found)) < 2 or not all(map(math.isfinite, found)):
        raise UserError(f"sensitivity: tilts={tilts!r} must hold two numbers or more, all finite")
    return found
