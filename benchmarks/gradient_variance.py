"""How noisy is each gradient estimator, and how wrong the biased one?

    python benchmarks/gradient_variance.py

Binary digits (grey value above 7). Three VAEs with one hidden layer of 50 tanh units, each
trained by ELBO for a while: 8 normal latents (1,000 steps), one categorical latent of 10 states
and 8 bits (100 steps, before their posteriors are certain).
For 20 fixed rows the gradient of the mean bound by the encoder's parameters is drawn --turns
times with K draws a row. Reported are, with `g` the true gradient,

- relative variance: `sum_i Var(g_i) / |g|^2`;
- signal-to-noise: `|g_i| / std(g_i)`, the mean over parameters;
- relative bias: `|E g - g| / |g|`, for the estimator that has one;
- rows decoded per row of data, and milliseconds of CPU per gradient of the batch.

The true gradient is the sum over all states where the latents are discrete and the bound an ELBO,
else the mean of the least noisy unbiased estimator's draws; PIWAE, whose target is its own, is
held against its own mean. Squared norms of means are corrected for the noise in them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

import harness
import latently as lt
from latently import expr
from latently.inference.bounds import ELBO, IWAE, Bound
from latently.inference.estimators import (
    PIWAE,
    REBAR,
    STL,
    VIMCO,
    DReG,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    Reparam,
    Score,
)
from latently.inference.particles import Particles

ROWS = 20
STEPS = {"normal, 8": 1_000, "one of 10": 100, "8 bits": 100}  # before posteriors are certain
MODELS: dict[str, dict[str, Any]] = {
    "normal, 8": {"latents": 8},
    "one of 10": {"latents": 10, "posterior": lt.families.OneHot, "prior": lt.priors.Standard},
    "8 bits": {"latents": 8, "posterior": lt.families.Bernoulli, "prior": lt.priors.Standard},
}


@dataclass(frozen=True)
class Reinforce(Score):
    """The score-function gradient without a baseline: the yardstick of the others."""

    least: ClassVar[int] = 1

    def __call__(self, bound: Bound, p: Particles) -> Tensor:
        self.check(bound)
        held = bound(p._replace(log_q=tuple(q.detach() for q in p.log_q)))
        f = (p.log_lik - p.divergence).detach()
        return held + (f * p.log_q[0]).mean(0)


@dataclass(frozen=True)
class Drawn:
    """Gradients of one estimator, (turns, parameters), and what they cost."""

    estimator: Estimator
    gradients: Tensor
    decoded: int
    seconds: float

    @property
    def mean(self) -> Tensor:
        return self.gradients.mean(0)

    @property
    def variance(self) -> Tensor:
        return self.gradients.var(0)

    @property
    def noise(self) -> float:
        """Of the mean, summed over parameters."""
        return float(self.variance.sum()) / len(self.gradients)


def cases() -> list[tuple[str, Bound, int, list[Estimator]]]:
    found: list[tuple[str, Bound, int, list[Estimator]]] = []
    for samples in (5, 50):
        piwae = PIWAE(groups=5)
        found.append(("normal, 8", ELBO(), samples, [Reparam(), STL(), Score()]))
        found.append(("normal, 8", IWAE(), samples, [Reparam(), DReG(), piwae, VIMCO()]))
    controls = [REBAR(t) for t in (0.1, 0.5, 1.0)]
    relaxed = [GumbelSoftmax(t, hard) for hard in (True, False) for t in (0.1, 0.5, 1.0)]
    for name in ("one of 10", "8 bits"):
        elbo = [Enumerate(), Reinforce(), Score(), *controls, *relaxed]
        found.append((name, ELBO(), 5, elbo))
        found.append((name, ELBO(), 1, [Enumerate(), Reinforce(), REBAR()]))
        found.append((name, IWAE(), 5, [VIMCO()]))
    return found


def trained(name: str, data: lt.Data) -> lt.Model:
    """A VAE after some steps of ELBO, without noise where the latents are discrete."""
    torch.manual_seed(0)
    net = partial(lt.nets.MLP, hidden=(50,), activation=torch.nn.Tanh)
    model = lt.vae(data.shape, net=net, **MODELS[name])
    estimator = Enumerate() if "posterior" in MODELS[name] else Reparam()
    objective = lt.Variational(ELBO(), estimator)
    lt.fit(model, data, objective, steps=STEPS[name], learning_rate=3e-3, progress=False)
    return model


def drawn(
    model: Any, x: Tensor, bound: Bound, samples: int, estimator: Estimator, turns: int
) -> Drawn:
    """Gradients by the encoder's parameters of the mean bound over rows."""
    parameters = list(model.encoder.parameters())
    turns = 2 if estimator.gradient == "exact" else turns
    torch.manual_seed(1)
    found, began = [], time.process_time()
    for _ in range(turns):
        p = model.infer(x, samples, gradient=estimator.gradient, draw=estimator.draw)
        slopes = torch.autograd.grad(estimator(bound, p).mean(), parameters)
        found.append(torch.cat([slope.flatten() for slope in slopes]))
    seconds = (time.process_time() - began) / turns
    return Drawn(estimator, torch.stack(found).double(), len(p.log_lik), seconds)


