r"""Variational autoencoders.

    p(x, z) = p(z) p(x|z),    q(z|x) ~ p(z|x)

The prior, the posterior q and the observation model p(x|z) are conditional distributions of any
family; the bound and its gradient are chosen at training. With missing entries both `log p(x|z)`
and q see the observed ones only, which gives a bound on log p(x_observed) (Mattei, Frellsen,
"MIWAE", 2019). Source: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from latently.errors import UserError
from latently.inference.estimators import Gradient, count_states
from latently.inference.particles import Particles, equal_shares
from latently.models.base import Model
from latently.probability.conditional import Conditional, Draw, draw, shown
from latently.probability.distributions import kl_and_cells, observed_log_prob
from latently.probability.flows import FlowDistribution
from latently.probability.priors import Prior

__all__ = ["VAE"]


class VAE(Model):
    """A variational autoencoder with one layer of latents.

    Args:
        encoder: q(z|x): inputs are the embedded x, then the mask if `sees_mask`, then the
            context if there is one.
        decoder: p(x|z): inputs are the embedded z, then the context if there is one.
        prior: p(z).
        sees_mask: whether the encoder was built with the mask as an input.

    Raises:
        UserError: the prior is over latents of another shape or support than the posterior's.
    """

    density = "bound"

    def __init__(
        self, encoder: Conditional, decoder: Conditional, prior: Prior, *, sees_mask: bool = False
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.sees_mask = sees_mask
        encoder.family.unscaled()
        _check_prior(prior, encoder)
        self.shape = decoder.family.shape
        self.discrete = decoder.family.discrete
        self.contexts = encoder.contexts

    def infer(
        self,
        x: Tensor,
        samples: int = 1,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        gradient: Gradient = "total",
        z: tuple[Tensor, ...] | None = None,
        draw: Draw = draw,
        local: tuple[Tensor, ...] | None = None,
    ) -> Particles:
        how: dict[str, Any] = {"gradient": gradient, "z": z, "draw": draw, "local": local}
        return self.scored(x, samples, mask, context, **how)[0]

    def scored(
        self,
        x: Tensor,
        samples: int = 1,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        gradient: Gradient = "total",
        z: tuple[Tensor, ...] | None = None,
        draw: Draw = draw,
        local: tuple[Tensor, ...] | None = None,
    ) -> tuple[Particles, Distribution]:
        """As `infer`, with the p(x|z) that was decoded for it."""
        h = self.encoder.params(*self._seen(x, mask), context)
        h = h if local is None else h + local[0]
        q, prior = self.encoder.family(h), self.prior(context)
        (z0,) = (draw(q, samples),) if z is None else z
        log_q = self.encoder.held_log_prob(h, z0) if gradient == "path" else q.log_prob(z0)
        likelihood = self.likelihood((z0,), context)
        log_lik = observed_log_prob(likelihood, x, mask)
        kl, cells = kl_and_cells(q, prior)
        found = Particles(
            z=(z0,),
            log_lik=log_lik,
            log_prior=(prior.log_prob(z0),),
            log_q=(log_q,),
            kl=(None if kl is None else kl.expand_as(log_lik),),
            log_pi=log_q if gradient == "exact" else equal_shares(log_lik),
            kl_cells=(None if cells is None else cells.expand_as(z0),),
        )
        return found, likelihood

    def posterior(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Distribution | None:
        q = self.encoder(*self._seen(x, mask), context)
        return None if isinstance(q, FlowDistribution) else q

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        if given:
            return tuple(given)
        prior = self.prior(context)
        return (prior.sample((1, n)) if not prior.batch_shape else prior.sample((1,)),)

    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Distribution:
        return self.decoder(self.encoder.family.embed(z[0]), context)

    @property
    def counted(self) -> Tensor | None:
        return getattr(self.decoder.family, "counted", None)

    def latent_states(self) -> int | None:
        return count_states(self.encoder.family(self.encoder.offset[None]))

    def local(self, rows: int) -> tuple[Tensor, ...]:
        return (self.encoder.offset.new_zeros(rows, *self.encoder.family.param_shape),)

    def inference_parameters(self) -> list[nn.Parameter]:
        shared = {id(p) for part in (self.decoder, self.prior) for p in part.parameters()}
        return [p for p in self.encoder.parameters() if id(p) not in shared]

    def latent_constraints(self) -> tuple[Constraint | None, ...]:
        return (self.encoder.family.constraint,)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        return self.decoder.family.misfit(x, mask), self.decoder.family.support

    @torch.no_grad()
    def initialise(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        """Scales of the observation model, output offsets, and the prior's starting points."""
        family = self.decoder.family
        family.initialise(x, mask)
        self.decoder.initialise(family.marginal(x, mask))
        self.prior.initialise(family.embed(x, mask))

    def _seen(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """What the encoder reads of x: scaled, zero where missing, with the mask if it wants."""
        return shown(self.decoder.family, x, mask, with_mask=self.sees_mask)


def _check_prior(prior: Prior, encoder: Conditional) -> None:
    """Refuses a prior whose latents are not those of the posterior."""
    shape, support = encoder.family.shape, encoder.family.support
    posterior, name = type(encoder.family).__name__, type(prior).__name__
    if prior.support != support:
        raise UserError(
            f"prior {name} is over {prior.support}, the latents of posterior {posterior} are "
            f"{support}; choose prior=Standard, Learned or VampPrior, which follow the posterior"
        )
    context = encoder.offset.new_zeros(1, prior.contexts) if prior.contexts else None
    found = tuple(prior(context).event_shape)
    if found != shape:
        raise UserError(
            f"prior {name} has latents of shape {found}, posterior {posterior} of {shape}; "
            "build both for one shape"
        )
