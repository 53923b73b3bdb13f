"""The page of `latently diagnose`: findings first, then every part with its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from latently._version import __version__
from latently.inference.evidence import Evidence
from latently.inference.number import Number
from latently.interfaces.diagnosing import PARTS, Found, Job
from latently.interfaces.report import judged
from latently.interfaces.report.numbers import DASH, decimals, error, plain, significant
from latently.interfaces.report.tables import SIGNS, WORDS
from latently.interfaces.report.write import read_template
from latently.training.files import atomic_write

__all__ = ["write_diagnosis"]

_SIGNS = {**SIGNS, "upper_bound": "≤"}
_WORDS = {**WORDS, "upper_bound": "upper bound"}


@dataclass(frozen=True)
class Table:
    """A table: heads, rows of text; the first column names the row."""

    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Section:
    """What the page shows of one part, besides its findings."""

    tables: list[Table] = field(default_factory=list)
    figures: list[tuple[Markup, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def write_diagnosis(
    path: str | Path, job: Job, found: Sequence[Found], *, command: str = ""
) -> None:
    """Writes the page, atomically.

    Args:
        path: the HTML file.
        job: what was asked about.
        found: the answers, in the order of the page.
        command: the command that makes the page.
    """
    call = job.model.call
    page = read_template("diagnosis.html").render(
        typeset=_typeset,
        title=f"{job.name}: diagnosis",
        protocol=job.data.protocol,
        facts=[
            ("Model", str(call) if call is not None else type(job.model).__name__),
            ("Rows", f"{len(job.data):,}; {len(job.few)} for parts that take long"),
            ("Fitted to", job.train.protocol if job.train is not None else "not known"),
            ("Seed", str(job.seed)),
            ("Written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
            ("Version", f"latently {__version__}"),
            *([("Command", command)] if command else []),
        ],
        findings=[(PARTS[one.name].short, line) for one in found for line in one.findings],
        parts=[_part(one, job) for one in found],
    )
    written = page.encode(errors="backslashreplace")  # a file's name may be no text
    atomic_write(Path(path), lambda temporary: temporary.write_bytes(written))


def _part(found: Found, job: Job) -> dict[str, Any]:
    part = PARTS[found.name]
    shown = Section() if found.result is None else _SECTIONS[found.name](found.result, job)
    return {
        "key": found.name,
        "title": part.title,
        "short": part.short,
        "about": part.about,
        "refusal": found.refusal,
        "findings": found.findings,
        "seconds": plain(found.seconds, 1),
        "section": shown,
    }


def _numbers(*numbers: Number | None) -> Table:
    """One row for each number: value, both errors, and what it is."""
    rows = []
    for number in numbers:
        if number is None:
            continue
        digits = decimals(number.stderr if math.isfinite(number.stderr) else number.mc_stderr)
        unit = f" {number.unit}" if number.unit else ""
        rows.append(
            (
                _typeset(number.name),
                f"{_SIGNS[number.kind]} {plain(number.value, digits)}{unit}",
                error(number.stderr),
                error(number.mc_stderr) if number.mc_stderr else DASH,
                ", ".join(filter(None, (_WORDS[number.kind], number.method))),
            )
        )
    return Table(("", "Mean per row", "over rows", "Monte Carlo", "Kind"), rows)


def _latents(found: Any, job: Job) -> Section:
    tables = [
        _numbers(
            found.elbo,
            found.distortion,
            found.rate,
            found.information,
            found.aggregate,
            found.decoder,
        )
    ]
    figures = []
    for layer in found.layers:
        own = (layer.rate, layer.information, layer.aggregate) if len(found.layers) > 1 else ()
        more = [n for n in (*own, layer.total_correlation, layer.dimension_wise) if n is not None]
        if more:
            tables.append(_numbers(*more))
        caption = f"{layer.name}: {layer.active} of {len(layer.dimensions)} units active"
        figures.append((judged.units(layer), caption))
    return Section(tables, figures)


def _gaps(found: Any, job: Job) -> Section:
    sets = {"these rows": found.here}
    if found.there is not None:
        sets["rows it was fitted to"] = found.there
    caption = (
        "Each line runs from the ELBO of the encoder's q over that of the refined q to log p(x): "
        "first the amortisation gap, then the approximation gap"
    )
    tables = [_numbers(*found.here.numbers.values())]
    if found.more:
        tables.append(_numbers(*found.more.values()))
    return Section(tables, [(judged.ladder(sets), caption)])


def _opinion(found: Any, job: Job) -> Section:
    rows = [_evidence(one) for one in (found.first, found.second)]
    heads = ("log p(x) by", "Mean per row", "over rows", "Monte Carlo", "ESS", "k-hat", "Kind")
    tables = [Table(heads, rows), _numbers(found.difference)]
    caption = f"{found.second.method} less {found.first.method}, row by row; the line is the mean"
    return Section(tables, [(judged.apart(found), caption)], found.warnings)


def _evidence(found: Evidence) -> tuple[str, ...]:
    ess = DASH if found.ess is None else f"{float(found.ess.median()):.0f}/{found.samples}"
    k_hat = None if found.k_hat is None else float(found.k_hat.nanmedian())
    return (
        found.method,
        f"{_SIGNS[found.kind]} {plain(found.nats)} nats",
        error(found.nats_stderr),
        error(found.mc_stderr) if found.mc_stderr else DASH,
        ess,
        plain(k_hat),
        _WORDS[found.kind],
    )


def _typeset(text: str) -> str:
    """A line of plain text as a page shows it."""
    return text.replace("+-", "±").replace("||", "‖").replace("MMD^2", "MMD²")


def _bracket(found: Any, job: Job) -> Section:
    caption = "▲ the forward bound, set to 0; ▼ the reverse bound: log p(x) lies between"
    return Section(
        [_numbers(found.lower, found.upper, found.gap)], [(judged.between(found), caption)]
    )


def _curve(found: Any, job: Job) -> Section:
    caption = (
        "Left and below is better. The line joins points on or above the curve of the model's "
        "decoder and prior, with two Monte Carlo errors; the encoder is one more such point"
    )
    rows = [
        (significant(float(b)), plain(float(r)), plain(float(d)))
        for b, r, d in zip(found.betas, found.rate, found.distortion, strict=True)
    ]
    points = Table(("Trade-off b", "Rate ≤", "Distortion ≈"), rows)
    return Section(
        [_numbers(found.own_rate, found.own_distortion), points], [(judged.curve(found), caption)]
    )


def _samples(found: Any, job: Job) -> Section:
    better = {"lower": "lower is better", "higher": "higher is better", "reference": "as real"}
    rows = [
        (
            _typeset(measure.value.name),
            _estimate(measure.value),
            _estimate(measure.reference),
            _estimate(measure.difference, sign=True),
            better[measure.better],
        )
        for measure in found.measures.values()
    ]
    heads = ("Estimates", "Samples", "Real rows", "Difference", "")
    about = f"Features: {found.features}; {found.n:,} rows a side"
    return Section([Table(heads, rows)], notes=(about, *found.warnings))


def _estimate(number: Number, *, sign: bool = False) -> str:
    digits = decimals(number.stderr)
    text = plain(number.value, digits, sign=sign)
    return f"{text} {error(number.stderr)}" if number.stderr == number.stderr else text


def _factors(found: Any, job: Job) -> Section:
    assert job.factors is not None
    names = job.factors[1]
    rows = [
        (
            name,
            f"z[{int(found.mig.best[k])}]",
            plain(float(found.mig.gaps[k])),
            f"z[{int(found.sap.best[k])}]",
            plain(float(found.sap.gaps[k])),
        )
        for k, name in enumerate(names)
    ]
    each = Table(("Factor", "Latent (MIG)", "Gap", "Latent (SAP)", "Gap"), rows)
    captions = (
        "MIG: mutual information of each latent and factor, over the entropy of the factor",
        "SAP: balanced accuracy of telling a factor from one latent by thresholds",
    )
    figures = [
        (judged.matrix(gap, names), caption)
        for gap, caption in zip((found.mig, found.sap), captions, strict=True)
    ]
    return Section([_numbers(found.mig.number, found.sap.number), each], figures)


_SECTIONS: dict[str, Callable[[Any, Job], Section]] = {
    "latents": _latents,
    "gaps": _gaps,
    "opinion": _opinion,
    "bracket": _bracket,
    "curve": _curve,
    "samples": _samples,
    "factors": _factors,
}
