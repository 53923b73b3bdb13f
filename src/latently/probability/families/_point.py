"""The family of codes: raw parameters are the value itself, behind an activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from latently.probability.distributions.point import Point
from latently.probability.families._moments import zero_missing
from latently.probability.families.base import Family

__all__ = ["Codes"]


class Codes(Family):
    """`z = a(h)`, without noise: a code is all that its posterior holds.

    Args:
        shape: event shape.
        activation: constructor of a, elementwise.
    """

    def __init__(self, shape: Sequence[int], activation: Callable[[], nn.Module]) -> None:
        super().__init__(shape)
        self.activation = activation()

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, h: Tensor) -> Point:
        return Point(self.activation(h), len(self.shape))

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return zero_missing(x, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return ~torch.isfinite(x)

    @property
    def support(self) -> str:
        return "finite numbers"
