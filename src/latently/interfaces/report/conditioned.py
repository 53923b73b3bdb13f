"""What a model of p(x|c) draws under different contexts."""

from __future__ import annotations

import torch
from torch import Tensor

from latently.data import Data
from latently.inference.noise import derive, seeded
from latently.interfaces.report.content import drawn
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.subject import Subject, shown_context, shuffled
from latently.interfaces.report.walks import Strip

__all__ = ["HEADS", "by_context", "contexts"]

_MOST = 12  # contexts
_DRAWS = 6
HEADS = [["draws", *[""] * (_DRAWS - 1)], ["means", *[""] * (_DRAWS - 1)]]
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


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


def by_context(subject: Subject) -> tuple[Strip, ...]:
    """A strip of draws and means under each context, with the same noise under all of them."""
    frame, chosen = subject.frame, contexts(subject.data)
    if frame is None or chosen is None:
        return ()
    return tuple(_strip(subject, frame, row[None]) for row in chosen)


def _strip(subject: Subject, frame: Frame, context: Tensor) -> Strip:
    model = subject.model
    here = context.expand(_DRAWS, -1).to(model.device)
    title = shown_context(subject.data, context[0])
    with seeded(derive(subject.seed, "report", "contexts"), model.device):
        x, mean = drawn(model, _DRAWS, here)
    means = torch.full_like(x, torch.nan) if mean is None else mean
    groups = [x.double(), means.double()]
    alt = f"{subject.name}: {_DRAWS} draws under {title}, then the means of p(x|z) at the same z"
    return Strip(title, "", frame.strip(groups, alt))
