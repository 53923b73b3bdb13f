"""What the latents hold: how many nats each one costs, and how many are in use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence
from torch.distributions import MultivariateNormal as TorchMultivariateNormal

from latently.data import Data
from latently.inference._codes import encoded
from latently.inference.noise import derive, seeded
from latently.inference.rows import Rows
from latently.interfaces.report.kinds import Kind, bare, kind_of
from latently.models import Mixture, Model
from latently.models.linear import LinearGaussian
from latently.probability.conditional import draw_centre
from latently.probability.distributions import (
    Dirichlet,
    Factorized,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    OneHot,
    analytic_kl,
)

__all__ = ["ACTIVE", "MAX_ROWS", "Cost", "Layer", "latent_layers", "prior_of"]

ACTIVE = 0.01  # Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016
USED = 0.1  # of an even share
MAX_ROWS = 2000  # whose posteriors are told of
DRAWS = 16  # per row, of a KL without a closed form
_BLOCK = 250


_Joined = TorchMultivariateNormal | MultivariateNormal | LowRankMultivariateNormal


class Cost(NamedTuple):
    """`E_x KL(q(z|x) || p(z))` in nats, with its Monte Carlo error; None: in closed form."""

    nats: float
    error: float | None


@dataclass(frozen=True)
class Layer:
    """One layer of latents, in units: a latent, or a row of shares or categories as a whole.

    Attributes:
        means: posterior means `E_q[z]` of the rows, (rows, *Z).
        centres: what the decoder is shown of a row, (rows, *Z): the means, of discrete latents
            the modes, as `Model.reconstruct` takes them.
        activity: `Var_x(E_q[z])` of every unit, the variance of the posterior mean over rows, of
            shares and categories summed; None for one row.
        kl: `E_x KL(q(z_j|x) || p(z_j))` of every unit in nats, None where prior or posterior do
            not factorize.
        marginal: the posterior is correlated, so that the terms need not sum to the total.
        kind: what values the latents take.
        cost: the KL of all of them together; None where it is unknown.
        without_prior: codes of an autoencoder, whose scale is arbitrary.
        use: of shares and categories their mean over rows, (units, L).
        expected: the same under the prior, where it is known.
    """

    means: Tensor
    centres: Tensor
    activity: Tensor | None
    kl: Tensor | None
    marginal: bool = False
    kind: Kind = "real"
    cost: Cost | None = None
    use: Tensor | None = None
    expected: Tensor | None = None
    without_prior: bool = False

    @property
    def rows(self) -> int:
        """Number of rows they were computed on."""
        return len(self.means)

    @property
    def size(self) -> int:
        """Numbers in the latents of a row."""
        return math.prod(self.means.shape[1:])

    @property
    def units(self) -> int:
        """Latents, or rows of shares or categories."""
        return self.size if self.use is None else len(self.use)

    @property
    def flat(self) -> Tensor:
        """The posterior means as vectors, (rows, size)."""
        return self.means.flatten(1)

    @property
    def order(self) -> Tensor:
        """The units, those that cost the most nats first; by activity where KL is unknown."""
        known = self.activity if self.kl is None else self.kl
        return torch.arange(self.units) if known is None else known.argsort(descending=True)

    @property
    def active(self) -> Tensor | None:
        """Which units are in use, (units,), bool; of codes by the share of the widest one."""
        if self.activity is None:
            return None
        unit = float(self.activity.max()) if self.without_prior else 1.0
        return self.activity > ACTIVE * unit

    @property
    def used(self) -> Tensor | None:
        """Which shares or categories are in use, (units, L): a tenth of an even share or more."""
        return None if self.use is None else self.use * self.use.shape[1] >= USED


class _Part(NamedTuple):
    """What a block of rows says of a layer; `draws` are of `log q - log p`, (K, rows)."""

    means: Tensor
    centres: Tensor
    kl: Tensor | None
    marginal: bool
    total: Tensor | None
    draws: Tensor | None
    expected: Tensor | None


def latent_layers(model: Model, data: Data) -> list[Layer]:
    """What the posteriors of the first rows say of every layer; [] for a model without latents.

    The posteriors are those that `infer` draws from: it is given a way to draw that notes them.
    """
    rows = data.rows(slice(0, MAX_ROWS)).to(model.device)
    kind, blocks = kind_of(model), []
    for start in range(0, len(rows), _BLOCK):
        x, mask, context = rows.batch(slice(start, start + _BLOCK))
        noted: list[Distribution] = []

        def note(q: Distribution, samples: int, noted: list[Distribution] = noted) -> Tensor:
            if getattr(q, "of_latents", True):  # others are of missing cells
                noted.append(q)
            return draw_centre(q, samples)

        with torch.no_grad(), seeded(derive(0, "report", "latents", start), model.device):
            try:
                p = model.infer(x, 1, mask, context, draw=note)
                if p.z and len(p.log_pi) > 1:
                    return _enumerated(model, rows)
                if not p.z or len(noted) < len(p.z):
                    return []
                prior = prior_of(model, context) if len(p.z) == 1 else None
                last = zip(noted[-len(p.z) :], p.z, strict=True)
                blocks.append([_part(q, z[0], prior, kind) for q, z in last])
            except NotImplementedError:  # a posterior without a mean
                return []
    free = model.density is None
    found = [_layer(parts, kind) for parts in zip(*blocks, strict=True)]
    return [replace(layer, without_prior=free) for layer in found]


def _enumerated(model: Model, rows: Data) -> list[Layer]:
    """Layers of a model that gives every class of a row: means over them, and the likeliest."""
    codes = encoded(model, Rows(rows.x, rows.mask, rows.context))
    return [
        _layer([_Part(m.double().cpu(), z.double().cpu(), None, False, None, None, None)], kind)
        for m, z, kind in zip(codes.means, codes.centres, codes.kinds, strict=True)
    ]


def prior_of(model: Model, context: Tensor | None) -> Distribution | None:
    """p(z) of a model with one layer of latents, None where it has no such part."""
    model = bare(model)
    if isinstance(model, LinearGaussian):
        zeros = torch.zeros(model.weight.shape[1], dtype=model.dtype, device=model.device)
        return Factorized(Normal(zeros, zeros), 1)
    if isinstance(model, Mixture):
        return OneHot(model.logits, 1)
    prior = getattr(model, "prior", None)
    return prior(context) if isinstance(prior, torch.nn.Module) else None


def _part(q: Distribution, centres: Tensor, prior: Distribution | None, kind: Kind) -> _Part:
    kl, marginal = _terms(q, prior)
    total = None if prior is None else _total(q, prior)
    draws = expected = None
    if prior is not None and total is None:
        z = q.sample(torch.Size((DRAWS,)))
        draws = (q.log_prob(z) - prior.log_prob(z)).double().cpu()
    if prior is not None and kind in ("shares", "categories"):
        expected = _known_mean(prior, centres)
    return _Part(
        q.mean.expand_as(centres).double().cpu(),
        centres.double().cpu(),
        kl,
        marginal,
        None if total is None else total.expand(len(centres)).double().cpu(),
        draws,
        expected,
    )


def _layer(parts: Sequence[_Part], kind: Kind) -> Layer:
    means = torch.cat([part.means for part in parts])
    terms = _joined([part.kl for part in parts])
    rows = kind in ("shares", "categories")
    variances = means.var(0) if len(means) > 1 else None
    if variances is not None:
        variances = variances.sum(-1, keepdim=True) if rows else variances
    expected = _joined([part.expected for part in parts]) if rows else None
    return Layer(
        means=means,
        centres=torch.cat([part.centres for part in parts]),
        activity=None if variances is None else variances.flatten(),
        kl=None if terms is None else terms.mean(0),
        marginal=parts[0].marginal,
        kind=kind,
        cost=_cost(parts),
        use=means.mean(0).reshape(-1, means.shape[-1]) if rows else None,
        expected=None if expected is None else expected.mean(0).reshape(-1, means.shape[-1]),
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _cost(parts: Sequence[_Part]) -> Cost | None:
    total = _joined([part.total for part in parts])
    if total is not None:
        return Cost(float(total.mean()), None)
    if any(part.draws is None for part in parts):
        return None
    draws = torch.cat([part.draws for part in parts if part.draws is not None], 1)
    error = (draws.var(0) / len(draws)).sum().sqrt() / draws.shape[1]
    return Cost(float(draws.mean()), float(error))


def _total(q: Distribution, prior: Distribution) -> Tensor | None:
    """`KL(q || p)` of every row, (B,), where it has a closed form."""
    if isinstance(q, TorchMultivariateNormal):  # of linear models, whose prior is N(0, I)
        unit = TorchMultivariateNormal(prior.mean, torch.diag_embed(prior.variance))
        return kl_divergence(q, unit)
    return analytic_kl(q, prior)


def _known_mean(prior: Distribution, like: Tensor) -> Tensor | None:
    """The prior's mean for every row, (B, *Z), where it is known."""
    try:
        return prior.mean.expand_as(like).double().cpu()
    except NotImplementedError:
        return None


