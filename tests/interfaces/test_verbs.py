import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from latently import Data, __version__, expr
from latently.interfaces.opening import fitted_to
from latently.interfaces.verbs import list_kind
from latently.io import load
from latently.registry import KINDS, components, names
from latently.training.files import named_tensors

FIELDS = (
    "kind method nats nats_stderr mc_stderr bits_per_dim ess k_hat n protocol given seed warnings "
    "version"
).split()


@pytest.fixture(scope="module")
def evaluated(made, done):
    def call(name, spec, *words):
        return json.loads(
            done("evaluate", made / f"{name}.safetensors", "--data", spec, "--json", *words)
        )

    return call


def table(path):
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_evaluate_json_has_the_fields_of_the_contract(evaluated):
    found = evaluated("vae", "digits", "--samples", 40, "--seed", 3)
    assert list(found) == FIELDS
    assert found["kind"] == "lower_bound"
    assert found["method"] == "IWAE K=40"
    assert found["n"] == 360
    assert found["protocol"] == "digits/test"  # not the rows it was fitted on
    assert found["seed"] == 3
    assert found["version"] == __version__
    assert found["nats"] < 0 < found["bits_per_dim"]
    assert found["mc_stderr"] > 0 < found["nats_stderr"]
    assert isinstance(found["warnings"], list)


def test_one_draw_says_nothing_of_its_error(evaluated):
    found = evaluated("vae", "digits/validation", "--samples", 1)
    assert found["mc_stderr"] is None
    assert found["protocol"] == "digits/validation"


def test_exact_models_need_no_samples(evaluated, made):
    found = evaluated("lines", made / "real.npz")
    assert (found["kind"], found["method"], found["mc_stderr"]) == ("exact", "exact", 0)
    assert found["ess"] is found["bits_per_dim"] is None


def test_rows_it_was_fitted_to_are_named_as_such(evaluated, made):
    for spec, seen in (
        ("real.npz", True),
        ("real.npz/train", True),
        ("real.npz/validation", False),
        ("constant.npz", False),
    ):
        warnings = evaluated("real", made / spec, "--samples", 1)["warnings"]
        assert any("was fitted to" in warning for warning in warnings) == seen, spec


def test_method_and_seed_decide_the_number(evaluated):
    by_samples = evaluated("vae", "digits", "--samples", 4)
    assert by_samples == evaluated("vae", "digits", "--method", "ImportanceSampling(samples=4)")
    assert by_samples["nats"] != evaluated("vae", "digits", "--samples", 4, "--seed", 1)["nats"]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, done):
    """A fitted model with eight states of its latents."""
    path = tmp_path_factory.mktemp("kinds") / "kinds.safetensors"
    words = "vae --data digits --latents 3 --posterior Bernoulli --prior Learned --epochs 1"
    words += " --estimator Enumerate --net MLP(hidden=(8,))"
    done("fit", *words.split(), "--quiet", "--out", path)
    return path


@pytest.mark.slow
def test_few_states_are_exact_until_draws_are_asked_for(kinds, made, done, tmp_path):
    def found(*words):
        return json.loads(done("evaluate", kinds, "--data", "digits", "--json", *words))

    plain = found()
    assert (plain["kind"], plain["method"], plain["mc_stderr"]) == ("exact", "exact", 0)
    assert plain["nats"] == found("--method", "Enumeration")["nats"]
    drawn = found("--samples", 5)
    assert (drawn["kind"], drawn["method"]) == ("lower_bound", "IWAE K=5")
    assert drawn == found("--method", "ImportanceSampling(samples=5)")
    assert drawn["nats"] < plain["nats"] + 1e-3
    other = made / "vae.safetensors"
    ranked = json.loads(done("compare", kinds, other, "--data", "digits/validation", "--json"))
    assert {row["model"]: row["kind"] for row in ranked} == {
        "kinds": "exact",
        "vae": "lower_bound",
    }
    done("score", kinds, "--data", "digits", "--out", tmp_path / "scores.csv")
    _, rows = table(tmp_path / "scores.csv")
    assert {(row[1], float(row[2])) for row in rows} == {("exact", 0.0)}
    assert np.mean([float(row[0]) for row in rows]) == pytest.approx(plain["nats"])
    page = tmp_path / "report.html"
    done("report", kinds, "--data", "digits/validation", "--out", page)
    text = page.read_text()
    assert "IWAE K=" not in text
    assert "exact" in text


