"""What the commands do, apart from fit, demo and report."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latently import data as data_floor
from latently import expr
from latently._version import __version__
from latently.data import Data
from latently.data.contexts import Context
from latently.data.tables import Frame
from latently.errors import UserError, closest
from latently.interfaces.memory import check_memory
from latently.interfaces.opening import (
    Rows,
    in_blocks,
    measured,
    open_model,
    opened,
    pick_method,
    short_name,
)
from latently.interfaces.output import check_target, write_arrays, write_images, write_table
from latently.interfaces.ranking import print_ranking, rank, row_json
from latently.interfaces.tabular import TABLES, check_suffix, drawn_given, write_rows
from latently.io import Saved, describe
from latently.registry import KINDS, names

__all__ = [
    "compare",
    "encode",
    "evaluate_model",
    "list_kind",
    "read_context",
    "reconstruct",
    "sample",
    "show",
    "training_seconds",
]

# arguments that models and training fill in themselves
_RESOLVED = (
    *("shape", "z_shape", "encoder", "in_shape", "out_shape", "contexts", "categories"),
    *("params", "lr"),
)
_ROWS = (".png", ".npz", ".npy", *TABLES)
_COLUMNS = 20  # of a picture at most that gives every class one


def evaluate_model(
    path: str,
    rows: Rows,
    *,
    samples: int | None,
    method: str | None,
    as_json: bool,
    progress: bool | None = None,
) -> str:
    """One line, or one JSON object, on how likely data are under a model.

    Warnings go to standard error, or into the object.
    """
    saved = open_model(path)
    chosen = pick_method(method, samples, saved)
    data = rows.open(saved)
    quiet = as_json if progress is None else not progress
    evidence = measured(saved, data, chosen, rows.seed, quiet=quiet)
    if as_json:
        return json.dumps({**evidence.to_dict(), "version": __version__})
    for warning in evidence.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return str(evidence)


def compare(paths: Sequence[str], rows: Rows, *, samples: int | None, as_json: bool) -> None:
    """Prints a table of models on the same rows."""
    results = {
        short_name(path, paths): measured(saved, data, method, rows.seed, quiet=as_json)
        for path, saved, data, method in opened(paths, rows, samples)
    }
    ranking = rank(results)
    if as_json:
        print(json.dumps([row_json(row) for row in ranking]))
        return
    print_ranking(ranking)


def sample(
    path: str,
    n: int,
    out: str,
    *,
    seed: int,
    force: bool,
    context: str | None = None,
    temperature: float = 1.0,
    given: str | None = None,
    particles: Mapping[str, int | None] | None = None,
) -> str:
    """Draws from the model to arrays, a table or a picture, of `each` class in its own column.

    Cells that are `given` are held, and `particles` say by how many "samples" and "sweeps" the
    others are drawn.
    """
    target = check_target(out, _ROWS, force)
    if n < 1:
        raise UserError(f"-n {n} must be at least 1")
    asked = {key: value for key, value in (particles or {}).items() if value is not None}
    if asked and given is None:
        name, value = next(iter(asked.items()))
        raise UserError(f"--{name} {value}: only draws that are --given cells need particles")
    saved = open_model(path)
    check_suffix(target, saved)
    size = n * math.prod(saved.model.shape)
    check_memory(8 * size, f"drawing {n:,} rows", "draw fewer with -n, by several seeds")
    known = read_context(saved, context, n)
    if given is not None:
        if temperature != 1 or known is not None:
            raise UserError("--given: leave out --temperature and --context")
        x, held = drawn_given(saved, given, n, seed, **asked)
    else:
        x, held = saved.model.sample(n, known, temperature=temperature, seed=seed), None
    classes = known.shape[1] if known is not None and context == "each" else _COLUMNS + 1
    columns = classes if classes <= _COLUMNS else None
    _write_rows(target, x, saved, columns=columns, held=held)
    cooled = "" if temperature == 1 else f" at temperature {temperature:g}"
    return f"wrote {n} samples{cooled} to {target}"


def read_context(saved: Saved, text: str | None, n: int) -> Tensor | None:
    """The context of n draws: that of `--context`, or of every class in turn by `each`.

    Raises:
        UserError: it is missing, not wanted, or none that the model knows.
    """
    if not saved.model.contexts:
        if text is not None:
            raise UserError(f"--context {text}: this model takes none; leave it out")
        return None
    if text is None and saved.model.context_optional:
        return None
    if "context" not in saved.data:
        raise UserError(
            f"the file does not say what its context of {saved.model.contexts} columns means; "
            "draw from Python: model.sample(n, context)"
        )
    known = Context.from_schema(saved.data["context"])
    names = saved.data.get("classes") if known.name == "label" else None
    if text is None:
        told = " or each" if known.classes else ""
        called = f", called {', '.join(map(str, names))}" if names else ""
        raise UserError(
            f"this is a model of p(x|{known.name}): give --context VALUE{told}; "
            f"{known.usage()}{called}"
        )
    if isinstance(names, list) and text in names:
        text = str(names.index(text))
    if text == "each" and known.classes:
        return known.encode(known.classes)[torch.arange(n) % known.width]
    return known.parse(text).expand(n, -1)


def reconstruct(path: str, rows: Rows, out: str, *, force: bool) -> str:
    """The mean of p(x|z) at the posterior mean of every row."""
    target = check_target(out, _ROWS, force)
    saved = open_model(path)
    check_suffix(target, saved)
    data = rows.open(saved)
    x = in_blocks(saved.model.reconstruct, data)
    if target.suffix == ".png":
        from latently.interfaces.pictures import pairs, save_png

        shown = slice(0, 64)
        low, high = _value_range(saved, data.x)
        save_png(pairs(data.x[shown], x[shown].to(data.x.dtype), low=low, high=high), target)
        some = "" if len(x[shown]) == len(x) else f"the first {len(x[shown])} of "
        return f"wrote {some}{len(x)} reconstructions, each under its row, to {target}"
    _write_rows(target, x, saved)
    return f"wrote {len(x)} reconstructions to {target}"


def encode(path: str, rows: Rows, out: str, *, force: bool) -> str:
    """The posterior mean of every row, layer by layer."""
    target = check_target(out, (".npz", ".csv"), force)
    saved = open_model(path)
    data = rows.open(saved)
    z = _layers(saved, data)
    if target.suffix == ".npz":
        write_arrays(target, {f"z{i}": layer for i, layer in enumerate(z)})
    else:
        flat = [layer.flatten(1) for layer in z]
        columns = {
            f"z{i}_{j}": layer[:, j].tolist()
            for i, layer in enumerate(flat)
            for j in range(layer.shape[1])
        }
        write_table(target, columns)
    what = "noise" if saved.model.invertible else "posterior means"
    return f"wrote the {what} of {len(data)} rows to {target}"


def show(path: str, *, command: bool) -> str:
    """The recipe call, sizes and training record of a model file."""
    metadata, tensors = describe(Path(path).expanduser())
    training = metadata.get("training", {})
    if command:
        if "command" not in training:
            raise UserError(f"{path} was not written by latently fit and holds no command")
        return str(training["command"])
    values = sum(int(torch.tensor(entry["shape"]).prod()) for entry in tensors.values())
    lines = [
        f"call      {metadata['call']}",
        f"tensors   {len(tensors)}, {values:,} values",
        f"data      {json.dumps(metadata.get('data', {}))}",
        f"latently  {metadata['latently'].get('version')}",
    ]
    for key in (
        "objective",
        "options",
        "kept",
        "criteria",
        "codes",
        "seconds",
        "date",
        "torch",
        "threads",
    ):
        if training.get(key):
            lines.append(f"{key:<9} {_plain(training[key])}")
    lines += [f"warning   {warning}" for warning in training.get("warnings", [])]
    if training.get("history"):
        last = {k: round(v, 4) for k, v in training["history"][-1].items()}
        lines.append(f"last      {json.dumps(last)}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """A value of the training record; options as they are written on the command line."""
    if isinstance(value, dict):
        return " ".join(f"--{key.replace('_', '-')} {text}" for key, text in value.items())
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def training_seconds(path: str) -> float:
    """Seconds that a model file says its fit took."""
    return float(describe(Path(path))[0].get("training", {}).get("seconds", 0.0))


def list_kind(kind: str | None, name: str | None = None) -> str:
    """The kinds there are, members of one with a line each, or all that is said of one member."""
    if name is not None and kind is not None:
        return _member(kind, name)
    if kind is None:
        return "\n".join(f"latently list {known}" for known in (*KINDS, "data", "cards"))
    if kind == "data":
        members = dict(data_floor.names())
    elif kind == "cards":
        from latently.interfaces.cards import cards

        members = {made.name: f"{made.claim}; {made.expected}" for made in cards().values()}
    elif kind in KINDS:
        members = names(kind)
    else:
        raise UserError(f"unknown kind {kind!r}; {closest(kind, [*KINDS, 'data', 'cards'])}")
    width = max(map(len, members))
    return "\n".join(f"{name:<{width}}  {about}".rstrip() for name, about in members.items())


def _member(kind: str, name: str) -> str:
    """The options of a member with their defaults, and its documentation.

    Raises:
        UserError: there is no such member, or members of the kind have no options.
    """
    if kind not in KINDS:
        fix = closest(kind, KINDS) if kind not in ("data", "cards") else "give the kind alone"
        raise UserError(f"{kind!r} has no members with options; {fix}")
    if name not in KINDS[kind]:
        raise UserError(f"no {name!r} among {kind}; {closest(name, KINDS[kind])}")
    member = KINDS[kind][name]
    parameters = inspect.signature(member).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    options = [_option(p) for p in named if p.name not in _RESOLVED]
    about = inspect.getdoc(member) or ""
    if not member.__module__.startswith("latently"):
        about = about.split("\n", 1)[0]  # of torch, whose own pages say the rest
    return f"{name}({', '.join(options)})\n\n{about.partition('>>>')[0].strip()}"


def _option(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return f"{parameter.name}=..."
    return f"{parameter.name}={expr.show(parameter.default)}"


def _layers(saved: Saved, data: Data) -> list[Tensor]:
    pieces = []
    for rows in torch.arange(len(data)).split(500):
        part = data.rows(rows)
        pieces.append(saved.model.encode(part.x, part.mask, part.context))
    return [torch.cat(layer) for layer in zip(*pieces, strict=True)]


def _write_rows(
    target: Path,
    x: Tensor,
    saved: Saved,
    columns: int | None = None,
    held: Frame | None = None,
) -> None:
    """Rows to a file; in a picture so many beside each other, of a table with some cells held."""
    if target.suffix == ".png":
        write_images(target, x, *_value_range(saved, x), columns=columns)
    elif (schema := saved.table) is not None and target.suffix in TABLES:
        write_rows(target, x, schema, held)
    elif target.suffix == ".csv":
        flat = x.flatten(1)
        write_table(target, {f"x{j}": flat[:, j].tolist() for j in range(flat.shape[1])})
    else:
        write_arrays(target, {"x": x})


def _value_range(saved: Saved, x: Tensor) -> tuple[float, float]:
    levels = saved.data.get("levels")
    return (0.0, levels - 1.0) if levels else (float(x.min()), float(x.max()))
