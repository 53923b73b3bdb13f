"""From a SPEC to Data: `NAME[:PROTOCOL][/SPLIT]`, or a file `PATH[/SPLIT]` known by its suffix.

A named set has the splits train, validation, test and train+val, fixed by its protocol. A file has
train and validation, drawn by seed; without a split it is read whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latently.data import arrays, images
from latently.data.base import Data, check_schema
from latently.data.source import Source
from latently.errors import UserError, closest

__all__ = ["READERS", "SOURCES", "hold_out", "load", "names", "splits"]

READERS = {**arrays.READERS}
SOURCES: dict[str, Source] = {
    source.name: source
    for module in (images,)
    for source in (getattr(module, name) for name in module.__all__)
}
_FILE_SPLITS = ("train", "validation")
_FRACTION = 0.1


class _Spec(NamedTuple):
    name: str
    protocol: str
    split: str | None
    path: Path | None


def load(
    spec: str | Path,
    split: str | None = None,
    data_dir: Path | str | None = None,
    *,
    like: Mapping[str, Any] | None = None,
    family: str | None = None,
    levels: int | None = None,
    missing: str = "allow",
    validation: float = _FRACTION,
    seed: int = 0,
) -> Data:
    """Read the data a SPEC names.

    Args:
        spec: `NAME[:PROTOCOL][/SPLIT]`, or a file `PATH[/SPLIT]`.
        split: The split, if the spec has none; default: "train" of a named set, all of a file.
        data_dir: Folder of the sets that are not built in; default: LATENTLY_DATA.
        like: The schema of a fitted model (`Data.to_schema`), whose levels and family hold.
        family: Observation model, instead of the default of the data.
        levels: Integers 0..levels-1, for files; default: read off the values.
        missing: "allow" or "refuse" NaN.
        validation: Share of a file's rows that is its validation split.
        seed: Seed of that draw.

    Raises:
        UserError: An unknown name, protocol or split, a file that cannot be read, or bad values.

    >>> load("digits/test")
    Data('digits/test': 360 rows of shape (1, 8, 8), DiscretizedLogistic(levels=17))
    """
    parsed = _parse(spec, split)
    if like is not None and levels is None and parsed.path is not None:
        levels = like["levels"]
    if parsed.path is not None:
        data = _load_file(parsed, family, levels, missing, validation, seed)
    else:
        data = _load_source(parsed, data_dir, family, levels)
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
) -> tuple[Data, Data | None]:
    """The rows to fit on and the rows to validate on (None if there are none).

    Args:
        spec: See `load`. Of a named set: its train split (and its own validation split), or
            "/train+val" (nothing left to validate on).
        data_dir: See `load`.
        validation: A share of a file's rows (default 0.1), 0 for none, or another SPEC.
        seed: Seed of the draw of that share.
        family: See `load`.
        levels: See `load`.
        missing: See `load`.

    Raises:
        UserError: See `load`; a held-out split to fit on; test rows, or rows of another kind, to
            validate on.
    """
    parsed = _parse(spec, None)
    if parsed.split in ("validation", "test"):
        raise UserError(f"{spec} is held out for evaluation; fit on its train split")
    share = _share(validation)
    options: dict[str, Any] = {"family": family, "levels": levels, "missing": missing}
    if isinstance(share, str):
        if _parse(share, None).split == "test":
            raise UserError(
                f"validation={share}: test rows that choose the epoch test nothing; name others"
            )
        return _with_spec(load(spec, None, data_dir, **options), share, data_dir, missing)
    if parsed.path is not None:
        data = _load_file(parsed._replace(split=None), family, levels, missing, 0, seed)
        if share == 0 or (share is None and len(data) == 1):
            return data, None
        return hold_out(data, _FRACTION if share is None else share, seed)
    train = load(spec, None, data_dir, **options)
    if share:
        raise UserError(
            f"validation={validation}: {parsed.name} has its own validation split; "
            "leave it out, or give 0 for none or another SPEC"
        )
    if share == 0 or parsed.split == "train+val":
        return train, None
    return train, _load_source(parsed._replace(split="validation"), data_dir, family, levels)


def hold_out(data: Data, fraction: float = _FRACTION, seed: int = 0) -> tuple[Data, Data]:
    """Train and validation rows: the first `fraction` of `default_rng(seed).permutation` validate.

    Raises:
        UserError: A fraction outside (0, 1), or too few rows for two parts.
    """
    n = len(data)
    if not 0 < fraction < 1:
        raise UserError(f"validation={fraction}: a share of the rows lies between 0 and 1")
    held = max(1, round(fraction * n))
    if held >= n:
        raise UserError(
            f"{data.protocol}: validation={fraction} of {n} row{'s' * (n > 1)} leaves none to fit "
            "on; use a smaller share, 0 for none, or another SPEC"
        )
    order = np.random.default_rng(seed).permutation(n)
    return (
        data.rows(order[held:], f"{data.protocol}/train"),
        data.rows(order[:held], f"{data.protocol}/validation"),
    )


def names() -> list[tuple[str, str]]:
    """Every named set, as `NAME[:PROTOCOL]`, with one line about it."""
    return [pair for source in SOURCES.values() for pair in source.specs.items()]


def _parse(spec: str | Path, split: str | None) -> _Spec:
    if not isinstance(spec, str | Path):
        raise UserError(
            f"data of type {type(spec).__name__}: a SPEC is a name or a file; "
            "arrays go through Data.from_array"
        )
    text = str(spec)
    head, _, tail = text.rpartition("/")
    if Path(text).suffix.lower() in READERS:  # a path may hold slashes: its suffix decides
        parsed = _file(text, split)
    elif Path(head).suffix.lower() in READERS:
        parsed = _file(head, tail)
    else:
        name, _, own = text.partition("/")
        name, _, protocol = name.partition(":")
        if name not in SOURCES:
            raise UserError(_unknown(text))
        parsed = _Spec(name, protocol, own or split, None)
    if split is not None and parsed.split != split:
        raise UserError(f"{text} names the split {parsed.split!r}, not {split!r}; give it once")
    return parsed


def _file(path: str, split: str | None) -> _Spec:
    if split is not None and split not in _FILE_SPLITS:
        raise UserError(
            f"{path} has no split {split!r}; {closest(split, _FILE_SPLITS)}, "
            "or leave it out for all rows"
        )
    return _Spec(path, "", split, Path(path).expanduser())


def _unknown(text: str) -> str:
    path, suffixes = Path(text).expanduser(), ", ".join(READERS)
    if text and path.exists():
        return f"cannot read {text!r}; files are read by suffix: {suffixes}"
    if path.suffix or len(path.parts) > 2:
        return f"no such file: {text!r}; check the path (files are read by suffix: {suffixes})"
    known = [*SOURCES, *(name for name, _ in names())]
    hint = closest(text.partition("/")[0], known)
    return f"no data set is called {text!r}; {hint}; a file ends in {suffixes}"


def _load_file(
    parsed: _Spec,
    family: str | None,
    levels: int | None,
    missing: str,
    validation: float,
    seed: int,
) -> Data:
    assert parsed.path is not None
    x, y = READERS[parsed.path.suffix.lower()](parsed.path)
    data = Data.from_array(x, family, levels, parsed.path.name, y, missing)
    if parsed.split is None:
        return data
    return hold_out(data, validation, seed)[_FILE_SPLITS.index(parsed.split)]


def _load_source(
    parsed: _Spec, data_dir: Path | str | None, family: str | None, levels: int | None
) -> Data:
    folder = None if data_dir is None else Path(data_dir)
    data = SOURCES[parsed.name](parsed.protocol, parsed.split or "train", folder)
    if levels is not None and levels != data.levels:
        raise UserError(f"levels={levels}: {data.protocol} has {data.levels} levels; leave it out")
    return data if family is None else replace(data, family=family)


def _share(validation: float | str | Path | None) -> float | str | None:
    if validation is None or isinstance(validation, int | float):
        return validation
    try:
        return float(str(validation))
    except ValueError:
        return str(validation)


def _with_spec(
    train: Data, spec: str, data_dir: Path | str | None, missing: str
) -> tuple[Data, Data]:
    validation = load(spec, None, data_dir, like=train.to_schema(), missing=missing)
    if validation.digest() == train.digest():
        raise UserError(f"validation={spec}: these are the training data; name other rows")
    return train, validation