def test_plain_evaluate_is_one_line_with_warnings_apart(cli, made):
    ran = cli("evaluate", made / "vae.safetensors", "--data", "digits", "--samples", 100)
    assert ran.out.startswith("log p(x) >= -")
    assert ran.out.count("\n") == 1
    assert "warning: heavy importance weights" in ran.err


def test_holes_are_evaluated_without_bits(evaluated, made):
    found = evaluated("holes", made / "holes.npz", "--samples", 3)
    assert found["bits_per_dim"] is None
    assert np.isfinite(found["nats"])


def test_compare_ranks_with_kinds_and_paired_differences(cli, made):
    words = ("compare", made / "fa.safetensors", made / "vae.safetensors", "--data", "digits")
    ran = cli(*words, "--samples", 3, "--json")
    assert ran.err == ""
    first, second = json.loads(ran.out)
    assert first["nats"] > second["nats"]
    assert first["paired_difference"] is None
    assert second["paired_difference"] == pytest.approx(second["nats"] - first["nats"])
    assert second["paired_stderr"] > 0
    shown = cli(*words, "--samples", 3).out
    assert shown.index("fa") < shown.index("vae")
    assert "lower bound" in shown


def test_one_row_is_still_json(cli, made):
    models = (made / "lines.safetensors", made / "real.safetensors")
    ran = cli("compare", *models, "--data", made / "row.npz", "--samples", 3, "--json")
    assert "NaN" not in ran.out
    assert json.loads(ran.out)[1]["paired_stderr"] is None


def test_compare_flags_unlike_kinds(done, made):
    models = (made / "lines.safetensors", made / "real.safetensors")
    shown = done("compare", *models, "--data", made / "real.npz", "--samples", 3)
    assert "exact" in shown
    assert "note: unlike kinds in one ranking" in " ".join(shown.split())


def test_compare_refuses_densities_with_probabilities(cli, made, tmp_path, done):
    density = tmp_path / "density.safetensors"
    words = "--data digits --likelihood Normal --latents 2 --steps 1 --quiet".split()
    done("fit", "vae", *words, "--out", density)
    ran = cli("compare", density, made / "vae.safetensors", "--data", "digits", "--samples", 2)
    assert ran.code == 2
    assert "density: densities cannot be ranked with probabilities" in ran.err


def test_score_has_one_row_per_row(done, made, tmp_path):
    out = tmp_path / "scores.csv"
    done("score", made / "vae.safetensors", "--data", "digits", "--samples", 2, "--out", out)
    header, rows = table(out)
    assert header == [
        *("log_prob", "kind", "mc_stderr", "anomaly_score"),
        "reconstruction_error",
    ]
    assert len(rows) == 360
    for log_prob, kind, mc_stderr, strange, error in rows:
        assert float(error) > 0
        assert float(log_prob) == -float(strange)
        assert kind == "lower_bound"
        assert float(mc_stderr) >= 0


def test_scores_of_strangeness(done, evaluated, made, tmp_path):
    out, vae = tmp_path / "scores.npz", made / "vae.safetensors"
    words = ["--typical", "digits/validation", "--background", made / "fa.safetensors"]
    done("score", vae, "--data", "digits", *words, "--complexity", "--samples", 2, "--out", out)
    held = np.load(out)
    usual = evaluated("vae", "digits/validation", "--samples", 2)["nats"]
    np.testing.assert_allclose(held["typicality"], np.abs(held["log_prob"] - usual), atol=1e-9)
    background = evaluated("fa", "digits", "--samples", 2)["nats"]
    ratio = background - held["log_prob"].mean()
    assert held["likelihood_ratio"].mean() == pytest.approx(ratio)
    assert (held["complexity_ratio"] < held["anomaly_score"]).all()


def test_typical_rows_that_are_the_rows_themselves_are_named(cli, made, tmp_path):
    words = ["--data", made / "real.npz", "--out", tmp_path / "a.csv"]
    ran = cli("score", made / "lines.safetensors", *words, "--typical", made / "real.npz")
    assert "typicality: these are the rows that are scored" in ran.err


@pytest.mark.parametrize(
    ("model", "data", "words", "expected"),
    [
        ("lines", "real.npz", ["--complexity"], "density"),
        ("holes", "holes.npz", ["--complexity"], "missing"),
        ("lines", "real.npz", ["--typical", "digits"], "digits/test"),
        ("lines", "real.npz", ["--background", "nowhere.safetensors"], "nowhere"),
    ],
)
def test_scores_that_mean_nothing(rejected, made, tmp_path, model, data, words, expected):
    words = [*words, "--out", tmp_path / "scores.csv"]
    rejected(["score", made / f"{model}.safetensors", "--data", made / data, *words], expected)


