"""What a diagnosis makes of its numbers: a line each, and what to try."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from latently.inference._latents import Terms
from latently.inference.number import Number

__all__ = [
    "ACTIVE",
    "MISMATCH",
    "NEAR",
    "NOTHING",
    "Finding",
    "few_rows",
    "inactive",
    "not_finite",
    "prior_mismatch",
    "seen_before",
    "unread",
    "without_information",
]

ACTIVE = 0.01  # of the prior's variance, or nats of counted latents
NOTHING = 0.1  # nats a row
MISMATCH = 1.0  # nats between q(z) and p(z): samples will show it
NEAR = 1.0  # nats below log N

_SHOWN = 12  # units named
_MORE = (
    "try a KL warm-up, ELBO(beta=Warmup(1.0)), free bits, ELBO(free_bits=0.1), a weaker decoder, "
    "a beta of 1 or below, or more inference steps"
)


@dataclass(frozen=True)
class Finding:
    """Something a reader should know, in one line.

    Attributes:
        level: "alarm" where something is wrong, else "note".
        name: what it is, e.g. "posterior collapse".
        text: what was found, with its numbers, and what to try.
    """

    level: Literal["alarm", "note"]
    name: str
    text: str

    def __str__(self) -> str:
        return f"{'!' if self.level == 'alarm' else '-'} {self.name}: {self.text}"


def without_information(found: Any) -> dict[str, Finding]:
    """Layers of no rate, or of one that buys no information, by their names."""
    alarms = {}
    for layer in found.layers:
        empty = [n for n in (layer.rate, layer.information) if n and _at_most(n) < NOTHING]
        if not empty:
            continue
        numbers = [f"rate {layer.rate.value:.3f} nats"]
        if layer.information is not None:
            numbers.append(f"information {layer.information.value:.3f} nats")
        numbers.append(f"{layer.active} of {len(layer.dimensions)} units active")
        text = f"{layer.name} says next to nothing of x ({', '.join(numbers)}); {_MORE}"
        alarms[layer.name] = Finding("alarm", "posterior collapse", text)
    return alarms


def not_finite(found: Any) -> Finding | None:
    """A bound that is no number, of which nothing else can be said."""
    if math.isfinite(found.elbo.value):
        return None
    return Finding(
        "alarm",
        "not finite",
        f"the ELBO is {found.elbo.value}: values of some rows are far from all that the model was "
        "fitted to; rescale the data as they were for the fit, or leave these rows out",
    )


def unread(found: Any) -> Finding | None:
    """A decoder to which one z is as good as another."""
    if abs(found.decoder.value) + 2 * found.decoder.mc_stderr >= NOTHING:
        return None
    return Finding(
        "alarm",
        "the decoder ignores z",
        f"log p(x|z) loses {found.decoder.value:.3f} nats by the z of another row, and z costs "
        f"{found.rate.value:.2f}; {_MORE}",
    )


def prior_mismatch(found: Any) -> Finding | None:
    """An aggregate posterior that is not where the prior is, as far as N rows can tell."""
    whole = found.aggregate
    if whole is None:
        return None
    known = [whole] if whole.kind == "estimate" else []
    known += [layer.dimension_wise for layer in found.layers if layer.dimension_wise is not None]
    worst = max(known, key=lambda n: n.value - 2 * n.mc_stderr, default=None)
    if worst is None or worst.value - 2 * worst.mc_stderr < MISMATCH:
        return None
    return Finding(
        "note",
        "prior mismatch",
        f"{worst.name} = {worst.value:.2f} nats, so samples from the prior will look worse than "
        "reconstructions, and a prior that fits could raise the ELBO by as much; try "
        "prior=VampPrior or FlowPrior",
    )


def few_rows(terms: Terms, information: Number | None) -> Finding | None:
    """How far N rows reach, where it matters."""
    some = terms.rows < terms.available
    limit = math.log(terms.rows)
    near = information is not None and information.kind == "lower_bound"
    parts = [f"{terms.rows:,} of {terms.available:,} rows were drawn by the seed"] if some else []
    if near and information is not None:
        parts.append(
            f"I(x; z) = {information.value:.2f} is near log N = {limit:.2f}, the most that "
            f"{terms.rows:,} rows show: a lower bound, and KL(q(z) || p(z)) an upper one"
        )
    if not parts:
        return None
    advice = f"; rows={min(terms.available, 2 * terms.rows)} looks at more" if some else ""
    return Finding("note", "rows", "; ".join(parts) + advice)


def inactive(layer: Any) -> Finding | None:
    """Units that a model which is well does without."""
    idle = [unit.index for unit in layer.dimensions if not unit.active]
    if not idle:
        return None
    shown = ", ".join(",".join(map(str, index)) or "all" for index in idle[:_SHOWN])
    more = ", ..." if len(idle) > _SHOWN else ""
    return Finding(
        "note",
        "inactive units",
        f"{len(idle)} of {len(layer.dimensions)} units of {layer.name} say nothing of x ({shown}"
        f"{more}): harmless, fewer latents would do",
    )


def seen_before(data: Any, train: Any | None) -> Iterator[Finding]:
    """Rows of the data that are among those the model was fitted to."""
    if train is None or data.x.shape[1:] != train.x.shape[1:]:
        return
    known = set(_digests(train.x, train.mask))
    equal = sum(digest in known for digest in _digests(data.x, data.mask))
    if equal:
        yield Finding(
            "alarm",
            "rows of the fit",
            f"{equal:,} of {len(data.x):,} rows equal a training row, so their numbers are "
            "better than those of new rows; use rows that were held out",
        )


def _digests(x: Tensor, mask: Tensor | None) -> Iterator[bytes]:
    for start in range(0, len(x), 4096):
        rows = x[start : start + 4096].cpu().float().flatten(1)
        if mask is not None:
            seen = mask[start : start + 4096].cpu().flatten(1)
            rows = torch.where(seen, rows, math.nan)
        for row in rows.numpy():
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _at_most(number: Number) -> float:
    return number.value + 2 * number.mc_stderr
