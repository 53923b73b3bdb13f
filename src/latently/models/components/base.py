"""What a kind of component is, and what the K trained ones of a mixture answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latently.errors import UserError
from latently.models._columns import moments, standardised
from latently.models.components._chosen import Chosen
from latently.models.components._rows import Block, Clusters, plain_blocks
from latently.probability.distributions import Joint

__all__ = ["Component", "Components", "as_component"]


class Component(ABC):
    """A kind of component of a mixture: a frozen dataclass that builds the trained ones."""

    @property
    def discrete(self) -> bool:
        """Whether its rows are of counted values."""
        return False

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for rows of a shape that it cannot be of."""
        return None

    @abstractmethod
    def build(self, size: int, count: int) -> Components:
        """`count` components of rows of `size` cells, all alike and standard until trained."""


class Components(nn.Module, ABC):
    """C trained components p_k over rows of D flat cells, and their side of EM.

    A pass of EM is `begin`, then `expect` and `collect` of every block of rows, then `maximise`;
    its rows have had `centre` taken off. Blocks are chosen by the components, because what is
    cheap depends on their algebra.

    Attributes:
        centred: whether passes take rows less the means of the columns; else as they are.
    """

    centred: bool = True

    @abstractmethod
    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`log p_k(x_o)` of rows (B, D), in nats, (B, C); differentiable."""

    @abstractmethod
    def member(self, k: int, shape: tuple[int, ...]) -> Joint:
        """Component k alone: a distribution of rows of a shape, without batch."""

    def chosen(self, index: Tensor, shape: tuple[int, ...]) -> Joint:
        """Rows of one component each, index[n] of row n; its batch shape is that of the index."""
        return Chosen(lambda k: self.member(k, shape), index, shape)

    @abstractmethod
    def mixed(
        self, shares: Tensor, x: Tensor, mask: Tensor, shape: tuple[int, ...]
    ) -> Distribution:
        """`sum_k shares_k p_k(x_j | x_o)` of every missing cell, elementwise.

        Args:
            shares: log p(k | x_o), (B, C).
            x: rows (B, D).
            mask: True where observed, (B, D).
            shape: of a row; the batch shape is (B, *shape).
        """

    def left_out(
        self, log_joint: Tensor, x: Tensor, mask: Tensor, shape: tuple[int, ...]
    ) -> Distribution | None:
        """`p(x_j | the other observed cells)` of every observed cell, elementwise, all at once.

        Args:
            log_joint: log p(k, x_o), (B, C).
            x: rows (B, D).
            mask: True where observed, (B, D).
            shape: of a row; the batch shape is (B, *shape).

        Returns:
            None where no algebra makes it cheaper than hiding one cell after the other.
        """
        return None

    @abstractmethod
    def degrees(self) -> int:
        """Free parameters."""

    @abstractmethod
    def misfit(self, x: Tensor) -> tuple[Tensor, str]:
        """Where a value lies outside the support, and the support in words."""

    @property
    def counted(self) -> Tensor | None:
        """Which cells have probabilities where others have densities, (D,); None: all alike."""
        return None

    def complaints(self) -> tuple[str, ...]:
        """What a reader should know of the trained parameters, a line each."""
        return ()

    def log_prior(self) -> Tensor | float:
        """Log-density of the parameters up to a constant, which a pass adds to the rows'."""
        return 0.0

    # EM.

    @abstractmethod
    def scale(self, x: Tensor, mask: Tensor | None) -> None:
        """Learns the units of the columns, and the floors in them, from rows (N, D)."""

    def features(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What starting clusters compare of rows (N, D), 0 where missing, and its mask."""
        mean, variance = moments(x, mask)
        unit = variance.sqrt()
        return standardised(x, mask, mean, torch.where(unit > 0, unit, 1.0)), mask

    @abstractmethod
    def start(self, clusters: Clusters) -> None:
        """Starts from rows that were divided among the components."""

    def blocks(self, x: Tensor, mask: Tensor | None) -> list[Block]:
        """Rows (N, D), less their centre, in blocks."""
        return plain_blocks(x, mask, self.width)

    @property
    @abstractmethod
    def width(self) -> int:
        """About how many numbers a pass holds for a row of a block."""

    @abstractmethod
    def begin(self, centre: Tensor) -> Any:
        """What a pass accumulates, empty."""

    @abstractmethod
    def expect(self, block: Block, sums: Any) -> tuple[Tensor, Any]:
        """`log p_k(x_o)` of the rows of a block, (n, C), and what `collect` needs of them."""

    @abstractmethod
    def collect(self, block: Block, sums: Any, state: Any, r: Tensor) -> None:
        """Adds a block with its responsibilities (n, C) to the sums."""

    @abstractmethod
    def maximise(self, sums: Any) -> None:
        """Sets the parameters that maximise the expected log-density; no pass decreases it."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device


def as_component(family: Any, who: str) -> Component:
    """A component, where its class stands for the one of default options.

    Raises:
        UserError: it is none.
    """
    if isinstance(family, type) and issubclass(family, Component):
        family = family()
    if not isinstance(family, Component):
        raise UserError(f"{who}={family!r} must be a component such as Full() or Diagonal()")
    return family
