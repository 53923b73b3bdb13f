"""The importance weighted bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.methods.base import Kind, Method, Progress, Scores, block_of
from latently.inference.noise import row_seed, seeded
from latently.inference.pareto import pareto_k, tail_length
from latently.inference.particles import Particles
from latently.inference.rows import Rows

__all__ = ["ImportanceSampling"]


@dataclass(frozen=True)
class ImportanceSampling(Method):
    r"""The importance weighted bound with K draws from the posterior, per row.

    `log p(x) >= E log 1/K sum_k w_k`. Exactly K draws, streamed in blocks of a size fixed by
    the model alone, so memory is bounded at any K. Every (seed, row content, block) has its own
    generator and every row is scored alone, so a row's score is the same to the last bit in any
    subset and order. Source: Burda, Grosse, Salakhutdinov, 2016; error by the delta method,
    `Var = sum_k v_k^2 - 1/K` with normalised weights v. Of a model that sums a latent, K is the
    number of draws for each of its states, and a weight is the sum over them.

    Args:
        samples: K, the number of draws per row.

    Raises:
        UserError: fewer than one sample, or a model without a density.
    """

    kind: ClassVar[Kind] = "lower_bound"
    samples: int = 1000

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise UserError(
                f"ImportanceSampling: samples={self.samples!r} must be a whole number, 1 or more"
            )

    @property
    def weighs(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return f"IWAE K={self.samples}" if self.samples > 1 else "ELBO, one draw"

    def scores(
        self,
        model: Any,
        rows: Rows,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        if model.density is None:
            raise UserError(model.no_density)
        n, tail = len(rows.x), tail_length(self.samples)
        values, variance, ess = (torch.empty(n, dtype=torch.float64) for _ in range(3))
        tops = torch.empty(n, tail + 1, dtype=torch.float64)
        with torch.no_grad():
            for i, row in enumerate(rows.singles()):
                log_w = self.log_weights(model, row, seed)
                total = torch.logsumexp(log_w, 0)
                share = torch.logsumexp(2 * log_w, 0) - 2 * total  # log of sum v^2 = -log ESS
                values[i] = total - math.log(self.samples)
                ess[i] = (-share).exp()
                variance[i] = self._variance(share)
                if tail:
                    tops[i] = log_w.topk(tail + 1).values
                if progress:
                    progress(i + 1, n)
        return Scores(values, variance, ess, pareto_k(tops) if tail else None)

    def _variance(self, share: Tensor) -> Tensor:
        """Of the log of the mean weight; one draw says nothing about it."""
        spread = (share.exp() - 1 / self.samples).clamp(min=0)
        return spread if self.samples > 1 else torch.full_like(spread, math.nan)

    def log_weights(self, model: Any, row: Rows, seed: int) -> Tensor:
        """All K log-weights of one row, (K,), in float64."""
        x, mask, context = row
        block, key = block_of(x), row_seed(seed, x, mask, context)
        parts = []
        for number, start in enumerate(range(0, self.samples, block)):
            count = min(block, self.samples - start)
            with seeded((key + number) % 2**63, x.device):
                p = model.infer(x, count, mask, context)
            parts.append(_of_draws(p, count).double().cpu())
        return torch.cat(parts)


def _of_draws(p: Particles, draws: int) -> Tensor:
    """The log-weight of every draw of one row, (K,), with that of its states summed."""
    if len(p.log_w) == draws:
        return p.log_w[:, 0]
    whole = (p.log_pi + p.log_w)[:, 0].unflatten(0, (draws, -1))
    return torch.logsumexp(whole, 1) + math.log(draws)
