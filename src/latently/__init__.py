"""Latently: deep latent variable models, where every number says what it is.

The public names are imported on first use, so that `import latently` and the command line's
help do not wait for torch.
"""

from __future__ import annotations

import importlib
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from latently._version import __version__

if TYPE_CHECKING:
    from latently import data, nets
    from latently.data import Data
    from latently.data.corruptions import (
        Adversarial,
        Corruption,
        Gaussian,
        Masking,
        SaltAndPepper,
    )
    from latently.data.toys import toy
    from latently.errors import Interrupted, UserError
    from latently.inference import (
        AIS,
        CIWAE,
        ELBO,
        IWAE,
        PIWAE,
        RBF,
        REBAR,
        STL,
        VIMCO,
        Bound,
        Bracket,
        ClassifierFeatures,
        ColumnFeatures,
        Corrupted,
        Cosine,
        Criteria,
        Diagnosis,
        Disentanglement,
        Divergence,
        DReG,
        Enumerate,
        Estimator,
        Evidence,
        Exact,
        Gaps,
        GaussianFit,
        GumbelSoftmax,
        ImportanceSampling,
        Imputation,
        InverseMultiquadratic,
        Linear,
        Method,
        MultiplyIWAE,
        Neighbours,
        Opinion,
        PCAFeatures,
        RateDistortion,
        Refined,
        Renyi,
        Reparam,
        SampleQuality,
        Schedule,
        Score,
        Strangeness,
        Warmup,
        auroc,
        bilinear,
        bracket,
        compare_gaps,
        corrupted,
        diagnose,
        disentanglement,
        evaluate,
        fit_gaussian,
        gaps,
        impute,
        information_criteria,
        interpolate,
        judge_samples,
        kl,
        manifold,
        mig,
        neighbours,
        rate_distortion,
        refine,
        sample_quality,
        sap,
        second_opinion,
        strangeness,
        traverse,
    )
    from latently.inference.methods import Enumeration, Scores
    from latently.interfaces.sklearn import LatentTransformer
    from latently.io import load, save
    from latently.models import (
        PPCA,
        VAE,
        Autoencoder,
        Dequantized,
        FactorAnalysis,
        Mixture,
        Model,
        NormalizingFlow,
        Transformed,
    )
    from latently.models.components import (
        Bits,
        Component,
        Diagonal,
        Factors,
        Full,
        Principal,
        Spherical,
        Student,
        Tied,
    )
    from latently.probability import families, flows, priors, transforms
    from latently.probability.dequantise import Noise, UniformNoise, VariationalNoise
    from latently.recipes import ae, fa, flow, mixture, ppca, recipe, vae
    from latently.training import (  # type: ignore[no-redef]
        InfoVAE,
        Objective,
        Reconstruction,
        ReweightedWakeSleep,
        SemiAmortised,
        Terms,
        TotalCorrelation,
        Variational,
        WakeSleep,
        fit,
        train,
    )
    from latently.training.density import fit_density
    from latently.training.penalties import L1, Contractive, Penalty, Sparsity

