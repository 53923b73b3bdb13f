"""Mixtures of many normals, as priors have them."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from latently.probability.distributions.joint import Factorized
from latently.probability.distributions.normal import Normal

__all__ = ["NormalComponents", "mixture"]


def mixture(logits: Tensor, components: Distribution) -> MixtureSameFamily:
    """A mixture by log weights (*batch, C) of components of batch shape (*batch, C)."""
    weights = Categorical(logits=logits, validate_args=False)
    cells = isinstance(components, Factorized) and type(components.base) is Normal
    one_for_all = len(components.batch_shape) == 1
    fast = cells and one_for_all and logits.device.type != "mps"  # it has no float64
    kind = NormalComponents if fast else MixtureSameFamily
    return kind(weights, components, validate_args=False)


class NormalComponents(MixtureSameFamily):
    r"""`p(z) = sum_c pi_c N(z; mu_c, diag sigma_c^2)`, by matrix products.

    With precisions `t = 1 / sigma^2` the exponents of all draws and components are
    `-1/2 (z^2 t' - 2 z (mu t)' + (mu^2 t) 1)`: two products in place of a difference for every
    draw, component and latent (with 500 components a step is several times faster). The terms
    cancel, so they are taken in float64.
    """

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws: a random component, then from it alone."""
        with torch.no_grad():
            chosen = self.mixture_distribution.sample(Size(sample_shape))
            loc = self._normal.loc[chosen]
            return loc + self._normal.scale[chosen] * torch.randn_like(loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        normal = self._normal
        ndim = len(self._event_shape)
        z = value.double().flatten(-ndim) if ndim else value.double()[..., None]
        mean = normal.loc.double().flatten(1)
        log_scale = normal.log_scale.double().flatten(1)
        precision = (-2 * log_scale).exp()
        shift = mean * precision
        exponent = z.square() @ precision.T - 2 * (z @ shift.T) + (mean * shift).sum(1)
        constant = log_scale.sum(1) + 0.5 * z.shape[-1] * math.log(2 * math.pi)
        weights = self.mixture_distribution.logits.double().log_softmax(-1)
        return torch.logsumexp(weights - constant - 0.5 * exponent, -1).to(normal.loc.dtype)

    @property
    def _normal(self) -> Normal:
        return cast(Factorized, self.component_distribution).base  # type: ignore[return-value]
