r"""Distributions that `torch.distributions` lacks.

All are elementwise unless said otherwise: parameters broadcast to the batch shape, the event is
a scalar. A `Joint` is of whole rows and knows about missing entries; `Factorized` makes one of
independent cells. Instances never validate their arguments: support is checked once, at the data
boundary. A distribution that serves one family only stands in that family's file.
"""

from latently.probability.distributions.discrete import Bernoulli, Categorical, Relaxed
from latently.probability.distributions.gaussian import (
    LowRankMultivariateNormal,
    MultivariateNormal,
    ScaledJoint,
)
from latently.probability.distributions.integers import DiscretizedLogistic, Rounded
from latently.probability.distributions.joint import (
    Factorized,
    Joint,
    analytic_kl,
    kl_and_cells,
    observed_log_prob,
)
from latently.probability.distributions.mixture import JointMixture, Mixture, mixture
from latently.probability.distributions.normal import Normal, Scaled, StandardNormal
from latently.probability.distributions.one_hot import OneHot
from latently.probability.distributions.point import Point
from latently.probability.distributions.rounded_rows import RoundedRows
from latently.probability.distributions.simplex import Dirichlet, LogisticNormal

__all__ = [
    "Bernoulli",
    "Categorical",
    "Dirichlet",
    "DiscretizedLogistic",
    "Factorized",
    "Joint",
    "JointMixture",
    "LogisticNormal",
    "LowRankMultivariateNormal",
    "Mixture",
    "MultivariateNormal",
    "Normal",
    "OneHot",
    "Point",
    "Relaxed",
    "Rounded",
    "RoundedRows",
    "Scaled",
    "ScaledJoint",
    "StandardNormal",
    "analytic_kl",
    "kl_and_cells",
    "mixture",
    "observed_log_prob",
]
