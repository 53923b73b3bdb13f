"""Rankings of models on the same rows: paired differences, kinds, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from latently.errors import UserError
from latently.inference import Evidence
from latently.inference.evidence import with_error
from latently.inference.pareto import K_HAT_LIMIT

__all__ = ["cautions", "print_ranking", "rank", "row_json"]


def rank(results: dict[str, Evidence]) -> list[dict[str, Any]]:
    """Rows of a ranking, best first, with paired differences to the best.

    Raises:
        UserError: densities and probabilities stand together.
    """
    if len({evidence.discrete for evidence in results.values()}) > 1:
        densities = [name for name, e in results.items() if not e.discrete]
        raise UserError(
            f"{', '.join(densities)}: densities cannot be ranked with probabilities; compare them "
            "apart, or fit fa and ppca with --levels"
        )
    if len({evidence.counted for evidence in results.values()}) > 1:
        raise UserError(
            f"{', '.join(results)}: they take unlike columns as counted, where one has a "
            "probability and another a density; compare models fitted with one schema and a "
            "recipe that reads it: table, or mixture with --family Columns"
        )
    order = sorted(results, key=lambda name: -results[name].nats)
    best = results[order[0]]
    rows = []
    for name in order:
        difference = results[name].paired(best) if results[name] is not best else None
        rows.append({"name": name, "evidence": results[name], "paired": difference})
    return rows


def print_ranking(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a ranking with kinds and error bars, and what to beware of."""
    from rich.console import Console
    from rich.table import Table

    methods = {row["evidence"].method for row in rows if row["evidence"].kind != "exact"}
    shared = methods.pop() if len(methods) == 1 else None
    title = rows[0]["evidence"].protocol + (f", {shared}" if shared else "")
    table = Table(title=title, title_justify="left")
    bits = any(row["evidence"].bits_per_dim is not None for row in rows)
    table.add_column("model", overflow="fold")
    whats = {row["evidence"].what for row in rows}
    what = whats.pop() if len(whats) == 1 else "p(x)"
    for title in (f"log {what}, nats", "kind", "bits/dim" if bits else "", "against the best"):
        if title:
            table.add_column(title, justify="right" if title != "kind" else "left")
    for row in rows:
        e: Evidence = row["evidence"]
        sign = {"exact": " =", "lower_bound": ">=", "estimate": " ~"}[e.kind]
        kind = e.kind.replace("_", " ")
        if e.kind != "exact" and not shared:
            kind += f", {e.method}"
        cells = [row["name"], f"{sign} {with_error(e.nats, e.nats_stderr)}", kind]
        if bits:
            cells.append(f"{e.bits_per_dim:.3f}" if e.bits_per_dim is not None else "")
        paired = row["paired"]
        cells.append("best" if paired is None else with_error(paired[0], paired[1], "+.2f"))
        table.add_row(*cells)
    console = Console()
    console.print(table)
    for line in cautions(rows):
        console.print(f"note: {line}", markup=False, highlight=False)


def cautions(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What to beware of in a ranking."""
    notes = []
    if len({row["evidence"].kind for row in rows}) > 1:
        notes.append(
            "unlike kinds in one ranking: a lower bound may lie below a worse exact value"
        )
    told = {row["name"]: row["evidence"].what for row in rows if row["evidence"].given}
    if told and (len(told) < len(rows) or len(set(told.values())) > 1):
        names = ", ".join(f"{name} gives {what}" for name, what in told.items())
        notes.append(f"{names}: what a model is told of a row is no part of its number")
    heavy = {row["name"]: row["evidence"].heavy_rows for row in rows}
    if any(heavy.values()):
        counts = ", ".join(f"{name} {count}" for name, count in heavy.items() if count)
        notes.append(
            f"heavy importance weights (k-hat > {K_HAT_LIMIT}) in some of the "
            f"{len(rows[0]['evidence'])} rows: {counts}. Bounds are loose there, and Monte Carlo "
            "errors understated; raise --samples"
        )
    for row in rows:
        other = replace(row["evidence"], k_hat=None).warnings
        notes += [f"{row['name']}: {warning}" for warning in other]
    return notes


def row_json(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a ranking as `compare --json` prints it."""
    paired = row["paired"]
    return {
        "model": row["name"],
        **row["evidence"].to_dict(),
        "paired_difference": None if paired is None else _finite(paired[0]),
        "paired_stderr": None if paired is None else _finite(paired[1]),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no nan
