"""Reconstruction errors of all models, in squared units of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.data import Data
from latently.errors import UserError
from latently.inference._mode import evaluating
from latently.inference.noise import derive, seeded
from latently.interfaces.report.numbers import plain, significant
from latently.interfaces.report.subject import Subject

__all__ = ["Fit", "Fits", "anomalies", "fits", "row_errors"]

_ROWS, _CELLS = 500, 2**22  # at once


@dataclass(frozen=True)
class Fit:
    """How well one model rebuilds the rows.

    Attributes:
        index: position of the model in the report; it gives the colour.
        name: what the report calls it.
        call: the recipe call that built it.
        latents: numbers in a code; "" where that is unknown.
        mean: mean squared error of a cell.
        stderr: its standard error over rows.
        share: of the rows' variance that is rebuilt.
        difference: mean paired difference to the best; "best" of the best.
        difference_stderr: its standard error.
        verdict: what the difference says, in words.
    """

    index: int
    name: str
    call: str
    latents: str
    mean: str
    stderr: str
    share: str
    difference: str
    difference_stderr: str
    verdict: str


@dataclass(frozen=True)
class Fits:
    """A table of all models that rebuild rows, best first.

    Attributes:
        models: one each.
        variance: mean squared error of the mean row.
        unlike: codes are of unlike sizes.
    """

    models: tuple[Fit, ...]
    variance: str
    unlike: bool


def row_errors(subject: Subject) -> Tensor | None:
    """Mean squared error of each row over its observed cells, (n,); None without reconstructions.

    Rows without a cell have NaN.
    """
    if subject.model.invertible:
        return None
    try:
        return torch.cat([_errors(subject, start) for start in _starts(subject.data)])
    except (NotImplementedError, UserError, IndexError):
        return None


def _starts(data: Data) -> range:
    return range(0, len(data), max(1, min(_ROWS, _CELLS // math.prod(data.shape))))


@torch.no_grad()
def _errors(subject: Subject, start: int) -> Tensor:
    model, data = subject.model, subject.data
    part = data.rows(slice(start, start + _starts(data).step)).to(model.device)
    with evaluating(model), seeded(derive(subject.seed, "report", "errors", start), model.device):
        found = model.errors(part.x, part.mask, part.context).flatten(1).double().cpu()
    return _per_cell(found, part.mask)


def _per_cell(found: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return found.mean(1)
    return found.sum(1) / mask.flatten(1).sum(1).cpu()


@torch.no_grad()
def anomalies(subject: Subject) -> Tensor:
    """The anomaly score of each row, (n,), in float64."""
    model, found = subject.model, []
    for start in _starts(subject.data):
        part = subject.data.rows(slice(start, start + _starts(subject.data).step))
        part = part.to(model.device)
        with evaluating(model):
            score = model.anomaly_score(part.x, part.mask, part.context)
        found.append(score.double().cpu())
    return torch.cat(found)


def fits(
    subjects: Sequence[Subject], calls: Sequence[str], found: Sequence[Tensor | None], data: Data
) -> Fits | None:
    """The table; None where no model rebuilds rows.

    Args:
        subjects: the models.
        calls: the recipe calls that built them.
        found: what `row_errors` gives of each.
        data: the rows.
    """
    known = [
        (s, call, e) for s, call, e in zip(subjects, calls, found, strict=True) if e is not None
    ]
    known = [(s, call, e) for s, call, e in known if math.isfinite(_mean(e))]
    if not known:
        return None
    known.sort(key=lambda item: _mean(item[2]))
    variance, best = _variance(data), known[0][2]
    sizes = {subject.size for subject, _, _ in known}
    models = [_fit(subject, call, e, best, variance) for subject, call, e in known]
    return Fits(tuple(models), significant(variance), len(sizes) > 1)


def _fit(subject: Subject, call: str, errors: Tensor, best: Tensor, variance: float) -> Fit:
    mean, apart = _mean(errors), errors - best
    stderr, of_apart = _stderr(errors), _stderr(apart)
    first = errors is best
    clear = abs(_mean(apart)) > 2 * of_apart if math.isfinite(of_apart) else None
    return Fit(
        index=subject.index,
        name=subject.name,
        call=call,
        latents=f"{subject.size:,}" if subject.size else "",
        mean=_shown(mean, stderr),
        stderr="" if math.isnan(stderr) else f"± {_shown(stderr, stderr)}",
        share=f"{plain(100 * (1 - mean / variance), 1)} %" if variance > 0 else "",
        difference="best" if first else f"+{_shown(_mean(apart), of_apart)}",
        difference_stderr="" if first or clear is None else f"± {_shown(of_apart, of_apart)}",
        verdict="" if first or clear is None else "clear" if clear else "unclear",
    )


def _shown(value: float, stderr: float) -> str:
    """A number to two digits of its error.

    >>> _shown(5.68213, 0.1512), _shown(1.23e-9, 2e-11)
    ('5.68', '1.23e−9')
    """
    if not 0 < stderr < math.inf:
        return significant(value, 4)
    places = 1 - math.floor(math.log10(stderr))
    return plain(value, max(0, places)) if places <= 8 else significant(value)


def _mean(errors: Tensor) -> float:
    return float(errors[~errors.isnan()].mean())


def _stderr(errors: Tensor) -> float:
    known = errors[~errors.isnan()]
    return float(known.std() / math.sqrt(len(known))) if len(known) > 1 else math.nan


def _variance(data: Data) -> float:
    """Mean squared error of the mean row."""
    x = data.x.flatten(1).double().cpu()
    if data.mask is None:
        return _mean((x - x.mean(0)).square().mean(1))
    seen = data.mask.flatten(1).cpu()
    mean = x.where(seen, 0.0).sum(0) / seen.sum(0).clamp(min=1)
    return _mean(_per_cell((x - mean).square().where(seen, 0.0), data.mask))
