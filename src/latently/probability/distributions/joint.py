"""Distributions of rows: many cells, of which some may be missing."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, kl_divergence, register_kl

from latently.errors import UserError, called
from latently.probability.distributions.discrete import (
    Bernoulli,
    Levels,
    Relaxed,
    combinations,
)

__all__ = ["Factorized", "Joint", "analytic_kl", "as_joint", "kl_and_cells", "observed_log_prob"]


class Joint(Distribution):
    """A distribution of rows that knows its marginals: it can leave out missing cells.

    Masks are boolean, of the shape of the value, True where observed. What stands in a missing
    cell, NaN included, changes neither the value nor a gradient.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    @abstractmethod
    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells, the others integrated out, in nats."""

    @abstractmethod
    def given(self, value: Tensor, mask: Tensor) -> Distribution:
        """The distribution of a row given its observed cells.

        Its batch shape is that of this one and the value broadcast. What it says of observed
        cells has no meaning; callers put the given values there.
        """


class Factorized(Joint):
    r"""Independent coordinates: the last `ndim` batch axes of `base` become one event.

    `log p(x) = sum_j m_j log p_j(x_j)`, where the mask `m` is 1 for observed coordinates. Under
    a mask this *is* the marginal of the observed part, because coordinates are independent.

    Args:
        base: an elementwise distribution of batch shape (*, *event).
        ndim: number of event axes.
        fill: a value inside the support, put into missing cells before `log_prob`, so that
            neither the value nor its gradient can be NaN.
    """

    def __init__(self, base: Distribution, ndim: int, fill: float | Tensor = 0.0) -> None:
        self.base, self.ndim, self.fill = base, ndim, fill
        split = len(base.batch_shape) - ndim
        shape = base.batch_shape
        super().__init__(shape[:split], shape[split:], validate_args=False)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed coordinates, summed over the event, in nats."""
        if mask is None:
            if isinstance(self.base, Bernoulli) and self.ndim:
                return self.base.total_log_prob(value, self.ndim)
            return _sum_last(self.base.log_prob(value), self.ndim)
        fill = torch.as_tensor(self.fill, dtype=value.dtype, device=value.device)
        terms = self.base.log_prob(torch.where(mask, value, fill))
        return _sum_last(torch.where(mask, terms, 0.0), self.ndim)

    def cell_log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every coordinate, (*batch, *event), in nats."""
        return self.base.log_prob(value)

    def given(self, value: Tensor, mask: Tensor) -> Factorized:
        """This one: observed cells say nothing of the others."""
        return self

    def cells(self) -> list[tuple[Tensor, Factorized]]:
        """The parts of cells of one kind that it is made of, with their places in a flat row."""
        if hasattr(self.base, "parts"):
            fill = torch.as_tensor(self.fill).expand(self.event_shape)
            return [
                (torch.tensor(at), Factorized(own, 1, fill[at])) for at, own in self.base.parts()
            ]
        return [(torch.arange(math.prod(self.event_shape)), self)]

    def above(self) -> tuple[Tensor, Factorized] | None:
        """Of amounts with a probability of 0: log P(X > 0) and X | X > 0; None of all else."""
        if not hasattr(self.base, "above"):
            return None
        log_share, base = self.base.above()
        return log_share, Factorized(base, self.ndim, self.fill)

    @property
    def levels(self) -> int | None:
        """How many values every cell has, 0 .. levels - 1; None: too many to tell, or unlike."""
        return len(self.base.values) if isinstance(self.base, Levels) else None

    @property
    def level_probs(self) -> Tensor:
        """Probability of every value, (*batch, cells, levels), where there are `levels`."""
        return cast("Levels", self.base).level_probs.flatten(-1 - self.ndim, -2)

    def states(self) -> Tensor:
        """Every value of a row of finitely many, (states, *event).

        Raises:
            UserError: the cells are not finite in number, or there are too many states.
        """
        values = getattr(self.base, "values", None)
        if values is None:
            raise UserError(
                f"{called(self.base)} takes infinitely many values, which cannot be "
                "enumerated; choose latents such as OneHot or Bernoulli, or another estimator"
            )
        shape = self.event_shape
        return combinations(values, math.prod(shape)).unflatten(-1, shape)

    def relaxed(self, sample_shape: Any, temperature: float | Tensor) -> Relaxed:
        """Hard draws with continuous ones beside them; see `Relaxed`.

        Raises:
            UserError: the cells have no relaxation.
        """
        if not hasattr(self.base, "relaxed"):
            raise UserError(
                f"{called(self.base)} has no continuous relaxation; choose latents such "
                "as OneHot or Bernoulli, or another estimator"
            )
        return self.base.relaxed(sample_shape, temperature)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry a pathwise gradient."""
        return self.base.has_rsample

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a pathwise gradient, of shape (*sample_shape, *batch, *event)."""
        return self.base.rsample(Size(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape (*sample_shape, *batch, *event)."""
        return self.base.sample(Size(sample_shape))

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        return _sum_last(self.base.entropy(), self.ndim)

    def cdf(self, value: Tensor) -> Tensor:
        """The cdf of each coordinate, of shape (*batch, *event)."""
        return self.base.cdf(value)

    def icdf(self, q: Tensor) -> Tensor:
        """The quantile of each coordinate, of shape (*batch, *event)."""
        return self.base.icdf(q)

    @property
    def mean(self) -> Tensor:
        """Mean, of shape (*batch, *event)."""
        return self.base.mean

    @property
    def mode(self) -> Tensor:
        """Mode, of shape (*batch, *event)."""
        return self.base.mode

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, of shape (*batch, *event)."""
        return self.base.variance


@register_kl(Factorized, Factorized)
def _kl_factorized(q: Factorized, p: Factorized) -> Tensor:
    return _sum_last(kl_divergence(q.base, p.base), q.ndim)


def analytic_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """`KL(q || p)` in nats where a closed form is registered, else None."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def kl_and_cells(q: Distribution, p: Distribution) -> tuple[Tensor | None, Tensor | None]:
    """`KL(q || p)` in nats, (*batch,), and its terms of every cell, (*batch, *event).

    The first is None where no closed form is registered, the second where not both factorize.
    """
    if not (isinstance(q, Factorized) and isinstance(p, Factorized)):
        return analytic_kl(q, p), None
    cells = analytic_kl(q.base, p.base)
    return None if cells is None else _sum_last(cells, q.ndim), cells


def as_joint(distribution: Distribution, what: str) -> Joint:
    """A distribution that knows its cells one by one.

    Raises:
        UserError: it does not, so that `what` has no moments or conditionals.
    """
    if not isinstance(distribution, Joint):
        raise UserError(
            f"{called(distribution)} does not know its cells one by one, so that moments and "
            f"conditionals of {what} are unknown; draw from it"
        )
    return distribution


def observed_log_prob(distribution: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
    """`log p(x_observed)` in nats.

    Raises:
        UserError: entries are missing and the distribution cannot marginalise them.
    """
    if mask is None:
        return distribution.log_prob(x)
    if not isinstance(distribution, Joint):
        raise UserError(
            f"{called(distribution)} cannot leave out missing entries; use a likelihood "
            "that factorizes or knows its marginals, such as Normal, MultivariateNormal or "
            "Dirichlet"
        )
    return distribution.log_prob(x, mask)


def _sum_last(terms: Tensor, ndim: int) -> Tensor:
    return terms.flatten(-ndim).sum(-1) if ndim else terms
