"""Probabilistic principal component analysers as components."""

from __future__ import annotations

from dataclasses import dataclass

from latently.inference.options import check_count
from latently.models.components._elliptical import Scatter, Structured
from latently.models.components._loadings import Loadings, check_latents

__all__ = ["Principal"]


@dataclass(frozen=True)
class Principal(Structured):
    r"""Probabilistic PCA: `p_k = N(mu_k, W_k W_k' + sigma_k^2 I)`, W of so many columns.

    Columns must be in comparable units, since they share one noise variance. Source: Tipping,
    Bishop, "Mixtures of Probabilistic Principal Component Analysers", 1999.

    Args:
        latents: principal directions of each component, L.

    Raises:
        UserError: latents below 1, or not fewer than the values of a row.

    >>> Principal(3)
    Principal(latents=3)
    """

    latents: int = 8

    def __post_init__(self) -> None:
        check_count(self, "latents")

    def scatter(self, size: int, count: int) -> Scatter:
        check_latents("Principal", self.latents, size - 1, size)
        return Loadings(size, count, self.latents, shared=True)
