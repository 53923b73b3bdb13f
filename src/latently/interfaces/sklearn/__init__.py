"""Estimators for scikit-learn: a recipe behind `fit`, `transform`, `predict` and `score`."""

from latently.interfaces.sklearn.density import LatentDensity
from latently.interfaces.sklearn.imputer import LatentImputer
from latently.interfaces.sklearn.outliers import LatentOutlierDetector
from latently.interfaces.sklearn.sampler import LatentSampler
from latently.interfaces.sklearn.transformer import LatentTransformer

__all__ = [
    "LatentDensity",
    "LatentImputer",
    "LatentOutlierDetector",
    "LatentSampler",
    "LatentTransformer",
]
