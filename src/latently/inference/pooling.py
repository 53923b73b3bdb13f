r"""Pooling: one answer from the analyses of several imputed data sets, by Rubin's rules.

M imputed copies of the rows, each analysed as if it were complete, give estimates Q_m with squared
standard errors U_m. With `Qbar`, `Ubar` their means and B the variance of the Q_m,

    T = Ubar + (1 + 1/M) B,    (Q - Qbar) / sqrt(T) ~ t with df degrees of freedom.

B is what the missing values add. It is right only where imputations are draws, with the noise of
a value and the uncertainty of what it hangs on: means filled in M times have B = 0. The draws of
one fitted model leave out the uncertainty of its parameters; fit it again on resampled rows for
each of the M copies where that counts. Sources: Rubin, "Multiple Imputation for Nonresponse in
Surveys", 1987; degrees of freedom: Barnard, Rubin, "Small-sample degrees of freedom with multiple
imputation", 1999.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch

from latently.errors import UserError

__all__ = ["Pooled", "pool"]


@dataclass(frozen=True)
class Pooled:
    """Pooled estimates, each of the shape (...) of one analysis.

    Attributes:
        mean: the pooled estimates, Qbar.
        variance: their squared standard errors, T.
        within: the mean squared standard error of an analysis, Ubar.
        between: the variance of the estimates of the analyses, B.
        relative_increase: of the variance by what is missing, r = (1 + 1/M) B / Ubar.
        fraction_missing: share of the information about the estimate that is missing,
            (r + 2 / (df + 3)) / (r + 1).
        df: degrees of freedom of the t distribution.
        count: M.
    """

    mean: np.ndarray
    variance: np.ndarray
    within: np.ndarray
    between: np.ndarray
    relative_increase: np.ndarray
    fraction_missing: np.ndarray
    df: np.ndarray
    count: int

    @property
    def stderr(self) -> np.ndarray:
        """Standard errors of the pooled estimates."""
        return np.sqrt(self.variance)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the interval that holds the estimand with probability `level`.

        Raises:
            UserError: a level that is not between 0 and 1.
        """
        from scipy.stats import norm, t

        if not isinstance(level, int | float) or not 0 < level < 1:
            raise UserError(f"level={level!r} must lie between 0 and 1, both excluded")
        q = (1 + level) / 2
        finite = np.isfinite(self.df)
        width = np.where(finite, t.ppf(q, np.where(finite, self.df, 1.0)), norm.ppf(q))
        return self.mean - width * self.stderr, self.mean + width * self.stderr


def pool(estimates: Any, variances: Any, complete_df: float | None = None) -> Pooled:
    r"""Rubin's rules, with the degrees of freedom of Barnard and Rubin.

        lambda = (1 + 1/M) B / T,    df_old = (M - 1) / lambda^2,
        df_obs = (nu + 1) / (nu + 3) nu (1 - lambda),    1 / df = 1 / df_old + 1 / df_obs

    with nu the degrees of freedom that complete data would have; without it df = df_old.

    Args:
        estimates: Q_m, (M, ...): an array, a tensor or a list of them.
        variances: squared standard errors U_m, (M, ...); not standard errors.
        complete_df: nu, such as rows minus coefficients of a regression; None: so many that the
            normal distribution would do.

    Raises:
        UserError: fewer than two analyses, shapes that differ, numbers that are not finite, a
            negative variance, or degrees of freedom that are not positive.

    >>> found = pool([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
    >>> float(found.mean), float(found.between), round(float(found.variance), 4)
    (2.0, 1.0, 1.8333)
    """
    q, u = _array("estimates", estimates), _array("variances", variances)
    if q.shape != u.shape:
        raise UserError(
            f"estimates of shape {q.shape} and variances of shape {u.shape}: give one variance "
            "for each estimate"
        )
    m = len(q)
    if (u < 0).any():
        raise UserError(f"variances: {float(u.min()):g} is below 0; give squared standard errors")
    if complete_df is not None and not (isinstance(complete_df, Real) and complete_df > 0):
        raise UserError(f"complete_df={complete_df!r} must be a positive number, or None")
    within, between = u.mean(0), q.var(0, ddof=1)
    added = (1 + 1 / m) * between
    total = within + added
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0, added / total, 0.0)
        increase = np.where(added > 0, added / within, 0.0)
        df = (m - 1) / share**2
        if complete_df is not None and math.isfinite(complete_df):
            nu = float(complete_df)
            of_complete = (nu + 1) / (nu + 3) * nu * (1 - share)
            # at share 1 complete data would tell exactly: only the number of analyses counts
            df = np.where(share < 1, 1 / (1 / df + 1 / of_complete), df)
        missing = share + 2 / (df + 3) * (1 - share)  # (r + 2 / (df + 3)) / (r + 1)
    return Pooled(q.mean(0), total, within, between, increase, missing, df, m)


def _array(name: str, values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    elif isinstance(values, list | tuple) and any(isinstance(v, torch.Tensor) for v in values):
        values = [torch.as_tensor(v).detach().cpu().numpy() for v in values]
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(
            f"{name} must be an array (M, ...) of numbers, one entry for each imputed data set"
        ) from None
    if found.ndim == 0 or len(found) < 2:
        count = "a single number" if found.ndim == 0 else f"{len(found)} of them"
        raise UserError(f"{name}: {count}; pool two or more imputed data sets")
    if not np.isfinite(found).all():
        where = np.argwhere(~np.isfinite(found))[0].tolist()
        raise UserError(f"{name}: the number at {where} is not finite; leave that analysis out")
    return found
