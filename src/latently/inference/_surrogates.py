"""What estimators share: pieces of surrogates, baselines, and refusals in one line."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError, called
from latently.inference.bounds import ELBO, Bound
from latently.inference.particles import Particles, equal_shares
from latently.inference.schedules import Schedule

__all__ = [
    "RELAXED",
    "REPARAMETERISED",
    "alone",
    "check_average",
    "check_held_path",
    "check_no_path",
    "check_one_layer",
    "check_path",
    "check_several",
    "check_temperature",
    "check_uncoupled",
    "dot",
    "held",
    "others",
    "relaxed_draws",
    "slope_at",
    "valued",
    "within",
]

# What draws an estimator needs, and what to do where it has others.
REPARAMETERISED = (
    "reparameterised draws, and this posterior has none",
    "choose a posterior such as Normal, or an estimator for draws without a path: Score or VIMCO, "
    "and for discrete latents Enumerate, REBAR or GumbelSoftmax, too",
)
RELAXED = ("relaxed draws", "infer with draw=estimator.draw, as Variational does")


def relaxed_draws(q: Distribution, samples: int, temperature: float | Schedule) -> Any:
    """The `Relaxed` draws of discrete latents."""
    if isinstance(temperature, Schedule):
        raise UserError("a scheduled temperature needs a step; use Variational(estimator=...)")
    if not hasattr(q, "relaxed"):
        raise UserError(
            f"{called(q)} has no continuous relaxation; choose a posterior such as OneHot "
            "or Bernoulli, or another estimator"
        )
    return q.relaxed((samples,), temperature)


def alone(bound: Bound, p: Particles) -> Tensor:
    """The bound of every particle by itself, (K, B): all of them as rows of one call."""

    def rows(terms: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(None if term is None else term.flatten(0, 1)[None] for term in terms)

    log_lik = p.log_lik.flatten()[None]
    one = Particles(
        z=rows(p.z),
        log_lik=log_lik,
        log_prior=rows(p.log_prior),
        log_q=rows(p.log_q),
        kl=rows(p.kl),
        log_pi=equal_shares(log_lik),
        kl_cells=rows(p.kl_cells),
    )
    return bound(one).view(p.log_lik.shape)


def within(log_w: Tensor, groups: int) -> Tensor:
    """Weights normalised within consecutive groups of particles, (K, B)."""
    return torch.softmax(log_w.unflatten(0, (groups, -1)), 1).flatten(0, 1)


def others(terms: Tensor) -> Tensor:
    """For every particle the mean of the others, (K, B)."""
    return (terms.sum(0) - terms) / (len(terms) - 1)


def held(p: Particles) -> Particles:
    """With log q constant: at constant z its gradient is the score, of mean zero."""
    return p._replace(log_q=tuple(log_q.detach() for log_q in p.log_q))


def slope_at(who: str, terms: Tensor, z: Tensor) -> Tensor:
    """`d terms_kb / d z_kb`, a constant of the shape of z: one more backward pass.

    Raises:
        UserError: the terms come out of a compiled step, which has no way back to z.
    """
    (slope,) = torch.autograd.grad(terms.sum(), z, retain_graph=True, allow_unused=True)
    if slope is None:
        raise UserError(
            f"{who} differentiates within the step, which a compiled one does not allow; leave "
            "compile out, or use another estimator"
        )
    return slope


def dot(slope: Tensor, z: Tensor) -> Tensor:
    """`<slope, z>` of every particle, (K, B): passes the gradient `slope` on to z."""
    return (slope * z).flatten(2).sum(-1)


def valued(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value of one and the gradient of the other."""
    return value.detach() + surrogate - surrogate.detach()


def check_average(who: str, bound: Bound) -> None:
    """Refuses bounds that are no average of a term of every draw."""
    if not isinstance(bound, ELBO):
        raise UserError(
            f"{who} needs a bound that is an average over draws, and {type(bound).__name__} is "
            "none; use bound=ELBO or estimator=VIMCO"
        )


def check_uncoupled(who: str, bound: Bound, p: Particles) -> None:
    """Refuses a KL that depends on the draws of other rows, which no score here answers for."""
    if bound.couples and not (len(p.kl) == 1 and p.kl[0] is not None):
        raise UserError(
            f"{who} is biased for {type(bound).__name__} with free_bits or a capacity where the "
            "KL has no closed form, or several layers; choose latents that have one, such as "
            "Normal with StandardNormal or OneHot with Standard, or estimator=Reparam"
        )


def check_one_layer(who: str, p: Particles, instead: str) -> None:
    """Refuses a hierarchy of latents."""
    if len(p.z) != 1:
        raise UserError(
            f"{who} needs one latent layer, this model has {len(p.z)} latent layers; use "
            f"estimator={instead}"
        )


def check_path(who: str, p: Particles, needed: tuple[str, str]) -> None:
    """Refuses draws without a gradient where q has parameters that lack it."""
    what, fix = needed
    for z, log_q in zip(p.z, p.log_q, strict=True):
        if log_q.requires_grad and not z.requires_grad:
            raise UserError(f"{who} needs {what}: its encoder's gradient would be biased; {fix}")


def check_held_path(who: str, p: Particles) -> None:
    """The same where log q holds its parameters, and cannot tell whether they want a gradient."""
    if torch.is_grad_enabled() and not all(z.requires_grad for z in p.z):
        what, fix = REPARAMETERISED
        raise UserError(f"{who} needs {what}; {fix}")


def check_no_path(who: str, p: Particles) -> None:
    """Refuses draws with a gradient, which would be counted beside the score's."""
    if any(z.requires_grad for z in p.z):
        raise UserError(
            f"{who} needs draws without a gradient, or its encoder's would count twice; infer "
            f"with draw={who}().draw, as Variational does"
        )


def check_several(who: str, p: Particles) -> None:
    """Refuses single draws, which have no others for a baseline."""
    if len(p.log_lik) < 2:
        raise UserError(f"{who} needs at least 2 draws per row for its baselines; raise samples")


def check_temperature(who: str, temperature: float | Schedule | Tensor) -> None:
    """A schedule is held at its ends; resolved, it is a tensor, and read no more."""
    if isinstance(temperature, Tensor):
        return
    if isinstance(temperature, Schedule):
        ends = [float(temperature(torch.tensor(step), 1)) for step in (0, 10**9)]
    else:
        ends = [temperature]
    if not all(isinstance(t, int | float) and 0 < t < math.inf for t in ends):
        raise UserError(
            f"{who}: temperature={temperature!r} must be a positive number, or a schedule that "
            "begins and ends above 0"
        )
