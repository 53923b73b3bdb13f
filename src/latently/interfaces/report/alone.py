"""A column by itself: the log-probability of its cells where no other column is known.

    log p_j(x_j),    p_j the family of column j with the parameters of most likelihood

and of levels their shares in the rows, each with half a row more. What a model gains over this is
what it knows from the other columns, and from a better shape of the column's distribution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latently import expr
from latently.data import Data
from latently.data.tables.column import DISCRETE
from latently.errors import UserError
from latently.interfaces.report.cells import Cells
from latently.registry import components

__all__ = ["alone"]

_ROWS = 4000  # that parameters are fitted to
_STEPS = 40


def alone(data: Data, fitted_to: Data) -> Tensor:
    """log p_j of every cell, (n, D) in float64 and nats; NaN where missing, or not known.

    Args:
        data: rows of a table.
        fitted_to: the rows that the columns' parameters are found from.
    """
    cells = Cells.of(data)
    found = torch.full((len(data), len(cells.names)), math.nan, dtype=torch.float64)
    step = max(1, len(fitted_to) // _ROWS)
    for j in range(len(cells.names)):
        known, own = _observed(data, j), _observed(fitted_to, j)
        rows = known.nonzero()[:, 0]
        x, train = data.x[rows, j].double().cpu(), fitted_to.x[own, j].double().cpu()
        if not len(x) or not len(train):
            continue
        if cells.kind(j) in DISCRETE:
            found[rows, j] = _shares(train, cells.columns[j].levels).log()[x.long()]
        else:
            found[rows, j] = _scored(str(cells.columns[j].likelihood), x, train[::step])
    return found


def _observed(data: Data, j: int) -> Tensor:
    if data.mask is None:
        return torch.ones(len(data), dtype=torch.bool)
    return data.mask[:, j].cpu()


def _shares(codes: Tensor, levels: int) -> Tensor:
    counts = torch.bincount(codes.long(), minlength=levels).double() + 0.5
    return counts / counts.sum()


def _scored(likelihood: str, x: Tensor, train: Tensor) -> Tensor:
    """Log-density of x under the family's distribution of most likelihood; NaN without one."""
    try:
        family = expr.build(likelihood, components())((1,)).double()
        rows = train[:, None]
        family.initialise(rows)
        start = family.marginal(rows)
        start = torch.zeros(family.param_shape) if start is None else start
        h = _climbed(family, start.double(), rows)
        with torch.no_grad():
            found: Tensor = family(h).log_prob(x[:, None])
    except (UserError, TypeError, ValueError, RuntimeError):
        return torch.full_like(x, math.nan)
    return found.double()


def _climbed(family: torch.nn.Module, start: Tensor, rows: Tensor) -> Tensor:
    """Parameters of more likelihood than those to start from, by L-BFGS; else these."""

    def mean(h: Tensor) -> Tensor:
        value: Tensor = family(h).log_prob(rows).double().mean()
        return value

    h = start.clone().requires_grad_()
    climber = torch.optim.LBFGS([h], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        climber.zero_grad()
        value = -mean(h)
        value.backward()
        return value

    with torch.enable_grad():
        climber.step(loss)
    with torch.no_grad():
        return h.detach() if float(mean(h)) > float(mean(start)) else start
