"""Numbers from 0 to 1, both included: grey values of pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.distributions.constraints import Constraint

from latently.probability.distributions import Factorized
from latently.probability.distributions.discrete import open_uniform
from latently.probability.families._moments import moments, zero_missing
from latently.probability.families.base import Family

__all__ = ["ContinuousBernoulli"]

_NEAR = 0.25  # logits this near to 0 are served by series
_LARGEST = 2000.0  # logits of a start
_TINY = 1e-20  # a logit that stands for 0: the error is far below rounding


class ContinuousBernoulli(Family):
    r"""Independent values in [0, 1] whose density is a Bernoulli's formula, normalised.

    `log p(x|h) = sum_j x_j h_j - log Z(h_j)` nats with `Z(h) = (e^h - 1) / h`; the raw parameters
    h are logits, and h = 0 is uniform. It is the exponential distribution, rising or falling, cut
    to [0, 1]: binary cross-entropy of grey values plus the constant that makes it a density. A
    network sees 2 x - 1. Source: Loaiza-Ganem, Cunningham, "The Continuous Bernoulli: Fixing a
    Pervasive Error in Variational Autoencoders", 2019.

    Args:
        shape: event shape.

    >>> import torch
    >>> ContinuousBernoulli((2,))(torch.zeros(2)).log_prob(torch.tensor([0.1, 0.7])).exp()
    tensor(1.)
    """

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, h: Tensor) -> Factorized:
        return Factorized(_ContinuousBernoulli(h), len(self.shape), fill=0.5)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return zero_missing(2 * x - 1, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return ~((x >= 0) & (x <= 1))

    @property
    def support(self) -> str:
        return "numbers from 0 to 1"

    @property
    def constraint(self) -> Constraint:
        return constraints.unit_interval

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The maximum of the likelihood: the logit whose mean is the column's, by bisection."""
        wanted, _ = moments(x, mask)
        low = torch.full_like(wanted, -_LARGEST)
        high = -low
        for _ in range(60):
            middle = (low + high) / 2
            above = _mean(middle) > wanted
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2


class _ContinuousBernoulli(Distribution):
    """Continuous Bernoulli by logits."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        away = value.to(self.logits.dtype) - _start(self.logits)
        return away * self.logits - _rest(self.logits)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by inversion of the cdf; the gradient is that of a quantile."""
        h = self.logits.detach()
        x = self.icdf(open_uniform((*sample_shape, *self._batch_shape), h)).detach()
        return x + _slope(h, x) * (self.logits - h)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        return self.icdf(open_uniform((*sample_shape, *self._batch_shape), self.logits)).detach()

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        return _cdf(self.logits, value.clamp(0, 1))

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles, by that of the falling density: with -h the law is that of 1 - x."""
        rising = self.logits > 0
        size = self.logits.abs().clamp(min=_TINY)
        tail = -torch.log1p(torch.where(rising, 1 - q, q) * torch.expm1(-size)) / size
        return torch.where(rising, 1 - tail, tail).clamp(0, 1)

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        return _rest(self.logits) - self.logits * _shift(self.logits)

    @property
    def mean(self) -> Tensor:
        """`1 / (1 - e^-h) - 1 / h`, 1/2 for h = 0."""
        return _mean(self.logits)

    @property
    def mode(self) -> Tensor:
        """1 where the density rises, else 0."""
        return (self.logits > 0).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        """`1 / h^2 - 1 / (4 sinh^2(h / 2))`, 1/12 for h = 0."""
        h = self.logits
        near, size = _parts(h)
        r = near.square()
        series = r * (1 / 6048 - r * (1 / 172800 - r / 5322240))
        series = 1 / 12 - r * (1 / 240 - series)
        rest = (-size).exp() / torch.expm1(-size).square()
        return torch.where(_is_near(h), series, 1 / size.square() - rest)


@register_kl(_ContinuousBernoulli, _ContinuousBernoulli)
def _kl_continuous_bernoulli(q: _ContinuousBernoulli, p: _ContinuousBernoulli) -> Tensor:
    """`E_q[x] (h_q - h_p) - log Z(h_q) + log Z(h_p)`, with what cancels left out."""
    start = _start(p.logits) - _start(q.logits)
    away = _shift(q.logits) * (q.logits - p.logits) + start * p.logits
    return away + _rest(p.logits) - _rest(q.logits)


# log Z(h) = s h + rest and E[x] = s + shift, where s is the end at which the density is largest,
# or 1/2 near h = 0. Rest and shift are small where h is large, and smooth at 0.


def _is_near(h: Tensor) -> Tensor:
    return h.abs() < _NEAR


def _parts(h: Tensor) -> tuple[Tensor, Tensor]:
    """h for the series, and |h| for the closed forms, each harmless where the other serves."""
    near = _is_near(h)
    return torch.where(near, h, 0.0), torch.where(near, 1.0, h.abs())


def _start(h: Tensor) -> Tensor:
    """s."""
    return torch.where(_is_near(h), 0.5, (h > 0).to(h.dtype))


def _rest(h: Tensor) -> Tensor:
    """`log((1 - e^-|h|) / |h|)`, or `log Z(h) - h / 2` near 0."""
    near, size = _parts(h)
    r = near.square()
    series = r * (1 / 24 - r * (1 / 2880 - r * (1 / 181440 - r / 9676800)))
    return torch.where(_is_near(h), series, (-torch.expm1(-size) / size).log())


def _shift(h: Tensor) -> Tensor:
    """`E[x] - s`."""
    near, size = _parts(h)
    r = near.square()
    series = near * (1 / 12 - r * (1 / 720 - r * (1 / 30240 - r / 1209600)))
    falling = 1 / size + (-size).exp() / torch.expm1(-size)
    return torch.where(_is_near(h), series, torch.where(h > 0, -falling, falling))


def _mean(h: Tensor) -> Tensor:
    return _start(h) + _shift(h)


def _cdf(h: Tensor, x: Tensor) -> Tensor:
    """`(e^{h x} - 1) / (e^h - 1)`, with exponents below 0 only."""
    size = -h.abs().clamp(min=_TINY)
    falling = torch.expm1(size * x) / torch.expm1(size)
    return torch.where(h > 0, (size * (1 - x)).exp() * falling, falling)


def _slope(h: Tensor, x: Tensor) -> Tensor:
    """`dx / dh` at a constant cdf: `(F(x; -h) - x) / h`, by its series near h = 0."""
    near = h.abs() < 0.01
    far = torch.where(near, 1.0, h)
    w = x * (1 - x)
    series = w / 2 + h * w * (1 - 2 * x) / 12 - h.square() * w.square() / 24
    return torch.where(near, series, (_cdf(-far, x) - x) / far)
