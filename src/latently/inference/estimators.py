"""Estimators: how a bound is differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from latently.errors import UserError
from latently.inference.bounds import IWAE, Bound
from latently.inference.particles import Particles

__all__ = ["DReG", "Enumerate", "Estimator", "Gradient", "Reparam"]

Gradient = Literal["total", "path", "exact"]
Latents = Literal["continuous", "discrete", "any"]


class Estimator(ABC):
    """Turns a bound into a surrogate: its value is the bound, its gradient the estimator's.

    Attributes:
        gradient: what it needs from `Model.infer`: "total" lets every gradient flow; "path" holds
            the parameters of q constant in `log q`, keeping the path through z; "exact" gives
            every state of discrete latents the share q(z|x) in place of 1/K.
        latents: what it differentiates draws of: "continuous" (reparameterised), "discrete" or
            "any".
        unbiased: whether the mean of its gradient is the gradient of the bound's mean.
        least: fewest draws per row.
    """

    gradient: ClassVar[Gradient] = "total"
    latents: ClassVar[Latents] = "continuous"
    unbiased: ClassVar[bool] = True
    least: ClassVar[int] = 1

    @abstractmethod
    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        """The surrogate, (B,)."""

    def draw(self, q: Distribution, samples: int) -> Tensor:
        """Draws (K, *batch, *event) from a posterior: with a pathwise gradient if it has one."""
        shape = Size((samples,))
        return q.rsample(shape) if q.has_rsample else q.sample(shape)

    def drawn(self, p: Particles) -> Particles:
        """Those of the particles that are draws from q; others serve the gradient alone."""
        return p

    def check(self, bound: Bound) -> None:
        """Raises UserError for a bound whose gradient this estimator would bias."""
        return None


@dataclass(frozen=True)
class Reparam(Estimator):
    """The plain pathwise gradient of the bound, all terms included: unbiased for every bound.

    Source: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014; Rezende, Mohamed, Wierstra,
    "Stochastic Backpropagation", 2014.

    Raises:
        UserError: the posterior's draws carry no gradient.
    """

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        for z, log_q in zip(p.z, p.log_q, strict=True):
            if log_q.requires_grad and not z.requires_grad:
                raise UserError(
                    "Reparam needs reparameterised draws, and this posterior has none: its "
                    "encoder's gradient would be biased; choose a posterior such as Normal"
                )
        return bound(p)


@dataclass(frozen=True)
class DReG(Estimator):
    r"""The doubly reparameterised gradient of the importance weighted bound.

    With normalised weights `v_k`, the encoder's gradient is `sum_k v_k^2 dlog w_k/dz_k
    dz_k/dphi`, whose signal-to-noise ratio grows with the number of samples where that of the
    plain gradient shrinks; the decoder's is `sum_k v_k dlog w_k/dtheta`, as usual. Source:
    Tucker, Lawson, Gu, Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo
    Objectives", 2019.

    Raises:
        UserError: with any bound but IWAE; for a hierarchy of latents, where dropping the score
            term of one layer biases the others; and for a posterior whose draws carry no gradient.
    """

    gradient: ClassVar[Gradient] = "path"

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        self.check(bound)
        if len(p.z) != 1:
            raise UserError(
                f"DReG needs one latent layer, this model has {len(p.z)} latent layers; use "
                "estimator=Reparam"
            )
        log_w, z = p.log_w, p.z[0]
        if not z.requires_grad and torch.is_grad_enabled():
            raise UserError("DReG needs reparameterised draws; this posterior has none")
        weights = torch.softmax(p.log_pi + log_w.detach(), dim=0)
        if z.requires_grad:  # the path through z gets v once below and once more here
            once_more = weights.view(*weights.shape, *(1,) * (z.dim() - 2)).to(z.dtype)
            z.register_hook(lambda gradient: gradient * once_more)
        surrogate = (weights * log_w).sum(0)
        return bound(p).detach() + surrogate - surrogate.detach()

    def check(self, bound: Bound) -> None:
        if not isinstance(bound, IWAE):
            raise UserError(
                f"DReG is biased for {type(bound).__name__}; use bound=IWAE or estimator=Reparam"
            )


@dataclass(frozen=True)
class Enumerate(Estimator):
    r"""The exact gradient for discrete latents: every state, weighted by q(z|x).

    `ELBO = sum_z q(z|x) log w(z)`, and `IWAE = log sum_z q(z|x) w(z) = log p(x)`, its limit for
    any number of samples: no draw is made, so no gradient has noise. The decoder is called for
    every state, of which there may be 4,096; `samples` is not read.

    Raises:
        UserError: the latents are not finite in number, or have too many states.
    """

    gradient: ClassVar[Gradient] = "exact"
    latents: ClassVar[Latents] = "discrete"

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        return bound(p)

    def draw(self, q: Distribution, samples: int) -> Tensor:
        """All states, (states, *batch, *event)."""
        return all_states(q)


def all_states(q: Distribution) -> Tensor:
    """Every state of discrete latents for every row, (states, *batch, *event).

    Raises:
        UserError: the latents are not finite in number, or have too many states.
    """
    if not hasattr(q, "states"):
        raise UserError(
            f"{type(q).__name__} takes infinitely many values, which cannot be enumerated; choose "
            "a posterior such as OneHot or Bernoulli, or another estimator"
        )
    states = q.states()
    batch = q.batch_shape
    lead = states.view(len(states), *(1,) * len(batch), *q.event_shape)
    return lead.expand(len(states), *batch, *q.event_shape)
