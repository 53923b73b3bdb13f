"""Training: objectives, the loop that the caller owns, and `fit`, which runs it."""

from latently.training.average import Average
from latently.training.fit import Fit, fit
from latently.training.loop import Step, train
from latently.training.objectives import Objective, Terms, Variational

__all__ = ["Average", "Fit", "Objective", "Step", "Terms", "Variational", "fit", "train"]
