"""What would not fit into this machine's memory is refused before it is tried.

A single huge allocation fails at once, but many large ones end with the system killing the
process, which no message survives.
"""

from __future__ import annotations

import os

from latently.errors import UserError

__all__ = ["check_memory", "is_out_of_memory", "machine_bytes"]


def check_memory(values: int, what: str, fix: str, *, width: int = 4) -> None:
    """Refuses `values` numbers of `width` bytes if the machine has less memory than that.

    Raises:
        UserError: they do not fit; `what` they are and the `fix` are named.
    """
    if values * width > (have := machine_bytes()):
        raise UserError(
            f"{what} needs about {_gigabytes(values * width)}, more than the "
            f"{_gigabytes(have)} of memory here; {fix}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in any of the ways torch and numpy say it."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def machine_bytes() -> int:
    """The machine's memory; 2^63 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return 2**63


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.3g} GB" if count < 1e15 else "over a million GB"
