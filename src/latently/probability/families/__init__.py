"""Families: observation models and posteriors, one file each, gathered by `__all__`."""

from typing import Any

from latently._gather import gather
from latently.probability.families.base import Family

_found = gather(__name__, __path__, skip=("base",))
__all__ = ["Family", *_found]
globals().update(_found)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"no family is called {name!r}; there are {', '.join(__all__)}")
