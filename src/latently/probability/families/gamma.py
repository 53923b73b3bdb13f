"""Positive numbers whose deviation grows with their mean: waiting times, amounts, intensities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl

from latently.probability.distributions import Factorized
from latently.probability.families._counts import HALF_LOG_2PI, stirling
from latently.probability.families._moments import moments, split
from latently.probability.families._positive import Positive
from latently.probability.families._special import (
    bent,
    digamma_remainder,
    excess,
    exp_inside,
    scipy_special,
    unbent,
)

__all__ = ["Gamma"]

_LEAST = 0.1  # smallest shape
_LOG_MEAN_LIMIT, _LOG_SHAPE_LIMIT = 30.0, 20.0


class Gamma(Positive):
    r"""Independent gamma distributions by mean mu and shape alpha, from h = (m, t).

        log p(x) = alpha (1 + v - e^v) + log(alpha / (2 pi)) / 2 - R(alpha) - log x,

    in nats, where `v = log(x / mu)` and R is the remainder of Stirling's formula: the density of
    shape alpha and rate alpha / mu, written so that no digits are lost at any shape. The deviation
    is `mu / sqrt(alpha)`. With c the mean and s the deviation of log x of a column, at most 1,

        mu_j = c_j exp(s_j m_j),    alpha_j = 0.1 + 0.9 exp(t_j),

    `m` bounded smoothly to [-30, 30] and `t` to [-20, 20]. A posterior is not scaled, and h = 0
    is Exponential(1). Of a smaller shape than 0.1, float32 cannot hold the draws, as too many are
    below 1e-38. A network sees standardised log x. Source of the gradient of draws with respect
    to alpha: Figurnov, Mohamed, Mnih, "Implicit Reparameterization Gradients", 2018.

    Args:
        shape: event shape (C, *S); `param_shape` is (2C, *S).

    >>> import torch
    >>> Gamma((1,))(torch.zeros(2)).log_prob(torch.tensor([3.0]))
    tensor(-3.0000)
    """

    log_mean: Tensor | None

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.register_buffer("log_mean", torch.zeros(self.shape, dtype=torch.float64))

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (2 * self.shape[0], *self.shape[1:])

    def forward(self, h: Tensor) -> Factorized:
        m, t = split(h, 2, len(self.shape))
        log_mean = bent(m, _LOG_MEAN_LIMIT)
        if self.log_mean is not None and self.scale is not None:
            log_mean = self.log_mean + self.scale.clamp(max=1) * log_mean
        shape = _LEAST + (1 - _LEAST) * bent(t, _LOG_SHAPE_LIMIT).exp()
        return Factorized(_Gamma(log_mean, shape), len(self.shape), self.inside())

    def unscaled(self) -> None:
        super().unscaled()
        self.log_mean = None

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets `loc`, `scale` to the moments of log x, and `log_mean` to the log of x's mean."""
        super().initialise(x, mask)
        if self.log_mean is not None:
            self.log_mean.copy_(_log_of_mean(x, mask))

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The maximum of the likelihood, alpha up to 1.5 %.

        Source of alpha: Minka, "Estimating a Gamma Distribution", 2002.
        """
        log_mean = _log_of_mean(x, mask)
        gap = log_mean - moments(x.double().log(), mask)[0]
        varies = gap > 1e-12
        gap = torch.where(varies, gap, 1.0)
        alpha = (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)
        alpha = torch.where(varies, alpha, 1.0)
        t = ((alpha - _LEAST).clamp(min=1e-3) / (1 - _LEAST)).log()
        if self.log_mean is not None and self.scale is not None:
            log_mean = (log_mean - self.log_mean) / self.scale.clamp(max=1)
        return torch.cat([unbent(log_mean, _LOG_MEAN_LIMIT), unbent(t, _LOG_SHAPE_LIMIT)])


class _Gamma(Distribution):
    """Gamma by log mean and shape; the mean's type may be wider, as columns may lie far apart."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, log_mean: Tensor, shape: Tensor) -> None:
        self.log_mean, self.shape = log_mean, shape
        super().__init__(shape.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        log_x = value.log()
        v = (log_x - self.log_mean).to(self.shape.dtype)
        peak = 0.5 * self.shape.log() - HALF_LOG_2PI - stirling(self.shape)
        return self.shape * excess(v) + peak - log_x.to(v.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with implicit gradients."""
        shape = self.shape.expand(*sample_shape, *self._batch_shape)
        unit = torch._standard_gamma(shape).log() - self.shape.log()
        return exp_inside(self.log_mean + unit)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`; without a gradient."""
        shape, ratio = self.shape.double(), value.double() / self.log_mean.double().exp()
        found = torch.special.gammainc(shape, (shape * ratio).clamp(min=0))
        return found.detach().to(self.shape.dtype)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles; without a gradient with respect to the shape."""
        shape = self.shape.double()
        unit = scipy_special("gammaincinv", shape, q) / shape.detach()
        return exp_inside(self.log_mean + unit.log().to(self.shape.dtype))

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        log_unit = digamma_remainder(self.shape) - 0.5 / self.shape  # E[log(x / mu)]
        peak = 0.5 * self.shape.log() - HALF_LOG_2PI - stirling(self.shape)
        return (1 - self.shape) * log_unit - peak + self.log_mean.to(self.shape.dtype)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return exp_inside(self.log_mean)

    @property
    def mode(self) -> Tensor:
        """`mu (alpha - 1) / alpha`, or the smallest number where the density rises to 0."""
        return exp_inside(self.log_mean + ((self.shape - 1).clamp(min=0) / self.shape).log())

    @property
    def variance(self) -> Tensor:
        """`mu^2 / alpha`."""
        return exp_inside(2 * self.log_mean - self.shape.log())


@register_kl(_Gamma, _Gamma)
def _kl_gamma(q: _Gamma, p: _Gamma) -> Tensor:
    """Three terms of which none is below 0: of the means, of the shapes, of their remainders."""
    means = -p.shape * excess((q.log_mean - p.log_mean).to(p.shape.dtype))
    shapes = -0.5 * excess(p.shape.log() - q.shape.log())
    remainders = stirling(p.shape) - stirling(q.shape)
    return means + shapes + remainders - (p.shape - q.shape) * digamma_remainder(q.shape)


def _log_of_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Log of each column's mean, where the sum may be no number of its type; 0 if none is seen."""
    if mask is None:
        mask = torch.ones_like(x, dtype=torch.bool)
    logs = torch.where(mask, x.double().log(), -torch.inf)
    count = mask.sum(0)
    return torch.where(count > 0, logs.logsumexp(0) - count.clamp(min=1).log(), 0.0)
