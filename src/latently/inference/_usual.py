r"""How surprising a cell usually is: the mean of log p over what could stand there.

Of an amount X that is 0 with probability P0, log p is that of a probability at 0 and of a density,
which has a unit, above. Its mean over both would be of neither, so that each is compared with its
like: with `H = -P0 log P0 - (1 - P0) log(1 - P0)`, of the question whether the amount is 0,

    usual log p = -H                                             at 0,
                  -H + E[log p(X) - log(1 - P0) | X > 0]         above.

What log p lacks of it is by how many nats the branch is more surprising than usual, and above 0 by
how many the number is, given that it is above: halve the unit, and nothing changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["amounts", "asked_beside", "of_amounts", "of_draws"]


def amounts(d: Any) -> tuple[Tensor, Any] | None:
    """log P(X > 0) and X | X > 0 of cells that are amounts with a probability of 0, else None."""
    return d.above() if hasattr(d, "above") else None


def asked_beside(values: Tensor, drawn: Tensor, share: Tensor | None) -> Tensor:
    """Values (V, B), with all that `of_draws` must know log p of below them.

    Args:
        values: to be scored.
        drawn: draws of the cells, (D, B), of amounts those above 0.
        share: P(X > 0) of the particles that drew them, (D, B); NaN of other cells; None: all are.
    """
    if share is None:
        return torch.cat([values, drawn])
    amount = ~share[:1].isnan()
    return torch.cat([values, torch.where(amount, 0.0, values[:1]), drawn])


def of_draws(log_p: Tensor, value: Tensor, share: Tensor | None) -> Tensor:
    """Usual log p of cells (B,), from log p of what `asked_beside` put below the values.

    Args:
        log_p: of 0 where there are amounts, and of the draws, (D, B) or (D + 1, B).
        value: what stands in the cells, (B,).
        share: as there.
    """
    if share is None:
        return log_p.mean(0)
    amount, zero, drawn = ~share[0].isnan(), log_p[0].clamp(max=0), log_p[1:]
    weight = torch.where(amount, share.double(), 1.0)
    mean = torch.where(weight > 0, weight * drawn, 0.0).sum(0) / weight.sum(0)
    log_above = torch.log1p(-zero.exp())
    return torch.where(amount, of_amounts(log_above, mean - log_above, value), mean)


def of_amounts(log_above: Tensor, inside: Tensor, value: Tensor) -> Tensor:
    """Usual log p of amounts, by log P(X > 0) and the mean of log p(X | X > 0)."""
    above = log_above.exp()
    less = -(torch.special.xlogy(above, above) + torch.special.xlogy(1 - above, 1 - above))
    return torch.where(value == 0, -less, inside.nan_to_num(0.0, 0.0, 0.0) - less)
