"""`latently report`: evidence of model files and the page about them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from latently.data import Data
from latently.errors import UserError
from latently.inference import Evidence, Method
from latently.interfaces.opening import Rows, measured, opened, read_mask, short_name
from latently.interfaces.output import check_target
from latently.interfaces.report import Entry, write_report
from latently.io import Saved

__all__ = ["report_command"]

MAX_DRAWN = 1e150  # the square of a float64 beyond it overflows


def report_command(
    paths: Sequence[str], rows: Rows, out: str, *, samples: int | None, force: bool
) -> str:
    """Evaluates the models on the same rows and writes the page.

    Models without a density have no evidence. The mask of `rows` makes the holes of the page's
    imputations; evidence is of whole rows.
    """
    target = check_target(out, (".html",), force)
    mask = None if rows.mask is None else read_mask(rows.mask)
    data: Data | None = None
    work = opened(paths, replace(rows, mask=None), samples)
    for path, _, here, _ in work:
        if data is not None and tuple(here.shape) != tuple(data.shape):
            raise UserError(
                f"{path} reads {rows.spec} as rows of another shape than {paths[0]} does"
            )
        data = here
    if data is None:
        raise UserError("name at least one model file")
    if float(data.x.abs().max()) > MAX_DRAWN:
        raise UserError(
            f"{data.protocol} holds values beyond {MAX_DRAWN:g}, which no figure can show; "
            "rescale the columns"
        )
    entries = [
        Entry(short_name(path, paths), saved, _evidence(saved, here, method, rows.seed), here)
        for path, saved, here, method in work
    ]
    words = ["latently", "report", *paths, "--data", rows.spec, "--out", out]
    chosen = {"--samples": samples, "--seed": rows.seed or None, "--mask": rows.mask}
    said = [(flag, str(value)) for flag, value in chosen.items() if value is not None]
    command = shlex.join([*words, *(word for pair in said for word in pair)])
    title = f"Models of {data.protocol}" if len(paths) > 1 else f"{entries[0].name}"
    write_report(target, entries, data, title=title, seed=rows.seed, command=command, mask=mask)
    return f"wrote {target}"


def _evidence(saved: Saved, data: Data, method: Method, seed: int) -> Evidence | None:
    return None if saved.model.density is None else measured(saved, data, method, seed)
