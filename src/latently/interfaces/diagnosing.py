"""`latently diagnose`: what the latents do, whose fault a gap is, and second opinions."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latently import data as data_floor
from latently import expr
from latently._version import __version__
from latently.data import Data
from latently.data.catalog import SOURCES
from latently.errors import UserError, closest
from latently.inference import AIS
from latently.inference.bracket import Bracket, bracket
from latently.inference.diagnostics import Finding, diagnose
from latently.inference.disentanglement import disentanglement
from latently.inference.evidence import default_method
from latently.inference.gaps import Gaps, compare_gaps, gaps
from latently.inference.methods.exact import Exact
from latently.inference.noise import derive
from latently.inference.number import Number
from latently.inference.opinion import second_opinion
from latently.inference.rate_distortion import rate_distortion
from latently.inference.sample_quality import judge_samples
from latently.interfaces.opening import Rows, load_like, open_model, short_name
from latently.interfaces.output import check_target
from latently.io import Saved
from latently.models import Dequantized
from latently.registry import components
from latently.training.progress import Bar

__all__ = ["PARTS", "Found", "Job", "diagnose_command"]

Progress = Callable[[int, int], None]
_SIMULATED = 20  # rows that are drawn from the model and bracketed
_SMALL = 0.1  # nats that are not worth a word
_MANY = 10  # rows from which a comparison with other rows is worth a word


@dataclass(frozen=True)
class Job:
    """What a diagnosis is asked about.

    Attributes:
        saved: the model with what its file says.
        name: what to call it.
        data: all rows asked about.
        few: those for parts that take about a second a row.
        train: rows that the model was fitted to; None where nobody says which.
        factors: known factors of the rows, (n, F), with their names.
        seed: of everything random.
        method: the annealed second opinion.
    """

    saved: Saved
    name: str
    data: Data
    few: Data
    train: Data | None
    factors: tuple[Tensor, tuple[str, ...]] | None
    seed: int
    method: AIS

    @property
    def model(self) -> Any:
        """The model."""
        return self.saved.model


@dataclass(frozen=True)
class Part:
    """One question of a diagnosis.

    Attributes:
        title: its heading.
        short: the heading in a word or two.
        about: what the answer is, in a line.
        ask: finds the answer, which prints, has `to_dict` and may have `findings`.
        absent: why a job has no such question; "" if it has.
    """

    title: str
    short: str
    about: str
    ask: Callable[[Job, Progress], Any]
    absent: Callable[[Job], str] = lambda job: ""


@dataclass(frozen=True)
class Found:
    """The answer to one question.

    Attributes:
        name: of the part.
        result: the answer; None where there is none.
        refusal: why there is none.
        seconds: that it took.
    """

    name: str
    result: Any = None
    refusal: str = ""
    seconds: float = 0.0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the answer says in words, alarms first."""
        alarms = getattr(self.result, "alarms", ())
        lines = [*getattr(self.result, "findings", ()), *getattr(self.result, "notes", ())]
        found = [
            line
            if isinstance(line, Finding)
            else Finding("alarm" if line in alarms else "note", self.name, line)
            for line in lines
        ]
        return tuple(sorted(found, key=lambda one: one.level != "alarm"))

    def to_dict(self) -> dict[str, Any]:
        """The answer, or why there is none, for JSON."""
        if self.result is None:
            return {"unavailable": self.refusal}
        return {**self.result.to_dict(), "seconds": round(self.seconds, 2)}


@dataclass(frozen=True)
class GapsHereAndThere:
    """The gaps of the rows asked about, and of as many that the model was fitted to.

    `noise` says that the model adds noise to its rows, so that its bound has a gap of its own;
    `exact` that there is no other, because the posterior given the noise is exact.
    """

    here: Gaps
    there: Gaps | None
    more: Mapping[str, Number]
    noise: bool = False
    exact: bool = False

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Which gap is the larger, and whether the encoder does better on its own rows."""
        amortised, family = self.here.amortisation, self.here.approximation
        if not math.isfinite(amortised.value + family.value):
            return ()
        found = [Finding("note", "gap", _blamed(amortised, family, self.noise, self.exact))]
        more = self.more.get("amortisation")
        few = len(self.here) < _MANY  # whose spread says little of the error
        if more is not None and not few and more.value > max(_SMALL, 3 * more.stderr):
            text = (
                f"the encoder loses {more.value:.2f} +- {more.stderr:.2f} nats more on these rows "
                "than on those it was fitted to: it over-fits; stop earlier, or refine q"
            )
            found.append(Finding("note", "encoder", text))
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Both, and their differences."""
        there = None if self.there is None else self.there.to_dict()
        more = {name: number.to_dict() for name, number in self.more.items()}
        return {**self.here.to_dict(), "fitted_rows": there, "more_than_fitted_rows": more}

    def __str__(self) -> str:
        return "\n".join(map(str, [self.here, *self.more.values()]))


