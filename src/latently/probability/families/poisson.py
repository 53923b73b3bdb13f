"""Counts whose variance is their mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl

from latently.probability.distributions import Factorized
from latently.probability.families._counts import (
    HALF_LOG_2PI,
    Counts,
    bounded_log,
    deviance,
    poisson_draws,
    positive_mean,
    raw_of,
    smallest_count,
    stirling,
)

__all__ = ["Poisson"]


class Poisson(Counts):
    r"""Independent counts 0, 1, 2, ...; the raw parameter is the log rate.

    `log P(x|h) = sum_j x_j log(lambda_j) - lambda_j - log x_j!` nats with `lambda = exp(h)`, bent
    smoothly to stay between 1e-9 and 1e9: `lambda = (e^h + 1e-9) / (1 + 1e-9 e^h)`. The variance
    is the mean; for counts that vary more take `NegativeBinomial`, for more zeros `ZeroInflated`.
    Networks see the standardised log(1 + x). Exact at large counts, in float32 too (see
    `_counts`).

    Args:
        shape: event shape.

    >>> import torch
    >>> Poisson((1,))(torch.tensor([3.0]).log()).log_prob(torch.tensor([2.0])).exp()
    tensor(0.2240)
    """

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, h: Tensor) -> Factorized:
        return Factorized(_Poisson(bounded_log(h)), len(self.shape))

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logs of the column means, kept above 0 by half a count."""
        return raw_of(positive_mean(x, mask))


class _Poisson(Distribution):
    """Poisson by log rate, elementwise."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, log_rate: Tensor) -> None:
        self.log_rate, self.rate = log_rate, log_rate.exp()
        super().__init__(log_rate.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability, in nats.

        `-R(x) - log(2 pi x) / 2 - x (d - log(1 + d))` with `1 + d = lambda / x`.
        """
        x = value.clamp(min=1)
        constant = stirling(x) + 0.5 * x.log() + HALF_LOG_2PI
        away = deviance(x, (self.rate - x) / x, (self.rate / x).log())
        return -torch.where(value > 0, constant + away, self.rate)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        with torch.no_grad():
            return poisson_draws(self.rate.expand(*sample_shape, *self._batch_shape))

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x) = Q(x + 1, lambda)`, a regularised incomplete gamma function."""
        return self._cdf(value).to(self.rate.dtype)

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest count whose cdf reaches `q`."""
        found = smallest_count(self._cdf, q.double(), self.rate.double())
        return found.to(self.rate.dtype)

    def _cdf(self, value: Tensor) -> Tensor:
        count = value.detach().double().floor()
        inside = torch.special.gammaincc(count.clamp(min=0) + 1, self.rate.detach().double())
        return torch.where(count < 0, 0.0, inside)

    @property
    def mean(self) -> Tensor:
        """The rate."""
        return self.rate

    @property
    def mode(self) -> Tensor:
        """The likeliest count; the higher of two."""
        return self.rate.floor()

    @property
    def variance(self) -> Tensor:
        """The rate."""
        return self.rate


@register_kl(_Poisson, _Poisson)
def _kl_poisson(q: _Poisson, p: _Poisson) -> Tensor:
    """`lambda_q (e^u - 1 - u)` with `u = log lambda_p - log lambda_q`."""
    u = p.log_rate - q.log_rate
    return q.rate * (torch.expm1(u) - u)
