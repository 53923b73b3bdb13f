"""Normals whose columns depend on each other given z: full covariance, or low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latently.errors import UserError
from latently.probability.distributions.gaussian import (
    LowRankMultivariateNormal as LowRankMultivariateNormalDistribution,
)
from latently.probability.distributions.gaussian import (
    MultivariateNormal as MultivariateNormalDistribution,
)
from latently.probability.distributions.gaussian import ScaledJoint
from latently.probability.distributions.joint import Joint
from latently.probability.families._columns import Columns, bounded
from latently.probability.families._gaussian import (
    best_regressions,
    regressions,
    standardised,
    unbounded,
    whitening,
)

__all__ = ["LowRankMultivariateNormal", "MultivariateNormal"]

_SHARE = 0.5  # of a cell's variance that is a factor's at h = 0


class _DependentColumns(Columns):
    """Columns under a joint distribution of the flattened row."""

    @property
    def cells(self) -> int:
        """Number of cells of a row."""
        return math.prod(self.shape)

    def rows(self, base: Joint) -> Joint:
        """`loc + scale u` with u from a joint distribution."""
        if self.loc is None or self.scale is None:
            return base
        return ScaledJoint(base, self.loc, self.scale)

    def _scaled(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Flat rows in units of order one, with their flat mask."""
        return self.embed(x, mask).flatten(1), None if mask is None else mask.flatten(1)


class MultivariateNormal(_DependentColumns):
    r"""Normal of full covariance: every cell is a regression on the cells before it.

    With h = (m, t, phi) and `u = (x - loc) / scale` over the D flattened cells,

        u_j = m_j + sum_{i<j} phi_ji / sqrt(j) (u_i - m_i) + exp(t_j) eps_j,    eps_j ~ N(0, 1),

    j counted from 0. This is a Cholesky factor of the precision, and any h is a valid
    distribution. |t| is bounded smoothly by 10. Missing cells are integrated out exactly. As a
    posterior it holds what normals with independent latents cannot: correlations; the KL to any
    normal has a closed form. The cost grows with D^2, and with D^3 under a mask; for many
    columns take `LowRankMultivariateNormal`. Source: Pourahmadi, "Joint Mean-Covariance Models
    with Applications to Longitudinal Data: Unconstrained Parameterisation", 1999.

    Args:
        shape: event shape; `param_shape` is (2 D + D (D - 1) / 2,).

    >>> import torch
    >>> family = MultivariateNormal((2,))
    >>> h = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])  # u_1 = u_0 + eps
    >>> family(h).variance
    tensor([1., 2.], dtype=torch.float64)
    """

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (2 * self.cells + regressions(self.cells),)

    def forward(self, h: Tensor) -> Joint:
        cells = self.cells
        mean, log_std, raw = h.split([cells, cells, regressions(cells)], -1)
        whiten = whitening(raw, bounded(log_std))
        return self.rows(MultivariateNormalDistribution(mean.unflatten(-1, self.shape), whiten))

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Means, deviations and correlations of the rows, shrunk by as many rows as cells."""
        mean, log_std, raw = best_regressions(*self._scaled(x, mask))
        return torch.cat([mean, unbounded(log_std), raw])


class LowRankMultivariateNormal(_DependentColumns):
    r"""Normal of covariance `F F' + diag(sigma^2)`: a few directions that columns share.

    With h = (m, t, f) and `u = (x - loc) / scale` over the D flattened cells, `u = m + F a +
    sigma eps` with `a ~ N(0, I)` of the size of the rank: factor analysis, its parameters read
    from h. The cost grows with D only (the matrix inversion lemma), and missing cells are
    integrated out exactly. At h = 0 it is N(0, I): factor k starts as half the variance of cell
    k, where F has a gradient (at F = 0 it has none). |t| and |f| are bounded smoothly by 10.

    Args:
        shape: event shape; `param_shape` is (2 D + rank D,).
        rank: number of directions.

    Raises:
        UserError: `rank` is no whole number of at least 1.

    >>> import torch
    >>> LowRankMultivariateNormal((3,), rank=1)(torch.zeros(9)).variance
    tensor([1., 1., 1.], dtype=torch.float64)
    """

    start: Tensor

    def __init__(self, shape: Sequence[int], *, rank: int = 2) -> None:
        super().__init__(shape)
        if not isinstance(rank, int) or rank < 1:
            raise UserError(
                f"LowRankMultivariateNormal: rank={rank!r} must be a whole number of at least 1"
            )
        self.rank = rank
        start = torch.zeros(self.cells, rank)
        start[torch.arange(rank) % self.cells, torch.arange(rank)] = 1
        shared = start.sum(1, keepdim=True).clamp(min=1)  # factors of one cell
        self.register_buffer("start", start * (_SHARE / shared).sqrt())

    @property
    def param_shape(self) -> tuple[int, ...]:
        return ((2 + self.rank) * self.cells,)

    def forward(self, h: Tensor) -> Joint:
        cells = self.cells
        mean, log_std, raw = h.split([cells, cells, self.rank * cells], -1)
        factor = self.start + bounded(raw).unflatten(-1, (cells, self.rank))
        log_std = bounded(log_std) + self._log_own
        mean, log_std = (part.unflatten(-1, self.shape) for part in (mean, log_std))
        return self.rows(LowRankMultivariateNormalDistribution(mean, factor, log_std))

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Means, and the leading principal directions of the standardised columns."""
        u, seen = self._scaled(x, mask)
        mean, deviation, white = standardised(u, seen)
        factor = _principal(white, seen, self.rank)
        own = (1 - factor.square().sum(1)).clamp(min=0.05)
        factor = factor * deviation.unsqueeze(-1) - self.start
        log_std = 0.5 * own.log() + deviation.log() - self._log_own
        return torch.cat([mean, unbounded(log_std), unbounded(factor).flatten()])

    @property
    def _log_own(self) -> Tensor:
        """Log deviation of the cells' own part at h = 0."""
        return 0.5 * (1 - self.start.square().sum(1)).log()


def _principal(white: Tensor, mask: Tensor | None, rank: int) -> Tensor:
    """Loadings (D, rank) of probabilistic principal components of standardised rows (n, D)."""
    n, cells = white.shape
    seen = white.new_full((cells,), float(n)) if mask is None else mask.sum(0).clamp(min=1)
    found = min(rank, n, cells)
    _, singular, directions = torch.svd_lowrank(white / seen.sqrt(), min(found + 4, n, cells))
    strength = singular[:found].square()
    rest = (cells - strength.sum()).clamp(min=0) / max(cells - found, 1)
    loadings = directions[:, :found] * (strength - rest).clamp(min=0.01).sqrt()
    return torch.cat([loadings, loadings.new_zeros(cells, rank - found)], 1)
