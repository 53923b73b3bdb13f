"""Estimators: how a bound is differentiated.

A gradient of `E_q[f(z)]` with respect to q goes through the draws where these can be written as
`z = g(eps, phi)` (Reparam, STL, DReG, PIWAE), else through their probabilities, by
`E[f grad log q]` with a baseline (Score, VIMCO, REBAR), through a continuous stand-in
(GumbelSoftmax) or through the sum over all states (Enumerate). Every class says whether it is
unbiased, and refuses the bounds for which it is not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from latently.errors import UserError, called
from latently.inference._surrogates import (
    RELAXED,
    REPARAMETERISED,
    alone,
    check_average,
    check_held_path,
    check_no_path,
    check_one_layer,
    check_path,
    check_several,
    check_temperature,
    check_uncoupled,
    dot,
    held,
    others,
    relaxed_draws,
    slope_at,
    valued,
    within,
)
from latently.inference.bounds import CIWAE, ELBO, IWAE, Bound, MultiplyIWAE, Renyi
from latently.inference.options import check_count, check_number
from latently.inference.particles import Particles, equal_shares
from latently.inference.schedules import Schedule

__all__ = [
    "PIWAE",
    "REBAR",
    "STL",
    "VIMCO",
    "DReG",
    "Enumerate",
    "Estimator",
    "Gradient",
    "GumbelSoftmax",
    "Reparam",
    "Score",
]

Gradient = Literal["total", "path", "exact"]
Latents = Literal["continuous", "discrete", "any"]


class Estimator(ABC):
    """Turns a bound into a surrogate: its value is the bound, its gradient the estimator's.

    Attributes:
        gradient: what it needs from `Model.infer`: "total" lets every gradient flow; "path" holds
            the parameters of q constant in `log q`, keeping the path through z; "exact" gives
            every state of discrete latents the share q(z|x) in place of 1/K.
        latents: what it differentiates draws of: "continuous" (reparameterised), "discrete" or
            "any".
        unbiased: whether the mean of its gradient is the gradient of the bound's mean.
        least: fewest draws per row.
        relaxes: whether particles are relaxed draws, whose values make no bound.
    """

    gradient: ClassVar[Gradient] = "total"
    latents: ClassVar[Latents] = "continuous"
    unbiased: ClassVar[bool] = True
    least: ClassVar[int] = 1

    @property
    def relaxes(self) -> bool:
        return False

    @abstractmethod
    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        """The surrogate, (B,)."""

    def draw(self, q: Distribution, samples: int) -> Tensor:
        """Draws (K, *batch, *event) from a posterior: with a pathwise gradient if it has one."""
        shape = Size((samples,))
        return q.rsample(shape) if q.has_rsample else q.sample(shape)

    def drawn(self, p: Particles) -> Particles:
        """Those of the particles that are draws from q; others serve the gradient alone."""
        return p

    def check(self, bound: Bound) -> None:
        """Raises UserError for a bound whose gradient this estimator would bias."""
        return None


# Through the draws.


@dataclass(frozen=True)
class Reparam(Estimator):
    """The plain pathwise gradient of the bound, all terms included: unbiased for every bound.

    Source: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014; Rezende, Mohamed, Wierstra,
    "Stochastic Backpropagation", 2014.

    Raises:
        UserError: the posterior's draws carry no gradient.
    """

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        check_path("Reparam", p, REPARAMETERISED)
        return bound(p)


@dataclass(frozen=True)
class STL(Estimator):
    r"""Sticking the landing: the pathwise gradient of the ELBO without the score of q.

    `sum_k d/dz_k (log p(x, z_k) - log q(z_k|x)) dz_k/dphi / K`, with the parameters of q held
    constant in `log q`: what is left out has mean zero. At q(z|x) = p(z|x) every draw's gradient
    is zero, so the noise dies out as the posterior becomes exact, which that of the closed-form
    KL does not. The value stays the bound's, closed-form KL included. Source: Roeder, Wu,
    Duvenaud, "Sticking the Landing", 2017.

    Raises:
        UserError: with any bound but the ELBO (of any beta), where the score has another mean;
            for a hierarchy of latents, where holding one layer's q cuts the path through the
            others; and for a posterior whose draws carry no gradient.
    """

    gradient: ClassVar[Gradient] = "path"

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        self.check(bound)
        check_one_layer("STL", p, "Reparam")
        check_held_path("STL", p)
        return valued(bound(p), bound(p._replace(kl=(None,), kl_cells=(None,))))

    def check(self, bound: Bound) -> None:
        if not isinstance(bound, ELBO) or replace(bound, beta=1.0) != ELBO():
            raise UserError(
                f"STL is biased for {bound}; use bound=ELBO, or estimator=Reparam, which is "
                "right for every bound"
            )


@dataclass(frozen=True)
class DReG(Estimator):
    r"""The doubly reparameterised gradient of the importance weighted bound.

    With normalised weights `v_k`, the encoder's gradient is `sum_k v_k^2 dlog w_k/dz_k
    dz_k/dphi`, whose signal-to-noise ratio grows with the number of samples where that of the
    plain gradient shrinks; the decoder's is `sum_k v_k dlog w_k/dtheta`, as usual. Of
    MultiplyIWAE it is the mean over groups, with weights normalised within them. Source: Tucker,
    Lawson, Gu, Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives",
    2019.

    Raises:
        UserError: with any bound but IWAE and MultiplyIWAE; for a hierarchy of latents, where
            dropping the score term of one layer biases the others; and for a posterior whose draws
            carry no gradient.
    """

    gradient: ClassVar[Gradient] = "path"

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        self.check(bound)
        check_one_layer("DReG", p, "Reparam")
        check_held_path("DReG", p)
        log_w, z = p.log_w, p.z[0]
        groups = bound.groups if isinstance(bound, MultiplyIWAE) else 1
        weights = within(log_w.detach(), groups)
        if z.requires_grad:  # the path through z gets v once below and once more here
            once_more = weights.view(*weights.shape, *(1,) * (z.dim() - 2)).to(z.dtype)
            z.register_hook(lambda gradient: gradient * once_more)
        return valued(bound(p), (weights * log_w).sum(0) / groups)

    def check(self, bound: Bound) -> None:
        if not isinstance(bound, IWAE | MultiplyIWAE):
            raise UserError(
                f"DReG is biased for {type(bound).__name__}; use bound=IWAE or estimator=Reparam"
            )


@dataclass(frozen=True)
class PIWAE(Estimator):
    r"""IWAE for decoder and prior, the average over groups of IWAE for the encoder.

    The K draws are split into M groups in their order. The value is IWAE's with all K, decoder
    and prior get its gradient, `sum_k v_k dlog w_k/dtheta`; the encoder gets that of
    `1/M sum_g IWAE_{K/M}`, `sum_k u_k dlog w_k/dphi` with weights normalised within groups,
    because the signal-to-noise ratio of the encoder's gradient falls with the draws of a bound
    and rises with their average. Two gradients under one value are no bound, so this is an
    estimator: unbiased for either target, not for the bound itself, and `unbiased` says so. It
    costs one more backward pass through the decoder. Source: Rainforth, Kosiorek, Le, Maddison,
    Igl, Wood, Teh, "Tighter Variational Bounds are Not Necessarily Better", 2018.

    Args:
        groups: M; the number of draws must be a multiple.

    Raises:
        UserError: groups that are no whole number of at least 1, or do not divide the draws; any
            bound but IWAE; a hierarchy of latents; a posterior whose draws carry no gradient; a
            compiled step.

    >>> PIWAE(groups=4).least
    4
    """

    unbiased: ClassVar[bool] = False
    groups: int = 8

    def __post_init__(self) -> None:
        check_count(self, "groups")

    @property
    def least(self) -> int:  # type: ignore[override]
        """A draw for every group."""
        return self.groups

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        self.check(bound)
        check_one_layer("PIWAE", p, "Reparam")
        check_path("PIWAE", p, REPARAMETERISED)
        z, log_q, log_joint = p.z[0], p.log_q[0], p.log_lik + p.log_prior[0]
        log_w = p.log_w.detach()
        whole = torch.softmax(log_w, 0)
        own = self._own(log_w)
        surrogate = (whole * log_joint - own * log_q).sum(0)
        if z.requires_grad:  # z has got v from log p(x, z), and u from log q; now u from both
            slope = slope_at("PIWAE", log_joint, z)
            surrogate = surrogate + ((own - whole) * dot(slope, z)).sum(0)
        return valued(bound(p), surrogate)

    def check(self, bound: Bound) -> None:
        if not isinstance(bound, IWAE):
            raise UserError(
                f"PIWAE is for IWAE, not for {type(bound).__name__}; use bound=IWAE or "
                "estimator=Reparam"
            )

    def _own(self, log_w: Tensor) -> Tensor:
        """u: weights normalised within groups, over their number, (K, B)."""
        samples = len(log_w)
        if samples % self.groups:
            raise UserError(
                f"PIWAE: groups={self.groups} cannot share samples={samples} equally; choose "
                f"samples={self.groups * -(-samples // self.groups)}"
            )
        return within(log_w, self.groups) / self.groups


# Through their probabilities.


@dataclass(frozen=True)
class Score(Estimator):
    r"""The score-function gradient (REINFORCE) with leave-one-out baselines.

    `1/K sum_k (f_k - mean_{j != k} f_j) grad log q(z_k|x)` beside the bound's own gradient at
    constant z, with `f_k` the ELBO of draw k alone. It asks nothing of q but `log_prob`: latents
    may be discrete or continuous, in any number of layers. A KL in closed form is differentiated
    as such. Source: Williams, "Simple Statistical Gradient-Following Algorithms", 1992; the
    baselines: Kool, van Hoof, Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019.

    Raises:
        UserError: with a bound that is no average over draws; fewer than 2 draws; draws with a
            pathwise gradient, which would count twice.
    """

    latents: ClassVar[Latents] = "any"
    least: ClassVar[int] = 2

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        self.check(bound)
        check_no_path("Score", p)
        check_several("Score", p)
        check_uncoupled("Score", bound, p)
        f = alone(bound, p).detach()
        advantage = f - others(f)
        score = (advantage * sum(p.log_q)).mean(0)
        return valued(bound(p), bound(held(p)) + score)

    def draw(self, q: Distribution, samples: int) -> Tensor:
        """Draws without a gradient, (K, *batch, *event)."""
        return q.sample(Size((samples,)))

    def check(self, bound: Bound) -> None:
        check_average("Score", bound)


@dataclass(frozen=True)
class VIMCO(Estimator):
    r"""The score-function gradient of an importance weighted bound, a baseline for every draw.

    `sum_k (L - L_k) grad log q(z_k|x)` beside `grad L` at constant z; `L_k` is the bound with
    `log w_k` replaced by the mean of the others', so what a draw is credited with is what it
    adds. Right for every bound that is a function of the log-weights (IWAE and its kin); the K
    baselines take K^2 numbers per row. Source: Mnih, Rezende, "Variational Inference for Monte
    Carlo Objectives", 2016.

    Raises:
        UserError: with an ELBO that weighs its KL, which is no function of the log-weights; fewer
            than 2 draws; draws with a pathwise gradient, which would count twice.
    """

    latents: ClassVar[Latents] = "any"
    least: ClassVar[int] = 2

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        self.check(bound)
        check_no_path("VIMCO", p)
        check_several("VIMCO", p)
        log_w = p.log_w
        credit = (bound(p, log_w) - self._without(bound, log_w)).detach()
        score = (credit * sum(p.log_q)).sum(0)
        return valued(bound(p), bound(p, log_w) + score)

    def draw(self, q: Distribution, samples: int) -> Tensor:
        """Draws without a gradient, (K, *batch, *event)."""
        return q.sample(Size((samples,)))

    def check(self, bound: Bound) -> None:
        if isinstance(bound, ELBO) and bound != ELBO():
            raise UserError(
                f"VIMCO needs a function of the log-weights alone, and {bound} is none; use "
                "bound=IWAE or estimator=Score"
            )

    def _without(self, bound: Bound, log_w: Tensor) -> Tensor:
        """The bound without draw k, (K, B): all K of them as rows of one call."""
        log_w = log_w.detach()
        samples, rows = log_w.shape
        itself = torch.eye(samples, dtype=torch.bool, device=log_w.device)
        replaced = torch.where(itself[:, :, None], others(log_w), log_w[:, None])
        replaced = replaced.flatten(1)
        p = Particles((), replaced, (), (), (), equal_shares(replaced))
        return bound(p, replaced).view(samples, rows)


@dataclass(frozen=True)
class REBAR(Estimator):
    r"""The score-function gradient with the relaxation of the draws as its control variate.

    For hard draws b, relaxed ones s that share their noise, and `t`, drawn anew given b,

        (f(b) - eta f(t)) grad log q(b|x) + eta grad f(s) - eta grad f(t):

    all terms of the relaxation cancel on average, at any temperature, and take with them most of
    the noise where `f(t)` follows `f(b)`. With eta other than 1, `(1 - eta) f` of the other draws
    is the baseline of what is left; a single draw has none, and wants eta = 1. Decoder and prior
    get the hard draws' gradient alone. It costs three times the rows, and one more backward pass
    through the decoder. Source: Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein, "REBAR:
    Low-variance, unbiased gradient estimates for discrete latent variable models", 2017.

    Args:
        temperature: of the relaxation; a positive number or a schedule.
        scale: eta, the weight of the control variate; at 0 this is `Score`.

    Raises:
        UserError: options out of range; a bound that is no average over draws; a hierarchy of
            latents; a posterior without a relaxation; a compiled step.

    >>> from latently.probability.families import OneHot
    >>> REBAR().draw(OneHot((3,))(torch.zeros(5, 3)), samples=4).shape
    torch.Size([12, 5, 3])
    """

    latents: ClassVar[Latents] = "discrete"
    temperature: float | Schedule = 0.5
    scale: float | Schedule = 1.0

    def __post_init__(self) -> None:
        check_temperature("REBAR", self.temperature)
        check_number(self, "scale")

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        self.check(bound)
        check_one_layer("REBAR", p, "Score")
        check_path("REBAR", p, RELAXED)
        check_uncoupled("REBAR", bound, p)
        hard, z = self.drawn(p), p.z[0]
        if not z.requires_grad:
            return bound(hard)
        f = alone(bound, p)
        slope = slope_at("REBAR", f, z)
        at_hard, _, at_given = f.detach().chunk(3)
        scale: Any = self.scale
        rest = at_hard - scale * at_given
        if len(at_hard) > 1:
            rest = rest - (1 - scale) * others(at_hard)
        _, along_soft, along_given = dot(slope, z).chunk(3)
        control = scale * (along_soft - along_given)
        score = (rest * hard.log_q[0] + control).mean(0)
        return valued(bound(hard), bound(held(hard)) + score)

    def draw(self, q: Distribution, samples: int) -> Tensor:
        """Hard draws, relaxed ones, and relaxed ones given the hard: (3K, *batch, *event)."""
        return torch.cat(relaxed_draws(q, samples, self.temperature))

    def drawn(self, p: Particles) -> Particles:
        """The hard draws."""
        return p.only(slice(len(p.log_lik) // 3))

    def check(self, bound: Bound) -> None:
        check_average("REBAR", bound)


# Through a stand-in, or all states.


@dataclass(frozen=True)
class GumbelSoftmax(Estimator):
    r"""The pathwise gradient of a continuous relaxation of discrete draws: biased.

    `soft = softmax((h + g) / t)` with Gumbel noise g. With `hard` the value is the bound at the
    one-hot draw and the gradient that at it passed on to `soft` (straight-through); without it
    value and gradient are those of the relaxed draw, whose mean is no bound on log p(x). Log q
    and log p of relaxed draws are not their densities but the formulas of the discrete latents,
    continued between the states: linear in z for `OneHot`, `z h - softplus(h)` for `Bernoulli`.
    The ELBO takes the KL in closed form where it is known, and does not meet log q. Where no
    gradient is wanted (validation) the draws are plain ones.

    The bias falls and the noise grows with a lower temperature. Measured on partly trained models
    of binary digits, as a share of the true gradient's length: for 8 bits 0.98 at temperature
    0.5 and 0.27 at 0.1, for one latent of 10 states 2.3 (the mean pointed away from the true
    gradient) and 0.7; without `hard` 0.7 and 0.2, 1.4 and 0.3 (benchmarks/gradient_variance.py).
    Few states are better summed by `Enumerate`, and `Score` and `REBAR` have no bias. Source:
    Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", 2017; Maddison, Mnih,
    Teh, "The Concrete Distribution", 2017.

    Args:
        temperature: t; a positive number or a schedule.
        hard: whether the decoder sees discrete draws.

    Raises:
        UserError: a temperature that is not positive; a posterior without a relaxation.
    """

    latents: ClassVar[Latents] = "discrete"
    unbiased: ClassVar[bool] = False
    temperature: float | Schedule = 0.5
    hard: bool = True

    def __post_init__(self) -> None:
        check_temperature("GumbelSoftmax", self.temperature)

    @property
    def relaxes(self) -> bool:
        return not self.hard

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        check_path("GumbelSoftmax", p, RELAXED)
        return bound(p)

    def draw(self, q: Distribution, samples: int) -> Tensor:
        """Draws (K, *batch, *event) with the relaxation's gradient, plain where none is wanted."""
        relaxed = relaxed_draws(q, samples, self.temperature)
        if not torch.is_grad_enabled():
            return relaxed.hard
        if not self.hard:
            return relaxed.soft
        return relaxed.hard + (relaxed.soft - relaxed.soft.detach())


@dataclass(frozen=True)
class Enumerate(Estimator):
    r"""The exact gradient for discrete latents: every state, weighted by q(z|x).

    `ELBO = sum_z q(z|x) log w(z)`: no draw is made, so no gradient has noise, and a bound of
    many draws is at its limit. That of IWAE is `log sum_z q(z|x) w(z) = log p(x)`, which teaches
    q nothing; CIWAE adds a share of the ELBO. The decoder is called for every state, of which
    there may be 4,096; `samples` is not read.

    Raises:
        UserError: the latents are not finite in number, or have too many states; a bound that
            would be log p(x) whatever q, or that wants draws of equal weight.
    """

    gradient: ClassVar[Gradient] = "exact"
    latents: ClassVar[Latents] = "discrete"

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        return bound(p)

    def draw(self, q: Distribution, samples: int) -> Tensor:
        """All states, (states, *batch, *event)."""
        return all_states(q)

    def check(self, bound: Bound) -> None:
        bound.check(1, states=True)
        if bound in (IWAE(), Renyi(alpha=0), CIWAE(beta=0)):
            raise UserError(
                f"Enumerate makes {bound} log p(x) itself, whatever q: the encoder would learn "
                "nothing; use bound=ELBO, or CIWAE, which has a share of it"
            )


def count_states(q: Distribution) -> int | None:
    """How many states `all_states` gives; None where it gives none: they are too many."""
    try:
        return len(all_states(q))
    except UserError:
        return None


FEW_STATES = 1024  # about the default draws per row: the exact sum costs no more than the bound


def all_states(q: Distribution) -> Tensor:
    """Every state of discrete latents for every row, (states, *batch, *event).

    Raises:
        UserError: the latents are not finite in number, or have too many states.
    """
    if not hasattr(q, "states"):
        raise UserError(
            f"{called(q)} takes infinitely many values, which cannot be enumerated; choose a "
            "posterior such as OneHot or Bernoulli, or draws: another estimator or method"
        )
    states = q.states()
    batch = q.batch_shape
    lead = states.view(len(states), *(1,) * len(batch), *q.event_shape)
    return lead.expand(len(states), *batch, *q.event_shape)
