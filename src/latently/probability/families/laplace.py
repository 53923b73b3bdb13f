"""Real numbers with tails heavier than a normal's, about a median."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl

from latently.probability.distributions import Factorized
from latently.probability.distributions import Normal as NormalDistribution
from latently.probability.distributions.discrete import open_uniform
from latently.probability.distributions.normal import kl_to_normal
from latently.probability.families._columns import LOG_SCALE_LIMIT, Columns
from latently.probability.families._moments import moments, split
from latently.probability.families._special import quantiles, unbent

__all__ = ["Laplace"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_ROOT_HALF = math.sqrt(0.5)


class Laplace(Columns):
    r"""Independent Laplace distributions; median and log scale are both read from h = (m, t).

    `log p(x|h) = sum_j -|u_j - m_j| exp(-t_j) - t_j - log(2 scale_j)` nats with
    `u_j = (x_j - loc_j) / scale_j`; `t` is bounded smoothly to [-10, 10]. The best m for given
    rows is their median, which a few large errors do not move.

    Args:
        shape: event shape (C, *S); `param_shape` is (2C, *S).

    >>> import torch
    >>> Laplace((1,))(torch.zeros(2)).log_prob(torch.zeros(1)).exp()
    tensor(0.5000)
    """

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (2 * self.shape[0], *self.shape[1:])

    def forward(self, h: Tensor) -> Factorized:
        median, log_scale = split(h, 2, len(self.shape))
        return self.columns(_Laplace(median, self.log_deviation(log_scale)))

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Median and mean absolute deviation of each column: the maximum of the likelihood."""
        (median,) = quantiles(x, mask, [0.5])
        spread, _ = moments((x.double() - median).abs(), mask)
        if self.loc is not None and self.scale is not None:
            median, spread = (median - self.loc) / self.scale, spread / self.scale
        spread = torch.where(spread > 0, spread, 1.0)
        return torch.cat([median, unbent(spread.log(), LOG_SCALE_LIMIT)])


class _Laplace(Distribution):
    """Laplace by location and *log* scale."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        self.loc, self.log_scale = loc, log_scale
        self.scale = log_scale.exp()
        super().__init__(loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        return -((value - self.loc) / self.scale).abs() - self.log_scale - math.log(2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws `mu + b (e - e')`, with e and e' from Exponential(1)."""
        shape = (*sample_shape, *self._batch_shape)
        e, f = (-open_uniform(shape, self.loc).log() for _ in range(2))
        return self.loc + self.scale * (e - f)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        u = (value - self.loc) / self.scale
        tail = 0.5 * (-u.abs()).exp()
        return torch.where(u < 0, tail, 1 - tail)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles."""
        tail = (2 * torch.where(q < 0.5, q, 1 - q)).log()
        return self.loc + self.scale * torch.where(q < 0.5, tail, -tail)

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        return 1 + math.log(2) + self.log_scale

    @property
    def mean(self) -> Tensor:
        """Mean."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """Mode."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Variance."""
        return 2 * self.scale.square()


@register_kl(_Laplace, _Laplace)
def _kl_laplace(q: _Laplace, p: _Laplace) -> Tensor:
    """`d - 1 + s exp(-d / s) - log s`, with s the ratio of scales and d the distance over p's.

    Written with `expm1`, as the first terms nearly cancel where the ratio is 1 and d is 0.
    """
    log_ratio = q.log_scale - p.log_scale
    ratio = log_ratio.exp()
    distance = ((q.loc - p.loc) / p.scale).abs()
    near = ((q.loc - p.loc) / q.scale).abs()
    return (distance + ratio * torch.expm1(-near)) + torch.expm1(log_ratio) - log_ratio


register_kl(_Laplace, NormalDistribution)(kl_to_normal)


@register_kl(NormalDistribution, _Laplace)
def _kl_normal_to_laplace(q: NormalDistribution, p: _Laplace) -> Tensor:
    """`E|x - m| / b + log 2b - H(q)`, with the folded normal's mean.

    `E|x - m| = sigma (2 phi(u) + u (2 Phi(u) - 1))`, `u = (mu - m) / sigma`.
    """
    u = (q.loc - p.loc) / q.scale
    folded = math.sqrt(2 / math.pi) * (-0.5 * u.square()).exp() + u * torch.erf(u * _ROOT_HALF)
    ratio = q.log_scale - p.log_scale
    return folded * ratio.exp() - ratio + math.log(2) - _HALF_LOG_2PI - 0.5
