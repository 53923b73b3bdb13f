"""The columns of a table that tell the components of a mixture apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latently.errors import UserError
from latently.interfaces.report.kinds import bare
from latently.interfaces.report.numbers import significant
from latently.interfaces.report.subject import Subject
from latently.models import Mixture

__all__ = ["Columns", "columns"]

_MOST = 8


@dataclass(frozen=True)
class Columns:
    """Columns whose means tell components apart, the most telling ones first.

    Attributes:
        names: of the columns.
        overall: mean and deviation of each of them over the rows.
        cells: of every component mean, deviation, and whether the mean is one deviation of the
            rows or more from that of the rows. Deviations are "" where they say nothing.
        of: how many columns there are.
    """

    names: tuple[str, ...]
    overall: tuple[tuple[str, str], ...]
    cells: tuple[tuple[tuple[str, str, bool], ...], ...]
    of: int


def columns(subject: Subject, order: Tensor, rows: int) -> Columns | None:
    """The columns where a component's mean is farthest from that of the rows, in deviations.

    Args:
        subject: a mixture.
        order: numbers of the components to tell of.
        rows: how many rows to compare with, the first ones.
    """
    moments = _moments(subject, order)
    if moments is None:
        return None
    means, deviations = moments
    data = subject.data.rows(slice(0, rows))
    x = data.x.flatten(1).cpu().double()
    seen = torch.ones_like(x) if data.mask is None else data.mask.flatten(1).cpu()
    count = seen.sum(0).clamp(min=1)
    mean = (x * seen).sum(0) / count
    deviation = (((x - mean).square() * seen).sum(0) / count).sqrt()
    apart = torch.where(deviation > 0, (means - mean).abs() / deviation, 0.0)
    chosen = apart.amax(0).argsort(descending=True, stable=True)[:_MOST].tolist()

    def told(value: Tensor, spread: Tensor) -> tuple[str, str]:
        return significant(float(value)), "" if subject.nominal else significant(float(spread), 2)

    lines = [
        tuple((*told(own[j], spread[j]), bool(far[j] >= 1)) for j in chosen)
        for own, spread, far in zip(means, deviations, apart, strict=True)
    ]
    overall = tuple(told(mean[j], deviation[j]) for j in chosen)
    return Columns(tuple(f"x{j}" for j in chosen), overall, tuple(lines), x.shape[1])


@torch.no_grad()
def _moments(subject: Subject, order: Tensor) -> tuple[Tensor, Tensor] | None:
    """Means and deviations of p(x|k), (n, D); None where they are unknown."""
    model = bare(subject.model)
    assert isinstance(model, Mixture)
    states = torch.eye(len(model.logits), dtype=torch.float64, device=model.device)[order]
    p = subject.model.likelihood((states[None],))
    try:
        found = p.mean[0], p.variance[0].sqrt()
    except (NotImplementedError, UserError):
        return None
    mean, deviation = (part.flatten(1).double().cpu() for part in found)
    return mean, deviation