def _terms(q: Distribution, prior: Distribution | None) -> tuple[Tensor | None, bool]:
    """KL of every unit, (B, units), and whether it is between marginals of a joint posterior."""
    correlated, kl = False, None
    if isinstance(q, OneHot) and isinstance(prior, OneHot):
        kl = analytic_kl(OneHot(q.log_probs, 1), OneHot(prior.log_probs, 1))
    elif isinstance(q, Dirichlet) and isinstance(prior, Dirichlet):
        kl = analytic_kl(Dirichlet(q.concentration, 1), Dirichlet(prior.concentration, 1))
    elif prior is not None:
        base, correlated = _marginals(q)
        of_prior, whole = _marginals(prior)
        if base is not None and of_prior is not None and not whole:
            kl = analytic_kl(base, of_prior)
    if kl is None:
        return None, False
    return kl.reshape(len(kl), -1).double().cpu(), correlated


def _marginals(d: Distribution) -> tuple[Distribution | None, bool]:
    """The distribution of each cell, where it is known, and whether cells are correlated."""
    if isinstance(d, Factorized):
        return d.base, False
    if not isinstance(d, _Joined):
        return None, False
    if isinstance(d, TorchMultivariateNormal):
        covariance = d.covariance_matrix
    else:
        rows, _ = d.parts()
        covariance = rows.mT @ rows
    off = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    return Normal(d.mean, 0.5 * d.variance.log()), bool(off.abs().max() > 1e-6)
