"""Evaluation mode for as long as a judgement takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["evaluating"]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model as in evaluation, and as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
