"""Normals by log scale, and the scaling of columns."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, kl_divergence, register_kl
from torch.distributions import Normal as TorchNormal

__all__ = ["Normal", "Scaled", "StandardNormal", "kl_to_normal"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Normal(TorchNormal):
    r"""Normal by location and *log* scale.

    `log N(x; mu, sigma) = -((x - mu) / sigma)^2 / 2 - log sigma - log(2 pi) / 2`.

    Draws are made out of place, so that they work under `vmap`.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        self.scale = self.log_scale.exp()
        Distribution.__init__(self, self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        return -0.5 * ((value - self.loc) / self.scale).square() - self.log_scale - _HALF_LOG_2PI

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws `mu + sigma eps`."""
        shape = (*sample_shape, *self._batch_shape)
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * eps

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)


class Scaled(Distribution):
    """`x = loc + scale u` with u from an elementwise base: column scaling, with its Jacobian.

    `log p(x) = log p_u((x - loc) / scale) - log scale`. The difference is taken in the wider type
    of x and loc, then cast to the base's: columns may lie far from zero.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: Distribution, loc: Tensor, scale: Tensor) -> None:
        self.base, self.loc, self.scale = base, loc, scale
        super().__init__(base.batch_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry a pathwise gradient."""
        return self.base.has_rsample

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in data units, in nats."""
        log_p = self.base.log_prob(self._unit(value))
        return log_p - self.scale.log().to(log_p.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a pathwise gradient."""
        return self.loc + self.scale * self.base.rsample(Size(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        return self.loc + self.scale * self.base.sample(Size(sample_shape))

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        entropy = self.base.entropy()
        return entropy + self.scale.log().to(entropy.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        return self.base.cdf(self._unit(value))

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles."""
        return self.loc + self.scale * self.base.icdf(q)

    @property
    def mean(self) -> Tensor:
        """Mean."""
        return self.loc + self.scale * self.base.mean

    @property
    def mode(self) -> Tensor:
        """Mode."""
        return self.loc + self.scale * self.base.mode

    @property
    def variance(self) -> Tensor:
        """Variance."""
        return self.scale.square() * self.base.variance

    def _unit(self, value: Tensor) -> Tensor:
        return ((value - self.loc) / self.scale).to(self.base.mean.dtype)


class StandardNormal(Normal):
    """N(0, 1) in every coordinate: the same as `Normal(0, 0)`, in fewer operations."""

    def __init__(self, zeros: Tensor) -> None:
        self.loc = self.log_scale = zeros
        self.scale = torch.ones_like(zeros)
        Distribution.__init__(self, zeros.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        return -0.5 * value.square() - _HALF_LOG_2PI

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        shape = (*sample_shape, *self._batch_shape)
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)


def kl_to_normal(q: Distribution, p: Normal) -> Tensor:
    """KL(q || p) of any elementwise q on the line of known entropy H, mean m and variance v.

    `((v + (m - mu)^2) / s^2 + log(2 pi)) / 2 + log s - H`, as log p is quadratic.
    """
    rate = (-p.log_scale).exp()  # of small scales, too, gradients are numbers
    energy = q.variance * rate.square() + ((q.mean - p.loc) * rate).square()
    return 0.5 * energy + p.log_scale + _HALF_LOG_2PI - q.entropy()


@register_kl(Normal, Normal)
def _kl_normal(q: Normal, p: Normal) -> Tensor:
    """`(s^2 + d^2 - 1) / 2 - log s`, with s the ratio of scales and d the scaled difference."""
    log_ratio = q.log_scale - p.log_scale
    shift = (q.loc - p.loc) / p.scale
    return 0.5 * (torch.expm1(2 * log_ratio) + shift.square()) - log_ratio


@register_kl(Normal, StandardNormal)
def _kl_standard(q: Normal, p: StandardNormal) -> Tensor:
    return 0.5 * (q.scale.square() + q.loc.square() - 1) - q.log_scale


@register_kl(Scaled, Scaled)
def _kl_scaled(q: Scaled, p: Scaled) -> Tensor:
    """That of the bases, where both are scaled alike: a bijection changes no KL."""
    for a, b in ((q.loc, p.loc), (q.scale, p.scale)):
        if a is not b and (a.requires_grad or b.requires_grad or not torch.equal(a, b)):
            raise NotImplementedError("KL of columns in different units")  # torch's word
    return kl_divergence(q.base, p.base)
