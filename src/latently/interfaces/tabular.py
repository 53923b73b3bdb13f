"""Tables on the command line: what is read as one, and rows of a model as the table they are."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latently import expr
from latently.data import Data
from latently.data.tables import (
    MISSING,
    Column,
    Frame,
    Schema,
    as_frame,
    read_frame,
    write_frame,
)
from latently.data.tables.native import stacked
from latently.errors import UserError, closest
from latently.inference import draw_given
from latently.inference.imputation import SWEEPS
from latently.interfaces.memory import check_memory
from latently.interfaces.output import check_target
from latently.io import Saved
from latently.registry import KINDS
from latently.training.files import atomic_write

__all__ = [
    "DRAW",
    "TABLES",
    "check_suffix",
    "column_names",
    "drawn_given",
    "read_kinds",
    "read_noted",
    "read_schema",
    "schema_command",
    "write_frames",
    "write_rows",
]

TABLES = (".csv", ".tsv", ".parquet", ".feather")  # suffixes
DRAW = "draw"  # the column that numbers several imputations


def schema_command(
    path: str, out: str | None, kinds: str | None, na_values: str | None, force: bool
) -> str:
    """What the columns of a table are taken for, as text, or as a JSON file to edit.

    Cells that say one of `na_values`, texts with commas between them, count as missing, too;
    `insulin=0` is for one column.

    Raises:
        UserError: no table, or what `Schema` refuses.
    """
    import json

    target = None if out is None else check_target(out, (".json",), force)
    everywhere, by_column = _read_na_values(na_values)
    frame = read_noted(Path(path).expanduser())
    schema = Schema.infer(
        frame, missing=(*MISSING, *everywhere), kinds=read_kinds(kinds), na_values=by_column
    )
    if target is None:
        return str(schema)
    text = json.dumps(schema.to_json(), indent=2, ensure_ascii=False) + "\n"
    atomic_write(target, lambda place: place.write_text(text, encoding="utf-8"))
    return f"wrote what {len(schema.columns)} columns are to {target}; edit it, then fit --schema"


def read_noted(path: Path) -> Frame:
    """The table in a file; what reading decided goes to standard error."""
    frame = read_frame(path)
    for notice in frame.notices:
        print(f"note: {notice}", file=sys.stderr)
    return frame


def _words(text: str, option: str) -> list[str]:
    """Words with commas between them, one that holds a comma in double quotes.

    Raises:
        UserError: line ends, or more characters than a cell may hold.
    """
    try:
        return next(csv.reader([text], skipinitialspace=True)) or [text]
    except csv.Error as error:
        shown = text if len(text) < 60 else f"{text[:60]}..."
        raise UserError(
            f"{option} {shown!r}: {error}; give words on one line, with commas between them"
        ) from None


def _split(word: str, names: Iterable[str]) -> tuple[str, str, str]:
    """Name, sign and value of `name=value`: the longest of the names that fits, else the first."""
    fitting = [name for name in names if word.strip().startswith(f"{name}=")]
    if fitting:
        name = max(fitting, key=len)
        return name, "=", word.strip().removeprefix(f"{name}=").strip()
    name, sign, value = word.partition("=")
    return name.strip(), sign, value.strip()


def _read_na_values(text: str | None) -> tuple[list[str], dict[str, list[str]]]:
    """Texts that mean missing in every column, and by column, from `-9,insulin=0`."""
    everywhere: list[str] = []
    by_column: dict[str, list[str]] = {}
    for word in () if text is None else _words(text, "--na-values"):
        name, sign, code = word.rpartition("=")
        if sign and name.strip():
            by_column.setdefault(name.strip(), []).append(code)
        else:
            everywhere.append(word)
    return everywhere, by_column


def read_schema(path: str) -> Schema:
    """The schema of a JSON file.

    Raises:
        UserError: no such file, or one that holds no schema.
    """
    import json

    file = Path(path).expanduser()
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"--schema {path}: {error.strerror or error}; name the file that latently schema wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--schema {path} is no JSON: {error}") from None
    try:
        schema = Schema.from_json(content)
        for column in schema.modelled:
            _check_family(column)
    except UserError as error:
        raise UserError(f"--schema {path}: {error}") from None
    return schema


def _check_family(column: Column) -> None:
    """Refuses a likelihood that is no family, or has options that it does not take."""
    try:
        expr.build(str(column.likelihood), KINDS["families"])
    except UserError as error:
        raise UserError(f"column {column.name!r}: {error}") from None


def read_kinds(text: str | None) -> dict[str, str] | None:
    """Kinds by column from words such as `zip=categorical,age=count`.

    Raises:
        UserError: a word that is no pair.
    """
    if text is None:
        return None
    found = {}
    for word in _words(text, "--kinds"):
        name, sign, kind = word.rpartition("=")  # a kind has no such sign
        if not sign or not name.strip() or not kind.strip():
            raise UserError(
                f"--kinds {word!r}: give column=kind, such as zip=categorical, and a name that "
                "holds a comma in double quotes"
            )
        if name.strip() in found:
            raise UserError(f"--kinds {text}: column {name.strip()!r} has two kinds; give one")
        found[name.strip()] = kind.strip()
    return found


def check_suffix(target: Path, saved: Saved) -> Schema | None:
    """The schema of a model's rows; a file that they cannot be written to is refused at once.

    Raises:
        UserError: a table of rows that are none, or a picture of a table.
    """
    schema = saved.table
    if schema is not None and target.suffix == ".png":
        raise UserError(f"--out {target}: a table's rows are no pictures; end it in .csv")
    if schema is None and target.suffix in TABLES[1:]:
        raise UserError(
            f"--out {target}: the model was fitted to arrays, which have no columns of their own; "
            "end it in .csv or .npz"
        )
    return schema


def column_names(saved: Saved, width: int) -> list[str]:
    """Names of a row's cells: those of the table, or x0, x1, ..."""
    schema = saved.table
    return [f"x{j}" for j in range(width)] if schema is None else list(schema.names)