def _blamed(amortised: Number, family: Number, noise: bool, exact: bool) -> str:
    if max(amortised.value, family.value) < _SMALL:
        return f"neither gap exceeds {_SMALL} nats: q is as good as exact"
    if amortised.value > family.value:
        return (
            f"the encoder is the larger part, {amortised.value:.2f} nats against "
            f"{family.value:.2f}: train it longer or with more inference steps, or widen its net"
        )
    if exact:
        return (
            f"{family.value:.2f} nats are lost to the noise that makes whole numbers "
            "continuous, and none to q, which is exact given the noise: a bound of more draws, "
            "such as IWAE, loses fewer"
        )
    if noise:
        return (
            f"{family.value:.2f} nats are lost to q's family or to the uniform noise that makes "
            "whole numbers continuous, which no posterior of z repairs: a likelihood of whole "
            "numbers, such as DiscretizedLogistic, needs none"
        )
    return (
        f"q's family is the larger part, {family.value:.2f} nats against {amortised.value:.2f}: "
        "try a richer posterior, such as MultivariateNormal or FlowNormal"
    )


def _latents(job: Job, progress: Progress) -> Any:
    return diagnose(job.model, job.data, seed=job.seed, train=job.train, progress=progress)


def _gaps(job: Job, progress: Progress) -> GapsHereAndThere:
    both = job.train is not None
    noise = isinstance(job.model, Dequantized)
    exact = isinstance(job.model, Dequantized) and job.model.model.density == "exact"
    n = len(job.few)

    def first(done: int, total: int) -> None:
        progress(done, 2 * total if both else total)

    here = gaps(job.model, job.few, seed=job.seed, progress=first)
    if job.train is None:
        return GapsHereAndThere(here, None, {}, noise, exact)
    there = gaps(
        job.model,
        _some(job.train, n, job.seed, "fitted"),
        seed=job.seed,
        progress=lambda done, total: progress(total + done, 2 * total),
    )
    more = {
        name: replace(number, name=f"{name} gap, these rows minus those of the fit")
        for name, number in compare_gaps(there, here).items()
    }
    return GapsHereAndThere(here, there, more, noise, exact)


def _opinion(job: Job, progress: Progress) -> Any:
    first = default_method(job.model)
    exact = first.kind == "exact"
    given = first if exact else None
    return second_opinion(job.model, job.few, given, job.method, seed=job.seed, progress=progress)


def _bracket(job: Job, progress: Progress) -> Bracket:
    context = None if job.data.context is None else job.few.context
    rows = min(_SIMULATED, len(job.few))
    return bracket(
        job.model,
        rows,
        job.method,
        context=None if context is None else context[:rows],
        seed=job.seed,
        progress=progress,
    )


def _curve(job: Job, progress: Progress) -> Any:
    few = job.few.rows(slice(0, _SIMULATED))
    return rate_distortion(job.model, few, job.method, seed=job.seed, progress=progress)


def _samples(job: Job, progress: Progress) -> Any:
    return judge_samples(job.model, job.data, job.train, seed=job.seed)


def _factors(job: Job, progress: Progress) -> Any:
    assert job.factors is not None
    values, names = job.factors
    return disentanglement(job.model, job.data, values, names=names, seed=job.seed)


def _no_factors(job: Job) -> str:
    if job.factors is not None:
        return ""
    return "nobody says what the factors of these rows are; name columns of theirs by --factors"


def _closed(job: Job) -> str:
    exact = isinstance(default_method(job.model), Exact)
    return "the posterior is exact: no gap to explain" if exact else ""


