"""What the commands do, apart from fit, demo and report."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latently import data as data_floor
from latently import expr
from latently._version import __version__
from latently.data import Data
from latently.data.catalog import SOURCES
from latently.errors import UserError, closest
from latently.inference import Evidence, Exact, ImportanceSampling, Method, evaluate
from latently.inference.evidence import Progress
from latently.interfaces.memory import check_memory
from latently.interfaces.output import check_target, write_arrays, write_images, write_table
from latently.interfaces.ranking import print_ranking, rank, row_json
from latently.io import Saved, describe, load_saved
from latently.registry import KINDS, components, names
from latently.training.progress import Bar

MAX_SAMPLES = 10**8  # every row keeps all its log-weights, 8 bytes each
_WHOLE = ("", "train+val")  # splits of a file or a named set that hold train and validation rows

__all__ = [
    "compare",
    "encode",
    "evaluate_model",
    "impute",
    "list_kind",
    "open_data",
    "open_model",
    "opened",
    "reconstruct",
    "sample",
    "score",
    "short_name",
    "show",
    "training_seconds",
]


def open_model(path: str) -> Saved:
    """Reads a model file."""
    return load_saved(Path(path).expanduser())


def open_data(spec: str, saved: Saved, data_dir: str | None, seed: int = 0) -> Data:
    """Rows for a fitted model: the test split of a named set unless another is named."""
    name = spec.partition(":")[0]
    if name in SOURCES and "/" not in spec:
        spec += "/test"
    data = data_floor.load(spec, data_dir=data_dir, like=saved.data or None).once(seed)
    saved.model.check(data.x, data.mask, data.protocol)
    return data


def pick_method(method: str | None, samples: int | None, saved: Saved) -> Method:
    """The method of `--method` or `--samples`; exact where the model is."""
    if method is not None and samples is not None:
        raise UserError("give --samples or --method, not both")
    if method is not None:
        built = expr.build(method, components())
        if not isinstance(built, Method):
            raise UserError(f"--method {method}: {closest(method, KINDS['methods'])}")
    elif saved.model.density == "exact":
        built = Exact()
    else:
        built = ImportanceSampling() if samples is None else ImportanceSampling(samples)
    if isinstance(built, ImportanceSampling) and built.samples > MAX_SAMPLES:
        raise UserError(f"{built.samples} samples a row: at most {MAX_SAMPLES:,} are drawn")
    return built


def measured(saved: Saved, data: Data, method: Method, seed: int, quiet: bool = False) -> Evidence:
    """Evidence with a progress bar, and a word of caution on rows the model was fitted to."""
    with Bar(len(data), "row", show=not quiet) as bar:
        evidence = evaluate(saved.model, data, method, seed=seed, progress=_ticker(bar))
    if not _fitted_to(saved, data):
        return evidence
    note = f"{data.protocol} names rows the model was fitted to; what it says of them flatters"
    return replace(evidence, notes=(*evidence.notes, note))


def _fitted_to(saved: Saved, data: Data) -> bool:
    """Whether data, by their name, hold rows that the model was trained on."""
    fitted, _, split = str(saved.data.get("protocol", "")).partition("/")
    name, _, here = data.protocol.partition("/")
    if fitted != name or here == "test":
        return False
    return split == here or split in _WHOLE or here in _WHOLE


def _ticker(bar: Bar) -> Progress:
    return lambda done, total: bar.update(done, None)


def evaluate_model(
    path: str,
    spec: str,
    *,
    samples: int | None,
    method: str | None,
    data_dir: str | None,
    seed: int,
    as_json: bool,
    progress: bool | None = None,
) -> str:
    """One line, or one JSON object, on how likely data are under a model.

    Warnings go to standard error, or into the object.
    """
    saved = open_model(path)
    chosen = pick_method(method, samples, saved)
    data = open_data(spec, saved, data_dir, seed)
    quiet = as_json if progress is None else not progress
    evidence = measured(saved, data, chosen, seed, quiet=quiet)
    if as_json:
        return json.dumps({**evidence.to_dict(), "version": __version__})
    for warning in evidence.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return str(evidence)


def opened(
    paths: Sequence[str], spec: str, samples: int | None, data_dir: str | None, seed: int
) -> list[tuple[str, Saved, Data, Method]]:
    """Several models with their rows and methods; every mistake shows before work begins.

    Raises:
        UserError: a file is given twice, or one does not fit the data.
    """
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise UserError(f"{twice} is given twice; name each model once")
    saved = {path: open_model(path) for path in paths}
    return [
        (path, it, open_data(spec, it, data_dir, seed), pick_method(None, samples, it))
        for path, it in saved.items()
    ]


def compare(
    paths: Sequence[str],
    spec: str,
    *,
    samples: int | None,
    data_dir: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Prints a table of models on the same rows."""
    results = {
        short_name(path, paths): measured(saved, data, method, seed, quiet=as_json)
        for path, saved, data, method in opened(paths, spec, samples, data_dir, seed)
    }
    rows = rank(results)
    if as_json:
        print(json.dumps([row_json(row) for row in rows]))
        return
    print_ranking(rows)


