"""Model files: one safetensors file holding the weights and the recipe call that rebuilds them.

Nothing is ever unpickled, evaluated or imported by path. A file is hostile until read: the
header is bounded, only known names and literals are admitted, the model is first built without
memory (on the "meta" device), and every shape is compared before anything is allocated.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from latently import expr
from latently._version import __version__
from latently.data import Data
from latently.data import load as load_rows
from latently.data.schema import check_form, check_schema
from latently.data.tables import Schema
from latently.errors import UserError, closest
from latently.inference.noise import seeded
from latently.models import Model
from latently.recipes import RECIPES
from latently.registry import components as known_components
from latently.training.files import (
    named_tensors,
    read_header,
    read_tensors,
    set_tensors,
    write_tensors,
)

__all__ = ["Saved", "check_savable", "describe", "load", "load_saved", "save"]

FORMAT = 1


@dataclass(frozen=True)
class Saved:
    """A model with what its file says of it.

    Attributes:
        model: the model, in eval mode.
        data: schema of the data it was fitted to, {} if the file does not say.
        training: the record of its fit, {} if the file does not say.
        version: version of latently that wrote the file.
    """

    model: Model
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    version: str = __version__

    @cached_property
    def table(self) -> Schema | None:
        """What the columns of the table were that the model was fitted to; None: it was no table.

        It is read and checked once, when it is first asked for. Where the model says what is
        missing by its value, columns have no bounds: what nobody saw may lie beyond what was seen.

        Raises:
            UserError: what is wrong in the file, by column and field.
        """
        found = self.data.get("table")
        if found is None:
            return None
        schema = Schema.from_json(found)
        return schema if self.model.evidence_of == "x" else schema.unbounded()

    def read(self, rows: Any, split: str | None = None, *, missing: str = "allow") -> Data:
        """Rows as the model reads them, by what its file keeps of those it was fitted to.

        Columns of a table are found by name and keep their kinds, whatever the new cells look
        like; of other rows levels, family, context and so on hold.

        Args:
            rows: a SPEC or a path, as `latently.data.load` takes it; of a table also a data frame,
                or a dict of columns; of rows of numbers also an array.
            split: the split of a SPEC that has none.
            missing: "allow", or "refuse" for an error.

        Raises:
            UserError: the file does not say what the model was fitted to, or the rows are none of
                the model's.
        """
        if not self.data:
            raise UserError(
                "the file does not say what rows the model was fitted to; save it with data="
            )
        if isinstance(rows, str | Path):
            return load_rows(rows, split, like=self.data, missing=missing)
        if split is not None:
            raise UserError(f"split={split!r} is of rows that are read from a SPEC; leave it out")
        if self.table is not None:
            return Data.from_frame(rows, self.table, missing=missing)
        return check_schema(
            self.data, Data.from_array(rows, levels=self.data.get("levels"), missing=missing)
        )


def check_savable(model: Model, extra: Mapping[str, Any] | None = None) -> str:
    """The text of a model's recipe call; called by fit before training, not after.

    Raises:
        UserError: the model was composed by hand, or its call names something unknown.
    """
    if model.call is None:
        raise UserError(
            f"this {type(model).__name__} was composed by hand and has no recipe call to save; "
            "put its construction into a function decorated with @latently.recipe"
        )
    call = str(model.call)
    _parse(call, known_components(extra))
    return call


def save(
    model: Model,
    path: str | Path,
    *,
    data: Data | Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    components: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model to one safetensors file, atomically.

    Args:
        model: a model built by a recipe.
        path: where to.
        data: the data it was fitted to, whose schema is stored, not its rows; or that schema.
        training: a JSON-able record of the fit; "history", "warnings" and "seconds" in it are
            what `Fit` holds under these names.
        components: names of the user's own constructors in the recipe call.

    Raises:
        UserError: the model has no recipe call, the record is none, or the file cannot be
            written (an old file is then as before).
    """
    _check_training(path, training or {})
    metadata = {
        "latently": {"format": FORMAT, "version": __version__},
        "call": check_savable(model, components),
        "data": data.to_schema() if isinstance(data, Data) else dict(data or {}),
        "training": dict(training or {}),
    }
    write_tensors(Path(path), named_tensors(model), metadata)


