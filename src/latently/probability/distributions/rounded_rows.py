"""Rows of integers whose continuous values depend on each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution

from latently.errors import UserError, called
from latently.probability.distributions.integers import Rounded
from latently.probability.distributions.joint import Joint

__all__ = ["RoundedRows"]

_CANDIDATES = 16  # of the noise of a row's observed cells


class RoundedRows(Distribution):
    r"""The integers `floor(y)`, clipped to 0 .. levels - 1, of continuous rows y.

    P(x) is an integral over a box and has no closed form: this serves draws, moments and
    conditioning, while evidence goes through the density of y.

    Args:
        base: the distribution of y, over rows.
        levels: the integers are 0 .. levels - 1.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: Distribution, levels: int) -> None:
        self.base, self.levels = base, levels
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        with torch.no_grad():
            return self.base.sample(Size(sample_shape)).floor().clamp(0, self.levels - 1)

    def given(self, value: Tensor, mask: Tensor) -> RoundedRows:
        """The distribution of rows given their observed integers.

        The noise of the observed cells, `y_o = x_o + u_o`, is one of 16 uniform candidates,
        chosen in proportion to p(y_o): sampling importance resampling.

        Raises:
            UserError: y cannot be conditioned on some of its cells.
        """
        base = self._joint()
        batch = torch.broadcast_shapes(self.batch_shape, value.shape[: -len(self.event_shape)])
        shape = (*batch, *self.event_shape)
        mask = mask.expand(shape)
        u = torch.rand((_CANDIDATES, *shape), dtype=base.mean.dtype, device=value.device)
        y = value + u
        log_w = base.log_prob(y, mask).movedim(0, -1)
        chosen = Categorical(logits=log_w.nan_to_num(nan=-torch.inf)).sample()
        at = chosen.view(1, *batch, *(1,) * len(self.event_shape)).expand(1, *shape)
        return RoundedRows(base.given(y.gather(0, at)[0], mask), self.levels)

    @property
    def mean(self) -> Tensor:
        """`E[x_j]` of each cell, exact; the sum runs over the levels."""
        return self._cells().mean

    @property
    def variance(self) -> Tensor:
        """`Var[x_j]` of each cell, exact; the sum runs over the levels."""
        return self._cells().variance

    def _cells(self) -> Rounded:
        """Each cell on its own: `cdf` and `mean` of joint rows are those of their cells."""
        return Rounded(self._joint(), self.levels)

    def _joint(self) -> Joint:
        if not isinstance(self.base, Joint):
            raise UserError(
                f"{called(self.base)} does not know its cells one by one, so that moments and "
                "conditionals of rounded rows are unknown; draw from it"
            )
        return self.base
