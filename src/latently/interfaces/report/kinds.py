"""What values latents can take: every walk through them must stay inside."""

from __future__ import annotations

from torch import nn

from latently.inference._codes import Kind
from latently.models import Dequantized, Model, Transformed
from latently.models import Mixture as MixtureModel
from latently.probability.families import Dirichlet, LogisticNormal, Mixture, OneHot
from latently.probability.families._point import Codes
from latently.probability.families.base import Family

__all__ = ["Kind", "bare", "kind_of", "latent_family"]


def bare(model: Model) -> Model:
    """The model inside its wrappers, which leave latents as they are."""
    while isinstance(model, Dequantized | Transformed):
        model = model.model
    return model


def latent_family(model: Model) -> Family | None:
    """The family of q(z|x), None for a model that has none by name."""
    family = getattr(getattr(bare(model), "encoder", None), "family", None)
    return family if isinstance(family, Family) else None


def kind_of(model: Model) -> Kind:
    """The kind of the latents; `real` where no family tells."""
    if isinstance(bare(model), MixtureModel):
        return "categories"
    family = latent_family(model)
    while isinstance(family, Mixture):
        family = family.family
    if isinstance(family, Codes) and not isinstance(family.activation, nn.Identity):
        return "range"
    if family is None or family.support == "finite numbers":
        return "real"
    if isinstance(family, OneHot):
        return "categories"
    if isinstance(family, Dirichlet | LogisticNormal):
        return "shares"
    return "levels" if family.discrete else "range"