_HOMES = {
    "latently.data": ["Data"],
    "latently.data.toys": ["toy"],
    "latently.errors": ["Interrupted", "UserError"],
    "latently.interfaces.sklearn": ["LatentTransformer"],
    "latently.io": ["load", "save"],
    "latently.training": ["fit", "train"],
}
_MODULES = {
    "data": "latently.data",
    "families": "latently.probability.families",
    "flows": "latently.probability.flows",
    "nets": "latently.nets",
    "priors": "latently.probability.priors",
    "transforms": "latently.probability.transforms",
}
_GATHERED = [  # all that these list is public: what is added to one needs no entry here
    "latently.data.corruptions",
    "latently.inference.bracket",
    "latently.inference.bounds",
    "latently.inference.criteria",
    "latently.inference.diagnostics",
    "latently.inference.disentanglement",
    "latently.inference.divergences",
    "latently.inference.estimators",
    "latently.inference.evidence",
    "latently.inference.features",
    "latently.inference.gaps",
    "latently.inference.imputation",
    "latently.inference.kernels",
    "latently.inference.latent_space",
    "latently.inference.methods",
    "latently.inference.opinion",
    "latently.inference.rate_distortion",
    "latently.inference.out_of_distribution",
    "latently.inference.sample_quality",
    "latently.inference.refine",
    "latently.inference.robustness",
    "latently.inference.schedules",
    "latently.inference.two_samples",
    "latently.training.density",
    "latently.training.objectives",
    "latently.training.penalties",
    "latently.models",
    "latently.models.components",
    "latently.probability.dequantise",
    "latently.recipes",
]
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AIS",
    "CIWAE",
    "ELBO",
    "IWAE",
    "L1",
    "PIWAE",
    "PPCA",
    "RBF",
    "REBAR",
    "STL",
    "VAE",
    "VIMCO",
    "Adversarial",
    "Autoencoder",
    "Bits",
    "Bound",
    "Bracket",
    "ClassifierFeatures",
    "ColumnFeatures",
    "Component",
    "Contractive",
    "Corrupted",
    "Corruption",
    "Cosine",
    "Criteria",
    "DReG",
    "Data",
    "Dequantized",
    "Diagnosis",
    "Diagonal",
    "Disentanglement",
    "Divergence",
    "Enumerate",
    "Enumeration",
    "Estimator",
    "Evidence",
    "Exact",
    "FactorAnalysis",
    "Factors",
    "Full",
    "Gaps",
    "Gaussian",
    "GaussianFit",
    "GumbelSoftmax",
    "ImportanceSampling",
    "Imputation",
    "InfoVAE",
    "Interrupted",
    "InverseMultiquadratic",
    "LatentTransformer",
    "Linear",
    "Masking",
    "Method",
    "Mixture",
    "Model",
    "MultiplyIWAE",
    "Neighbours",
    "Noise",
    "NormalizingFlow",
    "Objective",
    "Opinion",
    "PCAFeatures",
    "Penalty",
    "Principal",
    "RateDistortion",
    "Reconstruction",
    "Refined",
    "Renyi",
    "Reparam",
    "ReweightedWakeSleep",
    "SaltAndPepper",
    "SampleQuality",
    "Schedule",
    "Score",
    "Scores",
    "SemiAmortised",
    "Sparsity",
    "Spherical",
    "Strangeness",
    "Student",
    "Terms",
    "Tied",
    "TotalCorrelation",
    "Transformed",
    "UniformNoise",
    "UserError",
    "Variational",
    "VariationalNoise",
    "WakeSleep",
    "Warmup",
    "__version__",
    "ae",
    "auroc",
    "bilinear",
    "bracket",
    "compare_gaps",
    "corrupted",
    "data",
    "diagnose",
    "disentanglement",
    "evaluate",
    "fa",
    "families",
    "fit",
    "fit_density",
    "fit_gaussian",
    "flow",
    "flows",
    "gaps",
    "impute",
    "information_criteria",
    "interpolate",
    "judge_samples",
    "kl",
    "load",
    "manifold",
    "mig",
    "mixture",
    "neighbours",
    "nets",
    "ppca",
    "priors",
    "rate_distortion",
    "recipe",
    "refine",
    "sample_quality",
    "sap",
    "save",
    "second_opinion",
    "strangeness",
    "toy",
    "train",
    "transforms",
    "traverse",
    "vae",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        value = _gathered(name)
    globals()[name] = value
    return value


def _gathered(name: str) -> Any:
    # a part of the package is asked for amid its own imports, which a look around would start
    if not name.startswith("_") and name not in {part.name for part in iter_modules(__path__)}:
        for home in map(importlib.import_module, _GATHERED):
            if name in home.__all__:
                return getattr(home, name)
    raise AttributeError(f"module 'latently' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
