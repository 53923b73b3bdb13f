"""Everything that returns a `torch.distributions.Distribution`."""

from latently.probability.conditional import Conditional, draw
from latently.probability.distributions import Factorized
from latently.probability.priors import (
    LearnedNormal,
    NormalMixture,
    Prior,
    StandardNormal,
    VampPrior,
)

__all__ = [
    "Conditional",
    "Factorized",
    "LearnedNormal",
    "NormalMixture",
    "Prior",
    "StandardNormal",
    "VampPrior",
    "draw",
]
