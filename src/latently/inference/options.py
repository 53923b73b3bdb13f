"""Checks of the numbers that bounds, kernels and objectives are built with."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from latently.errors import UserError
from latently.inference.schedules import Schedule

__all__ = ["check_count", "check_number"]


def check_number(
    owner: Any,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    scheduled: bool = True,
) -> None:
    """Refuses an option of `owner` that is no finite number from `low` to `high`.

    Where it may be `scheduled` a schedule passes, and so does the tensor that it resolves to.

    Raises:
        UserError: with the name, the value and the range.
    """
    value = getattr(owner, name)
    if scheduled and isinstance(value, Schedule | Tensor):
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and low <= value <= high):
        raise UserError(
            f"{type(owner).__name__}: {name}={value!r} must be {_range(low, high)}"
            + ", or a schedule" * scheduled
        )


def check_count(owner: Any, name: str, least: int = 1) -> None:
    """Refuses an option of `owner` that is no whole number of at least `least`.

    Raises:
        UserError: with the name, the value and the least one.
    """
    value = getattr(owner, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(
            f"{type(owner).__name__}: {name}={value!r} must be a whole number of at least {least}"
        )


def _range(low: float, high: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f"a number from {low:g} to {high:g}"
    if math.isfinite(low):
        return f"a number of at least {low:g}"
    return f"a number of at most {high:g}" if math.isfinite(high) else "a finite number"
