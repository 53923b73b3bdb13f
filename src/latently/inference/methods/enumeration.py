"""The sum over all states of discrete latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError
from latently.inference.estimators import all_states
from latently.inference.methods.base import Kind, Method, Progress, Scores, block_of
from latently.inference.rows import Rows

__all__ = ["Enumeration"]


@dataclass(frozen=True)
class Enumeration(Method):
    r"""`log p(x) = log sum_z p(z) p(x|z)` over all states of discrete latents: exact.

    Every state is decoded for every row, in blocks of a size fixed by the model alone, so memory
    does not grow with the states. Refused where there are infinitely many, or more than 4,096.
    """

    kind: ClassVar[Kind] = "exact"

    @property
    def name(self) -> str:
        return "enumeration"

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
        n = len(rows.x)
        values = torch.empty(n, dtype=torch.float64)
        with torch.no_grad():
            for i, row in enumerate(rows.singles()):
                values[i] = torch.logsumexp(self._log_joint(model, row), 0)
                if progress:
                    progress(i + 1, n)
        return Scores(values, torch.zeros_like(values), None, None)

    def _log_joint(self, model: Any, row: Rows) -> Tensor:
        """log p(x, z) of one row and every state, (states,), in float64."""
        first, more = self._part(model, row, 0)
        rest = (self._part(model, row, start)[0] for start in more)
        return torch.cat([first, *rest])

    def _part(self, model: Any, row: Rows, start: int) -> tuple[Tensor, range]:
        """log p(x, z) of a block of states, and where the later blocks start."""
        x, mask, context = row
        block, count = block_of(x), 0

        def states_from(q: Distribution, _: int) -> Tensor:
            nonlocal count
            if count:
                raise UserError(
                    f"{type(model).__name__} has several layers of latents and Enumeration sums "
                    "over one; use ImportanceSampling(samples)"
                )
            states = all_states(q)
            count = len(states)
            return states[start : start + block]

        p = model.infer(x, 1, mask, context, gradient="exact", draw=states_from)
        joint = p.log_lik + sum(p.log_prior)
        return joint[:, 0].double().cpu(), range(start + block, count, block)
