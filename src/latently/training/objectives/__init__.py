"""Objectives: what a training step maximises, one file each, gathered by `__all__`."""

from typing import Any

from latently._gather import gather
from latently.training.objectives.base import Objective, Terms

_found = gather(__name__, __path__, skip=("base",))
__all__ = ["Objective", "Terms", *_found]
globals().update(_found)


def usual(model: Any) -> Objective:
    """The objective that a model is usually trained by, with its default options."""
    made: Objective = _found[model.objective]()
    return made


def __getattr__(name: str) -> Any:
    raise AttributeError(f"no objective is called {name!r}; there are {', '.join(__all__)}")
