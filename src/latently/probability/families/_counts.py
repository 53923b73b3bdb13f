r"""What the families of counts share: bounded logs, Stirling's remainder, deviances, quantiles.

Probabilities of large counts are differences of terms a million times larger. They are taken
apart as in Catherine Loader, "Fast and Accurate Computation of Binomial Probabilities", 2000:
with Stirling's `log n! = (n + 1/2) log n - n + log(2 pi) / 2 + R(n)` the large terms meet in
*deviances* `a (d - log(1 + d))`, zero where a count is what was expected, and nothing cancels, in
float32 neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from latently.probability.families._moments import moments, zero_missing
from latently.probability.families.base import Family

__all__ = [
    "HALF_LOG_2PI",
    "LARGEST",
    "Counts",
    "betainc",
    "bounded_log",
    "deviance",
    "poisson_draws",
    "positive_mean",
    "raw_of",
    "smallest_count",
    "stirling",
]

LARGEST = 1e9  # rates and dispersions lie between its inverse and itself
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_LIMIT = math.log(LARGEST)
_SERIES_FROM = 16.0  # here five terms of Stirling's series have every digit of float64


class Counts(Family):
    """A family over 0, 1, 2, ...; networks see standardised `log(1 + x)`."""

    discrete: bool = True
    loc: Tensor | None
    scale: Tensor | None

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.register_buffer("loc", torch.zeros(self.shape))
        self.register_buffer("scale", torch.ones(self.shape))

    def unscaled(self) -> None:
        self.loc = self.scale = None

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.log1p()
        if self.loc is not None and self.scale is not None:
            x = (x - self.loc) / self.scale
        return zero_missing(x, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return (x != x.round()) | (x < 0) | ~x.isfinite()

    @property
    def support(self) -> str:
        return "whole numbers 0, 1, 2, ..."

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets `loc`, `scale` to mean and deviation of log(1 + x); a constant column keeps 1."""
        if self.loc is not None and self.scale is not None:
            mean, deviation = moments(zero_missing(x, mask).double().log1p(), mask)
            self.loc.copy_(mean)
            self.scale.copy_(torch.where(deviation > 1e-6, deviation, 1.0))


def positive_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each column, kept above 0 by half a count."""
    mean, _ = moments(x, mask)
    rows = torch.as_tensor(len(x)) if mask is None else mask.sum(0).clamp(min=1)
    return mean.maximum(0.5 / rows.to(mean))


def bounded_log(h: Tensor) -> Tensor:
    r"""`log((e^h + 1/B) / (1 + e^h / B))`: h itself, bent smoothly to stay within +-log B.

    B is 1e9. It differs from h by less than 1e-6 where |h| < 6 and by 0.02 where e^h is 2e7.
    """
    h = h.clamp(-2 * _LIMIT, 2 * _LIMIT)  # beyond, the limits are reached to every digit
    return h - F.softplus(h - _LIMIT) + F.softplus(-h - _LIMIT)


def raw_of(value: Tensor) -> Tensor:
    """The h whose `bounded_log` is the log of a value, which is moved inside the bounds."""
    value = value.clamp(2 / LARGEST, LARGEST / 2)
    return (value - 1 / LARGEST).log() - torch.log1p(-value / LARGEST)


def stirling(x: Tensor) -> Tensor:
    """`R(x) = log Gamma(x + 1) - (x + 1/2) log x + x - log(2 pi) / 2` for positive x."""
    near, inverse = x.clamp(max=_SERIES_FROM), 1 / x.clamp(min=_SERIES_FROM)
    square = inverse.square()
    series = 1 / 1260 - square * (1 / 1680 - square / 1188)
    series = inverse * (1 / 12 - square * (1 / 360 - square * series))
    exact = torch.lgamma(near + 1) - (near + 0.5) * near.log() + near - HALF_LOG_2PI
    return torch.where(x < _SERIES_FROM, exact, series)


def deviance(weight: Tensor, d: Tensor, log_ratio: Tensor) -> Tensor:
    """`weight (d - log(1 + d))`, where log(1 + d) is known as `log_ratio` too.

    That one serves where d is near -1 and `1 + d` has lost its digits.
    """
    return weight * (d - torch.where(d < -0.5, log_ratio, torch.log1p(d.clamp(min=-0.5))))


@torch.no_grad()
def poisson_draws(rate: Tensor) -> Tensor:
    """Draws at any rate: above 1e9 of the normal, as torch's own may overflow their integers.

    There the two differ by 3e-5 in any probability, less than float32 resolves of the counts. Of
    a rate that is NaN, NaN, where torch raises.
    """
    far = rate + rate.sqrt() * torch.randn_like(rate)
    near = torch.poisson(rate.clamp(max=LARGEST).nan_to_num(0.0))
    return torch.where(rate <= LARGEST, near, far.round())


@torch.no_grad()
def betainc(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Regularised incomplete beta function in float64, which torch lacks; without a gradient."""
    from scipy.special import betainc as function  # only where quantiles are asked for

    values = [v.double().cpu().numpy() for v in torch.broadcast_tensors(a, b, x)]
    return torch.as_tensor(function(*values), device=x.device)


@torch.no_grad()
def smallest_count(cdf: Callable[[Tensor], Tensor], q: Tensor, start: Tensor) -> Tensor:
    """The smallest of 0, 1, 2, ... whose cdf reaches q, by bisection; a start of any size helps.

    Infinite where q is above every value of the cdf.
    """
    high = start.detach().expand(torch.broadcast_shapes(q.shape, start.shape)).ceil() + 1
    low = torch.full_like(high, -1.0)
    while bool((short := (cdf(high) < q) & high.isfinite()).any()):
        low, high = torch.where(short, high, low), torch.where(short, 4 * high, high)
    while True:
        middle = ((low + high) / 2).floor()
        if not bool(((low < middle) & (middle < high)).any()):
            return high
        reached = cdf(middle) >= q
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
