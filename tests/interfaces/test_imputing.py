"""`latently impute`, masks, warm starts: from the command line, against Python."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from latently import data as data_floor
from latently import impute, load
from latently.data.masks import Half
from latently.io import load_saved


@pytest.fixture
def holes(made):
    return np.load(made / "holes.npz")["x"]


def test_arrays_hold_all_that_is_known(done, made, tmp_path, holes):
    model, data = made / "holes.safetensors", made / "holes.npz"
    out = tmp_path / "i.npz"
    words = ["--draws", 3, "--samples", 200, "--quantiles", "0.1,0.9", "--seed", 4]
    said = done("impute", model, "--data", data, "--out", out, *words)
    assert "3 imputations" in said
    found = np.load(out)
    assert found["x"].shape == (3, 60, 4)
    assert found["quantiles"].shape == (2, 60, 4)
    assert found["levels"].tolist() == [0.1, 0.9]
    assert (found["mask"] == ~np.isnan(holes)).all()
    for key in ("ess", "k_hat"):
        assert found[key].shape == (60,)
    seen = found["mask"]
    for filled in (*found["x"], found["mean"], *found["quantiles"]):
        np.testing.assert_allclose(filled[seen], holes[seen])
        assert np.isfinite(filled).all()
    assert (found["std"][seen] == 0).all()
    assert (found["std"][~seen] > 0).all()
    assert (found["quantiles"][1] > found["quantiles"][0])[~seen].all()
    saved = load_saved(model)
    rows = data_floor.load(data, like=saved.data)
    again = impute(saved.model, rows, draws=3, samples=200, quantiles=(0.1, 0.9, 0.5), seed=4)
    np.testing.assert_array_equal(found["x"], again.draws.numpy())


@pytest.mark.parametrize("fill", ["mean", "median", "draws"])
def test_table_is_filled(done, made, tmp_path, holes, fill):
    out = tmp_path / "filled.csv"
    model, data = made / "gaps.safetensors", made / "holes.npz"
    draws = 2 if fill == "draws" else 1
    more = ("--draws", 2) if fill == "draws" else ()
    done("impute", model, "--data", data, "--out", out, "--fill", fill, *more)
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60 * draws
    assert list(rows[0]) == (["draw"] if draws == 2 else []) + ["x0", "x1", "x2", "x3"]
    table = np.array([[float(row[f"x{j}"]) for j in range(4)] for row in rows])
    seen = ~np.isnan(holes)
    for part in table.reshape(draws, 60, 4):
        np.testing.assert_allclose(part[seen], holes[seen])
    if draws == 2:
        assert [row["draw"] for row in rows] == ["0"] * 60 + ["1"] * 60


def test_array_of_means(done, made, tmp_path):
    out = tmp_path / "m.npy"
    model, data = made / "gaps.safetensors", made / "holes.npz"
    done("impute", model, "--data", data, "--out", out, "--fill", "mean")
    assert np.load(out).shape == (60, 4)


def test_picture_of_hidden_halves(done, made, tmp_path):
    out = tmp_path / "i.png"
    words = ["--mask", "Half", "--samples", 50, "--draws", 3]
    said = done("impute", made / "vae.safetensors", "--data", "digits", "--out", out, *words)
    assert "3 draws and the mean" in said
    pixels = np.asarray(Image.open(out).convert("RGBA"))
    scale = pixels.shape[1] // (6 * 8 + 5 * 2)
    seen = pixels[::scale, ::scale][: 12 * 10, 10:18]  # second column: holes are transparent
    assert (seen[:4, :, 3] == 255).all()
    assert (seen[4:8, :, 3] == 0).all()


def test_exact_models_say_no_ess(done, made, tmp_path):
    out = tmp_path / "i.npz"
    done("impute", made / "gaps.safetensors", "--data", made / "holes.npz", "--out", out)
    assert "ess" not in np.load(out)


def test_masks_reach_every_verb(done, made, tmp_path):
    model = made / "vae.safetensors"
    where = ["--data", "digits", "--mask", "Box(share=0.3)", "--seed", 1]
    said = done("evaluate", model, *where, "--samples", 5)
    assert "hidden by Box(share=0.3)" in said
    assert "bits/dim" not in said
    whole = done("evaluate", model, "--data", "digits", "--samples", 5)
    assert float(said.split(">= ")[1].split()[0]) > float(whole.split(">= ")[1].split()[0])
    done("compare", model, *where, "--samples", 3)
    done("score", model, *where, "--samples", 3, "--out", tmp_path / "s.csv")
    done("encode", model, *where, "--out", tmp_path / "z.npz")
    done("reconstruct", model, *where, "--out", tmp_path / "r.png")


def test_training_with_holes(done, tmp_path):
    out = tmp_path / "m.safetensors"
    words = ["--latents", 2, "--net", "MLP(hidden=(8,))", "--epochs", 1, "--mask", "Half('left')"]
    done("fit", "vae", "--data", "digits", *words, "--out", out, "--quiet")
    model = load(out)
    assert model.sees_mask
    said = done("show", out, "--command")
    assert "--mask" in said
    again = tmp_path / "again.safetensors"
    words[-1] = "Half(side='left')"
    done("fit", "vae", "--data", "digits", *words, "--out", again, "--quiet")
    for a, b in zip(model.parameters(), load(again).parameters(), strict=True):
        assert torch.equal(a, b)
    exact = tmp_path / "fa.safetensors"
    words = ["--latents", 2, "--steps", 5, "--mask", "MCAR(share=0.4)", "--quiet"]
    done("fit", "fa", "--data", "digits", *words, "--out", exact)
    assert load(exact).density == "bound"


def test_warm_start(done, made, tmp_path, rejected):
    model, out = made / "vae.safetensors", tmp_path / "more.safetensors"
    words = ["fit", "vae", "--data", "digits", "--init", model, "--out", out, "--quiet"]
    done(*words, "--steps", 1, "--learning-rate", 1e-9, "--validation", 0)
    before, after = load(model), load(out)
    assert str(before.call) == str(after.call)
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert "--init" in done("show", out, "--command")
    other = [*words[:-2], tmp_path / "o.safetensors"]
    rejected([*other, "--latents", 3], "--init", "has shape", "leave out the options")
    rejected(
        ["fit", "fa", "--data", "digits", "--init", model, "--out", other[-1]],
        "is a vae, which cannot start a fa",
    )
    lines = made / "fa.safetensors"
    rejected(
        ["fit", "fa", "--data", "digits", "--init", lines, "--out", other[-1]],
        "--init has no effect",
    )


def test_bad_calls(rejected, made, tmp_path):
    model, gaps = made / "vae.safetensors", made / "gaps.safetensors"
    hide = ["impute", model, "--data", "digits", "--out", tmp_path / "o.npz", "--mask"]
    rejected([*hide, "Haf"], "--mask Haf", "did you mean Half?")
    rejected([*hide, "Half(side='top')"], "side='top'", "upper")
    rejected([*hide, "MCAR(share=2)"], "share=2", "between 0 and 1")
    rejected([*hide, "MLP"], "--mask MLP")
    rejected([*hide, "Half("], "'(' was never closed")
    holes = ["impute", gaps, "--data", made / "holes.npz", "--out"]
    rejected([*holes, tmp_path / "o.npz", "--mask", "Half"], "rows are no pictures", "MCAR")
    rejected([*holes, tmp_path / "o.npz", "--fill", "mean"], "--fill mean has no effect")
    rejected([*holes, tmp_path / "o.csv", "--fill", "made"], "--fill 'made'", "mode")
    rejected([*holes, tmp_path / "o.csv", "--fill", "mode"], "discrete data")
    rejected([*holes, tmp_path / "o.npz", "--quantiles", "5"], "--quantiles '5'", "0.05,0.95")
    rejected([*holes, tmp_path / "o.npz", "--quantiles", "a"], "--quantiles 'a'")
    rejected([*holes, tmp_path / "o.png"], "are no images")
    assert list(tmp_path.iterdir()) == []


def test_mask_is_half(made):
    data = data_floor.load("digits/test").hidden(Half("lower"))
    assert data.missing == 360 * 32


def test_draws_that_nothing_shows_are_refused(cli, made, tmp_path):
    model, data = made / "gaps.safetensors", made / "holes.npz"
    out = tmp_path / "filled.csv"
    ran = cli("impute", model, "--data", data, "--out", out, "--fill", "mean", "--draws", 3)
    assert ran.code == 2
    assert "--draws 3 has no effect on --fill mean" in ran.err
    assert not out.exists()
