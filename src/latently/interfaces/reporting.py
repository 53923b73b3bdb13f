"""`latently report`: evidence of model files and the page about them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from latently.data import Data
from latently.errors import UserError
from latently.interfaces.output import check_target
from latently.interfaces.report import Entry, write_report
from latently.interfaces.verbs import measured, opened, short_name

__all__ = ["report_command"]


def report_command(
    paths: Sequence[str],
    spec: str,
    out: str,
    *,
    samples: int | None,
    data_dir: str | None,
    seed: int,
    force: bool,
) -> str:
    """Evaluates the models on the same rows and writes the page."""
    target = check_target(out, (".html",), force)
    data: Data | None = None
    work = opened(paths, spec, samples, data_dir, seed)
    for path, _, rows, _ in work:
        if data is not None and tuple(rows.shape) != tuple(data.shape):
            raise UserError(f"{path} reads {spec} as rows of another shape than {paths[0]} does")
        data = rows
    if data is None:
        raise UserError("name at least one model file")
    entries = [
        Entry(short_name(path, paths), saved, measured(saved, rows, method, seed))
        for path, saved, rows, method in work
    ]
    command = shlex.join(["latently", "report", *paths, "--data", spec, "--out", out])
    title = f"Models of {data.protocol}" if len(paths) > 1 else f"{entries[0].name}"
    write_report(target, entries, data, title=title, seed=seed, command=command)
    return f"wrote {target}"
