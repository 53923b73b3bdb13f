"""Integer levels: pixels of any bit depth, ratings, small counts with a ceiling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latently.errors import UserError
from latently.probability.distributions import DiscretizedLogistic as Logistic
from latently.probability.distributions import Factorized
from latently.probability.families._moments import moments, split, zero_missing
from latently.probability.families.base import Family, levels_in_words

__all__ = ["DiscretizedLogistic"]

_LOG_SCALE_LIMIT = 12.0


class DiscretizedLogistic(Family):
    r"""Independent integers 0 .. levels - 1, each a rounded logistic, from h = (m, t).

    `P(x) = sigmoid((x + 1/2 - mu) / s) - sigmoid((x - 1/2 - mu) / s)`, the outer bins reaching
    to infinity, with `mu = (1 + m) (levels - 1) / 2` and `s = exp(t) (levels - 1) / 2`. `t` is
    clipped to [-12, 12]. Exactly normalised at any parameters. Source: Salimans, Karpathy,
    Chen, Kingma, "PixelCNN++", 2017.

    Args:
        shape: event shape (C, *S); `param_shape` is (2C, *S).
        levels: number of integer levels, at least 2.

    Raises:
        UserError: fewer than 2 levels.

    >>> import torch
    >>> family = DiscretizedLogistic((1,), levels=17)
    >>> family(torch.randn(2)).log_prob(torch.arange(17.0)[:, None]).exp().sum()
    tensor(1.0000)
    """

    discrete: bool = True

    def __init__(self, shape: Sequence[int], *, levels: int = 256) -> None:
        super().__init__(shape)
        if levels < 2:
            raise UserError(f"DiscretizedLogistic: levels={levels} must be at least 2")
        self.levels = levels
        self.half_range = (levels - 1) / 2

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (2 * self.shape[0], *self.shape[1:])

    def forward(self, h: Tensor) -> Factorized:
        mean, log_scale = split(h, 2, len(self.shape))
        log_scale = log_scale.clamp(-_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT) + math.log(
            self.half_range
        )
        return Factorized(
            Logistic((1 + mean) * self.half_range, log_scale, self.levels), len(self.shape)
        )

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return zero_missing(x / self.half_range - 1, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return (x != x.round()) | (x < 0) | (x > self.levels - 1)

    @property
    def support(self) -> str:
        return levels_in_words(self.levels)

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean and scale of each column; a logistic of scale s has deviation pi s / sqrt(3)."""
        mean, deviation = moments(x, mask)
        scale = (deviation * math.sqrt(3) / math.pi).clamp(min=0.1) / self.half_range
        return torch.cat([mean / self.half_range - 1, scale.log()])