def drawn_given(
    saved: Saved, text: str, n: int, seed: int, *, samples: int = 1000, sweeps: int = SWEEPS
) -> tuple[Tensor, Frame]:
    """n rows of a table with some cells held, from the others' conditional, and what is held.

    Args:
        saved: the model.
        text: cells that are held, such as `age=40,town=Rome`.
        n: how many rows.
        seed: of the draws.
        samples: particles, of models that are not exact.
        sweeps: most rounds of refining them.

    Returns:
        Rows, (n, columns), and the given cells as a row of texts, for `write_rows`.

    Raises:
        UserError: the model was fitted to no table, what is given is no cell of it, or numbers out
            of range.
    """
    schema = saved.table
    if schema is None:
        raise UserError(f"--given {text}: the model was fitted to arrays, not to a table")
    for option, asked, least in (("samples", samples, 1), ("sweeps", sweeps, 0)):
        if asked < least:
            raise UserError(f"--{option} {asked} must be at least {least}")
    check_memory(8 * samples * len(schema.names), f"{samples:,} particles", "lower --samples")
    row = _given_row(schema, text)
    data, mask = _given_data(schema, row)
    saved.model.check(data.x, mask, "--given")
    found = draw_given(
        saved.model, data.x[0], mask[0], n, samples=samples, sweeps=sweeps, seed=seed
    )
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return found.draws, row


def _given_row(schema: Schema, text: str) -> Frame:
    """One row from `age=40,town=Rome`, its other cells empty.

    Raises:
        UserError: words that are no pairs, or name no cell of the model.
    """
    names = {column.name: column for column in schema.columns}
    held = dict.fromkeys(schema.names, "")
    for word in _words(text, "--given"):
        name, sign, value = _split(word, names)
        if not sign or not value:
            raise UserError(
                f"--given {word!r}: give column=value, such as age=40; write a value that holds a "
                "comma with its column in double quotes, as in '\"town=Washington, DC\",age=40'"
            )
        if name not in names:
            raise UserError(f"--given {word!r}: {closest(name, held)}")
        if name not in held:
            raise UserError(
                f"--given {word!r}: column {name!r} is {names[name].kind} and left out of the "
                "model; leave it out"
            )
        if held[name]:
            raise UserError(f"--given {text}: column {name!r} is given twice; once is enough")
        if value in (*schema.missing, *names[name].na_values):
            raise UserError(f"--given {word!r}: {value} means a missing cell; leave it out")
        held[name] = value
    cells = tuple(np.array([value], dtype=object) for value in held.values())
    return Frame(tuple(held), cells, source="--given", types=("text",) * len(held))


def _given_data(schema: Schema, row: Frame) -> tuple[Data, Tensor]:
    """One row of texts as a model reads it, and which of its cells are given.

    Raises:
        UserError: a text that its column does not take.
    """
    try:
        data = Data.from_frame(row, schema, "--given")
    except UserError as error:
        raise UserError(f"--given: {error}") from None
    mask = torch.ones_like(data.x, dtype=torch.bool) if data.mask is None else data.mask
    for column, known in zip(schema.modelled, mask[0].tolist(), strict=True):
        value = row[column.name][0]
        if value and not known:
            near = closest(value, map(str, column.categories))
            raise UserError(f"--given: column {column.name!r} has no value {value!r}; {near}")
    return data, mask


def write_frames(target: Path, frames: Sequence[Frame]) -> None:
    """One table, or several under each other with their number in a first column, draw."""
    if len(frames) == 1:
        whole = frames[0]
    elif frames[0].native is not None:
        whole = as_frame(stacked([frame.native for frame in frames], DRAW))
    else:
        count = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
        parts = zip(*(frame.columns for frame in frames), strict=True)
        columns = (count, *(np.concatenate(part) for part in parts))
        whole = Frame(names=(DRAW, *frames[0].names), columns=columns)
    atomic_write(target, lambda place: write_frame(place, whole, suffix=target.suffix))


def write_rows(target: Path, x: Tensor, schema: Schema, held: Frame | None = None) -> None:
    """Rows of a model as a table with the original columns; cells that are held as they came."""
    rows = x.cpu().double().numpy()
    if held is not None:
        rows, schema = schema.holding(held, rows)
    write_frames(target, [schema.decode(rows)])
