"""Transforms on the command line: fitted, saved, scored and listed like any option."""

import numpy as np
import pytest

from latently import Data, evaluate, load
from latently.probability.transforms import Log, Logit


@pytest.fixture(scope="module")
def incomes(tmp_path_factory):
    path = tmp_path_factory.mktemp("transform") / "x.npz"
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 1)) + 0.3 * rng.normal(size=(200, 4))
    x = np.exp(y + 7)
    x[rng.random(x.shape) < 0.1] = np.nan
    np.savez(path, x=x)
    return path


@pytest.mark.parametrize("recipe", ["fa", "ppca", "vae"])
def test_a_transform_is_fitted_saved_and_used(recipe, incomes, done, tmp_path):
    out, options = tmp_path / "m.safetensors", ["--latents", 1]
    if recipe == "vae":
        options += ["--steps", 20, "--batch-size", 50, "--net", "MLP(hidden=(8,))"]
    call = ["fit", recipe, "--data", incomes, "--out", out, "--transform", "Log()", *options]
    done(*call, "--quiet")
    model = load(out)
    assert model.transform == Log()
    assert "transform=Log" in str(model.call)
    said = done("evaluate", out, "--data", incomes)
    assert ("exact" if recipe != "vae" else "lower bound") in said
    drawn = tmp_path / "drawn.npz"
    done("sample", out, "-n", 50, "--out", drawn)
    assert (np.load(drawn)["x"] > 0).all()


def test_logs_describe_incomes_better_in_the_same_units(incomes, done, tmp_path):
    values = []
    for name, options in (("raw", []), ("log", ["--transform", "Log"])):
        out = tmp_path / f"{name}.safetensors"
        done("fit", "fa", "--data", incomes, "--out", out, "--latents", 1, *options, "--quiet")
        data = Data.from_array(np.load(incomes)["x"])
        values.append(evaluate(load(out), data).nats)
    assert values[1] > values[0] + 1


def test_levels_go_through_a_logit(done, tmp_path):
    path, out = tmp_path / "counts.npz", tmp_path / "m.safetensors"
    np.savez(path, x=np.random.default_rng(0).binomial(7, 0.3, size=(100, 4)))
    options = ["--latents", 1, "--transform", "Logit(high=8)", "--levels", 8, "--quiet"]
    done("fit", "fa", "--data", path, "--out", out, *options)
    model = load(out)
    assert model.discrete
    assert model.model.transform == Logit(high=8)
    assert "lower bound" in done("evaluate", out, "--data", path, "--samples", 20)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ("Lg()", ["Log"]),
        ("Logit()", ["between 0 and 1", "column"]),
        ("Log(shift=-1e9)", ["numbers above 1e+09"]),
        ("Logit(low=2.0)", ["low=2.0 must be below high=1.0"]),
        ("Asinh(scale=0)", ["scale=0", "positive"]),
        ("Log(base=2)", ["no option 'base'", "shift"]),
        ("StandardNormal", ["transforms: Asinh, Log, Logit"]),
    ],
)
def test_a_wrong_transform_is_refused_in_one_line(transform, words, incomes, rejected, tmp_path):
    call = ["fit", "fa", "--data", incomes, "--out", tmp_path / "m.safetensors", "--latents", 1]
    rejected([*call, "--transform", transform], *words)


def test_transforms_are_listed(done):
    said = done("list", "transforms")
    assert all(name in said for name in ("Asinh", "Log", "Logit"))
    assert "see latently list transforms" in done("fit", "fa", "--help")


def test_a_transform_that_does_not_hold_the_data_is_named(rejected, made, tmp_path):
    words = ["fit", "fa", "--data", made / "real.npz", "--latents", 1, "--transform", "Log"]
    rejected([*words, "--out", tmp_path / "o.safetensors"], "above 0", "choose a --transform")
