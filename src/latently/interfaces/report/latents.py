"""What the latents hold: how many nats each one costs, and how many are in use."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from latently.data import Data
from latently.models import Dequantized, Model, Transformed
from latently.models.linear import LinearGaussian
from latently.probability.conditional import draw_mean
from latently.probability.distributions import Factorized, Normal

__all__ = ["ACTIVE", "Layer", "latent_layers", "prior_of"]

ACTIVE = 0.01  # Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016
MAX_ROWS = 2000
_BLOCK = 250


@dataclass(frozen=True)
class Layer:
    """Per latent of one layer, of shape (L,) where nothing else is said.

    Attributes:
        means: posterior means `E_q[z]` of the rows, (rows, *Z).
        activity: `Var_x(E_q[z])`, the variance of the posterior mean over rows; None for one row.
        kl: `E_x KL(q(z_j|x) || p(z_j))` in nats, None where prior or posterior do not factorize.
        marginal: the posterior is correlated, so that the terms need not sum to the total.
    """

    means: Tensor
    activity: Tensor | None
    kl: Tensor | None
    marginal: bool = False

    @property
    def rows(self) -> int:
        """Number of rows they were computed on."""
        return len(self.means)

    @property
    def size(self) -> int:
        """L."""
        return math.prod(self.means.shape[1:])

    @property
    def flat(self) -> Tensor:
        """The posterior means as vectors, (rows, L)."""
        return self.means.flatten(1)

    @property
    def order(self) -> Tensor:
        """The latents, those that cost the most nats first; by activity where KL is unknown."""
        known = self.activity if self.kl is None else self.kl
        return torch.arange(self.size) if known is None else known.argsort(descending=True)

    @property
    def active(self) -> Tensor | None:
        """Which latents are in use, (L,), bool."""
        return None if self.activity is None else self.activity > ACTIVE


def latent_layers(model: Model, data: Data) -> list[Layer]:
    """What the posteriors of the first rows say of every layer; [] for a model without latents.

    The posteriors are those that `infer` draws from: it is given a way to draw that notes them.
    """
    part = data.rows(slice(0, MAX_ROWS)).to(model.device)
    blocks: list[list[tuple[Tensor, Tensor | None, bool]]] = []
    for start in range(0, len(part), _BLOCK):
        x, mask, context = part.batch(slice(start, start + _BLOCK))
        noted: list[Distribution] = []

        def note(q: Distribution, samples: int, noted: list[Distribution] = noted) -> Tensor:
            noted.append(q)
            return draw_mean(q, samples)

        with torch.no_grad():
            try:
                p = model.infer(x, 1, mask, context, draw=note)
            except NotImplementedError:  # a posterior without a mean
                return []
            if not p.z or len(noted) < len(p.z):
                return []
            prior = prior_of(model, context) if len(p.z) == 1 else None
            means = [z[0].double().cpu() for z in p.z]
            terms = [_terms(q, prior) for q in noted[-len(p.z) :]]
        blocks.append([(m, kl, joint) for m, (kl, joint) in zip(means, terms, strict=True)])
    return [_layer(parts) for parts in zip(*blocks, strict=True)]


def _layer(parts: tuple[tuple[Tensor, Tensor | None, bool], ...]) -> Layer:
    means = torch.cat([mean for mean, _, _ in parts])
    known = [kl for _, kl, _ in parts if kl is not None]
    return Layer(
        means=means,
        activity=means.flatten(1).var(0) if len(means) > 1 else None,
        kl=torch.cat(known).mean(0) if len(known) == len(parts) else None,
        marginal=parts[0][2],
    )


def prior_of(model: Model, context: Tensor | None) -> Distribution | None:
    """p(z) of a model with one layer of latents, None where it has no such part."""
    if isinstance(model, Dequantized | Transformed):
        return prior_of(model.model, context)
    if isinstance(model, LinearGaussian):
        zeros = torch.zeros(model.weight.shape[1], dtype=model.dtype, device=model.device)
        return Factorized(Normal(zeros, zeros), 1)
    prior = getattr(model, "prior", None)
    return prior(context) if isinstance(prior, torch.nn.Module) else None


def _terms(q: Distribution, prior: Distribution | None) -> tuple[Tensor | None, bool]:
    """KL of every coordinate, (B, L), and whether it is between marginals of a joint posterior."""
    if not isinstance(prior, Factorized):
        return None, False
    if isinstance(q, MultivariateNormal):
        variance = q.covariance_matrix.diagonal(dim1=-2, dim2=-1).expand_as(q.mean)
        off = q.covariance_matrix - torch.diag_embed(variance)
        marginal = bool(off.abs().max() > 1e-6)
        base: Distribution = Normal(q.mean, 0.5 * variance.log())
    elif isinstance(q, Factorized):
        base, marginal = q.base, False
    else:
        return None, False
    try:
        return kl_divergence(base, prior.base).double().flatten(1).cpu(), marginal
    except NotImplementedError:
        return None, False
