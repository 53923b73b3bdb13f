"""Numbers strictly between 0 and 1: shares, rates, probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.distributions.constraints import Constraint

from latently.probability.distributions import Factorized
from latently.probability.families._columns import Columns
from latently.probability.families._counts import HALF_LOG_2PI, stirling
from latently.probability.families._moments import moments, split
from latently.probability.families._special import (
    bent,
    digamma_remainder,
    excess,
    inside_unit,
    scipy_special,
    unbent,
)

__all__ = ["Beta"]

_LEAST = 0.5  # smallest a and b
_LIMIT = 20.0


class Beta(Columns):
    r"""Independent beta distributions by mean and concentration, from h = (m, t).

    `log p(x|h) = sum_j (a_j - 1) log x_j + (b_j - 1) log(1 - x_j) - log B(a_j, b_j)` nats, with

        a = 1/2 + exp(t) p,    b = 1/2 + exp(t) (1 - p),    p = sigmoid(loc + min(scale, 1) m)

    and `t` bounded smoothly to [-20, 20]; `loc` and `scale` are mean and deviation of logit x of
    each column, a posterior has none. There h = 0 is uniform. The poles at 0 and 1 are no steeper
    than the arcsine law's, Beta(1/2, 1/2): of a steeper one floating point numbers near 1 hold
    too few draws (half of Beta(0.05, 0.05) is nearer to 0 or 1 than 1e-6). A network sees
    standardised logit x. Source of the mean and concentration: Ferrari, Cribari-Neto, "Beta
    Regression for Modelling Rates and Proportions", 2004.

    Args:
        shape: event shape (C, *S); `param_shape` is (2C, *S).

    >>> import torch
    >>> Beta((1,))(torch.zeros(2)).log_prob(torch.tensor([0.9])).exp()
    tensor(1.0000)
    """

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (2 * self.shape[0], *self.shape[1:])

    def forward(self, h: Tensor) -> Factorized:
        m, t = split(h, 2, len(self.shape))
        if self.loc is not None and self.scale is not None:
            m = (self.loc + self.scale.clamp(max=1) * m).to(h.dtype)
        total = bent(t, _LIMIT).exp()
        a, b = (_LEAST + total * share for share in (m.sigmoid(), (-m).sigmoid()))
        return Factorized(_Beta(a, b), len(self.shape), fill=0.5)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().embed(_logit(x), mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return ~((x > 0) & (x < 1))

    @property
    def support(self) -> str:
        return "numbers between 0 and 1, both excluded"

    @property
    def constraint(self) -> Constraint:
        return constraints.unit_interval

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets `loc`, `scale` to mean and deviation of logit x; a constant column keeps 1."""
        super().initialise(_logit(x.double()), mask)

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean of each column, and its variance as far as the smallest a and b allow."""
        mean, deviation = moments(x, mask)
        mean = mean.clamp(1e-9, 1 - 1e-9)
        varies = deviation > 1e-9 * mean
        count = mean * (1 - mean) / torch.where(varies, deviation, 1.0).square() - 1
        least = _LEAST / torch.minimum(mean, 1 - mean)
        count = torch.where(varies, count, 2.0).maximum(least * 1.001 + 0.001)
        total = count - 2 * _LEAST
        m = _logit((mean * count - _LEAST) / total)
        if self.loc is not None and self.scale is not None:
            m = (m - self.loc) / self.scale.clamp(max=1)
        return torch.cat([m, unbent(total.log(), _LIMIT)])


class _Beta(Distribution):
    r"""Beta by a and b, with n = a + b.

        log p(x) = a e(v) + b e(w) + log(a b / (2 pi n)) / 2 + R(n) - R(a) - R(b)
                   - log x - log(1 - x),

    `e(v) = 1 + v - exp(v)`, `v = log(x n / a)`, `w = log((1 - x) n / b)`, R the remainder of
    Stirling's formula: the usual density, written so that no digits are lost at large a and b.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b, self.n = a, b, a + b
        super().__init__(a.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        wide = value.log(), torch.log1p(-value)
        log_x, log_y = (term.to(self.a.dtype) for term in wide)
        away = self.a * excess(log_x - self._log_p) + self.b * excess(log_y - self._log_q)
        return away + self._log_peak() - log_x - log_y

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws `g / (g + g')` from two gammas, with their implicit gradients."""
        shape = (*sample_shape, *self._batch_shape)
        first, second = (torch._standard_gamma(c.expand(shape)).log() for c in (self.a, self.b))
        return inside_unit((first - second).sigmoid())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`; without a gradient."""
        return scipy_special("betainc", self.a, self.b, value.clamp(0, 1))

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles; without a gradient."""
        return inside_unit(scipy_special("betaincinv", self.a, self.b, q))

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        slopes = [digamma_remainder(c) - 0.5 / c for c in (self.a, self.b, self.n)]
        away = (1 - self.a) * (slopes[0] - slopes[2]) + (1 - self.b) * (slopes[1] - slopes[2])
        return away - self._log_peak() + self._log_p + self._log_q

    @property
    def mean(self) -> Tensor:
        """`a / n`."""
        return inside_unit(self.a / self.n)

    @property
    def mode(self) -> Tensor:
        """The highest point, or the number nearest to an end where there is a pole."""
        a, b = ((c - 1).clamp(min=0) for c in (self.a, self.b))
        flat = (self.a == 1) & (self.b == 1)
        pole = torch.where(flat, 0.5, (self.a > self.b).to(a.dtype))
        return inside_unit(torch.where(a + b > 0, a / torch.where(a + b > 0, a + b, 1.0), pole))

    @property
    def variance(self) -> Tensor:
        """`a b / (n^2 (n + 1))`."""
        return (self.a / self.n) * (self.b / self.n) / (self.n + 1)

    @property
    def _log_p(self) -> Tensor:
        return (self.a / self.n).log()

    @property
    def _log_q(self) -> Tensor:
        return (self.b / self.n).log()

    def _log_peak(self) -> Tensor:
        remainders = stirling(self.n) - stirling(self.a) - stirling(self.b)
        return 0.5 * (self.a.log() + self._log_q) + remainders - HALF_LOG_2PI


@register_kl(_Beta, _Beta)
def _kl_beta(q: _Beta, p: _Beta) -> Tensor:
    """The divergence of the means times p's n, and what the shares' sizes and remainders add."""
    means = p.a * excess(q._log_p - p._log_p) + p.b * excess(q._log_q - p._log_q)
    sizes = sum(
        sign * (_remainder(after, before) - 0.5 * excess(after.log() - before.log()))
        for sign, after, before in ((1, p.a, q.a), (1, p.b, q.b), (-1, p.n, q.n))
    )
    return sizes - means


def _remainder(after: Tensor, before: Tensor) -> Tensor:
    """`R(after) - R(before) - (after - before) R'(before)`."""
    return stirling(after) - stirling(before) - (after - before) * digamma_remainder(before)


def _logit(x: Tensor) -> Tensor:
    return x.log() - torch.log1p(-x)
