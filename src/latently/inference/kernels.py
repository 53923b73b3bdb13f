r"""Kernels, and the maximum mean discrepancy between two sets of draws.

    MMD^2(q, p) = E k(z, z') - 2 E k(z, y) + E k(y, y'),    z, z' ~ q,  y, y' ~ p

is 0 exactly where q = p, for the kernels here. Source: Gretton, Borgwardt, Rasch, Scholkopf,
Smola, "A Kernel Two-Sample Test", 2012.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.options import check_number

__all__ = ["RBF", "InverseMultiquadratic", "Kernel", "mmd"]


@dataclass(frozen=True)
class Kernel(ABC):
    r"""A kernel of `u = |z - y|^2 / (2 d h^2)`, with d coordinates and bandwidth h.

    For two draws of N(0, I) and h = 1, u is 1 on average in any number of coordinates: one
    bandwidth serves all.

    Args:
        bandwidth: h, in the unit of a coordinate, e.g. the prior's deviation.

    Raises:
        UserError: a bandwidth that is no positive number.
    """

    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "bandwidth")
        if not isinstance(self.bandwidth, int | float) or self.bandwidth <= 0:
            raise UserError(
                f"{type(self).__name__}: bandwidth={self.bandwidth!r} must be a positive number"
            )

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        """k of every pair, (*, n, d) and (*, m, d) to (*, n, m)."""
        # not by matrix products, which lose the small distances of far draws
        apart = torch.cdist(z, y, compute_mode="donot_use_mm_for_euclid_dist")
        return self.of((apart / self.bandwidth).square() / (2 * z.shape[-1]))

    @abstractmethod
    def of(self, u: Tensor) -> Tensor:
        """k as a function of u, elementwise; 1 at 0."""


@dataclass(frozen=True)
class RBF(Kernel):
    r"""The Gaussian kernel, `k = exp(-u)` with `u = |z - y|^2 / (2 d h^2)`.

    Draws much farther apart than the bandwidth do not feel each other.

    Args:
        bandwidth: h, in the unit of a coordinate, e.g. the prior's deviation.

    Raises:
        UserError: a bandwidth that is no positive number.

    >>> RBF()(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]))
    tensor([[0.3679]])
    """

    def of(self, u: Tensor) -> Tensor:
        return torch.exp(-u)


@dataclass(frozen=True)
class InverseMultiquadratic(Kernel):
    r"""The inverse multiquadratic kernel, `k = 1 / (1 + u)` with `u = |z - y|^2 / (2 d h^2)`.

    Its tails are heavy: far draws are still drawn in. In the letters of the source, which uses it
    for Wasserstein autoencoders, `C / (C + |z - y|^2)` with `C = 2 d h^2`. Source: Tolstikhin,
    Bousquet, Gelly, Scholkopf, "Wasserstein Auto-Encoders", 2018.

    Args:
        bandwidth: h, in the unit of a coordinate, e.g. the prior's deviation.

    Raises:
        UserError: a bandwidth that is no positive number.

    >>> InverseMultiquadratic()(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]))
    tensor([[0.5000]])
    """

    def of(self, u: Tensor) -> Tensor:
        return 1 / (1 + u)


def mmd(z: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    r"""The unbiased estimate of MMD^2 as shares of the z, (*, n), whose mean it is.

    `1/(n-1) sum_(j != i) k(z_i, z_j) - 2/m sum_j k(z_i, y_j) + mean_(i != j) k(y_i, y_j)`: the
    U-statistic, 0 in expectation for two sets of the same distribution, so at times below 0.

    Args:
        z: independent draws, (*, n, d).
        y: independent draws, (*, m, d).
        kernel: k.

    Raises:
        UserError: fewer than two draws on a side.
    """
    n, m = z.shape[-2], y.shape[-2]
    if min(n, m) < 2:
        raise UserError(f"mmd: {n} and {m} draws; it compares pairs, so give at least 2 of each")
    own = (kernel(z, z).sum(-1) - 1) / (n - 1)
    other = (kernel(y, y).sum((-2, -1)) - m) / (m * (m - 1))
    return own - 2 * kernel(z, y).mean(-1) + other.unsqueeze(-1)
