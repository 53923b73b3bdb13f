r"""Normalizing flows: a bijection of rows onto noise, with the exact density of rows.

    eps = f((x - m) / s; c),    log p(x|c) = log N(eps; 0, I) + log |det df/dy| - sum_j log s_j

There are no latents to infer: `infer` returns none, and every draw weighs p(x). `encode` and
`decode` are exact inverses of each other. Source: Papamakarios et al., "Normalizing Flows for
Probabilistic Modeling and Inference", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.estimators import Gradient
from latently.inference.particles import Particles, equal_shares
from latently.models.base import Model, check_layers
from latently.probability.conditional import Draw, check_context, draw
from latently.probability.flows import Bijection, Flow, FlowDistribution, check_flow

__all__ = ["NormalizingFlow"]

_START_ROWS = 1024  # that the flow's own starting values are read off


class NormalizingFlow(Model):
    r"""The density of rows that a flow carries onto noise.

    Columns are standardised by the training rows, of images every channel as a whole; the numbers
    stay those of x. Cells cannot be left out: no closed form integrates over them.

    Args:
        shape: shape of one row.
        flow: the bijection, such as `NSF()` for columns or `Glow()` for images (C, H, W).
        contexts: width C of the context of a flow of p(x|c); 0: none.

    Raises:
        UserError: `flow` is none, or none for rows of this shape.
    """

    density = "exact"
    discrete = False
    invertible = True
    holes = False

    loc: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int], flow: Flow, *, contexts: int = 0) -> None:
        super().__init__()
        self.shape, self.contexts = tuple(shape), contexts
        flow = check_flow(type(self).__name__, flow)
        self.bijection = flow.build(self.shape, contexts)
        self.numerical = flow.numerical
        self.axes = (-2, -1) if flow.spatial else ()  # that share one scale
        self.register_buffer("loc", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(self.shape, dtype=torch.float64))

    def infer(
        self,
        x: Tensor,
        samples: int = 1,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        gradient: Gradient = "total",
        z: tuple[Tensor, ...] | None = None,
        draw: Draw = draw,
        local: tuple[Tensor, ...] | None = None,
    ) -> Particles:
        if gradient == "exact" or local:
            raise UserError(
                f"{type(self).__name__} has no latents to sum over or to refine; its density is "
                "exact as it is"
            )
        if mask is not None:
            self.check(x, mask)
        log_lik = self.likelihood((), context).log_prob(x).view(1, -1).expand(samples, -1)
        return Particles((), log_lik, (), (), (), equal_shares(log_lik))

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        return ()

    def likelihood(
        self, z: tuple[Tensor, ...] = (), context: Tensor | None = None
    ) -> FlowDistribution:
        """p(x|c), of batch shape (1, 1), or (1, B) given a context (B, C)."""
        own = self._own(context)
        rows = 1 if own is None else len(own)
        zeros = torch.zeros((1, rows, *self.shape), dtype=self.dtype, device=self.device)
        given = None if own is None else own[None]
        return _Placed(self.bijection, zeros, self.loc, self.scale, given)

    def draws(self, n: int, context: Tensor | None, temperature: float) -> Tensor:
        shape = (n, math.prod(self.shape))
        eps = temperature * torch.randn(shape, dtype=self.dtype, device=self.device)
        return self.decode((eps,), context)

    def encoded(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The noise that becomes x, one layer (B, D)."""
        if mask is not None:
            self.check(x, mask)
        return (self.bijection(self._standard(x), self._own(context))[0],)

    @torch.no_grad()
    def decode(self, z: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
        """The row that noise z = (eps,) becomes, (B, *shape)."""
        check_layers(z)
        eps, own = z[0].to(self.dtype), self._own(context)
        y = self.bijection.inverse(eps, own).unflatten(-1, self.shape)
        return (self.loc + self.scale * y).to(self.dtype)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        return ~torch.isfinite(x), "finite numbers"

    @torch.no_grad()
    def initialise(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        """Standardises columns, or the channels of images, and lets the flow start from rows."""
        wide = x.double()
        over = (0, *self.axes)
        self.loc.copy_(wide.mean(over, keepdim=True)[0].expand(self.shape))
        spread = (wide - self.loc).square().mean(over, keepdim=True).sqrt()[0]
        usual = spread[spread > 0].mean() if bool((spread > 0).any()) else torch.ones_like(spread)
        self.scale.copy_(torch.where(spread > 0, spread, usual).expand(self.shape))
        own = self._own(context)
        first = None if own is None else own[:_START_ROWS]
        self.bijection.initialise(self._standard(x[:_START_ROWS]), first)

    def _own(self, context: Tensor | None) -> Tensor | None:
        """A context of the model's width, in the type of the parameters."""
        check_context(context, self.contexts, type(self).__name__)
        return None if context is None else context.to(self.dtype)

    def _standard(self, x: Tensor) -> Tensor:
        """`(x - m) / s` of rows (B, *shape), flat, in the type of the parameters."""
        return ((x - self.loc) / self.scale).to(self.dtype).flatten(1)


class _Placed(FlowDistribution):
    """`x = m + s y` with `f(y)` noise: column scaling with its Jacobian, taken in float64."""

    known_as = "NormalizingFlow"

    def __init__(
        self,
        bijection: Bijection,
        zeros: Tensor,
        loc: Tensor,
        scale: Tensor,
        context: Tensor | None,
    ) -> None:
        super().__init__(bijection, zeros, loc.dim(), context)
        self.loc, self.scale = loc.flatten(), scale.flatten()

    def _to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        y = ((z - self.loc) / self.scale).to(self.zeros.dtype)
        eps, log_det = super()._to_noise(y)
        return eps, log_det - self.scale.log().sum().to(log_det.dtype)

    def _from_noise(self, eps: Tensor) -> Tensor:
        return (self.loc + self.scale * super()._from_noise(eps)).to(self.zeros.dtype)
