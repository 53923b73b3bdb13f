"""Normal components of independent cells."""

from __future__ import annotations

from dataclasses import dataclass

from latently.models.components._cells import Cells
from latently.models.components._elliptical import Scatter, Shrunk

__all__ = ["Diagonal"]


@dataclass(frozen=True)
class Diagonal(Shrunk):
    r"""Normal, cells independent: `p_k = prod_j N(mu_kj, sigma_kj^2)`.

    Cells depend on each other through the component alone. No variance falls below 1e-6 of its
    column's.

    Args:
        prior: rows of the variances of all rows, parted among the components, that each has seen
            before the first: an inverse gamma prior; 0: none, maximum likelihood. Its
            log-density counts in what EM reports.

    Raises:
        UserError: prior below 0.

    >>> Diagonal(prior=20)
    Diagonal(prior=20)
    """

    def scatter(self, size: int, count: int) -> Scatter:
        return Cells(size, count, shared=False, prior=self.prior)
