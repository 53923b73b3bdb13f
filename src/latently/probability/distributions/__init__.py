r"""Distributions that `torch.distributions` lacks.

All are elementwise unless said otherwise: parameters broadcast to the batch shape, the event is
a scalar. A `Joint` is of whole rows and knows about missing entries; `Factorized` makes one of
independent cells. Instances never validate their arguments: support is checked once, at the data
boundary. A distribution that serves one family only stands in that family's file.
"""

from latently.probability.distributions.discrete import Bernoulli, Categorical, Relaxed
from latently.probability.distributions.integers import DiscretizedLogistic, Rounded
from latently.probability.distributions.joint import (
    Factorized,
    Joint,
    analytic_kl,
    kl_and_cells,
    observed_log_prob,
)
from latently.probability.distributions.normal import Normal, Scaled, StandardNormal
from latently.probability.distributions.one_hot import OneHot

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiscretizedLogistic",
    "Factorized",
    "Joint",
    "Normal",
    "OneHot",
    "Relaxed",
    "Rounded",
    "Scaled",
    "StandardNormal",
    "analytic_kl",
    "kl_and_cells",
    "observed_log_prob",
]
