"""Columns of any unit, scaled inside the family.

Columns are scaled by the buffers `loc` and `scale`, so that networks work in units of order one
while every density is in data units (the Jacobian is exact). The buffers are in float64: two
dates a minute apart are the same number in float32. A posterior has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.probability.distributions import Factorized, Scaled
from latently.probability.families._moments import moments, zero_missing
from latently.probability.families.base import Family

__all__ = ["LOG_SCALE_LIMIT", "Columns", "bounded"]

LOG_SCALE_LIMIT = 10.0


class Columns(Family):
    """A family over finite numbers; `columns(base)` is its distribution in data units.

    Attributes:
        floor: least deviation given the parameters, in units of `scale`; 0: none but that of
            `bounded`. Families with a deviation of every cell respect it.
        ceiling: of a family, the greatest one where there is a floor.
    """

    loc: Tensor | None
    scale: Tensor | None
    floor: float = 0.0
    ceiling: float = math.inf

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.register_buffer("loc", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(self.shape, dtype=torch.float64))

    def unscaled(self) -> None:
        self.loc = self.scale = None

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.loc is not None and self.scale is not None:
            x = (x - self.loc) / self.scale
        return zero_missing(x, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return ~torch.isfinite(x)

    @property
    def support(self) -> str:
        return "finite numbers"

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets `loc`, `scale` to mean and deviation of each column; a constant column keeps 1."""
        if self.loc is None or self.scale is None:
            return
        mean, deviation = moments(x, mask)
        varies = deviation > 1e-9 * mean.abs().clamp(min=1e-12)
        self.loc.copy_(mean)
        self.scale.copy_(torch.where(varies, deviation, 1.0))

    def hold(self, floor: float) -> None:
        self.floor = floor

    def log_deviation(self, raw: Tensor) -> Tensor:
        """Log deviation s of cells from raw parameters, `log sqrt(exp(2 t) + floor^2)`.

        Under a ceiling c, `-log(exp(-8 s) + c^-8) / 8`, within 1 % of s up to two thirds of c.
        """
        t = bounded(raw)
        if not self.floor:
            return t
        t = 0.5 * torch.logaddexp(2 * t, t.new_tensor(2 * math.log(self.floor)))
        if math.isinf(self.ceiling):
            return t
        return -torch.logaddexp(-8 * t, t.new_tensor(-8 * math.log(self.ceiling))) / 8

    def columns(self, base: Distribution) -> Factorized:
        """Independent cells `loc + scale u`, u from an elementwise base."""
        if self.loc is not None and self.scale is not None:
            base = Scaled(base, self.loc, self.scale)
        return Factorized(base, len(self.shape))


def bounded(log_scale: Tensor) -> Tensor:
    """Keeps |log scale| below a limit, smoothly: no overflow, and a gradient everywhere."""
    return LOG_SCALE_LIMIT * torch.tanh(log_scale / LOG_SCALE_LIMIT)
