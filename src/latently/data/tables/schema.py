"""What the columns of a table are, and the way from cells to numbers of a model and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from latently.data.tables import document, native
from latently.data.tables.cells import MISSING, cells
from latently.data.tables.coding import (
    constant_differs,
    decode_column,
    encode_column,
    fill_constant,
)
from latently.data.tables.column import DISCRETE, KINDS, NUMERIC, OTHER, Column, usual
from latently.data.tables.frame import Frame
from latently.data.tables.infer import infer_column
from latently.data.tables.numbers import number_text, parse_numbers
from latently.data.tables.words import by_name, plural, shown
from latently.errors import UserError, closest

__all__ = ["Encoded", "Schema"]


class Encoded(NamedTuple):
    """Rows of a table as numbers.

    Attributes:
        x: float64 `(n, D)`, 0 where the mask is False.
        mask: bool `(n, D)`, True where a cell is known.
        present: bool `(n, D)`, True where a cell holds anything: the mask, and values that the
            schema does not know. As `kept` of `decode` it leaves those as they are.
        notices: a line for each thing that the reader of the result should know.
    """

    x: np.ndarray
    mask: np.ndarray
    present: np.ndarray
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """What the columns of a table are.

    It is found in a table (`infer`), shown (`print`), kept as JSON that people can edit, and fixed
    from then on: new rows are read by it, whatever they look like.

    Args:
        columns: in the order of the table.
        missing: texts that mean a missing cell, compared without the blanks around them; those
            that spell a number stand for that number too.

    Raises:
        UserError: no columns, or a name twice.

    >>> from latently.data.tables import as_frame
    >>> frame = as_frame({"age": [31, 40, None, 52, 25], "sex": ["f", "m", "f", None, "m"]})
    >>> schema = Schema.infer(frame)
    >>> schema.family
    'Mixed(columns=(NegativeBinomial, Bernoulli))'
    >>> x, mask, _, _ = schema.encode(frame)
    >>> x[:3].tolist(), mask[2].tolist()
    ([[31.0, 0.0], [40.0, 1.0], [0.0, 0.0]], [False, True])
    >>> schema.decode(np.array([[33.2, 1.0]]))["sex"]
    array(['m'], dtype=object)
    """

    columns: tuple[Column, ...]
    missing: tuple[str, ...] = MISSING

    def __post_init__(self) -> None:
        if not self.columns:
            raise UserError("a schema has at least one column")
        names = [column.name for column in self.columns]
        for name in names:
            if names.count(name) > 1 if len(names) < 100 else len(set(names)) < len(names):
                raise UserError(f"the schema has two columns {shown(name)}; rename one")

    @classmethod
    def infer(
        cls,
        frame: Frame,
        *,
        missing: Sequence[str] | None = None,
        kinds: Mapping[str, str] | None = None,
        na_values: Mapping[str, Sequence[str]] | None = None,
    ) -> Schema:
        """What the columns of a frame are, by the rules at the top of `kinds`.

        Args:
            frame: rows to learn from.
            missing: texts that mean a missing cell; None for "", "?", "NA" and the like
                (`MISSING`), which they replace.
            kinds: kinds of columns by name, where the rules would find another one.
            na_values: texts that mean a missing cell in some columns, by name, beside `missing`:
                `{"insulin": ["0"]}` where a zero was written for what was not measured.

        Raises:
            UserError: a cell that cannot be read, by column and row; a name that is no column.
        """
        texts = _checked_missing(missing)
        kinds, own = dict(kinds or {}), dict(na_values or {})
        for option, names in (("kinds", kinds), ("na_values", own)):
            for name in names:
                if name not in frame.names:
                    near = closest(str(name), frame.names)
                    raise UserError(f"{option}: no column {shown(name)}; {near}")
        codes = {name: _checked_missing(own.get(name, ()), "na_values") for name in frame.names}
        columns = [
            infer_column(frame, place, texts, kinds.get(name), codes[name])
            for place, name in enumerate(frame.names)
        ]
        return cls(tuple(columns), texts)

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The columns of x."""
        return tuple(column for column in self.columns if column.modelled)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(column.name for column in self.modelled)

    @property
    def family(self) -> str:
        """The family of rows, as the text of a call.

        Raises:
            UserError: no column is modelled.
        """
        if not self.modelled:
            left = ", ".join(f"{shown(c.name)} is {c.kind}" for c in self.columns[:6])
            raise UserError(f"no column can be modelled: {left}; choose kinds, or add rows")
        texts = ", ".join(str(column.likelihood) for column in self.modelled)
        return f"Mixed(columns=({texts}{',' * (len(self.modelled) == 1)}))"

    @property
    def notices(self) -> tuple[str, ...]:
        """A line for every column that is left out, pooled, or otherwise worth a word."""
        return tuple(f"column {shown(c.name)}: {c.note}" for c in self.columns if c.note)

    def told(self, text: str) -> str:
        """What a model says of the columns of x, by number from 0, with their names."""
        return by_name(text, self.names)

    def encode(self, frame: Frame) -> Encoded:
        """Rows as numbers, columns by name in any order.

        Levels become codes, moments seconds since 1970. A value that was never seen counts as
        `other` where a column has it, otherwise as missing, with a notice. Columns that the schema
        does not know are ignored, with a notice.

        Raises:
            UserError: a column that is not there, or a cell of another type, by column and row.
        """
        self._check_names(frame)
        places = {name: place for place, name in enumerate(frame.names)}
        coded = [
            encode_column(column, frame, places[column.name], self._codes(column))
            for column in self.modelled
        ]
        n = len(frame)
        x = np.column_stack([c.x for c in coded]) if coded else np.zeros((n, 0))
        empty = np.zeros((n, 0), dtype=bool)
        mask = np.column_stack([c.mask for c in coded]) if coded else empty
        present = np.column_stack([c.present for c in coded]) if coded else empty
        notices = [c.notice for c in coded if c.notice] + self._strange(frame)
        return Encoded(x, mask, present, tuple(notices))

    def _codes(self, column: Column) -> tuple[str, ...]:
        """The texts that mean a missing cell in a column."""
        return (*self.missing, *column.na_values)

    def _check_names(self, frame: Frame) -> None:
        there = set(frame.names)
        lacking = [c.name for c in self.modelled if c.name not in there]
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise UserError(
                f"{frame.source}: no column {shown(lacking[0])}{more}, which the schema has; add "
                f"it, with empty cells if nothing is known ({closest(lacking[0], frame.names)})"
            )

    def _strange(self, frame: Frame) -> list[str]:
        known = {column.name: column for column in self.columns}
        notices = []
        extra = [name for name in frame.names if name not in known]
        if extra:
            more = " ..." if len(extra) > 6 else ""
            notices.append(
                f"{frame.source}: columns {', '.join(map(shown, extra[:6]))}{more} are not in the "
                "schema and are ignored"
            )
        for place, name in enumerate(frame.names):
            column = known.get(name)
            if column and column.kind == "constant":
                if constant_differs(column, frame, place, self._codes(column)):
                    notices.append(
                        f"column {shown(name)}: was constant {shown(column.categories[0])} when "
                        "the schema was made and is not any more; it stays left out"
                    )
        return notices

    def decode(
        self, x: np.ndarray, like: Frame | None = None, kept: np.ndarray | None = None
    ) -> Frame:
        """Rows of numbers as the table they stand for: the inverse of `encode`.

        Numbers are rounded and clipped as `Column` says, codes become values, seconds dates, all
        of the types that the columns had. Columns left out come back as they are in `like`, with
        the constant in missing cells; without such rows identifiers are missing.

        Args:
            x: `(n, D)` finite numbers.
            like: table whose library, types, order of columns and further columns the result
                takes; of n rows also their cells where `kept`, and their index.
            kept: bool `(n, D)`, cells of `like` that stand verbatim; None for none.

        Raises:
            UserError: an x or kept of another shape or not finite, kept without such rows.
        """
        x = np.asarray(x, dtype=np.float64)
        self._check_rows(x, like, kept)
        names = like.names if like is not None else tuple(c.name for c in self.columns)
        places = {name: j for j, name in enumerate(self.names)}
        known = {column.name: column for column in self.columns}
        same = like is not None and len(like) == len(x)
        new: dict[int, np.ndarray] = {}
        stay: dict[int, np.ndarray] = {}
        for place, name in enumerate(names):
            column = known.get(name)
            old = None if like is None else like.columns[place]
            dtype = "" if like is None else like.types[place]
            if column is not None and column.modelled:
                new[place] = decode_column(column, x[:, places[name]], old, dtype)
                if same and kept is not None:
                    stay[place] = kept[:, places[name]]
            elif column is not None and (column.kind == "constant" or not same):
                new[place] = fill_constant(column, len(x), old, dtype)
                if same and like is not None:
                    stay[place] = cells(like, place, self._codes(column)).present
        if like is None:
            types = tuple(column.dtype for column in self.columns)
            return Frame(names, tuple(new[j] for j in range(len(names))), types=types)
        return _assembled(len(x), new, stay, like)

    def unfilled(
        self, frame: Frame, of: Sequence[str] = ("identifier", "empty")
    ) -> tuple[str, ...]:
        """A line for every column of some kinds that lacks cells, which stay missing.

        Nothing tells the missing name of a row; constants are filled with themselves.
        """
        left = {column.name: column for column in self.columns if column.kind in of}
        lacking = {
            name: int((~cells(frame, place, self._codes(left[name])).present).sum())
            for place, name in enumerate(frame.names)
            if name in left
        }
        return tuple(
            f"column {shown(name)} is left out ({left[name].kind}) and lacks "
            f"{plural(count, 'cell')}, which {'stays' if count == 1 else 'stay'} missing"
            for name, count in lacking.items()
            if count
        )

    def remarks(self, x: np.ndarray, kept: np.ndarray | None = None) -> tuple[str, ...]:
        """What `decode` makes of numbers that the reader should know, a line for each thing.

        Args:
            x: numbers of a model, (n, D), or of several draws below each other.
            kept: bool of the same shape, cells that stand as they are; None for none.
        """
        new = np.ones(x.shape, dtype=bool) if kept is None else ~np.asarray(kept, dtype=bool)
        beyond, notices = {}, []
        for j, column in enumerate(self.modelled):
            own = x[new[:, j], j]
            if column.kind not in DISCRETE:
                half = 0.0 if column.decimals is None else 0.5 * 10.0**-column.decimals
                low = -np.inf if column.low is None else column.low - half
                high = np.inf if column.high is None else column.high + half
                count = int(((own < low) | (own > high)).sum())
                if count:
                    beyond[column.name] = count
            elif column.other:
                pooled = int((np.rint(own) >= len(column.categories)).sum())
                texts = any(isinstance(value, str) for value in column.categories)
                end = "and stay empty: no number stands for them"
                if texts:
                    end = f"and read {OTHER!r}"
                elif column.commonest is not None:
                    end = f"and read {number_text(column.commonest)}, the commonest of these"
                if pooled:
                    notices.append(
                        f"column {shown(column.name)}: {plural(pooled, 'cell')} of "
                        f"{len(own):,} are one of the rare values that are pooled, {end}"
                    )
        if beyond:
            most = max(beyond, key=lambda name: beyond[name])
            notices.append(
                f"{sum(beyond.values()):,} of {int(new.sum()):,} values lay beyond what their "
                f"columns held in the fit and are put at its end, most ({beyond[most]:,}) in "
                f"{shown(most)}; a schema whose low and high are null lets them be"
            )
        return tuple(notices)

    def _check_rows(self, x: np.ndarray, like: Frame | None, kept: np.ndarray | None) -> None:
        width = len(self.modelled)
        if x.ndim != 2 or x.shape[1] != width:
            raise UserError(f"x has shape {x.shape}; rows of this table have {width} numbers")
        bad = ~np.isfinite(x)
        if kept is not None:
            if np.shape(kept) != x.shape or like is None or len(like) != len(x):
                raise UserError(
                    f"kept has shape {np.shape(kept)}; it says for each cell of x {x.shape} "
                    "whether the one of `like`, of as many rows, stands"
                )
            bad &= ~np.asarray(kept, dtype=bool)
        if bad.any():
            row, j = (int(i) for i in np.argwhere(bad)[0])
            raise UserError(
                f"column {shown(self.names[j])}, row {row}: {x[row, j]} cannot be put in; numbers "
                "of a model are finite"
            )

    def with_kinds(self, kinds: Mapping[str, str]) -> Schema:
        """The schema with other kinds, as far as it knows enough about the columns.

        Numbers may become real, positive or count as their bounds allow; levels of two values
        binary, of numbers categorical or ordinal; anything an identifier. For all else the table
        is needed: `Schema.infer(frame, kinds=...)`.

        Raises:
            UserError: an unknown name or kind, or a change that needs the table.
        """
        names = [column.name for column in self.columns]
        for name in kinds:
            if name not in names:
                raise UserError(f"kinds: no column {shown(name)}; {closest(str(name), names)}")
        changed = (_with_kind(c, kinds[c.name]) if c.name in kinds else c for c in self.columns)
        return replace(self, columns=tuple(changed))

    def unbounded(self) -> Schema:
        """The schema without the least and the greatest number of its columns.

        What is put in may then lie beyond all that was observed, as it should where values are
        missing because they are high.
        """
        return replace(self, columns=tuple(replace(c, low=None, high=None) for c in self.columns))

    def holding(self, row: Frame, x: np.ndarray) -> tuple[np.ndarray, Schema]:
        """Numbers and a schema by which `decode` gives the cells of a row as they stand there.

        Args:
            row: one row; cells that are not held are empty.
            x: rows of a model that hold them, (n, D).

        Returns:
            x with the very numbers, and the schema, without bounds and rounding of these columns,
            and with the value in place of `other` where it is a rare or unseen one.
        """
        coded = self.encode(row)
        seen = coded.mask[0]
        known = dict(zip(self.names, zip(seen, coded.x[0], strict=True), strict=True))
        columns = []
        for column in self.columns:
            there, code = known.get(column.name, (False, 0.0))
            if there and column.kind not in DISCRETE:
                column = replace(column, low=None, high=None, decimals=None, unit=None)
            elif there and column.other and code == len(column.categories):
                value = _like_others(row[column.name][0], column.categories)
                levels = (*column.categories, value)
                column = replace(column, categories=levels, other=False, commonest=None)
            columns.append(column)
        return np.where(seen, coded.x, x), replace(self, columns=tuple(columns))

    def to_json(self) -> dict[str, Any]:
        """The schema as plain lists and texts, one object for each column, defaults left out."""
        return document.to_json(self.columns, self.missing)

    @classmethod
    def from_json(cls, content: Any) -> Schema:
        """A schema from the content of a JSON file, every field of which is checked.

        A likelihood that is left out is the usual one of the kind.

        Raises:
            UserError: what is wrong, by column and field.
        """
        return cls(*document.from_json(content))

    def table(self) -> str:
        """The schema as aligned text: name, kind, likelihood, share of missing cells, notes.

        >>> print(Schema((Column("age", "count", "NegativeBinomial", missing=0.25),)).table())
        column  kind   likelihood        missing  note
        age     count  NegativeBinomial  25.0 %
        """
        return document.table(self.columns)

    def __str__(self) -> str:
        return self.table()


