r"""Weighted fits of numbers: normal, lognormal, Student's t, gamma, and amounts with zeros.

Sources: of Student's t, Kent, Tyler, Vardi, "A curious likelihood identity for the multivariate
t-distribution", 1994 (the scale), Liu, Rubin, "The ECME algorithm", 1994 (the degrees of
freedom); of gamma, Minka, "Estimating a Gamma Distribution", 2002.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from latently.models._columns import FLOOR
from latently.models.components._column_kinds import Kind, Turned, factors, parted, unit_interval
from latently.models.components._weighted import Part, alive, climbed, counts, totals
from latently.probability.distributions import Mixture
from latently.probability.families import Family
from latently.probability.families._columns import LOG_SCALE_LIMIT, bounded
from latently.probability.families._special import bent, digamma_remainder, unbent
from latently.probability.families.gamma import _LEAST as LEAST_SHAPE
from latently.probability.families.gamma import _LOG_MEAN_LIMIT, _LOG_SHAPE_LIMIT
from latently.probability.families.hurdle import _Hurdle
from latently.probability.families.student_t import _EXCESS, _StudentT
from latently.probability.families.student_t import _LIMIT as _EXCESS_LIMIT

__all__ = ["Gammas", "Hurdles", "LogNormals", "Normals", "Students"]

_LOG_LEAST = 0.5 * math.log(FLOOR)  # least log deviation, in units of the column's
_STEPS = 4  # of Newton's method, in a pass
_DF = (2.02, 9e3)  # degrees of freedom that the family holds with a margin
_FIRST_DF = 10.0
_SHAPE_STEPS = 12
_SHAPE_CAP = 0.5 / FLOOR  # times 1 over the square of the deviation of log x


class Normals(Kind):
    """Normal columns: weighted means and variances, the latter at least 1e-6 of the column's."""

    def parameters_each(self) -> int:
        return 2

    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        rows, first, second = totals(parts, lambda x: _powers(self.in_units(family, x)))
        mean = first / rows.clamp(min=1e-300)
        variance = second / rows.clamp(min=1e-300) - mean.square()
        found = torch.stack([mean, _raw_scale(0.5 * variance.clamp(min=FLOOR).log())], 1)
        return _kept(found, rows, raw)

    def held(self, family: Any, raw: Tensor) -> Tensor:
        return bounded(parted(raw, family.shape[0])[1]) <= _LOG_LEAST + 1e-3

    def in_units(self, family: Any, x: Tensor) -> Tensor:
        """x less the column's mean, over its deviation."""
        return (x - family.loc) / family.scale


class LogNormals(Normals):
    """Lognormal columns: the same of log x."""

    def in_units(self, family: Any, x: Tensor) -> Tensor:
        return (x.log() - family.loc) / family.scale


