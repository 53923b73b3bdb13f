"""Which families hold some data."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.probability import families

__all__ = ["families_for"]


def families_for(x: Tensor, mask: Tensor | None = None) -> list[str]:
    """Names of the families whose support holds every observed value of rows (n, *shape).

    Families of levels are asked with as many as the largest value needs.

    >>> families_for(torch.tensor([[0.5], [-2.0]]))[:3]
    ['FixedNormal', 'Laplace', 'LowRankMultivariateNormal']
    """
    seen = x if mask is None else torch.where(mask, x, 0.0)
    levels = max(2, int(seen.max().clamp(-1, 2**31)) + 1) if seen.numel() else 2
    return sorted(name for name in families.__all__ if _holds(name, x, mask, levels))


def _holds(name: str, x: Tensor, mask: Tensor | None, levels: int) -> bool:
    kind: Any = getattr(families, name)
    if inspect.isabstract(kind):
        return False
    if "levels" in inspect.signature(kind).parameters:
        kind = partial(kind, levels=levels)
    try:
        with torch.device("meta"):
            family = kind(tuple(x.shape[1:]))
    except UserError:
        return False
    bad = family.misfit(x, mask)
    return not bool((bad if mask is None else bad & mask).any())
