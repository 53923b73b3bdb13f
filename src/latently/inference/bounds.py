"""Bounds: particles to one lower bound of log p(x) per example, in nats."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.particles import Particles
from latently.inference.schedules import Schedule

__all__ = ["ELBO", "IWAE", "Bound"]


class Bound(ABC):
    """Maps particles to one number per example."""

    @abstractmethod
    def __call__(self, p: Particles, log_w: Tensor | None = None) -> Tensor:
        """The bound, (B,); `log_w` of shape (K, B) replaces the particles' own where given."""


@dataclass(frozen=True)
class ELBO(Bound):
    r"""The evidence lower bound, `E_q[log p(x|z)] - beta KL(q(z|x) || p(z))`.

    The KL is in closed form where one is known, else the average of `log q - log p` over draws.
    With `beta` other than 1 it is no bound on log p(x) (beta-VAE); evidence is never computed
    with it. Source: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014; beta: Higgins et
    al., "beta-VAE", 2017.

    Args:
        beta: weight of the KL, a number or a schedule.

    Raises:
        UserError: a beta that is negative or no number.
    """

    beta: float | Schedule = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.beta, Schedule | Tensor):  # a schedule resolves to a tensor
            return
        if not isinstance(self.beta, int | float) or not 0 <= self.beta < math.inf:
            raise UserError(f"ELBO: beta={self.beta!r} must be a number of at least 0")

    def __call__(self, p: Particles, log_w: Tensor | None = None) -> Tensor:
        if isinstance(self.beta, Schedule):
            raise UserError("ELBO: a scheduled beta needs a step; use Variational(bound=...)")
        if log_w is not None:
            if not isinstance(self.beta, int | float) or self.beta != 1:
                raise UserError(
                    f"ELBO: beta={self.beta} needs the particles' own terms, not log_w"
                )
            return p.average(log_w)
        return p.average(p.log_lik - self.beta * p.divergence)


@dataclass(frozen=True)
class IWAE(Bound):
    r"""The importance weighted bound, `log sum_k pi_k w_k` with `w = p(x, z) / q(z|x)`.

    It grows with the number of samples and tends to log p(x); with one sample it is a draw of
    the ELBO. Source: Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016.
    """

    def __call__(self, p: Particles, log_w: Tensor | None = None) -> Tensor:
        return torch.logsumexp(p.log_pi + (p.log_w if log_w is None else log_w), dim=0)
