"""Writers of arrays, tables and pictures: by suffix, atomically, never over a file unasked."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latently.errors import UserError
from latently.training.files import atomic_write

__all__ = [
    "check_folder",
    "check_place",
    "check_target",
    "write_arrays",
    "write_images",
    "write_table",
]


def check_target(out: str, suffixes: Sequence[str], force: bool, option: str = "--out") -> Path:
    """The path of an output, checked before any work is done.

    Args:
        out: the path as it was given.
        suffixes: of which its name has one.
        force: whether a file that is there is replaced.
        option: what the path was given by.

    Raises:
        UserError: another suffix, a file that is there and not to be replaced, or a folder that
            cannot be written.
    """
    path = Path(out).expanduser()
    if not any(path.name.endswith(suffix) and path.name != suffix for suffix in suffixes):
        raise UserError(f"{option} {out}: end the name in {', '.join(suffixes)}")
    check_place(path)
    if path.exists() and not force:
        raise UserError(f"{out} exists; choose another {option}, or --force to replace it")
    return path


def check_place(path: Path) -> None:
    """Refuses before any work what could not be written after it.

    Raises:
        UserError: `path` is a folder, or lies where nothing can be written.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise UserError(f"cannot write {path}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: {folder} is not writable by you; choose another")


def check_folder(out: str) -> Path:
    """The path of a folder to write to.

    Raises:
        UserError: it is a file, has no name, or cannot be written.
    """
    path = Path(out).expanduser()
    if not out.strip():
        raise UserError(f"--out {out!r} names no folder; name one, or . for this one")
    check_place(path / "file")
    return path


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays to .npz, or the only one to .npy."""
    held = {k: _array(v) if isinstance(v, Tensor) else np.asarray(v) for k, v in arrays.items()}

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            if path.suffix == ".npy":
                (only,) = held.values()
                np.save(file, only, allow_pickle=False)
            else:
                np.savez_compressed(file, allow_pickle=False, **held)

    atomic_write(path, write)


def _array(values: Tensor) -> np.ndarray:
    """The values; numpy has no bfloat16, which float32 holds."""
    return (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Writes columns to CSV."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    atomic_write(path, write)


def write_images(
    path: Path, x: Tensor, low: float, high: float, columns: int | None = None
) -> None:
    """Writes rows as a grid of images."""
    from latently.interfaces.pictures import grid, save_png

    save_png(grid(x, low=low, high=high, columns=columns), path)