def short_name(path: str, paths: Sequence[str]) -> str:
    """A model's name in a table: the file's stem where these differ, else its path."""
    stems = [Path(p).stem for p in paths]
    return Path(path).stem if stems.count(Path(path).stem) == 1 else path


def sample(path: str, n: int, out: str, *, seed: int, force: bool) -> str:
    """Draws from the model to a picture grid, arrays or a table."""
    target = check_target(out, (".png", ".npz", ".npy", ".csv"), force)
    if n < 1:
        raise UserError(f"-n {n} must be at least 1")
    saved = open_model(path)
    size = n * math.prod(saved.model.shape)
    check_memory(8 * size, f"drawing {n:,} rows", "draw fewer with -n, by several seeds")
    x = saved.model.sample(n, seed=seed)
    _write_rows(target, x, saved)
    return f"wrote {n} samples to {target}"


def reconstruct(
    path: str, spec: str, out: str, *, data_dir: str | None, seed: int, force: bool
) -> str:
    """The mean of p(x|z) at the posterior mean of every row."""
    target = check_target(out, (".png", ".npz", ".npy", ".csv"), force)
    saved = open_model(path)
    data = open_data(spec, saved, data_dir, seed)
    x = _in_blocks(saved.model.reconstruct, data)
    if target.suffix == ".png":
        from latently.interfaces.pictures import pairs, save_png

        shown = slice(0, 64)
        low, high = _value_range(saved, data.x)
        save_png(pairs(data.x[shown], x[shown].to(data.x.dtype), low=low, high=high), target)
    else:
        _write_rows(target, x, saved)
    return f"wrote {len(x)} reconstructions to {target}"


def encode(path: str, spec: str, out: str, *, data_dir: str | None, seed: int, force: bool) -> str:
    """The posterior mean of every row, layer by layer."""
    target = check_target(out, (".npz", ".csv"), force)
    saved = open_model(path)
    data = open_data(spec, saved, data_dir, seed)
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
    return f"wrote the posterior means of {len(data)} rows to {target}"


def score(
    path: str,
    spec: str,
    out: str,
    *,
    samples: int | None,
    data_dir: str | None,
    seed: int,
    force: bool,
) -> str:
    """How likely and how strange every row is."""
    target = check_target(out, (".csv", ".npz"), force)
    saved = open_model(path)
    data = open_data(spec, saved, data_dir, seed)
    evidence = measured(saved, data, pick_method(None, samples, saved), seed)
    columns = {
        "log_prob": evidence.values.tolist(),
        "kind": [evidence.kind] * len(evidence),
        "mc_stderr": evidence.mc_variance.sqrt().tolist(),
        "anomaly_score": (-evidence.values).tolist(),
    }
    if target.suffix == ".csv":
        write_table(target, columns)
    else:
        write_arrays(target, columns)
    return f"wrote the scores of {len(evidence)} rows to {target}"


def impute(
    path: str,
    spec: str,
    out: str,
    *,
    draws: int,
    samples: int,
    data_dir: str | None,
    seed: int,
    force: bool,
) -> str:
    """Draws of the missing entries given the observed ones."""
    target = check_target(out, (".npz", ".npy"), force)
    for name, value in (("draws", draws), ("samples", samples)):
        if value < 1:
            raise UserError(f"--{name} {value} must be at least 1")
    saved = open_model(path)
    data = open_data(spec, saved, data_dir, seed)
    row = math.prod(data.shape)
    check_memory(8 * samples * row, f"{samples:,} particles of a row", "lower --samples")
    check_memory(8 * draws * row * len(data), f"{draws:,} draws of all rows", "lower --draws")
    if data.mask is None or not data.missing:
        raise UserError(f"{data.protocol} has no missing value (NaN), there is nothing to impute")
    x = saved.model.impute(data.x, data.mask, draws=draws, samples=samples, seed=seed)
    write_arrays(target, {"x": x})
    return f"wrote {draws} imputations of {data.missing} values to {target}"


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
    for key in ("objective", "options", "kept", "seconds", "date", "torch", "threads"):
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


def list_kind(kind: str | None) -> str:
    """Members of a registry with a line each, or the kinds there are."""
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


def _layers(saved: Saved, data: Data) -> list[Tensor]:
    pieces = []
    for rows in torch.arange(len(data)).split(500):
        part = data.rows(rows)
        pieces.append(saved.model.encode(part.x, part.mask, part.context))
    return [torch.cat(layer) for layer in zip(*pieces, strict=True)]


def _in_blocks(function: Callable[..., Tensor], data: Data) -> Tensor:
    parts = (data.rows(rows) for rows in torch.arange(len(data)).split(500))
    return torch.cat([function(part.x, part.mask, part.context) for part in parts])


def _write_rows(target: Path, x: Tensor, saved: Saved) -> None:
    if target.suffix == ".png":
        write_images(target, x, *_value_range(saved, x))
    elif target.suffix == ".csv":
        flat = x.flatten(1)
        write_table(target, {f"x{j}": flat[:, j].tolist() for j in range(flat.shape[1])})
    else:
        write_arrays(target, {"x": x})


def _value_range(saved: Saved, x: Tensor) -> tuple[float, float]:
    levels = saved.data.get("levels")
    return (0.0, levels - 1.0) if levels else (float(x.min()), float(x.max()))
