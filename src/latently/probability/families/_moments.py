"""Masked means, deviations and shares over rows, shared by the families."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["level_shares", "moments", "split", "zero_missing"]


def moments(x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every coordinate over the observed rows of (n, *shape).

    Taken in float64: dates a minute apart are equal in float32.
    """
    x = x.double()
    if mask is None:
        return x.mean(0), x.std(0, correction=0)
    count = mask.sum(0).clamp(min=1)
    mean = torch.where(mask, x, 0.0).sum(0) / count
    variance = torch.where(mask, (x - mean).square(), 0.0).sum(0) / count
    return mean, variance.sqrt()


def level_shares(x: Tensor, levels: int, mask: Tensor | None = None) -> Tensor:
    """Shares of the levels 0 .. levels - 1 among the observed rows of (n, *shape).

    (levels, *shape) in float64, with half a row added to every level: none has the share 0.
    """
    at = (x == level for level in range(levels))
    counts = torch.stack([(is_it if mask is None else is_it & mask).sum(0) for is_it in at])
    counts = counts.double() + 0.5
    return counts / counts.sum(0)


def split(h: Tensor, parts: int, ndim: int) -> tuple[Tensor, ...]:
    """Cuts raw parameters (*, parts * C, *S) into `parts` tensors (*, C, *S)."""
    return h.chunk(parts, dim=-ndim)


def zero_missing(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zeros where the mask is False."""
    return x if mask is None else torch.where(mask, x, 0.0)
