"""Mixtures of any family: rows that come in a few kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from latently.errors import UserError
from latently.probability.distributions.mixture import Mixture as MixtureDistribution
from latently.probability.distributions.mixture import mixture
from latently.probability.families._gaussian import standardised, unbounded
from latently.probability.families._inner import inner
from latently.probability.families.base import Family
from latently.probability.families.normal import FixedNormal, Normal, SharedNormal

__all__ = ["Mixture"]

_APART = 0.5  # variance of the components' means about 0 where nothing else is known
_MOST_ROWS = 10_000  # that starting points are computed from


class Mixture(Family):
    r"""A mixture of K components of one family: `p(x) = sum_k pi_k p_k(x)`.

    All cells of a row come from one component, so that cells depend on each other although those
    of a component may not. Missing cells are integrated out, and the rest of a row is drawn from
    the components reweighted by what was seen, where the components can do this. Of h, the first
    K numbers are log weights, the others the components' raw parameters, to which fixed numbers
    are added: components that are alike would stay alike. At h = 0 a mixture of normals has mean 0
    and variance 1 in every cell, the means of its components apart by a variance of 1/2. Draws of
    a mixture of `Normal` or `MultivariateNormal` have an exact pathwise gradient (Figurnov,
    Mohamed, Mnih, "Implicit Reparameterization Gradients", 2018); there is no closed KL.

    Results are of the components' types: of h's, but for the draws, moments and quantiles of a
    likelihood whose columns are scaled, which are data and in float64.

    Args:
        shape: event shape; `param_shape` is (K + K P,) for components of P raw parameters.
        components: K, at least 1.
        family: constructor of the components' family: any, options included.

    Raises:
        UserError: fewer than 1 component, or `family` is no such constructor.

    >>> import torch
    >>> family = Mixture((2,), components=3)
    >>> family(torch.zeros(family.param_shape)).variance  # of data
    tensor([1., 1.], dtype=torch.float64)
    >>> family.unscaled()
    >>> family(torch.zeros(family.param_shape)).variance  # of latents
    tensor([1., 1.])
    """

    start: Tensor

    def __init__(
        self, shape: Sequence[int], *, components: int = 5, family: Callable[..., Family] = Normal
    ) -> None:
        super().__init__(shape)
        if not isinstance(components, int) or components < 1:
            raise UserError(f"Mixture: components={components!r} must be at least 1")
        self.family, self.components = inner("Mixture", family, self.shape), components
        self.discrete = self.family.discrete
        self.register_buffer("start", _spread(self.family, components))

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (self.components * (1 + prod(self.family.param_shape)),)

    @property
    def embed_shape(self) -> tuple[int, ...]:
        return self.family.embed_shape

    @property
    def support(self) -> str:
        return self.family.support

    @property
    def constraint(self) -> Constraint | None:
        return self.family.constraint

    def forward(self, h: Tensor) -> MixtureDistribution:
        logits, raw = h.split([self.components, h.shape[-1] - self.components], -1)
        raw = raw.unflatten(-1, self.start.shape) + self.start
        return mixture(logits, self.family(raw), discrete=self.discrete)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.family.embed(x, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.family.misfit(x, mask)

    def unscaled(self) -> None:
        self.family.unscaled()

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        self.family.initialise(x, mask)

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each component at one group of rows: those nearest to one of K random rows."""
        chosen = torch.randperm(len(x), device=x.device)[:_MOST_ROWS]
        x, mask = x[chosen], None if mask is None else mask[chosen]
        seen = self.embed(x, mask).flatten(1).double()
        nearest = torch.cdist(seen, seen[: self.components]).argmin(1)
        sizes = torch.bincount(nearest, minlength=self.components).double()
        found = []
        for k in range(self.components):
            group = nearest == k if sizes[k] else torch.ones_like(nearest, dtype=torch.bool)
            h = _best(self.family, x[group], None if mask is None else mask[group])
            h = torch.zeros_like(self.start[k]) if h is None else h - self.start[k]
            found.append(h if sizes[k] else h + self.start[k])  # those without rows: apart, too
        logits = ((sizes + 1) / (len(x) + self.components)).log()
        return torch.cat([logits, torch.stack(found).flatten().to(logits)])


def _best(family: Family, x: Tensor, mask: Tensor | None) -> Tensor | None:
    """Raw parameters of the best distribution of some rows; None: not known."""
    if not isinstance(family, Normal | SharedNormal | FixedNormal):
        return family.marginal(x, mask)
    u = family.embed(x, mask).flatten(1)
    mean, deviation, _ = standardised(u, None if mask is None else mask.flatten(1))
    h = [mean, unbounded(deviation.log())] if isinstance(family, Normal) else [mean]
    return torch.stack(h).reshape(family.param_shape)


def _spread(family: Family, components: int) -> Tensor:
    """What keeps components apart, (K, *param_shape): the same numbers for every model.

    For `Normal` it moves the means, and narrows the components so that a mixture of equal weights
    has mean 0 and variance 1 in every cell; for other families it moves all raw parameters.
    """
    generator = torch.Generator().manual_seed(0)
    shape = family.shape if type(family) is Normal else family.param_shape
    spread = torch.randn(components, *shape, generator=generator)
    if components == 1:
        return torch.zeros(1, *family.param_shape)
    spread = spread - spread.mean(0)
    spread = spread * (_APART / spread.square().mean(0)).sqrt()
    if type(family) is not Normal:
        return spread
    log_std = torch.tensor(1 - _APART).log() / 2
    return torch.cat([spread, unbounded(log_std).expand_as(spread)], 1)
