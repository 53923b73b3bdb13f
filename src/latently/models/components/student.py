"""Components with outliers: multivariate Student's t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latently.errors import UserError
from latently.models.components._elliptical import Elliptical, Expected, Scatter, Structured
from latently.models.components._rows import Block, Clusters
from latently.models.components.base import Component, Components, as_component
from latently.models.components.full import Full
from latently.probability.distributions import Joint
from latently.probability.families._counts import stirling
from latently.probability.families.student_t import _StudentT

__all__ = ["Student"]

_LEAST, _MOST = 2.01, 1e4  # degrees of freedom that EM chooses from
_FIRST = 10.0  # of the start
_HALVINGS = 60
_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Student(Component):
    r"""Multivariate Student's t: normal of a scale `Sigma_k / u`, `u ~ Gamma(nu_k / 2, nu_k / 2)`.

        log p_k(x) = log Gamma((nu + D) / 2) - log Gamma(nu / 2) - D log(nu pi) / 2
                     - log |Sigma| / 2 - (nu + D) / 2 log(1 + d / nu),

    with `d = (x - mu)' Sigma^-1 (x - mu)`. Rows far off weigh little: in EM by
    `E[u | x_o] = (nu + D_o) / (nu + d_o)`. Each component learns its degrees of freedom, between
    2.01 (so that there is a variance) and 10,000, where it is a normal. Source: Peel, McLachlan,
    "Robust mixture modelling using the t distribution", 2000; missing values: Liu, Rubin, "ML
    Estimation of the t Distribution Using EM and Its Extensions", 1995.

    Args:
        scale: the structure of Sigma, such as `Full()`, `Diagonal()` or `Factors(8)`.

    Raises:
        UserError: a scale that is no covariance.

    >>> Student()
    Student(scale=Full(prior=0.0, share=None))
    """

    scale: Component = Full()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        scale = as_component(self.scale, "Student: scale")
        if not isinstance(scale, Structured):
            raise UserError(
                f"Student: scale={type(scale).__name__} has no covariance; choose Full, Diagonal "
                "or another structure of one"
            )
        object.__setattr__(self, "scale", scale)

    def build(self, size: int, count: int) -> Components:
        assert isinstance(self.scale, Structured)
        return _Students(self.scale.scatter(size, count))


@dataclass
class _Sums:
    """Of a pass: the scatter's, and the sum of `r (E[log u] - E[u])`, (C,)."""

    scatter: Any
    score: Tensor

    @property
    def count(self) -> Tensor:
        """Sum of r, (C,)."""
        return self.scatter.count


class _Students(Elliptical):
    """Student's t, `log_above` is the logarithm of the degrees of freedom above 2, (C,)."""

    def __init__(self, scatter: Scatter) -> None:
        super().__init__(scatter)
        first = torch.full_like(scatter.loc[:, 0], math.log(_FIRST - 2))
        self.log_above = nn.Parameter(first.detach())

    @property
    def df(self) -> Tensor:
        """nu, (C,)."""
        return 2 + self.log_above.exp()

    def profile(self, energy: Tensor, log_det: Tensor, cells: Tensor | int) -> Tensor:
        return _log_t(energy, log_det, cells, self.df)

    def member(self, k: int, shape: tuple[int, ...]) -> Joint:
        base = self.scatter.normal(k, shape)
        return _StudentRow(base, self.log_above[k].exp(), torch.zeros_like(self.log_above[k]))

    def cells(self, mean: Tensor, variance: Tensor, x: Tensor, mask: Tensor) -> Distribution:
        seen = mask.sum(1, keepdim=True).to(x.dtype)
        wider = (self.df + self.scatter.energy(x, mask).energy) / (self.df + seen)
        apart = (len(x), *(1,) * (mean.dim() - 2), -1)
        log_scale = 0.5 * (variance * wider.view(apart)).log()
        above = (self.log_above.exp() + seen).view(apart)
        return _StudentT(mean, log_scale, above.expand_as(mean))

    def degrees(self) -> int:
        return super().degrees() + len(self.log_above)

    @torch.no_grad()
    def complaints(self) -> tuple[str, ...]:
        """Names components whose tails are as heavy as are allowed, too."""
        heavy = (self.df < _LEAST + 1e-6).nonzero().flatten().tolist()
        if not heavy:
            return super().complaints()
        who = ", ".join(map(str, heavy))
        return (
            *super().complaints(),
            f"degrees of freedom at their least, {_LEAST}, in component {who}: its tails are "
            "heavier than those of any t with a variance; transform the columns",
        )

    def start(self, clusters: Clusters) -> None:
        super().start(clusters)
        self.log_above.fill_(math.log(_FIRST - 2))

    def begin(self, centre: Tensor) -> _Sums:
        return _Sums(self.scatter.begin(centre), torch.zeros_like(self.log_above))

    def expect(self, block: Block, sums: _Sums) -> tuple[Tensor, Any]:
        return super().expect(block, sums.scatter)

    def collect(self, block: Block, sums: _Sums, state: Expected, r: Tensor) -> None:
        half = (self.df + block.cells) / 2
        near = (self.df + state.energy) / 2
        u = half / near
        sums.score += (r * (torch.digamma(half) - near.log() - u)).sum(0)
        self.scatter.collect(block, sums.scatter, state, r, r * u)

    def maximise(self, sums: _Sums) -> None:
        self.log_above.copy_((_best_df(sums.score, sums.count) - 2).log())
        self.scatter.maximise(sums.scatter)


