"""The direction in which a component of a mixture varies most, and what it is in units of x."""

from __future__ import annotations

import torch
from torch import Tensor

from latently.models import Dequantized, Mixture, Model, Transformed
from latently.models.components._elliptical import Elliptical
from latently.probability.distributions.gaussian import Gaussian

__all__ = ["axis", "leading", "outward"]

_AT_ONCE = 8  # directions that are sought together
_TURNS = 40


@torch.no_grad()
def axis(model: Mixture, k: int) -> Tensor | None:
    """One standard deviation of a component along its direction of most variance, (D,).

    The direction is the leading eigenvector of the covariance, the length the root of its
    eigenvalue. None of components whose cells are independent.
    """
    if not isinstance(model.parts, Elliptical):
        return None
    normal = model.parts.scatter.normal(k, model.shape)
    if not isinstance(normal, Gaussian):
        return None
    value, direction = leading(*normal.parts())
    wider = model.parts.member(k, model.shape).variance.sum() / normal.variance.sum()
    return (value * wider).sqrt() * direction


def leading(rows: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue of `rows' rows + diag(own)`, and its eigenvector (D,).

    By subspace iteration, without a D x D matrix: several directions are multiplied and made
    orthogonal together, so that it is the gap to the ninth eigenvalue that counts. The largest
    coefficient is positive.

    Args:
        rows: (n, D).
        own: (D,), none below 0.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(len(own), min(_AT_ONCE, len(own)), generator=generator, dtype=own.dtype)
    basis = start.to(own.device)
    for _ in range(_TURNS):
        basis = torch.linalg.qr(rows.mT @ (rows @ basis) + own[:, None] * basis).Q
    small = (rows @ basis).mT @ (rows @ basis) + basis.mT @ (own[:, None] * basis)
    values, vectors = torch.linalg.eigh(small)
    found = basis @ vectors[:, -1]
    return values[-1], found * found[found.abs().argmax()].sign()


def outward(model: Model, y: Tensor) -> Tensor:
    """Rows of the model inside as rows of x: of integers the middle of the cell at y."""
    if isinstance(model, Dequantized):
        return outward(model.model, y) - 0.5
    if isinstance(model, Transformed):
        return model.transform.inverse(outward(model.model, y))
    return y
