"""Estimators for scikit-learn: a recipe behind `fit`, `transform`, `predict` and `score`."""

from latently.interfaces.sklearn.transformer import LatentTransformer

__all__ = ["LatentTransformer"]
