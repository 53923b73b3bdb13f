"""Components of mixtures, one kind per file, gathered by `__all__`."""

from typing import Any

from latently._gather import gather
from latently.models.components.base import Component

_found = gather(__name__, __path__, skip=("base",))
__all__ = ["Component", *_found]
globals().update(_found)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"no component is called {name!r}; there are {', '.join(__all__)}")
