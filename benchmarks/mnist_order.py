"""Bounds, estimators and priors on MNIST at equal epochs, paired on the same test images.

    latently reproduce CARD --out RUNS      for every card below
    python benchmarks/mnist_order.py --data-dir DATA --runs RUNS

VAE 784-200-200-50, `mnist:binary-dynamic`, the models of the cards (60 epochs at k = 1 and 5, 10
at k = 50). Differences of the bounds with K = 1,000 draws, row by row, over the 10,000 test
images; "better" is the difference less two standard errors. Bars: the order of the IWAE paper at
k = 5, and half a nat for each learned prior.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

import harness
import latently
from latently.inference import ImportanceSampling

PAIRS = [
    ("mnist-60-vae5", "mnist-60-vae1", 0.0),
    ("mnist-60-iwae5", "mnist-60-vae5", 0.0),
    ("mnist-10-dreg50", "mnist-10-iwae50", None),
    ("mnist-60-vamp500", "mnist-60-vae1", 0.5),
    ("mnist-60-flow", "mnist-60-vae1", 0.5),
]
SPEC = "mnist:binary-dynamic/test"


def main() -> None:
    arguments = harness.parser(__doc__, repeats=1)
    arguments.add_argument("--runs", required=True, help="folder of the cards' models")
    arguments.add_argument("--samples", type=int, default=1000)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    data = latently.data.load(SPEC, data_dir=options.data_dir)
    names = list(dict.fromkeys(name for a, b, _ in PAIRS for name in (a, b)))
    found = {}
    for name in names:
        model = latently.load(Path(options.runs) / f"{name}.safetensors")
        found[name] = latently.evaluate(model, data, ImportanceSampling(options.samples))
        print(f"{name}: {found[name]}", flush=True)
    pairs, claims = [], []
    for better, worse, bar in PAIRS:
        difference, error = found[better].paired(found[worse])
        pair = {"better": better, "worse": worse, "nats": difference, "stderr": error, "bar": bar}
        pairs.append(pair)
        claim = {
            "what": f"{better} minus {worse}",
            "text": f"{difference:+.2f} +- {error:.2f} nats",
        }
        if bar is not None:
            claim["met"] = math.isfinite(error) and difference - 2 * error >= bar
        claims.append(claim)
    values = {name: value.to_dict() for name, value in found.items()}
    harness.save("mnist_order", {"models": values, "pairs": pairs, "claims": claims}, options)


if __name__ == "__main__":
    main()
