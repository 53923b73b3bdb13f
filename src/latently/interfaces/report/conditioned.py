"""What a model of p(x|c) draws under different contexts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latently.data import Data
from latently.inference.noise import derive, seeded
from latently.interfaces.report.content import drawn
from latently.interfaces.report.subject import Subject, shown_context, shuffled
from latently.interfaces.report.walks import Strip

__all__ = ["ByContext", "by_context", "contexts"]

_MOST = 12  # contexts
_DRAWS = 6
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ByContext:
    """A strip for each context.

    Attributes:
        strips: draws, then means at the same latents where the model has them.
        heads: what stands above them, with its place in percent of the width.
        means: whether there are means.
    """

    strips: tuple[Strip, ...]
    heads: tuple[tuple[float, str], ...]
    means: bool


def contexts(data: Data) -> Tensor | None:
    """The contexts to draw under, (k, C): all classes, quantiles of a number, or some rows'."""
    context, conditions = data.context, data.conditions
    if context is None:
        return None
    if conditions is not None and conditions.classes:
        at = torch.linspace(0, len(conditions.classes) - 1, min(_MOST, conditions.width)).long()
        return torch.eye(conditions.width, dtype=context.dtype)[at]
    if context.shape[1] == 1:
        levels = torch.tensor(_LEVELS, dtype=torch.float64)
        return torch.quantile(context.double(), levels, 0).to(context.dtype).unique(dim=0)
    known = context.unique(dim=0)
    return known[shuffled(len(known), 0, "contexts")[: len(_LEVELS)].sort().values]


def by_context(subject: Subject) -> ByContext | None:
    """Draws and means under each context, with the same noise under all of them.

    None of models that take no context, and of rows that are no images.
    """
    frame, chosen = subject.frame, contexts(subject.data)
    if frame is None or chosen is None or not subject.draws:
        return None
    found = [_drawn(subject, row[None]) for row in chosen]
    means = all(mean is not None for _, mean in found)
    strips = []
    for row, (x, mean) in zip(chosen, found, strict=True):
        title = shown_context(subject.data, row)
        alt = f"{subject.name}: {_DRAWS} draws under {title}"
        groups = [x.double()]
        if means and mean is not None:
            alt += ", then the means of p(x|z) at the same z"
            groups.append(mean.double())
        strips.append(Strip(title, "", frame.strip(groups, alt)))
    blank = [""] * (_DRAWS - 1)
    heads = [["draws", *blank], ["means", *blank]] if means else [["draws", *blank]]
    return ByContext(tuple(strips), frame.heads(heads), means)


def _drawn(subject: Subject, context: Tensor) -> tuple[Tensor, Tensor | None]:
    model = subject.model
    with seeded(derive(subject.seed, "report", "contexts"), model.device):
        return drawn(model, _DRAWS, context.expand(_DRAWS, -1).to(model.device))
