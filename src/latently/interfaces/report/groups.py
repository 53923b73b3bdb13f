"""Groups of rows that a figure can tell apart: by label, by context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from latently.data import Data
from latently.data.contexts import Context
from latently.interfaces.report.numbers import significant

__all__ = ["MOST", "Grouping", "groupings"]

MOST = 12  # colours in the page's style sheet
_BINS = 5  # colours for numbers


@dataclass(frozen=True)
class Grouping:
    """To which group each row belongs.

    Attributes:
        title: what tells the groups apart: "label", or the name of the context.
        names: of the groups.
        index: the group of each row, (n,).
        ordered: the groups are ranges of a number, to be coloured in order.
        note: what a reader should know, "" if nothing.
    """

    title: str
    names: tuple[str, ...]
    index: Tensor
    ordered: bool = False
    note: str = ""


def groupings(data: Data, n: int) -> list[Grouping]:
    """By label and by context, as far as there are any; else one group of the first n rows."""
    found = [_by_label(data, n), _by_context(data, n)]
    known = [grouping for grouping in found if grouping is not None]
    told = [g for g in known if len(g.names) > 1 or g.note]
    if len(told) == 2 and _same(*told):
        told.pop()
    return told or [Grouping("", ("",), torch.zeros(n, dtype=torch.int64))]


def _by_label(data: Data, n: int) -> Grouping | None:
    if data.labels is None:
        return None
    values, index = data.labels[:n].unique(return_inverse=True)
    return _classes("label", [data.label_name(value) for value in values], index)


def _by_context(data: Data, n: int) -> Grouping | None:
    conditions = data.conditions
    if data.context is None or conditions is None:
        return None
    context = data.context[:n]
    if not conditions.classes:
        return _ranges(conditions, context[:, 0]) if context.shape[1] == 1 else None
    index = context.argmax(1)
    seen, index = index.unique(return_inverse=True)
    name = data.label_name if conditions.name == "label" else str
    return _classes(conditions.name, [name(conditions.classes[int(i)]) for i in seen], index)


def _classes(title: str, names: Sequence[str], index: Tensor) -> Grouping:
    if len(names) <= MOST:
        return Grouping(title, tuple(names), index)
    note = f"{len(names)} different values of {title}, too many to tell apart by colour."
    return Grouping("", ("",), torch.zeros_like(index), note=note)


def _ranges(conditions: Context, values: Tensor) -> Grouping:
    """Ranges of a number that hold about as many rows each."""
    levels = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)[1:-1]
    edges = torch.quantile(values.double(), levels).unique()
    index = torch.bucketize(values.double(), edges)
    loc, scale = conditions.loc[0], conditions.scale[0]
    shown = [significant(float(edge) * scale + loc) for edge in edges]
    between = [f"{a} to {b}" for a, b in pairwise(shown)]
    names = [f"≤ {shown[0]}", *between, f"> {shown[-1]}"]
    seen, index = index.unique(return_inverse=True)
    kept = tuple(names[int(i)] for i in seen)
    return Grouping(conditions.name, kept, index, ordered=True)


def _same(a: Grouping, b: Grouping) -> bool:
    """Whether two groupings put the same rows together."""
    both = torch.stack([a.index, b.index]).unique(dim=1).shape[1]
    return both == len(a.names) == len(b.names)
