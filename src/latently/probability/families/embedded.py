"""Categories of many names: towns, codes of diagnoses, products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latently.errors import UserError
from latently.probability.distributions import Categorical as CategoricalDistribution
from latently.probability.distributions import Factorized
from latently.probability.families._moments import level_shares, zero_missing
from latently.probability.families.base import Family, levels_in_words

__all__ = ["Embedded"]


class Embedded(Family):
    r"""Independent categories 0 .. levels - 1, each level a learned vector e_jl of few numbers.

        P(x_j = l | h) = exp(a_jl) / sum_m exp(a_jm),    a_jl = b_jl + e_jl . h_j / sqrt(width)

    A network sees the vector e_jx of a level and answers with a vector h_j to be compared with
    all of them, where `Categorical` has a weight for every level at both ends: a column of 200
    towns costs 8 numbers instead of 200, and rare levels lean on those that behave alike. b starts
    at the log shares of the levels. The codes are names, as those of `Categorical` are. Sources:
    Guo, Berkhahn, "Entity Embeddings of Categorical Variables", 2016; of one table at both ends:
    Press, Wolf, "Using the Output Embedding to Improve Language Models", 2017.

    Args:
        shape: event shape (C,); `param_shape` and `embed_shape` are (C width,).
        levels: number of categories of every column, at least 2.
        width: numbers in the vector of a level.

    Raises:
        UserError: fewer than 2 levels, no width, or rows that are no vectors.

    >>> Embedded((1,), levels=200).param_shape
    (8,)
    """

    discrete: bool = True
    bias: Tensor

    def __init__(self, shape: Sequence[int], *, levels: int = 2, width: int = 8) -> None:
        super().__init__(shape)
        for name, value, least in (("levels", levels, 2), ("width", width, 1)):
            if not isinstance(value, int) or value < least:
                raise UserError(
                    f"Embedded: {name}={value} must be a whole number of at least {least}"
                )
        if len(self.shape) != 1:
            raise UserError(
                f"Embedded: cells of shape {self.shape}; it is for the columns of a table, "
                "choose Categorical for others"
            )
        self.levels, self.width = levels, width
        self.vectors = nn.Parameter(torch.randn(self.shape[0], levels, width))
        self.bias = nn.Parameter(torch.zeros(self.shape[0], levels))

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (self.shape[0] * self.width,)

    @property
    def embed_shape(self) -> tuple[int, ...]:
        return self.param_shape

    def forward(self, h: Tensor) -> Factorized:
        columns = h.reshape(-1, self.shape[0], self.width).movedim(-2, 0)
        near = columns @ self.vectors.mT  # one product a column: of each row alone takes 7 times
        near = near.movedim(0, -2).reshape(*h.shape[:-1], self.shape[0], self.levels)
        return Factorized(_Embedded(near / math.sqrt(self.width) + self.bias), 1)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The vectors of the levels, (*, C width); zeros where missing."""
        level = zero_missing(x, mask).long().clamp(0, self.levels - 1)
        seen = self.vectors[torch.arange(self.shape[0], device=x.device), level]
        if mask is not None:
            seen = torch.where(mask.unsqueeze(-1), seen, 0.0)
        return seen.flatten(-2).to(torch.promote_types(x.dtype, seen.dtype))

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return (x != x.round()) | (x < 0) | (x > self.levels - 1)

    @property
    def support(self) -> str:
        return levels_in_words(self.levels)

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets b to the log shares of the levels, half a row added to each.

        Then h = 0 is the best distribution that ignores z.
        """
        self.bias.copy_(level_shares(x, self.levels, mask).log().movedim(0, -1))


class _Embedded(CategoricalDistribution):
    """Categories whose logits are products of vectors; users know them by the family's name."""
