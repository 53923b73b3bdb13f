"""Are samples like held-out rows, and does the check for copies name a model that copies?

    python benchmarks/sample_quality.py --threads 1 [--data-dir DIR]

On digits (8 x 8, embedded), PPCA, a VAE and an IWAE are fitted here; beside them stand real rows
(the validation split, in the place of samples) and a model that copies: it resamples training rows
and moves one cell in twenty by one level. With a data folder also MNIST, with the models of runs/.
Every number is of 2,000 samples against the test split, in the activations of a classifier of the
training rows' labels; the column of real rows is one half of the test split against the other.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import harness
import latently as lt

SAMPLES = 2000
RUNS = Path(__file__).resolve().parent.parent / "runs"
MNIST = ("mnist-vae", "mnist-iwae5", "mnist-60-vamp500")


def fitted(train: lt.Data, validation: lt.Data, epochs: int) -> dict[str, lt.Model]:
    """The models of digits."""
    linear = lt.ppca(train.shape, latents=32, levels=17)
    lt.fit(linear, train, progress=False)
    found: dict[str, lt.Model] = {"ppca, 32 latents": linear}
    objectives = {
        "vae": lt.Variational(),
        "iwae, 10 draws": lt.Variational(lt.IWAE(), lt.DReG(), samples=10),
    }
    likelihood = partial(lt.families.DiscretizedLogistic, levels=17)
    net = partial(lt.nets.MLP, hidden=(256, 256), activation=torch.nn.SiLU)
    for name, objective in objectives.items():
        torch.manual_seed(0)
        model = lt.vae(train.shape, latents=16, likelihood=likelihood, net=net)
        options = {"epochs": epochs, "batch_size": 64, "learning_rate": lt.Cosine(2e-3)}
        lt.fit(model, train, objective, validation=validation, progress=False, **options)
        found[name] = model
    return found


def copies(train: Tensor, seed: int) -> Tensor:
    """Training rows drawn with replacement, one cell in twenty moved by a level."""
    generator = torch.Generator().manual_seed(seed)
    x = train[torch.randint(len(train), (SAMPLES,), generator=generator)]
    moved = torch.rand(x.shape, generator=generator) < 0.05
    step = torch.where(torch.rand(x.shape, generator=generator) < 0.5, -1.0, 1.0)
    return (x + moved * step).clamp(0, 16)


def timed(found: lt.SampleQuality, began: float) -> dict[str, Any]:
    """What is recorded: every measure as value, reference and difference, each with its error."""
    seconds = time.perf_counter() - began
    print(found, f"\n{seconds:.1f} s\n", flush=True)
    parts = ("value", "reference", "difference")
    numbers = {
        name: {part: [number[part]["value"], number[part]["stderr"]] for part in parts}
        for name, number in found.to_dict()["measures"].items()
    }
    return {**found.to_dict(), "kind": "estimate", "measures": numbers, "seconds": seconds}


def judged(
    models: dict[str, lt.Model], test: lt.Data, train: lt.Data, seed: int
) -> dict[str, Any]:
    results = {}
    for name, model in models.items():
        print(name)
        began = time.perf_counter()
        results[name] = timed(lt.judge_samples(model, test, train, n=SAMPLES, seed=seed), began)
    return results


def digits(epochs: int, seed: int) -> dict[str, Any]:
    """Three models, real rows and copies."""
    train, validation, test = (
        lt.data.load(f"digits/{split}") for split in ("train", "validation", "test")
    )
    results = judged(fitted(train, validation, epochs), test, train, seed)
    space = lt.ClassifierFeatures().fit(train.x, train.labels, seed=seed, of=train.protocol)
    for name, rows in (("real rows", validation.x), ("copies", copies(train.x, seed))):
        print(name)
        began = time.perf_counter()
        found = lt.sample_quality(rows, test.x, train.x, features=space, seed=seed)
        results[name] = timed(found, began)
    return results


def mnist(data_dir: str, seed: int) -> dict[str, Any]:
    """The models of runs/, all fitted to the training and validation rows."""
    spec = "mnist:binary-dynamic"
    train = lt.data.load(f"{spec}/train+val", data_dir=data_dir)
    test = lt.data.load(f"{spec}/test", data_dir=data_dir)
    models = {name: lt.load(RUNS / f"{name}.safetensors") for name in MNIST}
    return judged(models, test, train, seed)


def claims(data: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What the table shows: distances, and who copies."""
    found = []
    for name, results in data.items():
        parts = []
        for model, result in results.items():
            frechet = result["measures"]["frechet"]
            parts.append("{} {:.3f} ± {:.3f}".format(model, *frechet["value"]))
        what = f"Frechet distance over variance, {name}, features of a classifier"
        text = f"{', '.join(parts)}; halves of test rows {frechet['reference'][0]:.3f}"
        found.append({"what": what, "text": text})
    named = {
        model: result["findings"][0].startswith("samples are copies")
        for model, result in data["digits"].items()
    }
    guilty = [model for model, is_named in named.items() if is_named]
    others = sum(
        line.startswith("samples are copies")
        for results in data.values()
        for model, result in results.items()
        for line in result["findings"]
        if model != "copies"
    )
    found.append(
        {
            "what": "models named as copies; one is",
            "text": ", ".join(guilty) or "none",
            "met": guilty == ["copies"] and others == 0,
        }
    )
    return found


def main() -> None:
    """Fits, draws and compares."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--epochs", type=int, default=50, help="of the models of digits")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = {"digits": digits(options.epochs, options.seed)}
    if options.data_dir:
        data["mnist:binary-dynamic"] = mnist(options.data_dir, options.seed)
    result = {"samples": SAMPLES, "seed": options.seed, "epochs": options.epochs, "data": data}
    harness.save("sample_quality", {**result, "claims": claims(data)}, options)


if __name__ == "__main__":
    main()
