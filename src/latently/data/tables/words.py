"""How values appear in messages: short, on one line, whatever they hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["at", "by_name", "plural", "shown"]

_SHOWN = 40  # characters of a value
_NUMBERED = re.compile(
    r"""(?<!["'])\bcolumns? \(?\d+\b(?:, \d+\b)*"""
)  # none within a quoted name


def shown(value: Any) -> str:
    """A name or a value, quoted if it is text.

    >>> shown("age"), shown(3.5), len(shown("x" * 10**6))
    ("'age'", '3.5', 45)
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else repr(value[:_SHOWN]) + "..."
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def at(column: str, row: int) -> str:
    """The place of a cell.

    >>> at("age", 7)
    "column 'age', row 7 (counted from 0)"
    """
    return f"column {shown(column)}, row {row} (counted from 0)"


def by_name(text: str, names: Sequence[str]) -> str:
    """What a model says of columns, which it knows by number from 0, with their names.

    >>> by_name("no spread in column 1, held", ["age", "sex"])
    "no spread in column 'sex', held"
    >>> by_name("2 columns (0, 1, ...) are constant in 1 of 3 components", ["age", "sex"])
    "2 columns ('age', 'sex', ...) are constant in 1 of 3 components"
    """

    def in_names(found: re.Match[str]) -> str:
        return re.sub(r"\d+", lambda j: _name(j[0], names), found[0])

    return _NUMBERED.sub(in_names, text)


def _name(number: str, names: Sequence[str]) -> str:
    return shown(names[int(number)]) if int(number) < len(names) else number


def plural(count: int, word: str) -> str:
    """A number of things.

    >>> plural(1, "cell"), plural(2000, "cell")
    ('1 cell', '2,000 cells')
    """
    return f"{count:,} {word}{'s' * (count != 1)}"
