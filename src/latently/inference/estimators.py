"""Estimators: how a bound is differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.bounds import IWAE, Bound
from latently.inference.particles import Particles

__all__ = ["DReG", "Estimator", "Gradient", "Reparam"]

Gradient = Literal["total", "path"]


class Estimator(ABC):
    """Turns a bound into a surrogate: its value is the bound, its gradient the estimator's.

    Attributes:
        gradient: which draws it needs from `Model.infer`: "total" lets every gradient flow;
            "path" holds the parameters of q constant in `log q`, keeping the path through z.
    """

    gradient: ClassVar[Gradient] = "total"

    @abstractmethod
    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        """The surrogate, (B,)."""

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
