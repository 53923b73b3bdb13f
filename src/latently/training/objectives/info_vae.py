"""The ELBO with the aggregate posterior held to the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.kernels import InverseMultiquadratic, Kernel, mmd
from latently.inference.options import check_count, check_number
from latently.inference.rows import Rows
from latently.inference.schedules import Schedule, resolve
from latently.training.objectives._batch import OfBatch
from latently.training.objectives.base import Terms, terms_of

__all__ = ["InfoVAE"]


@dataclass(frozen=True)
class InfoVAE(OfBatch):
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

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        weights: Any = resolve(self, step, total)
        p, _ = self._infer(model, rows)
        apart = mmd(_flat(p.z), self._from_prior(model, len(rows.x), rows.context), self.kernel)
        cost = (1 - weights.alpha) * p.divergence
        cost = cost + (weights.alpha + weights.weight - 1) * apart
        return terms_of(p.average(p.log_lik - cost), p)

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


def _flat(z: tuple[Tensor, ...]) -> Tensor:
    """All layers side by side, (K, B, D)."""
    return torch.cat([layer.flatten(2) for layer in z], dim=-1)
