"""Normal components, each with a covariance of its own."""

from __future__ import annotations

from dataclasses import dataclass

from latently.models.components._covariance import Covariance
from latently.models.components._elliptical import Scatter, Shrunk

__all__ = ["Full"]


@dataclass(frozen=True)
class Full(Shrunk):
    r"""Normal, with a full covariance of its own: `p_k = N(mu_k, Sigma_k)`.

    It costs D (D + 1) / 2 parameters a component, and needs more rows than that to be worth
    them. No eigenvalue of a covariance falls below 1e-6 in units of the columns' variances, where
    the likelihood would have no maximum. Source: Dempster, Laird, Rubin, "Maximum Likelihood from
    Incomplete Data via the EM Algorithm", 1977; with missing values: Ghahramani, Jordan,
    "Supervised learning from incomplete data via an EM approach", 1994.

    Args:
        prior: rows of the covariance of all rows, parted among the components, that each has seen
            before the first: an inverse Wishart prior; 0: none, maximum likelihood. Its
            log-density counts in what EM reports.

    Raises:
        UserError: prior below 0.

    >>> Full(prior=20)
    Full(prior=20)
    """

    def scatter(self, size: int, count: int) -> Scatter:
        return Covariance(size, count, shared=False, prior=self.prior)
