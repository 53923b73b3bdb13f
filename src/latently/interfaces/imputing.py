"""`latently impute`: what missing entries may have been, as arrays, a table or a picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latently.data import Data
from latently.errors import UserError, closest
from latently.inference import Imputation, impute
from latently.interfaces.filling import filled, sought
from latently.interfaces.memory import check_memory
from latently.interfaces.opening import Rows, open_model, ticker
from latently.interfaces.output import check_target, write_arrays, write_table
from latently.interfaces.tabular import DRAW, TABLES, check_suffix, write_frames
from latently.training.progress import Bar

__all__ = ["FILLS", "impute_command"]

FILLS = ("draws", "mean", "median", "mode")
_SHOWN = 12  # rows of a picture
_SHOWN_DRAWS = 5


def impute_command(
    path: str,
    rows: Rows,
    out: str,
    *,
    draws: int | None,
    samples: int,
    sweeps: int,
    quantiles: str,
    fill: str | None,
    force: bool,
) -> str:
    """Fills the missing entries, and says on standard error what to beware of.

    `.npz` holds all that is known of them (x, mean, std, quantiles, levels, mask, ess, k_hat);
    `.npy` and `.csv` hold the rows filled by `fill`; `.png` shows the first rows.

    Raises:
        UserError: nothing is missing, options out of range, or what does not fit the memory.
    """
    target = check_target(out, (".npz", ".npy", ".png", *TABLES), force)
    levels = _read_levels(quantiles)
    saved = open_model(path)
    table = check_suffix(target, saved) is not None
    fill = fill or ("mean" if table and draws is None and target.suffix in TABLES else "draws")
    if draws is not None and fill != "draws":
        raise UserError(f"--draws {draws} has no effect on --fill {fill}; leave one of them out")
    draws = 10 if draws is None else draws
    _check_options(fill, target.suffix, draws, samples, sweeps)
    data, whole = rows.open_both(saved)
    _check_draw(data, target.suffix, fill, draws)
    if data.mask is None or not data.missing:
        where = "" if data.table is None else " in a column that is modelled"
        how = "hide some with --mask"
        if rows.mask is not None:
            how = "give another --mask, and mind that no row loses its only value"
        raise UserError(
            f"{data.protocol} has no missing value (NaN){where}, there is nothing to impute; {how}"
        )
    if target.suffix == ".png":
        _check_image(data)
        first = (~data.mask.flatten(1).all(1)).nonzero()[:_SHOWN, 0]
        data, whole, draws = data.rows(first), whole.rows(first), min(draws, _SHOWN_DRAWS)
    row = math.prod(data.shape)
    if fill == "mode" and not saved.model.discrete and not table:
        raise UserError("--fill mode is for discrete data; give mean or median")
    check_memory(8 * samples * row, f"{samples:,} particles of a row", "lower --samples")
    size = (draws + len(levels) + 2) * row * len(data)
    check_memory(8 * size, f"{draws:,} draws of all rows", "lower --draws")
    with Bar(len(data), "row") as bar:
        found = impute(
            saved.model,
            data,
            draws=draws if fill == "draws" else 0,
            samples=samples,
            sweeps=sweeps,
            quantiles=(*levels, 0.5),
            cells=_sought(data, target.suffix, fill),
            seed=rows.seed,
            progress=ticker(bar),
        )
    left = () if data.table is None or data.frame is None else data.table.unfilled(data.frame)
    for warning in (*found.warnings, *left):
        print(f"warning: {warning}", file=sys.stderr)
    _write(target, found, whole, data, fill)
    count = found.missing
    if data.unknown is not None and target.suffix in TABLES:
        count -= int((data.unknown & ~found.mask).sum())  # words of no known value stay
    return f"wrote {_what(target, found, fill)} of {count} values to {target}"


def _sought(data: Data, suffix: str, fill: str) -> Tensor | None:
    """The cells whose quantiles or modes are written, (*shape); None: all of them."""
    if suffix == ".npz" or fill in ("median", "mode"):
        return None
    if data.table is not None and suffix in TABLES:
        return sought(data.table, fill)
    return torch.zeros(data.shape, dtype=torch.bool)


def _check_draw(data: Data, suffix: str, fill: str, draws: int) -> None:
    """Refuses a column that has the name of the one that numbers draws, before any work."""
    taken = data.frame is not None and DRAW in data.frame.names
    if taken and suffix in TABLES and fill == "draws" and draws > 1:
        raise UserError(
            f"{data.protocol}: has a column {DRAW!r}, which numbers the draws of --draws; rename "
            "it, or give --draws 1"
        )


def _check_image(data: Data) -> None:
    """Refuses a picture of rows that are no images, before any work."""
    from latently.interfaces.pictures import is_image_shape

    if not is_image_shape(data.shape):
        raise UserError(
            f"{data.protocol}: rows of shape {data.shape} are no images; end --out in .npz or .csv"
        )


def _write(target: Path, found: Imputation, whole: Data, data: Data, fill: str) -> None:
    if data.table is not None and target.suffix in TABLES:
        frames, remarks = filled(found, data, fill)
        for remark in remarks:
            print(f"note: {remark}", file=sys.stderr)
        write_frames(target, frames)
    elif target.suffix == ".png":
        _write_picture(target, found, whole)
    elif target.suffix == ".npz":
        write_arrays(target, _arrays(found))
    elif target.suffix == ".npy":
        x = _filled(found, fill)
        write_arrays(target, {"x": x if fill == "draws" else x[0]})
    else:
        write_table(target, _columns(_filled(found, fill)))


def _filled(found: Imputation, fill: str) -> Tensor:
    """(draws, n, *shape), or (1, n, *shape) of means or medians."""
    single = {"mean": found.mean, "median": found.quantiles[-1], "mode": found.mode}
    chosen = single.get(fill)
    return found.draws if chosen is None else chosen[None]


def _arrays(found: Imputation) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "x": found.draws,
        "mean": found.mean,
        "std": found.std,
        "quantiles": found.quantiles[:-1],
        "levels": torch.tensor(found.levels[:-1], dtype=torch.float64),
        "mask": found.mask,
    }
    known = {"mode": found.mode, "ess": found.ess, "k_hat": found.k_hat}
    return arrays | {key: value for key, value in known.items() if value is not None}


def _columns(x: Tensor) -> Mapping[str, Sequence[Any]]:
    """One column per value of a row; several draws stand below each other, numbered."""
    draws, n = x.shape[:2]
    flat = x.flatten(2).flatten(0, 1)
    columns = {f"x{j}": flat[:, j].tolist() for j in range(flat.shape[1])}
    if draws == 1:
        return columns
    return {"draw": torch.arange(draws).repeat_interleave(n).tolist(), **columns}


def _write_picture(target: Path, found: Imputation, whole: Data) -> None:
    """A line of pictures for every row: as it is, what the model saw, draws, the mean."""
    from latently.interfaces.pictures import grid, save_png, value_range

    low, high = value_range(whole)
    whole_x = whole.x if whole.mask is None else whole.x.masked_fill(~whole.mask, math.nan)
    seen = whole_x.masked_fill(~found.mask, math.nan)
    line = torch.stack([whole_x, seen, *found.draws, found.mean], 1)
    pictures = line.flatten(0, 1)
    save_png(grid(pictures, low=low, high=high, columns=line.shape[1], separator=2), target)


def _what(target: Path, found: Imputation, fill: str) -> str:
    if target.suffix == ".png":
        return f"rows, what was seen, {len(found.draws)} draws and the mean"
    if target.suffix == ".npz":
        return f"{len(found.draws)} imputations, mean, spread and quantiles"
    return f"{len(found.draws)} imputations" if fill == "draws" else f"the {fill}s"


def _read_levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        levels = (math.nan,)
    if not all(0 < level < 1 for level in levels):
        raise UserError(f"--quantiles {text!r}: give numbers between 0 and 1, such as 0.05,0.95")
    return levels


def _check_options(fill: str, suffix: str, draws: int, samples: int, sweeps: int) -> None:
    given = {"draws": (draws, 1), "samples": (samples, 1), "sweeps": (sweeps, 0)}
    for name, (value, least) in given.items():
        if value < least:
            raise UserError(f"--{name} {value} must be at least {least}")
    if fill not in FILLS:
        raise UserError(f"--fill {fill!r}: {closest(fill, FILLS)}")
    if fill != "draws" and suffix not in (".npy", *TABLES):
        raise UserError(f"--fill {fill} has no effect on {suffix}; end --out in .npy or .csv")
