"""Normal components, each with a covariance of its own."""

from __future__ import annotations

from dataclasses import dataclass

from latently.models.components._covariance import Covariance
from latently.models.components._elliptical import Scatter, Structured

__all__ = ["Full"]


@dataclass(frozen=True)
class Full(Structured):
    r"""Normal, with a full covariance of its own: `p_k = N(mu_k, Sigma_k)`.

    It costs D (D + 1) / 2 parameters a component, and needs more rows than that to be worth
    them. No eigenvalue of a covariance falls below 1e-6 in units of the columns' variances, where
    the likelihood would have no maximum. Source: Dempster, Laird, Rubin, "Maximum Likelihood from
    Incomplete Data via the EM Algorithm", 1977; with missing values: Ghahramani, Jordan,
    "Supervised learning from incomplete data via an EM approach", 1994.

    >>> Full()
    Full()
    """

    def scatter(self, size: int, count: int) -> Scatter:
        return Covariance(size, count, shared=False)
