"""Bounds: particles to one lower bound of log p(x) per example, in nats."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.options import check_count, check_number
from latently.inference.particles import Particles, equal_shares
from latently.inference.schedules import Schedule

__all__ = ["CIWAE", "ELBO", "IWAE", "Bound", "MultiplyIWAE", "Renyi"]


class Bound(ABC):
    """Maps particles to one number per example."""

    @abstractmethod
    def __call__(self, p: Particles, log_w: Tensor | None = None) -> Tensor:
        """The bound, (B,); `log_w` of shape (K, B) replaces the particles' own where given."""

    @property
    def is_bound(self) -> bool:
        """Whether its mean over draws is a lower bound of log p(x), for every row and step."""
        return True

    @property
    def couples(self) -> bool:
        """Whether the value of a row depends on the other rows of its batch."""
        return False

    def check(self, samples: int, *, states: bool = False) -> None:
        """Raises UserError for particles that the bound does not take, before any are drawn.

        Args:
            samples: K, draws per row.
            states: whether the particles are all states of discrete latents instead.
        """
        return None


@dataclass(frozen=True)
class ELBO(Bound):
    r"""The evidence lower bound, `E_q[log p(x|z)] - beta KL(q(z|x) || p(z))`.

    The KL is in closed form where one is known, else the average of `log q - log p` over draws.
    With `beta` other than 1 it is no bound on log p(x) (beta-VAE), nor is the value of one row
    with free bits, nor any value with a capacity; evidence is never computed with it.

    Free bits: `beta KL` becomes `beta sum_d max(free_bits, KL_d)`, with KL_d the mean over the
    batch of the KL of one cell of z: a cell below the threshold costs the same however little it
    is used, so none is driven to the prior for its own sake. A row has its own KL_d where the
    mean is above the threshold, else the threshold: their mean is the objective. For beta = 1
    that mean is no higher than the mean ELBO.

    Capacity: `beta KL` becomes `beta |KL - capacity|`, with KL the mean over the batch: what is
    steered is the average rate of the code, and rows may differ. A row adds
    `beta s (KL(x) - capacity)`, with s the sign of the mean. The source raises the capacity over
    training at a large beta: `ELBO(beta=100, capacity=Linear(0.0, 25.0))`.

    Sources: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014; beta: Higgins et al.,
    "beta-VAE", 2017; free bits: Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, "Improved
    Variational Inference with Inverse Autoregressive Flow", 2016; capacity: Burgess et al.,
    "Understanding disentangling in beta-VAE", 2018.

    Args:
        beta: weight of the KL, a number or a schedule.
        free_bits: nats that each cell of z may cost for nothing, a number or a schedule.
        capacity: nats that z is to carry on average, a number or a schedule; None: as few as pay.

    Raises:
        UserError: an option that is negative or no number; free bits together with a capacity; at
            the call, free bits where the KL of the cells has no closed form.
    """

    beta: float | Schedule = 1.0
    free_bits: float | Schedule = 0.0
    capacity: float | Schedule | None = None

    def __post_init__(self) -> None:
        check_number(self, "beta", low=0)
        check_number(self, "free_bits", low=0)
        if self.capacity is None:
            return
        check_number(self, "capacity", low=0)
        if self._has_free_bits:
            raise UserError(
                f"ELBO: free_bits={self.free_bits} keeps the KL from falling and "
                f"capacity={self.capacity} steers it; give one of them"
            )

    def __call__(self, p: Particles, log_w: Tensor | None = None) -> Tensor:
        _check_resolved(self)
        beta, capacity = cast(float, self.beta), cast(float, self.capacity)
        if log_w is not None:
            self._check_plain()
            return p.average(log_w)
        if self._has_free_bits:
            return p.average(p.log_lik) - beta * _floored(p, self.free_bits)
        if self.capacity is not None:
            excess = p.average(p.divergence) - capacity
            return p.average(p.log_lik) - beta * excess.mean().sign() * excess
        return p.average(p.log_lik - beta * p.divergence)

    @property
    def is_bound(self) -> bool:
        return self == ELBO()

    @property
    def couples(self) -> bool:
        return self._has_free_bits or self.capacity is not None

    @property
    def _has_free_bits(self) -> bool:
        return not isinstance(self.free_bits, int | float) or self.free_bits > 0

    def _check_plain(self) -> None:
        """Refuses options that need more than log-weights."""
        plain: dict[str, Any] = {"beta": 1, "free_bits": 0, "capacity": None}
        for name, usual in plain.items():
            value = getattr(self, name)
            if isinstance(value, Tensor) or value != usual:
                raise UserError(
                    f"ELBO: {name}={value} needs the particles' own terms, not log_w; use "
                    f"{name}={usual} or an estimator such as Reparam"
                )


@dataclass(frozen=True)
class IWAE(Bound):
    r"""The importance weighted bound, `log sum_k pi_k w_k` with `w = p(x, z) / q(z|x)`.

    It grows with the number of samples and tends to log p(x); with one sample it is a draw of
    the ELBO. Source: Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016.
    """

    def __call__(self, p: Particles, log_w: Tensor | None = None) -> Tensor:
        return torch.logsumexp(p.log_pi + (p.log_w if log_w is None else log_w), dim=0)


