"""Normal components of one variance."""

from __future__ import annotations

from dataclasses import dataclass

from latently.models.components._cells import Cells
from latently.models.components._elliptical import Scatter, Shrunk

__all__ = ["Spherical"]


@dataclass(frozen=True)
class Spherical(Shrunk):
    r"""Normal, with one variance for all cells: `p_k = N(mu_k, sigma_k^2 I)`.

    Columns must be in comparable units: what is round in metres is not in feet. No variance
    falls below 1e-6 of the least column's.

    Args:
        prior: rows of the variances of all rows, parted among the components, that each has seen
            before the first: an inverse gamma prior; 0: none, maximum likelihood. Its
            log-density counts in what EM reports.

    Raises:
        UserError: prior below 0.

    >>> Spherical(prior=20)
    Spherical(prior=20)
    """

    def scatter(self, size: int, count: int) -> Scatter:
        return Cells(size, count, shared=True, prior=self.prior)
