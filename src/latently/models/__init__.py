"""Models, one family of models per file; these files never import each other."""

from latently.models.autoencoder import Autoencoder
from latently.models.base import Model
from latently.models.flow import NormalizingFlow
from latently.models.linear import PPCA, FactorAnalysis
from latently.models.mixture import Mixture
from latently.models.not_at_random import NotAtRandom, not_random
from latently.models.semi_supervised import SemiSupervisedVAE
from latently.models.vae import VAE
from latently.models.wrappers import Dequantized, Transformed

__all__ = [
    "PPCA",
    "VAE",
    "Autoencoder",
    "Dequantized",
    "FactorAnalysis",
    "Mixture",
    "Model",
    "NormalizingFlow",
    "NotAtRandom",
    "SemiSupervisedVAE",
    "Transformed",
    "not_random",
]
