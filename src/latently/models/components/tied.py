"""Normal components that share one covariance."""

from __future__ import annotations

from dataclasses import dataclass

from latently.models.components._covariance import Covariance
from latently.models.components._elliptical import Scatter, Structured

__all__ = ["Tied"]


@dataclass(frozen=True)
class Tied(Structured):
    r"""Normal, with one full covariance for all: `p_k = N(mu_k, Sigma)`.

    Classes are then parted by planes, as in linear discriminant analysis. The floor is that of
    `Full`, which a shared covariance meets only where columns depend on each other exactly.

    >>> Tied()
    Tied()
    """

    def scatter(self, size: int, count: int) -> Scatter:
        return Covariance(size, count, shared=True)
