"""The splits of a user's own rows, drawn by seed.

With `p = default_rng(seed).permutation(n)`:

| split | rows |
|---|---|
| test | the first tenth of p |
| validation | the next share of p, by default a tenth |
| train | the rest |
| train+val | all but test |
| without validation | what is left to fit on where nobody asked for a test split |

Shares are rounded, and are one row at least.
"""

from __future__ import annotations

import numpy as np

from latently.data.base import Data
from latently.errors import UserError

__all__ = ["FRACTION", "REST", "hold_out", "part", "positions"]

FRACTION = 0.1
REST = "without validation"
_TEST = 0.1


def positions(
    n: int, split: str, fraction: float = FRACTION, seed: int = 0, where: str = "array"
) -> np.ndarray:
    """Which of n rows are in a split, in the order of the permutation.

    Args:
        n: The number of rows.
        split: One of the table above.
        fraction: Share of the rows that is the validation split.
        seed: Of the permutation.
        where: What to call the data in an error.

    Raises:
        UserError: A fraction outside (0, 1), or too few rows.

    >>> [len(positions(50, split)) for split in ("train", "validation", "test", REST)]
    [40, 5, 5, 45]
    """
    if not 0 < fraction < 1:
        raise UserError(f"validation={fraction}: a share of the rows lies between 0 and 1")
    tests, held = max(1, round(_TEST * n)), max(1, round(fraction * n))
    if n - tests - held < (split == "train"):
        raise UserError(
            f"{where}: validation={fraction} of {n} row{'s' * (n != 1)}, beside a tenth for "
            f"testing, leaves none to fit on (/{split}); use a smaller share or more rows"
        )
    order = np.random.default_rng(seed).permutation(n)
    test, validation, train = np.split(order, [tests, tests + held])
    return {
        "train": train,
        "validation": validation,
        "test": test,
        "train+val": order[tests:],
        REST: np.concatenate([test, train]),
    }[split]


def part(data: Data, split: str, fraction: float = FRACTION, seed: int = 0) -> Data:
    """One split of the rows, named `PROTOCOL/SPLIT`, or `PROTOCOL without validation`.

    Raises:
        UserError: See `positions`.
    """
    rows = positions(len(data), split, fraction, seed, data.protocol)
    return data.rows(rows, f"{data.protocol}{' ' if split == REST else '/'}{split}")


def hold_out(data: Data, fraction: float = FRACTION, seed: int = 0) -> tuple[Data, Data]:
    """All rows but the validation split, and the validation split.

    The rows to fit on hold the test split, too: their name is `PROTOCOL without validation`.

    Raises:
        UserError: See `positions`.
    """
    return part(data, REST, fraction, seed), part(data, "validation", fraction, seed)
