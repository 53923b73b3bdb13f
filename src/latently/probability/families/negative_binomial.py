"""Counts that vary more than their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Gamma

from latently.errors import UserError
from latently.probability.distributions import Factorized
from latently.probability.families._counts import (
    HALF_LOG_2PI,
    Counts,
    betainc,
    bounded_log,
    deviance,
    poisson_draws,
    positive_mean,
    raw_of,
    smallest_count,
    stirling,
)
from latently.probability.families._moments import split

__all__ = ["NegativeBinomial"]

_ROWS = 1000  # rows that the starting dispersions are read from
_STARTS = (1e-3, 1e4)  # between these: beyond, gradients are too small to come back by
_STEPS = 10
_GOLDEN = 0.381966


class NegativeBinomial(Counts):
    r"""Independent counts 0, 1, 2, ... of mean mu and inverse dispersion theta.

        P(x) = Gamma(x + theta) / (Gamma(theta) x!) p^theta (1 - p)^x,  p = theta / (theta + mu)

    A Poisson whose rate is itself a draw from a gamma distribution of mean mu and shape theta:
    the variance is `mu + mu^2 / theta`, and theta to infinity is the Poisson. In the other usual
    notation it counts failures before the r-th success of probability p, `r = theta`. The raw
    parameters are log mu and log theta, both bent smoothly to +-log 1e9 as in `Poisson`. Exact
    at large counts and any dispersion (see `_counts`). Source of the use: Lopez, Regier, Cole,
    Jordan, Yosef, "Deep generative modeling for single-cell transcriptomics", 2018.

    Args:
        shape: event shape (C, *S).
        dispersion: "column": theta is a learned parameter of each column and h = log mu;
            "cell": h = (log mu, log theta), `param_shape` is (2C, *S).

    Raises:
        UserError: `dispersion` is neither.

    >>> import torch
    >>> NegativeBinomial((1,))(torch.zeros(1)).log_prob(torch.tensor([2.0])).exp()
    tensor(0.1250, ...)
    """

    def __init__(self, shape: Sequence[int], *, dispersion: str = "column") -> None:
        super().__init__(shape)
        if dispersion not in ("column", "cell"):
            raise UserError(
                f'NegativeBinomial: dispersion={dispersion!r} must be "column", learned for each '
                'column, or "cell", read from the network'
            )
        self.dispersion = dispersion
        if dispersion == "column":
            self.log_dispersion = nn.Parameter(torch.zeros(self.shape))

    @property
    def param_shape(self) -> tuple[int, ...]:
        channels, *rest = self.shape
        return (channels if self.dispersion == "column" else 2 * channels, *rest)

    def forward(self, h: Tensor) -> Factorized:
        ndim = len(self.shape)
        per_cell = self.dispersion == "cell"
        log_mean, log_theta = split(h, 2, ndim) if per_cell else (h, self.log_dispersion)
        return Factorized(_NegativeBinomial(bounded_log(log_mean), bounded_log(log_theta)), ndim)

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """As all counts; dispersions of columns start at the best that ignores z."""
        super().initialise(x, mask)
        if self.dispersion == "column":
            self.log_dispersion.copy_(_best_dispersion(x, mask))

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logs of the column means, kept above 0 by half a count, and of the dispersions."""
        log_mean = raw_of(positive_mean(x, mask))
        if self.dispersion == "column":
            return log_mean
        return torch.cat([log_mean, _best_dispersion(x, mask)])


@torch.no_grad()
def _best_dispersion(x: Tensor, mask: Tensor | None) -> Tensor:
    """Raw log theta of greatest likelihood in each column, given its mean: a golden search."""
    rows = slice(None, None, -(-len(x) // _ROWS))
    mu = positive_mean(x, mask)
    x = x[rows].double()
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask[rows]
    x = torch.where(seen, x, 0.0)
    total, count = x.sum(0), seen.sum(0)

    def log_lik(log_theta: Tensor) -> Tensor:
        """But for what theta does not change; in float64, and far from the Poisson limit."""
        theta = log_theta.exp()
        gammas = torch.where(seen, (x + theta).lgamma() - theta.lgamma(), 0.0).sum(0)
        weight = count * theta
        return gammas + weight * log_theta - (total + weight) * (theta + mu).log()

    low, high = (torch.full_like(mu, end).log() for end in _STARTS)
    for _ in range(_STEPS):
        step = _GOLDEN * (high - low)
        left = log_lik(low + step) > log_lik(high - step)
        low, high = torch.where(left, low, low + step), torch.where(left, high - step, high)
    return raw_of(((low + high) / 2).exp())


class _NegativeBinomial(Distribution):
    """Negative binomial by logs of mean mu and inverse dispersion theta, elementwise."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, log_mean: Tensor, log_theta: Tensor) -> None:
        mean, theta = torch.broadcast_tensors(log_mean.exp(), log_theta.exp())
        self.mu, self.theta = mean, theta
        super().__init__(mean.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability, in nats.

        With n = x + theta, `R(n) - R(theta) - R(x) - log(1 + x / theta) / 2 - log(2 pi x) / 2`
        less the deviances of theta, `1 + d = n / (theta + mu)`, and of x, `1 + d' = (1 + d) mu /
        x`. As theta grows the former goes with the terms in n, and the Poisson is left.
        """
        mu, theta = self.mu, self.theta
        x = value.clamp(min=1)
        n = x + theta
        d = (x - mu) / (theta + mu)
        ratio = n / (theta + mu)
        away = deviance(theta, d, ratio.log())
        away = away + deviance(x, -theta / x * d, (ratio * (mu / x)).log())
        constant = stirling(x) + 0.5 * x.log() + HALF_LOG_2PI
        constant = constant + stirling(theta) - stirling(n) + 0.5 * torch.log1p(x / theta)
        return -torch.where(value > 0, constant + away, theta * torch.log1p(mu / theta))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of a rate, then of a count."""
        with torch.no_grad():
            gamma = Gamma(self.theta, torch.ones_like(self.theta), validate_args=False)
            rate = gamma.sample(torch.Size(sample_shape)) * (self.mu / self.theta)
            return poisson_draws(rate)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x) = I_p(theta, x + 1)`, a regularised incomplete beta function."""
        return self._cdf(value).to(self.mu.dtype)

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest count whose cdf reaches `q`."""
        return smallest_count(self._cdf, q.double(), self.mu.double()).to(self.mu.dtype)

    def _cdf(self, value: Tensor) -> Tensor:
        count = value.detach().double().floor()
        mu, theta = self.mu.detach().double(), self.theta.detach().double()
        inside = betainc(theta, count.clamp(min=0) + 1, theta / (theta + mu))
        return torch.where(count < 0, 0.0, inside)

    @property
    def mean(self) -> Tensor:
        """The mean mu."""
        return self.mu

    @property
    def mode(self) -> Tensor:
        """The likeliest count, `floor(mu (1 - 1 / theta))` or 0."""
        return (self.mu * (1 - 1 / self.theta)).clamp(min=0).floor()

    @property
    def variance(self) -> Tensor:
        """`mu + mu^2 / theta`."""
        return self.mu + self.mu * (self.mu / self.theta)
