"""Does a linear VAE trained by `fit` reach the maximum likelihood of PPCA?

    python benchmarks/linear_vae.py

A VAE with affine encoder and decoder and one shared noise variance is PPCA with an amortised
posterior, which is exact at the maximum (Lucas, Tucker, Grosse, Norouzi, "Don't Blame the ELBO!",
2019): its evidence must be the closed-form maximum likelihood. Data: 1,000 rows of a PPCA with 10
columns and 3 components, seed 0; five seeds of the fit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

import harness
import latently as lt

BAR = 0.05


def rows() -> lt.Data:
    """1,000 rows of `W z + noise`, 10 columns, 3 components, noise variance 0.25."""
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(10, 3))
    x = draw.normal(size=(1_000, 3)) @ weight.T + 0.5 * draw.normal(size=(1_000, 10))
    return lt.Data.from_array(x, family="Normal")


def linear_vae(data: lt.Data, seed: int) -> dict[str, Any]:
    """The evidence of a linear VAE after `fit`."""
    torch.manual_seed(seed)
    likelihood = partial(lt.families.SharedNormal, isotropic=True)
    net = partial(lt.nets.MLP, hidden=())
    model = lt.vae(data.shape, latents=3, likelihood=likelihood, net=net)
    fitted = lt.fit(
        model,
        data,
        epochs=300,
        batch_size=100,
        learning_rate=lt.Cosine(1e-2),
        seed=seed,
        progress=False,
    )
    evidence = lt.evaluate(model, data, lt.ImportanceSampling(1000), seed=seed)
    return {
        "seed": seed,
        "nats": evidence.nats,
        "mc_stderr": evidence.mc_stderr,
        "seconds": fitted.seconds,
    }


def main() -> None:
    """Fits both and records the gaps."""
    parser = harness.parser(__doc__, repeats=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = rows()
    exact = lt.ppca(data.shape, latents=3)
    lt.fit(exact, data, progress=False)
    best = lt.evaluate(exact, data).nats
    runs = [linear_vae(data, seed) for seed in range(options.repeats)]
    gaps = [best - run["nats"] for run in runs]
    result = {
        "ppca_nats": best,
        "runs": runs,
        "gaps_nats": gaps,
        "bar": BAR,
        "met": max(gaps) <= BAR,
    }
    harness.save("linear_vae", result, options)


if __name__ == "__main__":
    main()
