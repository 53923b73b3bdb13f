"""Columns of rows with weights: sums over them, and maxima of what such sums say of a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Part", "alive", "climbed", "counts", "totals"]

_LEAST = 1e-8  # rows below which a component keeps its parameters
_FARTHEST = 2.0  # how far a step of `climbed` goes at first
_NEAR = 1e-8


class Part(NamedTuple):
    """Some rows of w columns, or the values that they take, with weights for C components.

    Attributes:
        x: (n, w); any number where missing.
        r: weights, (n, C), or (n, C, w) where each column has its own.
        seen: True where observed, (n, w); None: everywhere.
    """

    x: Tensor
    r: Tensor
    seen: Tensor | None = None


def totals(
    parts: Sequence[Part], function: Callable[[Tensor], Sequence[Tensor]]
) -> tuple[Tensor, ...]:
    """`sum_n r_nc f(x_nw)` of each f that a function gives of x, (C, w).

    Args:
        parts: rows with their weights.
        function: of x (n, w), to as many (n, w), or (n, C, w) where components differ.
    """
    found: list[Tensor] = []
    for x, r, seen in parts:
        terms = [_total(r, value, seen) for value in function(x)]
        found = terms if not found else [a + b for a, b in zip(found, terms, strict=True)]
    return tuple(found)


def counts(parts: Sequence[Part]) -> Tensor:
    """Weights of the observed cells, (C, w)."""
    return totals(parts, lambda x: [torch.ones_like(x)])[0]


def alive(rows: Tensor) -> Tensor:
    """Whether a component has rows enough to be fitted to."""
    return rows > _LEAST


def climbed(
    start: Tensor,
    low: float,
    high: float,
    score: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    steps: int,
) -> Tensor:
    """Newton's method towards a maximum, element by element; no step is kept that falls.

    Args:
        start: where from.
        low: least value.
        high: greatest value.
        score: value, first and second derivative at a place.
        steps: most steps.
    """
    at = start.clamp(low, high)
    value, slope, bend = score(at)
    reach = torch.full_like(at, _FARTHEST)
    for _ in range(steps):
        newton = torch.where(bend < 0, -slope / bend, slope.sign() * reach)
        step = torch.maximum(torch.minimum(newton, reach), -reach)
        trial = (at + step).clamp(low, high)
        if bool(((trial - at).abs() < _NEAR).all()):
            break
        found = score(trial)
        better = found[0] >= value
        reach = torch.where(better, reach, (trial - at).abs() / 4)
        at = torch.where(better, trial, at)
        value, slope, bend = (
            torch.where(better, new, old)
            for new, old in zip(found, (value, slope, bend), strict=True)
        )
    return at


def _total(r: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
    if seen is not None:
        value = torch.where(seen if value.dim() == 2 else seen[:, None], value, 0.0)
    if r.dim() == 2:
        return r.T @ value if value.dim() == 2 else torch.einsum("nc,ncw->cw", r, value)
    return (r * (value[:, None] if value.dim() == 2 else value)).sum(0)
