"""From models and their evidence to one HTML file: no script, no link, nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from latently.data import Data, Mask
from latently.errors import UserError
from latently.inference.pareto import K_HAT_LIMIT
from latently.interfaces.pictures import is_image_shape
from latently.interfaces.report import (
    between,
    conditioned,
    content,
    errors,
    figures,
    history,
    imputed,
    marginals,
    near,
    parts,
    passages,
    pattern,
    plane,
    predictive,
    spoilt,
    strangest,
    surface,
    walks,
)
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.latents import ACTIVE, DRAWS, Layer, latent_layers
from latently.interfaces.report.numbers import decimals, error, plain
from latently.interfaces.report.record import (
    Entry,
    call_of,
    facts,
    headline,
    headline_of,
    history_of,
    lines,
    record,
)
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.table_columns import table_columns
from latently.interfaces.report.tables import Ranking, rankings
from latently.training.files import atomic_write

__all__ = ["Entry", "read_template", "write_report"]

_COLUMNS = 16  # histograms
_EXAMPLES = 8  # strangest, and most typical, images
_EXAMPLE_ROWS = 5  # the same, of tables
_PAIRS = 24  # reconstructions
_DRAWS = 1000  # rows drawn for histograms
_OPTIONAL = (  # sections that may be empty
    "latent",
    "components",
    "planes",
    "traversals",
    "samples",
    "interpolations",
    "near",
    "passage",
    "filled",
    "scores",
)


def write_report(
    path: str | Path,
    entries: Sequence[Entry],
    data: Data,
    *,
    title: str,
    seed: int = 0,
    command: str = "",
    mask: Mask | None = None,
) -> None:
    """Writes a report of one model or several on one data set, atomically.

    Args:
        path: the HTML file.
        entries: the models; their order gives the colours, their evidence the ranking. Those
            without a density have none.
        data: the rows that the evidence was computed on.
        title: heading of the report.
        seed: of draws, and of the choice of rows to rebuild.
        command: the command that makes this report, if there is one.
        mask: hides the cells that imputation then fills; None: the data's own holes, or, where
            they have none, the lower half of an image and every fifth cell of a table. Of the
            columns of a table, observed cells are hidden in any case.

    Raises:
        UserError: no models, evidence of other rows or none of a model with a density, a model
            of other rows, a mask that these rows do not allow, or a file that cannot be written.
    """
    _check(entries, data)
    data = data.once(0)
    calls = [call_of(entry) for entry in entries]
    evidence = [entry.evidence for entry in entries]
    ranked = rankings([entry.name for entry in entries], calls, evidence)
    rows = content.chosen_rows(data, _PAIRS, seed)
    fitted_to = [str(entry.saved.data.get("protocol", "")) for entry in entries]
    hidden = predictive.hidden(data, mask, seed, fitted_to)
    made = _holes(data, mask, seed)
    subjects = [_subject(i, entry, data, seed) for i, entry in enumerate(entries)]
    rebuilt = _rebuilt(subjects, calls, data)
    models = [
        {**_told(entry, subject), **_shown(subject, rows, made, hidden)}
        for entry, subject in zip(entries, subjects, strict=True)
    ]
    page = read_template("template.html").render(
        title=title,
        command=command,
        data=data,
        facts=facts(data, entries),
        rankings=[(ranking, figures.forest(ranking)) for ranking in ranked],
        headline=_headlines(ranked, rebuilt),
        fits=rebuilt,
        models=models,
        has={key: any(model[key] for model in models) for key in _OPTIONAL},
        is_image=is_image_shape(data.shape),
        histograms=_histograms(subjects, data),
        lines=table_columns(data),
        gone=pattern.missing(data, seed),
        spread=marginals.marginals(subjects, data, seed),
        hidden=hidden,
        holes=made,
        same=near.same_label_in_data(data),
        nearest=near.NEAREST,
        spoilt=_spoilt(subjects, entries, data, seed),
        surface=surface.surface(subjects, evidence, data, seed),
        bound_draws=surface.BOUND_DRAWS,
        rebuilt=len(rows),
        seed=seed,
        active=ACTIVE,
        kl_draws=DRAWS,
        shapes=plane.SHAPES,
        k_hat_limit=K_HAT_LIMIT,
        one=len(entries) == 1,
    )
    written = page.encode(errors="backslashreplace")  # a file's name may be no text
    atomic_write(Path(path), lambda temporary: temporary.write_bytes(written))


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
        found = entry.evidence
        if found is None and entry.saved.model.density is not None:
            raise UserError(
                f"{entry.name} has a density and comes without evidence; give that of "
                "latently.evaluate on the rows of the report"
            )
        if found is not None and (found.protocol != data.protocol or len(found) != len(data)):
            raise UserError(
                f"the evidence of {entry.name} is of {found.protocol} "
                f"({len(found)} rows), the report of {data.protocol} ({len(data)} rows); "
                "evaluate all models on the rows of the report"
            )


def _holes(data: Data, mask: Mask | None, seed: int) -> imputed.Holes | None:
    """Rows to impute; of a table those with holes of their own, others are hidden elsewhere."""
    if data.table is None:
        return imputed.holes(data, mask, seed)
    return imputed.holes(data, None, seed) if data.missing else None


def _rebuilt(subjects: Sequence[Subject], calls: Sequence[str], data: Data) -> errors.Fits | None:
    """Reconstruction errors, but of tables: their columns have units of their own.

    A table of numbers has them still where models have nothing else to be judged by.
    """
    if _unlike(subjects, data):
        return None
    return errors.fits(subjects, calls, [errors.row_errors(s) for s in subjects], data)


def _spoilt(
    subjects: Sequence[Subject], entries: Sequence[Entry], data: Data, seed: int
) -> list[spoilt.Spoilt]:
    """Reconstructions of spoilt rows, where there are errors to tell of them."""
    if _unlike(subjects, data):
        return []
    return spoilt.spoilt(subjects, [entry.saved.training for entry in entries], data, seed)


def _unlike(subjects: Sequence[Subject], data: Data) -> bool:
    """Whether squared errors of all columns together say nothing."""
    if data.table is None:
        return any(subject.model.counted is not None for subject in subjects)
    named = any(column.levels for column in data.table.modelled)
    return named or any(subject.scored for subject in subjects)


def _headlines(ranked: Sequence[Ranking], rebuilt: errors.Fits | None) -> list[dict[str, str]]:
    if ranked or rebuilt is None:
        return [headline(ranking) for ranking in ranked]
    return [headline_of(rebuilt)]


def read_template(name: str) -> Any:
    """A template of this package, which escapes what it is given."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def read(name: str) -> str:
        return files("latently.interfaces.report").joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _subject(index: int, entry: Entry, data: Data, seed: int) -> Subject:
    """The model with the rows as it reads them: without a context if it takes none."""
    model = entry.saved.model
    data = data if entry.data is None else entry.data.once(0)
    if not model.contexts:
        data = replace(data, context=None, conditions=None)
    layers = latent_layers(model, data)
    return Subject(model, data, entry.name, index, seed, layers, Frame.of(data))