def truth(drawn: list[Drawn]) -> Drawn:
    """The least noisy of the unbiased."""
    unbiased = [d for d in drawn if d.estimator.unbiased]
    return min(unbiased, key=lambda d: d.noise)


def measured(one: Drawn, true: Drawn) -> dict[str, Any]:
    """The numbers of one estimator."""
    biased = isinstance(one.estimator, GumbelSoftmax)
    true = true if biased or one.estimator.unbiased else one
    signal = float(true.mean.square().sum()) - true.noise
    std = one.variance.sqrt()
    noisy = std > 1e-8 * std.max()
    exact = one.estimator.gradient == "exact"
    numbers = {
        "estimator": expr.show(one.estimator),
        "relative_variance": float(one.variance.sum()) / signal,
        "signal_to_noise": None if exact else float((true.mean.abs() / std)[noisy].mean()),
        "decoded": one.decoded,
        "milliseconds": 1e3 * one.seconds,
    }
    if biased:
        square = float((one.mean - true.mean).square().sum()) - one.noise - true.noise
        numbers["relative_bias"] = (max(square, 0.0) / signal) ** 0.5
        numbers["cosine"] = float(torch.cosine_similarity(one.mean, true.mean, dim=0))
    return numbers


def compared(options: Any) -> list[dict[str, Any]]:
    """Every case: what it is of, and the numbers of its estimators."""
    digits = lt.data.load("digits/train").x
    data = lt.Data.from_array((digits > 7).float(), levels=2)
    models = {name: trained(name, data).eval() for name in MODELS}
    rows, x = [], data.x[:ROWS]
    for name, bound, samples, estimators in cases():
        found = [drawn(models[name], x, bound, samples, e, options.turns) for e in estimators]
        for one in found:
            numbers = measured(one, truth(found))
            about = {"latents": name, "bound": expr.show(bound), "samples": samples}
            rows.append({**about, **numbers})
    return rows


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the estimators are there for, as ratios of variances."""
    noise = {
        (r["latents"], r["bound"], r["samples"], r["estimator"]): r["relative_variance"]
        for r in rows
    }

    def less(latents: str, bound: str, samples: int, one: str, other: str) -> dict[str, Any]:
        found = noise[latents, bound, samples, one] / noise[latents, bound, samples, other]
        what = f"gradient variance, {latents}, {bound} K={samples}: {one} over {other}"
        return {"what": what, "text": f"{found:.2g}", "met": found < 1}

    normal, one, bits = MODELS
    return [
        less(normal, "ELBO", 5, "STL", "Reparam"),
        less(normal, "IWAE", 50, "DReG", "Reparam"),
        less(normal, "IWAE", 50, "PIWAE(groups=5)", "Reparam"),
        *(less(name, "ELBO", 5, "Score", "Reinforce") for name in (bits, one)),
        *(less(name, "ELBO", 1, "REBAR", "Reinforce") for name in (bits, one)),
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| latents | bound | K | estimator | variance | signal / noise | bias | decoded | ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "" if row["signal_to_noise"] is None else f"{row['signal_to_noise']:.3f}"
        bias = f"{row['relative_bias']:.2f}" if "relative_bias" in row else "0"
        numbers = f"{row['relative_variance']:.3g} | {ratio} | {bias} | {row['decoded']}"
        about = f"{row['latents']} | {row['bound']} | {row['samples']} | {row['estimator']}"
        lines.append(f"| {about} | {numbers} | {row['milliseconds']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and records."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--turns", type=int, default=1_000, help="gradients of each estimator")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = compared(options)
    result = {
        "rows": ROWS,
        "turns": options.turns,
        "steps": STEPS,
        "estimators": rows,
        "claims": claims(rows),
    }
    harness.save("gradient_variance", result, options)
    print(table(rows))


if __name__ == "__main__":
    main()
