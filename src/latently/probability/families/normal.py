"""Normal families: variance read from h, shared by all rows, or fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latently.errors import UserError
from latently.probability.distributions import Factorized
from latently.probability.distributions import Normal as NormalDistribution
from latently.probability.families._columns import Columns, bounded
from latently.probability.families._moments import split
from latently.probability.span import variance_of

__all__ = ["FixedNormal", "Normal", "SharedNormal"]


class Normal(Columns):
    r"""Independent normals; mean and log deviation are both read from h = (m, t).

    `x_j ~ N(loc_j + scale_j m_j, (scale_j exp(t_j))^2)`; `t` is bounded smoothly to
    [-10, 10], so that a constant column cannot drive a density to infinity.

    Args:
        shape: event shape (C, *S); `param_shape` is (2C, *S).

    >>> import torch
    >>> Normal((4,))(torch.zeros(8)).mean.shape
    torch.Size([4])
    """

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (2 * self.shape[0], *self.shape[1:])

    def forward(self, h: Tensor) -> Factorized:
        mean, log_scale = split(h, 2, len(self.shape))
        return self.columns(NormalDistribution(mean, self.log_deviation(log_scale)))


class SharedNormal(Columns):
    r"""Independent normals; h is the mean, the deviation a learned parameter of all rows.

    `x_j ~ N(loc_j + scale_j h_j, (scale_j exp(t_j))^2)` with `t` a parameter (the observation
    model of factor analysis), or `sigma` equal for all columns in data units with
    `isotropic=True` (that of PPCA).

    Args:
        shape: event shape.
        isotropic: one deviation for all columns.
    """

    def __init__(self, shape: Sequence[int], *, isotropic: bool = False) -> None:
        super().__init__(shape)
        self.isotropic = isotropic
        self.log_scale = nn.Parameter(torch.zeros(() if isotropic else self.shape))

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """As the others; isotropic columns share one scale, their root mean square."""
        super().initialise(x, mask)
        if self.isotropic and self.scale is not None:
            self.scale.fill_(self.scale.square().mean().sqrt())

    def forward(self, h: Tensor) -> Factorized:
        return self.columns(NormalDistribution(h, bounded(self.log_scale)))


class FixedNormal(Columns):
    r"""Independent normals with a given deviation: `x_j ~ N(loc_j + scale_j h_j, std^2)`.

    Its log-density is minus half the squared error, in units of `std^2`, and a constant.

    Args:
        shape: event shape.
        std: the deviation, in data units; None: that of the training rows, of every column of
            vectors and of all cells together (root mean square) of rows of two axes or more.

    Raises:
        UserError: `std` is not positive.
    """

    def __init__(self, shape: Sequence[int], *, std: float | None = 1.0) -> None:
        super().__init__(shape)
        if std is not None and not (std > 0 and math.isfinite(std)):
            raise UserError(f"FixedNormal: std={std} must be a positive number, or None")
        self.std = std

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """As the others; with std=None the cells of a picture share one scale."""
        super().initialise(x, mask)
        if self.std is None and self.scale is not None:
            self.scale.copy_(variance_of(x, mask).sqrt().expand(self.shape))

    def forward(self, h: Tensor) -> Factorized:
        if self.std is None:
            return self.columns(NormalDistribution(h, torch.zeros_like(h)))
        log_std = torch.full_like(h, math.log(self.std))
        if self.scale is not None:
            log_std = log_std - self.scale.log().to(h.dtype)
        return self.columns(NormalDistribution(h, log_std))
