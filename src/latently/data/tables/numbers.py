r"""Text that is a number, and numbers as the text they were.

| text | number |
|---|---|
| `12`, `-3.50`, `.5`, `1e-3`, `+7` | as in Python |
| `3,5` | 3.5 where the whole column is written so, and some comma follows a single 0, or is not \
followed by three digits |
| `inf`, `-Infinity` | infinite, refused later by name and row |
| `007`, `02139` | none: leading zeros belong to codes such as postal codes, and would be lost |
| `1,234`, `12 kg`, `1_000`, `0x1F`, `$5` | none |

Numbers are written back as the shortest text that is the same number, rounded to the decimals that
the column had.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Parsed", "decimals_of", "number_text", "parse_numbers"]

MOST_DECIMALS = 12
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?|[+-]?[iI]nf(inity)?", re.ASCII)
_PADDED_LINE = re.compile(r"^[+-]?0\d", re.ASCII | re.MULTILINE)
_SIGNS = b"0123456789+-.eE\n"
_COMMA = re.compile(r"[+-]?\d+,\d+|[+-]?\d+", re.ASCII)
_PADDED = re.compile(r"[+-]?0\d", re.ASCII)
_FRACTION = re.compile(r"[+-]?0,", re.ASCII)
_THREE = re.compile(r".*,\d{3}", re.ASCII)


class Parsed(NamedTuple):
    """Numbers of texts: `values` with NaN where a text is none; commas as decimal signs or not."""

    values: np.ndarray
    comma: bool


def parse_numbers(texts: Sequence[str], *, codes: bool = True, comma: bool = False) -> Parsed:
    """The numbers that texts without blanks around them are, by the table above.

    Args:
        texts: of a column.
        codes: whether one text with leading zeros makes codes of all, none of them a number.
        comma: whether the column is known to have commas as decimal signs.

    >>> parse_numbers(["12", "1e-3", "n/a"]).values
    array([1.2e+01, 1.0e-03,     nan])
    >>> parse_numbers(["3,5", "10"])
    Parsed(values=array([ 3.5, 10. ]), comma=True)
    >>> parse_numbers(["02139", "10115"]).values
    array([nan, nan])
    """
    plain = _plain_numbers(texts)
    if plain is not None:
        return Parsed(plain, False)
    if comma or _has_commas(texts):
        points = [text.replace(",", ".") for text in texts]
        return Parsed(parse_numbers(points, codes=codes).values, True)
    match = _NUMBER.fullmatch
    values = [float(text) if match(text) else math.nan for text in texts]
    if codes and any(_PADDED.match(text) for text in texts):
        values = [math.nan] * len(values)
    return Parsed(np.array(values, dtype=np.float64), False)


def _has_commas(texts: Sequence[str]) -> bool:
    some = [text for text in texts if "," in text]
    if not some or not all(map(_COMMA.fullmatch, texts)):
        return False
    return any(not _THREE.fullmatch(text) or _FRACTION.match(text) for text in some)


def _plain_numbers(texts: Sequence[str]) -> np.ndarray | None:
    """Numbers of many texts at once, if all are plain ones; otherwise None."""
    whole = "\n".join(texts)
    if not whole.isascii() or whole.encode().translate(None, _SIGNS) or _PADDED_LINE.search(whole):
        return None
    try:
        return np.fromiter(map(float, texts), np.float64, len(texts))
    except ValueError:
        return None


def decimals_of(values: np.ndarray) -> int | None:
    """The least number of decimals that hold all values exactly; None if 12 do not.

    Values beyond 15 significant digits have none: a double does not tell them apart.

    >>> decimals_of(np.array([3.0, 7.0])), decimals_of(np.array([0.25, 3.5]))
    (0, 2)
    >>> decimals_of(np.array([1 / 3])) is None
    True
    """
    if not values.size:
        return None
    largest = float(np.abs(values).max())
    few = values[:: max(1, len(values) // 1000)]
    for decimals in range(MOST_DECIMALS + 1):
        if decimals and largest * 10.0**decimals >= 1e15:
            return None
        if all(bool((np.round(part, decimals) == part).all()) for part in (few, values)):
            return decimals
    return None


def number_text(value: float, comma: bool = False) -> str:
    """A number as the shortest text that is read as the same number.

    >>> number_text(3.0), number_text(0.25), number_text(2.5, comma=True)
    ('3', '0.25', '2,5')
    """
    text = str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
    return text.replace(".", ",") if comma else text
