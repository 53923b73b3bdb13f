"""What a model draws, rebuilds and finds strange, ready to be shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.data import Data
from latently.errors import UserError
from latently.inference.noise import derive, seeded
from latently.interfaces.report.cells import Cells
from latently.interfaces.report.frame import Frame, Picture
from latently.interfaces.report.numbers import plain
from latently.interfaces.report.subject import Subject, shuffled
from latently.models import Model

__all__ = [
    "Example",
    "chosen_rows",
    "drawn",
    "draws",
    "examples",
    "reconstructions",
    "sample_pictures",
]

_TELLING = 4  # columns told of an unusual row


@dataclass(frozen=True)
class Example:
    """One row of the data with its log p(x), or what else ranks it."""

    row: int
    label: str
    value: str
    picture: Picture | None
    cells: tuple[str, ...]


def draws(model: Model, data: Data, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """n draws from p(x), (n, *shape), and the means of p(x|z) at the same z where known.

    A conditional model draws under the contexts of the first rows.
    """
    context = data.context
    if context is not None:
        context = context[torch.arange(n) % len(context)].to(model.device)
    with seeded(derive(seed, "report", "draws"), model.device):
        return drawn(model, n, context)


@torch.no_grad()
def drawn(model: Model, n: int, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The same from the global generator.

    A model without latents has no means to show, one without a density nothing else.
    """
    if model.invertible or model.density is None:
        return model.sample(n, context).cpu(), None
    p = model.likelihood(model.latents(n, context), context)
    x = p.sample()[0].cpu()
    try:
        return x, p.mean[0].cpu()
    except (NotImplementedError, UserError):
        return x, None


def sample_pictures(subject: Subject) -> list[tuple[str, Picture]]:
    """Grids of draws and of means at the same latents, each with its caption."""
    frame = subject.frame
    if frame is None or not subject.draws:
        return []
    n = frame.count(64)
    x, mean = draws(subject.model, subject.data, n, subject.seed)
    shown = [(_drawn_from(subject), x)]
    if mean is not None:
        shown.append(("Means of p(x|z) at the same z; no draws from the model", mean))
    columns = max(1, round(math.sqrt(n)))
    return [
        (caption, frame.grid(values, f"{subject.name}: {n} images. {caption}", columns=columns))
        for caption, values in shown
    ]


def _drawn_from(subject: Subject) -> str:
    if not subject.scored:
        density = type(getattr(subject.model, "codes", None)).__name__
        return f"Decoded codes, drawn from a density that was put on them afterwards ({density})"
    return "Draws from p(x)" if subject.data.context is None else "Draws from p(x|c)"


def chosen_rows(data: Data, most: int, seed: int) -> Tensor:
    """Rows to rebuild, drawn by seed, never by eye; in their order."""
    frame = Frame.of(data)
    n = most if frame is None else frame.count(most, parts=2)
    return shuffled(len(data), seed, "rows")[:n].sort().values


def reconstructions(subject: Subject, rows: Tensor) -> Picture | None:
    """Rows above their reconstructions; None for a model that has none but the rows themselves."""
    part, frame = subject.data.rows(rows), subject.frame
    if frame is None or subject.model.invertible:
        return None
    moved = part.to(subject.model.device)
    try:
        rebuilt = subject.model.reconstruct(moved.x, moved.mask, moved.context).cpu()
    except (NotImplementedError, UserError, IndexError):
        return None
    x = part.x if part.mask is None else part.x.masked_fill(~part.mask, math.nan)
    alt = f"{subject.name}: {len(rows)} pairs, a row of the data above its reconstruction"
    return frame.pairs(x, rebuilt.to(x.dtype), alt, columns=min(8, len(rows)))


def examples(
    data: Data, values: Tensor, most: int, *, strange: str = "low"
) -> tuple[list[Example], list[Example]]:
    """The strangest and the most typical rows by a value of each, at most `most` of both.

    Args:
        data: the rows.
        values: log p(x), or a score, (n,).
        most: rows of each kind.
        strange: whether "low" values are strange, or "high" ones.
    """
    sign = 1 if strange == "low" else -1
    order = torch.nan_to_num(sign * values, nan=-math.inf).argsort(stable=True)
    k = min(most, max(1, len(order) // 2))
    first = order[:k].tolist()
    last = order.flip(0)[:k].tolist() if len(order) > 1 else []
    frame = Frame.of(data)
    return [_example(data, frame, values, i) for i in first], [
        _example(data, frame, values, i) for i in last
    ]


def _example(data: Data, frame: Frame | None, values: Tensor, row: int) -> Example:
    label = "" if data.labels is None else data.label_name(data.labels[row])
    shown: Picture | None = None
    cells: tuple[str, ...] = ()
    if frame is not None:
        x = data.x[row : row + 1]
        if data.mask is not None:
            x = x.masked_fill(~data.mask[row : row + 1], math.nan)
        shown = frame.one(x, f"row {row}" + (f", label {label}" if label else ""))
    else:
        cells = _cells(data, row)
    return Example(row, label, plain(float(values[row])), shown, cells)


def _cells(data: Data, row: int) -> tuple[str, ...]:
    """The row's most unusual columns, in standard deviations from their mean."""
    x = data.x.flatten(1).double()
    mask = torch.ones_like(x) if data.mask is None else data.mask.flatten(1).double()
    count = mask.sum(0).clamp(min=1)
    mean = (x * mask).sum(0) / count
    deviation = (((x - mean).square() * mask).sum(0) / count).sqrt()
    z = torch.where(deviation > 0, (x[row] - mean) / deviation, 0.0) * mask[row]
    order = z.abs().argsort(descending=True, stable=True)[:_TELLING].tolist()
    seen = [j for j in order if mask[row, j]]
    spread = len(data) > 1
    cells = Cells.of(data)
    return tuple(
        f"{cells.names[j]} = {cells.value(j, float(x[row, j]))}"
        + (f" ({plain(float(z[j]), 1, sign=True)} sd)" if spread and not cells.nominal(j) else "")
        for j in seen
    )