def test_typicality_by_rows_of_the_fit_is_warned_of(cli, made, tmp_path):
    """H of training rows is too low, so that all others look strange."""
    words = ["score", made / "real.safetensors", "--data", made / "constant.npz", "--samples", 2]
    ran = cli(*words, "--typical", made / "real.npz/train", "--out", tmp_path / "a.csv")
    assert ran.code == 0
    assert "warning: typicality: real.npz/train names rows the model was fitted to" in ran.err


def test_scores_beside_nothing_finite_are_refused(cli, made, tmp_path):
    """Typicality was infinite for every row, without a word."""
    np.savez(tmp_path / "huge.npz", x=np.load(made / "real.npz")["x"] * 1e30)
    words = ["--typical", tmp_path / "huge.npz", "--samples", 2, "--out", tmp_path / "a.csv"]
    words = ["score", made / "real.safetensors", "--data", made / "real.npz", *words]
    ran = cli(*words)
    assert ran.code == 2
    assert "--typical" in ran.err.splitlines()[-1]
    assert "-inf" in ran.err.splitlines()[-1]
    assert not (tmp_path / "a.csv").exists()


def test_scores_average_to_the_evidence(done, evaluated, made, tmp_path):
    out = tmp_path / "scores.npz"
    done("score", made / "lines.safetensors", "--data", made / "real.npz", "--out", out)
    held = np.load(out)
    names = ["anomaly_score", "kind", "log_prob", "mc_stderr", "reconstruction_error"]
    assert sorted(held) == names
    assert held["log_prob"].mean() == pytest.approx(evaluated("lines", made / "real.npz")["nats"])


def test_encode_writes_z0(done, made, tmp_path):
    model = made / "vae.safetensors"
    done("encode", model, "--data", "digits", "--out", tmp_path / "z.npz")
    assert {k: v.shape for k, v in np.load(tmp_path / "z.npz").items()} == {"z0": (360, 2)}
    done("encode", model, "--data", "digits", "--out", tmp_path / "z.csv")
    header, rows = table(tmp_path / "z.csv")
    assert header == ["z0_0", "z0_1"]
    written = np.array(rows, dtype=float)
    np.testing.assert_allclose(written, np.load(tmp_path / "z.npz")["z0"], rtol=1e-6)


def test_encode_calls_the_base_space_of_a_flow_noise(done, made, tmp_path):
    model, rows = tmp_path / "flow.safetensors", made / "real.npz"
    done(
        "fit", "flow", "--data", rows, "--flow", "MAF(transforms=1)", "--steps", 1, "--out", model
    )
    said = done("encode", model, "--data", rows, "--out", tmp_path / "eps.csv")
    assert said.startswith("wrote the noise of ")


@pytest.mark.parametrize("suffix", ["npz", "npy", "csv", "png"])
def test_sample(done, made, tmp_path, suffix):
    words = ("sample", made / "vae.safetensors", "-n", 5, "--seed", 1)
    first, second = tmp_path / f"a b.{suffix}", tmp_path / "new" / f"ü.{suffix}"
    done(*words, "--out", first)
    done(*words, "--out", second)
    if suffix == "npz":  # its archive holds the time of writing
        assert np.load(first)["x"].shape == (5, 1, 8, 8)
        assert (np.load(first)["x"] == np.load(second)["x"]).all()
        return
    assert first.read_bytes() == second.read_bytes()
    if suffix == "npy":
        x = np.load(first)
        assert x.shape == (5, 1, 8, 8)
        assert set(np.unique(x)) <= set(range(17))
    if suffix == "csv":
        header, rows = table(first)
        assert header == [f"x{j}" for j in range(64)]
        assert len(rows) == 5


@pytest.mark.parametrize("name", ["vae", "fa"])
def test_reconstruct_keeps_the_shape(done, made, tmp_path, name):
    model = made / f"{name}.safetensors"
    done("reconstruct", model, "--data", "digits", "--out", tmp_path / "r.npz")
    assert np.load(tmp_path / "r.npz")["x"].shape == (360, 1, 8, 8)
    done("reconstruct", model, "--data", "digits", "--out", tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["holes", "gaps", "real"])