def _like_others(value: Any, categories: Sequence[Any]) -> Any:
    """A value in the type of the others."""
    if any(isinstance(other, str) for other in categories):
        return str(value)
    number = float(parse_numbers([str(value)]).values[0])
    if number != number:
        return str(value)
    return int(number) if number == int(number) else number


def _checked_missing(missing: Sequence[str] | None, option: str = "missing") -> tuple[str, ...]:
    if missing is None:
        return MISSING
    texts = (missing,) if isinstance(missing, str) else tuple(missing)
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{option}: {shown(text)} is no text; write it as {str(text)[:40]!r}")
    return tuple(dict.fromkeys(text.strip() for text in texts))


def _with_kind(column: Column, kind: str) -> Column:
    if kind == column.kind:
        return column
    if kind not in KINDS:
        raise UserError(
            f"column {shown(column.name)}: kind {shown(kind)} is unknown; "
            f"{closest(str(kind), KINDS)}"
        )
    if kind == "identifier":
        note = "left out: declared an identifier"
        return Column(
            column.name,
            kind,
            dtype=column.dtype,
            missing=column.missing,
            note=note,
            na_values=column.na_values,
        )
    low = column.low
    allowed = kind == "real"
    if low is not None and low >= 0:
        allowed = kind in ("real", "positive") or column.decimals == 0
    if column.kind in NUMERIC and kind in NUMERIC and allowed:
        return replace(column, kind=kind, likelihood=usual(kind, low=low), note="")
    ranked = all(not isinstance(v, str) for v in column.categories) and not column.other
    levels = column.kind in DISCRETE and kind in DISCRETE
    if levels and (kind == "categorical" or (kind == "ordinal" and ranked)):
        return replace(column, kind=kind, likelihood=usual(kind, column.levels), note="")
    if levels and kind == "binary" and column.levels == 2 and not column.other:
        return replace(column, kind=kind, likelihood="Bernoulli", note="")
    raise UserError(
        f"column {shown(column.name)}: {column.kind} cannot become {kind} without the table; use "
        f"Schema.infer(frame, kinds={{{shown(column.name)}: {kind!r}}})"
    )


def _assembled(
    n: int, new: dict[int, np.ndarray], stay: dict[int, np.ndarray], like: Frame
) -> Frame:
    columns = []
    for place, old in enumerate(like.columns):
        if place not in new:
            columns.append(old if len(old) == n else np.full(n, None))
        elif place in stay:
            columns.append(_merged(stay[place], old, new[place]))
        else:
            columns.append(new[place])
    out = None if like.native is None else native.put_back(like.native, new, stay, n)
    return replace(like, columns=tuple(columns), native=out, notices=())


def _merged(kept: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    if kept.all():
        return old
    if old.dtype == object or new.dtype == object:
        out = old.astype(object)
        out[~kept] = new[~kept]
        return out
    if old.dtype.kind in "Mm" or (old.dtype.kind == new.dtype.kind == "f"):
        new = new.astype(old.dtype)
    return np.where(kept, old, new)
