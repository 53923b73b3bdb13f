"""Do denoising, contraction and robust training do what they are for, and is linear PCA?

    python benchmarks/autoencoders.py

8-bit MNIST, 784-256-128-32 and back, trained on the 60,000 rows of train and validation, told on
the 10,000 test rows; weights and levels were chosen on validation rows of models of the first
50,000. Every kind is fitted from three seeds. Errors are mean squared errors in variances of the
training rows (1: the mean image).

- Denoising: half of the pixels masked. The denoising autoencoder's error against the clean rows
  over the plain one's on the same masked rows; the bar is 0.5.
- Contractive: `sqrt(mean_x sum_j |dz_j/dx|^2 / var_j)`, which no change of the codes' scale moves,
  over that of the plain one; the bar is 0.5, at no more than 1.1 times its clean error. The
  Jacobian is exact, on 1,000 test rows.
- Robust: accuracy of a linear probe (logistic regression on the codes of 10,000 training rows)
  on 1,000 test rows that projected gradient ascent (20 steps) has moved by at most 0.1 of the
  span of pixels, against the probe's own cross-entropy, less that of the plain one; the bar is 10
  points, at no more than 1.1 times its clean error.
- Linear: squared error of a linear autoencoder on digits over that of PCA; the bar is 1.005.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import harness
import latently as lt
from latently import expr
from latently.inference.noise import seeded

EPOCHS, LATENTS, SEEDS = 15, 32, (0, 1, 2)
RATE = lt.Cosine(1e-3, 1e-5)
KINDS = {
    "plain": lt.Reconstruction(),
    "denoising": lt.Reconstruction(lt.Masking(0.5)),
    "contractive": lt.Reconstruction(None, lt.Contractive(1.0, exact=0)),
    "robust": lt.Reconstruction(lt.Adversarial(0.05, steps=5)),
}
BARS = {"masked": 0.5, "clean": 1.1, "jacobian": 0.5, "points": 10.0, "linear": 1.005}


def fitted(data: lt.Data, objective: lt.Objective, seed: int) -> lt.Autoencoder:
    """One autoencoder."""
    torch.manual_seed(seed)
    model = lt.ae(
        data.shape,
        latents=LATENTS,
        net=partial(lt.nets.MLP, hidden=(256, 128)),
        decoder_net=partial(lt.nets.MLP, hidden=(128, 256)),
    )
    options = {"epochs": EPOCHS, "learning_rate": RATE, "seed": seed, "device": "cpu"}
    lt.fit(model, data, objective, progress=False, **options)
    return model  # type: ignore[return-value]


def encoded(model: lt.Autoencoder) -> Callable[[Tensor], Tensor]:
    """Codes of what the encoder sees."""
    return lambda seen: model.encoder(seen, None).mean


def masked(model: lt.Autoencoder, test: lt.Data) -> float:
    """Error against the clean rows, given half of their pixels."""
    with seeded(0):
        seen = lt.Masking(0.5)(test.x, model.span)
    return float(((test.x - model.reconstruct(seen)).square() / model.unit).mean())


def jacobian(model: lt.Autoencoder, test: lt.Data) -> float:
    """Root of the mean squared norm of the Jacobian, in deviations of the codes."""
    deviation = model.encode(test.x)[0].std(0)
    (seen,) = model.seen(test.x[:1000])
    exact = lt.Contractive(1.0, exact=LATENTS)
    return math.sqrt(float(exact.squared_norm(seen, encoded(model), deviation).detach().mean()))


def probe(model: lt.Autoencoder, train: lt.Data) -> Callable[[Tensor], Tensor]:
    """Logits of a logistic regression on standardised codes, as a function of rows."""
    codes = model.encode(train.x[:10_000])[0]
    mean, deviation = codes.mean(0), codes.std(0).clamp(min=1e-9)
    fit = LogisticRegression(max_iter=500).fit(
        ((codes - mean) / deviation).numpy(), train.labels[:10_000].numpy()
    )
    weight, bias = (
        torch.tensor(part, dtype=torch.float32) for part in (fit.coef_, fit.intercept_)
    )
    return lambda x: ((encoded(model)(*model.seen(x)) - mean) / deviation) @ weight.T + bias


def attacked(logits: Callable[[Tensor], Tensor], span: Any, test: lt.Data) -> tuple[float, float]:
    """Accuracy on clean rows and on the worst ones near them, in percent."""
    x, y = test.x[:1000], test.labels[:1000]
    loss = partial(nn.functional.cross_entropy, target=y, reduction="none")
    with seeded(0):
        worst = lt.Adversarial(0.1, steps=20)(x, span, lambda x: loss(logits(x)))
    with torch.no_grad():
        right = [(logits(rows).argmax(1) == y).float().mean() for rows in (x, worst)]
    return 100 * float(right[0]), 100 * float(right[1])


def told(name: str, train: lt.Data, test: lt.Data, seed: int) -> dict[str, float]:
    """All that is measured of one model."""
    model = fitted(train, KINDS[name], seed)
    clean, worst = attacked(probe(model, train), model.span, test)
    found = {
        "seed": seed,
        "clean": float(model.anomaly_score(test.x).mean()),
        "masked": masked(model, test),
        "jacobian": jacobian(model, test),
        "probe": clean,
        "attacked": worst,
    }
    print(name, found, flush=True)
    return found


def linear() -> float:
    """Squared error of a linear autoencoder over that of PCA, on the digits it was fitted to."""
    data = lt.data.load("digits")
    flat = data.x.flatten(1).double().numpy()
    pca = PCA(16).fit(flat)
    best = float(((flat - pca.inverse_transform(pca.transform(flat))) ** 2).mean())
    torch.manual_seed(0)
    model = lt.ae(data.shape, latents=16, net=partial(lt.nets.MLP, hidden=()))
    lt.fit(model, data, epochs=150, learning_rate=lt.Cosine(0.01, 1e-4), progress=False)
    return float(model.errors(data.x).double().mean()) / best


def claims(runs: dict[str, list[dict[str, float]]], ratio: float) -> list[dict[str, Any]]:
    """The bars, by the worst of the seeds."""

    def over(name: str, key: str) -> list[float]:
        return [a[key] / b[key] for a, b in zip(runs[name], runs["plain"], strict=True)]

    def shown(values: list[float]) -> str:
        return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    pairs = zip(runs["robust"], runs["plain"], strict=True)
    points = [a["attacked"] - b["attacked"] for a, b in pairs]
    smooth, clean = over("contractive", "jacobian"), over("contractive", "clean")
    robust, spoilt = over("robust", "clean"), over("denoising", "masked")
    return [
        {
            "what": "half of the pixels masked: error of the denoising over the plain one",
            "text": shown(spoilt),
            "met": max(spoilt) <= BARS["masked"],
        },
        {
            "what": "Jacobian of the contractive over the plain one",
            "text": f"{shown(smooth)} at {shown(clean)} of its clean error",
            "met": max(smooth) <= BARS["jacobian"] and max(clean) <= BARS["clean"],
        },
        {
            "what": "accuracy under attack, robust less plain",
            "text": f"{shown(points)} points at {shown(robust)} of its clean error",
            "met": min(points) >= BARS["points"] and max(robust) <= BARS["clean"],
        },
        {
            "what": "error of a linear autoencoder over PCA's, digits",
            "text": f"{ratio:.5f}",
            "met": ratio <= BARS["linear"],
        },
    ]


def main() -> None:
    """Fits, measures and records."""
    options = harness.parser(__doc__, repeats=1).parse_args()
    torch.set_num_threads(options.threads)
    train = lt.data.load("mnist:8bit/train+val", data_dir=options.data_dir)
    test = lt.data.load("mnist:8bit/test", data_dir=options.data_dir)
    runs = {name: [told(name, train, test, seed) for seed in SEEDS] for name in KINDS}
    ratio = linear()
    result = {
        "objectives": {name: expr.show(objective) for name, objective in KINDS.items()},
        "epochs": EPOCHS,
        "learning_rate": expr.show(RATE),
        "runs": runs,
        "linear_over_pca": ratio,
        "claims": claims(runs, ratio),
    }
    harness.save("autoencoders", result, options)


if __name__ == "__main__":
    main()
