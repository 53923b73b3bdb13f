"""Numbers, counts, grades and names in one table: whose imputations are nearer, kind by kind?

    python benchmarks/imputation_mixed.py [--jobs 2] [--resume]

The six tables of HI-VAE with its own column types. A fifth of the cells is hidden completely at
random, by `default_rng(seed).random(shape) < 0.2`: seeds 0 to 9, or 0 to 2 of tables of more than
4,000 rows, which take minutes each (the published masks of that share are not at hand;
cells that are really missing are never scored). Errors are those of Nazabal et al., "Handling
incomplete heterogeneous data using VAEs", 2020, per column, averaged over the columns of a kind:
names by the share of wrong ones, grades by the mean distance in levels over their number, numbers
by the root mean squared error over the range. The rivals see the same holes: the column's mean,
mode or median grade; and probabilistic PCA, exact under holes, of the columns with names as
one-hot ones, its number of components by BIC. Differences are paired over masks.
"""

from __future__ import annotations

import csv
import gzip
import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
import latently as lt

TABLES = ("breast", "wine", "spam=3", "letter=3", "default_credit=3", "adult=3")
NAME, SHARE = "imputation_mixed", 0.2
KINDS = {
    "cat": "names",
    "ordinal": "grades",
    "pos": "numbers",
    "real": "numbers",
    "count": "numbers",
}
OURS = {
    "cat": "categorical",
    "ordinal": "ordinal",
    "pos": "positive",
    "real": "real",
    "count": "count",
}
COMPONENTS = (2, 4, 8, 16)


def read(name: str, folder: Path) -> tuple[np.ndarray, list[str]]:
    """Rows with NaN where really missing, and the type of each column."""
    with gzip.open(folder / f"{name}.csv.gz", "rt") as file:
        x = np.array([[float(c or "nan") for c in row] for row in csv.reader(file)])
    with (folder / f"{name}_types.csv").open() as file:
        types = [row["type"] for row in csv.DictReader(file)]
    return x, types


def ours(x: np.ndarray, types: list[str], seed: int) -> np.ndarray:
    """Imputations of the default estimator, told the kinds of the columns."""
    kinds = {j: OURS[t] for j, t in enumerate(types)}
    return lt.LatentImputer(kinds=kinds, random_state=seed).fit_transform(x)


def simple(x: np.ndarray, types: list[str], seed: int) -> np.ndarray:
    """Mean of numbers, median of grades, mode of names."""
    filled = x.copy()
    for j, kind in enumerate(types):
        seen = x[~np.isnan(x[:, j]), j]
        if kind == "cat":
            values, counts = np.unique(seen, return_counts=True)
            value = values[counts.argmax()]
        else:
            value = np.quantile(seen, 0.5, method="lower") if kind == "ordinal" else seen.mean()
        filled[np.isnan(x[:, j]), j] = value
    return filled


def one_hot(
    x: np.ndarray, types: list[str]
) -> tuple[np.ndarray, list[tuple[int, np.ndarray | None]]]:
    """Standardised columns, a column for every name; and which column each came from."""
    parts, source = [], []
    for j, kind in enumerate(types):
        missing = np.isnan(x[:, j])
        if kind == "cat":
            values = np.unique(x[~missing, j])
            block = (x[:, j : j + 1] == values).astype(float)
            block[missing] = np.nan
            parts.append(block)
            source.append((j, values))
        else:
            parts.append(x[:, j : j + 1])
            source.append((j, None))
    wide = np.concatenate(parts, 1)
    mean, deviation = np.nanmean(wide, 0), np.nanstd(wide, 0)
    return (wide - mean) / np.where(deviation > 0, deviation, 1), source


