"""How near does a neural spline flow come to densities of the plane whose entropy is known?

    python benchmarks/toys.py

For every `toys:NAME`: a spline flow on the 20,000 training rows, with a box that holds them all
(half its side is 5 standard deviations at least), the epoch chosen on the 2,000 validation rows,
and KL(p || model) = E[log p - log model] over the 10,000 test rows, row by row,
with its standard error. Bar: 0.05 nats. Beside it what a mixture of 30 full normals and one full
normal lack.
"""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

import torch

import harness
import latently
from latently.data import load
from latently.data.toys import DENSITIES
from latently.probability.flows import NSF

BAR = 0.05


def flow(name: str, options: Namespace) -> latently.Model:
    train = load(f"toys:{name}/train")
    far = float(((train.x - train.x.mean(0)) / train.x.std(0)).abs().max())
    spline = NSF(transforms=4, hidden=(128, 128), bins=32, bound=max(5.0, 1.1 * far))
    model = latently.flow((2,), flow=spline)
    latently.fit(
        model,
        train,
        validation=load(f"toys:{name}/validation"),
        epochs=options.epochs,
        batch_size=256,
        learning_rate=latently.Cosine(start=2e-3),
        ema=0.999,
        progress=False,
    )
    return model


def mixture(name: str, components: int) -> latently.Model:
    model = latently.mixture((2,), components=components)
    latently.fit(model, load(f"toys:{name}/train"), progress=False)
    return model


def lacks(model: latently.Model, name: str) -> tuple[float, float]:
    """KL(p || model) in nats, with its standard error."""
    test = load(f"toys:{name}/test")
    truth = latently.toy(name).log_prob(test.x.double())
    apart = torch.as_tensor(truth).double() - latently.evaluate(model, test).values
    return float(apart.mean()), float(apart.std() / len(apart) ** 0.5)


def claim(name: str, options: Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    nats, error = lacks(flow(name, options), name)
    seconds = time.perf_counter() - began
    others = {f"mixture of {k}": lacks(mixture(name, k), name) for k in (30, 1)}
    beside = ", ".join(f"{what} {kl:.3f}" for what, (kl, _) in others.items())
    return {
        "what": f"{name}: KL(p || spline flow)",
        "text": f"{nats:.4f} +- {error:.4f} nats ({beside})",
        "entropy": latently.toy(name).entropy,
        "nats": nats,
        "stderr": error,
        "others": others,
        "seconds": seconds,
        "bar": BAR,
        "met": nats <= BAR,
    }


def main() -> None:
    arguments = harness.parser(__doc__, repeats=1)
    arguments.add_argument("--epochs", type=int, default=150)
    arguments.add_argument("--toys", nargs="*", default=list(DENSITIES))
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    claims = []
    for name in options.toys:
        claims.append(claim(name, options))
        print(name, claims[-1]["text"], flush=True)
    harness.save("toys", {"epochs": options.epochs, "claims": claims}, options)


if __name__ == "__main__":
    main()
