"""Methods: ways to compute log p(x), one file each, gathered by `__all__`."""

from typing import Any

from latently._gather import gather
from latently.inference.methods.base import Kind, Method, Progress, Scores

_found = gather(__name__, __path__, skip=("base",))
__all__ = ["Kind", "Method", "Progress", "Scores", *_found]
globals().update(_found)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"no method is called {name!r}; there are {', '.join(__all__)}")
