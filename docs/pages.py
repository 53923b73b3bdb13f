"""Runs README.md and docs/*.md, block by block: their test, and what fills in their numbers.

- a ```python block is executed, in one namespace per page;
- a ```sh block is run line by line; lines that begin with `latently` go through the command line's
  `main` and must end with exit code 0, or with 2 where `# refused` stands behind;
- a ```text block shows what the block before it printed: of a refused command to the letter, else
  up to the numbers, which differ between machines; a line of `...` stands for what is left out.

A page runs in an empty folder of its own, so what its Python writes its commands can read. One
that says `<!-- needs $LATENTLY_DATA/... -->` runs where that file is.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = ("make ", "python3 -m venv ", ".venv/bin/")  # lines that set an environment up
NEED_DATA = re.compile(r"\b(mnist|fashion|omniglot|frey|cifar10)\b")
NEEDS = re.compile(r"<!-- needs \$LATENTLY_DATA/(\S+) -->")  # a whole page
BAR = re.compile(r"^(row|cell|step|pass|fit) \d+/\d+ .*\n", re.MULTILINE)  # soon wiped
NUMBER = re.compile(r"-?\b\d[\d,]*(\.\d+)?(e[+-]?\d+)?")


class Shown(NamedTuple):
    """A ```text block, and what the block before it printed."""

    text: str
    printed: str
    exactly: bool


def fences(page: Path) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return [(m[1], m[2]) for m in FENCE.finditer(page.read_text(encoding="utf-8"))]


def runs(page: Path) -> bool:
    """Whether there is anything to run on a page, and the data are there that it needs."""
    needed = NEEDS.findall(page.read_text(encoding="utf-8"))
    folder = os.environ.get("LATENTLY_DATA")
    if needed and (folder is None or not all(Path(folder, name).exists() for name in needed)):
        return False
    return any(kind in ("python", "sh") for kind, _ in fences(page))


def run(page: Path) -> Iterator[Shown]:
    """Runs a page in the current folder and yields what it shows beside what was printed."""
    module = ModuleType("page")
    sys.modules["page"] = module  # dataclasses look their module up
    namespace: dict[str, Any] = module.__dict__
    printed, refused = "", False
    for kind, content in fences(page):
        if kind == "text":
            yield Shown(content, printed, refused)
        elif kind in ("python", "sh"):
            output = io.TextIOWrapper(io.BytesIO(), "utf-8")  # what a terminal's streams can
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                if kind == "python":
                    exec(compile(content, f"{page.name}, a block", "exec"), namespace)
                    refused = False
                else:
                    refused = run_lines(content)
            output.seek(0)
            printed = BAR.sub("", output.read())


def run_lines(content: str) -> bool:
    """Runs the lines of a ```sh block; whether one of them is refused."""
    from latently.interfaces.cli import main

    any_refused = False
    for line in content.splitlines():
        words = shlex.split(line, comments=True)
        if not words or line.startswith(NOT_RUN):
            continue
        if words[0] != "latently":
            raise AssertionError(f"neither run nor in NOT_RUN: {line}")
        if NEED_DATA.search(line) and "LATENTLY_DATA" not in os.environ:
            continue
        refused = line.rstrip().endswith("# refused")
        any_refused = any_refused or refused
        try:
            main(words[1:])
        except SystemExit as left:
            if left.code != 2 * refused:
                raise AssertionError(f"exit code {left.code}: {line}") from None
    return any_refused


def missing(shown: Shown) -> str | None:
    """The first part of what is shown that was not printed, or None."""
    output, start = plain(shown.printed, shown.exactly), 0
    for part in re.split(r"^\.\.\.$", shown.text, flags=re.MULTILINE):
        wanted = plain(part, shown.exactly)
        at = output.find(wanted, start)
        if at < 0:
            return part
        start = at + len(wanted)
    return None


def plain(text: str, exactly: bool = False) -> str:
    """Text without its line ends and the widths of tables, and with # for numbers."""
    text = re.sub(r"[\s━─]+", " ", text).strip()
    return text if exactly else NUMBER.sub("#", text)


def refreshed(shown: Shown) -> str:
    """What is shown, every line as it was printed; lines that nothing resembles stay."""
    printed, lines = [line.rstrip() for line in shown.printed.splitlines()], []
    for line in shown.text.splitlines():
        same = (i for i, other in enumerate(printed) if plain(other) == plain(line))
        at = next(same, None)
        lines.append(line if at is None else printed[at])
        printed = printed if at is None else printed[at + 1 :]
    return "".join(f"{line}\n" for line in lines)
