"""How surprising each cell is given the others of its row."""

from __future__ import annotations

from typing import Any

from latently.data import Data
from latently.errors import UserError
from latently.interfaces.report.subject import Subject

__all__ = ["surprises"]


def surprises(subject: Subject, part: Data, samples: int) -> Any:
    """-log p(x_j|x_others) of some rows; None of models that cannot leave cells out."""
    try:
        from latently.inference.attribution import attribution

        return attribution(
            subject.model, part.to(subject.model.device), samples=samples, seed=subject.seed
        )
    except (ImportError, UserError, NotImplementedError):
        return None