def _told(entry: Entry, subject: Subject) -> dict[str, Any]:
    """What the page tells of one model in words, numbers and curves."""
    name, index, training = entry.name, subject.index, entry.saved.training
    past, kept = history_of(training), str(training.get("kept", ""))
    model = subject.model
    passes = [row for row in past if "log_prob" in row]
    return {
        "index": index,
        "name": name,
        "evidence": entry.evidence,
        "call": call_of(entry),
        "passes": passes,
        "reached": plain(passes[-1]["log_prob"]) if passes else "",
        "curves": [] if len(passes) == 1 else history.curves(past, name, index, kept, model),
        "small": history.small_curves(past, name, index),
        "counts": history.counts(past),
        "latent": not model.invertible,
        "scored": subject.scored,
        "components": parts.components(subject, training),
        "layers": [_layer(layer, name, index) for layer in subject.layers],
        "record": record(entry),
        "warnings": [str(line) for line in lines(training.get("warnings"))],
        **_examples(entry, subject),
    }


def _examples(entry: Entry, subject: Subject) -> dict[str, Any]:
    if subject.data.table is not None and entry.evidence is not None:
        values = entry.evidence.values
        rows = strangest.strangest(subject, values), strangest.typical(subject.data, values)
        return {"strange": rows[0], "typical": rows[1], "tabular": True}
    most = _EXAMPLE_ROWS if subject.frame is None else _EXAMPLES
    if entry.evidence is None:
        scores = errors.anomalies(subject)
        strange, typical = content.examples(subject.data, scores, most, strange="high")
    else:
        strange, typical = content.examples(subject.data, entry.evidence.values, most)
    return {"strange": strange, "typical": typical, "tabular": False}


