"""The base space of flows of images: ways between two rows, and draws with less noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latently.inference.noise import derive
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.latents import MAX_ROWS
from latently.interfaces.report.numbers import significant
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.walks import Strip, between_labels, partners

__all__ = ["Passage", "great_circle", "passage"]

_STEPS = 10
_DRAWS = 10
_TEMPERATURES = (0.5, 0.7, 0.9, 1.0)
_FLAT = 1e-6  # of an angle: directions that are equal, or opposite


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


def great_circle(a: Tensor, b: Tensor, steps: int) -> Tensor:
    r"""From a to b, (D,) each, in equal steps of angle and of length, (steps, D).

    With the directions u and v of a and b, `cos w = u' v`, and t from 0 to 1,

        (1 - t) |a| + t |b|   times   (sin((1 - t) w) u + sin(t w) v) / sin w,

    the straight line where directions are equal or opposite. Noise of many dimensions has nearly
    one length, which the straight line leaves. Source: Shoemake, "Animating Rotation with
    Quaternion Curves", 1985.
    """
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None]
    u, v = (end / end.norm().clamp(min=torch.finfo(a.dtype).tiny) for end in (a, b))
    w = torch.arccos((u @ v).clamp(-1, 1))
    if not _FLAT < float(w) < torch.pi - _FLAT or not (bool(a.any()) and bool(b.any())):
        return (1 - t) * a + t * b
    direction = (torch.sin((1 - t) * w) * u + torch.sin(t * w) * v) / torch.sin(w)
    return ((1 - t) * a.norm() + t * b.norm()) * direction


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
            t = torch.linspace(0, 1, _STEPS, dtype=torch.float64).view(-1, *(1,) * images[0].dim())
            first, last = ends.double().cpu()
            line = frame.strip(
                [(1 - t) * first + t * last], f"Row {a} faded into row {b}, pixel by pixel"
            )
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
    way = great_circle(first, last, _STEPS).to(eps.dtype)
    if own is not None:
        t = torch.linspace(0, 1, _STEPS, dtype=own.dtype, device=own.device)[:, None]
        own = (1 - t) * own[0] + t * own[1]
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
