"""Contexts: what the columns c of a model of p(x | c) mean.

A class becomes a one-hot vector over the classes of the training rows, a number is standardised,
`c = (value - loc) / scale`, by their mean and standard deviation. The training rows fix the
meaning: validation, test and the command line are encoded by the same `Context`, which a model
file keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latently.errors import UserError

__all__ = ["Context"]

MAX_CLASSES = 1000
_MAX_COLUMNS = 10_000


@dataclass(frozen=True)
class Context:
    r"""The meaning of context columns: classes as one-hot vectors, or standardised numbers.

    `c_j = [value = classes_j]`, or `c_j = (value_j - loc_j) / scale_j`.

    Args:
        name: What it is called: "label", or the key of an array.
        classes: The classes seen in training, in ascending order; () for numbers.
        loc: Mean of each column over the training rows; () for classes.
        scale: Standard deviation of each column, 1 where it is 0; () for classes.

    Raises:
        UserError: Neither classes nor numbers, or classes, locs and scales that make no sense.

    >>> digit = Context.of("label", [7, 0, 7, 3])
    >>> digit
    Context(name='label', classes=(0, 3, 7), loc=(), scale=())
    >>> digit.parse("7")
    tensor([[0., 0., 1.]])
    >>> Context.of("age", [20.0, 40.0]).parse("50")
    tensor([[2.]])
    """

    name: str
    classes: tuple[int, ...] = ()
    loc: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if not isinstance(self.name, str) or not self.name.isprintable() or len(self.name) > 100:
            raise UserError(
                f"context name {str(self.name)[:40]!r}: it must be a printable text of at most "
                "100 characters"
            )
        _check_classes(self.name, self.classes)
        _check_numbers(self.name, self.loc, self.scale)
        if bool(self.classes) == bool(self.loc):
            raise UserError(
                f"context {self.name!r}: give classes, or loc and scale; "
                "Context.of(name, values) reads them off values"
            )

    @classmethod
    def of(cls, name: str, values: ArrayLike | Tensor) -> Context:
        """Read the meaning off the values of the training rows, `(n,)` or `(n, C)`.

        One column of integers with at most 1,000 distinct values is a class, all else numbers.

        Raises:
            UserError: Values that are not finite numbers, or no rows.
        """
        columns = _columns(values, f"context {name!r}")
        if _holds_integers(values) and columns.shape[1] == 1:
            classes = np.unique(columns)
            if len(classes) <= MAX_CLASSES:
                return cls(name, classes=tuple(int(value) for value in classes))
        with np.errstate(over="ignore", invalid="ignore"):
            loc, scale = columns.mean(0), columns.std(0)
        return cls(
            name,
            loc=tuple(map(float, loc)),
            # a column of equal numbers has a deviation of rounding errors at best
            scale=tuple(map(float, np.where(scale > 1e-12 * np.abs(loc), scale, 1.0))),
        )

    @property
    def width(self) -> int:
        """How many columns the encoded context has."""
        return len(self.classes) or len(self.loc)

    def encode(self, values: ArrayLike | Tensor, where: str = "array") -> Tensor:
        """The columns `(n, width)`, float32, of values `(n,)` or `(n, C)`.

        Raises:
            UserError: A class not seen in training, another number of columns, values that are not
                finite numbers.

        >>> Context("label", classes=(0, 3, 7)).encode([3, 0])
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
        """
        columns = _columns(values, f"{where}: context {self.name!r}")
        inputs = 1 if self.classes else self.width
        if columns.shape[1] != inputs:
            raise UserError(
                f"{where}: context {self.name!r} has {columns.shape[1]} "
                f"column{'s' * (columns.shape[1] > 1)}, the training rows had {inputs}"
            )
        return (
            self._one_hot(columns[:, 0], where) if self.classes else self._scaled(columns, where)
        )

    def parse(self, text: str) -> Tensor:
        """The columns `(1, width)` of a value as typed: a class, or numbers with commas between.

        Raises:
            UserError: Text that is no such value.

        >>> Context("pose", loc=(0.0, 1.0), scale=(1.0, 2.0)).parse("0.5, 2")
        tensor([[0.5000, 0.5000]])
        """
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            raise UserError(f"context {text[:40]!r}: {self.usage()}") from None
        if self.classes and len(values) > 1:
            raise UserError(f"context {text[:40]!r}: {self.usage()}")
        if self.classes and values[0] not in self.classes:
            raise UserError(f"context {text[:40]!r}: {self.usage()}")
        return self.encode([values], "command line")

    def show(self, row: Tensor) -> str:
        """The text that `parse` turns into this row, `(width,)` or `(1, width)`.

        >>> Context("label", classes=(0, 3, 7)).show(torch.tensor([0.0, 0.0, 1.0]))
        '7'
        """
        values = row.detach().cpu().double().reshape(-1)
        if len(values) != self.width:
            raise UserError(
                f"context {self.name!r}: a row of {len(values)} values, not {self.width}; "
                "encode it first"
            )
        if self.classes:
            return str(self.classes[int(values.argmax())])
        columns = zip(values.tolist(), self.loc, self.scale, strict=True)
        return ",".join(_shown(value * scale + loc, scale) for value, loc, scale in columns)

    def to_schema(self) -> dict[str, Any]:
        """What a model file keeps; JSON-able, and read by `from_schema`."""
        if self.classes:
            return {"name": self.name, "classes": list(self.classes)}
        return {"name": self.name, "loc": list(self.loc), "scale": list(self.scale)}

    @classmethod
    def from_schema(cls, schema: object) -> Context:
        """The context that a model file describes.

        Raises:
            UserError: Anything but what `to_schema` writes.

        >>> Context.from_schema({"name": "label", "classes": [0, 1]})
        Context(name='label', classes=(0, 1), loc=(), scale=())
        """
        if not isinstance(schema, Mapping) or not set(schema) <= {
            "name",
            "classes",
            "loc",
            "scale",
        }:
            raise UserError("the context of this file is damaged; save the model again")
        parts = {key: schema.get(key, []) for key in ("classes", "loc", "scale")}
        if not all(
            isinstance(part, list) and len(part) <= _MAX_COLUMNS for part in parts.values()
        ):
            raise UserError("the context of this file is damaged; save the model again")
        return cls(schema.get("name", ""), **{key: tuple(part) for key, part in parts.items()})

    def _one_hot(self, values: np.ndarray, where: str) -> Tensor:
        classes = np.asarray(self.classes, dtype=np.float64)
        at = np.searchsorted(classes, values).clip(max=len(classes) - 1)
        unseen = classes[at] != values
        if unseen.any():
            row = int(unseen.argmax())
            raise UserError(
                f"{where}: context {self.name!r} is {values[row]:.12g} in row {row} (counted from "
                f"0), which no training row had; known: {self._known()}"
            )
        return torch.nn.functional.one_hot(torch.from_numpy(at), len(classes)).float()

    def _scaled(self, columns: np.ndarray, where: str) -> Tensor:
        with np.errstate(over="ignore"):
            scaled = ((columns - self.loc) / self.scale).astype(np.float32)
        huge = ~np.isfinite(scaled)
        if huge.any():
            row, column = np.argwhere(huge)[0]
            raise UserError(
                f"{where}: context {self.name!r} is {columns[row, column]:g} in row {row}, "
                f"column {column} (counted from 0), out of all proportion to the training rows"
            )
        return torch.from_numpy(scaled)

    def _known(self) -> str:
        shown = ", ".join(map(str, self.classes[:20]))
        return f"{shown}, ... ({len(self.classes)} in all)" if len(self.classes) > 20 else shown

    def usage(self) -> str:
        """What `parse` takes, in words."""
        if self.classes:
            return f"{self.name!r} is one of {self._known()}"
        return f"{self.name!r} is {self.width} number{'s' * (self.width > 1)}, commas between"


def _holds_integers(values: ArrayLike | Tensor) -> bool:
    if isinstance(values, Tensor):
        return not values.is_floating_point()
    return np.asarray(values).dtype.kind in "biu"


def _columns(values: ArrayLike | Tensor, where: str) -> np.ndarray:
    """Values as float64 columns (n, C), finite."""
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (ValueError, TypeError):
        raise UserError(f"{where}: rows of unlike length; give (n,) or (n, C) numbers") from None
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"{where}: holds {str(array.dtype)[:40]}, not numbers; encode classes as 0, 1, 2, ..."
        )
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise UserError(f"{where}: shape {array.shape}; give (n,) or (n, C) numbers")
    columns = array.astype(np.float64).reshape(len(array), -1)
    bad = ~np.isfinite(columns)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{where}: {columns[row, column]} in row {row}, column {column} (counted from 0); a "
            "context is known for every row: remove the row or fill it"
        )
    return columns


def _check_classes(name: str, classes: tuple[int, ...]) -> None:
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in classes)
    # beyond 2^53 a float cannot tell two classes apart
    if not whole or len(classes) > MAX_CLASSES or any(abs(value) >= 2**53 for value in classes):
        raise UserError(
            f"context {name!r}: classes are at most {MAX_CLASSES} whole numbers within +-2^53"
        )
    if any(b <= a for a, b in pairwise(classes)):
        raise UserError(f"context {name!r}: classes must be distinct and in ascending order")


def _check_numbers(name: str, loc: tuple[float, ...], scale: tuple[float, ...]) -> None:
    numbers = all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300
        for value in (*loc, *scale)
    )
    if not numbers or len(loc) != len(scale) or any(not value > 0 for value in scale):
        raise UserError(
            f"context {name!r}: loc and scale are finite numbers, one of each for every column, "
            "scale above 0"
        )


def _shown(value: float, scale: float) -> str:
    # as many digits as float32 columns hold
    text = repr(round(value, 5 - math.floor(math.log10(scale))))
    return text.removesuffix(".0")