def test_impute_fills_the_holes_and_nothing_else(done, made, tmp_path, name):
    words = ("impute", made / f"{name}.safetensors", "--data", made / "holes.npz")
    done(*words, "--draws", 3, "--samples", 20, "--out", tmp_path / "full.npz")
    x, filled = np.load(made / "holes.npz")["x"], np.load(tmp_path / "full.npz")["x"]
    assert filled.shape == (3, 60, 4)
    assert np.isfinite(filled).all()
    seen = ~np.isnan(x)
    np.testing.assert_array_equal(filled[:, seen], np.broadcast_to(x[seen], (3, seen.sum())))
    assert (filled[0] != filled[1]).any()


@pytest.mark.parametrize("verb", ["sample", "reconstruct", "encode", "score", "report"])
def test_an_existing_file_is_kept_without_force(done, rejected, made, tmp_path, verb):
    out = tmp_path / ("kept.html" if verb == "report" else "kept.npz")
    out.write_text("precious")
    words = [verb, made / "real.safetensors", "--out", out]
    words += [] if verb == "sample" else ["--data", made / "real.npz"]
    words += ["--samples", 2] if verb in ("score", "report") else []
    rejected(words, "kept.", "exists", "--force")
    assert out.read_text() == "precious"
    done(*words, "--force")
    assert out.read_bytes() != b"precious"


def test_show(done, made):
    shown = done("show", made / "vae.safetensors")
    call = next(line for line in shown.splitlines() if line.startswith("call"))
    assert "vae(shape=(1, 8, 8), latents=2, likelihood=DiscretizedLogistic(levels=17)" in call
    for word in ("tensors", "data", "objective", "kept", "seconds", "last"):
        assert f"\n{word}" in shown
    held = named_tensors(load(made / "vae.safetensors"))
    assert f"{len(held)}, {sum(t.numel() for t in held.values()):,} values" in shown


@pytest.mark.parametrize("kind", [*KINDS, "data", "cards"])
def test_list(done, kind):
    lines = done("list", kind).splitlines()
    assert len(lines) >= len(KINDS.get(kind, [None]))
    for name in KINDS.get(kind, ()):
        assert any(line.split()[0] == name for line in lines)


def test_list_of_kinds(done):
    assert "latently list families\n" in done("list")


@pytest.mark.slow
def test_report(done, made, tmp_path):
    out = tmp_path / "report.html"
    model = made / "vae.safetensors"
    done("report", model, "--data", "digits", "--samples", 2, "--seed", 3, "--out", out)
    assert f"--data digits --out {out} --samples 2 --seed 3" in out.read_text()
    assert "<html" in out.read_text()


@pytest.mark.parametrize(
    ("fitted", "here", "overlap"),
    [
        ("digits/train", "digits/test", False),
        ("digits/train", "digits/train", True),
        ("digits/train", "digits/train+val", True),
        ("digits/train", "digits/validation", False),
        ("digits/train+val", "digits/validation", True),
        ("a.npz without validation", "a.npz", True),
        ("a.npz without validation", "a.npz/test", True),
        ("a.npz without validation", "a.npz/validation", False),
        ("a.npz/train", "a.npz", True),
        ("a.npz", "a.npz/test", True),
        ("a.npz/train", "b.npz/train", False),
        ("photos/train", "photos/test", False),
        ("photos/train without validation", "photos/train", True),
        ("photos/train without validation", "photos/train/validation", False),
        ("digits/train", "digits/train, hidden by Half(side='lower')", True),
        ("", "digits/test", False),
    ],
)
def test_rows_of_the_fit_are_known_by_name(fitted, here, overlap):
    data = replace(Data.from_array([[0.5]]), protocol=here)
    saved = SimpleNamespace(data={"protocol": fitted})
    assert fitted_to(saved, data) is overlap


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_is_told_by_the_call_that_names_it(kind):
    for name, member in KINDS[kind].items():
        call, blank, *about = list_kind(kind, name).splitlines()
        assert blank == ""
        assert about[0] == names(kind)[name]
        assert not any(line.startswith(">>>") for line in about)
        if kind != "recipes" and "=..." not in call:  # it has to be said
            assert expr.build(call, {**components(), name: member}) is not None


def test_a_member_that_is_not_there_is_refused(cli, rejected):
    assert cli("list", "families", "Mixture").out.startswith(
        "Mixture(components=5, family=Normal)"
    )
    assert cli("list", "schedules", "Warmup").out.startswith("Warmup(then=..., steps=None)")
    rejected(["list", "priors", "Vamp"], "no 'Vamp' among priors; did you mean VampPrior?")
    rejected(["list", "data", "digits"], "'data' has no members with options")
    rejected(["list", "prior", "VampPrior"], "did you mean priors?")
