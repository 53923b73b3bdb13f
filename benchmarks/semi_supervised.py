"""How far do 100 labels go on MNIST: M2 and M1+M2 on the classes of the 10,000 test images.

    python benchmarks/semi_supervised.py --threads 1 --jobs 2
    python benchmarks/semi_supervised.py --threads 1 --only M2 --seeds 1

Of the 50,000 training images of mnist:binary-dynamic 100 keep their label, ten of each digit,
drawn by the seed of the run. What is fitted sees no other label; settings were chosen on the
validation images of seed 0. The accuracy is that of the classifier q(y|x) on images binarised
once; beside it stands log p(x) of the first test images, labels hidden.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

import harness
import latently as lt
from latently import expr

LABELS, BAR = 100, 0.92
EVIDENCE_ROWS, DRAWS = 200, 100
MLP = lt.nets.MLP
WARM = lt.ELBO(beta=lt.Warmup(1.0, steps=3000))
SETTINGS: dict[str, dict[str, Any]] = {
    "M1+M2": {
        "model": {
            "latents": 10,
            "features": 50,
            "net": partial(MLP, hidden=(256,)),
            "features_net": partial(MLP, hidden=(500, 500)),
        },
        "objective": lt.SemiSupervised(alpha=0.5, bound=WARM, pretrain=0.4),
        "epochs": 80,
        "learning_rate": 0.002,
    },
    "M2": {
        "model": {"latents": 50, "net": partial(MLP, hidden=(256,))},
        "objective": lt.SemiSupervised(alpha=0.3, bound=WARM),
        "epochs": 5,
        "learning_rate": 0.001,
    },
}


def accuracy(model: Any, data: lt.Data) -> tuple[float, float]:
    """The share of rows whose likeliest class is theirs, with its binomial standard error."""
    found = torch.cat([model.classify(x) for x in data.x.split(1000)]).argmax(1)
    right = float((found == data.labels).double().mean())
    return right, math.sqrt(right * (1 - right) / len(data))


def run(name: str, seed: int, *, data_dir: str | None) -> dict[str, Any]:
    """One model from one draw of labels."""
    read = partial(lt.data.load, data_dir=data_dir)
    parts = ("train", "validation", "test")
    train, validation, test = (read(f"mnist:binary-dynamic/{part}") for part in parts)
    known = lt.data.with_labels(train, LABELS, seed)
    settings = SETTINGS[name]
    torch.manual_seed(seed)
    model = lt.ssvae(known.shape, **settings["model"])
    began = time.perf_counter()
    rate = lt.Cosine(settings["learning_rate"])
    options = {"epochs": settings["epochs"], "batch_size": 100, "learning_rate": rate}
    lt.fit(model, known, settings["objective"], seed=seed, device="cpu", progress=False, **options)
    seconds = time.perf_counter() - began
    (held, _), (right, error) = (accuracy(model, part.once()) for part in (validation, test))
    few = test.once().rows(slice(0, EVIDENCE_ROWS))
    evidence = lt.evaluate(model, few, lt.ImportanceSampling(DRAWS))
    print(
        f"{name} seed {seed}: {held:.4f} validation, {right:.4f} test, {seconds:.0f} s", flush=True
    )
    return {
        "seed": seed,
        "protocol": known.protocol,
        "accuracy_validation": held,
        "accuracy_test": right,
        "accuracy_stderr": error,
        "log_prob": {**evidence.to_dict(), "warnings": len(evidence.warnings)},
        "seconds": seconds,
    }


def claims(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over draws of the labels."""
    found = []
    for one in models:
        values = [run["accuracy_test"] for run in one["runs"]]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        several = f", standard deviation {spread:.4f}" if len(values) > 1 else ""
        claim: dict[str, Any] = {
            "what": f"{one['model']}: accuracy on the MNIST test images, {LABELS} labels",
            "text": f"{statistics.mean(values):.4f} over {len(values)} draws of labels{several}",
        }
        if one["model"] == "M1+M2":
            claim |= {"bar": BAR, "met": statistics.mean(values) >= BAR}
        found.append(claim)
    return found


def main() -> None:
    """Fits and records; runs of other models are kept."""
    parser = harness.parser(__doc__, repeats=1)
    parser.add_argument("--only", choices=list(SETTINGS), help="this model alone")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--seeds", type=int, default=3, help="draws of labels, from seed 0 on")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    file = harness.HERE / "results" / "semi_supervised.json"
    before = json.loads(file.read_text())["models"] if file.exists() else []
    found = {one["model"]: one for one in before}
    for name, settings in SETTINGS.items():
        if options.only not in (None, name):
            continue
        one = partial(run, name, data_dir=options.data_dir)
        with ProcessPoolExecutor(
            options.jobs,
            mp_context=get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(options.threads,),
        ) as pool:
            runs = list(pool.map(one, range(options.seeds)))
        shown = {key: expr.show(value) for key, value in settings["model"].items()}
        chosen = {**settings, "model": shown, "objective": expr.show(settings["objective"])}
        chosen["learning_rate"] = expr.show(lt.Cosine(settings["learning_rate"]))
        found[name] = {"model": name, "settings": chosen, "runs": runs}
        models = [found[known] for known in SETTINGS if known in found]
        result = {"labels": LABELS, "models": models, "claims": claims(models)}
        harness.save("semi_supervised", result, options)


if __name__ == "__main__":
    main()
