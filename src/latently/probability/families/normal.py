r"""Normal families: variance read from h, shared by all rows, or fixed.

Columns are scaled inside the family, by the buffers `loc` and `scale`, so that networks work
in units of order one while every density is in data units (the Jacobian is exact). The buffers
are in float64: two dates a minute apart are the same number in float32. A posterior has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latently.errors import UserError
from latently.probability.distributions import Factorized, Scaled
from latently.probability.distributions import Normal as NormalDistribution
from latently.probability.families._moments import moments, split, zero_missing
from latently.probability.families.base import Family

__all__ = ["FixedNormal", "Normal", "SharedNormal"]

LOG_SCALE_LIMIT = 10.0


class _ScaledNormal(Family):
    """Column scaling and support, common to the three."""

    loc: Tensor | None
    scale: Tensor | None

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.register_buffer("loc", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(self.shape, dtype=torch.float64))

    def unscaled(self) -> None:
        self.loc = self.scale = None

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.loc is not None and self.scale is not None:
            x = (x - self.loc) / self.scale
        return zero_missing(x, mask)

    def misfit(self, x: Tensor) -> Tensor:
        return ~torch.isfinite(x)

    @property
    def support(self) -> str:
        return "finite numbers"

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets `loc`, `scale` to mean and deviation of each column; a constant column keeps 1."""
        if self.loc is None or self.scale is None:
            return
        mean, deviation = moments(x, mask)
        varies = deviation > 1e-9 * mean.abs().clamp(min=1e-12)
        self.loc.copy_(mean)
        self.scale.copy_(torch.where(varies, deviation, 1.0))

    def _distribution(self, mean: Tensor, log_scale: Tensor) -> Factorized:
        base: Distribution = NormalDistribution(mean, log_scale)
        if self.loc is not None and self.scale is not None:
            base = Scaled(base, self.loc, self.scale)
        return Factorized(base, len(self.shape))


def _bounded(log_scale: Tensor) -> Tensor:
    """Keeps |log scale| below a limit, smoothly: no overflow, and a gradient everywhere."""
    return LOG_SCALE_LIMIT * torch.tanh(log_scale / LOG_SCALE_LIMIT)


class Normal(_ScaledNormal):
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
        return self._distribution(mean, _bounded(log_scale))


class SharedNormal(_ScaledNormal):
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
        return self._distribution(h, _bounded(self.log_scale))


class FixedNormal(_ScaledNormal):
    r"""Independent normals with a given deviation: `x_j ~ N(loc_j + scale_j h_j, std^2)`.

    Args:
        shape: event shape.
        std: the deviation, in data units.

    Raises:
        UserError: `std` is not positive.
    """

    def __init__(self, shape: Sequence[int], *, std: float = 1.0) -> None:
        super().__init__(shape)
        if not (std > 0 and math.isfinite(std)):
            raise UserError(f"FixedNormal: std={std} must be a positive number")
        self.std = std

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, h: Tensor) -> Factorized:
        log_std = torch.full_like(h, math.log(self.std))
        if self.scale is not None:
            log_std = log_std - self.scale.log().to(h.dtype)
        return self._distribution(h, log_std)
