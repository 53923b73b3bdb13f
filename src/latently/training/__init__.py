"""Training: objectives, the loop that the caller owns, and `fit`, which runs it."""

from latently.training.average import Average
from latently.training.fit import Fit, fit
from latently.training.loop import Step, train
from latently.training.objectives.base import Objective, Terms
from latently.training.objectives.info_vae import InfoVAE
from latently.training.objectives.reconstruction import Reconstruction
from latently.training.objectives.semi_amortised import SemiAmortised
from latently.training.objectives.semi_supervised import SemiSupervised
from latently.training.objectives.total_correlation import TotalCorrelation
from latently.training.objectives.variational import Variational
from latently.training.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep
from latently.training.transfer import Transfer, features, probe

__all__ = [
    "Average",
    "Fit",
    "InfoVAE",
    "Objective",
    "Reconstruction",
    "ReweightedWakeSleep",
    "SemiAmortised",
    "SemiSupervised",
    "Step",
    "Terms",
    "TotalCorrelation",
    "Transfer",
    "Variational",
    "WakeSleep",
    "features",
    "fit",
    "probe",
    "train",
]
