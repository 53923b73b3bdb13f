"""Rows of integers whose continuous values depend on each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from latently.probability.distributions.integers import Rounded
from latently.probability.distributions.joint import Joint, as_joint

__all__ = ["RoundedRows"]


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
        """The distribution of rows given the continuous values y of their observed cells.

        Raises:
            UserError: y cannot be conditioned on some of its cells.
        """
        return RoundedRows(self._joint().given(value, mask), self.levels)

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
        return as_joint(self.base, "rounded rows")
