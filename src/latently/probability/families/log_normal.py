"""Positive numbers over orders of magnitude: incomes, concentrations, durations."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, kl_divergence, register_kl

from latently.probability.distributions import Factorized, Normal, Scaled
from latently.probability.distributions.integers import log1mexp
from latently.probability.families._counts import stirling
from latently.probability.families._moments import split
from latently.probability.families._positive import Positive
from latently.probability.families._special import digamma_remainder, excess, exp_inside
from latently.probability.families.gamma import _Gamma

__all__ = ["LogNormal"]

_LARGEST = {torch.float32: 60.0, torch.float64: 600.0}  # exponents; products must fit, too


class LogNormal(Positive):
    r"""Independent lognormals: `log x_j ~ N(loc_j + scale_j m_j, (scale_j exp(t_j))^2)`.

    `log p(x|h) = sum_j log N(log x_j; ., .) - log x_j` nats, with h = (m, t) and `t` bounded
    smoothly to [-10, 10]. Columns are scaled by mean and deviation of log x, which is also what
    a network sees, so that values from 1e-30 to 1e30 are of order one. Mean and variance are
    exact, and the largest number of their type where they are larger than that.

    Where deviations are held (`hold`) none is above 1.5 times that of the column: the mean
    `exp(mu + sigma^2 / 2)` grows beyond all numbers where a network is unsure, and a single draw
    of z in a million would be the imputed value.

    Args:
        shape: event shape (C, *S); `param_shape` is (2C, *S).

    >>> import torch
    >>> LogNormal((1,))(torch.zeros(2)).mean
    tensor([1.6487], dtype=torch.float64)
    """

    ceiling = 1.5

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (2 * self.shape[0], *self.shape[1:])

    def forward(self, h: Tensor) -> Factorized:
        mean, log_scale = split(h, 2, len(self.shape))
        base: Distribution = Normal(mean, self.log_deviation(log_scale))
        if self.loc is not None and self.scale is not None:
            base = Scaled(base, self.loc, self.scale)
        return Factorized(_LogNormal(base), len(self.shape), self.inside())


class _LogNormal(Distribution):
    """`x = e^y` with y from a normal."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, base: Distribution) -> None:
        self.base = base
        super().__init__(base.batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        y = value.log()
        log_p = self.base.log_prob(y)
        return log_p - y.to(log_p.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws."""
        return exp_inside(self.base.rsample(Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        return exp_inside(self.base.sample(Size(sample_shape)))

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        positive = value > 0
        inside = self.base.cdf(torch.where(positive, value, 1.0).log())
        return torch.where(positive, inside, 0.0)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles."""
        return exp_inside(self.base.icdf(q))

    def entropy(self) -> Tensor:
        """Entropy, in nats: that of y, and `E[log x]`."""
        entropy = self.base.entropy()
        return entropy + self.base.mean.to(entropy.dtype)

    @property
    def mean(self) -> Tensor:
        """`exp(mu + sigma^2 / 2)`."""
        return exp_inside(self.base.mean + self.base.variance / 2)

    @property
    def mode(self) -> Tensor:
        """`exp(mu - sigma^2)`."""
        return exp_inside(self.base.mean - self.base.variance)

    @property
    def variance(self) -> Tensor:
        """`exp(2 mu + sigma^2) (exp(sigma^2) - 1)`."""
        square = self.base.variance
        return exp_inside(2 * (self.base.mean + square) + log1mexp(square))


@register_kl(_LogNormal, _LogNormal)
def _kl_log_normal(q: _LogNormal, p: _LogNormal) -> Tensor:
    return kl_divergence(q.base, p.base)


@register_kl(_LogNormal, _Gamma)
def _kl_to_gamma(q: _LogNormal, p: _Gamma) -> Tensor:
    """`-alpha e(w) - e(log(alpha s^2)) / 2 + R(alpha)`, with no term below 0 but rounding.

    `w = m + s^2 / 2 - log mu` is the log ratio of means, `e(v) = 1 + v - exp(v)`, R Stirling's
    remainder. Where exp(w) is no number of its type, w is the largest for which it is.
    """
    m, log_std = _parameters(q)
    square = (2 * log_std).exp()
    w = (m + square / 2 - p.log_mean).to(p.shape.dtype)
    w = w.clamp(max=_LARGEST[w.dtype])
    size = (2 * log_std).to(w.dtype) + p.shape.log()
    return -p.shape * excess(w) - 0.5 * excess(size) + stirling(p.shape)


@register_kl(_Gamma, _LogNormal)
def _kl_of_gamma(q: _Gamma, p: _LogNormal) -> Tensor:
    """KL of the logs, `-H(log x) + (psi'(alpha) + d^2) / (2 s^2) + log s + log(2 pi) / 2`.

    d is `E log x - m`, and `E log x = log mu + psi(alpha) - log alpha`.
    """
    m, log_std = _parameters(p)
    alpha, log_std = q.shape, log_std.to(q.shape.dtype)
    slope = digamma_remainder(alpha) - 0.5 / alpha  # psi(alpha) - log alpha
    d = (q.log_mean + slope - m).to(alpha.dtype)
    energy = (torch.polygamma(1, alpha) + d.square()) * (-2 * log_std).exp()
    return alpha * slope + 0.5 * (alpha.log() + energy) - stirling(alpha) + log_std


def _parameters(d: _LogNormal) -> tuple[Tensor, Tensor]:
    """Mean and log deviation of log x."""
    if isinstance(d.base, Scaled):
        base = cast(Normal, d.base.base)
        return d.base.loc + d.base.scale * base.loc, base.log_scale + d.base.scale.log()
    base = cast(Normal, d.base)
    return base.loc, base.log_scale
