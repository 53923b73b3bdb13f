"""Which likelihood for which data: the same VAE with each one, on rows it has not seen.

    python benchmarks/likelihoods.py --data-dir DATA

One VAE (8 latents, two layers of 128, ELBO, Adam 3e-3 along a cosine, at most 60 epochs, the best
validation epoch kept) is fitted with every likelihood that holds a data set. Rows are permuted by
seed 0 and cut 80/10/10; at most 5,000 are used. Numbers are IWAE K = 500 on the test rows, in
nats a row; differences are paired. Probabilities and densities are never compared.
"""

from __future__ import annotations

import csv
import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
import latently
from latently import expr
from latently.data import Data
from latently.inference import ImportanceSampling
from latently.inference.noise import seeded
from latently.registry import components

COUNTS = ("Poisson", "NegativeBinomial", "ZeroInflated(family=Poisson)", "ZeroInflated")
REAL = ("Normal", "Laplace", "StudentT", "LowRankMultivariateNormal", "MultivariateNormal")
LATENTS, EPOCHS, ROWS, SAMPLES = 8, 60, 5000, 500


def table(path: Path, columns: slice) -> np.ndarray:
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as file:
        rows = list(csv.reader(file))[1:]
    return np.array([[float(cell) for cell in row[columns]] for row in rows])


def sparse(path: Path, prefix: str, columns: int) -> np.ndarray:
    """The most frequent columns of a matrix of counts."""
    from scipy.sparse import csr_matrix

    with np.load(path, allow_pickle=False) as z:
        parts = (z[f"{prefix}data"], z[f"{prefix}indices"], z[f"{prefix}indptr"])
        found = csr_matrix(parts).astype(np.float64)
    top = np.argsort(-np.asarray(found.sum(0)).ravel(), kind="stable")[:columns]
    return np.asarray(found[:, np.sort(top)].todense())


def frey(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as z:
        return z["x"].astype(np.float64)[:, None]


def sets(folder: Path) -> Iterator[tuple[str, np.ndarray, int | None, tuple[str, ...]]]:
    """Name, rows, number of levels, and the likelihoods to try."""
    cells = sparse(folder / "single_cell/pbmc4k.npz", "", 100)
    yield "cells: 100 genes, counts", cells, None, COUNTS
    words = sparse(folder / "newsgroups20/newsgroups20_bow.npz", "train_", 100)
    yield "news: 100 words, counts", words, None, COUNTS
    letter = table(folder / "uci/letter.csv.gz", slice(0, 16))
    if not np.isfinite(letter).all():
        raise SystemExit("letter has holes")
    levels = ("Ordinal", "DiscretizedLogistic", "Binomial", "Categorical")
    yield "letter: 16 columns of 16 levels", letter, 16, levels
    mixture = "DiscretizedLogisticMixture(components=5)"
    grey = ("DiscretizedLogistic", mixture, "Binomial")  # 143,360 logits of Categorical: no
    yield "frey: 560 pixels of 256 levels", frey(folder / "frey_faces/frey_faces.npz"), 256, grey
    bills = table(folder / "uci/credit_default.csv.gz", slice(11, 17))
    yield "credit: 6 bills, any sign, heavy tails", bills, None, REAL
    wine = table(folder / "uci/wine_quality_white.csv", slice(0, 11))
    yield "white wine: 11 columns", wine, None, REAL
    positive = np.delete(wine, 2, axis=1)  # citric acid is 0 in some
    yield "white wine: 10 positive columns", positive, None, (*REAL[:3], "LogNormal", "Gamma")
    share = table(folder / "uci/spambase.csv.gz", slice(0, 48)) / 100
    yield "spam: 48 shares of words, many 0", share, None, ("Normal", "ContinuousBernoulli")


def score(
    likelihood: str, parts: list[Data], levels: int | None, samples: int = SAMPLES
) -> tuple[Any, float]:
    family = expr.build(likelihood, components())
    if levels is not None:
        family = expr.build(_with_levels(likelihood, levels), components())
    with seeded(0):
        model = latently.vae(parts[0].shape, latents=LATENTS, likelihood=family)
    began = time.monotonic()
    latently.fit(
        model,
        parts[0],
        validation=parts[1],
        epochs=EPOCHS,
        learning_rate=latently.Cosine(start=0.003),
        device="cpu",
        progress=False,
    )
    seconds = time.monotonic() - began
    return latently.evaluate(model, parts[2], ImportanceSampling(samples)), seconds


def _with_levels(likelihood: str, levels: int) -> str:
    name, _, options = likelihood.rstrip(")").partition("(")
    return f"{name}({', '.join(filter(None, [options, f'levels={levels}']))})"


def main() -> None:
    options = harness.parser(__doc__, repeats=1).parse_args()
    torch.set_num_threads(options.threads)
    found, claims = {}, []
    for name, x, levels, likelihoods in sets(Path(options.data_dir)):
        order = np.random.default_rng(0).permutation(len(x))[:ROWS]
        cuts = np.split(torch.from_numpy(x[order]), [int(0.8 * len(order)), int(0.9 * len(order))])
        parts = [Data.from_array(rows, levels=levels, protocol=name) for rows in cuts]
        scores = {}
        for likelihood in likelihoods:
            scores[likelihood], seconds = score(likelihood, parts, levels)
            print(f"{name}: {likelihood} {scores[likelihood].nats:.2f} ({seconds:.0f} s)")
        best = max(scores, key=lambda key: scores[key].nats)
        found[name] = {
            key: {
                "nats": value.nats,
                "nats_stderr": value.nats_stderr,
                "mc_stderr": value.mc_stderr,
                "below_best": value.paired(scores[best]),
            }
            for key, value in scores.items()
        }
        ranked = sorted(scores, key=lambda key: -scores[key].nats)
        text = ", ".join(f"{key} {scores[key].nats:.2f}" for key in ranked)
        claims.append({"what": name, "text": text})
    harness.save("likelihoods", {"data": found, "claims": claims}, options)


if __name__ == "__main__":
    main()
