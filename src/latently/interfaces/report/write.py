"""From models and their evidence to one HTML file: no script, no link, nothing to download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from latently._version import __version__
from latently.data import Data
from latently.errors import UserError
from latently.inference.evidence import Evidence
from latently.inference.pareto import K_HAT_LIMIT
from latently.interfaces.pictures import is_image_shape
from latently.interfaces.report import content, figures
from latently.interfaces.report.latents import ACTIVE, Layer, latent_layers
from latently.interfaces.report.numbers import DASH, plain, significant
from latently.interfaces.report.tables import Ranking, rankings
from latently.io import Saved
from latently.training.files import atomic_write

__all__ = ["Entry", "write_report"]

_COLUMNS = 16  # histograms
_EXAMPLES = 8  # strangest, and most typical, images
_EXAMPLE_ROWS = 5  # the same, of tables
_PAIRS = 24  # reconstructions
_DRAWS = 1000  # rows drawn for histograms
_TOLD = {"history", "kept", "seconds", "objective", "warnings"}


@dataclass(frozen=True)
class Entry:
    """One model of a report.

    Attributes:
        name: what the report calls it.
        saved: the model and the record of its fit, as `latently.io.load_saved` gives them.
        evidence: its evidence on the report's data.
    """

    name: str
    saved: Saved
    evidence: Evidence


def write_report(
    path: str | Path,
    entries: Sequence[Entry],
    data: Data,
    *,
    title: str,
    seed: int = 0,
    command: str = "",
) -> None:
    """Writes a report of one model or several on one data set, atomically.

    Args:
        path: the HTML file.
        entries: the models; their order gives the colours, their evidence the ranking.
        data: the rows that the evidence was computed on.
        title: heading of the report.
        seed: of draws, and of the choice of rows to rebuild.
        command: the command that makes this report, if there is one.

    Raises:
        UserError: no models, evidence of other rows, a model of other rows, or a file that
            cannot be written.
    """
    _check(entries, data)
    data = data.once(0)
    ranked = rankings(
        [entry.name for entry in entries],
        [_call(entry) for entry in entries],
        [entry.evidence for entry in entries],
    )
    rows = content.chosen_rows(data, _PAIRS, seed)
    page = _template().render(
        title=title,
        command=command,
        data=data,
        facts=_facts(data, entries),
        rankings=[(ranking, figures.forest(ranking)) for ranking in ranked],
        headline=[_headline(ranking) for ranking in ranked],
        models=[_model(i, entry, data, rows, seed) for i, entry in enumerate(entries)],
        is_image=is_image_shape(data.shape),
        histograms=None if is_image_shape(data.shape) else _histograms(entries, data, seed),
        rebuilt=len(rows),
        seed=seed,
        active=ACTIVE,
        k_hat_limit=K_HAT_LIMIT,
        one=len(entries) == 1,
    )
    atomic_write(Path(path), lambda temporary: temporary.write_text(page, encoding="utf-8"))


def _check(entries: Sequence[Entry], data: Data) -> None:
    if not entries:
        raise UserError("a report of no models; give at least one")
    for entry in entries:
        shape = tuple(entry.saved.model.shape)
        if shape != data.shape:
            raise UserError(
                f"{entry.name} is a model of rows of shape {shape}, {data.protocol} has "
                f"{data.shape}; leave it out or report on its own data"
            )
        if entry.evidence.protocol != data.protocol or len(entry.evidence) != len(data):
            raise UserError(
                f"the evidence of {entry.name} is of {entry.evidence.protocol} "
                f"({len(entry.evidence)} rows), the report of {data.protocol} ({len(data)} rows); "
                "evaluate all models on the rows of the report"
            )


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("latently.interfaces.report").joinpath("template.html")
    return environment.from_string(source.read_text(encoding="utf-8"))


def _call(entry: Entry) -> str:
    call = entry.saved.model.call
    return str(call) if call is not None else f"{type(entry.saved.model).__name__}, made by hand"


def _facts(data: Data, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """What the header tells: name and value."""
    shape = " × ".join(map(str, data.shape))
    values = {None: "continuous values", 2: "binary values"}.get(
        data.levels, f"integers 0 to {(data.levels or 0) - 1}"
    )
    holes = f", {data.missing:,} values missing" if data.missing else ""
    seeds = sorted({entry.evidence.seed for entry in entries})
    return [
        ("Rows", f"{len(data):,} of shape {shape}, {values}{holes}"),
        ("Evidence seed", ", ".join(map(str, seeds))),
        ("Written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("Version", f"latently {__version__}, torch {torch.__version__}"),
    ]


def _headline(ranking: Ranking) -> dict[str, str]:
    """The best model of a ranking, in one line."""
    best = ranking.rows[0]
    symbol = "log P(x)" if ranking.discrete else "log p(x)"
    bits = best.evidence.bits_per_dim
    error = "" if best.stderr == DASH else f" {best.stderr}"
    return {
        "name": best.name,
        "number": f"{symbol} {best.sign} {best.nats}{error} nats",
        "about": best.kind if best.kind == "exact" else f"{best.kind}, {best.method}",
        "bits": "" if bits is None else f"{plain(bits, 3)} bits/dim",
        "index": str(best.index),
    }


def _model(index: int, entry: Entry, data: Data, rows: torch.Tensor, seed: int) -> dict[str, Any]:
    """Everything the page shows of one model."""
    model, training = entry.saved.model, entry.saved.training
    history = _history(training)
    kept = str(training.get("kept", ""))
    layers = latent_layers(model, data)
    image = is_image_shape(data.shape)
    strange, typical = content.examples(
        data, entry.evidence.values, _EXAMPLES if image else _EXAMPLE_ROWS
    )
    passes = [row for row in history if "log_prob" in row]
    return {
        "index": index,
        "name": entry.name,
        "evidence": entry.evidence,
        "call": _call(entry),
        "passes": passes,
        "reached": plain(passes[-1]["log_prob"]) if passes else "",
        "epochs": len(history),
        "curves": [] if len(passes) == 1 else figures.curves(history, entry.name, index, kept),
        "layers": [_layer(layer, entry.name, index) for layer in layers],
        "samples": content.sample_pictures(model, data, entry.name, seed) if image else [],
        "rebuilt": content.reconstructions(model, data, rows, entry.name) if image else None,
        "strange": strange,
        "typical": typical,
        "record": _record(entry),
        "warnings": [str(line) for line in _lines(training.get("warnings"))],
    }


def _history(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    history = training.get("history")
    return [row for row in _lines(history) if isinstance(row, Mapping)]


def _lines(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else []


def _layer(layer: Layer, name: str, index: int) -> dict[str, Any]:
    active = layer.active
    return {
        "figure": figures.bars(layer, name, index),
        "size": layer.size,
        "rows": layer.rows,
        "active": None if active is None else int(active.sum()),
        "total": None if layer.kl is None else plain(float(layer.kl.sum())),
        "marginal": layer.marginal,
    }


def _record(entry: Entry) -> list[tuple[str, str]]:
    """The record of the fit, as far as the file has one."""
    training = entry.saved.training
    model, told = entry.saved.model, []
    if entry.saved.data.get("protocol"):
        told.append(("Fitted on", str(entry.saved.data["protocol"])))
    if training.get("objective"):
        told.append(("Objective", str(training["objective"])))
    if history := _history(training):
        unit = "passes" if "log_prob" in history[-1] else "epochs"
        step = history[-1].get("step")
        steps = f", {step:,} steps" if isinstance(step, int) else ""
        told.append(("Length", f"{len(history):,} {unit}{steps}"))
    if training.get("kept"):
        told.append(("Weights kept", str(training["kept"])))
    if isinstance(training.get("seconds"), int | float):
        told.append(("Time", _duration(float(training["seconds"]))))
    for key, value in training.items():
        if key not in _TOLD and isinstance(value, str | int | float):
            told.append((key.replace("_", " ").capitalize(), str(value)))
    count = sum(p.numel() for p in model.parameters())
    told.append(("Parameters", f"{count:,}, {str(model.dtype).removeprefix('torch.')}"))
    told.append(("Written by", f"latently {entry.saved.version}"))
    return told


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{significant(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _histograms(entries: Sequence[Entry], data: Data, seed: int) -> dict[str, Any]:
    """Marginals of columns, at most `_COLUMNS` of them, for rows that are no images."""
    x, size = data.x.flatten(1).double().numpy(), int(np.prod(data.shape))
    mask = None if data.mask is None else data.mask.flatten(1).numpy()
    columns = sorted({round(i) for i in np.linspace(0, size - 1, min(size, _COLUMNS))})
    drawn = [
        content.draws(entry.saved.model, data, _DRAWS, seed)[0].flatten(1).double().numpy()
        for entry in entries
    ]
    made: list[Markup] = []
    for j in columns:
        seen = x[:, j] if mask is None else x[mask[:, j], j]
        models = [(i, values[:, j]) for i, values in enumerate(drawn)]
        made.append(figures.marginal(f"x{j}", seen, models, data.levels))
    return {"figures": made, "columns": size, "draws": _DRAWS}
