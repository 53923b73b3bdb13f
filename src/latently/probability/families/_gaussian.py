"""Raw parameters of a full covariance, shared by the families that have one.

Cell j is a regression on the cells before it, `u_j = m_j + sum_{i<j} phi_ji (u_i - m_i) + s_j e`:
the coefficients phi and the log deviations log s are free of any constraint, and
`W = (I - phi) / s` whitens a row. Source: Pourahmadi, "Joint Mean-Covariance Models with
Applications to Longitudinal Data: Unconstrained Parameterisation", 1999.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latently.probability.families._columns import LOG_SCALE_LIMIT, bounded
from latently.probability.families._moments import moments, zero_missing

__all__ = [
    "best_correlations",
    "best_regressions",
    "correlated",
    "regressions",
    "standardised",
    "unbounded",
    "whitening",
]

_FLOOR = 0.1  # share of a column's variance that a small group of its rows never falls below


def regressions(cells: int) -> int:
    """How many coefficients phi a row of cells has."""
    return cells * (cells - 1) // 2


def whitening(raw: Tensor, log_std: Tensor) -> Tensor:
    """W (*, D, D) from raw coefficients (*, D (D - 1) / 2), row by row, and log s (*, D).

    `phi_ji = raw_ji / sqrt(j)` with j counted from 0: variances then grow as a power of the number
    of cells where raw coefficients are of one size, and not exponentially.
    """
    cells = log_std.shape[-1]
    j, i = torch.tril_indices(cells, cells, -1, device=raw.device)
    phi = torch.cat([raw / j.to(raw.dtype).sqrt(), torch.zeros_like(log_std[..., :1])], -1)
    place = torch.full((cells, cells), len(j), device=raw.device)  # elsewhere: the zero
    place[j, i] = torch.arange(len(j), device=raw.device)
    eye = torch.eye(cells, dtype=raw.dtype, device=raw.device)
    return (eye - phi[..., place]) * (-log_std).exp().unsqueeze(-1)


def correlated(raw: Tensor, log_std: Tensor) -> Tensor:
    """W as by `whitening`, but the deviations of whole cells are exp(log_std), (*, D).

    The coefficients, bounded smoothly by 10, then say how cells correlate and no more.
    """
    unit = whitening(bounded(raw), torch.zeros_like(log_std))
    eye = torch.eye(log_std.shape[-1], dtype=torch.float64, device=raw.device)
    root = torch.linalg.solve_triangular(unit.double(), eye.expand_as(unit), upper=False)
    deviation = root.square().sum(-1).sqrt().to(raw.dtype)
    return unit * (deviation * (-log_std).exp()).unsqueeze(-2)


def standardised(u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), deviation (D,) and standardised rows (n, D), 0 where missing, in float64.

    The rows are in units of order one. Deviations have a floor: a group of few rows, or of equal
    ones, is no evidence that a cell never varies.
    """
    mean, deviation = moments(u, mask)
    deviation = ((1 - _FLOOR) * deviation.square() + _FLOOR).sqrt()
    return mean, deviation, zero_missing((u.double() - mean) / deviation, mask)


def _correlations(white: Tensor, mask: Tensor | None) -> Tensor:
    """Correlations (D, D) of standardised rows, positive definite.

    Missing cells count as their column's mean, and D rows of independent columns are added:
    correlations of few rows, or of few rows in common, shrink.
    """
    n, cells = white.shape
    seen = white.new_full((cells,), float(n)) if mask is None else mask.sum(0).clamp(min=1)
    scaled = white / seen.sqrt()
    shrunk = (scaled.mT @ scaled) * (n / (n + cells))
    return shrunk - shrunk.diagonal().diag() + torch.eye(cells).to(white)


def best_regressions(u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), log s (D,) and raw coefficients of rows (n, D), for `whitening`."""
    mean, deviation, white = standardised(u, mask)
    root = torch.linalg.cholesky(_correlations(white, mask)) * deviation.unsqueeze(-1)
    left = root.diagonal()
    return mean, left.log(), _coefficients(left.unsqueeze(-1) * torch.linalg.inv(root))


def best_correlations(white: Tensor) -> Tensor:
    """Raw coefficients of standardised rows (n, D), for `correlated`."""
    root = torch.linalg.cholesky(_correlations(white, None))
    return unbounded(_coefficients(torch.linalg.inv(root) * root.diagonal()))


def unbounded(value: Tensor) -> Tensor:
    """The raw parameter whose `bounded` value this is, short of the ends."""
    return LOG_SCALE_LIMIT * torch.atanh((value / LOG_SCALE_LIMIT).clamp(-0.99, 0.99))


def _coefficients(unit: Tensor) -> Tensor:
    """Raw coefficients, row by row, of `I - phi` (D, D)."""
    j, i = torch.tril_indices(len(unit), len(unit), -1, device=unit.device)
    return -unit[j, i] * j.to(unit.dtype).sqrt()
