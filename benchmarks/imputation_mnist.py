"""MNIST with the lower half missing: what do a VAE's imputations know of it?

    python benchmarks/imputation_mnist.py --data-dir DIR

Measured is the mean log-probability of a hidden pixel's true value, under the marginal probability
that each method gives it, over the first 1,000 test images of mnist:binary-dynamic:

- `vae`: 784-200-200-50, fitted to whole images; p(x_j | upper half) from 1,000 particles weighted
  by importance, which move because its encoder never saw a hole (`sweeps`).
- `vae for holes`: the same net as an IWAE (k = 5, DReG), fitted with the lower half of every other
  image hidden, drawn anew at every use: `--mask "Sometimes(Half)"`.
- `class mean`: the mean of the training images of the *true* class, which it is told.
- `5 nearest neighbours`: of the 50,000 training images by the upper half, their mean lower half;
  smoothed towards 1/2 by the weight that is best on validation images.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

import harness
import latently as lt
from latently.data.masks import Half, Mask, Sometimes

ROWS, EPOCHS, SAMPLES = 1000, 40, 1000
TINY = 1e-6
WEIGHTS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def log_p(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean log-probability of the hidden pixels of every image, (n,)."""
    p = np.clip(probability, TINY, 1 - TINY)
    return np.where(truth > 0.5, np.log(p), np.log1p(-p)).mean(1)


def fitted(train: lt.Data, hide: Mask | None, epochs: int) -> lt.Model:
    """The VAE after `epochs` epochs."""
    torch.manual_seed(0)
    net = partial(lt.nets.MLP, hidden=(200, 200), activation=torch.nn.Tanh)
    model = lt.vae(train.shape, latents=50, net=net, sees_mask=hide is not None)
    objective = None if hide is None else lt.Variational(lt.IWAE(), lt.DReG(), samples=5)
    rate = lt.Cosine(1e-3)
    lt.fit(model, replace(train, hide=hide), objective, epochs=epochs, learning_rate=rate, seed=0)
    return model


def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower halves, flat."""
    flat = x.reshape(len(x), -1)
    return flat[:, :392], flat[:, 392:]


def neighbours(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Mean lower half of the five training images with the nearest upper halves."""
    from sklearn.neighbors import NearestNeighbors

    known, wanted = halves(train)
    found = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(known)
    index = found.kneighbors(halves(test)[0], return_distance=False)
    return wanted[index].mean(1)


def smoothed(mean: np.ndarray, weight: float) -> np.ndarray:
    """(5 m + w) / (5 + 2 w)."""
    return (5 * mean + weight) / (5 + 2 * weight)


def main() -> None:
    """Fits, imputes and compares."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec = "mnist:binary-dynamic"
    train = lt.data.load(f"{spec}/train", data_dir=options.data_dir)
    validation = lt.data.load(f"{spec}/validation", data_dir=options.data_dir).rows(
        slice(0, options.rows)
    )
    test = lt.data.load(f"{spec}/test", data_dir=options.data_dir).rows(slice(0, options.rows))
    grey, truth = train.x.numpy(), halves(test.x.numpy())[1]
    found: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    for name, hide in (("vae", None), ("vae for holes", Sometimes(Half()))):
        began = time.monotonic()
        model = fitted(train, hide, options.epochs)
        seconds = time.monotonic() - began
        imputed = lt.impute(
            model, test.hidden(Half("lower")), draws=1, samples=SAMPLES, quantiles=()
        )
        found[name] = log_p(halves(imputed.mean.numpy())[1], truth)
        assert imputed.ess is not None
        facts[name] = {
            "fit_seconds": seconds,
            "impute_seconds_per_image": (time.monotonic() - began - seconds) / len(test),
            "median_ess": float(imputed.ess.median()),
        }
    labels = test.labels
    assert labels is not None
    assert train.labels is not None
    means = np.stack([halves(grey[train.labels == c])[1].mean(0) for c in range(10)])
    found["class mean"] = log_p(means[labels], truth)
    held = neighbours(grey, validation.x.numpy())
    held_truth = halves(validation.x.numpy())[1]
    weight = max(WEIGHTS, key=lambda w: log_p(smoothed(held, w), held_truth).mean())
    near = neighbours(grey, test.x.numpy())
    found["5 nearest neighbours"] = log_p(smoothed(near, weight), truth)
    facts["5 nearest neighbours"] = {"weight": weight}
    ours = found["vae for holes"]
    claims = []
    for peer in ("class mean", "5 nearest neighbours"):
        difference = ours - found[peer]
        mean, stderr = difference.mean(), difference.std() / np.sqrt(len(difference))
        claims.append(
            {
                "what": f"log p of a hidden MNIST pixel, VAE for holes minus {peer}",
                "text": f"{mean:+.4f} ± {stderr:.4f} nats",
                "met": bool(mean > 2 * stderr),
            }
        )
    result = {
        "rows": len(test),
        "epochs": options.epochs,
        "samples": SAMPLES,
        "log_p_per_hidden_pixel": {name: float(v.mean()) for name, v in found.items()},
        "stderr": {n: float(v.std() / np.sqrt(len(v))) for n, v in found.items()},
        "facts": facts,
        "claims": claims,
    }
    harness.save("imputation_mnist", result, options)


if __name__ == "__main__":
    main()
