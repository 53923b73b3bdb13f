"""Text that is a date, and seconds since 1970 as the dates they were.

| form | example | read as |
|---|---|---|
| `%Y-%m` | 2020-01 | month |
| `%Y-%m-%d` | 2020-01-31 | day |
| `%Y-%m-%d %H:%M`, also with `T` and `:%S` | 2020-01-31 12:30:05.25 | moment, no time zone |
| the same with `Z` or an offset | 2020-01-31T12:30:05+02:00 | moment in UTC, written with `Z` |
| `%Y/%m/%d` | 2020/01/31 | day |
| `%d.%m.%Y` | 31.01.2020 | day: points stand after the day wherever they are used |
| `%d/%m/%Y`, `%m/%d/%Y`, also with `-` | 01/31/2020 | day, if one of the two numbers is above 12 \
in some cell and the other one in none |

A column of `01/02/2020` alone may mean two things, and stays text. Moments without a time zone
count as if they were in UTC, so differences are right but for changes of the clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

import numpy as np

__all__ = [
    "FORMS",
    "UNITS",
    "Dated",
    "ambiguous",
    "date_text",
    "looks_dated",
    "parse_dates",
    "round_to",
    "unit_of",
]

_CLOCKS = ("%H:%M", "%H:%M:%S")
FORMS = (
    "%Y-%m",
    "%Y-%m-%d",
    *(f"%Y-%m-%d{gap}{clock}{zone}" for gap in " T" for clock in _CLOCKS for zone in ("", "Z")),
    *("%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y"),
)
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "month": 0}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(
    r"\d{4}-\d\d(-\d\d(?P<gap>[ T])?(?(gap)\d\d:\d\d(?P<s>:\d\d([.,]\d{1,9})?)?"
    r"(?P<zone>Z|[+-]\d\d:?\d\d)?))?",
    re.ASCII,
)
_DAY = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4})", re.ASCII)
_YEAR_FIRST = re.compile(r"(\d{4})/(\d{1,2})/(\d{1,2})", re.ASCII)


class Dated(NamedTuple):
    """Dates of texts: seconds since 1970, NaN where a text is none, and how they are written."""

    values: np.ndarray
    form: str


def parse_dates(texts: Sequence[str], form: str = "") -> Dated | None:
    """The dates that texts are, by the table above; None if none is one, or their order is open.

    Args:
        texts: without blanks around them.
        form: which the column is known to have; it settles whether 01/02 is in January.

    >>> parse_dates(["1970-01-02", "1970-01-03"])
    Dated(values=array([ 86400., 172800.]), form='%Y-%m-%d')
    >>> parse_dates(["01/02/2020"]) is None, parse_dates(["01/02/2020", "31/01/2020"]).form
    (True, '%d/%m/%Y')
    """
    for read in (_parse_iso, partial(_parse_days, form=form), _parse_year_first):
        found = read(texts)
        if found is not None and not np.isnan(found.values).all():
            return found
    return None


def ambiguous(texts: Sequence[str]) -> bool:
    """Whether texts are dates of which nobody can tell the day from the month.

    >>> ambiguous(["01/02/2020"]), ambiguous(["31/01/2020"]), ambiguous(["Bonn"])
    (True, False, False)
    """
    return bool(texts) and all(map(_DAY.fullmatch, texts)) and _parse_days(texts) is None


def looks_dated(texts: Sequence[str]) -> bool:
    """Whether some text is in one of the forms, be it a date of the calendar or not.

    >>> looks_dated(["Bonn", "2020-13-13"]), looks_dated(["Bonn"])
    (True, False)
    """
    forms = (_ISO, _DAY, _YEAR_FIRST)
    return any(form.fullmatch(text) for text in texts for form in forms)


def _seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return _since(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _since(moment: datetime) -> float:
    return (moment - _EPOCH) / timedelta(seconds=1)


def _parse_iso(texts: Sequence[str]) -> Dated | None:
    matches = [_ISO.fullmatch(text) for text in texts]
    some = [match for match in matches if match]
    if not some:
        return None
    values = np.full(len(texts), math.nan)
    shapes = set()
    for j, (text, match) in enumerate(zip(texts, matches, strict=True)):
        if match:
            month = len(text) == 7
            values[j] = _seconds(text + "-01" if month else text)
            shapes.add(
                (len(text) > 7, match["gap"], match["s"] is not None, match["zone"] is not None)
            )
    days, gaps, seconds, zones = (set(part) for part in zip(*shapes, strict=True))
    if gaps == {None}:
        return Dated(values, "%Y-%m-%d" if True in days else "%Y-%m")
    gap = "T" if "T" in gaps else " "
    clock = "%H:%M:%S" if True in seconds else "%H:%M"
    return Dated(values, f"%Y-%m-%d{gap}{clock}{'Z' if True in zones else ''}")


def _parse_days(texts: Sequence[str], form: str = "") -> Dated | None:
    found = [match.groups() if match else None for match in map(_DAY.fullmatch, texts)]
    parts = [groups for groups in found if groups]
    signs = {groups[1] for groups in parts}
    if len(signs) != 1:
        return None
    (sign,) = signs
    first = max(int(groups[0]) for groups in parts)
    second = max(int(groups[2]) for groups in parts)
    day_first = sign == "." or (first > 12 and second <= 12)
    if form in (f"%d{sign}%m{sign}%Y", f"%m{sign}%d{sign}%Y"):
        day_first = form.startswith("%d")
    elif not day_first and not (second > 12 and first <= 12):
        return None
    day, month = (0, 2) if day_first else (2, 0)
    values = [
        _seconds(f"{g[3]}-{int(g[month]):02}-{int(g[day]):02}") if g else math.nan for g in found
    ]
    form = sign.join(("%d", "%m", "%Y") if day_first else ("%m", "%d", "%Y"))
    return Dated(np.array(values), form)


def _parse_year_first(texts: Sequence[str]) -> Dated | None:
    found = list(map(_YEAR_FIRST.fullmatch, texts))
    if not any(found):
        return None
    values = [_seconds(f"{m[1]}-{int(m[2]):02}-{int(m[3]):02}") if m else math.nan for m in found]
    return Dated(np.array(values), "%Y/%m/%d")


def unit_of(seconds: np.ndarray) -> str | None:
    """The largest unit of which all moments are whole: month to second; None: parts of seconds.

    A month needs three different ones: any day may be the first of a month.

    >>> unit_of(np.array([86400.0, 172800.0])), unit_of(np.array([0.5]))
    ('day', None)
    """
    if not seconds.size:
        return None
    if (seconds % 86400 == 0).all():
        days = np.unique(seconds).astype("datetime64[s]").astype("datetime64[D]")
        first = (days == days.astype("datetime64[M]").astype("datetime64[D]")).all()
        return "month" if first and len(days) >= 3 else "day"
    for unit in ("hour", "minute", "second"):
        if (seconds % UNITS[unit] == 0).all():
            return unit
    return None


def round_to(seconds: np.ndarray, unit: str | None) -> np.ndarray:
    """The nearest whole unit; of months the one that the moment lies in.

    >>> round_to(np.array([90000.0, 140000.0]), "day")
    array([ 86400., 172800.])
    """
    if unit is None:
        return seconds
    if unit == "month":
        months = np.floor(seconds).astype("datetime64[s]").astype("datetime64[M]")
        return months.astype("datetime64[s]").astype(np.int64).astype(np.float64)
    return np.rint(seconds / UNITS[unit]) * UNITS[unit]


def date_text(seconds: float, form: str) -> str:
    """A moment in the form its column has.

    >>> date_text(86400.0, "%Y-%m-%d"), date_text(90061.5, "%Y-%m-%d %H:%M:%S")
    ('1970-01-02', '1970-01-02 01:01:01.500000')
    """
    moment = _EPOCH + timedelta(seconds=seconds)
    if form == "%Y-%m":
        return moment.date().isoformat()[:7]
    if form == "%Y-%m-%d":
        return moment.date().isoformat()
    if "%H" not in form:
        year = f"{moment.year:04}"
        return (
            form.replace("%Y", year)
            .replace("%m", f"{moment.month:02}")
            .replace("%d", f"{moment.day:02}")
        )
    clock = moment.replace(tzinfo=None)
    size = "auto" if "%S" in form else "minutes"
    return clock.isoformat(form[8], size) + ("Z" if form.endswith("Z") else "")
