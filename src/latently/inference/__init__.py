"""Arithmetic on log-weights: particles, bounds, estimators and evidence; knows no model."""

from latently.inference.bounds import ELBO, IWAE, Bound
from latently.inference.estimators import DReG, Estimator, Reparam
from latently.inference.evidence import Evidence, Exact, ImportanceSampling, Method, evaluate
from latently.inference.imputation import Imputation, impute
from latently.inference.particles import Particles
from latently.inference.schedules import Cosine, Linear, Schedule, Warmup

__all__ = [
    "ELBO",
    "IWAE",
    "Bound",
    "Cosine",
    "DReG",
    "Estimator",
    "Evidence",
    "Exact",
    "ImportanceSampling",
    "Imputation",
    "Linear",
    "Method",
    "Particles",
    "Reparam",
    "Schedule",
    "Warmup",
    "evaluate",
    "impute",
]
