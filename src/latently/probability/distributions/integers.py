"""Continuous distributions on the integers 0 .. levels - 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from latently.probability.distributions.discrete import Levels

__all__ = ["DiscretizedLogistic", "Rounded", "integer_moments", "log1mexp"]

_BLOCK_VALUES = 2**20  # values held at once where a sum runs over the levels
_LOST = 1e4  # roundings of 1, below which a difference of two cdfs has lost its digits
_NODES = 16  # of an integral over a bin


class DiscretizedLogistic(Levels):
    r"""A logistic distribution rounded to the integers 0 .. levels - 1.

    With `a = (x + 1/2 - mu) / s`, `b = (x - 1/2 - mu) / s` and the outer bins reaching to
    infinity, `P(x) = sigmoid(a) - sigmoid(b)`. The difference is evaluated as

        log P(x) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(-1/s)),

    an identity without cancellation, so the probabilities sum to one at any parameters.

    Source: PixelCNN++ (Salimans, Karpathy, Chen, Kingma, 2017), whose evaluation of the same
    difference falls back on the density where it loses precision; this one never does.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (the base class declares a property)

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        self.levels = levels
        self.rate = (-self.log_scale).exp()
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of integers in 0 .. levels - 1, in nats."""
        centred = value - self.loc
        below = F.logsigmoid((centred + 0.5) * self.rate)
        above = F.logsigmoid((0.5 - centred) * self.rate)
        lowest, highest = value <= 0, value >= self.levels - 1
        inside = torch.where(lowest | highest, 0.0, log1mexp(self.rate))
        below = torch.where(highest, 0.0, below)
        return below + torch.where(lowest, 0.0, above) + inside

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by inversion: round `mu + s logit(u)` and clip."""
        with torch.no_grad():
            shape = (*sample_shape, *self._batch_shape)
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return (self.loc + torch.logit(u, eps=1e-7) / self.rate).round().clamp(*self._range)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        inside = torch.sigmoid((value.floor() + 0.5 - self.loc) * self.rate)
        return torch.where(value < 0, 0.0, torch.where(value >= self.levels - 1, 1.0, inside))

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest integer whose cdf reaches `q`."""
        return (self.loc + torch.logit(q) / self.rate - 0.5).ceil().clamp(*self._range)

    @property
    def mean(self) -> Tensor:
        """`E[X]`, exact; the sum runs over the levels."""
        return self._moments()[0]

    @property
    def mode(self) -> Tensor:
        """The likeliest integer: the nearest to `mu`, or an end that gathers a tail."""
        ends = [torch.full_like(self.loc, end) for end in self._range]
        candidates = torch.stack([self.loc.round().clamp(*self._range), *ends])
        best = self.log_prob(candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best)[0]

    @property
    def variance(self) -> Tensor:
        """`Var[X]`, exact; the sum runs over the levels."""
        return self._moments()[1]

    @property
    def values(self) -> Tensor:
        """All integers it takes."""
        return torch.arange(self.levels, dtype=self.loc.dtype, device=self.loc.device)

    def _moments(self) -> tuple[Tensor, Tensor]:
        def tails(k: Tensor) -> tuple[Tensor, Tensor]:
            a = (k + 0.5 - self.loc) * self.rate
            return torch.sigmoid(a), torch.sigmoid(-a)

        return integer_moments(tails, self.loc.detach().round(), self.levels)

    @property
    def _range(self) -> tuple[int, int]:
        return 0, self.levels - 1


def integer_moments(
    tails: Callable[[Tensor], tuple[Tensor, Tensor]], centre: Tensor, levels: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance of integers 0 .. levels - 1 from `tails(k) = P(X <= k), P(X > k)`.

    `E[X - c] = sum_{k >= c} P(X > k) - sum_{k < c} P(X <= k)`, and the same sum with weights
    `|2 (k - c) + 1|` and plus signs is `E[(X - c)^2]`: with an integer c near the mean nothing
    cancels, in float32 neither. The levels are summed in blocks, which bounds memory.
    """
    centre = centre.clamp(0, levels - 1)
    first, second = torch.zeros_like(centre), torch.zeros_like(centre)
    block = max(1, _BLOCK_VALUES // max(1, centre.numel()))
    for ks in torch.arange(levels - 1, dtype=centre.dtype, device=centre.device).split(block):
        k = ks.view(-1, *(1,) * centre.dim())
        odd = 2 * (k - centre) + 1
        below, above = tails(k)
        beyond = torch.where(odd > 0, above, below)
        first = first + (odd.sign() * beyond).sum(0)
        second = second + (odd.abs() * beyond).sum(0)
    return centre + first, (second - first.square()).clamp(min=0)


def log1mexp(rate: Tensor) -> Tensor:
    """`log(1 - exp(-rate))` for positive rates, stable at both ends."""
    small = rate < math.log(2)
    near = torch.where(small, rate, 1.0)
    far = torch.where(small, 1.0, rate)
    return torch.where(small, (-torch.expm1(-near)).log(), torch.log1p(-(-far).exp()))


class Rounded(Distribution):
    r"""The integers `floor(y)`, clipped to 0 .. levels - 1, of a continuous elementwise `y`.

    `P(x) = F(x + 1) - F(x)` with the outer bins reaching to infinity; `F` is the cdf of `y`. Far
    in the tails, where the difference loses its digits, the density of y is integrated over the
    bin, by Gauss and Legendre.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: Distribution, levels: int) -> None:
        self.base, self.levels = base, levels
        super().__init__(base.batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of integers in 0 .. levels - 1, in nats."""
        first, last = value <= 0, value >= self.levels - 1
        upper = torch.where(last, 1.0, self.base.cdf(value + 1))
        found = upper - torch.where(first, 0.0, self.base.cdf(value))
        limits = torch.finfo(found.dtype)
        lost = found < _LOST * limits.eps
        log_p = found.clamp(min=limits.tiny).log()
        if not bool(lost.any()):
            return log_p
        return torch.where(lost, self._integrated(value, first, last), log_p)

    def _integrated(self, value: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """`log int p(y) dy` over each bin; an outer one is mapped to u = t / (1 - t)."""
        found = []
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)  # on (-1, 1)
        for t, weight in zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
            far, log_slope = t / (1 - t), -2 * math.log1p(-t)
            y = torch.where(last, value + far, torch.where(first, value + 1 - far, value + t))
            log_p = self.base.log_prob(y).nan_to_num(nan=-math.inf)
            outer = torch.where(first | last, log_slope, 0.0)
            found.append(log_p + outer + math.log(weight))
        return torch.stack(found).logsumexp(0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        return self.base.sample(sample_shape).floor().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """`E[X]`, exact; the sum runs over the levels."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """`Var[X]`, exact; the sum runs over the levels."""
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        def tails(k: Tensor) -> tuple[Tensor, Tensor]:
            below = self.base.cdf(k + 1)
            return below, 1 - below

        return integer_moments(tails, self.base.mean.detach().floor(), self.levels)
