"""Unordered categories: colours, answers, any column of a few names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latently.errors import UserError
from latently.probability.distributions import Categorical as CategoricalDistribution
from latently.probability.distributions import Factorized
from latently.probability.families._moments import level_shares
from latently.probability.families.base import Family, levels_in_words

__all__ = ["Categorical"]


class Categorical(Family):
    r"""Independent categories 0 .. levels - 1, stored as numbers; raw parameters are logits.

    `log p(x|h) = sum_j h_{x_j, j} - log sum_l exp h_{l, j}` nats. The codes are names: no level
    is near another, so the mean of a code means nothing and `mode` is what to show. A network
    sees one-hot columns. For ordered levels take `DiscretizedLogistic`, which needs 2 numbers a
    column instead of one for each level.

    Args:
        shape: event shape (C, *S); `param_shape` and `embed_shape` are (levels * C, *S), where
            entry l C + c is of level l and channel c.
        levels: number of categories of every column, at least 2.

    Raises:
        UserError: fewer than 2 levels.

    >>> import torch
    >>> family = Categorical((1,), levels=3)
    >>> family(torch.tensor([0.0, 1.0, 2.0]).log()).log_prob(torch.tensor([2.0])).exp()
    tensor(0.6667)
    """

    discrete: bool = True

    def __init__(self, shape: Sequence[int], *, levels: int = 2) -> None:
        super().__init__(shape)
        if not isinstance(levels, int) or levels < 2:
            raise UserError(f"Categorical: levels={levels} must be a whole number of at least 2")
        self.levels = levels

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (self.levels * self.shape[0], *self.shape[1:])

    @property
    def embed_shape(self) -> tuple[int, ...]:
        return self.param_shape

    def forward(self, h: Tensor) -> Factorized:
        ndim = len(self.shape)
        logits = h.unflatten(-ndim, (self.levels, self.shape[0])).movedim(-ndim - 1, -1)
        return Factorized(CategoricalDistribution(logits), ndim)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """One-hot, (*, levels * C, *S); zeros where missing."""
        ndim = len(self.shape)
        level = torch.arange(self.levels, dtype=x.dtype, device=x.device)
        found = x.unsqueeze(-ndim - 1) == level.view(-1, *(1,) * ndim)
        if mask is not None:
            found = found & mask.unsqueeze(-ndim - 1)
        return found.to(x.dtype).flatten(-ndim - 1, -ndim)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return (x != x.round()) | (x < 0) | (x > self.levels - 1)

    @property
    def support(self) -> str:
        return levels_in_words(self.levels)

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log shares of the levels in each column, with half a row added to every level."""
        return level_shares(x, self.levels, mask).log().flatten(0, 1)
