"""The model's own closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from latently.errors import UserError
from latently.inference.methods.base import Kind, Method, Progress, Scores
from latently.inference.noise import seeded
from latently.inference.rows import Rows

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact(Method):
    """The model's own closed form; refused by models that have none.

    Args:
        block: rows at a time.
    """

    kind: ClassVar[Kind] = "exact"
    block: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.block, int) or self.block < 1:
            raise UserError(f"Exact: block={self.block!r} must be a whole number of at least 1")

    @property
    def name(self) -> str:
        return "exact"

    def scores(
        self,
        model: Any,
        rows: Rows,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        if model.density != "exact":
            told = f"{type(model).__name__} has no exact density; use ImportanceSampling(samples)"
            raise UserError(model.no_density if model.density is None else told)
        values, n = [torch.empty(0, dtype=torch.float64)], len(rows.x)
        with torch.no_grad(), seeded(seed, rows.x.device):
            for start in range(0, n, self.block):
                x, mask, context = rows.part(slice(start, start + self.block))
                p = model.infer(x, 1, mask, context)
                values.append(p.average(p.log_w).double().cpu())
                if progress:
                    progress(min(start + self.block, n), n)
        joined = torch.cat(values)
        return Scores(joined, torch.zeros_like(joined), None, None)
