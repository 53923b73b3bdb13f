"""Normal components, each with a covariance of its own."""

from __future__ import annotations

from dataclasses import dataclass

from latently.errors import UserError
from latently.inference.options import check_number
from latently.models._columns import FLOOR
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

    With few rows a component, give it a prior: `prior` rows of covariance T that each has seen
    before the first, an inverse Wishart density,

        log p(Sigma_k) = -prior (log |Sigma_k| + tr(T Sigma_k^-1)) / 2 + const,
        Sigma_k = (n_k S_k + prior T) / (n_k + prior)

    being the maximum at n_k rows, by responsibility, of covariance S_k about their mean. T is
    either the covariance of all rows over C^(2 / D), which parts their volume among C components,
    or, by `share`, diagonal: `T = share diag(v)` of the columns' variances v, which draws
    components to be round and narrow, however many there are. Source: Fraley,
    Raftery, "Bayesian Regularization for Normal Mixture Estimation and Model-Based Clustering",
    2007, whose T is the former.

    Args:
        prior: rows of covariance T; 0: none, maximum likelihood. Its log-density counts in what
            EM reports.
        share: of the columns' variances, 1e-6 or more; None: T is the covariance of all rows,
            parted.

    Raises:
        UserError: prior below 0, a share below 1e-6, or one without a prior.

    >>> Full(prior=20)
    Full(prior=20, share=None)
    >>> Full(prior=4, share=0.03)
    Full(prior=4, share=0.03)
    """

    share: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share is None:
            return
        check_number(self, "share", low=FLOOR, scheduled=False)
        if not self.prior:
            raise UserError(
                f"Full: share={self.share!r} is of the rows of a prior, and prior=0 has none; "
                "give prior, such as half the columns"
            )

    def scatter(self, size: int, count: int) -> Scatter:
        return Covariance(size, count, shared=False, prior=self.prior, share=self.share)
