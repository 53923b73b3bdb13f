"""Where the ELBO loses: approximation and amortisation gaps, and whether they add up.

    python benchmarks/gaps.py --only linear
    python benchmarks/gaps.py --only digits-vae/test      and /train; the same of digits-iwae
    python benchmarks/gaps.py --only mnist-vae/test --data-dir DATA      and of mnist-iwae5

Linear-Gaussian VAEs with columns of W that are not orthogonal, so that no q of independent cells
is exact, and an encoder that is off by random amounts: log p(x), the total gap and both parts are
known in closed form. Bar: each of the three gaps within 4 Monte Carlo standard errors of the
truth, for every seed; a search that stops short may add 0.01 nats to the approximation gap and
take them from the amortisation gap.

Trained models (`latently reproduce CARD --out RUNS`): 200 rows of test and of train each. log p(x)
is the importance weighted bound of 5,000 draws from the refined q, so the approximation gaps are
lower bounds. `--only` measures one part and leaves what is recorded of the others.
"""

from __future__ import annotations

import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributions import MultivariateNormal, kl_divergence

import harness
import latently as lt
from latently.inference import Method, gaps
from latently.inference.methods import Scores

MODELS = {
    "digits-vae": "digits",
    "digits-iwae": "digits",
    "mnist-vae": "mnist:binary-dynamic",
    "mnist-iwae5": "mnist:binary-dynamic",
}
STD, COLUMNS, LATENTS, ROWS = 0.5, 12, 4, 50
SHORT = 0.01  # nats by which a search may stop short


class Known(Method):
    """log p(x) in closed form."""

    kind = "exact"
    name = "closed form"

    def __init__(self, log_p: torch.Tensor) -> None:
        self.log_p = log_p

    def scores(self, *rows: Any, **options: Any) -> Scores:
        return Scores(self.log_p, torch.zeros_like(self.log_p), None, None)


def linear(seed: int) -> dict[str, Any]:
    """Gaps of a linear-Gaussian VAE beside the closed forms."""
    torch.manual_seed(seed)
    model = lt.vae(
        (COLUMNS,),
        latents=LATENTS,
        likelihood=partial(lt.families.FixedNormal, std=STD),
        net=partial(lt.nets.MLP, hidden=()),
    ).double()
    weight = torch.randn(COLUMNS, LATENTS).double()
    precision = torch.eye(LATENTS).double() + weight.T @ weight / STD**2
    gain = torch.linalg.solve(precision, weight.T / STD**2)
    log_scale = -0.5 * precision.diagonal().log() + 0.2 * torch.randn(LATENTS).double()
    with torch.no_grad():
        model.decoder.net.layers[0].weight.copy_(weight)
        model.decoder.net.layers[0].bias.zero_()
        encoder = model.encoder.net.layers[0]
        spoilt = gain + 0.01 * torch.randn_like(gain)
        encoder.weight.copy_(torch.cat([spoilt, torch.zeros_like(gain)]))
        raw = 10 * torch.atanh(log_scale / 10)
        encoder.bias.copy_(torch.cat([torch.zeros(LATENTS).double(), raw]))
    covariance = weight @ weight.T + STD**2 * torch.eye(COLUMNS).double()
    law = MultivariateNormal(torch.zeros(COLUMNS).double(), covariance)
    x = law.sample((ROWS,))
    posterior = MultivariateNormal(x @ gain.T, precision_matrix=precision)
    q = MultivariateNormal(x @ spoilt.T, torch.diag(2 * log_scale).exp() * torch.eye(LATENTS))
    total = float(kl_divergence(q, posterior).mean())
    best = float(0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)))
    data = lt.Data.from_array(x, family="Normal")
    found = gaps(model, data, method=Known(law.log_prob(x)), seed=seed)
    truth = {"total": total, "approximation": best, "amortisation": total - best}
    return {"seed": seed, "truth": truth, "gaps": found.to_dict(), **_verdict(found, truth)}


def _verdict(found: Any, truth: dict[str, float]) -> dict[str, Any]:
    """Deviations in standard errors, allowing for a search that stops short."""
    deviations = {}
    for name, value in truth.items():
        number = getattr(found, name)
        short = {"approximation": SHORT, "amortisation": -SHORT}.get(name, 0.0)
        off = number.value - value
        off -= min(max(off, min(short, 0.0)), max(short, 0.0))
        deviations[name] = off / number.mc_stderr
    return {"z": deviations, "met": all(abs(z) < 4 for z in deviations.values())}


def trained(name: str, split: str, options: Any) -> dict[str, Any]:
    """Gaps of a trained model on rows of test or of train."""
    began = time.perf_counter()
    model = lt.load(Path(options.runs) / f"{name}.safetensors")
    data = lt.data.load(f"{MODELS[name]}/{split}", data_dir=options.data_dir)
    few = torch.arange(min(options.rows, len(data)))
    found = gaps(model, data.rows(few), samples=options.samples)
    print(found, flush=True)
    return {**found.to_dict(), "seconds": time.perf_counter() - began}


def claims(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the table of results shows."""
    made = []
    if "linear" in result:
        worst = max(abs(z) for run in result["linear"] for z in run["z"].values())
        made.append(
            {
                "what": "linear-Gaussian VAEs: gaps against closed forms, worst deviation",
                "text": f"{worst:.1f} Monte Carlo standard errors",
                "met": all(run["met"] for run in result["linear"]),
            }
        )
    for name, found in result.get("models", {}).items():
        if "test" not in found:
            continue
        parts = (found["test"][part] for part in ("approximation", "amortisation"))
        text = " + ".join(f"{part['value']:.2f}" for part in parts)
        made.append(
            {
                "what": f"{name}, test: approximation (at least) + amortisation gap",
                "text": f"{text} nats{_generalisation(found)}",
            }
        )
    return made


def _generalisation(found: dict[str, Any]) -> str:
    """The encoder's own over-fitting, where both splits are there."""
    if "train" not in found:
        return ""
    test, train = (found[split]["amortisation"] for split in ("test", "train"))
    error = math.hypot(*(part[key] for part in (test, train) for key in ("stderr", "mc_stderr")))
    return f"; amortisation, test minus train {test['value'] - train['value']:+.2f} ± {error:.2f}"


def main() -> None:
    parser = harness.parser(__doc__, repeats=10)
    parts = [f"{name}/{split}" for name in MODELS for split in ("train", "test")]
    parser.add_argument("--only", choices=["linear", *parts], required=True)
    parser.add_argument("--runs", default="runs", help="folder of the cards' models")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--samples", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    file = harness.HERE / "results" / "gaps.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    result = {key: before[key] for key in ("linear", "models") if key in before}
    if options.only == "linear":
        result["linear"] = [linear(seed) for seed in range(options.repeats)]
    else:
        name, split = options.only.split("/")
        of_model = result.setdefault("models", {}).setdefault(name, {})
        of_model[split] = trained(name, split, options)
    harness.save("gaps", {**result, "claims": claims(result)}, options)


if __name__ == "__main__":
    main()
