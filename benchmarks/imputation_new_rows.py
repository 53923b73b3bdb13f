"""Rows that the fit has not seen: how much of what is missing do imputations explain?

    python benchmarks/imputation_new_rows.py [--resume]

After Gorla et al., "CACTI", 2025 (table 1): letter, spam, default of credit cards and adult, 80 %
of the rows for the fit and 20 % to be imputed, 30 % of the cells of both hidden completely at
random. The number is the squared correlation of hidden values and their imputations, by column,
averaged over columns and then tables: 1 is perfect, a constant has 0.
Columns with names stand as codes, as in that table, where MIWAE has 0.00 (one hidden unit),
not-MIWAE 0.35, missForest 0.34 and ReMasker 0.44, over ten tables and three splits. Rivals see the
same holes. Ours has no option set; the bar is a mean of 0.40.
"""

from __future__ import annotations

import gzip
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

import harness
import latently as lt

NAME = "imputation_new_rows"
SHARE, BAR, SEEDS = 0.3, 0.40, (0, 1, 2)
FILES = {
    "letter": ("letter.csv.gz", 16),
    "spam": ("spambase.csv.gz", 57),
    "default": ("credit_default.csv.gz", 23),
    "adult": ("adult.data.gz", 14),
}


def table(name: str, folder: Path) -> np.ndarray:
    """Features as numbers; names become codes in the order of their text, "?" is NaN."""
    file, width = FILES[name]
    with gzip.open(folder / "uci" / file, "rt") as lines:
        rows = [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]
    if name != "adult":
        rows = rows[1:]  # the header
    columns = [[row[j] for row in rows] for j in range(width)]  # the target stands last
    return np.array([_numbers(column) for column in columns]).T


def _numbers(column: list[str]) -> list[float]:
    try:
        return [float(cell) if cell not in ("", "?") else np.nan for cell in column]
    except ValueError:
        code = {name: k for k, name in enumerate(sorted(set(column) - {"?"}))}
        return [float(code[cell]) if cell in code else np.nan for cell in column]


def r2(truth: np.ndarray, filled: np.ndarray, hidden: np.ndarray) -> float:
    """Squared correlation over the hidden cells, averaged over columns."""
    found = []
    for j in range(truth.shape[1]):
        a, b = truth[hidden[:, j], j], filled[hidden[:, j], j]
        if len(a) < 3 or a.std() == 0:
            continue
        found.append(float(np.corrcoef(a, b)[0, 1] ** 2) if b.std() > 1e-12 else 0.0)
    return statistics.mean(found)


def rivals(seed: int, jobs: int) -> dict[str, Any]:
    """What fills holes of new rows, ours first."""
    forest = RandomForestRegressor(
        n_estimators=20, max_samples=2000, random_state=seed, n_jobs=jobs
    )
    return {
        "LatentImputer": lt.LatentImputer(random_state=seed),
        "IterativeImputer": IterativeImputer(random_state=seed),
        "forests": IterativeImputer(forest, max_iter=3, random_state=seed),
    }


def told(
    name: str, x: np.ndarray, seed: int, jobs: int, kept: harness.Partial
) -> dict[str, dict[str, float]]:
    """R2 and seconds of every method on one split."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    hidden = (rng.random(x.shape) < SHARE) & ~np.isnan(x)
    train, test = order[: int(0.8 * len(x))], order[int(0.8 * len(x)) :]
    holes, found = np.where(hidden, np.nan, x), {}
    for method, imputer in rivals(seed, jobs).items():
        if method == "forests" and seed:
            continue
        if (key := f"{name} {seed} {method}") in kept:
            found[method] = kept[key]
            continue
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chains that have not converged
            filled = imputer.fit(holes[train]).transform(holes[test])
        seconds = time.perf_counter() - began
        found[method] = {"r2": r2(x[test], filled, hidden[test]), "seconds": seconds}
        kept.keep(key, found[method])
        print(f"{name} {seed} {method}: {found[method]['r2']:.3f}, {seconds:.0f} s", flush=True)
    return found


def claims(runs: dict[str, list[dict[str, dict[str, float]]]]) -> list[dict[str, Any]]:
    """The mean over tables, and each of them."""
    mean = {
        m: {t: statistics.mean(r[m]["r2"] for r in seeds if m in r) for t, seeds in runs.items()}
        for m in next(iter(runs.values()))[0]
    }
    ours = statistics.mean(mean["LatentImputer"].values())
    text = ", ".join(f"{m} {statistics.mean(v.values()):.3f}" for m, v in mean.items())
    made: list[dict[str, Any]] = [
        {"what": "mean R2 of four tables", "text": text, "met": ours >= BAR}
    ]
    for name in runs:
        text = ", ".join(f"{method} {values[name]:.3f}" for method, values in mean.items())
        made.append({"what": f"{name}: R2", "text": text})
    return made


def main() -> None:
    """Imputes, measures and records."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--resume", action="store_true", help="leave out what was done")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.data_dir is None:
        raise SystemExit("give --data-dir, a folder that holds uci/")
    runs, kept = {}, harness.Partial(NAME, options.resume)
    for name in FILES:
        x = table(name, Path(options.data_dir))
        runs[name] = [told(name, x, seed, options.threads, kept) for seed in SEEDS]
    harness.save(NAME, {"share": SHARE, "runs": runs, "claims": claims(runs)}, options)
    kept.close()


if __name__ == "__main__":
    main()
