"""Factor analysers as components."""

from __future__ import annotations

from dataclasses import dataclass

from latently.inference.options import check_count
from latently.models.components._elliptical import Scatter, Structured
from latently.models.components._loadings import Loadings, check_latents

__all__ = ["Factors"]


@dataclass(frozen=True)
class Factors(Structured):
    r"""Factor analysers: `p_k = N(mu_k, W_k W_k' + diag(psi_k))`, W of so many columns.

    Between `Diagonal` and `Full`: D (L + 1) parameters for a covariance, and no D x D matrix.
    Source: Ghahramani, Hinton, "The EM Algorithm for Mixtures of Factor Analyzers", 1996.

    Args:
        latents: factors of each component, L.

    Raises:
        UserError: latents below 1, or more than the values of a row.

    >>> Factors(3)
    Factors(latents=3)
    """

    latents: int = 8

    def __post_init__(self) -> None:
        check_count(self, "latents")

    def scatter(self, size: int, count: int) -> Scatter:
        check_latents("Factors", self.latents, size, size)
        return Loadings(size, count, self.latents, shared=False)
