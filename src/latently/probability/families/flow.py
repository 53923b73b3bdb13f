"""Normals bent by a flow: posteriors with correlations and several modes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.probability.families._columns import Columns, bounded
from latently.probability.flows import (
    MAF,
    Bijection,
    Flow,
    FlowDistribution,
    check_flow,
    log_normal,
)

__all__ = ["FlowNormal"]


class FlowNormal(Columns):
    r"""A normal bent by a flow that reads part of h: `z = m + s f(eps; c)`, from h = (m, t, c).

    `log q(z|h) = log N(eps; 0, I) - log |det df/deps| - sum_j log s_j` nats, with `s = exp(t)`
    and t, c bounded smoothly to [-10, 10]. At first f is near the identity and q near N(m, s^2).
    The location comes last, so that f meets noise of order one, where splines are defined.

    Draws are made forwards, in one pass, and their log q with them; that of other values takes
    the inverse, as many passes as there are values (two with `RealNVP` or
    `NSF(coupling=True)`). Estimators that hold q constant (`DReG`) score their draws anew: take
    these two for them. As an observation model it refuses missing cells. Source: Kingma et al.,
    "Improving Variational Inference with Inverse Autoregressive Flow", 2016.

    Args:
        shape: event shape; `param_shape` is (2 * size + context,).
        flow: the flow, over the flattened event.
        context: how many values of h the flow reads; 0: f is the same for all rows.

    Raises:
        UserError: `flow` is no flow, or a negative or fractional `context`.

    >>> FlowNormal((3,), context=4)(torch.zeros(5, 10)).sample((2,)).shape
    torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        flow: Flow = MAF(),  # noqa: B008  (frozen)
        context: int = 16,
    ) -> None:
        super().__init__(shape)
        if isinstance(context, bool) or not isinstance(context, int) or context < 0:
            raise UserError(
                f"FlowNormal: context={context!r} must be a whole number of at least 1, or 0 for "
                "a flow that reads nothing"
            )
        self.size, self.context = prod(self.shape), context
        self.bijection = check_flow("FlowNormal", flow).build(self.shape, context)

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (2 * self.size + self.context,)

    def forward(self, h: Tensor) -> Generated:
        loc, log_scale, context = h.split([self.size, self.size, self.context], -1)
        columns = None
        if self.loc is not None and self.scale is not None:
            columns = self.loc.flatten(), self.scale.flatten()
        return Generated(
            self.bijection,
            self.shape,
            loc,
            bounded(log_scale),
            bounded(context) if self.context else None,
            columns,
        )


class Generated(FlowDistribution):
    """`z = m + s f(eps; c)`: draws in one pass, the density of other values by the inverse.

    The last draw is remembered with its log-density. Both have the gradient of the draw, the same
    as that of `log_prob` at it.

    Args:
        bijection: f, over the flattened event.
        shape: event shape.
        loc: m, (*batch, D).
        log_scale: log s, (*batch, D).
        context: c, (*batch, C).
        columns: location and scale of columns (D,), applied last.
    """

    known_as = "FlowNormal"

    def __init__(
        self,
        bijection: Bijection,
        shape: Sequence[int],
        loc: Tensor,
        log_scale: Tensor,
        context: Tensor | None,
        columns: tuple[Tensor, Tensor] | None,
    ) -> None:
        zeros = torch.zeros_like(loc).unflatten(-1, tuple(shape))
        super().__init__(bijection, zeros, len(shape), context)
        self.loc, self.log_scale, self.columns = loc, log_scale, columns
        self.scale = log_scale.exp()
        self._drawn: tuple[Tensor, Tensor, bool] | None = None

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        if self._drawn is not None:
            z, log_q, with_gradient = self._drawn
            if value is z and (with_gradient or not torch.is_grad_enabled()):
                return log_q
        return super().log_prob(value)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a pathwise gradient, of shape (*sample_shape, *batch, *event)."""
        eps = self._noise(sample_shape)
        bent, log_det = self.bijection(eps, self.context)
        z = self._whole(self._placed(bent))
        self._drawn = z, log_normal(eps) - log_det - self._log_size(), torch.is_grad_enabled()
        return z

    def _to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.columns is not None:
            z = ((z - self.columns[0]) / self.columns[1]).to(self.loc.dtype)
        eps = self.bijection.inverse((z - self.loc) / self.scale, self.context)
        return eps, -self.bijection(eps, self.context)[1] - self._log_size()

    def _from_noise(self, eps: Tensor) -> Tensor:
        return self._placed(self.bijection(eps, self.context)[0])

    def _placed(self, bent: Tensor) -> Tensor:
        z = self.loc + self.scale * bent
        return z if self.columns is None else self.columns[0] + self.columns[1] * z

    def _log_size(self) -> Tensor:
        """`log |det dz/df|`, (*batch,)."""
        size = self.log_scale.sum(-1)
        return size if self.columns is None else size + self.columns[1].log().sum().to(size.dtype)
