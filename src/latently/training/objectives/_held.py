"""Parameters that rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["held"]


@contextmanager
def held(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """The parameters as constants: they get no gradient, and no optimizer moves them."""
    learning = [p for p in parameters if p.requires_grad]
    for p in learning:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_(True)
