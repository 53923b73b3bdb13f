"""Everything there is, through every verb: 24 tables as numeric arrays with NaN, and image sets.

    python benchmarks/sweep.py --data-dir DIR

For each data set a linear model and a VAE are fitted, evaluated, asked to impute, to score and to
report, by the command line as a user would, on small budgets. Recorded is what failed: an exit
code other than 0, a traceback, a number that is not finite. Tables are made numeric as one would
in a hurry: numbers as they are, names coded 0, 1, 2, ..., identifiers and free text left out, an
empty cell is NaN; where nothing is missing, a fifth of the cells is hidden for imputation.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
from latently.interfaces.cli import main as latently

IMAGES = (
    "digits",
    "mnist:binary-dynamic",
    "mnist:binary-static-seed0",
    "mnist:8bit",
    "fashion:binary-dynamic",
    "fashion:8bit",
    "omniglot:binary-dynamic",
    "omniglot:8bit",
    "frey:8bit",
    "cifar10:subset-8bit",
)
LEFT_OUT = ("id", "text")
MISSING = ("", "?", "NA")


def rows_of(path: Path, names: Sequence[str]) -> list[list[str]]:
    """The cells of a table, without its header."""
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)
    with opened as file:
        cells = [[cell.strip() for cell in row] for row in csv.reader(file)]
    return [row for row in cells if len(row) == len(names) and row != list(names)]


def numeric(path: Path, columns: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A table as floats."""
    cells = rows_of(path, [column["name"] for column in columns])
    kept = [j for j, column in enumerate(columns) if column["kind"] not in LEFT_OUT]
    return np.array([_coded([row[j] for row in cells]) for j in kept], dtype=float).T


def _coded(column: Sequence[str]) -> list[float]:
    try:
        return [math.nan if cell in MISSING else float(cell) for cell in column]
    except ValueError:
        known = sorted(set(column) - set(MISSING))
        return [math.nan if cell in MISSING else float(known.index(cell)) for cell in column]


def run(*words: object) -> tuple[int, str]:
    """Exit code and all output of a call."""
    out = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            latently([str(word) for word in words])
        except SystemExit as left:
            code = int(left.code or 0)
    return code, out.getvalue()


def calls(spec: str, test: str, folder: Path, image: bool, holes: bool) -> Iterator[list[object]]:
    """The calls on one data set; each model's files are named after it."""
    mask = [] if holes else ["--mask", "Half" if image else "MCAR(share=0.2)"]
    linear = "ppca" if image else "fa"
    nets = {linear: ["--latents", 2], "vae": ["--latents", 4, "--net", "MLP(hidden=(64,))"]}
    for recipe, options in nets.items():
        model = folder / f"{recipe}.safetensors"
        budget = ["--steps", 100] if recipe == "vae" else ["--steps", 200]
        yield ["fit", recipe, "--data", spec, *options, *budget, "--quiet", "--out", model]
        few = [] if recipe == "fa" else ["--samples", 20]
        where = ["--data", test]
        yield ["evaluate", model, *where, *few, "--json"]
        yield ["score", model, *where, *few, "--out", folder / f"{recipe}.csv"]
        suffix = "png" if image else "npz"
        out = folder / f"{recipe}.imputed.{suffix}"
        yield ["impute", model, *where, *mask, "--samples", 50, "--draws", 3, "--out", out]
        yield ["report", model, *where, *few, "--out", folder / f"{recipe}.html"]


def faults(words: Sequence[object], code: int, said: str, folder: Path) -> Iterator[str]:
    """What is wrong with a call's outcome."""
    if code != 0 or "Traceback" in said:
        yield f"exit code {code}: {said.strip().splitlines()[-1] if said.strip() else ''}"
        return
    if words[0] == "evaluate":
        found = json.loads(said.strip().splitlines()[-1])
        if not isinstance(found["nats"], float) or not math.isfinite(found["nats"]):
            yield f"evidence {found['nats']}"
    out = Path(str(words[-1]))
    if words[0] == "score":
        with open(out) as file:
            values = [row["log_prob"] for row in csv.DictReader(file)]
        if not all(math.isfinite(float(value)) for value in values):
            yield "a score that is not finite"
    if out.suffix == ".npz":
        arrays = np.load(out)
        bad = [k for k in ("x", "mean", "std", "quantiles") if not np.isfinite(arrays[k]).all()]
        yield from (f"{key} of the imputation is not finite" for key in bad)
    if out.suffix == ".html":
        page = out.read_text()
        bad_words = [word for word in (">nan", ">inf", ">-inf", "NaN<") if word in page]
        yield from (f"{word!r} in the report" for word in bad_words)


def sweep(name: str, spec: str, test: str, image: bool, holes: bool) -> dict[str, Any]:
    """Every call on one data set."""
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        done = 0
        for words in calls(spec, test, Path(folder), image, holes):
            code, said = run(*words)
            found += [f"{words[0]}: {fault}" for fault in faults(words, code, said, Path(folder))]
            done += 1
    seconds = time.monotonic() - began
    print(f"{name}: {done} calls, {len(found)} faults, {seconds:.0f} s", *found, sep="\n  ")
    return {"calls": done, "faults": found, "seconds": round(seconds, 1)}


def main() -> None:
    """Sweeps over the tables and the image sets."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--only", default="", help="names that hold this text")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    root = Path(options.data_dir or "")
    os.environ["LATENTLY_DATA"] = str(root)
    results: dict[str, Any] = {}
    schema = json.loads((root / "uci" / "schema.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        for name, table in schema.items():
            if options.only in name:
                x = numeric(root / "uci" / table["file"], table["columns"])
                path = Path(folder) / f"{name}.npy"
                np.save(path, x)
                rows = str(path) + ("/test" if len(x) > 2000 else "")
                results[name] = sweep(name, str(path), rows, False, bool(np.isnan(x).any()))
    for spec in IMAGES:
        if options.only in spec:
            results[spec] = sweep(spec, spec, spec, True, False)
    count = sum(len(found["faults"]) for found in results.values())
    total = sum(found["calls"] for found in results.values())
    claim = {
        "what": f"every verb on {len(results)} data sets: calls that failed",
        "text": f"{count} of {total}",
        "met": count == 0,
    }
    harness.save("sweep", {"data_sets": results, "claims": [claim]}, options)


if __name__ == "__main__":
    main()
