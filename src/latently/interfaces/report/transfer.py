"""The page of `latently probe`: accuracy against the number of labels, and the numbers."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from latently._version import __version__
from latently.inference.number import Number
from latently.interfaces.report.diagnosis import Table
from latently.interfaces.report.numbers import plain
from latently.interfaces.report.svg import FAINT, MUTED, panel, series, svg
from latently.interfaces.report.write import read_template
from latently.io import Saved
from latently.training.files import atomic_write
from latently.training.transfer import METHODS, Score, Transfer

__all__ = ["write_transfer"]

_ABOUT = {
    "linear": "logistic regression on the codes, which stay as they are",
    "fine-tuned": "encoder and linear head, trained together from the fitted weights",
    "scratch": "the same network and training, from new weights",
    "cells": "logistic regression on the rows themselves",
    "pca": "logistic regression on principal components, as many as a code has numbers",
}


def write_transfer(
    path: str | Path, found: Transfer, saved: Saved, *, name: str, command: str = ""
) -> None:
    """Writes the page, atomically.

    Args:
        path: the HTML file.
        found: the accuracies.
        saved: the model with what its file says.
        name: what to call it.
        command: the command that makes the page.
    """
    call = saved.model.call
    page = read_template("transfer.html").render(
        title=f"{name}: what its codes are worth",
        found=found,
        facts=[
            ("Model", str(call) if call is not None else type(saved.model).__name__),
            ("Labels of", f"{found.train}, {found.rows:,} rows, {len(found.classes)} classes"),
            ("Fitted to", str(saved.data.get("protocol", "not known"))),
            ("Codes", f"{found.features} numbers"),
            ("Draws", f"{found.draws} of labelled rows; of all rows there is one"),
            ("Seed", str(found.seed)),
            ("Written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
            ("Version", f"latently {__version__}"),
            *([("Command", command)] if command else []),
        ],
        keys=[(k, _called(found, *rival)) for k, rival in enumerate(found.rivals)],
        figure=_curves(found),
        accuracies=_accuracies(found),
        differences=_differences(found),
        base="" if found.base is None else METHODS[found.base],
        errors=[plain(pick(s.binomial for s in found.scores), 2) for pick in (min, max)],
        chance=plain(found.chance, 1),
        methods=[(METHODS[m], _ABOUT[m]) for m in METHODS if (m, "") in found.rivals],
        left_out=[(METHODS[method], why) for method, why in found.left_out.items()],
    )
    written = page.encode(errors="backslashreplace")  # a file's name may be no text
    atomic_write(Path(path), lambda temporary: temporary.write_bytes(written))


def _called(found: Transfer, method: str, corruption: str) -> str:
    return found.score(method, found.labels[0], corruption).name


def _rows(found: Transfer) -> list[list[Score]]:
    return [
        [found.score(m, k, corruption) for k in found.labels] for m, corruption in found.rivals
    ]


def _heads(found: Transfer) -> tuple[str, ...]:
    return ("", *(f"{k:,} labels" if k < found.rows else f"all {k:,}" for k in found.labels))


def _accuracies(found: Transfer) -> Table:
    rows = [(row[0].name, *map(_spread, row)) for row in _rows(found)]
    return Table(_heads(found), rows)


def _spread(score: Score) -> str:
    if math.isnan(score.deviation):
        return plain(score.mean, 1)
    return f"{plain(score.mean, 1)} ± {plain(score.deviation, 1)}"


def _differences(found: Transfer) -> Table | None:
    rows = [(METHODS[m], *map(_points, numbers)) for m, numbers in found.differences()]
    return Table(_heads(found), rows) if rows else None


def _points(number: Number) -> str:
    return f"{plain(number.value, 1, sign=True)} ± {plain(number.stderr, 1)}"


def _curves(found: Transfer) -> Markup:
    """Accuracy against the number of labels, with the deviation over draws."""
    figure, axes = panel(760, 340)
    axes.set_xscale("log")
    count = len(found.rivals)
    told = []
    for index, row in enumerate(_rows(found)):
        apart = 1.03 ** (index - (count - 1) / 2)  # so that bars do not hide each other
        x = [k * apart for k in found.labels]
        means = [score.mean for score in row]
        spread = [0.0 if math.isnan(s.deviation) else s.deviation for s in row]
        dashes = (0, (4, 2)) if row[0].corruption else "-"
        axes.plot(x, means, "o", linestyle=dashes, color=series(index), markersize=4.5)
        axes.errorbar(x, means, spread, fmt="none", ecolor=series(index), elinewidth=1.4)
        told.append(f"{row[0].name}: {', '.join(f'{m:.1f}' for m in means)}")
    axes.axhline(found.chance, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    named = [
        a for a, b in zip(found.labels, (*found.labels[1:], math.inf), strict=True) if b > 1.5 * a
    ]
    axes.set_xticks(named, [f"{k:,}" for k in named])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labelled rows", color=MUTED, fontsize=10)
    axes.set_ylabel("accuracy, %", color=MUTED, fontsize=10)
    labels = ", ".join(map(str, found.labels))
    return svg(figure, f"Accuracy in % with {labels} labels. {'; '.join(told)}")
