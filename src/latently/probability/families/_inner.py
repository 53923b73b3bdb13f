"""The option `family`: a family inside another, or inside a prior."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from latently.errors import UserError
from latently.probability.families.base import Family

_ANY = "a family; give one by name, e.g. family=Normal"


def inner(who: str, family: Any, shape: Sequence[int], wanted: str = _ANY) -> Family:
    """The family over `shape` that a constructor such as `Poisson` makes.

    Raises:
        UserError: `family` is no constructor of a family; the message ends in what is `wanted`.
    """
    kind = family.func if isinstance(family, partial) else family
    if isinstance(kind, type):
        constructs = issubclass(kind, Family)
    else:  # a module is callable, too, but makes distributions or tensors
        constructs = callable(kind) and not isinstance(kind, nn.Module)
    made = family(tuple(shape)) if constructs else None
    if not isinstance(made, Family):
        raise refusal(who, family, wanted)
    return made


def refusal(who: str, family: Any, wanted: str) -> UserError:
    """The error for an option `family` that constructs nothing, or something else."""
    kind = family.func if isinstance(family, partial) else family
    shown = type(kind).__name__ + "(...)" if isinstance(kind, nn.Module) else kind
    return UserError(
        f"{who}: family={getattr(kind, '__name__', shown)} is no constructor of {wanted}"
    )
