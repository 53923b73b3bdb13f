r"""Weighted fits of what is counted: bits, levels, Poisson and negative binomial counts.

A level that no row of a component has would have probability 0, and a later row that has it would
be impossible. So every component has seen some rows more, of the overall shares; see `Columns`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from latently.models.components._column_kinds import (
    SURE,
    Kind,
    Turned,
    factors,
    parted,
    unit_interval,
)
from latently.models.components._weighted import Part, alive, climbed, totals
from latently.probability.distributions import Bernoulli, Categorical, Mixture
from latently.probability.families import Family
from latently.probability.families._counts import raw_of
from latently.probability.families._special import digamma_remainder
from latently.probability.families.zero_inflated import _ZeroInflated

__all__ = ["Bernoullis", "Levels", "NegativeBinomials", "Poissons", "ZeroInflates"]

_SHOWN = 16  # levels that starting clusters tell apart
_STEPS = 6  # of Newton's method, in a pass
_THETA = (1e-6, 1e6)  # dispersions that are chosen from; the upper end is a Poisson
_START = (1e-2, 1e3)
_TURNS = 3  # between the excess of zeros and the counts, in a pass


class Bernoullis(Kind):
    """Bernoulli columns: their shares of ones, with `pseudo` rows of the overall ones."""

    levels = 2
    overall: Tensor

    def __init__(self, pseudo: float, width: int) -> None:
        super().__init__()
        self.pseudo = pseudo
        self.register_buffer("overall", torch.full((width,), 0.5, dtype=torch.float64))

    def parameters_each(self) -> int:
        return 1

    def scale(self, family: Any, x: Tensor, seen: Tensor) -> None:
        self.overall.copy_((torch.where(seen, x, 0.0).sum(0) + 0.5) / (seen.sum(0) + 1))

    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        rows, ones = totals(parts, lambda x: [torch.ones_like(x), x])
        pseudo = self.pseudo if raw is not None else max(self.pseudo, 1.0)
        total = rows + pseudo
        share = (ones + pseudo * self.overall) / total.clamp(min=1e-300)
        before = torch.zeros_like(share) if raw is None else raw
        return torch.where(alive(total), unit_interval(share).logit(), before)

    def features(self, family: Any, x: Tensor, seen: Tensor) -> Tensor:
        return math.sqrt(2) * super().features(family, x, seen)

    def log_prior(self, raw: Tensor) -> Tensor | float:
        terms = self.overall * F.logsigmoid(raw) + (1 - self.overall) * F.logsigmoid(-raw)
        return self.pseudo * terms.sum()

    def blend(self, family: Family, raw: Tensor, shares: Tensor) -> Distribution:
        one = torch.logsumexp(shares + F.logsigmoid(raw), 1)
        other = torch.logsumexp(shares + F.logsigmoid(-raw), 1)
        return Bernoulli(one - other)


class Levels(Kind):
    """Columns of levels 0 .. levels - 1: their shares, with `pseudo` rows of the overall ones."""

    overall: Tensor

    def __init__(self, pseudo: float, width: int, levels: int) -> None:
        super().__init__()
        self.pseudo, self.levels = pseudo, levels
        shares = torch.full((levels, width), 1 / levels, dtype=torch.float64)
        self.register_buffer("overall", shares)

    def parameters_each(self) -> int:
        return len(self.overall) - 1

    def scale(self, family: Any, x: Tensor, seen: Tensor) -> None:
        found = torch.stack([((x == level) & seen).sum(0) for level in range(len(self.overall))])
        self.overall.copy_((found + 0.5) / (seen.sum(0) + 0.5 * len(self.overall)))

    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        found = sum(part.r for part in parts)  # (levels, C, w): a weight for every level
        assert isinstance(found, Tensor)
        pseudo = self.pseudo if raw is not None else max(self.pseudo, 1.0)
        shares = found.movedim(1, 0) + pseudo * self.overall
        total = shares.sum(1, keepdim=True)
        found = _possible(shares / total.clamp(min=1e-300)).log()
        before = torch.zeros_like(found) if raw is None else raw.view_as(found)
        return torch.where(alive(total), found, before).flatten(1)

    def features(self, family: Any, x: Tensor, seen: Tensor) -> Tensor:
        """One-hot; the rarest of many levels are none of their own."""
        shown = self.overall.argsort(0, descending=True)[:_SHOWN]
        return ((x[:, None] == shown) & seen[:, None]).to(x.dtype).movedim(1, -1)

    def log_prior(self, raw: Tensor) -> Tensor | float:
        log_shares = raw.view(len(raw), *self.overall.shape).log_softmax(1)
        return self.pseudo * (self.overall * log_shares).sum()

    def blend(self, family: Family, raw: Tensor, shares: Tensor) -> Distribution:
        each = raw.view(len(raw), *self.overall.shape).softmax(1)
        mixed = torch.einsum("bcw,clw->bwl", shares.exp().expand(-1, -1, each.shape[-1]), each)
        return Categorical(mixed.clamp(min=1e-300).log())


class Poissons(Kind):
    """Poisson columns: weighted means, at least of half a count in all rows."""

    least: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("least", torch.full((width,), SURE, dtype=torch.float64))

    def parameters_each(self) -> int:
        return 1

    def scale(self, family: Any, x: Tensor, seen: Tensor) -> None:
        self.least.copy_(0.5 / seen.sum(0).clamp(min=1))

    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        rows, mean = self.means(parts)
        before = torch.zeros_like(mean) if raw is None else raw
        return torch.where(alive(rows), raw_of(mean), before)

    def means(self, parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
        """Rows, and means of the counts, (C, w)."""
        rows, first = totals(parts, lambda x: [torch.ones_like(x), x])
        return rows, (first / rows.clamp(min=1e-300)).maximum(self.least)


class NegativeBinomials(Poissons):
    """Negative binomial columns: weighted means, and dispersions by Newton's method on log theta.

    Given the mean, the likelihood has one maximum in theta, or rises towards the Poisson.
    """

    def parameters_each(self) -> int:
        return 2

    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        rows, mean = self.means(parts)
        log_mean = raw_of(mean)
        if raw is None:
            start = self._first(parts, rows, mean)
            before = torch.zeros_like(torch.cat([mean, mean], 1))
        else:
            start, before = parted(raw, mean.shape[1])[1], raw

        def score(log_theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            theta = log_theta.exp()
            cells = factors(family, torch.cat([log_mean, raw_of(theta)], 1)).base

            def terms(x: Tensor) -> list[Tensor]:
                n = x[:, None] + theta
                first = torch.log1p(x[:, None] / theta) - 0.5 / n + digamma_remainder(n)
                return [cells.log_prob(x[:, None]), first, torch.polygamma(1, n), x]

            value, first, second, total = totals(parts, terms)
            both, extra = theta + mean, rows * mean - total
            first = first - rows * (digamma_remainder(theta) - 0.5 / theta)
            slope = first - rows * torch.log1p(mean / theta) + extra / both
            bend = second - rows * torch.polygamma(1, theta)
            bend = bend + rows * mean / theta / both - extra / both.square()
            return value, theta * slope, theta * (theta * bend + slope)

        low, high = (math.log(end) for end in _THETA)
        log_theta = climbed(start, low, high, score, _STEPS)
        found = torch.cat([log_mean, raw_of(log_theta.exp())], 1)
        return torch.where(torch.cat([alive(rows)] * 2, 1), found, before)

    def _first(self, parts: Sequence[Part], rows: Tensor, mean: Tensor) -> Tensor:
        """Log theta of the moments."""
        (second,) = totals(parts, lambda x: [x.square()])
        excess = second / rows.clamp(min=1e-300) - mean.square() - mean
        return (mean.square() / excess.clamp(min=1e-300)).clamp(*_START).log()


class ZeroInflates(Kind):
    """Counts with more zeros: EM between which zeros are in excess and the counts.

    Args:
        base: the kind of the counts.
    """

    def __init__(self, base: Kind) -> None:
        super().__init__()
        self.base = base

    def parameters_each(self) -> int:
        return 1 + self.base.parameters_each()

    def scale(self, family: Any, x: Tensor, seen: Tensor) -> None:
        self.base.scale(family.family, x, seen)

    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        rows, zeros = totals(parts, lambda x: [torch.ones_like(x), (x == 0).to(x.dtype)])
        width = rows.shape[1]
        if raw is None:  # half of the zeros are in excess
            rest = self.base.fit(family.family, _less(parts, zeros / 2), None)
            logits = self._logits(zeros / 2, rows)
            return torch.cat([torch.where(alive(rows), logits, 0.0), rest], 1)
        logits, rest = raw[:, :width], raw[:, width:]
        for _ in range(_TURNS):
            at_zero = factors(family.family, rest).base.log_prob(torch.zeros_like(rows))
            excess = zeros * torch.sigmoid(logits - at_zero)
            rest = self.base.fit(family.family, _less(parts, excess), rest)
            logits = torch.where(alive(rows), self._logits(excess, rows), logits)
        return torch.cat([logits, rest], 1)

    def features(self, family: Any, x: Tensor, seen: Tensor) -> Tensor:
        return self.base.features(family.family, x, seen)

    def blend(self, family: Any, raw: Tensor, shares: Tensor) -> Distribution:
        """A mixture of such counts is one again: of the mixtures of their excess and counts."""
        counted = factors(family.family, raw[:, family.shape[0] :]).base
        logits = raw[:, : family.shape[0]]
        extra = shares + F.logsigmoid(logits)
        other = shares + F.logsigmoid(-logits)
        base = Mixture(other.mT, Turned(counted), discrete=True)
        return _ZeroInflated(extra.logsumexp(1) - other.logsumexp(1), base)

    @staticmethod
    def _logits(excess: Tensor, rows: Tensor) -> Tensor:
        return unit_interval(excess / rows.clamp(min=1e-300)).logit()


def _less(parts: Sequence[Part], excess: Tensor) -> list[Part]:
    """Without some zeros (C, w): a row of them whose weights are below 0."""
    return [*parts, Part(torch.zeros_like(excess[:1]), -excess[None])]


def _possible(shares: Tensor) -> Tensor:
    """Shares over the second axis, none below the least, that sum to 1."""
    low = shares < SURE
    for _ in range(3):  # what is raised takes from the others, of which some may fall below
        room = 1 - SURE * low.sum(1, keepdim=True)
        kept = torch.where(low, 0.0, shares)
        found = kept * (room / kept.sum(1, keepdim=True).clamp(min=1e-300))
        low = low | (found < SURE)
    return torch.where(low, SURE, found)
