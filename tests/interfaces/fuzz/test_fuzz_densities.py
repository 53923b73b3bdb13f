"""Mixtures and flows of any rows answer every verb, or refuse in one line.

A case is a file of rows, some of them odd (constant, copied, vast, with holes), and a call of
`latently fit mixture` or `fit flow`, drawn by seed. A model that is fitted is asked all verbs:
each ends with exit code 0 and finite numbers, or with 2 and one line of words.
"""

import importlib.util
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from latently import load

spec = importlib.util.spec_from_file_location(
    "fuzz_algebra", Path(__file__).with_name("test_fuzz_algebra.py")
)
algebra = importlib.util.module_from_spec(spec)
spec.loader.exec_module(algebra)

KINDS = ("reals", "reals", "levels", "bits", "positive", "shares", "counts")
SHAPES = ((4,), (2,), (1,), (2, 3), (1, 4, 4), (3, 2, 2), (1, 3, 5), (1, 1, 1))
TRANSFORMS = ("Asinh()", "Log()", "Log(shift=1.0)", "Logit()", "Logit(high=4)")
MASKS = ("MCAR(0.4)", "MCAR(0.99)", "Half(side='lower')", "Sometimes(MCAR(0.5))")
METHODS = ("Exact", "Enumeration", "ImportanceSampling(3)", "Refined(3, steps=2)")
PARTS = ("latents", "gaps", "opinion", "bracket", "curve")


def constant(x):
    x[:, 0] = x[0, 0]


def all_constant(x):
    x[:] = x[0, 0]


def copied(x):
    x[:, -1] = x[:, 0]


def one_row(x):
    x[:] = x[0]


