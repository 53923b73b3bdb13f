"""The base space of flows of images: ways between two rows, and draws with less noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latently.inference._codes import great_circle, straight
from latently.inference.noise import derive
from latently.interfaces.report.between import between_labels, partners
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.latents import MAX_ROWS
from latently.interfaces.report.numbers import significant
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.walks import Strip

__all__ = ["Passage", "passage"]

_STEPS = 10
_DRAWS = 10
_TEMPERATURES = (0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True)
class Passage:
    """What the base space of one flow shows.

    Attributes:
        ways: strips from row to row, the second by the straight line between pixels; none of a
            single row.
        heads: what stands above them.
        apart: the largest difference between a row and the end of its way; "0" if none.
        context: contexts move along with the base space.
        draws: strips of draws, one for each temperature, a column of one noise.
    """

    ways: tuple[Strip, ...]
    heads: tuple[tuple[float, str], ...]
    apart: str
    context: bool
    draws: tuple[Strip, ...]


def passage(subject: Subject) -> Passage | None:
    """Of flows of images; None of other models."""
    frame = subject.frame
    if frame is None or not subject.model.invertible:
        return None
    ways, worst = _ways(subject, frame)
    names = ["row", *[""] * (_STEPS - 2), "row"]
    return Passage(
        ways=tuple(ways),
        heads=frame.heads([names]),
        apart=significant(worst, 2),
        context=subject.data.context is not None,
        draws=tuple(_drawn(subject, frame, t) for t in _TEMPERATURES),
    )


def _ways(subject: Subject, frame: Frame) -> tuple[list[Strip], float]:
    """Strips, and how far their ends are from the rows."""
    strips: list[Strip] = []
    worst, n = 0.0, min(len(subject.data), MAX_ROWS)
    for number, (a, b) in enumerate(partners(subject, n) if n > 1 else []):
        ends = subject.data.x[[a, b]]
        images = _between(subject, a, b)
        worst = max(worst, float((images[[0, -1]] - ends.double().cpu()).abs().max()))
        alt = f"{subject.name}: from row {a} to row {b} through the base space"
        title = f"row {a} to {b}"
        strips.append(Strip(title, between_labels(subject, a, b), frame.strip([images], alt)))
        if number == 0:
            first, last = ends.double().cpu()
            fading = straight(first, last, torch.linspace(0, 1, _STEPS))
            line = frame.strip([fading], f"Row {a} faded into row {b}, pixel by pixel")
            strips.append(Strip("the same rows,", "pixel by pixel", line))
    return strips, worst


@torch.no_grad()
def _between(subject: Subject, a: int, b: int) -> Tensor:
    """Rows on the way from row a to row b, (steps, *shape); a context moves on a straight line."""
    model, context = subject.model, subject.context([a, b])
    own = None if context is None else context.to(model.device)
    x = subject.data.x[[a, b]].to(model.device)
    (eps,) = model.encode(x, context=own)
    first, last = eps.double()
    t = torch.linspace(0, 1, _STEPS, dtype=torch.float64)
    way = great_circle(first, last, t).to(eps.dtype)
    if own is not None:
        own = straight(own[0], own[1], t)
    return model.decode((way,), own).double().cpu()


def _drawn(subject: Subject, frame: Frame, temperature: float) -> Strip:
    """Draws at a temperature, from the same noise as at any other."""
    model, context = subject.model, subject.data.context
    if context is not None:
        context = context[torch.arange(_DRAWS) % len(context)].to(model.device)
    seed = derive(subject.seed, "report", "temperatures")
    x = model.sample(_DRAWS, context, temperature=temperature, seed=seed).cpu()
    alt = f"{subject.name}: {_DRAWS} draws at temperature {temperature}"
    about = "draws from p(x)" if temperature == 1 else ""
    if about and context is not None:
        about = "draws from p(x|c)"
    return Strip(f"temperature {temperature}", about, frame.strip([x], alt))
