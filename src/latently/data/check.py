"""The gate every array passes: numbers only, no inf, NaN becomes a mask, the kind of data named.

Which observation model fits is read from dtype and values, by the first line that applies:

| dtype | observed values | levels | family |
|---|---|---|---|
| bool | any | 2 | Bernoulli |
| integer or float | only 0 and 1 | 2 | Bernoulli |
| float | any other | None | Normal |
| integer | one is negative | None | Normal |
| uint8 with 3 axes or more (images) | any other | 256 | DiscretizedLogistic(levels=256) |
| integer | largest below 65,536 | largest + 1 | DiscretizedLogistic(levels=largest + 1) |
| integer | larger | None | Normal |

A folder of pictures says its levels itself: 256 for 8 bits, 65,536 for 16 (`folders`). The
discretised logistic sums to 1 and has exact gradients with that many levels too, so 16 bit data
stay discrete, and bits per dimension stay defined.

`levels=L` overrides the table, for floats too, if every observed value is one of 0..L-1. Integers
that are measurements, not levels, are passed as floats: `x.astype(float)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latently.errors import UserError

__all__ = ["Checked", "check", "check_labels", "check_levels", "family_for"]

_FIXES = {
    "c": ("complex numbers", "pass real and imaginary parts as columns"),
    "O": ("Python objects", "convert with x.astype(float), NaN where missing, or x.toarray()"),
    "U": ("text", "encode it as numbers"),
    "S": ("text", "encode it as numbers"),
    "M": ("dates", "convert them to numbers, e.g. days since the first"),
    "m": ("time spans", "convert them to numbers, e.g. x / np.timedelta64(1, 's')"),
}


class Checked(NamedTuple):
    """What `check` found: x without NaN, the mask (None if nothing is missing), the levels."""

    x: Tensor
    mask: Tensor | None
    levels: int | None


def check(
    x: ArrayLike | Tensor,
    *,
    levels: int | None = None,
    missing: str = "allow",
    where: str = "array",
) -> Checked:
    """Validate data and say what kind they are, by the table at the top of this module.

    Args:
        x: `(n, *shape)` numbers: a numpy array, a torch tensor or nested lists; NaN = missing.
        levels: The values are the integers 0..levels-1; None reads the table.
        missing: "allow" turns NaN into a mask, "refuse" makes it an error.
        where: What to call the data in an error, such as the file's name.

    Returns:
        A fresh float tensor (float64 if the input was), its mask and its levels.

    Raises:
        UserError: Not numbers, fewer than two axes, no rows or features, inf, refused NaN, a value
            outside the levels.

    >>> check([[0, 1], [3, 2]]).levels
    4
    >>> check([[0.5, float("nan")]]).mask
    tensor([[ True, False]])
    """
    if missing not in ("allow", "refuse"):
        raise UserError(f"missing={missing!r}: choose 'allow' or 'refuse'")
    array = _as_array(x, where)
    _check_shape(array, where)
    nan = _find_missing(array, missing, where)
    if levels is None:
        levels = _infer_levels(array, nan)
    else:
        check_levels(array, nan, levels, where)
    values = np.array(array, dtype=_float_dtype(array), order="C")
    if nan is None:
        return Checked(torch.from_numpy(values), None, levels)
    values[nan] = 0
    return Checked(torch.from_numpy(values), torch.from_numpy(~nan), levels)


def check_levels(x: np.ndarray, nan: np.ndarray | None, levels: int, where: str) -> None:
    """Refuse a value of `x` that is observed and not one of the integers 0..levels-1."""
    if isinstance(levels, bool) or not isinstance(levels, int | np.integer) or levels < 2:
        raise UserError(f"{where}: levels={levels!r} must be a whole number of 2 or more")
    bad = (x < 0) | (x > levels - 1)
    if x.dtype.kind == "f":
        bad |= x != np.floor(x)
    if nan is not None:
        bad &= ~nan
    if bad.any():
        value, place = _first(bad, x)
        raise UserError(
            f"{where}: {value} at {place} is not one of the {levels} levels 0..{levels - 1}; "
            "rescale the data or set levels to the largest value + 1"
        )


def check_labels(y: ArrayLike | Tensor, n: int, where: str = "array") -> Tensor:
    """Labels as `(n,)` int64; NaN, a label that nobody knows, becomes -1.

    Raises:
        UserError: Another number of labels than rows, or labels that are not whole numbers.
    """
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if labels.shape != (n,):
        raise UserError(
            f"{where}: labels y have shape {labels.shape}, but x has {n} rows; one label per row"
        )
    if labels.dtype.kind == "f":
        labels = np.where(np.isnan(labels), -1.0, labels)
    whole = labels.dtype.kind in "biu" or (
        labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all())
    )
    if not whole or not (np.abs(labels.astype(np.float64)) < 2**63).all():
        raise UserError(
            f"{where}: labels y are not whole numbers of 64 bits (dtype {labels.dtype}); "
            "encode classes as 0, 1, 2, ... or leave y out"
        )
    return torch.from_numpy(labels.astype(np.int64))


def family_for(levels: int | None) -> str:
    """The default observation model of data with this many levels.

    >>> family_for(None), family_for(2), family_for(17)
    ('Normal', 'Bernoulli', 'DiscretizedLogistic(levels=17)')
    """
    if levels is None:
        return "Normal"
    return "Bernoulli" if levels == 2 else f"DiscretizedLogistic(levels={levels})"


def _as_array(x: ArrayLike | Tensor, where: str) -> np.ndarray:
    if isinstance(x, np.ma.MaskedArray):
        raise UserError(
            f"{where}: a masked array; write NaN in its masked cells, "
            "x.astype(float).filled(np.nan)"
        )
    if isinstance(x, Tensor):
        if x.layout is not torch.strided:
            raise UserError(f"{where}: a sparse tensor; pass x.to_dense()")
        x = x.detach().cpu()
        x = (x.float() if x.dtype is torch.bfloat16 else x).numpy()
    try:
        array = np.asarray(x)
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{where}: the rows do not have the same length; pad with NaN") from None
    if array.dtype.kind not in "biuf":
        what, fix = _FIXES.get(array.dtype.kind, ("records", "pass one plain array of numbers"))
        raise UserError(f"{where}: holds {what} (dtype {_one_line(array.dtype)}); {fix}")
    return array


def _check_shape(array: np.ndarray, where: str) -> None:
    shape = array.shape
    if shape[:1] == (0,):
        raise UserError(f"{where}: empty (shape {shape}); data need at least one row")
    if len(shape) < 2:
        raise UserError(
            f"{where}: shape {shape} has no axis of features; x.reshape(-1, 1) is one column, "
            "x.reshape(1, -1) one row"
        )
    if 0 in shape:
        raise UserError(f"{where}: no features (shape {shape}); every row needs at least one")


def _find_missing(array: np.ndarray, missing: str, where: str) -> np.ndarray | None:
    if array.dtype.kind != "f":
        return None
    infinite = np.isinf(array)
    if infinite.any():
        value, place = _first(infinite, array)
        raise UserError(f"{where}: {value} at {place}; remove it, or write NaN if it is missing")
    nan = np.isnan(array)
    if not nan.any():
        return None
    if missing == "refuse":
        raise UserError(
            f"{where}: {int(nan.sum())} values are missing, the first at {_first(nan, array)[1]}; "
            "fill them or allow missing values"
        )
    return nan


def _infer_levels(array: np.ndarray, nan: np.ndarray | None) -> int | None:
    if array.dtype.kind == "b":
        return 2
    values = array if nan is None else array[~nan]
    if values.size and bool(((values == 0) | (values == 1)).all()):
        return 2
    if array.dtype.kind == "f" or values.min() < 0:
        return None
    if array.dtype == np.uint8 and array.ndim >= 3:
        return 256
    largest = int(values.max())
    return largest + 1 if largest < 65536 else None


def _float_dtype(array: np.ndarray) -> type[np.floating[Any]]:
    if array.dtype.kind == "f":
        return np.float32 if array.dtype.itemsize <= 4 else np.float64
    # float32 holds whole numbers exactly up to 2**24 only
    exact = array.dtype.itemsize <= 2 or max(-int(array.min()), int(array.max())) <= 2**24
    return np.float32 if exact else np.float64


def _first(bad: np.ndarray, x: np.ndarray) -> tuple[str, str]:
    index = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
    column = f"column {index[1]}" if len(index) == 2 else f"position {index[1:]}"
    return str(x[index]), f"row {index[0]}, {column} (counted from 0)"


def _one_line(value: object) -> str:
    return " ".join(str(value).split())[:100]
