"""`latently score`: how likely and how strange every row is, and which cells make it so."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from latently.data import Data
from latently.errors import UserError
from latently.inference import attribution
from latently.inference import out_of_distribution as ood
from latently.interfaces.opening import (
    Rows,
    in_blocks,
    measured,
    open_model,
    pick_method,
    ticker,
)
from latently.interfaces.output import check_target, write_arrays, write_table
from latently.interfaces.tabular import column_names
from latently.io import Saved
from latently.training.progress import Bar

__all__ = ["Asked", "score"]


@dataclass(frozen=True)
class Asked:
    """What is asked beside log p(x).

    Attributes:
        samples: draws per row, and of attribution per cell; None: as the defaults have it.
        typical: rows like the training rows, for typicality.
        background: file of a model of what all rows share, for the likelihood ratio.
        complexity: whether to divide by what a compressor makes of a row.
        contributions: whether to tell what every cell adds to the reconstruction error.
        attribution: whether to tell how strange every cell is, given the others of its row.
    """

    samples: int | None = None
    typical: str | None = None
    background: str | None = None
    complexity: bool = False
    contributions: bool = False
    attribution: bool = False


def score(path: str, rows: Rows, out: str, asked: Asked, *, force: bool) -> str:
    """Writes a table with a row for every row.

    Columns are log_prob, kind and mc_stderr (empty for a model without a density), anomaly_score,
    reconstruction_error (mean squared, of the observed cells; none for tables and invertible
    models) and what else is asked. Contributions and excesses are of the shape of x in .npz, flat
    columns in .csv.
    """
    target = check_target(out, (".csv", ".npz"), force)
    saved = open_model(path)
    data = rows.open(saved)
    if saved.model.density is None:
        _check_none(saved, asked)
    _check_code(saved, data, asked.complexity)
    flat = target.suffix == ".csv"
    columns = _likelihoods(saved, data, rows, asked, empty="" if flat else math.nan)
    columns |= _errors(saved, data, asked.contributions, flat=flat)
    if asked.attribution:
        columns |= _attributed(saved, data, rows.seed, asked.samples, flat=flat)
    if flat:
        write_table(target, columns)
    else:
        write_arrays(target, columns)
    return f"wrote the scores of {len(data)} rows to {target}"


def _likelihoods(saved: Saved, data: Data, rows: Rows, asked: Asked, empty: Any) -> dict[str, Any]:
    if saved.model.density is None:
        strange = in_blocks(saved.model.anomaly_score, data).tolist()
        blank = [empty] * len(strange)
        kinds = [""] * len(strange)
        return {"log_prob": blank, "kind": kinds, "mc_stderr": blank, "anomaly_score": strange}
    against = [] if asked.typical is None else [_typical(saved, rows, asked.typical)]
    against += [] if asked.background is None else [_background(saved, rows, asked.background)]
    method = pick_method(None, asked.samples, saved)
    evidence = measured(saved, data, method, rows.seed)
    for warning in evidence.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    columns: dict[str, Any] = {
        "log_prob": evidence.values.tolist(),
        "kind": [evidence.kind] * len(evidence),
        "mc_stderr": evidence.mc_variance.sqrt().tolist(),
        "anomaly_score": (-evidence.values).tolist(),
    }
    for beside in against:
        columns[beside.name] = _compared(beside, data, evidence.values, asked, rows.seed)
    if asked.complexity:
        length = ood.complexity(data.x)
        columns["complexity_ratio"] = ood.likelihood_ratio(evidence.values, -length).tolist()
    return columns


def _errors(saved: Saved, data: Data, contributions: bool, *, flat: bool) -> Mapping[str, Any]:
    """The reconstruction error of every row, and what its cells add to it."""
    if data.table is not None:
        if contributions:
            raise UserError(
                "--contributions: squared errors of a table's columns have unlike units; ask for "
                "--attribution"
            )
        return {}
    if saved.model.invertible:
        if contributions:
            raise UserError(
                "--contributions: this model is a bijection, which rebuilds every row exactly; "
                "leave it out"
            )
        return {}
    parts = in_blocks(saved.model.contributions, data)
    errors = (parts * saved.model.error_unit).flatten(1).sum(1)
    columns: dict[str, Any] = {"reconstruction_error": errors.tolist()}
    if not contributions:
        return columns
    if not flat:
        return {**columns, "contributions": parts}
    cells = parts.flatten(1)
    return columns | {f"contribution_x{j}": cells[:, j].tolist() for j in range(cells.shape[1])}


def _attributed(
    saved: Saved, data: Data, seed: int, samples: int | None, *, flat: bool
) -> Mapping[str, Any]:
    """By how many nats more than usual every cell is surprising, and the most surprising one.

    Raises:
        UserError: the model has no density, or cannot leave cells out.
    """
    with Bar(data.x.numel() - data.missing, "cell") as bar:
        how: dict[str, Any] = {} if samples is None else {"samples": samples}
        found = attribution(saved.model, data, seed=seed, progress=ticker(bar), **how)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not flat:
        return {"surprise": found.values, "excess": found.excess}
    excess = found.excess.flatten(1)
    seen = found.mask.flatten(1) & ~excess.isnan()
    names = column_names(saved, excess.shape[1])
    worst = excess.masked_fill(~seen, -math.inf).argmax(1)
    empty = (~seen.any(1)).tolist()
    strangest = ["" if none else names[j] for j, none in zip(worst.tolist(), empty, strict=True)]
    columns: dict[str, Any] = {"strangest": strangest}
    for j, name in enumerate(names):
        known = zip(excess[:, j].tolist(), seen[:, j].tolist(), strict=True)
        columns[f"excess_{name}"] = [value if there else "" for value, there in known]
    return columns


def _check_none(saved: Saved, asked: Asked) -> None:
    """Refuses what is made of log p(x) where there is none."""
    for name in ("samples", "typical", "background", "complexity", "attribution"):
        if getattr(asked, name) not in (None, False):
            raise UserError(f"--{name}: {saved.model.no_density}; leave it out")


@dataclass(frozen=True)
class _Beside:
    """A score that needs log p(x) of other rows, or of another model."""

    name: str
    saved: Saved
    data: Data
    compare: Callable[[Tensor, Tensor], Tensor]


def _compared(beside: _Beside, data: Data, values: Tensor, asked: Asked, seed: int) -> list[float]:
    known = measured(
        beside.saved, beside.data, pick_method(None, asked.samples, beside.saved), seed
    )
    usual = beside.name == "typicality"
    if usual and not math.isfinite(known.nats):
        raise UserError(
            f"--typical {beside.data.protocol}: mean log p(x) = {known.nats}, from which every "
            "row is infinitely far; give other rows, or scale these as those of the fit"
        )
    own = usual and beside.data.protocol == data.protocol
    told = ["these are the rows that are scored, so all are as usual"] if own else []
    for warning in (*told, *known.warnings):
        print(f"warning: {beside.name}: {warning}", file=sys.stderr)
    return beside.compare(values, known.values).tolist()


def _typical(saved: Saved, rows: Rows, spec: str) -> _Beside:
    usual = replace(rows, spec=spec, mask=None).open(saved)
    return _Beside("typicality", saved, usual, ood.typicality)


def _background(saved: Saved, rows: Rows, path: str) -> _Beside:
    shared = open_model(path)
    if shared.model.density is None:
        raise UserError(f"--background {path}: {shared.model.no_density}")
    if shared.model.discrete != saved.model.discrete:
        raise UserError(
            f"--background {path}: one model gives probabilities, the other densities, whose "
            "ratio means nothing; fit both to the same rows with the same levels"
        )
    return _Beside("likelihood_ratio", shared, rows.open(shared), ood.likelihood_ratio)


def _check_code(saved: Saved, data: Data, complexity: bool) -> None:
    if complexity and (data.missing or not saved.model.discrete):
        why = "have missing cells" if data.missing else "have a density, not a probability"
        raise UserError(
            f"--complexity: these rows {why}, which the length of a code cannot be compared "
            "with; leave it out"
        )
