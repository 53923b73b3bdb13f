"""`latently amputate`: holes in a complete table, to test what is done about them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from latently.data.arrays import read_npy, read_npz
from latently.data.masks import Mask
from latently.data.mechanisms import Mechanism, holes
from latently.data.tables import Frame, Schema, as_frame, write_frame
from latently.data.tables.native import emptied
from latently.data.tables.reading import SUFFIXES, suffix_of
from latently.errors import UserError
from latently.interfaces.flags import Flag, parse
from latently.interfaces.output import check_target, write_arrays
from latently.interfaces.tabular import read_noted
from latently.training.files import atomic_write

__all__ = ["amputate_command"]

_ARRAYS = (".npz", ".npy")
_MECHANISM = Flag("mechanism", "Mechanism | Mask", None, "a rule, e.g. 'MNAR(0.3)'", "")


class _Rows(NamedTuple):
    """Cells (n, D) as numbers, which of them hold anything, and which columns are names."""

    x: np.ndarray
    present: np.ndarray
    names: tuple[str, ...]
    categories: tuple[int, ...]


def amputate_command(
    path: str, mechanism: str, out: str, *, truth: str | None, seed: int, force: bool
) -> str:
    """Hides cells of a table or an array by a rule; the others stand as they were.

    Columns that say nothing of a row (constants, identifiers) keep all their cells. `truth` gets
    what was hidden: `.npz` holds `lost` (True where hidden), and `x` as numbers; `.csv` holds 1
    where a cell was hidden.

    Raises:
        UserError: no such file or rule, a rule that does not fit the rows, or an output that is
            there already.
    """
    rule = parse(["--mechanism", mechanism], [_MECHANISM])["mechanism"]
    source = Path(path).expanduser()
    kind = source.suffix.lower()
    known = None if truth is None else check_target(truth, (".npz", ".csv"), force, "--truth")
    if known is not None and known.resolve() == Path(out).expanduser().resolve():
        raise UserError(f"--truth {truth}: --out is the same file; choose another name for one")
    if kind in _ARRAYS:
        target = check_target(out, _ARRAYS, force)
        x, labels = read_npz(source) if kind == ".npz" else read_npy(source)
        flat = x.reshape(len(x), -1).astype(np.float64)
        names = tuple(f"x{j}" for j in range(flat.shape[1]))
        rows = _Rows(flat, ~np.isnan(flat), names, ())
        lost = _lost(rule, rows, seed, x.shape)
        left = np.where(lost.reshape(x.shape), np.nan, x)
        if target.suffix == ".npy" or labels is None:
            write_arrays(target, {"x": left})
        else:
            write_arrays(target, {"x": left, "y": labels})
    else:
        target = check_target(out, SUFFIXES, force)
        frame = read_noted(source)
        rows = _of_table(frame)
        lost = _lost(rule, rows, seed, rows.x.shape)
        _write(target, _without(frame, rows.names, lost))
    if known is not None:
        _write_truth(known, rows, lost)
    return f"{_told(rows, lost)}; wrote {target}"


def _of_table(frame: Frame) -> _Rows:
    schema = Schema.infer(frame)
    if not schema.modelled:
        raise UserError(
            f"{frame.source}: every column is constant or an identifier, there is nothing to hide"
        )
    found = schema.encode(frame)
    categories = tuple(j for j, c in enumerate(schema.modelled) if c.kind == "categorical")
    return _Rows(found.x, found.mask, schema.names, categories)


def _lost(rule: Mask | Mechanism, rows: _Rows, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Which cells the rule hides, (n, D)."""
    x, present = (torch.from_numpy(a.reshape(shape).copy()) for a in (rows.x, rows.present))
    left = holes(rule, x, present, seed, rows.categories).numpy().reshape(rows.present.shape)
    return rows.present & ~left


def _without(frame: Frame, names: tuple[str, ...], lost: np.ndarray) -> Frame:
    """The table with those cells empty, all others the very same values, of the same types."""
    gone = {frame.place(n): lost[:, j] for j, n in enumerate(names) if lost[:, j].any()}
    if frame.native is not None:
        return as_frame(emptied(frame.native, gone), source=frame.source)
    columns = list(frame.columns)
    for place, cells in gone.items():
        columns[place] = _emptied(columns[place], cells)
    return Frame(frame.names, tuple(columns), source=frame.source)


def _emptied(column: np.ndarray, lost: np.ndarray) -> np.ndarray:
    kept = column.astype(object)
    kept[lost] = None
    return kept


def _write(target: Path, frame: Frame) -> None:
    suffix = suffix_of(target)
    atomic_write(target, lambda place: write_frame(place, frame, suffix=suffix))


def _write_truth(target: Path, rows: _Rows, lost: np.ndarray) -> None:
    if target.suffix == ".npz":
        write_arrays(target, {"lost": lost, "x": rows.x, "names": np.array(rows.names)})
    else:
        columns = tuple(lost[:, j].astype(np.int64) for j in range(lost.shape[1]))
        _write(target, Frame(rows.names, columns, source=target.name))


def _told(rows: _Rows, lost: np.ndarray) -> str:
    """How many cells were hidden, and between what shares the columns lost."""
    here = rows.present.sum()
    shares = lost.sum(0) / np.maximum(rows.present.sum(0), 1)
    least, most = int(shares.argmin()), int(shares.argmax())
    told = f"hid {lost.sum():,} of {here:,} cells ({lost.sum() / max(here, 1):.1%})"
    if shares[least] == shares[most]:
        return f"{told}, the same share of every column"
    return (
        f"{told}, from {shares[least]:.1%} of column {rows.names[least]} to {shares[most]:.1%} of "
        f"column {rows.names[most]}"
    )
