"""Normal components of independent cells."""

from __future__ import annotations

from dataclasses import dataclass

from latently.models.components._cells import Cells
from latently.models.components._elliptical import Scatter, Structured

__all__ = ["Diagonal"]


@dataclass(frozen=True)
class Diagonal(Structured):
    r"""Normal, cells independent: `p_k = prod_j N(mu_kj, sigma_kj^2)`.

    Cells depend on each other through the component alone. No variance falls below 1e-6 of its
    column's.

    >>> Diagonal()
    Diagonal()
    """

    def scatter(self, size: int, count: int) -> Scatter:
        return Cells(size, count, shared=False)