@dataclass(frozen=True)
class Renyi(Bound):
    r"""The variational Renyi bound, `1/(1 - alpha) log sum_k pi_k w_k^(1 - alpha)`.

    It falls as alpha grows: alpha = 0 is `IWAE`, alpha = 1 the mean of `log w`, a draw of the
    `ELBO`, and alpha to infinity the smallest `log w`. From 0 on it is a lower bound of log p(x),
    on average over draws. For alpha < 0 it is none: with many samples it is an upper bound, with
    few it may lie on either side. Source: Li, Turner, "Renyi Divergence Variational Inference",
    2016.

    Args:
        alpha: the order, any number or a schedule.

    Raises:
        UserError: an alpha that is no finite number.
    """

    alpha: float | Schedule = 0.5

    def __post_init__(self) -> None:
        check_number(self, "alpha")

    @property
    def is_bound(self) -> bool:
        return isinstance(self.alpha, int | float) and self.alpha >= 0

    def __call__(self, p: Particles, log_w: Tensor | None = None) -> Tensor:
        _check_resolved(self)
        log_w = p.log_w if log_w is None else log_w
        middle, power = p.average(log_w), 1 - self.alpha  # type: ignore[operator]
        if isinstance(power, Tensor):  # of a schedule, whose value may pass through 0
            power = torch.where(power == 0, torch.finfo(power.dtype).eps, power)
        elif power == 0:
            return middle
        return middle + _log_mean_exp(p.log_pi, power * (log_w - middle)) / power


@dataclass(frozen=True)
class CIWAE(Bound):
    r"""The combined bound, `beta ELBO + (1 - beta) IWAE`, of the same particles.

    The first part keeps a signal for the encoder where many samples leave little of it. A lower
    bound for every beta. Source: Rainforth et al., "Tighter Variational Bounds are Not
    Necessarily Better", 2018.

    Args:
        beta: share of the ELBO, a number from 0 to 1 or a schedule.

    Raises:
        UserError: a beta outside 0 to 1.
    """

    beta: float | Schedule = 0.5

    def __post_init__(self) -> None:
        check_number(self, "beta", low=0, high=1)

    def __call__(self, p: Particles, log_w: Tensor | None = None) -> Tensor:
        _check_resolved(self)
        beta: Any = self.beta
        return beta * ELBO()(p, log_w) + (1 - beta) * IWAE()(p, log_w)


@dataclass(frozen=True)
class MultiplyIWAE(Bound):
    r"""The mean of importance weighted bounds of groups of samples.

    `1/G sum_g log (G/K) sum_(k in g) w_k`: K samples in G groups of K/G, the first K/G of them
    one group. With G = 1 it is `IWAE`, with G = K the mean of `log w`; between, the encoder's
    gradient is averaged G times. The source calls it MIWAE, which here is the bound for missing
    data. Source: Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", 2018.

    Args:
        groups: G, which must divide the number of samples.

    Raises:
        UserError: fewer than one group; samples that the groups cannot share equally; enumerated
            states, whose shares differ.
    """

    groups: int = 8

    def __post_init__(self) -> None:
        check_count(self, "groups")

    def __call__(self, p: Particles, log_w: Tensor | None = None) -> Tensor:
        log_w = p.log_w if log_w is None else log_w
        self.check(len(log_w), states=_are_states(p))
        parts = log_w.unflatten(0, (self.groups, -1))
        return (torch.logsumexp(parts, 1) - math.log(parts.shape[1])).mean(0)

    def check(self, samples: int, *, states: bool = False) -> None:
        if states:
            raise UserError(
                "MultiplyIWAE: groups are of equally weighted draws, and enumerated states are "
                "not; use bound=IWAE, or an estimator that draws"
            )
        if samples % self.groups:
            enough = self.groups * -(-samples // self.groups)
            raise UserError(
                f"MultiplyIWAE: samples={samples} cannot be shared equally by "
                f"groups={self.groups}; choose samples={enough}, or groups that divide {samples}"
            )


def _check_resolved(bound: Bound) -> None:
    for field in dataclasses.fields(bound):  # type: ignore[arg-type]
        if isinstance(getattr(bound, field.name), Schedule):
            name = type(bound).__name__
            raise UserError(
                f"{name}: a scheduled {field.name} needs a step; use Variational(bound=...)"
            )


def _floored(p: Particles, least: Any) -> Tensor:
    """`sum_d max(least, KL_d)`, (B,), with KL_d the mean over the batch; see `ELBO`."""
    cost = torch.zeros_like(p.log_lik[0])
    for layer in range(len(p.kl)):
        cells = p.kl_cells[layer] if layer < len(p.kl_cells) else None
        if cells is None:
            raise UserError(
                f"ELBO: free_bits needs the KL of every cell of z, and latent layer {layer} has "
                "no closed form of it; use a posterior and a prior of independent cells, such as "
                "Normal with StandardNormal or LearnedNormal"
            )
        shares = p.log_pi.exp().view(*p.log_pi.shape, *(1,) * (cells.dim() - 2))
        rows = cells[0] if len(cells) == 1 else (shares * cells).sum(0)
        cost = cost + torch.where(rows.mean(0) > least, rows, least).flatten(1).sum(1)
    return cost


def _log_mean_exp(log_pi: Tensor, terms: Tensor) -> Tensor:
    """`log sum_k pi_k exp(t_k)`, (B,), to full precision relative to the terms if all are small.

    There logsumexp would leave the rounding error of log_pi, which `Renyi` divides by 1 - alpha.
    """
    small = terms.abs().amax(0) < 1
    excess = (log_pi.exp() * torch.expm1(torch.where(small, terms, 0.0))).sum(0)
    return torch.where(small, torch.log1p(excess), torch.logsumexp(log_pi + terms, dim=0))


def _are_states(p: Particles) -> bool:
    """Whether particles are enumerated states, as far as that is known without waiting for it."""
    if p.log_pi.requires_grad:
        return True
    return not torch.is_grad_enabled() and not torch.equal(p.log_pi, equal_shares(p.log_lik))
