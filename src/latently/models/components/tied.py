"""Normal components that share one covariance."""

from __future__ import annotations

from dataclasses import dataclass

from latently.models.components._covariance import Covariance
from latently.models.components._elliptical import Scatter, Shrunk

__all__ = ["Tied"]


@dataclass(frozen=True)
class Tied(Shrunk):
    r"""Normal, with one full covariance for all: `p_k = N(mu_k, Sigma)`.

    Classes are then parted by planes, as in linear discriminant analysis. The floor is that of
    `Full`, which a shared covariance meets only where columns depend on each other exactly.

    Args:
        prior: rows of the covariance of all rows, parted among the components, that each has seen
            before the first: an inverse Wishart prior; 0: none, maximum likelihood. Its
            log-density counts in what EM reports.

    Raises:
        UserError: prior below 0.

    >>> Tied(prior=20)
    Tied(prior=20)
    """

    def scatter(self, size: int, count: int) -> Scatter:
        return Covariance(size, count, shared=True, prior=self.prior)
