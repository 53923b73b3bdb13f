"""What one column is: its kind, the family that models it, and how its cells come back.

| kind | likelihood | x |
|---|---|---|
| real | Normal, StudentT | the number |
| positive | LogNormal, Gamma; with zeros Hurdle(family=...) of them | the number |
| count | NegativeBinomial; with many zeros ZeroInflated(family=NegativeBinomial) | the number |
| binary | Bernoulli | code 0 or 1 of two values |
| categorical | Categorical(levels=L); from 33 levels on Embedded(levels=L) | code of the value |
| ordinal | Ordinal(levels=L) | code of the value, in order |
| datetime | Normal | seconds since 1970, UTC |
| constant | none: left out | - |
| identifier | none: left out | - |
| empty | none: left out, no cell holds anything | - |
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from latently.data.tables.dates import UNITS
from latently.data.tables.words import shown
from latently.errors import UserError, closest

__all__ = ["DISCRETE", "KINDS", "MODELLED", "OTHER", "Column", "usual"]

DISCRETE = ("binary", "categorical", "ordinal")
NUMERIC = ("real", "positive", "count")
MODELLED = (*NUMERIC, *DISCRETE, "datetime")
KINDS = (*MODELLED, "constant", "identifier", "empty")
OTHER = "other"  # what the code of rare and unseen values is written back as
EMBEDDED = 33  # levels from which a category is embedded
MOST_LEVELS = 100_000
_LONGEST = 500  # characters of any text of a column
_MOST_CODES = 1000  # of missing cells
_LEVELS = re.compile(r"levels=(\d{1,9})")
_FITTING = {  # kinds of the families that are commonly confused; others are the reader's choice
    **dict.fromkeys(("Bernoulli",), ("binary",)),
    **dict.fromkeys(("Categorical", "Embedded", "Ordinal"), DISCRETE),
    **dict.fromkeys(("NegativeBinomial", "ZeroInflated", "Poisson"), ("count",)),
    **dict.fromkeys(("LogNormal", "Gamma", "Hurdle"), ("positive", "count")),
    **dict.fromkeys(("Normal", "StudentT", "Laplace"), (*NUMERIC, "datetime")),
}
_USUAL_LEVELS = {"Categorical": 2, "Embedded": 2, "Ordinal": 5}  # where none are given
_LIKELIHOOD = re.compile(r"[A-Z]\w*(\([\w\s=.,()'\"+-]*\))?", re.ASCII)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: as in the table.
        kind: by the table at the top of this module.
        likelihood: text of a family of one column; None where the kind is left out.
        categories: the values of the codes 0, 1, ...; of a constant its one value.
        other: whether one more code, the last, stands for rare and unseen values.
        dtype: the type as it came, in the words of its library. `text` for files of text, with
            what is written there: `text, decimal comma`, `text, %Y-%m-%d`.
        decimals: of the numbers, to round what is put in; None: as many as there are.
        unit: of moments (month, day, hour, minute, second), to round what is put in.
        low: least observed number (seconds of moments), to clip what is put in; None: not.
        high: greatest one.
        missing: share of missing cells, 0 to 1.
        note: what was decided, such as why the column is left out.
        na_values: texts that mean a missing cell in this column, beside those of the schema.
        commonest: where numbers are names, the one of the rare that is written for `other`.

    Raises:
        UserError: fields that contradict each other, by the column's name.

    >>> Column("sex", "binary", "Bernoulli", categories=("female", "male")).levels
    2
    """

    name: str
    kind: str
    likelihood: str | None = None
    categories: tuple[Any, ...] = ()
    other: bool = False
    dtype: str = "text"
    decimals: int | None = None
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    missing: float = 0.0
    note: str = ""
    na_values: tuple[str, ...] = ()
    commonest: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= _LONGEST:
            raise UserError(
                f"a column is called {shown(self.name)}; names are text of 1 to 500 "
                "characters; rename it"
            )
        if self.kind not in KINDS:
            raise self._wrong("kind", f"choose one of {', '.join(KINDS)}", str(self.kind)[:40])
        for field in ("dtype", "note"):
            value = getattr(self, field)
            if not isinstance(value, str) or len(value) > _LONGEST:
                raise self._wrong(field, "text of at most 500 characters")
        if not isinstance(self.other, bool):
            raise self._wrong("other", "true or false")
        texts = self.na_values
        if not isinstance(texts, tuple) or len(texts) > _MOST_CODES or any(map(_no_code, texts)):
            raise self._wrong("na_values", f"a list of at most {_MOST_CODES:,} short texts")
        self._check_numbers()
        self._check_categories()
        self._check_likelihood()

    @property
    def modelled(self) -> bool:
        """Whether x has a column for it."""
        return self.kind in MODELLED

    @property
    def levels(self) -> int:
        """Number of codes; 0 of numbers and moments."""
        return len(self.categories) + self.other if self.kind in DISCRETE else 0

    def _wrong(self, field: str, fix: str, hint: str = "") -> UserError:
        near = closest(hint, KINDS) if hint else ""
        near = f"; {near}" if near.startswith("did") else ""
        value = shown(getattr(self, field))
        return UserError(f"column {shown(self.name)}: {field} is {value}; {fix}{near}")

    def _check_numbers(self) -> None:
        for field in ("low", "high", "missing"):
            value = getattr(self, field)
            if value is None and field != "missing":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self._wrong(field, "a number")
            if not abs(value) < math.inf:
                raise self._wrong(field, "a finite number")
        if not 0 <= self.missing <= 1:
            raise self._wrong("missing", "a share of 0 to 1")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise self._wrong("low", f"it lies above high, {shown(self.high)}")
        whole = isinstance(self.decimals, int) and not isinstance(self.decimals, bool)
        if self.decimals is not None and not (whole and 0 <= self.decimals <= 15):
            raise self._wrong("decimals", "a whole number of 0 to 15")
        if self.unit is not None and (not isinstance(self.unit, str) or self.unit not in UNITS):
            raise self._wrong("unit", f"choose one of {', '.join(UNITS)}")

    def _check_categories(self) -> None:
        if not isinstance(self.categories, tuple) or len(self.categories) > MOST_LEVELS:
            raise self._wrong("categories", f"a list of at most {MOST_LEVELS:,} values")
        for value in self.categories:
            plain = isinstance(value, str | bool | int | float)
            if not plain or (isinstance(value, int | float) and not abs(value) < 1e300):
                raise UserError(
                    f"column {shown(self.name)}: category {shown(value)} is no text, number or "
                    "truth value"
                )
        if len({(isinstance(v, str), v) for v in self.categories}) != len(self.categories):
            raise self._wrong("categories", "a value stands there twice")
        rare = self.commonest
        if rare is not None and (
            not self.other or isinstance(rare, bool) or not isinstance(rare, int | float)
        ):
            raise self._wrong("commonest", "a number, of a column that has `other`")
        if rare is not None and not abs(rare) < 1e300:
            raise self._wrong("commonest", "a finite number")
        if self.kind == "constant" and len(self.categories) != 1:
            raise self._wrong("categories", "a constant has one value")
        if self.kind in DISCRETE and self.levels < 2:
            raise self._wrong("categories", f"kind {self.kind} takes two values or more")
        if self.kind == "binary" and (self.levels != 2 or self.other):
            raise self._wrong("categories", "kind binary takes two values, and no `other`")

    def _check_likelihood(self) -> None:
        text = self.likelihood
        if not self.modelled:
            if text is not None:
                raise self._wrong("likelihood", f"a column of kind {self.kind} has none")
            return
        if not isinstance(text, str) or len(text) > _LONGEST or not _LIKELIHOOD.fullmatch(text):
            raise self._wrong("likelihood", "write a family of one column, such as Normal")
        fitting = _FITTING.get(text.partition("(")[0], (self.kind,))
        if self.kind not in fitting:
            fix = f"it is for kind {' or '.join(fitting)}; leave the field out for the usual one"
            raise self._wrong("likelihood", f"the kind is {self.kind}, {fix}")
        found, name = _LEVELS.search(text), text.partition("(")[0]
        told = int(found[1]) if found else _USUAL_LEVELS.get(name, self.levels)
        if self.kind in DISCRETE and told != self.levels:
            raise self._wrong(
                "likelihood",
                f"the column has {self.levels} levels, categories and `other`: write "
                f"{name}(levels={self.levels})",
            )

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}"


def _no_code(text: Any) -> bool:
    return not isinstance(text, str) or len(text) > _LONGEST


def usual(kind: str, levels: int = 0, low: float | None = None) -> str | None:
    """The family that a column of a kind has if nothing else is known; None: it is left out.

    Args:
        kind: of the column.
        levels: number of codes.
        low: least number; a positive column that begins at 0 has a probability of 0.

    >>> usual("binary"), usual("categorical", 120), usual("positive", low=0.0)
    ('Bernoulli', 'Embedded(levels=120)', 'Hurdle(family=LogNormal)')
    """
    if kind not in MODELLED:
        return None
    if kind in ("real", "datetime"):
        return "Normal"
    if kind == "count":
        return "NegativeBinomial"
    if kind == "positive":
        return "LogNormal" if low is None or low > 0 else "Hurdle(family=LogNormal)"
    if kind == "binary":
        return "Bernoulli"
    if kind == "ordinal":
        return f"Ordinal(levels={levels})"
    return f"{'Embedded' if levels >= EMBEDDED else 'Categorical'}(levels={levels})"
