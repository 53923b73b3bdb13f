"""Do wake-sleep, its reweighted kin, VIMCO and enumeration reach the exact maximum likelihood?

    python benchmarks/wake_sleep.py

Six fair bits z, binary pixels x with `logit p(x_j = 1|z) = W_j z + b_j`: log p(x) is a sum over 64
states, in float64 and without this library, and its maximum over W and b the best of six
L-BFGS searches of it. Rows are drawn from a known W. Every method trains the same decoder, with
an encoder that is affine in x, from two starts; what it reached is the exact mean log p(x) of
the training rows (`Enumeration`), held against the maximum. Three problems:

- own pixels: three pixels for each bit. p(z|x) of the truth factorizes, with log-odds affine in
  x: a posterior of six `Bernoulli` can be exact there.
- joint posterior: 12 pixels that see all bits, so p(z|x) does not factorize. The posterior is one
  `OneHot` of the 64 joint states, whose exact logits are affine in x; the decoder reads the bits.
- shared pixels: the same rows, with the posterior of six `Bernoulli`, which cannot be exact. No
  bar is set: how far each method stays behind is the price of that posterior.

The bar is 0.1 nats, for the worst of the starts.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import harness
import latently as lt
from latently import expr
from latently.inference.methods import Enumeration

ROWS, STEPS, BATCH, RATE, BAR = 1_000, 1_500, 100, 0.1, 0.1
SEARCHES, STARTS = 6, 2
STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)))
METHODS: list[tuple[str, Any]] = [
    ("Enumerate", lt.Variational(lt.ELBO(), lt.Enumerate())),
    ("VIMCO", lt.Variational(lt.IWAE(), lt.VIMCO(), samples=10)),
    ("WakeSleep", lt.WakeSleep(samples=5)),
    ("ReweightedWakeSleep", lt.ReweightedWakeSleep(samples=10)),
    ("ReweightedWakeSleep, half asleep", lt.ReweightedWakeSleep(samples=10, sleep=0.5)),
]


class OfBits(nn.Module):
    """An affine map of the six bits of a state that is given one-hot among 64."""

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("states", STATES.clone())
        self.affine = nn.Linear(6, out_shape[0])

    def forward(self, z: Tensor) -> Tensor:
        return self.affine(z.flatten(1) @ self.states)


AFFINE = partial(lt.nets.MLP, hidden=())
SIX_BITS = {"latents": 6, "posterior": lt.families.Bernoulli, "net": AFFINE}
ONE_OF_64 = {"latents": 64, "posterior": lt.families.OneHot, "net": AFFINE, "decoder_net": OfBits}
PROBLEMS: list[tuple[str, str, dict[str, Any], float | None]] = [
    ("own pixels, six bits", "own", SIX_BITS, BAR),
    ("joint posterior, one of 64", "shared", ONE_OF_64, BAR),
    ("shared pixels, six bits", "shared", SIX_BITS, None),
]


def drawn(kind: str) -> Tensor:
    """Rows of a known model."""
    generator = torch.Generator().manual_seed(1)
    if kind == "own":
        signs = torch.where(torch.rand(18, 1, generator=generator) < 0.5, -1.0, 1.0)
        weight = 3 * signs * torch.kron(torch.eye(6), torch.ones(3, 1))
    else:
        weight = 2 * torch.randn(12, 6, generator=generator)
    z = torch.rand(ROWS, 6, generator=generator).lt(0.5).float()
    on = torch.sigmoid(z @ weight.T - weight.sum(1) / 2)
    return torch.rand(on.shape, generator=generator).lt(on).float()


def log_p(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Exact log p(x) of every row: a sum over the states, each decoded once."""
    h = STATES.double() @ weight.T + bias
    terms = x @ h.T - nn.functional.softplus(h).sum(-1) - math.log(len(STATES))
    return torch.logsumexp(terms, 1)


def searched(x: Tensor, seed: int) -> float:
    """The mean log-likelihood at the end of one search."""
    generator = torch.Generator().manual_seed(seed)
    columns = x.shape[1]
    weight = torch.randn(columns, 6, generator=generator).double().requires_grad_()
    bias = torch.zeros(columns).double().requires_grad_()
    search = torch.optim.LBFGS([weight, bias], max_iter=2000, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = -log_p(x, weight, bias).mean()
        value.backward()
        return value

    search.step(loss)
    with torch.no_grad():
        return float(log_p(x, weight, bias).mean())


def reached(data: lt.Data, objective: Any, model: dict[str, Any], seed: int) -> dict[str, float]:
    """What one method reached from one start, exactly, and the seconds it took."""
    torch.manual_seed(seed)
    made = lt.vae(data.shape, prior=lt.priors.Standard, **model)
    began = time.perf_counter()
    lt.fit(
        made,
        data,
        objective,
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=lt.Cosine(RATE),
        seed=seed,
        device="cpu",
        progress=False,
    )
    seconds = time.perf_counter() - began
    return {
        "log_prob": float(lt.evaluate(made, data, Enumeration()).values.double().mean()),
        "seconds": seconds,
    }


def solved(name: str, kind: str, model: dict[str, Any], bar: float | None) -> dict[str, Any]:
    """One problem: its maximum, and how far each method stays below."""
    x = drawn(kind)
    ends = sorted((searched(x.double(), seed) for seed in range(SEARCHES)), reverse=True)
    data = lt.Data.from_array(x, levels=2)
    methods = []
    for method, objective in METHODS:
        runs = [reached(data, objective, model, seed) for seed in range(STARTS)]
        gaps = [ends[0] - run["log_prob"] for run in runs]
        print(name, method, [f"{gap:.4f}" for gap in gaps], flush=True)
        methods.append(
            {
                "method": method,
                "objective": expr.show(objective),
                "gaps_nats": gaps,
                "seconds": [run["seconds"] for run in runs],
            }
        )
    return {
        "problem": name,
        "bar_nats": bar,
        "maximum_nats": ends[0],
        "searches_nats": ends,
        "methods": methods,
    }


def claims(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How far below the maximum, with the bar where there is one."""
    found = []
    for problem in problems:
        for one in problem["methods"]:
            gaps = one["gaps_nats"]
            claim: dict[str, Any] = {
                "what": f"exact maximum likelihood minus {one['method']}, {problem['problem']}",
                "text": f"{min(gaps):.3f} to {max(gaps):.3f} nats",
            }
            if problem["bar_nats"] is not None:
                claim["met"] = max(gaps) <= problem["bar_nats"]
            found.append(claim)
    return found


def recorded() -> dict[str, dict[str, Any]]:
    """Problems of the latest result, by name."""
    file = harness.HERE / "results" / "wake_sleep.json"
    known = json.loads(file.read_text())["problems"] if file.exists() else []
    return {problem["problem"]: problem for problem in known}


def main() -> None:
    """Solves and records."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument(
        "--only", default="", help="solve those named so, keep the others' results"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = recorded()
    for problem in PROBLEMS:
        if options.only in problem[0]:
            found[problem[0]] = solved(*problem)
    problems = [found[name] for name, *_ in PROBLEMS if name in found]
    settings = {"rows": ROWS, "steps": STEPS, "batch_size": BATCH, "learning_rate": RATE}
    result = {**settings, "problems": problems, "claims": claims(problems)}
    harness.save("wake_sleep", result, options)


if __name__ == "__main__":
    main()
