"""What is written into the holes of a table: of numbers, grades and names, by one rule each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latently.data import Data
from latently.data.tables import Frame, Schema
from latently.inference import Imputation

__all__ = ["chosen", "filled", "sought"]

_NAMES = ("categorical", "binary")  # nothing lies between two of them


def sought(schema: Schema, fill: str) -> Tensor:
    """The columns whose quantiles or modes `chosen` reads, (columns,): `impute(cells=...)`."""
    kinds = [column.kind for column in schema.modelled]
    told = [fill in ("median", "mode") or kind in (*_NAMES, "ordinal") for kind in kinds]
    return torch.tensor(told) & (fill != "draws")


def chosen(found: Imputation, schema: Schema, fill: str) -> Tensor:
    """One value for every cell, (n, columns).

    Args:
        found: imputations with the median last among their quantiles.
        schema: of the columns.
        fill: "mean", "median" or "mode": of names always the mode, and of ordered levels the
            median in place of the mean, which is no level.
    """
    median = found.quantiles[-1]
    named = found.mode if found.mode is not None else median
    single = {"mean": found.mean, "median": median, "mode": named}[fill].clone()
    for j, column in enumerate(schema.modelled):
        if column.kind in _NAMES:
            single[:, j] = named[:, j]
        elif column.kind == "ordinal" and fill == "mean":
            single[:, j] = median[:, j]
    return single


def filled(found: Imputation, data: Data, fill: str) -> tuple[list[Frame], tuple[str, ...]]:
    """The table with its holes filled, once or for every draw; observed cells as they came.

    Beside it stands a line for each thing that the reader should know of what was filled in.

    Args:
        found: imputations of the rows.
        data: the rows, with schema and table.
        fill: "draws", or what `chosen` takes.
    """
    schema, kept = data.table, found.mask.cpu()
    assert schema is not None
    if data.unknown is not None:
        kept = kept | data.unknown.cpu()
    rows = list(found.draws) if fill == "draws" else [chosen(found, schema, fill)]
    numbers, there = [x.cpu().double().numpy() for x in rows], kept.numpy()
    remarks = schema.remarks(np.concatenate(numbers), np.tile(there, (len(rows), 1)))
    return [schema.decode(x, like=data.frame, kept=there) for x in numbers], remarks
