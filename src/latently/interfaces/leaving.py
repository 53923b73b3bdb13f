"""How the command line ends: what it refuses before a command runs, its one line, its code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from latently.errors import UserError

__all__ = ["check_words", "explain", "fail", "leave_quietly"]


def check_words(words: Sequence[str]) -> None:
    """Refuses an option given twice, of which only the last would count.

    Raises:
        UserError: there is one.
    """
    options = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
    if any("\0" in word for word in words):
        raise UserError("a null byte in the call; no file or option holds one")
    for option in options:
        if options.count(option) > 1:
            raise UserError(f"{option} is given twice")


def leave_quietly() -> NoReturn:
    """Exits where the reader of our output has gone, as in `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    sys.exit(0)


def explain(error: Exception) -> NoReturn:
    """Exits by what the parser or the memory says; anything else is a bug of ours."""
    describe = getattr(error, "format_message", None)
    if describe is not None:
        context = getattr(error, "ctx", None)
        path = "latently" if context is None else context.command_path
        fail(f"{describe().rstrip('.')}; see {path} --help", 2)
    from latently.interfaces.memory import is_out_of_memory

    if is_out_of_memory(error):
        fail("out of memory; lower --samples, --batch-size, -n, --draws or --latents", 2)
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # by pathlib
        fail("a path begins with ~NAME, and nobody here is called so; write the folder out", 2)
    raise error


def fail(message: str, code: int) -> NoReturn:
    """Exits with one printable line on standard error."""
    line = " ".join(message.split())
    # names of files may hold what steers a terminal
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    print(f"latently: {shown}", file=sys.stderr)
    sys.exit(code)
