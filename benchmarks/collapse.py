"""Does `diagnose` name posterior collapse where there is one, and nowhere else?

    python benchmarks/collapse.py

VAEs of digits with 16 latents, --repeats seeds of each kind, 20 epochs: with beta = 1, which use
their latents; with beta = 50, which pay too much for them and end with none; and with a beta that
falls from 50 to 1 in the first half of the fit, so that latents come back slowly. Nothing is
claimed of the third kind: it shows what the threshold of 0.1 nats means, beside what the latents
gain in evidence (the importance weighted bound of 100 draws, over its mean where beta is 50).
Diagnosed are the validation rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import harness
import latently as lt
from latently.data import load
from latently.inference.diagnostics import diagnose

EPOCHS, LATENTS = 20, 16
STEPS = EPOCHS * 13
BETAS: dict[str, Any] = {
    "beta 1": 1.0,
    "beta 50": 50.0,
    "beta 50 to 1": lt.Linear(50.0, 1.0, steps=STEPS // 2),
}


def run(kind: str, seed: int) -> dict[str, Any]:
    """One fit, and what is said of it."""
    data, held = load("digits"), load("digits/validation")
    torch.manual_seed(seed)
    likelihood = partial(lt.families.DiscretizedLogistic, levels=17)
    model = lt.vae(data.shape, latents=LATENTS, likelihood=likelihood)
    objective = lt.Variational(bound=lt.ELBO(beta=BETAS[kind]))
    options: dict[str, Any] = {"epochs": EPOCHS, "seed": seed, "device": "cpu", "progress": False}
    fitted = lt.fit(model, data, objective, **options)
    found = diagnose(model, held, seed=seed)
    evidence = lt.evaluate(model, held, lt.ImportanceSampling(100), seed=seed)
    return {
        "kind": kind,
        "seed": seed,
        "protocol": held.protocol,
        "collapse_named": any(one.name == "posterior collapse" for one in found.findings),
        "ignored_named": any(one.name == "the decoder ignores z" for one in found.findings),
        "active": found.layers[0].active,
        "rate": found.rate.to_dict(),
        "information": found.layers[0].information.to_dict(),  # type: ignore[union-attr]
        "aggregate": found.layers[0].aggregate.to_dict(),  # type: ignore[union-attr]
        "decoder": found.decoder.to_dict(),
        "evidence": evidence.to_dict(),
        "seconds": fitted.seconds,
    }


def main() -> None:
    parser = harness.parser(__doc__, repeats=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = [run(kind, seed) for kind in BETAS for seed in range(options.repeats)]
    empty = [r["evidence"]["nats"] for r in runs if r["kind"] == "beta 50"]
    bare = sum(empty) / len(empty)
    claims = []
    for kind, wanted in (("beta 1", 0), ("beta 50", options.repeats)):
        named = sum(r["collapse_named"] for r in runs if r["kind"] == kind)
        rates = [r["rate"]["value"] for r in runs if r["kind"] == kind]
        text = f"{named} of {options.repeats}; rate {min(rates):.2g} to {max(rates):.2g} nats"
        what = f"posterior collapse named, VAEs of digits, {kind}"
        claims.append({"what": what, "text": text, "met": named == wanted})
    slow = [r for r in runs if r["kind"] == "beta 50 to 1"]
    named = sum(r["collapse_named"] for r in slow)
    rates = [r["rate"]["value"] for r in slow]
    gains = [r["evidence"]["nats"] - bare for r in slow]
    text = (
        f"{named} of {len(slow)}; rate {min(rates):.2f} to {max(rates):.2f} nats, "
        f"evidence gained {min(gains):.2f} to {max(gains):.2f}"
    )
    what = "posterior collapse named, VAEs of digits, beta 50 to 1"
    claims.append({"what": what, "text": text})
    result = {"beta_50_nats": bare, "runs": runs, "claims": claims}
    harness.save("collapse", result, options)


if __name__ == "__main__":
    main()