class _StudentRow(Joint):
    """Rows `loc + e^s (g - loc) / sqrt(u)` of a normal g, `u ~ Gamma(nu/2, nu/2)`.

    Args:
        base: of g, of some batch shape.
        above: degrees of freedom above 2, of its batch shape or ().
        log_scale: s, likewise.
    """

    known_as = "Student"

    def __init__(self, base: Joint, above: Tensor, log_scale: Tensor) -> None:
        self._base, self._above, self._log_scale = base, above, log_scale
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells, in nats."""
        energy, cells, peak = self._distance(value, mask)
        log_det = -peak - 0.5 * cells * _LOG_2PI + cells * self._log_scale
        return _log_t(energy, log_det, cells, 2 + self._above)

    def given(self, value: Tensor, mask: Tensor) -> _StudentRow:
        """Again Student's t: wider by `(nu + d_o) / (nu + D_o)`, of `D_o` more degrees."""
        energy, cells, _ = self._distance(value, mask)
        df = 2 + self._above
        wider = 0.5 * ((df + energy) / (df + cells)).log()
        base = self._base.given(value, mask)
        return _StudentRow(_joint(base), self._above + cells, self._log_scale + wider)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        with torch.no_grad():
            g, loc = self._base.sample(sample_shape), self._base.mean
            half = (1 + self._above / 2).expand(g.shape[: g.dim() - len(self.event_shape)])
            wide = self._log_scale.exp() * (half / torch._standard_gamma(half)).sqrt()
            return loc + wide.view(*half.shape, *(1,) * len(self.event_shape)) * (g - loc)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)` of each cell."""
        return self._cells.cdf(value)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles of each cell."""
        return self._cells.icdf(q)

    @property
    def mean(self) -> Tensor:
        """Mean."""
        return self._base.mean

    @property
    def mode(self) -> Tensor:
        """Mode: the mean."""
        return self._base.mean

    @property
    def variance(self) -> Tensor:
        """Variance of each cell."""
        wider = (2 * self._log_scale).exp() * (1 + 2 / self._above)
        return self._base.variance * self._of_rows(wider)

    @property
    def _cells(self) -> _StudentT:
        log_scale = 0.5 * self._base.variance.log() + self._of_rows(self._log_scale)
        return _StudentT(
            self._base.mean, log_scale, self._of_rows(self._above).expand_as(log_scale)
        )

    def _of_rows(self, value: Tensor) -> Tensor:
        """Numbers of the batch, with axes for the cells."""
        return value.view(*value.shape, *(1,) * len(self.event_shape))

    def _distance(self, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Distance and number of the observed cells, and log-density of g at its mean."""
        ndim = len(self.event_shape)
        seen = torch.ones_like(value, dtype=torch.bool) if mask is None else mask
        cells = seen.flatten(-ndim).sum(-1).to(self._log_scale.dtype)
        loc = self._base.mean.expand_as(value)
        peak = self._base.log_prob(loc, mask)
        energy = 2 * (peak - self._base.log_prob(value, mask))
        return energy.clamp(min=0) * (-2 * self._log_scale).exp(), cells, peak


def _joint(d: Distribution) -> Joint:
    assert isinstance(d, Joint)
    return d


def _log_t(energy: Tensor, log_det: Tensor, cells: Tensor | int, df: Tensor) -> Tensor:
    """Log-density of Student's t at distances, with half the log determinant of its scale.

    By Stirling's formula the large terms of the gamma functions cancel beforehand.
    """
    a, h = df / 2, 0.5 * torch.as_tensor(cells, dtype=df.dtype, device=df.device)
    ends = a * (torch.log1p(h / a) - h / a) + (h - 0.5) * torch.log1p(h / a)
    ends = ends + stirling(a + h) - stirling(a) - h * _LOG_2PI
    return ends - log_det - (a + h) * torch.log1p(energy / df)


def _best_df(score: Tensor, count: Tensor) -> Tensor:
    """Degrees of freedom where `log(nu/2) - psi(nu/2) + 1 + score / count = 0`, (C,).

    The left side falls in nu: the expected log-density has one maximum, found by bisection.
    """
    wanted = -1 - score / count.clamp(min=1e-300)
    low = torch.full_like(score, math.log(_LEAST))
    high = torch.full_like(score, math.log(_MOST))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        half = middle.exp() / 2
        above = half.log() - torch.digamma(half) > wanted
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return high.exp()
