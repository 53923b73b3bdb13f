"""The ELBO with its KL in three parts, one of them the total correlation."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError, called
from latently.inference.options import check_count, check_number
from latently.inference.rows import Rows
from latently.inference.schedules import Schedule, resolve
from latently.probability.distributions import Factorized
from latently.training.objectives._batch import OfBatch
from latently.training.objectives.base import Terms, terms_of

__all__ = ["TotalCorrelation"]


@dataclass(frozen=True)
class TotalCorrelation(OfBatch):
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

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        weights: Any = resolve(self, step, total)
        p, q = self._infer(model, rows)
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
        return terms_of(p.average(p.log_lik - cost), p)

    @property
    def is_bound(self) -> bool:
        return (self.alpha, self.beta, self.gamma) == (1, 1, 1)

    def of_rows(self, rows: int) -> TotalCorrelation:
        return self if self.rows is not None else dataclasses.replace(self, rows=max(rows, 2))

    def size(self, rows: int, cells: int, latents: int) -> int:
        return super().size(rows, cells, latents) + 6 * self.samples * rows**2 * latents


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