class Students(Kind):
    r"""Columns of Student's t, by its scale mixture.

    Weights `u = (nu + 1) / (nu + d^2)` give the mean, and the scale by `sum r u (x - mu)^2 /
    sum r u`, which climbs faster than EM's own. Then nu climbs the likelihood itself.
    """

    def parameters_each(self) -> int:
        return 3

    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        rows = counts(parts)
        if raw is None:
            mean, log_scale, df = self._first(family, parts)
        else:
            mean, log_scale, n = parted(raw, family.shape[0])
            log_scale, df = bounded(log_scale), 2 + _EXCESS * bent(n, _EXCESS_LIMIT).exp()
        mean, log_scale = self._moved(family, parts, rows, mean, log_scale, df)
        df = self._best_df(family, parts, rows, mean, log_scale, df)
        n = unbent(((df - 2) / _EXCESS).log(), _EXCESS_LIMIT)
        return _kept(torch.stack([mean, _raw_scale(log_scale), n], 1), rows, raw)

    def held(self, family: Any, raw: Tensor) -> Tensor:
        return bounded(parted(raw, family.shape[0])[1]) <= _LOG_LEAST + 1e-3

    def _first(self, family: Any, parts: Sequence[Part]) -> tuple[Tensor, Tensor, Tensor]:
        """Moments of values that no outlier moves far."""
        rows, first, second = totals(
            parts, lambda x: _powers(((x - family.loc) / family.scale).clamp(-5, 5))
        )
        mean = first / rows.clamp(min=1e-300)
        variance = (second / rows.clamp(min=1e-300) - mean.square()).clamp(min=0.01)
        return mean, 0.5 * variance.log(), torch.full_like(mean, _FIRST_DF)

    def _moved(
        self,
        family: Any,
        parts: Sequence[Part],
        rows: Tensor,
        mean: Tensor,
        log_scale: Tensor,
        df: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Mean and log scale after a step."""

        def weighted(x: Tensor) -> list[Tensor]:
            apart = ((x - family.loc) / family.scale)[:, None] - mean
            u = (df + 1) / (df + (apart * (-log_scale).exp()).square())
            return [u, u * apart, u * apart.square()]

        weight, first, second = totals(parts, weighted)
        step = first / weight.clamp(min=1e-300)
        square = (second - step * first).clamp(min=0)
        fast = square / weight.clamp(min=1e-300)
        slow = (square / rows.clamp(min=1e-300)).clamp(min=FLOOR)
        variance = torch.where(fast > FLOOR, fast, slow)  # EM's own cannot fall at the least one
        return mean + step, 0.5 * variance.log()

    def _best_df(
        self,
        family: Any,
        parts: Sequence[Part],
        rows: Tensor,
        mean: Tensor,
        log_scale: Tensor,
        df: Tensor,
    ) -> Tensor:
        rate = (-log_scale).exp()

        def score(log_above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            above = log_above.exp()
            nu = 2 + above

            def terms(x: Tensor) -> list[Tensor]:
                square = (((x - family.loc) / family.scale)[:, None] - mean).mul(rate).square()
                q = square / (nu + square)
                return [torch.log1p(square / nu), q, q * (1 - q)]

            logs, q, spread = totals(parts, terms)
            zero = torch.zeros_like(nu)
            peak = _StudentT(zero, zero, above).log_prob(zero)
            half = nu / 2
            slope = 0.5 * (torch.digamma(half + 0.5) - torch.digamma(half)) - 0.5 / nu
            bend = 0.25 * (torch.polygamma(1, half + 0.5) - torch.polygamma(1, half))
            bend = bend + 0.5 / nu.square()
            value = rows * peak - (nu + 1) / 2 * logs
            slope = rows * slope - 0.5 * logs + (nu + 1) / (2 * nu) * q
            bend = rows * bend + q / (2 * nu) - q / (2 * nu.square())
            bend = bend - (nu + 1) / (2 * nu.square()) * spread
            return value, above * slope, above * (above * bend + slope)

        low, high = (math.log(end - 2) for end in _DF)
        return 2 + climbed((df - 2).log(), low, high, score, _STEPS).exp()


class Gammas(Kind):
    """Gamma columns: the weighted mean, and the shape from the mean of log x by Newton's method.

    The shape is at least 0.1, as the family's, and at most that of a deviation of 1e-3 of the
    column's log x, roughly.
    """

    def parameters_each(self) -> int:
        return 2

    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        unit = family.log_mean

        def terms(x: Tensor) -> list[Tensor]:
            logs = x.log() - unit
            return [torch.ones_like(x), logs, logs.exp()]

        rows, logs, mean = totals(parts, terms)
        log_mean = (mean / rows.clamp(min=1e-300)).clamp(min=1e-300).log()
        m = unbent(log_mean / family.scale.clamp(max=1), _LOG_MEAN_LIMIT)
        held = bent(m, _LOG_MEAN_LIMIT) * family.scale.clamp(max=1)  # where a bound moved it
        logs = logs / rows.clamp(min=1e-300) - held
        gap = (log_mean - held).exp() - 1 - logs
        alpha = _shape(gap.clamp(min=1e-12)).minimum(self._cap(family))
        t = ((alpha - LEAST_SHAPE).clamp(min=1e-8) / (1 - LEAST_SHAPE)).log()
        return _kept(torch.stack([m, unbent(t, _LOG_SHAPE_LIMIT)], 1), rows, raw)

    def held(self, family: Any, raw: Tensor) -> Tensor:
        t = bent(parted(raw, family.shape[0])[1], _LOG_SHAPE_LIMIT)
        return LEAST_SHAPE + (1 - LEAST_SHAPE) * t.exp() >= 0.99 * self._cap(family)

    def _cap(self, family: Any) -> Tensor:
        return (_SHAPE_CAP / family.scale.square()).clamp(max=1e8)


class Hurdles(Kind):
    """Amounts with zeros: their share, and the family of the others.

    Args:
        above: the kind of the family above 0.
        pseudo: rows of the overall share of zeros.
        width: columns.
    """

    overall: Tensor

    def __init__(self, above: Kind, pseudo: float, width: int) -> None:
        super().__init__()
        self.above, self.pseudo = above, pseudo
        self.register_buffer("overall", torch.full((width,), 0.5, dtype=torch.float64))

    def parameters_each(self) -> int:
        return 1 + self.above.parameters_each()

    def scale(self, family: Any, x: Tensor, seen: Tensor) -> None:
        zeros = ((x == 0) & seen).sum(0)
        self.overall.copy_((zeros + 0.5) / (seen.sum(0) + 1))
        self.above.scale(family.family, x, seen & (x > 0))

    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        size = self.overall.shape[0]
        rows, zeros = totals(parts, lambda x: [torch.ones_like(x), (x == 0).to(x.dtype)])
        pseudo = self.pseudo if raw is not None else max(self.pseudo, 1.0)
        share = (zeros + pseudo * self.overall) / (rows + pseudo).clamp(min=1e-300)
        logits = unit_interval(share).logit()
        if raw is not None:
            logits = torch.where(alive(rows + pseudo), logits, raw[:, :size])
        above = [_above(part) for part in parts]
        rest = self.above.fit(family.family, above, None if raw is None else raw[:, size:])
        return torch.cat([logits, rest], 1)

    def features(self, family: Any, x: Tensor, seen: Tensor) -> Tensor:
        size, sign = family.embed(x, seen).chunk(2, 1)
        return torch.stack([size, sign / math.sqrt(2)], -1)

    def log_prior(self, raw: Tensor) -> Tensor | float:
        logits = raw[:, : self.overall.shape[0]]
        terms = self.overall * F.logsigmoid(logits)
        return self.pseudo * (terms + (1 - self.overall) * F.logsigmoid(-logits)).sum()

    def held(self, family: Any, raw: Tensor) -> Tensor | None:
        return self.above.held(family.family, raw[:, self.overall.shape[0] :])

    def blend(self, family: Family, raw: Tensor, shares: Tensor) -> Distribution:
        """A mixture of hurdles is one again: of the mixtures of their zeros and of the others."""
        size = self.overall.shape[0]
        inner = cast(Family, family.family)
        above = factors(inner, raw[:, size:])
        zero = shares + F.logsigmoid(raw[:, :size])
        other = shares + F.logsigmoid(-raw[:, :size])
        logits = zero.logsumexp(1) - other.logsumexp(1)
        return _Hurdle(logits, Mixture(other.mT, Turned(above.base)), above.fill)


def _above(part: Part) -> Part:
    """Its numbers above 0, with 1 where there are none."""
    seen = part.x > 0 if part.seen is None else (part.x > 0) & part.seen
    return Part(torch.where(seen, part.x, 1.0), part.r, seen)


def _powers(u: Tensor) -> list[Tensor]:
    return [torch.ones_like(u), u, u.square()]


def _raw_scale(log_scale: Tensor) -> Tensor:
    return unbent(log_scale, LOG_SCALE_LIMIT)


def _kept(found: Tensor, rows: Tensor, raw: Tensor | None) -> Tensor:
    """What was found, (C, q, w), as raw parameters; those before where there are no rows."""
    before = torch.zeros_like(found) if raw is None else raw.view_as(found)
    return torch.where(alive(rows)[:, None], found, before).flatten(1)


def _shape(gap: Tensor) -> Tensor:
    """The alpha where `log alpha - psi(alpha)` is a gap above 0."""
    alpha = (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)
    for _ in range(_SHAPE_STEPS):
        short = 0.5 / alpha - digamma_remainder(alpha) - gap
        bend = 1 / alpha - torch.polygamma(1, alpha)
        alpha = 1 / (1 / alpha + short / (alpha.square() * bend)).clamp(min=1e-300)
    return alpha
