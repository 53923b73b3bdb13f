"""What a report tells in words: the data, the best model, the record of each fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from latently._version import __version__
from latently.data import Data
from latently.inference.evidence import Evidence
from latently.interfaces.report.errors import Fits
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.numbers import DASH, plain, significant
from latently.interfaces.report.tables import Ranking, symbol
from latently.io import Saved

__all__ = ["Entry", "call_of", "facts", "headline", "headline_of", "history_of", "lines", "record"]

_TOLD = {"history", "kept", "seconds", "objective", "warnings", "data", "version"}


@dataclass(frozen=True)
class Entry:
    """One model of a report.

    Attributes:
        name: what the report calls it.
        saved: the model and the record of its fit, as `latently.io.load_saved` gives them.
        evidence: its evidence on the report's data; None of a model without a density.
        data: the report's data as this model reads them, with its context; None: as they are.
    """

    name: str
    saved: Saved
    evidence: Evidence | None = None
    data: Data | None = None


def call_of(entry: Entry) -> str:
    """The recipe call that built the model."""
    call = entry.saved.model.call
    return str(call) if call is not None else f"{type(entry.saved.model).__name__}, made by hand"


def facts(data: Data, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """What the header tells: name and value."""
    shape = "shape " + " × ".join(map(str, data.shape))
    values = {None: "continuous values", 2: "binary values"}.get(
        data.levels, f"integers 0 to {(data.levels or 0) - 1}"
    )
    holes = f", {data.missing:,} values missing" if data.missing else ""
    seeds = sorted({entry.evidence.seed for entry in entries if entry.evidence is not None})
    if data.table is not None:
        values, shape = _of_table(data), f"{data.shape[0]} columns"
    return [
        ("Rows", f"{len(data):,} of {shape}, {values}{holes}"),
        *_pictures(data),
        *([("Evidence seed", ", ".join(map(str, seeds)))] if seeds else []),
        ("Written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("Version", f"latently {__version__}, torch {torch.__version__}"),
    ]


def _of_table(data: Data) -> str:
    """How many columns there are of each kind."""
    assert data.table is not None
    counts = Counter(column.kind for column in data.table.modelled)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    left = len(data.table.columns) - data.shape[0]
    return told + (f" ({left} more left out)" if left else "")


def _pictures(data: Data) -> list[tuple[str, str]]:
    """By how much large images are reduced for the page."""
    frame = Frame.of(data)
    factors = sorted(set(frame.reductions) - {1}) if frame is not None else []
    if not factors:
        return []
    blocks = " or ".join(f"{k} × {k}" for k in factors)
    return [("Pictures", f"reduced, each pixel shown is the mean of up to {blocks}")]


def headline(ranking: Ranking) -> dict[str, str]:
    """The best model of a ranking, in one line."""
    best = ranking.rows[0]
    bits = best.evidence.bits_per_dim
    error = "" if best.stderr == DASH else f" {best.stderr}"
    return {
        "name": best.name,
        "number": f"{symbol([best.evidence])} {best.sign} {best.nats}{error} nats",
        "about": best.kind if best.kind == "exact" else f"{best.kind}, {best.method}",
        "bits": "" if bits is None else f"{plain(bits, 3)} bits/dim",
        "index": str(best.index),
    }


def headline_of(fits: Fits) -> dict[str, str]:
    """The model that rebuilds rows best, in one line, where none has a density."""
    best = fits.models[0]
    return {
        "name": best.name,
        "number": f"mean squared error {best.mean} {best.stderr}".rstrip(),
        "about": "of reconstructions, in squared units of the data; no model here has a density",
        "bits": f"{best.share} of the variance rebuilt" if best.share else "",
        "index": str(best.index),
    }


def history_of(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of the training history, as far as the file has one."""
    return [row for row in lines(training.get("history")) if isinstance(row, Mapping)]


def lines(value: Any) -> Sequence[Any]:
    """A list of a model file, empty where there is something else."""
    return value if isinstance(value, list | tuple) else []


def record(entry: Entry) -> list[tuple[str, str]]:
    """The record of the fit, as far as the file has one."""
    training = entry.saved.training
    model, told = entry.saved.model, []
    if entry.saved.data.get("protocol"):
        told.append(("Fitted on", str(entry.saved.data["protocol"])))
    if training.get("objective"):
        told.append(("Objective", str(training["objective"])))
    if history := history_of(training):
        unit = "passes" if "log_prob" in history[-1] else "epochs"
        step = history[-1].get("step")
        steps = f", {step:,} steps" if isinstance(step, int) else ""
        told.append(("Length", f"{len(history):,} {unit}{steps}"))
    if training.get("kept"):
        told.append(("Weights kept", str(training["kept"])))
    if isinstance(training.get("seconds"), int | float):
        told.append(("Time", _duration(float(training["seconds"]))))
    for key, value in training.items():
        if key not in _TOLD and isinstance(value, str | int | float) and value != "":
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
