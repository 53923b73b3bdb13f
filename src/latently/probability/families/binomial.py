"""Numbers of successes out of a known number of trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import register_kl

from latently.errors import UserError
from latently.probability.distributions import Factorized
from latently.probability.distributions.discrete import Levels, kl_of_levels
from latently.probability.families._counts import (
    HALF_LOG_2PI,
    betainc,
    deviance,
    smallest_count,
    stirling,
)
from latently.probability.families._moments import zero_missing
from latently.probability.families.base import Family, levels_in_words

__all__ = ["Binomial"]


class Binomial(Family):
    r"""Independent integers 0 .. levels - 1: successes in `levels - 1` trials of one probability.

    `log P(x|h) = sum_j log C(n, x_j) + x_j log sigmoid(h_j) + (n - x_j) log sigmoid(-h_j)` nats
    with `n = levels - 1`. One number a column: the spread follows from the mean. Exact at any
    logits, and at many trials in float32 too (see `_counts`).

    Args:
        shape: event shape.
        levels: number of values, one more than trials; at least 2.

    Raises:
        UserError: fewer than 2 levels.

    >>> import torch
    >>> Binomial((1,), levels=5)(torch.zeros(1)).log_prob(torch.tensor([2.0])).exp()
    tensor(0.3750)
    """

    discrete: bool = True

    def __init__(self, shape: Sequence[int], *, levels: int = 2) -> None:
        super().__init__(shape)
        if not isinstance(levels, int) or levels < 2:
            raise UserError(f"Binomial: levels={levels} must be a whole number of at least 2")
        self.levels = levels

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, h: Tensor) -> Factorized:
        return Factorized(_Binomial(h, self.levels - 1), len(self.shape))

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return zero_missing(2 * x / (self.levels - 1) - 1, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return (x != x.round()) | (x < 0) | (x > self.levels - 1)

    @property
    def support(self) -> str:
        return levels_in_words(self.levels)

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of the shares of successes, with half a success and half a failure added."""
        rows = torch.as_tensor(len(x)) if mask is None else mask.sum(0)
        successes = zero_missing(x, mask).double().sum(0)
        return ((successes + 0.5) / (rows * (self.levels - 1) + 1)).logit()


class _Binomial(Levels):
    """Binomial of n trials by logits, elementwise."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, trials: int) -> None:
        self.logits, self.trials = logits, trials
        self.probs = logits.sigmoid()
        super().__init__(logits.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability, in nats.

        With y = n - x, `R(n) - R(x) - R(y) - log(2 pi x y / n) / 2` less the deviances of x,
        `1 + d = n p / x`, and of y, `1 + d' = n (1 - p) / y`.
        """
        n, h = self.trials, self.logits
        log_p, log_q = F.logsigmoid(h), F.logsigmoid(-h)
        lowest, highest = value <= 0, value >= n
        x = torch.where(lowest | highest, 0.5 * n, value)
        y = n - x
        more = torch.where(h < 0, n * self.probs - x, y - n * (-h).sigmoid())  # n p - x
        away = deviance(x, more / x, log_p + (n / x).log())
        away = away + deviance(y, -more / y, log_q + (n / y).log())
        constant = stirling(x) + stirling(y) - stirling(torch.full_like(x, n))
        constant = constant + HALF_LOG_2PI + 0.5 * (x * (y / n)).log()
        return torch.where(lowest, n * log_q, torch.where(highest, n * log_p, -constant - away))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        with torch.no_grad():
            probs = self.probs.expand(*sample_shape, *self._batch_shape)
            return torch.binomial(torch.full_like(probs, self.trials), probs)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x) = I_{1 - p}(n - x, x + 1)`, a regularised incomplete beta function."""
        return self._cdf(value).to(self.logits.dtype)

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest integer whose cdf reaches `q`."""
        found = smallest_count(self._cdf, q.double(), self.mean.double())
        return found.clamp(max=self.trials).to(self.logits.dtype)

    def _cdf(self, value: Tensor) -> Tensor:
        count = value.detach().double().floor()
        k = count.clamp(0, self.trials - 1)
        inside = betainc(self.trials - k, k + 1, (-self.logits.detach().double()).sigmoid())
        return torch.where(count < 0, 0.0, torch.where(count >= self.trials, 1.0, inside))

    @property
    def mean(self) -> Tensor:
        """`n p`."""
        return self.trials * self.probs

    @property
    def mode(self) -> Tensor:
        """The likeliest integer; the higher of two."""
        return ((self.trials + 1) * self.probs).floor().clamp(max=self.trials)

    @property
    def variance(self) -> Tensor:
        """`n p (1 - p)`."""
        return self.trials * self.probs * (-self.logits).sigmoid()

    @property
    def values(self) -> Tensor:
        """All integers it takes."""
        return torch.arange(self.trials + 1, dtype=self.logits.dtype, device=self.logits.device)


@register_kl(_Binomial, _Binomial)
def _kl_binomial(q: _Binomial, p: _Binomial) -> Tensor:
    """n times that of one trial, where both have as many."""
    if q.trials != p.trials:
        return kl_of_levels(q, p)
    ones = q.probs * (F.logsigmoid(q.logits) - F.logsigmoid(p.logits))
    zeros = (-q.logits).sigmoid() * (F.logsigmoid(-q.logits) - F.logsigmoid(-p.logits))
    return q.trials * (ones + zeros)
