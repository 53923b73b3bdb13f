"""Shares that sum to 1, with correlations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latently.errors import UserError
from latently.probability.distributions.gaussian import MultivariateNormal
from latently.probability.distributions.joint import Factorized
from latently.probability.distributions.normal import Normal
from latently.probability.distributions.simplex import LogisticNormal as LogisticNormalDistribution
from latently.probability.families._gaussian import (
    best_correlations,
    correlated,
    regressions,
    standardised,
)
from latently.probability.families._simplex import Simplex, between, raw_between

__all__ = ["LogisticNormal"]

_COVARIANCES = ("full", "diagonal")
_MEAN_RANGE = -20.0, 20.0
_LOG_STD_RANGE = -10.0, 1.5


class LogisticNormal(Simplex):
    r"""Rows above 0 that sum to 1 over the last axis, `x = softmax(y, 0)` with y normal.

    `log p(x) = log N(y; m, Sigma) - sum_l log x_l` nats, `y_l = log x_l - log x_L`: a density of
    all cells of a row but its last. Unlike `Dirichlet` it can hold cells that rise together. Per
    row of n = L - 1 logits, h holds their means, log deviations and, for full covariance, the
    regressions of each on those before it, which give the correlations. Means are bounded smoothly
    by 20 and log deviations to [-10, 1.5], where draws stay above the smallest numbers of float32.
    It has no closed marginals: rows with missing cells are refused. Mean and variance are by
    quasi-Monte Carlo with 1,024 fixed points; the KL to another one is closed. Source: Aitchison,
    Shen, "Logistic-Normal Distributions: Some Properties and Uses", 1980.

    Args:
        shape: event shape (*S, L); `param_shape` is (*S, 2 n + n (n - 1) / 2), or (*S, 2 n).
        covariance: "full" or "diagonal", of the logits of one row.

    Raises:
        UserError: the last axis has fewer than 2 cells, or an unknown covariance.

    >>> import torch
    >>> LogisticNormal((3,))(torch.zeros(5)).mean
    tensor([0.3454, 0.3454, 0.3093])
    """

    def __init__(self, shape: Sequence[int], *, covariance: str = "full") -> None:
        super().__init__(shape)
        if covariance not in _COVARIANCES:
            raise UserError(
                f'LogisticNormal: covariance={covariance!r}; give "full" or "diagonal"'
            )
        self.covariance = covariance
        self.cells = self.shape[-1] - 1

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (*self.shape[:-1], 2 * self.cells + self._coefficients)

    def forward(self, h: Tensor) -> LogisticNormalDistribution:
        mean, log_std, raw = h.split([self.cells, self.cells, self._coefficients], -1)
        mean, log_std = between(mean, *_MEAN_RANGE), between(log_std, *_LOG_STD_RANGE)
        logits = (
            MultivariateNormal(mean, correlated(raw, log_std))
            if self.covariance == "full"
            else Factorized(Normal(mean, log_std), 1)
        )
        return LogisticNormalDistribution(logits, len(self.shape))

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Moments of the logits of complete rows; None if there is none."""
        x = x if mask is None else x[mask.flatten(1).all(1)]
        if not len(x):
            return None
        logs = x.double().log()
        logits = (logs[..., :-1] - logs[..., -1:]).reshape(len(x), -1, self.cells)
        found = [torch.cat(self._best(y)) for y in logits.unbind(1)]
        return torch.stack(found).reshape(self.param_shape)

    def _best(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw parameters of logits (n, cells)."""
        mean, deviation, white = standardised(y, None)
        log_std = raw_between(deviation.log(), *_LOG_STD_RANGE)
        raw = best_correlations(white) if self._coefficients else white.new_empty(0)
        return raw_between(mean, *_MEAN_RANGE), log_std, raw

    @property
    def _coefficients(self) -> int:
        return regressions(self.cells) if self.covariance == "full" else 0
