"""What models fitted in closed form or by EM say of columns, and how small a variance may be."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["FLOOR", "columns", "constant_columns", "moments", "noise_floor", "standardised"]

FLOOR = 1e-6  # smallest variance, relative to the column's


def noise_floor(mean: Tensor, total: Tensor) -> Tensor:
    """The smallest variance of each column, (D,), from their means and variances.

    Warns of constant columns.
    """
    constant = constant_columns(mean, total)
    usual = total[~constant].mean() if bool((~constant).any()) else torch.ones_like(total[0])
    if bool(constant.any()):
        warnings.warn(
            f"{columns(constant)} constant: the noise variance is held at {FLOOR:g} of the "
            "other columns, so this share of the density means little",
            stacklevel=2,
        )
    return FLOOR * torch.where(constant, usual, total)


def constant_columns(mean: Tensor, total: Tensor) -> Tensor:
    """Columns whose variance is nothing but rounding in float64, (D,)."""
    return total <= 1e-24 * mean.square()


def columns(which: Tensor) -> str:
    """Columns by number, with their verb: `column 3 is`, `2 columns (1, 4) are`."""
    index = which.nonzero().flatten().tolist()
    if len(index) == 1:
        return f"column {index[0]} is"
    shown = ", ".join(map(str, index[:8])) + (", ..." if len(index) > 8 else "")
    return f"{len(index)} columns ({shown}) are"


def moments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of the observed values of each column, (D,)."""
    if mask is None:
        mean = x.mean(0)
        return mean, (x - mean).square().mean(0)
    count = mask.sum(0)
    mean = torch.where(mask, x, 0.0).sum(0) / count
    return mean, torch.where(mask, (x - mean).square(), 0.0).sum(0) / count


def standardised(x: Tensor, mask: Tensor | None, mean: Tensor, unit: Tensor) -> Tensor:
    """`(x - mean) / unit`, 0 where missing."""
    scaled = (x - mean) / unit
    return scaled if mask is None else torch.where(mask, scaled, 0.0)
