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

    Those of whole numbers come first. Families of levels are asked with as many as the largest
    value needs.

    >>> families_for(torch.tensor([[0.5], [-2.0]]))[0]
    'FixedNormal'
    >>> families_for(torch.tensor([[0.0], [3.0]]))[:2]
    ['Binomial', 'Categorical']
    """
    seen = x if mask is None else torch.where(mask, x, 0.0)
    levels = max(2, int(seen.max().clamp(-1, 2**31)) + 1) if seen.numel() else 2
    tried = {name: _tried(name, x, mask, levels) for name in families.__all__}
    held = [name for name, found in tried.items() if found is not None]
    return sorted(held, key=lambda name: (not tried[name], name))


def _tried(name: str, x: Tensor, mask: Tensor | None, levels: int) -> bool | None:
    """Whether a family that holds the rows is discrete; None: it does not hold them."""
    kind: Any = getattr(families, name)
    if inspect.isabstract(kind):
        return None
    if "levels" in inspect.signature(kind).parameters:
        kind = partial(kind, levels=levels)
    try:
        with torch.device("meta"):
            family = kind(tuple(x.shape[1:]))
    except (UserError, RuntimeError):  # also of more numbers than can be counted
        return None
    bad = family.misfit(x, mask)
    return None if bool((bad if mask is None else bad & mask).any()) else family.discrete