def doubled(x):
    x[len(x) // 2 :] = x[0]


def scaled(x):
    x *= np.logspace(-12, 12, x.shape[1])


def shifted(x):
    x += 1e8


def tiny(x):
    x *= 1e-12


def outlying(x):
    x[0] = 1e10


def infinite(x):
    x[0, 0] = np.inf


ODD = (constant, all_constant, copied, one_row, doubled, scaled, shifted, tiny, outlying, infinite)


def some_holes(f, rng):
    f[rng.random(f.shape) < 0.3] = np.nan


def no_row(f, rng):
    f[0] = np.nan


def no_column(f, rng):
    f[:, 0] = np.nan


def most(f, rng):
    f[rng.random(f.shape) < 0.9] = np.nan


HOLES = (some_holes, some_holes, no_row, no_column, most)


class Case:
    """Rows and the flags of a fit."""

    def __init__(self, seed):
        self.seed, self.chance = seed, random.Random(seed)
        some, often = self.chance.choice, self.often
        rng = np.random.default_rng(seed)
        self.kind = kind = some(KINDS)
        shape, n = some(SHAPES), some((1, 2, 12, 12, 30, 30))
        self.x = algebra.rows(kind, n, shape, rng)
        flat = self.x.reshape(n, -1)
        self.recipe = some(("mixture", "flow"))
        if often(0.4):
            some(ODD)(flat)
        if often(0.3 if self.recipe == "mixture" else 0.05):
            some(HOLES)(flat, rng)
        self.flags = {"steps": some((1, 3, 20)), "quiet": None}
        if self.recipe == "mixture":
            self.flags["components"] = some((1, 2, 3, n, n + 1))
            bits = kind == "bits" and often(0.5)
            self.flags["family"] = "Bits" if bits else some(algebra.COMPONENTS)
        else:
            self.flags |= self._of_flows(shape)
        if often(0.2):
            self.flags["transform"] = some(TRANSFORMS)
        if often(0.1):
            self.flags["levels"] = some((2, 4, 5))
        if often(0.2) and self.recipe == "mixture":
            self.flags["mask"] = some(MASKS)
        if often(0.2 if self.recipe == "flow" else 0.02):
            self.flags["context"] = "kind"
        self.context = "context" in self.flags and self.recipe == "flow"

    def often(self, share):
        return self.chance.random() < share

    def _of_flows(self, shape):
        some, often = self.chance.choice, self.often
        image = len(shape) == 3 and often(0.7)
        flags = {"flow": some(algebra.IMAGE_FLOWS if image else algebra.VECTOR_FLOWS)}
        flags["steps"], flags["batch-size"] = some((1, 3)), some((4, 100))
        if often(0.1):
            flags["noise"] = some(algebra.NOISES)
        if often(0.1):
            flags |= {"bound": some(algebra.BOUNDS), "samples": some((1, 2, 4))}
        if often(0.1):
            flags["estimator"] = some(algebra.ESTIMATORS)
        if often(0.1):
            return {**flags, "objective": some(algebra.OBJECTIVES)}
        return flags

    def words(self):
        for name, value in self.flags.items():
            yield from ([f"--{name}"] if value is None else [f"--{name}", value])

    def mask(self, share):
        return ["--mask", self.chance.choice(MASKS)] if self.often(share) else []


class Asked:
    """Asks verbs of a model, and holds what they leave against what a number may be."""

    def __init__(self, cli, folder, case):
        self.cli, self.folder, self.case = cli, folder, case
        self.answered = []

    def __call__(self, verb, *words, out=None):
        """What a verb printed, or the arrays it wrote; None where it was refused."""
        words = [verb, *words, *([] if out is None else ["--out", self.folder / out, "--force"])]
        ran = self.cli(*words)
        said = [line for line in ran.err.splitlines() if not line.startswith("warning: ")]
        assert ran.code in (0, 2), (words, ran)
        if ran.code == 2:
            last = said[-1]
            assert last.startswith("latently: "), (words, ran.err)
            assert last.isprintable(), words
            assert not any(word in last for word in ("tensor(", "object at")), last
            return None
        self.answered.append(verb)
        if out is None or not out.endswith(".npz"):
            return ran.out
        return dict(np.load(self.folder / out))

    def fit(self):
        data = self.folder / "x.npz"
        np.savez(data, x=self.case.x, kind=np.arange(len(self.case.x)) % 3)
        model = self.folder / "m.safetensors"
        ran = self("fit", self.case.recipe, "--data", data, *self.case.words(), "--out", model)
        assert model.exists() == (ran is not None)
        return None if ran is None else (model, "--data", data)


def finite(arrays, beside=()):
    for name, values in (arrays or {}).items():
        if values.dtype.kind == "f" and name not in ("k_hat", *beside):
            assert np.isfinite(values).all(), (name, values)


def measured(ask, about):
    for method in (None, ask.case.chance.choice(METHODS)):
        words = [] if method is None else ["--method", method]
        said = ask("evaluate", *about, *words, *ask.case.mask(0.2), "--json")
        if said is not None:
            found = json.loads(said)
            assert math.isfinite(found["nats"] or 0)
            assert found["nats"] is not None or found["warnings"], found


def drawn(ask, about):
    case = ask.case
    cool = ["--temperature", 0.5] if case.often(0.3) else []
    given = ["--context", "each"] if case.context else []
    finite(ask("sample", about[0], "-n", 3, *cool, *given, out="s.npz"))


def carried(ask, about):
    """Codes and rows again: shares sum to one, and flows give back the row."""
    codes = ask("encode", *about, *ask.case.mask(0.2), out="z.npz")
    finite(codes)
    if codes and ask.case.recipe == "mixture":
        assert np.allclose(codes["z0"].sum(-1), 1, atol=1e-5)
    again = ask("reconstruct", *about, out="r.npz")
    finite(again)
    if again and ask.case.recipe == "flow":
        x, (found,) = ask.case.x, [a for a in again.values() if a.shape == ask.case.x.shape]
        unit = 1.0 if len(x) < 3 else 0.0  # one row trains a flow: it has no spread to be a unit
        rounding = 1e-5 * (np.abs(x).max() + unit) + 1e-30  # arrays are in float32
        assert np.abs(found - x).max() < 0.05 * np.abs(x - x.mean(0)).max() + rounding


def judged(ask, about):
    case = ask.case
    finite(ask("score", *about, *case.mask(0.2), out="c.npz"))
    finite(ask("impute", *about, "--draws", 2, "--samples", 20, *case.mask(0.8), out="i.npz"))
    ask("compare", *about, "--samples", 3)
    part = case.chance.choice(PARTS)
    ask("diagnose", *about, "--rows", 2, "--parts", part, "--method", "AIS(steps=3, chains=2)")
    ask("report", *about, "--samples", 3, *case.mask(0.2), out="r.html")


def walk(seed, cli, folder, outcomes):
    case = Case(seed)
    ask = Asked(cli, folder, case)
    try:
        about = ask.fit()
        outcomes["fitted" if about else "refused"] += 1
        if about is None:
            return
        for question in (measured, drawn, carried, judged):
            question(ask, about)
        load(about[0])
    except BaseException as error:
        error.add_note(f"{seed}: {case.recipe} {case.flags} of {case.x.shape}")
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


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 60, 10))
def test_densities(start, cli, tmp_path, outcomes):
    for seed in range(start, start + 10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        walk(seed, cli, folder, outcomes)


@pytest.mark.long
@pytest.mark.parametrize("start", range(1000, 1100, 20))
def test_more_densities(start, cli, tmp_path, outcomes):
    for seed in range(start, start + 20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        walk(seed, cli, folder, outcomes)


def test_every_verb_answered(outcomes):
    if outcomes["fitted"] + outcomes["refused"] < 60:
        pytest.skip("only some cases were tried")
    assert outcomes["fitted"] > 15
    verbs = "evaluate sample encode reconstruct score impute compare report diagnose"
    assert not [verb for verb in verbs.split() if not outcomes.get(verb)], outcomes
