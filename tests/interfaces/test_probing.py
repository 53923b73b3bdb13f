"""`latently probe`: text, JSON, CSV and page agree; mistakes get one line."""

import csv
import json
import math

import numpy as np
import pytest

from latently.training.transfer import METHODS

QUICK = ("--labels", "10,20", "--draws", 2, "--methods", "linear,cells")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, done):
    """Labelled rows in a file, and a model of them."""
    folder = tmp_path_factory.mktemp("probed")
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = rng.normal(size=(80, 4)) + 4 * y[:, None]
    np.savez(folder / "rows.npz", x=x, y=y)
    np.savez(folder / "more.npz", x=x[:40] + 0.01, y=y[:40])
    np.savez(folder / "one.npz", x=x, y=np.zeros(80, int))
    np.savez(folder / "bare.npz", x=x)
    np.savez(folder / "third.npz", x=x, y=np.arange(80) % 3)
    words = "--latents 2 --net MLP(hidden=(8,)) --epochs 5 --quiet".split()
    done("fit", "vae", "--data", folder / "rows.npz", *words, "--out", folder / "m.safetensors")
    return folder


@pytest.fixture(scope="module")
def asked(folder, done):
    def call(*words, data="rows.npz"):
        return done("probe", folder / "m.safetensors", "--data", folder / data, *words)

    return call


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.slow
def test_text_json_csv_and_page_agree(asked, tmp_path):
    told = json.loads(asked(*QUICK, "--json", "--out", tmp_path / "a.json"))
    assert json.loads((tmp_path / "a.json").read_text()) == told
    assert finite(told)
    assert [one["method"] for one in told["scores"]] == ["linear", "linear", "cells", "cells"]
    text = asked(*QUICK, "--out", tmp_path / "a.csv")
    with open(tmp_path / "a.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8
    asked(*QUICK, "--out", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    for one in told["scores"]:
        accuracies = [
            float(line["accuracy_percent"])
            for line in lines
            if (line["method"], int(line["labels"])) == (one["method"], one["labels"])
        ]
        assert accuracies == pytest.approx(one["accuracies"], abs=1e-5)
        spread = f"{one['mean']:.1f} +- {one['deviation_over_draws']:.1f}"
        assert spread in text
        assert spread.replace("+-", "±") in page
        assert METHODS[one["method"]] in page
    for word in ("--labels 10,20", "--draws 2", "--methods linear,cells"):
        assert word in page


def test_a_fifth_of_a_file_is_held_out_and_told(asked):
    told = json.loads(asked(*QUICK, "--json", "--seed", 3))
    assert (told["rows"], told["n"]) == (64, 16)
    assert "a fifth by seed 3" in told["protocol"]
    assert any("fitted to" in note for note in told["notes"])


@pytest.mark.slow
def test_other_rows_to_test_on(asked, folder):
    told = json.loads(asked(*QUICK, "--json", "--test", folder / "more.npz"))
    assert (told["rows"], told["n"]) == (80, 40)


@pytest.mark.long
def test_every_method_and_a_corruption(asked):
    words = ("--labels", "10,all", "--draws", 1, "--corruption", "Masking(0.5)", "--json")
    told = json.loads(asked(*words))
    assert {one["method"] for one in told["scores"]} == set(METHODS)
    spoilt = [one for one in told["scores"] if one["corruption"]]
    assert [one["labels"] for one in spoilt] == [10, 64]
    assert told["left_out"] == {}


@pytest.mark.slow
def test_a_named_set_has_its_own_test_split(made, done):
    words = ("--methods", "linear", "--labels", "10,all", "--draws", 1, "--json")
    told = json.loads(done("probe", made / "vae.safetensors", "--data", "digits", *words))
    assert (told["train"], told["protocol"]) == ("digits/train", "digits/test")
    assert told["notes"] == []
    model = made / "fa.safetensors"
    told = done("probe", model, "--data", "digits", *words[:-1])
    assert "linear probe" in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--labels", "10,some"), ("--labels some",)),
        (("--labels", ","), ("--labels",)),
        (("--labels", "1000"), ("labels=1000", "64 rows")),
        (("--labels", "1"), ("labels=1", "2 classes")),
        (("--draws", 0), ("draws=0",)),
        (("--methods", "linaer"), ("linaer", "linear")),
        (("--methods", ","), ("--methods",)),
        (("--corruption", "Maskin(0.5)"), ("Maskin", "Masking")),
        (("--corruption", "Masking(2)"), ("level=2",)),
        (("--test", "nowhere.npz"), ("nowhere.npz",)),
        (("--out", "x.txt"), ("x.txt", ".html")),
    ],
)
def test_mistakes_get_one_line(rejected, folder, words, expected):
    call = ["probe", folder / "m.safetensors", "--data", folder / "rows.npz", *words]
    rejected(call, *expected)


@pytest.mark.parametrize(
    ("data", "words", "expected"),
    [
        ("bare.npz", (), ("no labels",)),
        ("one.npz", (), ("all labels are 0",)),
        ("rows.npz", ("--test", "third.npz"), ("class 2",)),
        ("rows.npz", ("--test", "rows.npz"), ("rows of --data",)),
        ("rows.npz/test", (), ("test rows",)),
    ],
)
def test_rows_that_make_no_task(rejected, folder, data, words, expected):
    words = [folder / word if word.endswith(".npz") else word for word in words]
    call = ["probe", folder / "m.safetensors", "--data", f"{folder}/{data}", *words]
    rejected(call, *expected)
