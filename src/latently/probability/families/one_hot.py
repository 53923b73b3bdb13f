"""Categories as one-hot rows: discrete latents that a network can read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latently.errors import UserError
from latently.probability.distributions import OneHot as OneHotDistribution
from latently.probability.families._moments import zero_missing
from latently.probability.families.base import Family

__all__ = ["OneHot"]


class OneHot(Family):
    r"""Independent categories, each a row of zeros with one 1; raw parameters are logits.

    `log P(x|h) = sum_v sum_l x_vl log softmax(h_v)_l` nats, the categories l on the *last* axis:
    shape (8,) is one variable of 8 categories, (20, 8) are 20 of them. As a posterior it makes
    the latents categorical: with few states `estimator=Enumerate` sums them exactly, otherwise
    `Score`, `VIMCO`, `REBAR` and `GumbelSoftmax` differentiate draws. Missing cells are summed
    out.

    Args:
        shape: event shape; the last axis holds the categories.

    Raises:
        UserError: fewer than 2 categories.

    >>> import torch
    >>> OneHot((3,))(torch.zeros(3)).log_prob(torch.tensor([0.0, 1.0, 0.0])).exp()
    tensor(0.3333)
    """

    discrete: bool = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        if self.shape[-1] < 2:
            raise UserError(
                f"OneHot: shape {self.shape} has {self.shape[-1]} category on its last axis, "
                "which must have at least 2; give e.g. (8,) or (20, 8)"
            )

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, h: Tensor) -> OneHotDistribution:
        return OneHotDistribution(h, len(self.shape))

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return zero_missing(x, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        ones = (seen & (x == 1)).sum(-1, keepdim=True)
        wrong = (ones > 1) | (seen.all(-1, keepdim=True) & (ones == 0))
        return wrong | ((x != 0) & (x != 1))

    @property
    def support(self) -> str:
        return "rows of zeros with one 1"

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log shares of the categories, with half a row added to each."""
        seen = zero_missing(x, mask).double()
        rows = len(x) if mask is None else mask.sum(0)
        share = (seen.sum(0) + 0.5) / (torch.as_tensor(rows) + 0.5 * self.shape[-1])
        return share.log()