PARTS: dict[str, Part] = {
    "latents": Part(
        "Latents",
        "Latents",
        "what they cost, what they hold of x, and whether the decoder reads them",
        _latents,
    ),
    "gaps": Part(
        "The gap between the ELBO and log p(x)",
        "Gap",
        "what q's family cannot express (approximation), what the encoder does not find "
        "(amortisation)",
        _gaps,
        _closed,
    ),
    "opinion": Part(
        "Second opinion",
        "Second opinion",
        "log p(x) by annealed importance sampling, which does not ask the encoder",
        _opinion,
    ),
    "bracket": Part(
        "Bracket",
        "Bracket",
        "log p(x) from both sides, on rows that the model drew itself",
        _bracket,
    ),
    "curve": Part(
        "Rate and distortion",
        "Rate",
        "the best that this decoder could do at every rate, and where the encoder is",
        _curve,
    ),
    "samples": Part(
        "Samples",
        "Samples",
        "samples against held-out rows, beside what real rows reach",
        _samples,
    ),
    "factors": Part(
        "Disentanglement",
        "Factors",
        "whether each known factor has a latent of its own",
        _factors,
        _no_factors,
    ),
}


def diagnose_command(
    path: str,
    rows: Rows,
    *,
    train: str | None = None,
    parts: str | None = None,
    few: int = 50,
    method: str | None = None,
    factors: str | None = None,
    out: str | None = None,
    as_json: bool = False,
    force: bool = False,
) -> None:
    """Prints what is found part by part, as text or one JSON object; writes a page if asked.

    Args:
        path: the model file.
        rows: the rows to ask about.
        train: rows that the model was fitted to; None: those that its file names, where it does.
        parts: names joined by commas; None: all.
        few: rows for parts that take about a second each.
        method: the annealed second opinion.
        factors: columns that hold known factors, joined by commas.
        out: an HTML page to write.
        as_json: print JSON and nothing else.
        force: replace an existing page.

    Raises:
        UserError: an unknown part, rows that are none of the model's, or a part asked for by name
            that this model has no answer to, once the other parts are told.
    """
    chosen = _chosen(parts)
    target = None if out is None else check_target(out, (".html",), force)
    if few < 2:
        raise UserError(f"--rows {few} must be at least 2")
    job = _job(path, rows, train, few, _annealed(method), factors)
    for name in chosen if parts is not None else ():
        if absent := PARTS[name].absent(job):
            raise UserError(f"--parts {name}: {absent}")
    if not as_json:
        print(f"{job.name} on {job.data.protocol}, {len(job.data):,} rows")
    found = []
    for name in chosen:
        one = _asked(name, job, quiet=as_json)
        found.append(one)
        if not as_json:
            _print(one)
    if as_json:
        print(json.dumps(_as_json(job, found)))
    if target is not None:
        from latently.interfaces.report.diagnosis import write_diagnosis

        asked = {"data": rows.spec, "train": train, "parts": parts, "rows": few}
        asked |= {"method": method, "factors": factors, "mask": rows.mask, "seed": rows.seed}
        command = _command(path, {**asked, "out": out})
        write_diagnosis(target, job, found, command=command)
        print(f"wrote {target}", file=sys.stderr if as_json else sys.stdout)
    for one in found if parts is not None else ():
        if one.refusal:
            raise UserError(f"--parts {one.name}: {one.refusal}")


def _command(path: str, asked: Mapping[str, Any]) -> str:
    """The call that gives the same page again."""
    words = ["latently", "diagnose", path]
    for name, value in asked.items():
        words += [] if value is None else [f"--{name}", str(value)]
    return shlex.join(words)


def _chosen(parts: str | None) -> list[str]:
    if parts is None:
        return list(PARTS)
    names = [name.strip() for name in parts.split(",") if name.strip()]
    if not names:
        raise UserError(f"--parts {parts!r} names none; known: {', '.join(PARTS)}")
    for name in names:
        if name not in PARTS:
            raise UserError(f"--parts {name}: {closest(name, PARTS)}")
    return [name for name in PARTS if name in names]


