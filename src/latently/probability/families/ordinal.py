"""Ordered levels: ratings, grades, answers from "never" to "always"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latently.errors import UserError
from latently.probability.distributions import Factorized
from latently.probability.distributions.discrete import Levels
from latently.probability.distributions.integers import log1mexp
from latently.probability.families._columns import bounded
from latently.probability.families._moments import level_shares, split, zero_missing
from latently.probability.families.base import Family, levels_in_words

__all__ = ["Ordinal"]

_LEAST_STEP = 1e-6  # between cut points: the log-probability of a level stays finite


class Ordinal(Family):
    r"""Independent ordered levels 0 .. levels - 1 by cumulative logits (proportional odds).

        P(x_j <= k) = sigmoid((c_jk - eta_j) / s_j),    c_j0 < c_j1 < ... < c_j,levels-2

    The cut points c are learned parameters of each column, ordered by construction: the first is
    free, the steps between them are softplus of free numbers. `eta = h` is read from the network:
    the higher it is, the higher the levels. The levels may lie at any distances, which
    `DiscretizedLogistic` takes as equal. Source: McCullagh, "Regression Models for Ordinal Data",
    1980 (section 2; the scale s, section 6).

    Args:
        shape: event shape (C, *S).
        levels: number of levels, at least 2.
        scale: "column": s = 1, and the cut points hold the spread of their column; "cell":
            h = (eta, log s) with |log s| bounded by 10, `param_shape` is (2C, *S).

    Raises:
        UserError: fewer than 2 levels, or another `scale`.

    >>> import torch
    >>> Ordinal((1,), levels=4)(torch.zeros(1)).log_prob(torch.tensor([[0.0], [3.0]])).exp()
    tensor([0.2500, 0.2500], ...)
    """

    discrete: bool = True

    def __init__(self, shape: Sequence[int], *, levels: int = 5, scale: str = "column") -> None:
        super().__init__(shape)
        if not isinstance(levels, int) or levels < 2:
            raise UserError(f"Ordinal: levels={levels} must be a whole number of at least 2")
        if scale not in ("column", "cell"):
            raise UserError(
                f'Ordinal: scale={scale!r} must be "column", held by the cut points, or "cell", '
                "read from the network"
            )
        self.levels, self.scale = levels, scale
        shares = torch.full((levels, *self.shape), 1 / levels)
        self.raw_cuts = nn.Parameter(_raw_cuts(shares))

    @property
    def param_shape(self) -> tuple[int, ...]:
        channels, *rest = self.shape
        return (channels if self.scale == "column" else 2 * channels, *rest)

    def forward(self, h: Tensor) -> Factorized:
        log_scale = None
        if self.scale == "cell":
            h, log_scale = split(h, 2, len(self.shape))
            log_scale = bounded(log_scale)
        steps = torch.cat([self.raw_cuts[:1], F.softplus(self.raw_cuts[1:]) + _LEAST_STEP])
        return Factorized(_CumulativeLogit(h, log_scale, steps.movedim(0, -1)), len(self.shape))

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return zero_missing(2 * x / (self.levels - 1) - 1, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return (x != x.round()) | (x < 0) | (x > self.levels - 1)

    @property
    def support(self) -> str:
        return levels_in_words(self.levels)

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets the cut points of each column from its shares of levels, half a row added to each.

        Then h = 0 is the best distribution that ignores z.
        """
        self.raw_cuts.copy_(_raw_cuts(level_shares(x, self.levels, mask)))


def _raw_cuts(shares: Tensor) -> Tensor:
    """Raw cut points (levels - 1, ...) at which h = 0 has these shares (levels, ...)."""
    cuts = torch.log(shares.cumsum(0)[:-1]) - torch.log(shares.flip(0).cumsum(0).flip(0)[1:])
    steps = (cuts.diff(dim=0) - _LEAST_STEP).clamp(min=_LEAST_STEP)
    return torch.cat([cuts[:1], steps + torch.log(-torch.expm1(-steps))])


