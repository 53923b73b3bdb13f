"""A distribution that holds one value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["Point"]


class Point(Distribution):
    """All mass at one value of (*batch, *event): every draw, the mean and the mode are it.

    It has no density. `log_prob` is the log of its mass, 0 at the value and minus infinity
    elsewhere, in nats.

    >>> Point(torch.tensor([[1.0, 2.0]]), 1).sample((3,)).shape
    torch.Size([3, 1, 2])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.real

    def __init__(self, value: Tensor, ndim: int) -> None:
        self.value, cut = value, value.dim() - ndim
        super().__init__(value.shape[:cut], value.shape[cut:], validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The value, for every draw, with its gradient."""
        return self.value.expand(*sample_shape, *self.value.shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The value, for every draw."""
        return self.rsample(sample_shape).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log of the mass at a value, (*batch), in nats."""
        same = value == self.value
        same = same.flatten(same.dim() - len(self.event_shape)).all(-1)
        return torch.zeros_like(same, dtype=self.value.dtype).masked_fill(~same, -torch.inf)

    def cell_log_prob(self, value: Tensor) -> Tensor:
        """Log of the mass of every cell, (*batch, *event), in nats."""
        return torch.zeros_like(self.value).masked_fill(value != self.value, -torch.inf)

    @property
    def mean(self) -> Tensor:
        """The value."""
        return self.value

    @property
    def mode(self) -> Tensor:
        """The value."""
        return self.value

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.value)
