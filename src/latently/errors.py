"""The one exception that means "the user can fix this", and the closest-name helper."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["Interrupted", "UserError", "called", "closest"]


_SHOWN = 24


class UserError(ValueError):
    """A mistake the user can fix: one line that names what, which value, where and the fix.

    The command line prints the message without a traceback and exits with code 2.
    """


def called(distribution: Any) -> str:
    """What a user knows a distribution as: by the name of the family that makes it.

    >>> import torch
    >>> from latently.probability.families import Ordinal
    >>> called(Ordinal((3,))(torch.zeros(3)))
    'Ordinal'
    """
    name: str = getattr(distribution, "known_as", type(distribution).__name__)
    if hasattr(distribution, "base") and not name.startswith("_"):  # a wrapper: of cells, of units
        return called(distribution.base)
    return name.lstrip("_")


class Interrupted(KeyboardInterrupt):
    """A fit stopped by Ctrl-C or SIGTERM after its checkpoint was written."""


def closest(name: str, known: Iterable[str]) -> str:
    """A hint that lists the known names closest to `name`.

    >>> closest("Bernouli", ["Bernoulli", "Normal"])
    'did you mean Bernoulli?'
    >>> closest("zzz", ["fa", "ppca"])
    'known: fa, ppca'
    """
    known = sorted(set(known))
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(by_lower[n] for n in near)}?"
    more = f", ... ({len(known)} in all)" if len(known) > _SHOWN else ""
    return f"known: {', '.join(known[:_SHOWN]) or 'none'}{more}"
