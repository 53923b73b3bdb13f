"""Arithmetic on log-weights: particles, bounds, estimators and evidence; knows no model."""

from latently.inference.attribution import Attribution, attribution
from latently.inference.bounds import CIWAE, ELBO, IWAE, Bound, MultiplyIWAE, Renyi
from latently.inference.bracket import Bracket, bracket
from latently.inference.criteria import Criteria, information_criteria
from latently.inference.diagnostics import Diagnosis, diagnose
from latently.inference.disentanglement import Disentanglement, disentanglement, mig, sap
from latently.inference.divergences import Divergence, GaussianFit, fit_gaussian, kl
from latently.inference.estimators import (
    PIWAE,
    REBAR,
    STL,
    VIMCO,
    DReG,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    Reparam,
    Score,
)
from latently.inference.evidence import Evidence, evaluate
from latently.inference.features import (
    ClassifierFeatures,
    ColumnFeatures,
    FeatureMap,
    Features,
    PCAFeatures,
)
from latently.inference.gaps import Gaps, compare_gaps, gaps
from latently.inference.given import Given, Predictive, draw_given, predictive
from latently.inference.imputation import Imputation, impute
from latently.inference.kernels import RBF, InverseMultiquadratic, Kernel, mmd
from latently.inference.latent_space import (
    Neighbours,
    bilinear,
    interpolate,
    manifold,
    neighbours,
    traverse,
)
from latently.inference.methods.ais import AIS
from latently.inference.methods.base import Method
from latently.inference.methods.exact import Exact
from latently.inference.methods.importance import ImportanceSampling
from latently.inference.methods.refined import Refined
from latently.inference.opinion import Opinion, second_opinion
from latently.inference.out_of_distribution import (
    Strangeness,
    auroc,
    complexity,
    likelihood_ratio,
    strangeness,
    typicality,
)
from latently.inference.particles import Particles
from latently.inference.pooling import Pooled, pool
from latently.inference.rate_distortion import RateDistortion, rate_distortion
from latently.inference.refine import refine
from latently.inference.robustness import Corrupted, corrupted
from latently.inference.sample_quality import (
    Measure,
    SampleQuality,
    judge_samples,
    sample_quality,
)
from latently.inference.schedules import Cosine, Linear, Schedule, Warmup

__all__ = [
    "AIS",
    "CIWAE",
    "ELBO",
    "IWAE",
    "PIWAE",
    "RBF",
    "REBAR",
    "STL",
    "VIMCO",
    "Attribution",
    "Bound",
    "Bracket",
    "ClassifierFeatures",
    "ColumnFeatures",
    "Corrupted",
    "Cosine",
    "Criteria",
    "DReG",
    "Diagnosis",
    "Disentanglement",
    "Divergence",
    "Enumerate",
    "Estimator",
    "Evidence",
    "Exact",
    "FeatureMap",
    "Features",
    "Gaps",
    "GaussianFit",
    "Given",
    "GumbelSoftmax",
    "ImportanceSampling",
    "Imputation",
    "InverseMultiquadratic",
    "Kernel",
    "Linear",
    "Measure",
    "Method",
    "MultiplyIWAE",
    "Neighbours",
    "Opinion",
    "PCAFeatures",
    "Particles",
    "Pooled",
    "Predictive",
    "RateDistortion",
    "Refined",
    "Renyi",
    "Reparam",
    "SampleQuality",
    "Schedule",
    "Score",
    "Strangeness",
    "Warmup",
    "attribution",
    "auroc",
    "bilinear",
    "bracket",
    "compare_gaps",
    "complexity",
    "corrupted",
    "diagnose",
    "disentanglement",
    "draw_given",
    "evaluate",
    "fit_gaussian",
    "gaps",
    "impute",
    "information_criteria",
    "interpolate",
    "judge_samples",
    "kl",
    "likelihood_ratio",
    "manifold",
    "mig",
    "mmd",
    "neighbours",
    "pool",
    "predictive",
    "rate_distortion",
    "refine",
    "sample_quality",
    "sap",
    "second_opinion",
    "strangeness",
    "traverse",
    "typicality",
]
