"""What the command line, saved files, docs and conformance tests can name, from `__all__`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn, optim

from latently import nets, recipes
from latently.data import corruptions, masks, mechanisms
from latently.inference import bounds, estimators, kernels, methods, schedules
from latently.models import components as kinds
from latently.probability import dequantise, families, flows, missingness, priors, transforms
from latently.training import objectives, penalties

__all__ = ["ACTIVATIONS", "KINDS", "OPTIMIZERS", "components", "names"]

ACTIVATIONS = (
    *("ELU", "GELU", "Identity", "LeakyReLU", "ReLU", "SiLU", "Sigmoid", "Softplus"),
    "Tanh",
)
OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "RMSprop")


def _public(module: ModuleType, base: type | None = None) -> dict[str, Any]:
    """The concrete classes (of a base) that a module lists in `__all__`."""
    found = {}
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type) and not inspect.isabstract(value) and value is not base:
            if base is None or issubclass(value, base):
                found[name] = value
    return found


KINDS: dict[str, dict[str, Any]] = {
    "recipes": recipes.RECIPES,
    "families": _public(families, families.Family),
    "components": _public(kinds, kinds.Component),
    "priors": _public(priors, priors.Prior),
    "flows": _public(flows, flows.Flow),
    "couplings": _public(flows, flows.Coupling),
    "noises": _public(dequantise, dequantise.Noise),
    "transforms": _public(transforms, transforms.Transform),
    "bounds": _public(bounds, bounds.Bound),
    "estimators": _public(estimators, estimators.Estimator),
    "methods": _public(methods, methods.Method),
    "objectives": _public(objectives, objectives.Objective),
    "kernels": _public(kernels, kernels.Kernel),
    "schedules": _public(schedules, schedules.Schedule),
    "nets": _public(nets),
    "masks": _public(masks, masks.Mask),
    "mechanisms": _public(mechanisms, mechanisms.Mechanism),
    "missingness": _public(missingness, missingness.Missingness),
    "corruptions": _public(corruptions, corruptions.Corruption),
    "penalties": _public(penalties, penalties.Penalty),
    "optimizers": {name: getattr(optim, name) for name in OPTIMIZERS},
    "activations": {name: getattr(nn, name) for name in ACTIVATIONS},
}


def components(extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every name a call expression may use, with the user's own added."""
    found: dict[str, Any] = {}
    for kind, members in KINDS.items():
        if kind != "recipes":
            found |= members
    return found | dict(extra or {})


def names(kind: str) -> dict[str, str]:
    """Members of a kind with the first line of their docstring."""
    return {
        name: (inspect.getdoc(member) or "").split("\n", 1)[0]
        for name, member in KINDS[kind].items()
    }
