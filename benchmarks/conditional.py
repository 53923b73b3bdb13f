"""Class-conditional VAE against the unconditional one at equal budget, on MNIST.

    python benchmarks/conditional.py --data-dir DIR

Both are 784-200-200-50 with tanh, mnist:binary-dynamic/train+val, the same epochs, batches and
seed. The conditional one models p(x|c), c the label: one-hot into encoder, decoder and prior
(LearnedNormal). Knowing c is worth at most log 10 = 2.30 nats if the class could be told from x,
as `log p(x|c) - log p(x) = log p(c|x) - log p(c)`; anything above is a better model.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import harness
import latently as lt

EPOCHS, SAMPLES, BAR = 100, 1000, 2.0


def fitted(data: lt.Data, epochs: int, **options: Any) -> tuple[lt.Model, float]:
    """A VAE after `epochs` epochs, and the seconds it took."""
    torch.manual_seed(0)
    net = partial(lt.nets.MLP, hidden=(200, 200), activation=torch.nn.Tanh)
    model = lt.vae(data.shape, latents=50, net=net, **options)
    done = lt.fit(model, data, epochs=epochs, learning_rate=lt.Cosine(1e-3), seed=0)
    return model, done.seconds


def main() -> None:
    """Fits both, and compares them row by row."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec, where = "mnist:binary-dynamic", options.data_dir
    found = {}
    for name, context in (("unconditional", None), ("conditional", "label")):
        train = lt.data.load(f"{spec}/train+val", data_dir=where, context=context)
        like = train.to_schema()
        test = lt.data.load(f"{spec}/test", data_dir=where, like=like)
        extra = {"contexts": 10, "prior": lt.priors.LearnedNormal} if context else {}
        model, seconds = fitted(train, options.epochs, **extra)
        evidence = lt.evaluate(model, test, lt.ImportanceSampling(options.samples))
        found[name] = (evidence, seconds)
        print(name, evidence)
    difference, stderr = found["conditional"][0].paired(found["unconditional"][0])
    result = {
        "epochs": options.epochs,
        **{
            name: {**evidence.to_dict(), "fit_seconds": seconds}
            for name, (evidence, seconds) in found.items()
        },
        "claims": [
            {
                "what": "p(x|label) minus p(x), MNIST, paired",
                "text": f"{difference:+.2f} ± {stderr:.2f} nats",
                "met": difference - 2 * stderr >= BAR,
            }
        ],
    }
    harness.save("conditional", result, options)


if __name__ == "__main__":
    main()
