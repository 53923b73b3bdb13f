"""Components whose density falls with a distance `(x - mu_k)' Sigma_k^-1 (x - mu_k)` alone.

A `Scatter` knows `mu_k` and `Sigma_k` in some structure; what it does in EM serves every profile,
the normal as well as Student's t: rows enter means by weights w, covariances by w and the
responsibilities r, and for a normal w = r.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latently.inference.options import check_number
from latently.models._columns import constant_columns, moments, noise_floor
from latently.models.components._rows import Block, Clusters, plain_blocks
from latently.models.components.base import Component, Components
from latently.probability.distributions import Joint, Mixture, Normal

__all__ = ["Elliptical", "Expected", "Normals", "Scatter", "Shrunk", "Structured"]

_LOG_2PI = math.log(2 * math.pi)
LEAST = 1e-8  # rows of a component that is left as it is


class Expected(NamedTuple):
    """Of the rows of a block under every component.

    Attributes:
        energy: `(x_o - mu_o)' Sigma_oo^-1 (x_o - mu_o)`, (n, C).
        log_det: half the log determinant of `Sigma_oo`, (n, C) or (C,).
        state: what the scatter collects from.
    """

    energy: Tensor
    log_det: Tensor
    state: Any = None


class Scatter(nn.Module):
    """Means `loc` (C, D) and covariances of some structure.

    Attributes:
        floor: smallest variance of each column, (D,); 0 before there were rows.
        varies: columns that are not constant, (D,).
        advice: what helps where covariances are held at their floor.
    """

    advice: str = "use fewer components"
    floor: Tensor
    varies: Tensor

    def __init__(self, size: int, count: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(count, size, dtype=torch.float64))
        self.register_buffer("floor", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("varies", torch.ones(size, dtype=torch.bool))

    @property
    @abstractmethod
    def width(self) -> int:
        """About how many numbers a pass holds for a row."""

    @abstractmethod
    def energy(self, x: Tensor, mask: Tensor | None) -> Expected:
        """Distances of rows (B, D); differentiable."""

    @abstractmethod
    def given(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of every cell given the observed ones, (B, C, D)."""

    @abstractmethod
    def others(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of every observed cell given the *other* observed ones, (B, C, D).

        With the precision L of the observed cells, `x_j - (L (x - mu))_j / L_jj` and `1 / L_jj`.
        """

    @abstractmethod
    def normal(self, k: int, shape: tuple[int, ...]) -> Joint:
        """The normal of component k over rows of a shape."""

    @abstractmethod
    def degrees(self) -> int:
        """Free parameters of the covariances."""

    @abstractmethod
    def fallen(self) -> list[int]:
        """Components whose covariance is held at its floor in columns that vary."""

    @abstractmethod
    def start(self, clusters: Clusters) -> None:
        """Covariances of starting clusters."""

    def scale(self, x: Tensor, mask: Tensor | None) -> None:
        """Learns the floor, and what a prior is about, from rows (N, D)."""
        found = moments(x, mask)
        self.floor.copy_(noise_floor(*found))
        self.varies.copy_(~constant_columns(*found))

    def log_prior(self) -> Tensor | float:
        """Log-density of the covariances up to a constant; 0: there is no prior."""
        return 0.0

    def blocks(self, x: Tensor, mask: Tensor | None) -> list[Block]:
        return plain_blocks(x, mask, self.width)

    @abstractmethod
    def begin(self, centre: Tensor) -> Any:
        """Sums of a pass, empty."""

    @abstractmethod
    def expect(self, block: Block, sums: Any) -> Expected:
        """Distances of the rows of a block, and what else a pass needs."""

    @abstractmethod
    def collect(self, block: Block, sums: Any, found: Expected, r: Tensor, w: Tensor) -> None:
        """Adds a block, by responsibilities and weights (n, C)."""

    @abstractmethod
    def maximise(self, sums: Any) -> None:
        """The best means and covariances, the latter no smaller than their floor."""


class Elliptical(Components):
    """Components of one scatter; the profile is that of the normal or of Student's t."""

    def __init__(self, scatter: Scatter) -> None:
        super().__init__()
        self.scatter = scatter

    @abstractmethod
    def profile(self, energy: Tensor, log_det: Tensor, cells: Tensor | int) -> Tensor:
        """Log-density, (n, C), at distances (n, C) of rows with so many observed cells."""

    @abstractmethod
    def cells(self, mean: Tensor, variance: Tensor, x: Tensor, mask: Tensor) -> Distribution:
        """Cells given the observed ones of rows (B, D), of batch shape (B, *shape, C).

        Args:
            mean: of the normal of the same scatter, (B, *shape, C).
            variance: its, likewise.
            x: rows, (B, D).
            mask: True where observed, (B, D).
        """

    def mixed(
        self, shares: Tensor, x: Tensor, mask: Tensor, shape: tuple[int, ...]
    ) -> Distribution:
        mean, variance = self.scatter.given(x, mask)
        variance = torch.where(mask[:, None], 1.0, variance)
        mean, variance = (t.mT.unflatten(1, shape) for t in (mean, variance))
        shares = shares.view(len(x), *(1,) * len(shape), -1).expand_as(mean)
        return Mixture(shares, self.cells(mean, variance, x, mask))

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        found = self.scatter.energy(x, mask)
        cells = x.shape[1] if mask is None else mask.sum(1, keepdim=True).to(x.dtype)
        return self.profile(found.energy, found.log_det, cells)

    def misfit(self, x: Tensor) -> tuple[Tensor, str]:
        return ~torch.isfinite(x), "finite numbers"

    def degrees(self) -> int:
        return self.scatter.loc.numel() + self.scatter.degrees()

    @torch.no_grad()
    def complaints(self) -> tuple[str, ...]:
        """Names components whose covariance is held at its floor."""
        fallen = self.scatter.fallen() if bool((self.scatter.floor > 0).any()) else []
        if not fallen:
            return ()
        many = len(fallen) > 1
        who = f"components {', '.join(map(str, fallen))}" if many else f"component {fallen[0]}"
        return (
            f"{who}: covariance singular, held at 1e-6 of the columns' variances; "
            f"{'their' if many else 'its'} share of the likelihood has no maximum; "
            + self.scatter.advice,
        )

    def scale(self, x: Tensor, mask: Tensor | None) -> None:
        self.scatter.scale(x, mask)

    def log_prior(self) -> Tensor | float:
        return self.scatter.log_prior()

    @torch.no_grad()
    def start(self, clusters: Clusters) -> None:
        self.scatter.loc.copy_(clusters.mean)
        self.scatter.start(clusters)

    @property
    def width(self) -> int:
        return self.scatter.width

    def blocks(self, x: Tensor, mask: Tensor | None) -> list[Block]:
        return self.scatter.blocks(x, mask)

    def begin(self, centre: Tensor) -> Any:
        return self.scatter.begin(centre)

    def expect(self, block: Block, sums: Any) -> tuple[Tensor, Any]:
        found = self.scatter.expect(block, sums)
        return self.profile(found.energy, found.log_det, block.cells), found

    def collect(self, block: Block, sums: Any, state: Any, r: Tensor) -> None:
        self.scatter.collect(block, sums, state, r, r)

    def maximise(self, sums: Any) -> None:
        self.scatter.maximise(sums)


class Normals(Elliptical):
    """Normal components."""

    def profile(self, energy: Tensor, log_det: Tensor, cells: Tensor | int) -> Tensor:
        return -0.5 * (energy + cells * _LOG_2PI) - log_det

    def member(self, k: int, shape: tuple[int, ...]) -> Joint:
        return self.scatter.normal(k, shape)

    def cells(self, mean: Tensor, variance: Tensor, x: Tensor, mask: Tensor) -> Distribution:
        return Normal(mean, 0.5 * variance.log())

    def left_out(
        self, log_joint: Tensor, x: Tensor, mask: Tensor, shape: tuple[int, ...]
    ) -> Distribution:
        mean, variance = self.scatter.others(x, mask)
        cells = Normal(mean, 0.5 * torch.where(mask[:, None], variance, 1.0).log())
        own = torch.where(mask[:, None], cells.log_prob(x[:, None]), 0.0)
        shares = log_joint[:, :, None] - own  # p(k, x_o without j)
        shares, loc, log_scale = (
            t.mT.unflatten(1, shape) for t in (shares, cells.loc, cells.log_scale)
        )
        return Mixture(shares, Normal(loc, log_scale))


class Structured(Component):
    """A component given by the structure of its covariance."""

    @abstractmethod
    def scatter(self, size: int, count: int) -> Scatter:
        """Means and covariances of this structure."""

    def build(self, size: int, count: int) -> Components:
        return Normals(self.scatter(size, count))


@dataclass(frozen=True)
class Shrunk(Structured):
    """A structure whose covariances may have a prior.

    An inverse Wishart density of every covariance, as if a component had seen `prior` rows more,
    of the covariance `Lambda` of all rows over C^(2 / D), which parts their volume among C
    components:

        log p(Sigma_k) = -prior (log |Sigma_k| + tr(Lambda Sigma_k^-1)) / 2 + const.

    EM then maximises `log p(x) + log p(Sigma)`, and reports that. Source: Fraley, Raftery,
    "Bayesian Regularization for Normal Mixture Estimation and Model-Based Clustering", 2007,
    whose default is of some 2 D + 3 rows.
    """

    prior: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "prior", low=0.0, scheduled=False)
