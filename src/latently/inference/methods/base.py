"""What a method is: rows in, log p(x) of every row out, with its errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor

from latently.inference.rows import Rows

__all__ = ["BLOCK_VALUES", "MAX_BLOCK", "Kind", "Method", "Progress", "Scores", "block_of"]

Kind = Literal["exact", "lower_bound", "estimate"]
Progress = Callable[[int, int], None]

BLOCK_VALUES = 2**19  # observed values decoded at once: 2 MiB in float32, whatever K is
MAX_BLOCK = 4096


class Scores(NamedTuple):
    """Per-row results of a method: nats, Monte Carlo variance, ESS and k-hat of the weights.

    `notes` say why the method doubts them, a line each.
    """

    values: Tensor
    mc_variance: Tensor
    ess: Tensor | None
    k_hat: Tensor | None
    notes: tuple[str, ...] = ()


class Method(ABC):
    """A way to compute log p(x)."""

    kind: ClassVar[Kind]

    @property
    @abstractmethod
    def name(self) -> str:
        """What is printed beside every number."""

    @property
    def weighs(self) -> bool:
        """Whether values are means of importance weights: exact where every weight is p(x)."""
        return False

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        """Scores of every row of x, (B, *X)."""
        return self.scores(model, Rows(x, mask, context), seed=seed, progress=progress)

    @abstractmethod
    def scores(
        self,
        model: Any,
        rows: Rows,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        """Scores of every row."""


def block_of(x: Tensor) -> int:
    """Latents of one row x decoded at once: a number fixed by the shape of a row."""
    return max(1, min(BLOCK_VALUES // x.numel(), MAX_BLOCK))
