"""Is annealed importance sampling right where the truth is known, and what does it say of MNIST?

    python benchmarks/ais.py                                       (linear models only)
    python benchmarks/ais.py runs/mnist-iwae5.safetensors --data-dir DATA

- linear models: `log p(x)` of factor analysis, and of a hierarchy of two linear-Gaussian layers,
  with 8 to 64 latents in all and random weights, on 8 rows that each draws; `AIS()` as it comes,
  against the closed form. Bar: within 4 Monte Carlo standard errors, or with a warning. Where it
  warns, once more with four times the steps.
- MNIST: `AIS()` from the prior, which does not see the encoder, against the importance weighted
  bound with K = 5,000 draws from it, on the first 200 test images; the difference is paired. Bar:
  within 0.5 nats.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.distributions.constraints import real

import harness
import latently
from latently import AIS, FactorAnalysis, ImportanceSampling, Model
from latently.inference.particles import Particles, equal_shares
from latently.io import load_saved

LATENTS = (8, 16, 32, 64)
ROWS, IMAGES, SAMPLES = 8, 200, 5_000
ERRORS, BAR = 4.0, 0.5


class Hierarchy(Model):
    """z_1 ~ N(0, I), z_2 | z_1 ~ N(A z_1, I/4), x | z_2 ~ N(W z_2, I/4); q is the prior."""

    density = "bound"
    discrete = False

    def __init__(self, latents: int) -> None:
        super().__init__()
        half, columns = latents // 2, 2 * latents
        self.shape = (columns,)
        self.register_buffer("a", torch.randn(half, half, dtype=torch.float64) / math.sqrt(half))
        self.register_buffer("w", torch.randn(columns, half, dtype=torch.float64))

    def infer(
        self, x: Tensor, samples: int = 1, mask: Any = None, context: Any = None, **how: Any
    ) -> Particles:
        z = how["z"]
        log_prior = tuple(p.log_prob(layer) for p, layer in zip(self._prior(z), z, strict=True))
        log_lik = self.likelihood(z).log_prob(x)
        shares = equal_shares(log_lik)
        return Particles(z, log_lik, log_prior, log_prior, (None, None), shares)

    def latents(self, n: int, context: Any = None, given: Any = ()) -> tuple[Tensor, ...]:
        top = torch.randn(1, n, self.a.shape[1], dtype=torch.float64)
        return top, top @ self.a.T + 0.5 * torch.randn(1, n, len(self.a), dtype=torch.float64)

    def likelihood(self, z: tuple[Tensor, ...], context: Any = None) -> Distribution:
        return Independent(Normal(z[1] @ self.w.T, 0.5), 1)

    def misfit(self, x: Tensor, mask: Any = None) -> tuple[Tensor, str]:
        return ~torch.isfinite(x), "finite numbers"

    def latent_constraints(self) -> tuple[Any, ...]:
        return (real, real)

    def _prior(self, z: tuple[Tensor, ...]) -> tuple[Distribution, Distribution]:
        top = Normal(torch.zeros_like(z[0]), 1.0)
        return Independent(top, 1), Independent(Normal(z[0] @ self.a.T, 0.5), 1)

    def exact(self, x: Tensor) -> Tensor:
        """log p(x), (n,)."""
        eye = torch.eye(len(self.a), dtype=torch.float64)
        inside = self.a @ self.a.T + 0.25 * eye
        noise = 0.25 * torch.eye(len(self.w), dtype=torch.float64)
        covariance = self.w @ inside @ self.w.T + noise
        return MultivariateNormal(torch.zeros(len(self.w)).double(), covariance).log_prob(x)


def factor_analysis(latents: int) -> FactorAnalysis:
    """Twice as many columns as latents, noise variances from 0.1 to 1.1."""
    model = FactorAnalysis((2 * latents,), latents)
    with torch.no_grad():
        model.weight.normal_()
        model.log_variance.copy_((0.1 + torch.rand(2 * latents)).log())
    return model


def against_exact(model: Any, truth: Any, method: AIS | None = None) -> dict[str, Any]:
    """AIS as it comes on rows of the model's own, and with more steps where it warns."""
    x, longer = model.sample(ROWS, seed=1), AIS(steps=4 * AIS().steps)
    began = time.perf_counter()
    scores = (method or AIS())(model, x)
    seconds = time.perf_counter() - began
    difference = float((scores.values - truth(x)).mean())
    error = float(scores.mc_variance.sum().sqrt() / ROWS)
    more = (
        {longer.name: against_exact(model, truth, longer)} if scores.notes and not method else {}
    )
    return {
        "ais_minus_exact": difference,
        "mc_stderr": error,
        "median_ess": float(scores.ess.median()),
        "warnings": list(scores.notes),
        "seconds": seconds,
        "met": abs(difference) <= ERRORS * error or bool(scores.notes),
        **more,
    }


