"""Real numbers with outliers, as many as the data have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl

from latently.probability.distributions import Factorized, Normal
from latently.probability.distributions.normal import kl_to_normal
from latently.probability.families._columns import LOG_SCALE_LIMIT, Columns
from latently.probability.families._counts import HALF_LOG_2PI, stirling
from latently.probability.families._moments import split
from latently.probability.families._special import (
    bent,
    digamma_remainder,
    quantiles,
    scipy_special,
    unbent,
)

__all__ = ["StudentT"]

_EXCESS = 10.0  # degrees of freedom above 2 at raw parameter 0
_LIMIT = math.log(1000.0)
_QUARTILE_OF_NORMAL = 0.6744897501960817
_LEVELS = (0.025, 0.25, 0.5, 0.75, 0.975)


class StudentT(Columns):
    r"""Independent Student's t; location, log scale and degrees of freedom from h = (m, t, n).

    `x_j = loc_j + scale_j (m_j + exp(t_j) T)` with T of Student's t distribution with `nu_j`
    degrees of freedom,

        log p(T) = log Gamma((nu + 1) / 2) - log Gamma(nu / 2) - log(nu pi) / 2
                   - (nu + 1) / 2 log(1 + T^2 / nu).

    `nu = 2 + 10 exp(n)`, bent smoothly to stay between 2.01 and 10,002: mean and variance exist,
    and the upper end is a normal. `t` is bounded to [-10, 10]. Columns are scaled by median and
    quartiles, and a network sees `asinh` of the scaled values: outliers keep their order but do
    not drown the others. Source: Lange, Little, Taylor, "Robust Statistical Modeling Using the t
    Distribution", 1989; of the gradient of draws with respect to nu: Figurnov, Mohamed, Mnih,
    "Implicit Reparameterization Gradients", 2018.

    Args:
        shape: event shape (C, *S); `param_shape` is (3C, *S).

    >>> import torch
    >>> StudentT((1,))(torch.zeros(3)).variance
    tensor([1.2000], dtype=torch.float64)
    """

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (3 * self.shape[0], *self.shape[1:])

    def forward(self, h: Tensor) -> Factorized:
        loc, log_scale, log_excess = split(h, 3, len(self.shape))
        above = _EXCESS * bent(log_excess, _LIMIT).exp()
        return self.columns(_StudentT(loc, self.log_deviation(log_scale), above))

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().embed(x, mask).asinh()

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets `loc`, `scale` to median and quartiles; where those are equal, to the moments."""
        if self.loc is None or self.scale is None:
            return
        super().initialise(x, mask)
        lower, median, upper = quantiles(x, mask, _LEVELS[1:4])
        spread = (upper - lower) / (2 * _QUARTILE_OF_NORMAL)
        varies = spread > 1e-9 * median.abs().clamp(min=1e-12)
        self.loc.copy_(torch.where(varies, median, self.loc))
        self.scale.copy_(torch.where(varies, spread, self.scale))

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The t with five quantiles of the column: nu from the length of the tails."""
        low, lower, median, upper, high = quantiles(x, mask, _LEVELS)
        varies = upper > lower
        width = torch.where(varies, upper - lower, 1.0)
        n, quartile = _of_tails((high - low) / width)
        loc, scale = median, width / 2 / quartile
        if self.loc is not None and self.scale is not None:
            loc, scale = (median - self.loc) / self.scale, scale / self.scale
        h = torch.stack([loc, unbent(scale.log(), LOG_SCALE_LIMIT), n])
        return torch.where(varies, h, 0.0).flatten(0, 1)


def _of_tails(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Raw n, and the upper quartile of T, for a range of 95 % over one of 50 %; by a table."""
    raw = unbent(torch.linspace(-1, 1, 128, dtype=torch.float64) * _LIMIT, _LIMIT).unique()
    nu = 2 + _EXCESS * bent(raw, _LIMIT).exp()
    end, quartile = (scipy_special("stdtrit", nu, nu.new_tensor(q)) for q in (0.975, 0.75))
    wanted = ratio.cpu().numpy()
    columns = [np.interp(-wanted, -(end / quartile), column) for column in (raw, quartile)]
    return torch.as_tensor(columns[0]).to(ratio), torch.as_tensor(columns[1]).to(ratio)


class _StudentT(Distribution):
    """Student's t by location, *log* scale, and degrees of freedom above 2."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, loc: Tensor, log_scale: Tensor, above: Tensor) -> None:
        self.loc, self.log_scale, self.above = loc, log_scale, above
        self.scale, self.df = log_scale.exp(), 2 + above
        super().__init__(loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        u = (value - self.loc) / self.scale / self.df.sqrt()
        return self._log_peak() - self.log_scale - (self.df + 1) / 2 * _log1p_square(u)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws `mu + sigma eps / sqrt(2 g / nu)` with g from Gamma(nu / 2), differentiable."""
        shape = (*sample_shape, *self._batch_shape)
        half = (self.df / 2).expand(shape)
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * eps * (half / torch._standard_gamma(half)).sqrt()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`; without a gradient."""
        return scipy_special("stdtr", self.df, (value - self.loc) / self.scale)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles."""
        return self.loc + self.scale * scipy_special("stdtrit", self.df, q)

    def entropy(self) -> Tensor:
        """Entropy, in nats: `E[log(1 + T^2 / nu)] = psi((nu + 1) / 2) - psi(nu / 2)`."""
        a = self.df / 2
        b = a + 0.5
        slope = torch.log1p(0.5 / a) + 0.5 / a - 0.5 / b
        slope = slope + digamma_remainder(b) - digamma_remainder(a)
        return b * slope - self._log_peak() + self.log_scale

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
        """Variance, `sigma^2 nu / (nu - 2)`."""
        return self.scale.square() * (1 + 2 / self.above)

    def _log_peak(self) -> Tensor:
        """Log-density of T at 0; by Stirling's formula the large terms cancel beforehand."""
        a = self.df / 2
        return a * torch.log1p(0.5 / a) - 0.5 + stirling(a + 0.5) - stirling(a) - HALF_LOG_2PI


register_kl(_StudentT, Normal)(kl_to_normal)


def _log1p_square(u: Tensor) -> Tensor:
    """`log(1 + u^2)`, also where the square is no number of its type."""
    size = u.abs()
    far = size > 1
    near = torch.where(far, 0.0, size)
    size = torch.where(far, size, 1.0)
    return torch.where(far, 2 * size.log() + (1 / size).square().log1p(), near.square().log1p())
