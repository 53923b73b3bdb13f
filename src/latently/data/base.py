"""Data: rows x with their mask, context and labels, and what they are.

Everything above this floor reads one type. x is in data units; a missing cell holds 0 and is False
in the mask (never NaN: it would survive multiplication by zero). The protocol names the benchmark,
split included, because numbers from different protocols must not be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latently.data.check import check, check_labels, family_for
from latently.data.contexts import Context
from latently.data.masks import Mask
from latently.data.tables import Frame, Schema, as_frame
from latently.errors import UserError

__all__ = ["Binarise", "Data", "Index", "Redraw"]

_LOST = 1e-5  # of a column's deviation, which rounding to float32 may move a value
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
        conditions: What the columns of `context` mean; None if that is the user's affair.
        hide: Draws holes anew at every use in training, besides those of `mask`; None if there
            are none. `x` keeps the values under them.
        reading: How `load` read the rows, JSON-able: "binarise", "grey_levels", "split" and
            "classes" where they say something. The schema keeps it, so that `like=` reads others
            in the same way.
        table: What the columns of a table are; None for other data.
        frame: The table as it came, for `Schema.decode`; None where nobody will ask.
        unknown: `(n, D)` bool, cells of a table whose values the schema does not know. They count
            as missing, and stay as they are where holes are filled; None if there are none.
        notices: What reading the table decided, a line each.

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
    conditions: Context | None = None
    hide: Mask | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    table: Schema | None = None
    frame: Frame | None = None
    unknown: Tensor | None = None
    notices: tuple[str, ...] = ()

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
        if self.unknown is not None and self.unknown.shape != self.x.shape:
            raise UserError(
                f"{self.protocol}: unknown of shape {tuple(self.unknown.shape)}; it must be of "
                f"x's shape {tuple(self.x.shape)}"
            )
        width = None if self.context is None else self.context.shape[1]
        if self.conditions is not None and self.conditions.width != width:
            raise UserError(
                f"{self.protocol}: context {self.conditions.name!r} has {self.conditions.width} "
                f"columns, but there are {width or 'none'}; encode it with conditions.encode"
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

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        schema: Schema | None = None,
        protocol: str = "table",
        *,
        kinds: Mapping[str, str] | None = None,
        missing: str = "allow",
    ) -> Data:
        """Data from a table: pandas, polars or pyarrow, a dict of columns, or a `Frame`.

        Args:
            frame: The rows.
            schema: What the columns are; None: inferred from the rows (`Schema.infer`).
            protocol: Name of the rows.
            kinds: Kinds of columns by name where the inferred ones are wrong.
            missing: "allow", or "refuse" for an error.

        Raises:
            UserError: What `Schema` refuses; missing cells that are refused; schema and kinds.

        >>> Data.from_frame({"age": [31.5, None, 28.0], "smokes": ["no", "no", "yes"]})
        Data('table': 3 rows of 2 columns, 1 missing)
        """
        if missing not in ("allow", "refuse"):
            raise UserError(f"missing={missing!r} must be 'allow' or 'refuse'")
        if schema is not None and not isinstance(schema, Schema):
            raise UserError(
                f"schema is a {type(schema).__name__}; give a Schema, such as data.table or "
                "Schema.from_json(json.load(file))"
            )
        if not isinstance(kinds, Mapping | None):
            raise UserError(f"kinds={kinds!r} must be a dict of columns and their kinds")
        if schema is not None and kinds:
            raise UserError(
                f"{protocol}: kinds={dict(kinds)!r} beside a schema, which says what columns are; "
                "give one of them"
            )
        frame = as_frame(frame, source=protocol)
        told = frame.notices
        if schema is None:
            schema = Schema.infer(frame, kinds=kinds)
            told += schema.notices
        x, mask, present, strange = schema.encode(frame)
        if missing == "refuse" and not mask.all():
            row, column = np.argwhere(~mask)[0]
            raise UserError(
                f"{protocol}: {int((~mask).sum())} cells are missing, the first in row {row}, "
                f"column {schema.names[column]!r}; fill them or allow missing values"
            )
        unknown = present & ~mask
        return cls(
            x=torch.from_numpy(_narrow(x, mask)),
            family=schema.family,
            protocol=protocol,
            mask=None if mask.all() else torch.from_numpy(mask),
            table=schema,
            frame=frame,
            unknown=torch.from_numpy(unknown) if unknown.any() else None,
            notices=(*told, *strange),
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
        """How many cells are missing; with `hide`, in the draw of `once()`."""
        if self.hide is not None:
            return self.hidden(self.hide).missing
        return 0 if self.mask is None else int((~self.mask).sum())

    @property
    def fully_observed(self) -> bool:
        """Whether no cell is missing, and none will be hidden."""
        return self.hide is None and self.missing == 0

    def label_name(self, label: float | Tensor) -> str:
        """What a label is called: the folder its pictures lay in, or its number."""
        names = self.reading.get("classes", ())
        return str(names[int(label)]) if int(label) in range(len(names)) else str(int(label))

    def told(self, text: str) -> str:
        """What a model says of these rows: of a table with names in place of columns' numbers.

        >>> Data.from_frame({"age": [31, 28, 50], "sex": ["f", "m", "f"]}).told("column 1 is odd")
        "column 'sex' is odd"
        """
        return text if self.table is None else self.table.told(text)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.x)

    def __repr__(self) -> str:
        """One line, without the numbers."""
        holes = f", {self.missing} missing" if self.missing else ""
        if self.table is not None:
            return f"Data({self.protocol!r}: {len(self)} rows of {self.shape[0]} columns{holes})"
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
            frame=None if self.frame is None else self.frame.take(_positions(at, len(self))),
            unknown=_take(self.unknown, at),
            protocol=protocol or self.protocol,
        )

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x, mask and context for a training step; drawn anew, from the global generator.

        Values are drawn by `redraw`, then holes by `hide`, in which x is 0.
        """
        x, mask = self.x[index], _take(self.mask, index)
        if self.redraw is not None:
            x = self.redraw(x)
        if self.hide is not None:
            mask = self.hide.within(mask, len(x), self.shape, device=x.device)
            x = x.masked_fill(~mask, 0)
        return x, mask, _take(self.context, index)

    def hidden(self, mask: Mask, seed: int = 0) -> Data:
        """The same data with the cells that `mask` hides removed, besides those missing already.

        The holes are drawn once, by `seed`; `hide` is dropped. The protocol's name stays: numbers
        of `log p(x observed)` compare between equal masks and seeds only.

        Raises:
            UserError: Rows of a shape that the mask cannot be drawn on.

        >>> from latently.data.masks import MCAR
        >>> Data.from_array([[0.5, 1.5], [2.5, 3.5]]).hidden(MCAR(0.5), seed=1)
        Data('array': 2 rows of shape (2,), Normal, 1 missing)
        """
        own = None if self.mask is None else self.mask.cpu()
        drawn = mask(len(self), self.shape, seed, own).to(self.x.device)
        return replace(self, x=self.x.masked_fill(~drawn, 0), mask=drawn, hide=None)

    def once(self, seed: int = 0) -> Data:
        """The same data drawn once: what evaluation reads, where grey values have no meaning.

        Values are drawn by `redraw`; holes by `hide`, as `hidden(hide, seed)` draws them.
        """
        if self.redraw is None:
            return self if self.hide is None else self.hidden(self.hide, seed)
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)
            x = self.redraw(self.x.cpu()).to(self.x.device)
        return replace(self, x=x, redraw=None).once(seed)

    def short(self) -> Data:
        """The data with x in float32, if that tells its values apart; else as they are."""
        x = self.x.flatten(1)
        seen = torch.ones_like(x, dtype=torch.bool) if self.mask is None else self.mask.flatten(1)
        narrow = _narrow(x.double().cpu().numpy(), seen.cpu().numpy())
        return self.to(dtype=torch.float32) if narrow.dtype == np.float32 else self

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Data:
        """The data on `device`, x and context as `dtype`."""
        return replace(
            self,
            x=self.x.to(device=device, dtype=dtype),
            mask=None if self.mask is None else self.mask.to(device=device),
            unknown=None if self.unknown is None else self.unknown.to(device=device),
            context=None if self.context is None else self.context.to(device=device, dtype=dtype),
            labels=None if self.labels is None else self.labels.to(device=device),
        )

    def digest(self) -> str:
        """SHA-256 of x, mask, context and protocol: equal for equal data, on any device.

        `redraw`, `hide` and `conditions` count, where there are any.
        """
        named = tuple(part for part in (self.conditions, self.hide) if part is not None)
        sha = hashlib.sha256(repr((self.protocol, self.redraw, *named)).encode())
        for part in (self.x, self.mask, self.context):
            sha.update(b"none" if part is None else f"{part.dtype}{tuple(part.shape)}".encode())
            for chunk in () if part is None else part.split(4096):
                sha.update(chunk.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return sha.hexdigest()

    def to_schema(self) -> dict[str, Any]:
        """What a model file keeps of the data it was fitted on; JSON-able.

        Shape, family, levels and protocol; what `reading` holds; "context" where its columns have
        a meaning; and "table", the schema of a table's columns.
        """
        schema: dict[str, Any] = {
            **self.reading,
            "shape": list(self.shape),
            "family": self.family,
            "levels": self.levels,
            "protocol": self.protocol,
        }
        if self.conditions is not None:
            schema["context"] = self.conditions.to_schema()
        if self.table is not None:
            schema["table"] = self.table.to_json()
        return schema


def _positions(at: Tensor | slice, n: int) -> np.ndarray:
    """Numbers of the rows that an index takes."""
    return np.arange(n)[at if isinstance(at, slice) else at.cpu().numpy()]


def _narrow(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The table in float32, if that tells its values apart: dates a second apart need float64."""
    with np.errstate(over="ignore"):
        short = x.astype(np.float32)
    count = mask.sum(0).clip(min=1)
    mean = np.where(mask, x, 0).sum(0) / count
    spread = np.sqrt(np.where(mask, (x - mean) ** 2, 0).sum(0) / count)
    lost = np.abs(np.where(mask, short - x, 0)).max(0, initial=0)
    return short if bool((lost <= _LOST * spread).all()) else x


def _take(part: Tensor | None, index: Tensor | slice) -> Tensor | None:
    return None if part is None else part[index]
