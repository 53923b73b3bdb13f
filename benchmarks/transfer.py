"""What are codes that were learned without labels worth to a classifier that has few?

    LATENTLY_DATA=... python benchmarks/transfer.py

Binary MNIST. Encoders 784-200-200-d (tanh) see 60,000 rows without labels for 20 epochs of 100, as
an autoencoder and as a VAE; d is 10, and of a second VAE 50. Then --labels rows are labelled,
--repeats times, as many of every class, and every method of `latently.probe` is scored on the
10,000 test rows: a linear probe, the encoder fine-tuned, the same network from scratch, logistic
regression on pixels and on d principal components. Differences are paired. The bar: a linear
probe at least 10 points above the same network from scratch, with 100 labels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

import harness
import latently as lt
from latently.data import load
from latently.probability.families import Bernoulli

BAR = 10.0  # points
MODELS: dict[str, tuple[Any, int]] = {
    "autoencoder, 10": (lt.ae, 10),
    "VAE, 10": (lt.vae, 10),
    "VAE, 50": (lt.vae, 50),
}


def run(name: str, options: Any) -> dict[str, Any]:
    """One encoder and all that is read off its codes."""
    recipe, latents = MODELS[name]
    train = load("mnist:binary-dynamic/train+val", data_dir=options.data_dir)
    test = load("mnist:binary-dynamic/test", data_dir=options.data_dir)
    net = partial(lt.nets.MLP, hidden=(200, 200), activation=nn.Tanh)
    torch.manual_seed(0)
    model = recipe(train.shape, latents=latents, likelihood=Bernoulli, net=net)
    rate = lt.Cosine(start=1e-3)
    fitted = lt.fit(
        model, train, epochs=20, learning_rate=rate, seed=0, device="cpu", progress=False
    )
    found = lt.probe(model, train, test, labels=options.labels, draws=options.repeats, seed=0)
    return {
        "model": name,
        "call": str(model.call),
        "seconds_of_fit": fitted.seconds,
        **found.to_dict(),
        "claims": [
            {
                "what": f"{name}: {number.name}",
                "text": f"{number.value:+.1f} ± {number.stderr:.1f} points",
                "bar": BAR,
                "met": number.value >= BAR,
            }
            for number in (found.difference("linear", "scratch", k) for k in options.labels)
        ],
    }


def main() -> None:
    parser = harness.parser(__doc__, repeats=5)
    parser.add_argument("--labels", type=int, nargs="+", default=[100])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    harness.save("transfer", {"runs": [run(name, options) for name in options.models]}, options)


if __name__ == "__main__":
    main()
