"""The evidence of several models, ranked where a ranking means something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from latently.inference.evidence import Evidence
from latently.interfaces.report.numbers import DASH, decimals, error, plain

__all__ = ["Ranking", "Row", "rankings", "symbol"]

SIGNS = {"exact": "=", "lower_bound": "≥", "estimate": "≈"}
WORDS = {"exact": "exact", "lower_bound": "lower bound", "estimate": "estimate"}
_PLURAL = {"exact": "exact values", "lower_bound": "lower bounds", "estimate": "estimates"}


@dataclass(frozen=True)
class Row:
    """One model in a ranking, as text; numbers keep the evidence they came from.

    Attributes:
        index: position of the model in the report; it gives the colour.
        difference: mean paired difference to the best of the ranking and its standard error.
        verdict: what the difference says, in words.
    """

    index: int
    name: str
    call: str
    evidence: Evidence
    sign: str
    nats: str
    stderr: str
    mc: str
    kind: str
    method: str
    ess: str
    k_hat: str
    bits: str
    difference: tuple[float, float] | None
    difference_text: str
    difference_stderr: str
    verdict: str


@dataclass(frozen=True)
class Ranking:
    """Models whose numbers are of one type, best first.

    Attributes:
        title: what is ranked.
        discrete: probabilities (True) or densities.
        rows: one per model.
        notes: what a reader must know before comparing, a sentence each.
    """

    title: str
    discrete: bool
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def rankings(
    names: Sequence[str], calls: Sequence[str], found: Sequence[Evidence | None]
) -> list[Ranking]:
    """Probabilities and densities, each ranked by mean log p(x); models without one are left out.

    Args:
        names: of the models.
        calls: the recipe calls that built them.
        found: their evidence; None of a model without a density.
    """
    made = []
    for discrete in (True, False):
        known = [(i, one) for i, one in enumerate(found) if one is not None]
        known = [(i, one) for i, one in known if one.discrete is discrete]
        if not known:
            continue
        known.sort(key=lambda pair: -pair[1].nats if not math.isnan(pair[1].nats) else math.inf)
        here = [one for _, one in known]
        rows = [_row(i, names[i], calls[i], one, here[0]) for i, one in known]
        kind = "Probabilities" if discrete else "Densities"
        title = f"{kind}, {symbol(here)}"
        made.append(Ranking(title, discrete, tuple(rows), _notes(here)))
    return made


def symbol(found: Sequence[Evidence]) -> str:
    """What numbers of one type are: log P(x) or log p(x), given what all were told."""
    letter = "P" if found[0].discrete else "p"
    told = {evidence.given for evidence in found}
    given = told.pop() if len(told) == 1 else ""
    return f"log {letter}(x|{given})" if given else f"log {letter}(x)"


def _row(index: int, name: str, call: str, evidence: Evidence, best: Evidence) -> Row:
    stderr = evidence.nats_stderr
    difference = None if evidence is best else evidence.paired(best)
    digits = decimals(difference[1]) if difference else 2
    bits = evidence.bits_per_dim
    return Row(
        index=index,
        name=name,
        call=call,
        evidence=evidence,
        sign=SIGNS[evidence.kind],
        nats=plain(evidence.nats, decimals(stderr)),
        stderr=error(stderr),
        mc=DASH if evidence.kind == "exact" else error(evidence.mc_stderr),
        kind=WORDS[evidence.kind],
        method=evidence.method,
        ess=_ess(evidence),
        k_hat=plain(_median(evidence.k_hat)),
        bits=plain(bits, 3),
        difference=difference,
        difference_text=plain(difference[0], digits, sign=True) if difference else "best",
        difference_stderr=error(difference[1]) if difference else "",
        verdict=_verdict(difference),
    )


def _verdict(difference: tuple[float, float] | None) -> str:
    """Whether a paired difference exceeds two standard errors."""
    if difference is None or not all(map(math.isfinite, difference)):
        return ""
    mean, stderr = difference
    return "clear" if abs(mean) > 2 * stderr else "unclear"


def _ess(evidence: Evidence) -> str:
    median = _median(evidence.ess)
    if median is None or math.isnan(median):
        return DASH
    return f"{plain(median, 0 if median >= 10 else 1)} of {evidence.samples:,}"


def _median(values: Tensor | None) -> float | None:
    if values is None:
        return None
    kept = values[~values.isnan()]
    return float(kept.median()) if len(kept) else math.nan


def _notes(found: Sequence[Evidence]) -> tuple[str, ...]:
    """Sentences on what a comparison of these numbers cannot tell."""
    kinds = {evidence.kind for evidence in found}
    bounds = {evidence.method for evidence in found if evidence.kind == "lower_bound"}
    notes = []
    if len({evidence.given for evidence in found}) > 1:
        told = sorted({evidence.what for evidence in found})
        notes.append(
            f"These numbers answer unlike questions, {' and '.join(told)}: what a model is told "
            "of a row is no part of its number."
        )
    if any(evidence.counted for evidence in found):
        notes.append(
            "These are densities in the columns of numbers and probabilities in those of counts "
            "and levels, multiplied: they change with the units of the numbers, and compare "
            "between models that count the same columns only."
        )
    if len(kinds) > 1:
        words = " and ".join(_PLURAL[kind] for kind in sorted(kinds))
        notes.append(f"This ranking mixes {words}, so its order is not always final.")
    if len(kinds) > 1 and "lower_bound" in kinds:
        notes.append(
            "A lower bound can only understate its model: a bound above another model's exact "
            "value decides between them (up to Monte Carlo error), a bound below it does not."
        )
    if len(kinds) > 1 and "estimate" in kinds:
        notes.append("An estimate can err to either side.")
    if len(found) > 1 and kinds == {"lower_bound"}:
        notes.append(
            "These are differences between lower bounds, not between the log-likelihoods "
            "themselves: each bound falls short by an unknown amount, less with more samples."
        )
    if len(bounds) > 1:
        notes.append(
            f"The bounds are of different methods ({', '.join(sorted(bounds))}); evaluate all "
            "models with the same one before ranking them."
        )
    return tuple(notes)
