"""Objectives: what a training step maximises."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError, called
from latently.inference.bounds import ELBO, Bound
from latently.inference.estimators import Estimator, GumbelSoftmax, Reparam
from latently.inference.kernels import InverseMultiquadratic, Kernel, mmd
from latently.inference.options import check_count, check_number
from latently.inference.particles import Particles
from latently.inference.schedules import Schedule, resolve
from latently.probability.conditional import draw
from latently.probability.distributions import Factorized

__all__ = ["InfoVAE", "Objective", "Terms", "TotalCorrelation", "Variational"]


class Terms(NamedTuple):
    """Per-example results of an objective, each (B,), in nats.

    `bound` is what is maximised, a bound of log p(x) if the objective `is_bound`; the other two
    are the shares that curves show.
    """

    bound: Tensor
    reconstruction: Tensor
    kl: Tensor


class Objective(ABC):
    """A number per example to maximise, as a function of model, data and step.

    Attributes:
        samples: draws per row.
    """

    samples: int = 1

    @abstractmethod
    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None,
        context: Tensor | None,
        step: Tensor,
        total: int,
    ) -> Terms:
        """The terms at a 0-d `step` of a run of `total` steps."""

    @property
    def is_bound(self) -> bool:
        """Whether its mean is a lower bound of log p(x), at every step: else none is claimed."""
        return False

    @property
    def couples(self) -> bool:
        """Whether the terms of a row depend on the other rows of its batch."""
        return False

    def of_rows(self, rows: int) -> Objective:
        """This objective for batches of a data set of so many rows."""
        return self

    def check_rows(self, rows: int) -> None:
        """Raises UserError for a batch of too few rows."""
        return None

    def size(self, rows: int, cells: int, latents: int) -> int:
        """Numbers that a step holds at once, in its order of magnitude."""
        return self.samples * rows * cells


@dataclass(frozen=True)
class Variational(Objective):
    """A bound of log p(x) and the way it is differentiated.

    Args:
        bound: what is maximised, e.g. IWAE.
        estimator: how it is differentiated, e.g. DReG.
        samples: K, draws per example.

    Raises:
        UserError: fewer than one sample, a bound or estimator that is not one (`IWAE` in place of
            `IWAE()`), a pair that biases the gradient, or samples that the bound does not take.

    >>> from latently.inference import DReG, IWAE
    >>> Variational(IWAE(), DReG(), samples=5).samples
    5
    """

    bound: Bound = ELBO()  # noqa: RUF009  (frozen)
    estimator: Estimator = Reparam()  # noqa: RUF009
    samples: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise UserError(f"samples={self.samples!r} must be at least 1, a whole number")
        if not isinstance(self.bound, Bound):
            raise UserError(f"bound={self.bound!r} must be a built bound, such as IWAE()")
        if not isinstance(self.estimator, Estimator):
            raise UserError(f"estimator={self.estimator!r} must be a built one, such as DReG()")
        self.estimator.check(self.bound)
        if self.samples < self.estimator.least:
            raise UserError(
                f"samples={self.samples}: {type(self.estimator).__name__} needs at least "
                f"{self.estimator.least} draws per row; raise samples"
            )
        self.bound.check(self.samples, states=self.estimator.gradient == "exact")

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None,
        context: Tensor | None,
        step: Tensor,
        total: int,
    ) -> Terms:
        bound = resolve(self.bound, step, total)
        estimator = resolve(self.estimator, step, total)
        how: dict[str, Any] = {"gradient": estimator.gradient, "draw": estimator.draw}
        p = model.infer(x, self.samples, mask, context, **how)
        surrogate, p = estimator(bound, p), estimator.drawn(p)
        return _terms(surrogate, p)

    @property
    def is_bound(self) -> bool:
        relaxed = isinstance(self.estimator, GumbelSoftmax) and not self.estimator.hard
        return self.bound.is_bound and not relaxed

    @property
    def couples(self) -> bool:
        return self.bound.couples


class _OfBatch(Objective):
    """An objective that compares the rows of a batch, by plain pathwise gradients."""

    @property
    def couples(self) -> bool:
        return True

    def check_rows(self, rows: int) -> None:
        if rows < 2:
            raise UserError(
                f"{type(self).__name__} compares the rows of a batch and was given {rows}; it "
                "needs at least 2, so raise batch_size, or give more rows"
            )

    def _infer(
        self, model: Any, x: Tensor, mask: Tensor | None, context: Tensor | None
    ) -> tuple[Particles, Distribution]:
        """Particles, and the posterior that the last of their draws are from."""
        self.check_rows(len(x))
        drawn_from: list[Distribution] = []

        def draw_and_keep(q: Distribution, samples: int) -> Tensor:
            drawn_from.append(q)
            return draw(q, samples)

        p = model.infer(x, self.samples, mask, context, draw=draw_and_keep)
        for z, log_q in zip(p.z, p.log_q, strict=True):
            if log_q.requires_grad and not z.requires_grad:
                raise UserError(
                    f"{type(self).__name__} needs reparameterised draws, and this posterior has "
                    "none: its encoder's gradient would be biased; choose a posterior such as "
                    "Normal"
                )
        if not p.z:
            raise UserError(f"{type(self).__name__}: {type(model).__name__} has no latents")
        return p, drawn_from[-1]


@dataclass(frozen=True)
class TotalCorrelation(_OfBatch):
    r"""The ELBO with its KL in three parts, each with a weight of its own (beta-TCVAE).

    With `q(z) = 1/N sum_n q(z|x_n)`, the aggregate posterior, the mean KL to the prior is

        I(x; z) + KL(q(z) || prod_d q(z_d)) + sum_d KL(q(z_d) || p(z_d))

    the information that z holds of the row, the total correlation of its coordinates, and how far
    each is from its prior. The objective is `E log p(x|z)` less alpha, beta and gamma times
    these; with all three 1 it is the ELBO exactly, with its closed-form KL. It is no bound on
    log p(x) otherwise, and evidence is never computed with it. For a prior whose coordinates
    depend on each other, the third part is `E log prod_d q(z_d) / p(z)`.

    log q(z) and log q(z_d) of a draw are estimated from the posteriors of its batch of M rows:
    its own has the share 1/N and the others `(N-1) / (N (M-1))` each. The estimated density is
    unbiased over the choice of the batch (minibatch stratified sampling, averaged over its free
    choice), and exact where the batch is the data set; its log is too low on average, the more
    the smaller the batch. `train` and `fit` say what N is. Where nobody does, N = M: the gradients
    of minibatch weighted sampling. Values on validation rows are of the aggregate of these rows,
    so they differ from those in training by more than luck. Source: Chen, Li, Grosse, Duvenaud,
    "Isolating Sources of Disentanglement in Variational Autoencoders", 2018.

    Args:
        alpha: weight of the information, a number or a schedule.
        beta: weight of the total correlation, a number or a schedule.
        gamma: weight of the coordinates' KL to the prior, a number or a schedule.
        samples: K, draws per example.
        rows: N; None: that of the data, or of the batch.

    Raises:
        UserError: a weight that is negative or no number, fewer than one sample or 2 rows; at the
            call, a posterior whose coordinates are not independent and reparameterised, more
            than one layer of latents, or a batch of one row.
    """

    alpha: float | Schedule = 1.0
    beta: float | Schedule = 6.0
    gamma: float | Schedule = 1.0
    samples: int = 1
    rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            check_number(self, name, low=0)
        check_count(self, "samples")
        if self.rows is not None:
            check_count(self, "rows", least=2)

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None,
        context: Tensor | None,
        step: Tensor,
        total: int,
    ) -> Terms:
        weights: Any = resolve(self, step, total)
        p, q = self._infer(model, x, mask, context)
        if len(p.z) != 1:
            raise UserError(
                f"TotalCorrelation needs one latent layer, this model has {len(p.z)}; use "
                "Variational, or InfoVAE"
            )
        joint, product = aggregate_log_prob(q, p.z[0], self.rows)
        information, correlation = p.log_q[0] - joint, joint - product
        gamma = weights.gamma
        cost = gamma * p.divergence  # the three parts together, in closed form
        cost = cost + (weights.alpha - gamma) * information + (weights.beta - gamma) * correlation
        return _terms(p.average(p.log_lik - cost), p)

    @property
    def is_bound(self) -> bool:
        return (self.alpha, self.beta, self.gamma) == (1, 1, 1)

    def of_rows(self, rows: int) -> TotalCorrelation:
        return self if self.rows is not None else dataclasses.replace(self, rows=max(rows, 2))

    def size(self, rows: int, cells: int, latents: int) -> int:
        return super().size(rows, cells, latents) + 6 * self.samples * rows**2 * latents


@dataclass(frozen=True)
class InfoVAE(_OfBatch):
    r"""The ELBO with less KL per row, and the aggregate posterior held to the prior instead.

        E log p(x|z) - (1 - alpha) KL(q(z|x) || p(z)) - (alpha + weight - 1) MMD^2(q(z), p(z))

    with q(z) the posterior over all rows and MMD the maximum mean discrepancy, between the draws
    of a batch and as many draws of the prior (unbiased, so below 0 at times); a row has its own
    share of it. A large alpha leaves z free to hold more of its row, and still makes draws of the
    prior look like draws of q. alpha = 0 and weight = 1 is the ELBO; alpha = 1 the Wasserstein
    autoencoder with MMD penalty (WAE-MMD), whose reconstruction here is a log-likelihood. It is no
    bound on log p(x) otherwise, and evidence is never computed with it. Draws of the prior carry
    no gradient: with alpha = 1 a learned prior stays where it began. All layers of z are compared
    together. Sources: Zhao, Song, Ermon, "InfoVAE: Balancing Learning and Inference in
    Variational Autoencoders", 2019; Tolstikhin, Bousquet, Gelly, Scholkopf, "Wasserstein
    Auto-Encoders", 2018.

    Args:
        alpha: share of the KL that is left out, at most 1; a number or a schedule.
        weight: lambda, at least 1 - alpha; a number or a schedule. It is in nats per unit of
            MMD^2, which is at most 2, so try 10 to 1,000 beside a reconstruction in the hundreds.
        kernel: of the MMD, with its bandwidth.
        samples: K, draws per example.

    Raises:
        UserError: options out of range; at the call, a posterior that is not reparameterised, or
            a batch of one row.

    >>> from latently.inference.kernels import RBF
    >>> InfoVAE(alpha=1.0, weight=100.0, kernel=RBF(bandwidth=2.0)).weight
    100.0
    """

    alpha: float | Schedule = 0.0
    weight: float | Schedule = 10.0
    kernel: Kernel = InverseMultiquadratic()  # noqa: RUF009  (frozen)
    samples: int = 1

    def __post_init__(self) -> None:
        check_number(self, "alpha", high=1)
        check_number(self, "weight", low=0)
        check_count(self, "samples")
        if not isinstance(self.kernel, Kernel):
            raise UserError(f"InfoVAE: kernel={self.kernel!r} must be a built one, such as RBF()")
        numbers = (int, float)
        if isinstance(self.alpha, numbers) and isinstance(self.weight, numbers):
            if self.alpha + self.weight < 1:
                raise UserError(
                    f"InfoVAE: alpha={self.alpha} and weight={self.weight} would reward being far "
                    f"from the prior; choose a weight of at least {1 - self.alpha:g}"
                )

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None,
        context: Tensor | None,
        step: Tensor,
        total: int,
    ) -> Terms:
        weights: Any = resolve(self, step, total)
        p, _ = self._infer(model, x, mask, context)
        apart = mmd(_flat(p.z), self._from_prior(model, len(x), context), self.kernel)
        cost = (1 - weights.alpha) * p.divergence
        cost = cost + (weights.alpha + weights.weight - 1) * apart
        return _terms(p.average(p.log_lik - cost), p)

    @property
    def is_bound(self) -> bool:
        return (self.alpha, self.weight) == (0, 1)

    def size(self, rows: int, cells: int, latents: int) -> int:
        return super().size(rows, cells, latents) + 10 * self.samples * rows**2

    @torch.no_grad()
    def _from_prior(self, model: Any, rows: int, context: Tensor | None) -> Tensor:
        """As many draws of the prior, (K, B, D), under the contexts of the rows."""
        if context is not None:
            context = context.expand(self.samples, *context.shape).flatten(0, 1)
        y = _flat(model.latents(self.samples * rows, context))
        return y.view(self.samples, rows, -1)


def aggregate_log_prob(
    q: Distribution, z: Tensor, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    r"""`log q(z)` and `sum_d log q(z_d)` under the aggregate posterior of a data set.

    See `TotalCorrelation` for the estimate. Memory is K B^2 D numbers.

    Args:
        q: the posteriors of a batch of B rows, of batch shape (B,), or (C B,) for C of each row,
            row by row within each of the C.
        z: draws from them, (K, B, *Z).
        rows: N, the rows of the data set; None: B.

    Returns:
        Two tensors of shape (K, B), in nats.

    Raises:
        UserError: posteriors whose coordinates are not independent.
    """
    if not isinstance(q, Factorized):
        raise UserError(
            "TotalCorrelation needs a posterior of independent coordinates, such as Normal; this "
            f"one is {called(q)}"
        )
    lead, batch, every = z.shape[:2], z.shape[1], q.batch_shape[0]
    rows = batch if rows is None else rows
    log_q = q.base.log_prob(z.flatten(0, 1).unsqueeze(1)).flatten(2)  # (K B, C B, D)
    at, of = (torch.arange(n, device=z.device) % batch for n in (len(log_q), every))
    copies = every // batch
    own = log_q.new_full((), -math.log(rows * copies))
    other = log_q.new_full((), math.log((rows - 1) / (rows * (batch - 1) * copies)))
    log_share = torch.where(at[:, None] == of, own, other)
    joint = torch.logsumexp(log_share + log_q.sum(-1), 1)
    product = torch.logsumexp(log_share[..., None] + log_q, 1).sum(-1)
    return joint.view(lead), product.view(lead)


def _flat(z: tuple[Tensor, ...]) -> Tensor:
    """All layers side by side, (K, B, D)."""
    return torch.cat([layer.flatten(2) for layer in z], dim=-1)


def _terms(bound: Tensor, p: Particles) -> Terms:
    return Terms(bound, p.average(p.log_lik.detach()), p.average(p.divergence.detach()))
