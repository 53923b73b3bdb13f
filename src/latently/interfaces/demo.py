"""`latently demo`: four models of real digits, what each number means, and a page to look at.

The models are four of the cards, fitted by their calls; the calls are stored in the files and
shown in the report.
"""

from __future__ import annotations

import time
from pathlib import Path

from latently import data as data_floor
from latently.data import Data
from latently.errors import Interrupted
from latently.inference import Evidence, ImportanceSampling
from latently.interfaces.cards import card
from latently.interfaces.fitting import fit_to_file
from latently.interfaces.opening import measured
from latently.interfaces.output import check_folder
from latently.interfaces.pictures import grid, pairs, save_png
from latently.interfaces.ranking import print_ranking, rank
from latently.interfaces.report import Entry, write_report
from latently.interfaces.request import read_request
from latently.io import Saved, load_saved

__all__ = ["MODELS", "run_demo"]

DATA = "digits"
SEED = 0
SAMPLES, QUICK_SAMPLES = 1000, 50
MODELS = {
    "fa": "digits-fa32",
    "ppca": "digits-ppca32",
    "vae": "digits-vae",
    "iwae": "digits-iwae",
}


def run_demo(out: str, *, quick: bool = False) -> dict[str, Evidence]:
    """Fits, judges and draws; prints where everything is. Returns the evidence on test rows."""
    began = time.monotonic()
    folder = check_folder(out)
    train, validation = data_floor.splits(DATA)
    test = data_floor.load(f"{DATA}/test")
    samples = QUICK_SAMPLES if quick else SAMPLES
    print(
        f"{DATA}: {len(train)} training, {len(validation or ())} validation and {len(test)} test "
        f"images of {test.shape[1]} x {test.shape[2]} pixels, {test.levels} grey levels\n"
    )
    saved: dict[str, Saved] = {}
    for name, number in MODELS.items():
        print(f"fitting {name}: {card(number).claim}", flush=True)
        words, _ = card(number).budget(quick)
        path = folder / f"{name}.safetensors"
        try:
            fit_to_file(read_request([*words, "--out", str(path), "--force"]), train, validation)
        except Interrupted as stop:
            raise Interrupted(f"{str(stop).partition(';')[0]}; a demo starts anew") from None
        saved[name] = load_saved(path)
    print(f"\nlog p(x) of {len(test)} test images, {samples} draws each", flush=True)
    method = ImportanceSampling(samples)
    judged = {
        name: measured(entry, test, method, SEED, quiet=True) for name, entry in saved.items()
    }
    best = _best(saved, validation or train, method)
    _draw(folder, saved[best], test)
    entries = [Entry(name, saved[name], judged[name]) for name in saved]
    write_report(
        folder / "report.html",
        entries,
        test,
        title="Latent variable models of handwritten digits",
        seed=SEED,
        command="latently demo",
    )
    print_ranking(rank(judged))
    _tell(folder, best, judged[best], time.monotonic() - began)
    return judged


def _best(saved: dict[str, Saved], validation: Data, method: ImportanceSampling) -> str:
    """The model with the highest evidence on validation rows."""
    found = {
        name: measured(entry, validation, method, SEED, quiet=True).nats
        for name, entry in saved.items()
    }
    return max(found, key=lambda name: found[name])


def _draw(folder: Path, best: Saved, test: Data) -> None:
    """Samples, and reconstructions beside originals, of the best model."""
    high = float((test.levels or 2) - 1)
    save_png(grid(best.model.sample(64, seed=SEED), low=0, high=high), folder / "samples.png")
    rows = test.x[:32]
    shown = pairs(rows, best.model.reconstruct(rows), low=0, high=high)
    save_png(shown, folder / "reconstructions.png")


def _tell(folder: Path, best: str, evidence: Evidence, seconds: float) -> None:
    print(
        f"\nBest on validation: {best}. On the test images:\n  {evidence}\n"
        "A bound says log p(x) is at least that; higher is better. FA and PPCA are densities, "
        "dequantized\nto be comparable. Legend: the report, or docs/evidence.md.\n"
    )
    for name, about in (
        ("report.html", "open this: evidence, curves, latents, samples, reconstructions"),
        ("samples.png", f"64 samples of {best}"),
        ("reconstructions.png", "test images and their reconstructions"),
        ("*.safetensors", "the models, for latently evaluate, sample, score, ..."),
    ):
        print(f"  {folder / name}  {about}")
    print(f"\n{seconds:.0f} seconds")
