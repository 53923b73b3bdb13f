"""What a kind of columns is: the weighted fit of one family to the columns that have it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Size, Tensor, nn
from torch.distributions import Distribution

from latently.models.components._weighted import Part
from latently.probability.distributions import Factorized, Mixture
from latently.probability.families import Family

__all__ = ["Kind", "Turned", "parted", "unit_interval"]

SURE = 1e-6  # no probability of a value comes nearer to 0 or 1


class Kind(nn.Module, ABC):
    """Columns of one family, w of them; it is the family that knows their distributions.

    Raw parameters are those of the family, (C, q w): q for each column, one after the other.

    Attributes:
        levels: of values 0 .. levels - 1 that are counted one by one; None: not finitely many.
    """

    levels: int | None = None

    @abstractmethod
    def parameters_each(self) -> int:
        """Free parameters of a column of a component."""

    @abstractmethod
    def fit(self, family: Any, parts: Sequence[Part], raw: Tensor | None) -> Tensor:
        """Raw parameters of weighted rows, of a likelihood no lower than that of `raw`.

        Where a component has no rows it keeps its own. Without `raw`, a start from the rows.
        """

    def scale(self, family: Any, x: Tensor, seen: Tensor) -> None:
        """Learns what the overall rows (N, w) say, after the family's `initialise`."""
        return None

    def features(self, family: Any, x: Tensor, seen: Tensor) -> Tensor:
        """What starting clusters compare, (N, w, e), 0 where missing.

        In units in which two rows are on average apart by a square of 2.
        """
        return family.embed(x, seen).unsqueeze(-1)

    def log_prior(self, raw: Tensor) -> Tensor | float:
        """Log-density of the parameters up to a constant."""
        return 0.0

    def held(self, family: Any, raw: Tensor) -> Tensor | None:
        """Where a spread is held at its least, (C, w); None: there is none."""
        return None

    def blend(self, family: Family, raw: Tensor, shares: Tensor) -> Distribution:
        """Cells of the mixture, of batch shape (B, w), by log shares (B, C, w) or (B, C, 1)."""
        components = Turned(factors(family, raw).base)
        return Mixture(shares.mT, components, discrete=family.discrete)


class Turned(Distribution):
    """Cells (C, w) of an elementwise distribution, as (w, C)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: Distribution) -> None:
        self.base = base
        count, width = base.batch_shape
        super().__init__(Size((width, count)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability or log-density, in nats."""
        return self.base.log_prob(value.mT).mT

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        return self.base.cdf(value.mT).mT

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles."""
        return self.base.icdf(q.mT).mT

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        return self.base.sample(Size(sample_shape)).mT

    @property
    def mean(self) -> Tensor:
        """Means."""
        return self.base.mean.mT

    @property
    def mode(self) -> Tensor:
        """Modes."""
        return self.base.mode.mT

    @property
    def variance(self) -> Tensor:
        """Variances."""
        return self.base.variance.mT


def factors(family: Family, raw: Tensor) -> Factorized:
    """The family's distribution, of cells that are independent."""
    found = family(raw)
    assert isinstance(found, Factorized)
    return found


def parted(raw: Tensor, width: int) -> tuple[Tensor, ...]:
    """Raw parameters (C, q w) as q of (C, w)."""
    return raw.unflatten(-1, (-1, width)).unbind(-2)


def unit_interval(share: Tensor) -> Tensor:
    """Shares as probabilities that rule nothing out."""
    return share.clamp(SURE, 1 - SURE)
