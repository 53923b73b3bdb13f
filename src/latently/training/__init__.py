"""Training: objectives, the loop that the caller owns, and `fit`, which runs it."""

from latently.training.average import Average
from latently.training.fit import Fit, fit
from latently.training.loop import Step, train
from latently.training.objectives import (
    InfoVAE,
    Objective,
    Terms,
    TotalCorrelation,
    Variational,
)

__all__ = [
    "Average",
    "Fit",
    "InfoVAE",
    "Objective",
    "Step",
    "Terms",
    "TotalCorrelation",
    "Variational",
    "fit",
    "train",
]