class _CumulativeLogit(Levels):
    """Levels by cumulative logits, elementwise.

    Args:
        eta: location, (*, *event).
        log_scale: its logarithm of s, or None for s = 1.
        steps: the first cut point and the steps to the others, (*event, levels - 1).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    known_as = "Ordinal"

    def __init__(self, eta: Tensor, log_scale: Tensor | None, steps: Tensor) -> None:
        self.eta, self.steps, self.cuts = eta, steps, steps.cumsum(-1)
        self.rate = eta.new_ones(()) if log_scale is None else (-log_scale).exp()
        super().__init__(eta.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of integers in 0 .. levels - 1, in nats.

        With a, b the arguments of the two sigmoids, `log (sigmoid(a) - sigmoid(b))` is `log
        sigmoid(a) + log sigmoid(-b) + log(1 - exp(-(a - b)))`, without cancellation.
        """
        last = self.steps.shape[-1]
        level = value.long().clamp(0, last)
        lowest, highest = level == 0, level == last
        at = level.clamp(max=last - 1)
        step = _at(self.steps, at) * self.rate
        a = (_at(self.cuts, at) - self.eta) * self.rate
        b = (_at(self.cuts, (level - 1).clamp(min=0)) - self.eta) * self.rate
        below = torch.where(highest, 0.0, F.logsigmoid(a))
        above = torch.where(lowest, 0.0, F.logsigmoid(-b))
        inner = log1mexp(torch.where(lowest | highest, 1.0, step))
        return below + above + torch.where(lowest | highest, 0.0, inner)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws: a logistic one, cut."""
        with torch.no_grad():
            shape = (*sample_shape, *self._batch_shape)
            u = torch.rand(shape, dtype=self.eta.dtype, device=self.eta.device)
            y = self.eta + torch.logit(u, eps=1e-7) / self.rate
            return (y.unsqueeze(-1) > self.cuts).sum(-1).to(y.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        last = self.steps.shape[-1]
        level = value.floor()
        cut = _at(self.cuts, level.long().clamp(0, last - 1))
        inside = torch.sigmoid((cut - self.eta) * self.rate)
        return torch.where(level < 0, 0.0, torch.where(level >= last, 1.0, inside))

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest level whose cdf reaches `q`."""
        below = torch.sigmoid((self.cuts - self.eta.unsqueeze(-1)) * self.rate.unsqueeze(-1))
        return (q.unsqueeze(-1) > below).sum(-1).to(self.eta.dtype)

    @cached_property
    def level_probs(self) -> Tensor:
        """Probability of each level, (*batch, levels): as in `log_prob`, every cut taken once."""
        rate = self.rate.unsqueeze(-1)
        apart = (self.cuts - self.eta.unsqueeze(-1)) * rate
        below, above = apart.sigmoid(), (-apart).sigmoid()
        between = below[..., 1:] * above[..., :-1] * -torch.expm1(-self.steps[..., 1:] * rate)
        return torch.cat([below[..., :1], between, above[..., -1:]], -1)

    @property
    def mean(self) -> Tensor:
        """Mean of the levels."""
        return self.level_probs @ self.values

    @property
    def mode(self) -> Tensor:
        """The likeliest level; the lowest on a tie."""
        return self.level_probs.argmax(-1).to(self.eta.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance of the levels."""
        return (self.level_probs * (self.values - self.mean.unsqueeze(-1)).square()).sum(-1)

    @property
    def values(self) -> Tensor:
        """All levels."""
        levels = self.steps.shape[-1] + 1
        return torch.arange(levels, dtype=self.eta.dtype, device=self.eta.device)


def _at(table: Tensor, index: Tensor) -> Tensor:
    """Entries of (*event, n) at an index (*lead, *event) into the last axis."""
    event = table.shape[:-1]
    cell = torch.arange(math.prod(event), device=index.device).view(event)
    return table.flatten(0, -2)[cell, index] if event else table[index]
