"""Where the values of cells lie: what sizes of noise and of errors are told in."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Span", "variance_of"]


class Span(NamedTuple):
    """The least and the largest value of cells; both broadcast to a row.

    Of vectors every column has its own; the cells of pictures (rows of two axes or more) share
    theirs.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None = None) -> Span:
        """The span of rows (n, *shape), of observed cells only; 0 where there are none."""
        axes = (0,) if x.dim() == 2 else tuple(range(x.dim()))
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        low = x.masked_fill(~seen, math.inf).amin(axes)
        high = x.masked_fill(~seen, -math.inf).amax(axes)
        there = low <= high
        return cls(low.where(there, 0.0), high.where(there, 0.0))

    @property
    def width(self) -> Tensor:
        """`high - low`."""
        return self.high - self.low

    def clamp(self, x: Tensor) -> Tensor:
        """The nearest values within the span."""
        return torch.minimum(torch.maximum(x, self.low.to(x)), self.high.to(x))


def variance_of(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Variance of the cells of rows (n, *shape): of every column of vectors, of pictures one.

    That of a picture is the mean over its pixels of theirs, the squared error of the mean row. 1
    where nothing varies. In float64.
    """
    x = x.double()
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    count = seen.sum(0).clamp(min=1)
    mean = x.where(seen, 0.0).sum(0) / count
    variance = (x - mean).square().where(seen, 0.0).sum(0) / count
    variance = variance if x.dim() == 2 else variance.mean()
    return variance.where(variance > 0, 1.0)