def _shown(
    subject: Subject,
    rows: torch.Tensor,
    made: imputed.Holes | None,
    hidden: predictive.Hidden | None,
) -> dict[str, Any]:
    """What the page shows of one model's latents and of the rows it makes."""
    samples = content.sample_pictures(subject)
    return {
        "planes": plane.planes(subject),
        "manifold": walks.manifold(subject),
        "traversals": walks.traversals(subject),
        "interpolations": between.interpolations(subject),
        "sheet": between.sheets(subject),
        "near": near.near(subject),
        "passage": passages.passage(subject),
        "samples": samples,
        "averaged": len(samples) > 1,
        "conditional": conditioned.by_context(subject),
        "rebuilt": content.reconstructions(subject, rows),
        "filled": None if made is None else imputed.filled(subject, made),
        "scores": None if hidden is None else predictive.scores(subject, hidden),
    }


def _layer(layer: Layer, name: str, index: int) -> dict[str, Any]:
    active = layer.active
    return {
        "figure": figures.bars(layer, name, index),
        "kind": layer.kind,
        "units": layer.units,
        "rows": layer.rows,
        "active": None if active is None else int(active.sum()),
        "levels": 0 if layer.use is None else layer.use.shape[1],
        "used": 0 if layer.used is None else int(layer.used.sum()),
        "expected": layer.expected is not None,
        "split": layer.kl is not None or layer.without_prior,
        "without_prior": layer.without_prior,
        "cost": _cost(layer),
        "marginal": layer.marginal,
    }


def _cost(layer: Layer) -> str:
    """What all latents cost together, with its sign."""
    if layer.cost is None:
        return ""
    if layer.cost.error is None:
        return f"= {plain(layer.cost.nats)}"
    digits = decimals(layer.cost.error)
    return f"≈ {plain(layer.cost.nats, digits)} {error(layer.cost.error)}"


def _histograms(subjects: Sequence[Subject], data: Data) -> dict[str, Any] | None:
    """Marginals of columns, at most `_COLUMNS` of them; None of images and of tables."""
    if is_image_shape(data.shape) or data.table is not None:
        return None
    x, size = data.x.flatten(1).double().numpy(), int(np.prod(data.shape))
    mask = None if data.mask is None else data.mask.flatten(1).numpy()
    columns = sorted({round(i) for i in np.linspace(0, size - 1, min(size, _COLUMNS))})
    drawn = [
        content.draws(s.model, s.data, _DRAWS, s.seed)[0].flatten(1).double().numpy()
        for s in subjects
        if s.draws
    ]
    drawing = [s.index for s in subjects if s.draws]
    made: list[Markup] = []
    for j in columns:
        seen = x[:, j] if mask is None else x[mask[:, j], j]
        models = [(i, values[:, j]) for i, values in zip(drawing, drawn, strict=True)]
        made.append(figures.marginal(f"x{j}", seen, models, data.levels))
    return {"figures": made, "columns": size, "draws": _DRAWS, "models": drawing}
