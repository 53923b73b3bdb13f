"""Autoencoders on the command line: what is fitted, scored, drawn, and what is refused."""

import csv
import shlex

import numpy as np
import pytest
import torch

from latently.io import describe, load

SMALL = "ae --latents 2 --net MLP(hidden=(8,)) --epochs 2 --quiet"


@pytest.fixture(scope="module")
def coded(made, done):
    """Autoencoders of digits and of tables, beside the other models."""
    for name, words in {
        "ae": "--data digits",
        "ae_real": f"--data {made}/real.npz",
        "ae_holes": f"--data {made}/holes.npz",
        "ae_label": "--data digits --context label",
    }.items():
        done("fit", *SMALL.split(), *words.split(), "--out", made / f"{name}.safetensors")
    return made


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_call_and_the_record_say_how_it_was_trained(tmp_path, done):
    out = tmp_path / "m.safetensors"
    words = ["--corruption", "Masking(0.3)", "--penalty", "(L1(0.1), Contractive(0.01))"]
    log = tmp_path / "log.csv"
    done("fit", *SMALL.split(), "--data", "digits", *words, "--out", out, "--log", log)
    record = describe(out)[0]
    assert "likelihood" not in record["call"]  # squared error, whatever the data
    assert record["training"]["objective"] == (
        "Reconstruction(corruption=Masking(level=0.3), penalty=(L1(weight=0.1), "
        "Contractive(weight=0.01)))"
    )
    assert {"objective", "reconstruction", "penalty"} <= set(record["training"]["history"][-1])
    assert "penalty" in log.read_text().splitlines()[0]
    again = tmp_path / "again.safetensors"
    command = done("show", out, "--command").strip().replace(str(out), str(again))
    done(*shlex.split(command)[1:], "--quiet")
    assert describe(again)[0]["call"] == record["call"]
    ours, theirs = load(out), load(again)
    same = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_scores_of_a_model_without_a_density(coded, tmp_path, done):
    done("score", coded / "ae.safetensors", "--data", "digits", "--out", tmp_path / "s.csv")
    rows = read(tmp_path / "s.csv")
    assert len(rows) == 360
    assert {row[key] for row in rows for key in ("log_prob", "kind", "mc_stderr")} == {""}
    model = load(coded / "ae.safetensors")
    unit = float(model.unit.flatten()[0])
    for row in rows:
        ratio = float(row["reconstruction_error"]) / float(row["anomaly_score"])
        assert ratio == pytest.approx(unit, rel=1e-4)
    done("score", coded / "ae.safetensors", "--data", "digits", "--out", tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert np.isnan(file["log_prob"]).all()
        assert np.allclose(file["anomaly_score"], [float(row["anomaly_score"]) for row in rows])


@pytest.mark.parametrize("name", ["ae_holes", "gaps", "holes"])
def test_contributions_add_up_and_missing_cells_add_nothing(name, coded, tmp_path, done):
    model, spec = coded / f"{name}.safetensors", coded / "holes.npz"
    words = ("--contributions", "--out", tmp_path / "s.csv")
    done("score", model, "--data", spec, *words, *(() if name == "ae_holes" else ("--samples", 3)))
    x = np.load(spec)["x"]
    for row, cells in zip(read(tmp_path / "s.csv"), x, strict=True):
        parts = np.array([float(row[f"contribution_x{j}"]) for j in range(4)])
        assert (parts[np.isnan(cells)] == 0).all()
        total = row["anomaly_score" if name == "ae_holes" else "reconstruction_error"]
        assert parts.sum() == pytest.approx(float(total), rel=1e-4)


@pytest.mark.parametrize("name", ["ae_holes", "gaps"])
def test_a_row_without_cells_has_no_error(name, coded, tmp_path, done):
    x = np.load(coded / "holes.npz")["x"][:3]
    x[1] = np.nan
    np.savez(tmp_path / "x.npz", x=x)
    model, out = coded / f"{name}.safetensors", tmp_path / "s.csv"
    done("score", model, "--data", tmp_path / "x.npz", "--contributions", "--out", out)
    row = read(out)[1]
    assert float(row["reconstruction_error"]) == 0
    assert all(float(row[f"contribution_x{j}"]) == 0 for j in range(4))
    assert name == "gaps" or float(row["anomaly_score"]) == 0


def test_contributions_have_the_shape_of_rows(coded, tmp_path, done):
    out = tmp_path / "s.npz"
    done("score", coded / "ae.safetensors", "--data", "digits", "--contributions", "--out", out)
    with np.load(out, allow_pickle=False) as file:
        assert file["contributions"].shape == (360, 1, 8, 8)
        total = file["contributions"].sum((1, 2, 3))
        assert np.allclose(total, file["anomaly_score"])


@pytest.mark.parametrize(
    "codes",
    [
        "mixture(components=2)",
        pytest.param("flow(flow=NSF(transforms=1))", marks=pytest.mark.slow),
        "fa(latents=1)",
    ],
)
def test_a_density_of_codes_is_put_on_and_drawn_from(codes, coded, tmp_path, done):
    out = tmp_path / "d.safetensors"
    words = ("--data", "digits", "--codes", codes, "--out", out)
    assert "of codes" in done("fit-density", coded / "ae.safetensors", *words)
    shown = done("show", out)
    assert f"codes={codes.partition('(')[0]}" in shown
    assert "codes     " in shown
    for seed in (1, 1, 2):
        done("sample", out, "-n", 5, "--seed", seed, "--out", tmp_path / f"{seed}.npz", "--force")
    drawn = [np.load(tmp_path / f"{seed}.npz")["x"] for seed in (1, 2)]
    assert drawn[0].shape == (5, 1, 8, 8)
    assert not np.array_equal(*drawn)
    before, after = load(coded / "ae.safetensors"), load(out)
    x = torch.rand(3, 1, 8, 8) * 16
    assert torch.equal(before.encode(x)[0], after.encode(x)[0])
    done("report", out, "--data", "digits", "--out", tmp_path / "r.html")


def test_other_verbs_take_it(coded, tmp_path, done):
    model = coded / "ae.safetensors"
    for verb, suffix in (("encode", "npz"), ("reconstruct", "png"), ("reconstruct", "npz")):
        done(verb, model, "--data", "digits", "--out", tmp_path / f"{verb}.{suffix}", "--force")
    label = coded / "ae_label.safetensors"
    done("encode", label, "--data", "digits", "--out", tmp_path / "l.npz")
    assert np.load(tmp_path / "l.npz")["z0"].shape == (360, 2)
    told = done("diagnose", model, "--data", "digits")
    assert "no density" in told


def test_what_needs_a_density_is_refused(coded, tmp_path, rejected):
    model = coded / "ae.safetensors"
    rejected(["evaluate", model, "--data", "digits"], "no density", "fit-density", "vae")
    rejected(["compare", model, coded / "vae.safetensors", "--data", "digits"], "no density")
    rejected(["sample", model, "--out", tmp_path / "s.png"], "no p(z)", "fit-density")
    hidden = ["--mask", "Half", "--out", tmp_path / "i.npz"]
    rejected(["impute", model, "--data", "digits", *hidden], "no density")
    out = ["--out", tmp_path / "s.csv"]
    for option in (["--samples", 3], ["--complexity"], ["--typical", "digits/validation"]):
        rejected(["score", model, "--data", "digits", *out, *option], option[0], "no density")
    background = ["--background", model]
    vae = ["score", coded / "vae.safetensors", "--data", "digits", *out, "--samples", 2]
    rejected([*vae, *background], "--background", "no density")
    assert not list(tmp_path.iterdir())


def test_bad_options_of_the_fit_are_refused(tmp_path, rejected):
    out = tmp_path / "m.safetensors"

    def refuse(option, value, *expected):
        rejected(["fit", "ae", "--data", "digits", "--out", out, option, value], *expected)

    refuse("--corruption", "Masking(1.5)", "level=1.5", "between 0")
    refuse("--corruption", "Gausian(0.1)", "did you mean Gaussian")
    refuse("--corruption", "L1(0.1)", "--corruption")
    refuse("--penalty", "L1(-1)", "weight=-1")
    refuse("--penalty", "(L1(0.1), 3)", "--penalty")
    refuse("--penalty", "Sparsity", "Sigmoid")
    refuse("--activation", "Sine", "--activation")
    refuse("--latents", "0", "latents=0")
    refuse("--objective", "Variational", "no density", "Reconstruction")
    refuse("--codes", "mixture", "--codes")
    both = ["--objective", "Reconstruction", "--corruption", "Masking"]
    words = ["fit", "ae", "--data", "digits", "--out", out, *both]
    rejected(words, "--corruption is part of Reconstruction")
    vae = ["fit", "vae", "--data", "digits", "--out", out]
    rejected([*vae, "--objective", "Reconstruction"], "trains autoencoders")
    rejected([*vae, "--penalty", "L1"], "--penalty")
    assert not list(tmp_path.iterdir())


def test_a_copying_code_is_warned_of_once_and_before_the_fit(tmp_path, cli):
    out = tmp_path / "m.safetensors"
    words = ["--data", "digits", "--latents", 64, "--steps", 1, "--out", out]
    ran = cli("fit", "ae", *words)
    assert ran.code == 0
    assert ran.err.count("copying") == 1
    assert "copying" in " ".join(describe(out)[0]["training"]["warnings"])


def test_a_bad_density_of_codes_is_refused(coded, tmp_path, rejected):
    def refuse(name, *expected, codes="mixture", data="digits", out="d.safetensors"):
        model = coded / f"{name}.safetensors"
        words = ["--data", data, "--codes", codes, "--out", tmp_path / out]
        rejected(["fit-density", model, *words], *expected)

    refuse("vae", "not an autoencoder")
    refuse("ae", "--codes", codes="mixtur")
    refuse("ae", "no density of real numbers", codes="ae")
    refuse("ae", "no option 'component'", codes="mixture(component=2)")
    refuse("ae", "mixture", codes="mixture(10)")
    refuse("ae", "latents=3", codes="fa(latents=3)")
    refuse("ae", "17 levels", data=coded / "real.npz")
    refuse("ae_real", "shape", data=coded / "twins.npz")
    refuse("ae", ".safetensors", out="d.npz")
    assert not list(tmp_path.iterdir())


def test_its_files_are_read_as_hostile(coded, tmp_path, rejected):
    """A recipe inside a call builds models only, and only within the usual limits."""
    from latently.errors import UserError
    from latently.io import _build
    from latently.registry import components

    names = components()
    for call in (
        "ae(shape=(2,), codes=MLP)",
        "ae(shape=(2,), codes=IWAE)",
        "ae(shape=(2,), net=vae)",
        "ae(shape=(2,), codes=save)",
        "ae(shape=(2,), codes=" + 20 * "ae(codes=" + "fa" + 20 * ")" + ")",
    ):
        with pytest.raises(UserError) as caught:
            assert not str(_build("m", call, names).call)
        assert len(str(caught.value).splitlines()) == 1
