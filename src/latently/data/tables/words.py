"""How values appear in messages: short, on one line, whatever they hold."""

from __future__ import annotations

from typing import Any

__all__ = ["at", "plural", "shown"]

_SHOWN = 40  # characters of a value


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


def plural(count: int, word: str) -> str:
    """A number of things.

    >>> plural(1, "cell"), plural(2000, "cell")
    ('1 cell', '2,000 cells')
    """
    return f"{count:,} {word}{'s' * (count != 1)}"