def linear_models() -> dict[str, Any]:
    found = {}
    for latents in LATENTS:
        torch.manual_seed(latents)
        fa, deep = factor_analysis(latents), Hierarchy(latents)
        exact = latently.Exact()
        found[f"fa, {latents} latents"] = against_exact(fa, lambda x: exact(fa, x).values)  # noqa: B023
        found[f"hierarchy, {latents} latents"] = against_exact(deep, deep.exact)
        print(latents, found[f"fa, {latents} latents"], found[f"hierarchy, {latents} latents"])
    return found


def mnist(options: Namespace) -> dict[str, Any]:
    """Both methods on the same images."""
    saved = load_saved(options.model)
    spec = "mnist:binary-dynamic/test"
    data = latently.data.load(spec, data_dir=options.data_dir, like=saved.data or None)
    data = data.once().rows(slice(0, options.rows))
    sides, found = {}, {}
    for name, method in (("ais", AIS()), ("iwae", ImportanceSampling(SAMPLES))):
        began = time.perf_counter()
        sides[name] = latently.evaluate(saved.model, data, method)
        seconds = time.perf_counter() - began
        found[name] = {**sides[name].to_dict(), "seconds": seconds}
        print(sides[name], f"{seconds:.0f} s")
    difference, error = sides["ais"].paired(sides["iwae"])
    rows = sides["ais"].values - sides["iwae"].values
    return {
        "model": options.model.rpartition("/")[2],
        **found,
        "ais_minus_iwae": difference,
        "stderr": error,
        "mc_stderr": math.hypot(sides["ais"].mc_stderr, sides["iwae"].mc_stderr),
        "lowest_row": float(rows.min()),
        "highest_row": float(rows.max()),
        "bar": BAR,
        "met": abs(difference) <= BAR,
    }


def _shown(case: dict[str, Any]) -> str:
    warned = ", warned" if case["warnings"] else ""
    return f"{case['ais_minus_exact']:+.2f} ± {case['mc_stderr']:.2f} nats{warned}"


def claims(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the table of results shows."""
    found = []
    for name, case in result["linear"].items():
        text = _shown(case)
        for key, longer in case.items():
            text += f"; {key}: {_shown(longer)}" if key.startswith("AIS") else ""
        what = f"AIS T={AIS().steps} minus exact log p(x), {name}"
        found.append({"what": what, "text": text, "bar": ERRORS, "met": case["met"]})
    if "mnist" in result:
        both = result["mnist"]
        text = f"{both['ais_minus_iwae']:+.2f} ± {both['stderr']:.2f} nats"
        what = f"AIS T={AIS().steps} minus IWAE K=5000, {both['ais']['n']} MNIST images, paired"
        found.append({"what": what, "text": text, "bar": BAR, "met": both["met"]})
    return found


def main() -> None:
    arguments = harness.parser(__doc__, repeats=1)
    arguments.add_argument("model", nargs="?", help="a model file of MNIST")
    arguments.add_argument("--rows", type=int, default=IMAGES, help="test images")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"method": AIS().name, "linear": linear_models()}
    if options.model:
        result["mnist"] = mnist(options)
    harness.save("ais", {**result, "claims": claims(result)}, options)


if __name__ == "__main__":
    main()
