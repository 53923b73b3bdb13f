"""Few labels on the command line: fitted, classified, judged without them, drawn by class."""

import csv
import json

import numpy as np
import pytest

SMALL = ["--latents", 2, "--net", "MLP(hidden=(8,))", "--epochs", 30, "--quiet"]
RATE = ["--learning-rate", 0.01, "--batch-size", 30]


def rows(n=120, seed=0):
    """Bits of three kinds, and the kinds."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    on = np.full((3, 9), 0.05)
    for k in range(3):
        on[k, 3 * k : 3 * k + 3] = 0.95
    return (rng.random((n, 9)) < on[kind]).astype(np.uint8), kind


@pytest.fixture(scope="module")
def some(tmp_path_factory, done):
    """Models of rows with few labels: M2, M1+M2, and of a file that knows some labels."""
    folder = tmp_path_factory.mktemp("labels")
    x, kind = rows()
    known = np.where(np.arange(120) < 12, kind + 4, -1)
    np.savez(folder / "all.npz", x=x, y=kind + 4)
    np.savez(folder / "some.npz", x=x, y=known)
    np.savez(folder / "nan.npz", x=x, y=np.where(known < 0, np.nan, known))
    np.savez(folder / "none.npz", x=x)
    np.savez(folder / "one.npz", x=x, y=np.where(kind == 0, 4, -1))
    np.savez(folder / "hidden.npz", x=x, y=np.full(120, -1))
    fit = ["fit", "ssvae", *SMALL, *RATE]
    m2, both = folder / "m2.safetensors", folder / "both.safetensors"
    done(*fit, "--data", folder / "all.npz", "--labels", 9, "--alpha", 1.0, "--out", m2)
    more = ["--features", 3, "--pretrain", 0.3]
    done(*fit, *more, "--data", folder / "some.npz", "--labels", "all", "--out", both)
    return folder


@pytest.mark.slow
def test_classes_are_written_and_compared(some, done, tmp_path):
    out = tmp_path / "c.csv"
    said = done("classify", some / "m2.safetensors", "--data", some / "all.npz", "--out", out)
    assert "wrote the classes of 120 rows" in said
    assert "on 120 rows with labels" in said
    right, error = (
        float(word) for word in said.split("accuracy ")[1].split(" on ")[0].split("+-")
    )
    with open(out, newline="") as file:
        table = list(csv.DictReader(file))
    hits = [row["class"] == row["label"] for row in table]
    assert abs(np.mean(hits) - right) < 1e-4
    assert abs(error - np.sqrt(right * (1 - right) / 120)) < 1e-4
    assert right > 0.9
    for row in table[:5]:
        p = [float(row[f"p_{label}"]) for label in (4, 5, 6)]
        assert abs(sum(p) - 1) < 1e-5
        assert int(row["class"]) == 4 + int(np.argmax(p))


def test_unknown_labels_stay_unknown(some, done, tmp_path):
    model, out = some / "both.safetensors", tmp_path / "c.npz"
    said = done("classify", model, "--data", some / "some.npz", "--out", out, "--samples", 5)
    assert "on 12 rows with labels" in said
    found = np.load(out)
    assert found["classes"].tolist() == [4, 5, 6]
    assert found["probabilities"].shape == (120, 3)
    assert set(found["label"].tolist()) == {-1, 4, 5, 6}
    said = done("classify", model, "--data", some / "none.npz", "--out", tmp_path / "n.csv")
    assert "accuracy" not in said
    again = ["classify", model, "--data", some / "some.npz", "--samples", 5, "--force"]
    done(*again, "--out", tmp_path / "d.npz")
    assert np.array_equal(found["probabilities"], np.load(tmp_path / "d.npz")["probabilities"])


def test_nan_is_an_unknown_label_as_minus_one_is(some, done, tmp_path):
    small = ["--latents", 1, "--steps", 3, "--quiet", "--labels", "all", "--seed", 3]
    for name in ("some", "nan"):
        out = tmp_path / f"{name}.safetensors"
        done("fit", "ssvae", "--data", some / f"{name}.npz", *small, "--out", out)
        where = ["--data", some / "none.npz", "--out", tmp_path / f"{name}.npz"]
        done("classify", out, *where)
    p = [np.load(tmp_path / f"{name}.npz")["probabilities"] for name in ("some", "nan")]
    assert np.array_equal(*p)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m2", "both"])
def test_every_verb_is_of_log_p_without_labels(some, name, done, tmp_path):
    model = some / f"{name}.safetensors"
    few = ["--samples", 4]
    told = [
        json.loads(done("evaluate", model, "--data", some / f"{file}.npz", *few, "--json"))
        for file in ("all", "none")
    ]
    assert told[0]["nats"] == told[1]["nats"]
    assert told[0]["given"] is None
    assert told[0]["method"] == "IWAE K=4"
    where = ["--data", some / "all.npz"]
    assert done("evaluate", model, *where, *few).startswith("log p(x) >= ")
    done("score", model, *where, *few, "--out", tmp_path / "s.csv")
    done("encode", model, *where, "--out", tmp_path / "z.npz")
    assert np.allclose(np.load(tmp_path / "z.npz")["z0"].sum(1), 1, atol=1e-5)
    done("reconstruct", model, *where, "--out", tmp_path / "r.npz")
    hide = ["--mask", "MCAR(0.3)", "--samples", 10, "--draws", 2, "--out", tmp_path / "i.npz"]
    done("impute", model, *where, *hide)
    words = done("show", model, "--command")
    assert "--labels" in words


@pytest.mark.slow
def test_a_report_is_of_log_p(some, done, tmp_path):
    out = tmp_path / "r.html"
    done(
        "report",
        some / "both.safetensors",
        "--data",
        some / "all.npz",
        "--out",
        out,
        "--samples",
        4,
    )
    assert "log P(x) ≥" in out.read_text(encoding="utf-8")


def test_draws_are_of_a_class_or_of_all(some, done, tmp_path):
    model, out = some / "m2.safetensors", tmp_path / "s.npz"
    means = []
    for label in (4, 5, 6):
        done("sample", model, "-n", 300, "--context", label, "--out", out, "--force")
        means.append(np.load(out)["x"].mean(0))
    done("sample", model, "-n", 900, "--out", out, "--force")
    assert np.abs(np.load(out)["x"].mean(0) - np.mean(means, 0)).max() < 0.12
    done("sample", model, "-n", 900, "--context", "each", "--out", out, "--force")
    each = np.load(out)["x"].reshape(300, 3, 9).mean(0)
    assert np.abs(each - means).max() < 0.15


def test_the_seed_draws_the_labels(some, done, tmp_path):
    small = ["--latents", 1, "--steps", 2, "--quiet", "--labels", 6, "--data", some / "all.npz"]
    p = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{number}.safetensors"
        done("fit", "ssvae", *small, "--seed", seed, "--out", out)
        done("classify", out, "--data", some / "none.npz", "--out", tmp_path / f"{number}.npz")
        p.append(np.load(tmp_path / f"{number}.npz")["probabilities"])
    assert np.array_equal(p[0], p[1])
    assert not np.array_equal(p[0], p[2])


@pytest.mark.slow
def test_diagnosis_says_what_it_cannot_do(some, done):
    said = done("diagnose", some / "m2.safetensors", "--data", some / "all.npz", "--rows", 2)
    assert "sums its classes" in said


def test_mistakes_are_named(some, rejected, tmp_path):
    out = ["--out", tmp_path / "m.safetensors", "--quiet", "--steps", 1]

    def fit(name, *labels, recipe="ssvae"):
        return ["fit", recipe, "--data", some / f"{name}.npz", *labels, *out]

    rejected(fit("all"), "--labels N", "all")
    rejected(fit("all", "--labels", "few"), "'few'", "whole number")
    rejected(fit("all", "--labels", "1.5"), "'1.5'", "whole number")
    rejected(fit("all", "--labels", 2), "labels=2", "3 classes")
    rejected(fit("all", "--labels", -1), "labels=-1", "3 classes")
    rejected(fit("all", "--labels", 121), "labels=121", "which has 108")
    rejected(fit("some", "--labels", 13), "labels=13", "12")
    rejected(fit("none", "--labels", 3), "no labels")
    rejected(fit("hidden", "--labels", "all"), "unknown")
    rejected(fit("one", "--labels", "all"), "all known labels are 4")
    rejected(fit("all", "--context", "label"), "--context", "--labels")
    rejected(fit("all", "--labels", 9, recipe="vae"), "vae", "ssvae")
    rejected(fit("all", "--labels", 9, recipe="fa"), "fa", "ssvae")
    rejected(fit("all", "--labels", 9, "--estimator", "Score"), "Score")
    rejected(fit("all", "--labels", 9, "--classes", 4), "--classes")
    rejected(fit("all", "--labels", 9, "--pretrain", 1.0, "--features", 2), "pretrain")
    model = some / "m2.safetensors"
    table = ["--data", some / "all.npz", "--out", tmp_path / "c.csv"]
    rejected(["classify", model, "--data", some / "all.npz", "--out", "c.txt"], ".csv")
    rejected(["classify", model, *table, "--samples", 0], "samples=0")
    rejected(["sample", model, "--context", "9", "--out", tmp_path / "s.npz"], "one of 4, 5, 6")


def test_a_model_without_classes_is_named(some, done, rejected, tmp_path):
    out = tmp_path / "fa.safetensors"
    done("fit", "fa", "--data", some / "all.npz", "--latents", 1, "--out", out, "--quiet")
    words = ["classify", out, "--data", some / "all.npz", "--out", tmp_path / "c.csv"]
    rejected(words, "fa", "no classes", "ssvae")
