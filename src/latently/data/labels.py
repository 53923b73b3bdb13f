"""Labels that a model may see: few of them, or all that are known.

A label of -1, and NaN in a file, is one that nobody knows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from latently.data.base import Data
from latently.data.contexts import MAX_CLASSES, Context
from latently.errors import UserError

__all__ = ["UNKNOWN", "with_labels", "without_labels"]

UNKNOWN = -1


def with_labels(data: Data, labels: int | Literal["all"] = "all", seed: int = 0) -> Data:
    """The data with some labels as context: one-hot rows, all zeros where a label is hidden.

    The classes are those of all known labels, and each keeps the same number of labels; where
    `labels` is no multiple of their number, classes drawn by the seed keep one more. Which rows
    keep theirs is drawn by the seed, too.

    Args:
        data: rows with labels; -1 is unknown.
        labels: how many to keep, or "all".
        seed: of the draw.

    Raises:
        UserError: no labels, one class alone or more than 1,000, fewer labels than classes, more
            than there are, or than a class has for its share.

    >>> some = with_labels(Data.from_array([[0.0], [1.0], [2.0]], labels=[3, 5, -1]), 2)
    >>> some.context
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    known = _known(data)
    assert data.labels is not None
    classes = data.labels[known].unique().tolist()
    _check_classes(data, classes)
    context = Context("label", classes=tuple(classes))
    kept = known if labels == "all" else _balanced(data, known, classes, labels, seed)
    columns = torch.zeros(len(data), len(classes))
    columns[kept] = context.encode(data.labels[kept], data.protocol)
    return replace(data, context=columns, conditions=context)


def without_labels(data: Data) -> Data:
    """The data without a context: what a model of p(x) that may see labels is judged on."""
    return replace(data, context=None, conditions=None)


def _known(data: Data) -> Tensor:
    """Numbers of the rows whose label is known."""
    if data.labels is None:
        raise UserError(
            f"{data.protocol} has no labels; give a set that has some, or key y of a .npz, -1 "
            "where unknown"
        )
    known = (data.labels != UNKNOWN).nonzero()[:, 0]
    if not len(known):
        raise UserError(f"{data.protocol}: every label is {UNKNOWN}, unknown; give some")
    return known


def _check_classes(data: Data, classes: list[int]) -> None:
    if len(classes) == 1:
        raise UserError(
            f"{data.protocol}: all known labels are {classes[0]} ({UNKNOWN} is unknown); classes "
            "are at least 2"
        )
    if len(classes) > MAX_CLASSES:
        raise UserError(
            f"{data.protocol}: {len(classes):,} different labels; classes are at most "
            f"{MAX_CLASSES:,}"
        )


def _balanced(data: Data, known: Tensor, classes: list[int], labels: object, seed: int) -> Tensor:
    """Numbers of the rows that keep their label."""
    if isinstance(labels, bool) or not isinstance(labels, int):
        raise UserError(f"labels={labels!r} must be a whole number, or 'all'")
    if labels < len(classes):
        raise UserError(
            f"labels={labels} leaves some of the {len(classes)} classes of {data.protocol} "
            f"without any; keep at least {len(classes)}"
        )
    if labels > len(known):
        raise UserError(
            f"labels={labels} of {data.protocol}, which has {len(known)}; keep fewer, or 'all'"
        )
    assert data.labels is not None
    generator = torch.Generator().manual_seed(seed)
    order = known[torch.randperm(len(known), generator=generator)]
    least, more = divmod(labels, len(classes))
    extra = set(torch.randperm(len(classes), generator=generator)[:more].tolist())
    kept = []
    for number, label in enumerate(classes):
        share = least + (number in extra)
        own = order[data.labels[order] == label]
        if len(own) < share:
            raise UserError(
                f"labels={labels}: {share} of every class are kept, and {data.protocol} has "
                f"{len(own)} of class {label}; keep fewer, or 'all'"
            )
        kept.append(own[:share])
    return torch.cat(kept).sort().values