def _annealed(text: str | None) -> AIS:
    if text is None:
        return AIS()
    built = expr.build(text, components())
    if not isinstance(built, AIS):
        raise UserError(
            f"--method {text}: the second opinion is AIS(...); latently list methods AIS"
        )
    return built


def _job(
    path: str, rows: Rows, train: str | None, few: int, method: AIS, factors: str | None
) -> Job:
    saved = open_model(path)
    data = rows.open(saved)
    if len(data) < 2:
        raise UserError(f"{data.protocol} has one row; a diagnosis compares rows, give more")
    return Job(
        saved=saved,
        name=short_name(path, [path]),
        data=data,
        few=_some(data, few, rows.seed, "few"),
        train=_fitted(saved, data, train, rows),
        factors=_known_factors(rows, factors, data),
        seed=rows.seed,
        method=method,
    )


def _fitted(saved: Saved, data: Data, train: str | None, rows: Rows) -> Data | None:
    """The rows of the fit: as told, or those of the named set that the file holds the name of."""
    spec = train
    if spec is None:
        spec = str(saved.data.get("protocol", ""))
        if spec.partition("/")[0].partition(":")[0] not in SOURCES or rows.mask is not None:
            return None
    fitted = load_like(spec, saved, rows.data_dir)
    fitted = fitted.once(derive(rows.seed, "fitted"))
    saved.model.check(fitted.x, fitted.mask, fitted.protocol)
    saved.model.check_context(fitted.context, fitted.protocol)
    return None if train is None and fitted.protocol == data.protocol else fitted


def _known_factors(
    rows: Rows, factors: str | None, data: Data
) -> tuple[Tensor, tuple[str, ...]] | None:
    """Columns of the rows that say what they are made of, as the numbers of their classes."""
    name = rows.spec.partition("/")[0].partition(":")[0]
    if factors is not None:
        names = tuple(part.strip() for part in factors.split(","))
    elif name == "factors":
        from latently.data.factors import NAMES

        names = NAMES
    else:
        return None
    spec = rows.spec if "/" in rows.spec or name not in SOURCES else f"{rows.spec}/test"
    columns = []
    for column in names:
        given = data_floor.load(spec, data_dir=rows.data_dir, context=column)
        if given.conditions is None or not given.conditions.classes or given.context is None:
            raise UserError(
                f"--factors {column}: a factor takes few whole numbers, and this column holds "
                "others; name another, or bin it"
            )
        columns.append(given.context.argmax(1))
    return torch.stack(columns, 1), names


def _some(data: Data, n: int, seed: int, use: str) -> Data:
    """At most n of the rows, drawn by seed, in their order."""
    if len(data) <= n:
        return data
    generator = torch.Generator().manual_seed(derive(seed, "diagnose", use))
    part = data.rows(torch.randperm(len(data), generator=generator)[:n].sort().values)
    return replace(part, protocol=f"{data.protocol}, {n} of {len(data):,} rows")


def _asked(name: str, job: Job, *, quiet: bool) -> Found:
    """The answer to one question, or why there is none; the other questions go on."""
    part = PARTS[name]
    absent = part.absent(job)
    if absent:
        return Found(name, refusal=absent)
    began = time.monotonic()
    try:
        with Bar(1, "row", show=not quiet) as bar:

            def progress(done: int, total: int) -> None:
                bar.resize(total)
                bar.update(done, None)

            result = part.ask(job, progress)
    except UserError as error:
        return Found(name, refusal=str(error))
    return Found(name, result, seconds=time.monotonic() - began)


def _print(found: Found) -> None:
    part = PARTS[found.name]
    print(f"\n{part.title}: {part.about}")
    body = f"not available: {found.refusal}" if found.result is None else str(found.result)
    untold = [str(finding) for finding in found.findings if finding.text not in body]
    body = "\n".join([body, *untold])
    print("\n".join(f"  {line}".rstrip() for line in body.splitlines()))


def _as_json(job: Job, found: Sequence[Found]) -> dict[str, Any]:
    return {
        "version": __version__,
        "model": job.name,
        "protocol": job.data.protocol,
        "n": len(job.data),
        "seed": job.seed,
        "parts": {one.name: one.to_dict() for one in found},
        "findings": [
            {"part": one.name, **vars(finding)} for one in found for finding in one.findings
        ],
    }
