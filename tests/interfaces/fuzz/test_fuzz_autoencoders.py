"""Autoencoders and semi-supervised VAEs of any rows answer every verb, or refuse in one line.

A case is a file of rows, some of them odd (constant, copied, vast, with holes), with labels, some
of them odd too (one class, words, negative, unknown), and a call of `latently fit ae` or `fit
ssvae`, drawn by seed. A model that is fitted is asked all verbs: each ends with exit code 0 and
finite numbers that agree with each other, or with 2 and one line of words, and leaves nothing.
"""

import csv
import importlib.util
import json
import math
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import latently as lt
from latently import Data
from latently.interfaces.opening import open_model
from latently.nets import MLP
from latently.probability.families import Normal
from latently.registry import KINDS, components


def beside(name):
    """Another file of this folder as a module."""
    spec = importlib.util.spec_from_file_location(
        name, Path(__file__).with_name(f"test_{name}.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


algebra, densities = beside("fuzz_algebra"), beside("fuzz_densities")

SHAPES = ((4,), (3,), (1,), (8, 8), (5, 3), (1, 8, 8), (3, 5, 3), (2, 2, 3))
ROWS = (1, 2, 12, 12, 30, 30)
CODES = ("2", "1", "3", "(2,)", "(2, 2)", "(1, 2, 2)", "(3, 1)", "40")
NETS = (
    *("MLP(hidden=(4,))", "MLP(hidden=(4,))", "MLP(hidden=())", "Conv(channels=(2,))"),
    *("Conv(channels=(2, 3))", "ResNet(channels=(2,))", "ResNet(channels=(2, 3), blocks=1)"),
)
ACTIVATIONS = ("Sigmoid", "Tanh", "ReLU", "Identity", "Softplus", "GELU")
CORRUPTIONS = (
    *("Gaussian(0.1)", "Gaussian(0.0)", "Gaussian(1.0)", "Masking(0.5)", "Masking(1.0)"),
    *("Masking(0.3, value=1.0)", "SaltAndPepper(0.2)", "SaltAndPepper(1)", "Masking(0)"),
    *("Adversarial(0.1, steps=2)", "Adversarial(0.3, norm='2', steps=1)", "Adversarial(0.0)"),
)
PENALTIES = (
    *("L1(0.1)", "L1(1.0, relative=False)", "Sparsity(0.1)", "Sparsity(1, target=0.5)"),
    *("Contractive(0.1)", "Contractive(0.1, relative=False)", "Contractive(0.1, exact=0)"),
    *("L1(0)", "Contractive(1, exact=1, probes=2)", "(L1(0.1), Contractive(0.1))"),
)
OBJECTIVES = (
    *("Reconstruction", "Reconstruction(Masking(0.5), L1(0.1))", "Variational", "SemiSupervised"),
    *("SemiSupervised(alpha=0)", "Variational(bound=IWAE, samples=2)", *algebra.OBJECTIVES),
)
LABELS = ("all", "all", "2", "3", "6", "0", "1", "10000", "-1", "words", "2.5", "")
DENSITIES = (
    *("mixture", "mixture(components=2)", "mixture(components=1, family=Diagonal())", "fa"),
    *("fa(latents=1)", "ppca(latents=1)", "flow(flow=NSF(transforms=1, bins=3))", "flow"),
    *("mixture(components=2, family=Student())", "vae(latents=1)", "ae", "ssvae", "mixtures"),
    *("flow(flow=Glow())", "fa(latents=50)", "vae(likelihood=Normal, latents=1)", "fa(levels=3)"),
    *("mixture(", "", "mixture(components=0)", "mixture(shape=(3,))", "flow(contexts=2)"),
)
METHODS = (
    "linear",
    "linear,pca",
    "cells",
    "linear,cells,pca",
    "scratch",
    "fine-tuned",
    "liner",
    ",",
)
NUMBERS = ("3", "3,5", "all", "4,all", "all", "2", "0", "-1", "10000", "x", "")
PARTS = ("latents", "latents", "gaps", "opinion", "bracket", "curve", "samples")


def three(n, rng):
    return np.arange(n) % 3


def one_class(n, rng):
    return np.full(n, 5)


def far_apart(n, rng):
    return np.where(np.arange(n) % 2 == 0, -7, 10**12)


def half_known(n, rng):
    return np.where(rng.random(n) < 0.5, -1, np.arange(n) % 2)


def none_known(n, rng):
    return np.full(n, -1)


def own_class(n, rng):
    return np.arange(n)


def gaps(n, rng):
    return np.where(rng.random(n) < 0.3, np.nan, np.arange(n) % 2)


def fractions(n, rng):
    return np.arange(n) / 2


def words(n, rng):
    return np.array([f"class {k % 2}" for k in range(n)])


def too_few(n, rng):
    return np.arange(max(n - 1, 0))


def truth(n, rng):
    return np.arange(n) % 2 == 0


CLASSES = (three, three, three, one_class, far_apart, half_known, none_known, own_class, gaps)
CLASSES += (fractions, words, too_few, truth)


class Case:
    """Rows, their labels and the flags of a fit."""

    def __init__(self, seed):
        self.seed, self.chance = seed, random.Random(seed)
        some, often = self.chance.choice, self.often
        self.rng = np.random.default_rng(seed)
        self.recipe = some(("ae", "ae", "ssvae"))
        self.kind = some(sorted(algebra.FAMILIES))
        self.shape, self.n = some(SHAPES), some(ROWS)
        if self.shape == (1,) and self.kind in ("simplex", "one-hot"):
            self.shape = (3,)
        self.x = algebra.rows(self.kind, self.n, self.shape, self.rng)
        flat = self.x.reshape(self.n, -1)
        if often(0.25):
            some(densities.ODD)(flat)
        if often(0.15):
            some(densities.HOLES)(flat, self.rng)
        if often(0.1) and np.isfinite(self.x).all() and np.abs(self.x).max() < 100:
            self.x = self.x.round().astype(np.uint8 if self.x.min() >= 0 else np.int64)
        self.classes = some(CLASSES) if often(0.4 if self.recipe == "ssvae" else 0.2) else three
        self.y = self.classes(self.n, self.rng)
        self.flags = {"epochs": some((1, 2)), "quiet": None, "net": self._net()}
        self.flags["batch-size"] = some((1, 2, 5, 100))
        self.flags |= self._of_ae() if self.recipe == "ae" else self._of_ssvae()
        self._beside()
        self.context = "context" in self.flags

    def often(self, share):
        return self.chance.random() < share

    def _net(self):
        images = len(self.shape) > 1 and self.recipe == "ae"
        return self.chance.choice(NETS if images or self.often(0.03) else NETS[:3])

    def _likelihood(self):
        return self.chance.choice(
            algebra.FAMILIES[self.kind] if self.often(0.95) else algebra.EVERY
        )

    def _of_ae(self):
        some, often = self.chance.choice, self.often
        flags = {"latents": some(CODES if often(0.7) else CODES[:1])}
        if often(0.5):
            flags["likelihood"] = self._likelihood()
        if often(0.4):
            flags["activation"] = some(ACTIVATIONS)
        if often(0.5):
            flags["corruption"] = some(CORRUPTIONS)
        if often(0.5):
            flags["penalty"] = some(PENALTIES)
            if "Sparsity" in flags["penalty"] and often(0.8):
                flags["activation"] = "Sigmoid"
        if often(0.15):
            flags["context"] = "label"
        if often(0.05):
            flags["labels"] = some(LABELS)
        return flags

    def _of_ssvae(self):
        some, often = self.chance.choice, self.often
        flags = {
            "latents": some(("2", "1", "3")),
            "labels": some(LABELS if often(0.4) else LABELS[:5]),
        }
        if often(0.9):
            flags["likelihood"] = self._likelihood()
        if often(0.3):
            flags["features"] = some(("2", "3", "1", "0"))
        if often(0.2):
            flags["posterior"] = some(("Normal", "Laplace", "LogNormal", "Gamma", "OneHot"))
        if often(0.1):
            flags["samples"] = "2"
        if often(0.05):
            flags["context"] = "label"
        return flags

    def _beside(self):
        some, often, flags = self.chance.choice, self.often, self.flags
        if often(0.15):
            flags["decoder-net"] = self._net()
        if often(0.1):
            flags["sees-mask"] = None
        if often(0.1):
            flags["mask"] = some(densities.MASKS)
        if often(0.2):
            flags["validation"] = some(("0.2", "0.5"))
        if often(0.1):
            flags["ema"] = "0.9"
        if often(0.1):
            flags["accumulate"] = "2"
        if often(0.1):
            flags["precision"] = some(("bf16-mixed", "64-true", "bf16-true"))
        if often(0.1):
            flags["clip"] = "1"
        if often(0.05):
            flags["inference-steps"] = "1"
        if often(0.15):
            for name in ("corruption", "penalty", "samples"):
                flags.pop(name, None)
            flags["objective"] = some(OBJECTIVES)

    def words(self):
        for name, value in self.flags.items():
            yield from ([f"--{name}"] if value is None else [f"--{name}", value])

    def mask(self, share):
        return ["--mask", self.chance.choice(densities.MASKS)] if self.often(share) else []


class Asked(densities.Asked):
    """Asks verbs, and sees that a refused one leaves nothing behind."""

    def __call__(self, verb, *words, out=None):
        before = sorted(self.folder.rglob("*"))
        found = super().__call__(verb, *words, out=out)
        now = sorted(self.folder.rglob("*"))
        if found is None:
            assert now == before, (verb, words)
        assert not [p for p in now if p.suffix in (".tmp", ".checkpoint", ".lock")], (verb, now)
        return found

    def fit(self):
        data = self.folder / "x.npz"
        np.savez(data, x=self.case.x, y=self.case.y, age=np.arange(self.case.n) / 7)
        model = self.folder / "m.safetensors"
        ran = self("fit", self.case.recipe, "--data", data, *self.case.words(), "--out", model)
        assert model.exists() == (ran is not None)
        return None if ran is None else (model, "--data", data)


def trained(model):
    """Every number of the history, which a run that went on must have kept finite."""
    for row in open_model(str(model)).training["history"]:
        for name, value in row.items():
            assert math.isfinite(value), (name, value)


def measured(ask, about):
    densities.measured(ask, about)
    ask("compare", *about, "--samples", 3)
    said = ask("show", about[0])
    assert said
    assert ask("show", about[0], "--command").startswith(f"latently fit {ask.case.recipe}")


def drawn(ask, about):
    case = ask.case
    given = ["--context", "each"] if case.context or case.often(0.2) else []
    densities.finite(ask("sample", about[0], "-n", 3, *given, out="s.npz"))
    ask("sample", about[0], "-n", 3, *given, out=case.chance.choice(("s.png", "s.csv", "s.npy")))


def carried(ask, about):
    densities.finite(ask("encode", *about, *ask.case.mask(0.2), out="z.npz"))
    ask("encode", *about, out="z.csv")
    densities.finite(ask("reconstruct", *about, *ask.case.mask(0.2), out="r.npz"))
    ask("reconstruct", *about, out="r.png")


def scored(ask, about):
    """The table and the arrays say the same, and cells add up to the error of their row."""
    hidden = ask.case.mask(0.2)
    more = ["--contributions"] if ask.case.often(0.6) else []
    found = ask("score", *about, *hidden, *more, "--samples", 3, out="c.npz")
    if found is None:
        found = ask("score", *about, *hidden, *more, out="c.npz")
        written = ask("score", *about, *hidden, *more, out="c.csv")
    else:
        written = ask("score", *about, *hidden, *more, "--samples", 3, out="c.csv")
    assert (found is None) == (written is None)
    if found is None:
        return
    none = ask.case.recipe == "ae"
    unseen = ~seen_of(ask.case.x).reshape(ask.case.n, -1).any(1)
    free = ("log_prob", "mc_stderr") if none else ()
    densities.finite({k: v[~unseen] for k, v in found.items()} if not hidden else {}, free)
    with (ask.folder / "c.csv").open() as file:
        table = list(csv.DictReader(file))
    for name in ("anomaly_score", "reconstruction_error"):
        said = np.array([float(row[name] or "nan") for row in table])
        np.testing.assert_allclose(said, found[name], rtol=1e-6, atol=1e-30)
    if more:
        cells = [float(v) for k, v in table[0].items() if k.startswith("contribution_x")]
        np.testing.assert_allclose(cells, found["contributions"][0].ravel(), rtol=1e-6)


def seen_of(x):
    return ~np.isnan(x) if x.dtype.kind == "f" else np.ones(x.shape, bool)


def judged(ask, about):
    case = ask.case
    few = ["--draws", 2, "--samples", 20, "--sweeps", 2]
    densities.finite(ask("impute", *about, *few, *case.mask(0.8), out="i.npz"))
    part = case.chance.choice(PARTS)
    how = ["--method", "AIS(steps=3, chains=2)"] if case.often(0.3) else ["--rows", 2]
    ask("diagnose", *about, "--parts", part, *how)
    if case.often(0.3):
        ask("report", *about, "--samples", 3, *case.mask(0.2), out="r.html")


def sorted_out(ask, about):
    """Classes: shares of a row sum to one, the likeliest is the class."""
    more = ["--samples", ask.case.chance.choice((1, 3, 0))] if ask.case.often(0.5) else []
    found = ask("classify", *about, *more, *ask.case.mask(0.2), out="k.npz")
    if found is None:
        return
    assert ask.case.recipe == "ssvae"
    densities.finite(found)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, atol=1e-5)
    assert (found["class"] == found["classes"][found["probabilities"].argmax(1)]).all()
    assert ask("classify", *about, *more, out="k.csv") is not None


def probed(ask, about):
    case, some = ask.case, ask.case.chance.choice
    words = ["--draws", some((1, 1, 1, 2, 0)), "--methods", some(METHODS)]
    words += ["--labels", some(NUMBERS)] if case.often(0.8) else []
    words += ["--corruption", some(CORRUPTIONS)] if case.often(0.2) else []
    out = some((None, None, "p.json", "p.csv", "p.html"))
    said = ask("probe", *about, *words, "--json", out=out)
    if said is None:
        return
    found = json.loads(said)
    accuracies = [a for score in found["scores"] for a in score["accuracies"]]
    assert accuracies, found
    assert all(0 <= a <= 100 for a in accuracies), found


def given_density(ask, about):
    """A density of codes draws rows; all else says what it said before."""
    codes = ask.case.chance.choice(DENSITIES)
    said = ask("fit-density", *about, "--codes", codes, out="d.safetensors")
    if said is None:
        return
    assert ask.case.recipe == "ae"
    given = ["--context", "each"] if ask.case.context else []
    found = ask("sample", ask.folder / "d.safetensors", "-n", 3, *given, out="ds.npz")
    densities.finite(found)
    assert found, codes
    again = (ask.folder / "d.safetensors", *about[1:])
    before, now = (ask("encode", *which, out=f"{k}.npz") for k, which in enumerate((about, again)))
    if before:
        assert np.array_equal(before["z0"], now["z0"])
    ask("show", again[0])
    densities.measured(ask, again)


QUESTIONS = (measured, drawn, carried, scored, judged, sorted_out, probed, given_density)


def walk(seed, cli, folder, outcomes, questions=8):
    """Fits one case and asks some of the questions, all unless told."""
    case = Case(seed)
    ask = Asked(cli, folder, case)
    try:
        about = ask.fit()
        outcomes["fitted" if about else "refused"] += 1
        if about is None:
            return
        trained(about[0])
        for question in case.chance.sample(QUESTIONS, questions):
            question(ask, about)
    except BaseException as error:
        error.add_note(f"{seed}: {case.recipe} {case.flags} of {case.x.shape} {case.classes}")
        raise
    for verb in ask.answered:
        outcomes[verb] = outcomes.get(verb, 0) + 1


@pytest.fixture(scope="session")
def outcomes():
    """How many fits were refused, and how often a verb answered."""
    return {"fitted": 0, "refused": 0}


@pytest.fixture(autouse=True)
def _room(monkeypatch):
    monkeypatch.setenv("LATENTLY_MEMORY_GIB", "1")


@pytest.mark.parametrize(
    "start", [pytest.param(k, marks=pytest.mark.slow) if k > 7 else k for k in range(0, 35, 7)]
)
def test_autoencoders(start, cli, tmp_path, outcomes):
    for seed in range(start, start + 7):
        folder = tmp_path / str(seed)
        folder.mkdir()
        walk(seed, cli, folder, outcomes, questions=4)


@pytest.mark.long
@pytest.mark.parametrize("start", range(1000, 1040, 10))
def test_more_autoencoders(start, cli, tmp_path, outcomes):
    for seed in range(start, start + 10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        walk(seed, cli, folder, outcomes)


def test_every_verb_answered(outcomes):
    if outcomes["fitted"] + outcomes["refused"] < 100:
        pytest.skip("only some cases were tried")
    assert outcomes["fitted"] > 25
    verbs = "evaluate compare show sample encode reconstruct score impute report"
    verbs = [*verbs.split(), "classify", "probe", "fit-density"]
    assert not [verb for verb in verbs if not outcomes.get(verb)], outcomes


# Calls that must be refused, each by a mistake of its own.

MODEL = "--quiet --epochs 1 --net MLP(hidden=(4,)) --latents 2"
WRONG = {
    "fit ae --data {d}/a.npz --out {out}/m.safetensors " + MODEL: (
        "--corruption Masking(1.1)",
        "--corruption Masking(nan)",
        "--corruption Mask",
        "--corruption L1(0.1)",
        "--corruption Adversarial(0.1,norm='1')",
        "--corruption Adversarial(0.1,steps=0)",
        "--corruption Masking(value='a')",
        "--penalty L1(-1)",
        "--penalty Sparsity(0.1)",
        "--penalty Sparsity(0.1,target=1)",
        "--penalty Contractive(0.1,exact=-1)",
        "--penalty Contractive(0.1,probes=0)",
        "--penalty Masking(0.5)",
        "--penalty (L1(0.1),3)",
        "--penalty L1(0.1) --accumulate 2",
        "--penalty L1(0.1) --objective Reconstruction",
        "--objective Variational",
        "--objective SemiSupervised",
        "--objective InfoVAE",
        "--objective TotalCorrelation",
        "--objective WakeSleep",
        "--objective ReweightedWakeSleep",
        "--objective SemiAmortised",
        "--likelihood LogNormal",
        "--activation Sigmoids",
        "--activation 3",
        "--latents 0",
        "--latents ()",
        "--latents (2,0)",
        "--codes mixture",
        "--labels 10",
        "--net Conv",
        "--samples 2",
        "--bound IWAE",
        "--prior Standard",
    ),
    "fit ssvae --out {out}/m.safetensors " + MODEL: (
        "--data {d}/a.npz",
        "--data {d}/a.npz --labels 0",
        "--data {d}/a.npz --labels 2",
        "--data {d}/a.npz --labels -1",
        "--data {d}/a.npz --labels 41",
        "--data {d}/a.npz --labels 3.0",
        "--data {d}/a.npz --labels ALL",
        "--data {d}/a.npz --labels all --context label",
        "--data {d}/a.npz --labels all --classes 2",
        "--data {d}/a.npz --labels all --features 0",
        "--data {d}/a.npz --labels all --features-net MLP",
        "--data {d}/a.npz --labels all --corruption Masking",
        "--data {d}/a.npz --labels all --objective Reconstruction",
        "--data {d}/unlabelled.npz --labels all",
        "--data {d}/short.npz --labels all",
        "--data {d}/unknown.npz --labels all",
        "--data {d}/single.npz --labels all",
        "--data {d}/words.npz --labels all",
        "--data {d}/halves.npz --labels all",
        "--data {d}/infinite.npz --labels all",
    ),
    "probe {d}/ae.safetensors --draws 1 --methods linear --out {out}/p.html": (
        "--data {d}/unlabelled.npz",
        "--data {d}/short.npz",
        "--data {d}/unknown.npz",
        "--data {d}/single.npz",
        "--data {d}/words.npz",
        "--data {d}/own.npz",
        "--data {d}/a.npz --test {d}/a.npz",
        "--data {d}/a.npz --test {d}/own.npz",
        "--data {d}/a.npz --test {d}/unlabelled.npz",
        "--data {d}/a.npz --test {d}/unknown.npz",
        "--data {d}/a.npz --test {d}/missing.npz",
        "--data {d}/a.npz --labels 2",
        "--data {d}/a.npz --labels 33",
        "--data {d}/a.npz --labels 1.5",
        "--data {d}/a.npz --labels ,",
        "--data {d}/a.npz --draws 0",
        "--data {d}/a.npz --methods logistic",
        "--data {d}/a.npz --methods cells --corruption Masking",
        "--data {d}/a.npz --corruption Gaussian(2)",
        "--data {d}/a.npz --out {out}/p.txt",
    ),
    "fit-density {d}/ae.safetensors --data {d}/a.npz --out {out}/d.safetensors": (
        "--codes mixtures",
        "--codes mixture(components=0)",
        "--codes mixture(components=41)",
        "--codes mixture(shape=(2,))",
        "--codes fa(latents=3)",
        "--codes fa(levels=4)",
        "--codes flow(contexts=2)",
        "--codes flow(flow=Glow())",
        "--codes ae",
        "--codes ssvae",
        "--codes vae",
        "--codes 3",
        "--codes mixture(",
        "--out {out}/d.npz",
        "--data {d}/wide.npz",
    ),
    "classify --data {d}/a.npz --out {out}/k.csv": (
        "{d}/ae.safetensors",
        "{d}/ssvae.safetensors --samples 0",
        "{d}/ssvae.safetensors --out {out}/k.txt",
        "{d}/ssvae.safetensors --data {d}/wide.npz",
    ),
    "score {d}/ae.safetensors --data {d}/a.npz --out {out}/s.csv": (
        "--samples 3",
        "--complexity",
        "--typical {d}/a.npz",
        "--background {d}/ae.safetensors",
        "--contributions --data {d}/wide.npz",
    ),
}


@pytest.fixture(scope="session")
def labelled(tmp_path_factory, done):
    """A folder of rows with labels of many kinds, and models of them."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)), np.arange(40) % 3
    labels = {
        "a": y,
        "short": y[:20],
        "unknown": np.full(40, -1),
        "single": np.ones(40, int),
        "words": np.array(["a", "b"] * 20),
        "halves": y / 2,
        "infinite": np.where(y == 0, np.inf, y),
        "own": np.arange(40),
    }
    for name, given in labels.items():
        np.savez(folder / f"{name}.npz", x=x, y=given)
    np.savez(folder / "unlabelled.npz", x=x)
    np.savez(folder / "wide.npz", x=rng.normal(size=(40, 5)), y=y)
    flags = [*MODEL.split(), "--data", folder / "a.npz"]
    done("fit", "ae", *flags, "--out", folder / "ae.safetensors")
    done("fit", "ssvae", *flags, "--labels", "all", "--out", folder / "ssvae.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("call", WRONG, ids=lambda call: call.partition(" --")[0])
def test_mistakes_are_refused(call, judge, labelled, out):
    verb, *rest = call.split()
    for wrong in WRONG[call]:
        words = [word.format(d=labelled, out=out) for word in (verb, *rest, *wrong.split())]
        judge.refused(*words)


# In Python: every objective with every recipe, every walk with every model.

NAMES = components()
SMALL = {"latents": 2, "net": partial(MLP, hidden=(4,)), "likelihood": Normal}
MODELS = {
    "ae": partial(lt.ae, (4,), **(SMALL | {"likelihood": None})),
    "ae of shape": partial(lt.ae, (4,), latents=(2, 2), net=SMALL["net"], activation=nn.Sigmoid),
    "ae of a context": partial(lt.ae, (4,), latents=2, net=SMALL["net"], contexts=3),
    "ae of a density": partial(lt.ae, (4,), latents=2, codes=partial(lt.fa, latents=1)),
    "vae": partial(lt.vae, (4,), **SMALL),
    "vae of a context": partial(lt.vae, (4,), **SMALL, contexts=3),
    "vae of a transform": partial(lt.vae, (4,), **SMALL, transform=NAMES["Asinh"]()),
    "vae of a VampPrior": partial(lt.vae, (4,), **SMALL, prior=NAMES["VampPrior"]),
    "fa": partial(lt.fa, (4,), latents=2),
    "mixture": partial(lt.mixture, (4,), components=2),
    "flow": partial(lt.flow, (4,), flow=NAMES["MAF"](transforms=1)),
    "flow of a context": partial(lt.flow, (4,), flow=NAMES["MAF"](transforms=1), contexts=3),
    "ssvae": partial(lt.ssvae, (4,), classes=3, **SMALL),
    "ssvae of features": partial(lt.ssvae, (4,), classes=3, features=2, **SMALL),
}
for posterior in ("OneHot", "Bernoulli", "Poisson", "Gamma", "Dirichlet"):
    options = SMALL | {"posterior": NAMES[posterior], "prior": NAMES["Standard"]}
    MODELS[f"vae of {posterior}"] = partial(lt.vae, (4,), **options)


def rows_for(model, n=20):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    context = torch.eye(3)[torch.arange(n) % 3] if model.contexts else None
    return Data(x, "Normal", "x", context=context)


def line(error):
    assert len(str(error).splitlines()) == 1, error
    assert "tensor(" not in str(error), error


@pytest.mark.parametrize("objective", sorted(KINDS["objectives"]))
def test_an_objective_trains_a_model_or_says_why_not(objective):
    """What is refused leaves the model as it was; what is trained stays finite."""
    trained = []
    for name, made in MODELS.items():
        torch.manual_seed(0)
        model = made()
        before = [p.detach().clone() for p in model.parameters()]
        options = {"steps": 2, "progress": False}
        try:
            found = lt.fit(model, rows_for(model), KINDS["objectives"][objective](), **options)
        except lt.UserError as error:
            line(error)
            found = None
        if found is None:
            assert all(map(torch.equal, before, model.parameters())), name
            continue
        trained.append(name)
        assert np.isfinite([v for row in found.history for v in row.values()]).all(), name
        assert all(p.isfinite().all() for p in model.parameters()), name
    assert trained, objective
    others = objective not in ("Reconstruction", "Variational")
    assert not others or not [name for name in trained if name.startswith("ae")]


WALKS = {
    "interpolate": lambda m, d, c: lt.interpolate(m, d.x[0], d.x[1], 3, context=c),
    "great circle": lambda m, d, c: lt.interpolate(
        m, d.x[0], d.x[1], 3, how="spherical", context=c
    ),
    "no way": lambda m, d, c: lt.interpolate(m, d.x[0], d.x[0], 3, context=c),
    "bilinear": lambda m, d, c: lt.bilinear(m, d.x[:4], 3, context=c),
    "traverse": lambda m, d, c: lt.traverse(m, d.x[:2], 0, steps=3, context=c),
    "traverse among": lambda m, d, c: lt.traverse(m, d.x[0], 1, steps=3, among=d, context=c),
    "traverse to": lambda m, d, c: lt.traverse(m, d.x[:2], 0, [0.0, 1.0], context=c),
    "no latent": lambda m, d, c: lt.traverse(m, d.x[:2], 99, context=c),
    "no value": lambda m, d, c: lt.traverse(m, d.x[:2], 0, [math.nan], context=c),
    "manifold": lambda m, d, c: lt.manifold(m, 3, context=c),
    "manifold among": lambda m, d, c: lt.manifold(m, 3, among=d, context=c),
    "neighbours": lambda m, d, c: lt.neighbours(m, d.rows(slice(0, 2)), d, k=3).distance,
    "itself": lambda m, d, c: lt.neighbours(m, d.rows([0]), d.rows([0]), k=1).distance,
    "too many": lambda m, d, c: lt.neighbours(m, d, d, k=21),
    "holes": lambda m, d, c: lt.interpolate(
        m, d.x[0], d.x[1], 3, mask=torch.tensor([[1, 0, 1, 1], [0] * 4]) == 1, context=c
    ),
}
for kind in (lt.Gaussian(), lt.Masking(), lt.SaltAndPepper(), lt.Adversarial(0.1, steps=2)):
    WALKS[type(kind).__name__] = lambda m, d, c, kind=kind: (
        lt.corrupted(m, d, kind, [0, 1], span=lt.data.corruptions.Span.of(d.x)).rebuilt
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_walk_through_codes_is_finite_or_refused(name, dtype):
    torch.manual_seed(0)
    model = MODELS[name]()
    data = rows_for(model)
    if "density" not in name:
        discrete = name.endswith(("OneHot", "Bernoulli", "Poisson"))
        by = lt.Variational(estimator=NAMES["Score"](), samples=2) if discrete else None
        by = lt.Variational() if name.startswith("ssvae") else by
        lt.fit(model, data, by, steps=2, progress=False)
    model = model.to(dtype).eval()
    data = data.to(dtype=dtype)
    answered = 0
    for context in (None, torch.ones(3, dtype=dtype) / 3, torch.ones(4, dtype=dtype)):
        for walk, call in WALKS.items():
            try:
                found = call(model, data, context)
            except lt.UserError as error:
                line(error)
            else:
                answered += 1
                assert found.isfinite().all(), (walk, context)
    assert answered >= 5, answered
