"""From a SPEC to Data: `NAME[:PROTOCOL][/SPLIT]`, or a file or folder `PATH[/SPLIT]`.

A named set has the splits train, validation, test and train+val, fixed by its protocol. A path has
the same, drawn by seed (see `latently.data.partition`); without a split it is read whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from latently.data.base import Data
from latently.data.contexts import Context
from latently.data.options import Options
from latently.data.partition import REST, hold_out, part
from latently.data.paths import HELD_OUT, check_kinds, read_path, rows, with_values
from latently.data.schema import check_schema
from latently.data.spec import SOURCES, Spec, names, parse
from latently.data.tables import Schema
from latently.errors import UserError

__all__ = ["SOURCES", "hold_out", "load", "names", "splits"]


def load(
    spec: str | Path,
    split: str | None = None,
    data_dir: Path | str | None = None,
    *,
    like: Data | Mapping[str, Any] | None = None,
    family: str | None = None,
    levels: int | None = None,
    missing: str = "allow",
    validation: float | None = None,
    seed: int | None = None,
    binarise: str | None = None,
    context: str | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Data:
    """Read the data a SPEC names.

    Args:
        spec: `NAME[:PROTOCOL][/SPLIT]`, or a file or a folder of pictures, `PATH[/SPLIT]`.
        split: The split, if the spec has none; default: "train" of a named set, all of a path.
        data_dir: Folder of the sets that are not built in; default: LATENTLY_DATA.
        like: Rows that a model was fitted to, or the schema that its file keeps of them
            (`Data.to_schema`), whose columns, levels, family, context, binarisation, class names
            and split hold.
        family: Observation model, instead of the default of the data.
        levels: Integers 0..levels-1, for paths; default: read off the values.
        missing: "allow" or "refuse" NaN.
        validation: Share of a path's rows that is its validation split; default: 0.1.
        seed: Seed of that draw; default: 0.
        binarise: "dynamic" or "static-seedN", for the grey values of paths: see
            `latently.data.binarise`.
        context: What the model is to be conditioned on: "label", or the name of an array of a
            `.npz` or of a column of a named set with one row per row. Held-out rows are encoded
            as the train split is.
        kinds: Kinds of columns of a table by name, where the ones found are wrong.

    Raises:
        UserError: An unknown name, protocol, split or context, a path that cannot be read, bad
            values, or kinds of columns that `like` has said.

    >>> load("digits/test")
    Data('digits/test': 360 rows of shape (1, 8, 8), DiscretizedLogistic(levels=17))
    >>> load("digits/test", context="label").context.shape
    torch.Size([360, 10])
    """
    parsed = _parsed(spec, split, binarise)
    like = like.to_schema() if isinstance(like, Data) else like
    options = Options.of(
        like,
        family=family,
        levels=levels,
        missing=missing,
        validation=validation,
        seed=seed,
        binarise=binarise,
        context=context,
        kinds=kinds,
    )
    if parsed.path is None:
        data = _encoded_source(parsed, data_dir, options)
    else:
        data = _encoded_path(parsed, options)
    return data if like is None else check_schema(like, data)


def splits(
    spec: str | Path,
    data_dir: Path | str | None = None,
    validation: float | str | Path | None = None,
    seed: int = 0,
    *,
    family: str | None = None,
    levels: int | None = None,
    missing: str = "allow",
    binarise: str | None = None,
    context: str | None = None,
    table: Schema | None = None,
    kinds: Mapping[str, str] | None = None,
) -> tuple[Data, Data | None]:
    """The rows to fit on and the rows to validate on (None if there are none).

    Args:
        spec: See `load`. Of a named set: its train split (and its own validation split), or
            "/train+val" (nothing left to validate on). A path without a split: all its rows but
            those of PATH/validation, named "PATH without validation"; PATH/train leaves PATH/test
            alone.
        data_dir: See `load`.
        validation: A share of a path's rows (default 0.1), 0 for none, or another SPEC.
        seed: Seed of the draw of the splits.
        family: See `load`.
        levels: See `load`.
        missing: See `load`.
        binarise: See `load`; the validation rows are drawn once.
        context: See `load`; the validation rows are encoded as the rows to fit on are.
        table: What the columns of a table are; default: found out from all its rows.
        kinds: Kinds of columns of a table by name, where the ones found are wrong.

    Raises:
        UserError: See `load`; a held-out split to fit on; test rows, or rows of another kind, to
            validate on.
    """
    parsed = _parsed(spec, None, binarise)
    if parsed.split in HELD_OUT:
        raise UserError(f"{spec} is held out for evaluation; fit on its train split")
    share = _share(validation)
    options = Options(
        family=family,
        levels=levels,
        missing=missing,
        seed=seed,
        binarise=binarise,
        context=context,
        table=table,
        kinds=kinds,
    )
    if isinstance(share, str):
        _check_other(parsed, share)
        train = _encoded(_pair(parsed, data_dir, options, 0)[0], None, options)[0]
        _check_columns(train, table)
        return _with_spec(train, share, data_dir, missing)
    train, held = _encoded(*_pair(parsed, data_dir, options, share), options)
    _check_columns(train, table)
    return train, held


def _check_columns(data: Data, table: Schema | None) -> None:
    if table is not None and data.table is None:
        raise UserError(
            f"a schema of columns is given, and {data.protocol} is no table; leave it out"
        )


def _parsed(spec: str | Path, split: str | None, binarise: str | None) -> Spec:
    parsed = parse(spec, split)
    if binarise is not None and parsed.path is None:
        raise UserError(
            f"binarise={binarise!r}: {parsed.name} is a named set, whose protocols say what is "
            f"binary: {', '.join(SOURCES[parsed.name].specs)}"
        )
    return parsed


def _pair(
    parsed: Spec, data_dir: Path | str | None, options: Options, share: float | None
) -> tuple[Data, Data | None]:
    """Rows to fit on and to validate on, their contexts not yet encoded."""
    if parsed.path is not None:
        return _path_pair(parsed, options, share)
    if share:
        raise UserError(
            f"validation={share}: {parsed.name} has its own validation split; "
            "leave it out, or give 0 for none or another SPEC"
        )
    train = _source_rows(parsed, data_dir, options)
    if share == 0 or parsed.split == "train+val":
        return train, None
    return train, _source_rows(parsed._replace(split="validation"), data_dir, options)


def _path_pair(parsed: Spec, options: Options, share: float | None) -> tuple[Data, Data | None]:
    if share and parsed.split == "train+val":
        raise UserError(
            f"validation={share}: {parsed.name}/train+val holds the validation rows; fit on "
            f"{parsed.name}/train, or leave it out"
        )
    assert parsed.path is not None
    options = replace(options, validation=share) if share else options
    whole = read_path(parsed.path, options)
    if parsed.split is None and (share == 0 or (share is None and len(whole) == 1)):
        return rows(whole, None, options), None
    train = rows(whole, parsed.split or REST, options)
    if share == 0 or parsed.split == "train+val":
        return train, None
    return train, rows(whole, "validation", options)


def _encoded_path(parsed: Spec, options: Options) -> Data:
    assert parsed.path is not None
    whole = read_path(parsed.path, options)
    data = rows(whole, parsed.split, options)
    if options.context is None or options.fitted is not None or parsed.split not in HELD_OUT:
        return _encoded(data, None, options)[0]
    train = part(whole, "train", options.validation, options.seed)
    return _encode(data, _context_of(train, options))


def _encoded_source(parsed: Spec, data_dir: Path | str | None, options: Options) -> Data:
    data = _source_rows(parsed, data_dir, options)
    if options.context is None or options.fitted is not None or parsed.split not in HELD_OUT:
        return _encoded(data, None, options)[0]
    train = _source_rows(parsed._replace(split="train"), data_dir, options)
    return _encode(data, _context_of(train, options))


def _source_rows(parsed: Spec, data_dir: Path | str | None, options: Options) -> Data:
    """One split of a named set, with the raw values of the context."""
    check_kinds(options, parsed.name)
    source = SOURCES[parsed.name]
    folder, split = None if data_dir is None else Path(data_dir), parsed.split or "train"
    data = source(parsed.protocol, split, folder)
    if options.levels not in (None, data.levels):
        raise UserError(
            f"levels={options.levels}: {data.protocol} has {data.levels}; leave levels out, or "
            "name data of as many as the model was fitted to"
        )
    if options.family is not None:
        data = replace(data, family=options.family)
    return with_values(data, options, lambda name: source.column(name, data, split, folder))


def _encoded(data: Data, held: Data | None, options: Options) -> tuple[Data, Data | None]:
    """Rows to fit on and held-out rows, the context of both encoded as the former's."""
    if options.context is None:
        return data, held
    context = _context_of(data, options)
    return _encode(data, context), None if held is None else _encode(held, context)


