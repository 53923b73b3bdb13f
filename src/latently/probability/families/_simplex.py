"""What families of rows above 0 that sum to 1 have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from latently.errors import UserError
from latently.probability.families._moments import zero_missing
from latently.probability.families.base import Family

__all__ = ["Simplex", "between", "raw_between"]

_ROUNDING = 1e-5  # by which the sum of a row in float32 may miss 1


class Simplex(Family):
    """A family over rows above 0 that sum to 1 over the last axis.

    Raises:
        UserError: the last axis has fewer than 2 cells.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        if self.shape[-1] < 2:
            raise UserError(
                f"{type(self).__name__}: shape {self.shape} has {self.shape[-1]} cell on its last "
                "axis, which must have at least 2 that sum to 1; give e.g. (5,) or (20, 5)"
            )

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`L x - 1`: of mean 0, and deviation near 1 where rows are uniform."""
        return zero_missing(self.shape[-1] * x - 1, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        total = torch.where(seen, x, 0.0).sum(-1, keepdim=True, dtype=torch.float64)
        whole = seen.all(-1, keepdim=True)
        wrong = torch.where(whole, (total - 1).abs() > _ROUNDING, total >= 1)
        return wrong | ~(x > 0) | (x > 1)

    @property
    def support(self) -> str:
        return "rows above 0 that sum to 1"

    @property
    def constraint(self) -> Constraint:
        return constraints.simplex


def between(h: Tensor, low: float, high: float) -> Tensor:
    """Keeps h between low < 0 < high smoothly, near 0 as it is; a gradient everywhere."""
    return torch.where(h > 0, high * torch.tanh(h / high), low * torch.tanh(h / low))


def raw_between(value: Tensor, low: float, high: float) -> Tensor:
    """The inverse of `between`, short of the ends."""
    limit = torch.where(value > 0, high, low).to(value)
    return limit * torch.atanh((value / limit).clamp(max=0.99))
