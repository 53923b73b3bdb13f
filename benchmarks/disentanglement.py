"""Does beta-TCVAE disentangle better than a VAE, by MIG and SAP?

    python benchmarks/disentanglement.py

Drawn pictures with five known factors (`factors`), 1,842 of them for training (train+val). VAEs
with 10 latents and hidden layers of 256 and 128 units, --repeats seeds, 40 epochs of 50 rows: the
plain ELBO, `ELBO(beta=4)`, and `TotalCorrelation` with beta = 6, the authors' choice for dSprites.
MIG is by the posteriors of the training rows, 10 draws each, SAP by their means: factors of rows
that were fitted, as in the source. The evidence of test rows (100 draws) says what each objective
costs. Differences are between equal seeds, with the standard error over seeds.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

import harness
import latently as lt
from latently.data import factors, load

OBJECTIVES: dict[str, Any] = {
    "ELBO": lt.Variational(),
    "ELBO, beta 4": lt.Variational(bound=lt.ELBO(beta=4.0)),
    "beta-TCVAE, beta 6": lt.TotalCorrelation(beta=6.0),
}
BASE = "ELBO"


def run(name: str, seed: int) -> dict[str, Any]:
    """One fit, and what is measured of it."""
    data, test = load("factors/train+val"), load("factors/test")
    assert data.labels is not None
    torch.manual_seed(seed)
    model = lt.vae(data.shape, latents=10, net=partial(lt.nets.MLP, hidden=(256, 128)))
    options: dict[str, Any] = {"epochs": 40, "batch_size": 50, "device": "cpu", "progress": False}
    fitted = lt.fit(model, data, OBJECTIVES[name], seed=seed, **options)
    found = lt.disentanglement(model, data, factors.values(data.labels), seed=seed)
    latents = lt.diagnose(model, test, rows=len(test), seed=seed)
    evidence = lt.evaluate(model, test, lt.ImportanceSampling(100), seed=seed)
    correlation = latents.layers[0].total_correlation
    assert correlation is not None
    return {
        "objective": name,
        "seed": seed,
        "protocol": data.protocol,
        **found.to_dict(),
        "active": latents.layers[0].active,
        "rate": latents.rate.to_dict(),
        "total_correlation": correlation.to_dict(),
        "evidence": evidence.to_dict(),
        "seconds": fitted.seconds,
    }


def claim(runs: list[dict[str, Any]], name: str, measure: str) -> dict[str, Any]:
    """The mean difference from the plain ELBO over seeds."""
    of = {
        key: [r[measure]["number"]["value"] for r in runs if r["objective"] == key]
        for key in (name, BASE)
    }
    apart = torch.tensor(of[name]).double() - torch.tensor(of[BASE]).double()
    error = float(apart.std()) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    means = [sum(of[key]) / len(of[key]) for key in (name, BASE)]
    text = f"{float(apart.mean()):+.3f} ± {error:.3f} ({means[0]:.3f} and {means[1]:.3f})"
    what = f"{measure.upper()} on drawn factors, {name} minus {BASE}, {len(apart)} seeds"
    return {"what": what, "text": text}


def main() -> None:
    parser = harness.parser(__doc__, repeats=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = [run(name, seed) for seed in range(options.repeats) for name in OBJECTIVES]
    names = [name for name in OBJECTIVES if name != BASE]
    claims = [claim(runs, name, measure) for name in names for measure in ("mig", "sap")]
    factor = {"names": list(factors.NAMES), "values": list(factors.SIZES)}
    harness.save("disentanglement", {"factors": factor, "runs": runs, "claims": claims}, options)


if __name__ == "__main__":
    main()