def load(path: str | Path, *, components: Mapping[str, Any] | None = None) -> Model:
    """Reads a model file.

    Args:
        path: a file written by `save`.
        components: the user's own constructors by the names the file uses.

    Raises:
        UserError: no model file, damaged, written by a newer format, with weights that are not
            finite, or naming components that are not known (closest names are listed).
    """
    return load_saved(path, components=components).model


def load_saved(path: str | Path, *, components: Mapping[str, Any] | None = None) -> Saved:
    """As `load`, with the data schema and training record of the file: see `Saved.read`."""
    path = Path(path)
    metadata, tensors = describe(path)
    call, names = metadata["call"], known_components(components)
    with torch.device("meta"):
        _check_tensors(path, named_tensors(_build(path, call, names)), tensors)
    values = read_tensors(path)
    for name, tensor in values.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{path}: {name!r} holds values that are not finite; fit it again")
    with seeded(0):  # initial weights are drawn, and replaced at once
        model = _build(path, call, names)
    set_tensors(model, values)
    return Saved(
        model.eval(),
        metadata.get("data", {}),
        metadata.get("training", {}),
        metadata["latently"].get("version", "?"),
    )


def describe(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensor table of a model file, without building the model."""
    metadata, tensors = read_header(path)
    head = metadata.get("latently")
    if not isinstance(head, dict) or not isinstance(metadata.get("call"), str):
        raise UserError(f"{path} is a safetensors file, but no latently model")
    if not isinstance(head.get("format"), int) or head["format"] > FORMAT:
        raise UserError(
            f"{path} has format {head.get('format')} of latently {head.get('version')}, newer "
            f"than this {__version__}; upgrade latently"
        )
    for key in ("data", "training"):
        if not isinstance(metadata.get(key, {}), dict):
            raise UserError(f"{path}: its {key!r} record is damaged")
    if metadata.get("data"):
        check_form(metadata["data"])
    _check_training(path, metadata.get("training", {}))
    return metadata, tensors


def _check_training(path: Path | str, record: Mapping[str, Any]) -> None:
    """Refuses a record of training whose parts are not what readers of it take them for."""
    history, seconds = record.get("history", []), record.get("seconds", 0)
    fine = (
        isinstance(history, list)
        and all(isinstance(row, dict) for row in history)
        and all(_is_number(value) for row in history for value in row.values())
        and isinstance(record.get("warnings", []), list | tuple)
        and _is_number(seconds)
        and 0 <= seconds < math.inf
    )
    if not fine:
        raise UserError(
            f"{path}: its 'training' record is damaged: 'history' is a list of rows of numbers, "
            "'warnings' a list, 'seconds' a number"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64)


def _build(path: Path, call: str, names: Mapping[str, Any]) -> Model:
    try:
        constructor = _parse(call, names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return constructor()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a hostile call may misuse a component in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: its call {call[:80]!r} builds no model: {reason}") from None


def _parse(call: str, names: Mapping[str, Any]) -> Any:
    """A recipe call as a function of no arguments."""
    name = call.partition("(")[0].strip()
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name[:40]!r}; {closest(name, RECIPES)}")
    return expr.build(call, {**names, **RECIPES})


def _check_tensors(
    path: Path, expected: Mapping[str, torch.Tensor], found: Mapping[str, Any]
) -> None:
    if missing := expected.keys() - found.keys():
        raise UserError(f"{path} lacks the tensor {min(missing)!r}; it is damaged")
    if extra := found.keys() - expected.keys():
        raise UserError(f"{path} holds {min(extra)!r}, which its recipe call does not make")
    for name, tensor in expected.items():
        shape, dtype = found[name]["shape"], found[name].get("dtype")
        fits = _DTYPES.get(dtype) == tensor.dtype or (
            tensor.is_floating_point() and dtype in _FLOATS  # a fit may change the precision
        )
        if list(tensor.shape) != shape or not fits:
            raise UserError(
                f"{path}: {name!r} is {dtype} {tuple(shape)} in the file and {tensor.dtype} "
                f"{tuple(tensor.shape)} by its recipe call; it is damaged"
            )


_FLOATS = ("F64", "F32", "BF16", "F16")
_DTYPES = {"I64": torch.int64, "BOOL": torch.bool}
