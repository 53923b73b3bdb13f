"""What do steps of the encoder alone buy an ordinary VAE, and what do they cost?

    python benchmarks/inference_steps.py

Binary digits (grey value above 7), 8 normal latents, one hidden layer of 100 units. The same VAE
is trained with and without inference steps for as many epochs (the same rows pass through it) and
for as many steps of the decoder. Of the test rows: log p(x) bounded by 1,000 draws, the ELBO by as
many, and the gap between the two, most of which is q's. One seed; the errors are Monte Carlo's.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

import harness
import latently as lt

DRAWS = 1_000
RUNS: list[tuple[str, int, dict[str, Any]]] = [
    ("50 epochs, all together", 50, {}),
    ("50 epochs, 5 inference steps", 50, {"inference_steps": 5}),
    (
        "50 epochs, 5 inference steps in the first 5",
        50,
        {"inference_steps": 5, "inference_epochs": 5},
    ),
    ("300 epochs, all together", 300, {}),
    ("300 epochs, 5 inference steps", 300, {"inference_steps": 5}),
]


def measured(epochs: int, turns: dict[str, Any]) -> dict[str, Any]:
    """Evidence, ELBO and their gap on the test rows after one fit."""
    train, test = (
        lt.Data.from_array((lt.data.load(f"digits/{part}").x > 7).float(), levels=2)
        for part in ("train", "test")
    )
    torch.manual_seed(0)
    net = partial(lt.nets.MLP, hidden=(100,))
    model = lt.vae(train.shape, latents=8, net=net)
    options = {"learning_rate": 2e-3, "device": "cpu", "progress": False}
    began = time.perf_counter()
    result = lt.fit(model, train, epochs=epochs, **options, **turns)
    seconds = time.perf_counter() - began
    evidence = lt.evaluate(model, test, lt.ImportanceSampling(DRAWS))
    torch.manual_seed(0)
    with torch.no_grad():
        p = model.infer(test.x, DRAWS)
    terms = (p.log_lik - p.divergence).double()
    elbo = float(terms.mean())
    cycle = turns.get("inference_steps", 0) + 1
    steps = int(result.history[-1]["step"])
    in_turns = int(steps * turns.get("inference_epochs", epochs) / epochs)
    log_p = float(evidence.values.double().mean())
    return {
        "log_prob_bound": log_p,
        "log_prob_mc_stderr": float(evidence.mc_variance.double().sum().sqrt() / len(test)),
        "elbo": elbo,
        "elbo_mc_stderr": float((terms.var(0) / DRAWS).sum().sqrt() / len(test)),
        "gap": log_p - elbo,
        "steps": steps,
        "decoder_steps": in_turns // cycle + steps - in_turns,
        "seconds": seconds,
    }


def main() -> None:
    """Measures and records."""
    options = harness.parser(__doc__, repeats=1).parse_args()
    torch.set_num_threads(options.threads)
    runs, claims = [], []
    for name, epochs, turns in RUNS:
        found = measured(epochs, turns)
        runs.append({"run": name, **found})
        numbers = f"{found['log_prob_bound']:.2f} ± {found['log_prob_mc_stderr']:.2f} nats"
        text = f"{numbers}, {found['gap']:.2f} above the ELBO; {found['decoder_steps']} of p"
        claims.append({"what": f"test log p(x), bound of {DRAWS} draws: {name}", "text": text})
        print(claims[-1], flush=True)
    harness.save("inference_steps", {"draws": DRAWS, "runs": runs, "claims": claims}, options)


if __name__ == "__main__":
    main()
