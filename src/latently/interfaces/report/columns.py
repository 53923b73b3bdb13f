"""The columns of a table that tell the components of a mixture apart.

Numbers by their means, in standard deviations of the rows; names by their commonest one, and how
far its distribution is from that of the rows, in total variation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError
from latently.interfaces.report.cells import Cells
from latently.interfaces.report.kinds import bare
from latently.interfaces.report.numbers import share, significant
from latently.interfaces.report.shapes import cut
from latently.interfaces.report.subject import Subject
from latently.models import Mixture
from latently.probability.distributions import Joint

__all__ = ["Columns", "columns"]

_MOST = 8
_DAY = 86_400  # seconds


@dataclass(frozen=True)
class Columns:
    """Columns whose means tell components apart, the most telling ones first.

    Attributes:
        names: of the columns.
        overall: mean and deviation of each of them over the rows.
        cells: of every component mean, deviation, and whether the mean is one deviation of the
            rows or more from that of the rows. Deviations are "" where they say nothing. Of names
            the likeliest, its probability, and whether half of the probability is elsewhere.
        of: how many columns there are.
        named: some of the columns hold names.
    """

    names: tuple[str, ...]
    overall: tuple[tuple[str, str], ...]
    cells: tuple[tuple[tuple[str, str, bool], ...], ...]
    of: int
    named: bool = False


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
    named = Cells.of(data)
    nominal = [j for j in range(x.shape[1]) if named.nominal(j)]
    shares = {j: _shares(x[seen[:, j].bool(), j], len(named.levels(j))) for j in nominal}
    levels = _probabilities(subject, order, named)
    for j, own in levels.items():
        apart[:, j] = (own - shares[j]).abs().sum(1)  # of at most 2: half of it elsewhere is 1
    chosen = apart.amax(0).argsort(descending=True, stable=True)[:_MOST].tolist()

    def told(j: int, value: Tensor, spread: Tensor, own: Tensor | None) -> tuple[str, str]:
        if own is not None:
            return cut(named.value(j, int(own.argmax())), 20), share(own.max())
        if named.kind(j) == "ordinal":
            steps = named.steps(j)
            if steps is None:  # between two grades without numbers lies nothing
                return cut(named.value(j, float(value)), 20), ""
            value, spread = steps[0] + steps[1] * value, steps[1] * spread
        if named.kind(j) == "datetime":
            return named.value(j, float(value)), f"{significant(float(spread) / _DAY, 2)} days"
        shown = significant(float(value)), significant(float(spread), 2)
        return _plain(named, shown[0]), "" if subject.nominal else _plain(named, shown[1])

    lines = []
    for k, (own, spread, far) in enumerate(zip(means, deviations, apart, strict=True)):
        found = [told(j, own[j], spread[j], levels[j][k] if j in levels else None) for j in chosen]
        lines.append(
            tuple((*pair, bool(far[j] >= 1)) for j, pair in zip(chosen, found, strict=True))
        )
    overall = tuple(told(j, mean[j], deviation[j], shares.get(j)) for j in chosen)
    return Columns(
        tuple(named.names[j] for j in chosen), overall, tuple(lines), x.shape[1], bool(levels)
    )


def _shares(codes: Tensor, levels: int) -> Tensor:
    """How often each level is seen, (L,)."""
    counts = torch.bincount(codes.long(), minlength=levels).double()
    return counts / counts.sum().clamp(min=1)


@torch.no_grad()
def _probabilities(subject: Subject, order: Tensor, cells: Cells) -> dict[int, Tensor]:
    """P(level|k) of the columns of names, (n, L) each; none where they are unknown."""
    at = [j for j in range(len(cells.names)) if cells.nominal(j)]
    p = _likelihood(subject, order) if at else None
    if not isinstance(p, Joint):
        return {}
    found = {}
    for j in at:
        levels = len(cells.levels(j))
        x = torch.zeros(levels, 1, 1, len(cells.names), dtype=torch.float64)
        x[:, 0, 0, j] = torch.arange(levels)
        alone = torch.zeros_like(x, dtype=torch.bool)
        alone[..., j] = True
        at_level = [p.log_prob(*_on(subject, x[k], alone[k])).exp() for k in range(levels)]
        found[j] = torch.stack(at_level).reshape(levels, len(order)).mT.double().cpu()
    return found


def _on(subject: Subject, *parts: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.to(subject.model.device) for part in parts)


def _plain(cells: Cells, text: str) -> str:
    """A number of a table, whose thousands are not set apart."""
    return text.replace(",", "") if cells.columns else text


@torch.no_grad()
def _moments(subject: Subject, order: Tensor) -> tuple[Tensor, Tensor] | None:
    """Means and deviations of p(x|k), (n, D); None where they are unknown."""
    p = _likelihood(subject, order)
    try:
        found = p.mean[0], p.variance[0].sqrt()
    except (NotImplementedError, UserError):
        return None
    mean, deviation = (part.flatten(1).double().cpu() for part in found)
    return mean, deviation


def _likelihood(subject: Subject, order: Tensor) -> Distribution:
    """p(x|k), of batch shape (1, n)."""
    model = bare(subject.model)
    assert isinstance(model, Mixture)
    states = torch.eye(len(model.logits), dtype=torch.float64, device=model.device)[order]
    return subject.model.likelihood((states[None],))
