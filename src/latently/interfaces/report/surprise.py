"""How surprising each cell is given the others of its row."""

from __future__ import annotations

from latently.data import Data
from latently.errors import UserError
from latently.inference.attribution import Attribution, attribution
from latently.interfaces.report.subject import Subject

__all__ = ["surprises"]


def surprises(subject: Subject, part: Data, samples: int, draws: int) -> Attribution | None:
    """Of some rows; None of models that have no density, or cannot leave cells out.

    Args:
        subject: the model.
        part: rows with the context that the model reads.
        samples: draws of z for every cell.
        draws: of every cell, to tell what is usual.
    """
    try:
        return attribution(
            subject.model,
            part.to(subject.model.device),
            samples=samples,
            draws=draws,
            seed=subject.seed,
        )
    except (UserError, NotImplementedError):
        return None
