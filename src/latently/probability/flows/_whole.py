"""Maps of one value that are monotone on an interval, made ones of all real numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import Transform

_BOUND = 10.0  # where Zuko looks for the inverse of a map that has none in closed form
_SHARE = 0.05  # of x itself in such a map: its slope is at least that
_HALVINGS = 30
_NEWTON_STEPS = 4


class Whole(nn.Module):
    """A constructor of maps of one value, whose maps are made ones of all real numbers.

    Mixed precision leaves them alone: a slope that is rounded is not that of the map.
    """

    def __init__(self, inner: Callable[..., Any], by_autograd: bool) -> None:
        super().__init__()
        self.inner, self.by_autograd = inner, by_autograd

    def forward(self, *params: Tensor) -> WholeMap:
        wide = (p.to(torch.promote_types(p.dtype, torch.float32)) for p in params)
        return WholeMap(self.inner(*wide), self.by_autograd)


class WholeMap(Transform):
    """`y = 0.95 g(x) + 0.05 x`, with g linear beyond [-10, 10].

    Args:
        inner: g, a monotone map of [-10, 10].
        by_autograd: whether the slope of g is found by autograd, not from its logarithm.
    """

    domain = codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, inner: Any, by_autograd: bool) -> None:
        super().__init__()
        self.inner, self.by_autograd = inner, by_autograd

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and the log slope, of x."""
        near = x.clamp(-_BOUND, _BOUND)
        with torch.autocast(x.device.type, enabled=False):
            y, slope = self._by_autograd(near) if self.by_autograd else self._by_logarithm(near)
        y = (1 - _SHARE) * (y + (x - near) * slope) + _SHARE * x
        return y, ((1 - _SHARE) * slope + _SHARE).log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        x = self._solve(y.detach())
        found, log_slope = self.call_and_ladj(x)
        return x - (found - y) * (-log_slope.detach()).exp()

    @torch.no_grad()
    def _solve(self, y: Tensor) -> Tensor:
        """Beyond the ends by the slopes there; between them by halving, then Newton steps."""
        low, high = torch.full_like(y, -_BOUND), torch.full_like(y, _BOUND)
        for end, outside in ((low, torch.lt), (high, torch.gt)):
            value, log_slope = self.call_and_ladj(end)
            beyond = end + (y - value) * (-log_slope).exp()
            fixed = outside(y, value)
            low, high = torch.where(fixed, beyond, low), torch.where(fixed, beyond, high)
        for _ in range(_HALVINGS):
            x = 0.5 * (low + high)
            over = self(x) > y
            low, high = torch.where(over, low, x), torch.where(over, x, high)
        x = 0.5 * (low + high)
        for _ in range(_NEWTON_STEPS):
            found, log_slope = self.call_and_ladj(x)
            x = torch.minimum(torch.maximum(x - (found - y) * (-log_slope).exp(), low), high)
        return x

    def _by_autograd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        differentiates = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.clone().requires_grad_(True)
            y = self.inner(x)
            (slope,) = torch.autograd.grad(y.sum(), x, create_graph=differentiates)
        return (y, slope) if differentiates else (y.detach(), slope)

    def _by_logarithm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_slope = self.inner.call_and_ladj(x)
        return y, log_slope.exp()
