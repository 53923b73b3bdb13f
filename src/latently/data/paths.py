"""From a path to rows: read whole, then made binary, given context values, and split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latently.data import binarise as binary
from latently.data import files
from latently.data.base import Data
from latently.data.options import Options
from latently.data.partition import part
from latently.data.source import SPLITS
from latently.data.tables import Frame
from latently.errors import UserError

__all__ = ["HELD_OUT", "check_kinds", "read_path", "rows", "with_values"]

HELD_OUT = ("validation", "test")


def read_path(path: Path, options: Options) -> Data:
    """All rows of a path, with the values of the context as they are.

    Raises:
        UserError: See `latently.data.files.read`; bad values, or no such context.
    """
    raw, name = files.read(path, options.classes), _name_of(path)
    if raw.frame is not None:
        return _table(raw.frame, name, options)
    check_kinds(options, name)
    # a container that says "binary" is believed: 0 and 1 lie on any scale
    levels = 2 if raw.levels == 2 else options.levels or raw.levels
    data = Data.from_array(raw.x, options.family, levels, name, raw.y, options.missing)
    if options.grey_levels and options.levels is None and data.levels not in (None, 2):
        data = Data.from_array(raw.x, options.family, options.grey_levels, name, raw.y)
    if raw.classes:
        data = replace(data, reading={"classes": list(raw.classes)})
    data = with_values(data, options, partial(files.column, path, raw))
    if options.binarise is None:
        return data
    made = binary.grey(data, options.binarise)
    return made if options.family is None else replace(made, family=options.family)


def check_kinds(options: Options, name: str) -> None:
    """Refuses kinds of columns of what is no table.

    Raises:
        UserError: there are some.
    """
    if options.kinds:
        raise UserError(
            f"kinds={dict(options.kinds)!r}: {name} is no table, whose columns have kinds; leave "
            "them out"
        )


def _table(frame: Frame, name: str, options: Options) -> Data:
    """The rows of a table as its schema reads them.

    Raises:
        UserError: Options that a table has no use for, or what the schema refuses.
    """
    for option in ("levels", "binarise", "context"):
        if getattr(options, option) is not None:
            raise UserError(
                f"{option}={getattr(options, option)!r}: {name} is a table, whose columns say "
                "what they are; leave it out, or change the kind of a column"
            )
    data = Data.from_frame(
        frame, options.table, name, kinds=options.kinds, missing=options.missing
    )
    return data if options.family is None else replace(data, family=options.family)


def _name_of(path: Path) -> str:
    """A path's name in a protocol: `photos/train` where `train` alone would say nothing."""
    path = path if path.name not in ("", "..") else path.resolve()
    return f"{path.parent.name}/{path.name}" if path.name in SPLITS else path.name


def with_values(data: Data, options: Options, read: Callable[[str], Any]) -> Data:
    """The data with the values of the context asked for, as they are: `Context.encode` follows.

    Raises:
        UserError: No such context, or values that are not numbers, one row per row of x.
    """
    if options.context is None:
        return data
    try:
        values = np.asarray(read(options.context))
    except UserError as error:
        if options.fitted is None:
            raise
        fitted = f"the model was fitted with context {options.context!r}"
        raise UserError(f"{fitted}, which these rows lack: {error}") from None
    if values.ndim not in (1, 2) or len(values) != len(data) or values.dtype.kind not in "biuf":
        raise UserError(
            f"{data.protocol}: context {options.context!r} is {str(values.dtype)[:40]} of shape "
            f"{values.shape}; it takes numbers, one row for each of the {len(data)} rows of x"
        )
    kind = np.float64 if values.dtype.kind == "f" else np.int64
    columns = values.astype(kind).reshape(len(values), -1)
    return replace(data, context=torch.from_numpy(columns))


def rows(whole: Data, split: str | None, options: Options) -> Data:
    """One split of a path's rows, None for all.

    Raises:
        UserError: See `latently.data.partition.positions`.
    """
    data = whole
    if split is not None:
        data = part(whole, split, options.validation, options.seed)
        drawn = {"seed": int(options.seed), "validation": float(options.validation)}
        data = replace(data, reading={**data.reading, "split": drawn})
    if options.binarise == "dynamic":
        return binary.undrawn(data, held_out=split in HELD_OUT)
    return data
