"""The arguments that several commands take, and how their words are read."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "DataDir",
    "Force",
    "Mask",
    "ModelPath",
    "Out",
    "Samples",
    "Seed",
    "Spec",
    "number",
    "seed_number",
    "whole",
]


def whole(text: object) -> int:
    """A whole number."""
    try:
        return int(str(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: object) -> float:
    """A number."""
    try:
        return float(str(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def seed_number(text: object) -> int:
    """A whole number that seeds a generator."""
    seed = whole(text)
    if not 0 <= seed < 2**63:
        raise typer.BadParameter(f"{seed} is not from 0 to 2^63 - 1")
    return seed


ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="a model file")]
Spec = Annotated[str, typer.Option("--data", help="a data set such as digits/test, or a file")]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="folder of the data sets [$LATENTLY_DATA]")
]
Out = Annotated[str, typer.Option("--out", help="file to write; its suffix says the kind")]
Force = Annotated[bool, typer.Option("--force", help="replace an existing --out")]
Seed = Annotated[
    int,
    typer.Option("--seed", parser=seed_number, metavar="INT", help="seed of everything random"),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        parser=whole,
        metavar="INT",
        help="draws per row of importance sampling; without: exact if that is cheap, else 1000",
    ),
]
Mask = Annotated[
    str | None,
    typer.Option("--mask", help="cells to hide, e.g. \"Half(side='lower')\"; latently list masks"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
