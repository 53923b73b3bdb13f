"""Every real table as it is, names and all: is a number ever not finite, is a call ever refused?

    python benchmarks/sweep_tables.py --data-dir DIR [--only TEXT] [--resume]

The tables of uci/ (with the names of their columns), of hivae_mixed/ and of adbench/, as CSV. A
tenth of the cells is hidden (MCAR), so that every table has holes. By the command line, on small
budgets: the schema is read, the recipe `table` fitted (every step's loss must be finite; it runs
for `--steps`), evaluated, rows scored with attribution, imputed to CSV, which must come back
without holes in columns that hold values, drawn given a cell, and reported. A model of missing
cells and the exact mixture are fitted besides.
"""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
import sweep

ROWS = 100  # that are scored, imputed, reported
NAME = "sweep_tables"


def tables(root: Path) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Name, header and cells of every table."""
    for name, table in json.loads((root / "uci" / "schema.json").read_text()).items():
        header = [column["name"] for column in table["columns"]]
        rows = _cells(root / "uci" / table["file"])
        yield name, header, [row for row in rows if len(row) == len(header) and row != header]
    for path in sorted((root / "hivae_mixed").glob("*.csv.gz")):
        rows = list(_cells(path))
        yield f"hivae {path.name.split('.')[0]}", [f"c{j}" for j in range(len(rows[0]))], rows
    for path in sorted((root / "adbench").glob("*.npz")):
        with np.load(path) as arrays:
            x, y = arrays["X"], arrays["y"]
        header = [f"x{j}" for j in range(x.shape[1])] + ["anomaly"]
        cells = [[*map(repr, row), str(int(k))] for row, k in zip(x.tolist(), y, strict=True)]
        yield f"adbench {path.stem}", header, cells


def _cells(path: Path) -> Iterator[list[str]]:
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)
    with opened as file:
        for row in csv.reader(file):
            if row:
                yield [cell.strip() for cell in row]


def written(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    """The table as CSV."""
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(header)
        out.writerows(rows)
    return path


def calls(whole: Path, few: Path, folder: Path, steps: int) -> Iterator[list[object]]:
    """What a user would do with a table."""
    holed, part = folder / "holed.csv", folder / "part.csv"
    yield ["amputate", whole, "--mechanism", "MCAR(0.1)", "--out", holed]
    yield ["amputate", few, "--mechanism", "MCAR(0.1)", "--out", part]
    schema = folder / "schema.json"
    yield ["schema", holed, "--out", schema]
    budget = ["--steps", steps, "--quiet", "--force", "--schema", schema]
    model = folder / "table.safetensors"
    for options in (["--missingness", "SelfMasking"], []):
        yield ["fit", "table", "--data", holed, *options, *budget, "--out", model]
    exact = folder / "mixture.safetensors"
    passes = ["--steps", 10, "--quiet", "--schema", schema]
    yield ["fit", "mixture", "--data", holed, "--components", 3, *passes, "--out", exact]
    for name in (model, exact):
        rows = ["--data", part, "--samples", 20]
        kept = rows if name == model else rows[:2]
        yield ["evaluate", name, *kept, "--json"]
        yield ["impute", name, *rows, "--out", folder / f"{name.stem}.csv"]
        yield ["score", name, *kept, "--attribution", "--out", folder / f"{name.stem}.score.csv"]
        yield ["report", name, *kept, "--out", folder / f"{name.stem}.html"]
    yield ["sample", model, "-n", 20, "--out", folder / "drawn.csv"]


def faults(words: list[object], code: int, said: str, folder: Path) -> Iterator[str]:
    """What is wrong with a call's outcome, of any data and of tables."""
    yield from sweep.faults(words, code, said, folder)
    if code != 0:
        return
    if "not finite" in said or "nan" in said.lower().split():
        yield f"said {said.strip().splitlines()[-1]}"
    if words[0] == "impute":
        yield from _holes(folder / "part.csv", Path(str(words[-1])), folder / "schema.json")


def _holes(before: Path, after: Path, schema: Path) -> Iterator[str]:
    """Cells that are still empty, or were changed though they were known."""
    columns = json.loads(schema.read_text())["columns"]
    left_out = [column["kind"] in ("identifier", "empty") for column in columns]
    with open(before) as first, open(after) as second:
        pairs = zip(csv.reader(first), csv.reader(second), strict=True)
        for number, (old, new) in enumerate(pairs):
            for column, gone, was, now in zip(columns, left_out, old, new, strict=True):
                if was and was != now and was not in ("?", "NA", "NaN"):
                    yield f"row {number}, {column['name']}: {was!r} became {now!r}"
                    return
                if not gone and (not now or now.lower() in ("nan", "inf", "-inf")):
                    yield f"row {number}, {column['name']}: {now!r} after imputation"
                    return


def swept(header: list[str], rows: list[list[str]], steps: int) -> dict[str, Any]:
    """Every call on one table."""
    began, found, done = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = written(folder / "whole.csv", header, rows)
        few = written(folder / "few.csv", header, rows[:: max(1, len(rows) // ROWS)][:ROWS])
        for words in calls(whole, few, folder, steps):
            code, said = sweep.run(*words)
            found += [f"{words[0]}: {fault}" for fault in faults(words, code, said, folder)]
            done += 1
    return {"calls": done, "faults": found, "seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    """Sweeps over the tables."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--only", default="", help="names that hold this text")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--resume", action="store_true", help="leave out what was done")
    options = parser.parse_args()
    if options.data_dir is None:
        raise SystemExit("give --data-dir, a folder that holds uci/, hivae_mixed/ and adbench/")
    torch.set_num_threads(options.threads)
    results = harness.Partial(NAME, options.resume)
    for name, header, rows in tables(Path(options.data_dir)):
        if options.only in name and name not in results:
            told = swept(header, rows, options.steps)
            results.keep(name, told)
            print(name, f"{told['calls']} calls, {told['seconds']} s", *told["faults"], sep="\n  ")
    count = sum(len(found["faults"]) for found in results.values())
    total = sum(found["calls"] for found in results.values())
    claim = {
        "what": f"every verb on {len(results)} tables as they are: calls that failed",
        "text": f"{count} of {total}",
        "met": count == 0,
    }
    harness.save(NAME, {"tables": results, "claims": [claim]}, options)
    results.close()


if __name__ == "__main__":
    main()
