"""Rows of which each is of one of several distributions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Size, Tensor

from latently.probability.distributions import Joint

__all__ = ["Chosen"]


class Chosen(Joint):
    """Rows of one component each: row n is of `member(index[n])`.

    Rows of a component are drawn, scored and summed up together, so that no parameter is copied
    for a row. Given observed cells, every pair of a row and a component is a member of its own,
    made when it is needed.

    Args:
        member: component k, a distribution of rows without batch.
        index: k of every row, of the batch shape.
        shape: of one row.
    """

    known_as = "Mixture"

    def __init__(
        self, member: Callable[[int], Joint], index: Tensor, shape: Sequence[int]
    ) -> None:
        self._member, self._index = functools.cache(member), index
        super().__init__(index.shape, Size(shape), validate_args=False)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells, in nats."""
        batch = torch.broadcast_shapes(self._index.shape, value.shape[: self._axis])
        rows = _flat(value, batch, self.event_shape)
        seen = None if mask is None else _flat(mask, batch, self.event_shape)

        def scored(d: Joint, which: Tensor) -> Tensor:
            return d.log_prob(rows[which], None if seen is None else seen[which])

        return self._by_member(scored, batch)

    def given(self, value: Tensor, mask: Tensor) -> Chosen:
        """Each row's component given its observed cells."""
        value, mask = torch.broadcast_tensors(torch.where(mask, value, 0.0), mask)
        rows = value.shape[: self._axis]
        both = torch.stack([value, mask.to(value.dtype)], self._axis - 1)
        both, number = both.reshape(-1, 2, *self.event_shape).unique(dim=0, return_inverse=True)
        values, masks = both[:, 0], both[:, 1] > 0
        kinds, index = torch.unique(
            self._index * len(values) + number.view(rows), return_inverse=True
        )

        def member(pair: int) -> Joint:
            k, row = divmod(int(kinds[pair]), len(values))
            return cast(Joint, self._member(k).given(values[row], masks[row]))

        return Chosen(member, index, self.event_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        batch = Size((*sample_shape, *self._index.shape))
        with torch.no_grad():
            return self._by_member(lambda d, which: d.sample((len(which),)), batch)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)` of each cell."""
        return self._of_cells("cdf", value)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles of each cell."""
        return self._of_cells("icdf", q)

    @property
    def mean(self) -> Tensor:
        """Mean, (*batch, *event)."""
        return self._by_member(lambda d, which: d.mean.expand(len(which), *d.event_shape))

    @property
    def mode(self) -> Tensor:
        """Mode, (*batch, *event)."""
        return self._by_member(lambda d, which: d.mode.expand(len(which), *d.event_shape))

    @property
    def variance(self) -> Tensor:
        """Variance of each cell, (*batch, *event)."""
        return self._by_member(lambda d, which: d.variance.expand(len(which), *d.event_shape))

    @property
    def _axis(self) -> int:
        return -len(self.event_shape)

    def _of_cells(self, name: str, value: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(self._index.shape, value.shape[: self._axis])
        rows = _flat(value, batch, self.event_shape)
        return self._by_member(lambda d, which: getattr(d, name)(rows[which]), batch)

    def _by_member(
        self, function: Callable[[Joint, Tensor], Tensor], batch: Size | None = None
    ) -> Tensor:
        """What a function gives of every member and the numbers of its rows, in their order."""
        index = self._index if batch is None else self._index.expand(batch)
        flat = index.flatten()
        order = flat.argsort(stable=True)
        kinds, counts = torch.unique_consecutive(flat[order], return_counts=True)
        parts = order.split(counts.tolist())
        found = [
            function(self._member(k), which)
            for k, which in zip(kinds.tolist(), parts, strict=True)
        ]
        joined = torch.cat(found)[order.argsort()]
        return joined.unflatten(0, index.shape)


def _flat(rows: Tensor, batch: Sequence[int], shape: Sequence[int]) -> Tensor:
    return rows.expand(*batch, *shape).reshape(-1, *shape)
