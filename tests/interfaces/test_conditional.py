"""Models of p(x|c) from the command line, from fit to report."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from latently import data, load
from latently.data.contexts import Context


@pytest.fixture(scope="module")
def conditional(tmp_path_factory, done):
    """A VAE and a PPCA given the label, and a VAE given two numbers; with their data."""
    folder = tmp_path_factory.mktemp("conditional")
    rng = np.random.default_rng(0)
    age = rng.normal(40, 10, (90, 2))
    x = rng.normal(size=(90, 4)) + age[:, :1]
    np.savez(folder / "ages.npz", x=x, age=age, y=rng.integers(0, 3, 90))
    np.savez(folder / "bare.npz", x=x)
    few = data.load("digits/test").rows(slice(0, 30))
    np.savez(folder / "few.npz", x=few.x.numpy().astype(int), y=few.labels.numpy())
    np.savez(folder / "unseen.npz", x=x, y=rng.integers(0, 5, 90))
    small = ["--latents", 2, "--net", "MLP(hidden=(8,))", "--epochs", 2, "--quiet"]
    digits = ["--data", "digits", "--context", "label"]
    done("fit", "vae", *digits, *small, "--out", folder / "vae.safetensors")
    prior = ["--prior", "NormalMixture(components=3)"]
    done("fit", "vae", *digits, *small, *prior, "--out", folder / "mixture.safetensors")
    done("fit", "ppca", *digits, "--latents", 2, "--quiet", "--out", folder / "ppca.safetensors")
    ages = ["--data", folder / "ages.npz", "--context"]
    done("fit", "vae", *ages, "age", *small, "--out", folder / "age.safetensors")
    done("fit", "fa", *ages, "label", "--latents", 1, "--quiet", "--out", folder / "y.safetensors")
    return folder


@pytest.mark.parametrize("name", ["vae", pytest.param("mixture", marks=pytest.mark.slow), "ppca"])
def test_every_verb(conditional, name, done, tmp_path):
    model = conditional / f"{name}.safetensors"
    where = ["--data", conditional / "few.npz"]
    said = done("evaluate", model, *where, "--samples", 3)
    assert said.startswith("log p(x|label) >= ")
    assert (
        json.loads(done("evaluate", model, *where, "--samples", 3, "--json"))["given"] == "label"
    )
    done("score", model, *where, "--samples", 2, "--out", tmp_path / "s.csv")
    done("encode", model, *where, "--out", tmp_path / "z.npz")
    done("reconstruct", model, *where, "--out", tmp_path / "r.npz")
    hide = ["--mask", "Half", "--samples", 20, "--out", tmp_path / "i.png"]
    done("impute", model, *where, *hide)
    done("report", model, *where, "--samples", 2, "--out", tmp_path / "r.html")
    assert "log P(x|label) ≥" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "--context label" in done("show", model, "--command")


def test_samples_of_one_class_and_of_each(conditional, done, tmp_path):
    model, out = conditional / "ppca.safetensors", tmp_path / "s.npz"
    done("sample", model, "-n", 400, "--context", "0", "--out", out, "--seed", 1)
    zero = np.load(out)["x"].mean(0)
    done("sample", model, "-n", 400, "--context", "1", "--out", out, "--seed", 1, "--force")
    one = np.load(out)["x"].mean(0)
    assert np.abs(zero - one).max() > 3
    done("sample", model, "-n", 400, "--context", "each", "--out", out, "--seed", 1, "--force")
    every = np.load(out)["x"]
    assert np.abs(every[::10].mean(0) - zero).max() < 4
    assert np.abs(every[1::10].mean(0) - one).max() < 4
    done("sample", model, "-n", 20, "--context", "each", "--out", tmp_path / "s.png")
    width, height = Image.open(tmp_path / "s.png").size
    assert width > 4 * height  # two rows of ten classes


def test_a_context_of_numbers(conditional, done, tmp_path):
    out = tmp_path / "s.npy"
    done("sample", conditional / "age.safetensors", "--context", "40.5,38", "--out", out)
    assert np.load(out).shape == (64, 4)
    said = done("evaluate", conditional / "age.safetensors", "--data", conditional / "ages.npz")
    assert said.startswith("log p(x|age) >= ")
    assert "log p(x|label) = " in done(
        "evaluate", conditional / "y.safetensors", "--data", conditional / "ages.npz"
    )


def test_unlike_questions_are_flagged(conditional, made, done, capsys):
    models = [conditional / "vae.safetensors", made / "vae.safetensors"]
    said = done(
        "compare",
        models[0].rename(conditional / "given.safetensors"),
        models[1],
        "--data",
        "digits",
        "--samples",
        2,
    )
    (conditional / "given.safetensors").rename(models[0])
    assert "given gives p(x|label)" in " ".join(said.split())


def test_refusals(conditional, rejected, tmp_path, made):
    model, out = conditional / "vae.safetensors", tmp_path / "o.npz"
    rejected(["sample", model, "--out", out], "p(x|label)", "--context", "each", "0, 1, 2")
    rejected(["sample", model, "--out", out, "--context", "11"], "'11'", "one of 0, 1, 2")
    rejected(["sample", model, "--out", out, "--context", "cat"], "'cat'", "one of 0, 1, 2")
    rejected(["sample", model, "--out", out, "--context", "1,2"], "'1,2'")
    rejected(["sample", model, "--out", out, "--context", "nan"], "nan")
    plain = made / "vae.safetensors"
    rejected(["sample", plain, "--out", out, "--context", "1"], "takes none; leave it out")
    age, ages = conditional / "age.safetensors", conditional / "ages.npz"
    rejected(["sample", age, "--out", out, "--context", "each"], "2 numbers")
    rejected(["sample", age, "--out", out, "--context", "1"], "1 column")
    bare, unseen = conditional / "bare.npz", conditional / "unseen.npz"
    labelled = conditional / "y.safetensors"
    rejected(["evaluate", labelled, "--data", bare], "label", "bare.npz")
    rejected(["evaluate", age, "--data", bare], "age", "bare.npz")
    rejected(["evaluate", labelled, "--data", unseen], "unseen.npz", "known: 0, 1, 2")
    fit = ["fit", "fa", "--out", tmp_path / "m.safetensors", "--data"]
    rejected([*fit, ages, "--context", "agee"], "agee", "age")
    rejected([*fit, bare, "--context", "label"], "label")
    rejected([*fit, "digits", "--context", "colour"], "colour", "label")
    start = ["--context", "label", "--init", plain]
    rejected(["fit", "vae", "--data", "digits", *start, *fit[2:4]], "--init", "context None")
    assert list(tmp_path.iterdir()) == []


def test_python_can_say_it_too(conditional, done):
    model = load(conditional / "vae.safetensors")
    context = Context("label", classes=tuple(range(10))).encode([3])
    x = model.sample(5, context, seed=0)
    assert x.shape == (5, 1, 8, 8)
    assert torch.equal(x, model.sample(5, context.expand(5, -1), seed=0))
