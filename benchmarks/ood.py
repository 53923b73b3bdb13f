"""Which scores tell Fashion-MNIST from MNIST, under VAEs of either? AUROC of each, both ways.

    python benchmarks/ood.py --data-dir DATA --threads 1

Two likelihoods: Bernoulli on pictures drawn as bits once, and rounded logistics on 8 bits. For
each set and likelihood a VAE with two hidden layers of 200 and 20 latents, and a background VAE
of the same shape fitted to perturbed pictures (every pixel replaced with probability 0.1 by one
drawn uniformly, as in Ren et al.). The first 2,000 test pictures of both sets are scored by the
importance weighted bound with K = 100 draws; the entropy of typicality is the mean over 2,000
validation pictures of the training set. AUROC above 1/2: the other set is stranger, as it is.
"""

from __future__ import annotations

import functools
import sys
import time
from dataclasses import replace
from typing import Any

import torch

import harness
import latently as lt
from latently.inference.out_of_distribution import Strangeness, auroc, strangeness, typicality

SETS = ("fashion", "mnist")
PROTOCOLS = {"Bernoulli": "binary-static-seed0", "DiscretizedLogistic": "8bit"}
ROWS, GROUP, REPLACED = 2000, 10, 0.1
BINS = 60


def load(name: str, protocol: str, split: str, rows: int, options: Any) -> Any:
    data = lt.data.load(f"{name}:{protocol}/{split}", data_dir=options.data_dir)
    return data.rows(slice(rows), data.protocol)


def perturbed(data: Any) -> Any:
    """Every pixel replaced with probability 0.1 by one drawn uniformly."""
    generator = torch.Generator().manual_seed(1)
    levels = 2 if float(data.x.max()) <= 1 else 256
    noise = torch.randint(levels, data.x.shape, generator=generator).to(data.x.dtype)
    which = torch.rand(data.x.shape, generator=generator) < REPLACED
    return replace(data, x=torch.where(which, noise, data.x))


def fitted(data: Any, likelihood: str, epochs: int) -> Any:
    torch.manual_seed(0)
    model = lt.vae(
        data.shape,
        likelihood=getattr(lt.families, likelihood),
        latents=20,
        net=functools.partial(lt.nets.MLP, hidden=(200, 200)),
    )
    began = time.perf_counter()
    lt.fit(model, data, epochs=epochs, batch_size=200, progress=False, device="cpu")
    print(f"{data.protocol}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return model


def scored(name: str, likelihood: str, options: Any) -> dict[str, tuple[Strangeness, Any]]:
    """Strangeness of the test rows of both sets under a model of one."""
    protocol = PROTOCOLS[likelihood]
    train = load(name, protocol, "train", options.train, options)
    model = fitted(train, likelihood, options.epochs)
    background = fitted(perturbed(train), likelihood, options.epochs)
    method = lt.ImportanceSampling(options.samples)
    usual = lt.evaluate(model, load(name, protocol, "validation", ROWS, options), method)
    found = {}
    for other in SETS:
        data = load(other, protocol, "test", ROWS, options)
        got = strangeness(model, data, usual, background=background, method=method)
        found[other] = got, typicality(got.evidence.values, usual.values, group=GROUP)
        print(f"{name} model, {got.evidence}", file=sys.stderr, flush=True)
    return found


def compared(name: str, likelihood: str, options: Any) -> dict[str, Any]:
    other = next(s for s in SETS if s != name)
    found = scored(name, likelihood, options)
    (inside, groups_in), (outside, groups_out) = found[name], found[other]
    scores = {key: (s, outside.scores()[key]) for key, s in inside.scores().items()}
    scores[f"typicality of {GROUP}"] = groups_in, groups_out
    table = {key: auroc(*pair).to_dict() for key, pair in scores.items()}
    both = torch.cat([inside.evidence.values, outside.evidence.values])
    low, high = both.quantile(0.002), both.quantile(0.998)
    edges = torch.linspace(float(low), float(high), BINS + 1, dtype=both.dtype)
    counts = {
        s: torch.histogram(found[s][0].evidence.values.clamp(low, high), edges).hist.tolist()
        for s in SETS
    }
    return {
        "model_of": name,
        "against": other,
        "likelihood": likelihood,
        "nats": {s: found[s][0].evidence.to_dict() for s in SETS},
        "auroc": table,
        "histogram": {"edges": [float(low), float(high)], "counts": counts},
    }


def main() -> None:
    arguments = harness.parser(__doc__, repeats=1)
    arguments.add_argument("--epochs", type=int, default=10)
    arguments.add_argument("--train", type=int, default=50_000, help="training pictures")
    arguments.add_argument("--samples", type=int, default=100, help="draws of a row")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    found = [compared(s, likelihood, options) for likelihood in PROTOCOLS for s in SETS]
    claims = [
        {
            "what": f"AUROC, {run['likelihood']} VAE of {run['model_of']}, {run['against']} "
            "against its own test pictures",
            "text": ", ".join(f"{key} {n['value']:.3f}" for key, n in run["auroc"].items()),
        }
        for run in found
    ]
    facts = {"rows": ROWS, "epochs": options.epochs, "samples": options.samples}
    harness.save("ood", {**facts, "runs": found, "claims": claims}, options)


if __name__ == "__main__":
    main()