def ppca(x: np.ndarray, types: list[str], seed: int) -> np.ndarray:
    """Exact PPCA under holes of standardised and one-hot columns."""
    wide, source = one_hot(x, types)
    data, best = lt.Data.from_array(wide.astype(float), family="Normal"), None
    for latents in (k for k in COMPONENTS if k < wide.shape[1]):
        model = lt.ppca(data.shape, latents=latents)
        found = lt.fit(model, data, progress=False, tolerance=1e-3, seed=seed)
        if best is None or found.criteria.bic < best[0]:
            best = found.criteria.bic, model
    filled = lt.impute(best[1], data, draws=1, seed=seed).mean.double().numpy()
    raw = [x[:, j : j + 1] if v is None else None for j, v in source]
    out, at = x.copy(), 0
    for (j, values), own in zip(source, raw, strict=True):
        missing = np.isnan(x[:, j])
        if values is not None:
            out[missing, j] = values[filled[:, at : at + len(values)].argmax(1)][missing]
            at += len(values)
            continue
        back = filled[:, at] * (np.nanstd(own) or 1.0) + np.nanmean(own)
        if types[j] == "ordinal":
            levels = np.unique(x[~missing, j])
            back = levels[np.abs(back[:, None] - levels).argmin(1)]
        out[missing, j] = back[missing]
        at += 1
    return out


def errors(
    truth: np.ndarray, filled: np.ndarray, hidden: np.ndarray, types: list[str]
) -> dict[str, float]:
    """Mean error of the columns of each kind."""
    found: dict[str, list[float]] = {}
    for j, kind in enumerate(types):
        at = hidden[:, j]
        a, b, all_of = truth[at, j], filled[at, j], truth[~np.isnan(truth[:, j]), j]
        if kind == "cat":
            error = float((a != b).mean())
        elif kind == "ordinal":
            error = float(np.abs(a - b).mean() / len(np.unique(all_of)))
        else:
            error = math.sqrt(float(((a - b) ** 2).mean())) / float(np.ptp(all_of))
        found.setdefault(KINDS[kind], []).append(error)
    return {kind: statistics.mean(values) for kind, values in found.items()}


def told(folder: str, table: str, seed: int) -> dict[str, Any]:
    """Errors of every method on one mask."""
    torch.set_num_threads(1)
    x, types = read(table, Path(folder))
    hidden = (np.random.default_rng(seed).random(x.shape) < SHARE) & ~np.isnan(x)
    holes = np.where(hidden, np.nan, x)
    found = {
        method.__name__: errors(x, method(holes, types, seed), hidden, types)
        for method in (ours, simple, ppca)
    }
    print(
        table,
        seed,
        {m: {k: round(e, 4) for k, e in v.items()} for m, v in found.items()},
        flush=True,
    )
    return found


def claims(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Ours against both, per table and kind of column, paired over masks."""
    made = []
    for table, masks in runs.items():
        for kind in masks[0]["ours"]:
            own = statistics.mean(run["ours"][kind] for run in masks)
            text, met = f"{own:.4f}", True
            for rival, name in (("simple", "mean/mode"), ("ppca", "PPCA")):
                apart = [run["ours"][kind] - run[rival][kind] for run in masks]
                mean = statistics.mean(apart)
                error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
                text += f"; less {name} {mean:+.4f} +- {error:.4f}"
                met &= mean < 0
            made.append({"what": f"{table}: error of {kind}", "text": text, "met": met})
    return made


def main() -> None:
    """Imputes, measures and records."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--jobs", type=int, default=1, help="masks at a time")
    parser.add_argument("--masks", type=int, default=10, help="where a table names no number")
    parser.add_argument("--resume", action="store_true", help="leave out what was done")
    parser.add_argument("--tables", default=",".join(TABLES))
    options = parser.parse_args()
    if options.data_dir is None:
        raise SystemExit("give --data-dir, a folder that holds hivae_mixed/")
    folder = str(Path(options.data_dir) / "hivae_mixed")
    found, masks = harness.Partial(NAME, options.resume), {}
    for table in options.tables.split(","):
        name, _, count = table.partition("=")
        masks[name] = int(count or options.masks)
    tasks = [(t, s) for t, count in masks.items() for s in range(count) if f"{t} {s}" not in found]
    with ProcessPoolExecutor(options.jobs) as pool:
        results = pool.map(partial(told, folder), *zip(*tasks, strict=True)) if tasks else ()
        for (table, seed), result in zip(tasks, results, strict=True):
            found.keep(f"{table} {seed}", result)
    runs = {t: [found[f"{t} {seed}"] for seed in range(count)] for t, count in masks.items()}
    harness.save(NAME, {"share": SHARE, "runs": runs, "claims": claims(runs)}, options)
    found.close()


if __name__ == "__main__":
    main()
