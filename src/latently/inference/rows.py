"""Rows as `Model.infer` takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

__all__ = ["Rows"]


class Rows(NamedTuple):
    """Rows with what belongs to them.

    Attributes:
        x: (B, *X).
        mask: True where observed, (B, *X); None: everywhere.
        context: (B, C), for models of p(x|c).
    """

    x: Tensor
    mask: Tensor | None = None
    context: Tensor | None = None

    def part(self, which: slice | Tensor) -> Rows:
        """Some of them."""
        return Rows(
            self.x[which],
            None if self.mask is None else self.mask[which],
            None if self.context is None else self.context[which],
        )

    def singles(self) -> Iterator[Rows]:
        """Every row by itself."""
        return (self.part(slice(i, i + 1)) for i in range(len(self.x)))
