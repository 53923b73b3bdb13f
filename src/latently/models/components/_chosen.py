"""Rows of which each is of one of several distributions."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Size, Tensor

from latently.probability.distributions import Joint

__all__ = ["Chosen"]

_AT_ONCE = 2**25  # numbers in the matrices of rows that are conditioned together


class _Parted(Joint):
    """Rows in parts, one for each of some joint distributions."""

    known_as = "Mixture"

    @abstractmethod
    def _each(self, function: Callable[[Joint, Tensor], Tensor]) -> Tensor:
        """What a function gives of every part and the numbers of its rows, in their order."""

    @abstractmethod
    def _of_cells(self, name: str, value: Tensor) -> Tensor:
        """What the parts' method of that name gives of values of the cells."""

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)` of each cell."""
        return self._of_cells("cdf", value)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles of each cell."""
        return self._of_cells("icdf", q)

    @property
    def mean(self) -> Tensor:
        """Mean, (*batch, *event)."""
        return self._each(lambda d, which: d.mean.expand(len(which), *self.event_shape))

    @property
    def mode(self) -> Tensor:
        """Mode, (*batch, *event)."""
        return self._each(lambda d, which: d.mode.expand(len(which), *self.event_shape))

    @property
    def variance(self) -> Tensor:
        """Variance of each cell, (*batch, *event)."""
        return self._each(lambda d, which: d.variance.expand(len(which), *self.event_shape))


class Chosen(_Parted):
    """Rows of one component each: row n is of `member(index[n])`.

    Rows of a component are drawn, scored and summed up together, so that no parameter is copied
    for a row.

    Args:
        member: component k, a distribution of rows without batch.
        index: k of every row, of the batch shape.
        shape: of one row.
    """

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

        return self._each(scored, batch)

    def given(self, value: Tensor, mask: Tensor) -> Joint:
        """Each row's component given its observed cells.

        A single row of values conditions every component once, when it is needed; of several rows
        those of a component are conditioned together, and a single mask is factorised once.
        """
        value = torch.where(mask, value, 0.0)
        given = (value, mask)
        batch = torch.broadcast_shapes(self._index.shape, *(t.shape[: self._axis] for t in given))
        single = [t.numel() == self.event_shape.numel() for t in given]
        if all(single):
            row, seen = (t.view(self.event_shape) for t in given)
            member = functools.partial(_member_given, self._member, row, seen)
            return Chosen(member, self._index.expand(batch), self.event_shape)
        rows = _flat(value, batch, self.event_shape)
        masks = (
            mask.view(1, *self.event_shape) if single[1] else _flat(mask, batch, self.event_shape)
        )
        parts: list[tuple[Joint, Tensor]] = []
        for k, every in self._parts(self._index.expand(batch)):
            for which in every.split(max(1, _AT_ONCE // self.event_shape.numel() ** 2)):
                seen = masks if single[1] else masks[which]
                parts.append((cast(Joint, self._member(k).given(rows[which], seen)), which))
        return _Apart(parts, batch, self.event_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        batch = Size((*sample_shape, *self._index.shape))
        with torch.no_grad():
            return self._each(lambda d, which: d.sample((len(which),)), batch)

    @property
    def _axis(self) -> int:
        return -len(self.event_shape)

    def _of_cells(self, name: str, value: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(self._index.shape, value.shape[: self._axis])
        rows = _flat(value, batch, self.event_shape)
        return self._each(lambda d, which: getattr(d, name)(rows[which]), batch)

    def _each(
        self, function: Callable[[Joint, Tensor], Tensor], batch: Size | None = None
    ) -> Tensor:
        index = self._index if batch is None else self._index.expand(batch)
        parts = [(function(self._member(k), which), which) for k, which in self._parts(index)]
        return _joined(parts, index.shape)

    def _parts(self, index: Tensor) -> list[tuple[int, Tensor]]:
        """Every member in use with the numbers of its rows."""
        flat = index.flatten()
        order = flat.argsort(stable=True)
        kinds, counts = torch.unique_consecutive(flat[order], return_counts=True)
        return list(zip(kinds.tolist(), order.split(counts.tolist()), strict=True))


class _Apart(_Parted):
    """Rows in parts, each of a joint distribution of as many rows as it has.

    Args:
        parts: distributions of batch shape (m,), or () where all m rows are alike, with the
            numbers of their rows, (m,).
        batch: of all rows.
        shape: of one row.
    """

    def __init__(
        self, parts: Sequence[tuple[Joint, Tensor]], batch: Size, shape: Sequence[int]
    ) -> None:
        self._members = parts
        super().__init__(batch, Size(shape), validate_args=False)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells, in nats."""
        rows, lead = self._leading(value)
        seen = None if mask is None else self._leading(mask.expand_as(value))[0]

        def scored(d: Joint, which: Tensor) -> Tensor:
            return d.log_prob(rows[:, which], None if seen is None else seen[:, which]).mT

        return self._each(scored).movedim(-1, 0).reshape(*lead, *self.batch_shape)

    def given(self, value: Tensor, mask: Tensor) -> Joint:
        """Each row given more of its cells."""
        rows, seen = (_flat(t, self.batch_shape, self.event_shape) for t in (value, mask))
        parts = [(cast(Joint, d.given(rows[i], seen[i])), i) for d, i in self._members]
        return _Apart(parts, self.batch_shape, self.event_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        n = Size(sample_shape).numel()

        def drawn(d: Joint, which: Tensor) -> Tensor:
            x = d.sample((n,)) if d.batch_shape else d.sample((n, len(which)))
            return x.transpose(0, 1)

        x = self._each(drawn).movedim(len(self.batch_shape), 0)
        return x.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def _of_cells(self, name: str, value: Tensor) -> Tensor:
        rows, lead = self._leading(value)
        found = self._each(lambda d, which: getattr(d, name)(rows[:, which]).transpose(0, 1))
        found = found.movedim(len(self.batch_shape), 0)
        return found.reshape(*lead, *self.batch_shape, *self.event_shape)

    def _leading(self, value: Tensor) -> tuple[Tensor, Size]:
        """Values (L, n, *event) of all n rows, and the axes before those of the batch."""
        whole = Size((*self.batch_shape, *self.event_shape))
        shape = torch.broadcast_shapes(value.shape, whole)
        lead = shape[: len(shape) - len(whole)]
        return value.expand(shape).reshape(lead.numel(), -1, *self.event_shape), lead

    def _each(self, function: Callable[[Joint, Tensor], Tensor]) -> Tensor:
        parts = [(function(d, which), which) for d, which in self._members]
        return _joined(parts, self.batch_shape)


def _member_given(member: Callable[[int], Joint], row: Tensor, seen: Tensor, k: int) -> Joint:
    return cast(Joint, member(k).given(row, seen))


def _joined(parts: Sequence[tuple[Tensor, Tensor]], batch: Size) -> Tensor:
    """What was found of the rows of every part, in the order of the rows."""
    found, places = (torch.cat(each) for each in zip(*parts, strict=True))
    return found[places.argsort()].unflatten(0, batch)


def _flat(rows: Tensor, batch: Sequence[int], shape: Sequence[int]) -> Tensor:
    return rows.expand(*batch, *shape).reshape(-1, *shape)
