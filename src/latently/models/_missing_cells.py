"""Missing cells as something to draw, and rows whose missing cells were drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from latently.errors import UserError, called
from latently.probability.distributions import Joint, Point

__all__ = ["MissingCells", "WeighedRows"]


class MissingCells(Distribution):
    """M draws of the missing cells for each of K draws of the latents, as one draw of K.

    `sample((K,))` is (K, B, M, *X), with K that of the latents alone. Estimators draw it as they
    draw latents; those without a path score latents, never this. With M = 1 every number is drawn
    in its row's own place, so that imputation may treat rows in blocks; with more of them the
    choice among the M is drawn beside them, and rows go one by one.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True
    of_latents = False

    def __init__(self, given: Any, lead: Size, draws: int) -> None:
        self.given, self.lead, self.draws = given, lead, draws
        self.independent = hasattr(given, "cell_log_prob")
        if not (self.independent or given.has_rsample):
            raise UserError(
                f"NotAtRandom: {called(given)} knows its cells neither one by one nor by a path "
                "from noise; choose a likelihood such as Normal, Categorical or Mixed"
            )
        self.whole = Size((lead[1], draws, *given.event_shape))
        axes = 1 if draws == 1 else len(self.whole)
        super().__init__(self.whole[:axes], self.whole[axes:], validate_args=False)

    @property
    def support(self) -> Constraint:
        """Where the cells lie, for chains that move them."""
        inner: Any = self.given
        if hasattr(inner, "base"):
            inner = inner.base
        if hasattr(inner, "groups") or not inner.has_rsample:
            raise UserError(
                f"{called(self.given)}: chains move missing cells of one continuous kind alone; "
                "use ImportanceSampling(samples)"
            )
        while True:
            try:
                found: Constraint = inner.support
                return found
            except NotImplementedError:  # columns in units of their own: those of the unit
                inner = inner.base

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a path where cells have one, (K, B, M, *X)."""
        base: Any = getattr(self.given, "base", None)
        groups = getattr(base, "groups", None)
        if groups is None:
            found = self._draw(self.given)
        else:  # columns of unlike kinds
            found = torch.cat([self._draw(group).double() for group in groups], -1)[..., base.back]
        return found.unsqueeze(2) if self.draws == 1 else found.movedim(0, 2)

    def _draw(self, d: Distribution) -> Tensor:
        shape = Size() if self.draws == 1 else Size((self.draws,))
        return d.rsample(shape) if d.has_rsample else d.sample(shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws as `rsample` makes them."""
        return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the cells, (K, B, M, *X), or of rows where they depend on each other."""
        score = self.given.cell_log_prob if self.independent else self.given.log_prob
        found: Tensor = score(value.movedim(2, 0))
        return found.movedim(0, 2)

    def log_ratio(self, value: Tensor) -> Tensor | None:
        """`log p(x) - log r(x)`, r held at p: 0, with the gradient of log p; (K, B, M, *X).

        Of cells without a path alone. None where all have one.
        """
        if self.given.has_rsample:
            return None
        base = self.given.base
        groups = getattr(base, "groups", [base])
        score = self.log_prob(value.detach())
        score = score - score.detach()
        if len(groups) > 1:
            sizes = [(not group.has_rsample, group.batch_shape[-1]) for group in groups]
            pathless = [held for held, size in sizes for _ in range(size)]
            score = torch.where(torch.tensor(pathless, device=value.device)[base.back], score, 0.0)
        return score

    @property
    def mean(self) -> Tensor:
        """The mean, or of counted cells the mode, M times: (B, M, *X); K draws of z are equal."""
        centre = self.given.mean if self.given.has_rsample else self.given.mode
        return centre[0].unsqueeze(1).expand(self.whole)

    mode = mean


class WeighedRows(Joint):
    """p(x|z), given its observed cells: the completed row that was weighed, and no other."""

    known_as = "NotAtRandom"

    def __init__(self, inner: Joint) -> None:
        self.inner = inner
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)

    def __getattr__(self, name: str) -> Any:
        """All else is that of p(x|z)."""
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells, in nats."""
        return self.inner.log_prob(value, mask)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of rows, whatever would be missing of them."""
        return self.inner.sample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """Of p(x|z), and so are mode and variance."""
        return self.inner.mean

    @property
    def mode(self) -> Tensor:
        """Mode of p(x|z)."""
        return self.inner.mode

    @property
    def variance(self) -> Tensor:
        """Variance of every cell."""
        return self.inner.variance

    def given(self, value: Tensor, mask: Tensor) -> Point:
        """The row itself: imputation adds what was kept with a particle to the observed cells."""
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[: -len(self.event_shape)])
        return Point(value.expand(*shape, *self.event_shape), len(self.event_shape))