def _context_of(train: Data, options: Options) -> Context:
    assert options.context is not None
    assert train.context is not None
    return options.fitted or Context.of(options.context, train.context)


def _encode(data: Data, context: Context) -> Data:
    assert data.context is not None
    columns = context.encode(data.context, data.protocol)
    return replace(data, context=columns, conditions=context)


def _share(validation: float | str | Path | None) -> float | str | None:
    if validation is None or isinstance(validation, int | float):
        return validation
    try:
        return float(str(validation))
    except ValueError:
        return str(validation)


def _check_other(fitted: Spec, spec: str) -> None:
    """Refuse rows to validate on that are test rows, or among those to fit on."""
    other = parse(spec)
    if other.split == "test":
        raise UserError(
            f"validation={spec}: test rows that choose the epoch test nothing; name others"
        )
    same = fitted.path is not None and fitted.path == other.path
    if same and other.split is not None and fitted.split in (None, "train+val"):
        raise UserError(
            f"validation={spec}: these are among the training data; fit on {fitted.name}/train"
        )


def _with_spec(
    train: Data, spec: str, data_dir: Path | str | None, missing: str
) -> tuple[Data, Data]:
    validation = load(spec, None, data_dir, like=train.to_schema(), missing=missing)
    if validation.digest() == train.digest():
        raise UserError(f"validation={spec}: these are the training data; name other rows")
    return train, validation.once()
