"""Data: rows x with their mask, context and labels, and what they are.

Everything above this floor reads one type. x is in data units; a missing cell holds 0 and is False
in the mask (never NaN: it would survive multiplication by zero). The protocol names the benchmark,
split included, because numbers from different protocols must not be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latently.data.check import check, check_labels, check_levels, family_for
from latently.errors import UserError

__all__ = ["Binarise", "Data", "Index", "Redraw", "check_schema"]

Index = slice | Tensor | np.ndarray | Sequence[int]


class Redraw(Protocol):
    """Draws rows `(B, *shape)` anew at every use in training, from the global generator."""

    def __call__(self, x: Tensor) -> Tensor:
        """A fresh draw given x, of the same shape and dtype."""


@dataclass(frozen=True)
class Binarise:
    """Dynamic binarisation: a pixel of grey value x in [0, 1] is 1 with probability x."""

    def __call__(self, x: Tensor) -> Tensor:
        """Draw x' ~ Bernoulli(x)."""
        return (torch.rand_like(x) < x).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Data:
    """Rows of one kind, ready for a model.

    Args:
        x: `(n, *shape)` floats in data units: integers as floats for discrete sets, grey values in
            [0, 1] where `redraw` makes them binary, 0 where missing.
        family: Call expression of an observation model that fits, e.g. "Bernoulli".
        protocol: Name of the benchmark with its split, e.g. "digits/test", "table.npz/train".
        mask: `(n, *shape)` bool, True = observed; None if all are.
        context: `(n, C)` floats for models of p(x | c).
        labels: `(n,)` int64.
        levels: The data are integers 0..levels-1; None if they are continuous.
        redraw: Draws the rows anew at every use in training; None if they are fixed.

    Raises:
        UserError: Parts whose shapes do not belong together.

    >>> Data.from_array([[0.5, 1.5], [2.5, float("nan")]])
    Data('array': 2 rows of shape (2,), Normal, 1 missing)
    """

    x: Tensor
    family: str
    protocol: str
    mask: Tensor | None = None
    context: Tensor | None = None
    labels: Tensor | None = None
    levels: int | None = None
    redraw: Redraw | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        n = len(self.x)
        if not self.x.is_floating_point() or self.x.ndim < 2:
            raise UserError(
                f"{self.protocol}: x of dtype {self.x.dtype} and shape {tuple(self.x.shape)}; "
                "Data holds floats (n, *shape): build it with Data.from_array"
            )
        if self.mask is not None and (
            self.mask.dtype is not torch.bool or self.mask.shape != self.x.shape
        ):
            raise UserError(
                f"{self.protocol}: mask of dtype {self.mask.dtype} and shape "
                f"{tuple(self.mask.shape)}; it must be bool of x's shape {tuple(self.x.shape)}"
            )
        if self.context is not None and (self.context.ndim != 2 or len(self.context) != n):
            raise UserError(
                f"{self.protocol}: context of shape {tuple(self.context.shape)}; "
                f"it must be ({n}, columns), one row per row of x"
            )
        if self.labels is not None and self.labels.shape != (n,):
            raise UserError(
                f"{self.protocol}: labels of shape {tuple(self.labels.shape)}; they must be ({n},)"
            )

    @classmethod
    def from_array(
        cls,
        x: ArrayLike | Tensor,
        family: str | None = None,
        levels: int | None = None,
        protocol: str = "array",
        labels: ArrayLike | Tensor | None = None,
        missing: str = "allow",
    ) -> Data:
        """Data from a numpy array, a torch tensor or nested lists; NaN = missing.

        Family and levels follow the table of `latently.data.check` unless given. A given family
        leaves the levels as found: integers stay discrete data under a Normal, too.

        Raises:
            UserError: See `latently.data.check.check`.
        """
        found = check(x, levels=levels, missing=missing, where=protocol)
        return cls(
            x=found.x,
            family=family or family_for(found.levels),
            protocol=protocol,
            mask=found.mask,
            labels=None if labels is None else check_labels(labels, len(found.x), protocol),
            levels=found.levels,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.x.shape[1:])

    @property
    def discrete(self) -> bool:
        """Whether a model of these data gives probabilities rather than densities."""
        return self.levels is not None

    @property
    def missing(self) -> int:
        """How many cells are missing."""
        return 0 if self.mask is None else int((~self.mask).sum())

    @property
    def fully_observed(self) -> bool:
        """Whether no cell is missing."""
        return self.missing == 0

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.x)

    def __repr__(self) -> str:
        """One line, without the numbers."""
        holes = f", {self.missing} missing" if self.missing else ""
        rows = f"{len(self)} rows of shape {self.shape}"
        return f"Data({self.protocol!r}: {rows}, {self.family}{holes})"

    def rows(self, index: Index, protocol: str | None = None) -> Data:
        """The rows at `index` (positions, a boolean per row, or a slice), in that order."""
        at = index if isinstance(index, slice) else torch.as_tensor(index).reshape(-1)
        if isinstance(at, Tensor) and not len(at):
            at = slice(0, 0)
        return replace(
            self,
            x=self.x[at],
            mask=_take(self.mask, at),
            context=_take(self.context, at),
            labels=_take(self.labels, at),
            protocol=protocol or self.protocol,
        )

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x, mask and context for a training step; x drawn anew, from the global generator."""
        x = self.x[index]
        if self.redraw is not None:
            x = self.redraw(x)
        return x, _take(self.mask, index), _take(self.context, index)

    def once(self, seed: int = 0) -> Data:
        """The same data drawn once: what evaluation reads, where grey values have no meaning."""
        if self.redraw is None:
            return self
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)
            x = self.redraw(self.x.cpu()).to(self.x.device)
        return replace(self, x=x, redraw=None)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Data:
        """The data on `device`, x and context as `dtype`."""
        return replace(
            self,
            x=self.x.to(device=device, dtype=dtype),
            mask=None if self.mask is None else self.mask.to(device=device),
            context=None if self.context is None else self.context.to(device=device, dtype=dtype),
            labels=None if self.labels is None else self.labels.to(device=device),
        )

    def digest(self) -> str:
        """SHA-256 of x, mask, context and protocol: equal for equal data, on any device."""
        sha = hashlib.sha256(repr((self.protocol, self.redraw)).encode())
        for part in (self.x, self.mask, self.context):
            sha.update(b"none" if part is None else f"{part.dtype}{tuple(part.shape)}".encode())
            for chunk in () if part is None else part.split(4096):
                sha.update(chunk.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return sha.hexdigest()

    def to_schema(self) -> dict[str, Any]:
        """What a model file keeps of the data it was fitted on; JSON-able."""
        return {
            "shape": list(self.shape),
            "family": self.family,
            "levels": self.levels,
            "protocol": self.protocol,
        }


def check_schema(schema: Mapping[str, Any], data: Data) -> Data:
    """The data as a model fitted on `schema` reads them, with its levels and family.

    Levels read off a file are a guess (its largest value + 1), so values decide: what lies on the
    model's levels passes, and a continuous model takes any number. Binary data under a model of
    more levels are refused: 0 and 1 lie on any scale, and the answer would be silently wrong.

    Raises:
        UserError: Another shape, or values that are not the model's.
    """
    shape, levels, fitted = tuple(schema["shape"]), schema["levels"], schema["protocol"]
    if shape != data.shape:
        raise UserError(
            f"{data.protocol}: rows of shape {data.shape}, but the model was fitted on {fitted} "
            f"with rows of shape {shape}; reshape the data or fit a model on them"
        )
    if levels not in (None, 2) and data.levels == 2:
        raise UserError(
            f"{data.protocol}: binary data (2 levels), but the model was fitted on {fitted} with "
            f"{levels} levels; fit a model on them, or load them with levels={levels}"
        )
    if levels is not None and data.levels != levels:
        nan = None if data.mask is None else (~data.mask).cpu().numpy()
        where = f"{data.protocol} under a model of {fitted}"
        check_levels(data.x.cpu().numpy(), nan, levels, where)
    return replace(data, levels=levels, family=schema["family"])


def _take(part: Tensor | None, index: Tensor | slice) -> Tensor | None:
    return None if part is None else part[index]
