"""Positive numbers, seen by networks as logarithms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from latently.probability.families._columns import Columns

__all__ = ["Positive"]


class Positive(Columns):
    """A family over positive numbers; `loc` and `scale` are those of log x."""

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().embed(x.log(), mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return ~((x > 0) & torch.isfinite(x))

    @property
    def support(self) -> str:
        return "numbers above 0"

    @property
    def constraint(self) -> Constraint:
        return constraints.positive

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets `loc`, `scale` to mean and deviation of log x; a constant column keeps 1."""
        super().initialise(x.double().log(), mask)

    def inside(self) -> float | Tensor:
        """A positive number of each column's size."""
        return 1.0 if self.loc is None else self.loc.exp()
